//! Whole messages, as they enter and as they leave.

use proptest::prelude::*;

use super::error::MalformedOptions;
use super::*;
use crate::auth::Purpose;
use crate::endpoints::control::grpc::wire::{self, Malformed};
use crate::types::{Durability, Scope};

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

/// Decides about every entry, whatever it asks for.
fn decided(options: &CacheOptions<'_>, decide: impl Fn(Purpose, &Attrs) -> Option<CacheEntry>) -> Vec<Decision> {
    let target = || Target {
        scope: Scope::new("bucket".parse().unwrap(), "").unwrap(),
        region: String::new(),
        names: Vec::new(),
        durability: Durability::Local,
    };
    options.entries().iter().map(|found| found.becomes(target(), decide(found.purpose, &found.attrs))).collect()
}

/// Finds, decides and splices, as a client's calls are treated.
fn rewrite(
    call: SolveCall,
    message: &[u8],
    decide: impl Fn(Purpose, &Attrs) -> Option<CacheEntry>,
) -> Result<Option<Vec<u8>>, MalformedOptions> {
    let options = CacheOptions::find(call, message)?;
    Ok(options.splice(&decided(&options, decide))?)
}

fn fixed(purpose: Purpose, attrs: &Attrs) -> Option<CacheEntry> {
    let mut new = attrs.clone();
    new.retain(|key, _| !key.contains("secret"));
    new.insert("for".to_owned(), format!("{purpose:?}"));
    Some(CacheEntry { kind: "s3", attrs: new })
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
    assert_eq!(rewrite(SolveCall::Build, &sent, fixed), Ok(Some(wanted)));
    assert_eq!(build_reference(&sent), Ok("ref".to_owned()));
    assert_eq!(rewrite(SolveCall::Gateway, &sent, fixed), Ok(None));
}

