//! One cache entry: as it was found, what is decided for it, and its protobuf form.

use super::attrs::{Attrs, Target};
use crate::auth::Purpose;
use crate::endpoints::control::grpc::wire::{self, Edit, Field, Malformed};

/// Which entry of its message an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryId(pub(super) usize);

/// A `type=s3` entry as the client sent it.
#[derive(Debug)]
pub(crate) struct FoundEntry {
    pub(super) id: EntryId,
    /// Whether it is for an import or an export.
    pub(crate) purpose: Purpose,
    /// Its attributes.
    pub(crate) attrs: Attrs,
}

/// A cache entry for buildkitd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheEntry {
    /// `s3`, or another type that BuildKit knows.
    pub(crate) kind: &'static str,
    /// Its attributes.
    pub(crate) attrs: Attrs,
}

/// What becomes of a found entry.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(super) id: EntryId,
    pub(super) purpose: Purpose,
    /// The cache that it means.
    pub(crate) target: Target,
    /// What takes its place; `None`: it is taken out.
    pub(crate) entry: Option<CacheEntry>,
}

impl FoundEntry {
    /// The decision that `entry` takes the place of this one, whose cache is `target`.
    pub(crate) fn becomes(&self, target: Target, entry: Option<CacheEntry>) -> Decision {
        Decision { id: self.id, purpose: self.purpose, target, entry }
    }
}

/// The attributes of a `CacheOptionsEntry` that is a `type=s3`. `None`: it is of another type.
pub(super) fn s3_attrs(entry: &[u8]) -> Result<Option<Attrs>, Malformed> {
    if wire::last(entry, 1)? == b"s3" { attrs(entry).map(Some) } else { Ok(None) }
}

/// The attributes of every cache export of a `SolveRequest` that is no inline cache, in order.
pub(crate) fn exports(message: &[u8]) -> Result<Vec<Attrs>, Malformed> {
    let mut exports = Vec::new();
    for field in wire::fields(message) {
        let Field { number: 8, payload: Some(options), .. } = field? else { continue };
        for field in wire::fields(options) {
            if let Field { number: 4, payload: Some(entry), .. } = field?
                && wire::last(entry, 1)? != b"inline"
            {
                exports.push(attrs(entry)?);
            }
        }
    }
    Ok(exports)
}

/// A `CacheOptionsEntry`, whose attributes are `old`, with the type (1) and the attributes (2) of `new`. Attributes
/// that stay keep their bytes; the others are written behind them.
pub(super) fn replaced(entry: &[u8], old: &Attrs, new: &CacheEntry) -> Result<Vec<u8>, Malformed> {
    let kept = wire::edit(entry, |field| match (field.number, field.payload) {
        (1, Some(b"s3")) if new.kind != "s3" => Ok(Edit::Replace(new.kind.into())),
        (2, Some(attr)) => {
            let key = wire::last_text(attr, 1)?;
            Ok::<_, Malformed>(if new.attrs.get(&key) == old.get(&key) { Edit::Keep } else { Edit::Remove })
        }
        _ => Ok(Edit::Keep),
    })?;
    let mut replaced = kept.unwrap_or_else(|| entry.to_vec());
    for (key, value) in new.attrs.iter().filter(|(key, value)| old.get(*key) != Some(value)) {
        let mut attr = Vec::new();
        wire::put(&mut attr, 1, key.as_bytes());
        wire::put(&mut attr, 2, value.as_bytes());
        wire::put(&mut replaced, 2, &attr);
    }
    Ok(replaced)
}

/// The attributes (2) of a `CacheOptionsEntry`.
fn attrs(entry: &[u8]) -> Result<Attrs, Malformed> {
    let mut attrs = Attrs::new();
    for field in wire::fields(entry) {
        if let Field { number: 2, payload: Some(attr), .. } = field? {
            attrs.insert(wire::last_text(attr, 1)?, wire::last_text(attr, 2)?);
        }
    }
    Ok(attrs)
}
