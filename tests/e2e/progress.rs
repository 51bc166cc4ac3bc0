//! What a build's progress says of its cache.

use std::collections::BTreeSet;

use crate::support::cases::{Setting, Transport, Via};
use crate::support::client::Build;
use crate::support::context::Context;
use crate::support::host::Host;
use crate::support::process::run;
use crate::support::storage::Kind;

const CACHE: &str = "type=s3,region=us-east-1,bucket=build-cache";

fn host(via: Via, transport: Transport) -> Host {
    Host::start(Setting { via, store: Kind::Directory, transport }, &["build-cache"])
}

/// The lines of `text` on a cache.
fn said(text: &str) -> BTreeSet<String> {
    let on_cache = ["exporting cache to ", "importing cache manifest from "];
    let line = |line: &str| on_cache.iter().find_map(|part| Some(line[line.find(part)?..].trim_end_matches(" DONE").to_owned()));
    text.lines().filter_map(line).collect()
}

fn wanted<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// Through a session BuildKit believes in directories of the client; the progress names the caches, and a
/// directory of the client stays one.
#[test]
fn a_cache_through_a_session_is_called_what_it_is() {
    for via in [Via::Buildctl, Via::BuildxRemote] {
        let mut host = host(via, Transport::Session);
        let context = Context::two_stages();
        let directory = tempfile::tempdir().expect("temp dir");
        let local = format!("type=local,dest={}", directory.path().display());
        let export = Build {
            cache_to: vec!["type=inline".to_owned(), local, format!("{CACHE},prefix=ci/,name=one;two"), format!("{CACHE},name=three")],
            ..Build::of(context.path())
        };
        let exporting = [
            "exporting cache to client directory",
            "exporting cache to s3://build-cache/ci/one;two through remora",
            "exporting cache to s3://build-cache/three through remora",
        ];
        let outcome = host.client.build(&export).expect_success();
        assert_eq!(said(&outcome.around.into_keys().collect::<Vec<_>>().join("\n")), wanted(exporting), "{via:?}");

        let import = Build {
            cache_from: vec![format!("{CACHE},prefix=ci/,name=one;two"), format!("{CACHE},name=three"), format!("{CACHE},name=none")],
            ..Build::of(context.path())
        };
        let importing = [
            "importing cache manifest from s3://build-cache/ci/one through remora",
            "importing cache manifest from s3://build-cache/three through remora",
        ];
        host.buildkitd.wipe();
        let outcome = host.client.build(&import).expect_success();
        outcome.assert_cached();
        assert_eq!(said(&outcome.around.into_keys().collect::<Vec<_>>().join("\n")), wanted(importing), "{via:?}");
        host.buildkitd.wipe();
        let plain = host.client.build(&Build { plain: true, ..import });
        assert_eq!(said(&plain.text), wanted(importing), "{via:?}: {plain:#?}");
    }
}

/// The log in the build history has the same lines as the progress.
#[test]
fn the_log_of_a_build_that_is_over_says_the_same() {
    let host = host(Via::BuildxRemote, Transport::Session);
    let context = Context::two_stages();
    let export = Build { cache_to: vec![format!("{CACHE},prefix=ci/,name=one")], ..Build::of(context.path()) };
    host.client.build(&export).expect_success();
    let mut logs = host.client.command();
    logs.args(["history", "logs", "--builder", "remote", "--progress", "plain"]);
    let logs = run(logs);
    assert_eq!(
        said(&format!("{}{}", logs.stdout, logs.stderr)),
        wanted(["exporting cache to s3://build-cache/ci/one through remora"]),
        "{logs:#?}"
    );
}

/// Over the relay BuildKit knows that it is S3, and its own words stay.
#[test]
fn a_cache_over_the_relay_is_called_what_buildkit_calls_it() {
    let host = host(Via::Buildctl, Transport::Relay);
    let context = Context::two_stages();
    let build = Build::of(context.path()).cached(&format!("{CACHE},name=app"));
    let outcome = host.client.build(&build).expect_success();
    let said = said(&outcome.around.into_keys().collect::<Vec<_>>().join("\n"));
    assert!(said.contains("exporting cache to Amazon S3") && said.iter().all(|line| !line.contains("remora")), "{said:?}");
}
