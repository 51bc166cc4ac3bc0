//! Versions of files: what the store says of an object, and what tells two objects apart.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

use time::OffsetDateTime;

use crate::store::Meta;
use crate::types::ETag;

/// What is known of a file as an object.
pub(super) fn meta(metadata: &Metadata) -> Meta {
    let modified = metadata.modified().map_or(OffsetDateTime::UNIX_EPOCH, OffsetDateTime::from);
    Meta { size: metadata.len(), etag: etag(metadata), modified }
}

/// The version of a file: its inode, its size and the nanoseconds of its modification time.
///
/// A replaced object has a new inode, but a file system may use a freed inode again, so two versions may have the same inode
/// and the same size. The nanoseconds tell them apart; a touch changes only the seconds. They also tell versions apart where
/// a file was changed in place by other means, which the creation time would not.
pub(super) fn etag(metadata: &Metadata) -> ETag {
    ETag::new(&format!("{:x}-{:x}-{:x}", metadata.ino(), metadata.size(), metadata.mtime_nsec()))
}
