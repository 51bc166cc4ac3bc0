//! The relay transport: the entry stays `type=s3`, but points at the s3 endpoint and carries a grant.

use crate::auth::IssuedGrant;
use crate::endpoints::control::options::{Attrs, CacheEntry, Target};

/// Attributes that a client may send and buildkitd does not get: it must not see them, or has no use for them.
const DROPPED: [&str; 5] = ["access_key_id", "secret_access_key", "session_token", "endpoint_url", "durability"];

/// The entry for buildkitd. Attributes that are not about place or identity (`mode`, `ignore-error`, `compression`,
/// anything that a later version adds) stay.
pub(crate) fn rewrite(attrs: &Attrs, target: &Target, endpoint_url: &str, grant: &IssuedGrant) -> CacheEntry {
    let mut rewritten = attrs.clone();
    rewritten.retain(|key, _| !DROPPED.contains(&key.as_str()));
    for (key, value) in [
        ("bucket", target.scope.bucket().as_str()),
        ("region", &target.region),
        ("prefix", target.scope.prefix()),
        ("endpoint_url", endpoint_url),
        ("use_path_style", "true"),
        ("access_key_id", &grant.access_key_id),
        ("secret_access_key", &grant.secret_access_key),
    ] {
        rewritten.insert(key.to_owned(), value.to_owned());
    }
    CacheEntry { kind: "s3", attrs: rewritten }
}
