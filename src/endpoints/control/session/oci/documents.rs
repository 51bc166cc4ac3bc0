//! From a cache config to the documents that BuildKit imports.

use std::io;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::inline;
use super::model::{Annotations, CONFIG_TYPE, Descriptor, EXTRA, MalformedOci, OciManifest, ZERO_TIME};
use crate::cache::{CacheConfig, Layer};

/// BuildKit's importer takes neither document if it is larger (`readBlob` in `import.go`).
const MAX_DOCUMENT_BYTES: usize = 1 << 20;

/// The documents that BuildKit's importer reads a cache from. It begins with the last one.
pub(crate) fn documents(mut config: CacheConfig) -> Result<Vec<Bytes>, MalformedOci> {
    let layers = take_descriptors(&mut config)?;
    let Some(document) = small(&config)? else { return inline::documents(config, layers) };
    let manifest = OciManifest::of_image(Descriptor::of(CONFIG_TYPE, &document), layers);
    match small(&manifest)? {
        Some(manifest) => Ok(vec![document, manifest]),
        None => inline::documents(config, manifest.layers),
    }
}

/// Takes what the S3 form says of the layers out of a cache. Returns it as the descriptors of the layers, in order.
pub(super) fn take_descriptors(config: &mut CacheConfig) -> Result<Vec<Descriptor>, MalformedOci> {
    let descriptor = |layer: &mut Layer| {
        let annotations = layer.annotations.take().ok_or_else(|| MalformedOci::new(&format!("layer {} has no annotations", layer.blob)))?;
        let extra = (!annotations.extra.is_empty()).then(|| (EXTRA.to_owned(), Value::from(annotations.extra).to_string()));
        Ok(Descriptor {
            media_type: annotations.media_type,
            digest: layer.blob.clone(),
            size: annotations.size,
            annotations: Annotations {
                uncompressed: annotations.diff_id,
                created_at: annotations.created_at.filter(|time| time != ZERO_TIME),
                others: extra.into_iter().collect(),
            },
        })
    };
    config.layers.iter_mut().flatten().map(descriptor).collect()
}

/// A document, if the importer takes one of its size. Of a larger one no more is printed than that.
fn small(document: &impl Serialize) -> Result<Option<Bytes>, MalformedOci> {
    let mut json = io::Cursor::new(vec![0; MAX_DOCUMENT_BYTES].into_boxed_slice());
    match serde_json::to_writer(&mut json, document) {
        Ok(()) => Ok(Some(Bytes::copy_from_slice(&json.get_ref()[..usize::try_from(json.position()).unwrap_or(MAX_DOCUMENT_BYTES)]))),
        Err(error) if error.is_io() => Ok(None),
        Err(error) => Err(MalformedOci::new(&error)),
    }
}
