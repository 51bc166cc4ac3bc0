//! A blob as a file: its bytes, and behind them the checksums that prove them.
//!
//! Behind the blob there is one CRC-64 for each block of it, then a footer with the blob's size and a CRC-64 of all that
//! together with the digest. A file gets its name when its bytes have had the blob's digest, and each block is checked again
//! whenever it is read. What a power loss tears and what a disk gets wrong later is found by that, so nothing needs to be
//! flushed to the disk.

use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc64Nvme;

use crate::types::Digest;

/// Bytes of a block: they are read, checked and handed on together.
pub(in crate::cache) const BLOCK_BYTES: u64 = 1 << 20;
const MAGIC: [u8; 8] = *b"remora\x00\x01";
/// Bytes of the footer: the magic, the size and the checksum.
const FOOTER_BYTES: u64 = 24;

/// A whole blob on disk, open for reading. It stays readable when its file is deleted. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::cache) struct Stored {
    file: Arc<File>,
    size: u64,
    sums: Arc<[u64]>,
}

/// A blob that is being written, under another name. Deleted when dropped.
#[derive(Debug)]
pub(in crate::cache) struct Draft {
    path: PathBuf,
    file: Arc<File>,
    size: u64,
    sums: Vec<u64>,
}

/// Bytes that the file of a blob of `size` takes.
pub(super) fn file_bytes(size: u64) -> u64 {
    size.saturating_add(size.div_ceil(BLOCK_BYTES) * 8).saturating_add(FOOTER_BYTES)
}

/// Bytes of a block of a blob of `size`.
fn block_bytes(size: u64, block: u64) -> u64 {
    size.saturating_sub(block.saturating_mul(BLOCK_BYTES)).min(BLOCK_BYTES)
}

/// Reads a block of a blob's file and checks it.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] where it is not what was written, or those of the disk.
pub(in crate::cache) fn read_block(file: &File, block: u64, size: u64, sum: u64) -> io::Result<Bytes> {
    let bytes = read_at(file, block * BLOCK_BYTES, block_bytes(size, block))?;
    if crc_fast::checksum(Crc64Nvme, &bytes) == sum { Ok(bytes.into()) } else { Err(torn("a block")) }
}

impl Stored {
    /// Opens the file of a blob.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] where it is not a whole file of that blob, or those of the disk.
    pub(super) fn open(path: &Path, digest: &Digest) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let footer = read_at(&file, len.checked_sub(FOOTER_BYTES).ok_or_else(|| torn("the footer"))?, FOOTER_BYTES)?;
        let (magic, numbers) = footer.split_at(MAGIC.len());
        let [size, sum] = [number(&numbers[..8]), number(&numbers[8..])];
        if magic != MAGIC || size > len || file_bytes(size) != len {
            return Err(torn("the footer"));
        }
        let table = read_at(&file, size, len - FOOTER_BYTES - size)?;
        if proof(digest, size, &table) != sum {
            return Err(torn("the table of checksums"));
        }
        Ok(Self { file: Arc::new(file), size, sums: table.chunks_exact(8).map(number).collect() })
    }

    /// Bytes of the blob.
    pub(in crate::cache) fn size(&self) -> u64 {
        self.size
    }

    /// Reads a block.
    ///
    /// # Errors
    /// Those of [`read_block`].
    pub(in crate::cache) fn read(&self, block: u64) -> io::Result<Bytes> {
        let sum = usize::try_from(block).ok().and_then(|block| self.sums.get(block));
        read_block(&self.file, block, self.size, *sum.ok_or_else(|| torn("the table of checksums"))?)
    }

    /// Sets the time of the last use, for the next start.
    pub(super) fn used_now(&self) {
        let _ = self.file.set_modified(std::time::SystemTime::now());
    }
}

