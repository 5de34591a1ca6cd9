//! One scenario for each rule of the attempts over several nodes.

use shoal_protocol::limits::REDIRECTS_MAX;
use shoal_protocol::message::{Alternative, EncodeOptions, ModelState};
use shoal_protocol::{Bytes, Place};

use super::*;
use crate::core::fleet::{facts, life, load, model, node};
use crate::core::{Decision, MemberState, NoRoute, Reason, Submit};

/// A client that knows nodes 0.. which have `m` in these states.
pub(super) fn client(states: &[ModelState]) -> (ClientCore, Instant) {
    let (mut core, now) = (ClientCore::new(View::default(), 7), origin());
    for (number, state) in (0..).zip(states) {
        core.handle_facts(&facts(number, vec![model("m", *state)]), now);
        core.handle_load(node(number), &load(1, 0), now);
    }
    (core, now)
}

pub(super) fn spec(now: Instant) -> CallSpec {
    CallSpec {
        request_id: RequestId::new(1),
        model: "m".to_owned(),
        task: Task::default(),
        priority: Priority::Interactive,
        deadline: Some(now + Duration::from_secs(30)),
        when_overloaded: WhenOverloaded::Wait,
        seed: 1,
        trace: None,
    }
}

/// A call of some texts, ready to be sent.
pub(super) fn start(core: &mut ClientCore, spec: CallSpec, now: Instant) -> CallId {
    let call = core.start_call(spec, now);
    (0..4).for_each(|number| core.handle_input(call, Input::Text(format!("{number} x"))));
    core.handle_input_end(call);
    call
}

/// The next attempt, after unanswered probes where there are any.
pub(super) fn submit(core: &mut ClientCore, call: CallId, now: &mut Instant) -> Submit {
    for _ in 0..3 {
        if let Some(submit) = core.poll_submit(call, *now) {
            return submit;
        }
        let (at, _) = core.poll_timeout(call).expect("something is waited for");
        *now = at;
        core.handle_timeout(call, at);
    }
    panic!("nothing is sent: {:?}", core.poll_outcome(call));
}

pub(super) fn refuse(core: &mut ClientCore, call: CallId, key: AttemptKey, failure: Failure, now: Instant) {
    core.handle_frame(call, key, Message::Failure(failure), now);
}

fn answer(core: &mut ClientCore, call: CallId, submit: &Submit, now: Instant) {
    let rows: Vec<u32> = (0..submit.request.items.len() as u32).collect();
    core.handle_frame(call, submit.key, Message::TaskResult(result(&submit.request, &rows)), now);
    core.handle_frame(call, submit.key, end(&submit.request), now);
}

fn outcome(core: &mut ClientCore, call: CallId) -> Result<(), ClientError> {
    while core.poll_item(call).is_some() {}
    core.poll_outcome(call).expect("over").map(drop).map_err(Clone::clone)
}

pub(super) fn hint(code: ErrorCode) -> Failure {
    Failure { retry_after_us: Some(Micros(50_000)), ..Failure::new(code, "told".to_owned()) }
}

pub(super) const READY: ModelState = ModelState::Ready;
const STORED: ModelState = ModelState::Stored;

#[test]
fn an_attempt_names_its_place_and_carries_its_reasons() {
    let (mut core, mut now) = client(&[READY, STORED]);
    let call = start(&mut core, spec(now), now);
    let sent = submit(&mut core, call, &mut now);
    assert_eq!(sent.request.to, Some(Place { node: node(0), device: DeviceIndex(0) }));
    assert_eq!((sent.to.next_hop(), sent.request.redirects), (node(0), 0));
    let decision = Decision::decode(&sent.request.decision).expect("a record");
    assert_eq!((decision.reason, decision.candidates[0].place.node), (Reason::Only, node(0)));
    answer(&mut core, call, &sent, now);
    assert_eq!(outcome(&mut core, call), Ok(()));
    core.end_call(call);
    assert_eq!((core.calls().count(), core.poll_submit(call, now).is_none()), (0, true));
}

