//! Does to a mesh what a scenario says, and writes down what it did.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use shoal_mesh::Client;
use shoal_protocol::NodeId;
use shoal_protocol::message::ModelState;
use tokio::task::JoinSet;

use super::cluster::{CLIENTS, Cluster, ready};
use super::history::{Event, Record, Unrouted};
use super::load::Asking;
use super::scenario::Action;
use crate::sim::Peer;

/// A model that nobody holds must be seen loading within this time.
const LOADING_WAIT: Duration = Duration::from_secs(5);
/// Between two looks at who loads it.
const LOOK_PERIOD: Duration = Duration::from_millis(2);
/// Requests for the model that nobody holds.
const COLD_REQUESTS: u64 = 32;
/// Their ids begin here, far from those of the schedule.
const COLD_IDS: u64 = 1 << 40;

/// The name of the model that takes long to load.
pub(super) const SLOW_MODEL: &str = "slow";

/// A node said that it is ready, or ended before.
struct Started {
    start: u64,
    seat: u16,
    what: String,
    ended: io::Result<()>,
}

/// A mesh under way.
pub(super) struct Stage {
    /// The nodes.
    pub(super) cluster: Cluster,
    asking: Asking,
    seats: u16,
    clients: Vec<Client>,
    /// Seats whose node was ready, and has not ended since.
    up: BTreeSet<u16>,
    /// Seats whose node cannot serve the clients although it is up.
    ailing: BTreeSet<u16>,
    /// Who was killed on a seat that is empty since, and when.
    killed: BTreeMap<u16, (NodeId, Instant)>,
    /// Nodes that were started.
    starting: FuturesUnordered<BoxFuture<'static, Started>>,
    /// The last start on each seat whose node was not ready when last seen; one that was killed meanwhile is none.
    awaited: BTreeMap<u16, u64>,
    starts: u64,
    asked_cold: JoinSet<io::Result<(u64, u64)>>,
}

impl Stage {
    /// Of a mesh whose first `nodes` seats are up.
    #[must_use]
    pub(super) fn new(cluster: Cluster, nodes: u16, clients: Vec<Client>, asking: Asking) -> Self {
        Self {
            cluster,
            asking,
            seats: nodes,
            clients,
            up: (0..nodes).collect(),
            ailing: BTreeSet::new(),
            killed: BTreeMap::new(),
            starting: FuturesUnordered::new(),
            awaited: BTreeMap::new(),
            starts: 0,
            asked_cold: JoinSet::new(),
        }
    }

