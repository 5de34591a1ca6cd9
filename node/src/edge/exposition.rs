//! `GET /metrics`: the Prometheus text format 0.0.4, or OpenMetrics 1.0 where the scraper asks for it.
//!
//! Gauges come from the queue and the residency themselves, in the node's own status, so that an autoscaler and a
//! `Retry-After` never disagree. Labels are bounded: routes and statuses are closed lists, models beyond
//! [`MODELS_MAX`] are summed under `other`.

use std::sync::atomic::Ordering;

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use shoal_protocol::message::{DeviceStatus, ModelState, Status};

use super::app::App;
use super::counters::{BUCKETS_S, Route, STATUSES};
use super::error::EdgeError;
use super::exchange::Reply;
use super::histograms;
use super::text_format::{Kind, Writer};

/// Scrapes that are answered at once; further ones wait. Nobody needs a key for them, and each copies every histogram.
pub(super) const SCRAPES_MAX: usize = 2;
/// Models that have labels of their own.
pub(super) const MODELS_MAX: usize = 100;
/// The label of the others.
pub(super) const OTHER_MODELS: &str = "other";

/// Serves one scrape.
pub(super) async fn metrics(app: &App, headers: &HeaderMap) -> Result<Reply, EdgeError> {
    // It is never closed.
    let _turn = app.scrapes.acquire().await.ok();
    let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    let open_metrics = accepts.is_some_and(|accepts| accepts.contains("application/openmetrics-text"));
    let mut out = Writer::new(open_metrics);
    write_edge(app, &mut out);
    // A node that cannot tell its status is told by its absence; the edge's own numbers still count.
    match app.client.status(true).await {
        Ok(status) => write_status(&status, &mut out),
        Err(error) => tracing::warn!(%error, "metrics without the node's status"),
    }
    Ok(Reply {
        media_type: if open_metrics {
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        } else {
            "text/plain; version=0.0.4; charset=utf-8"
        },
        ..Reply::json(out.finish())
    })
}

fn write_edge(app: &App, out: &mut Writer) {
    let counters = &app.counters;
    let requests = "shoal_http_requests";
    out.family(requests, Kind::Counter, "HTTP requests answered; 499: the caller left first.");
    for route in Route::ALL {
        for (index, status) in STATUSES.iter().enumerate() {
            let count = counters.answers(route, index);
            if count > 0 {
                let labels = [("route", route.label()), ("status", &status.to_string())];
                out.sample(requests, "_total", &labels, count as f64);
            }
        }
    }
    let duration = "shoal_http_request_duration_seconds";
    out.family(duration, Kind::Histogram, "From the request's head to its answer, as the edge sees it.");
    for route in Route::ALL.into_iter().filter(|route| !route.is_probe()) {
        let latency = counters.latency(route);
        if latency.buckets.iter().any(|count| *count > 0) {
            let labels = [("route", route.label())];
            out.histogram(duration, &labels, &BUCKETS_S, &latency.buckets, latency.sum_s);
        }
    }
    for (name, help, value) in [
        (
            "shoal_http_requests_in_flight",
            "HTTP requests being answered.",
            counters.in_flight.load(Ordering::Relaxed) as f64,
        ),
        (
            "shoal_http_connections",
            "HTTP connections open.",
            counters.connections.load(Ordering::Relaxed) as f64,
        ),
        ("shoal_http_bodies_bytes", "Bytes of request bodies held.", app.bodies.bytes_held() as f64),
    ] {
        out.family(name, Kind::Gauge, help);
        out.sample(name, "", &[], value);
    }
    let refused = "shoal_http_connections_refused";
    out.family(refused, Kind::Counter, "HTTP connections turned away.");
    let count = counters.connections_refused.load(Ordering::Relaxed);
    out.sample(refused, "_total", &[], count as f64);
}

fn write_status(status: &Status, out: &mut Writer) {
    let node = status.node.to_string();
    out.family("shoal_build_info", Kind::Gauge, "The node and its software.");
    let labels = [("node", node.as_str()), ("software", &status.software)];
    out.sample("shoal_build_info", "", &labels, 1.0);
    for (name, help, value) in [
        ("shoal_ready", "1 when warm, self-tested and not draining.", f64::from(u8::from(status.ready))),
        ("shoal_draining", "1 when no new work is taken.", f64::from(u8::from(status.draining))),
        ("shoal_uptime_seconds", "Time since start.", status.uptime_us.0 as f64 / 1e6),
    ] {
        out.family(name, Kind::Gauge, help);
        out.sample(name, "", &[], value);
    }
    write_devices(&status.devices, out);
    write_models(status, out);
    histograms::write(&status.histograms, out);
}

/// What is read off one device.
type Read = fn(&DeviceStatus) -> f64;

