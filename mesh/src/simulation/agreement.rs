//! Whether members know what there is to know: what convergence is measured by.

use std::collections::BTreeMap;

use shoal_protocol::message::NodeFacts;

use super::members::Members;
use super::node_id;
use crate::core::{Life, MemberState};

/// Which state of which life a record is.
fn version(record: &NodeFacts) -> (Life, u64) {
    (Life { node: record.node, generation: record.generation }, record.version)
}

impl Members {
    /// The members whose processes run.
    pub fn running(&self) -> impl Iterator<Item = u16> + Clone {
        (0..self.members.len() as u16).filter(|number| self.is_running(*number))
    }

    /// Whether every running member sees every other one alive, in its present life.
    #[must_use]
    pub fn see_each_other(&self) -> bool {
        let lives: Vec<Life> = self.running().filter_map(|number| self.life(number)).collect();
        self.running().all(|number| {
            let alive = self.seen_by(number).filter(|seen| seen.state == MemberState::Alive);
            let alive: BTreeMap<_, _> = alive.map(|seen| (seen.life.node, seen.life.generation)).collect();
            let mut others = lives.iter().filter(|life| life.node != node_id(number));
            others.all(|life| alive.get(&life.node) == Some(&life.generation))
        })
    }

    /// Whether every running member holds the running members' last words on themselves, and nobody else's.
    #[must_use]
    pub fn agree(&self) -> bool {
        let own = |number| self.record(number, node_id(number)).map(|own| version(own));
        let mut truth: Vec<_> = self.running().filter_map(own).collect();
        truth.sort_unstable();
        let present = |number| own(number).map(|(life, _)| life) == self.life(number);
        let holds = |number| self.records(number).map(|held| version(held)).eq(truth.iter().copied());
        self.running().all(|number| present(number) && holds(number))
    }

    /// Whether every other running member sees one in any of these states.
    #[must_use]
    pub fn all_see(&self, number: u16, states: &[MemberState]) -> bool {
        let sees = |by| {
            let mut seen = self.seen_by(by).filter(|seen| seen.life.node == node_id(number));
            seen.any(|seen| states.contains(&seen.state))
        };
        self.running().filter(|by| *by != number).all(sees)
    }
}
