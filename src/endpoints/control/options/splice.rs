//! Puts a message together again, with what was decided in place of its `type=s3` entries.

use super::entry::{self, CacheEntry, Decision, EntryId};
use super::find::{CacheOptions, Parts, Place};
use super::json;
use crate::auth::Purpose;
use crate::endpoints::control::grpc::wire::{self, Malformed, Part};

impl CacheOptions<'_> {
    /// The message with each entry replaced as decided. An entry that nothing was decided for is taken out. `None`:
    /// the message has no entry, and stays as it is.
    pub(crate) fn splice(&self, decisions: &[Decision]) -> Result<Option<Vec<u8>>, Malformed> {
        self.splice_where(decisions, |_| true)
    }

    /// The same without the imports. `None`: there is none to leave out.
    pub(crate) fn splice_without_imports(&self, decisions: &[Decision]) -> Result<Option<Vec<u8>>, Malformed> {
        if self.entries.iter().any(|entry| entry.purpose == Purpose::Import) {
            self.splice_where(decisions, |decision| decision.purpose == Purpose::Export)
        } else {
            Ok(None)
        }
    }

    fn splice_where(&self, decisions: &[Decision], is_kept: impl Fn(&Decision) -> bool) -> Result<Option<Vec<u8>>, Malformed> {
        let decided = |id: EntryId| decisions.iter().find(|decision| decision.id == id && is_kept(decision))?.entry.as_ref();
        self.parts.as_ref().map(|parts| self.joined(parts, &decided)).transpose()
    }

    fn joined<'a>(&self, parts: &Parts<'_>, decided: &impl Fn(EntryId) -> Option<&'a CacheEntry>) -> Result<Vec<u8>, Malformed> {
        let mut joined = Vec::new();
        for part in parts {
            match part {
                Part::Kept(bytes) => joined.extend_from_slice(bytes),
                Part::Taken(number, Place::Message(parts)) => wire::put(&mut joined, *number, &self.joined(parts, decided)?),
                Part::Taken(number, Place::List(list)) => wire::put(&mut joined, *number, &json::splice(list, decided)),
                Part::Taken(number, Place::Entry(id, entry)) => {
                    if let (Some(old), Some(new)) = (self.entries.get(id.0), decided(*id)) {
                        wire::put(&mut joined, *number, &entry::replaced(entry, &old.attrs, new)?);
                    }
                }
            }
        }
        Ok(joined)
    }
}
