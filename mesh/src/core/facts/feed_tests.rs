//! A follower and the node that it follows, without the wire between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_protocol::message::{FactsDigest, ModelState, NodeFacts};
use shoal_protocol::{DeviceIndex, Message};

use super::super::client::ClientCore;
use super::super::fleet::{facts, life, load, model, node, origin};
use super::super::member::MemberState;
use super::super::view::View;
use super::{FEED_SILENCE_MAX, Feed, FeedBroken, Following};

struct Pair {
    feed: Feed,
    following: Following,
    core: ClientCore,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let core = ClientCore::new(View::default(), 1);
        let following = Following::default();
        Self { feed: Feed::new(&following.digest()), following, core, now: origin() }
    }

    /// Carries everything over; what kinds it was.
    fn settle(&mut self) -> Vec<&'static str> {
        let mut kinds = Vec::new();
        while let Some(message) = self.feed.poll_message(self.now) {
            kinds.push(match &message {
                Message::Facts(_) => "record",
                Message::FactsDelta(_) => "delta",
                Message::MeshUpdate(update) if !update.members.is_empty() => "members",
                Message::MeshUpdate(update) if !update.loads.is_empty() => "loads",
                Message::MeshUpdate(update) if update.settled => "settled",
                Message::MeshUpdate(_) => "alive",
                _ => "another",
            });
            self.following.handle_message(message, &mut self.core, self.now).expect("in order");
        }
        kinds
    }

    fn is_held(&self, name: &str) -> bool {
        self.core.view().model(name).is_some_and(|model| !model.holders.is_empty())
    }
}

fn record(number: u64, version: u64, state: ModelState) -> Arc<NodeFacts> {
    Arc::new(NodeFacts { version, ..facts(number, vec![model("m", state)]) })
}

#[test]
fn a_follower_is_told_what_it_lacks_and_then_what_changes() {
    let mut pair = Pair::new();
    pair.feed.handle_member(life(1, 1), MemberState::Alive);
    pair.feed.handle_facts(&record(1, 1, ModelState::Stored));
    assert_eq!(pair.settle(), ["members", "record", "settled"]);
    assert!(!pair.is_held("m"));
    pair.feed.handle_member(life(1, 1), MemberState::Alive);
    pair.feed.handle_facts(&record(1, 1, ModelState::Stored));
    assert_eq!(pair.settle(), [""; 0], "nothing is told twice");
    pair.feed.handle_facts(&record(1, 2, ModelState::Loading));
    pair.feed.handle_facts(&record(1, 3, ModelState::Ready));
    assert_eq!(pair.settle(), ["delta"], "only the latest state waits");
    assert!(pair.is_held("m"));
}

#[test]
fn the_next_node_tells_only_what_is_newer() {
    let mut pair = Pair::new();
    for number in 1..=3 {
        pair.feed.handle_facts(&record(number, 2, ModelState::Stored));
    }
    pair.settle();
    pair.feed = Feed::new(&pair.following.digest());
    pair.feed.handle_facts(&record(1, 1, ModelState::Ready)); // it lags
    pair.feed.handle_facts(&record(2, 2, ModelState::Stored));
    pair.feed.handle_facts(&record(3, 3, ModelState::Ready));
    assert_eq!(pair.settle(), ["record", "settled"]);
    assert!(pair.is_held("m"));
}

#[test]
fn the_dead_stay_dead_whoever_tells_of_them_later() {
    let mut pair = Pair::new();
    pair.feed.handle_facts(&record(1, 1, ModelState::Ready));
    pair.settle();
    assert!(pair.is_held("m"));
    pair.feed.handle_member(life(1, 1), MemberState::Down);
    assert_eq!(pair.settle(), ["members"]);
    assert!(!pair.is_held("m"));
    pair.feed = Feed::new(&pair.following.digest());
    pair.feed.handle_member(life(1, 1), MemberState::Alive);
    pair.feed.handle_facts(&record(1, 7, ModelState::Ready));
    pair.settle();
    assert!(!pair.is_held("m"), "a node that has not heard of the death");
    let reborn = NodeFacts { generation: 2, ..facts(1, vec![model("m", ModelState::Ready)]) };
    pair.feed.handle_facts(&Arc::new(reborn));
    pair.settle();
    assert!(pair.is_held("m"), "another life");
}

