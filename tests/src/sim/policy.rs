//! Where requests go.

use std::time::{Duration, Instant};

use shoal_protocol::message::ModelState;

use super::node::Node;

/// Who chooses the device. The first two are baselines that cannot be built, by the present state of all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// Whichever node is done first.
    Omniscient,
    /// The same among those that hold the model; all others only where nobody does.
    HoldersFirst,
    /// The client's own router, by what it knows and asks.
    Router,
}

impl Policy {
    /// Every policy, baselines first.
    pub const ALL: [Self; 3] = [Self::Omniscient, Self::HoldersFirst, Self::Router];

    /// As the command line writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Omniscient => "omniscient",
            Self::HoldersFirst => "holders-first",
            Self::Router => "router",
        }
    }

    /// The node that is best by its own word, given at this very moment; `None` leaves the choice to the client.
    pub(super) fn choose<'a>(
        self,
        nodes: impl Iterator<Item = (&'a Node, Instant)> + Clone,
        model: u16,
        tokens: u64,
    ) -> Option<u16> {
        let holds = |node: &Node| matches!(node.state(model), ModelState::Ready | ModelState::Loading);
        let cost = |node: &Node, now: Instant| -> (Duration, u16) {
            // Without tokens this is the wait and the load; how fast the node is, only the world knows from the start.
            let wait = node.core().predicted(node.key(model), 0, now);
            (wait + node.machine().request_time(tokens, wait.is_zero()), node.number)
        };
        let best = |only_holders: bool| {
            let asked = nodes.clone().filter(|(node, _)| !only_holders || holds(node));
            asked.map(|(node, now)| cost(node, now)).min().map(|(_, number)| number)
        };
        match self {
            Self::Omniscient => best(false),
            Self::HoldersFirst => best(true).or_else(|| best(false)),
            Self::Router => None,
        }
    }
}
