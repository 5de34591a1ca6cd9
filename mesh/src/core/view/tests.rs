//! What a view says after any history is what its last records say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use shoal_protocol::message::{ModelFact, ModelState, NodeFacts};
use shoal_protocol::{Bytes, DeviceIndex, NodeId};

use super::*;
use crate::core::fleet::{facts, life, load, model, node, origin};

fn holders(view: &View, name: &str) -> Vec<NodeId> {
    let ids = |holdings: &[Holding]| holdings.iter().map(|at| view.node(at.slot).id).collect();
    view.model(name).map_or(Vec::new(), |model| ids(model.holders))
}

fn storers(view: &View, name: &str) -> Vec<NodeId> {
    let ids = |holdings: &[Holding]| holdings.iter().map(|at| view.node(at.slot).id).collect();
    view.model(name).map_or(Vec::new(), |model| ids(model.storers))
}

fn standing(view: &View, number: u64, now: Instant) -> Option<Standing> {
    view.find(node(number)).map(|node| node.standing(now))
}

#[test]
fn a_model_moves_from_stored_to_ready_to_gone() {
    let (mut view, now) = (View::default(), origin());
    let mut record = facts(1, vec![model("m", ModelState::Stored)]);
    assert!(view.handle_facts(&record, now));
    assert_eq!((holders(&view, "m"), storers(&view, "m")), (vec![], vec![node(1)]));
    for (version, state) in [(2, ModelState::Loading), (3, ModelState::Ready)] {
        record.version = version;
        record.models[0].state = state;
        assert!(view.handle_facts(&record, now));
        assert_eq!((holders(&view, "m"), storers(&view, "m")), (vec![node(1)], vec![]));
    }
    assert!(!view.handle_facts(&record, now), "the same version says nothing new");
    record.version = 4;
    record.models.clear();
    assert!(view.handle_facts(&record, now));
    assert!(view.model("m").is_none());
    assert_eq!(view.places_len(), 0);
    assert_eq!(view.client_addresses(node(1)), ["10.0.0.1:7001"]);
}

#[test]
fn an_alias_means_what_most_places_say_and_a_name_means_itself() {
    let (mut view, now) = (View::default(), origin());
    let aliased = |name: &str, alias: &str| {
        let mut fact = model(name, ModelState::Ready);
        fact.aliases.push(alias.to_owned());
        fact
    };
    view.handle_facts(&facts(1, vec![aliased("b", "x")]), now);
    view.handle_facts(&facts(2, vec![aliased("a", "x")]), now);
    view.handle_facts(&facts(3, vec![aliased("a", "x"), aliased("c", "b")]), now);
    assert_eq!(view.model("x").expect("known").name, "a");
    assert_eq!(view.model("b").expect("known").name, "b");
    view.handle_member(life(2, 1), MemberState::Down, now);
    view.handle_member(life(3, 1), MemberState::Down, now);
    assert_eq!(view.model("x").expect("known").name, "b");
    view.handle_member(life(1, 1), MemberState::Down, now);
    assert!(view.model("x").is_none() && view.model("b").is_none());
}

#[test]
fn a_dead_life_says_nothing_more_and_a_restart_is_another() {
    let (mut view, now) = (View::default(), origin());
    let mut record = facts(1, vec![model("m", ModelState::Ready)]);
    view.handle_facts(&record, now);
    assert!(view.handle_member(life(1, 1), MemberState::Suspect, now));
    assert_eq!(standing(&view, 1, now), Some(Standing::Suspect));
    assert!(view.handle_member(life(1, 1), MemberState::Down, now));
    record.version = 9;
    assert!(!view.handle_facts(&record, now), "the dead do not speak");
    assert!(!view.handle_member(life(1, 1), MemberState::Alive, now), "nor rise");
    assert!(holders(&view, "m").is_empty());
    let reborn = NodeFacts { generation: 2, version: 1, ..record.clone() };
    assert!(view.handle_facts(&reborn, now), "a restart counts its versions anew");
    assert_eq!(holders(&view, "m"), [node(1)]);
    assert!(!view.handle_member(life(1, 1), MemberState::Down, now), "a late word on the former life");
    assert_eq!(standing(&view, 1, now), Some(Standing::Good));
    assert!(view.handle_member(life(1, 3), MemberState::Alive, now));
    assert!(holders(&view, "m").is_empty(), "the third life has not said what it holds");
}

#[test]
fn doubts_pass_with_time_or_a_word_and_leaving_does_not() {
    let (mut view, now) = (View::default(), origin());
    view.handle_facts(&facts(1, Vec::new()), now);
    view.handle_doubt(node(1), now);
    assert_eq!(standing(&view, 1, now), Some(Standing::Doubted));
    assert_eq!(standing(&view, 1, now + Duration::from_secs(4)), Some(Standing::Good));
    view.handle_frame(node(1));
    assert_eq!(standing(&view, 1, now), Some(Standing::Good));
    assert!(view.handle_load(node(1), &LoadRecord { draining: true, ..load(1, 0) }, now));
    assert_eq!(standing(&view, 1, now), Some(Standing::Draining));
}

