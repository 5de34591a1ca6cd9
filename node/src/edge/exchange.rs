//! One request and the reply to it: ids, time, and the headers that every reply carries.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ALLOW, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use shoal_mesh::core::Summary;
use shoal_protocol::{Micros, RequestId, TraceContext};

use tokio::sync::OwnedSemaphorePermit;

use super::app::App;
use super::counters::{Counters, Route, Up};
use super::error::{Dialect, EdgeError};
use crate::clock;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_SHOAL_REQUEST_ID: HeaderName = HeaderName::from_static("x-shoal-request-id");
const X_SHOAL_NODE: HeaderName = HeaderName::from_static("x-shoal-node");
const X_SHOAL_DEVICE: HeaderName = HeaderName::from_static("x-shoal-device");
const X_REQUEST_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-request-timeout-ms");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Bytes of a request id that is taken over from the caller.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// A request that is being answered. Dropped unanswered, it counts as a caller that vanished.
pub(super) struct Exchange<'a> {
    app: &'a App,
    pub(super) route: Route,
    pub(super) dialect: Dialect,
    /// The caller's part of the mesh's request id.
    pub(super) unique: u64,
    /// The id that the caller chose, if it is a sound one.
    echoed: Option<HeaderValue>,
    /// The caller's trace, seen from this request.
    pub(super) trace: Option<TraceContext>,
    started: Instant,
    answered: bool,
    in_progress: Option<InProgress>,
    _in_flight: Up<'a>,
}

/// Held from a request's head until its answer is with the kernel; a connection that counts one has work.
#[derive(Clone, Debug, Default)]
pub(super) struct InProgress(Arc<()>);

impl InProgress {
    /// Whether a request holds a clone.
    pub(super) fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl<'a> Exchange<'a> {
    pub(super) fn begin(app: &'a App, route: Route, dialect: Dialect, request: &Request) -> Self {
        let headers = request.headers();
        let echoed = headers.get(X_REQUEST_ID).filter(|id| is_request_id(id.as_bytes()));
        let unique = app.ids.next();
        Self {
            app,
            route,
            dialect,
            unique,
            echoed: echoed.cloned(),
            trace: trace_of(headers).map(|trace| trace.with_parent(unique)),
            started: clock::now(),
            answered: false,
            in_progress: request.extensions().get().cloned(),
            _in_flight: Up::new(&app.counters.in_flight),
        }
    }

    /// Where everything that happens for the request is logged.
    pub(super) fn span(&self) -> tracing::Span {
        tracing::info_span!(
            "http",
            route = self.route.label(),
            request = %RequestId::new(self.unique),
            trace = self.trace.map(tracing::field::display),
        )
    }

    /// Time since the request's head was read.
    pub(super) fn elapsed(&self) -> Duration {
        clock::now().saturating_duration_since(self.started)
    }

    /// The time that the request may take, counted from its head.
    ///
    /// # Errors
    /// The caller's header is not a number in range.
    pub(super) fn deadline(&self, headers: &HeaderMap) -> Result<Duration, EdgeError> {
        let limits = &self.app.options.limits;
        let Some(value) = headers.get(X_REQUEST_TIMEOUT_MS) else {
            return Ok(limits.deadline);
        };
        let millis = value.to_str().ok().and_then(|text| text.trim().parse().ok());
        let asked = millis.map(Duration::from_millis);
        asked.filter(|asked| !asked.is_zero() && *asked <= limits.deadline_max).ok_or_else(|| {
            EdgeError::Invalid {
                message: format!(
                    "the header x-request-timeout-ms must be a whole number from 1 to {}",
                    limits.deadline_max.as_millis()
                ),
                param: None,
            }
        })
    }

    /// The response to send, with the headers of every reply.
    pub(super) fn finish(mut self, result: Result<Reply, EdgeError>) -> Response {
        self.answered = true;
        let reply = result.unwrap_or_else(|error| self.reply_to(&error));
        let took = self.elapsed();
        let counters: &Counters = &self.app.counters;
        counters.answered(self.route, reply.status.as_u16(), took);
        let in_progress = self.in_progress.take();
        let answer = Answer { bytes: reply.body, _room: reply.room, _in_progress: in_progress };
        let mut response = Response::new(Body::from(Bytes::from_owner(answer)));
        *response.status_mut() = reply.status;
        let headers = response.headers_mut();
        headers.reserve(8 + reply.headers.len());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(reply.media_type));
        let request_id = match &reply.served {
            Some(served) => served.summary.request_id,
            None => RequestId::new(self.unique),
        };
        let own_id = text_value(request_id.to_string());
        match self.echoed.take() {
            Some(echoed) => {
                headers.insert(X_REQUEST_ID, echoed);
                headers.insert(X_SHOAL_REQUEST_ID, own_id);
            }
            None => drop(headers.insert(X_REQUEST_ID, own_id)),
        }
        headers.insert(X_SHOAL_NODE, self.app.node.clone());
        headers.insert(SERVER_TIMING, text_value(server_timing(reply.served.as_ref(), took)));
        if let Some(served_by) = reply.served.as_ref().and_then(|served| served.summary.served_by.as_ref()) {
            headers.insert(X_SHOAL_DEVICE, text_value(served_by.device_name.clone()));
            headers.insert(X_SHOAL_NODE, text_value(served_by.node.to_string()));
        }
        headers.extend(reply.headers);
        response
    }

