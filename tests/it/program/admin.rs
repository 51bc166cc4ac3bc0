//! The admin endpoint, the open doors that are warned of, and the end: drain, deadline, second signal.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use remora::types::Address;

use crate::support::fake_buildkitd::{self, FakeBuildkitd};
use crate::support::sidecar::{Sidecar, run};

#[tokio::test(flavor = "multi_thread")]
async fn live_while_the_process_runs_and_ready_when_every_check_is_ok() {
    let sidecar = Sidecar::builder();
    let address = Address::Unix(sidecar.dir().join("buildkitd.sock"));
    let buildkitd = FakeBuildkitd::start(&address, |_| async { fake_buildkitd::ok() }).await;
    let sidecar = sidecar.start();
    assert_eq!(sidecar.admin("GET", "/livez").0, 200);
    let (status, head, body) = sidecar.admin("GET", "/readyz");
    let report: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(status == 200 && head.contains("content-type: application/json"), "{status} {head} {body}");
    assert_eq!(report["ready"], true);
    let names: Vec<&str> = report["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 2);
    assert!(names[0].starts_with("store file:///") && names[1].starts_with("buildkitd unix:///"), "{names:?}");
    buildkitd.kill().await;
}

#[test]
fn not_ready_says_why() {
    let builder = Sidecar::builder();
    let root = builder.dir().join("a-file");
    std::fs::write(&root, "in the way").unwrap();
    let sidecar = builder.flag("store", format!("file://{}/store", root.display())).start();
    let (status, _, body) = sidecar.admin("GET", "/readyz");
    assert_eq!(status, 503);
    let report: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(report["ready"], false);
    for check in report["checks"].as_array().unwrap() {
        assert_eq!(check["ok"], false, "{body}");
        assert!(!check["cause"].as_str().unwrap().is_empty(), "{body}");
    }
    assert_eq!(sidecar.admin("GET", "/livez").0, 200);
}

/// (That it exits 0 when ready is in the end-to-end tests, with a real buildkitd.)
#[test]
fn health_exits_with_the_causes_of_readyz() {
    let sidecar = Sidecar::start();
    let line = run(&["health", "--admin", &sidecar.address("admin")]).one_line(1).to_owned();
    assert!(line.contains("not ready: buildkitd unix:///"), "{line}");
    let nobody = format!("unix://{}", sidecar.dir().join("nobody.sock").display());
    let line = run(&["health", "--admin", &nobody]).one_line(1).to_owned();
    assert!(line.contains(&nobody), "{line}");
    run(&["health", "--admin", "localhost"]).one_line(64);
}

#[test]
fn status_tells_what_goes_on_to_people_and_programs() {
    let sidecar = Sidecar::start();
    let status = run(&["status", "--json", "--admin", &sidecar.address("admin")]).json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["stores"][0]["url"].as_str().unwrap().starts_with("file:///"), "{status}");
    assert_eq!(status["spool"], serde_json::json!({"bytes": 0, "max_bytes": 17_179_869_184_u64}));
    assert_eq!(status["journal"], serde_json::json!({"entries": 0, "bytes": 0, "oldest": null, "last_error": null}));
    assert!(["uptime_seconds", "builds_running", "ingests", "uploads"].iter().all(|key| status[key].is_u64()), "{status}");
    let text = run(&["status", "--admin", &sidecar.address("admin")]).stdout;
    assert!(text.contains("journal  0 entries (0 B)\n") && text.contains("of 16.00 GiB; 0 ingests, 0 uploads\n"), "{text}");
    let nobody = format!("unix://{}", sidecar.dir().join("nobody.sock").display());
    assert!(run(&["status", "--admin", &nobody]).one_line(1).contains(&nobody));
}

