//! A node's own side of placement, and the record of a choice.

use std::time::Duration;

use proptest::prelude::*;
use shoal_protocol::limits::{DECISION_BYTES_MAX, REDIRECTS_MAX};
use shoal_protocol::message::{LoadRecord, ModelState};
use shoal_protocol::{DeviceIndex, NodeId, Place};

use super::*;
use crate::core::fleet::{load, node, origin};

#[test]
fn a_miss_is_loaded_by_its_owner_and_redirected_by_all_others() {
    let now = origin();
    let cold = view(&[STORED; 5], now);
    let owner = further_holder(&cold, &query("m"), now).expect("five have it").place;
    let loads: Vec<_> = (0..5)
        .filter(|number| place_miss(&cold, node(*number), &query("m"), 0, now) == Miss::Load)
        .map(node)
        .collect();
    assert_eq!(loads, [owner.node]);
    let other = (0..5).map(node).find(|node| *node != owner.node).expect("five");
    let named = |view: &View, redirects| match place_miss(view, other, &query("m"), redirects, now) {
        Miss::Redirect(places) => places.iter().map(|place| (place.node, place.load.device)).collect(),
        Miss::Load => Vec::new(),
    };
    assert_eq!(named(&cold, 0), [(owner.node, owner.device)]);
    assert_eq!(place_miss(&cold, other, &query("m"), REDIRECTS_MAX, now), Miss::Load);
    assert_eq!(place_miss(&cold, other, &query("unknown"), 0, now), Miss::Load);
    let mut held = view(&[READY, READY, STORED, STORED], now);
    held.handle_load(node(0), &load(2, 80), now);
    let owner = further_holder(&held, &query("m"), now).expect("two have it on disk").place;
    let other = if owner.node == node(2) { node(3) } else { node(2) };
    let Miss::Redirect(places) = place_miss(&held, other, &query("m"), 1, now) else {
        panic!("holders are sooner");
    };
    assert_eq!(places.iter().map(|place| place.node).collect::<Vec<_>>(), [node(1), node(0), owner.node]);
    assert_eq!(elsewhere(&held, owner.node, &query("m"), now).len(), 2, "nobody names itself");
}

#[test]
fn a_holder_counts_the_others_and_knows_who_is_sooner() {
    let now = origin();
    let mut view = view(&[READY, READY, LOADING, STORED], now);
    let place = |number| Place { node: node(number), device: DeviceIndex(0) };
    let of = |view: &View, number| holders(view, place(number), &query("m"), now);
    assert_eq!((of(&view, 0).ready, of(&view, 0).loading, of(&view, 0).is_own_ready), (2, 1, true));
    assert_ne!(of(&view, 0).is_own_last, of(&view, 1).is_own_last, "one of the two gives back first");
    assert!(!of(&view, 3).is_own_last && !of(&view, 3).is_own_ready);
    // 100 tokens at 10,000 a second.
    assert_eq!((of(&view, 0).own_exec_us, of(&view, 0).others_us), (10_000, Some(10_000)));
    view.handle_load(node(1), &load(3, 80), now);
    assert_eq!(of(&view, 0).others_us, Some(20_000), "an eighth of what is new");
    assert_eq!(of(&view, 3).others_us, Some(10_000), "the best of the two");
    let sooner = |view: &View, limit_us| sooner_holder(view, node(0), &query("m"), limit_us, now);
    assert_eq!(sooner(&view, 80_000), None);
    assert_eq!(sooner(&view, 500_000).map(|place| place.node), Some(node(1)));
    view.handle_draining(node(1));
    assert_eq!((sooner(&view, 500_000), of(&view, 0).ready), (None, 1));
    assert_eq!(of(&view, 0).others_us, None);
}

#[test]
fn the_next_holder_is_the_least_busy_of_the_first_in_order() {
    let now = origin();
    let mut view = view(&[READY, STORED, STORED, STORED], now);
    let next = |view: &View| further_holder(view, &query("m"), now).expect("somebody");
    let first = next(&view);
    assert_eq!(first.worth, FurtherWorth { request_us: 10_000, price_us: 100_000 });
    let first_number =
        (1..4).find(|number| node(*number) == first.place.node).expect("one that has it on disk");
    view.handle_load(first.place.node, &load(3, 800), now);
    assert_ne!(next(&view).place, first.place);
    for number in (1..4).filter(|number| *number != first_number) {
        view.handle_load(node(number), &LoadRecord { free_bytes: 0, ..load(3, 1600) }, now);
    }
    assert_eq!(next(&view).place, first.place, "the others are busier");
    view.handle_draining(first.place.node);
    let full = next(&view).worth;
    assert_eq!(
        full,
        FurtherWorth { request_us: 210_000, price_us: 300_000 },
        "what gives way is loaded again"
    );
}

