//! Protobuf on the wire: reads and replaces single fields of an encoded message.
//!
//! Nothing is decoded as a whole. Every byte outside of a replaced field is copied as it came, so that fields which a
//! later BuildKit adds survive. Nothing here recurses, and nothing panics on bad input. The format is that of the
//! encoding page of protobuf.dev.

/// How deep groups may nest. Groups are long deprecated, and still legal in unknown fields.
const MAX_GROUP_DEPTH: usize = 100;

/// Field numbers have 29 bits.
const MAX_FIELD_NUMBER: u64 = (1 << 29) - 1;

/// The bytes are no protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf message")]
pub(crate) struct Malformed;

/// One field as it stands in its message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    /// Its number.
    pub(crate) number: u32,
    /// Its payload, where it is length-delimited: a string, bytes or a message.
    pub(crate) payload: Option<&'a [u8]>,
    start: usize,
    end: usize,
}

/// What is done with a field.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// The field stays as it is.
    Keep,
    /// The field gets this payload.
    Replace(Vec<u8>),
    /// The field is removed.
    Remove,
}

/// A part of a message that was taken apart.
#[derive(Debug)]
pub(crate) enum Part<'a, T> {
    /// Bytes between the fields that were taken.
    Kept(&'a [u8]),
    /// The number of a field that was taken, and what stands in its place.
    Taken(u32, T),
}

impl From<Option<Vec<u8>>> for Edit {
    /// What [`edit`] of a field's payload returned.
    fn from(payload: Option<Vec<u8>>) -> Self {
        payload.map_or(Self::Keep, Self::Replace)
    }
}

/// The fields of a message, in order. Ends after the first [`Malformed`].
pub(crate) fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, Malformed>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= message.len() {
            return None;
        }
        let field = Field::read(message, at);
        at = field.as_ref().map_or(message.len(), |field| field.end);
        Some(field)
    })
}

/// The last occurrence of a length-delimited field, which is the one that counts. Empty where there is none.
pub(crate) fn last(message: &[u8], number: u32) -> Result<&[u8], Malformed> {
    fields(message).try_fold(&[][..], |last, field| {
        let field = field?;
        Ok(field.payload.filter(|_| field.number == number).unwrap_or(last))
    })
}

/// The last occurrence of a string field. Empty where there is none.
pub(crate) fn last_text(message: &[u8], number: u32) -> Result<String, Malformed> {
    std::str::from_utf8(last(message, number)?).map(str::to_owned).map_err(|_| Malformed)
}

