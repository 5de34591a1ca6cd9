//! Why the last attempts came here and how they ended: what `shoal explain` asks for.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use shoal_protocol::limits::EXPLAINED_ATTEMPTS_MAX;
use shoal_protocol::message::{AttemptRecord, TaskRequest, Timings};
use shoal_protocol::{DeviceIndex, ErrorCode, Micros, RequestId};

/// Attempts that a node remembers; the oldest gives way. With names and decision records of the largest size these are
/// 9 MB, with common ones 3 MB.
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
    arrived: Arrived,
    at: Instant,
    outcome: Result<Timings, (ErrorCode, Micros)>,
}

/// The last [`ATTEMPTS_KEPT_MAX`] attempts that ended here.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    ended: Mutex<VecDeque<Ended>>,
}

impl Decisions {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Ended>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers an attempt that ended: where its time went, or why it failed and after how long.
    pub(crate) fn record(
        &self,
        arrived: Arrived,
        outcome: Result<Timings, (ErrorCode, Micros)>,
        now: Instant,
    ) {
        let mut ended = self.lock();
        if ended.len() == ATTEMPTS_KEPT_MAX {
            ended.pop_front();
        }
        ended.push_back(Ended { arrived, at: now, outcome });
    }

    /// What is remembered of a request, the oldest attempt first. A scan of everything: people ask, not programs.
    pub(crate) fn of(&self, request_id: RequestId, now: Instant) -> Vec<AttemptRecord> {
        let ended = self.lock();
        let of_request =
            ended.iter().rev().filter(|at| at.arrived.request_id.unique() == request_id.unique());
        let mut found: Vec<_> = of_request.take(EXPLAINED_ATTEMPTS_MAX).map(|at| at.told(now)).collect();
        found.reverse();
        found
    }
}

impl Ended {
    fn told(&self, now: Instant) -> AttemptRecord {
        let Arrived { part, attempt, model, items, device, decision, .. } = &self.arrived;
        let (failure, timings) = match self.outcome {
            Ok(timings) => (None, timings),
            Err((code, total_us)) => (Some(code), Timings { total_us, ..Timings::default() }),
        };
        AttemptRecord {
            part: *part,
            attempt: *attempt,
            model: model.clone(),
            items: *items,
            device: *device,
            ended_ago_us: now.saturating_duration_since(self.at).into(),
            failure,
            timings,
            decision: decision.clone(),
        }
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
        assert_eq!(decisions.lock().len(), ATTEMPTS_KEPT_MAX);
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
