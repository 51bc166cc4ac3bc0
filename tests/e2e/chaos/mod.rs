//! Builds while the store, the network or remora itself fails, through remora and with native `type=s3`.

mod kills;
mod rig;
