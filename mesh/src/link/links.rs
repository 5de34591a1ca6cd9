//! The connections of one client or forwarding node, one a node: dialed when something is to be sent there, shared by
//! all that is sent there, and closed when nothing was for a while.

mod table;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared as SharedFuture;
use quinn::Connection;
use shoal_protocol::message::{LoadProbe, LoadReply};
use shoal_protocol::{Frame, Message, NodeId};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::table::{LinkTable, Wish};
use super::accept::log_panic;
use super::dial::{ConnectError, Dialer, Linked};
use super::frames::{Exchange, FrameSource};
use super::net::{Net, now};
use super::reply::BoxFuture;
use super::transport::SetupError;
use crate::core::AttemptFailure;
use crate::identity::LiveIdentity;

/// How often an unused connection is looked at.
const IDLE_CHECK: Duration = Duration::from_secs(10);

/// What came from a node without being asked for on a stream.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A dial succeeded: there is a way to it.
    Up(NodeId),
    /// An answer to a probe.
    Reply(NodeId, LoadReply),
}

/// Hears on the connections' tasks; must not wait.
pub(crate) type Hearing = Box<dyn Fn(Heard) + Send + Sync>;

/// Clones share the connections. The last one's end is theirs.
#[derive(Clone)]
pub(crate) struct Links {
    inner: Arc<Inner>,
}

struct Inner {
    dialer: Arc<Dialer>,
    hearing: Hearing,
    state: Mutex<State>,
    tasks: Mutex<JoinSet<()>>,
}

struct State {
    table: LinkTable,
    lines: BTreeMap<NodeId, Line>,
}

type Dial = SharedFuture<BoxFuture<'static, Result<Arc<Linked>, ConnectError>>>;

enum Line {
    Dialing(Dial),
    Up(Arc<Linked>),
    /// As the last dial ended.
    Failed(ConnectError),
}

impl State {
    /// Forgets a connection that is over.
    fn settle(&mut self, node: NodeId) {
        if matches!(self.lines.get(&node), Some(Line::Up(linked)) if !linked.is_up()) {
            self.drop_line(node);
        }
    }

    fn drop_line(&mut self, node: NodeId) {
        self.lines.remove(&node);
        self.table.handle_lost(node);
    }
}

/// Whether something is under way on a connection: a stream holds it as well.
fn is_busy(lines: &BTreeMap<NodeId, Line>, node: NodeId) -> bool {
    matches!(lines.get(&node), Some(Line::Up(linked)) if Arc::strong_count(linked) > 1)
}

impl Links {
    /// No connection yet.
    pub(crate) fn new(
        identity: LiveIdentity,
        net: Arc<dyn Net>,
        chance: u64,
        hearing: Hearing,
    ) -> Result<Self, SetupError> {
        let dialer = Arc::new(Dialer::new(identity, net)?);
        let state = State { table: LinkTable::new(chance), lines: BTreeMap::new() };
        let (state, tasks) = (Mutex::new(state), Mutex::new(JoinSet::new()));
        Ok(Self { inner: Arc::new(Inner { dialer, hearing, state, tasks }) })
    }

    /// Dials whoever is at these addresses, which are tried in order.
    pub(crate) async fn meet(&self, addresses: &[String]) -> Result<Arc<Linked>, ConnectError> {
        let linked = Arc::new(self.inner.dialer.dial(addresses, None).await?);
        let node = linked.node();
        let mut state = self.inner.state();
        state.settle(node);
        if let Some(Line::Up(known)) = state.lines.get(&node) {
            return Ok(known.clone()); // and the new one is closed
        }
        state.table.handle_up(node, now());
        state.lines.insert(node, Line::Up(linked.clone()));
        drop(state);
        let reading = read(Arc::downgrade(&self.inner), node, linked.id(), linked.watched());
        self.inner.spawn(reading);
        Ok(linked)
    }

    /// The connection to a node, dialed at these addresses if there is none.
    pub(crate) async fn linked(
        &self,
        node: NodeId,
        addresses: &[String],
    ) -> Result<Arc<Linked>, ConnectError> {
        let dial = {
            let mut state = self.inner.state();
            self.want(&mut state, node, addresses);
            match state.lines.get(&node) {
                Some(Line::Up(linked)) => return Ok(linked.clone()),
                Some(Line::Dialing(dial)) => dial.clone(),
                Some(Line::Failed(error)) => return Err(error.clone()),
                None => return Err(ConnectError::Full),
            }
        };
        dial.await
    }

    /// Sends a request to a node. With `patience` it is not waited longer for a connection, which may still come.
    pub(crate) async fn send(
        &self,
        node: NodeId,
        addresses: &[String],
        patience: Option<Duration>,
        frame: Frame,
    ) -> Result<Exchange, AttemptFailure> {
        let linking = self.linked(node, addresses);
        let linked = match patience {
            None => linking.await?,
            Some(patience) => timeout(patience, linking).await.map_err(|_| {
                AttemptFailure::Unreachable(format!("no connection to {node} within {patience:?}"))
            })??,
        };
        linked.request(frame).await
    }

