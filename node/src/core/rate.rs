//! Measured speeds, and the limit on them.

use std::time::{Duration, Instant};

/// Weight that a batch loses with each later one: about the last ten batches count, a quarter of a second of work,
/// so that a machine that suddenly halves its speed (shared cores) is believed soon.
const BATCH_DECAY: f64 = 0.9;
/// Time constant of [`DrainMeter`]: long enough to see through bursts, short enough to follow the load.
const DRAIN_TAU: Duration = Duration::from_secs(5);

/// Time constant of [`UseMeter`]: a few hundred batches, and soon enough to notice a flood.
const USE_TAU: Duration = Duration::from_secs(2);

/// Units per second of work, over the last few pieces of it. Sums are weighted by size, so that many small batches
/// do not pass for the speed of a large one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RateMeter {
    units: f64,
    seconds: f64,
}

impl RateMeter {
    pub(super) fn record(&mut self, units: u64, took: Duration) {
        self.units = self.units * BATCH_DECAY + units as f64;
        self.seconds = self.seconds * BATCH_DECAY + took.as_secs_f64();
    }

    /// `None` before the first measurement: callers must not decide by a guess unknowingly.
    pub(super) fn per_s(&self) -> Option<f64> {
        (self.units > 0.0 && self.seconds > 0.0).then(|| self.units / self.seconds)
    }
}

/// Units per second that leave a queue while it is not empty, over the last seconds. It answers "when will there be
/// room", so the time in which nothing left counts too.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DrainMeter {
    units: f64,
    seconds: f64,
    since: Option<Instant>,
}

impl DrainMeter {
    /// The queue is not empty any more: time counts from here.
    pub(super) fn handle_busy(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// `units` left; `idle` says that nothing remains.
    pub(super) fn handle_left(&mut self, units: u64, idle: bool, now: Instant) {
        let elapsed = self.elapsed(now);
        let keep = (-elapsed.as_secs_f64() / DRAIN_TAU.as_secs_f64()).exp();
        self.units = self.units * keep + units as f64;
        self.seconds = self.seconds * keep + elapsed.as_secs_f64();
        self.since = (!idle).then_some(now);
    }

    /// Time until `units` more have left at the measured rate; `None` before anything was measured.
    pub(super) fn time_to_drain(&self, units: u64, now: Instant) -> Option<Duration> {
        let seconds = self.seconds + self.elapsed(now).as_secs_f64();
        (self.units > 0.0).then(|| seconds_to_duration(units as f64 * seconds / self.units))
    }

    fn elapsed(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// Share of a device that one kind of work takes, over the last seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UseMeter {
    seconds: f64,
    at: Option<Instant>,
}

impl UseMeter {
    /// Work that takes so much time of the whole device is begun.
    pub(super) fn record(&mut self, work: Duration, now: Instant) {
        self.seconds = self.seconds(now) + work.as_secs_f64();
        self.at = Some(now);
    }

    /// From 0 to 1.
    pub(super) fn share(&self, now: Instant) -> f64 {
        (self.seconds(now) / USE_TAU.as_secs_f64()).min(1.0)
    }

    fn seconds(&self, now: Instant) -> f64 {
        let since = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.seconds * (-since.as_secs_f64() / USE_TAU.as_secs_f64()).exp()
    }
}

/// Holds throughput at `tokens_per_s_max`: each batch pays for its tokens with time before the next may start, so
/// any window carries at most its share plus one batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Throttle {
    tokens_per_s_max: Option<u32>,
    ready_at: Option<Instant>,
}

impl Throttle {
    pub(super) fn new(tokens_per_s_max: Option<u32>) -> Self {
        Self { tokens_per_s_max: tokens_per_s_max.map(|rate| rate.max(1)), ready_at: None }
    }

    pub(super) fn spend(&mut self, tokens: u64, now: Instant) {
        let Some(rate) = self.tokens_per_s_max else { return };
        let from = self.ready_at.map_or(now, |ready_at| ready_at.max(now));
        self.ready_at = Some(from + seconds_to_duration(tokens as f64 / f64::from(rate)));
    }

    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.wait(now).is_zero()
    }

