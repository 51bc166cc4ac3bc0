//! Large cache manifests, in the form of an inline cache.
//!
//! BuildKit's importer takes no OCI cache manifest and no cache config above 1 MiB. It has no such limit for inline
//! caches, which are images in an index, each with its records in its config (`importInlineCache` in
//! `cache/remotecache/import.go`, v0.33). There the layers of an image are one chain, so a result names all of its
//! layers and not only the topmost.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Serialize;

use super::model::{Descriptor, MANIFEST_TYPE, MalformedOci, OciManifest};
use crate::cache::{CacheConfig, CacheRecord, ChainedResult, Layer};

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const IMAGE_CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// How many layers the results of a cache may name together, which bounds the memory that this takes. 20,000 results of
/// 128 layers each stay below it.
const MAX_NAMED_LAYERS: usize = 4 << 20;

/// An image config, as far as the importer reads it.
#[derive(Debug, Serialize)]
struct ImageConfig {
    rootfs: RootFs,
    /// The records as JSON, in base64.
    #[serde(rename = "moby.buildkit.cache.v0")]
    cache: String,
    /// One entry for each layer. It is empty: the times are in the descriptors already.
    history: Vec<HistoryEntry>,
}

#[derive(Debug, Serialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
struct HistoryEntry {}

/// The image config, the manifest, and the index that an import begins with.
pub(super) fn documents(config: CacheConfig, layers: Vec<Descriptor>) -> Result<Vec<Bytes>, MalformedOci> {
    let records = json(&chained(config)?)?;
    let image = json(&ImageConfig {
        rootfs: RootFs { diff_ids: layers.iter().map(Descriptor::diff_id).collect() },
        cache: BASE64_STANDARD.encode(records),
        history: vec![HistoryEntry {}; layers.len()],
    })?;
    let manifest = json(&OciManifest::of_image(Descriptor::of(IMAGE_CONFIG_TYPE, &image), layers))?;
    let index = json(&OciManifest::of_index(INDEX_TYPE, vec![Descriptor::of(MANIFEST_TYPE, &manifest)]))?;
    Ok(vec![image, manifest, index])
}

fn json(document: &impl Serialize) -> Result<Bytes, MalformedOci> {
    serde_json::to_vec(document).map(Bytes::from).map_err(|error| MalformedOci::new(&error))
}

/// The records of a cache, each result with all of its layers.
fn chained(config: CacheConfig) -> Result<Vec<CacheRecord>, MalformedOci> {
    let layers = config.layers.unwrap_or_default();
    let mut records = config.records.unwrap_or_default();
    let mut room = MAX_NAMED_LAYERS;
    for record in &mut records {
        let Some(results) = record.results.take() else { continue };
        let mut chains = Vec::with_capacity(results.len());
        for result in results {
            let layers = chain(&layers, result.layer, room)?;
            room -= layers.len();
            chains.push(ChainedResult { layers: Some(layers), created_at: result.created_at, extra: result.extra });
        }
        record.chained_results.get_or_insert_default().splice(..0, chains);
    }
    Ok(records)
}

/// A layer with all layers below it, the lowest first. There is room for `room` layers.
fn chain(layers: &[Layer], top: i64, room: usize) -> Result<Vec<i64>, MalformedOci> {
    let mut chain = Vec::new();
    let mut next = top;
    while let Some(layer) = usize::try_from(next).ok().and_then(|index| layers.get(index)) {
        if chain.len() == room {
            return Err(MalformedOci::new(&format!("its results name more than {MAX_NAMED_LAYERS} layers")));
        }
        chain.push(next);
        next = layer.parent;
    }
    chain.reverse();
    Ok(chain)
}
