//! Why an attempt went where it went: at most 512 bytes that travel with it and that `explain` shows.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | layout, 1 |
//! | 1 | 1 | reason |
//! | 2 | 1 | candidates |
//! | 3 | 1 | zero |
//! | 4 | 44 each | candidates, the chosen one first: node (16), device (2), state (1), source (1), age in ms (2), requests (2), the five parts of the estimate in microseconds (4 each) |
//!
//! Numbers are little-endian and held at their largest value.

use shoal_protocol::limits::DECISION_BYTES_MAX;
use shoal_protocol::message::ModelState;
use shoal_protocol::{DeviceIndex, NodeId, Place};

use super::estimate::Estimate;

const LAYOUT: u8 = 1;
const HEAD_BYTES: usize = 4;
const CANDIDATE_BYTES: usize = 44;
/// Candidates that a record names, the chosen one always among them.
pub(super) const CANDIDATES_MAX: usize = 8;

const _: () = assert!(HEAD_BYTES + CANDIDATES_MAX * CANDIDATE_BYTES <= DECISION_BYTES_MAX);

/// The rule that decided. The number is the wire form and is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// No facts say where the model is: the entry node is asked.
    Entry = 0,
    /// One place holds the model and no other could win.
    Only = 1,
    /// The cheapest, by load just asked for.
    Cheapest = 2,
    /// Nobody answered in time: the better of two at random, by aged gossip.
    TwoChoices = 3,
    /// Nobody holds the model: its owner loads it.
    Owner = 4,
    /// Nobody holds the model and its owner is overloaded: the second owner loads it.
    SecondOwner = 5,
    /// The holders are so busy that a load at the owner is over sooner.
    Further = 6,
    /// A node said who would be sooner.
    Redirected = 7,
    /// The first attempt was not heard of in time: a second one beside it.
    Hedge = 8,
}

impl Reason {
    pub(super) const ALL: [Self; 9] = [
        Self::Entry,
        Self::Only,
        Self::Cheapest,
        Self::TwoChoices,
        Self::Owner,
        Self::SecondOwner,
        Self::Further,
        Self::Redirected,
        Self::Hedge,
    ];

    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Entry => "no facts yet: asked the entry node",
            Self::Only => "the only place that holds the model",
            Self::Cheapest => "cheapest by fresh load",
            Self::TwoChoices => "no fresh load: better of two by gossip",
            Self::Owner => "nobody holds the model: its owner loads it",
            Self::SecondOwner => "nobody holds the model, its owner is overloaded: the second owner loads it",
            Self::Further => "holders busy: a load at the owner is over sooner",
            Self::Redirected => "a node named a better place",
            Self::Hedge => "hedge: the first attempt was not heard of in time",
        }
    }
}

/// How a candidate's load was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Source {
    /// Not at all.
    Facts = 0,
    /// From gossip.
    Gossip = 1,
    /// It was asked.
    Probe = 2,
}

/// A place that was considered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where.
    pub place: Place,
    /// Where the model stood there.
    pub state: ModelState,
    /// How its load was known.
    pub source: Source,
    /// Age of that load.
    pub age_ms: u16,
    /// Requests in flight there.
    pub requests: u16,
    /// What it would have cost.
    pub estimate: Estimate,
}

/// A choice with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The rule.
    pub reason: Reason,
    /// What was considered, the chosen one first; empty where it was chosen without an estimate.
    pub candidates: Vec<Candidate>,
}

/// Why bytes are no decision record. It is shown to people only: nothing depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecisionError {
    /// Another layout: written by a newer version.
    #[error("decision record of layout {0}, this version reads {LAYOUT}")]
    Layout(u8),
    /// Cut, or with a value that means nothing.
    #[error("damaged decision record")]
    Damaged,
}

impl Decision {
    /// A decision that considered nothing.
    pub(super) fn bare(reason: Reason) -> Self {
        Self { reason, candidates: Vec::new() }
    }

    /// The wire form: at most [`DECISION_BYTES_MAX`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let candidates = &self.candidates[..self.candidates.len().min(CANDIDATES_MAX)];
        let mut out = Vec::with_capacity(HEAD_BYTES + candidates.len() * CANDIDATE_BYTES);
        out.extend([LAYOUT, self.reason as u8, candidates.len() as u8, 0]);
        for candidate in candidates {
            out.extend(candidate.place.node.0);
            out.extend(candidate.place.device.0.to_le_bytes());
            out.extend([candidate.state as u8, candidate.source as u8]);
            out.extend(candidate.age_ms.to_le_bytes());
            out.extend(candidate.requests.to_le_bytes());
            let Estimate { wait_us, exec_us, cold_us, net_us, risk_us } = candidate.estimate;
            for part in [wait_us, exec_us, cold_us, net_us, risk_us] {
                out.extend(u32::try_from(part).unwrap_or(u32::MAX).to_le_bytes());
            }
        }
        out
    }

    /// Reads untrusted bytes.
    ///
    /// # Errors
    /// See [`DecisionError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecisionError> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(DecisionError::Damaged)?;
        let [layout, reason, count, zero] = *head;
        if layout != LAYOUT {
            return Err(DecisionError::Layout(layout));
        }
        let reason = Reason::ALL.into_iter().find(|known| *known as u8 == reason);
        let (candidates, cut) = rest.as_chunks::<CANDIDATE_BYTES>();
        let is_whole = cut.is_empty() && candidates.len() == usize::from(count);
        if !is_whole || usize::from(count) > CANDIDATES_MAX || zero != 0 {
            return Err(DecisionError::Damaged);
        }
        Ok(Self {
            reason: reason.ok_or(DecisionError::Damaged)?,
            candidates: candidates.iter().map(Candidate::decode).collect::<Result<_, _>>()?,
        })
    }
}

impl Candidate {
    fn decode(bytes: &[u8; CANDIDATE_BYTES]) -> Result<Self, DecisionError> {
        let (node, rest) = bytes.split_first_chunk::<16>().ok_or(DecisionError::Damaged)?;
        let (small, parts) = rest.split_first_chunk::<8>().ok_or(DecisionError::Damaged)?;
        let [d0, d1, state, source, a0, a1, r0, r1] = *small;
        let states = [ModelState::Stored, ModelState::Loading, ModelState::Ready, ModelState::Failed];
        let sources = [Source::Facts, Source::Gossip, Source::Probe];
        let mut parts = parts.as_chunks::<4>().0.iter().map(|part| u64::from(u32::from_le_bytes(*part)));
        let mut part = || parts.next().ok_or(DecisionError::Damaged);
        Ok(Self {
            place: Place { node: NodeId(*node), device: DeviceIndex(u16::from_le_bytes([d0, d1])) },
            state: *states.get(usize::from(state)).ok_or(DecisionError::Damaged)?,
            source: *sources.get(usize::from(source)).ok_or(DecisionError::Damaged)?,
            age_ms: u16::from_le_bytes([a0, a1]),
            requests: u16::from_le_bytes([r0, r1]),
            estimate: Estimate {
                wait_us: part()?,
                exec_us: part()?,
                cold_us: part()?,
                net_us: part()?,
                risk_us: part()?,
            },
        })
    }
}
