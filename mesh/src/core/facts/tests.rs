//! One machine against its peers, and several against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use shoal_protocol::NodeId;
use shoal_protocol::limits::FACTS_MODELS_MAX;
use shoal_protocol::message::{FactsDigest, FactsPull, FactsVersion, ModelFact, ModelState, NodeFacts};

use super::super::fleet::{facts, life, model, node, origin};
use super::super::member::Life;
use super::delta::{apply, between, normalize};
use super::held::Held;
use super::parameters::{DIGEST_PERIOD, PULL_TIMEOUT, PULLS_BURST, TOMBSTONE_TTL, TOMBSTONES_MAX};
use super::{Facts, FactsMessage, FactsRefused, FactsSend, OwnFacts};

fn own(models: &[&str]) -> OwnFacts {
    let models = models.iter().map(|name| model(name, ModelState::Ready)).collect();
    OwnFacts { models, ..OwnFacts::default() }
}

fn member(number: u64, now: Instant) -> Facts {
    Facts::new(life(number, 1), number, now)
}

fn sends(machine: &mut Facts) -> Vec<FactsSend> {
    std::iter::from_fn(|| machine.poll_send()).collect()
}

fn record(number: u64, generation: u64, version: u64, models: &[&str]) -> NodeFacts {
    let models = models.iter().map(|name| model(name, ModelState::Ready)).collect();
    NodeFacts { generation, version, ..facts(number, models) }
}

fn names(machine: &Facts, number: u64) -> Option<Vec<&str>> {
    let models = &machine.record(node(number))?.models;
    Some(models.iter().map(|model| model.name.as_str()).collect())
}

#[test]
fn changes_are_published_at_once_and_bursts_together() {
    let now = origin();
    let mut machine = member(1, now);
    machine.handle_connected(node(2), now).expect("room");
    assert_eq!(sends(&mut machine), [], "nothing to say yet");
    machine.handle_own(own(&["a"]), now).expect("valid");
    let first = sends(&mut machine);
    assert!(
        matches!(&first[..], [FactsSend { message: FactsMessage::Record(record), .. }] if record.version == 1)
    );
    for names in [&["a", "b"][..], &["b"], &["b", "c"]] {
        machine.handle_own(own(names), now + Duration::from_millis(50)).expect("valid");
        assert_eq!(sends(&mut machine), []);
    }
    let (due, _) = machine.poll_timeout().expect("a change waits");
    assert_eq!(due, now + Duration::from_millis(100));
    machine.handle_timeout(due);
    let sent = sends(&mut machine);
    let [FactsSend { to, message: FactsMessage::Delta(delta) }] = &sent[..] else {
        panic!("one delta: {sent:?}");
    };
    assert_eq!((&to[..], delta.base_version, delta.version), (&[node(2)][..], 1, 2));
    assert_eq!((delta.models_set.len(), delta.models_unset.len()), (2, 1));
    assert_eq!(machine.poll_changed(), Some(node(1)));
    machine.handle_own(own(&["b", "c"]), due).expect("valid");
    assert!(machine.poll_timeout().expect("digest").0 > due + Duration::from_millis(500), "nothing changed");
}

#[test]
fn facts_that_break_a_limit_are_not_published() {
    let now = origin();
    let mut machine = member(1, now);
    let models =
        (0..=FACTS_MODELS_MAX).map(|number| model(&number.to_string(), ModelState::Stored)).collect();
    let refused = machine.handle_own(OwnFacts { models, ..OwnFacts::default() }, now);
    assert!(matches!(refused, Err(FactsRefused::Limit(_))));
    assert_eq!(names(&machine, 1), None);
}

