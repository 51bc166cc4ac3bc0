//! The one error of every parser in this layer.

/// A value that was refused: what it was for, what it was, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {value:?}: {allowed}")]
pub struct Invalid {
    what: &'static str,
    value: String,
    allowed: &'static str,
}

/// Longer values are shortened in messages, so that a hostile value cannot fill the log.
const SHOWN_CHARS: usize = 128;

impl Invalid {
    /// Refuses `value` as a `what`; `allowed` says what would have been accepted.
    #[must_use]
    pub fn new(what: &'static str, value: &str, allowed: &'static str) -> Self {
        let mut shown: String = value.chars().take(SHOWN_CHARS).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self { what, value: shown, allowed }
    }
}
