use super::*;

const PERIOD: Duration = Duration::from_secs(1);

#[expect(clippy::disallowed_methods, reason = "any instant to start from")]
fn start() -> Instant {
    Instant::now()
}

fn id(number: u8) -> NodeId {
    NodeId([number; 16])
}

fn at(number: u8) -> SocketAddr {
    SocketAddr::new([10, 0, 0, number].into(), 7102)
}

fn seen(number: u8, state: MemberState) -> MemberSeen {
    MemberSeen { life: Life { node: id(number), generation: 1 }, address: at(number), state }
}

fn arrival(link: LinkId, number: u8, generation: u64, dialed: bool) -> Arrival {
    Arrival { link, life: Life { node: id(number), generation }, dialed }
}

fn keeps(verdict: &Verdict, former: Option<LinkId>) -> bool {
    matches!(verdict, Verdict::Keep { replaces, .. } if *replaces == former)
}

#[test]
fn of_simultaneous_dials_both_ends_keep_that_of_the_larger_id() {
    // Every order in which the two connections may arrive at either end.
    for (own, other) in [(1, 2), (2, 1)] {
        for ours_first in [true, false] {
            let (mut links, now) = (Links::new(id(own), 0), start());
            let first = links.handle_arrival(arrival(1, other, 1, ours_first), now);
            assert!(keeps(&first, None));
            let second = links.handle_arrival(arrival(2, other, 1, !ours_first), now + REST_MIN);
            let second_is_the_larger_ones = ours_first != (own > other);
            if second_is_the_larger_ones {
                assert!(keeps(&second, Some(1)));
            } else {
                assert_eq!(second, Verdict::Duplicate);
            }
        }
    }
}

#[test]
fn a_later_dial_and_a_later_life_replace_the_connection() {
    let (mut links, now) = (Links::new(id(9), 0), start());
    assert!(keeps(&links.handle_arrival(arrival(1, 2, 1, true), now), None));
    // The other end lost it and dials anew.
    let later = now + SIMULTANEOUS + REST_MIN;
    assert!(keeps(&links.handle_arrival(arrival(2, 2, 1, false), later), Some(1)));
    assert!(keeps(&links.handle_arrival(arrival(3, 2, 2, false), later), Some(2)));
    assert_eq!(links.handle_arrival(arrival(4, 2, 1, true), later), Verdict::Duplicate, "an earlier life");
    assert!(!links.handle_closed(1, id(2), later), "replaced long ago");
    assert!(links.handle_closed(3, id(2), later));
    assert_eq!(links.handle_arrival(arrival(5, 9, 1, true), later), Verdict::Duplicate, "ourselves");
}

#[test]
fn the_connection_of_a_life_that_is_down_gives_way_to_any() {
    let now = start();
    let mut links = Links::new(id(1), 1);
    links.handle_member(seen(2, MemberState::Alive), now);
    assert!(keeps(&links.handle_arrival(arrival(1, 2, 7, true), now), None));
    // A former life of a clock that was set back: not while the later one may live.
    assert_eq!(links.handle_arrival(arrival(2, 2, 6, false), now), Verdict::Duplicate);
    let down = MemberSeen { life: Life { node: id(2), generation: 7 }, ..seen(2, MemberState::Down) };
    links.handle_member(down, now);
    assert!(keeps(&links.handle_arrival(arrival(3, 2, 6, false), now), Some(1)));
}

#[test]
fn who_is_held_for_dead_is_dialed_where_something_is_to_be_said() {
    let now = start();
    let mut links = Links::new(id(1), 1);
    links.handle_member(seen(2, MemberState::Alive), now);
    assert!(keeps(&links.handle_arrival(arrival(1, 2, 1, true), now), None));
    assert_eq!(links.handle_transmit(id(2), at(2), vec![1], now), Some((1, vec![1])));
    assert_eq!(links.poll_dial(now), None, "connected");
    links.handle_member(seen(2, MemberState::Down), now);
    assert_eq!(links.poll_dial(now), None, "nobody dials the dead for its own sake");
    assert_eq!(
        links.handle_transmit(id(2), at(2), vec![2], now),
        Some((1, vec![2])),
        "it may have been wrong"
    );
    assert_eq!(links.poll_dial(now), Some(at(2)), "another process may be there");
    links.handle_dialed(at(2), false, now);
    links.handle_transmit(id(2), at(2), vec![3], now);
    assert_eq!(links.poll_dial(now), None, "not at once again");
    assert_eq!(links.poll_dial(now + REST_MIN), Some(at(2)));
    assert!(keeps(&links.handle_arrival(arrival(2, 2, 2, true), now + REST_MIN), Some(1)));
}

#[test]
fn the_larger_id_dials_first() {
    let now = start();
    let (mut small, mut large) = (Links::new(id(1), 0), Links::new(id(2), 0));
    large.handle_member(seen(1, MemberState::Alive), now);
    small.handle_member(seen(2, MemberState::Alive), now);
    assert_eq!(large.poll_dial(now), Some(at(1)));
    assert_eq!(small.poll_dial(now), None);
    assert_eq!(small.poll_dial(now + PRECEDENCE), Some(at(2)), "unless the larger one cannot");
}

