//! Files of the spool: where bytes wait until they are whole and verified.

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use crate::cache::{Error, Result};
use crate::store::Body;

/// tokio hands a file's bytes to a blocking thread in chunks of this size: larger ones take less CPU time.
const WRITE_BYTES: usize = 1 << 20;
/// What the names of files begin with that nobody can go on with after a restart.
const TEMPORARY: &str = "tmp-";

/// The error of `what` for which there is no room in the spool.
pub(in crate::cache) fn spool_full(what: &str, max_bytes: u64) -> Error {
    Error::Exhausted(format!("{what}: unfinished uploads have the {max_bytes} bytes that limits.max_spool_bytes allows"))
}

/// A temporary file that is being written. Removed when dropped.
#[derive(Debug)]
pub(in crate::cache) struct SpoolFile {
    file: File,
    guard: FinishedFile,
}

/// A finished temporary file. Removed when dropped.
#[derive(Debug)]
pub(in crate::cache) struct FinishedFile {
    path: PathBuf,
    len: u64,
}

impl SpoolFile {
    pub(in crate::cache) async fn create(spool_dir: &Path) -> Result<Self> {
        let path = spool_dir.join(format!("{TEMPORARY}{:032x}", rand::random::<u128>()));
        let mut file = File::create_new(&path).await?;
        file.set_max_buf_size(WRITE_BYTES);
        Ok(Self { file, guard: FinishedFile { path, len: 0 } })
    }

    pub(in crate::cache) async fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.file.write_all(chunk).await?;
        self.guard.len += chunk.len() as u64;
        Ok(())
    }

    pub(in crate::cache) async fn finish(mut self) -> Result<FinishedFile> {
        self.file.flush().await?;
        Ok(self.guard)
    }
}

/// An empty temporary file that is to be written in a blocking thread.
pub(in crate::cache) fn create_blocking(spool_dir: &Path) -> io::Result<(std::fs::File, FinishedFile)> {
    let path = spool_dir.join(format!("{TEMPORARY}{:032x}", rand::random::<u128>()));
    let file = std::fs::File::create_new(&path)?;
    Ok((file, FinishedFile { path, len: 0 }))
}

impl FinishedFile {
    pub(in crate::cache) fn path(&self) -> &Path {
        &self.path
    }

    /// The file as something to store. The file must live until that is done.
    pub(in crate::cache) fn body(&self) -> Body {
        Body::File { path: self.path.clone(), offset: 0, len: self.len }
    }
}

impl Drop for FinishedFile {
    fn drop(&mut self) {
        // Unlinking is quick. What fails here is cleared at the next start.
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove a spool file");
        }
    }
}

/// Makes the spool's folder, and removes what an earlier run left and nobody can go on with.
pub(in crate::cache) async fn prepare(spool_dir: &Path) -> Result<()> {
    let failed = |error: io::Error| Error::Internal(format!("data_dir: cannot prepare {}: {error}", spool_dir.display()));
    tokio::fs::create_dir_all(spool_dir).await.map_err(failed)?;
    let mut entries = tokio::fs::read_dir(spool_dir).await.map_err(failed)?;
    while let Some(entry) = entries.next_entry().await.map_err(failed)? {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            tokio::fs::remove_file(entry.path()).await.map_err(failed)?;
        }
    }
    Ok(())
}
