//! Atomic, durable writes: a temporary file that is synced and then renamed under the key's lock.
//!
//! `<root>/.remora` holds what is not an object: `tmp` (in the same file system as the objects, so that renames are atomic),
//! `locks` and `multipart`. Several processes may share a root.

use std::fs::{self, File, FileTimes};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FlockOperation};

use super::bucket::Directory;
use super::error::{is_absence, refusal};
use super::version::etag;
use crate::store::{Body, Condition, Error, Result};
use crate::types::{Digest, ETag, Key};

/// Files that a dead process left in `.remora` are removed after this time.
const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// How often the processes that share a root look for such files.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// A file that is removed when this is dropped, unless it was renamed.
pub(super) struct Temp {
    pub(super) path: PathBuf,
}

impl Drop for Temp {
    fn drop(&mut self) {
        // Usually the file was renamed and is gone. It is still there after a failure, and after a rename onto a hard link
        // of the same file, which does nothing.
        let _ = fs::remove_file(&self.path);
    }
}

impl Directory {
    pub(super) fn put_now(&self, key: &Key, body: &Body, condition: &Condition) -> Result<ETag> {
        let path = self.path(key)?;
        self.sweep();
        let (temp, file) = self.store_temp(body)?;
        self.publish(key, &path, &temp, &file, condition)
    }

    /// Makes `temp` the object at `path`.
    pub(super) fn publish(&self, key: &Key, path: &Path, temp: &Temp, file: &File, condition: &Condition) -> Result<ETag> {
        let folder = path.parent().unwrap_or(path);
        let fail = |error| refusal("write", path, error);
        file.sync_all().map_err(fail)?;
        make_folder(folder)?;
        {
            let _lock = self.lock(path)?;
            let holds = match condition {
                Condition::None => true,
                Condition::Absent => version(path)?.is_none(),
                Condition::Matches(wanted) => version(path)?.as_ref() == Some(wanted),
            };
            if !holds {
                return Err(Error::Precondition(key.to_string()));
            }
            fs::rename(&temp.path, path).map_err(fail)?;
        }
        sync_folder(folder)?;
        Ok(etag(&file.metadata().map_err(fail)?))
    }

    pub(super) fn delete_now(&self, key: &Key) -> Result<()> {
        let path = self.path(key)?;
        if version(&path)?.is_none() {
            return Ok(());
        }
        {
            let _lock = self.lock(&path)?;
            match fs::remove_file(&path) {
                Err(error) if !is_absence(&error) => return Err(refusal("delete", &path, error)),
                _ => {}
            }
        }
        sync_folder(path.parent().unwrap_or(&path))
    }

    pub(super) fn touch_now(&self, key: &Key) -> Result<()> {
        let (path, file) = self.open(key)?;
        renew(&file).map_err(|error| refusal("touch", &path, error))
    }

    /// Puts `body` into a temporary file, which is not synced yet.
    pub(super) fn store_temp(&self, body: &Body) -> Result<(Temp, File)> {
        match body {
            Body::Bytes(bytes) => {
                let (temp, mut file) = self.new_temp()?;
                file.write_all(bytes).and_then(|()| stamp(&file)).map_err(|error| refusal("write", &temp.path, error))?;
                Ok((temp, file))
            }
            Body::File { path, offset, len } => self.store_file(path, *offset, *len),
        }
    }

