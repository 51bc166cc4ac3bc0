//! The rule by which results of earlier exports stay in a manifest.
//!
//! A busy name gets an export for each commit, and most of their results are never used again; yet whoever
//! imports it has to parse them all. So use decides. Results belong to the generation of the export that had them
//! last. The newest generations stay: those of exporters that run side by side (a matrix, platforms, branches)
//! among them, whichever order they come in. An export that brings nothing new leaves no generation behind, so
//! repeating one ages nobody. What an import has read is as young as what is exported now.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::MergeLimits;
use super::parts::{Candidate, Exported, Generation, Id, Parts};
use crate::types::Digest;

/// The results of `stored` that go on in a manifest with what is `sent`, those most recently used first.
pub(super) fn candidates<'a>(sent: &Parts, stored: &'a Parts, hits: &BTreeSet<Digest>, limits: &MergeLimits) -> Vec<Candidate<'a>> {
    let candidate = |(id, result): (&Id, &'a Exported)| Candidate { record: *id, result, is_hit: stored.is_hit(result, hits) };
    let mut candidates: Vec<Candidate<'a>> = stored.results().filter(|(id, _)| sent.result(id).is_none()).map(candidate).collect();
    candidates.retain(|candidate| candidate.is_hit || candidate.result.exported >= limits.oldest);
    let generations: BTreeSet<Generation> =
        candidates.iter().filter(|candidate| !candidate.is_hit).map(|candidate| candidate.result.generation).collect();
    // One generation is that of the config that is sent.
    let kept = limits.max_generations.saturating_sub(1);
    let oldest = generations.iter().rev().take(kept).next_back().copied();
    candidates.retain(|candidate| candidate.is_hit || oldest.is_some_and(|oldest| candidate.result.generation >= oldest));
    // The id decides last, so that the order is always the same.
    let order = |candidate: &Candidate<'_>| (candidate.is_hit, candidate.result.generation, candidate.result.exported, candidate.record);
    candidates.sort_by_key(|candidate| Reverse(order(candidate)));
    candidates
}
