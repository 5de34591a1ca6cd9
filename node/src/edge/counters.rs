//! What the edge counts itself; everything behind it is counted by the node.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets in seconds, fine where small encoders answer (the usual first bucket of 5 or
/// 10 ms would hold them all).
pub(super) const BUCKETS_S: [f64; 20] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.007_5, 0.01, 0.02, 0.05, 0.1, 0.2,
    0.5, 1.0, 2.0, 5.0, 10.0, 60.0,
];

/// What a request asked for: the label of its metrics, so a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    OpenAiEmbeddings,
    TeiEmbed,
    TeiEmbedSparse,
    TeiPredict,
    Rerank,
    Encode,
    Score,
    Extract,
    Models,
    TeiInfo,
    Health,
    Ready,
    Metrics,
    Other,
}

impl Route {
    pub(super) const ALL: [Self; 14] = [
        Self::OpenAiEmbeddings,
        Self::TeiEmbed,
        Self::TeiEmbedSparse,
        Self::TeiPredict,
        Self::Rerank,
        Self::Encode,
        Self::Score,
        Self::Extract,
        Self::Models,
        Self::TeiInfo,
        Self::Health,
        Self::Ready,
        Self::Metrics,
        Self::Other,
    ];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::OpenAiEmbeddings => "/v1/embeddings",
            Self::TeiEmbed => "/embed",
            Self::TeiEmbedSparse => "/embed_sparse",
            Self::TeiPredict => "/predict",
            Self::Rerank => "/rerank",
            Self::Encode => "/v1/encode",
            Self::Score => "/v1/score",
            Self::Extract => "/v1/extract",
            Self::Models => "/v1/models",
            Self::TeiInfo => "/info",
            Self::Health => "/healthz",
            Self::Ready => "/readyz",
            Self::Metrics => "/metrics",
            Self::Other => "other",
        }
    }

    /// Whether the route is asked by machines that hold no key and must be answered under any load.
    pub(super) const fn is_probe(self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Metrics)
    }
}

/// Every status that the edge sends, and 499 for a caller that left before its answer. A test holds the error's
/// faces to this list.
pub(super) const STATUSES: [u16; 18] =
    [200, 400, 401, 403, 404, 405, 408, 413, 415, 422, 424, 429, 499, 500, 501, 502, 503, 504];

/// Its position in [`STATUSES`]; what is not there is counted as 500, the only surprise left.
fn status_index(status: u16) -> usize {
    let at = |wanted| STATUSES.iter().position(|known| *known == wanted);
    at(status).or_else(|| at(500)).unwrap_or_default()
}

/// Requests, answers and connections. Relaxed throughout: every number stands for itself.
pub(super) struct Counters {
    answers: [[AtomicU64; STATUSES.len()]; Route::ALL.len()],
    latency: [[AtomicU64; BUCKETS_S.len() + 1]; Route::ALL.len()],
    latency_us: [AtomicU64; Route::ALL.len()],
    /// Requests being answered.
    pub(super) in_flight: AtomicI64,
    /// Connections open.
    pub(super) connections: AtomicI64,
    /// Connections that were turned away.
    pub(super) connections_refused: AtomicU64,
}

/// One route's latencies.
pub(super) struct Latency {
    /// Requests in each bucket of [`BUCKETS_S`], then those above the last.
    pub(super) buckets: [u64; BUCKETS_S.len() + 1],
    /// Their sum.
    pub(super) sum_s: f64,
}

impl Default for Counters {
    fn default() -> Self {
        let zero = |_| AtomicU64::new(0);
        Self {
            answers: std::array::from_fn(|_| std::array::from_fn(zero)),
            latency: std::array::from_fn(|_| std::array::from_fn(zero)),
            latency_us: std::array::from_fn(zero),
            in_flight: AtomicI64::new(0),
            connections: AtomicI64::new(0),
            connections_refused: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// A request was answered.
    pub(super) fn answered(&self, route: Route, status: u16, took: Duration) {
        let row = route as usize;
        self.answers[row][status_index(status)].fetch_add(1, Ordering::Relaxed);
        let took_s = took.as_secs_f64();
        let bucket = BUCKETS_S.partition_point(|bound| *bound < took_s);
        self.latency[row][bucket].fetch_add(1, Ordering::Relaxed);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.latency_us[row].fetch_add(took_us, Ordering::Relaxed);
    }

    /// A caller left before its answer: counted as an answer with 499, outside the latencies.
    pub(super) fn vanished(&self, route: Route) {
        self.answers[route as usize][status_index(499)].fetch_add(1, Ordering::Relaxed);
    }

    /// Answers of `route` with the status at `status_index` of [`STATUSES`].
    pub(super) fn answers(&self, route: Route, status_index: usize) -> u64 {
        self.answers[route as usize][status_index].load(Ordering::Relaxed)
    }

    /// Latencies of `route`.
    pub(super) fn latency(&self, route: Route) -> Latency {
        let row = route as usize;
        Latency {
            buckets: std::array::from_fn(|index| self.latency[row][index].load(Ordering::Relaxed)),
            sum_s: Duration::from_micros(self.latency_us[row].load(Ordering::Relaxed)).as_secs_f64(),
        }
    }
}

/// Counts one up for as long as it lives.
pub(super) struct Up<'a>(&'a AtomicI64);

impl<'a> Up<'a> {
    pub(super) fn new(gauge: &'a AtomicI64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_falls_into_its_bucket_and_status() {
        let counters = Counters::default();
        counters.answered(Route::TeiEmbed, 200, Duration::from_micros(50));
        counters.answered(Route::TeiEmbed, 200, Duration::from_micros(51));
        counters.answered(Route::TeiEmbed, 299, Duration::from_secs(61));
        let latency = counters.latency(Route::TeiEmbed);
        assert_eq!((latency.buckets[0], latency.buckets[1], latency.buckets[20]), (1, 1, 1));
        assert_eq!(counters.answers(Route::TeiEmbed, status_index(200)), 2);
        assert_eq!(counters.answers(Route::TeiEmbed, status_index(500)), 1);
        assert!((latency.sum_s - 61.000_101).abs() < 1e-9);
    }
}
