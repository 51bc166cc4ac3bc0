//! Stripping: a cache config without the results that can no longer be had.
//!
//! BuildKit loads a result with all layers below it, so one lost blob takes every result on top of it. A
//! record without results is still a step on the way to others (`cache/remotecache/v1/parse.go`, v0.33),
//! so records go only where no result that is left needs them. All else is kept as it is. Layers and records
//! name each other by index, so those that are left get new indexes.

use std::collections::BTreeSet;

use super::cache_config::{CacheConfig, CacheRecord, CacheResult, ChainedResult, Layer, index_in};
use crate::types::Digest;

/// What is left of a cache config.
#[derive(Debug, Clone, PartialEq)]
pub struct Stripped {
    /// The config that is left.
    pub config: CacheConfig,
    /// Layers that were dropped.
    pub layers: usize,
    /// Records that were dropped.
    pub records: usize,
    /// Results that were dropped.
    pub results: usize,
}

impl CacheConfig {
    /// The config without what needs a blob of `missing`; `None` where nothing does. The config must be
    /// valid.
    #[must_use]
    pub fn without(&self, missing: &BTreeSet<Digest>) -> Option<Stripped> {
        let lost: Vec<bool> = self.layers().iter().map(|layer| layer.blob.parse().is_ok_and(|blob| missing.contains(&blob))).collect();
        if !lost.contains(&true) {
            return None;
        }
        let whole = self.whole_layers(&lost)?;
        let is_whole = |index: i64| index_in(index, whole.len()).is_some_and(|index| whole[index]);
        let is_there = |index: i64| index_in(index, lost.len()).is_some_and(|index| !lost[index]);
        let results_left = |record: &CacheRecord| {
            let (mut single, mut chained) = (record.results.clone(), record.chained_results.clone());
            retain(&mut single, |result: &CacheResult| is_whole(result.layer));
            retain(&mut chained, |result: &ChainedResult| result.layers.iter().flatten().all(|&layer| is_there(layer)));
            (single, chained)
        };
        let mut records = self.records().to_vec();
        for record in &mut records {
            (record.results, record.chained_results) = results_left(record);
        }

        // A chained result names its layers one by one: such a layer is of use without its parent.
        let mut kept_layers = whole.clone();
        let named =
            records.iter().flat_map(|record| record.chained_results.iter().flatten()).flat_map(|result| result.layers.iter().flatten());
        for index in named.filter_map(|&layer| index_in(layer, kept_layers.len())).collect::<Vec<_>>() {
            kept_layers[index] = true;
        }
        let kept_records = self.needed_records(&records)?;

        let (layer_index, record_index) = (renumbered(&kept_layers), renumbered(&kept_records));
        let results = |records: &[CacheRecord]| records.iter().map(CacheRecord::result_count).sum::<usize>();
        let dropped_results = results(self.records()) - results(&records);
        let layers: Vec<Layer> = kept(self.layers().to_vec(), &kept_layers)
            .map(|mut layer| {
                layer.parent = if is_whole(layer.parent) { layer_index(layer.parent) } else { -1 };
                layer
            })
            .collect();
        let records: Vec<CacheRecord> = kept(records, &kept_records)
            .map(|mut record| {
                record.results.iter_mut().flatten().for_each(|result| result.layer = layer_index(result.layer));
                let chained = record.chained_results.iter_mut().flatten().flat_map(|result| result.layers.iter_mut().flatten());
                chained.for_each(|layer| *layer = layer_index(*layer));
                record.inputs.iter_mut().flatten().flatten().flatten().for_each(|input| input.link = record_index(input.link));
                record
            })
            .collect();
        Some(Stripped {
            layers: self.layers().len() - layers.len(),
            records: self.records().len() - records.len(),
            results: dropped_results,
            config: Self { layers: Some(layers), records: self.records.is_some().then_some(records), extra: self.extra.clone() },
        })
    }

    /// For each layer, whether it and all below it are there.
    fn whole_layers(&self, lost: &[bool]) -> Option<Vec<bool>> {
        let mut whole = vec![false; lost.len()];
        for index in self.parents_first().ok()? {
            whole[index] = !lost[index] && index_in(self.layers()[index].parent, lost.len()).is_none_or(|parent| whole[parent]);
        }
        Some(whole)
    }

    /// For each record, whether it is needed: for a result that `left` has, or as it never had one and
    /// leads nowhere, which is none of our business.
    fn needed_records(&self, left: &[CacheRecord]) -> Option<Vec<bool>> {
        let inputs = |record: &CacheRecord| record.links().filter_map(|link| index_in(link, left.len())).collect::<Vec<_>>();
        let mut is_input = vec![false; left.len()];
        left.iter().flat_map(inputs).for_each(|index| is_input[index] = true);
        let mut needed = vec![false; left.len()];
        for index in self.inputs_first().ok()?.into_iter().rev() {
            let led_nowhere = !is_input[index] && self.records()[index].result_count() == 0;
            needed[index] |= left[index].result_count() > 0 || led_nowhere;
            if needed[index] {
                inputs(&left[index]).into_iter().for_each(|input| needed[input] = true);
            }
        }
        Some(needed)
    }
}

impl CacheRecord {
    fn result_count(&self) -> usize {
        self.results.iter().flatten().count() + self.chained_results.iter().flatten().count()
    }
}

/// Keeps some of a list; a list that loses all of its entries is left out.
fn retain<T>(list: &mut Option<Vec<T>>, keep: impl Fn(&T) -> bool) {
    if let Some(entries) = list {
        let before = entries.len();
        entries.retain(keep);
        if entries.is_empty() && before > 0 {
            *list = None;
        }
    }
}

fn kept<T>(all: Vec<T>, keep: &[bool]) -> impl Iterator<Item = T> {
    all.into_iter().zip(keep).filter_map(|(entry, &keep)| keep.then_some(entry))
}

/// The new index of each entry that is kept, by its old one.
fn renumbered(keep: &[bool]) -> impl Fn(i64) -> i64 + use<> {
    let new: Vec<i64> = keep
        .iter()
        .scan(0, |next, &keep| {
            let index = *next;
            *next += i64::from(keep);
            Some(index)
        })
        .collect();
    move |old| index_in(old, new.len()).map_or(-1, |old| new[old])
}
