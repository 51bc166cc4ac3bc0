//! Tests of the library's parts over real sockets, with real parts where one exists.

mod s3;
mod support;
