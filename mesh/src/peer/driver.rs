//! The task that owns a member's machines: hands them what arrives, sends what they say, and decides nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{ClientConfig, Endpoint, Incoming};
use shoal_protocol::message::{LoadRecord, LoadRequest};
use shoal_protocol::{DeviceIndex, Message, NodeId};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::dial::dial;
use super::interface::{MeshState, News, PeerCounters};
use super::line::Line;
use super::links::{Arrival, LINKS_MAX, LinkId, Verdict};
use super::machines::{Machines, Outcome};
use super::wires::Wires;
use crate::core::{Life, OwnFacts};
use crate::link::Door;
use crate::link::Sources;
use crate::link::accept::{Greeted, greet, log_panic};
use crate::link::codes::Code;
use crate::link::hello::Own;

/// Handshakes of others under way at once; beyond it they are refused, and ask again.
const GREETINGS_MAX: usize = 64;
/// What arrived and was not handled yet. Where it is full, lines wait, and their datagrams give way to newer ones.
pub(super) const EVENTS_MAX: usize = 1024;
/// When to look again where no machine has a timer: after the leave, of which nothing comes back.
const IDLE: Duration = Duration::from_secs(1);
/// How long a leaving member waits until its farewell has left.
const FAREWELL_WAIT: Duration = Duration::from_millis(200);

/// What happens on the tasks of the endpoint.
pub(super) enum Event {
    /// Somebody was greeted.
    Greeted { greeted: Box<Greeted>, dialed: bool },
    /// A dial is over.
    Dialed { address: SocketAddr, reached: bool },
    /// A membership datagram.
    Datagram { link: LinkId, node: NodeId, bytes: Bytes },
    /// The load of some of its devices.
    Loads { node: NodeId, records: Vec<LoadRecord> },
    /// A frame of a kind that members say.
    Message { link: LinkId, node: NodeId, message: Message },
    /// A connection is over.
    Closed { link: LinkId, node: NodeId },
}

/// What the node wants.
pub(super) enum Command {
    /// Its facts are these.
    Facts(OwnFacts),
    /// Somebody may be there.
    Dial(Vec<SocketAddr>),
    /// A member shall load a model.
    RequestLoad(NodeId, LoadRequest),
    /// How it is going.
    Counters(oneshot::Sender<PeerCounters>),
    /// It leaves; answered when the others were told.
    Leave(oneshot::Sender<()>),
}

/// Hears of everything that is new, in order, on the driver's task.
pub(super) type Listener = Box<dyn FnMut(&News) + Send>;

/// To and from the node.
pub(super) struct Ways {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) loads: watch::Receiver<BTreeMap<DeviceIndex, LoadRecord>>,
    pub(super) state: watch::Sender<Arc<MeshState>>,
    pub(super) listener: Listener,
}

