//! The content endpoint alone: its Read and Write beside those of a server that does nothing with the bytes.

use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use comfy_table::Table;
use futures_util::future::try_join_all;
use remora::proto::content::content_client::ContentClient;
use remora::proto::content::{ReadContentRequest, WriteAction, WriteContentRequest};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::clients::read_content;
use crate::daemons::{Buildkitd, Remora, Settings, Stored};
use crate::discarding_server;
use crate::figures::{median, mib, table};
use crate::workloads::{GIB, scaled};

/// The size of a message, as in remora's Read and in containerd's clients.
const CHUNK_BYTES: usize = 1 << 20;
const STREAMS: [usize; 2] = [1, 16];
/// The least that remora's rate may be, as a share of the other server's.
const GOAL: f64 = 0.8;

#[derive(Debug, Clone, Copy, Serialize)]
enum Operation {
    Write,
    Read,
}

/// One operation with a number of streams, on both servers.
#[derive(Debug, Serialize)]
struct Contest {
    operation: Operation,
    streams: usize,
    bare_seconds: Vec<f64>,
    remora_seconds: Vec<f64>,
    remora_cpu_seconds: Vec<f64>,
    /// The highest of all rounds.
    remora_peak_rss: u64,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Streams {
    bytes: u64,
    contests: Vec<Contest>,
}

/// A blob that is one chunk, over and over.
#[derive(Debug, Clone)]
struct Blob {
    chunk: Bytes,
    chunks: usize,
    digest: String,
}

/// Measures both servers in turn. remora keeps its blobs in a directory.
pub(crate) fn measure(dir: &Path, program: &Path, factor: f64, rounds: usize) -> Result<Streams> {
    let bytes = scaled(GIB, factor);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut stderr = std::io::stderr();
    writeln!(stderr, "streams: preparing")?;
    let builder = Buildkitd::start(&dir.join("cold"))?;
    let buildkitd = builder.address();
    let mut contests = Vec::new();
    for streams in STREAMS {
        let blobs = (0..streams).map(|index| Blob::new(index, bytes / streams as u64)).collect::<Result<Vec<_>>>()?;
        let mut found = [Operation::Write, Operation::Read].map(|operation| Contest::new(operation, streams));
        for _ in 0..rounds {
            let settings = Settings { program, buildkitd: &buildkitd, transport: "relay", store: Stored::Directory, configuration: "" };
            let remora = Remora::start(&dir.join("remora"), &settings)?;
            let server = discarding_server::Server::start(CHUNK_BYTES)?;
            // Remora reads what it has written.
            for contest in &mut found {
                rustix::fs::sync();
                let bare_seconds = contest.operation.time(&runtime, server.address, &blobs)?;
                rustix::fs::sync();
                remora.daemon.forget_peak()?;
                let before = remora.daemon.cpu()?;
                let remora_seconds = contest.operation.time(&runtime, remora.content, &blobs)?;
                contest.remora_cpu_seconds.push(remora.daemon.cpu()? - before);
                contest.remora_peak_rss = contest.remora_peak_rss.max(remora.daemon.peak_rss()?);
                writeln!(stderr, "streams: {}: bare {bare_seconds:.2} s, remora {remora_seconds:.2} s", contest.name())?;
                contest.bare_seconds.push(bare_seconds);
                contest.remora_seconds.push(remora_seconds);
            }
        }
        contests.extend(found);
    }
    Ok(Streams { bytes, contests })
}

impl Operation {
    /// Seconds for all blobs at once, over a connection each.
    fn time(self, runtime: &Runtime, server: SocketAddr, blobs: &[Blob]) -> Result<f64> {
        runtime.block_on(async {
            let connect = || async { Endpoint::from_shared(format!("http://{server}"))?.connect().await };
            let channels = try_join_all(blobs.iter().map(|_| connect())).await?;
            let started = Instant::now();
            let streams = channels.into_iter().zip(blobs).map(|(channel, blob)| {
                let blob = blob.clone();
                tokio::spawn(async move {
                    match self {
                        Self::Write => blob.write(channel).await,
                        Self::Read => blob.read(channel).await,
                    }
                })
            });
            for stream in try_join_all(streams).await? {
                stream?;
            }
            Ok(started.elapsed().as_secs_f64())
        })
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Contest {
    fn new(operation: Operation, streams: usize) -> Self {
        Self { operation, streams, bare_seconds: vec![], remora_seconds: vec![], remora_cpu_seconds: vec![], remora_peak_rss: 0 }
    }

    fn name(&self) -> String {
        format!("content {}, {} at once", self.operation, self.streams)
    }
}

impl Blob {
    /// The blob of one of many streams: about `bytes` bytes that no other stream has.
    fn new(index: usize, bytes: u64) -> Result<Self> {
        let mut chunk = vec![0; CHUNK_BYTES];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut chunk)?;
        chunk[..8].copy_from_slice(&(index as u64).to_be_bytes());
        let chunks = usize::try_from(bytes)?.div_ceil(CHUNK_BYTES);
        let mut hasher = Sha256::new();
        (0..chunks).for_each(|_| hasher.update(&chunk));
        Ok(Self { chunk: chunk.into(), chunks, digest: format!("sha256:{}", hex::encode(hasher.finalize())) })
    }

    fn bytes(&self) -> i64 {
        (self.chunks * self.chunk.len()).try_into().unwrap_or(i64::MAX)
    }

    async fn read(&self, channel: Channel) -> Result<()> {
        let request = ReadContentRequest { digest: self.digest.clone(), offset: 0, size: self.bytes() };
        let received = read_content(channel, request).await?;
        ensure!(i64::try_from(received)? == self.bytes(), "{received} of {} bytes", self.bytes());
        Ok(())
    }

    /// As containerd's client does it: each message waits for the answer to the last one.
    async fn write(&self, channel: Channel) -> Result<()> {
        let mut client = ContentClient::new(channel);
        let (requests, outgoing) = tokio::sync::mpsc::channel(1);
        let request = |action: WriteAction, index: usize| WriteContentRequest {
            action: action.into(),
            r#ref: self.digest.clone(),
            total: self.bytes(),
            expected: self.digest.clone(),
            offset: (index * self.chunk.len()).try_into().unwrap_or(i64::MAX),
            data: if index < self.chunks { self.chunk.clone() } else { Bytes::new() },
            ..Default::default()
        };
        let messages = (0..self.chunks).map(|index| request(WriteAction::Write, index));
        let mut messages = messages.chain([request(WriteAction::Commit, self.chunks)]);
        requests.send(messages.next().context("no message")?).await?;
        let mut answers = client.write(tokio_stream::wrappers::ReceiverStream::new(outgoing)).await?.into_inner();
        for message in messages {
            answers.message().await?.context("the stream ended")?;
            requests.send(message).await?;
        }
        let committed = answers.message().await?.context("the stream ended")?;
        ensure!(committed.offset == self.bytes(), "{} of {} bytes", committed.offset, self.bytes());
        Ok(())
    }
}

impl Streams {
    pub(crate) fn table(&self) -> Table {
        let header = ["streams", "bare MB/s", "remora MB/s", "remora CPU s", "remora MiB", "rate / bare", "goal"];
        let mut table = table(header.map(str::to_owned).to_vec(), 1);
        for contest in &self.contests {
            let rate = |seconds: &[f64]| format!("{:.0}", self.bytes as f64 / median(seconds.to_vec()) / 1e6);
            let ratios = contest.bare_seconds.iter().zip(&contest.remora_seconds).map(|(bare, remora)| bare / remora);
            table.add_row([
                contest.name(),
                rate(&contest.bare_seconds),
                rate(&contest.remora_seconds),
                format!("{:.2}", median(contest.remora_cpu_seconds.clone())),
                mib(contest.remora_peak_rss as f64),
                format!("{:.2}", median(ratios.collect())),
                format!("≥ {GOAL}"),
            ]);
        }
        table
    }
}
