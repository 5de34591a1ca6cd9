//! Where a request's time went, beside what an all-knowing choice would have cost it at the same moment.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use shoal_mesh::core::{Decision, Reason};

use super::policy::Cost;
use super::workload::Workload;

/// The requests whose tail is told apart from all of them.
const TAIL: f64 = 0.01;

/// A request that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Open {
    shape: usize,
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
    /// The router's own reasons, if it chose.
    pub(super) reason: Option<Reasoned>,
}

/// What the router went by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reasoned {
    reason: Reason,
    age: Duration,
    wait: Duration,
    run: Duration,
}

impl Reasoned {
    /// Reads the record that travels with a request.
    pub(super) fn decode(record: &[u8]) -> Option<Self> {
        let Decision { reason, candidates, .. } = Decision::decode(record).ok()?;
        let chosen = candidates.first()?;
        Some(Self {
            reason,
            age: Duration::from_millis(chosen.age_ms.into()),
            wait: Duration::from_micros(chosen.estimate.wait_us + chosen.estimate.cold_us),
            run: Duration::from_micros(chosen.estimate.exec_us),
        })
    }
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

/// What choices for one reason cost, in sums of milliseconds.
#[derive(Debug, Default)]
struct Reasons {
    count: u64,
    sums_ms: [f64; Reasons::NAMES.len()],
}

impl Reasons {
    const NAMES: [&'static str; 7] = ["age", "wait+", "run+", "wait", "believed", "run", "believed"];

    fn count(&mut self, sent: &Sent, reasoned: Reasoned) {
        let ms = |duration: Duration| 1e3 * duration.as_secs_f64();
        let Sent { chosen, holder, .. } = sent;
        let values = [
            ms(reasoned.age),
            ms(chosen.wait) - ms(holder.wait),
            ms(chosen.run) - ms(holder.run),
            ms(chosen.wait),
            ms(reasoned.wait),
            ms(chosen.run),
            ms(reasoned.run),
        ];
        self.count += 1;
        self.sums_ms.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
}

/// The ledger of one run.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    open: BTreeMap<u64, Open>,
    answered: Vec<(usize, Parts)>,
    reasons: BTreeMap<Reason, Reasons>,
}

impl Ledger {
    /// The application made a request.
    pub(super) fn made(&mut self, id: u64, shape: usize, now: Instant) {
        self.open.insert(id, Open { shape, made: now, sent: None });
    }

    /// An attempt of it goes out; only the first counts.
    pub(super) fn sent(&mut self, id: u64, sent: Sent) {
        if let Some(open) = self.open.get_mut(&id) {
            open.sent.get_or_insert(sent);
        }
    }

    /// It was answered.
    pub(super) fn answered(&mut self, id: u64, now: Instant) {
        let Some(Open { shape, made, sent: Some(sent) }) = self.open.remove(&id) else {
            return;
        };
        let Sent { at, chosen, holder, best, reason } = sent;
        let s = |duration: Duration| duration.as_secs_f64();
        let parts = Parts([
            s(best.total()),
            s(holder.total()) - s(best.total()),
            s(chosen.wait) - s(holder.wait),
            s(chosen.run) - s(holder.run),
            s(at - made),
            s(now - at) - s(chosen.total()),
        ]);
        self.answered.push((shape, parts));
        if let Some(reasoned) = reason {
            self.reasons.entry(reasoned.reason).or_default().count(&sent, reasoned);
        }
    }

    /// What it came to.
    pub(super) fn table(&self) -> Why {
        let mut slowest = self.answered.clone();
        slowest.sort_by(|(_, a), (_, b)| b.total().total_cmp(&a.total()));
        let tail = (slowest.len() as f64 * TAIL) as usize;
        let means = |parts: &[(usize, Parts)]| {
            let mean = |at: usize| {
                1e3 * parts.iter().map(|(_, part)| part.0[at]).sum::<f64>() / parts.len().max(1) as f64
            };
            std::array::from_fn(mean)
        };
        let share = |count: u64| 100.0 * count as f64 / slowest.len().max(1) as f64;
        let reasons = self.reasons.iter().map(|(reason, sums)| {
            let means = sums.sums_ms.map(|sum| sum / sums.count as f64);
            (*reason, share(sums.count), means)
        });
        let shapes = (0..Workload::SHAPES).map(|shape| shape_figures(&slowest, tail, shape));
        Why {
            all_ms: means(&slowest),
            tail_ms: means(&slowest[..tail]),
            shapes: shapes.collect(),
            reasons: reasons.collect(),
        }
    }
}

/// The names of [`shape_figures`].
const SHAPE_FIGURES: [&str; 5] = ["%", "of tail", "p50 ms", "p90 ms", "p99 ms"];

/// A shape's share of all requests and of the tail, in per cent, and its latency; the slowest requests come first.
fn shape_figures(slowest: &[(usize, Parts)], tail: usize, shape: usize) -> [f64; SHAPE_FIGURES.len()] {
    let of = |parts: &[(usize, Parts)]| -> Vec<f64> {
        parts.iter().filter(|(own, _)| *own == shape).map(|(_, parts)| 1e3 * parts.total()).collect()
    };
    let percent = |own: usize, all: usize| 100.0 * own as f64 / all.max(1) as f64;
    let (own, own_tail) = (of(slowest), of(&slowest[..tail]));
    let rank = |share: f64| own.get((own.len() as f64 * share) as usize).copied().unwrap_or_default();
    let shares = [percent(own.len(), slowest.len()), percent(own_tail.len(), tail)];
    [shares[0], shares[1], rank(0.5), rank(0.1), rank(0.01)]
}

/// Means of the parts of the latency, in milliseconds: of all requests and of the slowest hundredth.
#[derive(Clone, Debug, PartialEq)]
pub struct Why {
    all_ms: [f64; Parts::NAMES.len()],
    tail_ms: [f64; Parts::NAMES.len()],
    /// By shape of the request.
    shapes: Vec<[f64; SHAPE_FIGURES.len()]>,
    /// By the router's reason: its share of the requests in per cent, and means.
    reasons: Vec<(Reason, f64, [f64; Reasons::NAMES.len()])>,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    {:<42} {:>8} {:>12}", "mean ms", "all", "slowest 1 %")?;
        for ((name, all), tail) in Parts::NAMES.iter().zip(self.all_ms).zip(self.tail_ms) {
            writeln!(f, "    {name:<42} {all:>8.1} {tail:>12.1}")?;
        }
        let sum = |parts: &[f64]| parts.iter().sum::<f64>();
        write!(f, "    {:<42} {:>8.1} {:>12.1}", "= latency", sum(&self.all_ms), sum(&self.tail_ms))?;
        write!(f, "\n    {:<42}", "shape")?;
        SHAPE_FIGURES.iter().try_for_each(|name| write!(f, " {name:>8}"))?;
        for (shape, figures) in self.shapes.iter().enumerate() {
            write!(f, "\n    {:<42}", Workload::shape_name(shape))?;
            figures.iter().try_for_each(|figure| write!(f, " {figure:>8.1}"))?;
        }
        if self.reasons.is_empty() {
            return Ok(());
        }
        write!(f, "\n    {:<42} {:>8}", "reason (mean ms)", "%")?;
        Reasons::NAMES.iter().try_for_each(|name| write!(f, " {name:>8}"))?;
        for (reason, percent, means) in &self.reasons {
            write!(f, "\n    {:<42} {percent:>8.2}", reason.as_str())?;
            means.iter().try_for_each(|mean| write!(f, " {mean:>8.1}"))?;
        }
        Ok(())
    }
}
