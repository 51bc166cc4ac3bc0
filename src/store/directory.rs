//! A bucket in a directory.

use std::path::{Path, PathBuf};

use crate::types::BucketName;

/// A bucket that is a folder.
#[derive(Debug)]
pub struct Directory {
    bucket_dir: PathBuf,
}

impl Directory {
    /// The bucket `name` below `root`. Nothing is made before the first write.
    #[must_use]
    pub fn new(root: &Path, name: &BucketName) -> Self {
        Self { bucket_dir: root.join(name.as_str()) }
    }
}

#[async_trait::async_trait]
#[allow(unused_variables, clippy::unimplemented)]
impl super::Store for Directory {
    fn url(&self) -> String {
        unimplemented!()
    }
    async fn head(&self, key: &crate::types::Key) -> super::Result<super::Meta> {
        unimplemented!()
    }
    async fn get(
        &self,
        key: &crate::types::Key,
        range: Option<crate::types::ByteRange>,
        version: Option<&crate::types::ETag>,
    ) -> super::Result<super::Object> {
        unimplemented!()
    }
    async fn put(&self, key: &crate::types::Key, body: super::Body, condition: super::Condition) -> super::Result<crate::types::ETag> {
        unimplemented!()
    }
    async fn begin_multipart(&self, key: &crate::types::Key) -> super::Result<super::MultipartId> {
        unimplemented!()
    }
    async fn put_part(
        &self,
        key: &crate::types::Key,
        id: &super::MultipartId,
        number: u16,
        body: super::Body,
    ) -> super::Result<super::Part> {
        unimplemented!()
    }
    async fn complete_multipart(
        &self,
        key: &crate::types::Key,
        id: &super::MultipartId,
        parts: &[super::Part],
        condition: super::Condition,
    ) -> super::Result<crate::types::ETag> {
        unimplemented!()
    }
    async fn abort_multipart(&self, key: &crate::types::Key, id: &super::MultipartId) -> super::Result<()> {
        unimplemented!()
    }
    async fn touch(&self, key: &crate::types::Key) -> super::Result<()> {
        unimplemented!()
    }
    async fn delete(&self, key: &crate::types::Key) -> super::Result<()> {
        unimplemented!()
    }
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> super::Result<super::Page> {
        unimplemented!()
    }
    fn gains_by_parts(&self) -> bool {
        unimplemented!()
    }
    async fn check(&self) -> super::Result<()> {
        unimplemented!()
    }
}
