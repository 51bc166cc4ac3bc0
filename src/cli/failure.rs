//! How a command can fail.

/// Why a command ended without doing its work.
#[derive(Debug)]
pub(super) enum Failure {
    /// Wrong flags or a wrong configuration.
    Usage(String),
    /// Everything else.
    Failed(anyhow::Error),
    /// The command has already said what is wrong.
    Said,
}

impl From<crate::config::Error> for Failure {
    fn from(error: crate::config::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<crate::cache::Error> for Failure {
    fn from(error: crate::cache::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}
