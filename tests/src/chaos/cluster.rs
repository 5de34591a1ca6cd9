//! The nodes of one run: who sits where, as whom, and whether clients can be served there.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use shoal_mesh::{Authority, Client, ConnectOptions, Identity, Issuer};
use shoal_protocol::NodeId;
use shoal_protocol::message::{MemberState, Role};
use tempfile::TempDir;

use super::hosts::Hosts;
use super::process::{Process, Ready, START_WAIT};
use super::relay::Relay;
use super::slow_model;
use super::wire::{CLEAR, Wire};
use crate::sim::Peer;

/// The clients of a run, as the relay knows them: all of them are one.
pub(super) const CLIENTS: Peer = Peer::Client(0);
/// Where a node listens on its own host; the relay's fronts are what others see.
const CALLERS_PORT: u16 = 7100;
const MEMBERS_PORT: u16 = 7101;
/// Between two looks at who is there.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// What all nodes of a run have in common.
#[derive(Clone, Debug)]
pub(super) struct ClusterOptions {
    /// The program: `shoal`, or anything with its command line.
    pub(super) program: PathBuf,
    /// Nodes at the start.
    pub(super) nodes: u16,
    /// Hosts without a node at the start, where one may move.
    pub(super) spare_seats: u16,
    /// Directories of models that every node loads at its start.
    pub(super) preload: Vec<PathBuf>,
    /// Whether every node has [`SLOW_MODEL`](super::SLOW_MODEL) on its disk.
    pub(super) with_slow_model: bool,
    /// Ceiling of each node's speed; 0: none.
    pub(super) tokens_per_s_max: u64,
    /// Decides what becomes of every packet.
    pub(super) seed: u64,
    /// What the nodes have to say is kept in files that begin so.
    pub(super) logs: PathBuf,
}

/// Dropping it ends every process and takes the hosts away.
pub(super) struct Cluster {
    options: ClusterOptions,
    seats: Vec<Seat>,
    issuer: Issuer,
    relay: Relay,
    hosts: Hosts,
    home: TempDir,
    identities: u32,
}

#[derive(Debug)]
struct Seat {
    /// Where clients and members reach whoever sits here.
    callers: SocketAddr,
    members: SocketAddr,
    /// The directory of the identity with which the seat's node runs or ran.
    identity: Option<PathBuf>,
    process: Option<Process>,
}

impl Cluster {
    /// Prepares the hosts and the relay; no node runs yet.
    ///
    /// # Errors
    /// When the machine has no room for it.
    pub(super) async fn new(options: ClusterOptions) -> io::Result<Self> {
        let seats = options.nodes + options.spare_seats;
        let hosts = Hosts::new(seats);
        let nodes: BTreeMap<IpAddr, Peer> =
            (0..seats).map(|seat| (hosts.ip(seat), Peer::Node(seat))).collect();
        let relay = Relay::start(hosts.relay_ip(), nodes, Wire::new(CLEAR, options.seed))?;
        let issuer = Authority::create().and_then(|root| root.issuer()).map_err(io::Error::other)?;
        let mut made = Self {
            options,
            seats: Vec::new(),
            issuer,
            relay,
            hosts,
            home: tempfile::tempdir()?,
            identities: 0,
        };
        if let (true, Some(tiny)) = (made.options.with_slow_model, made.options.preload.first()) {
            slow_model::install(&made.options.program, tiny, &made.data_dir())?;
        }
        for seat in 0..seats {
            let own = made.hosts.ip(seat);
            let front = async |port| made.relay.front(Peer::Node(seat), SocketAddr::new(own, port)).await;
            let (callers, members) = (front(CALLERS_PORT).await?, front(MEMBERS_PORT).await?);
            made.seats.push(Seat { callers, members, identity: None, process: None });
        }
        Ok(made)
    }

    /// Where the processes run.
    #[must_use]
    pub(super) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// What carries their packets.
    #[must_use]
    pub(super) fn relay(&self) -> &Relay {
        &self.relay
    }

    /// The process on a seat.
    ///
    /// # Errors
    /// When nobody sits there: the scenario is wrong.
    pub(super) fn process(&mut self, seat: u16) -> io::Result<&mut Process> {
        let process = self.seats.get_mut(usize::from(seat)).and_then(|seat| seat.process.as_mut());
        process.ok_or_else(|| io::Error::other(format!("no node on seat {seat}")))
    }

    /// Starts a node on an empty seat, as whoever sat there last, else as somebody new.
    ///
    /// # Errors
    /// The operating system's, or somebody sits there.
    pub(super) fn start_node(&mut self, seat: u16) -> io::Result<Ready> {
        if let Ok(process) = self.process(seat)
            && process.ended()?.is_none()
        {
            return Err(io::Error::other(format!("the former node of seat {seat} has not ended")));
        }
        let former = self.seats[usize::from(seat)].identity.clone();
        let identity = match former {
            Some(identity) => identity,
            None => self.new_identity()?,
        };
        let mut command = self.hosts.command(seat, &self.options.program);
        let config = identity.with_extension("toml");
        std::fs::write(&config, self.config(seat, &identity))?;
        let data = self.data_dir();
        command.arg("serve").arg("--config").arg(&config);
        command.env("SHOAL_HOME", &data).env("HF_HOME", &data).env("HF_HUB_OFFLINE", "1");
        command.env("SHOAL_LOG", "warn");
        let (process, ready) = Process::start(command, &self.log(seat))?;
        let seat = &mut self.seats[usize::from(seat)];
        seat.identity = Some(identity);
        seat.process = Some(process);
        Ok(ready)
    }

