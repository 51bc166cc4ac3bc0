//! What is wrong with a configuration.

/// A configuration that cannot be used: one line for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    pub(super) fn new(message: impl AsRef<str>) -> Self {
        // Parsers' messages may have several lines.
        Self(message.as_ref().split_whitespace().collect::<Vec<_>>().join(" "))
    }
}
