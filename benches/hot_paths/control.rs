//! The control endpoint: what a context or a session costs for each byte, and a Solve for each call.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use remora::endpoints::control::hot_paths;

/// The largest HTTP/2 frame that gRPC's peers accept.
const FRAME_BYTES: usize = 16 << 10;
const STREAM_BYTES: usize = 4 << 20;
/// A message of buildkitd's progress.
const MESSAGE_BYTES: u16 = 1000;

pub(crate) fn session(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let data = vec![7; STREAM_BYTES];
    let mut group = criterion.benchmark_group("session");
    group.throughput(Throughput::Bytes(STREAM_BYTES as u64));
    group.bench_function("BytesMessages there and back", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            assert_eq!(hot_paths::tunnel(&data, FRAME_BYTES).await.unwrap(), STREAM_BYTES as u64);
        });
    });
    group.bench_function("batched writes", |bencher| {
        bencher.to_async(&runtime).iter(|| async { hot_paths::batch(&data, FRAME_BYTES).await.unwrap() });
    });
    group.finish();
}

pub(crate) fn calls(criterion: &mut Criterion) {
    let frame = [&[0; 3][..], &MESSAGE_BYTES.to_be_bytes(), &[7; MESSAGE_BYTES as usize]].concat();
    let stream = frame.repeat(STREAM_BYTES / frame.len());
    let mut group = criterion.benchmark_group("calls");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.bench_function("messages of 1000 bytes, none changed", |bencher| {
        bencher.iter(|| assert_eq!(hot_paths::messages(black_box(&stream), FRAME_BYTES), stream.len()));
    });

    // A Solve's definition has hundreds of fields; one in the middle is replaced.
    let mut message = Vec::new();
    for index in 0..1000 {
        let number = if index == 500 { 12 } else { 1 };
        message.extend([number << 3 | 2, 100]);
        message.extend([7; 100]);
    }
    group.throughput(Throughput::Bytes(message.len() as u64));
    group.bench_function("one of 1000 fields patched", |bencher| {
        bencher.iter(|| hot_paths::patch(black_box(&message), 12, &[9; 200]).unwrap());
    });
    group.finish();
}
