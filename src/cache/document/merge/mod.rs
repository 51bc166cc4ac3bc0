//! Merging two cache configs: what an exporter sends, and what others exported to the same name.
//!
//! In: the config that is sent, the stored one, and which blobs of that imports have read. Out: their union, without the
//! results that nobody has used for long. [`parts`] takes configs apart and puts them together again; [`keep`] has the rule
//! by which results stay. Each record and layer is walked once, so the time grows with their number.

mod keep;
mod parts;

use std::collections::BTreeSet;

use time::OffsetDateTime;

use crate::cache::CacheConfig;
use crate::types::Digest;
use parts::Parts;

/// What limits a merged config.
#[derive(Debug, Clone, Copy)]
pub struct MergeLimits {
    /// Exports whose results are kept, that which is sent included.
    pub max_generations: usize,
    /// Records of the merged config.
    pub max_records: usize,
    /// Bytes of the document.
    pub max_bytes: u64,
    /// Results that neither an export nor an import used since are not kept.
    pub oldest: OffsetDateTime,
}

/// A config that others exported.
#[derive(Debug, Clone, Copy)]
pub struct StoredConfig<'a> {
    /// Valid.
    pub config: &'a CacheConfig,
    /// When it was published.
    pub at: OffsetDateTime,
    /// The blobs of it that imports have read since.
    pub hits: &'a BTreeSet<Digest>,
}

/// A merged config.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// The union.
    pub config: CacheConfig,
    /// Results that were inherited.
    pub inherited: usize,
    /// Results that were stored, and neither are in what is sent nor were inherited.
    pub dropped: usize,
}

impl CacheConfig {
    /// What is sent, united with what is `stored`. Of one record's results, that which is sent is kept. Where
    /// `inherited` is 0, what is sent needs nothing of what was stored. It must be valid.
    #[must_use]
    pub fn merged(&self, stored: &StoredConfig<'_>, limits: &MergeLimits) -> Merged {
        let sent = Parts::of(self, None);
        let stored_parts = Parts::of(stored.config, Some(stored.at));
        let all = stored_parts.results().filter(|(id, _)| sent.result(id).is_none()).count();
        let mut candidates = keep::candidates(&sent, &stored_parts, stored.hits, limits);
        loop {
            let (config, inherited) = sent.inheriting(&stored_parts, &candidates, limits.max_records);
            if inherited == 0 || config.to_json().len() as u64 <= limits.max_bytes {
                return Merged { config, inherited, dropped: all - inherited };
            }
            candidates.truncate(inherited / 2);
        }
    }
}
