//! The answer stream of Write: an ingest, written message by message.
//!
//! The ref is locked from the first message on until the stream ends, whatever way it ends, and free again
//! before its client can learn of the end.

use futures_util::{Stream, stream};
use tonic::{Status, Streaming};

use super::calls::{Call, Calls, bytes, parse_digest, timestamp};
use super::status::of_write;
use crate::cache::{Cache, Ingest};
use crate::proto::content::{WriteAction, WriteContentRequest, WriteContentResponse};
use crate::types::{Digest, Grant};

/// A stream of Write.
struct Writer {
    cache: Cache,
    grant: Grant,
    requests: Streaming<WriteContentRequest>,
    call: Call,
    /// From the first message on, until the commit.
    open: Option<Open>,
    committed: bool,
}

/// The ingest, and what is announced of it: the last word counts.
struct Open {
    ingest: Ingest,
    reference: String,
    total: u64,
    expected: Option<Digest>,
}

pub(super) fn answers(
    calls: &Calls,
    grant: Grant,
    requests: Streaming<WriteContentRequest>,
    call: Call,
) -> impl Stream<Item = Result<WriteContentResponse, Status>> + Send + use<> {
    let writer = Writer { cache: calls.cache().clone(), grant, requests, call, open: None, committed: false };
    stream::try_unfold(writer, |mut writer| async move {
        match writer.next().await {
            Ok(answer) => Ok(answer.map(|answer| (answer, writer))),
            Err(status) => {
                writer.call.failed(&status);
                // The ref is free before the status goes out.
                drop(writer);
                Err(status)
            }
        }
    })
}

impl Writer {
    async fn next(&mut self) -> Result<Option<WriteContentResponse>, Status> {
        if self.committed {
            return Ok(None);
        }
        let Some(request) = self.requests.message().await.map_err(|status| super::name_the_bound(&status).unwrap_or(status))? else {
            if let Some(open) = self.open.take() {
                open.ingest.close().await;
            }
            return Ok(None);
        };
        let expected = if request.expected.is_empty() { None } else { Some(parse_digest(&request.expected)?) };
        let total = u64::try_from(request.total).unwrap_or_default();
        let mut open = match self.open.take() {
            None => self.open(&request.r#ref, total, expected).await?,
            Some(mut open) => {
                open.announce(&request, total, expected).await?;
                open
            }
        };
        let action = match WriteAction::try_from(request.action) {
            Ok(action) => action,
            Err(_) => return Err(Status::invalid_argument(format!("unknown action {}", request.action))),
        };
        if action != WriteAction::Stat {
            self.call.received(request.data.len());
            open.append(&request).await?;
        }
        let mut answer = open.answer(action)?;
        if action == WriteAction::Commit {
            let size = (open.total > 0).then_some(open.total);
            let labels = request.labels.into_iter().collect();
            let (digest, _) = open.ingest.commit(size, open.expected, labels).await.map_err(|error| of_write(&error))?;
            answer.digest = digest.to_string();
            self.committed = true;
        } else {
            self.open = Some(open);
        }
        Ok(Some(answer))
    }

    async fn open(&self, reference: &str, total: u64, expected: Option<Digest>) -> Result<Open, Status> {
        if reference.is_empty() {
            return Err(Status::invalid_argument("the first message of a Write needs a ref"));
        }
        let ingest = self.cache.ingests().open_writer(&self.grant, reference, total, expected).await.map_err(|error| of_write(&error))?;
        let status = ingest.status().map_err(|error| of_write(&error))?;
        Ok(Open { ingest, reference: reference.to_owned(), total: status.total, expected })
    }
}

impl Open {
    /// Takes what a later message announces.
    async fn announce(&mut self, request: &WriteContentRequest, total: u64, expected: Option<Digest>) -> Result<(), Status> {
        if !request.r#ref.is_empty() && request.r#ref != self.reference {
            return Err(Status::invalid_argument(format!("the stream writes ref {:?}; another needs a stream of its own", self.reference)));
        }
        if total > 0 && total != self.total {
            self.ingest.announce(total).await.map_err(|error| of_write(&error))?;
            self.total = total;
        }
        if let Some(expected) = expected {
            self.expected = Some(expected);
            // A commit looks for it itself.
            if request.action != WriteAction::Commit as i32 {
                self.ingest.expect(&expected).await.map_err(|error| of_write(&error))?;
            }
        }
        Ok(())
    }

    /// Appends a message's data, if any. Offset 0 begins anew, as in containerd.
    async fn append(&mut self, request: &WriteContentRequest) -> Result<(), Status> {
        let offset = u64::try_from(request.offset).map_err(|_| Status::out_of_range(format!("offset {} is negative", request.offset)))?;
        let status = self.ingest.status().map_err(|error| of_write(&error))?;
        if offset == 0 && status.offset > 0 {
            self.ingest.restart().await.map_err(|error| of_write(&error))?;
        }
        self.ingest.write(offset, request.data.clone()).await.map_err(|error| of_write(&error))
    }

    /// Without a digest while the bytes of a build are being written: containerd's client
    /// (`core/content/proxy`, v2.4) then keeps the one that it had.
    fn answer(&self, action: WriteAction) -> Result<WriteContentResponse, Status> {
        let status = self.ingest.status().map_err(|error| of_write(&error))?;
        let digest = self.ingest.digest().map_err(|error| of_write(&error))?;
        Ok(WriteContentResponse {
            action: action as i32,
            started_at: Some(timestamp(status.started)),
            updated_at: Some(timestamp(status.updated)),
            offset: bytes(status.offset),
            total: bytes(self.total),
            digest: digest.map(|digest| digest.to_string()).unwrap_or_default(),
        })
    }
}