#[test]
fn who_has_no_room_is_left_for_another_at_once_and_waited_for_when_all_are_full() {
    for code in [ErrorCode::Overloaded, ErrorCode::Loading] {
        let (mut core, mut now) = client(&[READY, READY]);
        let call = start(&mut core, spec(now), now);
        let first = submit(&mut core, call, &mut now);
        refuse(&mut core, call, first.key, hint(code), now);
        let second = submit(&mut core, call, &mut now);
        assert_ne!(second.to.node, first.to.node);
        refuse(&mut core, call, second.key, hint(code), now);
        assert!(core.poll_submit(call, now).is_none(), "both were asked");
        let (at, _) = core.poll_timeout(call).expect("the hint");
        assert!(at >= now + Duration::from_millis(50) && at < now + Duration::from_millis(100));
        now = at;
        let third = submit(&mut core, call, &mut now);
        answer(&mut core, call, &third, now);
        assert_eq!(outcome(&mut core, call), Ok(()));
    }
}

#[test]
fn a_caller_that_does_not_wait_is_told_after_all_nodes_were_asked() {
    // To who called, nodes that name each other are full.
    for code in [ErrorCode::Overloaded, ErrorCode::Redirect] {
        let (mut core, mut now) = client(&[READY, READY]);
        let spec = CallSpec { when_overloaded: WhenOverloaded::Fail, ..spec(now) };
        let call = start(&mut core, spec, now);
        for _ in 0..2 {
            let sent = submit(&mut core, call, &mut now);
            let named = |number| Alternative { node: node(number), load: load(1, 0) };
            let failure = Failure { alternatives: vec![named(0), named(1)], ..hint(code) };
            refuse(&mut core, call, sent.key, failure, now);
        }
        let error = outcome(&mut core, call).expect_err("full everywhere");
        let told = (error.code(), error.retry_after());
        assert_eq!(told, (ErrorCode::Overloaded, Some(Duration::from_millis(50))));
    }
}

#[test]
fn redirects_are_followed_twice_and_then_the_part_is_queued() {
    let (mut core, mut now) = client(&[READY; 4]);
    let call = start(&mut core, spec(now), now);
    let mut sent = submit(&mut core, call, &mut now);
    let mut seen = vec![sent.to.node];
    for hop in 1..=REDIRECTS_MAX {
        let others = (0..4).map(node).filter(|node| !seen.contains(node));
        let named = |(wait_ms, node)| Alternative { node, load: load(9, wait_ms) };
        let mut alternatives: Vec<_> = (1..).zip(others).map(named).collect();
        let best = alternatives[0].node;
        alternatives.insert(0, Alternative { node: node(99), load: load(1, 0) });
        let failure = Failure { alternatives, ..Failure::new(ErrorCode::Redirect, String::new()) };
        refuse(&mut core, call, sent.key, failure, now);
        sent = submit(&mut core, call, &mut now);
        assert_eq!((sent.to.node, sent.request.redirects), (best, hop), "the first that is known");
        seen.push(best);
    }
    let alternatives = vec![Alternative { node: node(0), load: load(1, 0) }];
    let failure = Failure { alternatives, ..Failure::new(ErrorCode::Redirect, String::new()) };
    refuse(&mut core, call, sent.key, failure, now);
    let last = submit(&mut core, call, &mut now);
    assert!(last.request.redirects == REDIRECTS_MAX && !seen.contains(&last.to.node), "as any refusal");
}

#[test]
fn a_death_sends_the_unfinished_items_elsewhere_at_once() {
    let (mut core, mut now) = client(&[READY, READY]);
    let call = start(&mut core, spec(now), now);
    let first = submit(&mut core, call, &mut now);
    core.handle_frame(call, first.key, Message::TaskResult(result(&first.request, &[1, 3])), now);
    let number = u64::from(first.to.node == node(1));
    assert!(core.handle_member(life(number, 1), MemberState::Down, now));
    assert_eq!(core.poll_cancel(call).map(|(key, _)| key), Some(first.key));
    let second = submit(&mut core, call, &mut now);
    assert_eq!((second.request.items.len(), second.to.node), (2, node(1 - number)));
    core.handle_frame(call, first.key, Message::TaskResult(result(&first.request, &[0, 2])), now);
    assert_eq!(core.items(call).0, 2, "a late frame of the dead");
    answer(&mut core, call, &second, now);
    assert_eq!(outcome(&mut core, call), Ok(()));
}

