//! The prediction of what a build reads next, by the manifest that it was served.
//!
//! Whoever reads a layer needs all layers below it. Those above it are predicted up to the first fork: behind that,
//! nothing says where the build goes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cache::known::Lru;
use crate::cache::{CacheConfig, layout};
use crate::types::{Digest, Grant, ManifestName, Scope};

/// Manifests that are remembered.
const MAX_MANIFESTS: usize = 64;
/// Layers of one manifest; nothing is predicted from a longer one.
const MAX_LAYERS: usize = 2048;

/// The chains of the manifests that were served last. Cheap to clone; clones are one and the same.
#[derive(Debug, Clone)]
pub(in crate::cache::read) struct Predictions(Arc<Mutex<Lru<Arc<Chains>>>>);

/// The layers of a manifest.
#[derive(Debug, Default)]
pub(super) struct Chains {
    layers: Vec<ChainedLayer>,
    /// Where each blob is among them.
    places: HashMap<Digest, usize>,
}

#[derive(Debug)]
struct ChainedLayer {
    digest: Digest,
    size: u64,
    below: Option<usize>,
    above: Above,
}

/// The layers on top of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Above {
    Nothing,
    One(usize),
    Fork,
}

impl Predictions {
    pub(in crate::cache::read) fn new() -> Self {
        Self(Arc::new(Mutex::new(Lru::new(MAX_MANIFESTS))))
    }

    /// Records a manifest that a build is served.
    pub(in crate::cache::read) fn learn(&self, scope: &Scope, name: &ManifestName, config: &CacheConfig) {
        if config.layers().len() <= MAX_LAYERS {
            let chains = Arc::new(Chains::of(config));
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(layout::manifest_place(scope, name), chains);
        }
    }

    /// The chains of the manifest that a build imports.
    pub(super) fn of(&self, grant: &Grant) -> Option<Arc<Chains>> {
        let name = grant.names()?.first()?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&layout::manifest_place(grant.scope(), name)).cloned()
    }
}

impl Chains {
    fn of(config: &CacheConfig) -> Self {
        let mut chains = Self::default();
        for (index, layer) in config.layers().iter().enumerate() {
            let Ok(digest) = layer.blob.parse() else { return Self::default() };
            let size = layer.annotations.as_ref().map_or(0, |annotations| u64::try_from(annotations.size).unwrap_or(0));
            let below = usize::try_from(layer.parent).ok();
            chains.layers.push(ChainedLayer { digest, size, below, above: Above::Nothing });
            chains.places.entry(digest).or_insert(index);
        }
        for index in 0..chains.layers.len() {
            if let Some(below) = chains.layers[index].below.and_then(|below| chains.layers.get_mut(below)) {
                below.above = if below.above == Above::Nothing { Above::One(index) } else { Above::Fork };
            }
        }
        chains
    }

    /// The layers that are read with a blob, with their sizes in bytes. The lowest comes first: that is the order in which a
    /// builder unpacks them.
    pub(super) fn neighbours(&self, digest: &Digest) -> Vec<(Digest, u64)> {
        let Some(layer) = self.places.get(digest).map(|&index| &self.layers[index]) else { return Vec::new() };
        let layer_at = |index: usize| self.layers.get(index);
        let below = std::iter::successors(layer.below.and_then(layer_at), |layer| layer.below.and_then(layer_at));
        let mut neighbours: Vec<&ChainedLayer> = below.take(self.layers.len()).collect();
        neighbours.reverse();
        let below = neighbours.into_iter().map(|layer| (layer.digest, layer.size));
        below.chain(self.above(digest)).filter(|(other, _)| other != digest).collect()
    }

    /// The layers on top of a blob up to the first fork, the lowest first, with their sizes in bytes.
    pub(super) fn above(&self, digest: &Digest) -> impl Iterator<Item = (Digest, u64)> {
        let next = |layer: &ChainedLayer| match layer.above {
            Above::One(index) => self.layers.get(index),
            Above::Nothing | Above::Fork => None,
        };
        let layer = self.places.get(digest).and_then(|&index| self.layers.get(index));
        let above = std::iter::successors(layer.and_then(next), move |layer| next(layer));
        above.take(self.layers.len()).map(|layer| (layer.digest, layer.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manifest whose layers stand on these.
    fn chains(below: &[i64]) -> Chains {
        let layer = |(index, below): (usize, &i64)| {
            let (blob, diff) = (Digest::of(&[u8::try_from(index).unwrap()]), Digest::of(b"diff"));
            serde_json::json!({ "blob": blob.to_string(), "parent": below, "annotations": { "size": index, "diffID": diff.to_string() } })
        };
        let layers: Vec<_> = below.iter().enumerate().map(layer).collect();
        let config = CacheConfig::parse(serde_json::json!({ "layers": layers }).to_string().as_bytes()).unwrap();
        Chains::of(&config)
    }

    fn neighbours(below: &[i64], of: u8) -> Vec<u64> {
        chains(below).neighbours(&Digest::of(&[of])).into_iter().map(|(_, size)| size).collect()
    }

    #[test]
    fn a_chain_is_predicted_from_its_bottom_up_and_to_the_first_fork() {
        // 0 - 1 - 2 - 3, and another chain.
        let one = [-1, 0, 1, 2, -1];
        assert_eq!(neighbours(&one, 1), [0, 2, 3]);
        assert_eq!(neighbours(&one, 3), [0, 1, 2]);
        assert_eq!(neighbours(&one, 4), [] as [u64; 0]);
        // 0 - 1 - (2 - 3 | 4)
        let forked = [-1, 0, 1, 2, 1];
        assert_eq!(neighbours(&forked, 0), [1]);
        assert_eq!(neighbours(&forked, 4), [0, 1]);
        assert_eq!(neighbours(&forked, 2), [0, 1, 3]);
        assert_eq!(neighbours(&forked, 9), [] as [u64; 0], "a blob that it does not name");
    }
}
