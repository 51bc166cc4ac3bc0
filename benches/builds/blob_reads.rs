//! Reads of one large blob without a build around it, and remora's memory while it is idle and while it is busy.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::primitives::ByteStream;
use comfy_table::Table;
use remora::proto::content::ReadContentRequest;
use remora_test_support::minio::Minio;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

use crate::clients::{client, read_content};
use crate::daemons::{Buildkitd, Remora, Settings, Stored};
use crate::figures::{median, mib, table};
use crate::processes::Daemon;

use crate::shaper::Shaper;
use crate::workloads::{DISK_CACHE, GIB, S3, scaled};

const BUCKET: &str = "blobs";
/// The manifest that names the blob, which whoever reads it has read before.
const MANIFEST: &str = "manifests/blob";
/// Readers at once, for the peak of remora's memory.
const READERS: usize = 16;
/// How long remora is left alone before its idle memory is read.
const IDLE: Duration = Duration::from_secs(3);

/// One way to read a blob.
#[derive(Debug, Clone, Copy)]
struct Reader {
    name: &'static str,
    way: Way,
    shaped: bool,
    /// Whether this remora has read the blob once before.
    warm: bool,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    /// One GET, from the S3 server itself.
    Direct,
    /// One GET, from remora's s3 endpoint.
    S3,
    /// One Read of the content endpoint.
    Content,
}

const READERS_IN_TURN: [Reader; 8] = [
    Reader { name: "one shaped connection", way: Way::Direct, shaped: true, warm: false },
    Reader { name: "s3 endpoint, shaped", way: Way::S3, shaped: true, warm: false },
    Reader { name: "s3 endpoint, warm", way: Way::S3, shaped: true, warm: true },
    Reader { name: "content Read, shaped", way: Way::Content, shaped: true, warm: false },
    Reader { name: "content Read, warm", way: Way::Content, shaped: true, warm: true },
    Reader { name: "one plain connection", way: Way::Direct, shaped: false, warm: false },
    Reader { name: "s3 endpoint, plain", way: Way::S3, shaped: false, warm: false },
    Reader { name: "content Read, plain", way: Way::Content, shaped: false, warm: false },
];

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Blobs {
    bytes: u64,
    reads: Vec<Reads>,
    start_to_ready_milliseconds: Vec<f64>,
    idle_rss: u64,
    /// The peak while 16 readers read the blob through the s3 endpoint at once.
    peak_rss_of_16_reads: u64,
    peak_rss_of_16_content_reads: u64,
}

#[derive(Debug, Serialize)]
struct Reads {
    name: &'static str,
    seconds: Vec<f64>,
    remora_cpu_seconds: Vec<f64>,
}

/// Where the blob is to be read from.
#[derive(Debug, Clone, Copy)]
struct Source<'a> {
    way: Way,
    address: SocketAddr,
    digest: &'a str,
    bytes: u64,
}

/// Measures all of it, the ways to read in turn.
pub(crate) fn measure(dir: &Path, minio: &Minio, program: &Path, factor: f64, rounds: usize) -> Result<Blobs> {
    let bytes = scaled(GIB, factor);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut stderr = std::io::stderr();
    writeln!(stderr, "blobs: preparing")?;
    minio.make_bucket(BUCKET)?;
    let builder = Buildkitd::start(&dir.join("cold"))?;
    let buildkitd = builder.address();
    let start = |endpoint, warm| {
        let configuration = if warm { DISK_CACHE } else { "" };
        let settings =
            Settings { program, buildkitd: &buildkitd, transport: "relay", store: Stored::S3 { endpoint, bucket: BUCKET }, configuration };
        Remora::start(&dir.join("remora"), &settings)
    };
    let digest = export(&runtime, dir, start(minio.address(), false)?.s3, bytes)?;

    let mut blobs = Blobs {
        bytes,
        reads: READERS_IN_TURN.map(|reader| Reads { name: reader.name, seconds: vec![], remora_cpu_seconds: vec![] }).into(),
        start_to_ready_milliseconds: Vec::new(),
        idle_rss: 0,
        peak_rss_of_16_reads: 0,
        peak_rss_of_16_content_reads: 0,
    };
    for _ in 0..rounds {
        for (reader, reads) in READERS_IN_TURN.iter().zip(&mut blobs.reads) {
            let shaper = reader.shaped.then(|| Shaper::start(minio.address(), S3)).transpose()?;
            let endpoint = shaper.as_ref().map_or(minio.address(), Shaper::address);
            let remora = start(endpoint, reader.warm)?;
            let (address, observed) = match reader.way {
                Way::Direct => (endpoint, None),
                Way::S3 => (remora.s3, Some(&remora.daemon)),
                Way::Content => (remora.content, Some(&remora.daemon)),
            };
            let source = Source { way: reader.way, address, digest: &digest, bytes };
            if observed.is_some() {
                runtime.block_on(import(remora.s3))?;
            }
            if reader.warm {
                runtime.block_on(read(source))?;
                rustix::fs::sync();
            }
            let before = observed.map(Daemon::cpu).transpose()?;
            let started = Instant::now();
            runtime.block_on(read(source))?;
            let seconds = started.elapsed().as_secs_f64();
            writeln!(stderr, "blobs: {}: {seconds:.2} s", reader.name)?;
            reads.seconds.push(seconds);
            if let (Some(daemon), Some(before)) = (observed, before) {
                reads.remora_cpu_seconds.push(daemon.cpu()? - before);
            }
            blobs.start_to_ready_milliseconds.push(remora.ready_after.as_secs_f64() * 1e3);
        }
    }
    let remora = start(minio.address(), false)?;
    std::thread::sleep(IDLE);
    blobs.idle_rss = remora.daemon.rss()?;
    writeln!(stderr, "blobs: {READERS} readers at once")?;
    blobs.peak_rss_of_16_reads = peak_of_many(&runtime, &remora, Source { way: Way::S3, address: remora.s3, digest: &digest, bytes })?;
    drop(remora);
    let remora = start(minio.address(), false)?;
    blobs.peak_rss_of_16_content_reads =
        peak_of_many(&runtime, &remora, Source { way: Way::Content, address: remora.content, digest: &digest, bytes })?;
    drop(remora);
    minio.remove_bucket(BUCKET)?;
    Ok(blobs)
}

