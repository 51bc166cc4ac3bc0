//! A real Docker Engine, and on it the recipe for buildx's `docker-container` driver.
//!
//! The engine has PID, mount and network namespaces of its own: its containers, mounts, bridges and
//! firewall rules end with it, and the host's are not touched. No image can be pulled in a test, so each
//! is imported from a folder.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::admin;
use super::cases::{Rig, Setting, Transport};
use super::client::{Build, Client, Outcome};
use super::context::install_program;
use super::faults::{FaultProxy, seed};
use super::minio;
use super::process::{Finished, READY_LIMIT, Running, eventually, isolated, leashed, run};
use super::storage::{self, Kind, SECRET_VARIABLE};
use super::tools::tool;

/// The names of the recipe.
const NETWORK: &str = "remora";
const BUILDER: &str = "cached";
const STATE_VOLUME: &str = "buildx_buildkit_cached0_state";
const BUILDER_CONTAINER: &str = "buildx_buildkit_cached0";
/// remora's sockets in the volume.
const SOCKETS: [&str; 2] = ["remora.sock", "admin.sock"];

/// buildkitd, remora and perhaps MinIO as containers on a Docker Engine.
#[derive(Debug)]
pub struct Engine {
    client: Client,
    store: Kind,
    transport: Transport,
    proxy: Option<FaultProxy>,
    daemon: Running,
    dir: tempfile::TempDir,
}

impl Engine {
    pub fn start(setting: Setting, buckets: &[&str]) -> Self {
        let mut engine = Self::bare(setting);
        engine.set_up(buckets, Self::start_store);
        engine
    }

    /// As [`Self::start`], with a fault proxy between remora and MinIO.
    pub fn behind_proxy(setting: Setting, buckets: &[&str]) -> Self {
        let mut engine = Self::bare(Setting { store: Kind::Minio, ..setting });
        engine.set_up(buckets, |engine, buckets| {
            engine.start_store(buckets);
            let minio = engine.docker(&["inspect", "-f", &format!("{{{{.NetworkSettings.Networks.{NETWORK}.IPAddress}}}}"), "minio"]);
            let gateway = engine.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", NETWORK]);
            let start = || FaultProxy::start_on(gateway.trim(), &format!("http://{}:9000", minio.trim()), seed());
            let proxy = engine.in_its_network(start);
            let configuration = storage::configuration(&proxy.url(), buckets);
            engine.proxy = Some(proxy);
            configuration
        });
        engine
    }

