//! What must not be in a history, whatever the order was in which concurrent calls took effect:
//!
//! - bytes that are not the blob's, or that nobody had begun to commit;
//! - an acknowledged blob or manifest that is gone, or is older than one that was acknowledged later, while
//!   nobody deleted or replaced it;
//! - a manifest that names a blob which is absent, while nobody deleted it since the manifest was put.

use std::collections::BTreeSet;

use remora::types::Digest;

use super::record::{Event, What};

/// Describes everything that is wrong with a history.
pub(super) fn violations(history: &[Event]) -> Vec<String> {
    history.iter().filter_map(|event| violation(history, event)).collect()
}

fn violation(history: &[Event], event: &Event) -> Option<String> {
    match &event.what {
        What::AcceptedWrongBytes { blob } => Some(format!("wrong bytes were accepted for {blob}: {event:?}")),
        What::Read { blob, found: Some(found) } if found != blob => Some(format!("other bytes were read: {event:?}")),
        What::Read { blob, found: Some(_) } => {
            let committed = history.iter().any(|write| writes(write, blob) && write.begun < event.ended);
            (!committed).then(|| format!("nobody had committed it: {event:?}"))
        }
        What::Read { blob, found: None } => lost_blob(history, blob, event).or_else(|| dangling(history, blob, event)),
        What::Got { name, found } => {
            let empty = BTreeSet::new();
            let named = found.as_ref().unwrap_or(&empty);
            invented(history, name, named, event).or_else(|| lost_manifest(history, name, named, event))
        }
        What::Wrote { .. } | What::Deleted { .. } | What::Put { .. } | What::Removed { .. } => None,
    }
}

fn lost_blob(history: &[Event], blob: &Digest, read: &Event) -> Option<String> {
    let acknowledged = |event: &&Event| event.what == What::Wrote { blob: *blob, acknowledged: true };
    let lost = history.iter().filter(acknowledged).find(|write| write.before(read) && !deleted(history, blob, write, read))?;
    Some(format!("an acknowledged blob is gone: {lost:?}, then {read:?}"))
}

/// A manifest that was served named the blob before.
fn dangling(history: &[Event], blob: &Digest, read: &Event) -> Option<String> {
    let names = |event: &&Event| matches!(&event.what, What::Got { found: Some(found), .. } if found.contains(blob));
    let served = history.iter().filter(names).find(|got| {
        let put = history.iter().filter(|put| puts(put, name_of(got), blob)).min_by_key(|put| put.begun);
        got.before(read) && put.is_some_and(|put| !deleted(history, blob, put, read))
    })?;
    Some(format!("a manifest names a blob that is absent: {served:?}, then {read:?}"))
}

/// The manifest names what nobody had put under this name.
fn invented(history: &[Event], name: &str, named: &BTreeSet<Digest>, got: &Event) -> Option<String> {
    let known = |blob: &Digest| history.iter().any(|put| puts(put, name, blob) && put.begun < got.ended);
    let blob = named.iter().find(|blob| !known(blob))?;
    Some(format!("nobody had put {blob}: {got:?}"))
}

/// The last manifest of the name, where it is known which that is, must be there: alone, or merged with
/// others; without the blobs that may be deleted.
fn lost_manifest(history: &[Event], name: &str, named: &BTreeSet<Digest>, got: &Event) -> Option<String> {
    let replaces = |other: &Event, put: &Event| {
        let of_name = matches!(&other.what, What::Put { name: other, .. } | What::Removed { name: other } if *other == name);
        of_name && !std::ptr::eq(other, put) && other.may_lie_between(put, got)
    };
    history.iter().find_map(|put| {
        let What::Put { name: put_name, blobs, acknowledged: true } = &put.what else { return None };
        if *put_name != name || !put.before(got) || history.iter().any(|other| replaces(other, put)) {
            return None;
        }
        let lost = blobs.iter().find(|blob| !named.contains(blob) && !deleted(history, blob, put, got))?;
        Some(format!("{lost} of an acknowledged manifest is not named: {put:?}, then {got:?}"))
    })
}

fn deleted(history: &[Event], blob: &Digest, write: &Event, read: &Event) -> bool {
    history.iter().any(|event| event.what == What::Deleted { blob: *blob } && event.may_lie_between(write, read))
}

fn writes(event: &Event, blob: &Digest) -> bool {
    matches!(&event.what, What::Wrote { blob: written, .. } if written == blob)
}

fn puts(event: &Event, name: &str, blob: &Digest) -> bool {
    matches!(&event.what, What::Put { name: put, blobs, .. } if *put == name && blobs.contains(blob))
}

fn name_of(event: &Event) -> &'static str {
    match event.what {
        What::Put { name, .. } | What::Got { name, .. } | What::Removed { name } => name,
        _ => "",
    }
}

/// The checker must reject bad histories, or it proves nothing.
mod tests {
    use super::super::record::NEVER;
    use super::*;

    fn blob(number: u8) -> Digest {
        Digest::of(&[number])
    }

