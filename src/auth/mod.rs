//! Who is calling: access keys, and the grant that each stands for.
//!
//! There are two kinds of keys. Operator keys come from the configuration and are valid as long as the process runs. Grants
//! of builds are issued by the control endpoint for one build, one scope and one purpose. They exist only in memory and end
//! with their build. Secrets are never logged; `Debug` hides them.

mod builds;
mod credential;
mod grants;
mod keyring;

pub use credential::{Credential, GrantRequest, IssuedGrant, OperatorKey, Purpose, Refused};
pub use keyring::{BuildGuard, Keyring};
