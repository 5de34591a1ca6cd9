//! One node of a few that all have model `m` on disk.

use shoal_protocol::message::{DeviceFact, ModelFact};
use shoal_protocol::{Bytes, DeviceIndex, Micros};

use super::super::testing::origin;
use super::*;

const DEVICE: DeviceIndex = DeviceIndex(0);
const LOAD: Duration = Duration::from_millis(100);

fn id(number: u8) -> NodeId {
    NodeId([number.wrapping_mul(37); 16])
}

fn place(number: u8) -> Place {
    Place { node: id(number), device: DEVICE }
}

fn facts(number: u8, version: u64, state: ModelState) -> NodeFacts {
    let device = DeviceFact {
        device: DEVICE,
        name: "cpu".to_owned(),
        budget_bytes: Bytes(1 << 30),
        tokens_per_s: 10_000,
    };
    let model = ModelFact {
        name: "m".to_owned(),
        aliases: Vec::new(),
        device: DEVICE,
        state,
        numerics: Numerics::F32,
        bytes: Bytes(50 << 20),
        load_us: Micros::from(LOAD),
    };
    NodeFacts {
        node: id(number),
        generation: 1,
        version,
        peer_addresses: Vec::new(),
        client_addresses: Vec::new(),
        draining: false,
        devices: vec![device],
        models: vec![model],
    }
}

fn load(sequence: u16, wait_ms: u64) -> LoadRecord {
    LoadRecord {
        wait_us: wait_ms * 1000,
        free_bytes: 1 << 30,
        tokens_per_s: 10_000,
        running: u16::from(wait_ms > 0),
        sequence,
        ..LoadRecord::default()
    }
}

/// The node of this number as one of as many as there are states.
fn node(own: u8, states: &[ModelState], now: Instant) -> Placement {
    let mut placement = Placement::new(place(own));
    for (number, state) in (0..).zip(states) {
        placement.handle_facts(&facts(number, 1, *state), now);
        placement.handle_load(id(number), &load(1, 0), now);
    }
    placement
}

fn arrival(redirects: Option<u8>, deadline: Option<Instant>) -> Arrival<'static> {
    let (numerics, priority) = (Numerics::Any, Priority::Interactive);
    Arrival { model: "m", numerics, bytes: 400, priority, deadline, redirects }
}

fn standing(state: Option<ModelState>, wait_ms: u64) -> OwnStanding {
    let ready_in = if state == Some(ModelState::Loading) { LOAD } else { Duration::ZERO };
    OwnStanding { load: load(2, wait_ms), state, ready_in }
}

fn named(verdict: Verdict) -> Vec<NodeId> {
    match verdict {
        Verdict::Redirect(places) => places.into_iter().map(|place| place.node).collect(),
        other => panic!("no redirection: {other:?}"),
    }
}

const STORED: ModelState = ModelState::Stored;
const READY: ModelState = ModelState::Ready;
const LOADING: ModelState = ModelState::Loading;

#[test]
fn only_its_owner_loads_a_model_that_nobody_has() {
    let now = origin();
    let asked = |own: u8, redirects| {
        let mut node = node(own, &[STORED; 5], now);
        node.handle_arrival(&arrival(redirects, None), &standing(Some(STORED), 0), now)
    };
    let owners: Vec<u8> = (0..5).filter(|own| asked(*own, Some(0)) == Verdict::Take).collect();
    let [owner] = owners[..] else { panic!("{owners:?}") };
    for other in (0..5).filter(|other| *other != owner) {
        assert_eq!(named(asked(other, Some(0))), [id(owner)]);
        assert_eq!(asked(other, Some(REDIRECTS_MAX)), Verdict::Take, "somebody must");
        assert_eq!(asked(other, None), Verdict::Take, "its caller knows no other");
    }
    // Who does not have it at all says the same.
    let mut stranger = node(9, &[STORED; 5], now);
    assert_eq!(named(stranger.handle_arrival(&arrival(Some(0), None), &standing(None, 0), now)), [id(owner)]);
}

#[test]
fn the_second_owner_takes_over_from_an_overloaded_one_and_from_one_that_leaves() {
    let now = origin();
    let all = [STORED; 5];
    let loads = |change: &dyn Fn(&mut Placement)| {
        let takes = |own: &u8| {
            let mut node = node(*own, &all, now);
            change(&mut node);
            let standing = standing(Some(STORED), 0);
            let standing = OwnStanding { load: LoadRecord { sequence: 1, ..standing.load }, ..standing };
            node.handle_arrival(&arrival(Some(0), None), &standing, now) == Verdict::Take
        };
        (0..5).filter(takes).collect::<Vec<u8>>()
    };
    let owner = loads(&|_| {})[0];
    let busy = loads(&|node| node.handle_load(id(owner), &load(5, 60_000), now));
    let leaving = NodeFacts { draining: true, ..facts(owner, 2, STORED) };
    let left = loads(&|node| node.handle_facts(&leaving, now));
    assert_eq!(busy.len(), 1);
    assert_ne!(busy[0], owner);
    assert_eq!(busy, left, "the same order for everybody");
    let failed = facts(owner, 2, ModelState::Failed);
    assert_eq!(loads(&|node| node.handle_facts(&failed, now)), busy, "a failed load moves on as well");
}

