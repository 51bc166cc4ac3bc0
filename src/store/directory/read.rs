//! Reads of a file in steps, each on a thread that may block.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::bucket::finished;
use super::error::refusal;
use crate::store::{ByteStream, Error, Result};
use crate::types::ByteRange;

/// Bytes of one read.
const READ_BYTES: u64 = 512 << 10;
/// Reads of one body that run at once, including the one that its reader waits for.
const READS_AT_ONCE: usize = 2;

/// The bytes of `range`. An open file is one version, since a replaced object is another file.
pub(super) fn read(path: PathBuf, file: File, range: ByteRange) -> ByteStream {
    let source = Arc::new((path, file));
    let mut next = range.start();
    let steps = std::iter::from_fn(move || {
        let step = ByteRange::new(next, range.end().min(next + READ_BYTES))?;
        next = step.end();
        Some(step)
    });
    stream::iter(steps)
        .map(move |step| {
            let source = Arc::clone(&source);
            let reading = tokio::task::spawn_blocking(move || read_step(&source.0, &source.1, step));
            async move { finished(reading.await) }
        })
        .buffered(READS_AT_ONCE)
        .boxed()
}

fn read_step(path: &Path, file: &File, step: ByteRange) -> Result<Bytes> {
    let want = usize::try_from(step.len()).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(want);
    while bytes.len() < want {
        let offset = step.start() + bytes.len() as u64;
        let count = rustix::io::retry_on_intr(|| rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), offset))
            .map_err(|errno| refusal("read", path, errno.into()))?;
        if count == 0 {
            return Err(Error::Unavailable(format!("{} ended at byte {offset}, before byte {}", path.display(), step.end())));
        }
    }
    bytes.truncate(want);
    Ok(bytes.into())
}
