//! The traces that clients send to buildkitd, without the credentials in them.
//!
//! buildctl puts its whole command line in the trace of a build (`cmd/buildctl/main.go`, BuildKit v0.33), and buildkitd
//! keeps traces beside the build's record. Credentials that were typed as parameters of a cache would be kept there.
//! They are masked on the way, and every other byte stays.

use http::Request;
use http::request::Parts;

use crate::endpoints::control::grpc::message::{self, Unary};
use crate::endpoints::control::grpc::wire::{self, Edit, Malformed};
use crate::endpoints::control::proxy::RequestBody;

/// The path of the call by which clients send traces.
pub(crate) const EXPORT_TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The fields that lead from an `ExportTraceServiceRequest` to text (`opentelemetry/proto/trace/v1`):
/// attributes of resources (1, 1, 1), of spans (1, 2, 2, 9) and of their events (1, 2, 2, 11, 3), each a
/// value (2) that is a text (1) or a list (5) of texts (1, 1).
const TEXTS: [&[u32]; 6] = [
    &[1, 1, 1, 2, 1],
    &[1, 1, 1, 2, 5, 1, 1],
    &[1, 2, 2, 9, 2, 1],
    &[1, 2, 2, 9, 2, 5, 1, 1],
    &[1, 2, 2, 11, 3, 2, 1],
    &[1, 2, 2, 11, 3, 2, 5, 1, 1],
];
/// The parameters whose values are masked.
const SECRETS: [&str; 3] = ["access_key_id=", "secret_access_key=", "session_token="];
const MASK: &str = "***";

/// The request of a client's export of traces, with its secrets masked.
pub(crate) fn masked(head: Parts, unary: Unary) -> Request<RequestBody> {
    match without_secrets(&unary.message).and_then(|message| message::frame(&message)) {
        Some(frame) => RequestBody::in_place(head, frame),
        None => Request::from_parts(head, RequestBody::Whole(unary.frame)),
    }
}

/// The message with its secrets masked; `None`: there are none. A malformed message is left for buildkitd to refuse.
fn without_secrets(message: &[u8]) -> Option<Vec<u8>> {
    TEXTS.into_iter().fold(None, |masked: Option<Vec<u8>>, path| {
        let again = mask_at(masked.as_deref().unwrap_or(message), path).ok().flatten();
        again.or(masked)
    })
}

/// Masks the texts that `path` leads to.
fn mask_at(message: &[u8], path: &[u32]) -> Result<Option<Vec<u8>>, Malformed> {
    let Some((number, rest)) = path.split_first() else {
        return Ok(std::str::from_utf8(message).ok().and_then(mask).map(String::into_bytes));
    };
    wire::edit(message, |field| match field.payload {
        Some(payload) if field.number == *number => Ok(mask_at(payload, rest)?.into()),
        _ => Ok(Edit::Keep),
    })
}

/// Masks the value of each parameter. A value ends before the next parameter, before the next argument, or at the end of
/// a quotation.
fn mask(text: &str) -> Option<String> {
    let masked = SECRETS.into_iter().fold(text.to_owned(), |text, name| {
        let mut parts = text.split(name);
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |masked, part| {
            let end = part.find([',', ' ', '"', '\'', '\n']).unwrap_or(part.len());
            masked + name + MASK + &part[end..]
        })
    });
    (masked != text).then_some(masked)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with `text` where `path` leads, beside fields that no reader knows.
    fn nested(path: &[u32], text: &str) -> Vec<u8> {
        path.iter().rev().fold(text.as_bytes().to_vec(), |inner, &number| {
            let mut message = Vec::new();
            wire::put(&mut message, 900, b"session_token=stays");
            wire::put(&mut message, number, &inner);
            message
        })
    }

    #[test]
    fn values_of_credentials_are_masked() {
        let sent = "buildctl build --export-cache type=s3,access_key_id=AKIA,secret_access_key=a/b+c=,session_token=x --no-cache";
        let kept = "buildctl build --export-cache type=s3,access_key_id=***,secret_access_key=***,session_token=*** --no-cache";
        assert_eq!(mask(sent).as_deref(), Some(kept));
        assert_eq!(mask("\"secret_access_key=x\"").as_deref(), Some("\"secret_access_key=***\""));
        assert_eq!(mask("session_token=").as_deref(), Some("session_token=***"));
        assert_eq!(mask("buildctl build"), None);
    }

    #[test]
    fn every_text_of_a_trace_is_masked_and_nothing_else() {
        for path in TEXTS {
            assert_eq!(without_secrets(&nested(path, "session_token=x,y")), Some(nested(path, "session_token=***,y")), "{path:?}");
            assert_eq!(without_secrets(&nested(path, "y")), None);
        }
        let both = [nested(TEXTS[0], "session_token=x"), nested(TEXTS[3], "session_token=x")].concat();
        let masked = [nested(TEXTS[0], "session_token=***"), nested(TEXTS[3], "session_token=***")].concat();
        assert_eq!(without_secrets(&both), Some(masked));
        assert_eq!(without_secrets(b"\xff"), None);
    }
}
