//! What a member decides with: membership, links, facts and loads, composed. Pure.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use shoal_protocol::message::LoadRecord;
use shoal_protocol::{Message, NodeId};

use super::interface::{MeshState, News, PeerCounters};
use super::links::{Arrival, LinkId, Links, Verdict};
use super::loads::Loads;
use crate::core::{
    Chance, DatagramRefused, Facts, FactsMessage, FactsRefused, Life, LoadSequence, MemberState, Membership,
    MembershipEvent, MembershipOptions,
};

/// Whether the sender may go on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// What it said was used, or was no fault of its own.
    Fine,
    /// It said what no member may say.
    Breach(String),
}

/// The machines of a member. After every `handle_*` the owner calls [`settle`](Self::settle), and then polls.
pub(crate) struct Machines {
    pub(crate) membership: Membership,
    pub(crate) links: Links,
    pub(crate) facts: Facts,
    pub(crate) loads: Loads,
    /// Whether [`Self::state`] changed otherwise than in loads.
    is_changed: bool,
    /// Bounded by what settling finds: the owner polls all of it after each event.
    news: VecDeque<News>,
    breaches: u64,
    pub(super) handshakes_refused: u64,
}

impl Machines {
    pub(crate) fn new(options: MembershipOptions, sequence: LoadSequence, now: Instant) -> Self {
        let life = options.life;
        let mut chance = Chance::new(options.chance);
        let [links, facts, loads] = std::array::from_fn(|_| chance.next());
        Self {
            membership: Membership::new(options, now),
            links: Links::new(life.node, links),
            facts: Facts::new(life, facts, now),
            loads: Loads::new(sequence, loads),
            is_changed: false,
            news: VecDeque::new(),
            breaches: 0,
            handshakes_refused: 0,
        }
    }

    /// A connection was greeted; `address` is where its other end is dialed.
    pub(crate) fn handle_arrival(&mut self, arrival: Arrival, address: SocketAddr, now: Instant) -> Verdict {
        let verdict = self.links.handle_arrival(arrival, now);
        if let Verdict::Keep { .. } = verdict {
            let Life { node, .. } = arrival.life;
            self.membership.handle_connected(arrival.life, address, now);
            // There is room for more peers than for links.
            let told = self.facts.handle_connected(node, now);
            self.breaches += u64::from(told.is_err());
            // What its former life said is of no use; this one speaks at once.
            self.loads.handle_gone(node, now);
            self.loads.gossip.handle_connected(node, now);
        }
        verdict
    }

    /// A connection is over.
    pub(crate) fn handle_closed(&mut self, link: LinkId, node: NodeId, now: Instant) {
        if self.links.handle_closed(link, node, now) {
            self.membership.handle_disconnected(node);
            self.facts.handle_disconnected(node);
            self.loads.gossip.handle_disconnected(node);
        }
    }

    /// A membership datagram from the peer whose certificate names `from`.
    pub(crate) fn handle_datagram(&mut self, from: NodeId, bytes: &[u8], now: Instant) -> Outcome {
        match self.membership.handle_datagram(from, bytes, now) {
            Ok(()) => Outcome::Fine,
            // Rumours pass through honest members, and who runs with our key may be us.
            Err(error @ (DatagramRefused::FromSelf | DatagramRefused::Implausible(_))) => {
                tracing::debug!(%from, %error, "membership datagram not used");
                Outcome::Fine
            }
            Err(error) => self.breach(error.to_string()),
        }
    }

    /// A device of this node's own is loaded so now.
    pub(crate) fn handle_own_load(&mut self, record: LoadRecord, now: Instant) {
        self.loads.handle_own(self.membership.life().node, record, now);
    }

    /// Loads from the peer whose certificate names `from`.
    pub(crate) fn handle_loads(&mut self, from: NodeId, records: &[LoadRecord], now: Instant) {
        records.iter().for_each(|record| self.loads.handle_heard(from, *record, now));
    }

    /// A frame from the peer whose certificate names `from`.
    pub(crate) fn handle_message(&mut self, from: NodeId, message: Message, now: Instant) -> Outcome {
        let message = match message {
            Message::Facts(record) => FactsMessage::Record(record.into()),
            Message::FactsDelta(delta) => FactsMessage::Delta(delta.into()),
            Message::FactsDigest(digest) => FactsMessage::Digest(digest.into()),
            Message::FactsPull(pull) => FactsMessage::Pull(pull),
            Message::LoadRequest(request) => {
                self.news.push_back(News::LoadRequested { from, request });
                return Outcome::Fine;
            }
            other => return self.breach(format!("{:?} does not belong here", other.kind())),
        };
        self.handle_facts(from, message, now)
    }

