//! A body that is on its way to a store, and the memory or file that it occupies.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::store::Body;

/// Bytes of one read of a file.
const READ_BYTES: u64 = 1 << 20;

/// Bytes to be sent and hashed, in any order. Cheap to clone; what they occupy is freed when the last clone is dropped.
#[derive(Clone)]
pub struct Payload {
    body: Body,
    held: Option<Arc<dyn Send + Sync>>,
}

impl Payload {
    /// `body` occupies `held`: for example memory of a budget, or a file that is deleted when `held` is dropped.
    #[must_use]
    pub fn new(body: Body, held: impl Send + Sync + 'static) -> Self {
        Self { body, held: Some(Arc::new(held)) }
    }

    /// The bytes.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The `len` bytes from `start` on, as far as there are so many.
    #[must_use]
    pub fn slice(&self, start: u64, len: u64) -> Self {
        let whole = self.body.len();
        let start = start.min(whole);
        let len = len.min(whole - start);
        let index = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let body = match &self.body {
            Body::Bytes(bytes) => Body::Bytes(bytes.slice(index(start)..index(start + len))),
            Body::File { path, offset, .. } => Body::File { path: path.clone(), offset: offset + start, len },
        };
        Self { body, held: self.held.clone() }
    }

    /// Passes all of the bytes, in order, to `look`. Blocks where they are in a file.
    ///
    /// # Errors
    /// Where the file cannot be read or is too short.
    pub fn read(&self, mut look: impl FnMut(&[u8])) -> io::Result<()> {
        match &self.body {
            Body::Bytes(bytes) => look(bytes),
            Body::File { path, offset, len } => {
                let mut done = 0;
                while done < *len {
                    let step = READ_BYTES.min(len - done);
                    look(&read_file(path, offset + done, step)?);
                    done += step;
                }
            }
        }
        Ok(())
    }

    /// Whether this is a clone of `other`.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        matches!((&self.held, &other.held), (Some(own), Some(its)) if Arc::ptr_eq(own, its))
    }

    /// Whether the bytes are in memory.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        matches!(self.body, Body::Bytes(_))
    }
}

/// A body that occupies nothing of its own.
impl From<Body> for Payload {
    fn from(body: Body) -> Self {
        Self { body, held: None }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("bytes", &self.body.len()).field("in_memory", &self.is_in_memory()).finish_non_exhaustive()
    }
}

/// Some bytes of a file.
pub(super) fn read_file(path: &Path, offset: u64, len: u64) -> io::Result<Bytes> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
    file.take(len).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == len { Ok(bytes.into()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
