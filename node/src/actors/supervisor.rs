//! The root of the node's actors: starts the devices, and each of them anew when it fails.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};

use crate::actors::device::{DeviceActor, DeviceArguments, DeviceMsg};
use crate::clock;

/// Delay before the first new start.
const DELAY_MIN: Duration = Duration::from_millis(50);
/// Delay that a device which keeps failing grows to.
const DELAY_MAX: Duration = Duration::from_secs(10);
/// A device that lived so long is forgiven its earlier failures.
const FORGIVEN_AFTER: Duration = Duration::from_mins(1);
/// Failures in a row after which a device is down: about a quarter of a minute of new starts did not help.
const FAILURES_MAX: u32 = 8;
/// Delay between starts of a device that is down: somebody may reset it meanwhile.
const DOWN_PERIOD: Duration = Duration::from_mins(1);

/// How long to wait before a failed device is started again.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    delay: Duration,
    started_at: Option<Instant>,
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Restart {
    delay: Duration,
    /// Nobody need wait for it.
    is_down: bool,
}

impl Backoff {
    fn handle_started(&mut self, now: Instant) {
        self.started_at = Some(now);
    }

    fn handle_failed(&mut self, now: Instant) -> Restart {
        let lived = self.started_at.take().map(|at| now.saturating_duration_since(at));
        if lived.is_some_and(|lived| lived >= FORGIVEN_AFTER) {
            *self = Self::default();
        }
        self.failures = self.failures.saturating_add(1);
        self.delay = (self.delay * 2).clamp(DELAY_MIN, DELAY_MAX);
        let is_down = self.failures > FAILURES_MAX;
        Restart { delay: if is_down { DOWN_PERIOD } else { self.delay }, is_down }
    }
}

/// Where the running device is reached, by those that outlive it.
#[derive(Clone, Default)]
pub(crate) struct DeviceSlot {
    state: Arc<RwLock<SlotState>>,
}

enum SlotState {
    Up(ActorRef<DeviceMsg>),
    /// It has not started yet, or has failed and is started anew.
    Restarting {
        why: Arc<str>,
    },
    /// It keeps failing.
    Down {
        why: Arc<str>,
    },
    Stopped,
}

impl Default for SlotState {
    fn default() -> Self {
        Self::Restarting { why: "it has not started yet".into() }
    }
}

/// The device has failed and its successor has not started. Nothing was done with the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device is being restarted")]
pub(crate) struct DeviceDown;

impl DeviceSlot {
    fn set(&self, state: SlotState) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Tells the device.
    ///
    /// # Errors
    /// [`DeviceDown`].
    pub(crate) fn send(&self, message: DeviceMsg) -> Result<(), DeviceDown> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            SlotState::Up(device) => device.send_message(message).map_err(|_| DeviceDown),
            SlotState::Restarting { .. } | SlotState::Down { .. } | SlotState::Stopped => Err(DeviceDown),
        }
    }

    /// Whether a device is running.
    pub(crate) fn is_up(&self) -> bool {
        self.trouble().is_none()
    }

    /// Why none is running, and whether one will be soon.
    pub(crate) fn trouble(&self) -> Option<String> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            SlotState::Up(_) => None,
            SlotState::Restarting { why } => Some(format!("restarting: {why}")),
            SlotState::Down { why } => Some(format!(
                "down: {why}; it failed {FAILURES_MAX} times in a row and is tried again every {} s",
                DOWN_PERIOD.as_secs()
            )),
            SlotState::Stopped => Some("stopped".to_owned()),
        }
    }
}

/// The actor.
pub(crate) struct NodeSupervisor;

/// What it is told.
pub(crate) enum SupervisorMsg {
    /// The delay is over: start the device of this place in the node's list again.
    Restart(usize),
}

/// A device that it starts.
pub(crate) struct Supervised {
    /// What it needs.
    pub(crate) device: DeviceArguments,
    /// Where it is reached.
    pub(crate) slot: DeviceSlot,
}

struct Held {
    supervised: Supervised,
    backoff: Backoff,
    /// Its current life.
    actor: Option<ActorId>,
}

/// What it holds: the node's devices, in their order.
pub(crate) struct SupervisorState(Vec<Held>);

