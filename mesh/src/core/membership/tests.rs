//! One machine against whatever its peers say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BufMut;
use foca::{Codec, Header, Member, Message, State};
use proptest::collection::vec;
use proptest::prelude::*;
use shoal_protocol::NodeId;

use super::super::fleet::origin;
use super::super::member::{Life, MemberState};
use super::codec::{Datagram, DatagramCodec, MalformedDatagram};
use super::member_id::MemberId;
use super::parameters::{
    DATAGRAM_BYTES_MAX, GENERATION_MAX, MEMBERS_MAX, PROBE_PERIOD, PROBE_RTT, SUSPICION_SHOWS_AFTER,
};
use super::{DatagramRefused, Membership, MembershipEvent, MembershipOptions};

const US: NodeId = NodeId([1; 16]);
const PEER: NodeId = NodeId([2; 16]);

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn member(node: NodeId, generation: u64) -> MemberId {
    MemberId { life: Life { node, generation }, address: address(7000 + u16::from(node.0[0])) }
}

fn machine(now: Instant) -> Membership {
    let life = Life { node: US, generation: 100 };
    Membership::new(MembershipOptions { life, address: address(7001), seeds: Vec::new(), chance: 1 }, now)
}

fn datagram(src: &MemberId, message: Message<MemberId>, rumours: &[Member<MemberId>]) -> Vec<u8> {
    let header = Header { src: src.clone(), src_incarnation: 0, dst: member(US, 100), message };
    encode(&header, rumours)
}

