//! Moves large objects: several requests at once where the store gains by it.

mod upload;

pub use upload::upload;