    /// An engine with images and no container.
    fn bare(setting: Setting) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut daemon = Running::start_isolated(dockerd(dir.path()));
        let host = docker_host(dir.path());
        eventually("dockerd answers", READY_LIMIT, || {
            daemon.assert_running();
            docker(dir.path(), &["version"]).status.success().then_some(())
        });
        let (client, Setting { store, transport, .. }) = (Client::buildx(BUILDER, Some(host)), setting);
        let engine = Self { client, store, transport, proxy: None, daemon, dir };
        engine.import_images();
        engine
    }

    fn import_images(&self) {
        self.import("buildkit", &["buildkitd", "buildctl", "runc", "busybox"].map(tool), &["ENTRYPOINT [\"/bin/buildkitd\"]"]);
        // The user of deploy/Dockerfile.
        let remora = PathBuf::from(env!("CARGO_BIN_EXE_remora"));
        self.import("remora", &[remora], &["ENTRYPOINT [\"/bin/remora\"]", "USER 65532:0"]);
        if self.store == Kind::Minio {
            self.import("minio", &[tool("minio")], &["ENTRYPOINT [\"/bin/minio\"]"]);
        }
    }

    /// The recipe: network, volume, remora's container in both, then the builder.
    fn set_up(&mut self, buckets: &[&str], start_store: impl Fn(&mut Self, &[&str]) -> String) {
        self.docker(&["network", "create", NETWORK]);
        self.docker(&["volume", "create", STATE_VOLUME]);
        let etc = self.dir.path().join("etc");
        std::fs::create_dir(&etc).expect("etc");
        std::fs::write(etc.join("remora.toml"), start_store(self, buckets)).expect("configuration");
        self.docker(
            &[
                &["run", "-d", "--name", "remora", "--network", NETWORK],
                &["-v", &format!("{STATE_VOLUME}:/var/lib/buildkit"), "-v", &format!("{}:/etc/remora:ro", etc.display())][..],
                &["-v", &format!("{}:/store", self.data().display()), "-e", "AWS_EC2_METADATA_DISABLED=true"],
                &["-e", &format!("{SECRET_VARIABLE}={}", minio::SECRET_ACCESS_KEY), "remora:test"],
                &["serve", "--config", "/etc/remora/remora.toml"],
                &["--control", "unix:///var/lib/buildkit/remora.sock", "--buildkitd", "unix:///var/lib/buildkit/buildkitd.sock"],
                &["--admin", "tcp://127.0.0.1:9191", "--admin", "unix:///var/lib/buildkit/admin.sock"],
                self.s3_flags(),
            ]
            .concat(),
        );
        let socket = self.control_socket();
        eventually("remora's container listens", READY_LIMIT, || socket.exists().then_some(()));
        self.create_builder();
        self.bootstrap();
        self.wait_until_healthy();
    }

    fn wait_until_healthy(&self) {
        eventually("the health check of deploy/Dockerfile passes", READY_LIMIT, || {
            docker(self.dir.path(), &["exec", "remora", "/bin/remora", "health"]).status.success().then_some(())
        });
    }

    /// Over a session, the builder and remora share nothing but the volume.
    fn s3_flags(&self) -> &'static [&'static str] {
        match self.transport {
            Transport::Relay => &["--s3", "tcp://0.0.0.0:9190", "--s3-advertise", "http://remora:9190"],
            Transport::Session => &["--s3", "none"],
        }
    }

    /// Makes the buckets, and returns remora's configuration for them.
    fn start_store(&mut self, buckets: &[&str]) -> String {
        make_group_writable(&self.data());
        match self.store {
            Kind::Directory => "store = \"file:///store\"\n".to_owned(),
            Kind::Minio => {
                for bucket in buckets {
                    minio::make_bucket(&self.data(), bucket);
                }
                let user = minio::ACCESS_KEY_ID;
                let password = minio::SECRET_ACCESS_KEY;
                self.docker(
                    &[
                        &["run", "-d", "--name", "minio", "--network", NETWORK, "-v", &format!("{}:/data", self.data().display())][..],
                        &["-e", &format!("MINIO_ROOT_USER={user}"), "-e", &format!("MINIO_ROOT_PASSWORD={password}")],
                        &["minio:test", "server", "--quiet", "/data"],
                    ]
                    .concat(),
                );
                storage::configuration("http://minio:9000", buckets)
            }
        }
    }

    fn create_builder(&self) {
        let mut create = self.client.command();
        create
            .args(["create", "--use", "--name", BUILDER, "--driver", "docker-container"])
            .args(["--driver-opt", "image=buildkit:test"])
            .args(["--driver-opt", "env.BUILDKIT_HOST=unix:///var/lib/buildkit/remora.sock"])
            .args(["--driver-opt", "env.AWS_EC2_METADATA_DISABLED=true"])
            .args(["--buildkitd-flags", "--addr unix:///run/buildkit/buildkitd.sock --addr unix:///var/lib/buildkit/buildkitd.sock"]);
        if self.transport == Transport::Relay {
            create.args(["--driver-opt", &format!("network={NETWORK}")]);
        }
        run(create).expect_success();
    }

    fn bootstrap(&self) {
        let mut inspect = self.client.command();
        inspect.args(["inspect", "--bootstrap", BUILDER]);
        run(inspect).expect_success();
    }

    /// Makes an image `NAME:test` of some programs and the libraries that they need.
    fn import(&self, name: &str, programs: &[PathBuf], changes: &[&str]) {
        let root = tempfile::tempdir().expect("temp dir");
        for program in programs {
            install_program(program, root.path());
        }
        // For TLS; as in deploy/Dockerfile.
        let certificates = "etc/ssl/certs/ca-certificates.crt";
        std::fs::create_dir_all(root.path().join("etc/ssl/certs")).expect("folder");
        std::fs::copy(Path::new("/").join(certificates), root.path().join(certificates)).expect("certificates");
        for folder in ["etc", "run", "tmp", "var/lib/buildkit", "var/lib/remora"] {
            make_group_writable(&root.path().join(folder));
        }
        let tar = self.dir.path().join(format!("{name}.tar"));
        let mut pack = leashed(tool("tar"));
        pack.arg("-C").arg(root.path()).arg("-cf").arg(&tar).arg(".");
        run(pack).expect_success();
        let changes: Vec<&str> = changes.iter().chain(&["ENV PATH=/bin"]).flat_map(|change| ["--change", change]).collect();
        let file = tar.display().to_string();
        let image = format!("{name}:test");
        self.docker(&[&["import"], &changes[..], &[&file, &image]].concat());
        std::fs::remove_file(tar).expect("tar");
    }

    fn docker(&self, args: &[&str]) -> String {
        docker(self.dir.path(), args).expect_success()
    }

    /// Starts something in the network namespace of the engine, with all the threads that it starts.
    fn in_its_network<T: Send>(&self, start: impl FnOnce() -> T + Send) -> T {
        let pid = self.daemon.isolated_child().expect("dockerd runs").as_raw_nonzero();
        let namespace = File::open(format!("/proc/{pid}/ns/net")).expect("its network");
        let moved = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
            start()
        };
        std::thread::scope(|scope| scope.spawn(moved).join().expect("no panic"))
    }

    /// The client, with remora's builder.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What is between remora and MinIO.
    pub fn proxy(&self) -> &FaultProxy {
        self.proxy.as_ref().expect("it was started behind a proxy")
    }

    /// Where remora listens for builds.
    pub fn control_socket(&self) -> PathBuf {
        self.state().join(SOCKETS[0])
    }

    /// The answer of remora's admin endpoint, headers included; empty while nobody answers.
    pub fn get(&self, path: &str) -> String {
        admin::get(UnixStream::connect(self.state().join(SOCKETS[1])), path)
    }

    /// Asks remora to end.
    pub fn terminate_remora(&self) {
        self.docker(&["kill", "--signal", "TERM", "remora"]);
    }

    /// Waits for the end of remora's container: its exit code.
    pub fn remora_ends(&self) -> i32 {
        self.docker(&["wait", "remora"]).trim().parse().expect("a code")
    }

    /// Starts remora's container again.
    pub fn start_remora(&self) {
        self.docker(&["start", "remora"]);
        self.wait_until_healthy();
    }

    /// `remora verify` of a bucket.
    pub fn verify(&self, bucket: &str) -> String {
        self.docker(&["exec", "remora", "/bin/remora", "verify", "--config", "/etc/remora/remora.toml", "--json", "--bucket", bucket])
    }

    /// The manifests in a bucket of MinIO.
    pub fn manifests(&self, bucket: &str) -> BTreeSet<String> {
        minio::manifests(&self.data(), bucket)
    }

    /// What remora has logged.
    pub fn log(&self) -> String {
        let logs = docker(self.dir.path(), &["logs", "remora"]);
        logs.stdout + &logs.stderr
    }

    /// The store's data on the host.
    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The volume that remora and the builder share, on the host.
    fn state(&self) -> PathBuf {
        self.dir.path().join("docker/volumes").join(STATE_VOLUME).join("_data")
    }
}

