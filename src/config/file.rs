//! The shape of the configuration file: every key and its type. `defaults.rs` has their default values (see there why the two
//! files import each other). `deploy/config.toml` shows the keys to people, and a test compares the two.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::defaults;
use super::error::Error;
use super::store_url::StoreUrl;
use super::units::{Capacity, Count, Period, Size, Text};
use crate::telemetry::{Filter, Format};
use crate::types::{Address, BucketName, Durability};

/// The whole file. Flags and variables override it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    /// `None`: `s3://` with the first of `buckets`, or a directory below `data_dir`.
    pub(super) store: Option<Text<StoreUrl>>,
    pub(super) data_dir: PathBuf,
    /// `None`: [`Self::DEFAULT_BUCKET`].
    pub(super) default_bucket: Option<Text<BucketName>>,
    pub(super) on_unavailable: OnUnavailable,
    pub(super) durability: Text<Durability>,
    pub(super) drain_deadline: Text<Period>,
    pub(super) log: Log,
    pub(super) buildkitd: Buildkitd,
    pub(super) control: Control,
    pub(super) content: Content,
    pub(super) s3: S3,
    pub(super) admin: Admin,
    pub(super) manifests: Manifests,
    pub(super) limits: Limits,
    pub(super) store_deadlines: StoreDeadlines,
    pub(super) store_breaker: StoreBreaker,
    pub(super) transfer: Transfer,
    pub(super) disk_cache: DiskCache,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) buckets: Vec<Bucket>,
}

