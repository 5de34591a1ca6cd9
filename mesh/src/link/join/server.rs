//! The issuer's side: a port on which strangers may ask one question each, under bounds.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::{Connection, Endpoint, Incoming};
use shoal_protocol::limits::JOIN_SEEDS_MAX;
use shoal_protocol::message::{JoinGrant, JoinRefusal, RefusalReason, Role};
use shoal_protocol::wire::VersionRange;
use shoal_protocol::{Frame, Kind, Message};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::super::accept::{certified, log_panic};
use super::super::codes::Code;
use super::super::frames::{FrameError, FrameSink, FrameSource};
use super::super::net::Net;
use super::super::server::{BindError, net_or_callers};
use super::super::transport::endpoint_config;
use super::sources::Sources;
use super::transport::issuer_config;
use crate::identity::{LiveIdentity, Registrar, Subject, WallClock, unix_time_s};

/// Connections at a time, in whatever state; further ones are refused.
const CONNECTIONS_MAX: usize = 128;
/// Questions waiting for the issuer's thread; further ones are told that it is overloaded.
const QUESTIONS_MAX: usize = 64;
/// For the issuer's thread, whose disk may be slow; less than an asker waits.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// For the handshake, for the question and for the delivery of the answer, each.
const QUESTION_WAIT: Duration = Duration::from_secs(5);

/// How an issuer listens.
pub struct JoinServerOptions {
    addr: SocketAddr,
    identity: LiveIdentity,
    net: Option<Arc<dyn Net>>,
    clock: WallClock,
    seeds: Seeds,
    connections_max: usize,
}

/// The members that a new node starts from (`host:port`), as of now.
type Seeds = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

impl JoinServerOptions {
    /// Listens on `addr` (port 0: any free one) as `identity`, which must be a node's.
    #[must_use]
    pub fn new(addr: SocketAddr, identity: impl Into<LiveIdentity>) -> Self {
        let (clock, seeds): (WallClock, Seeds) = (Arc::new(unix_time_s), Arc::new(Vec::new));
        let identity = identity.into();
        Self { addr, identity, net: None, clock, seeds, connections_max: CONNECTIONS_MAX }
    }

    /// Where sockets and tasks come from; by default the operating system and the caller's runtime.
    #[must_use]
    pub fn net(mut self, net: impl Net) -> Self {
        self.net = Some(Arc::new(net));
        self
    }

    /// Tells new nodes the members that `seeds` gives at that moment; by default none. It is called on the issuer's
    /// thread.
    #[must_use]
    pub fn seeds(mut self, seeds: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        self.seeds = Arc::new(seeds);
        self
    }

    /// Another clock than the system's, in seconds since the Unix epoch.
    #[must_use]
    pub fn clock(mut self, clock: WallClock) -> Self {
        self.clock = clock;
        self
    }
}

/// A listening issuer. It has a thread of its own, because every use of a token waits for the disk. Dropping it closes
/// its connections; [`shutdown`](Self::shutdown) also waits until its files are closed.
pub struct JoinServer {
    endpoint: Endpoint,
    addr: SocketAddr,
    tasks: JoinSet<()>,
    /// Ends when the thread has closed the registrar's files.
    closed: oneshot::Receiver<()>,
}

/// A question and the way back for its answer.
struct Question {
    message: Message,
    certified: Option<Subject>,
    answer: oneshot::Sender<Result<JoinGrant, JoinRefusal>>,
}

struct Shared {
    questions: SyncSender<Question>,
    sources: Mutex<Sources>,
    connections: Arc<Semaphore>,
    clock: WallClock,
}

impl JoinServer {
    /// Opens the port and starts to answer.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(options: JoinServerOptions, registrar: Registrar) -> Result<Self, BindError> {
        let JoinServerOptions { addr, identity, net, clock, seeds, connections_max } = options;
        let current = identity.current();
        if current.role() != Role::Node {
            return Err(BindError::Role(current.role()));
        }
        let net = net_or_callers(net)?;
        let failed = |source| BindError::Socket { addr, source };
        let config = issuer_config(&identity)?;
        let socket = net.bind(addr).map_err(failed)?;
        let endpoint = Endpoint::new_with_abstract_socket(
            endpoint_config(&current),
            Some(config),
            socket,
            net.quic_runtime(),
        )
        .map_err(failed)?;
        let addr = endpoint.local_addr().map_err(failed)?;
        let (questions, inbox) = sync_channel(QUESTIONS_MAX);
        let (closing, closed) = oneshot::channel();
        let thread_clock = clock.clone();
        std::thread::Builder::new()
            .name("shoal-issuer".to_owned())
            .spawn(move || {
                answer_all(registrar, &inbox, &thread_clock, &seeds);
                drop(closing);
            })
            .map_err(BindError::Thread)?;
        let connections = Arc::new(Semaphore::new(connections_max));
        let shared = Arc::new(Shared { questions, sources: Mutex::default(), connections, clock });
        let mut tasks = JoinSet::new();
        tasks.spawn_on(accept_all(endpoint.clone(), shared), &net.tasks());
        Ok(Self { endpoint, addr, tasks, closed })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops at once: a newcomer that is cut off asks again. When this returns, the issuer's files are closed.
    pub async fn shutdown(mut self) {
        self.endpoint.close(Code::Leaving.into(), b"issuer is leaving");
        self.tasks.shutdown().await;
        // The error says that the thread is over, which is what is waited for.
        let _ = (&mut self.closed).await;
    }
}

