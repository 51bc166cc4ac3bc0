//! Somebody who may export aims the prefixes of `type=s3` at objects that are not theirs.

use std::collections::BTreeMap;

use crate::support::cases::{Setting, Transport, Via};
use crate::support::client::{Build, Outcome};
use crate::support::context::Context;
use crate::support::host::Host;
use crate::support::storage::Kind;

const BUCKET: &str = "build-cache";
const VICTIM: &str = "type=s3,region=us-east-1,bucket=build-cache,name=victim";
const FOREIGN: &str = "backups/database";
/// What buildctl says where the s3 endpoint answers 403: BuildKit's client shows the code and the message.
const REFUSED: &str = "access denied";

/// A bucket with somebody else's cache and somebody else's file in it.
struct Target {
    host: Host,
    context: Context,
    before: BTreeMap<String, Vec<u8>>,
}

impl Target {
    fn new(transport: Transport) -> Self {
        let host = Host::start(Setting { via: Via::Buildctl, store: Kind::Directory, transport }, &[BUCKET]);
        let victim = Context::two_stages();
        host.client.build(&Build::of(victim.path()).cached(VICTIM)).expect_success();
        let file = host.storage.file(BUCKET, FOREIGN);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("folder");
        std::fs::write(&file, "not a cache").expect("file");
        let before = host.storage.objects(BUCKET);
        Self { host, context: Context::two_stages(), before }
    }

    /// The digest of one of the victim's layers.
    fn layer(&self) -> &str {
        self.before.keys().find_map(|key| key.strip_prefix("blobs/")).expect("a blob")
    }

    fn export(&self, attrs: &str) -> Outcome {
        let cache_to = vec![format!("type=s3,region=us-east-1,bucket={BUCKET},mode=max,{attrs}")];
        self.host.client.build(&Build { cache_to, ..Build::of(self.context.path()) })
    }

    /// What was in the bucket before is there still, byte for byte.
    fn assert_untouched(&self, attrs: &str) {
        let after = self.host.storage.objects(BUCKET);
        for (key, bytes) in &self.before {
            assert!(after.get(key) == Some(bytes), "{attrs}: {key} had {} bytes, now {:?}", bytes.len(), after.get(key).map(Vec::len));
        }
    }
}

#[test]
fn no_prefix_leads_a_manifest_to_the_key_of_anything_else() {
    for transport in Transport::BOTH {
        let target = Target::new(transport);
        let layer = target.layer().to_owned();
        let (algorithm, hex) = layer.split_once(':').expect("a digest");
        for attrs in [
            format!("blobs_prefix=x/,manifests_prefix=blobs/,name={layer}"),
            format!("blobs_prefix=x/,manifests_prefix=blobs/{algorithm}:,name={hex}"),
            format!("prefix=blobs/,blobs_prefix=x/,manifests_prefix=,name={layer}"),
            format!("manifests_prefix=labels/,name={layer}"),
            "manifests_prefix=backups/,name=database".to_owned(),
            "manifests_prefix=,name=.remora-check".to_owned(),
        ] {
            let outcome = target.export(&attrs).expect_failure();
            let text = format!("{}{}", outcome.text, outcome.errors_around()).to_lowercase();
            assert!(text.contains(REFUSED), "{transport:?}, {attrs}: {text}");
            target.assert_untouched(&attrs);
            target.export(&format!("{attrs},ignore-error=true")).expect_success();
            target.assert_untouched(&attrs);
        }
        target.host.remora.verify(BUCKET).expect_success();
    }
}

#[test]
fn no_prefix_leads_blobs_among_labels() {
    for transport in Transport::BOTH {
        let target = Target::new(transport);
        for attrs in ["blobs_prefix=labels/,name=app", "prefix=labels/,blobs_prefix=,name=app"] {
            let outcome = target.export(attrs).expect_failure();
            let text = format!("{}{}", outcome.text, outcome.errors_around());
            assert!(text.contains("labels"), "{transport:?}, {attrs}: {text}");
            assert!(!target.host.storage.objects(BUCKET).keys().any(|key| key.starts_with("labels/")), "{attrs}");
        }
    }
}
