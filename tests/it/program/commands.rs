//! The admin commands on a directory store that was made by hand, in BuildKit's native layout.

use std::path::{Path, PathBuf};

use remora::types::Digest;
use serde_json::{Value, json};

use crate::support::sidecar::{Ended, remora};

/// A directory store with one bucket in it.
struct Store {
    dir: tempfile::TempDir,
}

impl Store {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join("store/remora").join(key)
    }

    fn write(&self, key: &str, bytes: &[u8]) {
        let path = self.path(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.write(&format!("blobs/{digest}"), bytes);
        digest
    }

    /// A manifest of one record and these layers, each with the size that it is said to have.
    fn manifest(&self, name: &str, layers: &[(Digest, usize)]) {
        let layer = |(index, (digest, size)): (usize, &(Digest, usize))| {
            json!({"blob": digest.to_string(), "parent": i64::try_from(index).unwrap() - 1, "annotations": {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "diffID": digest.to_string(), "size": size,
                "createdAt": "2024-05-06T07:08:09Z"}})
        };
        let layers: Vec<Value> = layers.iter().enumerate().map(layer).collect();
        let document = json!({"layers": layers, "records": [{"digest": Digest::of(name.as_bytes()).to_string()}]});
        self.write(&format!("manifests/{name}"), document.to_string().as_bytes());
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        remora(arguments).arg("--data-dir").arg(self.dir.path()).output().unwrap().into()
    }
}

/// Two caches that share a layer.
fn two_caches() -> (Store, Digest, Digest) {
    let store = Store::new();
    let shared = store.blob(&[7; 3000]);
    let own = store.blob(b"own");
    store.manifest("app", &[(shared, 3000), (own, 3)]);
    store.manifest("base", &[(shared, 3000)]);
    (store, shared, own)
}

#[test]
fn ls_lists_for_people_and_programs() {
    let (store, ..) = two_caches();
    let table = store.run(&["ls"]);
    assert_eq!(table.code, Some(0), "{table:?}");
    let rows: Vec<Vec<&str>> = table.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "MANIFEST", "AGE"]);
    assert_eq!((rows[1][0], rows[2][0], rows.len()), ("app", "base", 3));

    let listed = store.run(&["ls", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[0]["name"], "app");
    assert_eq!(listed[0]["size"], std::fs::metadata(store.path("manifests/app")).unwrap().len());
    let modified = listed[0]["modified"].as_str().unwrap();
    assert!(time::OffsetDateTime::parse(modified, &time::format_description::well_known::Rfc3339).is_ok(), "{modified}");
    assert!(listed[0]["etag"].is_string());
}

#[test]
fn ls_looks_where_it_is_told() {
    let store = Store::new();
    store.write("ci/m/x/app", b"{}");
    let listed = store.run(&["ls", "--json", "--prefix=ci/", "--manifests-prefix=m/"]).json();
    assert_eq!(listed[0]["name"], "x/app");
    let empty = store.run(&["ls", "--bucket", "other-bucket"]);
    assert_eq!((empty.code, empty.stdout.as_str()), (Some(0), ""));
    assert_eq!(store.run(&["ls", "--bucket", "other-bucket", "--json"]).json(), json!([]));
    assert!(store.run(&["ls", "--bucket", "a/../b"]).one_line(64).contains("--bucket: invalid bucket name \"a/../b\""));
    assert!(!store.dir.path().join("spool").exists(), "a running server's spool is not to be touched");
}

