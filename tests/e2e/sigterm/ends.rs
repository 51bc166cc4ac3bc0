//! How the end comes: new builds are refused, the deadline and a second signal cut off those that run.

use std::time::{Duration, Instant};

use super::moments::SLEEPS;
use crate::support::buildkitd::Buildkitd;
use crate::support::cases::{Transport, Via};
use crate::support::client::Build;
use crate::support::context::Context;
use crate::support::host::{END_LIMIT, Host};
use crate::support::process::{READY_LIMIT, Running, eventually, pause};
use crate::support::remora::Settings;
use crate::support::storage::{Kind, Storage};

const BUCKET: &str = "build-cache";
const CACHE: &str = "type=s3,region=us-east-1,bucket=build-cache,name=app";
const DEADLINE: Duration = Duration::from_secs(2);
/// remora is idle this long after the last build: until then its client may still ask for a record.
const AFTER_BUILDS: Duration = Duration::from_secs(1);
/// Anything that takes longer is not done at once.
const AT_ONCE: Duration = Duration::from_secs(1);
/// An end that takes longer has waited for a build.
const PROMPTLY: Duration = Duration::from_secs(3);

fn host(transport: Transport, more: &str) -> Host {
    let buildkitd = Buildkitd::start();
    let storage = Storage::new(Kind::Directory, &[BUCKET]);
    let settings = Settings::new(buildkitd.address(), &storage, &[BUCKET]);
    let configuration = format!("{more}{}", settings.configuration);
    Host::assemble(Via::Buildctl, buildkitd, storage, &Settings { transport, configuration, ..settings })
}

fn context(seconds: u32) -> Context {
    Context::after_base(&format!("RUN echo STARTED; busybox sleep {seconds}\nRUN busybox date > /date\n"))
}

/// Starts the build and tells remora to end while a step of it sleeps.
fn terminate_while_it_sleeps(host: &Host, build: &Build) -> Running {
    let mut client = host.client.start(build);
    eventually("the step sleeps", READY_LIMIT, || {
        client.assert_running();
        client.stderr().contains(SLEEPS).then_some(())
    });
    host.remora.terminate();
    eventually("remora drains", READY_LIMIT, || (!host.remora.is_ready()).then_some(()));
    client
}

#[test]
fn a_new_build_is_refused_and_the_one_that_runs_passes() {
    for transport in Transport::BOTH {
        let mut host = host(transport, "");
        let (running, new) = (context(4), context(0));
        let build = Build::of(running.path()).cached(CACHE);
        let client = terminate_while_it_sleeps(&host, &build);
        let asked = Instant::now();
        for build in [Build::of(new.path()).cached(CACHE), Build::of(new.path())] {
            let refused = host.client.build(&build).expect_failure();
            assert!(refused.text.contains("shutting down") && refused.text.contains("takes no new builds"), "{transport:?}: {refused:#?}");
        }
        assert!(asked.elapsed() < PROMPTLY, "{transport:?}: {:?}", asked.elapsed());
        host.client.outcome(client).expect_success();
        assert_eq!(host.remora.end_within(END_LIMIT).code(), Some(0), "{}", host.remora.log());

        host.remora.boot();
        host.buildkitd.wipe();
        host.client.build(&build).expect_success().assert_cached();
    }
}

#[test]
fn the_deadline_ends_builds_with_an_error_that_names_it() {
    for transport in Transport::BOTH {
        let mut host = host(transport, "drain_deadline = \"2s\"\n");
        let context = context(30);
        let told = Instant::now();
        let client = terminate_while_it_sleeps(&host, &Build::of(context.path()).cached(CACHE));
        let cut_off = client.finish_within(END_LIMIT);
        assert!(!cut_off.status.success() && cut_off.stderr.contains("drain_deadline"), "{transport:?}: {cut_off:#?}");
        assert_eq!(host.remora.end_within(PROMPTLY).code(), Some(0), "{}", host.remora.log());
        assert!(told.elapsed() > DEADLINE, "{transport:?}: {:?}", told.elapsed());
        assert_eq!(host.storage.objects(BUCKET).keys().filter(|key| key.starts_with("manifests/")).count(), 0);
    }
}

#[test]
fn an_idle_remora_ends_at_once() {
    for transport in Transport::BOTH {
        let mut host = host(transport, "");
        let context = context(0);
        host.client.build(&Build::of(context.path()).cached(CACHE)).expect_success();
        pause(AFTER_BUILDS);
        let told = Instant::now();
        host.remora.terminate();
        assert_eq!(host.remora.end_within(END_LIMIT).code(), Some(0), "{}", host.remora.log());
        assert!(told.elapsed() < AT_ONCE, "{transport:?}: {:?}\n{}", told.elapsed(), host.remora.log());
    }
}

#[test]
fn a_second_signal_ends_remora_at_once() {
    for transport in Transport::BOTH {
        let mut host = host(transport, "");
        let context = context(30);
        let client = terminate_while_it_sleeps(&host, &Build::of(context.path()).cached(CACHE));
        let told = Instant::now();
        host.remora.terminate();
        let status = host.remora.end_within(END_LIMIT);
        assert!(told.elapsed() < AT_ONCE, "{transport:?}: {:?}", told.elapsed());
        assert!(status.code().is_some_and(|code| code != 0), "{transport:?}: {status}\n{}", host.remora.log());
        let cut_off = client.finish_within(END_LIMIT);
        assert!(!cut_off.status.success(), "{transport:?}: {cut_off:#?}");
    }
}