impl Draft {
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        Ok(Self { path, file: Arc::new(file), size: 0, sums: Vec::new() })
    }

    /// The file, from which blocks that were appended can be read.
    pub(in crate::cache) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Writes the next block and returns its checksum; only the last one may be shorter than
    /// [`BLOCK_BYTES`].
    ///
    /// # Errors
    /// Those of the disk.
    pub(in crate::cache) fn append(&mut self, block: &[Bytes]) -> io::Result<u64> {
        let mut sum = crc_fast::Digest::new(Crc64Nvme);
        for bytes in block {
            sum.update(bytes);
            self.size += bytes.len() as u64;
        }
        write_all(&self.file, block)?;
        let sum = sum.finalize();
        self.sums.push(sum);
        Ok(sum)
    }

    /// Makes it the file of the blob, whose digest the bytes have.
    pub(super) fn finish(mut self, path: &Path, digest: &Digest) -> io::Result<()> {
        let mut end: Vec<u8> = self.sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        let sum = proof(digest, self.size, &end);
        end.extend_from_slice(&MAGIC);
        end.extend_from_slice(&self.size.to_le_bytes());
        end.extend_from_slice(&sum.to_le_bytes());
        write_all(&self.file, &[end.into()])?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::rename(&self.path, path)?;
        self.path = PathBuf::new();
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What cannot be removed is cleared at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn proof(digest: &Digest, size: u64, table: &[u8]) -> u64 {
    let mut sum = crc_fast::Digest::new(Crc64Nvme);
    sum.update(digest.to_string().as_bytes());
    sum.update(&size.to_le_bytes());
    sum.update(table);
    sum.finalize()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn torn(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} is not what was written"))
}

/// Exactly `len` bytes. Their memory is not cleared first.
fn read_at(file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let wanted = usize::try_from(len).map_err(|_| torn("the size"))?;
    let mut bytes = Vec::with_capacity(wanted);
    while bytes.len() < wanted {
        let next = offset + bytes.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), next) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The allocator may have given more room than was asked for.
    bytes.truncate(wanted);
    Ok(bytes)
}

fn write_all(mut file: &File, block: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = block.iter().map(|bytes| IoSlice::new(bytes)).collect();
    let mut slices = slices.as_mut_slice();
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob() -> Vec<u8> {
        (0..BLOCK_BYTES * 2 + 1000).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    fn write(dir: &Path, digest: &Digest) -> PathBuf {
        let mut draft = Draft::create(dir.join("draft")).unwrap();
        for block in blob().chunks(usize::try_from(BLOCK_BYTES).unwrap()) {
            let (left, right) = block.split_at(block.len() / 3);
            draft.append(&[Bytes::copy_from_slice(left), Bytes::new(), Bytes::copy_from_slice(right)]).unwrap();
        }
        draft.finish(&dir.join("ab/blob"), digest).unwrap();
        assert!(!dir.join("draft").exists());
        dir.join("ab/blob")
    }

    fn read(path: &Path, digest: &Digest) -> io::Result<Vec<u8>> {
        let stored = Stored::open(path, digest)?;
        let mut bytes = Vec::new();
        for block in 0..stored.size().div_ceil(BLOCK_BYTES) {
            bytes.extend_from_slice(&stored.read(block)?);
        }
        Ok(bytes)
    }

    #[test]
    fn what_was_written_is_read_and_every_flipped_or_missing_byte_is_noticed() {
        let (dir, digest) = (tempfile::tempdir().unwrap(), Digest::of(&blob()));
        let path = write(dir.path(), &digest);
        assert_eq!(read(&path, &digest).unwrap(), blob());
        assert!(Stored::open(&path, &Digest::of(b"other")).is_err(), "a file under another blob's name");
        let good = std::fs::read(&path).unwrap();
        assert_eq!(good.len() as u64, file_bytes(blob().len() as u64));
        for at in [0, 5, blob().len() - 1, blob().len(), blob().len() + 9, good.len() - 20, good.len() - 9, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(read(&path, &digest).unwrap_err().kind(), io::ErrorKind::InvalidData, "byte {at}");
        }
        for len in [0, 10, blob().len(), good.len() - 1] {
            std::fs::write(&path, &good[..len]).unwrap();
            assert!(read(&path, &digest).is_err(), "{len} bytes");
        }
        std::fs::write(&path, vec![0; good.len()]).unwrap();
        assert!(read(&path, &digest).is_err(), "a file of zeros, as a power loss may leave");
    }

    #[test]
    fn a_draft_that_is_dropped_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(Draft::create(dir.path().join("draft")).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