    fn store_file(&self, path: &Path, offset: u64, len: u64) -> Result<(Temp, File)> {
        let fail = |error| match refusal("read", path, error) {
            Error::NotFound(path) => Error::Invalid(format!("there is no file {path} to store")),
            other => other,
        };
        let mut source = File::open(path).map_err(fail)?;
        let size = source.metadata().map_err(fail)?.len();
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::Invalid(format!("{} has {size} bytes, not {len} from {offset} on", path.display())));
        }
        if len == size
            && let Some(temp) = self.link(path, &source)?
        {
            return Ok((temp, source));
        }
        source.seek(SeekFrom::Start(offset)).map_err(fail)?;
        let (temp, mut file) = self.new_temp()?;
        // std::io::copy lets the kernel copy or share the bytes where it can.
        let copied = io::copy(&mut source.take(len), &mut file).map_err(|error| refusal("write", &temp.path, error))?;
        if copied != len {
            return Err(Error::Invalid(format!("{} ended after {copied} of {len} bytes", path.display())));
        }
        stamp(&file).map_err(|error| refusal("write", &temp.path, error))?;
        Ok((temp, file))
    }

    /// A hard link to a whole file; `None` where the file system cannot make one.
    fn link(&self, path: &Path, source: &File) -> Result<Option<Temp>> {
        // A file that has more than one name may be an object, whose version must not change.
        let fresh = source.metadata().is_ok_and(|meta| meta.nlink() == 1);
        // The date is set before the link is made, so that the link never looks like a stale file.
        let dated = if fresh { stamp(source) } else { renew(source) };
        if dated.is_err() {
            return Ok(None);
        }
        let temp = self.temp_path()?;
        Ok(rustix::fs::linkat(CWD, path, CWD, &temp.path, AtFlags::SYMLINK_FOLLOW).is_ok().then_some(temp))
    }

    pub(super) fn new_temp(&self) -> Result<(Temp, File)> {
        let temp = self.temp_path()?;
        let file = File::create_new(&temp.path).map_err(|error| refusal("write", &temp.path, error))?;
        Ok((temp, file))
    }

    pub(super) fn temp_path(&self) -> Result<Temp> {
        let folder = self.state_dir("tmp");
        make_folder(&folder)?;
        Ok(Temp { path: folder.join(unique()) })
    }

    /// Locks out other writers of `path`, in this process and in others, until the file is dropped.
    fn lock(&self, path: &Path) -> Result<File> {
        let folder = self.state_dir("locks");
        make_folder(&folder)?;
        // All keys share 256 locks: no lock file ever has to be removed, and writers of different keys rarely meet.
        let name = &Digest::of(path.as_os_str().as_encoded_bytes()).to_string()["sha256:".len()..][..2];
        let lock = folder.join(name);
        let fail = |error| refusal("lock", &lock, error);
        let file = File::options().create(true).truncate(false).write(true).open(&lock).map_err(fail)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive)).map_err(|errno| fail(errno.into()))?;
        Ok(file)
    }

    /// Removes what dead processes have left. Of all processes that share the root, one does this once an hour. A failure
    /// shows up in the write that follows.
    pub(super) fn sweep(&self) {
        let marker = self.state_dir("swept");
        if !older_than(&marker, SWEEP_EVERY).unwrap_or(true) || make_folder(&self.state_dir("tmp")).is_err() {
            return;
        }
        let _ = File::create(&marker).and_then(|file| file.set_modified(SystemTime::now()));
        for folder in ["tmp", "multipart"] {
            for entry in fs::read_dir(self.state_dir(folder)).into_iter().flatten().flatten() {
                let path = entry.path();
                if older_than(&path, STALE_AFTER).unwrap_or(false) {
                    tracing::debug!(path = %path.display(), "removing what a dead process left");
                    let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                }
            }
        }
    }
}

/// Makes a folder and those above it, durably.
pub(super) fn make_folder(folder: &Path) -> Result<()> {
    let fail = |error| refusal("make folder", folder, error);
    match fs::create_dir(folder) {
        Ok(()) => folder.parent().map_or(Ok(()), sync_folder),
        Err(_) if folder.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match folder.parent() {
            Some(parent) if parent != folder => {
                make_folder(parent)?;
                make_folder(folder)
            }
            _ => Err(fail(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(fail(rustix::io::Errno::NOTDIR.into())),
        Err(error) => Err(fail(error)),
    }
}

/// A name that no other process makes.
pub(super) fn unique() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(|error| refusal("sync", folder, error))
}

fn version(path: &Path) -> Result<Option<ETag>> {
    match fs::metadata(path) {
        Ok(meta) => Ok(meta.is_file().then(|| etag(&meta))),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(refusal("read", path, error)),
    }
}

/// Sets the time of a new version, whose nanoseconds are part of its [`etag`]. The time that the kernel sets would not do: it
/// stands still for some milliseconds, which is enough for two versions.
pub(super) fn stamp(file: &File) -> io::Result<()> {
    file.set_modified(SystemTime::now())
}

/// Sets the time to now but keeps its nanoseconds, and with them the version.
fn renew(file: &File) -> io::Result<()> {
    let nanoseconds = u64::try_from(file.metadata()?.mtime_nsec()).unwrap_or(0);
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds);
    file.set_times(FileTimes::new().set_modified(time))
}

fn older_than(path: &Path, age: Duration) -> Option<bool> {
    let modified = fs::metadata(path).ok()?.modified().ok()?;
    Some(modified.elapsed().unwrap_or_default() > age)
}