fn encode(header: &Header<MemberId>, rumours: &[Member<MemberId>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    DatagramCodec.encode_header(header, &mut bytes).expect("a vector grows");
    if header.message != Message::Announce {
        bytes.put_u16(u16::try_from(rumours.len()).expect("few"));
        rumours.iter().for_each(|rumour| DatagramCodec.encode_member(rumour, &mut bytes).expect("room"));
    }
    bytes
}

fn transmits(machine: &mut Membership) -> Vec<super::MembershipTransmit> {
    std::iter::from_fn(|| machine.poll_transmit()).collect()
}

#[test]
fn a_forged_source_is_refused_and_changes_nothing() {
    let now = origin();
    let mut machine = machine(now);
    let claimed = NodeId([3; 16]);
    let forged = datagram(&member(claimed, 1), Message::Gossip, &[Member::down(member(PEER, 1))]);
    let refused = machine.handle_datagram(PEER, &forged, now);
    assert_eq!(refused, Err(DatagramRefused::Forged { from: PEER, claimed }));
    let ours = datagram(&member(US, 500), Message::Gossip, &[]);
    assert_eq!(machine.handle_datagram(US, &ours, now), Err(DatagramRefused::FromSelf));
    let large = vec![0; DATAGRAM_BYTES_MAX + 1];
    assert_eq!(machine.handle_datagram(PEER, &large, now), Err(DatagramRefused::Invalid));
    let format = DatagramRefused::Malformed(MalformedDatagram::Format(b'S'));
    assert_eq!(machine.handle_datagram(PEER, b"SH", now), Err(format));
    assert_eq!(machine.counters().refused, 4);
    assert_eq!((machine.members().count(), machine.poll_event(), machine.poll_transmit()), (0, None, None));
}

#[test]
fn a_datagram_with_one_wrong_byte_at_its_end_is_refused_whole() {
    let now = origin();
    let mut machine = machine(now);
    let mut bytes = datagram(&member(PEER, 1), Message::Gossip, &[Member::alive(member(NodeId([3; 16]), 1))]);
    *bytes.last_mut().expect("bytes") = 9;
    let tag = MalformedDatagram::Tag { what: "state", value: 9 };
    assert_eq!(machine.handle_datagram(PEER, &bytes, now), Err(DatagramRefused::Malformed(tag)));
    assert_eq!(machine.members().count(), 0, "not even the sender was believed");
}

#[test]
fn a_peer_cannot_make_this_node_dial_a_stranger() {
    let now = origin();
    let mut machine = machine(now);
    let peer = member(PEER, 1);
    machine.handle_connected(peer.life, peer.address, now);
    transmits(&mut machine);
    for stranger in [member(NodeId([9; 16]), 1), member(US, 7)] {
        let ask = datagram(&peer, Message::PingReq { target: stranger, probe_number: 1 }, &[]);
        assert_eq!(machine.handle_datagram(PEER, &ask, now), Ok(()));
        assert_eq!(machine.poll_transmit(), None);
    }
    assert_eq!(machine.counters().transmits_dropped, 2);

    let mut known = member(NodeId([3; 16]), 1);
    machine.handle_connected(known.life, known.address, now);
    transmits(&mut machine);
    known.address = address(1);
    let ask = datagram(&peer, Message::PingReq { target: known.clone(), probe_number: 1 }, &[]);
    assert_eq!(machine.handle_datagram(PEER, &ask, now), Ok(()));
    let sent = transmits(&mut machine);
    let to: Vec<_> = sent.iter().map(|transmit| (transmit.to, transmit.address)).collect();
    assert_eq!(to, [(known.life.node, address(7003))], "at the address that the node itself gave");
}

#[test]
fn who_is_held_for_dead_goes_on_above_every_claim() {
    let now = origin();
    let mut machine = machine(now);
    let peer = member(PEER, 1);
    machine.handle_connected(peer.life, peer.address, now);
    let dead = datagram(&peer, Message::TurnUndead, &[]);
    assert_eq!(machine.handle_datagram(PEER, &dead, now), Ok(()));
    let renewed = Life { node: US, generation: 101 };
    assert_eq!(machine.life(), renewed);
    assert_eq!(machine.poll_event(), Some(MembershipEvent::Renewed(renewed)));

    // Somebody remembers a former life that was ahead.
    let mut rumour = datagram(&peer, Message::Gossip, &[Member::alive(member(US, 5_000))]);
    let dst_generation = rumour.len() - (2 + 29 + 3) - 1 - 6;
    rumour[dst_generation..dst_generation + 6].copy_from_slice(&101_u64.to_be_bytes()[2..]);
    assert_eq!(machine.handle_datagram(PEER, &rumour, now), Ok(()));
    let due = now + Duration::from_millis(100);
    assert_eq!(machine.poll_timeout(), Some((due, "renewal")), "not at the speed of the network");
    machine.handle_timeout(due);
    assert_eq!(machine.life().generation, 5_001);

    // A claim that no clock explains would leave no generation to go on under.
    let lie = datagram(&peer, Message::Gossip, &[Member::alive(member(US, GENERATION_MAX))]);
    let implausible = Life { node: US, generation: GENERATION_MAX };
    assert_eq!(machine.handle_datagram(PEER, &lie, due), Err(DatagramRefused::Implausible(implausible)));
}

#[test]
fn a_rumoured_suspicion_and_its_end_show_half_a_second_later() {
    let mut now = origin();
    let mut machine = machine(now);
    let (peer, other) = (member(PEER, 1), member(NodeId([3; 16]), 1));
    for (incarnation, state, seen) in [
        (0, State::Alive, MemberState::Alive),
        (0, State::Suspect, MemberState::Suspect),
        (1, State::Alive, MemberState::Alive),
        (0, State::Suspect, MemberState::Alive),
    ] {
        let rumour = Member::new(other.clone(), incarnation, state);
        let bytes = datagram(&peer, Message::Gossip, &[rumour]);
        assert_eq!(machine.handle_datagram(PEER, &bytes, now), Ok(()));
        // Its own timers are late then, and start over.
        now += SUSPICION_SHOWS_AFTER;
        machine.handle_timeout(now);
        let known = machine.member(other.life.node).expect("known");
        assert_eq!(known.state, seen, "{state:?} at {incarnation}");
    }
}

#[test]
fn a_refuted_suspect_is_not_told_that_it_is_dead() {
    let mut now = origin();
    let mut machine = machine(now);
    let peer = member(PEER, 1);
    machine.handle_connected(peer.life, peer.address, now);
    let suspect = |machine: &Membership| machine.members().any(|seen| seen.state == MemberState::Suspect);
    while !suspect(&machine) {
        now = machine.poll_timeout().expect("probes").0.max(now);
        machine.handle_timeout(now);
    }
    // It refutes with its next incarnation, and answers from then on.
    transmits(&mut machine);
    let mut header = Header { src: peer, src_incarnation: 1, dst: member(US, 100), message: Message::Gossip };
    assert_eq!(machine.handle_datagram(PEER, &encode(&header, &[]), now), Ok(()));
    let (end, mut said) = (now + Duration::from_secs(3), Vec::new());
    while let Some((at, _)) = machine.poll_timeout().filter(|(at, _)| *at < end) {
        machine.handle_timeout(at);
        for transmit in transmits(&mut machine) {
            let message = Datagram::read(&transmit.bytes).expect("our own").header.message;
            if let Message::Ping(number) = message {
                header.message = Message::Ack(number);
                assert_eq!(machine.handle_datagram(PEER, &encode(&header, &[]), at), Ok(()));
            }
            said.push(message);
        }
    }
    assert!(!said.contains(&Message::TurnUndead), "{said:?}");
    assert!(said.iter().filter(|message| matches!(message, Message::Ping(_))).count() >= 5);
}

#[test]
fn a_late_timer_concludes_nothing() {
    let mut now = origin();
    let mut machine = machine(now);
    let peer = member(PEER, 1);
    machine.handle_connected(peer.life, peer.address, now);
    for _ in 0..20 {
        // Every timer is late by more than an answer takes, as on a machine that starves the process.
        now = machine.poll_timeout().expect("timers").0 + PROBE_RTT * 2;
        machine.handle_timeout(now);
    }
    assert!(machine.members().all(|seen| seen.state == MemberState::Alive));
    assert!(machine.counters().stalls >= 5);
    // In time again, silence counts again.
    let end = now + PROBE_PERIOD * 10;
    while let Some((at, _)) = machine.poll_timeout().filter(|(at, _)| *at < end) {
        machine.handle_timeout(at);
    }
    assert!(machine.members().all(|seen| seen.state == MemberState::Down));
}

#[test]
fn a_flood_of_invented_members_is_bounded() {
    let now = origin();
    let mut machine = machine(now);
    let peer = member(PEER, 1);
    let invented = |number: u64| {
        let mut node = [5; 16];
        node[..8].copy_from_slice(&number.to_be_bytes());
        Member::alive(member(NodeId(node), 1))
    };
    for batch in 0..200_u64 {
        let rumours: Vec<_> = (batch * 30..batch * 30 + 30).map(invented).collect();
        assert_eq!(machine.handle_datagram(PEER, &datagram(&peer, Message::Gossip, &rumours), now), Ok(()));
        transmits(&mut machine);
    }
    assert!(machine.members().count() <= MEMBERS_MAX);
    assert!(machine.counters().rumours_dropped > 1_000);
    // Those that are known are heard all the same.
    let gossip = datagram(&peer, Message::Gossip, &[Member::down(invented(0).id().clone()), invented(9_999)]);
    assert_eq!(machine.handle_datagram(PEER, &gossip, now), Ok(()));
    assert_eq!(machine.members().filter(|seen| seen.state == MemberState::Down).count(), 1);
}

fn any_member() -> impl Strategy<Value = MemberId> {
    let generation = prop_oneof![98..103_u64, Just(0), Just(GENERATION_MAX)];
    (1..6_u8, generation).prop_map(|(node, generation)| member(NodeId([node; 16]), generation))
}

fn any_rumour() -> impl Strategy<Value = Member<MemberId>> {
    let state = prop_oneof![Just(State::Alive), Just(State::Suspect), Just(State::Down)];
    (any_member(), prop_oneof![0..3_u16, Just(u16::MAX)], state)
        .prop_map(|(id, incarnation, state)| Member::new(id, incarnation, state))
}

fn any_message() -> impl Strategy<Value = Message<MemberId>> {
    (0..10_u8, any_member(), 0..4_u8).prop_map(|(kind, id, probe_number)| match kind {
        0 => Message::Ping(probe_number),
        1 => Message::Ack(probe_number),
        2 => Message::PingReq { target: id, probe_number },
        3 => Message::IndirectPing { origin: id, probe_number },
        4 => Message::IndirectAck { target: id, probe_number },
        5 => Message::ForwardedAck { origin: id, probe_number },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        _ => Message::TurnUndead,
    })
}

#[derive(Clone, Debug)]
enum Step {
    Say(MemberId, u16, MemberId, Message<MemberId>, Vec<Member<MemberId>>),
    Connect(MemberId),
    Disconnect(MemberId),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any_member(), 0..3_u16, any_member(), any_message(), vec(any_rumour(), 0..5))
            .prop_map(|(src, incarnation, dst, message, rumours)| {
                Step::Say(src, incarnation, dst, message, rumours)
            }),
        1 => any_member().prop_map(Step::Connect),
        1 => any_member().prop_map(Step::Disconnect),
        3 => (0..900_u64).prop_map(Step::Wait),
    ]
}

