//! The one timer of a device actor: its core's timeouts and the beat of its beacons.

use std::time::{Duration, Instant};

use ractor::ActorRef;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::message::DeviceMsg;
use super::tell;

/// Time between two beacons of one request: often enough for a caller that misses three to move on within a second.
const BEAT: Duration = Duration::from_millis(200);

/// Wakes the actor with [`DeviceMsg::Timeout`]. It may fire early (what it was armed for has become moot) but never
/// misses: it is armed anew after every firing, and in between only for something earlier.
pub(super) struct Timer {
    armed_for: watch::Sender<Option<Instant>>,
    next_beat: Option<Instant>,
    /// Owns the sleeping task, which ends with it.
    _task: JoinSet<()>,
}

impl Timer {
    pub(super) fn start(device: ActorRef<DeviceMsg>) -> Self {
        let (armed_for, armed) = watch::channel(None);
        let mut task = JoinSet::new();
        task.spawn(sleep_and_tell(armed, device));
        Self { armed_for, next_beat: None, _task: task }
    }

    /// Arms for `wake_at`, and for the next beat while `beats`.
    pub(super) fn arm(&mut self, wake_at: Option<Instant>, beats: bool, now: Instant) {
        self.next_beat = beats.then(|| self.next_beat.unwrap_or(now + BEAT));
        let wanted = wake_at.into_iter().chain(self.next_beat).min();
        self.armed_for.send_if_modified(|armed| {
            let sooner = match (*armed, wanted) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some(armed), Some(wanted)) => wanted < armed,
            };
            if sooner {
                *armed = wanted;
            }
            sooner
        });
    }

    /// It woke the actor, and sleeps until it is armed again.
    pub(super) fn fired(&mut self) {
        self.armed_for.send_if_modified(|armed| {
            *armed = None;
            false
        });
    }

    /// Whether it is time for beacons; if so, the next time is set.
    pub(super) fn take_beat(&mut self, now: Instant) -> bool {
        let due = self.next_beat.is_some_and(|at| at <= now);
        if due {
            self.next_beat = Some(now + BEAT);
        }
        due
    }
}

async fn sleep_and_tell(mut armed: watch::Receiver<Option<Instant>>, device: ActorRef<DeviceMsg>) {
    loop {
        let at = *armed.borrow_and_update();
        let reached = match at {
            None => armed.changed().await.map(|()| false),
            Some(at) => tokio::select! {
                changed = armed.changed() => changed.map(|()| false),
                () = tokio::time::sleep_until(at.into()) => Ok(true),
            },
        };
        match reached {
            Err(_) => return,
            Ok(false) => {}
            Ok(true) => {
                tell(&device, DeviceMsg::Timeout);
                // Until the actor has read that and armed anew.
                if armed.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}
