//! Peers that say anything at all: whatever comes, in whatever order, nobody speaks for another, the dead stay dead, and
//! what waits is bounded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use shoal_protocol::message::{
    FactsDelta, FactsDigest, FactsPull, FactsVersion, ModelFact, ModelFactKey, ModelState, NodeFacts,
};
use shoal_protocol::{DeviceIndex, Header, Message, VersionRange, decode, encode};

use super::super::fleet::{facts, life, model, node, origin};
use super::parameters::{PULLS_BURST, RECORDS_MAX, SENDS_MAX};
use super::{Facts, OwnFacts};

/// The machine is number 0; these and a stranger speak to it.
const PEERS: u64 = 4;
/// Nodes that are spoken of.
const NODES: u64 = 6;

/// What a peer says, or does.
#[derive(Clone, Debug)]
enum Act {
    Record {
        about: u64,
        generation: u64,
        version: u64,
        models: usize,
    },
    Delta {
        about: u64,
        generation: u64,
        base: u64,
        version: u64,
        set: usize,
        unset: usize,
    },
    Digest {
        entries: Vec<(u64, u64, u64)>,
        answer: bool,
    },
    Pull {
        about: u64,
        generation: u64,
        version: u64,
    },
    Connect,
    Disconnect,
    Lag,
    /// Membership's word, which is true.
    Die {
        generation: u64,
    },
    Own(usize),
    Wait(u64),
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![9 => 0..5_u64, 1 => Just(u64::MAX)]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..NODES, number(), number(), 0..4_usize).prop_map(|(about, generation, version, models)| {
            Act::Record { about, generation, version, models }
        }),
        4 => (0..NODES, (number(), number(), number()), 0..4_usize, 0..4_usize).prop_map(
            |(about, (generation, base, version), set, unset)| {
                Act::Delta { about, generation, base, version, set, unset }
            }
        ),
        2 => (vec((0..NODES, number(), number()), 0..8), any::<bool>())
            .prop_map(|(entries, answer)| Act::Digest { entries, answer }),
        1 => (0..NODES, number(), number()).prop_map(|(about, generation, version)| {
            Act::Pull { about, generation, version }
        }),
        2 => Just(Act::Connect),
        1 => Just(Act::Disconnect),
        1 => Just(Act::Lag),
        1 => (0..5_u64).prop_map(|generation| Act::Die { generation }),
        1 => (0..4_usize).prop_map(Act::Own),
        1 => (0..40_000_u64).prop_map(Act::Wait),
    ]
}

/// Models whose names say who wrote them.
fn written_by(author: u64, count: usize) -> Vec<ModelFact> {
    (0..count).map(|place| model(&format!("{author}-{place}"), ModelState::Ready)).collect()
}

fn record(author: u64, about: u64, generation: u64, version: u64, models: usize) -> NodeFacts {
    NodeFacts { generation, version, ..facts(about, written_by(author, models)) }
}

fn delta(
    author: u64,
    about: u64,
    generation: u64,
    versions: (u64, u64),
    places: (usize, usize),
) -> FactsDelta {
    let device = DeviceIndex(0);
    let name = |place| format!("{author}-{place}");
    let unset = (0..places.1).map(|place| ModelFactKey { name: name(place), device });
    FactsDelta {
        node: node(about),
        generation,
        base_version: versions.0,
        version: versions.1,
        draining: Some(true),
        devices_set: Vec::new(),
        devices_unset: Vec::new(),
        models_set: written_by(author, places.0),
        models_unset: unset.collect(),
    }
}

fn version((about, generation, version): (u64, u64, u64)) -> FactsVersion {
    FactsVersion { node: node(about), generation, version }
}

/// A machine among hostile peers, and what must be so.
struct Siege {
    machine: Facts,
    now: Instant,
    dead: BTreeMap<u64, u64>,
    held: BTreeMap<u64, (u64, u64)>,
}

