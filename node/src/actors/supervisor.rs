//! The root of the node's actors: starts the device and starts it anew when it fails.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::actors::device::{DeviceActor, DeviceArguments, DeviceMsg};
use crate::clock;

/// Delay before the first new start.
const DELAY_MIN: Duration = Duration::from_millis(50);
/// Delay that a device which keeps failing grows to.
const DELAY_MAX: Duration = Duration::from_secs(10);
/// A device that lived so long is forgiven its earlier failures.
const FORGIVEN_AFTER: Duration = Duration::from_mins(1);

/// How long to wait before a failed device is started again.
#[derive(Debug, Default)]
struct Backoff {
    delay: Duration,
    started_at: Option<Instant>,
}

impl Backoff {
    fn handle_started(&mut self, now: Instant) {
        self.started_at = Some(now);
    }

    /// The delay before the next start.
    fn handle_failed(&mut self, now: Instant) -> Duration {
        let lived = self.started_at.take().map(|at| now.saturating_duration_since(at));
        if lived.is_some_and(|lived| lived >= FORGIVEN_AFTER) {
            self.delay = Duration::ZERO;
        }
        self.delay = (self.delay * 2).clamp(DELAY_MIN, DELAY_MAX);
        self.delay
    }
}

/// Where the running device is reached, by those that outlive it.
#[derive(Clone, Default)]
pub(crate) struct DeviceSlot {
    running: Arc<RwLock<Option<ActorRef<DeviceMsg>>>>,
}

/// The device has failed and its successor has not started. Nothing was done with the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device is being restarted")]
pub(crate) struct DeviceDown;

impl DeviceSlot {
    fn set(&self, device: Option<ActorRef<DeviceMsg>>) {
        *self.running.write().unwrap_or_else(PoisonError::into_inner) = device;
    }

    /// Tells the device.
    ///
    /// # Errors
    /// [`DeviceDown`].
    pub(crate) fn send(&self, message: DeviceMsg) -> Result<(), DeviceDown> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        let device = running.as_ref().ok_or(DeviceDown)?;
        device.send_message(message).map_err(|_| DeviceDown)
    }

    /// Whether a device is running.
    pub(crate) fn is_up(&self) -> bool {
        self.running.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// The actor.
pub(crate) struct NodeSupervisor;

/// What it is told.
pub(crate) enum SupervisorMsg {
    /// The delay is over: start the device again.
    Restart,
}

/// What it needs to start.
pub(crate) struct SupervisorArguments {
    /// The device.
    pub(crate) device: DeviceArguments,
    /// Where it is reached.
    pub(crate) slot: DeviceSlot,
}

/// What it holds.
pub(crate) struct SupervisorState {
    arguments: SupervisorArguments,
    backoff: Backoff,
}

impl SupervisorState {
    async fn start_device(&mut self, myself: &ActorRef<SupervisorMsg>) -> Result<(), ActorProcessingErr> {
        let arguments = self.arguments.device.clone();
        let (device, _) = Actor::spawn_linked(None, DeviceActor, arguments, myself.get_cell()).await?;
        self.backoff.handle_started(clock::now());
        self.arguments.slot.set(Some(device));
        Ok(())
    }

    fn restart_later(&mut self, myself: &ActorRef<SupervisorMsg>) {
        self.arguments.slot.set(None);
        self.arguments.device.published.clear();
        let delay = self.backoff.handle_failed(clock::now());
        tracing::warn!(delay_ms = delay.as_millis(), "the device is started anew");
        // The timer's task ends by itself; a supervisor that has stopped by then takes no message.
        drop(myself.send_after(delay, || SupervisorMsg::Restart));
    }
}

impl Actor for NodeSupervisor {
    type Msg = SupervisorMsg;
    type State = SupervisorState;
    type Arguments = SupervisorArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<SupervisorMsg>,
        arguments: SupervisorArguments,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        let mut state = SupervisorState { arguments, backoff: Backoff::default() };
        state.start_device(&myself).await?;
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMsg>,
        message: SupervisorMsg,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        let SupervisorMsg::Restart = message;
        if let Err(error) = state.start_device(&myself).await {
            tracing::error!(%error, "the device does not start");
            state.restart_later(&myself);
        } else {
            state.arguments.device.carried.count_restart();
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMsg>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(_, error) => {
                tracing::error!(%error, "the device failed");
                state.restart_later(&myself);
            }
            SupervisionEvent::ActorTerminated(_, _, reason) => {
                tracing::info!(?reason, "the device stopped");
                state.arguments.slot.set(None);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_are_forgiven() {
        let mut backoff = Backoff::default();
        let mut now = clock::now();
        let mut delays = Vec::new();
        for _ in 0..12 {
            backoff.handle_started(now);
            delays.push(backoff.handle_failed(now));
        }
        assert_eq!(delays[..3], [50, 100, 200].map(Duration::from_millis));
        assert_eq!(delays.last(), Some(&DELAY_MAX));
        backoff.handle_started(now);
        now += FORGIVEN_AFTER;
        assert_eq!(backoff.handle_failed(now), DELAY_MIN);
    }
}
