//! The cache config against BuildKit's own Go types, and against fields that nobody knows yet.

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use remora::cache::CacheConfig;
use serde_json::{Map, Value, json};

use crate::support::tools::tool;

fn printed_back(document: &str) -> Value {
    let config: CacheConfig = serde_json::from_str(document).unwrap_or_else(|error| panic!("{error}: {document}"));
    serde_json::to_value(&config).unwrap()
}

#[test]
fn whatever_buildkits_types_write_is_printed_back_equal() {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let output =
        Command::new(tool("go")).current_dir(module).args(["run", "./cmd/cacheconfigs", "-n", "1000", "-seed", "7"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let documents = String::from_utf8(output.stdout).unwrap();
    let mut count = 0;
    let mut seen = String::new();
    for document in documents.lines() {
        assert_eq!(printed_back(document), serde_json::from_str::<Value>(document).unwrap(), "{document}");
        count += 1;
        seen.push_str(document);
    }
    assert_eq!(count, 1000);
    // The generator reached the odd corners.
    for corner in [
        r#""chains":[{"layers":null"#,
        r#""layers":[]"#,
        r#""inputs":[null"#,
        r#""parent":-1"#,
        r#"0001-01-01T00:00:00Z"#,
        r#"9223372036854775807"#,
        r#"-9223372036854775808"#,
        r#"\u003cc\u003e"#,
        r#"\u2028"#,
        "🐋",
        "\n{}\n",
    ] {
        assert!(seen.contains(corner) || documents.contains(corner), "no {corner}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1000i32..1000).prop_map(|number| Value::from(f64::from(number) / 8.0)),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,8}", inner, 0..4).prop_map(|map| Value::from(Map::from_iter(map))),
        ]
    })
}

/// `known`, with some fields that no version has yet.
fn extended(known: Value, extra: impl IntoIterator<Item = (String, Value)>) -> Value {
    let Value::Object(mut fields) = known else { unreachable!() };
    fields.extend(extra);
    Value::from(fields)
}

fn extra() -> impl Strategy<Value = Vec<(String, Value)>> {
    prop::collection::vec(("x-[a-zA-Zü]{1,6}", any_json()), 0..3)
}

prop_compose! {
    fn any_config()(top in extra(), layer in extra(), annotations in extra(), record in extra(), result in extra(), chain in extra(),
                    input in extra(), blob in "[a-z0-9:]{1,20}", parent in -5i64..-1, index in any::<i64>(), selector in ".{1,8}") -> Value {
        let at = "2024-05-06T07:08:09.123456789+02:00";
        let annotations = extended(json!({ "mediaType": "m", "diffID": blob, "size": 1, "createdAt": at }), annotations);
        let layer = extended(json!({ "blob": blob, "parent": parent, "annotations": annotations }), layer);
        let result = extended(json!({ "layer": index, "createdAt": at }), result);
        let chain = extended(json!({ "layers": [index, 0], "createdAt": at }), chain);
        let input = extended(json!({ "selector": selector, "link": index }), input);
        let record = extended(json!({ "layers": [result], "chains": [chain], "digest": blob, "inputs": [[input], null, []] }), record);
        extended(json!({ "layers": [layer], "records": [record] }), top)
    }
}

proptest! {
    #[test]
    fn fields_that_nobody_knows_yet_survive(config in any_config()) {
        prop_assert_eq!(printed_back(&config.to_string()), config);
    }
}
