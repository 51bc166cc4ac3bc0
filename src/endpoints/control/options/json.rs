//! The cache options that stand as JSON in a frontend attribute: a list of `{"Type": …, "Attrs": {…}}`.

use serde_json::{Map, Value};

use super::attrs::Attrs;
use super::entry::{CacheEntry, EntryId};
use super::error::MalformedOptions;

/// One element of the list.
#[derive(Debug)]
pub(super) enum Element {
    /// Something that stays.
    Other(Value),
    /// A `type=s3` entry, without its attributes.
    Entry(EntryId, Map<String, Value>),
}

/// Takes a list apart; `found` is told the attributes of each `type=s3` entry. `None`: there is none.
pub(super) fn find(json: &[u8], mut found: impl FnMut(Attrs) -> EntryId) -> Result<Option<Vec<Element>>, MalformedOptions> {
    if json.is_empty() {
        return Ok(None);
    }
    let list: Option<Vec<Value>> = serde_json::from_slice(json).map_err(|_| MalformedOptions::Json)?;
    let mut has_entries = false;
    let mut elements = Vec::new();
    for element in list.unwrap_or_default() {
        elements.push(match element {
            Value::Object(mut entry) if is_s3(&entry) => {
                has_entries = true;
                Element::Entry(found(take_attrs(&mut entry)?), entry)
            }
            other => Element::Other(other),
        });
    }
    Ok(has_entries.then_some(elements))
}

/// Puts a list together again. `decided` says what takes the place of each entry.
pub(super) fn splice<'a>(list: &[Element], decided: impl Fn(EntryId) -> Option<&'a CacheEntry>) -> Vec<u8> {
    let spliced = list.iter().filter_map(|element| match element {
        Element::Other(other) => Some(other.clone()),
        Element::Entry(id, entry) => decided(*id).map(|new| replaced(entry.clone(), new)),
    });
    Value::Array(spliced.collect()).to_string().into_bytes()
}

fn replaced(mut entry: Map<String, Value>, new: &CacheEntry) -> Value {
    for (_, value) in entry.iter_mut().filter(|(key, _)| folds_to(key, "Type")) {
        *value = new.kind.into();
    }
    let attrs = new.attrs.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect();
    entry.insert("Attrs".to_owned(), Value::Object(attrs));
    Value::Object(entry)
}

/// Go matches JSON keys with folded case, and BuildKit reads this with Go.
fn folds_to(key: &str, name: &str) -> bool {
    key.replace('\u{17f}', "s").eq_ignore_ascii_case(name)
}

fn is_s3(entry: &Map<String, Value>) -> bool {
    entry.iter().any(|(key, value)| folds_to(key, "Type") && value == "s3")
}

/// Takes the attributes out of an entry, under whatever spelling of `Attrs`.
fn take_attrs(entry: &mut Map<String, Value>) -> Result<Attrs, MalformedOptions> {
    let spellings: Vec<String> = entry.keys().filter(|key| folds_to(key, "Attrs")).cloned().collect();
    let mut attrs = Attrs::new();
    for spelling in spellings {
        match entry.remove(&spelling) {
            Some(Value::Object(given)) => {
                for (key, value) in given {
                    let Value::String(value) = value else { return Err(MalformedOptions::Json) };
                    attrs.insert(key, value);
                }
            }
            Some(Value::Null) | None => {}
            Some(_) => return Err(MalformedOptions::Json),
        }
    }
    Ok(attrs)
}
