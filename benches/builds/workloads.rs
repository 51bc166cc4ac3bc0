//! What is measured: workloads, the contestants that do each, and the goals. To measure more, add an entry.

use std::time::Duration;

use crate::shaper::Network;

/// How a build gets at its cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// buildkitd itself, no cache options.
    Direct,
    /// remora's control endpoint, no cache options.
    Control,
    /// BuildKit's own `type=s3`.
    Native,
    /// BuildKit's own `type=local`.
    Local,
    /// remora, relay transport.
    Relay,
    /// remora, session transport.
    Session,
}

/// One way to do a workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) via: Via,
    /// Whether the shaper is between S3 and its client.
    pub(crate) shaped: bool,
    /// Whether the same remora has served this cache once before, some seconds ago.
    pub(crate) primed: bool,
    /// Added to remora's configuration, above its tables.
    pub(crate) settings: &'static str,
}

/// Layers of random bytes, which no compression makes smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layers {
    /// Stages that do not depend on each other.
    pub(crate) chains: u32,
    /// Layers of each, one on top of the other.
    pub(crate) length: u32,
    /// The size of each layer.
    pub(crate) bytes: u64,
}

/// What a build does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// An empty builder takes every layer from the cache, and one more step runs on top of them.
    Import(Layers),
    /// A builder that has it all exports to an empty cache.
    Export(Layers),
    /// A builder that has it all exports to a cache that has it all.
    Reexport(Layers),
    /// An empty builder copies a context of so many bytes.
    Context(u64),
    /// An empty builder takes from a hot name what one branch exported last, and one more step runs on top of it.
    ImportHot(HotName),
    /// An empty builder takes from a hot name what it can for a new commit, and exports to the same name.
    ExportHot(HotName),
}

/// A cache name that many exported to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HotName {
    pub(crate) exports: u32,
    /// They export in turn.
    pub(crate) branches: u32,
    /// How many export at once.
    pub(crate) at_once: usize,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) work: Work,
    /// The network of the shaped contestants.
    pub(crate) network: Network,
    pub(crate) contestants: &'static [&'static str],
    /// Whether it is a part of `--quick`.
    pub(crate) quick: bool,
}

/// A ratio to reach: the median time of one contestant by that of another, of the pairs of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) workloads: &'static [&'static str],
    pub(crate) contestant: &'static str,
    pub(crate) against: &'static str,
    /// Its time is taken off both: what is left is what the cache added.
    pub(crate) less: Option<&'static str>,
    pub(crate) at_most: f64,
}

/// remora's configuration with its disk cache.
pub(crate) const DISK_CACHE: &str = "disk_cache.enabled = true";

/// remora's configuration in which an export ends when remora's own disk has it.
pub(crate) const JOURNAL: &str = "durability = \"local\"";

/// Builds of each contestant in a workload.
pub(crate) const RUNS: usize = 5;
/// Builds of each contestant in a workload of short builds.
const SHORT_RUNS: usize = 15;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// One connection to S3, as AWS's guidance and measurements have it.
pub(crate) const S3: Network = Network { bytes_per_second: 90e6, latency: Duration::from_millis(20) };
/// S3 in another region.
const FAR: Network = Network { bytes_per_second: 90e6, latency: Duration::from_millis(50) };

const ONE: Layers = Layers { chains: 1, length: 1, bytes: GIB };
const CHAIN: Layers = Layers { chains: 1, length: 8, bytes: 64 * MIB };
const PARALLEL: Layers = Layers { chains: 4, length: 2, bytes: 64 * MIB };
const SMALL: Layers = Layers { chains: 1, length: 60, bytes: 4 * KIB };
const HOT: HotName = HotName { exports: 1000, branches: 8, at_once: 4 };

/// The contestant that makes the cache which remora imports.
pub(crate) const RELAY: Contestant = contestant("relay plain", Via::Relay, false);

pub(crate) const CONTESTANTS: &[Contestant] = &[
    contestant("direct", Via::Direct, false),
    contestant("control", Via::Control, false),
    contestant("native plain", Via::Native, false),
    contestant("native shaped", Via::Native, true),
    contestant("local", Via::Local, false),
    RELAY,
    contestant("relay shaped", Via::Relay, true),
    Contestant { primed: true, settings: DISK_CACHE, ..contestant("relay warm", Via::Relay, true) },
    Contestant { settings: JOURNAL, ..contestant("relay journal", Via::Relay, true) },
    Contestant { primed: true, ..contestant("relay served", Via::Relay, false) },
    contestant("session plain", Via::Session, false),
    Contestant { primed: true, ..contestant("session served", Via::Session, false) },
    contestant("session shaped", Via::Session, true),
];