    fn reply_to(&self, error: &EdgeError) -> Reply {
        let mut reply = Reply::json(error.body(self.dialect));
        reply.status = error.status(self.dialect);
        if reply.status.is_server_error() {
            tracing::warn!(route = self.route.label(), status = reply.status.as_u16(), %error, "request failed");
        }
        if let Some(after) = error.retry_after() {
            let millis = after.as_millis();
            reply.push(RETRY_AFTER, text_value(millis.div_ceil(1000).max(1).to_string()));
            reply.push(RETRY_AFTER_MS, text_value(millis.to_string()));
        }
        if let Some(should) = error.should_retry() {
            reply.push(X_SHOULD_RETRY, HeaderValue::from_static(if should { "true" } else { "false" }));
        }
        match error {
            EdgeError::Unauthorized { .. } => {
                reply.push(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
            }
            EdgeError::Method { allow, .. } => reply.push(ALLOW, HeaderValue::from_static(allow)),
            _ => {}
        }
        reply
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.app.counters.vanished(self.route);
        }
    }
}

/// The caller's trace. By the standard a broken or repeated header is as good as none.
fn trace_of(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let only = values.next().filter(|_| values.next().is_none())?;
    only.to_str().ok()?.trim().parse().ok()
}

/// Visible ASCII of a sane length: what can be logged and grepped for.
fn is_request_id(id: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// A header of text that may hold anything; what a header cannot carry becomes `?`.
pub(super) fn text_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("?"))
}

/// Where a request's time went and what answered it.
pub(super) struct Served {
    pub(super) summary: Summary,
    /// From the head to the parsed body.
    pub(super) parse: Duration,
    /// From the last result to the rendered body.
    pub(super) render: Duration,
}

/// The bytes of an answer, which hold its request's room until the last of them is with the kernel: so a caller that
/// does not read cannot make the edge hold more answers than it may answer requests.
struct Answer {
    bytes: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
    _in_progress: Option<InProgress>,
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A reply before the common headers.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) media_type: &'static str,
    pub(super) body: Vec<u8>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) served: Option<Served>,
    /// Its request's place among those that may be answered at once.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Reply {
    /// 200 with a JSON body.
    pub(super) fn json(body: Vec<u8>) -> Self {
        Self {
            status: StatusCode::OK,
            media_type: "application/json",
            body,
            headers: Vec::new(),
            served: None,
            room: None,
        }
    }

    pub(super) fn push(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.push((name, value));
    }
}

/// `Server-Timing` (W3C): milliseconds with fractions.
fn server_timing(served: Option<&Served>, total: Duration) -> String {
    let mut out = String::with_capacity(192);
    let mut stage = |name: &str, micros: u64| {
        let separator = if out.is_empty() { "" } else { ", " };
        let (millis, fraction) = (micros / 1000, micros % 1000);
        // Writing to a String does not fail.
        let _ = write!(out, "{separator}{name};dur={millis}.{fraction:03}");
    };
    if let Some(Served { summary, parse, render }) = served {
        let timings = &summary.timings;
        stage("parse", Micros::from(*parse).0);
        stage("tokenize_wait", timings.tokenize_wait_us.0);
        stage("tokenize", timings.tokenize_us.0);
        stage("load", timings.load_us.0);
        stage("queue", timings.queue_us.0);
        stage("compute", timings.compute_us.0);
        stage("post", timings.post_us.0);
        stage("render", Micros::from(*render).0);
    }
    stage("total", Micros::from(total).0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sound_request_ids_are_echoed() {
        assert!(is_request_id(b"req_01-a.b:c/d"));
        for id in [&b""[..], b"a b", b"a\tb", b"\xffabc", &[b'a'; REQUEST_ID_BYTES_MAX + 1]] {
            assert!(!is_request_id(id), "{id:?}");
        }
    }

    #[test]
    fn server_timing_has_fractions() {
        assert_eq!(server_timing(None, Duration::from_micros(12_034)), "total;dur=12.034");
    }
}