#[test]
fn a_quiet_mesh_is_told_from_a_silent_node() {
    let mut pair = Pair::new();
    assert_eq!(pair.feed.poll_timeout(), None, "nothing was asked for yet");
    pair.feed.handle_facts(&record(1, 1, ModelState::Ready));
    pair.settle();
    for _ in 0..3 {
        let (due, why) = pair.feed.poll_timeout().expect("it says that it lives");
        assert_eq!((due - pair.now, why), (Duration::from_millis(500), "that the node lives"));
        assert_eq!(pair.settle(), [""; 0], "not before");
        pair.now = due;
        assert_eq!(pair.settle(), ["alive"]);
    }
    assert!(FEED_SILENCE_MAX >= 2 * Duration::from_millis(500));
}

#[test]
fn loads_are_told_at_most_every_second_and_with_their_age() {
    let mut pair = Pair::new();
    pair.feed.handle_facts(&record(1, 1, ModelState::Ready));
    let heard = pair.now;
    pair.now += Duration::from_millis(300);
    pair.feed.handle_load(node(1), &load(1, 500), heard);
    assert_eq!(pair.settle(), ["record", "loads"]);
    let at = |pair: &Pair| {
        let view = pair.core.view();
        let known = view.find(node(1)).expect("told").device(DeviceIndex(0)).expect("told");
        known.load.expect("told").at
    };
    assert_eq!(at(&pair), heard, "as old as it is");
    pair.feed.handle_load(node(1), &load(1, 500), heard);
    let next = |pair: &Pair| pair.feed.poll_timeout().expect("it waits");
    assert_eq!(next(&pair).1, "that the node lives", "told already");
    pair.feed.handle_load(node(1), &load(2, 10), pair.now);
    assert_eq!(pair.settle(), [""; 0]);
    for expected in ["alive", "loads"] {
        pair.now = next(&pair).0;
        assert_eq!(pair.settle(), [expected]);
    }
}

#[test]
fn what_is_not_known_any_more_is_not_remembered() {
    let mut pair = Pair::new();
    for number in 0..100 {
        pair.feed.handle_member(life(number, 1), MemberState::Down);
        pair.feed.handle_facts(&record(number, 1, ModelState::Stored));
        pair.feed.handle_load(node(number), &load(1, 1), pair.now);
    }
    pair.settle();
    pair.feed.forget(|known| known == node(7));
    assert_eq!(pair.feed.remembered(), 3);
}

#[test]
fn whom_the_next_node_never_met_is_forgotten_until_it_does() {
    let mut pair = Pair::new();
    for (number, name) in [(1, "here"), (2, "left")] {
        pair.feed.handle_member(life(number, 1), MemberState::Alive);
        pair.feed.handle_facts(&Arc::new(facts(number, vec![model(name, ModelState::Ready)])));
    }
    pair.settle();
    // Its node dies with the other one, and the next one started after that.
    pair.feed = Feed::new(&pair.following.handle_follow());
    pair.feed.handle_member(life(1, 1), MemberState::Alive);
    pair.settle();
    let begin = pair.now;
    while pair.now < begin + Duration::from_secs(11) {
        assert!(pair.is_held("here"));
        assert!(pair.is_held("left") || pair.now >= begin + Duration::from_secs(10), "it may not know yet");
        pair.now += Duration::from_millis(500);
        pair.settle();
    }
    assert!(!pair.is_held("left"));
    pair.feed.handle_member(life(2, 1), MemberState::Alive);
    pair.feed.forget(|known| known == node(1));
    pair.feed.handle_facts(&Arc::new(facts(2, vec![model("left", ModelState::Ready)])));
    pair.settle();
    assert!(pair.is_held("left"), "it was there after all");
}

#[test]
fn a_feed_that_does_not_fit_is_broken_off() {
    let mut pair = Pair::new();
    pair.feed.handle_facts(&record(1, 1, ModelState::Stored));
    pair.settle();
    pair.feed.handle_facts(&record(1, 2, ModelState::Ready));
    let delta = pair.feed.poll_message(pair.now).expect("a change");
    let mut stranger = Following::default();
    let refused = stranger.handle_message(delta, &mut pair.core, pair.now);
    assert!(matches!(refused, Err(FeedBroken::Gap)));
    let digest = FactsDigest { entries: Vec::new(), answer: false };
    let refused = stranger.handle_message(Message::FactsDigest(digest), &mut pair.core, pair.now);
    assert!(matches!(refused, Err(FeedBroken::Misplaced(_))));
}