    /// Who sits, or sat last, on a seat.
    ///
    /// # Errors
    /// When nobody did.
    pub(super) fn node_id(&self, seat: u16) -> io::Result<NodeId> {
        let identity = self.seats.get(usize::from(seat)).and_then(|seat| seat.identity.as_ref());
        let dir = identity.ok_or_else(|| io::Error::other(format!("no node on seat {seat}")))?;
        Ok(Identity::load(dir).map_err(io::Error::other)?.node_id())
    }

    /// One store of models for all nodes: what is in it never changes.
    fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Whoever starts there next is somebody new.
    pub(super) fn forget_identity(&mut self, seat: u16) {
        self.seats[usize::from(seat)].identity = None;
    }

    /// Whoever sat on `from` starts on `to` next.
    pub(super) fn move_identity(&mut self, from: u16, to: u16) {
        self.seats[usize::from(to)].identity = self.seats[usize::from(from)].identity.take();
    }

    /// What a seat's nodes have to say.
    fn log(&self, seat: u16) -> PathBuf {
        self.options.logs.with_extension(format!("seat-{seat}.log"))
    }

    /// A client that knows the first nodes' addresses, beginning with another one for each `number`.
    ///
    /// # Errors
    /// When none takes it.
    pub(super) async fn connect(&self, number: u16) -> io::Result<Client> {
        let identity = self.issuer.issue(Role::Client, "chaos").map_err(io::Error::other)?;
        let mut addresses: Vec<_> =
            self.seats.iter().take(usize::from(self.options.nodes)).map(|seat| seat.callers).collect();
        addresses.rotate_left(usize::from(number % self.options.nodes));
        Client::connect(ConnectOptions::new(addresses, identity)).await.map_err(io::Error::other)
    }

    /// A client of the node on one seat.
    ///
    /// # Errors
    /// When it does not take it.
    pub(super) async fn connect_to(&self, seat: u16) -> io::Result<Client> {
        let identity = self.issuer.issue(Role::Client, "watcher").map_err(io::Error::other)?;
        let address = self.seats[usize::from(seat)].callers;
        Client::connect(ConnectOptions::new([address], identity)).await.map_err(io::Error::other)
    }

    /// Waits until a client's node sees every node alive.
    ///
    /// # Errors
    /// When that takes longer than [`START_WAIT`].
    pub(super) async fn complete(&self, client: &Client) -> io::Result<()> {
        let complete = async {
            let mut looks = tokio::time::interval(LOOK_PERIOD);
            loop {
                looks.tick().await;
                let Ok(status) = client.status(false).await else { continue };
                let alive = status.members.iter().filter(|member| member.state == MemberState::Alive).count();
                if alive == usize::from(self.options.nodes) {
                    return;
                }
            }
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the nodes do not find each other");
        tokio::time::timeout(START_WAIT, complete).await.map_err(late)
    }

    fn new_identity(&mut self) -> io::Result<PathBuf> {
        self.identities += 1;
        let name = format!("node-{}", self.identities);
        let dir = self.home.path().join(&name);
        let identity = self.issuer.issue(Role::Node, &name).map_err(io::Error::other)?;
        identity.save(&dir).map_err(io::Error::other)?;
        Ok(dir)
    }

    fn config(&self, seat: u16, identity: &Path) -> String {
        let (ip, own) = (self.hosts.ip(seat), &self.seats[usize::from(seat)]);
        let first = self.seats.iter().take(usize::from(self.options.nodes));
        let seeds: Vec<_> = first
            .filter(|other| other.members != own.members)
            .map(|other| format!("\"{}\"", other.members))
            .collect();
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        let preload: Vec<_> = self.options.preload.iter().map(|dir| quoted(dir)).collect();
        format!(
            "version = 1\n\
             [http]\naddr = \"off\"\n\
             [quic]\naddr = \"{ip}:{CALLERS_PORT}\"\nadvertise = \"{}\"\nidentity_dir = {}\n\
             [mesh]\naddr = \"{ip}:{MEMBERS_PORT}\"\nadvertise = \"{}\"\nseeds = [{}]\n\
             [device]\nthreads = 1\ntokenizer_threads = 1\ntokens_per_s_max = {}\n\
             [models]\npreload = [{}]\noffline = true\n",
            own.callers,
            quoted(identity),
            own.members,
            seeds.join(", "),
            self.options.tokens_per_s_max,
            preload.join(", "),
        )
    }
}

/// Waits for a node's ready line.
///
/// # Errors
/// When it ends without one, or takes longer than [`START_WAIT`].
pub(super) async fn ready(line: Ready) -> io::Result<Value> {
    let ended = |_| io::Error::other("nobody reads its ready line");
    match tokio::time::timeout(START_WAIT, line).await {
        Ok(line) => line.map_err(ended)?,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "a node took too long to start")),
    }
}
