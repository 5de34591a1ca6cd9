//! What the calls of a client and its background task share: the machine, and who is woken by what it hears.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use shoal_protocol::NodeId;
use shoal_protocol::message::LoadReply;

use crate::core::{CallId, ClientCore};
use crate::link::{Heard, now};

/// The machine behind its lock, which nobody holds across an await.
pub(super) struct SharedCore {
    core: Mutex<ClientCore>,
    /// One a call that waits: bounded by the calls.
    wakers: Mutex<BTreeMap<CallId, Waker>>,
}

impl SharedCore {
    pub(super) fn new(core: ClientCore) -> Self {
        Self { core: Mutex::new(core), wakers: Mutex::new(BTreeMap::new()) }
    }

    pub(super) fn core(&self) -> MutexGuard<'_, ClientCore> {
        // The machines do not panic; should one do, what it leaves fails calls and no more.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wakers(&self) -> MutexGuard<'_, BTreeMap<CallId, Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The call waits, and is polled again when there is news for it.
    pub(super) fn wait(&self, call: CallId, waker: &Waker) {
        let mut wakers = self.wakers();
        match wakers.get_mut(&call) {
            Some(known) => known.clone_from(waker),
            None => drop(wakers.insert(call, waker.clone())),
        }
    }

    /// The call is over.
    pub(super) fn end_call(&self, call: CallId) {
        self.core().end_call(call);
        self.wakers().remove(&call);
    }

    /// What is known of the mesh changed: every call may have something to send or to stop.
    pub(super) fn wake_all(&self) {
        self.wakers().values().for_each(Waker::wake_by_ref);
    }

    /// A device answered: calls that have a part to place may do so now.
    pub(super) fn handle_reply(&self, from: NodeId, reply: &LoadReply) {
        let mut core = self.core();
        core.handle_reply(from, reply, now());
        let wakers = self.wakers();
        wakers.iter().filter(|(call, _)| core.is_placing(**call)).for_each(|(_, waker)| waker.wake_by_ref());
    }

    /// What came on a connection without being asked for on a stream.
    pub(super) fn handle_heard(&self, heard: Heard) {
        match heard {
            Heard::Up(node) => self.core().handle_path(node, now()),
            Heard::Reply(node, reply) => self.handle_reply(node, &reply),
        }
    }
}
