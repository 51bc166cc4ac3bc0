//! Does the touches that builds have left for later.

use futures_util::{StreamExt as _, stream};

use crate::cache::write::Touches;
use crate::shutdown::Shutdown;

/// Touches under way at once.
const AT_ONCE: usize = 8;

/// Does the touches until the process begins to end.
pub(super) async fn run(touches: &Touches, shutdown: &Shutdown) {
    let Some(mut waiting) = touches.take_waiting() else { return };
    loop {
        let mut batch = Vec::new();
        tokio::select! {
            () = shutdown.closing() => return,
            received = waiting.recv_many(&mut batch, AT_ONCE) => if received == 0 { return },
        }
        stream::iter(batch).for_each_concurrent(AT_ONCE, |touch| touches.run(touch)).await;
    }
}