impl Held {
    async fn start(&mut self, myself: &ActorRef<SupervisorMsg>) -> Result<(), SpawnErr> {
        let arguments = self.supervised.device.clone();
        let (device, _) = Actor::spawn_linked(None, DeviceActor, arguments, myself.get_cell()).await?;
        self.backoff.handle_started(clock::now());
        self.actor = Some(device.get_id());
        self.supervised.slot.set(SlotState::Up(device));
        Ok(())
    }

    fn restart_later(&mut self, index: usize, why: &dyn std::fmt::Display, myself: &ActorRef<SupervisorMsg>) {
        let Restart { delay, is_down } = self.backoff.handle_failed(clock::now());
        self.actor = None;
        let device = self.supervised.device.backend.name();
        let delay_ms = delay.as_millis();
        if is_down {
            tracing::error!(device, %why, delay_ms, "the device is down");
        } else {
            tracing::warn!(device, %why, delay_ms, "the device failed and is started anew");
        }
        let why = why.to_string().into();
        self.supervised.slot.set(if is_down {
            SlotState::Down { why }
        } else {
            SlotState::Restarting { why }
        });
        self.supervised.device.published.clear();
        // The timer's task ends by itself; a supervisor that has stopped by then takes no message.
        drop(myself.send_after(delay, move || SupervisorMsg::Restart(index)));
    }
}

impl SupervisorState {
    fn of_actor(&mut self, actor: ActorId) -> Option<(usize, &mut Held)> {
        self.0.iter_mut().enumerate().find(|(_, held)| held.actor == Some(actor))
    }
}

impl Actor for NodeSupervisor {
    type Msg = SupervisorMsg;
    type State = SupervisorState;
    type Arguments = Vec<Supervised>;

    async fn pre_start(
        &self,
        myself: ActorRef<SupervisorMsg>,
        devices: Vec<Supervised>,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        let hold = |supervised| Held { supervised, backoff: Backoff::default(), actor: None };
        let mut state = SupervisorState(devices.into_iter().map(hold).collect());
        for held in &mut state.0 {
            held.start(&myself).await?;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMsg>,
        message: SupervisorMsg,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        let SupervisorMsg::Restart(index) = message;
        if let Some(held) = state.0.get_mut(index) {
            match held.start(&myself).await {
                Ok(()) => held.supervised.device.carried.count_restart(),
                Err(SpawnErr::StartupFailed(why)) => held.restart_later(index, &why, &myself),
                Err(error) => held.restart_later(index, &error, &myself),
            }
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
            SupervisionEvent::ActorFailed(actor, error) => {
                if let Some((index, held)) = state.of_actor(actor.get_id()) {
                    held.restart_later(index, &error, &myself);
                }
            }
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                if let Some((_, held)) = state.of_actor(actor.get_id()) {
                    tracing::info!(?reason, "the device stopped");
                    held.supervised.slot.set(SlotState::Stopped);
                }
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
    fn a_device_without_life_says_why_and_takes_nothing() {
        let slot = DeviceSlot::default();
        assert!(!slot.is_up());
        slot.set(SlotState::Down { why: "its lanes hang".into() });
        let trouble = slot.trouble().expect("it is down");
        assert!(trouble.starts_with("down: its lanes hang; it failed 8 times"), "{trouble}");
        assert_eq!(slot.send(DeviceMsg::Timeout), Err(DeviceDown));
    }

    #[test]
    fn delays_grow_until_it_is_down_and_are_forgiven() {
        let mut backoff = Backoff::default();
        let mut now = clock::now();
        let mut restarts = Vec::new();
        for _ in 0..12 {
            backoff.handle_started(now);
            restarts.push(backoff.handle_failed(now));
        }
        let again = |ms| Restart { delay: Duration::from_millis(ms), is_down: false };
        assert_eq!(restarts[..3], [50, 100, 200].map(again));
        assert_eq!(restarts[7..9], [again(6_400), Restart { delay: DOWN_PERIOD, is_down: true }]);
        assert!(restarts[9..].iter().all(|restart| restart.is_down), "it is tried and down again");
        backoff.handle_started(now);
        now += FORGIVEN_AFTER;
        assert_eq!(backoff.handle_failed(now), again(50));
    }
}
