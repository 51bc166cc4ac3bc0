//! Listings: a walk over the folders that can hold matching keys. It keeps the first ones in the order of keys.

use std::collections::BinaryHeap;
use std::fs;
use std::path::PathBuf;

use super::bucket::Directory;
use super::error::{is_absence, refusal};
use super::path;
use super::version::meta;
use crate::store::{Page, Result};

impl Directory {
    pub(super) fn list_now(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        let mut after = after.map(str::to_owned);
        loop {
            let mut first = First { prefix, after: after.as_deref(), limit, found: BinaryHeap::new() };
            self.walk(&mut first)?;
            let mut found = first.found.into_sorted_vec();
            let more = found.len() > limit;
            found.truncate(limit);
            after = found.last().map(|(key, _)| key.clone());
            let mut entries = Vec::with_capacity(found.len());
            for (key, path) in found {
                match fs::metadata(&path) {
                    Ok(metadata) => entries.push((key, meta(&metadata))),
                    Err(error) if is_absence(&error) => {} // deleted meanwhile
                    Err(error) => return Err(refusal("read", &path, error)),
                }
            }
            if !entries.is_empty() || !more {
                return Ok(Page { entries, more });
            }
        }
    }

    fn walk(&self, first: &mut First<'_>) -> Result<()> {
        let mut folders = vec![(String::new(), self.bucket_dir())];
        while let Some((above, folder)) = folders.pop() {
            if !first.may_lie_below(&above) {
                continue;
            }
            let fail = |error| refusal("list", &folder, error);
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if is_absence(&error) => continue,
                Err(error) => return Err(fail(error)),
            };
            for entry in entries {
                let entry = entry.map_err(fail)?;
                let Some(name) = path::decode(&entry.file_name()) else { continue };
                let kind = entry.file_type().map_err(fail)?;
                if kind.is_dir() && !name.contains('/') {
                    folders.push((format!("{above}{name}/"), entry.path()));
                } else if kind.is_file() {
                    first.offer(format!("{above}{name}"), || entry.path());
                }
            }
        }
        Ok(())
    }
}

/// The first `limit` matching keys of a walk, whose order is arbitrary, and one more key, which says that there are more.
struct First<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
    found: BinaryHeap<(String, PathBuf)>,
}

impl First<'_> {
    /// Whether a key that begins with `above` can be among the first.
    fn may_lie_below(&self, above: &str) -> bool {
        let matches = above.starts_with(self.prefix) || self.prefix.starts_with(above);
        let behind = self.after.is_none_or(|after| above > after || after.starts_with(above));
        matches && behind && !self.is_full_before(above)
    }

    fn offer(&mut self, key: String, path: impl FnOnce() -> PathBuf) {
        if key.starts_with(self.prefix) && self.after.is_none_or(|after| key.as_str() > after) && !self.is_full_before(&key) {
            self.found.push((key, path()));
            if self.found.len() > self.limit + 1 {
                self.found.pop();
            }
        }
    }

    fn is_full_before(&self, key: &str) -> bool {
        self.found.len() > self.limit && self.found.peek().is_some_and(|(last, _)| last.as_str() < key)
    }
}
