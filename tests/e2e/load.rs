//! What builds send through a session that remora joins: all of it arrives, however much it is, and
//! nothing is left of what was cut off.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use remora::types::Hasher;

use crate::support::cases::{Rig as _, Setting, Transport, Via};
use crate::support::client::{Build, Client, Outcome};
use crate::support::context::{Context, install_program};
use crate::support::host::Host;
use crate::support::process::{Running, files_below};
use crate::support::registry::{Challenge, Registry};
use crate::support::storage::Kind;
use crate::support::tools::tool;

const CACHE: &str = "type=s3,region=us-east-1,bucket=build-cache,name=app";
const GIB: u64 = 1 << 30;
const RECEIVED: &str = "remora_received_bytes_total";
const FILES: usize = 10_000;
const BUILDS: usize = 16;

fn host(via: Via) -> Host {
    Host::start(Setting { via, store: Kind::Directory, transport: Transport::Session }, &["build-cache"])
}

#[test]
fn a_context_of_a_gib_arrives_whole() {
    let host = host(Via::Buildctl);
    let context = Context::after_base("");
    let digest = large_file(&context.path().join("large"));
    let check = "RUN --mount=type=bind,source=large,target=/large echo";
    context.write(
        "Dockerfile",
        &format!(
            "FROM scratch\nCOPY bin /bin\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n{check} '{digest}  /large' | busybox sha256sum -c\n"
        ),
    );
    let build = Build::of(context.path()).cached(CACHE);
    host.interrupt(|| vec![host.client.start(&build)], |clients| sent_by(&clients[0]) > GIB / 16);
    host.client.build(&build).expect_success().assert_executed();
}

/// A file of a GiB, most of it a hole, with something of its own in every MiB; its sha256 in hex.
fn large_file(path: &Path) -> String {
    let mut file = File::options().create(true).read(true).write(true).truncate(true).open(path).expect("file");
    file.set_len(GIB).expect("space");
    for mib in 0..GIB >> 20 {
        file.seek(SeekFrom::Start((mib << 20) + mib)).expect("seek");
        file.write_all(&mib.to_le_bytes()).expect("write");
    }
    file.rewind().expect("seek");
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).expect("read") {
            0 => return hasher.finish().digest.to_string().replace("sha256:", ""),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Bytes that a process has written so far, to files and sockets.
fn sent_by(client: &Running) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", client.pid())).unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok()).unwrap_or_default()
}

#[test]
fn many_small_files_arrive_as_they_do_directly() {
    let host = host(Via::Buildctl);
    let context = Context::after_base(&format!(
        "RUN i=0; while [ $i -lt {FILES} ]; do d=/files/$((i % 100)); [ $i -ge 100 ] || busybox mkdir -p $d; echo $i > $d/$i; i=$((i + 1)); done
FROM scratch
COPY --from=base /files /
"
    ));
    let dirs = tempfile::tempdir().expect("temp dir");
    let [direct, through, cut] = ["direct", "through", "cut"].map(|name| dirs.path().join(name));
    let to =
        |dir: &Path| Build { args: vec![format!("--output=type=local,dest={}", dir.display())], ..Build::of(context.path()).cached(CACHE) };
    let uncached = Build { cache_to: Vec::new(), cache_from: Vec::new(), ..to(&direct) };
    Client::buildctl(&host.buildkitd.address()).build(&uncached).expect_success();
    host.interrupt(|| vec![host.client.start(&to(&cut))], |_| files_below(&cut).len() > FILES / 100);
    host.client.build(&to(&through)).expect_success();
    let (written, expected) = (tree(&through), tree(&direct));
    assert_eq!(expected.len(), FILES);
    assert!(written == expected, "{} of {FILES} files", written.len());
}

/// Every file below a folder: mode, time of change, content.
fn tree(dir: &Path) -> BTreeMap<String, (u32, i64, Vec<u8>)> {
    let entry = |file: &Path| {
        let path = dir.join(file);
        let name = file.display().to_string();
        let meta = path.metadata().expect("metadata");
        (name, (meta.mode(), meta.mtime(), std::fs::read(path).expect("file")))
    };
    files_below(dir).iter().map(|file| entry(file)).collect()
}

/// (That mounts have what they should is a case of `forwarding`.)
#[test]
fn a_build_that_holds_an_ssh_agent_and_a_secret_is_cut_off() {
    let context = Context::after_base("COPY ssh /\nRUN --mount=type=secret,id=token --mount=type=ssh ssh-add -l\n");
    install_program(&tool("ssh-add"), &context.path().join("ssh"));
    context.write("ssh/etc/passwd", "root:x:0:0:root:/:/bin/sh\n");
    let dir = tempfile::tempdir().expect("temp dir");
    let token = dir.path().join("token");
    let socket = dir.path().join("agent.sock");
    std::fs::write(&token, "secret").expect("secret");
    // An agent that is asked and never answers.
    let agent = UnixListener::bind(&socket).expect("agent");
    agent.set_nonblocking(true).expect("agent");
    let args = vec![format!("--secret=id=token,src={}", token.display()), format!("--ssh=default={}", socket.display())];
    let build = Build { args, ..Build::of(context.path()).cached(CACHE) };
    for via in [Via::Buildctl, Via::BuildxRemote] {
        let host = host(via);
        let asked = std::cell::RefCell::new(None);
        host.interrupt(
            || vec![host.client.start(&build)],
            |_| {
                *asked.borrow_mut() = agent.accept().ok();
                asked.borrow().is_some()
            },
        );
    }
}

