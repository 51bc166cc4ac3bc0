//! The matrix: each case runs with every client, on every store, over every transport.

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

/// How the cache's bytes go between buildkitd and remora.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Relay,
    Session,
}

impl Transport {
    /// Both transports, for cases that run on one after the other.
    pub const BOTH: [Self; 2] = [Self::Relay, Self::Session];

    /// What `--transport` is set to. Where relay works, remora finds that out by itself.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Relay => "auto",
            Self::Session => "session",
        }
    }
}

/// One cell of the matrix.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub via: Via,
    pub store: Kind,
    pub transport: Transport,
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
            use crate::support::cases::{Setting, Transport, Via};
            use crate::support::storage::Kind;

            crate::support::cases::over_the_matrix!(@cells super::$case,
                buildctl_directory Buildctl Directory Relay,
                buildctl_minio Buildctl Minio Relay,
                buildctl_directory_session Buildctl Directory Session,
                buildctl_minio_session Buildctl Minio Session,
                buildx_remote_directory BuildxRemote Directory Relay,
                buildx_remote_minio BuildxRemote Minio Relay,
                buildx_remote_directory_session BuildxRemote Directory Session,
                buildx_remote_minio_session BuildxRemote Minio Session,
                buildx_container_directory BuildxContainer Directory Relay,
                buildx_container_minio BuildxContainer Minio Relay,
                buildx_container_directory_session BuildxContainer Directory Session,
                buildx_container_minio_session BuildxContainer Minio Session,
            );
        })+
    };
    (@cells $case:path, $($cell:ident $via:ident $store:ident $transport:ident,)+) => {
        $(#[test]
        fn $cell() {
            $case(Setting { via: Via::$via, store: Kind::$store, transport: Transport::$transport });
        })+
    };
}
pub(crate) use over_the_matrix;
