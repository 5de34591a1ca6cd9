//! The node on its way out: does what [`Departure`] says.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::{JoinAll, join_all};
use shoal_mesh::MeshState;
use shoal_protocol::NodeId;
use shoal_protocol::message::{LoadRequest, ModelState};
use tokio::sync::{oneshot, watch};

use super::{CLOSE_WAIT, Node, NodeMembership};
use crate::actors::device::DeviceMsg;
use crate::actors::service::{DrainAsked, NodeDevice};
use crate::clock;
use crate::core::{Copy, Departure, Step, hand_overs};

impl Node {
    /// Leaves and stops: [`drain`](Self::drain), then [`close`](Self::close).
    pub async fn shutdown(self, grace: Duration) {
        let deadline = clock::now() + grace;
        self.drain(grace).await;
        self.close(deadline).await;
    }

    /// Waits until somebody who may asks the node to leave, and says who it is and how long it may take at most.
    pub async fn drain_asked(&self) -> (String, Option<Duration>) {
        let DrainAsked { by, grace } = self.service.drain_bell.rung().await;
        (by, grace)
    }

    /// Gets ready to leave within `grace`: says so, refuses new work with `draining`, has others load what only this node
    /// holds, and finishes what was admitted; what is left then ends with `draining`. It still answers afterwards.
    pub async fn drain(&self, grace: Duration) {
        let now = clock::now();
        let mut departure = Departure::new(now + grace, now);
        let mut mesh = self.mesh.as_ref().map(NodeMembership::state);
        let (mut finishing, mut is_finished) = (None, false);
        loop {
            let now = clock::now();
            if let Some(mesh) = &mut mesh {
                let copies =
                    self.copies(&mesh.borrow_and_update(), |model| departure.given_up(model, now), now);
                departure.handle_copies(copies);
            }
            while let Some(step) = departure.poll_step(now) {
                self.take_step(step, &mut finishing).await;
            }
            let Some((wake_at, _)) = departure.poll_timeout(now) else {
                return;
            };
            tokio::select! {
                () = finished(finishing.as_mut()), if !is_finished => {
                    is_finished = true;
                    departure.handle_finished();
                }
                () = changed(mesh.as_mut()) => {}
                () = tokio::time::sleep_until(wake_at.into()) => {}
            }
        }
    }

    /// Has others load what only this node holds, and goes on: it may have to leave without a word.
    pub async fn spread(&self) {
        let Some(mesh) = self.mesh.as_ref().map(NodeMembership::state) else {
            return;
        };
        let copies = self.copies(&mesh.borrow(), |_| Vec::new(), clock::now());
        for (model, to) in hand_overs(copies) {
            self.take_step(Step::HandOver { model, to }, &mut None).await;
        }
    }

    /// What the device holds or loads, and where else each model is as of this state of the mesh. `given_up` names those that
    /// need not be asked to load it.
    fn copies(&self, mesh: &MeshState, given_up: impl Fn(&str) -> Vec<NodeId>, now: Instant) -> Vec<Copy> {
        // The task that follows the mesh may be a moment behind.
        self.service.handle_mesh(mesh);
        let place = self.service.place();
        let shelves: Vec<_> = self.service.devices.iter().map(|device| device.published.shelf()).collect();
        let held = shelves
            .iter()
            .flat_map(|shelf| &shelf.models)
            .filter(|(_, standing)| matches!(standing.state, ModelState::Ready | ModelState::Loading));
        let copy = |model: &str| Copy {
            model: model.to_owned(),
            requests: self.service.metrics.counters(model).requests,
            elsewhere: place.elsewhere(model, &given_up(model), now),
        };
        held.map(|(model, _)| copy(model)).collect()
    }

    async fn take_step(&self, step: Step, finishing: &mut Option<Finishing>) {
        match step {
            Step::Announce => self.service.is_draining.store(true, Ordering::Release),
            Step::Finish { by } => {
                finishing.get_or_insert_with(|| {
                    join_all(self.service.devices.iter().map(|device| drained(device, by)))
                });
            }
            Step::HandOver { model, to } => {
                tracing::info!(model, to = %to.node, "handing over a model that only this node holds");
                if let Some(mesh) = &self.mesh {
                    mesh.request_load(to.node, LoadRequest { model, device: to.device }).await;
                }
            }
            Step::GiveBack { model } => {
                // A device that is gone has nothing to give back.
                let _ = self.service.home(&model).slot.send(DeviceMsg::HeldElsewhere { model });
            }
            Step::Leave => {}
        }
    }

    /// Tells the members, stops listening, lets answers be delivered until `deadline`, and stops.
    pub async fn close(mut self, deadline: Instant) {
        if let Some(mesh) = self.mesh.take() {
            mesh.leave().await;
        }
        if let Some(identity) = self.identity.take() {
            identity.shutdown().await;
        }
        if let Some(quic) = self.quic.take() {
            let left = deadline.saturating_duration_since(clock::now());
            quic.shutdown(left.max(CLOSE_WAIT)).await;
        }
        // A supervisor that is gone already has nothing left to stop.
        let stopped = self.supervisor.stop_and_wait(None, Some(CLOSE_WAIT)).await;
        if stopped.is_err() {
            tracing::warn!("the node's actors did not stop in time");
        }
    }
}

/// Each device says when nothing is left of it; an error, that it is gone, and its work with it.
type Finishing = JoinAll<oneshot::Receiver<()>>;

/// Waits until all devices are done; for ever where they were not told to be.
async fn finished(finishing: Option<&mut Finishing>) {
    match finishing {
        Some(finishing) => drop(finishing.await),
        None => std::future::pending().await,
    }
}

/// Has a device finish by then; resolves once nothing is left.
fn drained(device: &NodeDevice, deadline: Instant) -> oneshot::Receiver<()> {
    let (done, finished) = oneshot::channel();
    // A device that is gone drops `done`, which says that nothing is left.
    let _ = device.slot.send(DeviceMsg::Drain { deadline, done });
    finished
}

/// Waits until the mesh is another; for ever where there is none.
async fn changed(mesh: Option<&mut watch::Receiver<std::sync::Arc<MeshState>>>) {
    let told = match mesh {
        Some(mesh) => mesh.changed().await.is_ok(),
        None => false,
    };
    if !told {
        std::future::pending().await
    }
}
