//! Why the cache options of a call cannot be read.

use crate::endpoints::control::grpc::wire::Malformed;

/// Why no entries were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MalformedOptions {
    /// The message is no protobuf.
    #[error(transparent)]
    Protobuf(#[from] Malformed),
    /// `cache-imports` is not a list of cache entries.
    #[error("malformed cache-imports: want a JSON list of {{\"Type\": string, \"Attrs\": {{string: string}}}}")]
    Json,
}
