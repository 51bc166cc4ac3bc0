//! Takes the messages inside a session apart.

use std::io;

use bytes::{Buf, Bytes};

/// `data`, field 1, wire type 2.
const DATA_TAG: u64 = 0x0a;

/// Takes `BytesMessage`s apart, in whatever chunks they arrive, without copying their data.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    state: DecoderState,
    /// Bytes of the current message that are still to come.
    left: u64,
    /// Data that was decoded and not yet read.
    pending: Bytes,
}

/// What comes next.
#[derive(Debug, Default)]
enum DecoderState {
    /// A message.
    #[default]
    Start,
    /// The length in gRPC's prefix, of which so many bytes were taken.
    Prefix { taken: usize, length: u32 },
    /// A field.
    Tag(Varint),
    /// The length of a field that has one, such as the data.
    Length { is_data: bool, varint: Varint },
    /// The value of a field that is a varint.
    Value(Varint),
    /// So many bytes of a field.
    Bytes { is_data: bool, left: u64 },
}

#[derive(Debug, Default, Clone, Copy)]
struct Varint {
    value: u64,
    shift: u32,
}

impl Varint {
    /// Takes one byte; the value when it was the last.
    fn push(&mut self, byte: u8) -> io::Result<Option<u64>> {
        if self.shift > 63 {
            return Err(malformed("a varint has more than ten bytes"));
        }
        self.value |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        Ok((byte & 0x80 == 0).then_some(self.value))
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed BytesMessage: {what}"))
}

impl Decoder {
    /// The next data in `chunk`; empty when all of the chunk is used up.
    pub(super) fn next(&mut self, chunk: &mut Bytes) -> io::Result<Bytes> {
        if !self.pending.is_empty() {
            return Ok(std::mem::take(&mut self.pending));
        }
        while !chunk.is_empty() {
            if let DecoderState::Bytes { is_data, left } = &mut self.state {
                let taken = chunk.split_to(usize::try_from(*left).unwrap_or(usize::MAX).min(chunk.len()));
                let count = taken.len() as u64;
                *left -= count;
                self.left -= count;
                let wanted = *is_data;
                if *left == 0 {
                    self.field_ended();
                }
                if wanted && !taken.is_empty() {
                    return Ok(taken);
                }
            } else {
                self.push(chunk.get_u8())?;
            }
        }
        Ok(Bytes::new())
    }

    /// Keeps what is behind the first `taken` bytes of `data` for the next call.
    pub(super) fn put_back(&mut self, mut data: Bytes, taken: usize) {
        data.advance(taken);
        self.pending = data;
    }

    /// Whether the stream may end here.
    pub(super) fn end(&self) -> io::Result<()> {
        match self.state {
            DecoderState::Start => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the session's stream ended inside a message")),
        }
    }

    fn field_ended(&mut self) {
        self.state = if self.left == 0 { DecoderState::Start } else { DecoderState::Tag(Varint::default()) };
    }

    /// Takes one byte that is not data.
    fn push(&mut self, byte: u8) -> io::Result<()> {
        let in_message = !matches!(self.state, DecoderState::Start | DecoderState::Prefix { .. });
        if in_message {
            self.left -= 1;
        }
        match &mut self.state {
            DecoderState::Start if byte == 0 => self.state = DecoderState::Prefix { taken: 0, length: 0 },
            DecoderState::Start => return Err(malformed("it is compressed")),
            DecoderState::Prefix { taken, length } => {
                *length = *length << 8 | u32::from(byte);
                *taken += 1;
                if *taken == 4 {
                    self.left = u64::from(*length);
                    self.field_ended();
                }
            }
            DecoderState::Tag(varint) => {
                if let Some(tag) = varint.push(byte)? {
                    self.state = match tag & 7 {
                        0 => DecoderState::Value(Varint::default()),
                        1 => DecoderState::Bytes { is_data: false, left: 8 },
                        2 => DecoderState::Length { is_data: tag == DATA_TAG, varint: Varint::default() },
                        5 => DecoderState::Bytes { is_data: false, left: 4 },
                        other => return Err(malformed(&format!("wire type {other}"))),
                    };
                }
            }
            DecoderState::Length { is_data, varint } => {
                if let Some(left) = varint.push(byte)? {
                    self.state = DecoderState::Bytes { is_data: *is_data, left };
                    if left == 0 {
                        self.field_ended();
                    }
                }
            }
            DecoderState::Value(varint) => {
                if varint.push(byte)?.is_some() {
                    self.field_ended();
                }
            }
            DecoderState::Bytes { .. } => {}
        }
        match self.state {
            DecoderState::Bytes { left, .. } if left > self.left => Err(malformed("a field is longer than its message")),
            DecoderState::Tag(_) | DecoderState::Length { .. } | DecoderState::Value(_) if self.left == 0 => {
                Err(malformed("it ends inside a field"))
            }
            _ => Ok(()),
        }
    }
}
