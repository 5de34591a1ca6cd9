//! Three nodes under load: one is killed, comes back, and another is drained.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::json;
use shoal_mesh::{Client, ConnectOptions};
use shoal_protocol::NodeId;
use shoal_protocol::message::Status;
use tokio::time::{MissedTickBehavior, sleep_until, timeout};

use super::load::{self, LoadPlan};
use super::measure::Measured;
use super::nodes::{Ground, NODES, NodePlan, NodeProcess};
use super::timeline::Timeline;
use crate::cli::census::hot_models;
use crate::cli::exit::{Exit, Stop};
use crate::cli::latencies::Latencies;
use crate::clock;

/// When what happens, in parts of the load's time: each has several seconds before and after it.
const KILL_AT: f64 = 0.2;
const BACK_AT: f64 = 0.45;
const DRAIN_AT: f64 = 0.7;

/// Between two looks at where the models are, and how long one may take.
const LOOK_PERIOD: Duration = Duration::from_millis(250);
const LOOK_TIME_MAX: Duration = Duration::from_secs(1);

/// Something that happened, and when since the load began.
pub(super) struct Event {
    pub(super) at: Duration,
    pub(super) what: String,
}

/// A model and the nodes that have it in memory.
pub(super) type Residence = Vec<(String, Vec<NodeId>)>;

/// Everything that was seen.
pub(super) struct Story {
    pub(super) began: Instant,
    /// In the order of their names: `node-1`, …
    pub(super) nodes: Vec<NodeId>,
    pub(super) timeline: Timeline,
    pub(super) events: Vec<Event>,
    /// Where each model lived, whenever that changed.
    pub(super) residences: Vec<(Duration, Residence)>,
    /// Of the nodes that are left, since their start.
    pub(super) latencies: Latencies,
}

pub(super) fn name_of_node(index: usize) -> String {
    format!("node-{}", index + 1)
}

/// The nodes, of which some may be gone.
struct Nodes<'a> {
    ground: &'a Ground,
    plans: [NodePlan; NODES],
    running: [Option<NodeProcess>; NODES],
}

impl<'a> Nodes<'a> {
    async fn start(ground: &'a Ground, plans: [NodePlan; NODES]) -> Result<Self, Stop> {
        let mut nodes = Self { ground, plans, running: [const { None }; NODES] };
        for index in 0..NODES {
            ground.node_identity(&name_of_node(index)).map_err(Stop::with(Exit::Unavailable))?;
            nodes.start_one(index).await?;
        }
        Ok(nodes)
    }

    /// With the running ones as seeds.
    async fn start_one(&mut self, index: usize) -> Result<NodeId, Stop> {
        let seeds: Vec<_> = self.running.iter().flatten().map(|node| node.mesh).collect();
        let plan = &self.plans[index];
        let process = NodeProcess::start(self.ground, &name_of_node(index), plan, &seeds).await?;
        Ok(self.running[index].insert(process).node)
    }

    fn take(&mut self, index: usize) -> Result<NodeProcess, Stop> {
        let gone = || Stop::new(Exit::DemoFailed, format!("{} is not there", name_of_node(index)));
        self.running[index].take().ok_or_else(gone)
    }

    fn ids(&self) -> Vec<NodeId> {
        self.running.iter().flatten().map(|node| node.node).collect()
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.running.iter().flatten().map(|node| node.quic).collect()
    }
}

/// Plays it. The first node, which the client came in by, is the one that is killed.
pub(super) async fn play(ground: &Ground, plans: [NodePlan; NODES], load: &LoadPlan) -> Result<Story, Stop> {
    let mut nodes = Nodes::start(ground, plans).await?;
    let ids = nodes.ids();
    let identity = ground.client().map_err(Stop::with(Exit::Unavailable))?;
    let client = Client::connect(ConnectOptions::new(nodes.addresses(), identity)).await?;
    let (began, running) = (clock::now(), RefCell::new(ids.clone()));
    let events = happen(&mut nodes, &running, load.time, began);
    let seen = observe(&client, &running, load.time, began);
    let (timeline, events, residences) = tokio::join!(load::run(&client, load, began), events, seen);
    let events = events?;
    let left = running.into_inner();
    let mut latencies = Latencies::default();
    for status in statuses(&client, &left, true).await.into_iter().flatten() {
        latencies.add(&status.histograms);
    }
    Ok(Story { began, nodes: ids, timeline, events, residences, latencies })
}

