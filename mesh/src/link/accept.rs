//! The tasks of a listening node: one that accepts connections, one for each connection, one for each attempt.
//! A task that accepts never waits for what it started.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use quinn::{Connection, Endpoint, Incoming, RecvStream};
use rustls_pki_types::CertificateDer;
use shoal_protocol::message::Role;
use shoal_protocol::{ErrorCode, Frame, Kind, Message};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::codes::Code;
use super::feed;
use super::forward;
use super::frames::{FrameError, FrameSink, FrameSource};
use super::hello::{self, Agreed, Own};
use super::memory::no_room;
use super::net::now;
use super::probes::{self, ProbeAllowance};
use super::reply::{Peer, Reply};
use super::server::Shared;
use super::transport::Door;
use crate::identity::Subject;

/// For the handshake, and again for the hello.
const GREETING_WAIT: Duration = Duration::from_secs(5);
/// For the whole request, once its stream is open: 8 MiB at 0.8 MiB/s.
const REQUEST_WAIT: Duration = Duration::from_secs(10);
/// Streams of one connection on which the mesh is followed: a client needs one.
const FEEDS_PER_CONNECTION_MAX: usize = 1;
/// For the acknowledgement of an answer, before its stream is forgotten.
const DELIVERY_WAIT: Duration = Duration::from_secs(5);

/// Accepts connections until the node leaves, then waits for them.
pub(super) async fn run(endpoint: Endpoint, shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    let mut stopping = shared.stopping.clone();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => admit(incoming, &shared, &mut tasks),
                None => break,
            },
            Some(done) = tasks.join_next(), if !tasks.is_empty() => log_panic(done),
            _ = stopping.wait_for(|stopping| *stopping) => break,
        }
    }
    endpoint.set_server_config(None);
    while let Some(done) = tasks.join_next().await {
        log_panic(done);
    }
}

pub(crate) fn log_panic(done: Result<(), JoinError>) {
    if let Err(error) = done {
        tracing::error!(%error, "a task of the link panicked; its peer was told");
    }
}

/// Starts a connection's task, or turns the client away without any state.
fn admit(incoming: Incoming, shared: &Arc<Shared>, tasks: &mut JoinSet<()>) {
    let limits = &shared.limits;
    let busy = shared.handshakes.available_permits() < limits.handshakes_max - limits.handshakes_max / 4;
    if busy && !incoming.remote_address_validated() && incoming.may_retry() {
        // Checked above: the retry cannot be refused.
        let _ = incoming.retry();
        return;
    }
    let (connection, handshake) = (&shared.connections, &shared.handshakes);
    match (connection.clone().try_acquire_owned(), handshake.clone().try_acquire_owned()) {
        (Ok(place), Ok(handshake)) => {
            let shared = shared.clone();
            tasks.spawn(async move {
                let _place = place;
                let greeted = greet(incoming, shared.door, &shared.own).await;
                drop(handshake);
                if let Some(greeted) = greeted {
                    let (peer, version) = (greeted.peer(), greeted.agreed.version);
                    serve_connection(greeted.connection, &peer, version, &shared).await;
                }
            });
        }
        _ => incoming.refuse(),
    }
}

/// A connection whose other end is known.
pub(crate) struct Greeted {
    pub(crate) connection: Connection,
    pub(crate) subject: Subject,
    pub(crate) agreed: Agreed,
    /// Where it comes from.
    pub(crate) address: SocketAddr,
}

impl Greeted {
    fn peer(&self) -> Peer {
        let role = self.subject.role;
        Peer {
            role,
            node: (role == Role::Node).then_some(self.subject.key_id),
            name: self.subject.name.clone(),
            address: Some(self.address),
            local: false,
        }
    }
}

/// Handshake, role and hello. Whoever does not pass is told why, and is nobody.
pub(crate) async fn greet(incoming: Incoming, door: Door, own: &Own) -> Option<Greeted> {
    let address = incoming.remote_address();
    let connection = match timeout(GREETING_WAIT, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "handshake failed");
            return None;
        }
        Err(_) => {
            tracing::debug!(%address, "handshake took too long");
            return None;
        }
    };
    let refuse = |code: Code, why: &str| {
        tracing::debug!(%address, why, "connection refused");
        connection.close(code.into(), why.as_bytes());
    };
    let subject = match certified(&connection) {
        Ok(subject) => subject,
        Err(why) => {
            refuse(Code::Forbidden, &why);
            return None;
        }
    };
    if !door.admits(subject.role) {
        refuse(Code::Forbidden, &format!("role {:?} may not use this port", subject.role));
        return None;
    }
    let greeting = timeout(GREETING_WAIT, hello::answer(&connection, own, subject.key_id));
    let agreed = match greeting.await {
        Ok(Ok(agreed)) => agreed,
        Ok(Err(error)) => {
            refuse(error.code(), &error.to_string());
            return None;
        }
        Err(_) => {
            refuse(Code::Slow, "no hello");
            return None;
        }
    };
    Some(Greeted { connection, subject, agreed, address })
}

/// What the certificate of a connection's other end says.
pub(super) fn certified(connection: &Connection) -> Result<Subject, String> {
    let identity = connection.peer_identity().ok_or("no certificate")?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| "no certificate chain")?;
    Subject::of(chain.first().ok_or("no certificate")?)
}

