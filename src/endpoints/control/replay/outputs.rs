//! Where the results of a build go, which says whether the build can be run a second time.

use crate::endpoints::control::grpc::wire::{self, Field, Malformed};

/// The places that one build writes to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outputs {
    /// To a registry or to buildkitd's own images, where writing the same image twice changes nothing.
    images: usize,
    /// To the client, as files or archives, which it would get twice.
    files: usize,
    /// Cache exports to elsewhere than a `type=s3`.
    foreign_caches: usize,
    /// To places that the client names later, in its session.
    by_session: bool,
}

impl Outputs {
    /// The outputs of a `SolveRequest`: its `Exporters` (13), or the one of older clients (3), its cache exports
    /// (4 in 8), and `EnableSessionExporter` (14).
    pub(super) fn of(request: &[u8]) -> Result<Self, Malformed> {
        let mut outputs = Self::default();
        let mut older = &[][..];
        for field in wire::fields(request) {
            match field? {
                Field { number: 13, payload: Some(exporter), .. } => outputs.add(wire::last(exporter, 1)?),
                Field { number: 3, payload: Some(exporter), .. } => older = exporter,
                Field { number: 14, .. } => outputs.by_session = true,
                Field { number: 8, payload: Some(options), .. } => {
                    for field in wire::fields(options) {
                        if let Field { number: 4, payload: Some(entry), .. } = field? {
                            outputs.foreign_caches += usize::from(!matches!(wire::last(entry, 1)?, b"s3" | b"inline"));
                        }
                    }
                }
                _ => {}
            }
        }
        if outputs.images + outputs.files == 0 && !older.is_empty() {
            outputs.add(older);
        }
        Ok(outputs)
    }

    /// Whether the client gets files.
    pub(super) fn has_files(self) -> bool {
        self.files > 0
    }

    fn add(&mut self, exporter: &[u8]) {
        match exporter {
            b"image" => self.images += 1,
            _ => self.files += 1,
        }
    }

    /// Whether the build can run twice and nobody gets anything twice. Each of BuildKit's exporters reads all
    /// layers before it writes the first file, so an exporter that is the only one has written nothing when a
    /// layer is lost. Caches are exported after that.
    pub(super) fn are_repeatable(self) -> bool {
        !self.by_session && (self.files == 0 || (self.files + self.images == 1 && self.foreign_caches == 0))
    }
}
