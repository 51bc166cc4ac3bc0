//! Who is calling: access keys, and the grant that each stands for.
//!
//! Two kinds of key open the s3 endpoint. Operator keys come from the configuration and live as long as
//! the process. Grants of builds are made by the control endpoint for one build, one scope and one use,
//! live in memory alone, and end with their build. The secret is never logged; `Debug` hides it.

mod builds;
mod credential;
mod grants;
mod keyring;

pub use credential::{Credential, GrantRequest, IssuedGrant, OperatorKey, Purpose, Refused};
pub use keyring::{BuildGuard, Keyring};
