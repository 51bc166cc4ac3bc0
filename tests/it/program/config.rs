//! What the configuration says, and what it refuses: one line and exit code 64, before any port is bound.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;

use crate::support::sidecar::{Ended, Sidecar, remora, run};

/// A folder with a configuration file in it.
struct Configured {
    dir: tempfile::TempDir,
}

impl Configured {
    fn new(toml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("remora.toml"), toml.replace("DIR", dir.path().to_str().unwrap())).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn secret(self, name: &str, text: &str) -> Self {
        std::fs::write(self.path(name), text).unwrap();
        std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o600)).unwrap();
        self
    }

    fn command(&self, command: &str) -> Command {
        let mut remora = remora(&[command, "--config"]);
        remora.arg(self.path("remora.toml"));
        remora
    }

    fn check(&self) -> Ended {
        self.command("check-config").output().unwrap().into()
    }
}

#[test]
fn a_bad_file_is_reported_in_one_line_with_exit_code_64() {
    let secret = "secret_access_key_env = 'SECRET'";
    for (toml, wanted) in [
        ("[s3]\nadvertize = 'x'", "remora.toml:2: unknown key s3.advertize; did you mean s3.advertise?"),
        ("[control]\nlisten = ['tcp://x']", "remora.toml:2: control.listen[0]: invalid address \"tcp://x\": want unix:///"),
        ("[limits]\ningest_expiry = '1 fortnight'", "remora.toml:2: limits.ingest_expiry: invalid duration \"1 fortnight\": want "),
        ("store = 'gs://abc'", "remora.toml:1: store: invalid store URL \"gs://abc\": want file:///dir or s3://bucket[/prefix]"),
        ("store = 's3://a..b'", "remora.toml:1: store: invalid bucket name \"a..b\": want 3 to 63"),
        ("default_bucket = '../x'", "remora.toml:1: default_bucket: invalid bucket name"),
        ("durability = 'disk'", "remora.toml:1: durability: invalid durability \"disk\": want s3 or local"),
        ("[log]\nfilter = 'inof'", "remora.toml:2: log.filter: invalid log filter \"inof\": want off, error"),
        ("[log", "remora.toml:1: "),
        ("[s3]\nadvertise = 'remora:9190'", "s3.advertise: invalid URL \"remora:9190\": want http://host:port"),
        ("[s3]\nadvertise = 'http://x:1'\nlisten = []", "s3.advertise: there is no s3 endpoint"),
        ("[s3]\nlisten = []\n[control]\ntransport = 'relay'", "control.transport: relay goes through the s3 endpoint"),
        ("[s3]\nlisten = []\n[control]\nlisten = []", "all are off"),
        ("[transfer]\nmemory = '1MiB'", "transfer.memory: 1048576 bytes do not hold one range; want at least 8MiB"),
        ("[transfer]\nmemory = 'much'", "remora.toml:2: transfer.memory: invalid size \"much\": want bytes"),
        ("data_dir = 'relative'", "data_dir: invalid path \"relative\""),
        ("[content]\ntoken_file = 'DIR/missing'", "content.token_file: cannot read the secret in "),
        ("[content]\ntoken_file = 'DIR'", "content.token_file: cannot read the secret in "),
        ("[[s3.keys]]\naccess_key_id = 'x'", "s3.keys[0]: want one of secret_access_key_file and secret_access_key_env"),
        (
            "[[s3.keys]]\naccess_key_id = 'x'\nsecret_access_key_env = 'NOWHERE'",
            "s3.keys[0].secret_access_key_env: the environment has no variable \"NOWHERE\"",
        ),
        (
            "[[s3.keys]]\naccess_key_id = 'x'\nrights = ['own']",
            "s3.keys[0].rights[0]: unknown variant `own`, expected one of `exists`, `read`",
        ),
        (
            &format!("[[s3.keys]]\naccess_key_id = 'x'\n{secret}\n[[s3.keys]]\naccess_key_id = 'x'\n{secret}"),
            "s3.keys[1].access_key_id: \"x\" is empty or there twice",
        ),
        (
            &format!("store = 's3://abc'\n[[s3.keys]]\nbucket = 'other'\naccess_key_id = 'x'\n{secret}"),
            "s3.keys[0].bucket: other is neither",
        ),
        (&format!("store = 's3://abc/ci'\n[[s3.keys]]\naccess_key_id = 'x'\n{secret}"), "s3.keys[0].prefix: \"\" is outside"),
        ("store = 'file:///x'\n[[buckets]]\nname = 'abc'", "buckets: these are of S3, and store is a directory"),
        ("store = 's3://abc'\ndefault_bucket = 'abc'", "default_bucket: for a directory store alone"),
        ("[[buckets]]\nname = 'abc'\n[[buckets]]\nname = 'abc'", "buckets[1].name: bucket abc is there twice"),
        ("[[buckets]]\nname = 'abc'\nendpoint = 'minio:9000'", "buckets[0].endpoint: invalid URL \"minio:9000\""),
        ("[[buckets]]\nname = 'abc'\nendpoint = 'http://user:hidden@minio'", "buckets[0].endpoint: invalid URL"),
        ("[[buckets]]\nname = 'abc'\nprofile = 'x'\nrole_arn = 'y'", "buckets[0]: want at most one of profile, access_key_id and role_arn"),
        ("[[buckets]]\nname = 'abc'\nsession_token_env = 'SECRET'", "buckets[0].session_token_env: only with access_key_id"),
        ("[[buckets]]\nname = 'abc'\nexternal_id = 'x'", "buckets[0].external_id: only with role_arn"),
        ("[[buckets]]\nname = 'abc'\nsse_kms_key_id = 'x'", "buckets[0].sse_kms_key_id: only with sse = \"aws:kms\""),
        (
            "[[buckets]]\nname = 'abc'\nsecret_access_key = 'hidden'",
            "unknown key buckets[0].secret_access_key; did you mean buckets[0].secret_access_key_",
        ),
        ("store = 's3://abc/x'\n[[buckets]]\nname = 'abc'\nprefix = 'y/'", "store: prefix \"x/\", but [[buckets]] says \"y/\""),
    ] {
        let configured = Configured::new(toml);
        for command in ["check-config", "serve", "ls"] {
            let ended: Ended = configured.command(command).env("SECRET", "hidden").output().unwrap().into();
            let line = ended.one_line(64);
            assert!(line.contains(wanted) && !line.contains("hidden"), "{toml}: {line}");
            assert_eq!(ended.stdout, "");
        }
    }
}

