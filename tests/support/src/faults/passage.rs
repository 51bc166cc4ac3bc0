//! A body on its way through the proxy, and what happens to it.

use std::io;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use tokio::sync::watch;

use super::rules::Fault;
use super::server::Cut;
use super::{FLUSH, Link, passable};

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A fault at an offset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Harm {
    pub(super) at: u64,
    pub(super) fault: Fault,
}

struct Passage {
    body: Incoming,
    /// Read and not passed on yet.
    held: Bytes,
    passed: u64,
    harm: Option<Harm>,
    link: watch::Receiver<Link>,
    cut: Cut,
}

/// Passes a body on as the line allows, with the harm that it is to come to.
pub(super) fn pass(body: Incoming, harm: Option<Harm>, link: watch::Receiver<Link>, cut: Cut) -> Body {
    // Where hyper cannot see that a request has no body, it adds an empty chunked one.
    if body.is_end_stream() && harm.is_none() {
        return Empty::new().map_err(|never| match never {}).boxed_unsync();
    }
    let passage = Passage { body, held: Bytes::new(), passed: 0, harm, link, cut };
    let frames = futures_util::stream::unfold(passage, |mut passage| async move {
        let frame = passage.next().await?;
        Some((frame.map(Frame::data), passage))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// A body of the proxy's own.
pub(super) fn own(text: &'static str) -> Body {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
}

impl Passage {
    /// The next chunk; `None` at the end.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        passable(&mut self.link).await;
        if self.held.is_empty() {
            self.held = match self.read().await {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => return Some(Err(error)),
                // An empty body, or one that is shorter than announced.
                None => Bytes::new(),
            };
            passable(&mut self.link).await;
        }
        let until = self.harm.map_or(u64::MAX, |harm| harm.at - self.passed);
        if until > 0 {
            let len = usize::try_from(until).map_or(self.held.len(), |until| until.min(self.held.len()));
            return self.take(len);
        }
        match self.harm.take().map(|harm| harm.fault) {
            Some(Fault::Reset) => {
                tokio::time::sleep(FLUSH).await;
                self.cut.cut();
                Some(Err(io::Error::other("reset by the proxy")))
            }
            Some(Fault::Truncate) => {
                tokio::time::sleep(FLUSH).await;
                None
            }
            Some(Fault::Flip) => {
                let mut chunk = BytesMut::from(&self.held[..]);
                if let Some(byte) = chunk.first_mut() {
                    *byte ^= 1;
                }
                self.held = chunk.freeze();
                self.take(self.held.len())
            }
            Some(Fault::Stall(duration)) => {
                tokio::time::sleep(duration).await;
                self.take(self.held.len())
            }
            // The other faults do not concern a body.
            Some(Fault::SlowDown | Fault::Gone | Fault::WrongETag | Fault::Dark | Fault::DarkAnswer) | None => self.take(self.held.len()),
        }
    }

    fn take(&mut self, len: usize) -> Option<io::Result<Bytes>> {
        let chunk = self.held.split_to(len);
        self.passed += chunk.len() as u64;
        (!chunk.is_empty()).then_some(Ok(chunk))
    }

    /// A chunk that has bytes.
    async fn read(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Some(Ok(data)),
                    _ => {}
                },
                Err(error) => return Some(Err(io::Error::other(error))),
            }
        }
    }
}
