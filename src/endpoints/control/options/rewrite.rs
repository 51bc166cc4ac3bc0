//! Where cache options stand in the two calls that carry them.
//!
//! | call | field |
//! |---|---|
//! | `Control/Solve` | `Cache.Exports`, `Cache.Imports`, `FrontendAttrs["cache-imports"]` |
//! | `LLBBridge/Solve` | `CacheImports`, `FrontendOpt["cache-imports"]` |
//!
//! `cache-imports` is a JSON list of `{"Type": …, "Attrs": {…}}`. The other places for cache options
//! (`cache-from`, `ExportRefDeprecated`, …) name registries alone. Read in BuildKit v0.33.1:
//! `control.proto`, `gateway.proto`, `client/solve.go`, `frontend/dockerui/config.go`.

use serde_json::{Map, Value};

use super::attrs::{Attrs, Refusal};
use crate::auth::Purpose;
use crate::endpoints::control::grpc::wire;
use crate::endpoints::control::grpc::wire::{Edit, Field, Malformed};

/// A call that carries cache options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Solve {
    /// `moby.buildkit.v1.Control/Solve`: a build.
    Build,
    /// `moby.buildkit.v1.frontend.LLBBridge/Solve`: a step of a build that runs.
    Gateway,
    /// `moby.buildkit.v1.frontend.LLBBridge/Return`: the last step. Without options, but a replay needs it.
    Return,
}

/// Why a message was not rewritten.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// Not what it should be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// `cache-imports` is not a list of cache entries.
    #[error("malformed cache-imports: want a JSON list of {{\"Type\": string, \"Attrs\": {{string: string}}}}")]
    MalformedJson,
    /// An entry asks for what is not served.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A cache entry for buildkitd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `s3`, or another type that BuildKit knows.
    pub(crate) kind: &'static str,
    /// Its attributes.
    pub(crate) attrs: Attrs,
}

/// Says what becomes of a `type=s3` entry; `None` takes it out.
pub(crate) trait Decide: FnMut(Purpose, &Attrs) -> Option<Entry> {}

impl<F: FnMut(Purpose, &Attrs) -> Option<Entry>> Decide for F {}

const CACHE_IMPORTS: &[u8] = b"cache-imports";

impl Solve {
    /// The call of a path.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            "/moby.buildkit.v1.Control/Solve" => Some(Self::Build),
            "/moby.buildkit.v1.frontend.LLBBridge/Solve" => Some(Self::Gateway),
            "/moby.buildkit.v1.frontend.LLBBridge/Return" => Some(Self::Return),
            _ => None,
        }
    }

    /// Rewrites every `type=s3` entry as `decide` says. `None`: nothing was changed.
    pub(crate) fn rewrite(self, message: &[u8], mut decide: impl Decide) -> Result<Option<Vec<u8>>, Error> {
        wire::edit(message, |field| match (self, field.number, field.payload) {
            (Self::Build, 7, Some(attr)) | (Self::Gateway, 3, Some(attr)) => frontend_attr(attr, &mut decide),
            (Self::Build, 8, Some(options)) => Ok(cache_options(options, &mut decide)?.into()),
            (Self::Gateway, 12, Some(entry)) => cache_entry(entry, Purpose::Import, &mut decide),
            _ => Ok(Edit::Keep),
        })
    }
}

/// `SolveRequest.Ref`: the caller's name for the build.
pub(crate) fn reference(message: &[u8]) -> Result<String, Malformed> {
    last_text(message, 1)
}

/// `SolveRequest.Session`: the session that the build's client answers in.
pub(crate) fn session(message: &[u8]) -> Result<String, Malformed> {
    last_text(message, 5)
}

/// The attributes of every cache export of a `SolveRequest` that is no inline cache, in order.
pub(crate) fn exports(message: &[u8]) -> Result<Vec<Attrs>, Malformed> {
    let mut exports = Vec::new();
    for field in wire::fields(message) {
        let Field { number: 8, payload: Some(options), .. } = field? else { continue };
        for field in wire::fields(options) {
            if let Field { number: 4, payload: Some(entry), .. } = field?
                && wire::last(entry, 1)? != b"inline"
            {
                exports.push(attrs(entry)?);
            }
        }
    }
    Ok(exports)
}

/// Whether a `ReturnRequest` has an error (2) in place of a result.
pub(crate) fn is_failure(message: &[u8]) -> bool {
    wire::fields(message).any(|field| field.is_ok_and(|field| field.number == 2))
}

