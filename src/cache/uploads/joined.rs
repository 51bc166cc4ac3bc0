//! The parts of an upload one behind the other, in a file of the spool: for a blob that is to be durable on this
//! machine before its store has it.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};

use crate::cache::write::spool::{FinishedFile, create_blocking};
use crate::store::Body;
use crate::transfer::{Hold, Payload};

/// Bytes that are written before they are synced, while more arrive: the build waits only for the last of them.
const SYNC_BYTES: u64 = 64 << 20;

/// The file of the joined parts. Removed when dropped.
#[derive(Debug)]
pub(in crate::cache) struct Joined {
    file: File,
    guard: FinishedFile,
    /// Its room in the spool.
    hold: Hold,
    /// Where each part ends.
    ends: Vec<u64>,
    /// Bytes written since the last sync.
    unsynced: u64,
}

impl Joined {
    pub(in crate::cache) fn create(spool_dir: &Path, hold: Hold) -> io::Result<Self> {
        let (file, guard) = create_blocking(spool_dir)?;
        Ok(Self { file, guard, hold, ends: Vec::new(), unsynced: 0 })
    }

    /// Puts a part behind the first `parts`, in place of whatever was there. Blocks. After an error those are all
    /// that it has.
    pub(in crate::cache) fn put(&mut self, parts: usize, payload: &Payload) -> io::Result<()> {
        self.ends.truncate(parts);
        let start = self.len();
        let end = start + payload.body().len();
        if !self.hold.resize(end) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.file.set_len(start)?;
        self.file.seek(SeekFrom::Start(start))?;
        let mut written = Ok(());
        payload.read(|bytes| {
            if written.is_ok() {
                written = self.file.write_all(bytes);
            }
        })?;
        written?;
        self.unsynced += end - start;
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data()?;
            // Nobody reads it before the build has ended, and memory that was used just now takes the next bytes
            // sooner than memory that was not: in a virtual machine, many times so. Only a hint.
            let _ = fadvise(&self.file, end.saturating_sub(self.unsynced), NonZeroU64::new(self.unsynced), Advice::DontNeed);
            self.unsynced = 0;
        }
        self.ends.push(end);
        Ok(())
    }

    /// All parts together. The file is removed with `self`.
    pub(in crate::cache) fn body(&self) -> Body {
        Body::File { path: self.guard.path().to_owned(), offset: 0, len: self.len() }
    }

    /// Its parts. The file is removed with the last of them.
    pub(in crate::cache) fn into_payloads(self) -> Vec<Payload> {
        let path = self.guard.path().to_owned();
        let held = Arc::new((self.guard, self.hold));
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let slices = starts.zip(&self.ends);
        slices
            .map(|(start, end)| Payload::new(Body::File { path: path.clone(), offset: start, len: end - start }, Arc::clone(&held)))
            .collect()
    }

    fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or_default()
    }
}
