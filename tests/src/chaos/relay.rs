//! Every packet between the processes goes through here: the shell around [`Wire`].
//!
//! Each port of each node has a front, the address that the node advertises. What comes to a front goes on to the node
//! from a socket that stands for the sender, and what the node answers there goes back from the front: to both ends the
//! relay looks like a NAT.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

use super::wire::{Packet, Wire};
use crate::sim::Peer;

/// Senders that have been met, over all fronts; each holds a socket. Packets of further ones are lost.
const FLOWS_MAX: usize = 2048;
/// Bytes of the largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// Fronts that wait to be opened.
const COMMANDS_MAX: usize = 16;

/// A port of a node.
#[derive(Clone, Copy, Debug)]
struct Door {
    node: Peer,
    target: SocketAddr,
}

struct Open {
    door: Door,
    opened: oneshot::Sender<io::Result<SocketAddr>>,
}

/// The running relay. Dropping it ends it.
pub struct Relay {
    shared: Arc<Shared>,
    commands: Option<mpsc::Sender<Open>>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Shared {
    ip: IpAddr,
    wire: Mutex<Wire>,
    /// Where packets of a route leave, and whereto.
    routes: Mutex<Vec<(Arc<UdpSocket>, SocketAddr)>>,
    /// The nodes by the address from which they send.
    nodes: BTreeMap<IpAddr, Peer>,
    /// A packet waits for its time.
    delayed: Notify,
}

impl Relay {
    /// Listens on `ip`. Who sends from an address of `nodes` is that node, and everybody else is `Client(0)`.
    ///
    /// # Errors
    /// The system has no thread or no event queue.
    pub fn start(ip: IpAddr, nodes: BTreeMap<IpAddr, Peer>, wire: Wire) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let shared = Arc::new(Shared {
            ip,
            wire: Mutex::new(wire),
            routes: Mutex::default(),
            nodes,
            delayed: Notify::new(),
        });
        let running = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || runtime.block_on(serve(running, queue)))?;
        Ok(Self { shared, commands: Some(commands), thread: Some(thread) })
    }

    /// Opens a front for a port of a node: the address at which others reach it.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn front(&self, node: Peer, target: SocketAddr) -> io::Result<SocketAddr> {
        let ended = || io::Error::new(io::ErrorKind::BrokenPipe, "the relay has ended");
        let (opened, answer) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or_else(ended)?;
        let open = Open { door: Door { node, target }, opened };
        commands.send(open).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// The decisions, to be changed.
    pub fn wire(&self) -> MutexGuard<'_, Wire> {
        self.shared.wire()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // It panicked: there is nothing more to relay, and a drop cannot fail.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn routes(&self) -> MutexGuard<'_, Vec<(Arc<UdpSocket>, SocketAddr)>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a packet in and sends what is due.
    fn carry(&self, packet: Packet) {
        self.wire().handle_packet(packet, shoal::clock::now());
        if self.flush() {
            self.delayed.notify_one();
        }
    }

    /// Sends what is due; whether something else waits for its time.
    fn flush(&self) -> bool {
        let now = shoal::clock::now();
        loop {
            let packet = {
                let mut wire = self.wire();
                match wire.poll_packet(now) {
                    Some(packet) => packet,
                    None => return wire.poll_timeout().is_some(),
                }
            };
            let route = self.routes().get(packet.route).cloned();
            if let Some((socket, to)) = route {
                // A full buffer or a port that nobody has: to both ends, a lost packet.
                drop(socket.try_send_to(&packet.bytes, to));
            }
        }
    }

    /// The number of a new route; `None`: there is no room.
    fn add_route(&self, socket: Arc<UdpSocket>, to: SocketAddr) -> Option<usize> {
        let mut routes = self.routes();
        (routes.len() < 2 * FLOWS_MAX).then(|| {
            routes.push((socket, to));
            routes.len() - 1
        })
    }
}

async fn serve(shared: Arc<Shared>, mut queue: mpsc::Receiver<Open>) {
    let mut fronts = JoinSet::new();
    fronts.spawn(send_delayed(Arc::clone(&shared)));
    while let Some(Open { door, opened }) = queue.recv().await {
        let bound = bind(shared.ip).await.and_then(|socket| Ok((socket.local_addr()?, socket)));
        let answer = bound.map(|(address, socket)| {
            fronts.spawn(serve_front(Arc::clone(&shared), Arc::new(socket), door));
            address
        });
        // Whoever asked may have gone.
        drop(opened.send(answer));
    }
}

/// A socket that can be sent on at once: one that the event queue has not seen yet seems full.
async fn bind(ip: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((ip, 0)).await?;
    socket.writable().await?;
    Ok(socket)
}

async fn send_delayed(shared: Arc<Shared>) {
    loop {
        let due = shared.wire().poll_timeout();
        match due {
            None => shared.delayed.notified().await,
            Some(at) => {
                tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {}
                    // An earlier one may have come.
                    () = shared.delayed.notified() => {}
                }
                shared.flush();
            }
        }
    }
}

/// Takes in what comes to a front; each new sender gets a socket towards the node.
async fn serve_front(shared: Arc<Shared>, front: Arc<UdpSocket>, door: Door) {
    let mut routes: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    let mut senders = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((length, source)) = front.recv_from(&mut buffer).await else { continue };
        let from = shared.nodes.get(&source.ip()).copied().unwrap_or(Peer::Client(0));
        let known = routes.get(&source).copied();
        let route = match known {
            Some(route) => route,
            None => {
                let Ok(socket) = bind(shared.ip).await else { continue };
                let socket = Arc::new(socket);
                let Some(there) = shared.add_route(Arc::clone(&socket), door.target) else { continue };
                let Some(back) = shared.add_route(Arc::clone(&front), source) else { continue };
                routes.insert(source, there);
                senders.spawn(answer(Arc::clone(&shared), socket, door.node, from, back));
                there
            }
        };
        shared.carry(Packet { from, to: door.node, route, bytes: buffer[..length].to_vec() });
    }
}

/// Takes in what a node sends to one sender.
async fn answer(shared: Arc<Shared>, socket: Arc<UdpSocket>, node: Peer, sender: Peer, route: usize) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((length, _)) = socket.recv_from(&mut buffer).await else { continue };
        shared.carry(Packet { from: node, to: sender, route, bytes: buffer[..length].to_vec() });
    }
}