#[test]
fn any_number_of_deaths_is_survived_while_a_node_lives() {
    const NODES: u64 = 40;
    let (mut core, mut now) = client(&[READY; NODES as usize]);
    let call = start(&mut core, spec(now), now);
    let mut dead = BTreeSet::new();
    let last = loop {
        let sent = submit(&mut core, call, &mut now);
        if dead.len() + 1 == NODES as usize && !dead.contains(&sent.to.node) {
            break sent;
        }
        dead.insert(sent.to.node);
        match sent.key.attempt % 3 {
            0 => core.handle_failed(call, sent.key, AttemptFailure::Lost("reset".to_owned()), now),
            1 => refuse(&mut core, call, sent.key, Failure::new(ErrorCode::Unavailable, String::new()), now),
            _ => {
                let number = (0..NODES).find(|number| node(*number) == sent.to.node).expect("one of them");
                assert!(core.handle_member(life(number, 1), MemberState::Down, now));
            }
        }
    };
    answer(&mut core, call, &last, now);
    assert_eq!(outcome(&mut core, call), Ok(()));
}

#[test]
fn a_text_that_kills_whoever_reads_it_is_given_up() {
    for nodes in [1, 200] {
        let (mut core, mut now) = client(&vec![READY; nodes]);
        let (mut attempts, begin) = (0, now);
        let call = start(&mut core, CallSpec { deadline: None, ..spec(now) }, now);
        while core.poll_outcome(call).is_none() {
            let sent = submit(&mut core, call, &mut now);
            attempts += 1;
            now += Duration::from_millis(5);
            core.handle_failed(call, sent.key, AttemptFailure::Lost("reset".to_owned()), now);
        }
        assert!(matches!(outcome(&mut core, call), Err(ClientError::Lost { .. })));
        assert!(attempts <= 64 && now - begin < Duration::from_secs(70), "{attempts} in {:?}", now - begin);
    }
}

#[test]
fn refusals_and_broken_answers_spend_a_budget_that_deaths_leave_alone() {
    let (mut core, mut now) = client(&[READY; 8]);
    let mut broken = 0;
    for _ in 0..100 {
        let call = start(&mut core, spec(now), now);
        let first = submit(&mut core, call, &mut now);
        core.handle_failed(call, first.key, AttemptFailure::Lost("reset".to_owned()), now);
        let second = submit(&mut core, call, &mut now);
        core.handle_frame(call, second.key, end(&second.request), now);
        broken += u64::from(core.poll_outcome(call).is_none());
        core.end_call(call);
    }
    assert_eq!(broken, 10 + 99 * 15 / 100, "what was saved, and what first attempts earn beside it");
}

#[test]
fn a_silent_node_gets_nothing_more_from_any_call() {
    let (mut core, mut now) = client(&[READY, READY]);
    let call = start(&mut core, spec(now), now);
    let first = submit(&mut core, call, &mut now);
    core.handle_frame(call, first.key, beacon(), now);
    now += Duration::from_millis(750);
    core.handle_timeout(call, now);
    assert_eq!(core.poll_cancel(call), Some((first.key, crate::core::CancelReason::Silent)));
    for call in [call, start(&mut core, spec(now), now), start(&mut core, spec(now), now)] {
        assert_ne!(submit(&mut core, call, &mut now).to.node, first.to.node);
    }
}

