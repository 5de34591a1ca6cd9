//! What foca wants done while it handles one event.

use std::collections::VecDeque;
use std::time::Duration;

use foca::{Notification, Timer};
use shoal_protocol::NodeId;

use super::member_id::MemberId;

/// Collected during one event, taken care of right after it.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    pub(super) datagrams: VecDeque<(MemberId, Vec<u8>)>,
    pub(super) timers: Vec<(Duration, Timer<MemberId>)>,
    /// Nodes whose entry changed.
    pub(super) touched: Vec<NodeId>,
    /// Somebody is suspect now, or not any more.
    pub(super) suspects: bool,
    /// The mesh holds us for dead, and nothing we say counts until we renew.
    pub(super) defunct: bool,
}

impl foca::Runtime<MemberId> for Outputs {
    fn notify(&mut self, notification: Notification<'_, MemberId>) {
        match notification {
            Notification::MemberUp(id) | Notification::MemberDown(id) | Notification::Rename(_, id) => {
                self.touched.push(id.life.node);
            }
            Notification::Defunct => self.defunct = true,
            // We never let foca renew, and whether we are alone is asked for where it matters.
            Notification::Active | Notification::Idle | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: MemberId, data: &[u8]) {
        self.datagrams.push_back((to, data.to_vec()));
    }

    fn submit_after(&mut self, timer: Timer<MemberId>, after: Duration) {
        self.suspects |= matches!(timer, Timer::ChangeSuspectToDown { .. });
        self.timers.push((after, timer));
    }
}