impl Siege {
    fn new() -> Self {
        let now = origin();
        let mut machine = Facts::new(life(0, 1), 1, now);
        let own = OwnFacts { models: written_by(0, 1), ..OwnFacts::default() };
        machine.handle_own(own, now).expect("valid");
        (1..=PEERS).for_each(|peer| {
            machine.handle_connected(node(peer), now).expect("room");
        });
        Self { machine, now, dead: BTreeMap::new(), held: BTreeMap::new() }
    }

    /// What is refused is refused: only the state afterwards counts.
    fn suffer(&mut self, by: u64, act: Act) {
        let (from, now, machine) = (node(by), self.now, &mut self.machine);
        match act {
            Act::Record { about, generation, version, models } => {
                let _ = machine.handle_record(from, record(by, about, generation, version, models));
            }
            Act::Delta { about, generation, base, version, set, unset } => {
                let said = delta(by, about, generation, (base, version), (set, unset));
                let _ = machine.handle_delta(from, said, now);
            }
            Act::Digest { entries, answer } => {
                let entries = entries.into_iter().map(version).collect();
                let _ = machine.handle_digest(from, &FactsDigest { entries, answer }, now);
            }
            Act::Pull { about, generation, version: wanted } => {
                let have = version((about, generation, wanted));
                let _ = machine.handle_pull(from, FactsPull { have }, now);
            }
            Act::Connect => machine.handle_connected(from, now).expect("room"),
            Act::Disconnect => machine.handle_disconnected(from),
            Act::Lag => machine.handle_lagged(from),
            Act::Die { generation } => {
                machine.handle_down(life(by, generation), now);
                let dead = self.dead.entry(by).or_default();
                *dead = generation.max(*dead);
            }
            Act::Own(models) => {
                let own = OwnFacts { models: written_by(0, models), ..OwnFacts::default() };
                machine.handle_own(own, now).expect("valid");
            }
            Act::Wait(wait_ms) => {
                self.now += Duration::from_millis(wait_ms);
                machine.handle_timeout(self.now);
            }
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let mut held = BTreeMap::new();
        for record in self.machine.records() {
            let about = (0..NODES).find(|number| node(*number) == record.node).expect("one of them");
            let author = |name: &str| name.starts_with(&format!("{about}-"));
            prop_assert!(record.models.iter().all(|model| author(&model.name)), "{record:?}");
            prop_assert!(about <= PEERS, "a stranger's record is held");
            prop_assert!(self.dead.get(&about).is_none_or(|dead| record.generation > *dead) || about == 0);
            let present = (record.generation, record.version);
            prop_assert!(self.held.get(&about).is_none_or(|before| present >= *before), "{about} went back");
            held.insert(about, present);
        }
        prop_assert_eq!(held.get(&0).map(|own| own.0), Some(1), "the own record");
        self.held.extend(held);
        Ok(())
    }
}

proptest! {
    #[test]
    fn nobody_speaks_for_another(acts in vec((1..=PEERS + 1, act()), 1..200)) {
        let mut siege = Siege::new();
        for (by, act) in acts {
            let is_about_connection = matches!(act, Act::Connect | Act::Die { .. });
            if by <= PEERS || !is_about_connection {
                siege.suffer(by, act);
            }
            siege.check()?;
        }
        let sends = std::iter::from_fn(|| siege.machine.poll_send()).count();
        prop_assert!(sends <= SENDS_MAX + (PEERS * (NODES + 1)) as usize, "{} wait", sends);
    }

    /// Frames with bytes changed: what the door lets through does no harm.
    #[test]
    fn mutated_frames_do_no_harm(
        kind in 0..4_usize,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let message = match kind {
            0 => Message::Facts(Box::new(record(1, 1, 1, 2, 3))),
            1 => Message::FactsDelta(Box::new(delta(1, 1, 1, (1, 2), (2, 1)))),
            2 => Message::FactsDigest(FactsDigest { entries: vec![version((1, 1, 9))], answer: false }),
            _ => Message::FactsPull(FactsPull { have: version((0, 0, 0)) }),
        };
        let mut bytes = Vec::new();
        encode(&message.into(), VersionRange::OURS.max, &mut bytes).expect("within the limits");
        let (head, body) = bytes.split_at_mut(Header::BYTES);
        for (place, byte) in changes {
            body[place.index(body.len())] ^= byte;
        }
        let header = Header::decode((&*head).try_into().expect("a header")).expect("unchanged");
        let mut siege = Siege::new();
        siege.machine.handle_record(node(1), record(1, 1, 1, 1, 2)).expect("its own");
        if let Ok(frame) = decode(&header, body) {
            let (from, now, machine) = (node(1), siege.now, &mut siege.machine);
            // Refused or not: what counts is the state afterwards.
            let _ = match frame.message {
                Message::Facts(record) => machine.handle_record(from, *record),
                Message::FactsDelta(delta) => machine.handle_delta(from, *delta, now),
                Message::FactsDigest(digest) => machine.handle_digest(from, &digest, now),
                Message::FactsPull(pull) => machine.handle_pull(from, pull, now),
                other => panic!("the header names the kind: {other:?}"),
            };
        }
        for record in siege.machine.records() {
            prop_assert!(record.node == node(0) || record.node == node(1));
            prop_assert!(record.check().is_ok());
        }
    }
}

#[test]
fn floods_that_nobody_polls_leave_a_bounded_machine() {
    let mut siege = Siege::new();
    let entries: Vec<_> = (0..RECORDS_MAX as u64).map(|about| version((about, 7, 7))).collect();
    let digest = FactsDigest { entries, answer: false };
    for round in 0..2 * SENDS_MAX as u64 {
        let by = 1 + round % PEERS;
        siege.suffer(by, Act::Record { about: by, generation: 1, version: round, models: 2 });
        siege.suffer(
            by,
            Act::Delta { about: by, generation: 1, base: 0, version: round + 9, set: 1, unset: 0 },
        );
        siege.suffer(by, Act::Pull { about: 0, generation: 0, version: 0 });
        if round % 1000 < PEERS {
            siege.machine.handle_digest(node(by), &digest, siege.now).expect("a member");
        }
        if round % 100 == 0 {
            siege.suffer(by, Act::Own(round as usize / 100 % 4));
            siege.suffer(by, Act::Wait(200));
        }
    }
    let records = siege.machine.records().count();
    assert_eq!(records, 1 + PEERS as usize, "one for each that spoke for itself");
    let sends = std::iter::from_fn(|| siege.machine.poll_send()).count();
    assert!(sends <= SENDS_MAX + PEERS as usize, "{sends} wait");
    let counters = siege.machine.counters();
    assert!(counters.pulls_dropped > u64::from(PULLS_BURST), "{counters:?}");
}

#[test]
fn a_record_that_nobody_may_publish_is_refused_whole() {
    let mut siege = Siege::new();
    let twice = |models: Vec<_>| Arc::new(NodeFacts { version: 9, ..facts(1, models) });
    // The same model twice and out of order: one of them is held.
    let mut models = written_by(1, 3);
    models.reverse();
    models.extend(written_by(1, 3));
    siege.machine.handle_record(node(1), twice(models)).expect("its own");
    let held = siege.machine.record(node(1)).expect("held");
    assert_eq!(
        held.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(),
        ["1-0", "1-1", "1-2"]
    );
    let long = model(&"x".repeat(1 << 16), ModelState::Ready);
    let refused = NodeFacts { version: 10, ..facts(1, vec![long]) };
    assert!(siege.machine.handle_record(node(1), refused).is_err());
    assert_eq!(siege.machine.record(node(1)).map(|record| record.version), Some(9), "the former one stays");
}