#[test]
fn a_model_that_fails_to_load_is_tried_elsewhere_a_few_times() {
    let (mut core, mut now) = client(&[STORED; 6]);
    let call = start(&mut core, spec(now), now);
    let mut tried = BTreeSet::new();
    while core.poll_outcome(call).is_none() {
        let sent = submit(&mut core, call, &mut now);
        assert!(tried.insert(sent.to.node), "once on each");
        let failure = Failure::new(ErrorCode::ModelBroken, "weights: cut".to_owned());
        refuse(&mut core, call, sent.key, failure, now);
    }
    assert_eq!(tried.len(), 3);
    let cause = "weights: cut".to_owned();
    assert_eq!(outcome(&mut core, call), Err(ClientError::NeverLoads { nodes: 3, cause }));
}

#[test]
fn who_has_not_heard_of_a_failed_load_is_asked_again() {
    let (mut core, mut now) = client(&[STORED; 3]);
    let call = start(&mut core, spec(now), now);
    let owner = submit(&mut core, call, &mut now);
    refuse(&mut core, call, owner.key, Failure::new(ErrorCode::ModelBroken, String::new()), now);
    let next = submit(&mut core, call, &mut now);
    let alternatives = vec![Alternative { node: owner.to.node, load: load(1, 0) }];
    let back = Failure { alternatives, ..Failure::new(ErrorCode::Redirect, String::new()) };
    refuse(&mut core, call, next.key, back, now);
    let again = submit(&mut core, call, &mut now);
    assert_eq!((again.to.node, again.request.redirects), (next.to.node, REDIRECTS_MAX), "it loads");
}

#[test]
fn dead_ends_are_told_at_once_and_passing_ones_are_waited_for() {
    let (mut core, now) = client(&[READY]);
    let told = |core: &mut ClientCore, spec: CallSpec| {
        let call = start(core, spec, now);
        assert!(core.poll_submit(call, now).is_none());
        outcome(core, call).expect_err("no device")
    };
    let unknown = told(&mut core, CallSpec { model: "other".to_owned(), ..spec(now) });
    assert_eq!(unknown, ClientError::NoRoute { model: "other".to_owned(), why: NoRoute::UnknownModel });
    assert_eq!(unknown.code(), ErrorCode::ModelNotFound);
    let options = EncodeOptions { numerics: Numerics::Int8, ..EncodeOptions::default() };
    let class = told(&mut core, CallSpec { task: options.into(), ..spec(now) });
    assert_eq!(class.code(), ErrorCode::ModelUnsupported);
    let mut large = facts(5, vec![model("large", STORED)]);
    large.models[0].bytes = Bytes(1 << 40);
    core.handle_facts(&large, now);
    let large = told(&mut core, CallSpec { model: "large".to_owned(), ..spec(now) });
    assert!(matches!(large, ClientError::NoRoute { why: NoRoute::FitsNowhere { .. }, .. }), "{large}");

    let (mut core, mut now) = (ClientCore::new(View::default(), 1), origin());
    let call = start(&mut core, spec(now), now);
    assert!(core.poll_submit(call, now).is_none() && core.poll_outcome(call).is_none(), "one may come");
    core.handle_facts(&facts(0, vec![model("m", READY)]), now);
    assert_eq!(submit(&mut core, call, &mut now).to.node, node(0));
    let impatient = CallSpec { when_overloaded: WhenOverloaded::Fail, ..spec(now) };
    core.handle_member(life(0, 1), MemberState::Down, now);
    let call = start(&mut core, impatient, now);
    assert!(core.poll_submit(call, now).is_none());
    let error = outcome(&mut core, call).expect_err("nobody is there");
    assert_eq!(error, ClientError::NoRoute { model: "m".to_owned(), why: NoRoute::NoNode });
}

#[test]
fn a_call_without_a_node_gives_up_in_time() {
    let mut core = ClientCore::new(View::default(), 1);
    let begin = origin();
    let mut now = begin;
    let call = start(&mut core, CallSpec { deadline: None, ..spec(now) }, now);
    while core.poll_submit(call, now).is_none() && core.poll_outcome(call).is_none() {
        now = core.poll_timeout(call).expect("a pause").0;
        core.handle_timeout(call, now);
    }
    assert!((7..=11).contains(&(now - begin).as_secs()), "{:?}", now - begin);
    assert!(matches!(outcome(&mut core, call), Err(ClientError::NoRoute { why: NoRoute::NoNode, .. })));
}