#[test]
fn a_load_ages_counts_what_was_sent_and_does_not_go_back() {
    let (mut view, now) = (View::default(), origin());
    view.handle_facts(&facts(1, vec![model("m", ModelState::Ready)]), now);
    assert!(view.handle_load(node(1), &load(u16::MAX, 100), now));
    let wait = |view: &View, now| {
        let device = view.device(&view.model("m").expect("known").holders[0]).expect("listed");
        device.load.expect("told").wait_us(device.tokens_per_s(), now)
    };
    assert_eq!(wait(&view, now), 100_000);
    let holding = view.model("m").expect("known").holders[0];
    view.handle_sent(&holding, 500);
    assert_eq!(wait(&view, now), 150_000, "500 tokens at 10,000 a second");
    assert_eq!(wait(&view, now + Duration::from_millis(60)), 132_000, "a share of the time is taken off");
    assert!(!view.handle_load(node(1), &load(u16::MAX, 0), now), "repeated");
    assert!(!view.handle_load(node(1), &load(u16::MAX - 9, 0), now), "late");
    assert!(view.handle_load(node(1), &load(3, 20), now), "the sequence wraps");
    assert_eq!(wait(&view, now), 20_000);
    assert!(!view.handle_load(node(1), &LoadRecord { device: DeviceIndex(7), ..load(4, 0) }, now));
    assert!(!view.handle_load(node(2), &load(4, 0), now), "a stranger");
    assert!(view.handle_load(node(1), &load(1, 0), now + Duration::from_secs(61)), "its counter was lost");
}

#[test]
fn every_observer_sees_the_same_owner_whatever_the_order_of_the_news() {
    let now = origin();
    let records: Vec<_> = (0..40)
        .map(|number| {
            let mut record = facts(number, vec![model("m", ModelState::Stored)]);
            record.devices[0].budget_bytes = Bytes(1 << (27 + number % 4));
            record
        })
        .collect();
    let view_of = |records: &mut dyn Iterator<Item = &NodeFacts>| {
        let mut view = View::default();
        records.for_each(|record| assert!(view.handle_facts(record, now)));
        storers(&view, "m")
    };
    let owners = view_of(&mut records.iter());
    assert_eq!(owners, view_of(&mut records.iter().rev()));
    let rest = view_of(&mut records.iter().filter(|record| record.node != owners[0]));
    assert_eq!(owners[1..], rest, "who leaves moves nothing but its own");
}

#[test]
fn devices_own_models_in_proportion_to_their_weight() {
    let (mut view, now) = (View::default(), origin());
    for number in 0..4 {
        let models = (0..4000).map(|name| model(&name.to_string(), ModelState::Stored)).collect();
        let mut record = facts(number, models);
        record.devices[0].tokens_per_s = if number == 0 { 30_000 } else { 10_000 };
        view.handle_facts(&record, now);
    }
    let owned = (0..4000).filter(|name| storers(&view, &name.to_string())[0] == node(0)).count();
    assert!((1850..2150).contains(&owned), "half of the weight: {owned} of 4000");
}

#[test]
fn a_record_that_repeats_a_place_or_changes_a_name_counts_each_once() {
    let (mut view, now) = (View::default(), origin());
    let aliased =
        |alias: &str| ModelFact { aliases: vec![alias.to_owned()], ..model("m", ModelState::Ready) };
    for version in 1..5 {
        let record = NodeFacts { version, ..facts(1, vec![aliased("x"), aliased("y"), aliased("y")]) };
        assert!(view.handle_facts(&record, now));
        assert_eq!((view.places_len(), holders(&view, "m").len()), (1, 1));
        assert!(view.model("x").is_some() && view.model("y").is_none(), "the first one counts");
    }
    view.handle_facts(&NodeFacts { version: 5, ..facts(1, vec![aliased("y")]) }, now);
    assert!(view.model("x").is_none() && view.model("y").is_some());
    view.handle_member(life(1, 1), MemberState::Down, now);
    assert!(view.model("y").is_none() && view.model("m").is_none());
}

#[test]
fn a_device_of_another_size_owns_other_models() {
    let (mut view, now) = (View::default(), origin());
    let models: Vec<_> = (0..100).map(|name| model(&name.to_string(), ModelState::Stored)).collect();
    (1..4).for_each(|number| assert!(view.handle_facts(&facts(number, models.clone()), now)));
    let owned = |view: &View| (0..100).filter(|name| storers(view, &name.to_string())[0] == node(1)).count();
    let before = owned(&view);
    let mut record = NodeFacts { version: 2, ..facts(1, models) };
    record.devices[0].tokens_per_s *= 1000;
    view.handle_facts(&record, now);
    assert!(before < 60 && owned(&view) > 90, "{before}, then {}", owned(&view));
}

