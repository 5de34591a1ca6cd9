//! Reading request bodies within bounds: of one body, of all bodies together, and of time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, HeaderValue};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::error::EdgeError;
use super::options::EdgeLimits;

/// The unit in which the budget of all bodies is counted.
const GRAIN_BYTES: usize = 1024;
/// A body over its bound is read on and thrown away up to here, so that its sender gets to read the answer instead
/// of a reset connection.
const DISCARD_BYTES_MAX: usize = 64 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// The bytes that all bodies together may hold.
pub(super) struct BodyBudget {
    grains: Arc<Semaphore>,
    limits: EdgeLimits,
    /// Turns true when the edge stops.
    stopping: watch::Receiver<bool>,
}

/// A body, and its share of the budget for as long as it is held.
pub(super) struct HeldBody {
    bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl HeldBody {
    /// The bytes, to be dropped once they are parsed; the share stays taken for what they became.
    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes)
    }
}

impl BodyBudget {
    pub(super) fn new(limits: &EdgeLimits, stopping: watch::Receiver<bool>) -> Self {
        let grains = (limits.bodies_bytes_max / GRAIN_BYTES).min(Semaphore::MAX_PERMITS);
        Self { grains: Arc::new(Semaphore::new(grains)), limits: limits.clone(), stopping }
    }

    /// Reads a JSON body.
    ///
    /// # Errors
    /// The body is declared as something else, is too large, does not come before the edge stops, or does not fit
    /// beside the others.
    pub(super) async fn read_json(&self, headers: &HeaderMap, body: Body) -> Result<HeldBody, EdgeError> {
        check_media_type(headers)?;
        check_encoding(headers)?;
        let bytes_max = self.limits.body_bytes_max;
        let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if declared > bytes_max {
            if declared <= DISCARD_BYTES_MAX && !headers.contains_key(EXPECT) {
                discard(body).await;
            }
            return Err(EdgeError::BodyTooLarge { bytes_max });
        }
        let timeout = self.limits.body_timeout;
        let mut stopping = self.stopping.clone();
        tokio::select! {
            biased;
            collected = tokio::time::timeout(timeout, self.collect(body, declared)) => {
                collected.unwrap_or(Err(EdgeError::BodyTimeout { seconds: timeout.as_secs() }))
            }
            // Once it was there the node would refuse it all the same.
            Ok(_) = stopping.wait_for(|stopping| *stopping) => Err(EdgeError::leaving()),
        }
    }

    async fn collect(&self, mut body: Body, declared: usize) -> Result<HeldBody, EdgeError> {
        let bytes_max = self.limits.body_bytes_max;
        let mut share = None;
        self.grow(&mut share, 0, declared)?;
        let mut held = declared;
        // One frame is the common case and is not copied.
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| EdgeError::BodyBroken { what: error.to_string() })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let len = first.len() + rest.len() + data.len();
            if len > bytes_max {
                discard(body).await;
                return Err(EdgeError::BodyTooLarge { bytes_max });
            }
            self.grow(&mut share, held, len)?;
            held = held.max(len);
            if first.is_empty() && rest.is_empty() {
                first = data;
                continue;
            }
            if rest.is_empty() {
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
        Ok(HeldBody { bytes: if rest.is_empty() { first } else { rest.freeze() }, _share: share })
    }

    /// Takes the share that a body of `len` bytes needs beyond the one for `held`.
    fn grow(
        &self,
        share: &mut Option<OwnedSemaphorePermit>,
        held: usize,
        len: usize,
    ) -> Result<(), EdgeError> {
        let more = len.div_ceil(GRAIN_BYTES).saturating_sub(held.div_ceil(GRAIN_BYTES));
        if more == 0 {
            return Ok(());
        }
        let busy = EdgeError::Busy {
            what: "the server holds as many request bodies as its memory budget allows",
            retry_after: Duration::from_secs(1),
        };
        let Ok(more) = u32::try_from(more) else {
            return Err(busy);
        };
        let permit = self.grains.clone().try_acquire_many_owned(more).map_err(|_| busy)?;
        match share {
            Some(share) => share.merge(permit),
            None => *share = Some(permit),
        }
        Ok(())
    }

    /// Bytes of bodies held now.
    pub(super) fn bytes_held(&self) -> usize {
        let grains = (self.limits.bodies_bytes_max / GRAIN_BYTES).min(Semaphore::MAX_PERMITS);
        grains.saturating_sub(self.grains.available_permits()) * GRAIN_BYTES
    }
}

