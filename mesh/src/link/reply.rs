//! What a node implements to serve attempts, and how it answers them.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::Either;
use shoal_protocol::message::{Failure, LoadProbe, LoadReply, Role};
use shoal_protocol::{EncodeError, ErrorCode, Frame, Message, NodeId};

use tokio::sync::watch;

use super::codes::Code;
use super::frames::FrameSink;
use crate::peer::MeshState;

/// A boxed future, as trait objects need it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The server side: what a node implements.
pub trait Service: Send + Sync + 'static {
    /// Serves one attempt. `request` holds an `TaskRequest`, `StatusRequest`, `ExplainRequest` or `DrainRequest`, decoded and
    /// within its limits. What a caller may do by its role is for the service to check.
    ///
    /// Must end with exactly one terminal frame through [`Reply::end`]. Runs in a task of the link, which never drops
    /// it before it is over: it must watch [`Reply::cancelled`] and stop work that nobody waits for.
    fn serve(self: Arc<Self>, peer: Peer, request: Frame, reply: Reply) -> BoxFuture<'static, ()>;

    /// A device's load in answer to a probe; `None`: there is no such device. Called on the link's own task for every
    /// probe: it answers from memory and waits for nobody.
    fn probe(&self, probe: &LoadProbe) -> Option<LoadReply> {
        let _ = probe;
        None
    }

    /// What the node knows of its mesh, as it is told to followers and used to forward attempts; `None`: it is in none,
    /// and who is connected to it asks it about everything. Called once for each follower.
    fn mesh(&self) -> Option<watch::Receiver<Arc<MeshState>>> {
        None
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What its certificate allows; a caller in this process is a client.
    pub role: Role,
    /// The id of its key, where it is a node.
    pub node: Option<NodeId>,
    /// The name in its certificate, for logs; empty in process.
    pub name: String,
    /// Where it calls from; `None` in process.
    pub address: Option<SocketAddr>,
    /// Whether it is in this process.
    pub local: bool,
}

/// Why a frame was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The caller cancelled, vanished, or the connection broke: drop the work.
    #[error("the caller is gone")]
    Gone,
    /// The message has no wire form; the stream is as it was. A result that is too large must be split.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A terminal message was given to `send`, or another to `end`: a fault in the service.
    #[error("{0:?} is not a message for this call")]
    Misplaced(shoal_protocol::Kind),
}

/// The way back to the caller of one attempt.
///
/// Dropping it without [`end`](Self::end) (a panic, for example) tells the caller `internal` if that can still be
/// said; a caller takes a stream that ends without a terminal frame as a failed attempt anyway.
#[derive(Debug)]
pub struct Reply {
    sink: FrameSink,
    ended: bool,
}

impl Reply {
    pub(super) fn new(sink: FrameSink) -> Self {
        Self { sink, ended: false }
    }

    /// Sends a frame that is not terminal. Waits while the caller does not read.
    ///
    /// # Errors
    /// [`LinkError::Gone`]: nobody waits any more. Otherwise nothing was sent.
    pub async fn send(&mut self, message: Message) -> Result<(), LinkError> {
        if message.kind().is_terminal() {
            return Err(LinkError::Misplaced(message.kind()));
        }
        self.sink.write(message.into()).await
    }

    /// Sends the terminal frame (`End`, `Failure` or `Status`) and closes the stream.
    ///
    /// # Errors
    /// [`LinkError::Gone`]: nobody waits any more. Otherwise the caller is told `internal` instead.
    pub async fn end(mut self, message: Message) -> Result<(), LinkError> {
        if !message.kind().is_terminal() {
            return Err(LinkError::Misplaced(message.kind()));
        }
        self.sink.write(message.into()).await?;
        self.ended = true;
        self.sink.finish();
        Ok(())
    }

    /// Ends with a failure.
    ///
    /// # Errors
    /// As [`end`](Self::end).
    pub async fn fail(self, code: ErrorCode, message: impl Into<String>) -> Result<(), LinkError> {
        self.end(failure(code, message.into())).await
    }

    /// Ends without a terminal frame, which the caller takes for a lost attempt.
    pub(super) fn cut(mut self, code: Code) {
        self.ended = true;
        self.sink.reset(code);
    }

    /// Resolves when the caller cancelled or vanished, and also once an ended answer was delivered, so that
    /// nothing waits on it for ever. Independent of the reply: it may be awaited in another task.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        match &self.sink {
            FrameSink::Quic { stream, .. } => Either::Left(stream.stopped().map(drop)),
            FrameSink::Memory { alive, .. } => {
                let mut alive = alive.clone();
                // Nothing is ever sent: the error says that the caller's half was dropped.
                Either::Right(async move { while alive.changed().await.is_ok() {} })
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.ended {
            let what = "the node dropped the request; its log says why";
            self.sink.abandon(failure(ErrorCode::Internal, what.to_owned()).into());
        }
    }
}

/// A terminal failure without a retry hint.
fn failure(code: ErrorCode, message: String) -> Message {
    Message::Failure(Failure::new(code, message))
}
