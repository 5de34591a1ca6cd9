//! One scenario for each rule.

mod answers;
mod records;
mod rounds;
mod silence;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shoal_protocol::message::{LoadRecord, LoadReply, ModelState, NodeFacts, Numerics, Priority};
use shoal_protocol::{Bytes, DeviceIndex, Micros, NodeId, Place};

use super::*;
use crate::core::fleet::{facts, life, load, model, node, origin};
use crate::core::member::MemberState;

fn query(model: &str) -> Query<'_> {
    Query {
        model,
        numerics: Numerics::Any,
        tokens: 100,
        texts: 1,
        priority: Priority::Interactive,
        deadline: None,
        excluded: &[],
        waits: None,
    }
}

/// A view with nodes 0.. that have model `m` in these states, and their gossip.
fn view(states: &[ModelState], now: Instant) -> View {
    let mut view = View::default();
    for (number, state) in (0..).zip(states) {
        assert!(view.handle_facts(&facts(number, vec![model("m", *state)]), now));
        assert!(view.handle_load(node(number), &load(1, 0), now));
    }
    view
}

fn reply(probe: &Probe, wait_ms: u64, state: ModelState) -> LoadReply {
    let ready_in_us = Micros(if state == ModelState::Loading { 30_000 } else { 0 });
    LoadReply { nonce: probe.probe.nonce, load: load(2, wait_ms), model: Some(state), ready_in_us }
}

fn chosen(route: Result<Route, NoRoute>) -> Choice {
    match route {
        Ok(Route::To(choice)) => choice,
        other => panic!("no choice: {other:?}"),
    }
}

fn waits(route: Result<Route, NoRoute>) -> Waiting {
    match route {
        Ok(Route::Wait(waiting)) => waiting,
        other => panic!("no wait: {other:?}"),
    }
}

/// Answers every probe that is out; the waits are by node. Gives back whom it asked.
fn answer(
    router: &mut Router,
    view: &mut View,
    waits_ms: &BTreeMap<NodeId, u64>,
    now: Instant,
) -> Vec<NodeId> {
    let mut asked = Vec::new();
    while let Some(probe) = router.poll_probe() {
        let wait_ms = waits_ms.get(&probe.to).copied().unwrap_or(0);
        let holds =
            view.model("m").expect("known").holders.iter().any(|at| view.node(at.slot).id == probe.to);
        let state = if holds { ModelState::Ready } else { ModelState::Stored };
        router.handle_reply(view, probe.to, &reply(&probe, wait_ms, state), now);
        asked.push(probe.to);
    }
    asked
}

const READY: ModelState = ModelState::Ready;
const STORED: ModelState = ModelState::Stored;
const LOADING: ModelState = ModelState::Loading;

#[test]
fn answers_bind_several_choices_and_the_next_ones_are_asked_for_ahead() {
    let mut router = Router::new(1);
    let mut view = view(&[READY; 3], origin());
    let now = origin() + Duration::from_secs(2);
    let short = Query { tokens: 1, ..query("m") };
    let waiting = waits(router.route(&mut view, &short, now));
    assert!(waiting.until > now && waiting.until <= now + PROBE_WAIT_MAX);
    assert_eq!(router.poll_timeout().map(|(at, _)| at), Some(waiting.until));
    let again = router.route(&mut view, &Query { waits: Some(waiting), ..short }, now);
    assert_eq!(waits(again), waiting, "probes of one model are shared");
    let load = BTreeMap::from([(node(0), 2), (node(1), 0), (node(2), 1)]);
    assert_eq!(answer(&mut router, &mut view, &load, now).len(), 3);
    let first = chosen(router.route(&mut view, &short, now));
    assert_eq!((first.node, first.decision.reason), (node(1), Reason::Cheapest));
    assert_eq!(first.decision.candidates.len(), 3);
    assert!(first.decision.candidates.iter().all(|candidate| candidate.source == Source::Probe));
    let second = chosen(router.route(&mut view, &short, now));
    assert_eq!(second.node, node(1), "its answer binds two choices");
    let third = chosen(router.route(&mut view, &short, now));
    assert_eq!(third.node, node(2), "and no more");
    chosen(router.route(&mut view, &short, now));
    let fifth = chosen(router.route(&mut view, &short, now));
    assert_eq!(fifth.node, node(0));
    assert!(router.poll_probe().is_some(), "one answer is left: the next probes went out");
    let old = now + Duration::from_millis(51);
    waits(router.route(&mut view, &query("m"), old));
}

