//! A config taken apart, into parts that have names of their own content, and put together again.
//!
//! Records are the same where digest and inputs are, all the way down; layers, where blob and parents are. So
//! the union of two configs is one of two maps.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cache::document::cache_config::{CacheConfig, CacheInput, CacheRecord, CacheResult, ChainedResult, Layer, index_in};
use crate::types::Digest;

/// When an export last had an inherited result, RFC 3339; a result without it was put with the manifest itself.
const EXPORTED_AT: &str = "remoraExportedAt";
/// How many exports were merged into a manifest so far. Beside an inherited result: how many had been when an export
/// last had it.
const GENERATION: &str = "remoraGeneration";

/// The name of a part: the digest of its content.
pub(super) type Id = Digest;

/// A config as maps of its parts, by their ids.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    layers: BTreeMap<Id, (Layer, Option<Id>)>,
    records: BTreeMap<Id, Record>,
    extra: Map<String, Value>,
    generation: u64,
}

#[derive(Debug, Clone)]
struct Record {
    /// Without inputs and results.
    bare: CacheRecord,
    inputs: Vec<Vec<(Id, CacheInput)>>,
    result: Option<Exported>,
}

/// A result, and the export that had it last.
#[derive(Debug, Clone)]
pub(super) struct Exported {
    content: Content,
    created: OffsetDateTime,
    pub(super) exported: OffsetDateTime,
    pub(super) generation: Generation,
}

/// The export that had a result last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Generation {
    /// That of a manifest in which exports were not counted yet: its time. It is older than every counted one.
    At(OffsetDateTime),
    /// The count of exports then.
    Number(u64),
}

/// A result of a stored config that goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) record: Id,
    pub(super) result: &'a Exported,
    /// An import has read it.
    pub(super) is_hit: bool,
}

#[derive(Debug, Clone)]
enum Content {
    Layer(Id, CacheResult),
    Chain(Vec<Id>, ChainedResult),
}

impl Parts {
    /// `stored_at`: when it was put, for a config that others may inherit from.
    pub(super) fn of(config: &CacheConfig, stored_at: Option<OffsetDateTime>) -> Self {
        let mut extra = config.extra.clone();
        let generation = extra.remove(GENERATION).and_then(|generation| generation.as_u64()).unwrap_or_default();
        let mut parts = Self { layers: BTreeMap::new(), records: BTreeMap::new(), extra, generation };
        let layers = parts.take_layers(config);
        parts.take_records(config, &layers, stored_at.unwrap_or_else(OffsetDateTime::now_utc));
        parts
    }

    /// The id of each layer.
    fn take_layers(&mut self, config: &CacheConfig) -> Vec<Option<Id>> {
        let mut ids: Vec<Option<Id>> = vec![None; config.layers().len()];
        for index in config.parents_first().unwrap_or_default() {
            let layer = &config.layers()[index];
            let parent = index_in(layer.parent, ids.len()).and_then(|parent| ids[parent]);
            let id = id_of(&(&layer.blob, parent));
            ids[index] = Some(id);
            self.layers.entry(id).or_insert_with(|| (layer.clone(), parent));
        }
        ids
    }

    fn take_records(&mut self, config: &CacheConfig, layers: &[Option<Id>], stored_at: OffsetDateTime) {
        let mut ids: Vec<Option<Id>> = vec![None; config.records().len()];
        for index in config.inputs_first().unwrap_or_default() {
            let record = &config.records()[index];
            let alternatives = |input: &Option<Vec<CacheInput>>| {
                let known = input.iter().flatten();
                let named = known.filter_map(|input| Some((index_in(input.link, ids.len()).and_then(|link| ids[link])?, input.clone())));
                let by_key: BTreeMap<(Id, String), CacheInput> = named.map(|(id, input)| ((id, input.selector.clone()), input)).collect();
                by_key.into_iter().map(|((id, _), input)| (id, input)).collect()
            };
            let inputs: Vec<Vec<(Id, CacheInput)>> = record.inputs.iter().flatten().map(alternatives).collect();
            let keys: Vec<Vec<(Id, &str)>> =
                inputs.iter().map(|input| input.iter().map(|(id, input)| (*id, input.selector.as_str())).collect()).collect();
            let id = id_of(&(&record.digest, keys));
            ids[index] = Some(id);
            let results = Exported::all_of(record, layers, stored_at, self.generation);
            let bare = CacheRecord { results: None, chained_results: None, inputs: None, ..record.clone() };
            let entry = self.records.entry(id).or_insert_with(|| Record { bare, inputs, result: None });
            entry.result = results.into_iter().chain(entry.result.take()).max_by_key(Exported::rank);
        }
    }

