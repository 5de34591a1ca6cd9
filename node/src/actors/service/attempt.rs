//! One attempt at one request, from its frame to its terminal frame.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_mesh::{LinkError, Reply};
use shoal_protocol::message::{Beacon, End, Failure, Phase, ServedBy, TaskRequest, Timings};
use shoal_protocol::{ErrorCode, Message, Micros, RequestId};
use tokio::sync::mpsc;

use super::placing::Placing;
use super::twins::Superseded;
use super::{NodeDevice, NodeService};
use crate::actors::backend::numerics_of;
use crate::actors::device::{DeviceEvent, DeviceMsg, RequestHandle, Submission, TokenizeTimes};
use crate::actors::front::{Front, FrontError};
use crate::clock;
use crate::core::{RequestError, StageTimes};
use crate::decisions::Arrived;
use crate::tasks::ask::{Abilities, Answering, Ask, AskError};
use crate::tasks::frames::cut;
use crate::tasks::rows::Rows;
use crate::tasks::tokenizer::ItemFailure;

/// Between two beacons while a model's files are read, before the device knows of the request.
const BEACON_INTERVAL: Duration = Duration::from_millis(150);
/// When to ask again after a device failed: about the time of its restart.
const RESTART_HINT: Duration = Duration::from_millis(500);

/// How an attempt ends without its `End`.
enum Stop {
    /// The caller is told.
    Failed(Failure),
    /// There is nobody to tell.
    Gone,
}

impl Stop {
    fn failed(code: ErrorCode, error: &impl ToString, retry_after: Option<Duration>) -> Self {
        Self::Failed(Failure {
            retry_after_us: retry_after.map(Micros::from),
            ..Failure::new(code, cut(&error.to_string()))
        })
    }
}

impl From<AskError> for Stop {
    fn from(error: AskError) -> Self {
        Self::failed(error.code(), &error, None)
    }
}

impl From<ItemFailure> for Stop {
    fn from(failure: ItemFailure) -> Self {
        Self::failed(failure.code, &failure.message, None)
    }
}

impl From<FrontError> for Stop {
    fn from(error: FrontError) -> Self {
        let retry_after = (error.code == ErrorCode::Overloaded).then_some(RESTART_HINT);
        Self::failed(error.code, &error, retry_after)
    }
}

impl From<RequestError> for Stop {
    fn from(error: RequestError) -> Self {
        Self::failed(error.code(), &error, error.retry_after())
    }
}

impl From<LinkError> for Stop {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Gone => Self::Gone,
            error => Self::failed(ErrorCode::Internal, &error, None),
        }
    }
}

impl From<Superseded> for Stop {
    fn from(superseded: Superseded) -> Self {
        Self::failed(ErrorCode::Cancelled, &superseded, None)
    }
}

fn device_failed() -> Stop {
    let what = "the device failed under the work and is being restarted";
    Stop::failed(ErrorCode::DeviceFailed, &what, Some(RESTART_HINT))
}

/// Serves the attempt; when the caller goes away, whatever of it is unfinished is cancelled.
pub(super) async fn serve(node: &NodeService, mut request: TaskRequest, mut reply: Reply) {
    let arrived_at = clock::now();
    let placing = node.placing(&request, arrived_at);
    let arrived = Arrived::take(&mut request, node.home(placing.model()).index);
    let cancelled = reply.cancelled();
    let outcome = match node.twins.begin(&request) {
        Ok(twin) => tokio::select! {
            outcome = Attempt::run(node, request, &placing, &mut reply, arrived_at) => outcome,
            () = cancelled => Err(Stop::Gone),
            superseded = twin.superseded() => Err(superseded.into()),
        },
        Err(superseded) => Err(superseded.into()),
    };
    let now = clock::now();
    let took = now.saturating_duration_since(arrived_at).into();
    let remembered = match &outcome {
        Ok(end) => Ok(end.timings),
        Err(Stop::Failed(failure)) => Err((failure.code, took)),
        Err(Stop::Gone) => Err((ErrorCode::Cancelled, took)),
    };
    node.decisions.record(arrived, remembered, now);
    let last = match outcome {
        Ok(end) => Message::End(end),
        Err(Stop::Failed(mut failure)) => {
            node.name_others(&mut failure, &placing);
            tracing::debug!(code = failure.code.as_str(), message = %failure.message, "failed");
            Message::Failure(failure)
        }
        Err(Stop::Gone) => {
            tracing::debug!("the caller is gone");
            return;
        }
    };
    // The caller may go at the very end; the work is done either way.
    let _ = reply.end(last).await;
}

