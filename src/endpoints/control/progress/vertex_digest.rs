//! The vertexes under which a build's progress shows its cache imports and exports.
//!
//! BuildKit keys every vertex by a digest. The digests of cache vertexes are made from what remora knows, so it is
//! known beforehand which vertex stands for which cache entry: `inBuilderContext` and `cmKey` in
//! `solver/llbsolver/{solver,bridge}.go`, `runCacheExporters` in `export.go` (BuildKit v0.33).

use crate::endpoints::control::options::CacheEntry;
use crate::types::Digest;

/// The vertex of an import: the digest of its name, which ends in a hash of the entry.
pub(super) fn of_import(entry: &CacheEntry) -> Digest {
    Digest::of(format!("importing cache manifest from {}:{}", entry.kind, hash_of(entry)).as_bytes())
}

/// The vertex of an export, the `index`th of those in its session's build that are not inline.
pub(super) fn of_export(session: &str, index: usize) -> Digest {
    Digest::of(format!("{session}-cache-{index}").as_bytes())
}

/// The hash that Go's `hashstructure` (format 2) gives a `CacheOptionsEntry`. The hash of a string is FNV-1. That of an
/// ordered collection is the hash of its parts' hashes. That of an unordered one is their sum, hashed again.
fn hash_of(entry: &CacheEntry) -> u64 {
    let attrs = entry.attrs.iter().fold(0, |hash, (key, value)| hash ^ pair(fnv(key.as_bytes()), fnv(value.as_bytes())));
    let fields = [("Type", fnv(entry.kind.as_bytes())), ("Attrs", single(attrs))];
    fields.into_iter().fold(fnv(b"CacheOptionsEntry"), |hash, (name, value)| single(hash ^ pair(fnv(name.as_bytes()), value)))
}

fn pair(first: u64, second: u64) -> u64 {
    fnv(&[first.to_le_bytes(), second.to_le_bytes()].concat())
}

fn single(hash: u64) -> u64 {
    fnv(&hash.to_le_bytes())
}

/// FNV-1 of 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_go() {
        let attrs = [("digest", "sha256:aa"), ("src", "remora-x")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(hash_of(&CacheEntry { kind: "local", attrs: attrs.into() }), 8_316_911_970_938_000_769);
        assert_eq!(hash_of(&CacheEntry { kind: "local", attrs: [].into() }), 7_237_937_004_287_695_758);
    }
}