    /// The result of a record.
    pub(super) fn result(&self, id: &Id) -> Option<&Exported> {
        self.records.get(id)?.result.as_ref()
    }

    /// All results, by their records.
    pub(super) fn results(&self) -> impl Iterator<Item = (&Id, &Exported)> {
        self.records.iter().filter_map(|(id, record)| Some((id, record.result.as_ref()?)))
    }

    /// Whether the uppermost layer of a result is among `blobs`: lower ones belong to other results, too.
    pub(super) fn is_hit(&self, result: &Exported, blobs: &BTreeSet<Digest>) -> bool {
        let top = match &result.content {
            Content::Layer(id, _) => Some(id),
            Content::Chain(ids, _) => ids.last(),
        };
        let blob = top.and_then(|id| self.layers.get(id)?.0.blob.parse().ok());
        blob.is_some_and(|blob: Digest| blobs.contains(&blob))
    }

    /// This config with as many of the `candidates`, results of `stored`, as there is room for; and how many those are.
    pub(super) fn inheriting(&self, stored: &Self, candidates: &[Candidate<'_>], max_records: usize) -> (CacheConfig, usize) {
        let mut union = self.clone();
        let mut inherited = 0;
        for candidate in candidates {
            let needed = stored.needed_by(&candidate.record, &union);
            if union.records.len() + needed.len() > max_records.max(self.records.len()) {
                break;
            }
            for id in needed {
                if let Some(record) = stored.records.get(&id) {
                    union.records.insert(id, Record { result: None, ..record.clone() });
                }
            }
            union.take_layers_of(stored, candidate.result);
            if let Some(record) = union.records.get_mut(&candidate.record) {
                record.result = Some(candidate.result.inherited(candidate.is_hit));
                inherited += 1;
            }
        }
        if inherited > 0 {
            for (key, value) in &stored.extra {
                union.extra.entry(key).or_insert_with(|| value.clone());
            }
            union.extra.insert(GENERATION.to_owned(), stored.generation.saturating_add(1).into());
        }
        (union.into_config(), inherited)
    }

    /// The record and its ancestors, those that `union` does not have.
    fn needed_by(&self, id: &Id, union: &Self) -> BTreeSet<Id> {
        let mut needed = BTreeSet::new();
        let mut open = vec![*id];
        while let Some(id) = open.pop() {
            // A record that is there has brought its ancestors along.
            if !union.records.contains_key(&id) && needed.insert(id) {
                let inputs = self.records.get(&id).into_iter().flat_map(|record| record.inputs.iter().flatten());
                open.extend(inputs.map(|(id, _)| *id));
            }
        }
        needed
    }

    /// Adds the layers of a result of `stored`, with all below them.
    fn take_layers_of(&mut self, stored: &Self, result: &Exported) {
        let mut open = match &result.content {
            Content::Layer(id, _) => vec![*id],
            Content::Chain(ids, _) => ids.clone(),
        };
        while let Some(id) = open.pop() {
            // A layer that is there has brought those below it along.
            if let Some(entry) = stored.layers.get(&id).filter(|_| !self.layers.contains_key(&id)) {
                open.extend(entry.1);
                self.layers.insert(id, entry.clone());
            }
        }
    }

    /// In an order that the content alone decides: by blob or digest, as BuildKit sorts.
    fn into_config(self) -> CacheConfig {
        let mut layers: Vec<(Id, (Layer, Option<Id>))> = self.layers.into_iter().collect();
        layers.sort_by(|(left_id, (left, _)), (right_id, (right, _))| (&left.blob, left_id).cmp(&(&right.blob, right_id)));
        let mut records: Vec<(Id, Record)> = self.records.into_iter().collect();
        records.sort_by(|(left_id, left), (right_id, right)| (&left.bare.digest, left_id).cmp(&(&right.bare.digest, right_id)));
        let layer_indexes = indexes(layers.iter().map(|(id, _)| *id));
        let record_indexes = indexes(records.iter().map(|(id, _)| *id));
        let layers = layers
            .into_iter()
            .map(|(_, (layer, parent))| Layer { parent: parent.map_or(-1, |parent| index(&layer_indexes, &parent)), ..layer });
        let records = records.into_iter().map(|(_, record)| record.into_record(&layer_indexes, &record_indexes));
        CacheConfig { layers: Some(layers.collect()), records: Some(records.collect()), extra: self.extra }
    }
}

impl Record {
    fn into_record(self, layers: &BTreeMap<Id, i64>, records: &BTreeMap<Id, i64>) -> CacheRecord {
        let mut record = self.bare;
        let alternatives = |input: Vec<(Id, CacheInput)>| {
            let mut inputs: Vec<_> = input.into_iter().map(|(id, input)| CacheInput { link: index(records, &id), ..input }).collect();
            inputs.sort_by(|left, right| (left.link, &left.selector).cmp(&(right.link, &right.selector)));
            Some(inputs)
        };
        record.inputs = (!self.inputs.is_empty()).then(|| self.inputs.into_iter().map(alternatives).collect());
        match self.result.map(|result| result.content) {
            Some(Content::Layer(id, result)) => record.results = Some(vec![CacheResult { layer: index(layers, &id), ..result }]),
            Some(Content::Chain(ids, result)) => {
                let indexes = result.layers.as_ref().map(|_| ids.iter().map(|id| index(layers, id)).collect());
                record.chained_results = Some(vec![ChainedResult { layers: indexes, ..result }]);
            }
            None => {}
        }
        record
    }
}

impl Exported {
    /// The results of a record in a manifest that was put at `stored_at`, as export number `generation`.
    fn all_of(record: &CacheRecord, layers: &[Option<Id>], stored_at: OffsetDateTime, generation: u64) -> Vec<Self> {
        let layer_id = |index: i64| index_in(index, layers.len()).and_then(|index| layers[index]);
        let single = record.results.iter().flatten().filter_map(|result| {
            let mut result = result.clone();
            let id = layer_id(result.layer)?;
            let created = time(result.created_at.as_deref());
            let mark = Mark::taken(&mut result.extra);
            Some((Content::Layer(id, result), created, mark))
        });
        let chained = record.chained_results.iter().flatten().filter_map(|result| {
            let mut result = result.clone();
            let ids: Option<Vec<Id>> = result.layers.iter().flatten().map(|&layer| layer_id(layer)).collect();
            let created = time(result.created_at.as_deref());
            let mark = Mark::taken(&mut result.extra);
            Some((Content::Chain(ids?, result), created, mark))
        });
        let exported = |(content, created, mark): (Content, Option<OffsetDateTime>, Mark)| {
            let exported = mark.exported.map_or(stored_at, |exported| exported.min(stored_at));
            let generation = match (mark.generation, mark.exported) {
                (Some(number), _) => Generation::Number(number.min(generation)),
                (None, Some(_)) => Generation::At(exported),
                (None, None) => Generation::Number(generation),
            };
            // BuildKit reads a result that has no time as made in the year 1.
            Self { content, created: created.unwrap_or(OffsetDateTime::UNIX_EPOCH), exported, generation }
        };
        single.chain(chained).map(exported).collect()
    }

