//! Who can reach whom, and how long it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A process of the simulated world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// A node, by its number.
    Node(u16),
    /// A client, by its number.
    Client(u16),
}

/// How packets travel over one link, each way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// The least that a packet needs.
    pub delay: Duration,
    /// Mean of what is added to it, exponentially distributed: packets overtake each other.
    pub jitter: Duration,
    /// Probability that a packet is lost.
    pub loss: f64,
    /// Probability that a datagram arrives twice.
    pub duplicate: f64,
}

impl Weather {
    /// One data centre.
    pub const CALM: Self = Self {
        delay: Duration::from_micros(200),
        jitter: Duration::from_micros(50),
        loss: 0.0,
        duplicate: 0.0,
    };
    /// A bad day in it.
    pub const STORMY: Self = Self {
        delay: Duration::from_millis(2),
        jitter: Duration::from_millis(3),
        loss: 0.05,
        duplicate: 0.02,
    };
}

/// Before a lost packet of a stream is sent again, beyond the round trip: QUIC's least probe timeout.
const RETRANSMIT_WAIT: Duration = Duration::from_millis(20);
/// Losses in a row that a stream's packet survives in this model; at any loss below one a tenth is out of reach.
const RETRANSMITS_MAX: u32 = 10;

/// Exponentially distributed: the time until the next of events that know nothing of each other.
pub fn exponential(chance: &mut SmallRng, mean: Duration) -> Duration {
    let unit: f64 = 1.0 - chance.random_range(0.0..1.0);
    mean.mul_f64(-unit.ln())
}

/// All links. The seed decides the fate of every packet.
#[derive(Debug)]
pub struct Network {
    weather: Weather,
    links: BTreeMap<(Peer, Peer), Weather>,
    cuts: BTreeSet<(Peer, Peer)>,
    loses_probes: bool,
    chance: SmallRng,
}

impl Network {
    /// Every link alike, nothing cut.
    #[must_use]
    pub fn new(weather: Weather, seed: u64) -> Self {
        Self {
            weather,
            links: BTreeMap::new(),
            cuts: BTreeSet::new(),
            loses_probes: false,
            chance: SmallRng::seed_from_u64(seed),
        }
    }

    /// Makes one direction of a link different from the others.
    pub fn set_weather(&mut self, from: Peer, to: Peer, weather: Weather) {
        self.links.insert((from, to), weather);
    }

    /// Nothing gets from `from` to `to` any more; the other direction is as it was.
    pub fn cut(&mut self, from: Peer, to: Peer) {
        self.cuts.insert((from, to));
    }

    /// Undoes every cut.
    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// From now on every load probe is lost, or no more.
    pub fn set_loses_probes(&mut self, lost: bool) {
        self.loses_probes = lost;
    }

    /// Whether packets get from `from` to `to`.
    #[must_use]
    pub fn is_open(&self, from: Peer, to: Peer) -> bool {
        self.cuts.is_empty() || !self.cuts.contains(&(from, to))
    }

    /// When the copies of a datagram arrive: none, one or two.
    pub fn datagram(&mut self, from: Peer, to: Peer, is_probe: bool) -> [Option<Duration>; 2] {
        let weather = self.weather_of(from, to);
        if !self.is_open(from, to) || (is_probe && self.loses_probes) {
            return [None; 2];
        }
        let copies = [true, self.happens(weather.duplicate)];
        copies.map(|sent| (sent && !self.happens(weather.loss)).then(|| self.draw(weather)))
    }

    /// Whether one datagram gets through, for those that are sent to many at once.
    pub fn reaches(&mut self, from: Peer, to: Peer) -> bool {
        self.is_open(from, to) && !self.happens(self.weather_of(from, to).loss)
    }

    /// How long a packet takes that gets through.
    pub fn trip(&mut self, from: Peer, to: Peer) -> Duration {
        let weather = self.weather_of(from, to);
        self.draw(weather)
    }

    /// When a packet of a stream arrives: late where it was lost at first, and never where the link is cut.
    pub fn stream(&mut self, from: Peer, to: Peer) -> Option<Duration> {
        let weather = self.weather_of(from, to);
        let mut delay = self.draw(weather);
        let mut losses = 0;
        while losses < RETRANSMITS_MAX && self.happens(weather.loss) {
            losses += 1;
            delay += (2 * weather.delay + RETRANSMIT_WAIT) * losses;
        }
        self.is_open(from, to).then_some(delay)
    }

    fn weather_of(&self, from: Peer, to: Peer) -> Weather {
        if self.links.is_empty() {
            return self.weather;
        }
        self.links.get(&(from, to)).copied().unwrap_or(self.weather)
    }

    fn draw(&mut self, weather: Weather) -> Duration {
        weather.delay + exponential(&mut self.chance, weather.jitter)
    }

    fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.chance.random_bool(probability)
    }
}
