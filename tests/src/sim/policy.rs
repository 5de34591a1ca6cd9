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
        match self {
            Self::Omniscient => cheapest(nodes, model, tokens, false),
            Self::HoldersFirst => {
                cheapest(nodes.clone(), model, tokens, true).or_else(|| cheapest(nodes, model, tokens, false))
            }
            Self::Router => None,
        }
        .map(|(_, number)| number)
    }
}

/// What a request would take at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// Until its batch starts, a load of its model included.
    pub(super) wait: Duration,
    /// Its batch, if it has one of its own.
    pub(super) run: Duration,
}

impl Cost {
    /// By the node's own word and the speed of its hardware.
    pub(super) fn at(node: &Node, model: u16, tokens: u64, now: Instant) -> Self {
        // Without tokens this is the wait and the load; how fast the node is, only the world knows from the start.
        let wait = node.core().predicted(node.key(model), 0, now);
        Self { wait, run: node.machine().request_time(tokens, wait.is_zero()) }
    }

    /// The sum.
    pub(super) fn total(self) -> Duration {
        self.wait + self.run
    }
}

/// The cheapest node and what it costs there.
pub(super) fn cheapest<'a>(
    nodes: impl Iterator<Item = (&'a Node, Instant)>,
    model: u16,
    tokens: u64,
    only_holders: bool,
) -> Option<(Cost, u16)> {
    let holds = |node: &Node| matches!(node.state(model), ModelState::Ready | ModelState::Loading);
    let asked = nodes.filter(|(node, _)| !only_holders || holds(node));
    let costs = asked.map(|(node, now)| (Cost::at(node, model, tokens, now), node.number));
    costs.min_by_key(|(cost, number)| (cost.total(), *number))
}
