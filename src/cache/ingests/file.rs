//! The data file of an ingest, as its writer writes it.

use std::io::{self, Read as _, Write as _};

use super::files::remove;
use super::registry::IngestLock;
use crate::cache::Result;
use crate::types::{Hasher, Sums};

const READ_BYTES: usize = 1 << 20;

/// The file and the right to write it. Both move to a blocking thread and back together, so that a write which nobody waits
/// for any more ends before the ingest has another writer.
#[derive(Debug)]
pub(super) struct IngestFile {
    /// `None`: what arrives is thrown away.
    file: Option<std::fs::File>,
    hasher: Hasher,
    offset: u64,
    pub(super) lock: IngestLock,
}

impl IngestFile {
    /// Opens the file to go on where it ends. Blocks.
    pub(super) fn open(lock: IngestLock) -> Result<Self> {
        let mut file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(lock.data_path())?;
        let (hasher, offset) = hash(&mut file)?;
        lock.write_state(&lock.update(|status| status.offset = offset)?)?;
        Ok(Self { file: Some(file), hasher, offset, lock })
    }

    pub(super) fn sums(&self) -> Sums {
        self.hasher.clone().finish()
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends. After an error everything is as before.
    pub(super) fn append(&mut self, data: &[u8]) -> Result<()> {
        let end = self.offset + data.len() as u64;
        if let Some(file) = &mut self.file {
            self.lock.hold(end)?;
            if let Err(error) = file.write_all(data) {
                self.cut(self.offset)?;
                return Err(error.into());
            }
        }
        self.hasher.update(data);
        self.moved(end)
    }

    /// Throws the bytes away: from now on only the digest and the size are kept.
    pub(super) fn discard(&mut self, data: &[u8]) -> Result<()> {
        if self.file.take().is_some() {
            remove(&self.lock.data_path())?;
            self.lock.hold(0)?;
        }
        self.append(data)
    }

    pub(super) fn truncate(&mut self) -> Result<()> {
        self.cut(0)?;
        self.hasher = Hasher::default();
        self.moved(0)
    }

    fn cut(&mut self, len: u64) -> Result<()> {
        if let Some(file) = &mut self.file {
            file.set_len(len)?;
            io::Seek::seek(file, io::SeekFrom::Start(len))?;
            self.lock.hold(len)?;
        }
        Ok(())
    }

    fn moved(&mut self, offset: u64) -> Result<()> {
        self.offset = offset;
        self.lock.update(|status| status.advance(offset))?;
        Ok(())
    }
}

fn hash(file: &mut std::fs::File) -> Result<(Hasher, u64)> {
    let mut hasher = Hasher::default();
    let mut offset = 0;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hasher, offset)),
            read => {
                hasher.update(&buffer[..read]);
                offset += read as u64;
            }
        }
    }
}
