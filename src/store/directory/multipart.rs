//! Objects that arrive in parts: a folder of numbered files, joined in the end.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use super::error::{is_absence, refusal};
use super::write::{make_folder, unique};
use super::{Directory, etag};
use crate::store::{Body, Condition, Error, MultipartId, Part, Result};
use crate::types::{ETag, Key};

/// S3's rule, kept here too: what works on a directory works on S3.
const MIN_PART_BYTES: u64 = 5 << 20;
/// S3's rule.
const MAX_PARTS: u16 = 10_000;

impl Directory {
    pub(super) fn begin_multipart_now(&self, key: &Key) -> Result<MultipartId> {
        self.path(key)?;
        self.sweep();
        let id = unique();
        make_folder(&self.state_dir("multipart").join(&id))?;
        Ok(MultipartId(id))
    }

    pub(super) fn put_part_now(&self, key: &Key, id: &MultipartId, number: u16, body: &Body) -> Result<Part> {
        if !(1..=MAX_PARTS).contains(&number) {
            return Err(Error::Invalid(format!("part {number} of {key}: want 1 to {MAX_PARTS}")));
        }
        let path = self.parts_dir(key, id)?.join(file_name(number));
        let (temp, file) = self.store_temp(body)?;
        let meta = file.metadata().map_err(|error| refusal("write", &temp.path, error))?;
        fs::rename(&temp.path, &path).map_err(|error| refusal("write", &path, error))?;
        Ok(Part { number, etag: etag(&meta) })
    }

    pub(super) fn complete_multipart_now(&self, key: &Key, id: &MultipartId, parts: &[Part], condition: &Condition) -> Result<ETag> {
        let folder = self.parts_dir(key, id)?;
        let refuse = |why: &str| Err(Error::Invalid(format!("parts of {key}: {why}")));
        if parts.is_empty() {
            return refuse("want at least one");
        }
        if !parts.is_sorted_by(|a, b| a.number < b.number) {
            return refuse("want ascending numbers");
        }
        let (temp, mut joined) = self.new_temp()?;
        for (index, part) in parts.iter().enumerate() {
            let path = folder.join(file_name(part.number));
            let Ok(mut file) = File::open(&path) else {
                return refuse(&format!("number {} was not stored", part.number));
            };
            let meta = file.metadata().map_err(|error| refusal("read", &path, error))?;
            if etag(&meta) != part.etag {
                return refuse(&format!("number {} was stored again since", part.number));
            }
            if meta.len() < MIN_PART_BYTES && index + 1 < parts.len() {
                return refuse(&format!("number {} has {} bytes, want {MIN_PART_BYTES} in all but the last", part.number, meta.len()));
            }
            io::copy(&mut file, &mut joined).map_err(|error| refusal("write", &temp.path, error))?;
        }
        super::write::stamp(&joined).map_err(|error| refusal("write", &temp.path, error))?;
        let etag = self.publish(key, &self.path(key)?, &temp, &joined, condition)?;
        // What stays after a failure is swept some day.
        let _ = fs::remove_dir_all(folder);
        Ok(etag)
    }

    pub(super) fn abort_multipart_now(&self, key: &Key, id: &MultipartId) -> Result<()> {
        match self.parts_dir(key, id) {
            Ok(folder) => match fs::remove_dir_all(&folder) {
                Err(error) if !is_absence(&error) => Err(refusal("delete", &folder, error)),
                _ => Ok(()),
            },
            Err(Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn parts_dir(&self, key: &Key, id: &MultipartId) -> Result<PathBuf> {
        // Digits alone: an id can never be a path.
        let ours = id.0.len() == 32 && id.0.bytes().all(|byte| byte.is_ascii_hexdigit());
        let folder = self.state_dir("multipart").join(&id.0);
        if ours && folder.is_dir() { Ok(folder) } else { Err(Error::NotFound(format!("multipart upload {:?} of {key}", id.0))) }
    }
}

fn file_name(number: u16) -> String {
    format!("{number:05}")
}