/// Cancels the request on the device when it is dropped before its end.
struct Submitted<'a> {
    device: &'a NodeDevice,
    handle: Arc<RequestHandle>,
    ended: bool,
}

impl Drop for Submitted<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.handle.stop();
            // A device that is down has forgotten the request.
            let _ = self.device.slot.send(DeviceMsg::Cancel(Arc::clone(&self.handle)));
        }
    }
}

struct Attempt<'a> {
    reply: &'a mut Reply,
    answering: Answering,
    operation: &'static str,
    tokens: u64,
    post: Duration,
}

impl<'a> Attempt<'a> {
    async fn run(
        node: &NodeService,
        request: TaskRequest,
        placing: &Placing,
        reply: &'a mut Reply,
        arrived_at: Instant,
    ) -> Result<End, Stop> {
        let TaskRequest { request_id, to, model, items, task, priority, .. } = request;
        // Which of its devices has the model, the node knows better than a caller who heard of it a moment ago.
        if let Some(to) = to.filter(|to| to.node != node.facts.node || node.device(to.device).is_none()) {
            let what = format!("device {} of node {} is not here", to.device.0, to.node);
            return Err(Stop::failed(ErrorCode::DeviceFailed, &what, None));
        }
        node.check_place(placing).map_err(Stop::Failed)?;
        let front = front_of(node, &model, reply).await?;
        let (items_total, operation, truncate) = (items.len() as u32, task.name(), task.truncate());
        let Ask { items, reading, wanted, answering } = Ask::new(task, items, abilities(node, &front))?;
        let (events, mut inbox) = mpsc::unbounded_channel();
        let handle = Arc::new(RequestHandle::default());
        let submission = Submission {
            handle: Arc::clone(&handle),
            front: Arc::clone(&front),
            items: items.into(),
            reading,
            wanted,
            truncate,
            priority,
            deadline: placing.deadline,
            span: tracing::Span::current(),
            events,
        };
        let device = node.device(front.device).ok_or_else(device_failed)?;
        device.slot.send(DeviceMsg::Submit(Box::new(submission))).map_err(|_| device_failed())?;
        let mut submitted = Submitted { device, handle, ended: false };
        let mut attempt = Self { reply, answering, operation, tokens: 0, post: Duration::ZERO };
        let end = attempt.follow(&submitted.handle, &mut inbox).await;
        submitted.ended = !matches!(end, Err(Stop::Gone));
        if submitted.handle.was_admitted() {
            forget_broken(node, &front, &end);
        }
        let (stages, tokenize) = end?;
        Ok(attempt.end((node, device), &front, (request_id, items_total), (stages, tokenize), arrived_at))
    }

    /// Passes on what the device tells, until it tells the end.
    async fn follow(
        &mut self,
        handle: &RequestHandle,
        inbox: &mut mpsc::UnboundedReceiver<DeviceEvent>,
    ) -> Result<(StageTimes, TokenizeTimes), Stop> {
        loop {
            // The device drops its end only when it ends itself.
            match inbox.recv().await.ok_or_else(device_failed)? {
                DeviceEvent::ItemsFailed(failures) => {
                    for frame in self.answering.handle_failures(failures)? {
                        self.reply.send(Message::TaskResult(frame)).await?;
                    }
                }
                DeviceEvent::Rows(rows) => self.send_rows(rows).await?,
                DeviceEvent::Beacon(beacon) => {
                    self.reply.send(Message::Beacon(beacon)).await?;
                    handle.end_beacon();
                }
                DeviceEvent::Finished { stages, tokenize } => return Ok((stages, tokenize)),
                DeviceEvent::Failed(error) => return Err(error.into()),
            }
        }
    }