fn play(machine: &mut Membership, step: Step, now: &mut Instant) {
    match step {
        Step::Say(src, src_incarnation, mut dst, message, rumours) => {
            let from = src.life.node;
            if dst.life.node == US {
                dst.life = machine.life();
            }
            let header = Header { src, src_incarnation, dst, message };
            // Refused or not: what counts is what it leads to.
            let _ = machine.handle_datagram(from, &encode(&header, &rumours), *now);
        }
        Step::Connect(id) => machine.handle_connected(id.life, id.address, *now),
        Step::Disconnect(id) => machine.handle_disconnected(id.life.node),
        Step::Wait(millis) => {
            let end = *now + Duration::from_millis(millis);
            while let Some((at, _)) = machine.poll_timeout().filter(|(at, _)| *at <= end) {
                *now = at.max(*now);
                machine.handle_timeout(*now);
            }
            *now = end;
        }
    }
}

proptest! {
    #[test]
    fn bytes_never_break_it(bytes in vec(any::<u8>(), 0..200), format in any::<bool>()) {
        let now = origin();
        let mut machine = machine(now);
        let mut bytes = bytes;
        if format && let Some(first) = bytes.first_mut() {
            *first = super::MEMBERSHIP_FORMAT;
        }
        let _ = machine.handle_datagram(PEER, &bytes, now);
    }

    #[test]
    fn datagrams_read_back_and_thin_out(
        (src, dst) in (any_member(), any_member()),
        message in any_message(),
        rumours in vec(any_rumour(), 0..20),
    ) {
        prop_assume!(message != Message::Announce);
        let header = Header { src, src_incarnation: 3, dst, message };
        let bytes = encode(&header, &rumours);
        let read = Datagram::read(&bytes).expect("well-formed");
        prop_assert_eq!(&read.header, &header);
        prop_assert_eq!(read.rumours(), &rumours[..]);
        let thin = read.retain(|id| id.life.node == PEER);
        let kept: Vec<_> = rumours.into_iter().filter(|rumour| rumour.id().life.node == PEER).collect();
        let thin = Datagram::read(&thin).expect("well-formed");
        prop_assert_eq!(thin.rumours(), &kept[..]);
        // A datagram may end after its header, or whole; nowhere else.
        let whole = (0..bytes.len()).filter(|cut| Datagram::read(&bytes[..*cut]).is_ok()).count();
        prop_assert_eq!(whole, 1);
    }

    /// Whatever insiders say: nothing panics, generations only rise, and datagrams go to members and peers only.
    #[test]
    fn insiders_cannot_break_it(steps in vec(any_step(), 1..120)) {
        let mut now = origin();
        let mut machine = machine(now);
        let mut generations: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut ours = machine.life().generation;
        for step in steps {
            play(&mut machine, step, &mut now);
            prop_assert!(machine.life().generation >= ours);
            ours = machine.life().generation;
            for transmit in transmits(&mut machine) {
                prop_assert!(transmit.bytes.len() <= DATAGRAM_BYTES_MAX);
                prop_assert!(Datagram::read(&transmit.bytes).is_ok());
                prop_assert!(transmit.to != US);
                prop_assert_eq!(transmit.address, address(7000 + u16::from(transmit.to.0[0])));
            }
            while let Some(event) = machine.poll_event() {
                if let MembershipEvent::Member(seen) = event {
                    prop_assert!(seen.life.node != US);
                    let former = generations.insert(seen.life.node, seen.life.generation);
                    prop_assert!(former.is_none_or(|former| former <= seen.life.generation));
                }
            }
            prop_assert_eq!(machine.counters().faults, 0);
        }
    }
}
