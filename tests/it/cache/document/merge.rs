//! What a merge of two cache configs keeps.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use remora::cache::{CacheConfig, MergeLimits, StoredConfig};
use remora::types::Digest;
use time::OffsetDateTime;

use super::arbitrary::any_config;
use super::no_limits;
use crate::support::cache::HOUR;
use crate::support::documents::{chain, digest, meaning, newest};

/// A config that was stored at `at`, and of which no build has read anything since.
fn unread(config: &CacheConfig, at: OffsetDateTime) -> StoredConfig<'_> {
    static NOTHING: BTreeSet<Digest> = BTreeSet::new();
    StoredConfig { config, at, hits: &NOTHING }
}

fn merged(sent: &CacheConfig, stored: &CacheConfig) -> CacheConfig {
    sent.merged(&unread(stored, OffsetDateTime::UNIX_EPOCH + HOUR), &no_limits()).config
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_merge_has_a_result_of_every_key_of_both_and_prefers_what_is_sent(left in any_config(), right in any_config()) {
        let union = merged(&left, &right);
        prop_assert!(union.validate().is_ok());
        let mut expected = newest(&right);
        expected.extend(newest(&left));
        prop_assert_eq!(newest(&union), expected);
        // Every result is one that somebody exported, and no blob comes from nowhere.
        let both = meaning(&union);
        let known = [meaning(&left), meaning(&right)];
        prop_assert!(both.iter().all(|(key, results)| results.iter().all(|result| known.iter().any(|known| known.get(key).is_some_and(|own| own.contains(result))))));
    }

    #[test]
    fn a_merge_twice_is_the_same_as_once(left in any_config(), right in any_config()) {
        let once = merged(&left, &right);
        prop_assert_eq!(left.merged(&unread(&left, OffsetDateTime::now_utc()), &no_limits()).inherited, 0);
        prop_assert_eq!(meaning(&merged(&left, &once)), meaning(&once));
        prop_assert_eq!(once.merged(&unread(&right, OffsetDateTime::now_utc()), &no_limits()).inherited, 0);
        prop_assert_eq!(merged(&left, &right).to_json(), once.to_json());
    }

    #[test]
    fn a_bounded_merge_has_all_that_was_sent(left in any_config(), right in any_config(), max_records in 1_usize..9, max_bytes in 500_u64..4000) {
        let limits = MergeLimits { max_records, max_bytes, ..no_limits() };
        let union = left.merged(&unread(&right, OffsetDateTime::now_utc()), &limits);
        prop_assert!(union.config.validate().is_ok());
        if union.inherited > 0 {
            prop_assert!(union.config.records().len() <= max_records.max(left.records().len()));
            prop_assert!(union.config.to_json().len() as u64 <= max_bytes);
        }
        let kept = newest(&union.config);
        prop_assert!(newest(&left).iter().all(|(key, time)| kept.get(key).is_some_and(|kept| kept >= time)));
    }
}

#[test]
fn the_results_exported_longest_ago_are_dropped_first() {
    let parse = |document: Bytes| CacheConfig::parse(&document).unwrap();
    let now = OffsetDateTime::now_utc();
    let made = OffsetDateTime::UNIX_EPOCH;
    let ago = |hours: u32| now - HOUR * hours;
    let merged = |sent: &CacheConfig, stored: &CacheConfig, stored_at, oldest| {
        sent.merged(&unread(stored, stored_at), &MergeLimits { max_records: 3, oldest, ..no_limits() }).config
    };
    // One export an hour; the file's own time says when, and what is inherited carries it on.
    let first = parse(chain(&["a"], made));
    let second = merged(&parse(chain(&["b"], made)), &first, ago(3), ago(10));
    let third = merged(&parse(chain(&["c"], made)), &second, ago(2), ago(10));
    assert_eq!(meaning(&third).len(), 3);
    let keys = |config: &CacheConfig| -> BTreeSet<String> { config.records().iter().map(|record| record.digest.clone()).collect() };
    let of = |steps: &[&str]| -> BTreeSet<String> { steps.iter().map(|step| digest(step).to_string()).collect() };
    assert_eq!(keys(&merged(&parse(chain(&["d"], made)), &third, ago(1), ago(10))), of(&["b", "c", "d"]), "no room for the oldest");
    let renewed = merged(&parse(chain(&["a"], made)), &third, ago(1), ago(10));
    assert_eq!(keys(&merged(&parse(chain(&["d"], made)), &renewed, now, ago(10))), of(&["a", "c", "d"]), "exported again, a is young");
    assert_eq!(keys(&merged(&parse(chain(&["d"], made)), &third, ago(1), ago(1))), of(&["c", "d"]), "too old to be inherited");
}