#[test]
fn a_registry_is_given_the_credentials_of_the_client() {
    let host = host(Via::Buildctl);
    let direct = Client::buildctl(&host.buildkitd.address());
    let context = Context::after_base("");
    let home = tempfile::tempdir().expect("temp dir");
    for challenge in [Challenge::Basic, Challenge::Bearer] {
        let registry = Registry::start(challenge);
        // user:password
        let auths = serde_json::json!({"auths": {registry.host(): {"auth": "dXNlcjpwYXNzd29yZA=="}}});
        std::fs::write(home.path().join("config.json"), auths.to_string()).expect("config");
        let push = |tag: &str| Build {
            args: vec![format!("--output=type=image,name={}/app:{tag},push=true,registry.insecure=true", registry.host())],
            env: vec![("DOCKER_CONFIG", home.path().display().to_string())],
            ..Build::of(context.path()).cached(CACHE)
        };
        let uncached = Build { cache_to: Vec::new(), cache_from: Vec::new(), ..push("direct") };
        direct.build(&uncached).expect_success();
        let expected = registry.credentials();
        assert!(expected.iter().any(|(_, given)| given == "Basic dXNlcjpwYXNzd29yZA=="), "{challenge:?}: {expected:?}");
        host.interrupt(
            || {
                registry.be_silent(true);
                vec![host.client.start(&push("cut"))]
            },
            |_| registry.keeps_somebody_waiting(),
        );
        registry.be_silent(false);
        registry.credentials();
        host.client.build(&push("through")).expect_success();
        assert_eq!(registry.credentials(), expected, "{challenge:?}");
    }
}

/// The clients give each build a session of its own; what buildx shares between targets of one context is
/// one more session, which both builds fetch the context through.
#[test]
fn builds_of_one_bake_share_a_session() {
    let mut host = host(Via::BuildxRemote);
    let slow = Context::after_base(
        "FROM base AS one\nRUN echo STARTED; busybox sleep 600\nFROM base AS two\nRUN echo STARTED; busybox sleep 601\n",
    );
    bake_file(&slow);
    host.interrupt(
        || vec![host.client.start_bake(&slow.path().join("bake.json"))],
        // What a step prints is in base64.
        |clients| clients[0].stderr().matches("U1RBUlRFRAo=").count() >= 2,
    );

    let context = Context::after_base(
        "RUN busybox dd if=/dev/urandom of=/layer bs=1M count=1\nFROM base AS one\nRUN echo 1 > /one\nFROM base AS two\nRUN echo 2 > /two\n",
    );
    bake_file(&context);
    let bake = |host: &Host| host.client.outcome(host.client.start_bake(&context.path().join("bake.json"))).expect_success();
    bake(&host).assert_executed();
    host.wipe();
    bake(&host).assert_cached();
}

/// Targets `one` and `two` of a context, each with a cache.
fn bake_file(context: &Context) {
    let target = |name: &str| {
        let cache = format!("type=s3,region=us-east-1,bucket=build-cache,name={name}");
        serde_json::json!({"context": context.path(), "target": name, "cache-to": [format!("{cache},mode=max")], "cache-from": [cache]})
    };
    let file = serde_json::json!({
        "group": {"default": {"targets": ["one", "two"]}},
        "target": {"one": target("one"), "two": target("two")},
    });
    context.write("bake.json", &file.to_string());
}

#[test]
fn sixteen_builds_at_once_have_their_caches() {
    let mut host = host(Via::Buildctl);
    let contexts: Vec<Context> =
        (0..BUILDS).map(|_| Context::after_base("RUN busybox dd if=/dev/urandom of=/layer bs=1M count=2\n")).collect();
    let builds: Vec<Build> =
        contexts.iter().enumerate().map(|(index, context)| Build::of(context.path()).cached(&format!("{CACHE}-{index}"))).collect();
    let start_all = |host: &Host| builds.iter().map(|build| host.client.start(build)).collect::<Vec<Running>>();
    let finish_all = |host: &Host, running: Vec<Running>| {
        running.into_iter().map(|build| host.client.outcome(build).expect_success()).collect::<Vec<_>>()
    };

    let received = host.remora.metric(RECEIVED);
    host.interrupt(|| start_all(&host), |_| host.remora.metric(RECEIVED) > received);
    finish_all(&host, start_all(&host));
    host.wipe();
    finish_all(&host, start_all(&host)).iter().for_each(Outcome::assert_cached);
}
