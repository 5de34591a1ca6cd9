//! Nodes that do not answer: who is sent there, and how they come back.

use std::time::Duration;

use super::*;

/// The time between two requests of a client: a silent node is asked with each.
const GAP: Duration = Duration::from_millis(60);

/// One request, with all probes answered but those to `silent`. Gives the choice, and who was asked.
fn request(
    router: &mut Router,
    view: &mut View,
    silent: Option<NodeId>,
    now: Instant,
) -> (Choice, Vec<NodeId>) {
    let mut asked = Vec::new();
    let mut waits = None;
    loop {
        let routed = router.route(view, &Query { waits, ..query("m") }, now).expect("a place");
        while let Some(probe) = router.poll_probe() {
            view.handle_probe(probe.to, now);
            asked.push(probe.to);
            if silent != Some(probe.to) {
                router.handle_reply(view, probe.to, &reply(&probe, 0, READY), now);
            }
        }
        match routed {
            Route::To(choice) => return (choice, asked),
            Route::Wait(waiting) => {
                router.handle_timeout(waiting.until);
                waits = Some(Waiting { until: now, ..waiting });
            }
        }
    }
}

/// Two holders and an owner that would load next; an attempt at the first was given up because its twin was sooner.
fn given_up(seed: u64, now: Instant) -> (Router, View) {
    let mut view = view(&[READY, READY, ModelState::Stored], now);
    view.handle_attempt(node(0), now);
    (Router::new(seed), view)
}

#[test]
fn a_silent_node_is_passed_over_and_asked_until_it_speaks() {
    for seed in 0..20 {
        let start = origin();
        let (mut router, mut view) = given_up(seed, start);
        let mut now = start;
        for _ in 0..3 {
            now += GAP;
            let (choice, asked) = request(&mut router, &mut view, Some(node(0)), now);
            assert_eq!(choice.node, node(1), "who answers is chosen");
            assert!(asked.contains(&node(0)), "{asked:?}");
        }
        assert_eq!(view.find(node(0)).expect("known").standing(now), Standing::Quiet);
        // Nobody else answers in time either: two would be drawn at random, were the first not quiet.
        let waits = Some(Waiting { until: now, rounds: super::super::rounds::ROUNDS_MAX });
        let blind = Query { waits, ..query("m") };
        now += GAP;
        assert_eq!(chosen(router.route(&mut view, &blind, now)).node, node(1));
        assert_eq!(router.hedge(&view, &query("m"), now).map(|choice| choice.node), Some(node(1)));
        let (_, asked) = request(&mut router, &mut view, None, now);
        assert!(asked.contains(&node(0)));
        assert_eq!(view.find(node(0)).expect("known").standing(now), Standing::Good);
    }
}

#[test]
fn a_quiet_node_that_alone_has_the_model_gets_it_and_a_doubted_one_does_not() {
    let start = origin();
    let (mut router, mut view) = given_up(1, start);
    let mut now = start;
    for _ in 0..4 {
        now += GAP;
        request(&mut router, &mut view, Some(node(0)), now);
    }
    view.handle_member(life(1, 1), MemberState::Down, now);
    assert_eq!(request(&mut router, &mut view, Some(node(0)), now).0.node, node(0));
    let long = start + Duration::from_secs(1);
    let (choice, asked) = request(&mut router, &mut view, Some(node(0)), long);
    assert_eq!((choice.node, choice.decision.reason), (node(2), Reason::Owner));
    assert!(asked.contains(&node(0)), "it is still asked");
    let excluded = [node(2)];
    let query = Query { excluded: &excluded, ..query("m") };
    assert_eq!(chosen(router.route(&mut view, &query, long)).node, node(0), "no other can");
}
