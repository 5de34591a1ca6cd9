//! When a further round of probes goes out.

use std::time::Duration;

use super::*;
use crate::core::fleet::{node, origin};
use crate::core::router::rounds::ROUNDS_MAX;

/// Routes a request among ten holders, each of which answers with this wait, until it is sent; whom each round asked.
fn rounds_of(wait_ms: u64) -> Vec<Vec<NodeId>> {
    let (now, mut router) = (origin(), Router::new(3));
    let mut view = view(&[READY; 10], now);
    let busy = (0..10).map(|number| (node(number), wait_ms)).collect();
    let (mut rounds, mut query) = (Vec::new(), query("m"));
    while let Ok(Route::Wait(waiting)) = router.route(&mut view, &query, now) {
        query.waits = Some(waiting);
        rounds.push(answer(&mut router, &mut view, &busy, now));
        assert_eq!(usize::from(waiting.rounds), rounds.len());
    }
    rounds
}

#[test]
fn who_finds_an_idle_device_asks_nobody_else() {
    assert_eq!(rounds_of(0).len(), 1);
}

#[test]
fn where_all_that_were_asked_are_busy_others_are_asked_once_more() {
    let rounds = rounds_of(100);
    assert_eq!(rounds.len(), usize::from(ROUNDS_MAX));
    let mut asked = rounds.concat();
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), 2 * PROBES_KNOWN, "nobody twice: {rounds:?}");
}

#[test]
fn the_answers_of_both_rounds_are_compared() {
    let (now, mut router) = (origin(), Router::new(3));
    let mut view = view(&[READY; 4], now);
    let first = waits(router.route(&mut view, &query("m"), now));
    let mut least = BTreeMap::from_iter((0..4).map(|number| (node(number), 40)));
    let asked: Vec<_> = std::iter::from_fn(|| router.poll_probe()).collect();
    for (probe, wait_ms) in asked.iter().zip([20, 30]) {
        least.insert(probe.to, wait_ms);
        router.handle_reply(&mut view, probe.to, &reply(probe, wait_ms, READY), now);
    }
    let again = Query { waits: Some(first), ..query("m") };
    let second = waits(router.route(&mut view, &again, now));
    answer(&mut router, &mut view, &least, now);
    let choice = chosen(router.route(&mut view, &Query { waits: Some(second), ..again }, now));
    assert_eq!((choice.node, choice.decision.candidates.len()), (asked[0].to, 4));
}

#[test]
fn who_did_not_answer_is_not_asked_again() {
    let (now, mut router) = (origin(), Router::new(3));
    let mut view = view(&[READY; 2], now);
    let first = waits(router.route(&mut view, &query("m"), now));
    let answers = router.poll_probe().expect("two were asked");
    router.handle_reply(&mut view, answers.to, &reply(&answers, 500, READY), now);
    let late = Query { waits: Some(first), ..query("m") };
    let at = first.until + Duration::from_millis(1);
    assert_eq!(chosen(router.route(&mut view, &late, at)).node, answers.to);
}
