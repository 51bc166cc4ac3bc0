//! Two cache configs in one: what an exporter sends, and what others exported to the same name.
//!
//! Records are the same where digest and inputs are, all the way down; layers, where blob and parents are.
//! So every record and layer gets a name of its own content, and the union of two configs is one of two
//! maps. Of one record's results the newest wins. What is sent is kept whole; of what is stored, the
//! results that no exporter has renewed for longest go first where a bound asks for it. The age of a
//! result that was inherited stands beside it, in a field that BuildKit does not know and skips.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::config::{CacheConfig, CacheInput, CacheRecord, CacheResult, ChainedResult, Layer, index_in};
use crate::types::Digest;

/// When the last exporter of an inherited result put it, RFC 3339; a result without it was put with the
/// manifest itself.
const EXPORTED_AT: &str = "remoraExportedAt";

/// What limits a merged config.
#[derive(Debug, Clone, Copy)]
pub struct MergeLimits {
    /// Records.
    pub max_records: usize,
    /// Bytes of the document.
    pub max_bytes: u64,
    /// Results that no exporter has put since are not inherited.
    pub oldest: OffsetDateTime,
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
    /// What is sent, united with what was `stored` at `stored_at`. Where `inherited` is 0, what is sent
    /// needs nothing of what was stored. Both must be valid.
    #[must_use]
    pub fn merged(&self, stored: &Self, stored_at: OffsetDateTime, limits: &MergeLimits) -> Merged {
        let (sent, stored) = (Named::of(self, None), Named::of(stored, Some(stored_at)));
        let mut candidates: Vec<(&Id, &Found)> = stored
            .records
            .iter()
            .filter_map(|(id, node)| Some((id, node.result.as_ref()?)))
            .filter(|(id, found)| sent.result(id).is_none_or(|own| found.rank() > own.rank()))
            .collect();
        candidates.sort_by_key(|(id, found)| Reverse((found.exported, found.created, **id)));
        let all = candidates.len();
        candidates.retain(|(id, found)| found.exported >= limits.oldest || sent.records.contains_key(*id));
        loop {
            let (config, inherited) = sent.inheriting(&stored, &candidates, limits.max_records);
            if inherited == 0 || config.to_json().len() as u64 <= limits.max_bytes {
                return Merged { config, inherited, dropped: all - inherited };
            }
            candidates.truncate(inherited / 2);
        }
    }
}

/// The digest of what something is.
type Id = Digest;

/// A config by what its parts are.
#[derive(Debug, Clone, Default)]
struct Named {
    layers: BTreeMap<Id, (Layer, Option<Id>)>,
    records: BTreeMap<Id, Node>,
    extra: serde_json::Map<String, Value>,
}

#[derive(Debug, Clone)]
struct Node {
    /// Without inputs and results.
    record: CacheRecord,
    inputs: Vec<Vec<(Id, CacheInput)>>,
    result: Option<Found>,
}

/// A result.
#[derive(Debug, Clone)]
struct Found {
    content: Content,
    created: OffsetDateTime,
    /// For what was sent: the end of time.
    exported: OffsetDateTime,
}

#[derive(Debug, Clone)]
enum Content {
    Layer(Id, CacheResult),
    Chain(Vec<Id>, ChainedResult),
}