    /// Waits until `at`, and writes down which nodes get ready meanwhile.
    ///
    /// # Errors
    /// A node did not start, or the history cannot be written.
    pub(super) async fn wait_until(&mut self, at: Instant) -> io::Result<()> {
        let end = tokio::time::sleep_until(at.into());
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return Ok(()),
                Some(started) = self.starting.next(), if !self.starting.is_empty() => self.note_started(started)?,
            }
        }
    }

    /// Waits for every node that was started and every request that the stage made itself.
    ///
    /// # Errors
    /// A node did not start, or the history cannot be written.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        while let Some(started) = self.starting.next().await {
            self.note_started(started)?;
        }
        while let Some(asked) = self.asked_cold.join_next().await {
            asked.map_err(io::Error::other)??;
        }
        let killed: Vec<_> = self.killed.keys().copied().collect();
        killed.into_iter().try_for_each(|seat| self.note_unrouted(seat))
    }

    /// Does it.
    ///
    /// # Errors
    /// When it cannot be done: the scenario is wrong, or the machine too small.
    pub(super) async fn act(&mut self, action: &Action) -> io::Result<()> {
        match action {
            Action::Kill(seats) => self.kill(seats),
            Action::Terminate(seat) => self.terminate(*seat),
            Action::Stop(seat) => {
                self.cluster.process(*seat)?.signal("STOP")?;
                self.ail(*seat, &format!("node {seat} is stopped"))
            }
            Action::Continue(seat) => {
                self.cluster.process(*seat)?.signal("CONT")?;
                self.mend(*seat, &format!("node {seat} goes on"))
            }
            Action::Hang(seat) => {
                self.cluster.process(*seat)?.hang_lanes()?;
                self.ail(*seat, &format!("the executor of node {seat} hangs"))
            }
            Action::Thaw(seat) => {
                self.cluster.process(*seat)?.thaw();
                self.mend(*seat, &format!("the executor of node {seat} goes on"))
            }
            Action::Start(seats) => {
                seats.iter().try_for_each(|seat| self.start(*seat, format!("node {seat} is back")))
            }
            Action::StartAnew(seat) => {
                self.note_unrouted(*seat)?;
                self.cluster.forget_identity(*seat);
                self.start(*seat, format!("another node is at the address of node {seat}"))
            }
            Action::Move { from, to } => {
                self.note_unrouted(*from)?;
                self.cluster.move_identity(*from, *to);
                self.start(*to, format!("node {from} is back at another address"))
            }
            Action::Cut(from, to) => self.cut(from, to),
            Action::Heal => {
                self.cluster.relay().wire().heal();
                self.ailing.clear();
                self.note("all cuts are healed", false)
            }
            Action::Weather(weather) => {
                self.cluster.relay().wire().set_weather(*weather);
                self.note(&format!("{} % of all packets are lost", 100.0 * weather.loss), false)
            }
            Action::Link(seat, up) => {
                self.cluster.hosts().set_link(*seat, *up).map_err(io::Error::other)?;
                match up {
                    true => self.mend(*seat, &format!("the link of node {seat} is up")),
                    false => self.ail(*seat, &format!("the link of node {seat} is down")),
                }
            }
            Action::KillLoader => self.kill_loader().await,
        }
    }

    fn kill(&mut self, seats: &[u16]) -> io::Result<()> {
        for seat in seats {
            self.cluster.process(*seat)?.kill()?;
            self.killed.insert(*seat, (self.cluster.node_id(*seat)?, shoal::clock::now()));
            self.up.remove(seat);
            self.ailing.remove(seat);
            self.awaited.remove(seat);
        }
        let names: Vec<_> = seats.iter().map(u16::to_string).collect();
        self.note(&format!("node {} is killed", names.join(", ")), true)
    }

    /// Looks when the clients let go of a node that was killed, before another life of it begins.
    fn note_unrouted(&mut self, seat: u16) -> io::Result<()> {
        let Some((node, killed_at)) = self.killed.remove(&seat) else {
            return Ok(());
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let last: Vec<_> = self.clients.iter().filter_map(|client| client.attempted_at(node)).collect();
        let after = last.iter().map(|at| at.saturating_duration_since(killed_at)).max();
        self.asking.history.write(&Record::Unrouted(Unrouted {
            what: format!("node {seat} is killed"),
            clients: u16::try_from(last.len()).unwrap_or(u16::MAX),
            after_us: micros(after.unwrap_or_default()),
            watched_us: micros(shoal::clock::now().saturating_duration_since(killed_at)),
        }))
    }

    fn terminate(&mut self, seat: u16) -> io::Result<()> {
        self.cluster.process(seat)?.signal("TERM")?;
        self.ail(seat, &format!("node {seat} drains"))
    }

    /// A node that nothing gets to or from cannot serve the clients.
    fn cut(&mut self, from: &[Peer], to: &[Peer]) -> io::Result<()> {
        for (from, to) in from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to))) {
            self.cluster.relay().wire().cut(from, to);
            if let (Peer::Node(seat), CLIENTS) | (CLIENTS, Peer::Node(seat)) = (from, to) {
                self.ailing.insert(seat);
            }
        }
        self.note(&format!("nothing gets from {} to {}", names(from), names(to)), true)
    }

    fn start(&mut self, seat: u16, what: String) -> io::Result<()> {
        self.note_unrouted(seat)?;
        let line = self.cluster.start_node(seat)?;
        self.ailing.remove(&seat);
        self.starts += 1;
        let start = self.starts;
        self.awaited.insert(seat, start);
        self.starting
            .push(Box::pin(async move { Started { start, seat, what, ended: ready(line).await.map(drop) } }));
        Ok(())
    }

    fn note_started(&mut self, started: Started) -> io::Result<()> {
        let Started { start, seat, what, ended } = started;
        if self.awaited.get(&seat) != Some(&start) {
            return Ok(()); // killed before it was ready
        }
        self.awaited.remove(&seat);
        ended?;
        self.up.insert(seat);
        self.note(&what, false)
    }

    fn ail(&mut self, seat: u16, what: &str) -> io::Result<()> {
        self.ailing.insert(seat);
        self.note(what, true)
    }

    fn mend(&mut self, seat: u16, what: &str) -> io::Result<()> {
        self.ailing.remove(&seat);
        self.note(what, false)
    }

    fn note(&self, what: &str, takes: bool) -> io::Result<()> {
        let serving = self.up.difference(&self.ailing).count();
        let event = Event {
            at_us: self.asking.micros(shoal::clock::now()),
            what: what.to_owned(),
            takes,
            serving: u16::try_from(serving).unwrap_or(u16::MAX),
        };
        self.asking.history.write(&Record::Event(event))
    }

    /// Asks for the slow model and kills whoever is seen loading it.
    async fn kill_loader(&mut self) -> io::Result<()> {
        let mut watchers = Vec::new();
        for seat in self.up.iter().copied().filter(|seat| *seat < self.seats) {
            watchers.push((seat, self.cluster.connect_to(seat).await?));
        }
        for request in 0..COLD_REQUESTS {
            let client = self.clients[request as usize % self.clients.len()].clone();
            let asking = Asking { model: SLOW_MODEL.to_owned(), is_cold: true, ..self.asking.clone() };
            self.asked_cold.spawn(asking.ask(client, COLD_IDS + request, shoal::clock::now()));
        }
        let look = async {
            let mut looks = tokio::time::interval(LOOK_PERIOD);
            loop {
                looks.tick().await;
                for (seat, watcher) in &watchers {
                    if is_loading(watcher).await {
                        return *seat;
                    }
                }
            }
        };
        match tokio::time::timeout(LOADING_WAIT, look).await {
            Ok(loader) => self.kill(&[loader]),
            Err(_) => Err(io::Error::other("nobody was seen loading the slow model")),
        }
    }
}

async fn is_loading(watcher: &Client) -> bool {
    let Ok(status) = watcher.status(false).await else { return false };
    status.models.iter().any(|model| model.name == SLOW_MODEL && model.state == ModelState::Loading)
}

fn names(peers: &[Peer]) -> String {
    let name = |peer: &Peer| match peer {
        Peer::Node(seat) => format!("node {seat}"),
        Peer::Client(_) => "the clients".to_owned(),
    };
    peers.iter().map(name).collect::<Vec<_>>().join(", ")
}
