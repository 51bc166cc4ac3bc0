//! Layers that are lost behind the manifest that promised them: the build is run again, unseen.

use crate::support::buildkitd::Buildkitd;
use crate::support::cases::{Rig as _, Transport, Via};
use crate::support::chain;
use crate::support::client::{AGAIN, Build, Outcome};
use crate::support::context::Context;
use crate::support::faults::{Fault, FaultProxy, Rule};
use crate::support::host::Host;
use crate::support::image;
use crate::support::remora::Settings;
use crate::support::storage::{self, Kind, Storage};

const BUCKETS: [&str; 1] = ["build-cache"];
const CACHE: &str = "type=s3,region=us-east-1,bucket=build-cache,name=app";
const REPLAYED: &str = "remora_builds_replayed_total";

/// A builder whose store answers lookups and has lost the bytes, when told to.
struct Lossy {
    host: Host,
    proxy: FaultProxy,
    images: tempfile::TempDir,
}

impl Lossy {
    fn start(via: Via, transport: Transport) -> Self {
        let (host, proxy) = Host::behind_proxy(via, transport, &BUCKETS, "");
        Self { host, proxy, images: tempfile::tempdir().expect("temp dir") }
    }

    fn lose(&self, fault: Fault) {
        self.host.buildkitd.prune();
        self.proxy.set_rules(vec![Rule::on("GET", "/blobs/", 1.0, fault)]);
    }

    fn image(&self) -> std::path::PathBuf {
        self.images.path().join("image.tar")
    }

    fn build(&self, context: &Context) -> Build {
        Build::of(context.path()).cached(CACHE).image(&self.image())
    }

    fn passes(&self, build: &Build) -> Outcome {
        let outcome = self.host.client.build(build);
        assert!(outcome.status.success(), "{outcome:#?}\n{}", self.host.remora.log());
        outcome
    }

    fn replayed(&self) -> u64 {
        self.host.remora.metric(REPLAYED)
    }
}

fn everywhere(case: impl Fn(Lossy, Via)) {
    for via in [Via::Buildctl, Via::BuildxRemote] {
        for transport in Transport::BOTH {
            eprintln!("{via:?} {transport:?}");
            case(Lossy::start(via, transport), via);
        }
    }
}

/// The layer is needed by a step that runs.
#[test]
fn a_step_whose_layers_are_lost_runs_on_new_ones() {
    everywhere(|rig, _| {
        let context = Context::after_base("RUN busybox dd if=/dev/urandom of=/first bs=1M count=3\n");
        rig.passes(&rig.build(&context));
        rig.lose(Fault::Gone);
        context
            .write("Dockerfile", &(std::fs::read_to_string(context.path().join("Dockerfile")).expect("file") + "RUN busybox wc /first\n"));
        let outcome = rig.passes(&Build { metadata: Some(rig.images.path().join("metadata")), ..rig.build(&context) });
        assert_eq!(rig.replayed(), 1, "{}", rig.host.remora.log());
        assert!(outcome.around.keys().any(|name| name.contains(AGAIN)), "{outcome:#?}");
        assert!(image::content(&rig.image()).len() >= 5);

        // What the second run exported is a cache like any other.
        rig.host.buildkitd.prune();
        rig.proxy.set_rules(Vec::new());
        rig.passes(&rig.build(&context)).assert_cached();
        assert_eq!(rig.replayed(), 1);
    });
}

/// The layers are needed by the export of the image alone, for several platforms.
#[test]
fn an_image_whose_layers_are_lost_is_whole() {
    everywhere(|rig, via| {
        let context = Context::after_base("COPY bin/id /id\n");
        let platforms = match via {
            Via::Buildctl => "--opt=platform=linux/amd64,linux/arm64",
            Via::BuildxRemote | Via::BuildxContainer => "--platform=linux/amd64,linux/arm64",
        };
        let build = Build { args: vec![platforms.to_owned()], ..rig.build(&context) };
        rig.passes(&build);
        let whole = image::content(&rig.image()).len();
        std::fs::remove_file(rig.image()).expect("the image");
        rig.lose(Fault::Truncate);
        rig.passes(&build);
        assert_eq!(rig.replayed(), 1, "{}", rig.host.remora.log());
        assert_eq!(image::content(&rig.image()).len(), whole);
    });
}

