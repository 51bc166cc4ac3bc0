//! Everything that is not the cache of a build goes through unchanged.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::buildkitd::Buildkitd;
use crate::support::cases::{Setting, Transport, Via};
use crate::support::client::{Build, Client};
use crate::support::context::{Context, install_program};
use crate::support::host::Host;
use crate::support::process::{READY_LIMIT, Running, eventually, leashed, run};
use crate::support::storage::Kind;
use crate::support::tools::tool;
use crate::support::{image, llb};

const CACHE: &str = "type=s3,region=us-east-1,bucket=build-cache,name=app";

fn host(via: Via, transport: Transport) -> Host {
    Host::start(Setting { via, store: Kind::Directory, transport }, &["build-cache"])
}

/// Every client, over every transport.
fn hosts() -> impl Iterator<Item = (Via, Host)> {
    let vias = [Via::Buildctl, Via::BuildxRemote].into_iter();
    vias.flat_map(|via| Transport::BOTH.map(|transport| (via, transport))).map(|(via, transport)| (via, host(via, transport)))
}

/// Runs a case with buildctl over both transports.
fn over_both(case: impl Fn(Host)) {
    Transport::BOTH.into_iter().for_each(|transport| case(host(Via::Buildctl, transport)));
}

/// `buildctl` through remora.
fn buildctl(host: &Host, args: &[&str]) -> String {
    let mut command = host.client.command();
    command.args(args);
    run(command).expect_success()
}

/// The builds that buildkitd itself knows of, as `buildctl debug histories` prints them.
fn history(buildkitd: &Buildkitd) -> String {
    buildkitd.buildctl(&["debug", "histories"]).expect_success()
}

#[test]
fn questions_about_the_builder_have_the_same_answers() {
    over_both(|host| {
        let context = Context::two_stages();
        host.client.build(&Build::of(context.path())).expect_success();
        for question in [
            &["du"][..],
            &["du", "--verbose"],
            &["debug", "info"],
            &["debug", "workers", "--verbose"],
            &["debug", "histories", "--format", "{{json .}}"],
        ] {
            let direct = host.buildkitd.buildctl(question).expect_success();
            assert!(!direct.trim().is_empty(), "{question:?}");
            assert_eq!(buildctl(&host, question), direct, "{question:?}");
        }
    });
}

#[test]
fn prune_empties_the_builder() {
    over_both(|host| {
        let context = Context::two_stages();
        host.client.build(&Build::of(context.path())).expect_success().assert_executed();
        host.client.build(&Build::of(context.path())).expect_success().assert_cached();
        buildctl(&host, &["prune", "--all"]);
        assert!(host.buildkitd.buildctl(&["du"]).expect_success().contains("Total:\t\t0B"), "nothing is left");
        host.client.build(&Build::of(context.path())).expect_success().assert_executed();
    });
}

#[test]
fn secret_and_ssh_mounts_reach_the_client() {
    let dir = tempfile::tempdir().expect("temp dir");
    let key = dir.path().join("key");
    let agent = dir.path().join("agent.sock");
    std::fs::write(dir.path().join("token"), "what only the client knows").expect("secret");
    let _agent = ssh_agent(&key, &agent);
    let context = Context::after_base(
        "COPY ssh /
RUN --mount=type=secret,id=token busybox cat /run/secrets/token
RUN --mount=type=ssh ssh-add -l
",
    );
    std::fs::create_dir(context.path().join("ssh")).expect("folder");
    install_program(&tool("ssh-add"), &context.path().join("ssh"));
    std::fs::create_dir(context.path().join("ssh/etc")).expect("folder");
    context.write("ssh/etc/passwd", "root:x:0:0:root:/:/bin/sh\n");
    for (via, host) in hosts() {
        let args = [format!("--secret=id=token,src={}/token", dir.path().display()), format!("--ssh=default={}", agent.display())];
        let build = Build { plain: true, args: args.to_vec(), ..Build::of(context.path()).cached(CACHE) };
        let outcome = host.client.build(&build).expect_success();
        assert!(outcome.text.contains("what only the client knows"), "{via:?}: {outcome:#?}");
        assert!(outcome.text.contains("key of the test"), "{via:?}: {outcome:#?}");
    }
}

/// An agent that holds one new key, named "key of the test".
fn ssh_agent(key: &Path, socket: &Path) -> Running {
    let mut keygen = leashed(tool("ssh-keygen"));
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "key of the test", "-f"]).arg(key);
    run(keygen).expect_success();
    let mut agent = leashed(tool("ssh-agent"));
    agent.arg("-D").arg("-a").arg(socket);
    let agent = Running::start(agent);
    eventually("ssh-agent holds the key", READY_LIMIT, || {
        let mut add = leashed(tool("ssh-add"));
        add.arg(key).env("SSH_AUTH_SOCK", socket);
        run(add).status.success().then_some(())
    });
    agent
}

#[test]
fn a_cache_in_a_folder_of_the_client_works() {
    over_both(|mut host| {
        let context = Context::two_stages();
        let dir = tempfile::tempdir().expect("temp dir");
        let cache = dir.path().join("cache");
        let dir = dir;
        let export = Build { cache_to: vec![format!("type=local,mode=max,dest={}", cache.display())], ..Build::of(context.path()) };
        host.client.build(&export).expect_success();
        host.buildkitd.wipe();
        let import = Build { cache_from: vec![format!("type=local,src={}", cache.display())], ..Build::of(context.path()) };
        host.client.build(&import.image(&dir.path().join("image.tar"))).expect_success().assert_cached();
    });
}

