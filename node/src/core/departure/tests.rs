use shoal_protocol::{DeviceIndex, NodeId};

use super::super::testing::origin;
use super::*;

const S: Duration = Duration::from_secs(1);

fn place(number: u8) -> Place {
    Place { node: NodeId([number; 16]), device: DeviceIndex(0) }
}

fn copy(model: &str, requests: u64, elsewhere: Elsewhere) -> Copy {
    Copy { model: model.to_owned(), requests, elsewhere }
}

fn steps(departure: &mut Departure, now: Instant) -> Vec<Step> {
    std::iter::from_fn(|| departure.poll_step(now)).collect()
}

fn hand_over(model: &str, to: u8) -> Step {
    Step::HandOver { model: model.to_owned(), to: place(to) }
}

fn give_back(model: &str) -> Step {
    Step::GiveBack { model: model.to_owned() }
}

#[test]
fn a_node_alone_announces_finishes_and_leaves() {
    let now = origin();
    let mut departure = Departure::new(now + 20 * S, now);
    departure.handle_copies(vec![copy("a", 1, Elsewhere::Nowhere)]);
    assert_eq!(steps(&mut departure, now), [Step::Announce, Step::Finish { by: now + 20 * S }]);
    departure.handle_finished();
    assert_eq!(steps(&mut departure, now + S), [Step::Leave]);
    assert_eq!((steps(&mut departure, now + 2 * S), departure.poll_timeout(now)), (Vec::new(), None));
}

#[test]
fn sole_copies_are_handed_over_before_it_leaves() {
    let now = origin();
    let mut departure = Departure::new(now + 20 * S, now);
    let copies = |cold, shared| vec![copy("cold", 1, cold), copy("shared", 9, shared)];
    departure.handle_copies(copies(Elsewhere::Stored(place(2)), Elsewhere::Ready));
    let first = steps(&mut departure, now);
    assert_eq!(
        first,
        [Step::Announce, Step::Finish { by: now + 20 * S }, give_back("shared"), hand_over("cold", 2),]
    );
    departure.handle_finished();
    assert_eq!(steps(&mut departure, now + S), [], "the new owner has not begun");
    departure.handle_copies(copies(Elsewhere::Loading, Elsewhere::Ready));
    assert_eq!(steps(&mut departure, now + 3 * S), [], "it loads");
    departure.handle_copies(copies(Elsewhere::Ready, Elsewhere::Ready));
    assert_eq!(steps(&mut departure, now + 4 * S), [give_back("cold"), Step::Leave]);
}

#[test]
fn an_owner_that_does_not_hear_is_asked_again_and_one_that_dies_is_replaced() {
    let now = origin();
    let mut departure = Departure::new(now + 20 * S, now);
    departure.handle_copies(vec![copy("a", 1, Elsewhere::Stored(place(2)))]);
    assert_eq!(steps(&mut departure, now).last(), Some(&hand_over("a", 2)));
    assert_eq!(departure.poll_timeout(now), Some((now + 2 * S, "ask for a load again")));
    assert_eq!(steps(&mut departure, now + 2 * S), [hand_over("a", 2)]);
    departure.handle_copies(vec![copy("a", 1, Elsewhere::Stored(place(3)))]);
    assert_eq!(steps(&mut departure, now + 3 * S), [hand_over("a", 3)]);
}

#[test]
fn it_waits_for_new_owners_half_of_its_time_and_for_its_own_work_all_of_it() {
    let now = origin();
    let stored = || vec![copy("a", 1, Elsewhere::Stored(place(2)))];
    let mut departure = Departure::new(now + 20 * S, now);
    departure.handle_copies(stored());
    departure.handle_finished();
    steps(&mut departure, now);
    departure.handle_copies(vec![copy("a", 1, Elsewhere::Loading)]);
    assert!(!steps(&mut departure, now + 9 * S).contains(&Step::Leave));
    assert_eq!(steps(&mut departure, now + 10 * S), [Step::Leave]);

    let mut busy = Departure::new(now + 20 * S, now);
    busy.handle_copies(stored());
    assert!(!steps(&mut busy, now + 19 * S).contains(&Step::Leave), "its own work is not done");
    assert_eq!(busy.poll_timeout(now + 19 * S), Some((now + 20 * S, "leave, whatever is left")));
    assert_eq!(steps(&mut busy, now + 20 * S), [Step::Leave]);

    // A second notice shortens the time and never lengthens it.
    let mut noticed = Departure::new(now + 20 * S, now);
    steps(&mut noticed, now);
    noticed.handle_notice(now + 60 * S, now);
    noticed.handle_notice(now + 2 * S, now);
    assert_eq!(steps(&mut noticed, now + 2 * S), [Step::Leave]);
}