#[test]
fn metrics_are_openmetrics_and_the_rest_is_refused() {
    let sidecar = Sidecar::start();
    let (status, head, body) = sidecar.admin("GET", "/metrics");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
    assert!(body.contains("# TYPE remora_builds_running gauge\n") && body.contains("remora_build_info{version="), "{body}");
    let tasks = body.lines().find_map(|line| line.strip_prefix("remora_tasks ")?.parse::<u64>().ok());
    assert!(tasks.is_some_and(|tasks| tasks > 0), "{body}");
    assert!(body.ends_with("# EOF\n"));
    assert_eq!(sidecar.admin("POST", "/metrics").0, 405);
    assert_eq!(sidecar.admin("DELETE", "/livez").0, 405);
    assert_eq!(sidecar.admin("GET", "/metrics/../x").0, 404);
    let (status, _, index) = sidecar.admin("GET", "/");
    assert!(status == 200 && ["/livez", "/readyz", "/metrics", "/status"].iter().all(|path| index.contains(path)), "{index}");
}

#[test]
fn an_idle_process_ends_on_sigterm_and_leaves_no_socket() {
    for signal in ["TERM", "INT"] {
        let mut sidecar = Sidecar::start();
        assert!(sidecar.dir().join("control.sock").exists());
        sidecar.signal(signal);
        assert_eq!(sidecar.wait().code(), Some(0), "{}", sidecar.log());
        sidecar.wait_for("drained");
        assert!(!sidecar.dir().join("control.sock").exists());
    }
}

/// A build's session that nobody answers: what a drain waits for. It is over when the returned connection is.
struct RunningCall {
    _client: UnixStream,
    _upstream: UnixStream,
}

impl RunningCall {
    fn begin(builder: crate::support::sidecar::SidecarBuilder) -> (Self, Sidecar) {
        let buildkitd = UnixListener::bind(builder.dir().join("buildkitd.sock")).unwrap();
        let sidecar = builder.flag("transport", "relay").start();
        let mut client = UnixStream::connect(sidecar.dir().join("control.sock")).unwrap();
        // HTTP/2 by hand: preface, empty SETTINGS, and a HEADERS frame whose fields are literals.
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "x"),
            (":path", "/moby.buildkit.v1.Control/Session"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text.as_bytes());
            }
        }
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        bytes.extend_from_slice(&[0, 0, u8::try_from(block.len()).unwrap(), 1, 4, 0, 0, 0, 1]);
        bytes.extend_from_slice(&block);
        client.write_all(&bytes).unwrap();
        // The call is under way when it has reached buildkitd.
        let mut upstream = buildkitd.accept().unwrap().0;
        upstream.read_exact(&mut [0; 24]).unwrap();
        (Self { _client: client, _upstream: upstream }, sidecar)
    }
}

#[test]
fn a_drain_is_unready_and_serves_builds_until_they_are_over() {
    let (call, mut sidecar) = RunningCall::begin(Sidecar::builder());
    let s3 = sidecar.host_port("s3");
    sidecar.signal("TERM");
    sidecar.wait_for("draining");
    let (status, _, body) = sidecar.admin("GET", "/readyz");
    assert!(status == 503 && body.contains("draining"), "{status} {body}");
    assert_eq!(sidecar.admin("GET", "/livez").0, 200);
    // buildkitd connects when it exports, which may be long after.
    std::net::TcpStream::connect(&s3).unwrap();
    drop(call);
    while std::net::TcpStream::connect(&s3).is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(sidecar.wait().code(), Some(0), "{}", sidecar.log());
    assert!(!sidecar.log().contains("deadline passed"), "{}", sidecar.log());
}

#[test]
fn the_deadline_ends_a_drain() {
    let builder = Sidecar::builder();
    let config = builder.dir().join("remora.toml");
    std::fs::write(&config, "drain_deadline = '50ms'").unwrap();
    let (call, mut sidecar) = RunningCall::begin(builder.flag("config", config.display().to_string()));
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0), "{}", sidecar.log());
    sidecar.wait_for("the drain deadline passed");
    drop(call);
}

#[test]
fn a_second_signal_ends_at_once() {
    let (call, mut sidecar) = RunningCall::begin(Sidecar::builder());
    sidecar.signal("TERM");
    sidecar.wait_for("draining");
    sidecar.signal("INT");
    assert_eq!(sidecar.wait().code(), Some(1), "{}", sidecar.log());
    drop(call);
}