#[test]
fn inspect_shows_records_and_layers() {
    let (store, shared, own) = two_caches();
    let shown = store.run(&["inspect", "app"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for wanted in ["app in s3://remora/", "1 record, 2 layers, 2.93 KiB in 2 blobs", &shared.to_string(), &own.to_string(), "tar+gzip"] {
        assert!(shown.stdout.contains(wanted), "{wanted}: {}", shown.stdout);
    }
    let inspected = store.run(&["inspect", "app", "--json"]).json();
    assert_eq!((&inspected["records"], &inspected["blobs"], &inspected["bytes"]), (&json!(1), &json!(2), &json!(3003)));
    assert_eq!(
        inspected["layers"][1],
        json!({"digest": own.to_string(), "size": 3,
        "media_type": "application/vnd.oci.image.layer.v1.tar+gzip", "created_at": "2024-05-06T07:08:09Z"})
    );
    assert!(store.run(&["inspect", "nobody"]).one_line(1).contains("not found"), "{shown:?}");
    assert!(store.run(&["inspect", "../app"]).one_line(64).contains("invalid manifest name \"../app\""));
}

#[test]
fn rm_deletes_manifests_and_keeps_blobs() {
    let (store, shared, _) = two_caches();
    let removed = store.run(&["rm", "app"]);
    assert_eq!(removed.code, Some(0), "{removed:?}");
    assert_eq!(removed.stdout, "deleted 1 manifest from s3://remora/: app; the blobs stay, since other caches may share them\n");
    assert!(!store.path("manifests/app").exists() && store.path("manifests/base").exists());
    assert!(store.path(&format!("blobs/{shared}")).exists());
    let again = store.run(&["rm", "base", "app", "--json"]);
    assert_eq!(again.json(), json!({"deleted": ["base"], "missing": ["app"]}));
    assert_eq!(again.one_line(1), "remora: no such cache in s3://remora/: app");
}

fn verify(store: &Store, arguments: &[&str], code: i32) -> Value {
    let ended = store.run(&[&["verify", "--json"], arguments].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(code), ""), "{ended:?}");
    ended.json()
}

fn flip_a_byte(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[1] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn verify_finds_nothing_where_nothing_is_wrong() {
    let (store, ..) = two_caches();
    assert_eq!(verify(&store, &[], 0), json!({"manifests": 2, "blobs": 2, "bytes": 3003, "problems": []}));
    assert_eq!(verify(&store, &["base"], 0)["blobs"], 1);
    let shown = store.run(&["verify"]);
    assert_eq!(shown.stdout, "2 manifests, 2 blobs, 2.93 KiB read: no problems\n", "{shown:?}");
    assert_eq!(verify(&Store::new(), &[], 0), json!({"manifests": 0, "blobs": 0, "bytes": 0, "problems": []}));
}

#[test]
fn verify_finds_what_is_missing_cut_or_changed() {
    let (store, shared, own) = two_caches();
    std::fs::remove_file(store.path(&format!("blobs/{own}"))).unwrap();
    assert_eq!(verify(&store, &[], 1)["problems"], json!([{"manifest": "app", "blob": own.to_string(), "problem": "missing"}]));

    let path = store.path(&format!("blobs/{shared}"));
    flip_a_byte(&path);
    let found = verify(&store, &["base"], 1);
    assert_eq!(found["problems"].as_array().unwrap().len(), 1);
    assert!(found["problems"][0]["problem"].as_str().unwrap().starts_with("wrong digest: the stored bytes have sha256:"), "{found}");
    let both = verify(&store, &[], 1);
    assert_eq!(both["problems"].as_array().unwrap().len(), 3, "{both}");

    std::fs::write(&path, [7; 2999]).unwrap();
    let found = verify(&store, &["base"], 1);
    assert_eq!(found["problems"][0]["problem"], "wrong size: 2999 bytes are stored, the manifest says 3000");
    let shown = store.run(&["verify", "base"]);
    assert_eq!(shown.code, Some(1));
    assert_eq!(
        shown.stdout,
        format!(
            "base: blob {shared}: wrong size: 2999 bytes are stored, the manifest says 3000\n1 manifest, 1 blob, 0 B read: 1 problem\n"
        )
    );
}

#[test]
fn verify_finds_manifests_that_are_malformed_or_gone() {
    let (store, ..) = two_caches();
    store.write("manifests/broken", b"{\"layers\":[{}]}");
    let found = verify(&store, &["broken", "gone", "app"], 1);
    assert_eq!((&found["manifests"], &found["blobs"]), (&json!(3), &json!(2)));
    let problems = found["problems"].as_array().unwrap();
    assert_eq!((&problems[0]["manifest"], &problems[0]["blob"]), (&json!("broken"), &Value::Null));
    assert!(problems[0]["problem"].as_str().unwrap().contains("layer 0: invalid digest"), "{found}");
    assert_eq!(problems[1]["manifest"], "gone");
}

#[test]
fn a_machine_without_root_certificates_gets_one_line_that_says_so() {
    let store = Store::new();
    let mut command = remora(&["ls", "--store", "s3://build-cache"]);
    command.env("SSL_CERT_FILE", "/nowhere").env("SSL_CERT_DIR", "/nowhere").env("AWS_REGION", "us-east-1");
    let ended: Ended = command.arg("--data-dir").arg(store.dir.path()).output().unwrap().into();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("no root certificates for TLS") && ended.stderr.lines().count() == 1, "{ended:?}");
}