/// Takes attempts until the client or the node leaves; then waits for those being served.
async fn serve_connection(connection: Connection, peer: &Peer, version: u16, shared: &Arc<Shared>) {
    let room = Room {
        attempts: Arc::new(Semaphore::new(shared.limits.attempts_per_connection_max)),
        feeds: Arc::new(Semaphore::new(FEEDS_PER_CONNECTION_MAX)),
    };
    let mut allowance = ProbeAllowance::default();
    let mut tasks = JoinSet::new();
    let mut stopping = shared.stopping.clone();
    let mut leaving = *stopping.borrow();
    loop {
        if leaving && tasks.is_empty() {
            connection.close(Code::Leaving.into(), b"node is leaving");
            return;
        }
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((send, recv)) => {
                    let reply = Reply::new(FrameSink::quic(send, version));
                    tasks.spawn(serve_attempt(peer.clone(), recv, reply, room.clone(), shared.clone()));
                }
                Err(error) => {
                    tracing::debug!(address = ?peer.address, %error, "connection over");
                    break;
                }
            },
            datagram = connection.read_datagram() => {
                let Ok(datagram) = datagram else { break };
                let answered =
                    probes::answer(&connection, version, &datagram, &*shared.service, &mut allowance, now());
                if let Err(error) = answered {
                    tracing::debug!(address = ?peer.address, %error, "a datagram that is no probe");
                    connection.close(Code::Protocol.into(), error.to_string().as_bytes());
                    break;
                }
            }
            Some(done) = tasks.join_next(), if !tasks.is_empty() => log_panic(done),
            _ = stopping.wait_for(|stopping| *stopping), if !leaving => leaving = true,
        }
    }
    while let Some(done) = tasks.join_next().await {
        log_panic(done);
    }
}

/// What one connection may have at a time.
#[derive(Clone)]
struct Room {
    attempts: Arc<Semaphore>,
    feeds: Arc<Semaphore>,
}

/// Reads the request, has it served, and stays until the answer was delivered.
async fn serve_attempt(peer: Peer, mut recv: RecvStream, reply: Reply, room: Room, shared: Arc<Shared>) {
    let delivered = reply.cancelled();
    let read = match places(&room.attempts, &shared) {
        Ok(places) => read_request(&mut recv, &shared).await.map(|read| (read, places)),
        Err(refusal) => Err(refusal),
    };
    match read {
        Ok((Frame { message: Message::FactsDigest(holds), .. }, places)) => {
            drop(places); // it is no work, and lasts as long as the connection
            // A follower that is gone needs to be told nothing.
            let _ = match room.feeds.try_acquire() {
                Ok(_feed) => feed::serve(&*shared.service, &holds, reply, shared.stopping.clone()).await,
                Err(_) => reply.fail(ErrorCode::Overloaded, "this connection follows already").await,
            };
        }
        Ok((request, _places)) => {
            match forward::destination(&request, shared.own.node, &*shared.service) {
                // A caller that is gone needs to be told nothing.
                Some(to) => drop(forward::serve(&shared.links, to, request, reply, now()).await),
                None => shared.service.clone().serve(peer, request, reply).await,
            }
        }
        Err(Refusal { code, what }) => {
            // A caller that is gone needs no answer: failing to stop or to tell it is no error here.
            let _ = recv.stop(Code::Protocol.into());
            let _ = reply.fail(code, what).await;
        }
    }
    let _ = timeout(DELIVERY_WAIT, delivered).await;
}

/// Why a request is not served.
struct Refusal {
    code: ErrorCode,
    what: String,
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        let code = match error {
            FrameError::Reset(_) | FrameError::Lost(_) => ErrorCode::Cancelled,
            FrameError::Ended | FrameError::Cut | FrameError::Misplaced(_) | FrameError::Decode(_) => {
                ErrorCode::InvalidRequest
            }
        };
        let what = error.to_string();
        Self { code, what }
    }
}

impl Refusal {
    fn invalid(what: String) -> Self {
        let code = ErrorCode::InvalidRequest;
        Self { code, what }
    }

    fn overloaded(what: String) -> Self {
        let code = ErrorCode::Overloaded;
        Self { code, what }
    }
}

/// The places that an attempt holds while it is being served: one of the node's and one of its connection's.
fn places(room: &Arc<Semaphore>, shared: &Shared) -> Result<[OwnedSemaphorePermit; 2], Refusal> {
    if *shared.stopping.borrow() {
        return Err(Refusal { code: ErrorCode::Draining, what: "the node is leaving".to_owned() });
    }
    let place = |of: &Arc<Semaphore>, max| {
        let place = of.clone().try_acquire_owned();
        place.map_err(|_| Refusal::overloaded(no_room(max)))
    };
    Ok([
        place(room, shared.limits.attempts_per_connection_max)?,
        place(&shared.attempts, shared.limits.attempts_max)?,
    ])
}

async fn read_request(recv: &mut RecvStream, shared: &Shared) -> Result<Frame, Refusal> {
    let read = async {
        let header = FrameSource::header(recv).await?;
        let is_request = matches!(
            header.kind,
            Kind::TaskRequest
                | Kind::StatusRequest
                | Kind::ExplainRequest
                | Kind::DrainRequest
                | Kind::FactsDigest
        );
        if !is_request {
            return Err(Refusal::invalid(format!("{:?} is not a request", header.kind)));
        }
        let bytes = shared.receiving.clone().try_acquire_many_owned(header.length);
        let _bytes =
            bytes.map_err(|_| Refusal::overloaded("too many bytes are being received".to_owned()))?;
        let frame = FrameSource::body(recv, &header).await?;
        // The end came with the request; more than a request must not.
        match recv.read_chunk(1, true).now_or_never() {
            Some(Ok(Some(_))) => Err(Refusal::invalid("more than one request on a stream".to_owned())),
            _ => Ok(frame),
        }
    };
    let late = |_| Refusal::invalid(format!("the request did not arrive within {REQUEST_WAIT:?}"));
    timeout(REQUEST_WAIT, read).await.map_err(late)?
}
