//! The types that every layer shares. Values are parsed once, at the edge, and trusted from there on.

mod address;
mod bucket;
mod crc64;
mod digest;
mod durability;
mod etag;
mod grant;
mod invalid;
mod key;
mod losses;
mod manifest_name;
mod percent;
mod promises;
mod range;
mod scope;
mod session_documents;
mod usage;

pub use address::Address;
pub use bucket::BucketName;
pub use crc64::{Crc64, Crc64Hasher};
pub use digest::{Digest, Hasher, Sums};
pub use durability::Durability;
pub use etag::ETag;
pub use grant::{BuildContext, Denied, Grant, GrantBuilder, Permissions, Right, Rights};
pub use invalid::Invalid;
pub use key::Key;
pub use losses::Losses;
pub use manifest_name::ManifestName;
pub use percent::percent_encoded;
pub use promises::Promises;
pub use range::{ByteRange, RangeSpec};
pub use scope::Scope;
pub use session_documents::Documents;
pub use usage::Usage;
