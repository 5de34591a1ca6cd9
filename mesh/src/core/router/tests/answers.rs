//! Which holders are asked, how long their answers are waited for, and what they say.

use std::time::Duration;

use shoal_protocol::message::LoadRecord;

use super::*;
use crate::core::fleet::{load, node, origin};
use crate::core::router::rounds::{PROBES_LONG, PROBES_UNKNOWN, TOKENS_LONG};

#[test]
fn all_that_were_asked_are_waited_for_and_the_cheapest_is_chosen() {
    let (now, mut router) = (origin(), Router::new(3));
    let mut view = view(&[READY; 8], now);
    let long = Query { tokens: TOKENS_LONG, ..query("m") };
    let asked = waits(router.route(&mut view, &long, now));
    let waiting = Query { waits: Some(asked), ..long };
    let probes: Vec<_> = std::iter::from_fn(|| router.poll_probe()).collect();
    assert_eq!(probes.len(), PROBES_LONG);
    for (nth, probe) in probes.iter().enumerate() {
        assert_eq!(waits(router.route(&mut view, &waiting, now)), asked, "{nth} answers are not all");
        // The last one is the least busy, by its wait and not by its requests.
        let mut reply = reply(probe, 10 * (PROBES_LONG - 1 - nth) as u64, READY);
        reply.load.requests = nth as u32;
        router.handle_reply(&mut view, probe.to, &reply, now);
    }
    let choice = chosen(router.route(&mut view, &waiting, now));
    assert_eq!((choice.node, choice.decision.reason), (probes[PROBES_LONG - 1].to, Reason::Cheapest));
    waits(router.route(&mut view, &long, now)); // the next long one asks anew
    chosen(router.route(&mut view, &query("m"), now)); // a short one does not
}

#[test]
fn an_answer_that_does_not_come_is_waited_for_until_its_time() {
    let (now, mut router) = (origin(), Router::new(3));
    let mut view = view(&[READY; 2], now);
    let asked = waits(router.route(&mut view, &query("m"), now));
    let waiting = Query { waits: Some(asked), ..query("m") };
    let probe = router.poll_probe().expect("two were asked");
    router.handle_reply(&mut view, probe.to, &reply(&probe, 500, READY), now);
    waits(router.route(&mut view, &waiting, now));
    assert_eq!(chosen(router.route(&mut view, &waiting, asked.until)).node, probe.to);
}

#[test]
fn gossip_spares_probes() {
    let now = origin();
    let asked = |at| {
        let (mut router, mut view) = (Router::new(3), view(&[READY; 8], now));
        waits(router.route(&mut view, &query("m"), at));
        std::iter::from_fn(|| router.poll_probe()).count()
    };
    assert_eq!(asked(now), PROBES_KNOWN);
    assert_eq!(asked(now + Duration::from_secs(2)), PROBES_UNKNOWN);
}

#[test]
fn a_busy_device_gives_a_text_one_lane() {
    let now = origin();
    let mut view = view(&[READY; 2], now);
    view.handle_load(node(0), &LoadRecord { running: 4, ..load(2, 0) }, now);
    let (mut router, long) = (Router::new(3), Query { tokens: TOKENS_LONG, ..query("m") });
    let asked = waits(router.route(&mut view, &long, now));
    let running = |number| if number == node(0) { 4 } else { 0 };
    while let Some(probe) = router.poll_probe() {
        let mut reply = reply(&probe, 0, READY);
        reply.load.running = running(probe.to);
        router.handle_reply(&mut view, probe.to, &reply, now);
    }
    let choice = chosen(router.route(&mut view, &Query { waits: Some(asked), ..long }, now));
    let [idle, busy] = &choice.decision.candidates[..] else { panic!("{choice:?}") };
    assert_eq!(choice.node, node(1));
    assert_eq!(busy.estimate.exec_us, 4 * idle.estimate.exec_us);
    // Of eight texts all four lanes run some at once.
    let holders = view.model("m").expect("known").holders;
    let holding = holders.iter().find(|holding| view.node(holding.slot).id == node(0)).expect("it holds");
    let batch = Offer::known(&view, holding, &Query { texts: 8, ..long }, now);
    assert_eq!(busy.estimate.exec_us, 4 * batch.estimate.exec_us);
}
