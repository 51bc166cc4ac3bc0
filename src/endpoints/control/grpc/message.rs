//! gRPC messages, of unary calls and of streams. Each has a flag for compression and a length of four bytes before it
//! (`PROTOCOL-HTTP2.md` of gRPC). buildctl and buildx do not compress; other clients may.

use std::io::Read as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tonic::Status;

/// The flag and the length.
const PREFIX_BYTES: usize = 5;
/// The largest message of a stream that is held until it is whole. buildkitd's messages of progress have little over
/// 1 MiB.
const MAX_HELD_BYTES: usize = 4 << 20;

/// A unary call's message.
#[derive(Debug)]
pub(crate) struct Unary {
    /// With its prefix, as it came.
    pub(crate) frame: Bytes,
    /// Without it, and without compression.
    pub(crate) message: Bytes,
}

/// Changes messages of a stream, in whatever chunks they arrive. A message that is compressed, or larger than 4 MiB,
/// passes as it is.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// The beginning of a message.
    partial: BytesMut,
    /// Bytes that are still to come of a message that passes as it is.
    passing: usize,
}

/// Why there is no message.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The caller sent something else. This is what to tell it.
    Refused(Status),
    /// The caller went away.
    Gone(hyper::Error),
}

impl Unary {
    /// Reads the only message of a body, of at most `limit` bytes.
    pub(crate) async fn read(headers: &HeaderMap, mut body: Incoming, limit: u64) -> Result<Self, ReadError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut frame = BytesMut::new();
        while let Some(part) = body.frame().await {
            if let Ok(data) = part.map_err(ReadError::Gone)?.into_data() {
                frame.extend_from_slice(&data);
            }
            if declared_length(&frame).is_some_and(|length| length > limit) || frame.len() > limit.saturating_add(PREFIX_BYTES) {
                return Err(ReadError::Refused(too_large(limit)));
            }
        }
        Self::parse(headers, frame.freeze(), limit).map_err(ReadError::Refused)
    }

    fn parse(headers: &HeaderMap, frame: Bytes, limit: usize) -> Result<Self, Status> {
        let whole = declared_length(&frame).is_some_and(|length| length == frame.len() - PREFIX_BYTES);
        if !whole {
            return Err(Status::invalid_argument("want exactly one whole gRPC message"));
        }
        let message = frame.slice(PREFIX_BYTES..);
        let message = match (frame[0], headers.get("grpc-encoding").map(http::HeaderValue::as_bytes)) {
            (0, _) => message,
            (1, Some(b"gzip")) => gunzip(&message, limit)?,
            (1, _) => return Err(Status::unimplemented("compressed messages must be gzip")),
            _ => return Err(Status::invalid_argument("malformed gRPC message prefix")),
        };
        Ok(Self { frame, message })
    }
}

impl Messages {
    /// Takes a chunk of the stream, and returns the messages that are whole with it. `change` says what a message
    /// becomes; `None`: it stays.
    pub(crate) fn push(&mut self, chunk: &[u8], change: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Bytes {
        self.partial.extend_from_slice(chunk);
        let mut whole = BytesMut::new();
        loop {
            let passed = self.partial.split_to(self.passing.min(self.partial.len()));
            self.passing -= passed.len();
            whole.unsplit(passed);
            let Some(length) = declared_length(&self.partial) else { break };
            let end = length.saturating_add(PREFIX_BYTES);
            if length > MAX_HELD_BYTES || self.partial[0] != 0 {
                self.passing = end;
            } else if self.partial.len() >= end {
                let old = self.partial.split_to(end);
                match change(&old[PREFIX_BYTES..]).and_then(|message| frame(&message)) {
                    Some(new) => whole.extend_from_slice(&new),
                    None => whole.unsplit(old),
                }
            } else {
                break;
            }
        }
        whole.freeze()
    }

    /// Takes what was held, when the stream has ended.
    pub(crate) fn take_partial(&mut self) -> Bytes {
        self.partial.split().freeze()
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }
}

/// Puts the prefix of an uncompressed message before `message`; `None` over 4 GiB.
pub(crate) fn frame(message: &[u8]) -> Option<Bytes> {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).ok()?);
    frame.put_slice(message);
    Some(frame.freeze())
}

/// The message behind its prefix, if it is whole and not compressed.
pub(crate) fn payload(frame: &[u8]) -> Option<&[u8]> {
    let message = frame.get(PREFIX_BYTES..)?;
    (frame[0] == 0 && declared_length(frame)? == message.len()).then_some(message)
}

fn declared_length(frame: &[u8]) -> Option<usize> {
    let length = frame.get(1..PREFIX_BYTES)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(length)).ok()
}