#[test]
fn a_bad_flag_or_variable_is_named() {
    for (flag, variable, value, wanted) in [
        ("--control", "REMORA_CONTROL", "localhost:1", "invalid address \"localhost:1\": want unix:///absolute/path or tcp://host:port"),
        ("--admin", "REMORA_ADMIN", "tcp://127.0.0.1:0,nowhere", "invalid address \"nowhere\""),
        ("--buildkitd", "REMORA_BUILDKITD", "unix://x", "invalid address \"unix://x\""),
        ("--store", "REMORA_STORE", "s3://key:hidden@abc", "credentials and options belong in [[buckets]]"),
        ("--transport", "REMORA_TRANSPORT", "tcp", "unknown variant `tcp`, expected one of `auto`, `relay`, `session`"),
        ("--log-filter", "REMORA_LOG_FILTER", "loud", "invalid log filter \"loud\""),
        ("--log-format", "REMORA_LOG_FORMAT", "xml", "unknown variant `xml`, expected one of `auto`, `text`, `json`"),
    ] {
        let by_flag = run(&["serve", flag, value]);
        assert!(by_flag.one_line(64).starts_with(&format!("remora: {flag}: ")), "{by_flag:?}");
        let by_variable: Ended = remora(&["serve"]).env(variable, value).output().unwrap().into();
        assert!(by_variable.one_line(64).starts_with(&format!("remora: {variable}: ")), "{by_variable:?}");
        for ended in [by_flag, by_variable] {
            assert!(ended.stderr.contains(wanted) && !ended.stderr.contains("hidden"), "{ended:?}");
        }
    }
    let missing = run(&["serve", "--config", "/nowhere/remora.toml"]);
    assert_eq!(missing.one_line(64), "remora: --config /nowhere/remora.toml: No such file or directory (os error 2)");
    for wrong in [&["serve", "--contro", "x"][..], &["swim"], &["inspect"], &["rm"], &[]] {
        let ended = run(wrong);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(64), ""), "{ended:?}");
    }
}