/// What happens to the nodes while the load runs; `running` are those that serve.
async fn happen(
    nodes: &mut Nodes<'_>,
    running: &RefCell<Vec<NodeId>>,
    time: Duration,
    began: Instant,
) -> Result<Vec<Event>, Stop> {
    let mut events = Vec::new();
    let since = || clock::now().saturating_duration_since(began);
    for (share, step) in [(KILL_AT, Step::Kill(0)), (BACK_AT, Step::Back(0)), (DRAIN_AT, Step::Drain(1))] {
        sleep_until((began + time.mul_f64(share)).into()).await;
        let mut tell = |what: String| events.push(Event { at: since(), what });
        match step {
            Step::Kill(index) => {
                let node = nodes.take(index)?;
                running.borrow_mut().retain(|id| *id != node.node);
                tell(format!("{} is killed (SIGKILL)", name_of_node(index)));
                node.kill();
            }
            Step::Back(index) => {
                let node = nodes.start_one(index).await?;
                running.borrow_mut().push(node);
                tell(format!("{} is back", name_of_node(index)));
            }
            Step::Drain(index) => {
                let node = nodes.take(index)?;
                running.borrow_mut().retain(|id| *id != node.node);
                tell(format!("{} is drained", name_of_node(index)));
                let status = node.leave().await?;
                if !status.success() {
                    let what = format!("{} left with {status}", name_of_node(index));
                    return Err(Stop::new(Exit::DemoFailed, what));
                }
                tell(format!("{} has left", name_of_node(index)));
            }
        }
    }
    Ok(events)
}

#[derive(Clone, Copy)]
enum Step {
    Kill(usize),
    Back(usize),
    Drain(usize),
}

/// Where the models are, whenever that changed. A look in which a node that serves is not heard tells nothing.
async fn observe(
    client: &Client,
    running: &RefCell<Vec<NodeId>>,
    time: Duration,
    began: Instant,
) -> Vec<(Duration, Residence)> {
    let mut seen: Vec<(Duration, Residence)> = Vec::new();
    let mut looks = tokio::time::interval(LOOK_PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while clock::now() < began + time {
        looks.tick().await;
        let asked = running.borrow().clone();
        let answers = statuses(client, &asked, false).await;
        if *running.borrow() != asked || answers.iter().any(Option::is_none) {
            continue;
        }
        let hot = hot_models(answers.iter().flatten()).into_iter();
        let residence: Residence = hot
            .map(|(model, places)| (model.to_owned(), places.iter().map(|(node, _)| *node).collect()))
            .collect();
        if seen.last().is_none_or(|(_, former)| *former != residence) {
            seen.push((clock::now().saturating_duration_since(began), residence));
        }
    }
    seen
}

/// The status of each of these nodes, where it is told in time.
async fn statuses(client: &Client, nodes: &[NodeId], histograms: bool) -> Vec<Option<Status>> {
    let ask = |node: &NodeId| {
        let asked = timeout(LOOK_TIME_MAX, client.status_of(*node, histograms));
        asked.map(|answer| answer.ok().and_then(Result::ok))
    };
    join_all(nodes.iter().map(ask)).await
}

impl Story {
    /// The name of a node.
    pub(super) fn name(&self, node: NodeId) -> String {
        let index = self.nodes.iter().position(|known| *known == node);
        index.map_or_else(|| node.to_string(), name_of_node)
    }

    /// Adds what happened to the demo's events.
    pub(super) fn tell(&self, measured: &mut Measured) {
        for event in &self.events {
            measured.event_at(self.began + event.at, "mesh", json!({ "what": event.what }));
        }
    }
}