const EVERY_WAY: &[&str] = &["native plain", "native shaped", "local", "relay plain", "relay shaped", "session plain", "session shaped"];

/// The contestants of exports, one of which brings the export to S3 only afterwards.
const EXPORT_WAYS: &[&str] =
    &["native plain", "native shaped", "local", "relay plain", "relay shaped", "relay journal", "session plain", "session shaped"];

/// The contestants of imports, one of which has it all in its disk cache.
const IMPORT_WAYS: &[&str] =
    &["native plain", "native shaped", "local", "relay plain", "relay shaped", "relay warm", "session plain", "session shaped"];

/// The contestants on a hot name. A remora that has just been started knows nothing of its blobs, and looks up all of
/// them; one that has been there when others built has done so within `manifests.lookup_interval`.
const HOT_WAYS: &[&str] = &["native plain", "relay plain", "relay served", "session plain", "session served"];

/// Workloads of the same layers follow each other, so that the layers are made once.
pub(crate) const WORKLOADS: &[Workload] = &[
    Workload { name: "import 1 × 1 GiB", work: Work::Import(ONE), network: S3, contestants: IMPORT_WAYS, quick: true },
    Workload { name: "export 1 × 1 GiB", work: Work::Export(ONE), network: S3, contestants: EXPORT_WAYS, quick: true },
    Workload { name: "import 8 × 64 MiB", work: Work::Import(CHAIN), network: S3, contestants: IMPORT_WAYS, quick: true },
    Workload { name: "export 8 × 64 MiB", work: Work::Export(CHAIN), network: S3, contestants: EXPORT_WAYS, quick: true },
    Workload { name: "import 4 chains of 2 × 64 MiB", work: Work::Import(PARALLEL), network: S3, contestants: IMPORT_WAYS, quick: false },
    Workload { name: "import 60 × 4 KiB", work: Work::Import(SMALL), network: S3, contestants: EVERY_WAY, quick: false },
    Workload { name: "export 60 × 4 KiB", work: Work::Export(SMALL), network: S3, contestants: EVERY_WAY, quick: false },
    Workload {
        name: "re-export 60 × 4 KiB, 50 ms",
        work: Work::Reexport(SMALL),
        network: FAR,
        contestants: &["direct", "native shaped", "relay shaped", "session shaped"],
        quick: false,
    },
    Workload { name: "no cache, 1 GiB context", work: Work::Context(GIB), network: S3, contestants: &["direct", "control"], quick: false },
    Workload { name: "hot name: import", work: Work::ImportHot(HOT), network: S3, contestants: HOT_WAYS, quick: false },
    Workload { name: "hot name: import and export", work: Work::ExportHot(HOT), network: S3, contestants: HOT_WAYS, quick: false },
];

const IMPORT_ONE: &[&str] = &["import 1 × 1 GiB"];
const EXPORT_ONE: &[&str] = &["export 1 × 1 GiB"];
const IMPORT_CHAIN: &[&str] = &["import 8 × 64 MiB"];
const IMPORT_PARALLEL: &[&str] = &["import 4 chains of 2 × 64 MiB"];
const REEXPORT: &[&str] = &["re-export 60 × 4 KiB, 50 ms"];
const CONTEXT: &[&str] = &["no cache, 1 GiB context"];
const HOT_IMPORT: &[&str] = &["hot name: import"];
const HOT_EXPORT: &[&str] = &["hot name: import and export"];
const LARGE_IMPORTS: &[&str] = &["import 1 × 1 GiB", "import 8 × 64 MiB", "import 4 chains of 2 × 64 MiB"];
const LARGE_EXPORTS: &[&str] = &["export 1 × 1 GiB", "export 8 × 64 MiB"];
/// Where remora must not be slower than native.
pub(crate) const TRANSFERS: &[&str] = &[
    "import 1 × 1 GiB",
    "export 1 × 1 GiB",
    "import 8 × 64 MiB",
    "export 8 × 64 MiB",
    "import 4 chains of 2 × 64 MiB",
    "import 60 × 4 KiB",
    "export 60 × 4 KiB",
];