#[test]
fn without_an_answer_two_are_drawn_and_never_the_minimum_of_all() {
    let now = origin();
    let mut chosen_of: BTreeMap<NodeId, u32> = BTreeMap::new();
    for seed in 0..200 {
        let (mut router, mut view) = (Router::new(seed), view(&[READY; 10], now));
        for number in 0..10 {
            view.handle_load(node(number), &load(2, 100 * number), now);
        }
        let waiting = waits(router.route(&mut view, &query("m"), now));
        router.handle_timeout(waiting.until);
        let late = Query { waits: Some(waiting), ..query("m") };
        let choice = chosen(router.route(&mut view, &late, waiting.until));
        assert_eq!(choice.decision.reason, Reason::TwoChoices);
        *chosen_of.entry(choice.node).or_default() += 1;
    }
    assert!(chosen_of.len() >= 7, "spread: {chosen_of:?}");
    assert!(chosen_of[&node(0)] < 80, "no herd: {chosen_of:?}");
    let slow: u32 = [7, 8, 9].iter().filter_map(|number| chosen_of.get(&node(*number))).sum();
    assert!(slow < 40, "but the busy are avoided: {chosen_of:?}");
}

#[test]
fn our_own_sends_count_until_the_next_word() {
    let (now, mut router) = (origin(), Router::new(4));
    let mut view = view(&[READY; 2], now);
    waits(router.route(&mut view, &query("m"), now));
    answer(&mut router, &mut view, &BTreeMap::new(), now);
    let short = Query { tokens: 1, ..query("m") };
    let nodes: Vec<_> = (0..4).map(|_| chosen(router.route(&mut view, &short, now)).node).collect();
    assert_ne!(nodes[0], nodes[1], "the first is no longer idle");
    assert_ne!(nodes[2], nodes[3]);
}

#[test]
fn one_holder_is_not_asked_first() {
    let (now, mut router) = (origin(), Router::new(5));
    let mut view = view(&[READY, STORED, STORED], now);
    let choice = chosen(router.route(&mut view, &query("m"), now));
    assert_eq!((choice.node, choice.decision.reason), (node(0), Reason::Only));
    assert_eq!(choice.place(), Some(Place { node: node(0), device: DeviceIndex(0) }));
    assert!(router.poll_probe().is_none());
}

#[test]
fn all_routers_send_a_miss_to_the_same_owner() {
    let now = origin();
    let owner_of = |view: &mut View, seed| {
        let choice = chosen(Router::new(seed).route(view, &query("m"), now));
        (choice.node, choice.decision.reason)
    };
    let mut one = view(&[STORED; 9], now);
    let (owner, reason) = owner_of(&mut one, 1);
    assert_eq!(reason, Reason::Owner);
    assert_eq!(owner_of(&mut view(&[STORED; 9], now), 77).0, owner);
    one.handle_load(owner, &LoadRecord { shed_level: 1, ..load(2, 0) }, now);
    let (second, reason) = owner_of(&mut one, 2);
    assert_eq!(reason, Reason::SecondOwner);
    assert_ne!(second, owner);
    one.handle_load(second, &load(2, 3000), now);
    assert_eq!(owner_of(&mut one, 3).0, owner, "both overloaded: the owner, and no third");
    one.handle_load(second, &load(3, 0), now);
    one.handle_draining(owner);
    assert_eq!(owner_of(&mut one, 3), (second, Reason::Owner), "who leaves owns nothing");
}

#[test]
fn a_load_that_runs_is_waited_for_and_not_repeated() {
    let (now, mut router) = (origin(), Router::new(6));
    let mut view = view(&[ModelState::Loading, STORED, STORED], now);
    view.handle_load(node(0), &load(2, 5000), now);
    let choice = chosen(router.route(&mut view, &query("m"), now));
    assert_eq!((choice.node, choice.decision.reason), (node(0), Reason::Only));
    assert_eq!(choice.decision.candidates[0].estimate.cold_us, 100_000);
}

