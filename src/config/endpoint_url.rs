//! URLs of HTTP endpoints.

use super::error::Error;

/// Checks that `url` is `http[s]://host[:port]` and nothing more.
pub(super) fn check_url(key: &str, url: &str) -> Result<(), Error> {
    let parsed = url.parse::<http::Uri>().ok();
    let good = parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.path_and_query().is_none_or(|path| path.as_str() == "/")
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@') && !authority.host().is_empty())
    });
    // A URL with an `@` may have a password in it, which must not be shown.
    let shown = if url.contains('@') { "…@…" } else { url };
    if good { Ok(()) } else { Err(Error::new(format!("{key}: invalid URL {shown:?}: want http://host:port or https://host:port"))) }
}
