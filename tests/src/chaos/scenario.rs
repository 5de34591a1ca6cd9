//! What is done to a mesh, and when. Data only.

use std::time::Duration;

use crate::sim::{Peer, Weather};

use super::cluster::CLIENTS;

/// Something that is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// SIGKILL to all of them at once.
    Kill(Vec<u16>),
    /// SIGTERM: it drains.
    Terminate(u16),
    /// SIGSTOP: it keeps its sockets and says nothing.
    Stop(u16),
    /// SIGCONT
    Continue(u16),
    /// Its computing threads stop; the rest of it talks on.
    Hang(u16),
    /// They go on.
    Thaw(u16),
    /// Started again with the same identity at the same address.
    Start(Vec<u16>),
    /// Started with a new identity at the same address.
    StartAnew(u16),
    /// Started with the same identity at another address.
    Move {
        /// Where it was.
        from: u16,
        /// A free seat.
        to: u16,
    },
    /// Nothing gets from the ones to the others; the other direction is as it was.
    Cut(Vec<Peer>, Vec<Peer>),
    /// Undoes all cuts.
    Heal,
    /// Every packet travels like this from now on.
    Weather(Weather),
    /// The seat's network link goes down or up.
    Link(u16, bool),
    /// A model that nobody holds is asked for, and the node that loads it gets SIGKILL meanwhile.
    KillLoader,
}

/// A scenario: actions at shares of its duration.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// For people.
    pub what: &'static str,
    /// In order of time.
    pub steps: Vec<(f64, Action)>,
}

/// Packets of a bad network: 5 % are lost each way, some come twice, and they overtake each other.
pub const LOSSY: Weather = Weather {
    delay: Duration::from_millis(1),
    jitter: Duration::from_millis(1),
    loss: 0.05,
    duplicate: 0.02,
};

impl Scenario {
    /// All of them, for a mesh of `nodes` on seats from 0 with one seat free after them.
    #[must_use]
    pub fn all(nodes: u16) -> Vec<Self> {
        let last = nodes - 1;
        let mut all = vec![
            Self::new("calm", "nothing happens", []),
            kills(nodes),
            Self::new(
                "pause",
                "a node is stopped (SIGSTOP) and goes on later (SIGCONT)",
                [(0.25, Action::Stop(0)), (0.65, Action::Continue(0))],
            ),
            Self::new(
                "hang",
                "the computing threads of a node hang while the rest of it talks on",
                [(0.25, Action::Hang(1)), (0.65, Action::Thaw(1))],
            ),
            Self::new(
                "kill-loader",
                "a node is killed while it loads a model that others wait for",
                [(0.25, Action::KillLoader)],
            ),
            Self::new(
                "drain",
                "a node drains (SIGTERM) and comes back",
                [(0.25, Action::Terminate(last)), (0.65, Action::Start(vec![last]))],
            ),
            Self::new(
                "kill-draining",
                "a node is killed a moment after it began to drain",
                [
                    (0.25, Action::Terminate(0)),
                    (0.252, Action::Kill(vec![0])),
                    (0.65, Action::Start(vec![0])),
                ],
            ),
            kill_third(nodes),
            Self::new(
                "loss",
                "5 % of all packets are lost each way, 2 % come twice, all are late and overtake each other; a node dies",
                [(0.05, Action::Weather(LOSSY)), (0.45, Action::Kill(vec![1]))],
            ),
            Self::new(
                "new-identity",
                "a node dies, and another one comes up at its address",
                [(0.25, Action::Kill(vec![0])), (0.5, Action::StartAnew(0))],
            ),
            Self::new(
                "new-address",
                "a node dies, and comes up at another address",
                [(0.25, Action::Kill(vec![0])), (0.5, Action::Move { from: 0, to: nodes })],
            ),
            Self::new(
                "link-down",
                "a node's network link goes down and comes up again",
                [(0.25, Action::Link(1, false)), (0.65, Action::Link(1, true))],
            ),
        ];
        all.extend(partitions(nodes));
        all
    }

    fn new<const N: usize>(name: &'static str, what: &'static str, steps: [(f64, Action); N]) -> Self {
        Self { name, what, steps: steps.into() }
    }

    /// Whether single threads must be stopped for it.
    #[must_use]
    pub fn needs_freezer(&self) -> bool {
        self.steps.iter().any(|(_, action)| matches!(action, Action::Hang(_)))
    }

    /// Whether it takes links down.
    #[must_use]
    pub fn needs_links(&self) -> bool {
        self.steps.iter().any(|(_, action)| matches!(action, Action::Link(..)))
    }

    /// Whether it needs a model that takes long to load.
    #[must_use]
    pub fn needs_slow_model(&self) -> bool {
        self.steps.iter().any(|(_, action)| *action == Action::KillLoader)
    }
}

/// One after the other dies and comes back: the most failovers in the least time.
fn kills(nodes: u16) -> Scenario {
    let turns = 4;
    let step = |turn: u16| {
        let (at, node) = (0.1 + 0.2 * f64::from(turn), turn % nodes);
        [(at, Action::Kill(vec![node])), (at + 0.12, Action::Start(vec![node]))]
    };
    let steps = (0..turns).flat_map(step).collect();
    Scenario { name: "kill", what: "nodes are killed (SIGKILL) one after the other and come back", steps }
}

fn kill_third(nodes: u16) -> Scenario {
    // Rounded up: 30 % of six are two.
    let killed: Vec<_> = (0..(3 * nodes).div_ceil(10)).collect();
    let steps = vec![(0.25, Action::Kill(killed.clone())), (0.65, Action::Start(killed))];
    Scenario { name: "kill-third", what: "30 % of the nodes are killed at once and come back", steps }
}

fn partitions(nodes: u16) -> [Scenario; 2] {
    let cut_off: Vec<_> = (0..(nodes / 3).max(1)).map(Peer::Node).collect();
    let rest: Vec<_> =
        (0..nodes).map(Peer::Node).filter(|peer| !cut_off.contains(peer)).chain([CLIENTS]).collect();
    let one_way = vec![(0.25, Action::Cut(cut_off.clone(), rest.clone())), (0.65, Action::Heal)];
    let both_ways = vec![
        (0.25, Action::Cut(cut_off.clone(), rest.clone())),
        (0.25, Action::Cut(rest, cut_off)),
        (0.65, Action::Heal),
    ];
    [
        Scenario {
            name: "partition",
            what: "a third of the nodes can reach neither the others nor the clients, nor they them",
            steps: both_ways,
        },
        Scenario {
            name: "one-way",
            what: "a third of the nodes hear everything, but nothing that they say gets out",
            steps: one_way,
        },
    ]
}