/// The models that these steps hand over.
fn handed_over(steps: Vec<Step>) -> Vec<String> {
    let model = |step| match step {
        Step::HandOver { model, .. } => Some(model),
        _ => None,
    };
    steps.into_iter().filter_map(model).collect()
}

#[test]
fn the_most_used_are_handed_over_first_one_at_a_time_to_each_node() {
    let now = origin();
    let mut departure = Departure::new(now + 20 * S, now);
    let name = |number: u64| format!("m{number:02}");
    let owner = |number: u64| place(2 + (number % 2) as u8);
    // Those from this number on are held elsewhere.
    let copies = |from: u64| -> Vec<Copy> {
        let state = |number| if number < from { Elsewhere::Stored(owner(number)) } else { Elsewhere::Ready };
        (0..40).map(|number| copy(&name(number), number, state(number))).collect()
    };
    departure.handle_copies(copies(40));
    departure.handle_finished();
    let at_risk = hand_overs(copies(40));
    assert_eq!((at_risk.len(), &*at_risk[0].0, &*at_risk[7].0), (8, "m39", "m32"));
    let mut order = handed_over(steps(&mut departure, now));
    assert_eq!(order, ["m39", "m38"], "a node each");
    for held in (1..40).rev() {
        departure.handle_copies(copies(held));
        let at = now + S * (40 - held as u32) / 8;
        order.extend(handed_over(steps(&mut departure, at)));
    }
    assert_eq!(order, (0..40).rev().map(name).collect::<Vec<_>>());
    departure.handle_copies(copies(0));
    assert_eq!(steps(&mut departure, now + 6 * S).last(), Some(&Step::Leave));
}

#[test]
fn what_the_time_does_not_suffice_for_is_left() {
    let now = origin();
    let mut departure = Departure::new(now + 20 * S, now);
    let copies = |first| vec![copy("a", 2, first), copy("b", 1, Elsewhere::Stored(place(2)))];
    departure.handle_copies(copies(Elsewhere::Stored(place(2))));
    departure.handle_finished();
    assert_eq!(handed_over(steps(&mut departure, now)), ["a"]);
    departure.handle_copies(copies(Elsewhere::Loading));
    assert_eq!(steps(&mut departure, now + 9 * S), [], "it loads one after the other");
    assert_eq!(steps(&mut departure, now + 10 * S), [Step::Leave]);
}

#[test]
fn a_copy_that_nobody_begins_to_load_holds_nobody_up() {
    let now = origin();
    let mut departure = Departure::new(now + 40 * S, now);
    let mut asked = Vec::new();
    let mut at = now;
    departure.handle_finished();
    while departure.poll_timeout(at).is_some() {
        // Nodes 2, 3, 4 and 5 have both, and none begins.
        let next = |model: &str| 2 + departure.given_up(model, at).len() as u8;
        let copies = [("a", 2), ("b", 1)];
        let copies = copies.map(|(model, used)| copy(model, used, Elsewhere::Stored(place(next(model)))));
        departure.handle_copies(copies.into());
        let asking = steps(&mut departure, at).into_iter().filter_map(|step| match step {
            Step::HandOver { model, to } => Some(format!("{model}{}", to.node.0[0])),
            _ => None,
        });
        asked.extend(asking);
        at = departure.poll_timeout(at).map_or(at, |(due, _)| due);
    }
    assert_eq!((asked.join(" "), at - now), ("a2 a2 a3 b2 a3 b2 b3 b3".to_owned(), 12 * S));
    // And one that failed wherever it is, not even that long.
    let mut broken = Departure::new(now + 20 * S, now);
    broken.handle_copies(vec![copy("a", 1, Elsewhere::Stored(place(2)))]);
    broken.handle_finished();
    assert_eq!(handed_over(steps(&mut broken, now)), ["a"]);
    broken.handle_copies(vec![copy("a", 1, Elsewhere::Nowhere)]);
    assert_eq!(steps(&mut broken, now + S), [Step::Leave]);
}
