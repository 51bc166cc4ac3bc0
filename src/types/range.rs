//! Ranges of bytes in an object: those that have both ends, and those that HTTP can ask for.

/// The bytes from `start` up to, but not including, `end`. Never empty.
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

/// A range as HTTP asks for it, when the size of the object is not known yet (`range-spec` in RFC 9110, 14.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeSpec {
    /// `bytes=2-5`: these bytes, as far as the object has them.
    Bounded(ByteRange),
    /// `bytes=2-`: everything from this offset on.
    From(u64),
    /// `bytes=-5`: so many bytes at the end, or the whole object where that is shorter.
    Suffix(u64),
}

/// The end of a [`RangeSpec::From`] where both ends are wanted. S3-compatible stores parse it as a signed number.
const OPEN_END: u64 = i64::MAX.cast_unsigned();

impl RangeSpec {
    /// The bytes that it selects of an object of `size` bytes; `None` where it selects none.
    #[must_use]
    pub fn within(self, size: u64) -> Option<ByteRange> {
        match self {
            Self::Bounded(range) => ByteRange::new(range.start, range.end.min(size)),
            Self::From(start) => ByteRange::new(start, size),
            Self::Suffix(len) => ByteRange::new(size.saturating_sub(len), size),
        }
    }

    /// The same as a range with both ends, for a reader that cuts it to the object. `None` for a suffix, which has no
    /// place before the size is known, and for a start beyond every object.
    #[must_use]
    pub fn to_byte_range(self) -> Option<ByteRange> {
        match self {
            Self::Bounded(range) => Some(range),
            Self::From(start) => ByteRange::new(start, OPEN_END),
            Self::Suffix(_) => None,
        }
    }
}

/// Undoes [`RangeSpec::to_byte_range`]: a range that ends beyond every object has no end.
impl From<ByteRange> for RangeSpec {
    fn from(range: ByteRange) -> Self {
        if range.end >= OPEN_END { Self::From(range.start) } else { Self::Bounded(range) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_selects_what_http_says() {
        let bounded = |start, end| RangeSpec::Bounded(ByteRange::new(start, end).unwrap());
        for (spec, size, selected) in [
            (bounded(2, 6), 10, ByteRange::new(2, 6)),
            (bounded(2, 60), 10, ByteRange::new(2, 10)),
            (bounded(10, 11), 10, None),
            (RangeSpec::From(0), 10, ByteRange::new(0, 10)),
            (RangeSpec::From(9), 10, ByteRange::new(9, 10)),
            (RangeSpec::From(10), 10, None),
            (RangeSpec::Suffix(3), 10, ByteRange::new(7, 10)),
            (RangeSpec::Suffix(30), 10, ByteRange::new(0, 10)),
            (RangeSpec::Suffix(0), 10, None),
            (RangeSpec::Suffix(1), 0, None),
        ] {
            assert_eq!(spec.within(size), selected, "{spec:?} of {size}");
        }
    }

    #[test]
    fn an_open_end_survives_a_range_with_both_ends() {
        for spec in [RangeSpec::From(0), RangeSpec::From(7), RangeSpec::Bounded(ByteRange::new(3, 4).unwrap())] {
            assert_eq!(spec.to_byte_range().map(RangeSpec::from), Some(spec));
        }
        assert_eq!(RangeSpec::Suffix(1).to_byte_range(), None);
        assert_eq!(RangeSpec::From(u64::MAX).to_byte_range(), None);
    }
}
