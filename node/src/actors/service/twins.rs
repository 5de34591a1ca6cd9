//! Attempts at the same part of a request: the later one is the one that somebody waits for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_protocol::message::TaskRequest;
use tokio::sync::Notify;

/// A later attempt at the same part was sent here, so that nobody waits for this one. Whoever sent it may be unable to say
/// so: that its connection is dead is why there is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a later attempt at the same part of the request took its place")]
pub(super) struct Superseded;

/// The part of a request that the caller chose, and which part of a split request it is. Ids come from the caller's chance:
/// 64 bits that nobody else knows.
type Part = (u64, u32);

struct Serving {
    attempt: u32,
    superseded: Arc<Notify>,
}

/// The attempts that are being served: as many as links let in.
#[derive(Default)]
pub(crate) struct Twins {
    serving: Mutex<BTreeMap<Part, Serving>>,
}

/// One of them, until it is dropped.
pub(super) struct Twin<'a> {
    twins: &'a Twins,
    part: Part,
    superseded: Arc<Notify>,
}

impl Twins {
    /// An attempt arrived: it ends an earlier one at the same part.
    ///
    /// # Errors
    /// [`Superseded`]: a later one is here already.
    pub(super) fn begin(&self, request: &TaskRequest) -> Result<Twin<'_>, Superseded> {
        let (part, attempt) = ((request.request_id.unique(), request.part), request.attempt);
        let superseded = Arc::new(Notify::new());
        let mut serving = self.lock();
        if serving.get(&part).is_some_and(|other| other.attempt > attempt) {
            return Err(Superseded);
        }
        let this = Serving { attempt, superseded: Arc::clone(&superseded) };
        if let Some(earlier) = serving.insert(part, this) {
            earlier.superseded.notify_one();
        }
        drop(serving);
        Ok(Twin { twins: self, part, superseded })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Part, Serving>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Twin<'_> {
    /// Resolves once a later attempt has arrived.
    pub(super) async fn superseded(&self) -> Superseded {
        self.superseded.notified().await;
        Superseded
    }
}

impl Drop for Twin<'_> {
    fn drop(&mut self) {
        let mut serving = self.twins.lock();
        if serving.get(&self.part).is_some_and(|other| Arc::ptr_eq(&other.superseded, &self.superseded)) {
            serving.remove(&self.part);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use shoal_protocol::RequestId;
    use shoal_protocol::message::Priority;

    use super::*;

    fn request(unique: u64, part: u32, attempt: u32) -> TaskRequest {
        TaskRequest {
            request_id: RequestId::new(unique),
            part,
            attempt,
            to: None,
            redirects: 0,
            model: "m".to_owned(),
            items: Vec::new(),
            task: Default::default(),
            deadline_us: None,
            priority: Priority::Interactive,
            decision: Vec::new(),
            trace: None,
        }
    }

    #[test]
    fn a_later_attempt_ends_the_earlier_one_and_a_late_one_is_refused() {
        let twins = Twins::default();
        let first = twins.begin(&request(1, 0, 0)).expect("the first");
        let others = [(2, 0), (1, 1)].map(|(unique, part)| twins.begin(&request(unique, part, 1)));
        assert_eq!(first.superseded().now_or_never(), None);
        let second = twins.begin(&request(1, 0, 2)).expect("later");
        assert_eq!(first.superseded().now_or_never(), Some(Superseded));
        assert_eq!(twins.begin(&request(1, 0, 1)).err(), Some(Superseded), "it came late");
        // The end of the earlier one is not the end of the later one.
        drop(first);
        assert_eq!(twins.begin(&request(1, 0, 1)).err(), Some(Superseded));
        assert_eq!(second.superseded().now_or_never(), None);
        drop((second, others));
        assert!(twins.lock().is_empty(), "nothing is kept");
    }
}
