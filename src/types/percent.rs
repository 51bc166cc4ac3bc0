//! Percent-encoding of object keys, as S3 uses it in headers and listings.

/// `text` with everything percent-encoded but unreserved characters (RFC 3986, 2.3) and slashes.
#[must_use]
pub fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_percent_encoded() {
        assert_eq!(percent_encoded("blobs/sha256:é +"), "blobs/sha256%3A%C3%A9%20%2B");
        assert_eq!(percent_encoded("a-b.c_d~e/F9"), "a-b.c_d~e/F9");
    }
}