#[test]
fn a_flag_beats_a_variable_and_that_the_file() {
    let configured = Configured::new("data_dir = '/from/file'\n[s3]\nlisten = ['tcp://127.0.0.1:1']\n[log]\nfilter = 'warn'");
    let mut command = configured.command("check-config");
    command.env("REMORA_DATA_DIR", "/from/variable").env("REMORA_S3", "tcp://127.0.0.1:2,tcp://[::1]:2").env("REMORA_CONTROL", "");
    command.args(["--data-dir", "/from/flag", "--admin", "none"]);
    // Kubernetes sets such variables for a service of that name.
    command.env("REMORA_PORT", "tcp://10.0.0.1:9190").env("REMORA_SERVICE_HOST", "10.0.0.1");
    let ended: Ended = command.output().unwrap().into();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let file = configured.path("remora.toml").display().to_string();
    for line in [
        "data_dir = \"/from/flag\"  # --data-dir",
        "store = \"file:///from/flag/store\"  # default",
        "listen = [\"tcp://127.0.0.1:2\", \"tcp://[::1]:2\"]  # REMORA_S3",
        "listen = [\"unix:///run/remora/control.sock\"]  # default",
        "listen = []  # --admin",
        &format!("filter = \"warn\"  # {file}"),
        "max_message_bytes = 67108864  # default",
    ] {
        assert!(ended.stdout.lines().any(|printed| printed == line), "{line}: {}", ended.stdout);
    }
}

#[test]
fn local_durability_is_accepted_and_warned_of_where_the_store_is_a_directory() {
    let bucket = "store = 's3://build-cache'\n[[buckets]]\nname = 'build-cache'\nendpoint = 'http://127.0.0.1:1'\nregion = 'x'";
    for (toml, warned) in [("", true), (bucket, false)] {
        let ended: Ended = Configured::new(toml).command("check-config").env("REMORA_DURABILITY", "local").output().unwrap().into();
        assert!(ended.code == Some(0) && ended.stdout.contains("durability = \"local\"  # REMORA_DURABILITY\n"), "{ended:?}");
        assert_eq!(ended.stderr.contains("durability: local is the same as s3 where the store is a directory"), warned, "{ended:?}");
    }
    run(&["check-config", "--durability", "disk"]).one_line(64);
}

#[test]
fn check_config_prints_what_can_be_read_again_and_no_secret() {
    let toml = "store = 's3://build-cache/ci'\n[content]\ntoken_file = 'DIR/token'\n\
        [[s3.keys]]\naccess_key_id = 'ops'\nsecret_access_key_file = 'DIR/key'\nprefix = 'ci/x/'\n\
        [[buckets]]\nname = 'build-cache'\nendpoint = 'http://minio:9000'\naccess_key_id = 'remora'\n\
        secret_access_key_env = 'BUCKET_SECRET'\nsession_token_env = 'BUCKET_TOKEN'\nsse = 'aws:kms'\n[[buckets]]\nname = 'other'";
    let configured = Configured::new(toml).secret("token", "canary-1\n").secret("key", "canary-2");
    let mut command = configured.command("check-config");
    command.env("BUCKET_SECRET", "canary-3").env("BUCKET_TOKEN", "canary-4");
    let ended: Ended = command.output().unwrap().into();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert!(!ended.stdout.contains("canary"), "{}", ended.stdout);
    assert_eq!(ended.stdout.matches("***").count(), 4, "{}", ended.stdout);
    assert!(ended.stdout.contains("store = \"s3://build-cache/ci/\""), "{}", ended.stdout);
    let again = Configured::new(&ended.stdout);
    let mut command = again.command("check-config");
    command.env("BUCKET_SECRET", "canary-3").env("BUCKET_TOKEN", "canary-4");
    let again: Ended = command.output().unwrap().into();
    let values = |text: &str| text.lines().map(|line| line.split("  # ").next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(values(&again.stdout), values(&ended.stdout), "{again:?}");
}

#[test]
fn a_secret_that_everyone_may_read_is_warned_of() {
    let configured = Configured::new("[content]\ntoken_file = 'DIR/token'").secret("token", "canary");
    std::fs::set_permissions(configured.path("token"), PermissionsExt::from_mode(0o644)).unwrap();
    let ended = configured.check();
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.stderr.contains("content.token_file: every user of this machine may read ") && !ended.stderr.contains("canary"),
        "{ended:?}"
    );
}

