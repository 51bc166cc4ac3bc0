//! What BuildKit would export for a commit, made from what it has exported for another one.
//!
//! Two real exports tell what a commit changes: one record's digest, that of the source's content, which has neither
//! inputs nor results; and the layers of all results that come from it. Everything else stays: the digests of the
//! steps, selectors, and what is below the source with its times.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use remora::cache::{CacheConfig, CacheRecord, Layer};
use remora::types::Digest;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Stands for what differs from commit to commit.
const CHANGED: &str = "changed";

/// A real export, and which parts of it differ in every commit.
#[derive(Debug)]
pub(crate) struct Template {
    config: CacheConfig,
    /// The record of the source's content.
    source: usize,
    layers: BTreeSet<usize>,
    /// Digests of records and layers that every commit has.
    shared: BTreeSet<String>,
}

/// An export that no build has made.
#[derive(Debug)]
pub(crate) struct Export {
    /// The blobs that no other commit has.
    pub(crate) blobs: Vec<(Digest, Vec<u8>)>,
    pub(crate) config: CacheConfig,
}

impl Template {
    /// Takes the first of these real exports, of a commit each. Fails unless what it makes for another commit is what
    /// BuildKit has exported, up to the digests that a commit changes, and the times and sizes that go with them.
    pub(crate) fn new(documents: &[Vec<u8>]) -> Result<Self> {
        let mut real = Vec::new();
        for document in documents {
            let config = CacheConfig::parse(document)?;
            ensure!(config.to_json() == *document, "BuildKit prints a cache config in another way than remora does");
            ensure!(is_sorted(&config), "BuildKit sorts a cache config in another way than this benchmark does");
            real.push(config);
        }
        let [first, second, ..] = real.as_slice() else { anyhow::bail!("{} real exports are too few", real.len()) };
        let others = digests(second);
        let shared: BTreeSet<String> = digests(first).intersection(&others).cloned().collect();

        let own: Vec<usize> = (0..first.records().len()).filter(|&index| !shared.contains(&first.records()[index].digest)).collect();
        let [source] = own[..] else { anyhow::bail!("a commit changes the digests of {} records, not of 1", own.len()) };
        let CacheRecord { results, chained_results, inputs, .. } = &first.records()[source];
        ensure!(results.is_none() && chained_results.is_none() && inputs.is_none(), "the record that a commit changes is no source");

        let layers = own_layers(first, source)?;
        let of_others: BTreeSet<usize> = (0..first.layers().len()).filter(|&index| !shared.contains(&first.layers()[index].blob)).collect();
        ensure!(layers == of_others, "a commit changes the layers {of_others:?}, but the source's results have {layers:?}");

        let template = Self { config: first.clone(), source, layers, shared };
        let made = template.export("another commit")?.config;
        for real in &real {
            same_shape(&template.shape(&made)?, &template.shape(real)?)?;
        }
        Ok(template)
    }

    /// Layers that no other commit has.
    pub(crate) fn own_layers(&self) -> usize {
        self.layers.len()
    }

    /// Keys of the blobs that every commit has.
    pub(crate) fn shared_blobs(&self) -> impl Iterator<Item = String> {
        let shared = self.config.layers().iter().filter(|layer| self.shared.contains(&layer.blob));
        shared.map(|layer| format!("blobs/{}", layer.blob))
    }

    /// What BuildKit would export for a commit with this source, built now.
    pub(crate) fn export(&self, source: &str) -> Result<Export> {
        let now = Some(OffsetDateTime::now_utc().format(&Rfc3339)?);
        let mut blobs = Vec::new();
        let mut config = self.config.clone();
        let layers = config.layers.as_deref_mut().unwrap_or_default();
        let records = config.records.as_deref_mut().unwrap_or_default();
        for &index in &self.layers {
            let layer = &mut layers[index];
            let annotations = layer.annotations.as_mut().context("a layer has no annotations")?;
            let mut blob = format!("layer {index} of {source}").into_bytes();
            annotations.diff_id = Digest::of(format!("content of layer {index} of {source}").as_bytes()).to_string();
            annotations.created_at.clone_from(&now);
            // The blob is as large as the real one, so that the manifest is as large, too.
            blob.resize(usize::try_from(annotations.size)?, b'.');
            let digest = Digest::of(&blob);
            layer.blob = digest.to_string();
            blobs.push((digest, blob));
        }
        records[self.source].digest = Digest::of(source.as_bytes()).to_string();
        for result in records.iter_mut().filter_map(|record| record.results.as_mut()).flatten() {
            if self.layers.contains(&usize::try_from(result.layer)?) {
                result.created_at.clone_from(&now);
            }
        }
        sort(&mut config)?;
        config.validate()?;
        Ok(Export { blobs, config })
    }

    /// Every layer and record with all that it is made of, without what differs from commit to commit.
    fn shape(&self, config: &CacheConfig) -> Result<Vec<String>> {
        let layers = (0..config.layers().len()).map(|index| self.layer_shape(config, index));
        let records = (0..config.records().len()).map(|index| self.record_shape(config, index));
        let mut shape = layers.chain(records).collect::<Result<Vec<_>>>()?;
        shape.sort();
        Ok(shape)
    }