    fn at(begun: u64, ended: u64, what: What) -> Event {
        Event { begun, ended, what }
    }

    fn wrote(begun: u64, ended: u64) -> Event {
        at(begun, ended, What::Wrote { blob: blob(1), acknowledged: ended != NEVER })
    }

    fn read(begun: u64, ended: u64, found: Option<u8>) -> Event {
        at(begun, ended, What::Read { blob: blob(1), found: found.map(blob) })
    }

    fn deleted(begun: u64, ended: u64) -> Event {
        at(begun, ended, What::Deleted { blob: blob(1) })
    }

    fn blobs(numbers: &[u8]) -> BTreeSet<Digest> {
        numbers.iter().copied().map(blob).collect()
    }

    fn put(begun: u64, ended: u64, numbers: &[u8]) -> Event {
        at(begun, ended, What::Put { name: "app", blobs: blobs(numbers), acknowledged: ended != NEVER })
    }

    fn got(begun: u64, ended: u64, numbers: Option<&[u8]>) -> Event {
        at(begun, ended, What::Got { name: "app", found: numbers.map(blobs) })
    }

    fn removed(begun: u64, ended: u64) -> Event {
        at(begun, ended, What::Removed { name: "app" })
    }

    #[test]
    fn good_histories_are_accepted() {
        for (index, history) in [
            vec![read(0, 1, None), wrote(2, 3), read(4, 5, Some(1)), deleted(6, 7), read(8, 9, None)],
            // These are concurrent: either answer is right.
            vec![wrote(0, 10), read(1, 2, None), read(3, 4, Some(1))],
            vec![wrote(0, 1), deleted(2, 10), read(3, 4, None), read(5, 6, Some(1))],
            // The delete and the write overlapped: nobody knows which was last.
            vec![wrote(0, 5), deleted(1, 4), read(6, 7, None)],
            // This was not acknowledged: it may be there, now or later, or not.
            vec![wrote(0, NEVER), read(1, 2, None), read(3, 4, Some(1)), wrote(5, 6), deleted(7, NEVER), read(8, 9, None)],
            vec![put(0, 1, &[1]), got(2, 3, Some(&[1])), put(4, 5, &[2]), got(6, 7, Some(&[2])), got(6, 7, Some(&[1, 2]))],
            vec![put(0, 10, &[1]), put(1, 9, &[2]), got(11, 12, Some(&[1])), got(13, 14, Some(&[2]))],
            vec![put(0, 1, &[1]), removed(2, 3), got(4, 5, None)],
            // An export that found the blob deleted has left the layer out.
            vec![wrote(0, 1), put(2, 3, &[1, 2]), deleted(4, 5), got(6, 7, Some(&[2])), got(6, 7, Some(&[1, 2])), read(8, 9, None)],
        ]
        .iter()
        .enumerate()
        {
            assert_eq!(violations(history), Vec::<String>::new(), "history {index}");
        }
    }

    #[test]
    fn bad_histories_are_rejected() {
        for (index, history) in [
            // A read of other bytes, of bytes that nobody wrote, and of bytes that were written later.
            vec![wrote(0, 1), read(2, 3, Some(2))],
            vec![read(2, 3, Some(1))],
            vec![read(0, 1, Some(1)), wrote(2, 3)],
            vec![at(0, 1, What::AcceptedWrongBytes { blob: blob(1) })],
            // A blob that was acknowledged and is gone, and one that is gone although it was written again after the
            // delete.
            vec![wrote(0, 1), read(2, 3, None)],
            vec![wrote(0, 1), deleted(2, 3), wrote(4, 5), read(6, 7, None)],
            vec![wrote(0, 1), read(2, 3, None), deleted(4, 5)],
            // A manifest that was never put, is gone, or is an older one.
            vec![got(0, 1, Some(&[1]))],
            vec![put(0, 1, &[1]), got(2, 3, Some(&[1, 2]))],
            vec![put(0, 1, &[1]), got(2, 3, None)],
            vec![put(0, 1, &[1]), put(2, 3, &[2]), got(4, 5, Some(&[1]))],
            vec![put(0, 1, &[1]), removed(2, 3), put(4, 5, &[1]), got(6, 7, None)],
            // A part of it is left out without a reason.
            vec![put(0, 1, &[1, 2]), got(2, 3, Some(&[2]))],
            vec![deleted(0, 1), put(2, 3, &[1, 2]), got(4, 5, Some(&[2]))],
            // It names what is absent: never written well, or deleted before it was put.
            vec![wrote(0, NEVER), put(2, 3, &[1]), got(4, 5, Some(&[1])), read(6, 7, None)],
            vec![wrote(0, NEVER), deleted(0, 1), put(2, 3, &[1]), got(4, 5, Some(&[1])), read(6, 7, None)],
        ]
        .iter()
        .enumerate()
        {
            assert_eq!(violations(history).len(), 1, "history {index}: {:?}", violations(history));
        }
    }
}