    /// Sends a probe to a node if there is a connection, and sees to it that there is one the next time if not.
    pub(crate) fn probe(&self, node: NodeId, addresses: &[String], probe: LoadProbe) {
        let mut state = self.inner.state();
        self.want(&mut state, node, addresses);
        if let Some(Line::Up(linked)) = state.lines.get(&node) {
            linked.send_datagram(Message::LoadProbe(probe));
        }
    }

    /// Dials anew for the next attempt if this connection is still the one in use. Streams on it live on: should the
    /// node be slow and not dead, their answers still count.
    pub(crate) fn suspect(&self, connection: usize) {
        let mut state = self.inner.state();
        let is_it = |line: &Line| matches!(line, Line::Up(linked) if linked.id() == connection);
        let node = state.lines.iter().find(|(_, line)| is_it(line)).map(|(node, _)| *node);
        node.into_iter().for_each(|node| state.drop_line(node));
    }

    /// The node is gone: a connection to it leads nowhere.
    pub(crate) fn forget(&self, node: NodeId) {
        self.inner.state().drop_line(node);
    }

    /// Nodes to which there is a connection now.
    pub(crate) fn connected(&self) -> Vec<NodeId> {
        let state = self.inner.state();
        let up = |line: &Line| matches!(line, Line::Up(linked) if linked.is_up());
        state.lines.iter().filter(|(_, line)| up(line)).map(|(node, _)| *node).collect()
    }

    fn want(&self, state: &mut State, node: NodeId, addresses: &[String]) {
        state.settle(node);
        let State { table, lines } = state;
        let (wish, evicted) = table.handle_wish(node, |other| is_busy(lines, other), now());
        evicted.and_then(|evicted| lines.remove(&evicted));
        if wish != Wish::Dial {
            return;
        }
        let (done, dialed) = oneshot::channel();
        let dial = Dialing { node, addresses: addresses.to_vec(), done };
        self.inner.spawn(dial.run(Arc::downgrade(&self.inner), self.inner.dialer.clone()));
        let gone = |_| Err(ConnectError::Local("the client is gone".to_owned()));
        let dialed = async move { dialed.await.unwrap_or_else(gone) };
        lines.insert(node, Line::Dialing(dialed.boxed().shared()));
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every state is complete in itself; a panic cannot leave half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A dial is over; whether somebody still wanted it.
    fn handle_dialed(&self, node: NodeId, dialed: &Result<Arc<Linked>, ConnectError>) -> bool {
        let mut state = self.state();
        if !matches!(state.lines.get(&node), Some(Line::Dialing(_))) {
            return false;
        }
        let line = match dialed {
            Ok(linked) => {
                state.table.handle_up(node, now());
                Line::Up(linked.clone())
            }
            Err(error) => {
                state.table.handle_failed(node, now());
                Line::Failed(error.clone())
            }
        };
        state.lines.insert(node, line);
        true
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(done) = tasks.try_join_next() {
            log_panic(done);
        }
        tasks.spawn_on(task, &self.dialer.tasks());
    }
}

/// A dial under way: a task of its own, because those who wait for it may lose patience.
struct Dialing {
    node: NodeId,
    addresses: Vec<String>,
    done: oneshot::Sender<Result<Arc<Linked>, ConnectError>>,
}

impl Dialing {
    async fn run(self, links: Weak<Inner>, dialer: Arc<Dialer>) {
        let Self { node, addresses, done } = self;
        let dialed = dialer.dial(&addresses, Some(node)).await.map(Arc::new);
        let Some(inner) = links.upgrade() else {
            return;
        };
        if !inner.handle_dialed(node, &dialed) {
            return;
        }
        let watched = dialed.as_ref().ok().map(|linked| (linked.id(), linked.watched()));
        // Who waited may have lost patience.
        let _ = done.send(dialed);
        if let Some((id, watched)) = watched {
            (inner.hearing)(Heard::Up(node));
            drop(inner);
            read(links, node, id, watched).await;
        }
    }
}

/// Reads a connection's datagrams until it is over, or nobody but its last streams holds it.
async fn read(
    links: Weak<Inner>,
    node: NodeId,
    id: usize,
    (connection, mut held): (Connection, watch::Receiver<()>),
) {
    loop {
        let datagram = tokio::select! {
            datagram = connection.read_datagram() => datagram,
            // Nothing is ever sent: the error says that the other half was dropped.
            _ = held.changed() => return,
            () = sleep(IDLE_CHECK) => {
                let Some(inner) = links.upgrade() else { return };
                let mut state = inner.state();
                if !is_busy(&state.lines, node) && state.table.is_idle(node, now()) {
                    state.drop_line(node);
                }
                continue;
            }
        };
        let Some(inner) = links.upgrade() else {
            return;
        };
        let Ok(bytes) = datagram else {
            let mut state = inner.state();
            if matches!(state.lines.get(&node), Some(Line::Up(linked)) if linked.id() == id) {
                state.drop_line(node);
            }
            return;
        };
        match FrameSource::datagram(&bytes).map(|frame| frame.message) {
            Ok(Message::LoadReply(reply)) => (inner.hearing)(Heard::Reply(node, reply)),
            Ok(other) => tracing::debug!(%node, kind = ?other.kind(), "a datagram that is no answer"),
            Err(error) => tracing::debug!(%node, %error, "a datagram that is no frame"),
        }
    }
}
