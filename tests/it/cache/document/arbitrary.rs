//! Random cache configs: all that BuildKit could write, and some that it would not.

use std::time::Duration;

use proptest::prelude::*;
use remora::cache::CacheConfig;
use remora::types::Digest;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::documents::{digest, layer};

/// The blobs that a config may have.
pub(super) const BLOBS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

prop_compose! {
    pub(super) fn any_config()(
        layers in prop::collection::vec((0..BLOBS.len(), any::<u8>()), 1..9),
        records in prop::collection::vec(
            (0_u8..5, prop::collection::vec(prop::collection::vec((any::<u8>(), "[xy]?"), 1..3), 0..3),
             prop::collection::vec((any::<u8>(), 0_i64..50), 0..2), prop::collection::vec((prop::collection::vec(any::<u8>(), 0..3), 0_i64..50), 0..2)),
            0..9),
        order in any::<bool>(),
    ) -> CacheConfig {
        let below = |index: usize, choice: u8| if index == 0 { -1 } else { i64::from(choice) % (index as i64 + 1) - 1 };
        let layer_count = layers.len() as i64;
        let at = |second: i64| (OffsetDateTime::UNIX_EPOCH + Duration::from_secs(second as u64)).format(&Rfc3339).unwrap();
        let mut layers: Vec<Value> = layers.iter().enumerate().map(|(index, (blob, parent))| layer(&digest(BLOBS[*blob]), below(index, *parent))).collect();
        layers[0]["x-unknown"] = json!([1]);
        let mut records: Vec<Value> = records.iter().enumerate().map(|(index, (digest, inputs, results, chains))| {
            let inputs: Vec<Vec<Value>> = if index == 0 { Vec::new() } else {
                inputs.iter().map(|input| input.iter().map(|(link, selector)| json!({ "selector": selector, "link": usize::from(*link) % index })).collect()).collect()
            };
            let results: Vec<Value> = results.iter().map(|(layer, second)| json!({ "layer": i64::from(*layer) % layer_count, "createdAt": at(*second) })).collect();
            let chains: Vec<Value> = chains.iter().map(|(layers, second)| {
                let layers: Vec<i64> = layers.iter().map(|layer| i64::from(*layer) % layer_count).collect();
                json!({ "layers": layers, "createdAt": at(*second) })
            }).collect();
            json!({ "digest": Digest::of(&[*digest]).to_string(), "inputs": inputs, "layers": results, "chains": chains, "x-unknown": index })
        }).collect();
        // Nothing demands that a record comes after those that it needs.
        if order {
            let last = records.len().saturating_sub(1);
            records.reverse();
            for record in &mut records {
                for input in record["inputs"].as_array_mut().unwrap().iter_mut().flat_map(|input| input.as_array_mut().unwrap()) {
                    input["link"] = json!(last as i64 - input["link"].as_i64().unwrap());
                }
            }
        }
        CacheConfig::parse(json!({ "layers": layers, "records": records, "x-unknown": {} }).to_string().as_bytes()).unwrap()
    }
}
