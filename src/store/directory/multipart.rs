//! Multipart uploads: each part is written at once to where it belongs in the whole object.
//!
//! The first part that arrives says how long all parts but the last are. A part that does not fit this, or is sent again,
//! gets a file of its own. Only then are the parts copied together in the end.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use super::bucket::Directory;
use super::error::{is_absence, refusal};
use super::version::etag;
use super::write::{Temp, make_folder, stamp, unique};
use crate::store::{Body, Condition, Error, MultipartId, Part, Result};
use crate::types::{ETag, Key};

/// S3's rule. It is kept here too, so that what works on a directory works on S3.
const MIN_PART_BYTES: u64 = 5 << 20;
/// S3's rule.
const MAX_PARTS: u16 = 10_000;
/// The name of the file with the parts that are where they belong.
const WHOLE: &str = "whole";
/// The name of the file that says how long all parts but the last are.
const STRIDE: &str = "stride";

/// The bytes of one part.
struct Stored {
    file: File,
    path: PathBuf,
    offset: u64,
    len: u64,
}

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
        let folder = self.parts_dir(key, id)?;
        if let Body::Bytes(bytes) = body
            && let Some(etag) = self.put_in_place(&folder, number, bytes)?
        {
            return Ok(Part { number, etag });
        }
        let (temp, file) = self.store_temp(body)?;
        Ok(Part { number, etag: rename(&temp, &file, &folder.join(file_name(number)))? })
    }

    /// Writes a part into the whole; `None` where its place is not known or was taken before.
    fn put_in_place(&self, folder: &Path, number: u16, bytes: &[u8]) -> Result<Option<ETag>> {
        let len = bytes.len() as u64;
        let stride = self.stride(folder, len)?;
        let place = folder.join(place_name(number));
        if len > stride || len == 0 || File::create_new(&place).is_err() {
            return Ok(None);
        }
        let whole = folder.join(WHOLE);
        let offset = u64::from(number - 1) * stride;
        let fail = |error| refusal("write", &whole, error);
        let mut file = File::options().create(true).truncate(false).write(true).open(&whole).map_err(fail)?;
        if let Err(error) = file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes)) {
            let freed = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(&file, freed, offset, len);
            return Err(fail(error));
        }
        let (temp, mut file) = self.new_temp()?;
        file.write_all(&len.to_le_bytes()).and_then(|()| stamp(&file)).map_err(|error| refusal("write", &temp.path, error))?;
        rename(&temp, &file, &place).map(Some)
    }

    /// How long all parts but the last are. The first part that asks sets this to its own length.
    fn stride(&self, folder: &Path, len: u64) -> Result<u64> {
        let path = folder.join(STRIDE);
        if !path.exists() {
            let (temp, mut file) = self.new_temp()?;
            file.write_all(&len.to_le_bytes()).map_err(|error| refusal("write", &temp.path, error))?;
            match fs::hard_link(&temp.path, &path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(refusal("write", &path, error)),
                _ => {}
            }
        }
        read_number(&path).map_err(|error| refusal("read", &path, error))
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
        let mut stored = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let number = part.number;
            let Some((found, etag)) = find(&folder, number)? else {
                return refuse(&format!("number {number} was not stored"));
            };
            if etag != part.etag {
                return refuse(&format!("number {number} was stored again since"));
            }
            if found.len < MIN_PART_BYTES && index + 1 < parts.len() {
                return refuse(&format!("number {number} has {} bytes, want {MIN_PART_BYTES} in all but the last", found.len));
            }
            stored.push(found);
        }
        let etag = self.publish_parts(key, &folder.join(WHOLE), stored, condition)?;
        // What is left after a failure is removed by a later sweep.
        let _ = fs::remove_dir_all(folder);
        Ok(etag)
    }

    fn publish_parts(&self, key: &Key, whole: &Path, parts: Vec<Stored>, condition: &Condition) -> Result<ETag> {
        let target = self.path(key)?;
        let mut end = 0;
        let in_place = parts.iter().all(|part| {
            let fits = part.path == whole && part.offset == end;
            end += part.len;
            fits
        });
        if !in_place {
            let (temp, mut joined) = self.new_temp()?;
            let fail = |error| refusal("write", &temp.path, error);
            for mut part in parts {
                part.file.seek(SeekFrom::Start(part.offset)).map_err(|error| refusal("read", &part.path, error))?;
                io::copy(&mut part.file.take(part.len), &mut joined).map_err(fail)?;
            }
            stamp(&joined).map_err(fail)?;
            return self.publish(key, &target, &temp, &joined, condition);
        }
        let fail = |error| refusal("write", whole, error);
        let file = File::options().write(true).open(whole).map_err(fail)?;
        file.set_len(end).and_then(|()| stamp(&file)).map_err(fail)?;
        let temp = self.temp_path()?;
        fs::rename(whole, &temp.path).map_err(fail)?;
        self.publish(key, &target, &temp, &file, condition).inspect_err(|_| {
            // The upload must be as before, since the call may be made again with another condition.
            let _ = fs::rename(&temp.path, whole);
        })
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
        // Hex digits only, so that an id can never be a path.
        let ours = id.0.len() == 32 && id.0.bytes().all(|byte| byte.is_ascii_hexdigit());
        let folder = self.state_dir("multipart").join(&id.0);
        if ours && folder.is_dir() { Ok(folder) } else { Err(Error::NotFound(format!("multipart upload {:?} of {key}", id.0))) }
    }
}

/// Makes `temp` the file at `path`. Returns its version.
fn rename(temp: &Temp, file: &File, path: &Path) -> Result<ETag> {
    let meta = file.metadata().map_err(|error| refusal("write", &temp.path, error))?;
    fs::rename(&temp.path, path).map_err(|error| refusal("write", path, error))?;
    Ok(etag(&meta))
}

/// A part that was stored, and its version.
fn find(folder: &Path, number: u16) -> Result<Option<(Stored, ETag)>> {
    let path = folder.join(file_name(number));
    if let Ok(file) = File::open(&path) {
        let meta = file.metadata().map_err(|error| refusal("read", &path, error))?;
        return Ok(Some((Stored { file, path, offset: 0, len: meta.len() }, etag(&meta))));
    }
    let place = folder.join(place_name(number));
    // The file of a part that is not finished is empty.
    let (Ok(len), Ok(meta)) = (read_number(&place), fs::metadata(&place)) else { return Ok(None) };
    let path = folder.join(WHOLE);
    let stride = folder.join(STRIDE);
    let stride = read_number(&stride).map_err(|error| refusal("read", &stride, error))?;
    let file = File::open(&path).map_err(|error| refusal("read", &path, error))?;
    Ok(Some((Stored { file, path, offset: u64::from(number - 1) * stride, len }, etag(&meta))))
}

fn read_number(path: &Path) -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open(path)?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// The name of the file of a part that is not in the whole.
fn file_name(number: u16) -> String {
    format!("{number:05}")
}

/// The name of the file that reserves a part's place: whoever creates it may write the part into the whole. After that it
/// holds the part's length.
fn place_name(number: u16) -> String {
    format!("{number:05}.place")
}
