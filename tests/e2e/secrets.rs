//! No secret of a client or of the store is found anywhere but where its owner put it.

use crate::support::buildkitd::Buildkitd;
use crate::support::cases::{Transport, Via};
use crate::support::client::{Build, Client};
use crate::support::context::Context;
use crate::support::host::Host;
use crate::support::image;
use crate::support::minio::{self, Minio};
use crate::support::process::{READY_LIMIT, eventually};
use crate::support::remora::Settings;
use crate::support::storage::{Kind, Storage};

const BUCKETS: [&str; 1] = ["build-cache"];
/// Credentials as attributes of the cache.
const ATTRS: [(&str, &str); 3] = [
    ("access_key_id", "CANARYKEYOFTHEATTRS"),
    ("secret_access_key", "canary-secret-of-the-attrs"),
    ("session_token", "canary-token-of-the-attrs"),
];
/// Credentials in the client's environment; buildx adds them to the attributes unasked.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "CANARYKEYOFTHECLIENT"),
    ("AWS_SECRET_ACCESS_KEY", "canary-secret-of-the-client"),
    ("AWS_SESSION_TOKEN", "canary-token-of-the-client"),
];

/// Everything is logged, also by the libraries that see requests and headers.
const EVERYTHING: &str = "trace,aws_config=trace,aws_sigv4=trace,aws_smithy_runtime=trace,h2=trace,hyper=trace,s3s=trace,tower=trace";

#[test]
fn buildctl_leaves_no_trace_of_credentials() {
    Transport::BOTH.into_iter().for_each(|transport| no_trace_of_credentials(Via::Buildctl, "--opt=attest:provenance=mode=max", transport));
}

#[test]
fn buildx_leaves_no_trace_of_credentials() {
    Transport::BOTH.into_iter().for_each(|transport| no_trace_of_credentials(Via::BuildxRemote, "--provenance=mode=max", transport));
}

fn no_trace_of_credentials(via: Via, provenance: &str, transport: Transport) {
    let buildkitd = Buildkitd::start();
    let storage = Storage::new(Kind::Minio, &BUCKETS);
    let settings = Settings { log_filter: EVERYTHING, transport, ..Settings::new(buildkitd.address(), &storage, &BUCKETS) };
    let host = Host::assemble(via, buildkitd, storage, &settings);
    let context = Context::two_stages();
    let dir = tempfile::tempdir().expect("temp dir");
    let tar = dir.path().join("image.tar");
    let metadata = dir.path().join("metadata.json");

    let with_attrs: String = ATTRS.map(|(name, value)| format!(",{name}={value}")).concat();
    for credentials in ["", &with_attrs] {
        let build = Build {
            metadata: Some(metadata.clone()),
            args: vec![provenance.to_owned()],
            env: ENVIRONMENT.into_iter().map(|(name, value)| (name, value.to_owned())).collect(),
            ..Build::of(context.path()).cached(&format!("type=s3,region=us-east-1,bucket=build-cache,name=app{credentials}")).image(&tar)
        };
        let outcome = host.client.build(&build).expect_success();
        assert_eq!(outcome.errors_around(), "", "the cache was used");
    }

    if via == Via::Buildctl {
        // It names its command line in a trace, which buildkitd keeps from some seconds after the build.
        let kept = || (!host.buildkitd.places_with("secret_access_key=***").is_empty()).then_some(());
        eventually("the trace is kept", READY_LIMIT, kept);
    }

    let histories = host.buildkitd.buildctl(&["debug", "histories", "--format", "{{json .}}"]).expect_success();
    assert!(histories.contains("manifests_prefix") || histories.contains("cache-imports"), "the history tells of imports: {histories}");
    let check_config = host.remora.check_config();
    let log = host.remora.log();
    assert!(log.contains(" DEBUG "), "remora logs all that it can:\n{log}");
    let places = [
        ("the build history", histories),
        ("remora's log", log),
        ("the metrics", host.remora.metrics()),
        ("check-config", format!("{}{}", check_config.stdout, check_config.stderr)),
        ("the metadata file", std::fs::read_to_string(&metadata).expect("metadata")),
        ("the image and its provenance", image::text(&tar)),
    ];
    let store = [("the store's key", minio::ACCESS_KEY_ID), ("the store's secret", minio::SECRET_ACCESS_KEY)];
    for (name, canary) in ATTRS.into_iter().chain(ENVIRONMENT).chain(store) {
        assert_eq!(host.buildkitd.places_with(canary), Vec::<String>::new(), "{name} is known to buildkitd");
        for (place, text) in &places {
            // A key id is no secret, and an operator wants to see which one is configured.
            let shown = *place == "check-config" && canary == minio::ACCESS_KEY_ID;
            assert!(shown || !text.contains(canary), "{name} is in {place}");
        }
    }
}

/// The search above finds what is there to be found: native BuildKit records its credentials.
#[test]
fn the_search_finds_the_credentials_of_native_buildkit() {
    let buildkitd = Buildkitd::start();
    let minio = Minio::start(&BUCKETS);
    let context = Context::two_stages();
    let build = Build::of(context.path()).cached(&minio.native("bucket=build-cache,name=app"));
    Client::buildctl(&buildkitd.address()).build(&build).expect_success();
    assert!(!buildkitd.places_with(minio::SECRET_ACCESS_KEY).is_empty());
    let histories = buildkitd.buildctl(&["debug", "histories", "--format", "{{json .}}"]).expect_success();
    assert!(histories.contains(minio::SECRET_ACCESS_KEY), "{histories}");
}