const DEVICE_GAUGES: [(&str, &str, Read); 13] = [
    ("shoal_queue_tokens", "Tokens admitted and not yet in a batch.", |d| d.load.queue_tokens as f64),
    ("shoal_queue_tokens_max", "The bound of the queue.", |d| d.gauges.queue_tokens_max.0 as f64),
    ("shoal_queue_oldest_age_seconds", "Age of the oldest queued text.", |d| {
        d.gauges.queue_oldest_us.0 as f64 / 1e6
    }),
    ("shoal_queue_wait_seconds", "Estimated wait of a request that arrives now.", |d| {
        d.load.wait_us as f64 / 1e6
    }),
    ("shoal_requests", "Requests admitted and not yet answered: demand, loading included.", |d| {
        f64::from(d.load.requests)
    }),
    ("shoal_batches_running", "Batches on the device.", |d| f64::from(d.load.running)),
    ("shoal_tokens_per_second", "The device's measured speed.", |d| f64::from(d.load.tokens_per_s)),
    ("shoal_shed_level", "0 takes everything, 1 sheds bulk, 2 sheds everything.", |d| {
        f64::from(d.load.shed_level)
    }),
    ("shoal_admitted_bytes", "Bytes of text admitted and not yet answered.", |d| {
        d.gauges.admitted_bytes.0 as f64
    }),
    ("shoal_admitted_bytes_max", "The bound of the admitted bytes.", |d| {
        d.gauges.admitted_bytes_max.0 as f64
    }),
    ("shoal_resident_bytes", "Measured bytes of resident models.", |d| d.gauges.resident_bytes.0 as f64),
    ("shoal_resident_bytes_max", "The residency budget.", |d| d.gauges.resident_bytes_max.0 as f64),
    ("shoal_device_lanes", "Batches that may run at once.", |d| f64::from(d.lanes)),
];

const DEVICE_COUNTERS: [(&str, &str, Read); 11] = [
    ("shoal_batches", "Batches finished.", |d| d.load.batches_done as f64),
    ("shoal_model_loads", "Model loads.", |d| d.gauges.loads as f64),
    ("shoal_model_evictions", "Model evictions.", |d| d.gauges.evictions as f64),
    ("shoal_requests_shed", "Requests refused by admission.", |d| d.gauges.shed as f64),
    ("shoal_requests_cancelled", "Requests whose caller cancelled or vanished.", |d| {
        d.gauges.cancelled as f64
    }),
    ("shoal_requests_expired", "Requests dropped at their deadline.", |d| d.gauges.expired as f64),
    ("shoal_device_restarts", "Restarts of a hung or failed device.", |d| d.gauges.restarts as f64),
    ("shoal_batches_cut", "Batches that ran in parts for want of device memory.", |d| {
        d.gauges.batches_cut as f64
    }),
    ("shoal_graphs_dropped", "Times that captured graphs were dropped for want of device memory.", |d| {
        d.gauges.graphs_dropped as f64
    }),
    ("shoal_memory_evictions", "Models evicted because a load found no piece of memory large enough.", |d| {
        d.gauges.memory_evictions as f64
    }),
    ("shoal_memory_refusals", "Loads and batches refused for want of device memory.", |d| {
        d.gauges.memory_refusals as f64
    }),
];

fn write_devices(devices: &[DeviceStatus], out: &mut Writer) {
    let gauges = DEVICE_GAUGES.iter().map(|entry| (Kind::Gauge, "", entry));
    let counters = DEVICE_COUNTERS.iter().map(|entry| (Kind::Counter, "_total", entry));
    for (kind, suffix, (name, help, read)) in gauges.chain(counters) {
        out.family(name, kind, help);
        for device in devices {
            let index = device.device.0.to_string();
            let labels = [("device", index.as_str()), ("device_name", &device.name)];
            out.sample(name, suffix, &labels, read(device));
        }
    }
}

fn write_models(status: &Status, out: &mut Writer) {
    let (named, others) = status.models.split_at(status.models.len().min(MODELS_MAX));
    let is_ready = |state| f64::from(u8::from(state == ModelState::Ready));
    for (name, kind, suffix, help) in [
        ("shoal_model_ready", Kind::Gauge, "", "1 when resident (other: how many are)."),
        ("shoal_model_resident_bytes", Kind::Gauge, "", "Measured resident bytes."),
        ("shoal_model_requests", Kind::Counter, "_total", "Requests answered."),
        ("shoal_model_tokens", Kind::Counter, "_total", "Tokens computed."),
    ] {
        let read = |model: &shoal_protocol::message::ModelStatus| match name {
            "shoal_model_ready" => is_ready(model.state),
            "shoal_model_resident_bytes" => model.bytes.0 as f64,
            "shoal_model_requests" => model.requests as f64,
            _ => model.tokens as f64,
        };
        out.family(name, kind, help);
        for model in named {
            out.sample(name, suffix, &[("model", &model.name)], read(model));
        }
        if !others.is_empty() {
            let sum = others.iter().map(read).sum();
            out.sample(name, suffix, &[("model", OTHER_MODELS)], sum);
        }
    }
}
