//! The matrix: each case runs with every client and on every store.

use super::client::{Build, Outcome};
use super::engine::Engine;
use super::host::Host;
use super::storage::Kind;

/// How a build reaches remora.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Buildctl,
    BuildxRemote,
    /// buildx `docker-container`, on a Docker Engine.
    BuildxContainer,
}

/// One cell of the matrix.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub via: Via,
    pub store: Kind,
}

/// A builder with remora in front of it, as a case sees it.
pub trait Rig {
    /// Builds through remora.
    fn build(&self, build: &Build) -> Outcome;
    /// Makes the builder forget everything; remora stays as it is.
    fn wipe(&mut self);
}

impl Setting {
    /// Starts all of it, with these buckets, the first being the default.
    pub fn rig(self, buckets: &[&str]) -> Box<dyn Rig> {
        match self.via {
            Via::Buildctl | Via::BuildxRemote => Box::new(Host::start(self, buckets)),
            Via::BuildxContainer => Box::new(Engine::start(self, buckets)),
        }
    }
}

/// Makes of a function over a [`Setting`] one test for each cell of the matrix.
macro_rules! over_the_matrix {
    ($($case:ident),+ $(,)?) => {
        $(mod $case {
            use crate::support::cases::{Setting, Via};
            use crate::support::storage::Kind;

            crate::support::cases::over_the_matrix!(@cells super::$case,
                buildctl_directory Buildctl Directory,
                buildctl_minio Buildctl Minio,
                buildx_remote_directory BuildxRemote Directory,
                buildx_remote_minio BuildxRemote Minio,
                buildx_container_directory BuildxContainer Directory,
                buildx_container_minio BuildxContainer Minio,
            );
        })+
    };
    (@cells $case:path, $($cell:ident $via:ident $store:ident,)+) => {
        $(#[test]
        fn $cell() {
            $case(Setting { via: Via::$via, store: Kind::$store });
        })+
    };
}
pub(crate) use over_the_matrix;
