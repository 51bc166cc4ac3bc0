//! Attacks on the real program: what somebody tries who may build, and must not get.
//!
//! Each test was seen to fail, because its attack succeeded, before remora was mended.

mod keys;