    fn layer_shape(&self, config: &CacheConfig, index: usize) -> Result<String> {
        let mut layer = config.layers()[index].clone();
        let below = if layer.parent == -1 { String::new() } else { self.layer_shape(config, usize::try_from(layer.parent)?)? };
        layer.parent = 0;
        if !self.shared.contains(&layer.blob) {
            CHANGED.clone_into(&mut layer.blob);
            let annotations = layer.annotations.as_mut().context("a layer has no annotations")?;
            CHANGED.clone_into(&mut annotations.diff_id);
            // Random bytes are compressed to a size that differs by a few bytes.
            (annotations.size, annotations.created_at) = (0, None);
        }
        Ok(format!("{layer:?} on ({below})"))
    }

    fn record_shape(&self, config: &CacheConfig, index: usize) -> Result<String> {
        let mut record = config.records()[index].clone();
        if !self.shared.contains(&record.digest) {
            CHANGED.clone_into(&mut record.digest);
        }
        let mut parts = Vec::new();
        for result in record.results.iter_mut().flatten() {
            let layer = usize::try_from(result.layer)?;
            parts.push(self.layer_shape(config, layer)?);
            result.layer = 0;
            if !self.shared.contains(&config.layers()[layer].blob) {
                result.created_at = None;
            }
        }
        ensure!(record.chained_results.is_none(), "a real export has a result of several layers");
        for input in record.inputs.iter_mut().flatten() {
            let mut alternatives = Vec::new();
            for alternative in input.iter_mut().flatten() {
                alternatives.push(format!("{}: {}", alternative.selector, self.record_shape(config, usize::try_from(alternative.link)?)?));
                alternative.link = 0;
            }
            alternatives.sort();
            parts.push(format!("{alternatives:?}"));
        }
        // A hash stands for its inputs, which would otherwise be written out again and again.
        Ok(format!("{record:?} of {}", Digest::of(parts.join(", ").as_bytes())))
    }
}

/// The digests of all records and blobs.
fn digests(config: &CacheConfig) -> BTreeSet<String> {
    let records = config.records().iter().map(|record| &record.digest);
    records.chain(config.layers().iter().map(|layer| &layer.blob)).cloned().collect()
}

/// The layers of the results that come from a record.
fn own_layers(config: &CacheConfig, source: usize) -> Result<BTreeSet<usize>> {
    let mut records = BTreeSet::from([i64::try_from(source)?]);
    let mut layers = BTreeSet::new();
    let mut before = 0;
    while records.len() > before {
        before = records.len();
        for (index, record) in (0..).zip(config.records()) {
            if record.inputs.iter().flatten().flatten().flatten().any(|input| records.contains(&input.link)) {
                records.insert(index);
                for result in record.results.iter().flatten() {
                    layers.insert(usize::try_from(result.layer)?);
                }
            }
        }
    }
    Ok(layers)
}

fn is_sorted(config: &CacheConfig) -> bool {
    config.layers().is_sorted_by_key(|layer| &layer.blob) && config.records().is_sorted_by_key(|record| &record.digest)
}

/// Sorts layers and records as BuildKit does: by digest.
fn sort(config: &mut CacheConfig) -> Result<()> {
    let layers = sorted(config.layers.get_or_insert_default(), |layer: &Layer| layer.blob.clone());
    let records = sorted(config.records.get_or_insert_default(), |record: &CacheRecord| record.digest.clone());
    let moved = |to: &[i64], from: i64| to.get(usize::try_from(from)?).copied().context("an index leads nowhere");
    for layer in config.layers.iter_mut().flatten().filter(|layer| layer.parent != -1) {
        layer.parent = moved(&layers, layer.parent)?;
    }
    for record in config.records.iter_mut().flatten() {
        for result in record.results.iter_mut().flatten() {
            result.layer = moved(&layers, result.layer)?;
        }
        for input in record.inputs.iter_mut().flatten().flatten() {
            for alternative in input.iter_mut() {
                alternative.link = moved(&records, alternative.link)?;
            }
            input.sort_by(|left, right| (left.link, &left.selector).cmp(&(right.link, &right.selector)));
        }
    }
    Ok(())
}

/// Sorts a list, and returns for each old index the new one.
fn sorted<T>(list: &mut Vec<T>, key: impl Fn(&T) -> String) -> Vec<i64> {
    let mut items: Vec<(usize, T)> = std::mem::take(list).into_iter().enumerate().collect();
    items.sort_by_key(|(_, item)| key(item));
    let mut to = vec![0; items.len()];
    for (new, (old, item)) in (0..).zip(items) {
        to[old] = new;
        list.push(item);
    }
    to
}

fn same_shape(made: &[String], real: &[String]) -> Result<()> {
    let only = |these: &[String], those: &[String]| these.iter().find(|part| !those.contains(part)).cloned().unwrap_or_default();
    ensure!(made == real, "the export made for a commit has {}\nwhere BuildKit's own has {}", only(made, real), only(real, made));
    Ok(())
}
