//! A network in virtual time: datagrams between sockets of one process, with latency, loss and cut cables.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use crate::link::{Net, TokioNet};

/// Datagrams on their way to one socket; what comes beyond is lost, as in a full router.
const INBOX_DATAGRAMS_MAX: usize = 1024;

/// Clones share the network. Timers and tasks are the current runtime's, whose clock may be paused.
#[derive(Clone)]
pub(crate) struct VirtualNet {
    hub: Arc<Hub>,
    /// Where sockets are that name no port.
    host: Ipv4Addr,
    tasks: TokioNet,
}

struct Hub {
    latency: Duration,
    /// Datagrams in a hundred that are lost; 100 is a cut cable.
    loss_percent: AtomicU64,
    /// Datagrams that sockets sent, and their bytes.
    sent: [AtomicU64; 2],
    state: Mutex<State>,
}

struct State {
    inboxes: BTreeMap<SocketAddr, (u64, mpsc::Sender<Datagram>)>,
    /// Sockets by number: the sockets of killed processes say nothing any more.
    sockets: u64,
    dead: BTreeSet<u64>,
    /// Nothing passes between these addresses and all others.
    island: BTreeSet<SocketAddr>,
    /// Nothing passes between these two hosts.
    parted: Option<[Ipv4Addr; 2]>,
    chance: u64,
    port_next: u16,
}

struct Datagram {
    arrives: Instant,
    from: SocketAddr,
    bytes: Vec<u8>,
}

impl VirtualNet {
    pub(crate) fn new(seed: u64, latency: Duration) -> Self {
        let state = State {
            inboxes: BTreeMap::new(),
            sockets: 0,
            dead: BTreeSet::new(),
            island: BTreeSet::new(),
            parted: None,
            chance: seed,
            port_next: 1024,
        };
        Self {
            hub: Arc::new(Hub {
                latency,
                loss_percent: AtomicU64::new(0),
                sent: Default::default(),
                state: Mutex::new(state),
            }),
            host: Ipv4Addr::LOCALHOST,
            tasks: TokioNet::new(Handle::current()),
        }
    }

    /// The same network for another host.
    pub(crate) fn on(&self, host: Ipv4Addr) -> Self {
        Self { host, ..self.clone() }
    }

    /// Cuts the way between two hosts.
    pub(crate) fn part(&self, one: Ipv4Addr, other: Ipv4Addr) {
        self.hub.state.lock().expect("no panic under it").parted = Some([one, other]);
    }

    /// Datagrams that all sockets sent so far, and the bytes in them.
    pub(crate) fn sent(&self) -> [u64; 2] {
        [0, 1].map(|at: usize| self.hub.sent[at].load(Ordering::SeqCst))
    }

    pub(crate) fn lose(&self, percent: u64) {
        self.hub.loss_percent.store(percent, Ordering::SeqCst);
    }

    /// Kills the process at an address: it hears and says nothing from now on. The address is free again.
    pub(crate) fn kill(&self, addr: SocketAddr) {
        let mut state = self.hub.state.lock().expect("no panic under it");
        if let Some((socket, _)) = state.inboxes.remove(&addr) {
            state.dead.insert(socket);
        }
    }

    /// Cuts these addresses off from all others; an empty list heals.
    pub(crate) fn cut_off(&self, island: &[SocketAddr]) {
        let mut state = self.hub.state.lock().expect("no panic under it");
        state.island = island.iter().copied().collect();
    }
}

impl Net for VirtualNet {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let mut state = self.hub.state.lock().expect("no panic under it");
        state.port_next += 1;
        let any = SocketAddr::from((self.host, state.port_next));
        let addr = if addr.port() == 0 { any } else { addr };
        let (sender, receiver) = mpsc::channel(INBOX_DATAGRAMS_MAX);
        state.sockets += 1;
        let number = state.sockets;
        if state.inboxes.get(&addr).is_some_and(|(_, inbox)| !inbox.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.inboxes.insert(addr, (number, sender));
        let inbox = Inbox { receiver, head: None, timer: Box::pin(tokio::time::sleep(Duration::ZERO)) };
        Ok(Arc::new(Socket { hub: self.hub.clone(), number, addr, inbox: Mutex::new(inbox) }))
    }

    fn quic_runtime(&self) -> Arc<dyn Runtime> {
        self.tasks.quic_runtime()
    }

    fn tasks(&self) -> Handle {
        self.tasks.tasks()
    }
}

struct Socket {
    hub: Arc<Hub>,
    number: u64,
    addr: SocketAddr,
    inbox: Mutex<Inbox>,
}

struct Inbox {
    receiver: mpsc::Receiver<Datagram>,
    head: Option<Datagram>,
    timer: Pin<Box<Sleep>>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Socket({})", self.addr)
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.hub.sent[0].fetch_add(1, Ordering::SeqCst);
        self.hub.sent[1].fetch_add(transmit.contents.len() as u64, Ordering::SeqCst);
        let mut state = self.hub.state.lock().expect("no panic under it");
        state.chance =
            state.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let lost = (state.chance >> 33) % 100 < self.hub.loss_percent.load(Ordering::SeqCst);
        let to = transmit.destination;
        let between = |[one, other]: [Ipv4Addr; 2]| {
            let ends = [self.addr.ip(), to.ip()];
            ends == [one, other] || ends == [other, one]
        };
        let parted = state.island.contains(&self.addr) != state.island.contains(&to)
            || state.parted.is_some_and(between);
        if let Some((_, inbox)) = state.inboxes.get(&to)
            && !(lost || parted || state.dead.contains(&self.number))
        {
            // A full inbox, or one whose socket is closed, loses it.
            let _ = inbox.try_send(Datagram {
                arrives: Instant::now() + self.hub.latency,
                from: self.addr,
                bytes: transmit.contents.to_vec(),
            });
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox.lock().expect("no panic under it");
        let Inbox { receiver, head, timer } = &mut *inbox;
        if head.is_none() {
            *head = ready!(receiver.poll_recv(cx));
        }
        let Some(datagram) = head else {
            return Poll::Pending; // the network is gone
        };
        timer.as_mut().reset(datagram.arrives);
        ready!(timer.as_mut().poll(cx));
        bufs[0][..datagram.bytes.len()].copy_from_slice(&datagram.bytes);
        meta[0] = RecvMeta::default();
        meta[0].addr = datagram.from;
        meta[0].len = datagram.bytes.len();
        meta[0].stride = datagram.bytes.len();
        *head = None;
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    /// True would switch the discovery of the path's MTU off.
    fn may_fragment(&self) -> bool {
        false
    }
}
