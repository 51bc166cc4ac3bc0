//! Multipart uploads whose parts reach the store while others still arrive: nothing is visible before it is verified,
//! and nothing stays behind.

mod orphans;
mod parts;

use std::collections::BTreeMap;

use remora::cache::layout::Item;
use remora::cache::{Cache, Condition, Error, NewPart, UploadId};
use remora::types::{Digest, ETag, Grant};

use crate::support::cache::{Fixture, incoming};

/// The least that S3 takes of a part that is not the last.
const PART: usize = 5 << 20;

/// An upload of a blob, part by part.
struct Sender<'a> {
    cache: &'a Cache,
    grant: &'a Grant,
    item: Item,
    id: UploadId,
    parts: BTreeMap<u16, ETag>,
}

fn begin(fixture: &Fixture, digest: Digest) -> Sender<'_> {
    Sender::begin(&fixture.cache, &fixture.grant, digest)
}

impl<'a> Sender<'a> {
    fn begin(cache: &'a Cache, grant: &'a Grant, digest: Digest) -> Self {
        let item = Item::Blob(digest);
        let id = cache.uploads().begin(grant, item.clone()).unwrap();
        Self { cache, grant, item, id, parts: BTreeMap::new() }
    }

    async fn send(&mut self, number: u16, part: &[u8]) {
        let part = NewPart { number, size: part.len() as u64, body: incoming(part) };
        let etag = self.cache.uploads().take_part(self.grant, &self.item, &self.id, part).await.unwrap();
        self.parts.insert(number, etag);
    }

    async fn complete(&self) -> Result<ETag, Error> {
        let parts: Vec<_> = self.parts.clone().into_iter().collect();
        self.cache.uploads().complete(self.grant, &self.item, &self.id, &parts, Condition::None).await
    }
}
