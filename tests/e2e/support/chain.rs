//! Builds whose layers lie on top of each other: which blob is of which step, and which steps ran.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::client::Outcome;
use super::context::Context;

/// Steps with a layer each, from 1 on; the layer of step 0 is the files of the context.
pub const LAYERS: usize = 10;
/// After so long an import asks the store again for a layer that was seen there: by the configuration of all cases.
pub const LOOKED_UP_AGAIN: Duration = Duration::from_millis(500);

pub fn context() -> Context {
    let step = |number: usize| format!("RUN busybox dd if=/dev/urandom of=/layer-{number}. bs=64k count={}\n", 4 * number);
    Context::after_base(&(1..=LAYERS).map(step).collect::<String>())
}

/// The blobs that the manifest of such a build names, in the order of their steps.
pub fn blobs(manifest: &[u8]) -> Vec<String> {
    let manifest: Value = serde_json::from_slice(manifest).expect("one JSON document");
    let layers = manifest["layers"].as_array().expect("layers");
    let on_top_of = |below: i64| layers.iter().position(|layer| layer["parent"].as_i64().unwrap_or_default() == below);
    let mut chain = Vec::new();
    let mut next = on_top_of(-1);
    while let Some(index) = next {
        chain.push(layers[index]["blob"].as_str().expect("digest").to_owned());
        next = on_top_of(index.try_into().expect("few layers"));
    }
    assert_eq!(chain.len(), LAYERS + 1, "{manifest}");
    chain
}

/// The steps that were executed, by their numbers.
pub fn executed(outcome: &Outcome) -> BTreeSet<usize> {
    let of = |number: &usize| outcome.steps.iter().find(|(name, _)| name.contains(&format!("/layer-{number}."))).expect("the step").1;
    (1..=LAYERS).filter(|number| !of(number).cached).collect()
}
