//! Secrets. They are read from a file of their own or from the environment, never from the configuration file or a command
//! line.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use secrecy::SecretString;

use super::error::Error;

/// No secret is longer. A longer file is not a secret.
const MAX_BYTES: usize = 64 << 10;
const OTHERS_MAY_READ: u32 = 0o004;

/// Reads secrets, and collects warnings about where they are.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    pub(super) warnings: Vec<String>,
}

impl Secrets {
    /// The secret in the file that `key` names, without the white space around it.
    pub(super) fn read_file(&mut self, key: &str, path: &Path) -> Result<SecretString, Error> {
        let failed = |what: &str| Error::new(format!("{key}: cannot read the secret in {}: {what}", path.display()));
        let text = std::fs::read(path).map_err(|error| failed(&error.to_string()))?;
        let mode = std::fs::metadata(path).map_err(|error| failed(&error.to_string()))?.permissions().mode();
        if mode & OTHERS_MAY_READ != 0 {
            self.warnings.push(format!("{key}: every user of this machine may read {}; chmod 0600 keeps it to its owner", path.display()));
        }
        let text = String::from_utf8(text).ok().filter(|text| text.len() <= MAX_BYTES).ok_or_else(|| failed("want a short text"))?;
        let secret = text.trim();
        if secret.is_empty() { Err(failed("it is empty")) } else { Ok(secret.into()) }
    }

    /// The secret in the variable that `key` names.
    #[expect(clippy::unused_self, clippy::disallowed_methods, reason = "beside read_file; the configuration reads the environment")]
    pub(super) fn read_variable(&self, key: &str, variable: &str) -> Result<SecretString, Error> {
        match std::env::var(variable) {
            Ok(secret) if !secret.is_empty() => Ok(secret.into()),
            _ => Err(Error::new(format!("{key}: the environment has no variable {variable:?} with a secret in it"))),
        }
    }

    /// The secret from the file or from the variable. Exactly one of the two must be given.
    pub(super) fn required(&mut self, table: &str, file: Option<&Path>, variable: Option<&str>) -> Result<SecretString, Error> {
        match (file, variable) {
            (Some(path), None) => self.read_file(&format!("{table}.secret_access_key_file"), path),
            (None, Some(variable)) => self.read_variable(&format!("{table}.secret_access_key_env"), variable),
            _ => Err(Error::new(format!("{table}: want one of secret_access_key_file and secret_access_key_env"))),
        }
    }
}
