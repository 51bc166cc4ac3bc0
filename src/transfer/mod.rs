//! Moves large objects: several requests at once where the store gains by it, within bounds on memory.
//!
//! [`Downloads`] reads in ranges ([`window`]), each of which goes on after a fault ([`resume`]) and is asked
//! for again where it is far slower than the others ([`hedge`]).
//! [`MultipartUploads`] sends in parts that begin while the object still arrives.

mod budget;
mod download;
mod hedge;
mod orphans;
mod payload;
mod resume;
mod shares;
mod upload;
mod waits;
mod window;

pub use budget::{Budget, Hold};
pub use download::{Downloads, RANGE_BYTES};
pub use payload::Payload;
pub use upload::{MultipartUploads, SINGLE_PUT_BYTES, Upload, part_bytes};