pub(super) struct Driver {
    endpoint: Endpoint,
    dialing: ClientConfig,
    own: Own,
    machines: Machines,
    commands: mpsc::Receiver<Command>,
    loads: watch::Receiver<BTreeMap<DeviceIndex, LoadRecord>>,
    state: watch::Sender<Arc<MeshState>>,
    listener: Listener,
    wires: Wires,
    events: mpsc::Receiver<Event>,
    sources: Sources,
    greetings: Arc<Semaphore>,
    places: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Driver {
    pub(super) fn new(
        endpoint: Endpoint,
        dialing: ClientConfig,
        own: Own,
        machines: Machines,
        ways: Ways,
    ) -> Self {
        let Ways { commands, loads, state, listener } = ways;
        let (inbox, events) = mpsc::channel(EVENTS_MAX);
        Self {
            endpoint,
            dialing,
            own,
            machines,
            commands,
            loads,
            state,
            listener,
            wires: Wires::new(inbox),
            events,
            sources: Sources::default(),
            greetings: Arc::new(Semaphore::new(GREETINGS_MAX)),
            places: Arc::new(Semaphore::new(LINKS_MAX + GREETINGS_MAX)),
            tasks: JoinSet::new(),
        }
    }

    /// Runs until the node leaves or its handle is gone.
    pub(super) async fn run(mut self) {
        loop {
            self.send_all();
            let (due, _) = self.machines.poll_timeout().unwrap_or_else(|| (now() + IDLE, "nothing"));
            tokio::select! {
                biased; // time and what arrived before newcomers
                command = self.commands.recv() => match command {
                    Some(Command::Leave(left)) => return self.leave(left).await,
                    Some(command) => self.obey(command),
                    None => return,
                },
                () = sleep_until(Instant::from_std(due)) => {
                    // First what is here already: silence must not be concluded from what nobody read.
                    for _ in 0..EVENTS_MAX {
                        let Ok(event) = self.events.try_recv() else { break };
                        self.handle(event);
                    }
                    self.machines.handle_timeout(now());
                },
                Some(event) = self.events.recv() => self.handle(event),
                Ok(()) = self.loads.changed() => {
                    let loads = self.loads.borrow_and_update();
                    loads.values().for_each(|record| self.machines.handle_own_load(*record, now()));
                }
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => log_panic(done),
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.admit(incoming),
                    None => return,
                },
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Facts(facts) => {
                if let Err(error) = self.machines.facts.handle_own(facts, now()) {
                    tracing::error!(%error, "the facts of this node cannot be published; the former ones stay");
                }
            }
            Command::Dial(addresses) => {
                addresses.into_iter().for_each(|address| self.machines.links.handle_seed(address, now()));
            }
            Command::RequestLoad(to, request) => {
                self.wires.send_to(&[to], &Message::LoadRequest(request).into(), &self.machines.links);
            }
            Command::Counters(answer) => {
                let Wires { datagrams_dropped, loads_sent, .. } = self.wires;
                let counters = PeerCounters { datagrams_dropped, loads_sent, ..self.machines.counters() };
                // Who asked may have gone.
                let _ = answer.send(counters);
            }
            Command::Leave(_) => {} // ends the loop before it comes here
        }
    }

    fn handle(&mut self, event: Event) {
        let now = now();
        let (link, outcome) = match event {
            Event::Greeted { greeted, dialed } => return self.arrive(*greeted, dialed),
            Event::Dialed { address, reached } => {
                return self.machines.links.handle_dialed(address, reached, now);
            }
            Event::Closed { link, node } => {
                self.wires.lines.remove(&link);
                return self.machines.handle_closed(link, node, now);
            }
            Event::Loads { node, records } => return self.machines.handle_loads(node, &records, now),
            Event::Datagram { link, node, bytes } => (link, self.machines.handle_datagram(node, &bytes, now)),
            Event::Message { link, node, message } => {
                (link, self.machines.handle_message(node, message, now))
            }
        };
        if let Outcome::Breach(why) = outcome {
            tracing::warn!(why, "a member broke the protocol; its connection is closed");
            self.wires.close(link, Code::Protocol, &why);
        }
    }

    /// A connection whose other end is known: kept, or closed with the reason.
    fn arrive(&mut self, greeted: Greeted, dialed: bool) {
        let Greeted { connection, subject, agreed, address } = greeted;
        let link = self.wires.next();
        let life = Life { node: subject.key_id, generation: agreed.generation };
        if dialed {
            self.machines.links.handle_found(address, life.node, now());
        }
        let address = agreed.peer_address.unwrap_or(address);
        match self.machines.handle_arrival(Arrival { link, life, dialed }, address, now()) {
            Verdict::Keep { replaces, waiting } => {
                if let Some(former) = replaces {
                    self.wires.close(former, Code::Done, "replaced");
                }
                self.wires.start(link, life.node, connection, agreed.version, &mut self.tasks);
                waiting.into_iter().for_each(|bytes| self.wires.send_datagram(link, bytes));
            }
            Verdict::Duplicate => connection.close(Code::Done.into(), b"another connection stands"),
            Verdict::Full => connection.close(Code::Overloaded.into(), b"as many members as there can be"),
        }
    }

    /// Starts a greeting, or turns the source away without any state. Every source proves its address first: members
    /// connect rarely, and limits by address are worth nothing against forged ones.
    fn admit(&mut self, incoming: Incoming) {
        if !incoming.remote_address_validated() && incoming.may_retry() {
            // Checked above: the retry cannot be refused.
            let _ = incoming.retry();
            return;
        }
        let may = self.sources.handle_connection(incoming.remote_address().ip(), now());
        let permits = (self.greetings.clone().try_acquire_owned(), self.places.clone().try_acquire_owned());
        let ((Ok(greeting), Ok(place)), true) = (permits, may) else {
            self.machines.handshakes_refused += 1;
            return incoming.refuse();
        };
        let (own, inbox) = (self.own(), self.wires.inbox.clone());
        self.tasks.spawn(async move {
            let greeted = greet(incoming, Door::Members, &own).await;
            drop(greeting);
            if let Some(greeted) = greeted {
                let connection = greeted.connection.clone();
                let greeted = Box::new(greeted);
                // Where the driver is gone, the endpoint is too.
                let _ = inbox.send(Event::Greeted { greeted, dialed: false }).await;
                connection.closed().await;
            }
            drop(place);
        });
    }

    fn own(&self) -> Own {
        Own { generation: self.machines.membership.life().generation, ..self.own.clone() }
    }

    fn dial(&mut self, address: SocketAddr) {
        let (endpoint, config, own) = (self.endpoint.clone(), self.dialing.clone(), self.own());
        let inbox = self.wires.inbox.clone();
        self.tasks.spawn(async move {
            let dialed = dial(endpoint, config, own, address).await;
            let reached = dialed.is_ok();
            match dialed {
                Ok(greeted) => {
                    // Where the driver is gone, the endpoint is too; the same holds below.
                    let _ = inbox.send(Event::Greeted { greeted: Box::new(greeted), dialed: true }).await;
                }
                Err(error) => tracing::debug!(%error, "dialing a member failed"),
            }
            let _ = inbox.send(Event::Dialed { address, reached }).await;
        });
    }

    /// Sends what the machines say.
    fn send_all(&mut self) {
        let now = now();
        self.machines.settle(now);
        while let Some(news) = self.machines.poll_news() {
            (self.listener)(&news);
        }
        if let Some(state) = self.machines.poll_state(now) {
            self.state.send_replace(Arc::new(state));
        }
        while let Some((link, bytes)) = self.machines.poll_datagram(now) {
            self.wires.send_datagram(link, bytes);
        }
        while let Some(send) = self.machines.facts.poll_send() {
            self.wires.send_facts(send, &self.machines.links);
        }
        while let Some(send) = self.machines.loads.gossip.poll_send() {
            self.wires.send_loads(&send, &self.machines.links);
        }
        while let Some(address) = self.machines.links.poll_dial(now) {
            self.dial(address);
        }
    }

    async fn leave(mut self, left: oneshot::Sender<()>) {
        self.machines.membership.handle_leave(now());
        self.send_all();
        let until = Instant::now() + FAREWELL_WAIT;
        // There is nothing to wait on: QUIC says how much is buffered and not when it left.
        while !self.wires.lines.values().all(Line::is_flushed) && Instant::now() < until {
            sleep(Duration::from_millis(5)).await;
        }
        self.endpoint.close(Code::Leaving.into(), b"member is leaving");
        // Who asked may have gone.
        let _ = left.send(());
    }
}

/// The caller's runtime says what time it is: in tests that is virtual.
pub(super) fn now() -> std::time::Instant {
    Instant::now().into_std()
}
