//! The client and its calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use shoal_protocol::message::{ServedBy, Timings};
use shoal_protocol::{ErrorCode, Frame, NodeId, RequestId};

use super::driver::EncodeStream;
use super::encode::Encode;
use crate::core::{AttemptFailure, CallSpec, ClientCore, ClientError, ItemResult, View};
use crate::link::{Exchange, FrameError, LinkError, MemoryLink, QuicLink, Service, now};

/// A client of one node. Clones share the connection and what was learnt.
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

/// A finished call.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// One result for every text, in input order.
    pub items: Vec<ItemResult>,
    /// The request, naming the node that answered last.
    pub request_id: RequestId,
    /// Where the last part ran; `None` where nothing had to be sent (no texts, or none that fits a frame).
    pub served_by: Option<ServedBy>,
    /// The largest of each stage over the parts, which overlap.
    pub timings: Timings,
    /// Tokens that the model saw, over all items.
    pub tokens: u64,
    /// Parts that the call was cut into.
    pub parts: u32,
    /// Attempts beyond the first of each part.
    pub retries: u32,
}

pub(super) struct Inner {
    link: Link,
    /// The node at the link's other end; a client that is given no facts asks it about everything.
    pub(super) entry: NodeId,
    core: Mutex<ClientCore>,
    /// Random at start; every request takes the next number, mixed.
    unique: AtomicU64,
}

pub(super) enum Link {
    Memory(MemoryLink),
    Quic(QuicLink),
}

impl Inner {
    pub(super) fn core(&self) -> MutexGuard<'_, ClientCore> {
        // The machines do not panic; should one do, what it leaves fails calls and no more.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing was heard on this connection for too long: what follows goes over another.
    pub(super) fn suspect(&self, connection: usize) {
        if let Link::Quic(link) = &self.link {
            link.suspect(connection);
        }
    }

    /// Opens a stream to a node and sends the request on it.
    pub(super) async fn send(&self, to: NodeId, frame: Frame) -> Result<Exchange, AttemptFailure> {
        if to != self.entry {
            return Err(AttemptFailure::Unreachable(format!("no address of node {to} is known")));
        }
        match &self.link {
            Link::Memory(link) => link.send(&frame).map_err(AttemptFailure::from),
            Link::Quic(link) => link.send(frame).await,
        }
    }
}

impl From<LinkError> for AttemptFailure {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Gone => Self::Lost(error.to_string()),
            LinkError::Encode(_) | LinkError::Misplaced(_) => {
                Self::Refused(ErrorCode::InvalidRequest, error.to_string())
            }
        }
    }
}

impl From<FrameError> for AttemptFailure {
    fn from(error: FrameError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl Client {
    /// A client of a service in this process. The frames are the same as over QUIC.
    #[must_use]
    pub fn in_process(service: Arc<dyn Service>) -> Self {
        Self::new(Link::Memory(MemoryLink::new(service)), NodeId::default())
    }

    pub(super) fn new(link: Link, entry: NodeId) -> Self {
        let core = Mutex::new(ClientCore::new(View::of_entry(entry), random()));
        Self { inner: Arc::new(Inner { link, entry, core, unique: AtomicU64::new(random()) }) }
    }

    /// Encodes any number of texts and collects the results in input order. Dropping the future cancels the call and
    /// frees its slot at the node.
    ///
    /// # Errors
    /// When the call fails as a whole: see [`ClientError`]. An item that fails by itself is an
    /// [`ItemResult::Failed`] among the others.
    pub async fn encode(&self, call: Encode) -> Result<Encoded, ClientError> {
        let mut items = Vec::with_capacity(call.total.map_or(0, |total| total as usize));
        let mut stream = self.encode_stream(call);
        while let Some(item) = stream.next().await {
            items.push(item?.1);
        }
        // The stream ended without an error, so that there is a summary.
        let summary = stream.summary().ok_or(ClientError::NoRuntime)?.clone();
        Ok(Encoded {
            items,
            request_id: summary.request_id,
            served_by: summary.served_by,
            timings: summary.timings,
            tokens: summary.tokens,
            parts: summary.parts,
            retries: summary.retries,
        })
    }

    /// Encodes any number of texts and gives the results in input order as they come, in bounded memory.
    pub fn encode_stream(&self, call: Encode) -> EncodeStream {
        let now = now();
        let unique = self.inner.unique.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let spec = CallSpec {
            request_id: RequestId::new(call.request_unique.unwrap_or(unique)),
            deadline: call.deadline_after().and_then(|after| now.checked_add(after)),
            model: call.model,
            options: call.options,
            priority: call.priority,
            when_overloaded: call.when_overloaded,
            seed: unique,
            trace: call.trace,
        };
        let inner = self.inner.clone();
        let started = inner.core().start_call(spec, now);
        EncodeStream::new(inner, started, call.inputs, call.total, call.progress)
    }
}

/// Chance for request ids and jitter, from the operating system.
fn random() -> u64 {
    let random = ring::rand::generate(&ring::rand::SystemRandom::new());
    random.map_or(0, |bytes: ring::rand::Random<[u8; 8]>| u64::from_le_bytes(bytes.expose()))
}
