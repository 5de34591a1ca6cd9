//! Who can reach whom, and what happens to a packet on the way.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// How packets travel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    /// One way.
    pub(super) delay: Duration,
    /// Added to `delay`, evenly spread: packets overtake each other.
    pub(super) jitter: Duration,
    pub(super) loss_percent: u32,
    pub(super) duplicate_percent: u32,
}

impl Weather {
    pub(super) const CALM: Self = Self {
        delay: Duration::from_millis(1),
        jitter: Duration::from_millis(1),
        loss_percent: 0,
        duplicate_percent: 0,
    };

    pub(super) const fn stormy(loss_percent: u32) -> Self {
        Self {
            delay: Duration::from_millis(20),
            jitter: Duration::from_millis(10),
            loss_percent,
            duplicate_percent: 1,
        }
    }
}

/// Something on its way to a node.
#[derive(Debug)]
pub(super) struct Parcel<T> {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) what: T,
}

/// Everything on its way, by arrival.
pub(super) struct Network<T> {
    pub(super) weather: Weather,
    chance: SmallRng,
    parcels: BTreeMap<(Instant, u64), Parcel<T>>,
    sequence: u64,
    /// The side of a partition on which each node is.
    sides: BTreeMap<usize, u8>,
}

impl<T: Clone> Network<T> {
    pub(super) fn new(weather: Weather, chance: u64) -> Self {
        Self {
            weather,
            chance: SmallRng::seed_from_u64(chance),
            parcels: BTreeMap::new(),
            sequence: 0,
            sides: BTreeMap::new(),
        }
    }

    pub(super) fn partition(&mut self, side: impl IntoIterator<Item = usize>) {
        self.sides = side.into_iter().map(|node| (node, 1)).collect();
    }

    pub(super) fn heal(&mut self) {
        self.sides.clear();
    }

    pub(super) fn reaches(&self, a: usize, b: usize) -> bool {
        self.sides.get(&a) == self.sides.get(&b)
    }

    pub(super) fn trip(&mut self) -> Duration {
        let jitter_us = u64::try_from(self.weather.jitter.as_micros()).expect("small");
        self.weather.delay + Duration::from_micros(self.chance.random_range(0..=jitter_us))
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.chance.random_range(0..100) < percent
    }

    /// A datagram: it may be lost, doubled and overtaken.
    pub(super) fn send(&mut self, parcel: Parcel<T>, now: Instant) {
        let copies = 1 + usize::from(self.percent(self.weather.duplicate_percent));
        for _ in 0..copies {
            let trip = self.trip();
            if !self.percent(self.weather.loss_percent) {
                let Parcel { from, to, ref what } = parcel;
                self.deliver(Parcel { from, to, what: what.clone() }, now + trip);
            }
        }
    }

    /// Arrives for certain, unless the receiver is out of reach by then.
    pub(super) fn deliver(&mut self, parcel: Parcel<T>, at: Instant) {
        self.sequence += 1;
        self.parcels.insert((at, self.sequence), parcel);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.parcels.first_key_value().map(|((at, _), _)| *at)
    }

    /// What arrives at `now`; what crosses a partition is gone.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Parcel<T>> {
        while self.next()? <= now {
            let (_, parcel) = self.parcels.pop_first()?;
            if self.reaches(parcel.from, parcel.to) {
                return Some(parcel);
            }
        }
        None
    }
}