#[test]
fn copies_come_where_a_further_holder_is_sooner_and_go_under_pressure_only() {
    let further = FurtherWorth { request_us: 50_000, price_us: 2_100_000 };
    let hot = CopyWindow {
        requests: 25,
        request_us: 200_000,
        further: Some(further),
        holders: 2,
        is_worst_placed: true,
        is_pressed: false,
        idle: Duration::ZERO,
    };
    let wishes = |windows: &[CopyWindow]| {
        let mut copies = Copies::default();
        windows.iter().map(|window| copies.handle_window(window)).collect::<Vec<_>>()
    };
    let [warm, even, calm] = [100_000, 75_000, 50_000].map(|request_us| CopyWindow { request_us, ..hot });
    use CopyWish::{Further, GiveBack, Keep};
    assert_eq!(wishes(&[hot, hot, hot, hot]), [Keep, Further, Keep, Further]);
    assert_eq!(wishes(&[warm; 6]), [Keep, Keep, Keep, Keep, Keep, Further], "the less, the later");
    assert_eq!(wishes(&[even; 20]), [Keep; 20], "no better than chance");
    assert_eq!(wishes(&[hot, calm, calm, calm, hot]), [Keep; 5], "one window is an accident");
    let busy = FurtherWorth { request_us: 200_000, ..further };
    assert_eq!(wishes(&[CopyWindow { further: Some(busy), ..hot }; 9]), [Keep; 9], "all are busy");
    assert_eq!(wishes(&[CopyWindow { further: None, ..hot }; 9]), [Keep; 9], "there is nobody");
    assert_eq!(wishes(&[CopyWindow { requests: 0, ..hot }; 9]), [Keep; 9]);
    let rare =
        CopyWindow { requests: 1, further: Some(FurtherWorth { price_us: 4_000_000, ..further }), ..hot };
    assert_eq!(wishes(&[rare, rare, rare, hot]), [Keep, Keep, Keep, Further], "it must pay");
    let idle = CopyWindow { is_pressed: true, ..calm };
    assert_eq!(wishes(&[idle, idle]), [Keep, GiveBack]);
    assert_eq!(wishes(&[hot, idle, idle, idle, idle]), [Keep, Keep, Keep, Keep, GiveBack]);
    assert_eq!(wishes(&[CopyWindow { is_pressed: false, ..idle }; 3]), [Keep; 3]);
    assert_eq!(wishes(&[CopyWindow { is_worst_placed: false, ..idle }; 3]), [Keep; 3]);
    let last = CopyWindow { holders: 1, ..idle };
    assert_eq!(wishes(&[last; 3]), [Keep; 3], "the last copy stays");
    assert_eq!(wishes(&[CopyWindow { idle: Duration::from_secs(600), ..last }; 2]), [Keep, GiveBack]);
}

fn candidate() -> impl Strategy<Value = Candidate> {
    let states = vec![STORED, ModelState::Loading, READY, ModelState::Failed];
    let sources = vec![Source::Facts, Source::Gossip, Source::Probe];
    let small = (any::<[u8; 16]>(), any::<u16>(), any::<u16>(), any::<u16>());
    let choice = (prop::sample::select(states), prop::sample::select(sources));
    (small, choice, any::<[u32; 5]>()).prop_map(|((id, device, age_ms, requests), (state, source), parts)| {
        let [wait_us, exec_us, cold_us, net_us, risk_us] = parts.map(u64::from);
        Candidate {
            place: Place { node: NodeId(id), device: DeviceIndex(device) },
            state,
            source,
            age_ms,
            requests,
            estimate: Estimate { wait_us, exec_us, cold_us, net_us, risk_us },
        }
    })
}

proptest! {
    #[test]
    fn a_decision_comes_back_and_is_small(
        reason in prop::sample::select(Reason::ALL.to_vec()),
        candidates in prop::collection::vec(candidate(), 0..=CANDIDATES_MAX),
    ) {
        let decision = Decision { reason, candidates };
        let bytes = decision.encode();
        prop_assert!(bytes.len() <= DECISION_BYTES_MAX);
        prop_assert_eq!(Decision::decode(&bytes), Ok(decision));
        for cut in 0..bytes.len() {
            prop_assert!(Decision::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn bytes_of_others_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(decision) = Decision::decode(&bytes) {
            prop_assert_eq!(decision.encode(), bytes);
        }
    }
}
