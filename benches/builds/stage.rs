//! What all runs share: a folder, the S3 server, and the binary.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use remora_test_support::minio::Minio;

use crate::daemons::remove;

/// What stays from the first run to the last.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) dir: PathBuf,
    pub(crate) minio: Minio,
    /// The remora binary.
    pub(crate) remora: PathBuf,
}

impl Stage {
    pub(crate) fn start(dir: &Path, remora: &Path) -> Result<Self> {
        remove(dir)?;
        let data = dir.join("minio");
        fs::create_dir_all(&data)?;
        Ok(Self { minio: Minio::start_in(&data, &[]), remora: remora.to_path_buf(), dir: dir.to_path_buf() })
    }
}
