//! Moves large objects: several requests at once where the store prefers that, within bounds on memory.
//!
//! [`Downloads`] reads an object in ranges ([`window`]). Each range is resumed after a fault ([`resume`]), and requested a
//! second time where it is far slower than the others ([`hedge`]). [`MultipartUploads`] sends an object in parts, which can
//! begin while the object is still arriving. Multipart uploads of an earlier process are aborted ([`orphans`]).

mod budget;
mod download;
mod hedge;
mod orphans;
mod payload;
mod ranges;
mod resume;
mod shares;
mod upload;
mod waits;
mod window;

pub use budget::{Budget, Hold};
pub use download::Downloads;
pub use payload::Payload;
pub use ranges::RANGE_BYTES;
pub use upload::{MultipartUploads, SINGLE_PUT_BYTES, Upload, part_bytes};