#[test]
fn a_liar_is_refused() {
    let now = origin();
    let mut machine = member(1, now);
    machine.handle_own(own(&["mine"]), now).expect("valid");
    machine.handle_connected(node(2), now).expect("room");
    for (from, about) in [(2, 3), (2, 1)] {
        let refused = machine.handle_record(node(from), record(about, 9, 9, &["x"]));
        let expected = (node(from), node(about));
        assert!(matches!(refused, Err(FactsRefused::NotOwner { from, about }) if (from, about) == expected));
    }
    let stranger = machine.handle_record(node(3), record(3, 1, 1, &["x"]));
    assert!(matches!(stranger, Err(FactsRefused::Stranger(from)) if from == node(3)));
    assert_eq!((names(&machine, 3), names(&machine, 1)), (None, Some(vec!["mine"])));
    assert_eq!(machine.counters().refused, 3);
    // And nobody gets one node's facts from another.
    let pull = FactsPull { have: FactsVersion { node: node(1), generation: 0, version: 0 } };
    let other = FactsPull { have: FactsVersion { node: node(3), ..pull.have } };
    assert!(matches!(machine.handle_pull(node(2), other, now), Err(FactsRefused::NotOwner { .. })));
    assert!(machine.handle_pull(node(2), pull, now).is_ok());
}

#[test]
fn the_dead_do_not_return_but_their_next_life_does() {
    let now = origin();
    let mut machine = member(1, now);
    machine.handle_connected(node(2), now).expect("room");
    machine.handle_record(node(2), record(2, 5, 7, &["x"])).expect("its own");
    machine.handle_down(life(2, 5), now);
    assert_eq!(names(&machine, 2), None);
    let dead = life(2, 5);
    for version in [7, 8] {
        let refused = machine.handle_record(node(2), record(2, 5, version, &["x"]));
        assert!(matches!(refused, Err(FactsRefused::Dead(life)) if life == dead));
    }
    let digest = FactsDigest {
        entries: vec![FactsVersion { node: node(2), generation: 5, version: 99 }],
        answer: true,
    };
    machine.handle_connected(node(3), now).expect("room");
    machine.handle_digest(node(3), &digest, now).expect("a member");
    assert_eq!(machine.counters().pulls, 0, "nobody asks for the dead");
    machine.handle_record(node(2), record(2, 6, 1, &["y"])).expect("a higher generation");
    assert_eq!(names(&machine, 2), Some(vec!["y"]));
    // News of the former death come late.
    machine.handle_down(life(2, 5), now);
    assert_eq!(names(&machine, 2), Some(vec!["y"]));
}

#[test]
fn the_oldest_grave_makes_room() {
    let now = origin();
    let mut held = Held::default();
    for number in 0..=TOMBSTONES_MAX as u64 {
        held.bury(life(number, 1), now + Duration::from_millis(number));
    }
    for (number, forgotten) in [(0, true), (1, false), (TOMBSTONES_MAX as u64, false)] {
        assert_eq!(held.accept(record(number, 1, 1, &[])).is_ok(), forgotten, "{number}");
    }
    held.expire(now + TOMBSTONE_TTL + Duration::from_millis(1));
    assert!(held.accept(record(1, 1, 1, &[])).is_ok());
}

#[test]
fn a_missed_change_is_pulled_from_its_owner_once() {
    let now = origin();
    let mut machine = member(1, now);
    machine.handle_connected(node(2), now).expect("room");
    machine.handle_record(node(2), record(2, 1, 1, &["x"])).expect("its own");
    let (base, next) = (record(2, 1, 3, &["x"]), record(2, 1, 4, &["x", "y"]));
    let delta = between(&base, &next).expect("same addresses");
    for _ in 0..3 {
        machine.handle_delta(node(2), delta.clone(), now).expect("its own");
    }
    let have = FactsVersion { node: node(2), generation: 1, version: 1 };
    let pull = FactsSend { to: vec![node(2)], message: FactsMessage::Pull(FactsPull { have }) };
    assert_eq!(sends(&mut machine), [pull]);
    machine.handle_record(node(2), next).expect("its own");
    machine.handle_delta(node(2), delta.clone(), now).expect("its own");
    assert_eq!((sends(&mut machine), names(&machine, 2)), (vec![], Some(vec!["x", "y"])));
    // An answer that never came is asked for again.
    let (base, next) = (record(2, 1, 8, &[]), record(2, 1, 9, &[]));
    let delta = between(&base, &next).expect("same addresses");
    machine.handle_delta(node(2), delta.clone(), now).expect("its own");
    machine.handle_delta(node(2), delta, now + PULL_TIMEOUT).expect("its own");
    assert_eq!(machine.counters().pulls, 3);
}

