//! The two forms of a cache manifest, and the way between them.
//!
//! In S3 a manifest is one cache config whose layers carry annotations. Through a session BuildKit reads and writes
//! the OCI form: an image manifest (or an index) that describes the layers, and a cache config without annotations
//! beside it (`cache/remotecache/{export,import}.go`, v0.33). A cache config enters and leaves as the documents that
//! BuildKit imports ([`documents`]); the documents of an export enter and leave as a cache config ([`OciForm`]).
//! Nothing is stored in the OCI form.

mod documents;
mod form;
mod inline;
mod model;
#[cfg(test)]
mod tests;

pub(crate) use documents::documents;
pub(crate) use form::OciForm;
pub(crate) use model::MalformedOci;