impl Rig for Engine {
    fn build(&self, build: &Build) -> Outcome {
        self.client.build(build)
    }

    fn wipe(&mut self) {
        self.docker(&["rm", "-f", BUILDER_CONTAINER]);
        for entry in std::fs::read_dir(self.state()).expect("volume").flatten() {
            let path = entry.path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).expect("state can be deleted");
            } else if path.file_name().is_some_and(|name| SOCKETS.iter().all(|socket| name != *socket)) {
                std::fs::remove_file(path).expect("state can be deleted");
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("remora logged:\n{}", self.log());
        }
        // Containers that end in order leave no control groups behind.
        let containers = docker(self.dir.path(), &["ps", "-aq"]).stdout;
        let ids: Vec<&str> = containers.split_whitespace().collect();
        docker(self.dir.path(), &[&["rm", "-f"], ids.as_slice()].concat());
    }
}

/// The daemon, with all that it keeps below `dir`.
fn dockerd(dir: &Path) -> std::process::Command {
    let runtime = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/runc-wrapper");
    let mut command = isolated(tool("unshare"));
    command
        .args(["--net", "--", "sh", "-c", "\"$IP\" link set lo up && exec \"$@\"", "dockerd"])
        .arg(tool("dockerd"))
        .arg("--data-root")
        .arg(dir.join("docker"))
        .arg("--exec-root")
        .arg(dir.join("exec"))
        .arg("--pidfile")
        .arg(dir.join("pid"))
        .args(["-H", &docker_host(dir)])
        .arg(format!("--add-runtime=wrapped={}", runtime.display()))
        .arg("--default-runtime=wrapped")
        .env("IP", tool("ip"));
    command
}

fn make_group_writable(folder: &Path) {
    std::fs::create_dir_all(folder).expect("folder");
    std::fs::set_permissions(folder, Permissions::from_mode(0o775)).expect("permissions");
}

fn docker_host(dir: &Path) -> String {
    format!("unix://{}", dir.join("docker.sock").display())
}

fn docker(dir: &Path, args: &[&str]) -> Finished {
    let mut command = leashed(tool("docker"));
    command.args(["-H", &docker_host(dir)]).args(args).env("DOCKER_CONFIG", dir);
    run(command)
}