#[test]
fn pulls_are_answered_within_an_allowance() {
    let now = origin();
    let mut machine = member(1, now);
    machine.handle_own(own(&["a"]), now).expect("valid");
    machine.handle_connected(node(2), now).expect("room");
    sends(&mut machine);
    let pull = FactsPull { have: FactsVersion { node: node(1), generation: 0, version: 0 } };
    for _ in 0..2 * PULLS_BURST {
        machine.handle_pull(node(2), pull, now).expect("a member");
    }
    assert_eq!(sends(&mut machine).len(), PULLS_BURST as usize);
    assert_eq!(machine.counters().pulls_dropped, u64::from(PULLS_BURST));
    machine.handle_pull(node(2), pull, now + Duration::from_millis(100)).expect("a member");
    assert_eq!(sends(&mut machine).len(), 1);
}

/// Machines and the ordered, reliable connections between them; a broken one loses what is on it.
struct Mesh {
    now: Instant,
    machines: BTreeMap<NodeId, Facts>,
    broken: BTreeSet<(NodeId, NodeId)>,
}

impl Mesh {
    fn new(members: u64, now: Instant) -> Self {
        let machines = (1..=members).map(|number| (node(number), member(number, now))).collect();
        let mut mesh = Self { now, machines, broken: BTreeSet::new() };
        for (a, b) in (1..=members).flat_map(|a| (1..=members).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            mesh.connect(a, b);
        }
        mesh
    }

    fn at(&mut self, number: u64) -> &mut Facts {
        self.machines.get_mut(&node(number)).expect("a machine")
    }

    fn connect(&mut self, at: u64, to: u64) {
        let now = self.now;
        self.at(at).handle_connected(node(to), now).expect("room");
    }

