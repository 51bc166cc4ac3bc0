//! What the report tells of the manifests that the runs start from.

use anyhow::Result;
use comfy_table::Table;
use remora::cache::CacheConfig;
use serde::Serialize;

use crate::figures::table;

/// How the name came to be hot, and what is stored under it.
#[derive(Debug, Serialize)]
pub(crate) struct Facts {
    pub(crate) exports: u32,
    pub(crate) branches: u32,
    pub(crate) exporters_at_once: usize,
    /// How long the exports took that no builder made.
    pub(crate) seconds_writing: f64,
    /// How long all of the preparation took.
    pub(crate) seconds_preparing: f64,
    pub(crate) stored: Vec<Stored>,
}

/// A stored manifest.
#[derive(Debug, Serialize)]
pub(crate) struct Stored {
    name: &'static str,
    records: usize,
    layers: usize,
    /// The size of the document.
    bytes: usize,
    /// The size of all blobs that it names.
    blob_bytes: u64,
}

impl Stored {
    pub(crate) fn of(name: &'static str, document: &[u8]) -> Result<Self> {
        let config = CacheConfig::parse(document)?;
        let records = config.records().len();
        let layers = config.layers().len();
        Ok(Self { name, records, layers, bytes: document.len(), blob_bytes: config.blobs().values().sum() })
    }
}

impl Facts {
    pub(crate) fn table(&self) -> Table {
        let title = format!("manifest after {} exports by {} branches, {} at once", self.exports, self.branches, self.exporters_at_once);
        let header = [&title, "records", "layers", "bytes", "bytes of its blobs"].map(str::to_owned);
        let mut table = table(header.to_vec(), 1);
        for Stored { name, records, layers, bytes, blob_bytes } in &self.stored {
            table.add_row([(*name).to_owned(), records.to_string(), layers.to_string(), bytes.to_string(), blob_bytes.to_string()]);
        }
        table
    }
}
