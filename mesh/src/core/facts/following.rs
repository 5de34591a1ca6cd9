//! What a client knows by following a node.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use shoal_protocol::message::{FactsDigest, MeshUpdate};
use shoal_protocol::{Kind, Message, NodeId};

use super::super::client::ClientCore;
use super::super::member::{Life, MemberState};
use super::held::{Effect, Held, version};
use super::interface::FactsRefused;

/// A node that was told of nobody knows everybody after this time: it joins within two seconds. Records of whom it has not
/// heard by then are forgotten. They come again should it hear of them after all, as when a partition is over.
const UNKNOWN_AFTER: Duration = Duration::from_secs(10);

/// Why a client cannot go on with a feed: follow anew, with a digest of what is held.
#[derive(Debug, thiserror::Error)]
pub enum FeedBroken {
    /// A change came of a record that is not held.
    #[error("a change came without what it changes")]
    Gap,
    /// Something came that is not said to followers.
    #[error("{0:?} does not belong into a feed")]
    Misplaced(Kind),
    /// A record breaks a limit.
    #[error(transparent)]
    Refused(FactsRefused),
}

/// The records that a client heard of, from whichever node it follows, kept so that changes can be applied and that the
/// next node need not tell them again.
#[derive(Debug, Default)]
pub struct Following {
    held: Held,
    /// Whose records came from former nodes, while the one that is followed now has not spoken of them.
    unknown: BTreeSet<NodeId>,
    /// When they are forgotten.
    forgets_at: Option<Instant>,
}

impl Following {
    /// A node is followed from now on; the first word to it. It may have come too late to know of a death of which the former
    /// one would have told: a life of which it never speaks is not there.
    pub fn handle_follow(&mut self) -> FactsDigest {
        self.unknown = self.held.iter().map(|record| record.node).collect();
        self.forgets_at = None;
        self.digest()
    }

    /// What is held.
    #[must_use]
    pub fn digest(&self) -> FactsDigest {
        FactsDigest { entries: self.held.iter().map(|record| version(record)).collect(), answer: false }
    }

    /// A message of the feed; what is new in it goes to `core`. Whether it says that all was told that there was.
    ///
    /// # Errors
    /// See [`FeedBroken`]; what came before it stays.
    pub fn handle_message(
        &mut self,
        message: Message,
        core: &mut ClientCore,
        now: Instant,
    ) -> Result<bool, FeedBroken> {
        let (node, effect) = match message {
            Message::Facts(record) => (record.node, self.held.accept(*record)),
            Message::FactsDelta(delta) => (delta.node, self.held.apply(&delta)),
            Message::MeshUpdate(update) => {
                self.handle_update(&update, core, now);
                return Ok(update.settled);
            }
            other => return Err(FeedBroken::Misplaced(other.kind())),
        };
        self.unknown.remove(&node);
        match effect {
            Ok(Effect::Changed) => {
                if let Some(record) = self.held.get(node) {
                    core.handle_facts(record, now);
                }
                Ok(false)
            }
            // Told again by another node, of the dead by one that has not heard yet, or more than there is room for.
            Ok(Effect::Stale) | Err(FactsRefused::Dead(_) | FactsRefused::Full(_)) => Ok(false),
            Ok(Effect::Gap) => Err(FeedBroken::Gap),
            Err(error) => Err(FeedBroken::Refused(error)),
        }
    }

    fn handle_update(&mut self, update: &MeshUpdate, core: &mut ClientCore, now: Instant) {
        for member in &update.members {
            let life = Life { node: member.node, generation: member.generation };
            self.unknown.remove(&member.node);
            if member.state == MemberState::Down {
                self.held.bury(life, now);
            }
            core.handle_member(life, member.state, now);
        }
        self.held.expire(now);
        if update.settled {
            self.forgets_at = Some(now + UNKNOWN_AFTER);
        }
        if self.forgets_at.take_if(|at| *at <= now).is_some() {
            self.forget_unknown(core);
        }
        for told in &update.loads {
            // Before the clock's origin nothing was heard.
            if let Some(heard) = now.checked_sub(told.age_us.into()) {
                core.handle_load(told.node, &told.load, heard);
            }
        }
    }

    fn forget_unknown(&mut self, core: &mut ClientCore) {
        for node in std::mem::take(&mut self.unknown) {
            self.held.remove(node);
            core.handle_forgotten(node);
        }
    }
}