#[test]
fn a_full_view_drops_places_on_disk_first_and_says_so() {
    let (mut view, now) = (View::default(), origin());
    let mut number = 0;
    while view.places_dropped() == 0 {
        number += 1;
        let mut models: Vec<_> = (0..4096).map(|n| model(&format!("{n}"), ModelState::Stored)).collect();
        models[4095] = model("hot", ModelState::Ready);
        view.handle_facts(&facts(number, models), now);
    }
    assert_eq!((number, view.places_len(), view.places_dropped()), (65, PLACES_MAX, 4096));
    view.handle_member(life(64, 1), MemberState::Down, now);
    view.handle_facts(&NodeFacts { version: 2, ..facts(65, vec![model("hot", ModelState::Ready)]) }, now);
    assert_eq!(holders(&view, "hot").len(), 64, "there is room again");
}

#[test]
fn the_dead_make_room_for_the_living() {
    let (mut view, now) = (View::default(), origin());
    for number in 0..NODES_MAX as u64 {
        assert!(view.handle_member(life(number, 1), MemberState::Suspect, now));
    }
    assert!(!view.handle_facts(&facts(1 << 20, Vec::new()), now), "nobody is down");
    let second = Duration::from_secs(1);
    view.handle_member(life(7, 1), MemberState::Down, now);
    view.handle_member(life(3, 1), MemberState::Down, now + second);
    assert!(view.handle_facts(&facts(1 << 20, Vec::new()), now + second));
    assert!(view.find(node(7)).is_none() && view.find(node(3)).is_some());
    assert_eq!(view.nodes_len(), NODES_MAX);
}

/// One piece of news about one of four nodes.
#[derive(Clone, Debug)]
enum News {
    Facts { number: u64, generation: u64, version: u64, models: Vec<(u8, bool)> },
    Member { number: u64, generation: u64, state: MemberState },
}

fn news() -> impl Strategy<Value = News> {
    let models = prop::collection::vec((0..6u8, any::<bool>()), 0..6);
    let state = prop::sample::select(vec![MemberState::Alive, MemberState::Suspect, MemberState::Down]);
    let facts = (0..4u64, 1..4u64, 1..6u64, models).prop_map(|(number, generation, version, models)| {
        News::Facts { number, generation, version, models }
    });
    let member = (0..4u64, 1..4u64, state).prop_map(|(number, generation, state)| News::Member {
        number,
        generation,
        state,
    });
    prop_oneof![3 => facts, 1 => member]
}

/// What the rules say, written down as plainly as possible.
#[derive(Default)]
struct Told {
    generation: u64,
    version: u64,
    down: bool,
    models: BTreeMap<String, bool>,
}

proptest! {
    #[test]
    fn the_index_is_what_the_newest_records_say(history in prop::collection::vec(news(), 0..60)) {
        let (mut view, now) = (View::default(), origin());
        let mut told: BTreeMap<u64, Told> = BTreeMap::new();
        for news in history {
            let (number, generation) = match &news {
                News::Facts { number, generation, .. } | News::Member { number, generation, .. } => {
                    (*number, *generation)
                }
            };
            let known = told.entry(number).or_default();
            if generation > known.generation {
                *known = Told { generation, ..Told::default() };
            }
            let heard = generation == known.generation && !known.down;
            match news {
                News::Facts { number, generation, version, models } => {
                    let models: BTreeMap<_, _> =
                        models.into_iter().map(|(name, held)| (name.to_string(), held)).collect();
                    let state = |held: bool| if held { ModelState::Ready } else { ModelState::Stored };
                    let listed = models.iter().map(|(name, held)| model(name, state(*held))).collect();
                    let record = NodeFacts { generation, version, ..facts(number, listed) };
                    let is_news = heard && version > known.version;
                    prop_assert_eq!(view.handle_facts(&record, now), is_news);
                    if is_news {
                        (known.version, known.models) = (version, models);
                    }
                }
                News::Member { number, generation, state } => {
                    view.handle_member(life(number, generation), state, now);
                    if heard && state == MemberState::Down {
                        (known.down, known.models) = (true, BTreeMap::new());
                    }
                }
            }
            for name in (0..6u8).map(|name| name.to_string()) {
                for held in [true, false] {
                    let mut found = if held { holders(&view, &name) } else { storers(&view, &name) };
                    let has = |told: &Told| told.models.get(&name) == Some(&held);
                    let mut expected: Vec<_> =
                        told.iter().filter(|(_, told)| has(told)).map(|(number, _)| node(*number)).collect();
                    found.sort();
                    expected.sort();
                    prop_assert_eq!(found, expected, "{} held: {}", name, held);
                }
            }
            let listed = view.models().into_iter().flat_map(|model| {
                let held = |state| matches!(state, ModelState::Ready | ModelState::Loading);
                let all = model.places.into_iter().map(move |at| (at.place.node, held(at.state)));
                all.map(move |(node, held)| (model.name.clone(), node, held)).collect::<Vec<_>>()
            });
            let expected = told.iter().flat_map(|(number, told)| {
                told.models.iter().map(|(name, held)| (name.clone(), node(*number), *held))
            });
            prop_assert_eq!(listed.collect::<BTreeSet<_>>(), expected.collect::<BTreeSet<_>>());
            prop_assert_eq!(view.places_len(), told.values().map(|told| told.models.len()).sum::<usize>());
        }
    }
}
