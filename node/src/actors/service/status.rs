//! A node as it sees itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shoal_kernels::Matryoshka;
use shoal_mesh::{Life, Standing};
use shoal_protocol::Bytes;
use shoal_protocol::message::{
    DeviceStatus, MemberState, MemberStatus, ModelFact, ModelState, ModelStatus, Numerics, Status,
};
use tokio::sync::oneshot;

use super::{DEVICE, NodeService};
use crate::actors::backend::numerics_of;
use crate::actors::device::{DeviceMsg, DeviceReport, ModelStanding, Shelf};
use crate::actors::front::Front;
use crate::clock;

/// Name and version, for people.
pub(crate) const SOFTWARE: &str = concat!("shoal ", env!("CARGO_PKG_VERSION"));

impl NodeService {
    /// The node's state now. Without its device's part while that is being restarted.
    pub(crate) async fn status(&self, histograms: bool) -> Status {
        let report = self.report().await;
        let facts = &self.facts;
        let now = clock::now();
        Status {
            node: facts.node,
            generation: facts.generation,
            software: SOFTWARE.to_owned(),
            uptime_us: now.saturating_duration_since(facts.started_at).into(),
            draining: self.is_draining.load(Ordering::Acquire),
            ready: self.reasons_not_ready().is_empty(),
            warnings: self.warnings(),
            devices: report.iter().map(|report| self.device_status(report)).collect(),
            models: self.model_statuses(&self.published.shelf()),
            histograms: if histograms { self.metrics.histograms() } else { Vec::new() },
            members: self.members(),
        }
    }

    /// The members of the mesh, this node first.
    fn members(&self) -> Vec<MemberStatus> {
        let Some(mesh) = self.mesh.get().map(|mesh| Arc::clone(&mesh.borrow())) else {
            return Vec::new();
        };
        let status = |life: Life, address: String, state| {
            let facts = mesh.facts.get(&life.node);
            let ready = |model: &&ModelFact| model.state == ModelState::Ready;
            MemberStatus {
                node: life.node,
                generation: life.generation,
                address,
                state,
                draining: facts.is_some_and(|facts| facts.draining),
                models_ready: facts.map_or(0, |facts| facts.models.iter().filter(ready).count() as u32),
            }
        };
        let own = mesh.facts.get(&mesh.life.node).and_then(|facts| facts.peer_addresses.first());
        let own = status(mesh.life, own.cloned().unwrap_or_default(), MemberState::Alive);
        let others = mesh.members.iter().map(|seen| status(seen.life, seen.address.to_string(), seen.state));
        std::iter::once(own).chain(others).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let standing = self.standing.as_ref().map(|standing| *standing.borrow());
        let warning = standing.and_then(|standing| certificate_warning(standing, clock::unix_time()));
        warning.into_iter().collect()
    }

    async fn report(&self) -> Option<DeviceReport> {
        let (reply, report) = oneshot::channel();
        self.slot.send(DeviceMsg::Report(reply)).ok()?;
        report.await.ok()
    }

    fn device_status(&self, report: &DeviceReport) -> DeviceStatus {
        let facts = &self.facts;
        let mut reason = facts.device_reason.clone();
        if report.lanes_abandoned > 0 {
            reason = format!("{reason}; {} hung lane threads left behind", report.lanes_abandoned);
        }
        DeviceStatus {
            device: DEVICE,
            name: facts.device_name.clone(),
            reason,
            lanes: facts.threads,
            threads: facts.threads,
            load: report.load,
            gauges: report.gauges,
        }
    }

    /// Every model that was known at start or asked for since, in order of name.
    pub(super) fn model_statuses(&self, shelf: &Shelf) -> Vec<ModelStatus> {
        let mut models: BTreeMap<String, ModelStatus> = BTreeMap::new();
        for known in &self.facts.known {
            models.insert(known.name.clone(), stored(&known.name, &known.aliases));
        }
        for front in self.fronts.all() {
            let model =
                models.entry(front.name.to_string()).or_insert_with(|| stored(&front.name, &front.aliases));
            describe(model, &front);
        }
        for (name, standing) in &shelf.models {
            let model = models.entry(name.to_string()).or_insert_with(|| stored(name, &[]));
            place(model, standing);
        }
        for (name, why) in self.fronts.refused().borrow().iter() {
            if let Some(model) = models.get_mut(name).filter(|model| model.state == ModelState::Stored) {
                (model.state, model.error) = (ModelState::Failed, Some(why.clone()));
            }
        }
        for model in models.values_mut() {
            let counters = self.metrics.counters(&model.name);
            model.requests = counters.requests;
            model.tokens = counters.tokens;
        }
        models.into_values().collect()
    }
}

fn stored(name: &str, aliases: &[String]) -> ModelStatus {
    ModelStatus {
        name: name.to_owned(),
        aliases: aliases.to_vec(),
        state: ModelState::Stored,
        bytes: Bytes::ZERO,
        device: None,
        pinned: false,
        numerics: Numerics::Any,
        tokens_max: 0,
        dims: 0,
        matryoshka: false,
        pooling: String::new(),
        dtype: String::new(),
        error: None,
        requests: 0,
        tokens: 0,
    }
}

fn describe(model: &mut ModelStatus, front: &Arc<Front>) {
    let description = &front.description;
    model.pinned = front.pinned;
    model.numerics = numerics_of(front.dtype);
    model.tokens_max = description.tokens_max;
    model.dims = description.dims;
    model.matryoshka = description.matryoshka != Matryoshka::Untrained;
    model.pooling = description.pooling.to_string();
    model.dtype = front.dtype.to_string();
}

fn place(model: &mut ModelStatus, standing: &ModelStanding) {
    model.state = standing.state;
    model.bytes = standing.bytes;
    model.device = (standing.state == ModelState::Ready).then_some(DEVICE);
    model.error = standing.failure.as_ref().map(ToString::to_string);
}

/// What an operator should know about the certificate, if anything.
fn certificate_warning(standing: Standing, now: Duration) -> Option<String> {
    match standing {
        Standing::Good => None,
        Standing::Unrenewed { failures, until_unix_s } => {
            let left = Duration::from_secs(until_unix_s.saturating_sub(now.as_secs()));
            Some(format!(
                "no issuer renews the node's certificate ({failures} requests failed); it expires in {}: see the \
                 addresses in `issuers` of its identity",
                humantime::format_duration(left)
            ))
        }
        Standing::Expired { .. } => Some(
            "the node's certificate has expired and new connections are refused: join again with a token"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_is_told_how_long_the_certificate_lasts() {
        let now = Duration::from_secs(1_000);
        assert_eq!(certificate_warning(Standing::Good, now), None);
        let until_unix_s = 1_000 + 2 * 3600;
        let told = certificate_warning(Standing::Unrenewed { failures: 3, until_unix_s }, now).expect("told");
        assert!(told.contains("3 requests") && told.contains("expires in 2h"), "{told}");
        let expired = certificate_warning(Standing::Expired { since_unix_s: 900 }, now).expect("told");
        assert!(expired.contains("join again"), "{expired}");
    }
}