impl Named {
    /// `stored_at`: when it was put, for a config that others may inherit from.
    fn of(config: &CacheConfig, stored_at: Option<OffsetDateTime>) -> Self {
        let mut named = Self { extra: config.extra.clone(), ..Self::default() };
        let mut layer_ids: Vec<Option<Id>> = vec![None; config.layers().len()];
        for index in config.parents_first().unwrap_or_default() {
            let layer = &config.layers()[index];
            let parent = index_in(layer.parent, layer_ids.len()).and_then(|parent| layer_ids[parent]);
            let id = id_of(&(&layer.blob, parent));
            layer_ids[index] = Some(id);
            named.layers.entry(id).or_insert_with(|| (layer.clone(), parent));
        }
        let layer_id = |index: i64| index_in(index, layer_ids.len()).and_then(|index| layer_ids[index]);
        let mut record_ids: Vec<Option<Id>> = vec![None; config.records().len()];
        for index in config.inputs_first().unwrap_or_default() {
            let record = &config.records()[index];
            let alternatives = |input: &Option<Vec<CacheInput>>| {
                let known = input.iter().flatten();
                let named = known
                    .filter_map(|input| Some((index_in(input.link, record_ids.len()).and_then(|link| record_ids[link])?, input.clone())));
                let by_key: BTreeMap<(Id, String), CacheInput> = named.map(|(id, input)| ((id, input.selector.clone()), input)).collect();
                by_key.into_iter().map(|((id, _), input)| (id, input)).collect()
            };
            let inputs: Vec<Vec<(Id, CacheInput)>> = record.inputs.iter().flatten().map(alternatives).collect();
            let keys: Vec<Vec<(Id, &str)>> =
                inputs.iter().map(|input| input.iter().map(|(id, input)| (*id, input.selector.as_str())).collect()).collect();
            let id = id_of(&(&record.digest, keys));
            record_ids[index] = Some(id);
            let found = results(record, &layer_id, stored_at);
            let bare = CacheRecord { results: None, chained_results: None, inputs: None, ..record.clone() };
            let node = named.records.entry(id).or_insert_with(|| Node { record: bare, inputs, result: None });
            node.result = found.into_iter().chain(node.result.take()).max_by_key(Found::rank);
        }
        named
    }

    fn result(&self, id: &Id) -> Option<&Found> {
        self.records.get(id)?.result.as_ref()
    }

    /// This config with as many of the `candidates`, results of `stored`, as there is room for; and how
    /// many those are.
    fn inheriting(&self, stored: &Self, candidates: &[(&Id, &Found)], max_records: usize) -> (CacheConfig, usize) {
        let (mut union, mut inherited) = (self.clone(), 0);
        for (key, value) in &stored.extra {
            union.extra.entry(key).or_insert_with(|| value.clone());
        }
        for (id, found) in candidates {
            let needed = stored.needed_by(id, &union);
            if union.records.len() + needed.len() > max_records.max(self.records.len()) {
                break;
            }
            for needed in needed {
                if let Some(node) = stored.records.get(&needed) {
                    union.records.insert(needed, Node { result: None, ..node.clone() });
                }
            }
            for layer in stored.layers_of(found) {
                if let Some(entry) = stored.layers.get(&layer) {
                    union.layers.entry(layer).or_insert_with(|| entry.clone());
                }
            }
            let renewed = self.records.contains_key(*id);
            if let Some(node) = union.records.get_mut(*id) {
                node.result = Some(if renewed { (*found).clone() } else { found.marked() });
                inherited += 1;
            }
        }
        (union.into_config(), inherited)
    }

    /// The record and its ancestors, those that `union` does not have.
    fn needed_by(&self, id: &Id, union: &Self) -> BTreeSet<Id> {
        let (mut needed, mut open) = (BTreeSet::new(), vec![*id]);
        while let Some(id) = open.pop() {
            // Who is there has brought its ancestors along.
            if !union.records.contains_key(&id) && needed.insert(id) {
                let inputs = self.records.get(&id).into_iter().flat_map(|node| node.inputs.iter().flatten());
                open.extend(inputs.map(|(id, _)| *id));
            }
        }
        needed
    }

    /// The layers of a result, with all below them.
    fn layers_of(&self, found: &Found) -> BTreeSet<Id> {
        let mut open = match &found.content {
            Content::Layer(id, _) => vec![*id],
            Content::Chain(ids, _) => ids.clone(),
        };
        let mut layers = BTreeSet::new();
        while let Some(id) = open.pop() {
            if layers.insert(id) {
                open.extend(self.layers.get(&id).and_then(|(_, parent)| *parent));
            }
        }
        layers
    }

