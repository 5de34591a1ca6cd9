//! What callers reach: serves attempts over any link with the node's fronts, device and metrics.

mod attempt;
mod devices;
mod drain;
mod facts;
mod placing;
mod status;
mod twins;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use shoal_kernels::CpuIsa;
use shoal_mesh::{BoxFuture, LoadSequence, MeshState, Peer, Reply, Service, Standing};
use shoal_protocol::message::{ExplainRequest, Explanation, LoadProbe, LoadReply, StatusRequest};
use shoal_protocol::{ErrorCode, Frame, Message, NodeId};
use tokio::sync::watch;
use tracing::Instrument;

use crate::actors::device::Bells;
use crate::actors::front::Fronts;
use crate::clock;
use crate::config::{DeviceName, TokenIdsPolicy};
use crate::core::Placement;
use crate::decisions::Decisions;
use crate::metrics::Metrics;
use crate::store::KnownModel;
use crate::tasks::pool::TokenizerPool;

pub(crate) use devices::NodeDevice;
pub(crate) use drain::{DrainAsked, DrainBell};
pub(crate) use facts::claimed_speed;
pub(crate) use twins::Twins;

/// What never changes about a node while it runs.
#[derive(Clone, Debug)]
pub(crate) struct NodeFacts {
    /// The node.
    pub(crate) node: NodeId,
    /// Rises with every start.
    pub(crate) generation: u64,
    /// Devices of models by name, where one was chosen.
    pub(crate) placed: BTreeMap<String, DeviceName>,
    /// Of the processor, for what is computed beside the device.
    pub(crate) isa: CpuIsa,
    /// The models that it knew at start.
    pub(crate) known: Vec<KnownModel>,
    /// Whether callers may send ids.
    pub(crate) token_ids: TokenIdsPolicy,
    /// When it started.
    pub(crate) started_at: Instant,
}

/// The node as its callers see it. Outlives every restart of its devices.
pub(crate) struct NodeService {
    pub(crate) facts: NodeFacts,
    /// At least one, in the order of their indices.
    pub(crate) devices: Vec<NodeDevice>,
    /// The attempts that it serves.
    pub(crate) twins: Twins,
    /// Its part in routing.
    pub(crate) placement: Mutex<Placement>,
    /// Tell when a device stands otherwise.
    pub(crate) bells: Bells,
    /// What numbers its load records, gossiped and in answer to probes.
    pub(crate) sequence: LoadSequence,
    pub(crate) fronts: Fronts,
    pub(crate) tokenizers: Arc<TokenizerPool>,
    pub(crate) metrics: Metrics,
    /// Why the last attempts came here.
    pub(crate) decisions: Decisions,
    /// Preloaded models are resident and answered a text.
    pub(crate) is_warm: AtomicBool,
    pub(crate) is_draining: AtomicBool,
    /// Rung by who may ask the node to leave.
    pub(crate) drain_bell: DrainBell,
    /// How its certificate stands, where it has one.
    pub(crate) standing: Option<watch::Receiver<Standing>>,
    /// What it knows of its mesh, once it is a member.
    pub(crate) mesh: OnceLock<watch::Receiver<Arc<MeshState>>>,
}

impl NodeService {
    /// Why no work should be sent here; empty when ready.
    pub(crate) fn reasons_not_ready(&self) -> Vec<String> {
        let reasons = [
            (!self.is_warm.load(Ordering::Acquire), "models are being loaded and tested"),
            (self.is_draining.load(Ordering::Acquire), "the node is leaving"),
            (
                !self.devices.iter().any(|device| device.slot.is_up()),
                "the device failed and is being restarted",
            ),
        ];
        let holding = reasons.into_iter().filter(|(holds, _)| *holds);
        holding.map(|(_, reason)| reason.to_owned()).collect()
    }
}

impl Service for NodeService {
    fn probe(&self, probe: &LoadProbe) -> Option<LoadReply> {
        self.reply_to(probe)
    }

    fn mesh(&self) -> Option<watch::Receiver<Arc<MeshState>>> {
        self.mesh.get().cloned()
    }

    fn serve(self: Arc<Self>, peer: Peer, request: Frame, reply: Reply) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            match request.message {
                Message::TaskRequest(request) => {
                    let span = tracing::info_span!(
                        "encode",
                        request = %request.request_id,
                        part = request.part,
                        attempt = request.attempt,
                        model = ?request.model,
                        items = request.items.len(),
                        peer = ?peer.name,
                        trace = request.trace.map(tracing::field::display),
                    );
                    attempt::serve(&self, request, reply).instrument(span).await;
                }
                Message::StatusRequest(StatusRequest { to: Some(to), .. })
                | Message::ExplainRequest(ExplainRequest { to: Some(to), .. })
                    if to != self.facts.node =>
                {
                    let what = format!("node {to} is not known here");
                    // The caller may have gone; the same holds below.
                    let _ = reply.fail(ErrorCode::Unavailable, what).await;
                }
                Message::StatusRequest(request) => {
                    let status = self.status(request.histograms).await;
                    let _ = reply.end(Message::Status(Box::new(status))).await;
                }
                Message::DrainRequest(request) => drain::serve(&self, &peer, request, reply).await,
                Message::ExplainRequest(asked) => {
                    let attempts = self.decisions.of(asked.request_id, clock::now());
                    let told = Explanation { node: self.facts.node, attempts };
                    let _ = reply.end(Message::Explanation(Box::new(told))).await;
                }
                other => {
                    let what = format!("a node does not serve {:?}", other.kind());
                    let _ = reply.fail(ErrorCode::InvalidRequest, what).await;
                }
            }
        })
    }
}
