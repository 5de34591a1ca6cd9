//! Where a request's time went, beside what an all-knowing choice would have cost it at the same moment.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::policy::Cost;

/// The requests whose tail is told apart from all of them.
const TAIL: f64 = 0.01;

/// A request that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Open {
    made: Instant,
    sent: Option<Sent>,
}

/// When its first attempt went out, and what it cost then where it went, at the best of those that hold its model, and
/// at the best of all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) at: Instant,
    pub(super) chosen: Cost,
    pub(super) holder: Cost,
    pub(super) best: Cost,
}

/// An answered request, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Parts([f64; Parts::NAMES.len()]);

impl Parts {
    /// What the parts are: they add up to the latency.
    const NAMES: [&'static str; 6] = [
        "the best place of all",
        "+ that no holder was it",
        "+ a longer wait than at the best holder",
        "+ a slower run than there",
        "+ before it was sent: probes",
        "+ what nobody foresaw",
    ];

    fn total(&self) -> f64 {
        self.0.iter().sum()
    }
}

/// The ledger of one run.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    open: BTreeMap<u64, Open>,
    answered: Vec<Parts>,
}

impl Ledger {
    /// The application made a request.
    pub(super) fn made(&mut self, id: u64, now: Instant) {
        self.open.insert(id, Open { made: now, sent: None });
    }

    /// An attempt of it goes out; only the first counts.
    pub(super) fn sent(&mut self, id: u64, sent: Sent) {
        if let Some(open) = self.open.get_mut(&id) {
            open.sent.get_or_insert(sent);
        }
    }

    /// It was answered.
    pub(super) fn answered(&mut self, id: u64, now: Instant) {
        let Some(Open { made, sent: Some(Sent { at, chosen, holder, best }) }) = self.open.remove(&id) else {
            return;
        };
        let s = |duration: Duration| duration.as_secs_f64();
        self.answered.push(Parts([
            s(best.total()),
            s(holder.total()) - s(best.total()),
            s(chosen.wait) - s(holder.wait),
            s(chosen.run) - s(holder.run),
            s(at - made),
            s(now - at) - s(chosen.total()),
        ]));
    }

    /// What it came to.
    pub(super) fn table(&self) -> Why {
        let mut slowest = self.answered.clone();
        slowest.sort_by(|a, b| b.total().total_cmp(&a.total()));
        let tail = (slowest.len() as f64 * TAIL) as usize;
        let means = |parts: &[Parts]| {
            let mean =
                |at: usize| 1e3 * parts.iter().map(|part| part.0[at]).sum::<f64>() / parts.len().max(1) as f64;
            std::array::from_fn(mean)
        };
        Why { all_ms: means(&slowest), tail_ms: means(&slowest[..tail]) }
    }
}

/// Means of the parts of the latency, in milliseconds: of all requests and of the slowest hundredth.
#[derive(Clone, Debug, PartialEq)]
pub struct Why {
    all_ms: [f64; Parts::NAMES.len()],
    tail_ms: [f64; Parts::NAMES.len()],
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    {:<42} {:>8} {:>12}", "mean ms", "all", "slowest 1 %")?;
        for ((name, all), tail) in Parts::NAMES.iter().zip(self.all_ms).zip(self.tail_ms) {
            writeln!(f, "    {name:<42} {all:>8.1} {tail:>12.1}")?;
        }
        let sum = |parts: &[f64]| parts.iter().sum::<f64>();
        write!(f, "    {:<42} {:>8.1} {:>12.1}", "= latency", sum(&self.all_ms), sum(&self.tail_ms))
    }
}