#[test]
fn busy_holders_get_help_from_the_owner_once_it_said_that_it_is_idle() {
    let (now, mut router) = (origin(), Router::new(7));
    let mut view = view(&[READY, READY, STORED, STORED], now);
    for number in 0..2 {
        view.handle_load(node(number), &load(2, 900), now);
    }
    waits(router.route(&mut view, &query("m"), now));
    let busy = BTreeMap::from([(node(0), 900), (node(1), 900)]);
    let asked = answer(&mut router, &mut view, &busy, now);
    assert_eq!(asked.len(), 3, "both holders and the owner");
    let choice = chosen(router.route(&mut view, &query("m"), now));
    assert_eq!(choice.decision.reason, Reason::Further);
    let next = further_holder(&view, &query("m"), now).expect("two have it on disk");
    assert_eq!(choice.place(), Some(next.place));
    // A full device would have to evict: the load costs three, which is not worth it at this wait.
    let full = LoadRecord { free_bytes: 0, ..load(3, 0) };
    let mut router = Router::new(7);
    for number in 2..4 {
        view.handle_load(node(number), &full, now);
    }
    for number in 0..2 {
        view.handle_load(node(number), &load(3, 300), now);
    }
    waits(router.route(&mut view, &query("m"), now));
    let asked = answer(&mut router, &mut view, &BTreeMap::from([(node(0), 300), (node(1), 300)]), now);
    assert_eq!(asked.len(), 2);
}

#[test]
fn further_copies_are_loaded_one_at_a_time() {
    let (now, mut router) = (origin(), Router::new(7));
    let mut view = view(&[READY, READY, STORED, STORED], now);
    for number in 0..2 {
        view.handle_load(node(number), &load(2, 900), now);
    }
    waits(router.route(&mut view, &query("m"), now));
    answer(&mut router, &mut view, &BTreeMap::from([(node(0), 900), (node(1), 900)]), now);
    let first = chosen(router.route(&mut view, &query("m"), now));
    assert_eq!(first.decision.reason, Reason::Further);
    // The other node on disk is loading already, by its facts; the owner's answer is still fresh.
    let other = if first.node == node(2) { 3 } else { 2 };
    let loading = vec![model("m", ModelState::Loading)];
    view.handle_facts(&NodeFacts { version: 2, ..facts(other, loading) }, now);
    let waited =
        Query { waits: Some(Waiting { until: now, rounds: super::rounds::ROUNDS_MAX }), ..query("m") };
    let second = chosen(router.route(&mut view, &waited, now));
    assert_ne!((second.decision.reason, second.node), (Reason::Further, first.node));
}

#[test]
fn who_may_not_serve_is_never_chosen() {
    let now = origin();
    for seed in 0..50 {
        let (mut router, mut view) = (Router::new(seed), view(&[READY; 6], now));
        view.handle_member(life(0, 1), MemberState::Suspect, now);
        view.handle_member(life(1, 1), MemberState::Down, now);
        view.handle_draining(node(2));
        view.handle_doubt(node(3), now);
        let excluded = [node(4)];
        let query = Query { excluded: &excluded, ..query("m") };
        assert_eq!(chosen(router.route(&mut view, &query, now)).node, node(5));
        view.handle_doubt(node(5), now);
        let waiting = waits(router.route(&mut view, &query, now));
        let late = Query { waits: Some(waiting), ..query };
        let last_resort = chosen(router.route(&mut view, &late, waiting.until)).node;
        assert!([node(3), node(5)].contains(&last_resort), "where all are doubted one of them is tried");
    }
}

#[test]
fn a_class_of_numerics_is_kept() {
    let (now, mut router) = (origin(), Router::new(8));
    let mut view = view(&[READY; 3], now);
    let mut record = facts(3, vec![model("m", READY)]);
    record.models[0].numerics = Numerics::Bits16;
    view.handle_facts(&record, now);
    let half = Query { numerics: Numerics::Bits16, ..query("m") };
    assert_eq!(chosen(router.route(&mut view, &half, now)).node, node(3));
    let int8 = Query { numerics: Numerics::Int8, ..query("m") };
    assert_eq!(router.route(&mut view, &int8, now), Err(NoRoute::Numerics));
}

