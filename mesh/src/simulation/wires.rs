//! Connections: made, used, closed, and lost when nothing is heard on them.

use std::net::SocketAddr;
use std::sync::Arc;

use shoal_protocol::message::LoadRecord;
use shoal_protocol::{Message, VersionRange, encode};

use super::connection::{Connection, Said};
use super::member::{Dial, Event, Member};
use super::members::Members;
use super::network::Peer;
use super::{node_id, node_number, number_at};
use crate::core::{FactsMessage, FactsSend, LoadSend};
use crate::link::transport::MEMBER_IDLE_MAX;
use crate::peer::dial::DIAL_WAIT;
use crate::peer::links::{Arrival, LinkId};

/// QUIC's header and tag, UDP and IPv4 around a datagram, and the packet that acknowledges it: together a little more than
/// what real endpoints send (`peer::tests::cost`), which may acknowledge two with one.
const OVERHEAD_BYTES: usize = 58;
const ACK_BYTES: usize = 62;
/// A header and a load record.
const LOAD_FRAME_BYTES: usize = 16 + 48;

/// Bytes of a message as a frame; 0 where it has no wire form, which the sender would notice.
fn frame_bytes(message: Message) -> usize {
    let mut bytes = Vec::new();
    encode(&message.into(), VersionRange::OURS.max, &mut bytes).map_or(0, |()| bytes.len())
}

impl Members {
    fn count(&mut self, bytes: usize, times: usize) {
        self.traffic.bytes += ((bytes + OVERHEAD_BYTES + ACK_BYTES) * times) as u64;
        self.traffic.packets += times as u64;
    }

    /// A membership datagram: it may be lost, doubled and overtaken.
    pub(super) fn datagram(&mut self, from: u16, link: LinkId, bytes: Vec<u8>) {
        let Some(to) = self.open_to(from, link) else {
            return;
        };
        self.count(bytes.len(), 1);
        let now = self.now();
        let delays = self.network.datagram(Peer::Node(from), Peer::Node(to), false);
        for delay in delays.into_iter().flatten() {
            let said = Said::Swim(bytes.clone());
            self.timeline.plan(now + delay, Event::Said { to, from, link, said });
        }
    }

    /// The other end of a connection that is open at this one.
    fn open_to(&self, from: u16, link: LinkId) -> Option<u16> {
        let connection = self.connections.get(&link).filter(|connection| connection.is_open_at(from))?;
        Some(connection.other(from))
    }

    /// A message of the stream: it arrives behind those before it, and for certain while the connection stands.
    pub(super) fn stream(&mut self, from: u16, link: LinkId, said: Said) {
        let Some(to) = self.open_to(from, link) else {
            return;
        };
        let (now, delay) = (self.now(), self.network.stream(Peer::Node(from), Peer::Node(to)));
        let Some(connection) = self.connections.get_mut(&link) else {
            return;
        };
        match delay.filter(|_| !connection.is_stalled(from)) {
            Some(delay) => {
                let at = connection.in_order(from, now + delay);
                self.timeline.plan(at, Event::Said { to, from, link, said });
            }
            None => connection.stall(from, said),
        }
    }

    pub(super) fn send_facts(&mut self, from: u16, send: &FactsSend) {
        let bytes = self.facts_bytes(from, &send.message);
        let links = |member: &Member| -> Vec<LinkId> {
            send.to.iter().filter_map(|node| member.machines.links.of(*node)).collect()
        };
        let links = self.member(from).map(links).unwrap_or_default();
        self.count(bytes, links.len());
        links.into_iter().for_each(|link| self.stream(from, link, Said::Facts(send.message.clone())));
    }

    /// Bytes of a frame of facts. A record goes to each new peer: it is measured once.
    fn facts_bytes(&mut self, from: u16, message: &FactsMessage) -> usize {
        let message = match message {
            FactsMessage::Record(record) => {
                let measured = self.member(from).and_then(|member| member.record_bytes.as_ref());
                if let Some((_, bytes)) = measured.filter(|(known, _)| Arc::ptr_eq(known, record)) {
                    return *bytes;
                }
                let bytes = frame_bytes(Message::Facts(Box::new(record.as_ref().clone())));
                if let Some(member) = self.member_mut(from) {
                    member.record_bytes = Some((record.clone(), bytes));
                }
                return bytes;
            }
            FactsMessage::Delta(delta) => Message::FactsDelta(Box::new(delta.as_ref().clone())),
            FactsMessage::Digest(digest) => Message::FactsDigest(digest.as_ref().clone()),
            FactsMessage::Pull(pull) => Message::FactsPull(*pull),
        };
        frame_bytes(message)
    }