fn cache_options(options: &[u8], decide: &mut impl Decide) -> Result<Option<Vec<u8>>, Error> {
    wire::edit(options, |field| match (field.number, field.payload) {
        (4, Some(entry)) => cache_entry(entry, Purpose::Export, decide),
        (5, Some(entry)) => cache_entry(entry, Purpose::Import, decide),
        _ => Ok(Edit::Keep),
    })
}

/// A `CacheOptionsEntry`: `Type` (1) and the map `Attrs` (2).
fn cache_entry(entry: &[u8], purpose: Purpose, decide: &mut impl Decide) -> Result<Edit, Error> {
    if wire::last(entry, 1)? != b"s3" {
        return Ok(Edit::Keep);
    }
    let old = attrs(entry)?;
    let Some(Entry { kind, attrs: new }) = decide(purpose, &old) else { return Ok(Edit::Remove) };
    // Attributes that stay keep their bytes; the rest is written behind them.
    let kept = wire::edit(entry, |field| match (field.number, field.payload) {
        (1, Some(b"s3")) if kind != "s3" => Ok(Edit::Replace(kind.into())),
        (2, Some(attr)) => {
            let key = last_text(attr, 1)?;
            Ok::<_, Error>(if new.get(&key) == old.get(&key) { Edit::Keep } else { Edit::Remove })
        }
        _ => Ok(Edit::Keep),
    })?;
    let mut rewritten = kept.unwrap_or_else(|| entry.to_vec());
    for (key, value) in new.iter().filter(|(key, value)| old.get(*key) != Some(value)) {
        let mut attr = Vec::new();
        wire::put(&mut attr, 1, key.as_bytes());
        wire::put(&mut attr, 2, value.as_bytes());
        wire::put(&mut rewritten, 2, &attr);
    }
    Ok(Edit::Replace(rewritten))
}

/// The attributes of a `CacheOptionsEntry`.
fn attrs(entry: &[u8]) -> Result<Attrs, Malformed> {
    let mut attrs = Attrs::new();
    for field in wire::fields(entry) {
        if let Field { number: 2, payload: Some(attr), .. } = field? {
            attrs.insert(last_text(attr, 1)?, last_text(attr, 2)?);
        }
    }
    Ok(attrs)
}

/// One entry of the map of frontend attributes: the key (1) and the value (2).
fn frontend_attr(attr: &[u8], decide: &mut impl Decide) -> Result<Edit, Error> {
    if wire::last(attr, 1)? != CACHE_IMPORTS {
        return Ok(Edit::Keep);
    }
    let rewritten = wire::edit(attr, |field| match (field.number, field.payload) {
        (2, Some(json)) => Ok::<_, Error>(cache_imports(json, decide)?.into()),
        _ => Ok(Edit::Keep),
    })?;
    Ok(rewritten.into())
}

fn cache_imports(json: &[u8], decide: &mut impl Decide) -> Result<Option<Vec<u8>>, Error> {
    if json.is_empty() {
        return Ok(None);
    }
    let entries: Option<Vec<Value>> = serde_json::from_slice(json).map_err(|_| Error::MalformedJson)?;
    let mut changed = false;
    let mut kept = Vec::new();
    for entry in entries.unwrap_or_default() {
        match entry {
            Value::Object(mut entry) if is_s3(&entry) => {
                changed = true;
                if let Some(Entry { kind, attrs }) = decide(Purpose::Import, &take_attrs(&mut entry)?) {
                    for (_, value) in entry.iter_mut().filter(|(key, _)| folds_to(key, "Type")) {
                        *value = kind.into();
                    }
                    let attrs = attrs.into_iter().map(|(key, value)| (key, Value::String(value))).collect();
                    entry.insert("Attrs".to_owned(), Value::Object(attrs));
                    kept.push(Value::Object(entry));
                }
            }
            other => kept.push(other),
        }
    }
    Ok(changed.then(|| Value::Array(kept).to_string().into_bytes()))
}

/// Go matches JSON keys with folded case, and BuildKit reads this with Go.
fn folds_to(key: &str, name: &str) -> bool {
    key.replace('\u{17f}', "s").eq_ignore_ascii_case(name)
}

fn is_s3(entry: &Map<String, Value>) -> bool {
    entry.iter().any(|(key, value)| folds_to(key, "Type") && value == "s3")
}

/// Takes the attributes out of an entry, under whatever spelling of `Attrs`.
fn take_attrs(entry: &mut Map<String, Value>) -> Result<Attrs, Error> {
    let spellings: Vec<String> = entry.keys().filter(|key| folds_to(key, "Attrs")).cloned().collect();
    let mut attrs = Attrs::new();
    for spelling in spellings {
        match entry.remove(&spelling) {
            Some(Value::Object(given)) => {
                for (key, value) in given {
                    let Value::String(value) = value else { return Err(Error::MalformedJson) };
                    attrs.insert(key, value);
                }
            }
            Some(Value::Null) | None => {}
            Some(_) => return Err(Error::MalformedJson),
        }
    }
    Ok(attrs)
}

