//! A build's grant, taken out of the build history by someone who can read it, is worth nothing beyond
//! what that build may read, and nothing once it is over.

use aws_sdk_s3::error::ProvideErrorMetadata as _;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::buildkitd::Buildkitd;
use crate::support::cases::{Setting, Transport, Via};
use crate::support::client::Build;
use crate::support::context::Context;
use crate::support::host::Host;
use crate::support::minio::{block_on, client};
use crate::support::process::{READY_LIMIT, eventually};
use crate::support::remora::Settings;
use crate::support::storage::{Kind, Storage};

const BUCKETS: [&str; 2] = ["build-cache", "other-cache"];

fn cache(bucket: &str, prefix: &str, name: &str) -> String {
    format!("type=s3,region=us-east-1,bucket={bucket},prefix={prefix},name={name}")
}

#[test]
fn a_grant_reads_what_its_build_reads_and_ends_with_it() {
    let buildkitd = Buildkitd::start();
    let storage = Storage::new(Kind::Minio, &BUCKETS);
    let mut settings = Settings::new(buildkitd.address(), &storage, &BUCKETS);
    settings.configuration += "\n[s3]\ngrant_grace = \"0s\"\n";
    let host = Host::assemble(Via::Buildctl, buildkitd, storage, &settings);
    let context = Context::two_stages();
    for attrs in [cache("build-cache", "team/", "app"), cache("build-cache", "rival/", "app"), cache("other-cache", "team/", "app")] {
        host.client.build(&Build::of(context.path()).cached(&attrs)).expect_success();
    }

    let slow = Context::after_base("RUN echo started; busybox sleep 600\n");
    let import = Build { cache_from: vec![cache("build-cache", "team/", "app")], plain: true, ..Build::of(slow.path()) };
    let running = host.client.start(&import);
    eventually("the step runs", READY_LIMIT, || running.stderr().contains(" started\n").then_some(()));
    let (id, secret) = grant_in_history(&host.buildkitd);
    let s3 = client(&host.remora.s3_url(), &id, &secret);
    let get = |bucket: &str, key: &str| {
        let answer = block_on(s3.get_object().bucket(bucket).key(key).send());
        answer.map(drop).map_err(|error| error.code().unwrap_or("no code").to_owned())
    };
    let put = || {
        let answer = block_on(s3.put_object().bucket("build-cache").key("team/manifests/app").body(b"{}".to_vec().into()).send());
        answer.map(drop).map_err(|error| error.code().unwrap_or("no code").to_owned())
    };
    let denied = Err("AccessDenied".to_owned());
    assert_eq!(get("build-cache", "team/manifests/app"), Ok(()));
    assert_eq!(get("build-cache", "rival/manifests/app"), denied, "another prefix");
    assert_eq!(get("other-cache", "team/manifests/app"), denied, "another bucket");
    assert_eq!(put(), denied, "made for import");

    running.signal(Signal::INT);
    running.finish();
    eventually("the grant ends with its build", READY_LIMIT, || get("build-cache", "team/manifests/app").is_err().then_some(()));
}

/// The id of a session's store is no key to the s3 endpoint.
#[test]
fn a_store_of_a_session_is_worth_nothing_outside_of_it() {
    let host = Host::start(Setting { via: Via::Buildctl, store: Kind::Directory, transport: Transport::Session }, &BUCKETS);
    let context = Context::after_base("RUN echo started; busybox sleep 600\n");
    let first = Context::two_stages();
    host.client.build(&Build::of(first.path()).cached(&cache("build-cache", "", "app"))).expect_success();
    let import = Build { cache_from: vec![cache("build-cache", "", "app")], plain: true, ..Build::of(context.path()) };
    let running = host.client.start(&import);
    eventually("the step runs", READY_LIMIT, || running.stderr().contains(" started\n").then_some(()));
    let import = import_in_history(&host.buildkitd);
    assert_eq!(import["Type"], "local", "{import}");
    let store = import["Attrs"]["src"].as_str().expect("the store");
    for (id, secret) in [(store, store), (store.trim_start_matches("remora-"), "secret"), (store.trim_start_matches("remora-"), "")] {
        let s3 = client(&host.remora.s3_url(), id, secret);
        let answer = block_on(s3.get_object().bucket("build-cache").key("manifests/app").send());
        let code = answer.expect_err("no secret is known").code().unwrap_or("no code").to_owned();
        assert!(["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"].contains(&code.as_str()), "{code}");
    }
}

/// The credentials of the cache import of the build that runs, from buildkitd's own records.
fn grant_in_history(buildkitd: &Buildkitd) -> (String, String) {
    let import = import_in_history(buildkitd);
    let attr = |name: &str| import["Attrs"][name].as_str().expect("the grant").to_owned();
    (attr("access_key_id"), attr("secret_access_key"))
}

/// The first cache import of the build that runs.
fn import_in_history(buildkitd: &Buildkitd) -> Value {
    let records = buildkitd.buildctl(&["debug", "histories", "--format", "{{json .}}"]).expect_success();
    let imports = records
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["record"]["CompletedAt"].is_null())
        .find_map(|event| Some(event["record"]["FrontendAttrs"]["cache-imports"].as_str()?.to_owned()))
        .unwrap_or_else(|| panic!("no imports in {records}"));
    let imports: Value = serde_json::from_str(&imports).expect("cache-imports is JSON");
    imports[0].clone()
}
