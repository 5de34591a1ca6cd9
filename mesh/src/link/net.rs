//! Where datagrams and tasks come from: the operating system's UDP on a tokio runtime, or a test's own network.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, udp};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Bytes that a socket's buffers should hold: a burst of a few large answers. The kernel's default (208 KiB on Linux)
/// drops datagrams under such a burst, which looks like a slow network.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// The caller's runtime says what time it is: virtual under a paused clock.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Chance for ids and jitter, from the operating system.
pub(crate) fn random() -> u64 {
    let random = ring::rand::generate(&ring::rand::SystemRandom::new());
    random.map_or(0, |bytes: ring::rand::Random<[u8; 8]>| u64::from_le_bytes(bytes.expose()))
}

/// What an endpoint stands on. The default is [`TokioNet`]; a simulation brings its own sockets and clock.
pub trait Net: Send + Sync + 'static {
    /// Opens a datagram socket.
    ///
    /// # Errors
    /// The operating system's.
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// Timers and tasks of the QUIC machinery.
    fn quic_runtime(&self) -> Arc<dyn Runtime>;

    /// Where the tasks of the link itself run.
    fn tasks(&self) -> Handle;
}

/// UDP of the operating system; timers and tasks on one tokio runtime: the caller's, or a [`NetThread`]'s.
#[derive(Clone, Debug)]
pub struct TokioNet(Handle);

impl TokioNet {
    /// Everything on `runtime`.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        Self(runtime)
    }
}

/// A thread with a runtime for the link alone, which neither compute nor HTTP nor actors can starve: what is late there
/// looks like a dead node to everybody else. The service's futures run on it too, up to where they hand their work over.
///
/// Dropping it ends at once whatever still runs there; shut the servers down first.
pub struct NetThread {
    net: TokioNet,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl NetThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread or no event queue for it.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let net = TokioNet::new(runtime.handle().clone());
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            // Nothing is ever sent: the error says that the other half was dropped.
            let _dropped = runtime.block_on(stopped);
        };
        let thread = thread::Builder::new().name("shoal-net".to_owned()).spawn(run)?;
        Ok(Self { net, stop: Some(stop), thread: Some(thread) })
    }

    /// What endpoints on this thread stand on.
    #[must_use]
    pub fn net(&self) -> TokioNet {
        self.net.clone()
    }
}

impl Drop for NetThread {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // A panic on it was told by the task's owner.
            let _ended = thread.join();
        }
    }
}

impl Net for TokioNet {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = std::net::UdpSocket::bind(addr)?;
        grow_buffers(&socket);
        self.wrap_udp_socket(socket)
    }

    fn quic_runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(self.clone())
    }

    fn tasks(&self) -> Handle {
        self.0.clone()
    }
}

impl Runtime for TokioNet {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _entered = self.0.enter();
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        // quinn owns the task: it ends with its endpoint or connection.
        self.0.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _entered = self.0.enter();
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// Asks for larger socket buffers and says what to do when the system grants less.
fn grow_buffers(socket: &std::net::UdpSocket) {
    let Ok(state) = udp::UdpSocketState::new(socket.into()) else {
        return; // the endpoint will meet the same error and report it
    };
    // A refusal shows in the size that is read back.
    let _ = state.set_recv_buffer_size(socket.into(), SOCKET_BUFFER_BYTES);
    let _ = state.set_send_buffer_size(socket.into(), SOCKET_BUFFER_BYTES);
    if let Ok(granted) = state.recv_buffer_size(socket.into())
        && granted < SOCKET_BUFFER_BYTES
    {
        tracing::warn!(
            granted,
            wanted = SOCKET_BUFFER_BYTES,
            "small UDP receive buffer: bursts will lose datagrams; sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES} \
             net.core.wmem_max={SOCKET_BUFFER_BYTES}"
        );
    }
}
