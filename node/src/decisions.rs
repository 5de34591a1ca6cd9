//! Why the last attempts came here and how they ended: what `shoal explain` asks for.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use shoal_protocol::limits::EXPLAINED_ATTEMPTS_MAX;
use shoal_protocol::message::{AttemptRecord, TaskRequest, Timings};
use shoal_protocol::{DeviceIndex, ErrorCode, Micros, RequestId};

/// Attempts that a node remembers; the oldest gives way. With names and decision records of the largest size these are
/// 9 MB, with common ones 3 MB, in two blocks: thousands of small ones that live long would keep the memory around them.
pub(crate) const ATTEMPTS_KEPT_MAX: usize = 10_000;

/// What is remembered of an attempt while it runs.
#[derive(Debug)]
pub(crate) struct Arrived {
    request_id: RequestId,
    part: u32,
    attempt: u32,
    model: String,
    items: u32,
    device: DeviceIndex,
    decision: Vec<u8>,
}

impl Arrived {
    /// Takes the decision record out of the request: nothing else reads it. `device` is asked where the request names
    /// none.
    pub(crate) fn take(request: &mut TaskRequest, device: DeviceIndex) -> Self {
        Self {
            request_id: request.request_id,
            part: request.part,
            attempt: request.attempt,
            model: request.model.clone(),
            items: u32::try_from(request.items.len()).unwrap_or(u32::MAX),
            device: request.to.map_or(device, |to| to.device),
            decision: std::mem::take(&mut request.decision),
        }
    }
}

#[derive(Debug)]
struct Ended {
    request_id: RequestId,
    part: u32,
    attempt: u32,
    items: u32,
    device: DeviceIndex,
    /// Bytes of the model's name and of the decision record.
    model_bytes: usize,
    decision_bytes: usize,
    at: Instant,
    outcome: Result<Timings, (ErrorCode, Micros)>,
}

/// The attempts, and the names and decision records of all of them end to end.
#[derive(Debug, Default)]
struct Ring {
    ended: VecDeque<Ended>,
    bytes: VecDeque<u8>,
}

impl Ring {
    fn push(&mut self, arrived: Arrived, outcome: Result<Timings, (ErrorCode, Micros)>, at: Instant) {
        if self.ended.len() == ATTEMPTS_KEPT_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.bytes.drain(..oldest.model_bytes + oldest.decision_bytes);
        }
        let Arrived { request_id, part, attempt, model, items, device, decision } = arrived;
        let (model_bytes, decision_bytes) = (model.len(), decision.len());
        self.bytes.extend(model.as_bytes());
        self.bytes.extend(&decision);
        self.ended.push_back(Ended {
            request_id,
            part,
            attempt,
            items,
            device,
            model_bytes,
            decision_bytes,
            at,
            outcome,
        });
    }

    /// The oldest first, each with where its bytes begin.
    fn iter(&self) -> impl Iterator<Item = (usize, &Ended)> {
        self.ended.iter().scan(0, |next, ended| {
            let begin = *next;
            *next += ended.model_bytes + ended.decision_bytes;
            Some((begin, ended))
        })
    }

    fn told(&self, (begin, ended): (usize, &Ended), now: Instant) -> AttemptRecord {
        let decision_at = begin + ended.model_bytes;
        let model: Vec<u8> = self.bytes.range(begin..decision_at).copied().collect();
        let decision = self.bytes.range(decision_at..decision_at + ended.decision_bytes);
        let (failure, timings) = match ended.outcome {
            Ok(timings) => (None, timings),
            Err((code, total_us)) => (Some(code), Timings { total_us, ..Timings::default() }),
        };
        AttemptRecord {
            part: ended.part,
            attempt: ended.attempt,
            model: String::from_utf8_lossy(&model).into_owned(),
            items: ended.items,
            device: ended.device,
            ended_ago_us: now.saturating_duration_since(ended.at).into(),
            failure,
            timings,
            decision: decision.copied().collect(),
        }
    }
}

/// The last [`ATTEMPTS_KEPT_MAX`] attempts that ended here.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    ring: Mutex<Ring>,
}

impl Decisions {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers an attempt that ended: where its time went, or why it failed and after how long.
    pub(crate) fn record(
        &self,
        arrived: Arrived,
        outcome: Result<Timings, (ErrorCode, Micros)>,
        now: Instant,
    ) {
        self.lock().push(arrived, outcome, now);
    }

    /// What is remembered of a request, the oldest attempt first. A scan of everything: people ask, not programs.
    pub(crate) fn of(&self, request_id: RequestId, now: Instant) -> Vec<AttemptRecord> {
        let ring = self.lock();
        let is_of = |(_, ended): &(usize, &Ended)| ended.request_id.unique() == request_id.unique();
        let found: Vec<_> = ring.iter().filter(is_of).collect();
        let latest = found.len().saturating_sub(EXPLAINED_ATTEMPTS_MAX);
        found[latest..].iter().map(|at| ring.told(*at, now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_protocol::NodeId;

    use super::*;

    fn arrived(unique: u64, part: u32) -> Arrived {
        let (model, decision) = ("m".to_owned(), vec![1, 2]);
        let request_id = RequestId::new(unique);
        Arrived { request_id, part, attempt: 0, model, items: 1, device: DeviceIndex(0), decision }
    }

    #[test]
    fn the_oldest_attempt_gives_way() {
        let (decisions, now) = (Decisions::default(), crate::clock::now());
        for unique in 0..=ATTEMPTS_KEPT_MAX as u64 {
            decisions.record(arrived(unique, 0), Ok(Timings::default()), now);
        }
        assert!(decisions.of(RequestId::new(0), now).is_empty(), "forgotten");
        assert_eq!(decisions.of(RequestId::new(1), now).len(), 1);
        let ring = decisions.lock();
        assert_eq!((ring.ended.len(), ring.bytes.len()), (ATTEMPTS_KEPT_MAX, 3 * ATTEMPTS_KEPT_MAX));
    }

    #[test]
    fn a_request_is_told_whichever_node_its_id_names() {
        let (decisions, start) = (Decisions::default(), crate::clock::now());
        decisions.record(arrived(7, 0), Err((ErrorCode::Redirect, Micros(30))), start);
        decisions.record(arrived(8, 0), Ok(Timings::default()), start);
        decisions.record(arrived(7, 1), Ok(Timings { total_us: Micros(9), ..Timings::default() }), start);
        let asked = RequestId::new(7).answered_by(NodeId([3; 16]));
        let told = decisions.of(asked, start + Duration::from_micros(50));
        let of: Vec<_> = told.iter().map(|at| (at.part, at.failure, at.timings.total_us)).collect();
        assert_eq!(of, [(0, Some(ErrorCode::Redirect), Micros(30)), (1, None, Micros(9))]);
        assert_eq!((told[0].ended_ago_us, &told[0].decision), (Micros(50), &vec![1, 2]));
    }

    #[test]
    fn a_call_of_many_parts_is_told_by_its_latest() {
        let (decisions, now) = (Decisions::default(), crate::clock::now());
        for part in 0..=EXPLAINED_ATTEMPTS_MAX as u32 {
            decisions.record(arrived(7, part), Ok(Timings::default()), now);
        }
        let told = decisions.of(RequestId::new(7), now);
        assert_eq!((told.len(), told[0].part), (EXPLAINED_ATTEMPTS_MAX, 1));
    }
}
