//! Which blobs the disk cache has, in the order of their last use, and how much room they take.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::transfer::Hold;
use crate::types::Digest;

/// A blob on disk. Whoever reads it holds it, and what is held is not evicted.
#[derive(Debug)]
pub(in crate::cache) struct DiskEntry {
    pub(super) digest: Digest,
    /// Part of its file's name: no two files of one blob are the same.
    pub(super) generation: u64,
    /// Bytes of its file.
    pub(super) bytes: u64,
    /// Its part of the read-ahead budget, until it is read for the first time.
    ahead: Mutex<Option<Hold>>,
}

/// The blobs on disk. Its lock is never held over anything that waits.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Each with the moment of its last use.
    entries: HashMap<Digest, (u64, Arc<DiskEntry>)>,
    order: BTreeMap<u64, Digest>,
    clock: u64,
    /// Bytes of all files.
    bytes: u64,
    /// Bytes set aside for files that are being written.
    pub(super) reserved: u64,
}

impl DiskEntry {
    pub(super) fn new(digest: Digest, generation: u64, bytes: u64, ahead: Option<Hold>) -> Self {
        Self { digest, generation, bytes, ahead: Mutex::new(ahead) }
    }

    /// Records that it is read. Returns whether it was fetched ahead and this is the first time.
    pub(in crate::cache) fn end_read_ahead(&self) -> bool {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }
}

impl Index {
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.entries.contains_key(digest)
    }

    /// Bytes on disk, and those that will be.
    pub(super) fn taken(&self) -> u64 {
        self.bytes + self.reserved
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A blob, which counts as used now.
    pub(super) fn get(&mut self, digest: &Digest) -> Option<Arc<DiskEntry>> {
        let (used, entry) = self.entries.get_mut(digest)?;
        self.order.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.order.insert(self.clock, *digest);
        Some(Arc::clone(entry))
    }

    /// Adds a blob. Returns the entry that it replaces.
    pub(super) fn insert(&mut self, entry: Arc<DiskEntry>) -> Option<Arc<DiskEntry>> {
        let before = self.remove(&entry.digest);
        self.clock += 1;
        self.order.insert(self.clock, entry.digest);
        self.bytes += entry.bytes;
        self.entries.insert(entry.digest, (self.clock, entry));
        before
    }

    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Arc<DiskEntry>> {
        let (used, entry) = self.entries.remove(digest)?;
        self.order.remove(&used);
        self.bytes -= entry.bytes;
        Some(entry)
    }

    /// Takes out this entry, unless another one of the same blob has replaced it.
    pub(super) fn remove_this(&mut self, entry: &Arc<DiskEntry>) -> Option<Arc<DiskEntry>> {
        let (_, known) = self.entries.get(&entry.digest)?;
        if Arc::ptr_eq(known, entry) { self.remove(&entry.digest) } else { None }
    }

    /// Takes out the blob that was used the longest ago, of those that nobody reads.
    pub(super) fn remove_oldest(&mut self) -> Option<Arc<DiskEntry>> {
        let unread = |digest: &&Digest| self.entries.get(digest).is_some_and(|(_, entry)| Arc::strong_count(entry) == 1);
        let oldest = *self.order.values().find(unread)?;
        self.remove(&oldest)
    }

    /// All of them.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<DiskEntry>> {
        self.entries.values().map(|(_, entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_nobody_reads_goes_first() {
        let mut index = Index::default();
        let digests = [b"a", b"b", b"c"].map(|bytes| Digest::of(bytes));
        for digest in digests {
            assert!(index.insert(Arc::new(DiskEntry::new(digest, 0, 10, None))).is_none());
        }
        let reader = index.get(&digests[0]).unwrap();
        let other = index.get(&digests[1]).unwrap();
        drop(other);
        assert_eq!(index.remove_oldest().unwrap().digest, digests[2]);
        assert_eq!(index.remove_oldest().unwrap().digest, digests[1]);
        assert!(index.remove_oldest().is_none(), "somebody reads the last one");
        drop(reader);
        assert_eq!((index.bytes(), index.remove_oldest().unwrap().digest), (10, digests[0]));
        assert!(index.bytes() == 0 && index.order.is_empty());
    }
}
