//! A node as it sees itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use shoal_kernels::Matryoshka;
use shoal_mesh::{Life, Standing};
use shoal_protocol::message::{
    DeviceStatus, LoadRecord, MemberState, MemberStatus, ModelFact, ModelState, ModelStatus, Numerics, Status,
};
use shoal_protocol::{Bytes, DeviceIndex};

use super::{NodeDevice, NodeService};
use crate::actors::backend::numerics_of;
use crate::actors::device::{DeviceReport, ModelStanding};
use crate::actors::front::Front;
use crate::clock;

/// Name and version, for people.
pub(crate) const SOFTWARE: &str = concat!("shoal ", env!("CARGO_PKG_VERSION"));

impl NodeService {
    /// The node's state now. A device that is being restarted has no load.
    pub(crate) async fn status(&self, histograms: bool) -> Status {
        let reports = join_all(self.devices.iter().map(NodeDevice::report)).await;
        let devices = self.devices.iter().zip(&reports);
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
            devices: devices.map(|(device, report)| device_status(device, report.as_ref())).collect(),
            models: self.model_statuses(),
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

    /// Every model that was known at start or asked for since, in order of name.
    pub(super) fn model_statuses(&self) -> Vec<ModelStatus> {
        let mut models: BTreeMap<String, ModelStatus> = BTreeMap::new();
        for known in &self.facts.known {
            models.insert(known.name.clone(), stored(&known.name, &known.aliases));
        }
        for front in self.fronts.all() {
            let model =
                models.entry(front.name.to_string()).or_insert_with(|| stored(&front.name, &front.aliases));
            describe(model, &front);
        }
        for device in &self.devices {
            for (name, standing) in &device.published.shelf().models {
                let model = models.entry(name.to_string()).or_insert_with(|| stored(name, &[]));
                place(model, standing, device.index);
            }
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

/// Without a report it has no load, and the reason says why.
fn device_status(device: &NodeDevice, report: Option<&DeviceReport>) -> DeviceStatus {
    let mut reason = device.reason.clone();
    if let Some(trouble) = device.slot.trouble() {
        reason = format!("{trouble}; {reason}");
    }
    if let Some(report) = report.filter(|report| report.lanes_abandoned > 0) {
        reason = format!("{reason}; {} hung lane threads left behind", report.lanes_abandoned);
    }
    DeviceStatus {
        device: device.index,
        name: device.name.clone(),
        reason,
        is_up: report.is_some(),
        lanes: device.threads,
        threads: device.threads,
        load: report
            .map_or(LoadRecord { device: device.index, ..LoadRecord::default() }, |report| report.load),
        gauges: report.map(|report| report.gauges).unwrap_or_default(),
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
        placed: String::new(),
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
    model.placed.clone_from(&front.placed);
}

/// A model that has moved stands where it is asked for now.
fn place(model: &mut ModelStatus, standing: &ModelStanding, device: DeviceIndex) {
    if model.device.is_some() && standing.state != ModelState::Ready {
        return;
    }
    model.state = standing.state;
    model.bytes = standing.bytes;
    model.device = (standing.state == ModelState::Ready).then_some(device);
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
