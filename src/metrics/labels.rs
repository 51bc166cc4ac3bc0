//! The labels of metrics, and the values that they have.

use std::fmt::{self, Write as _};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// A closed set of label values, each printed as the text beside it.
macro_rules! label_values {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                encoder.write_str(match self { $(Self::$variant => $text,)* })
            }
        }
    };
}

label_values! {
    /// Which endpoint a number is about.
    Endpoint {
        /// The proxy of buildkitd's API.
        Control => "control",
        /// gRPC.
        Content => "content",
        /// S3.
        S3 => "s3",
    }
}

label_values! {
    /// How a request ended.
    Class {
        /// It did what was asked.
        Ok => "ok",
        /// What was asked for is not there.
        Miss => "miss",
        /// The caller may not, or asked for what cannot be.
        Refused => "refused",
        /// remora or its store failed.
        Failed => "failed",
    }
}

label_values! {
    /// What was looked up.
    Kind {
        /// A blob.
        Blob => "blob",
        /// A manifest.
        Manifest => "manifest",
    }
}

label_values! {
    /// How the bytes of a build's cache are transferred.
    Transport {
        /// Over HTTP, through the s3 endpoint.
        Relay => "relay",
        /// Over gRPC, through the build's session.
        Session => "session",
    }
}

label_values! {
    /// Why a call to the store was retried.
    Retry {
        /// It got no answer, or the store failed.
        Unavailable => "unavailable",
        /// The store was throttling.
        Throttled => "throttled",
        /// It was signed with something that is no longer valid.
        Denied => "denied",
    }
}

label_values! {
    /// How the second request for a slow range ended.
    HedgeOutcome {
        /// It was the first to bring what the reader waited for.
        Won => "won",
        /// The first request was faster after all, or the reader stopped reading.
        Lost => "lost",
    }
}

/// Whether calls to a store are made; the gauge shows it as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// 0: calls are made.
    Closed,
    /// 1: a probe finds out whether the store answers.
    HalfOpen,
    /// 2: calls fail at once.
    Open,
}

impl BreakerState {
    /// Its name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half open",
            Self::Open => "open",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StoreLabels {
    pub(super) store: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RetryLabels {
    pub(super) store: String,
    pub(super) reason: Retry,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) endpoint: Endpoint,
    pub(super) operation: &'static str,
    pub(super) class: Class,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LookupLabels {
    pub(super) endpoint: Endpoint,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EndpointLabels {
    pub(super) endpoint: Endpoint,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HedgeLabels {
    pub(super) outcome: HedgeOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BuildLabels {
    pub(super) transport: Transport,
}
