//! A build that lasts longer than the credentials for its store.

use std::time::Duration;

use super::rig::{BUCKET, Contestant, HANGS, Rig};
use super::verdict::{Scale, Verdict};
use crate::support::client::Build;
use crate::support::context::Context;
use crate::support::credentials::Issuer;
use crate::support::faults::seed;
use crate::support::minio::REGION;
use crate::support::process::within;

/// How many renewals the test must see.
const RENEWALS: usize = 5;
/// A layer that is imported, a step that takes its time, and a layer that is exported.
const STEPS: &str = "RUN busybox dd if=/dev/urandom of=/first bs=1M count=3
COPY pause /
RUN busybox sleep $(busybox cat /pause)
RUN busybox cat /first /first > /second
";

pub fn credentials_that_expire(contestant: Contestant, scale: Scale) -> Verdict {
    let (life, pause) = scale.pick((6, 40), (30, 180));
    let mut issuer = None;
    let rig = Rig::with(contestant, seed(), |settings, minio| {
        let started = Issuer::start(minio.endpoint(), Duration::from_secs(life));
        settings.configuration = format!(
            "store = \"s3://{BUCKET}\"\n[[buckets]]\nname = \"{BUCKET}\"\nendpoint = \"{}\"\nregion = \"{REGION}\"\n",
            minio.endpoint()
        );
        settings.env.push(("AWS_CONTAINER_CREDENTIALS_FULL_URI", started.url()));
        issuer = Some(started);
    });
    let issuer = issuer.expect("it was started");
    // A client of native BuildKit sends the credentials that it has when the build begins.
    let cached = |context: &Context| match contestant {
        Contestant::Remora(_) => rig.cached(context, "app"),
        Contestant::Native => {
            let (id, secret, token) = issuer.issue();
            let endpoint = rig.minio().endpoint();
            let attrs = format!("type=s3,region={REGION},bucket={BUCKET},name=app,endpoint_url={endpoint},use_path_style=true");
            let attrs = format!("{attrs},access_key_id={id},secret_access_key={secret},session_token={token}");
            Build { cache_to: Vec::new(), cache_from: Vec::new(), ..rig.cached(context, "app") }.cached(&attrs)
        }
    };
    let context = Context::after_base(STEPS);
    context.write("pause", "0");
    rig.build(&cached(&context)).expect_success();
    rig.buildkitd.prune();
    context.write("pause", &pause.to_string());
    let before = issuer.issued();
    let mut verdict = Verdict::default();
    // An orchestrator asks, too, so that remora calls its store while the build does not.
    let limit = HANGS + Duration::from_secs(pause);
    let mut unready = 0;
    let built = rig.build_within(limit, &cached(&context), |running| {
        within(limit, || {
            unready += usize::from(!rig.is_ready());
            running.has_ended().then_some(())
        });
    });
    verdict.add(built);
    let renewals = issuer.issued() - before;
    if contestant != Contestant::Native {
        verdict.check(unready == 0, || format!("not ready {unready} times"));
        verdict.check(renewals >= RENEWALS, || format!("{renewals} renewals"));
        verdict.note(format!("{renewals} renewals"));
        assert!(issuer.first_is_refused(BUCKET), "the store takes credentials that have expired");
    }
    verdict
}