/// An absent media type is taken for JSON. A different one is refused, also because a browser sends a foreign page's
/// request without asking first only if it is not declared as JSON.
fn check_media_type(headers: &HeaderMap) -> Result<(), EdgeError> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    let essence = essence.trim_ascii().to_ascii_lowercase();
    if essence == b"application/json" || (essence.starts_with(b"application/") && essence.ends_with(b"+json"))
    {
        return Ok(());
    }
    Err(EdgeError::MediaType { found: String::from_utf8_lossy(&essence).into_owned() })
}

/// Only a body as it is: a compressed one could unpack to any size.
fn check_encoding(headers: &HeaderMap) -> Result<(), EdgeError> {
    let is_plain = |value: &&HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    match headers.get_all(CONTENT_ENCODING).iter().find(|value| !is_plain(value)) {
        None => Ok(()),
        Some(other) => {
            Err(EdgeError::ContentEncoding { found: String::from_utf8_lossy(other.as_bytes()).into_owned() })
        }
    }
}

/// Reads on for a bounded time and throws away. Failure is the sender's: nothing is left to answer better.
async fn discard(mut body: Body) {
    let read = async {
        let mut bytes = 0;
        while bytes <= DISCARD_BYTES_MAX
            && let Some(Ok(frame)) = body.frame().await
        {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, read).await;
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    /// Of an edge that stops when the sender says so.
    fn stoppable(one: usize, all: usize) -> (BodyBudget, watch::Sender<bool>) {
        let limits = EdgeLimits { body_bytes_max: one, bodies_bytes_max: all, ..EdgeLimits::default() };
        let (stop, stopping) = watch::channel(false);
        (BodyBudget::new(&limits, stopping), stop)
    }

    fn budget(one: usize, all: usize) -> BodyBudget {
        stoppable(one, all).0
    }

    fn chunks(count: usize) -> Body {
        let chunk = || Ok::<_, std::io::Error>(Bytes::from(vec![b' '; GRAIN_BYTES]));
        Body::from_stream(stream::iter((0..count).map(move |_| chunk())))
    }

    #[tokio::test]
    async fn bodies_are_bounded_one_by_one_and_together() {
        let budget = budget(4 * GRAIN_BYTES, 6 * GRAIN_BYTES);
        let none = HeaderMap::new();
        let first = budget.read_json(&none, chunks(4)).await.expect("fits");
        assert_eq!(first.bytes.len(), 4 * GRAIN_BYTES);
        assert_eq!(budget.bytes_held(), 4 * GRAIN_BYTES);
        let busy = budget.read_json(&none, chunks(3)).await.err();
        assert!(matches!(busy, Some(EdgeError::Busy { .. })), "{busy:?}");
        assert_eq!(budget.bytes_held(), 4 * GRAIN_BYTES, "a refused body gives its share back");
        drop(first);
        assert_eq!(budget.bytes_held(), 0);
        let too_large = budget.read_json(&none, chunks(5)).await.err();
        assert!(matches!(too_large, Some(EdgeError::BodyTooLarge { .. })), "{too_large:?}");
        assert!(budget.read_json(&none, Body::from("x".repeat(4096))).await.is_ok());
        let declared = budget.read_json(&none, Body::from("x".repeat(4097))).await.err();
        assert!(matches!(declared, Some(EdgeError::BodyTooLarge { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let error = budget(10, 4096).read_json(&HeaderMap::new(), never).await.err();
        assert_eq!(error, Some(EdgeError::BodyTimeout { seconds: 30 }));
    }

    #[tokio::test]
    async fn a_body_that_has_not_come_when_the_edge_stops_is_refused() {
        let (budget, stop) = stoppable(10, 4096);
        stop.send(true).expect("it listens");
        let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(budget.read_json(&HeaderMap::new(), never).await.err(), Some(EdgeError::leaving()));
        assert!(budget.read_json(&HeaderMap::new(), Body::from("{}")).await.is_ok(), "one that has come");
    }

    #[tokio::test]
    async fn only_json_is_read() {
        for (media_type, read) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/vnd.x+json", true),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
            let result = budget(10, 4096).read_json(&headers, Body::from("{}")).await;
            assert_eq!(result.is_ok(), read, "{media_type}");
        }
    }
}