fn gunzip(compressed: &[u8], limit: usize) -> Result<Bytes, Status> {
    let mut message = Vec::new();
    let bounded = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    flate2::read::MultiGzDecoder::new(compressed)
        .take(bounded)
        .read_to_end(&mut message)
        .map_err(|error| Status::invalid_argument(format!("malformed gzip: {error}")))?;
    if message.len() > limit { Err(too_large(limit)) } else { Ok(message.into()) }
}

fn too_large(limit: usize) -> Status {
    Status::resource_exhausted(format!("message over {limit} bytes, the limit that control.max_message_bytes sets"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        let mut frame = frame(&encoder.finish().unwrap()).unwrap().to_vec();
        frame[0] = 1;
        frame
    }

    fn parse(encoding: &'static str, frame: &[u8]) -> Result<Bytes, tonic::Code> {
        let headers = HeaderMap::from_iter([("grpc-encoding".parse().unwrap(), encoding.parse().unwrap())]);
        Unary::parse(&headers, Bytes::copy_from_slice(frame), 1000).map(|unary| unary.message).map_err(|status| status.code())
    }

    #[test]
    fn reads_plain_and_gzip_messages() {
        assert_eq!(parse("identity", &frame(b"message").unwrap()).unwrap(), "message");
        assert_eq!(parse("gzip", &frame(b"plain").unwrap()).unwrap(), "plain");
        assert_eq!(parse("gzip", &gzip(b"message")).unwrap(), "message");
    }

    #[test]
    fn refuses_what_is_not_one_message() {
        use tonic::Code::{InvalidArgument, ResourceExhausted, Unimplemented};
        let whole = frame(b"message").unwrap();
        assert_eq!(parse("", b""), Err(InvalidArgument));
        assert_eq!(parse("", &whole[..whole.len() - 1]), Err(InvalidArgument));
        assert_eq!(parse("", &[&whole[..], &whole[..]].concat()), Err(InvalidArgument));
        assert_eq!(parse("", &[2, 0, 0, 0, 0]), Err(InvalidArgument));
        assert_eq!(parse("zstd", &gzip(b"")), Err(Unimplemented));
        assert_eq!(parse("gzip", &[1, 0, 0, 0, 1, 7]), Err(InvalidArgument));
        assert_eq!(parse("gzip", &gzip(&[0; 1001])), Err(ResourceExhausted));
    }

    fn shout(message: &[u8]) -> Option<Vec<u8>> {
        message.starts_with(b"a").then(|| message.to_ascii_uppercase().repeat(2))
    }

    #[test]
    fn large_and_compressed_messages_of_a_stream_pass_as_they_are() {
        let large = frame(&vec![b'a'; MAX_HELD_BYTES + 1]).unwrap();
        let compressed = gzip(b"abc");
        let stream = [&large[..], &compressed, &frame(b"ab").unwrap()].concat();
        let (mut messages, mut out, mut held) = (Messages::default(), Vec::new(), 0);
        for chunk in stream.chunks(1000) {
            out.extend_from_slice(&messages.push(chunk, shout));
            held = held.max(messages.partial.len());
        }
        assert!(out == [&large[..], &compressed, &frame(b"ABAB").unwrap()].concat());
        assert!(messages.is_empty() && held < 1000, "{held} bytes were held");
    }

    proptest! {
        #[test]
        fn any_split_of_a_stream_gives_the_same_messages(
            parts in prop::collection::vec((any::<bool>(), prop::collection::vec(prop::sample::select(&b"abc"[..]), 0..300)), 0..8),
            lengths in prop::collection::vec(1..400_usize, 1..8),
            cut in 0..400_usize,
        ) {
            let framed = |compressed: bool, message: &[u8]| {
                let mut frame = frame(message).unwrap().to_vec();
                frame[0] = u8::from(compressed);
                frame
            };
            let sent: Vec<u8> = parts.iter().flat_map(|(compressed, message)| framed(*compressed, message)).collect();
            let wanted: Vec<u8> = parts
                .iter()
                .flat_map(|(compressed, message)| framed(*compressed, &shout(message).filter(|_| !compressed).unwrap_or_else(|| message.clone())))
                .collect();
            let (mut messages, mut out, mut unsent) = (Messages::default(), Vec::new(), &sent[..]);
            for length in lengths.into_iter().cycle().take_while(|_| !sent.is_empty()) {
                let (taken, left) = unsent.split_at(length.min(unsent.len()));
                out.extend_from_slice(&messages.push(taken, shout));
                unsent = left;
                if unsent.is_empty() {
                    break;
                }
            }
            prop_assert!(messages.is_empty());
            prop_assert_eq!(&out, &wanted);
            // Of a stream that breaks off, every byte of the last message is passed on.
            let mut messages = Messages::default();
            let broken = &sent[..sent.len().saturating_sub(cut)];
            let mut out = messages.push(broken, |_| None).to_vec();
            out.extend_from_slice(&messages.take_partial());
            prop_assert_eq!(&out[..], broken);
        }
    }
}
