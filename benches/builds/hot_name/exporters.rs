//! Exports to one name without BuildKit, by many exporters that take turns.

use anyhow::{Context as _, Result};
use aws_sdk_s3::Client;
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::commits::Commit;
use super::synthetic_export::Template;
use crate::workloads::HotName;

/// Copies the blobs that every commit has from one bucket to another.
pub(crate) async fn bring_shared(from: &Client, from_bucket: &str, to: &Client, to_bucket: &str, template: &Template) -> Result<()> {
    for key in template.shared_blobs() {
        let blob = from.get_object().bucket(from_bucket).key(&key).send().await.with_context(|| format!("no {key}"))?;
        let blob = blob.body.collect().await?.into_bytes();
        to.put_object().bucket(to_bucket).key(&key).body(blob.into()).send().await.with_context(|| format!("cannot copy {key}"))?;
    }
    Ok(())
}

/// Puts the exports that come before the last one of each branch to a manifest of a remora's bucket.
pub(crate) async fn write(client: &Client, bucket: &str, manifest: &str, template: &Template, name: HotName) -> Result<()> {
    let exports = stream::iter(0..name.synthetic()).map(|export| {
        let commit = Commit::of_export(export, name.branches);
        async move { put(client, bucket, manifest, template, commit).await.with_context(|| format!("export {export}")) }
    });
    exports.buffer_unordered(name.at_once).try_for_each(|()| async { Ok(()) }).await
}

/// What one exporter does: the blobs that are new, then the manifest.
async fn put(client: &Client, bucket: &str, manifest: &str, template: &Template, commit: Commit) -> Result<()> {
    let export = template.export(&commit.source())?;
    let blobs = export.blobs.into_iter().map(|(digest, blob)| {
        let put = client.put_object().bucket(bucket).key(format!("blobs/{digest}")).body(blob.into());
        async move { put.send().await.with_context(|| format!("blob {digest}")) }
    });
    try_join_all(blobs).await?;
    client.put_object().bucket(bucket).key(manifest).body(export.config.to_json().into()).send().await.context(manifest.to_owned())?;
    Ok(())
}
