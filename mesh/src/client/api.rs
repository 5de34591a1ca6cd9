//! The client and its calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt;
use shoal_protocol::message::{ServedBy, Timings};
use shoal_protocol::{ErrorCode, Frame, NodeId, RequestId};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::call::{Call, Encode, Extract, Score, TaskOptions};
use super::driver::AnswerStream;
use super::follow::Entry;
use super::shared::SharedCore;
use crate::core::{
    AttemptFailure, CallSpec, ClientCore, ClientError, ItemResult, ListedModel, Probe, Ranked, Target, View,
    ranking,
};
use crate::link::{Exchange, FrameError, LinkError, Links, MemoryLink, Renewing, Service, now, random};

/// How long a direct connection may take where the entry node could forward.
const DIRECT_WAIT: Duration = Duration::from_millis(300);

/// A client of a mesh, or of a node that is in none. Clones share connections and what was learnt.
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

/// A finished call.
#[derive(Clone, Debug)]
pub struct Completed {
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

/// A finished call of documents against a query.
#[derive(Clone, Debug)]
pub struct Scored {
    /// The documents that have a score: best first, equal ones in input order.
    pub ranking: Vec<Ranked>,
    /// The call; its items are the documents in input order.
    pub call: Completed,
}

pub(super) struct Inner {
    /// The node in this process, if there is one.
    pub(super) home: Option<(NodeId, MemoryLink)>,
    /// The way to others; a client of a node that is alone in its process has none.
    pub(super) links: Option<Links>,
    /// Whom the client follows; what no facts answer is asked there.
    pub(super) entry: Arc<watch::Sender<Entry>>,
    pub(super) shared: Arc<SharedCore>,
    /// Random at start; every request takes the next number, mixed.
    pub(super) unique: AtomicU64,
    /// The background task; it ends with the client.
    /// Renews its certificate, if it was told to.
    pub(super) _renewing: Option<Renewing>,
    pub(super) _tasks: JoinSet<()>,
}

impl Inner {
    pub(super) fn core(&self) -> MutexGuard<'_, ClientCore> {
        self.shared.core()
    }

    /// Nothing was heard on this connection for too long: what follows goes over another.
    pub(super) fn suspect(&self, connection: usize) {
        if let Some(links) = &self.links {
            links.suspect(connection);
        }
    }

    /// Opens a stream to a node, or to the one that forwards to it, and sends the request on it.
    pub(super) async fn send(&self, to: Target, frame: Frame) -> Result<Exchange, AttemptFailure> {
        let hop = to.next_hop();
        if let Some((_, home)) = self.home.as_ref().filter(|(node, _)| *node == hop) {
            return Ok(home.send(&frame)?);
        }
        let Some(links) = &self.links else {
            return Err(AttemptFailure::Unreachable(format!("no address of node {hop} is known")));
        };
        let patience = (to.via.is_none() && self.core().view().has_detour(hop)).then_some(DIRECT_WAIT);
        links.send(hop, &self.addresses(hop), patience, frame).await
    }

    /// Sends a probe; whether it was answered at once, because the device is in this process.
    pub(super) fn probe(&self, Probe { to, probe }: &Probe) -> bool {
        if let Some((node, home)) = self.home.as_ref().filter(|(node, _)| node == to) {
            let reply = home.service().probe(probe);
            reply.iter().for_each(|reply| self.shared.handle_reply(*node, reply));
            return reply.is_some();
        }
        if let Some(links) = &self.links {
            links.probe(*to, &self.addresses(*to), probe.clone());
        }
        false
    }

    /// Where a node is reached, as it says itself and, of the entry, as the application says.
    fn addresses(&self, node: NodeId) -> Vec<String> {
        let mut addresses = self.core().view().client_addresses(node).to_vec();
        let entry = self.entry.borrow();
        if entry.node == node {
            let more = entry.addresses.iter().filter(|address| !addresses.contains(address));
            let more: Vec<_> = more.cloned().collect();
            addresses.extend(more);
        }
        addresses
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
        let node = NodeId::default();
        Self::new(Inner {
            home: Some((node, MemoryLink::new(service))),
            links: None,
            entry: Arc::new(watch::Sender::new(Entry { node, addresses: Vec::new() })),
            shared: Arc::new(SharedCore::new(ClientCore::new(View::of_home(node), random()))),
            unique: AtomicU64::new(random()),
            _renewing: None,
            _tasks: JoinSet::new(),
        })
    }

    pub(super) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// The node that the client follows.
    #[must_use]
    pub fn entry(&self) -> NodeId {
        self.inner.entry.borrow().node
    }

    /// The nodes of the mesh as far as the client knows, by id; none where it is not told of a mesh.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.inner.core().view().nodes()
    }

    /// When this client last began an attempt that was for the node, in its life that is known now.
    #[must_use]
    pub fn attempted_at(&self, node: NodeId) -> Option<std::time::Instant> {
        self.inner.core().view().attempted_at(node)
    }

    /// The models of the mesh as far as the client knows, by name, and where each is; none where it is not told of a mesh.
    #[must_use]
    pub fn models(&self) -> Vec<ListedModel> {
        self.inner.core().view().models()
    }

    /// Encodes any number of texts and collects the results in input order. Dropping the future cancels the call and
    /// frees its slot at the node.
    ///
    /// # Errors
    /// When the call fails as a whole: see [`ClientError`]. An item that fails by itself is an
    /// [`ItemResult::Failed`] among the others.
    pub async fn encode(&self, call: Encode) -> Result<Completed, ClientError> {
        self.complete(call).await
    }

    /// Scores any number of documents and ranks them, over all parts of the call.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub async fn score(&self, call: Score) -> Result<Scored, ClientError> {
        let call = self.complete(call).await?;
        Ok(Scored { ranking: ranking(&call.items), call })
    }

    /// Extracts from any number of texts and collects the results in input order.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub async fn extract(&self, call: Extract) -> Result<Completed, ClientError> {
        self.complete(call).await
    }

    async fn complete(&self, call: Call<impl TaskOptions>) -> Result<Completed, ClientError> {
        let mut items = Vec::with_capacity(call.total.map_or(0, |total| total as usize));
        let mut stream = self.stream(call);
        while let Some(item) = stream.next().await {
            items.push(item?.1);
        }
        // The stream ended without an error, so that there is a summary.
        let summary = stream.summary().ok_or(ClientError::NoRuntime)?.clone();
        Ok(Completed {
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
    pub fn encode_stream(&self, call: Encode) -> AnswerStream {
        self.stream(call)
    }

    /// Makes a call of any primitive and gives the results in input order as they come, in bounded memory.
    pub fn stream(&self, call: Call<impl TaskOptions>) -> AnswerStream {
        let now = now();
        let unique = self.inner.unique.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let spec = CallSpec {
            request_id: RequestId::new(call.request_unique.unwrap_or(unique)),
            deadline: call.deadline_after().and_then(|after| now.checked_add(after)),
            model: call.model,
            task: call.options.into(),
            priority: call.priority,
            when_overloaded: call.when_overloaded,
            seed: unique,
            trace: call.trace,
        };
        let (inner, request_id) = (self.inner.clone(), spec.request_id);
        let started = (inner.core().start_call(spec, now), request_id);
        AnswerStream::new(inner, started, call.inputs, call.total, call.progress)
    }
}