#[test]
fn every_dead_end_has_its_name() {
    let (now, mut router) = (origin(), Router::new(9));
    assert_eq!(router.route(&mut View::default(), &query("m"), now), Err(NoRoute::NoNode));
    let mut two = view(&[READY, STORED], now);
    assert_eq!(router.route(&mut two, &query("other"), now), Err(NoRoute::UnknownModel));
    let both = [node(0), node(1)];
    let tried = Query { excluded: &both, ..query("m") };
    assert_eq!(router.route(&mut two, &tried, now), Err(NoRoute::Excluded));
    two.handle_draining(node(0));
    two.handle_draining(node(1));
    assert_eq!(router.route(&mut two, &query("m"), now), Err(NoRoute::AllDraining));
    let mut suspects = view(&[READY], now);
    suspects.handle_member(life(0, 1), MemberState::Suspect, now);
    assert_eq!(router.route(&mut suspects, &query("m"), now), Err(NoRoute::NoneAlive));
    let mut small = View::default();
    let mut record = facts(0, vec![model("m", STORED)]);
    record.devices[0].budget_bytes = Bytes(1 << 20);
    small.handle_facts(&record, now);
    let fits = NoRoute::FitsNowhere { bytes: 50 << 20, budget_bytes: 1 << 20 };
    assert_eq!(router.route(&mut small, &query("m"), now), Err(fits.clone()));
    assert!(!fits.is_passing() && NoRoute::AllDraining.is_passing());
}

#[test]
fn the_entry_node_is_asked_what_no_facts_say() {
    let (now, mut router) = (origin(), Router::new(10));
    let mut view = View::of_entry(node(0));
    let choice = chosen(router.route(&mut view, &query("m"), now));
    assert_eq!((choice.node, choice.place(), choice.model), (node(0), None, None));
    let excluded = [node(0)];
    let tried = Query { excluded: &excluded, ..query("m") };
    assert_eq!(router.route(&mut view, &tried, now), Err(NoRoute::NoNode));
    view.handle_facts(&facts(1, vec![model("m", READY)]), now);
    assert_eq!(chosen(router.route(&mut view, &query("m"), now)).node, node(1));
    assert_eq!(chosen(router.route(&mut view, &query("new"), now)).node, node(0), "it may know more");
}

#[test]
fn replies_that_nobody_waits_for_change_nothing() {
    let (now, mut router) = (origin(), Router::new(11));
    let mut view = view(&[READY; 2], now);
    let waiting = waits(router.route(&mut view, &query("m"), now));
    let until = waiting.until;
    let probes: Vec<_> = std::iter::from_fn(|| router.poll_probe()).collect();
    router.handle_reply(&mut view, node(7), &reply(&probes[0], 0, READY), now);
    router.handle_timeout(until);
    router.handle_reply(&mut view, probes[1].to, &reply(&probes[1], 0, READY), until);
    let late = Query { waits: Some(waiting), ..query("m") };
    assert_eq!(chosen(router.route(&mut view, &late, until)).decision.reason, Reason::TwoChoices);
}

#[test]
fn a_restarted_node_is_not_chosen_on_its_former_answer() {
    let (now, mut router) = (origin(), Router::new(12));
    let mut view = view(&[READY; 3], now);
    waits(router.route(&mut view, &query("m"), now));
    answer(&mut router, &mut view, &BTreeMap::new(), now);
    for number in 0..3 {
        let reborn = NodeFacts { generation: 2, ..facts(number, vec![model("m", READY)]) };
        view.handle_facts(&reborn, now);
    }
    waits(router.route(&mut view, &query("m"), now));
}

#[test]
fn probes_are_bounded_and_without_room_gossip_decides() {
    let (now, mut router) = (origin(), Router::new(13));
    let mut view = View::default();
    let names: Vec<_> = (0..400).map(|name| name.to_string()).collect();
    for number in 0..4 {
        let models = names.iter().map(|name| model(name, READY)).collect();
        view.handle_facts(&facts(number, models), now);
    }
    let routes: Vec<_> = names.iter().map(|name| router.route(&mut view, &query(name), now)).collect();
    assert!(matches!(routes[0], Ok(Route::Wait(_))));
    assert!(std::iter::from_fn(|| router.poll_probe()).count() <= OUTBOX_MAX);
    for name in &names {
        for _ in 0..4 {
            assert!(router.route(&mut view, &query(name), now).is_ok());
        }
    }
}