#[test]
fn a_node_without_a_path_is_reached_through_the_entry() {
    let (mut core, mut now) = (ClientCore::new(View::of_entry(node(9)), 1), origin());
    core.handle_facts(&facts(0, vec![model("m", READY)]), now);
    let call = start(&mut core, spec(now), now);
    let direct = submit(&mut core, call, &mut now);
    assert_eq!((direct.to.node, direct.to.via), (node(0), None));
    core.handle_failed(call, direct.key, AttemptFailure::Unreachable("NAT".into()), now);
    let through = submit(&mut core, call, &mut now);
    assert_eq!((through.to.node, through.to.next_hop()), (node(0), node(9)));
    let next = start(&mut core, spec(now), now);
    assert_eq!(submit(&mut core, next, &mut now).to.via, Some(node(9)), "known from now on");
}

/// A client that has learnt when an attempt is late, and may hedge once.
fn experienced(core: &mut ClientCore, now: &mut Instant) {
    for _ in 0..30 {
        let call = start(core, spec(*now), *now);
        let sent = submit(core, call, now);
        *now += Duration::from_millis(2);
        answer(core, call, &sent, *now);
        core.end_call(call);
    }
}

#[test]
fn a_late_attempt_gets_a_twin_and_the_first_word_decides() {
    for winner in 0..2 {
        let (mut core, mut now) = client(&[READY, READY]);
        experienced(&mut core, &mut now);
        let call = start(&mut core, spec(now), now);
        let first = submit(&mut core, call, &mut now);
        let (at, why) = core.poll_timeout(call).expect("late");
        assert!(why == "hedge" && at < now + Duration::from_millis(5), "{why}");
        now = at;
        core.handle_timeout(call, now);
        let twin = core.poll_submit(call, now).expect("one is saved up");
        assert_ne!(twin.to.node, first.to.node);
        assert_eq!(Decision::decode(&twin.request.decision).expect("a record").reason, Reason::Hedge);
        assert!(core.poll_submit(call, now).is_none(), "two are enough");
        let (wins, loses) = if winner == 0 { (&first, &twin) } else { (&twin, &first) };
        core.handle_frame(call, wins.key, beacon(), now);
        assert_eq!(core.poll_cancel(call).map(|(key, _)| key), Some(loses.key));
        answer(&mut core, call, loses, now);
        assert_eq!(core.items(call).0, 0, "who lost is not heard");
        answer(&mut core, call, wins, now);
        while core.poll_item(call).is_some() {}
        let summary = core.poll_outcome(call).expect("over").expect("answered");
        assert_eq!((summary.hedges, summary.retries), (1, 0));
    }
}

#[test]
fn a_twin_that_fails_leaves_the_other_and_costs_no_retry() {
    let (mut core, mut now) = client(&[READY, READY]);
    experienced(&mut core, &mut now);
    let call = start(&mut core, spec(now), now);
    let first = submit(&mut core, call, &mut now);
    now = core.poll_timeout(call).expect("late").0;
    let twin = core.poll_submit(call, now).expect("one is saved up");
    refuse(&mut core, call, first.key, hint(ErrorCode::Overloaded), now);
    assert!(core.poll_submit(call, now).is_none(), "the twin is out");
    answer(&mut core, call, &twin, now);
    assert_eq!(outcome(&mut core, call), Ok(()));
}

#[test]
fn nothing_is_hedged_late_in_the_deadline_or_in_bulk() {
    for bulk in [false, true] {
        let (mut core, mut now) = client(&[READY, READY]);
        experienced(&mut core, &mut now);
        // 20 ms of it go by while the first probes are waited for.
        let tight = CallSpec { deadline: Some(now + Duration::from_millis(24)), ..spec(now) };
        let patient = CallSpec { priority: Priority::Bulk, deadline: None, ..spec(now) };
        let call = start(&mut core, if bulk { patient } else { tight }, now);
        submit(&mut core, call, &mut now);
        assert_ne!(core.poll_timeout(call).map(|(_, why)| why), Some("hedge"));
    }
}