/// Targets that wait for the same step fail together, though only one of them was promised its layers.
#[test]
fn targets_that_share_a_lost_layer_all_pass() {
    for transport in Transport::BOTH {
        let rig = Lossy::start(Via::BuildxRemote, transport);
        let context = Context::after_base("RUN busybox dd if=/dev/urandom of=/first bs=1M count=3\n");
        rig.passes(&rig.build(&context));
        rig.lose(Fault::Gone);
        let dockerfile = std::fs::read_to_string(context.path().join("Dockerfile")).expect("file");
        let stage = |name: &str| format!("FROM base AS {name}\nRUN busybox sha256sum /first /bin/{name} || true\n");
        context.write("Dockerfile", &(dockerfile + &stage("one") + &stage("two")));
        let target = |name: &str| {
            format!("\"{name}\": {{\"context\": {:?}, \"target\": \"{name}\", \"cache-from\": [\"{CACHE}\"]}}", context.path())
        };
        let bake = rig.images.path().join("bake.json");
        let text = format!(
            "{{\"group\": {{\"default\": {{\"targets\": [\"one\", \"two\"]}}}}, \"target\": {{{}, {}}}}}",
            target("one"),
            target("two")
        );
        std::fs::write(&bake, text).expect("bake file");
        let outcome = rig.host.client.outcome(rig.host.client.start_bake(&bake));
        assert!(outcome.status.success(), "{outcome:#?}\n{}", rig.host.remora.log());
        assert!(rig.replayed() >= 1, "{}", rig.host.remora.log());
        eprintln!("{} replayed", rig.replayed());
    }
}

/// A build that fails by itself fails once, and as it did.
#[test]
fn a_build_that_loses_nothing_is_not_run_again() {
    everywhere(|rig, _| {
        let context = Context::after_base("RUN busybox true > /first\n");
        rig.passes(&rig.build(&context));
        rig.host.buildkitd.prune();
        context.write("Dockerfile", &(std::fs::read_to_string(context.path().join("Dockerfile")).expect("file") + "RUN exit 42\n"));
        let outcome = rig.host.client.build(&rig.build(&context)).expect_failure();
        assert!(outcome.text.contains("exit code: 42") && rig.replayed() == 0, "{outcome:#?}");
    });
}

/// Within `manifests.lookup_interval` of a lookup nobody sees that a layer was deleted.
#[test]
fn layers_that_are_deleted_right_after_a_lookup_are_built_again() {
    for transport in Transport::BOTH {
        let buildkitd = Buildkitd::start();
        let storage = Storage::new(Kind::Directory, &BUCKETS);
        let settings = Settings::new(buildkitd.address(), &storage, &BUCKETS);
        let configuration = settings.configuration.replace(storage::LOOKUPS, "");
        let mut host = Host::assemble(Via::Buildctl, buildkitd, storage, &Settings { transport, configuration, ..settings });
        let context = chain::context();
        let images = tempfile::tempdir().expect("temp dir");
        let build = Build::of(context.path()).cached(CACHE).image(&images.path().join("image.tar"));
        host.client.build(&build).expect_success().assert_executed();
        let blobs = chain::blobs(&host.storage.objects(BUCKETS[0])["manifests/app"]);
        std::fs::remove_file(host.storage.file(BUCKETS[0], &format!("blobs/{}", blobs[5]))).expect("the blob");
        host.wipe();
        host.client.build(&build).expect_success();
        assert_eq!(host.remora.metric(REPLAYED), 1, "{transport:?}: {}", host.remora.log());
    }
}