/// Answers one question after the other, for as long as anybody can ask.
fn answer_all(mut registrar: Registrar, inbox: &Receiver<Question>, clock: &WallClock, seeds: &Seeds) {
    while let Ok(Question { message, certified, answer }) = inbox.recv() {
        let now_unix_s = clock();
        let result = match &message {
            Message::JoinRequest(request) => {
                let granted = registrar.handle_join(request, now_unix_s);
                granted.map(|grant| with_seeds(grant, request.role, seeds))
            }
            Message::RenewRequest(request) => registrar.handle_renew(request, certified.as_ref(), now_unix_s),
            _ => Err(refusal(RefusalReason::Malformed, "not a request for a certificate", now_unix_s)),
        };
        // An asker that is gone asks again.
        let _ = answer.send(result);
    }
}

/// Callers have no business with members.
fn with_seeds(grant: JoinGrant, role: Role, seeds: &Seeds) -> JoinGrant {
    let mut seeds = if role == Role::Node { seeds() } else { Vec::new() };
    seeds.truncate(JOIN_SEEDS_MAX);
    JoinGrant { seeds, ..grant }
}

fn refusal(reason: RefusalReason, message: &str, now_unix_s: u64) -> JoinRefusal {
    JoinRefusal { reason, message: message.to_owned(), now_unix_s }
}

async fn accept_all(endpoint: Endpoint, shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => admit(incoming, &shared, &mut tasks),
                None => return,
            },
            Some(done) = tasks.join_next(), if !tasks.is_empty() => log_panic(done),
        }
    }
}

/// Starts a connection's task, or turns the source away without any state. Every source proves its address first: a
/// join is rare, and limits by address are worth nothing against forged ones.
fn admit(incoming: Incoming, shared: &Arc<Shared>, tasks: &mut JoinSet<()>) {
    if !incoming.remote_address_validated() && incoming.may_retry() {
        // Checked above: the retry cannot be refused.
        let _ = incoming.retry();
        return;
    }
    let source = incoming.remote_address().ip();
    let may = shared.sources().handle_connection(source, Instant::now().into_std());
    match shared.connections.clone().try_acquire_owned() {
        Ok(place) if may => {
            let shared = shared.clone();
            tasks.spawn(async move {
                let _place = place;
                if let Some(connection) = serve(incoming, &shared).await {
                    connection.close(Code::Done.into(), b"");
                }
            });
        }
        _ => incoming.refuse(),
    }
}

impl Shared {
    fn sources(&self) -> std::sync::MutexGuard<'_, Sources> {
        // Every entry is complete in itself.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a question answered by the issuer's thread.
    async fn answer(&self, message: Message, certified: Option<Subject>) -> Result<JoinGrant, JoinRefusal> {
        let (answer, answered) = oneshot::channel();
        let asked = self.questions.try_send(Question { message, certified, answer });
        let overloaded =
            || refusal(RefusalReason::Overloaded, "the issuer is overloaded: try again", (self.clock)());
        asked.map_err(|_| overloaded())?;
        let internal = |what| Err(refusal(RefusalReason::Internal, what, (self.clock)()));
        match timeout(ANSWER_WAIT, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => internal("the issuer's thread is over; its log says why"),
            Err(_) => internal("the issuer's disk does not answer: try again"),
        }
    }
}

/// Handshake, question, answer; gives the connection back once the answer was delivered.
async fn serve(incoming: Incoming, shared: &Shared) -> Option<Connection> {
    let address = incoming.remote_address();
    let connection = match timeout(QUESTION_WAIT, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "handshake for a join failed");
            return None;
        }
        Err(_) => return None,
    };
    // A certificate was verified by TLS; without one the peer is a newcomer.
    let certified = connection.peer_identity().and_then(|_| certified(&connection).ok());
    let (message, sink) = match timeout(QUESTION_WAIT, question(&connection)).await {
        Ok(Ok(question)) => question,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "no request for a certificate");
            connection.close(Code::Protocol.into(), error.to_string().as_bytes());
            return None;
        }
        Err(_) => {
            connection.close(Code::Slow.into(), b"no request");
            return None;
        }
    };
    let answered = shared.answer(message, certified).await;
    match &answered {
        Ok(_) => tracing::info!(%address, "gave a certificate"),
        Err(refusal) => {
            tracing::warn!(%address, reason = ?refusal.reason, why = refusal.message, "refused a certificate");
            shared.sources().handle_refusal(address.ip(), Instant::now().into_std());
        }
    }
    let message = answered.map_or_else(Message::JoinRefusal, |grant| Message::JoinGrant(Box::new(grant)));
    // A peer that does not take its answer asks again.
    let _ = timeout(QUESTION_WAIT, deliver(&connection, sink, message)).await;
    Some(connection)
}

async fn question(connection: &Connection) -> Result<(Message, FrameSink), FrameError> {
    let accepted = connection.accept_bi().await;
    let (send, mut recv) = accepted.map_err(|error| FrameError::Lost(error.to_string()))?;
    let header = FrameSource::header(&mut recv).await?;
    if !matches!(header.kind, Kind::JoinRequest | Kind::RenewRequest) {
        return Err(FrameError::Lost(format!("{:?} is not a request for a certificate", header.kind)));
    }
    let Frame { message, .. } = FrameSource::body(&mut recv, &header).await?;
    Ok((message, FrameSink::quic(send, VersionRange::OURS.min)))
}

/// Ends when the peer has the answer: it closes the connection then.
async fn deliver(connection: &Connection, mut sink: FrameSink, message: Message) {
    if sink.write(message.into()).await.is_ok() {
        sink.finish();
        connection.closed().await;
    }
}

impl Drop for JoinServer {
    fn drop(&mut self) {
        self.endpoint.close(Code::Leaving.into(), b"issuer is gone");
    }
}
