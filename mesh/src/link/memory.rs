//! The link inside one process: the same frames, encoded and decoded as over QUIC, without a socket.

use std::sync::{Arc, Mutex, PoisonError};

use shoal_protocol::header::Header;
use shoal_protocol::message::Role;
use shoal_protocol::{ErrorCode, Frame, WIRE_VERSION, decode, encode};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::frames::{Exchange, FrameSink, FrameSource};
use super::reply::{LinkError, Peer, Reply, Service};

/// Frames between service and caller: enough that neither waits for the other's scheduling; at most 4 x 4 MiB.
const FRAMES_MAX: usize = 4;
/// Attempts at a time, as over QUIC: beyond it the answer is a typed overload.
const ATTEMPTS_MAX: usize = 4096;

/// A link to a service of this process.
pub(crate) struct MemoryLink {
    service: Arc<dyn Service>,
    room: Arc<Semaphore>,
    tasks: Mutex<JoinSet<()>>,
}

impl MemoryLink {
    pub(crate) fn new(service: Arc<dyn Service>) -> Self {
        Self { service, room: Arc::new(Semaphore::new(ATTEMPTS_MAX)), tasks: Mutex::new(JoinSet::new()) }
    }

    /// Hands a request to the service. Must be called inside a tokio runtime.
    pub(crate) fn send(&self, frame: &Frame) -> Result<Exchange, LinkError> {
        let mut bytes = Vec::new();
        encode(frame, WIRE_VERSION, &mut bytes)?;
        let (frames, source) = mpsc::channel(FRAMES_MAX);
        let (alive_at_caller, alive) = watch::channel(());
        let reply = Reply::new(FrameSink::Memory { frames, alive });
        let permit = self.room.clone().try_acquire_owned();
        let service = self.service.clone();
        self.spawn(async move {
            // The caller is told what happened; that it may be gone is no error here.
            let _told = match (permit, read_request(&bytes)) {
                (Ok(_permit), Ok(request)) => {
                    drop(bytes);
                    service.serve(local_peer(), request, reply).await;
                    Ok(())
                }
                (Err(_), _) => reply.fail(ErrorCode::Overloaded, no_room(ATTEMPTS_MAX)).await,
                (_, Err(what)) => reply.fail(ErrorCode::InvalidRequest, what).await,
            };
        });
        let source = FrameSource::Memory { frames: source, _alive: alive_at_caller };
        Ok(Exchange::memory(source))
    }

    pub(crate) fn service(&self) -> &Arc<dyn Service> {
        &self.service
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(done) = tasks.try_join_next() {
            if let Err(error) = done {
                tracing::error!(%error, "a request's task panicked; its caller was told");
            }
        }
        tasks.spawn_on(task, &Handle::current());
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        // A service is never dropped half-way: it sees that its callers are gone and ends by itself.
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.detach_all();
    }
}

fn read_request(bytes: &[u8]) -> Result<Frame, String> {
    let (header, body) = bytes.split_first_chunk().ok_or("no header")?;
    let header = Header::decode(header).map_err(|error| error.to_string())?;
    decode(&header, body).map_err(|error| error.to_string())
}

fn local_peer() -> Peer {
    Peer { role: Role::Client, node: None, name: String::new(), address: None, local: true }
}

/// What an attempt beyond the limit is told.
pub(crate) fn no_room(attempts_max: usize) -> String {
    format!("{attempts_max} attempts are being served already")
}