    /// Delivers until nobody has anything to say.
    fn settle(&mut self) {
        while let Some((from, send)) =
            self.machines.iter_mut().find_map(|(id, machine)| Some((*id, machine.poll_send()?)))
        {
            for to in send.to.iter().filter(|to| !self.broken.contains(&(from, **to))) {
                let (machine, now) = (self.machines.get_mut(to).expect("a machine"), self.now);
                let handled = match &send.message {
                    FactsMessage::Record(record) => machine.handle_record(from, record.as_ref().clone()),
                    FactsMessage::Delta(delta) => machine.handle_delta(from, delta.as_ref().clone(), now),
                    FactsMessage::Digest(digest) => machine.handle_digest(from, digest, now),
                    FactsMessage::Pull(pull) => machine.handle_pull(from, *pull, now),
                };
                handled.expect("honest peers are not refused");
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.settle();
            let due = self.machines.values().filter_map(|machine| Some(machine.poll_timeout()?.0)).min();
            let Some(due) = due.filter(|due| *due <= end) else {
                break;
            };
            self.now = self.now.max(due);
            self.machines.values_mut().for_each(|machine| machine.handle_timeout(due));
        }
        self.now = end;
    }

    fn agrees(&self) -> bool {
        let truth = |id| self.machines[id].record(*id);
        self.machines.values().all(|machine| self.machines.keys().all(|id| machine.record(*id) == truth(id)))
    }
}

#[test]
fn a_lost_change_is_repaired_by_the_digests_alone() {
    let mut mesh = Mesh::new(5, origin());
    for number in 1..=5 {
        let now = mesh.now;
        mesh.at(number).handle_own(own(&["a"]), now).expect("valid");
    }
    mesh.run(Duration::from_secs(1));
    assert!(mesh.agrees());
    // 2 misses a change of 1, and nothing else happens that would show it.
    mesh.broken.insert((node(1), node(2)));
    let now = mesh.now;
    mesh.at(1).handle_own(own(&["a", "b"]), now).expect("valid");
    mesh.run(Duration::from_secs(1));
    assert!(!mesh.agrees());
    mesh.broken.clear();
    mesh.run(DIGEST_PERIOD + Duration::from_secs(1));
    assert!(mesh.agrees());
    assert!(mesh.machines.values().map(|machine| machine.counters().pulls).sum::<u64>() <= 1);
}

#[test]
fn a_renewed_node_says_everything_again_to_everybody() {
    let mut mesh = Mesh::new(3, origin());
    let now = mesh.now;
    mesh.at(1).handle_own(own(&["a"]), now).expect("valid");
    mesh.run(Duration::from_secs(1));
    let now = mesh.now;
    mesh.at(2).handle_down(life(1, 1), now);
    mesh.at(1).handle_renewed(Life { node: node(1), generation: 2 }, now);
    mesh.run(Duration::from_millis(1));
    for number in 1..=3 {
        assert_eq!(
            mesh.at(number).record(node(1)).map(|record| (record.generation, record.version)),
            Some((2, 1))
        );
    }
}

#[test]
fn whom_the_owner_could_not_keep_up_with_gets_everything_again() {
    let now = origin();
    let mut machine = member(1, now);
    machine.handle_own(own(&["a"]), now).expect("valid");
    machine.handle_connected(node(2), now).expect("room");
    assert_eq!(sends(&mut machine).len(), 1);
    machine.handle_lagged(node(2));
    machine.handle_own(own(&["b"]), now + Duration::from_secs(1)).expect("valid");
    let sent = sends(&mut machine);
    assert!(
        matches!(&sent[..], [FactsSend { message: FactsMessage::Record(record), .. }] if record.version == 2)
    );
}

fn any_facts() -> impl Strategy<Value = NodeFacts> {
    let state = prop_oneof![Just(ModelState::Stored), Just(ModelState::Ready)];
    let models = vec(("[a-e]", state), 0..8);
    (models, any::<bool>(), 1..4_u64).prop_map(|(models, draining, version)| {
        let models: Vec<ModelFact> = models.into_iter().map(|(name, state)| model(&name, state)).collect();
        let mut facts = NodeFacts { draining, version, ..facts(1, models) };
        normalize(&mut facts);
        facts
    })
}

proptest! {
    #[test]
    fn a_delta_leads_to_what_it_was_made_from(base in any_facts(), mut next in any_facts()) {
        next.version = base.version + 1;
        let delta = between(&base, &next).expect("same addresses");
        prop_assert_eq!(apply(&base, &delta), next);
    }

    /// Whatever is lost on the way, everybody agrees with every owner a digest period after the loss ends.
    #[test]
    fn everybody_agrees_in_the_end(
        steps in vec((1..5_u64, vec("[a-d]", 0..4), (1..5_u64, 1..5_u64), 0..400_u64, any::<bool>()), 1..30),
    ) {
        let mut mesh = Mesh::new(4, origin());
        let mut generations: BTreeMap<u64, u64> = (1..5).map(|number| (number, 1)).collect();
        for (number, names, (from, to), wait, renews) in steps {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let now = mesh.now;
            mesh.broken.extend([(node(from), node(to))]);
            mesh.at(number).handle_own(own(&names), now).expect("valid");
            if renews {
                let generation = generations.get_mut(&number).expect("one of four");
                *generation += 1;
                let generation = *generation;
                mesh.at(number).handle_renewed(Life { node: node(number), generation }, now);
            }
            mesh.run(Duration::from_millis(wait));
        }
        mesh.broken.clear();
        mesh.run(DIGEST_PERIOD * 2);
        prop_assert!(mesh.agrees());
    }
}
