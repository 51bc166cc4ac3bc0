//! A matrix of jobs that export to one cache name: each finds all of its last results, whichever job exported last.

use crate::support::buildkitd::Buildkitd;
use crate::support::cases::Transport;
use crate::support::client::{Build, Client};
use crate::support::context::Context;
use crate::support::minio;
use crate::support::remora::{Remora, Settings};
use crate::support::storage::{Kind, Storage};

const BUCKET: &str = "build-cache";
/// Nothing is emulated: the one program in the images is busybox, which runs on this machine.
const PLATFORMS: [&str; 4] = ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/s390x"];
const BRANCHES: usize = 3;
/// Commits of each branch, every one exported for every platform.
const COMMITS: usize = 3;
const AT_ONCE: usize = 4;

/// One cell of the matrix.
#[derive(Debug, Clone, Copy)]
struct Job {
    branch: usize,
    platform: &'static str,
}

struct Matrix {
    client: Client,
    remora: Remora,
    buildkitd: Buildkitd,
    storage: Storage,
    branches: [Context; BRANCHES],
}

impl Matrix {
    fn start(transport: Transport) -> Self {
        let buildkitd = Buildkitd::start();
        let storage = Storage::new(Kind::Minio, &[BUCKET]);
        let remora = Remora::start(&Settings { transport, ..Settings::new(buildkitd.address(), &storage, &[BUCKET]) });
        let client = Client::buildctl(&remora.address());
        let steps = "RUN busybox dd if=/dev/urandom of=/shared bs=1k count=4
COPY source /source
RUN busybox dd if=/dev/urandom of=/first bs=1k count=4
RUN busybox sha256sum /source /first > /sums
";
        let branches = std::array::from_fn(|_| Context::after_base(steps));
        Self { client, remora, buildkitd, storage, branches }
    }

    fn build(&self, job: Job) -> Build {
        let args = vec!["--opt".to_owned(), format!("platform={}", job.platform)];
        Build { args, ..Build::of(self.branches[job.branch].path()) }
    }

    fn attrs() -> String {
        format!("type=s3,region={},bucket={BUCKET},name=matrix", minio::REGION)
    }

    /// Exports a commit of every branch for every platform, several at once.
    fn export_all(&self, commit: usize) {
        for (branch, context) in self.branches.iter().enumerate() {
            // A builder takes files of one size and one time for the same, so each branch has a size of its own.
            let padding = ".".repeat(branch);
            context.write("source", &format!("branch {branch}, commit {commit}{padding}"));
        }
        for jobs in jobs().chunks(AT_ONCE) {
            let running: Vec<_> = jobs.iter().map(|job| self.client.start(&self.build(*job).cached(&Self::attrs()))).collect();
            for build in running {
                self.client.outcome(build).expect_success();
            }
        }
    }

    /// An empty builder finds every step of every job in the cache.
    fn assert_all_cached(&self, client: &Client, attrs: &str) {
        for job in jobs() {
            self.buildkitd.prune();
            let outcome = client.build(&Build { cache_from: vec![attrs.to_owned()], ..self.build(job) }).expect_success();
            assert!(outcome.steps.values().all(|step| step.cached), "{job:?}: {outcome:#?}");
        }
    }
}

fn jobs() -> Vec<Job> {
    let platforms = |branch| PLATFORMS.map(|platform| Job { branch, platform });
    (0..BRANCHES).flat_map(platforms).collect()
}

#[test]
fn every_job_of_a_matrix_finds_its_last_results_in_one_name() {
    for transport in Transport::BOTH {
        let matrix = Matrix::start(transport);
        (0..COMMITS).for_each(|commit| matrix.export_all(commit));
        matrix.assert_all_cached(&matrix.client, &Matrix::attrs());
        let native = Client::buildctl(&matrix.buildkitd.address());
        let minio = matrix.storage.minio();
        matrix.assert_all_cached(&native, &minio.native(&format!("bucket={BUCKET},name=matrix")));
        matrix.remora.verify(BUCKET).expect_success();
    }
}
