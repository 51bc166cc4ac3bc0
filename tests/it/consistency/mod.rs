//! The endpoints while the store fails, remora is killed, and everybody writes at once.

mod blobs;
mod client;
mod disk;
mod history;