/// What happens to a build when the store fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnavailable {
    /// It goes on. What it looks up is missing, and what it exports is dropped.
    Miss,
    /// It gets the error.
    Fail,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    pub(super) filter: Text<Filter>,
    pub(super) format: Format,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Buildkitd {
    pub(super) address: Text<Address>,
    pub(super) connect_timeout: Text<Period>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Control {
    pub(super) listen: Vec<Text<Address>>,
    pub(super) transport: Transport,
    pub(super) max_message_bytes: Size,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Transport {
    Auto,
    Relay,
    Session,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Content {
    pub(super) listen: Vec<Text<Address>>,
    pub(super) token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct S3 {
    pub(super) listen: Vec<Text<Address>>,
    pub(super) advertise: Option<String>,
    pub(super) clock_skew: Text<Period>,
    pub(super) grant_grace: Text<Period>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) keys: Vec<OperatorKey>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OperatorKey {
    pub(super) access_key_id: String,
    pub(super) secret_access_key_file: Option<PathBuf>,
    pub(super) secret_access_key_env: Option<String>,
    /// `None`: the default bucket.
    pub(super) bucket: Option<Text<BucketName>>,
    #[serde(default)]
    pub(super) prefix: String,
    #[serde(default = "defaults::blobs_prefix")]
    pub(super) blobs_prefix: String,
    #[serde(default = "defaults::manifests_prefix")]
    pub(super) manifests_prefix: String,
    #[serde(default = "defaults::rights")]
    pub(super) rights: Vec<Right>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Right {
    Exists,
    Read,
    Write,
    Delete,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    pub(super) listen: Vec<Text<Address>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Manifests {
    pub(super) merge: bool,
    pub(super) max_generations: Count,
    pub(super) max_records: Count,
    pub(super) max_age: Text<Period>,
    pub(super) presence_max_age: Text<Period>,
    pub(super) lookup_interval: Text<Period>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) max_manifest_bytes: Size,
    pub(super) max_open_ingests: Count,
    pub(super) max_spool_bytes: Size,
    pub(super) max_connections: Count,
    pub(super) max_streams: Count,
    pub(super) ingest_expiry: Text<Period>,
    pub(super) max_store_requests: Count,
}

/// The deadlines of each bucket in S3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StoreDeadlines {
    pub(super) connect: Text<Period>,
    pub(super) first_byte: Text<Period>,
    pub(super) stall: Text<Period>,
    pub(super) total: Text<Period>,
}

/// The breaker of each bucket in S3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StoreBreaker {
    pub(super) budget: Text<Period>,
    pub(super) probe_interval: Text<Period>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Transfer {
    pub(super) memory: Size,
    pub(super) upload_memory: Size,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DiskCache {
    /// `None`: enabled if `dir` is set.
    pub(super) enabled: Option<bool>,
    /// `None`: below `data_dir`.
    pub(super) dir: Option<PathBuf>,
    pub(super) max_size: Capacity,
    pub(super) min_free: Capacity,
    pub(super) read_ahead: Capacity,
    pub(super) read_ahead_fetches: Count,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bucket {
    pub(super) name: Text<BucketName>,
    pub(super) endpoint: Option<String>,
    pub(super) region: Option<String>,
    pub(super) path_style: Option<bool>,
    pub(super) prefix: Option<String>,
    pub(super) profile: Option<String>,
    pub(super) access_key_id: Option<String>,
    pub(super) secret_access_key_file: Option<PathBuf>,
    pub(super) secret_access_key_env: Option<String>,
    pub(super) session_token_env: Option<String>,
    pub(super) role_arn: Option<String>,
    pub(super) external_id: Option<String>,
    pub(super) sse: Option<Sse>,
    pub(super) sse_kms_key_id: Option<String>,
    pub(super) storage_class: Option<String>,
    pub(super) acl: Option<String>,
    pub(super) expected_bucket_owner: Option<String>,
    #[serde(default)]
    pub(super) checksums: Checksums,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) enum Sse {
    #[serde(rename = "AES256")]
    S3Managed,
    #[serde(rename = "aws:kms")]
    Kms,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Checksums {
    #[default]
    WhenRequired,
    WhenSupported,
}

impl File {
    /// The bucket of a directory store for builds that name none.
    pub(super) const DEFAULT_BUCKET: &'static str = "remora";

    /// Reads a file.
    ///
    /// # Errors
    /// One that names the file, the line and the key.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::new(format!("--config {}: {error}", path.display())))?;
        Self::parse(&text).map_err(|(line, message)| Error::new(format!("{}:{line}: {message}", path.display())))
    }

    /// Parses the text of a file. An error comes with its line.
    pub(super) fn parse(text: &str) -> Result<Self, (usize, String)> {
        let failed = |error: &toml::de::Error, message: String| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            (text.as_bytes()[..start].iter().filter(|&&byte| byte == b'\n').count() + 1, message)
        };
        let document = toml::Deserializer::parse(text).map_err(|error| failed(&error, error.message().to_owned()))?;
        serde_path_to_error::deserialize(document).map_err(|error| {
            let message = describe(&error.path().to_string(), error.inner().message());
            failed(error.inner(), message)
        })
    }
}

/// What serde says about a value, in remora's words: the key first, and for an unknown key the nearest known one.
fn describe(path: &str, message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else { return format!("{path}: {message}") };
    let mut names = rest.split('`').step_by(2);
    let unknown = names.next().unwrap_or_default();
    let known: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(unknown, name), name))
        .filter(|(distance, name)| *distance <= 3 || name.starts_with(unknown) || unknown.starts_with(**name))
        .min_by_key(|(distance, _)| *distance);
    let table = path.strip_suffix(unknown).unwrap_or_default();
    match nearest {
        Some((_, name)) => format!("unknown key {path}; did you mean {table}{name}?"),
        None => format!("unknown key {path}; known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sample with its keys uncommented: unlike prose, they have no space after the sign.
    fn uncommented() -> String {
        let sample = include_str!("../../deploy/config.toml");
        sample.lines().map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)).fold(
            String::new(),
            |mut text, line| {
                text.push_str(line);
                text.push('\n');
                text
            },
        )
    }

    #[test]
    fn the_sample_file_shows_every_default() {
        assert_eq!(File::parse(include_str!("../../deploy/config.toml")).unwrap(), File::default());
        let whole = uncommented();
        let (keys, repeated) = whole.split_once("# ---- ").unwrap();
        let mut shown = File::parse(keys).unwrap();
        // A default that depends on other keys is shown with the value that it gets.
        assert_eq!(shown.store.take().unwrap().0.to_string(), "file:///var/lib/remora/store");
        assert_eq!(shown.default_bucket.take().unwrap().0.as_str(), File::DEFAULT_BUCKET);
        assert_eq!(shown.disk_cache.enabled.take(), Some(false));
        assert_eq!(shown.disk_cache.dir.take().unwrap().to_str(), Some("/var/lib/remora/disk-cache"));
        assert_eq!(shown.s3.advertise.take().unwrap(), "http://127.0.0.1:9190");
        assert_eq!(shown, File::default());
        let repeated = File::parse(&format!("#{repeated}")).unwrap();
        assert_eq!(repeated.s3.keys[0].rights, defaults::rights());
        assert_eq!(repeated.buckets[0].checksums, Checksums::default());
    }

    #[test]
    fn the_sample_file_shows_every_key() {
        let sample = include_str!("../../deploy/config.toml");
        let tables = "log buildkitd control content s3 admin manifests limits store_deadlines store_breaker transfer disk_cache";
        for table in tables.split(' ').chain(["", "s3.keys[0]", "buckets[0]"]) {
            let text = match table.strip_suffix("[0]") {
                Some(array) => format!("[[{array}]]\nno_such_key = 1"),
                None if table.is_empty() => "no_such_key = 1".to_owned(),
                None => format!("[{table}]\nno_such_key = 1"),
            };
            let (_, message) = File::parse(&text).unwrap_err();
            let (_, known) = message.split_once("known here: ").unwrap_or_else(|| panic!("{message}"));
            for key in known.split(", ") {
                let shown = [format!("{key} = "), format!("[{key}]"), format!("[[{key}]]"), format!("[[{table}.{key}]]")];
                assert!(shown.iter().any(|form| sample.contains(form)), "{table}: {key}");
            }
        }
    }

    #[test]
    fn errors_name_the_line_and_the_key() {
        for (text, line, wanted) in [
            ("[s3]\nadvertize = 'x'", 2, "unknown key s3.advertize; did you mean s3.advertise?"),
            ("lisen = []", 1, "unknown key lisen; known here: store, "),
            ("\n[control]\nlisten = ['tcp://x']", 3, "control.listen[0]: invalid address \"tcp://x\": want unix:///"),
            ("drain_deadline = '30'", 1, "drain_deadline: invalid duration \"30\": want "),
            ("durability = 'disk'", 1, "durability: invalid durability \"disk\": want s3 or local"),
            ("drain_deadline = 30", 1, "drain_deadline: invalid type: integer `30`, expected a string"),
            ("[control]\ntransport = 'fast'", 2, "control.transport: unknown variant `fast`, expected one of `auto`, `relay`, `session`"),
            ("[limits]\nmax_connections = 0", 2, "limits.max_connections: invalid value: integer `0`, expected a number from 1"),
            ("[limits]\nmax_manifest_bytes = '2TB'", 2, "limits.max_manifest_bytes: invalid size \"2TB\": want bytes"),
            ("[[buckets]]\nname = 'a..b'", 2, "buckets[0].name: invalid bucket name \"a..b\""),
            ("[[buckets]]\nname = 'abc'\n[[buckets]]\nregion = 'x'", 3, "buckets[1]: missing field `name`"),
            ("[[buckets]]\nname = 'abc'\nsecret_access_key = 'hidden'", 3, "did you mean buckets[0].secret_access_key_"),
            ("\n[log", 2, "unclosed table"),
        ] {
            let (at, message) = File::parse(text).unwrap_err();
            assert!(at == line && message.contains(wanted) && !message.contains("hidden"), "{text}: {at}: {message}");
        }
    }
}