fn last_text(message: &[u8], number: u32) -> Result<String, Malformed> {
    std::str::from_utf8(wire::last(message, number)?).map(str::to_owned).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Unknown to every reader: a later BuildKit's field.
    const UNKNOWN: [u8; 6] = [0xda, 0x3f, 0x03, b'n', b'e', b'w'];

    fn text(number: u32, value: &str) -> Vec<u8> {
        let mut field = Vec::new();
        wire::put(&mut field, number, value.as_bytes());
        field
    }

    fn message(number: u32, parts: &[Vec<u8>]) -> Vec<u8> {
        let mut field = Vec::new();
        wire::put(&mut field, number, &parts.concat());
        field
    }

    fn pair(number: u32, key: &str, value: &str) -> Vec<u8> {
        message(number, &[text(1, key), text(2, value)])
    }

    fn fixed(purpose: Purpose, attrs: &Attrs) -> Option<Entry> {
        let mut new = attrs.clone();
        new.retain(|key, _| !key.contains("secret"));
        new.insert("for".to_owned(), format!("{purpose:?}"));
        Some(Entry { kind: "s3", attrs: new })
    }

    /// An entry of type s3 with more fields behind those that stay.
    fn entry(number: u32, more: &[Vec<u8>]) -> Vec<u8> {
        message(number, &[text(1, "s3"), pair(2, "mode", "max"), UNKNOWN.to_vec(), more.concat()])
    }

    /// A list of a registry entry, which stays, and an s3 entry.
    fn json(attrs: &str) -> String {
        format!(r#"[{{"Attrs":{{"secret":"x"}},"Type":"registry"}},{{"Attrs":{attrs},"New":[1],"Type":"s3"}}]"#)
    }

    #[test]
    fn every_entry_of_a_build_is_rewritten_and_all_else_survives() {
        let build = |export: &[Vec<u8>], import: &[Vec<u8>], attrs: &str| {
            let inline = message(5, &[text(1, "s3"), text(1, "inline"), pair(2, "secret", "x")]);
            [
                UNKNOWN.to_vec(),
                pair(7, "cache-imports", &json(attrs)),
                text(1, "not the ref"),
                message(8, &[UNKNOWN.to_vec(), entry(4, export)]),
                pair(7, "other", &json(r#"{"secret":"x"}"#)),
                // A second occurrence of a singular message is merged into the first, by every reader.
                message(8, &[entry(5, import), inline]),
                text(1, "ref"),
                // The value before the key, and the key twice: the last one counts.
                message(7, &[text(2, &json(attrs)), text(1, "x"), text(1, "cache-imports")]),
            ]
            .concat()
        };
        let secrets = [pair(2, "secret_access_key", "x"), message(2, &[text(2, "x"), UNKNOWN.to_vec(), text(1, "secret")])];
        let sent = build(&secrets, &secrets, r#"{"mode":"max","secret":"x"}"#);
        let wanted = build(&[pair(2, "for", "Export")], &[pair(2, "for", "Import")], r#"{"for":"Import","mode":"max"}"#);
        assert_eq!(Solve::Build.rewrite(&sent, fixed), Ok(Some(wanted)));
        assert_eq!(reference(&sent), Ok("ref".to_owned()));
        assert_eq!(Solve::Gateway.rewrite(&sent, fixed), Ok(None));
    }

    #[test]
    fn a_gateway_call_is_rewritten_in_its_own_fields() {
        let call = |import: &[Vec<u8>], attrs: &str| {
            [entry(12, import), pair(3, "cache-imports", &json(attrs)), pair(3, "filename", "Dockerfile"), UNKNOWN.to_vec()].concat()
        };
        let sent = call(&[pair(2, "secret", "x")], r#"{"secret":"x"}"#);
        let wanted = call(&[pair(2, "for", "Import")], r#"{"for":"Import"}"#);
        assert_eq!(Solve::Gateway.rewrite(&sent, fixed), Ok(Some(wanted)));
        let without = [pair(3, "cache-imports", r#"[{"Attrs":{"secret":"x"},"Type":"registry"}]"#), pair(3, "filename", "Dockerfile")];
        let sent = [entry(12, &[]), without[0].clone(), without[1].clone()].concat();
        assert_eq!(Solve::Gateway.rewrite(&sent, |_, _| None), Ok(Some(without.concat())));
    }

    #[test]
    fn an_entry_may_become_one_of_another_type() {
        let local = |_: Purpose, _: &Attrs| Some(Entry { kind: "local", attrs: Attrs::from([("src".to_owned(), "x".to_owned())]) });
        let wanted = message(12, &[text(1, "local"), UNKNOWN.to_vec(), pair(2, "src", "x")]);
        assert_eq!(Solve::Gateway.rewrite(&entry(12, &[]), local), Ok(Some(wanted)));
        let rewritten = Solve::Gateway.rewrite(&pair(3, "cache-imports", r#"[{"type":"s3","Attrs":{}}]"#), local);
        assert_eq!(rewritten, Ok(Some(pair(3, "cache-imports", r#"[{"Attrs":{"src":"x"},"type":"local"}]"#))));
    }

    #[test]
    fn what_go_would_read_as_an_s3_entry_is_one() {
        for spelled in [r#"[{"type":"s3","attrs":{"secret":"x"}}]"#, r#"[{"TYPE":"s3","Attr\u017f":{"secret":"x"},"attrs":null}]"#] {
            let rewritten = Solve::Gateway.rewrite(&pair(3, "cache-imports", spelled), fixed).unwrap().unwrap();
            let rewritten = String::from_utf8_lossy(&rewritten).into_owned();
            assert!(rewritten.contains(r#""Attrs":{"for":"Import"}"#) && !rewritten.contains("secret"), "{rewritten}");
        }
    }

    #[test]
    fn other_lists_keep_their_bytes_and_malformed_ones_are_refused() {
        for json in ["", "null", " [ ]", r#"[ null, {"Type": "gha"} , 7]"#] {
            assert_eq!(Solve::Gateway.rewrite(&pair(3, "cache-imports", json), fixed), Ok(None), "{json}");
        }
        let deep = "[".repeat(100_000);
        for json in ["{}", "[", r#"[{"Type":"s3","Attrs":{"secret":1}}]"#, r#"[{"Type":"s3","Attrs":[]}]"#, &deep] {
            assert_eq!(Solve::Gateway.rewrite(&pair(3, "cache-imports", json), fixed), Err(Error::MalformedJson), "{json:.40}");
        }
        let bad_text = message(12, &[text(1, "s3"), message(2, &[text(1, "k"), vec![0x12, 0x01, 0xff]])]);
        assert_eq!(Solve::Gateway.rewrite(&bad_text, fixed), Err(Error::Malformed(Malformed)));
        assert_eq!(Solve::Build.rewrite(&message(8, &[vec![0x22, 0x7f]]), fixed), Err(Error::Malformed(Malformed)));
    }

    /// Fields that no reader of cache options looks at.
    fn fields() -> impl Strategy<Value = Vec<u8>> {
        let field = (13..1000u32, prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(number, payload)| message(number, &[payload]));
        prop::collection::vec(field, 0..5).prop_map(|fields| fields.concat())
    }

    proptest! {
        #[test]
        fn cut_and_damaged_messages_never_panic(cut in 0..200usize, at in 0..200usize, byte: u8, solve in prop::sample::select(&[Solve::Build, Solve::Gateway][..])) {
            let whole = [text(1, "ref"), pair(7, "cache-imports", &json("{}")), message(8, &[entry(4, &[])]), entry(12, &[]), pair(3, "cache-imports", "[]")].concat();
            let mut damaged = whole[..cut.min(whole.len())].to_vec();
            if let Some(place) = damaged.get_mut(at) {
                *place = byte;
            }
            let _ = solve.rewrite(&damaged, fixed);
        }

        #[test]
        fn bytes_around_an_entry_are_kept(before in fields(), after in fields()) {
            let around = |entry: Vec<u8>| [&before[..], &entry, &after].concat();
            let rewritten = Solve::Gateway.rewrite(&around(entry(12, &[pair(2, "secret", "x")])), fixed);
            prop_assert_eq!(rewritten, Ok(Some(around(entry(12, &[pair(2, "for", "Import")])))));
        }

        #[test]
        fn messages_without_s3_entries_are_not_changed(parts in prop::collection::vec((1..20u32, prop::collection::vec(any::<u8>(), 0..20)), 0..10)) {
            let message: Vec<u8> = parts.iter().filter(|(_, payload)| !payload.windows(2).any(|pair| pair == b"s3"))
                .flat_map(|(number, payload)| { let mut field = Vec::new(); wire::put(&mut field, *number, payload); field }).collect();
            for solve in [Solve::Build, Solve::Gateway] {
                prop_assert!(matches!(solve.rewrite(&message, fixed), Ok(None) | Err(Error::Malformed(_) | Error::MalformedJson)));
            }
        }
    }
}