    /// Loads go to many at once, which is one event: they travel equally long, and each may be lost.
    pub(super) fn send_loads(&mut self, from: u16, send: LoadSend) {
        let Some(member) = self.member(from) else {
            return;
        };
        let connected = send.to.iter().filter(|node| member.machines.links.of(**node).is_some());
        let to: Vec<u16> = connected.map(|node| node_number(*node)).collect();
        self.count(send.records.len() * LOAD_FRAME_BYTES, to.len());
        let network = &mut self.network;
        let arrive: Vec<u16> =
            to.into_iter().filter(|to| network.reaches(Peer::Node(from), Peer::Node(*to))).collect();
        if let Some(first) = arrive.first() {
            let at = self.timeline.now() + self.network.trip(Peer::Node(from), Peer::Node(*first));
            let records = send.records.into();
            self.timeline.plan(at, Event::Loads { from, to: arrive, records });
        }
    }

    /// Loads reach those to whom they were sent.
    pub(super) fn spread(&mut self, from: u16, to: &[u16], records: &Arc<[LoadRecord]>) {
        let now = self.now();
        for number in to {
            let Some(member) = self.member_mut(*number) else {
                continue;
            };
            if member.is_running() && member.lag.is_zero() {
                let local = member.clock.local(now);
                member.machines.handle_loads(node_id(from), records, local);
            } else if let Some(link) = member.machines.links.of(node_id(from)) {
                let said = Said::Loads(records.clone());
                self.happen(Event::Said { to: *number, from, link, said });
            }
        }
    }

    /// A member dials an address; it hears of it after a round trip, or that nobody answers.
    pub(super) fn dial(&mut self, from: u16, address: SocketAddr) {
        let (to, began) = (number_at(address), self.now());
        let epoch = self.member(from).map_or(0, |member| member.epoch);
        let dial = Dial { from, to, epoch, began };
        let there = self.network.stream(Peer::Node(from), Peer::Node(to));
        let back = self.network.stream(Peer::Node(to), Peer::Node(from));
        match (there, back) {
            (Some(there), Some(back)) if from != to && there + back < DIAL_WAIT => {
                self.timeline.plan(began + there + back, Event::Handshake(dial));
            }
            _ => self.timeline.plan(began + DIAL_WAIT, Event::Missed(dial)),
        }
    }

    /// Both ends greet each other, if both are there.
    pub(super) fn shake_hands(&mut self, dial: Dial) {
        let Dial { from, to, epoch, began } = dial;
        let lives = |number| self.member(number).filter(|member| member.is_running());
        let dialer = lives(from).filter(|member| member.epoch == epoch);
        let (Some(dialer), Some(dialed)) = (dialer, lives(to)) else {
            return self.timeline.plan(began + DIAL_WAIT, Event::Missed(dial));
        };
        let (own, other) = (dialer.machines.membership.life(), dialed.machines.membership.life());
        let ends = [(from, epoch), (to, dialed.epoch)];
        let now = self.now();
        self.links_made += 1;
        let link = self.links_made;
        let there = self.network.stream(Peer::Node(from), Peer::Node(to)).unwrap_or(DIAL_WAIT);
        self.connections.insert(link, Connection::new(ends, now + there));
        self.timeline.plan(now + there, Event::Greeted { at: to, life: own, link, dialed: false });
        self.greet(from, Arrival { link, life: other, dialed: true });
        let local = self.local(from);
        if let Some(member) = self.member_mut(from) {
            member.machines.links.handle_dialed(super::address(to), true, local);
        }
        self.after(from);
    }

    /// A member closes a connection, which the other end hears.
    pub(super) fn close(&mut self, number: u16, link: LinkId) {
        let now = self.now();
        let Some(connection) = self.connections.get(&link) else {
            return;
        };
        let other = connection.other(number);
        if let Some(delay) = self.network.stream(Peer::Node(number), Peer::Node(other)) {
            self.timeline.plan(now + delay, Event::Closed { at: other, link });
        } else {
            self.timeline.plan(now + MEMBER_IDLE_MAX, Event::Idle { at: other, link });
        }
        self.lose(number, link);
    }

    /// Something arrives that was said on a connection which is closed at this end: whoever says it hears that.
    pub(super) fn reset(&mut self, number: u16, from: u16, link: LinkId) {
        let epoch = self.member(number).map(|member| member.epoch);
        let connection = self.connections.get(&link).zip(epoch);
        if connection.is_some_and(|(connection, epoch)| connection.is_reset_by(number, epoch))
            && let Some(delay) = self.network.stream(Peer::Node(number), Peer::Node(from))
        {
            self.timeline.plan(self.now() + delay, Event::Closed { at: from, link });
        }
    }

    /// A connection is over at one end.
    pub(super) fn lose(&mut self, number: u16, link: LinkId) {
        let local = self.local(number);
        let Some(connection) = self.connections.get_mut(&link) else {
            return;
        };
        let other = connection.other(number);
        connection.set_open(number, false);
        if !connection.is_open_at(other) {
            self.connections.remove(&link);
        }
        if let Some(member) = self.member_mut(number) {
            member.machines.handle_closed(link, node_id(other), local);
        }
    }

    pub(super) fn links_of(&self, number: u16) -> Vec<LinkId> {
        let own = self.connections.iter().filter(|(_, connection)| connection.has(number));
        own.map(|(link, _)| *link).collect()
    }
}