/// Exports a blob of random bytes and its manifest through remora's s3 endpoint, and returns the blob's digest.
fn export(runtime: &Runtime, dir: &Path, s3: SocketAddr, bytes: u64) -> Result<String> {
    let path = dir.join("blob");
    let mut random = File::open("/dev/urandom")?.take(bytes);
    let mut file = File::create(&path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = random.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
        file.write_all(&buffer[..length])?;
    }
    let digest = format!("sha256:{}", hex::encode(hasher.finalize()));
    let time = "2026-01-01T00:00:00Z";
    let annotations = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "diffID": digest, "size": bytes, "createdAt": time });
    let manifest = json!({
        "layers": [{ "blob": digest, "parent": -1, "annotations": annotations }],
        "records": [{ "layers": [{ "layer": 0, "createdAt": time }], "digest": digest }],
    });
    runtime.block_on(async {
        for (key, body) in
            [(key(&digest), ByteStream::from_path(&path).await?), (MANIFEST.to_owned(), manifest.to_string().into_bytes().into())]
        {
            let put = client(s3).put_object().bucket(BUCKET).key(&key);
            put.body(body).send().await.with_context(|| format!("cannot export {key}"))?;
        }
        anyhow::Ok(())
    })?;
    fs::remove_file(path)?;
    Ok(digest)
}

/// Reads the manifest, as a build does before it reads a blob.
async fn import(s3: SocketAddr) -> Result<()> {
    client(s3).get_object().bucket(BUCKET).key(MANIFEST).send().await.context("cannot import the manifest")?.body.collect().await?;
    Ok(())
}

async fn read(source: Source<'_>) -> Result<()> {
    let mut received = 0;
    match source.way {
        Way::Direct | Way::S3 => {
            let answer = client(source.address).get_object().bucket(BUCKET).key(key(source.digest)).send().await?;
            let mut body = answer.body;
            while let Some(chunk) = body.try_next().await? {
                received += chunk.len() as u64;
            }
        }
        Way::Content => {
            let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", source.address))?.connect().await?;
            received = read_content(channel, ReadContentRequest { digest: source.digest.to_owned(), offset: 0, size: 0 }).await?;
        }
    }
    ensure!(received == source.bytes, "{received} of {} bytes", source.bytes);
    Ok(())
}

/// Reads the blob many times at once, and returns the most memory that remora had meanwhile.
fn peak_of_many(runtime: &Runtime, remora: &Remora, source: Source<'_>) -> Result<u64> {
    runtime.block_on(async {
        import(remora.s3).await?;
        futures_util::future::join_all((0..READERS).map(|_| read(source))).await.into_iter().collect::<Result<Vec<()>>>()
    })?;
    remora.daemon.peak_rss()
}

fn key(digest: &str) -> String {
    format!("blobs/{digest}")
}

impl Blobs {
    pub(crate) fn reads_table(&self) -> Table {
        let header = ["read of one blob", "median s", "MB/s", "remora CPU s", "times one shaped connection"];
        let mut table = table(header.map(str::to_owned).to_vec(), 1);
        let base = self.reads.first().map_or(0.0, |reads| median(reads.seconds.clone()));
        for reads in &self.reads {
            let seconds = median(reads.seconds.clone());
            let cpu = if reads.remora_cpu_seconds.is_empty() {
                String::new()
            } else {
                format!("{:.2}", median(reads.remora_cpu_seconds.clone()))
            };
            let rate = self.bytes as f64 / seconds / 1e6;
            table.add_row([reads.name.to_owned(), format!("{seconds:.2}"), format!("{rate:.0}"), cpu, format!("{:.1}", base / seconds)]);
        }
        table
    }

    pub(crate) fn footprint_table(&self) -> Table {
        let mut table = table(["remora itself", "measured", "goal"].map(str::to_owned).to_vec(), 1);
        let ready = median(self.start_to_ready_milliseconds.clone());
        let memory = |bytes: u64| format!("{} MiB", mib(bytes as f64));
        for [what, measured, goal] in [
            ["start to ready".to_owned(), format!("{ready:.0} ms"), "≤ 100 ms".to_owned()],
            ["memory, idle".to_owned(), memory(self.idle_rss), "≤ 30 MiB".to_owned()],
            [format!("memory, {READERS} GETs of the blob at once"), memory(self.peak_rss_of_16_reads), "≤ 256 MiB".to_owned()],
            [format!("memory, {READERS} content Reads at once"), memory(self.peak_rss_of_16_content_reads), "≤ 256 MiB".to_owned()],
        ] {
            table.add_row([what, measured, goal]);
        }
        table
    }
}