/// Only the export: an inline cache is imported from a registry, and none runs here.
#[test]
fn an_inline_cache_is_exported_into_the_image() {
    over_both(|host| {
        let context = Context::two_stages();
        let dir = tempfile::tempdir().expect("temp dir");
        let tar = dir.path().join("image.tar");
        let build = Build { cache_to: vec!["type=inline".to_owned()], ..Build::of(context.path()).image(&tar) };
        host.client.build(&build).expect_success();
        assert!(image::text(&tar).contains("moby.buildkit.cache.v0"));
    });
}

#[test]
fn a_cancelled_build_ends_on_buildkitd() {
    for (via, host) in hosts() {
        for signal in [Signal::INT, Signal::KILL] {
            let context = Context::after_base("RUN echo started; busybox sleep 600\n");
            let client = host.client.start(&Build { plain: true, ..Build::of(context.path()).cached(CACHE) });
            eventually("the step runs", READY_LIMIT, || client.stderr().contains(" started\n").then_some(()));
            assert!(history(&host.buildkitd).contains("STARTED"), "{}", history(&host.buildkitd));
            client.signal(signal);
            let ended = || (!history(&host.buildkitd).contains("STARTED")).then_some(());
            eventually(&format!("{via:?}, {signal:?}: the build ends"), Duration::from_secs(2), ended);
        }
    }
}

#[test]
fn a_build_fails_as_it_does_without_remora() {
    let steps_that_fail = Context::after_base("RUN echo output of the step; exit 7\n");
    let no_such_stage = Context::after_base("COPY --from=nowhere /x /x\n");
    let no_such_file = Context::after_base("COPY missing /x\n");
    let bad_syntax = Context::after_base("RAN true\n");
    for (via, host) in hosts() {
        let direct = match via {
            Via::Buildctl => Client::buildctl(&host.buildkitd.address()),
            _ => Client::buildx_remote(&host.buildkitd.address()),
        };
        for context in [&steps_that_fail, &no_such_file, &bad_syntax, &no_such_stage] {
            let build = Build { plain: true, ..Build::of(context.path()) };
            let expected = direct.build(&build).expect_failure();
            for build in [build.clone(), build.cached(CACHE)] {
                let outcome = host.client.build(&build).expect_failure();
                assert_eq!(outcome.status.code(), expected.status.code());
                assert_eq!(failure(&outcome.text), failure(&expected.text), "{via:?}");
            }
        }
    }
}

/// The part of a client's output that tells why the build failed, without what no two builds share: ids, and which of its own
/// two calls buildctl blames. It waits for `Control.Solve` and for its gateway at once, both fail with the one error, and the
/// first to return gets to name it (`solve` in BuildKit's `client/solve.go`).
fn failure(text: &str) -> String {
    let text = &text.replace("failed to run Build function: ", "failed to solve: ");
    let message = text.to_lowercase().rfind("error: ").expect("an error");
    let excerpt = text.rfind("\nDockerfile:").unwrap_or(message);
    let is_id = |word: &str| word.len() == 25 && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let words = text[excerpt.min(message)..].split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| !is_id(word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()))).collect()
}

#[test]
fn builds_run_at_once() {
    over_both(|mut host| {
        let contexts = [Context::two_stages(), Context::two_stages(), Context::two_stages()];
        let names = ["one", "two", "three"].map(|name| format!("type=s3,region=us-east-1,bucket=build-cache,name={name}"));
        let build_all = |host: &Host| {
            let running: Vec<Running> =
                contexts.iter().zip(&names).map(|(context, attrs)| host.client.start(&Build::of(context.path()).cached(attrs))).collect();
            running.into_iter().map(|build| host.client.outcome(build).expect_success()).collect::<Vec<_>>()
        };
        build_all(&host);
        host.buildkitd.wipe();
        for outcome in build_all(&host) {
            outcome.assert_cached();
        }
    });
}

/// BuildKit's own limit is 16 MiB, on both ends; larger messages are for tests with a peer of our own.
#[test]
fn messages_up_to_buildkits_own_limit_go_through() {
    over_both(|host| {
        let dir = tempfile::tempdir().expect("temp dir");
        let solve = |client: &Client, size: usize| {
            let file = dir.path().join("llb");
            std::fs::write(&file, llb::one_file(size)).expect("llb");
            let mut command = client.command();
            command.args(["build", "--progress=plain", "--output", &format!("type=tar,dest={}/out.tar", dir.path().display())]);
            Running::start_fed(command, File::open(&file).expect("llb").into()).finish()
        };
        assert!(solve(&host.client, 15 << 20).status.success());
        let (direct, through) = (solve(&Client::buildctl(&host.buildkitd.address()), 17 << 20), solve(&host.client, 17 << 20));
        assert_eq!(through.status.code(), direct.status.code());
        assert_eq!(failure(&through.stderr), failure(&direct.stderr));
    });
}
