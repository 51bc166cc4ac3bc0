//! A build graph in protobuf, to send a message of any size to buildkitd.

use sha2::{Digest as _, Sha256};

/// The index that says "no input" in a file operation.
const SCRATCH: i64 = -1;

/// A `pb.Definition` that makes one file of `size` bytes on scratch, as `buildctl build` reads it from
/// standard input. Field numbers are those of `solver/pb/ops.proto`.
pub fn one_file(size: usize) -> Vec<u8> {
    let mkfile = [bytes(1, b"/file"), number(2, 0o644), bytes(3, &vec![b'x'; size]), number(5, u64::MAX)].concat();
    let scratch = SCRATCH.cast_unsigned();
    let action = [number(1, scratch), number(2, scratch), bytes(5, &mkfile)].concat();
    let file = bytes(4, &bytes(2, &action));
    let result = bytes(1, &bytes(1, format!("sha256:{}", hex::encode(Sha256::digest(&file))).as_bytes()));
    [bytes(1, &file), bytes(1, &result)].concat()
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn varint(value: u64) -> Vec<u8> {
    let mut encoded = Vec::new();
    prost::encoding::encode_varint(value, &mut encoded);
    encoded
}
