//! Half-open ranges of bytes in an object.

/// The bytes from `start` up to, not including, `end`. Never empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// `None` where the range would be empty or end before it starts.
    #[must_use]
    pub fn new(start: u64, end: u64) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// Offset of the first byte.
    #[must_use]
    pub fn start(self) -> u64 {
        self.start
    }

    /// Offset just behind the last byte.
    #[must_use]
    pub fn end(self) -> u64 {
        self.end
    }

    /// How many bytes; never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// The value of an HTTP `Range` header, whose end is inclusive.
    #[must_use]
    pub fn to_header(self) -> String {
        format!("bytes={}-{}", self.start, self.end - 1)
    }
}