#[test]
fn pauses_grow_to_a_bound_and_end_with_the_member() {
    let (mut links, mut now) = (Links::new(id(9), 7), start());
    links.handle_member(seen(1, MemberState::Alive), now);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert_eq!(links.poll_dial(now), Some(at(1)));
        assert_eq!(links.poll_dial(now), None, "one dial at a time");
        links.handle_dialed(at(1), false, now);
        let (due, _) = links.poll_timeout().expect("it is tried again");
        pauses.push(due - now);
        now = due;
    }
    assert!(pauses[0] >= REST_MIN / 2 && pauses[0] <= REST_MIN, "{pauses:?}");
    assert!(pauses.windows(2).take(4).all(|pair| pair[0] < pair[1] * 2), "{pauses:?}");
    assert!(pauses[7] >= REST_MAX / 2 && pauses[7] <= REST_MAX, "{pauses:?}");
    links.handle_member(seen(1, MemberState::Down), now);
    assert_eq!((links.poll_dial(now + PERIOD), links.poll_timeout()), (None, None));
}

#[test]
fn a_connection_that_does_not_last_counts_as_a_failure() {
    let (mut links, mut now) = (Links::new(id(9), 7), start());
    links.handle_member(seen(1, MemberState::Alive), now);
    let mut pauses = Vec::new();
    for link in 1..8 {
        assert_eq!(links.poll_dial(now), Some(at(1)));
        assert!(keeps(&links.handle_arrival(arrival(link, 1, 1, true), now), None));
        links.handle_dialed(at(1), true, now);
        assert!(links.handle_closed(link, id(1), now));
        let (due, _) = links.poll_timeout().expect("it is tried again");
        pauses.push(due - now);
        now = due;
    }
    assert!(pauses[6] >= REST_MAX / 2, "{pauses:?}");
    assert_eq!(links.poll_dial(now), Some(at(1)));
    assert!(keeps(&links.handle_arrival(arrival(9, 1, 1, true), now), None));
    links.handle_dialed(at(1), true, now);
    let later = now + STABLE_AFTER;
    assert!(links.handle_closed(9, id(1), later));
    let (due, _) = links.poll_timeout().expect("it is tried again");
    assert!(due - later <= REST_MIN, "what lasted makes up for it");
}

#[test]
fn datagrams_wait_for_a_dial_the_newest_few() {
    let (mut links, now) = (Links::new(id(9), 0), start());
    for number in 0..10 {
        assert_eq!(links.handle_transmit(id(1), at(1), vec![number], now), None);
    }
    assert_eq!((links.poll_dial(now), links.poll_dial(now)), (Some(at(1)), None));
    let Verdict::Keep { waiting, .. } = links.handle_arrival(arrival(3, 1, 1, true), now) else {
        panic!("the first of this member");
    };
    assert_eq!(waiting, [[6], [7], [8], [9]]);
    assert_eq!(links.dropped, 6);
    assert_eq!(links.handle_transmit(id(1), at(1), vec![7], now), Some((3, vec![7])));
}

#[test]
fn somebody_else_at_the_address_is_no_success() {
    let (mut links, now) = (Links::new(id(9), 0), start());
    links.handle_member(seen(1, MemberState::Alive), now);
    assert_eq!(links.poll_dial(now), Some(at(1)));
    assert!(keeps(&links.handle_arrival(arrival(1, 2, 1, true), now), None), "a member all the same");
    links.handle_dialed(at(1), true, now);
    assert_eq!(links.of(id(1)), None);
    assert!(links.poll_timeout().is_some_and(|(due, _)| due > now), "dialed again, after a pause");
}

#[test]
fn everything_is_bounded() {
    let (mut links, now) = (Links::new(id(9), 0), start());
    let far = |number: u16| SocketAddr::new([10, 1, 0, 1].into(), number);
    (0..10_000).for_each(|number| links.handle_seed(far(number), now));
    assert_eq!(links.targets.len(), TARGETS_MAX);
    let dialed: Vec<_> = std::iter::from_fn(|| links.poll_dial(now)).collect();
    assert_eq!(dialed.len(), DIALS_MAX);
    assert_eq!(links.poll_timeout(), None, "the end of a dial comes first");
    dialed.into_iter().for_each(|address| links.handle_dialed(address, false, now));
    assert_eq!(std::iter::from_fn(|| links.poll_dial(now)).count(), DIALS_MAX);
    for number in 0..2 * LINKS_MAX as u64 {
        let mut node = [0; 16];
        node[..8].copy_from_slice(&number.to_be_bytes());
        let life = Life { node: NodeId(node), generation: 1 };
        let full = links.handle_arrival(Arrival { link: number, life, dialed: false }, now) == Verdict::Full;
        assert_eq!(full, number >= LINKS_MAX as u64);
    }
}

#[test]
fn a_seed_that_is_another_address_of_a_connected_member_rests() {
    let (mut links, now) = (Links::new(id(1), 0), start());
    links.handle_seed(at(90), now);
    assert_eq!(links.poll_dial(now), Some(at(90)));
    links.handle_found(at(90), id(2), now);
    links.handle_arrival(arrival(1, 2, 1, true), now);
    links.handle_dialed(at(90), true, now);
    let later = now + 60 * PERIOD;
    links.handle_seed(at(90), later);
    assert_eq!(links.poll_dial(later), None, "it leads to a member that is connected");
    links.handle_seed(at(90), now + ALIAS_REST);
    assert_eq!(links.poll_dial(now + ALIAS_REST), Some(at(90)), "it may lead elsewhere by now");
    links.handle_dialed(at(90), false, now + ALIAS_REST);
    links.handle_closed(1, id(2), later);
    links.handle_seed(at(90), later + 9 * PERIOD);
    assert!(links.poll_dial(now + ALIAS_REST + 9 * PERIOD).is_some(), "the member is gone");
}
