//! What is left of a cache config when blobs are lost.

use std::collections::BTreeSet;

use proptest::prelude::*;
use remora::types::Digest;

use super::arbitrary::{BLOBS, any_config};
use crate::support::documents::{digest, meaning};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn stripping_drops_what_needs_a_lost_blob_and_nothing_else(config in any_config(), lost in prop::collection::btree_set(0..BLOBS.len(), 0..3)) {
        let lost: BTreeSet<Digest> = lost.into_iter().map(|blob| digest(BLOBS[blob])).collect();
        let Some(pruned) = config.without(&lost) else {
            prop_assert!(config.blobs().keys().all(|blob| !lost.contains(blob)));
            return Ok(());
        };
        prop_assert!(pruned.config.validate().is_ok());
        prop_assert!(pruned.config.blobs().keys().all(|blob| !lost.contains(blob)));
        let mut expected = meaning(&config);
        expected.values_mut().for_each(|results| results.retain(|(_, blobs)| blobs.iter().all(|blob| !lost.contains(&blob.parse().unwrap()))));
        expected.retain(|_, results| !results.is_empty());
        prop_assert_eq!(meaning(&pruned.config), expected);
        prop_assert_eq!(&pruned.config.extra, &config.extra);
        prop_assert!(pruned.config.records().iter().all(|record| record.extra.contains_key("x-unknown")));
        prop_assert_eq!(pruned.config.without(&lost), None);
        prop_assert_eq!(pruned.records, config.records().len() - pruned.config.records().len());
        prop_assert_eq!(pruned.layers, config.layers().len() - pruned.config.layers().len());
    }
}
