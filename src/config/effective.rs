//! Prints the effective configuration as TOML that could be read again, with the origin of each value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use toml::{Table, Value};

use super::error::Error;
use super::file::File;

/// Keys that say where a secret is. The secret has been read and is not shown.
const SECRETS: [&str; 4] = ["secret_access_key_file", "secret_access_key_env", "session_token_env", "token_file"];

/// Prints `file`, which was read from `path`. `origins` says by what a key was overridden.
pub(super) fn print(file: &File, path: Option<&Path>, origins: &BTreeMap<&'static str, String>) -> Result<String, Error> {
    let bug = |error: &dyn std::fmt::Display| Error::new(format!("cannot print the configuration: {error}"));
    let table = Table::try_from(file).map_err(|error| bug(&error))?;
    let mut written = BTreeSet::new();
    if let Some(path) = path {
        let text = std::fs::read_to_string(path).map_err(|error| bug(&error))?;
        collect(&text.parse::<Table>().map_err(|error| bug(&error))?, "", &mut written);
    }
    let printer = Printer { file: path.map(|path| path.display().to_string()), written, origins };
    let mut text = String::new();
    printer.table(&mut text, &table, "", "").map_err(|error| bug(&error))?;
    Ok(text)
}

/// Collects the dotted keys that a file sets.
fn collect(table: &Table, prefix: &str, into: &mut BTreeSet<String>) {
    for (key, value) in table {
        let dotted = format!("{prefix}{key}");
        if let Value::Table(inner) = value {
            collect(inner, &format!("{dotted}."), into);
        }
        into.insert(dotted);
    }
}

struct Printer<'a> {
    file: Option<String>,
    written: BTreeSet<String>,
    origins: &'a BTreeMap<&'static str, String>,
}

impl Printer<'_> {
    /// Prints scalars first and then tables, as TOML requires. `within` is the key of the array of tables around `table`.
    fn table(&self, text: &mut String, table: &Table, prefix: &str, within: &str) -> std::fmt::Result {
        let is_tables = |value: &Value| value.as_array().is_some_and(|array| array.first().is_some_and(Value::is_table));
        for (key, value) in table.iter().filter(|(_, value)| !value.is_table() && !is_tables(value)) {
            let origin = self.origin(&format!("{prefix}{key}"), within);
            let secret = if SECRETS.contains(&key.as_str()) { "; the secret: ***" } else { "" };
            writeln!(text, "{key} = {value}  # {origin}{secret}")?;
        }
        for (key, value) in table {
            let dotted = format!("{prefix}{key}");
            match value {
                Value::Table(inner) if !inner.is_empty() => {
                    writeln!(text, "\n[{dotted}]")?;
                    self.table(text, inner, &format!("{dotted}."), within)?;
                }
                Value::Array(array) if is_tables(value) => {
                    for inner in array.iter().filter_map(Value::as_table) {
                        writeln!(text, "\n[[{dotted}]]")?;
                        self.table(text, inner, &format!("{dotted}."), &dotted)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn origin(&self, dotted: &str, within: &str) -> &str {
        let set_by_file = if within.is_empty() { self.written.contains(dotted) } else { self.written.contains(within) };
        match (self.origins.get(dotted), &self.file) {
            (Some(origin), _) => origin,
            (None, Some(file)) if set_by_file => file,
            _ => "default",
        }
    }
}