    /// Facts from the peer whose certificate names `from`.
    pub(crate) fn handle_facts(&mut self, from: NodeId, message: FactsMessage, now: Instant) -> Outcome {
        let handled = match message {
            FactsMessage::Record(record) => self.facts.handle_record(from, record),
            FactsMessage::Delta(delta) => self.facts.handle_delta(from, Arc::unwrap_or_clone(delta), now),
            FactsMessage::Digest(digest) => self.facts.handle_digest(from, &digest, now),
            FactsMessage::Pull(pull) => self.facts.handle_pull(from, pull, now),
        };
        match handled {
            Ok(()) => Outcome::Fine,
            Err(error @ (FactsRefused::NotOwner { .. } | FactsRefused::Limit(_))) => {
                self.breach(error.to_string())
            }
            // The connection it came on was replaced, its sender was declared dead, or there is no room here.
            Err(error @ (FactsRefused::Stranger(_) | FactsRefused::Dead(_) | FactsRefused::Full(_))) => {
                tracing::debug!(%from, %error, "facts not used");
                Outcome::Fine
            }
        }
    }

    fn breach(&mut self, why: String) -> Outcome {
        self.breaches += 1;
        Outcome::Breach(why)
    }

    /// The time has come that [`poll_timeout`](Self::poll_timeout) named.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let is_due = |timeout: Option<(Instant, &str)>| timeout.is_some_and(|(at, _)| at <= now);
        if is_due(self.membership.poll_timeout()) {
            self.membership.handle_timeout(now);
        }
        if is_due(self.facts.poll_timeout()) {
            self.facts.handle_timeout(now);
        }
        if is_due(self.loads.gossip.poll_timeout()) {
            self.loads.gossip.handle_timeout(now);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) or the next dial is due, and why. `None`: the member has left.
    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let (members, facts) = (self.membership.poll_timeout(), self.facts.poll_timeout());
        let timeouts = [members, facts, self.loads.poll_timeout(), self.links.poll_timeout()];
        timeouts.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Lets each machine know what the others found.
    pub(crate) fn settle(&mut self, now: Instant) {
        while let Some(event) = self.membership.poll_event() {
            match event {
                MembershipEvent::Member(seen) => {
                    self.links.handle_member(seen, now);
                    if seen.state == MemberState::Down {
                        self.facts.handle_down(seen.life, now);
                        self.loads.handle_gone(seen.life.node, now);
                    }
                    self.tell(News::Member(seen));
                }
                MembershipEvent::Renewed(life) => {
                    self.facts.handle_renewed(life, now);
                    self.tell(News::Renewed(life));
                }
            }
        }
        while let Some(address) = self.membership.poll_dial() {
            self.links.handle_seed(address, now);
        }
        while let Some(node) = self.facts.poll_changed() {
            let record = self.facts.record(node).cloned();
            self.tell(record.map_or(News::Forgotten(node), News::Facts));
        }
    }

    fn tell(&mut self, news: News) {
        self.is_changed = true;
        self.news.push_back(news);
    }

    /// What the node did not know yet.
    pub(crate) fn poll_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// The next datagram, and the connection to send it on.
    pub(crate) fn poll_datagram(&mut self, now: Instant) -> Option<(LinkId, Vec<u8>)> {
        loop {
            let transmit = self.membership.poll_transmit()?;
            let ready = self.links.handle_transmit(transmit.to, transmit.address, transmit.bytes, now);
            if ready.is_some() {
                return ready;
            }
        }
    }

    /// What is known of the mesh, if that is news.
    pub(super) fn poll_state(&mut self, now: Instant) -> Option<MeshState> {
        let is_news = std::mem::take(&mut self.is_changed) || self.loads.is_due(now);
        is_news.then(|| self.state(now))
    }

    /// What is known of the mesh now.
    pub(crate) fn state(&mut self, now: Instant) -> MeshState {
        MeshState {
            life: self.membership.life(),
            members: self.membership.members().copied().collect(),
            facts: self.facts.records().map(|record| (record.node, record.clone())).collect(),
            loads: self.loads.tell(now),
        }
    }

    pub(crate) fn counters(&self) -> PeerCounters {
        PeerCounters {
            membership: self.membership.counters(),
            facts: self.facts.counters(),
            links: self.links.len(),
            breaches: self.breaches,
            handshakes_refused: self.handshakes_refused,
            dropped: self.links.dropped,
            datagrams_dropped: 0, // counted where they are sent, as these:
            loads_sent: 0,
        }
    }
}