    /// Time until the next batch may start.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.ready_at.map_or(Duration::ZERO, |ready_at| ready_at.saturating_duration_since(now))
    }

    pub(super) fn ready_at(&self) -> Option<Instant> {
        self.ready_at
    }

    /// `measured`, but not above the limit. Known without a measurement where there is a limit.
    pub(super) fn cap(&self, measured: Option<f64>) -> Option<f64> {
        match (measured, self.tokens_per_s_max.map(f64::from)) {
            (Some(measured), Some(limit)) => Some(measured.min(limit)),
            (measured, limit) => measured.or(limit),
        }
    }
}

/// Any number as a duration, held between zero and a year: forecasts are sums of quotients and must not overflow.
pub(super) fn seconds_to_duration(seconds: f64) -> Duration {
    const YEAR: Duration = Duration::from_hours(24 * 365);
    Duration::try_from_secs_f64(seconds.max(0.0)).map_or(YEAR, |duration| duration.min(YEAR))
}

#[cfg(test)]
mod tests {
    use super::super::testing::origin;
    use super::*;

    #[test]
    fn a_rate_follows_a_machine_that_halves_its_speed_within_ten_batches() {
        let mut meter = RateMeter::default();
        assert_eq!(meter.per_s(), None);
        for _ in 0..50 {
            meter.record(200, Duration::from_millis(20));
        }
        assert!((meter.per_s().unwrap() - 10_000.0).abs() < 1.0);
        for _ in 0..10 {
            meter.record(100, Duration::from_millis(20));
        }
        let rate = meter.per_s().unwrap();
        assert!((5_000.0..7_000.0).contains(&rate), "{rate}");
    }

    #[test]
    fn draining_counts_the_time_in_which_nothing_left() {
        let start = origin();
        let mut meter = DrainMeter::default();
        assert_eq!(meter.time_to_drain(1, start), None);
        meter.handle_busy(start);
        meter.handle_left(100, false, start + Duration::from_secs(1));
        let soon = meter.time_to_drain(100, start + Duration::from_secs(1)).unwrap();
        let stalled = meter.time_to_drain(100, start + Duration::from_secs(11)).unwrap();
        assert_eq!(soon, Duration::from_secs(1));
        assert_eq!(stalled, Duration::from_secs(11));
    }

    #[test]
    fn a_use_is_known_within_seconds_and_forgotten_as_soon() {
        let (mut meter, start) = (UseMeter::default(), origin());
        assert_eq!(meter.share(start), 0.0);
        let at = |batch: u32| start + batch * Duration::from_millis(25);
        (0..400).for_each(|batch| meter.record(Duration::from_millis(20), at(batch)));
        let share = meter.share(at(400));
        assert!((0.78..0.82).contains(&share), "{share}");
        assert!(meter.share(at(400) + 3 * USE_TAU) < 0.05);
        meter.record(Duration::from_secs(60), at(400));
        assert_eq!(meter.share(at(400)), 1.0);
    }

    #[test]
    fn an_idle_pause_does_not_slow_the_drain_rate() {
        let start = origin();
        let mut meter = DrainMeter::default();
        meter.handle_busy(start);
        meter.handle_left(100, true, start + Duration::from_secs(1));
        let later = start + Duration::from_secs(3600);
        assert_eq!(meter.time_to_drain(100, later), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_throttle_makes_each_batch_pay_before_the_next() {
        let start = origin();
        let mut throttle = Throttle::new(Some(1000));
        assert!(throttle.is_ready(start));
        throttle.spend(500, start);
        assert_eq!(throttle.wait(start), Duration::from_millis(500));
        let late = start + Duration::from_secs(10);
        throttle.spend(100, late);
        assert_eq!(throttle.ready_at(), Some(late + Duration::from_millis(100)), "idle time is no credit");
        assert_eq!(throttle.cap(Some(5000.0)), Some(1000.0));
        assert_eq!(throttle.cap(None), Some(1000.0));
        assert_eq!(Throttle::new(None).cap(None), None);
    }

    #[test]
    fn a_forecast_never_overflows() {
        assert!(seconds_to_duration(f64::INFINITY) > Duration::from_secs(3600));
        assert_eq!(seconds_to_duration(-1.0), Duration::ZERO);
        assert_eq!(seconds_to_duration(f64::NAN), Duration::ZERO);
    }
}