    async fn send_rows(&mut self, rows: Rows) -> Result<(), Stop> {
        let started_at = clock::now();
        self.tokens += rows.rows.iter().map(|row| u64::from(row.tokens)).sum::<u64>();
        let frames = tracing::debug_span!("post").in_scope(|| self.answering.handle_rows(rows));
        self.post = clock::now().saturating_duration_since(started_at);
        for frame in frames {
            self.reply.send(Message::TaskResult(frame)).await?;
        }
        Ok(())
    }

    fn end(
        &self,
        (node, device): (&NodeService, &NodeDevice),
        front: &Front,
        (request_id, items): (RequestId, u32),
        (stages, tokenize): (StageTimes, TokenizeTimes),
        arrived_at: Instant,
    ) -> End {
        let timings = Timings {
            tokenize_wait_us: tokenize.waited.into(),
            tokenize_us: tokenize.took.into(),
            load_us: stages.load,
            queue_us: stages.queue,
            compute_us: stages.compute,
            post_us: self.post.into(),
            total_us: clock::now().saturating_duration_since(arrived_at).into(),
        };
        node.metrics.record((&front.name, self.operation), &timings, self.tokens);
        node.note_served(&front.name, self.tokens, stages.queue.into());
        tracing::debug!(tokens = self.tokens, ?timings, "done");
        End {
            request_id: request_id.answered_by(node.facts.node),
            items,
            tokens: self.tokens,
            served_by: ServedBy {
                node: node.facts.node,
                device: device.index,
                device_name: device.name.clone(),
                numerics: numerics_of(front.dtype),
            },
            timings,
        }
    }
}

fn abilities<'a>(node: &NodeService, front: &'a Front) -> Abilities<'a> {
    let description = &*front.description;
    Abilities {
        gives: description.gives(),
        dims: description.dims,
        matryoshka: &description.matryoshka,
        normalizes: description.normalizes,
        pooling: &description.pooling,
        pooling_assumed: description.pooling_assumed,
        labels: &description.labels,
        multi_label: description.multi_label,
        score_activation: description.score_activation,
        multivector: description.multivector.as_ref(),
        span_texts: description.span_texts.as_ref(),
        pair_template: description.pair_template.as_ref(),
        takes_pairs: front.tokenizer.takes_pairs(),
        numerics: numerics_of(front.dtype),
        pools_parts: front.pools_parts,
        isa: node.facts.isa,
        prompts: &description.prompts,
        token_ids: node.facts.token_ids,
    }
}

/// Files that were repaired are described anew, once for each load that failed: a refusal during the pause after it
/// must not read them again, or a few callers of a broken model would keep all others from theirs.
fn forget_broken<T>(node: &NodeService, front: &Front, end: &Result<T, Stop>) {
    if let Err(Stop::Failed(failure)) = end
        && failure.code == ErrorCode::ModelBroken
    {
        node.fronts.forget(&front.name);
    }
}

/// The model's front. While it is being made the caller hears beacons.
async fn front_of(node: &NodeService, model: &str, reply: &mut Reply) -> Result<Arc<Front>, Stop> {
    if let Some(front) = node.fronts.get(model) {
        return Ok(front);
    }
    let mut making = std::pin::pin!(node.fronts.make(model));
    loop {
        tokio::select! {
            made = &mut making => return Ok(made?),
            () = tokio::time::sleep(BEACON_INTERVAL) => {
                let beacon = Beacon {
                    phase: Phase::Loading,
                    queue_tokens: 0,
                    batches_done: 0,
                    eta_us: BEACON_INTERVAL.into(),
                };
                reply.send(Message::Beacon(beacon)).await?;
            }
        }
    }
}