#[test]
fn a_resident_model_is_served_here_unless_another_holder_is_much_sooner() {
    let now = origin();
    let mut node = node(0, &[READY, READY, STORED], now);
    let mut asked = |wait_ms, redirects| {
        node.handle_arrival(&arrival(redirects, None), &standing(Some(READY), wait_ms), now)
    };
    assert_eq!(asked(0, Some(0)), Verdict::Take);
    assert_eq!(asked(499, Some(0)), Verdict::Take, "what the caller knew was not older");
    assert_eq!(named(asked(2_000, Some(0))), [id(1)]);
    assert_eq!(asked(2_000, Some(REDIRECTS_MAX)), Verdict::Take);
    assert_eq!(asked(2_000, None), Verdict::Take);
    node.handle_load(id(1), &load(3, 600), now);
    let verdict = node.handle_arrival(&arrival(Some(0), None), &standing(Some(READY), 2_000), now);
    assert_eq!(verdict, Verdict::Take, "the other is hardly sooner");
}

#[test]
fn a_load_that_ends_after_the_deadline_is_said_at_once() {
    let now = origin();
    let mut alone = node(0, &[LOADING, STORED], now);
    let within = |ms| Some(now + Duration::from_millis(ms));
    let standing = standing(Some(LOADING), 0);
    assert_eq!(alone.handle_arrival(&arrival(Some(0), None), &standing, now), Verdict::Take, "it waits");
    assert_eq!(alone.handle_arrival(&arrival(Some(0), within(101)), &standing, now), Verdict::Take);
    let late = alone.handle_arrival(&arrival(Some(0), within(100)), &standing, now);
    assert_eq!(late, Verdict::Loading { ready_in: LOAD });
    let mut beside = node(0, &[LOADING, READY], now);
    assert_eq!(named(beside.handle_arrival(&arrival(Some(0), within(100)), &standing, now)), [id(1)]);
    let last = beside.handle_arrival(&arrival(Some(REDIRECTS_MAX), within(100)), &standing, now);
    assert_eq!(last, Verdict::Loading { ready_in: LOAD });
}

#[test]
fn a_refusal_names_holders_before_owners_and_never_itself() {
    let now = origin();
    let node = node(0, &[READY, READY, STORED], now);
    let others: Vec<_> =
        node.alternatives(&arrival(None, None), now).iter().map(|place| place.node).collect();
    assert_eq!(others, [id(1), id(2)]);
    assert!(Placement::new(place(0)).alternatives(&arrival(None, None), now).is_empty());
}

/// Serves for so many windows; gives back what was decided at the end of each, but what the device is told.
fn serve(
    node: &mut Placement,
    (windows, queue): (u32, Duration),
    own: &LoadRecord,
    from: Instant,
) -> Vec<Option<CopyDeed>> {
    let mut now = from;
    let mut deeds = Vec::new();
    for _ in 0..windows {
        for _ in 0..10 {
            node.handle_served("m", ServedTokens { tokens: 100, queue, bytes: 50 << 20 }, now);
        }
        now = node.poll_timeout().expect("a window").0;
        node.handle_window(own, now);
        let told = |deed: &CopyDeed| matches!(deed, CopyDeed::Spare { .. });
        let mut decided = std::iter::from_fn(|| node.poll_deed()).filter(|deed| !told(deed));
        deeds.push(decided.next());
        assert_eq!(decided.next(), None);
    }
    deeds
}

#[test]
fn a_hot_model_gets_a_further_holder_and_one_at_a_time() {
    let now = origin();
    let mut hot = node(0, &[READY, STORED, STORED], now);
    let own = load(2, 80);
    // 100 tokens take 10 ms, and wait for 80.
    let busy = (3, Duration::from_millis(80));
    let deeds = serve(&mut hot, busy, &own, now);
    assert_eq!((&deeds[0], &deeds[2]), (&None, &None), "two windows must agree, and it counts anew");
    let Some(CopyDeed::Ask { to, model }) = &deeds[1] else { panic!("{deeds:?}") };
    assert_eq!(model, "m");
    assert_ne!(to.node, id(0));
    // While that one loads, nobody else is asked.
    let mut loading = facts(1, 2, LOADING);
    loading.node = to.node;
    hot.handle_facts(&loading, now);
    assert_eq!(serve(&mut hot, (4, busy.1), &own, now), vec![None; 4]);
}