    /// The newest result has the highest rank. Of two that were made at the same time it is always the same one.
    fn rank(&self) -> (OffsetDateTime, Id) {
        let content = match &self.content {
            Content::Layer(id, _) => id_of(&id),
            Content::Chain(ids, _) => id_of(&ids),
        };
        (self.created, content)
    }

    /// The result as it stands in the next manifest: with its age beside it, or as young as the manifest.
    fn inherited(&self, is_young: bool) -> Self {
        let mut inherited = self.clone();
        if !is_young {
            let extra = match &mut inherited.content {
                Content::Layer(_, result) => &mut result.extra,
                Content::Chain(_, result) => &mut result.extra,
            };
            if let Ok(exported) = self.exported.format(&Rfc3339) {
                extra.insert(EXPORTED_AT.to_owned(), exported.into());
            }
            if let Generation::Number(number) = self.generation {
                extra.insert(GENERATION.to_owned(), number.into());
            }
        }
        inherited
    }
}

/// The age that stands beside an inherited result.
#[derive(Debug)]
struct Mark {
    exported: Option<OffsetDateTime>,
    generation: Option<u64>,
}

impl Mark {
    fn taken(extra: &mut Map<String, Value>) -> Self {
        let exported = extra.remove(EXPORTED_AT);
        let generation = extra.remove(GENERATION);
        Self { exported: time(exported.as_ref().and_then(Value::as_str)), generation: generation.and_then(|number| number.as_u64()) }
    }
}

fn time(text: Option<&str>) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text?, &Rfc3339).ok()
}

/// Rust's debug form of text and digests tells any two values apart.
fn id_of(value: &impl std::fmt::Debug) -> Id {
    Digest::of(format!("{value:?}").as_bytes())
}

fn indexes(ids: impl Iterator<Item = Id>) -> BTreeMap<Id, i64> {
    ids.zip(0..).collect()
}

/// The index of a part; -1 where it is missing, which it is not in a valid config.
fn index(indexes: &BTreeMap<Id, i64>, id: &Id) -> i64 {
    indexes.get(id).copied().unwrap_or(-1)
}