/// Edits the fields of a message as `decide` says, and copies all else. `None`: nothing was changed.
pub(crate) fn edit<E>(message: &[u8], mut decide: impl FnMut(&Field<'_>) -> Result<Edit, E>) -> Result<Option<Vec<u8>>, E>
where
    E: From<Malformed>,
{
    let changed = take_apart(message, |field| {
        Ok::<_, E>(match decide(field)? {
            Edit::Keep => None,
            Edit::Replace(payload) => Some(Some(payload)),
            Edit::Remove => Some(None),
        })
    })?;
    let Some(parts) = changed else { return Ok(None) };
    let mut edited = Vec::new();
    for part in parts {
        match part {
            Part::Kept(bytes) => edited.extend_from_slice(bytes),
            Part::Taken(number, Some(payload)) => put(&mut edited, number, &payload),
            Part::Taken(_, None) => {}
        }
    }
    Ok(Some(edited))
}

/// Takes the fields out of a message for which `take` gives something to stand in their place. `None`: it gives nothing
/// for any field.
pub(crate) fn take_apart<'a, T, E>(
    message: &'a [u8],
    mut take: impl FnMut(&Field<'a>) -> Result<Option<T>, E>,
) -> Result<Option<Vec<Part<'a, T>>>, E>
where
    E: From<Malformed>,
{
    let mut parts = Vec::new();
    let mut copied = 0;
    for field in fields(message) {
        let field = field?;
        let Some(taken) = take(&field)? else { continue };
        parts.push(Part::Kept(&message[copied..field.start]));
        parts.push(Part::Taken(field.number, taken));
        copied = field.end;
    }
    if copied == 0 {
        return Ok(None);
    }
    parts.push(Part::Kept(&message[copied..]));
    Ok(Some(parts))
}

/// Appends a length-delimited field.
pub(crate) fn put(message: &mut Vec<u8>, number: u32, payload: &[u8]) {
    put_varint(message, u64::from(number) << 3 | 2);
    put_varint(message, payload.len() as u64);
    message.extend_from_slice(payload);
}

impl<'a> Field<'a> {
    fn read(message: &'a [u8], start: usize) -> Result<Self, Malformed> {
        let (number, wire_type, at) = read_key(message, start)?;
        let (payload, end) = match wire_type {
            0 => (None, read_varint(message, at)?.1),
            1 => (None, skip(message, at, 8)?),
            2 => {
                let (length, at) = read_varint(message, at)?;
                let end = skip(message, at, length)?;
                (Some(&message[at..end]), end)
            }
            3 => (None, skip_group(message, at, number)?),
            5 => (None, skip(message, at, 4)?),
            _ => return Err(Malformed),
        };
        Ok(Self { number, payload, start, end })
    }
}

/// The end of the group `number`, whose first field is at `at`.
fn skip_group(message: &[u8], mut at: usize, number: u32) -> Result<usize, Malformed> {
    let mut open = vec![number];
    while let Some(&innermost) = open.last() {
        let (number, wire_type, next) = read_key(message, at)?;
        at = match wire_type {
            3 if open.len() < MAX_GROUP_DEPTH => {
                open.push(number);
                next
            }
            4 if number == innermost => {
                open.pop();
                next
            }
            3 | 4 => return Err(Malformed),
            _ => Field::read(message, at)?.end,
        };
    }
    Ok(at)
}

/// A field's number and wire type, and where its value begins.
fn read_key(message: &[u8], at: usize) -> Result<(u32, u8, usize), Malformed> {
    let (key, next) = read_varint(message, at)?;
    let number = key >> 3;
    if number == 0 || number > MAX_FIELD_NUMBER {
        return Err(Malformed);
    }
    let number = u32::try_from(number).map_err(|_| Malformed)?;
    Ok((number, u8::try_from(key & 7).map_err(|_| Malformed)?, next))
}

fn skip(message: &[u8], at: usize, length: u64) -> Result<usize, Malformed> {
    let length = usize::try_from(length).map_err(|_| Malformed)?;
    at.checked_add(length).filter(|&end| end <= message.len()).ok_or(Malformed)
}

/// A varint of at most 64 bits, and what follows it.
fn read_varint(message: &[u8], at: usize) -> Result<(u64, usize), Malformed> {
    let mut value = 0;
    for (index, &byte) in message.get(at..).ok_or(Malformed)?.iter().take(10).enumerate() {
        if index == 9 && byte > 1 {
            return Err(Malformed);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, at + index + 1));
        }
    }
    Err(Malformed)
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    message.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keep_all(message: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
        edit(message, |_| Ok(Edit::Keep))
    }

    #[test]
    fn replaces_and_removes_single_fields() {
        let mut message = vec![0x08, 0x96, 0x01]; // field 1, varint 150
        put(&mut message, 2, b"old");
        message.extend([0x1b, 0x20, 0x01, 0x1c]); // field 3, a group with field 4 in it
        put(&mut message, 2, b"gone");
        message.extend([0x29, 1, 2, 3, 4, 5, 6, 7, 8, 0x35, 1, 2, 3, 4]); // fields 5 and 6, fixed
        let edited = edit::<Malformed>(&message, |field| {
            Ok(match field.payload {
                Some(b"old") => Edit::Replace(vec![b'n'; 200]),
                Some(b"gone") => Edit::Remove,
                _ => Edit::Keep,
            })
        });
        let mut wanted = vec![0x08, 0x96, 0x01];
        put(&mut wanted, 2, &[b'n'; 200]);
        wanted.extend([0x1b, 0x20, 0x01, 0x1c, 0x29, 1, 2, 3, 4, 5, 6, 7, 8, 0x35, 1, 2, 3, 4]);
        assert_eq!(edited, Ok(Some(wanted)));
    }

    #[test]
    fn refuses_what_is_no_message() {
        let deep = [0x0b; MAX_GROUP_DEPTH + 1];
        let too_long: &[u8] = &[0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02];
        let bad: [&[u8]; 9] = [
            &[0x08],             // no value
            &[0x00, 0x00],       // field number 0
            &[0x12, 0x05, b'x'], // shorter than it says
            &[0x0c],             // the end of no group
            &[0x0b, 0x14],       // the end of another group
            &[0x0b],             // a group without end
            &[0x0e],             // no such wire type
            too_long,
            &deep,
        ];
        for message in bad {
            assert_eq!(keep_all(message), Err(Malformed), "{message:x?}");
        }
        assert_eq!(keep_all(&[]), Ok(None));
        assert_eq!(keep_all(&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn never_panics_and_never_touches_what_it_keeps(message in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(edited) = keep_all(&message) {
                prop_assert_eq!(edited, None);
                let spans: Vec<_> = fields(&message).map(|field| field.map(|field| (field.start, field.end))).collect();
                let rebuilt: Vec<u8> = spans.iter().flatten().flat_map(|&(start, end)| message[start..end].to_vec()).collect();
                prop_assert_eq!(rebuilt, message);
            }
        }
    }
}