pub(crate) const GOALS: &[Goal] = &[
    goal(LARGE_IMPORTS, "relay shaped", "native plain", 1.1),
    goal(LARGE_IMPORTS, "relay warm", "native plain", 1.05),
    goal(IMPORT_ONE, "relay shaped", "native shaped", 1.0 / 2.4),
    goal(IMPORT_CHAIN, "relay shaped", "native shaped", 1.0 / 1.4),
    goal(IMPORT_PARALLEL, "relay shaped", "native shaped", 1.0 / 1.3),
    goal(LARGE_EXPORTS, "relay shaped", "native shaped", 1.0 / 1.2),
    goal(LARGE_EXPORTS, "relay journal", "native plain", 1.05),
    goal(TRANSFERS, "relay plain", "native plain", 1.05),
    goal(IMPORT_ONE, "session shaped", "local", 1.0 / 1.3),
    goal(EXPORT_ONE, "session shaped", "local", 1.0 / 1.3),
    goal(IMPORT_ONE, "session shaped", "native shaped", 1.0 / 1.5),
    Goal { workloads: REEXPORT, contestant: "relay shaped", against: "native shaped", less: Some("direct"), at_most: 0.3 },
    goal(CONTEXT, "control", "direct", 1.0 / 0.95),
    goal(HOT_IMPORT, "relay served", "native plain", 1.05),
    goal(HOT_IMPORT, "session served", "native plain", 1.05),
    goal(HOT_EXPORT, "relay served", "native plain", 1.0),
    goal(HOT_EXPORT, "session served", "native plain", 1.0),
];

const fn contestant(name: &'static str, via: Via, shaped: bool) -> Contestant {
    Contestant { name, via, shaped, primed: false, settings: "" }
}

const fn goal(workloads: &'static [&'static str], contestant: &'static str, against: &'static str, at_most: f64) -> Goal {
    Goal { workloads, contestant, against, less: None, at_most }
}

impl Via {
    /// Whether remora has a part in it, and with which `--transport`.
    pub(crate) fn transport(self) -> Option<&'static str> {
        match self {
            Self::Direct | Self::Native | Self::Local => None,
            Self::Control | Self::Relay => Some("relay"),
            Self::Session => Some("session"),
        }
    }
}

impl Layers {
    pub(crate) fn count(self) -> u32 {
        self.chains * self.length
    }

    /// Bytes of all layers.
    pub(crate) fn total(self) -> u64 {
        u64::from(self.count()) * self.bytes
    }

    /// The smallest layer is 4 KiB.
    fn scaled(self, factor: f64) -> Self {
        Self { bytes: scaled(self.bytes, factor), ..self }
    }
}

impl HotName {
    /// Exports that no builder makes: all but the last one of each branch.
    pub(crate) fn synthetic(self) -> u32 {
        self.exports - self.branches
    }

    /// Every branch exports twice at least.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count far below 2^31")]
    fn scaled(self, factor: f64) -> Self {
        Self { exports: ((f64::from(self.exports) * factor) as u32).max(2 * self.branches), ..self }
    }
}

impl Work {
    /// Builds of each contestant, unless it is asked for others: what is short takes more for a median that means
    /// something.
    pub(crate) fn rounds(self) -> usize {
        match self {
            Self::ImportHot(_) | Self::ExportHot(_) => SHORT_RUNS,
            _ => RUNS,
        }
    }

    pub(crate) fn scaled(self, factor: f64) -> Self {
        match self {
            Self::Import(layers) => Self::Import(layers.scaled(factor)),
            Self::Export(layers) => Self::Export(layers.scaled(factor)),
            Self::Reexport(layers) => Self::Reexport(layers.scaled(factor)),
            Self::Context(bytes) => Self::Context(scaled(bytes, factor)),
            Self::ImportHot(name) => Self::ImportHot(name.scaled(factor)),
            Self::ExportHot(name) => Self::ExportHot(name.scaled(factor)),
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes are positive and far below 2^53")]
pub(crate) fn scaled(bytes: u64, factor: f64) -> u64 {
    ((bytes as f64 * factor) as u64).max(4 * KIB)
}