#[test]
fn the_sample_configuration_is_the_default() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/config.toml");
    let ended = run(&["check-config", "--config", sample]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert_eq!(ended.stdout, run(&["check-config"]).stdout);
}

#[test]
fn help_and_version_go_to_stdout() {
    let version = run(&["--version"]);
    assert_eq!((version.code, version.stdout), (Some(0), format!("remora {}\n", env!("CARGO_PKG_VERSION"))));
    for command in ["serve", "check-config", "ls", "inspect", "rm", "verify"] {
        let help = run(&[command, "--help"]);
        assert_eq!(help.code, Some(0));
        assert!(help.stdout.contains("Example") && help.stdout.contains("REMORA_STORE"), "{}", help.stdout);
    }
    // The value of a variable may be a secret.
    let help: Ended = remora(&["serve", "--help"]).env("REMORA_STORE", "s3://canary").output().unwrap().into();
    assert!(!help.stdout.contains("canary"));
}

/// Flags of a `serve` that gets as far as its sockets.
fn serve_in(dir: &std::path::Path) -> Command {
    let mut command = remora(&["serve", "--s3=tcp://127.0.0.1:0", "--admin=none", "--log-filter=off"]);
    command.arg("--data-dir").arg(dir.join("data")).arg(format!("--control=unix://{}/control.sock", dir.display()));
    command
}

#[test]
fn a_port_in_use_is_reported_in_one_line_with_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", taken.local_addr().unwrap());
    let ended: Ended = serve_in(dir.path()).args(["--content", &address]).output().unwrap().into();
    let line = ended.one_line(1);
    assert!(line.starts_with(&format!("remora: content.listen: cannot listen on {address}: Address already in use")), "{line}");
    assert!(!dir.path().join("control.sock").exists());
}

#[test]
fn a_live_socket_is_refused_and_a_stale_one_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let live = UnixListener::bind(dir.path().join("control.sock")).unwrap();
    let ended: Ended = serve_in(dir.path()).output().unwrap().into();
    assert!(ended.one_line(1).ends_with("control.sock: another process listens on it"), "{ended:?}");
    drop(live);
    let killed = Sidecar::start();
    let path = killed.dir().join("control.sock");
    let left = path.display().to_string();
    let right = tempfile::tempdir().unwrap();
    // The folder of a killed sidecar goes away with it, so its socket is kept by a second name.
    let stale = right.path().join("stale.sock");
    std::fs::hard_link(&left, &stale).unwrap();
    killed.kill();
    let next = Sidecar::builder().flag("content", format!("unix://{}", stale.display())).start();
    next.wait_for("taking over a socket");
    drop(std::os::unix::net::UnixStream::connect(&stale).unwrap());
}

#[test]
fn a_data_directory_that_cannot_be_written_or_is_in_use_is_reported_in_one_line_with_exit_code_1() {
    let first = Sidecar::start();
    let shared = first.dir().join("data");
    let mut command = remora(&["serve", "--s3=tcp://127.0.0.1:0", "--admin=none", "--log-filter=off", "--control=none"]);
    let ended: Ended = command.arg("--data-dir").arg(&shared).output().unwrap().into();
    assert_eq!(ended.one_line(1), format!("remora: data_dir: another remora uses {}", shared.display()));

    // Root may write anywhere but on a read-only mount.
    let script = "mount -t tmpfs -o ro tmpfs \"$0\" && exec \"$@\"";
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c", script]).arg(dir.path()).arg(env!("CARGO_BIN_EXE_remora"));
    command.args(["serve", "--log-filter=off", "--admin=none", "--s3=tcp://127.0.0.1:0", "--control=none", "--data-dir"]).arg(dir.path());
    let ended: Ended = command.output().unwrap().into();
    let line = ended.one_line(1);
    assert!(line.starts_with(&format!("remora: data_dir: cannot write to {}: Read-only file system", dir.path().display())), "{line}");
}