#[test]
fn open_doors_are_warned_of() {
    let quiet = Sidecar::start();
    assert!(!quiet.log().contains("anyone who reaches"), "{}", quiet.log());
    let everywhere = "tcp://0.0.0.0:0";
    let open = Sidecar::builder().flag("control", everywhere).flag("content", everywhere).flag("s3", everywhere).start();
    open.wait_for("anyone who reaches the control endpoint");
    open.wait_for("anyone who reaches the content endpoint");
    open.wait_for("--s3-advertise says by which name");
}

#[test]
fn no_filter_lets_the_credentials_of_the_store_into_the_log() {
    let builder = Sidecar::builder();
    let config = builder.dir().join("remora.toml");
    // Nobody listens there: the requests are signed all the same.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let bucket = "store = 's3://build-cache'\n[[buckets]]\nname = 'build-cache'\nregion = 'eu-west-1'\naccess_key_id = 'remora'\n\
        secret_access_key_env = 'BUCKET_SECRET'\nsession_token_env = 'BUCKET_TOKEN'\n";
    std::fs::write(&config, format!("{bucket}endpoint = 'http://{closed}'")).unwrap();
    let sidecar = builder
        .flag("config", config.display().to_string())
        .flag("log-filter", "trace,aws_smithy_runtime=trace,aws_sigv4=trace,aws_config=trace,hyper=trace")
        .env("BUCKET_SECRET", "canary-secret")
        .env("BUCKET_TOKEN", "canary-token")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .start();
    let (status, _, body) = sidecar.admin("GET", "/readyz");
    assert!(status == 503 && body.contains("store s3://build-cache"), "{status} {body}");
    // The answer came from memory, which is logged at that level only: the filter is in force.
    assert_eq!(sidecar.admin("GET", "/readyz").0, 503);
    sidecar.wait_for("\"TRACE\"");
    let deep = |line: &&str| line.contains("\"TRACE\"") || line.contains("\"DEBUG\"");
    let libraries = |line: &str| ["aws_", "hyper"].iter().any(|library| line.contains(&format!("\"target\":\"{library}")));
    let log = sidecar.log();
    assert!(!log.lines().filter(deep).any(libraries), "{log}");
    for shown in [log, body, sidecar.admin("GET", "/metrics").2] {
        assert!(!shown.contains("canary"), "{shown}");
    }
}

/// A store that does not answer: builds go on without it, unless they are to fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_is_bearable_where_builds_may_miss_it() {
    for (on_unavailable, status) in [("miss", 200), ("fail", 503)] {
        let builder = Sidecar::builder();
        let address = Address::Unix(builder.dir().join("buildkitd.sock"));
        let buildkitd = FakeBuildkitd::start(&address, |_| async { fake_buildkitd::ok() }).await;
        let config = builder.dir().join("remora.toml");
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let bucket = "store = 's3://build-cache'\n[[buckets]]\nname = 'build-cache'\nregion = 'eu-west-1'\naccess_key_id = 'remora'\n\
            secret_access_key_env = 'BUCKET_SECRET'\n";
        std::fs::write(&config, format!("on_unavailable = '{on_unavailable}'\n{bucket}endpoint = 'http://{closed}'")).unwrap();
        let sidecar = builder.flag("config", config.display().to_string()).env("BUCKET_SECRET", "secret").start();
        let (found, _, body) = sidecar.admin("GET", "/readyz");
        let report: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((found, &report["ready"]), (status, &(status == 200).into()), "{body}");
        let store = &report["checks"][0];
        let builder = &report["checks"][1];
        assert_eq!((&store["ok"], &builder["ok"]), (&false.into(), &true.into()), "{body}");
        assert_eq!(store["bearable"].as_bool().unwrap_or_default(), status == 200, "{body}");
        assert!(store["name"] == "store s3://build-cache" && !store["cause"].as_str().unwrap().is_empty(), "{body}");
        buildkitd.kill().await;
    }
}