    /// In an order that the content alone decides: by blob or digest, as BuildKit sorts.
    fn into_config(self) -> CacheConfig {
        let mut layers: Vec<(Id, (Layer, Option<Id>))> = self.layers.into_iter().collect();
        layers.sort_by(|(left_id, (left, _)), (right_id, (right, _))| (&left.blob, left_id).cmp(&(&right.blob, right_id)));
        let mut records: Vec<(Id, Node)> = self.records.into_iter().collect();
        records.sort_by(|(left_id, left), (right_id, right)| (&left.record.digest, left_id).cmp(&(&right.record.digest, right_id)));
        let layer_indexes = indexes(layers.iter().map(|(id, _)| *id));
        let record_indexes = indexes(records.iter().map(|(id, _)| *id));
        let (layer_index, record_index) = (|id: &Id| index(&layer_indexes, id), |id: &Id| index(&record_indexes, id));
        let layers =
            layers.into_iter().map(|(_, (layer, parent))| Layer { parent: parent.map_or(-1, |parent| layer_index(&parent)), ..layer });
        let records = records.into_iter().map(|(_, node)| {
            let mut record = node.record;
            let alternatives = |input: Vec<(Id, CacheInput)>| {
                let mut inputs: Vec<_> = input.into_iter().map(|(id, input)| CacheInput { link: record_index(&id), ..input }).collect();
                inputs.sort_by(|left, right| (left.link, &left.selector).cmp(&(right.link, &right.selector)));
                Some(inputs)
            };
            record.inputs = (!node.inputs.is_empty()).then(|| node.inputs.into_iter().map(alternatives).collect());
            match node.result.map(|found| found.content) {
                Some(Content::Layer(id, result)) => record.results = Some(vec![CacheResult { layer: layer_index(&id), ..result }]),
                Some(Content::Chain(ids, result)) => {
                    let layers = result.layers.as_ref().map(|_| ids.iter().map(layer_index).collect());
                    record.chained_results = Some(vec![ChainedResult { layers, ..result }]);
                }
                None => {}
            }
            record
        });
        CacheConfig { layers: Some(layers.collect()), records: Some(records.collect()), extra: self.extra }
    }
}

impl Found {
    /// The newest has the highest; of two made at the same time, always the same one.
    fn rank(&self) -> (OffsetDateTime, Id) {
        let content = match &self.content {
            Content::Layer(id, _) => id_of(&id),
            Content::Chain(ids, _) => id_of(&ids),
        };
        (self.created, content)
    }

    /// The same with its age beside it.
    fn marked(&self) -> Self {
        let mut marked = self.clone();
        let extra = match &mut marked.content {
            Content::Layer(_, result) => &mut result.extra,
            Content::Chain(_, result) => &mut result.extra,
        };
        if let Ok(exported) = self.exported.format(&Rfc3339) {
            extra.insert(EXPORTED_AT.to_owned(), exported.into());
        }
        marked
    }
}

fn results(record: &CacheRecord, layer_id: &impl Fn(i64) -> Option<Id>, stored_at: Option<OffsetDateTime>) -> Vec<Found> {
    let found = |content: Content, created_at: Option<&str>, mark: Option<Value>| {
        let mark = mark.and_then(|mark| parse(mark.as_str()?));
        let exported = stored_at.map_or(OffsetDateTime::now_utc(), |stored| mark.map_or(stored, |mark| mark.min(stored)));
        // BuildKit reads a result that has no time as made in the year 1.
        Found { content, created: created_at.and_then(parse).unwrap_or(OffsetDateTime::UNIX_EPOCH), exported }
    };
    let single = record.results.iter().flatten().filter_map(|result| {
        let mut result = result.clone();
        let (id, created, mark) = (layer_id(result.layer)?, result.created_at.clone(), result.extra.remove(EXPORTED_AT));
        Some(found(Content::Layer(id, result), created.as_deref(), mark))
    });
    let chained = record.chained_results.iter().flatten().filter_map(|result| {
        let mut result = result.clone();
        let ids: Option<Vec<Id>> = result.layers.iter().flatten().map(|&layer| layer_id(layer)).collect();
        let (created, mark) = (result.created_at.clone(), result.extra.remove(EXPORTED_AT));
        Some(found(Content::Chain(ids?, result), created.as_deref(), mark))
    });
    single.chain(chained).collect()
}

fn parse(time: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(time, &Rfc3339).ok()
}

/// Rust's debug form of text and digests tells any two values apart.
fn id_of(value: &impl std::fmt::Debug) -> Id {
    Digest::of(format!("{value:?}").as_bytes())
}

fn indexes(ids: impl Iterator<Item = Id>) -> BTreeMap<Id, i64> {
    ids.zip(0..).collect()
}

/// -1 for what is not there: a valid config has none of that.
fn index(indexes: &BTreeMap<Id, i64>, id: &Id) -> i64 {
    indexes.get(id).copied().unwrap_or(-1)
}
