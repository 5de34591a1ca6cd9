//! The listening socket and its connections: HTTP/1.1 on hyper, with every bound that axum's own server leaves open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use shoal_mesh::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::app::{App, router};
use super::counters::Up;
use super::exchange::InProgress;
use super::key_watch::KeyWatch;
use super::options::{EdgeLimits, EdgeOptions};
use super::pace::PacedStream;
use super::view::NodeView;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: u32 = 1024;
/// Connections that are being turned away at once; beyond it they are closed without a word.
const REFUSALS_MAX: usize = 64;
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after the system had no more file descriptors or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// For a connection without a request to say goodbye when the edge stops.
const IDLE_CLOSE_WAIT: Duration = Duration::from_millis(50);
/// Smallest read buffer that hyper takes.
const BUFFER_BYTES_MIN: usize = 8192;

/// What a connection beyond the bound gets.
const REFUSAL_HEAD: &str = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: application/json\r\n\
                            retry-after: 1\r\nretry-after-ms: 1000\r\nx-should-retry: true\r\ncontent-length: ";
const REFUSAL_BODY: &str = concat!(
    r#"{"error":{"message":"the server has as many connections as it may; try again","#,
    r#""type":"server_error","param":null,"code":"too_many_connections"}}"#,
);

/// The edge cannot listen; nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken.
    #[error(
        "cannot listen on http://{addr}: the port is in use; stop what uses it, or choose another with --http"
    )]
    InUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The address is not this machine's, or may not be used.
    #[error("cannot listen on http://{addr}: {source}")]
    Io {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The system has no thread to watch the API keys.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// What a shutdown ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeShutdown {
    /// Connections that were still busy when the grace was over, and were cut.
    pub cut: usize,
}

/// A running edge. Dropping it cuts every connection; [`shutdown`](Self::shutdown) lets them finish.
pub struct HttpEdge {
    local_addr: SocketAddr,
    app: Arc<App>,
    stop: watch::Sender<bool>,
    acceptor: JoinSet<()>,
    /// Ends with the edge.
    _keys: Option<KeyWatch>,
}

impl HttpEdge {
    /// Listens and serves on the caller's runtime: a task for every connection, all owned by the edge.
    ///
    /// # Errors
    /// The address cannot be listened on.
    #[expect(clippy::unused_async, reason = "binding needs a runtime, which an async function always has")]
    pub async fn bind(
        options: EdgeOptions,
        client: Client,
        view: Arc<dyn NodeView>,
    ) -> Result<Self, BindError> {
        let addr = options.addr;
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AddrInUse => BindError::InUse { addr },
            _ => BindError::Io { addr, source },
        };
        let listener = listen(addr).map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let mut acceptor = JoinSet::new();
        let keys = options.api_keys.clone().map(KeyWatch::start).transpose().map_err(BindError::Thread)?;
        let app = Arc::new(App::new(options, client, view, stopped.clone()));
        acceptor.spawn(accept(listener, app.clone(), stopped));
        Ok(Self { local_addr, app, stop, acceptor, _keys: keys })
    }

    /// Where it listens, with the port that it got.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops listening, lets every request that has begun be answered, and after `grace` cuts what is left.
    pub async fn shutdown(mut self, grace: Duration) -> EdgeShutdown {
        // Nobody listening means that the acceptor is gone already, which the join below shows.
        let _ = self.stop.send(true);
        let ended = tokio::time::timeout(grace, self.acceptor.join_next()).await;
        let left = self.app.counters.connections.load(Ordering::Relaxed);
        // The acceptor owns the connections: they end with it.
        self.acceptor.shutdown().await;
        let cut = if ended.is_ok() { 0 } else { usize::try_from(left).unwrap_or(0) };
        EdgeShutdown { cut }
    }
}

fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restarted node takes its port back although old connections linger in TIME_WAIT.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Accepts until told to stop, then waits for the connections.
async fn accept(listener: TcpListener, app: Arc<App>, mut stopped: watch::Receiver<bool>) {
    let router = router(app.clone());
    let mut connections = JoinSet::new();
    let mut refusals = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            Some(_) = refusals.join_next() => continue,
            _ = stopped.changed() => break,
        };
        match accepted {
            Ok((stream, _)) if connections.len() < app.options.limits.connections_max => {
                connections.spawn(serve(stream, app.clone(), router.clone(), stopped.clone()));
            }
            Ok((stream, _)) => {
                app.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
                if refusals.len() < REFUSALS_MAX {
                    refusals.spawn(refuse(stream));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

/// A panic in a request's task ends its connection only, and is never silent.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked; its caller saw the connection close");
    }
}

fn http1_of(limits: &EdgeLimits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_headers(limits.headers_max)
        .max_buf_size(limits.head_bytes_max.max(BUFFER_BYTES_MIN))
        .keep_alive(true);
    http
}

async fn serve(stream: TcpStream, app: Arc<App>, router: Router, mut stopped: watch::Receiver<bool>) {
    let _up = Up::new(&app.counters.connections);
    // Answers are written whole: waiting to fill a packet only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let stream = PacedStream::new(stream, app.options.limits.write_timeout);
    let in_progress = InProgress::default();
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(in_progress.clone());
        router.call(request)
    });
    let connection = http1_of(&app.options.limits).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let stop = async { drop(stopped.wait_for(|stop| *stop).await) };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            if in_progress.is_held() {
                connection.await
            } else {
                // Idle for hyper is only who has sent nothing. A head that has begun to come may never end, and
                // nothing of it was promised an answer.
                tokio::time::timeout(IDLE_CLOSE_WAIT, connection).await.unwrap_or(Ok(()))
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Tells a connection beyond the bound so, and reads what it sent, because closing on unread bytes resets the
/// connection and the answer is lost.
async fn refuse(mut stream: TcpStream) {
    let told = async {
        let length = REFUSAL_BODY.len();
        let refusal = format!("{REFUSAL_HEAD}{length}\r\n\r\n{REFUSAL_BODY}");
        stream.write_all(refusal.as_bytes()).await?;
        stream.shutdown().await?;
        let mut sink = [0; 4096];
        while stream.read(&mut sink).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, told).await;
}
