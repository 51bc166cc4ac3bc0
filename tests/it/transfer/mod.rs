//! The transfer engine: downloads in ranges, and the second requests for those that are late.

mod download;
mod hedging;
