//! Moves large objects: several requests at once where the store gains by it, within one bound on memory.

mod budget;
mod leftovers;
mod piece;
mod upload;

pub use budget::{Budget, Hold};
pub use piece::Piece;
pub use upload::{SINGLE_PUT_BYTES, Upload, Uploads, part_bytes};