#[test]
fn a_gateway_call_is_rewritten_in_its_own_fields() {
    let call = |import: &[Vec<u8>], attrs: &str| {
        [entry(12, import), pair(3, "cache-imports", &json(attrs)), pair(3, "filename", "Dockerfile"), UNKNOWN.to_vec()].concat()
    };
    let sent = call(&[pair(2, "secret", "x")], r#"{"secret":"x"}"#);
    let wanted = call(&[pair(2, "for", "Import")], r#"{"for":"Import"}"#);
    assert_eq!(rewrite(SolveCall::Gateway, &sent, fixed), Ok(Some(wanted)));
    let without = [pair(3, "cache-imports", r#"[{"Attrs":{"secret":"x"},"Type":"registry"}]"#), pair(3, "filename", "Dockerfile")];
    let sent = [entry(12, &[]), without[0].clone(), without[1].clone()].concat();
    assert_eq!(rewrite(SolveCall::Gateway, &sent, |_, _| None), Ok(Some(without.concat())));
}

#[test]
fn an_entry_may_become_one_of_another_type() {
    let local = |_: Purpose, _: &Attrs| Some(CacheEntry { kind: "local", attrs: Attrs::from([("src".to_owned(), "x".to_owned())]) });
    let wanted = message(12, &[text(1, "local"), UNKNOWN.to_vec(), pair(2, "src", "x")]);
    assert_eq!(rewrite(SolveCall::Gateway, &entry(12, &[]), local), Ok(Some(wanted)));
    let rewritten = rewrite(SolveCall::Gateway, &pair(3, "cache-imports", r#"[{"type":"s3","Attrs":{}}]"#), local);
    assert_eq!(rewritten, Ok(Some(pair(3, "cache-imports", r#"[{"Attrs":{"src":"x"},"type":"local"}]"#))));
}

#[test]
fn a_message_without_imports_keeps_its_exports() {
    let without_imports = |sent: &[u8]| {
        let options = CacheOptions::find(SolveCall::Build, sent).unwrap();
        options.splice_without_imports(&decided(&options, fixed)).unwrap()
    };
    let sent = [pair(7, "cache-imports", &json("{}")), message(8, &[entry(5, &[]), entry(4, &[])]), UNKNOWN.to_vec()].concat();
    let registry = r#"[{"Attrs":{"secret":"x"},"Type":"registry"}]"#;
    let wanted = [pair(7, "cache-imports", registry), message(8, &[entry(4, &[pair(2, "for", "Export")])]), UNKNOWN.to_vec()].concat();
    assert_eq!(without_imports(&sent), Some(wanted));
    assert_eq!(without_imports(&message(8, &[entry(4, &[])])), None);
}

#[test]
fn an_entry_that_nothing_was_decided_for_is_taken_out() {
    let sent = [entry(12, &[]), UNKNOWN.to_vec()].concat();
    let options = CacheOptions::find(SolveCall::Gateway, &sent).unwrap();
    assert_eq!(options.splice(&[]), Ok(Some(UNKNOWN.to_vec())));
}

#[test]
fn what_go_would_read_as_an_s3_entry_is_one() {
    for spelled in [r#"[{"type":"s3","attrs":{"secret":"x"}}]"#, r#"[{"TYPE":"s3","Attr\u017f":{"secret":"x"},"attrs":null}]"#] {
        let rewritten = rewrite(SolveCall::Gateway, &pair(3, "cache-imports", spelled), fixed).unwrap().unwrap();
        let rewritten = String::from_utf8_lossy(&rewritten).into_owned();
        assert!(rewritten.contains(r#""Attrs":{"for":"Import"}"#) && !rewritten.contains("secret"), "{rewritten}");
    }
}

#[test]
fn other_lists_keep_their_bytes_and_malformed_ones_are_refused() {
    for json in ["", "null", " [ ]", r#"[ null, {"Type": "gha"} , 7]"#] {
        assert_eq!(rewrite(SolveCall::Gateway, &pair(3, "cache-imports", json), fixed), Ok(None), "{json}");
    }
    let deep = "[".repeat(100_000);
    for json in ["{}", "[", r#"[{"Type":"s3","Attrs":{"secret":1}}]"#, r#"[{"Type":"s3","Attrs":[]}]"#, &deep] {
        assert_eq!(rewrite(SolveCall::Gateway, &pair(3, "cache-imports", json), fixed), Err(MalformedOptions::Json), "{json:.40}");
    }
    let bad_text = message(12, &[text(1, "s3"), message(2, &[text(1, "k"), vec![0x12, 0x01, 0xff]])]);
    assert_eq!(rewrite(SolveCall::Gateway, &bad_text, fixed), Err(MalformedOptions::Protobuf(Malformed)));
    assert_eq!(rewrite(SolveCall::Build, &message(8, &[vec![0x22, 0x7f]]), fixed), Err(MalformedOptions::Protobuf(Malformed)));
}

/// Fields that no reader of cache options looks at.
fn fields() -> impl Strategy<Value = Vec<u8>> {
    let field = (13..1000u32, prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(number, payload)| message(number, &[payload]));
    prop::collection::vec(field, 0..5).prop_map(|fields| fields.concat())
}

proptest! {
    #[test]
    fn cut_and_damaged_messages_never_panic(cut in 0..200usize, at in 0..200usize, byte: u8, solve in prop::sample::select(&[SolveCall::Build, SolveCall::Gateway][..])) {
        let whole = [text(1, "ref"), pair(7, "cache-imports", &json("{}")), message(8, &[entry(4, &[])]), entry(12, &[]), pair(3, "cache-imports", "[]")].concat();
        let mut damaged = whole[..cut.min(whole.len())].to_vec();
        if let Some(place) = damaged.get_mut(at) {
            *place = byte;
        }
        let _ = rewrite(solve, &damaged, fixed);
    }

    #[test]
    fn bytes_around_an_entry_are_kept(before in fields(), after in fields()) {
        let around = |entry: Vec<u8>| [&before[..], &entry, &after].concat();
        let rewritten = rewrite(SolveCall::Gateway, &around(entry(12, &[pair(2, "secret", "x")])), fixed);
        prop_assert_eq!(rewritten, Ok(Some(around(entry(12, &[pair(2, "for", "Import")])))));
    }

    #[test]
    fn messages_without_s3_entries_are_not_changed(parts in prop::collection::vec((1..20u32, prop::collection::vec(any::<u8>(), 0..20)), 0..10)) {
        let message: Vec<u8> = parts.iter().filter(|(_, payload)| !payload.windows(2).any(|pair| pair == b"s3"))
            .flat_map(|(number, payload)| { let mut field = Vec::new(); wire::put(&mut field, *number, payload); field }).collect();
        for solve in [SolveCall::Build, SolveCall::Gateway] {
            prop_assert!(matches!(rewrite(solve, &message, fixed), Ok(None) | Err(MalformedOptions::Protobuf(_) | MalformedOptions::Json)));
        }
    }
}
