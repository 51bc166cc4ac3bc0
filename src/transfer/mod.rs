//! Moves large objects: several requests at once where the store gains by it, within bounds on memory.
//!
//! [`Downloads`] reads in ranges ([`window`]), each of which goes on after a fault ([`resume`]).
//! [`Uploads`] sends in parts that begin while the object still arrives.

mod budget;
mod download;
mod leftovers;
mod piece;
mod resume;
mod shares;
mod upload;
mod window;

pub use budget::{Budget, Hold};
pub use download::{Downloads, RANGE_BYTES};
pub use piece::Piece;
pub use upload::{SINGLE_PUT_BYTES, Upload, Uploads, part_bytes};
