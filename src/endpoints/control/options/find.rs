//! Finds the `type=s3` entries in the two calls that carry cache options.
//!
//! | call | field |
//! |---|---|
//! | `Control/Solve` | `Cache.Exports`, `Cache.Imports`, `FrontendAttrs["cache-imports"]` |
//! | `LLBBridge/Solve` | `CacheImports`, `FrontendOpt["cache-imports"]` |
//!
//! The value of `cache-imports` is JSON. The other places for cache options (`cache-from`,
//! `ExportRefDeprecated`, …) name registries alone. Read in BuildKit v0.33.1: `control.proto`, `gateway.proto`,
//! `client/solve.go`, `frontend/dockerui/config.go`.

use super::attrs::Attrs;
use super::entry::{self, EntryId, FoundEntry};
use super::error::MalformedOptions;
use super::json::{self, Element};
use super::solve_call::SolveCall;
use crate::auth::Purpose;
use crate::endpoints::control::grpc::wire::{self, Malformed, Part};

/// A message taken apart at its `type=s3` entries.
#[derive(Debug)]
pub(crate) struct CacheOptions<'a> {
    /// `None`: the message has no such entry.
    pub(super) parts: Option<Parts<'a>>,
    pub(super) entries: Vec<FoundEntry>,
}

/// A message: bytes that stay, and the fields that an entry stands in.
pub(super) type Parts<'a> = Vec<Part<'a, Place<'a>>>;

/// What is in a field that an entry stands in.
#[derive(Debug)]
pub(super) enum Place<'a> {
    /// A message with entries somewhere inside.
    Message(Parts<'a>),
    /// An entry, a `CacheOptionsEntry`.
    Entry(EntryId, &'a [u8]),
    /// A list of entries as JSON.
    List(Vec<Element>),
}

const CACHE_IMPORTS: &[u8] = b"cache-imports";

impl<'a> CacheOptions<'a> {
    /// Finds the `type=s3` entries of a call.
    pub(crate) fn find(call: SolveCall, message: &'a [u8]) -> Result<Self, MalformedOptions> {
        let mut finder = Finder { entries: Vec::new() };
        let parts = finder.solve(call, message)?;
        Ok(Self { parts, entries: finder.entries })
    }

    /// The entries, in the order of the message.
    pub(crate) fn entries(&self) -> &[FoundEntry] {
        &self.entries
    }
}

struct Finder {
    entries: Vec<FoundEntry>,
}

impl Finder {
    fn solve<'a>(&mut self, call: SolveCall, message: &'a [u8]) -> Result<Option<Parts<'a>>, MalformedOptions> {
        wire::take_apart(message, |field| match (call, field.number, field.payload) {
            (SolveCall::Build, 7, Some(attr)) | (SolveCall::Gateway, 3, Some(attr)) => Ok(self.frontend_attr(attr)?.map(Place::Message)),
            (SolveCall::Build, 8, Some(options)) => Ok(self.cache_options(options)?.map(Place::Message)),
            (SolveCall::Gateway, 12, Some(entry)) => Ok(self.entry(Purpose::Import, entry)?),
            _ => Ok(None),
        })
    }

    /// `CacheOptions`: its `Exports` (4) and `Imports` (5).
    fn cache_options<'a>(&mut self, options: &'a [u8]) -> Result<Option<Parts<'a>>, Malformed> {
        wire::take_apart(options, |field| match (field.number, field.payload) {
            (4, Some(entry)) => self.entry(Purpose::Export, entry),
            (5, Some(entry)) => self.entry(Purpose::Import, entry),
            _ => Ok(None),
        })
    }

    /// One entry of the map of frontend attributes: the key (1) and the value (2).
    fn frontend_attr<'a>(&mut self, attr: &'a [u8]) -> Result<Option<Parts<'a>>, MalformedOptions> {
        if wire::last(attr, 1)? != CACHE_IMPORTS {
            return Ok(None);
        }
        wire::take_apart(attr, |field| match (field.number, field.payload) {
            (2, Some(json)) => Ok(json::find(json, |attrs| self.add(Purpose::Import, attrs))?.map(Place::List)),
            _ => Ok(None),
        })
    }

    fn entry<'a>(&mut self, purpose: Purpose, entry: &'a [u8]) -> Result<Option<Place<'a>>, Malformed> {
        Ok(entry::s3_attrs(entry)?.map(|attrs| Place::Entry(self.add(purpose, attrs), entry)))
    }

    fn add(&mut self, purpose: Purpose, attrs: Attrs) -> EntryId {
        let id = EntryId(self.entries.len());
        self.entries.push(FoundEntry { id, purpose, attrs });
        id
    }
}
