//! `remora inspect`: the records and layers of one cache.

use std::io::Write;

use serde::Serialize;
use time::OffsetDateTime;

use super::failure::Failure;
use super::output::{age, count, print_json, print_table, size, table};
use super::scope::{ScopeArgs, parse_name};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cache's name, as name= of type=s3
    name: String,
    #[command(flatten)]
    pub(super) scope: ScopeArgs,
    /// Print one JSON object
    #[arg(long, env = "REMORA_JSON", hide_env_values = true)]
    json: bool,
}

#[derive(Serialize)]
struct Inspected {
    name: String,
    bucket: String,
    prefix: String,
    /// Bytes of the manifest itself.
    size: u64,
    etag: String,
    #[serde(with = "time::serde::rfc3339")]
    modified: OffsetDateTime,
    records: usize,
    layers: Vec<Layer>,
    /// Blobs, each once.
    blobs: usize,
    /// Their bytes.
    bytes: u64,
}

#[derive(Serialize)]
struct Layer {
    digest: String,
    size: u64,
    media_type: String,
    created_at: Option<String>,
}

impl Layer {
    fn new(layer: &crate::cache::Layer) -> Self {
        let annotations = layer.annotations.clone().unwrap_or_default();
        Self {
            digest: layer.blob.clone(),
            size: u64::try_from(annotations.size).unwrap_or_default(),
            media_type: annotations.media_type,
            created_at: annotations.created_at,
        }
    }

    fn age(&self) -> String {
        let parse = |text: &String| OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok();
        // Go's zero time stands for "unknown".
        self.created_at.as_ref().and_then(parse).filter(|created| created.year() > 1).map_or_else(|| "-".to_owned(), age)
    }
}

pub(super) async fn run(args: Args, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let name = parse_name(&args.name)?;
    let opened = args.scope.open().await?;
    let manifest = opened.cache.manifests().get(&opened.grant, &name).await?;
    let blobs = manifest.config.blobs();
    let scope = opened.grant.scope();
    let inspected = Inspected {
        name: name.to_string(),
        bucket: scope.bucket().to_string(),
        prefix: scope.prefix().to_owned(),
        size: manifest.bytes.len() as u64,
        etag: manifest.etag.to_string(),
        modified: manifest.modified,
        records: manifest.config.records().len(),
        layers: manifest.config.layers().iter().map(Layer::new).collect(),
        blobs: blobs.len(),
        bytes: blobs.values().sum(),
    };
    if args.json {
        return Ok(print_json(out, &inspected)?);
    }
    writeln!(out, "{name} in {scope}, published {} ago", age(inspected.modified))?;
    writeln!(
        out,
        "{}, {}, {} in {}\n",
        count(inspected.records, "record"),
        count(inspected.layers.len(), "layer"),
        size(inspected.bytes),
        count(inspected.blobs, "blob")
    )?;
    let mut listing = table(&["DIGEST", "SIZE", "MEDIA TYPE", "AGE"], &[1]);
    for layer in &inspected.layers {
        listing.add_row(vec![layer.digest.clone(), size(layer.size), layer.media_type.clone(), layer.age()]);
    }
    Ok(print_table(out, &listing)?)
}