#[test]
fn a_wait_that_is_everywhere_or_bad_luck_makes_no_copy() {
    let now = origin();
    let calm = |states: &[ModelState], others_wait_ms, queue_ms| {
        let mut node = node(0, states, now);
        for number in 1..states.len() as u8 {
            // The mean of what they say comes as near as makes no difference.
            (2..40).for_each(|sequence| node.handle_load(id(number), &load(sequence, others_wait_ms), now));
        }
        serve(&mut node, (9, Duration::from_millis(queue_ms)), &load(2, 0), now)
    };
    assert_eq!(calm(&[READY, STORED], 0, 4), vec![None; 9], "hardly longer than elsewhere");
    assert_eq!(calm(&[READY, STORED], 80, 80), vec![None; 9], "all are busy");
    assert_eq!(calm(&[READY, READY, STORED], 0, 80), vec![None; 9], "another holder is not");
    assert_eq!(calm(&[READY], 0, 80), vec![None; 9], "there is nobody");
}

#[test]
fn the_device_is_told_when_others_begin_and_cease_to_hold_a_model() {
    let now = origin();
    let mut own = node(0, &[READY, STORED], now);
    let mut told = |others: Option<NodeFacts>, is_served| {
        others.iter().for_each(|facts| own.handle_facts(facts, now));
        if is_served {
            own.handle_served("m", ServedTokens { tokens: 1, queue: Duration::ZERO, bytes: 1 }, now);
        }
        let at = own.poll_timeout().expect("a window").0;
        own.handle_window(&load(2, 0), at);
        std::iter::from_fn(|| own.poll_deed()).collect::<Vec<_>>()
    };
    let spare = |is_spare| vec![CopyDeed::Spare { model: "m".to_owned(), is_spare }];
    assert_eq!(told(None, true), spare(false));
    assert!(told(None, false).is_empty(), "unused and unchanged");
    assert_eq!(told(Some(facts(1, 2, READY)), false), spare(true));
    assert_eq!(told(None, true), spare(true), "the device may be a new one");
    assert_eq!(told(Some(facts(1, 3, STORED)), false), spare(false));
}

#[test]
fn a_copy_is_given_back_under_pressure_by_the_last_in_order() {
    let now = origin();
    let full = LoadRecord { free_bytes: 0, ..load(2, 0) };
    let given = |own: u8, record: &LoadRecord, other: ModelState| {
        let mut node = node(own, &[READY, READY], now);
        let mut record_own = facts(own, 2, READY);
        record_own.models.push(ModelFact {
            name: "other".to_owned(),
            state: other,
            ..record_own.models[0].clone()
        });
        node.handle_facts(&record_own, now);
        let deeds = serve(&mut node, (2, Duration::ZERO), record, now);
        deeds.contains(&Some(CopyDeed::GiveBack { model: "m".to_owned() }))
    };
    assert_eq!([0, 1].map(|own| given(own, &full, LOADING)).iter().filter(|given| **given).count(), 1);
    assert_eq!([0, 1].map(|own| given(own, &load(2, 0), LOADING)), [false; 2], "there is room");
    assert_eq!([0, 1].map(|own| given(own, &full, STORED)), [false; 2], "nobody wants any");
}

#[test]
fn a_model_is_elsewhere_where_somebody_who_stays_has_it() {
    let now = origin();
    let of = |others: &[ModelState], change: &dyn Fn(&mut Placement)| {
        let states: Vec<_> = [READY].iter().chain(others).copied().collect();
        let mut node = node(0, &states, now);
        change(&mut node);
        node.elsewhere("m", &[], now)
    };
    let as_told = |_: &mut Placement| {};
    assert_eq!(of(&[STORED, LOADING, READY], &as_told), Elsewhere::Ready);
    assert_eq!(of(&[STORED, LOADING], &as_told), Elsewhere::Loading);
    assert_eq!(of(&[STORED], &as_told), Elsewhere::Stored(place(1)));
    assert_eq!(of(&[], &as_told), Elsewhere::Nowhere);
    assert_eq!(of(&[ModelState::Failed], &as_told), Elsewhere::Nowhere, "asking once more helps nobody");
    assert_eq!(of(&[ModelState::Failed, STORED], &as_told), Elsewhere::Stored(place(2)));
    let mut own = node(0, &[READY, STORED, STORED], now);
    let Elsewhere::Stored(first) = own.elsewhere("m", &[], now) else { panic!("nobody") };
    let Elsewhere::Stored(second) = own.elsewhere("m", &[first.node], now) else { panic!("nobody else") };
    assert_ne!(first, second);
    assert_eq!(own.elsewhere("m", &[first.node, second.node], now), Elsewhere::Nowhere);
    let late = NodeFacts { node: first.node, ..facts(9, 2, READY) };
    own.handle_facts(&late, now);
    assert_eq!(own.elsewhere("m", &[first.node], now), Elsewhere::Ready, "it came round");
    // Who leaves as well, or may be dead, is no owner.
    let leaves =
        |node: &mut Placement| node.handle_facts(&NodeFacts { draining: true, ..facts(1, 2, READY) }, now);
    assert_eq!(of(&[READY, STORED], &leaves), Elsewhere::Stored(place(2)));
    let suspect = |node: &mut Placement| {
        node.handle_member(Life { node: id(1), generation: 1 }, MemberState::Suspect, now);
    };
    assert_eq!(of(&[READY], &suspect), Elsewhere::Nowhere);
}
