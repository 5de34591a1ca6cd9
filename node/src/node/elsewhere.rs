//! Where else the models are that a leaving node holds.

use std::sync::Arc;
use std::time::Instant;

use shoal_mesh::MeshState;
use shoal_mesh::core::{Query, View, further_holder};
use shoal_protocol::message::{MemberState, ModelFact, ModelState, NodeFacts, Numerics, Priority};

use crate::core::{Copy, Elsewhere};

/// What this node holds or loads by its own facts, and where else each model is among those that stay. `requests` says how
/// much a model was used here.
pub(super) fn copies(mesh: &MeshState, requests: impl Fn(&str) -> u64, now: Instant) -> Vec<Copy> {
    let others = staying(mesh);
    let view = view_of(mesh, &others, now);
    let own = mesh.facts.get(&mesh.life.node).into_iter().flat_map(|facts| &facts.models);
    let held = own.filter(|fact| matches!(fact.state, ModelState::Ready | ModelState::Loading));
    let copy = |fact: &ModelFact| Copy {
        model: fact.name.clone(),
        requests: requests(&fact.name),
        elsewhere: elsewhere(&others, &view, &fact.name, now),
    };
    held.map(copy).collect()
}

/// The facts of the others that live and do not leave themselves.
fn staying(mesh: &MeshState) -> Vec<&Arc<NodeFacts>> {
    let alive = mesh.members.iter().filter(|seen| seen.state == MemberState::Alive);
    let facts = alive.filter_map(|seen| mesh.facts.get(&seen.life.node));
    facts.filter(|facts| !facts.draining).collect()
}

fn view_of(mesh: &MeshState, staying: &[&Arc<NodeFacts>], now: Instant) -> View {
    let mut view = View::default();
    for seen in &mesh.members {
        view.handle_member(seen.life, seen.state, now);
    }
    for facts in staying {
        view.handle_facts(facts, now);
    }
    for ((node, _), load) in &mesh.loads {
        view.handle_load(*node, &load.record, load.at);
    }
    view
}

fn elsewhere(staying: &[&Arc<NodeFacts>], view: &View, name: &str, now: Instant) -> Elsewhere {
    let of_name = |fact: &&ModelFact| fact.name == name;
    let states = staying.iter().flat_map(|facts| facts.models.iter().filter(of_name)).map(|fact| fact.state);
    let is_loading =
        match states.max_by_key(|state| (*state == ModelState::Ready, *state == ModelState::Loading)) {
            Some(ModelState::Ready) => return Elsewhere::Ready,
            state => state == Some(ModelState::Loading),
        };
    if is_loading {
        return Elsewhere::Loading;
    }
    let query = Query {
        model: name,
        numerics: Numerics::Any,
        tokens: 0,
        priority: Priority::Interactive,
        deadline: None,
        excluded: &[],
        waits_until: None,
    };
    further_holder(view, &query, now).map_or(Elsewhere::Nowhere, Elsewhere::Stored)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use shoal_mesh::{Life, MemberSeen};
    use shoal_protocol::message::DeviceFact;
    use shoal_protocol::{Bytes, DeviceIndex, Micros, NodeId};

    use super::*;
    use crate::clock;

    fn facts(number: u8, models: &[(&str, ModelState)]) -> NodeFacts {
        let model = |(name, state): &(&str, ModelState)| ModelFact {
            name: (*name).to_owned(),
            aliases: Vec::new(),
            device: DeviceIndex(0),
            state: *state,
            numerics: Numerics::F32,
            bytes: Bytes(1 << 20),
            load_us: Micros(1000),
        };
        let device = DeviceFact {
            device: DeviceIndex(0),
            name: "cpu".to_owned(),
            budget_bytes: Bytes(1 << 30),
            tokens_per_s: 1000,
        };
        NodeFacts {
            node: NodeId([number; 16]),
            generation: 1,
            version: 1,
            peer_addresses: Vec::new(),
            client_addresses: Vec::new(),
            draining: false,
            devices: vec![device],
            models: models.iter().map(model).collect(),
        }
    }

    fn mesh(all: Vec<NodeFacts>) -> MeshState {
        let seen = |facts: &NodeFacts| MemberSeen {
            life: Life { node: facts.node, generation: 1 },
            address: SocketAddr::from(([10, 0, 0, 1], 7002)),
            state: MemberState::Alive,
        };
        MeshState {
            life: Life { node: all[0].node, generation: 1 },
            members: all[1..].iter().map(seen).collect(),
            facts: all.into_iter().map(|facts| (facts.node, Arc::new(facts))).collect(),
            loads: BTreeMap::new(),
        }
    }

    fn of(mesh: &MeshState) -> Vec<(String, Elsewhere)> {
        let copies = copies(mesh, |_| 7, clock::now());
        copies.into_iter().map(|copy| (copy.model, copy.elsewhere)).collect()
    }

    #[test]
    fn a_model_is_elsewhere_where_somebody_who_stays_has_it() {
        use ModelState::{Loading, Ready, Stored};
        let own = facts(
            1,
            &[("held", Ready), ("coming", Ready), ("sole", Loading), ("rare", Ready), ("cold", Stored)],
        );
        let two = facts(2, &[("held", Ready), ("coming", Stored), ("sole", Stored)]);
        let three = facts(3, &[("held", Stored), ("coming", Loading)]);
        let mut leaving = facts(4, &[("rare", Ready), ("sole", Ready)]);
        leaving.draining = true;
        let mut mesh = mesh(vec![own, two, three, leaving]);
        let place = |number| shoal_protocol::Place { node: NodeId([number; 16]), device: DeviceIndex(0) };
        let expected = |sole| {
            [
                ("held", Elsewhere::Ready),
                ("coming", Elsewhere::Loading),
                ("sole", sole),
                ("rare", Elsewhere::Nowhere),
            ]
            .map(|(model, elsewhere)| (model.to_owned(), elsewhere))
        };
        assert_eq!(of(&mesh), expected(Elsewhere::Stored(place(2))));
        // Who may be dead is no owner.
        mesh.members[0].state = MemberState::Suspect;
        assert_eq!(of(&mesh)[2], ("sole".to_owned(), Elsewhere::Nowhere));
    }
}
