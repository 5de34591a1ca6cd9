//! The requests of a device: their ids until they are packed, and their way back.

use std::sync::Arc;

use ractor::ActorRef;
use shoal_kernels::PackedBatch;
use shoal_protocol::message::Beacon;
use slotmap::SecondaryMap;
use tokio::sync::mpsc;

use super::message::{DeviceEvent, DeviceMsg, RequestHandle, Row, Rows, Submission, TokenizeTimes};
use super::tell;
use crate::core::{BatchItem, ItemTokens, RequestKey, StageTimes, TokenizedPiece};
use crate::tasks::pool::{PoolFull, TokenizeJob, TokenizedChunk, TokenizerPool};
use crate::tasks::tokenizer::TokenizedItem;

/// Where a text's ids lie among its request's.
#[derive(Clone, Copy, Default)]
struct Span {
    start: u32,
    tokens: u32,
    truncated: bool,
}

struct Waiting {
    handle: Arc<RequestHandle>,
    events: mpsc::UnboundedSender<DeviceEvent>,
    /// The ids of every text that is ready, end to end.
    ids: Vec<u32>,
    /// By the text's position in the request.
    spans: Vec<Span>,
    times: TokenizeTimes,
}

impl Waiting {
    fn send(&self, event: DeviceEvent) {
        // Whoever waits may have gone; its cancellation is on its way.
        let _ = self.events.send(event);
    }
}

/// Admitted and unfinished requests.
#[derive(Default)]
pub(super) struct Requests {
    waiting: SecondaryMap<RequestKey, Waiting>,
    /// What gate 2 is told of the last chunk.
    ready: Vec<ItemTokens>,
}

impl Requests {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes an admitted request in and has it tokenized.
    pub(super) fn admit(
        &mut self,
        request: RequestKey,
        submission: Submission,
        tokenizers: &TokenizerPool,
        device: &ActorRef<DeviceMsg>,
    ) -> Result<(), PoolFull> {
        let Submission { handle, front, items, prompt, truncate, priority, span, events, deadline: _ } =
            submission;
        handle.set_key(request);
        let device = device.clone();
        let job = TokenizeJob {
            prompt,
            tokenizer: Arc::clone(&front.tokenizer),
            truncate,
            priority,
            cancelled: handle.stopped(),
            span,
            deliver: Box::new(move |chunk| tell(&device, DeviceMsg::Tokenized { request, chunk })),
            items,
        };
        let waiting = Waiting {
            handle,
            events,
            ids: Vec::new(),
            spans: Vec::with_capacity(job.items.len()),
            times: TokenizeTimes::default(),
        };
        self.waiting.insert(request, waiting);
        tokenizers.submit(job)
    }

    /// Adds a request's next texts. Gives what gate 2 must know of them, unless the request has ended.
    pub(super) fn add_chunk(
        &mut self,
        request: RequestKey,
        chunk: TokenizedChunk,
    ) -> Option<TokenizedPiece<'_>> {
        let waiting = self.waiting.get_mut(request)?;
        self.ready.clear();
        waiting.times.waited += chunk.waited;
        waiting.times.took += chunk.took;
        let mut start = waiting.ids.len() as u32;
        if waiting.ids.is_empty() {
            waiting.ids = chunk.ids;
        } else {
            waiting.ids.extend_from_slice(&chunk.ids);
        }
        let mut failed = Vec::new();
        for (index, item) in (chunk.first as u32..).zip(chunk.items) {
            let span = match item {
                TokenizedItem::Ready { tokens, truncated } => {
                    self.ready.push(ItemTokens { index, tokens });
                    Span { start, tokens, truncated }
                }
                TokenizedItem::Failed(failure) => {
                    failed.push((index, failure));
                    Span::default()
                }
            };
            start += span.tokens;
            waiting.spans.push(span);
        }
        if !failed.is_empty() {
            waiting.send(DeviceEvent::ItemsFailed(failed));
        }
        Some(TokenizedPiece { items: &self.ready, bytes_left: chunk.bytes_left })
    }

    /// Puts the texts of a batch end to end, in row order.
    pub(super) fn pack(&self, items: &[BatchItem], packed: &mut PackedBatch) {
        for item in items {
            // A request that ended between being batched and being packed would leave a hole: the core batches
            // only what is unfinished, and tells of an end before it batches anew.
            let ids = self.waiting.get(item.request).map_or(&[][..], |waiting| {
                let span = waiting.spans[item.index as usize];
                &waiting.ids[span.start as usize..][..span.tokens as usize]
            });
            packed.push(ids);
        }
    }

    /// Hands the vectors of a finished batch to those who wait for them.
    pub(super) fn deliver(&self, items: &[BatchItem], dims: usize, vectors: Vec<f32>) {
        let vectors = Arc::new(vectors);
        for own in items.chunk_by(|a, b| a.request == b.request) {
            let Some(waiting) = self.waiting.get(own[0].request) else {
                continue;
            };
            let rows = own.iter().map(|item| Row {
                index: item.index,
                row: item.row,
                tokens: item.tokens,
                truncated: waiting.spans[item.index as usize].truncated,
            });
            waiting.send(DeviceEvent::Rows(Rows {
                vectors: Arc::clone(&vectors),
                dims,
                rows: rows.collect(),
            }));
        }
    }

    /// Tells where a request stands, unless it has not yet read the last time.
    pub(super) fn beacon(&self, request: RequestKey, beacon: Beacon) {
        let waiting = self.waiting.get(request);
        if let Some(waiting) = waiting.filter(|waiting| waiting.handle.begin_beacon()) {
            waiting.send(DeviceEvent::Beacon(beacon));
        }
    }

    /// Every text of the request was answered.
    pub(super) fn finish(&mut self, request: RequestKey, stages: StageTimes) {
        if let Some(waiting) = self.waiting.remove(request) {
            waiting.send(DeviceEvent::Finished { stages, tokenize: waiting.times });
        }
    }

    /// The request ends with `event`.
    pub(super) fn end(&mut self, request: RequestKey, event: DeviceEvent) {
        if let Some(waiting) = self.waiting.remove(request) {
            waiting.handle.stop();
            waiting.send(event);
        }
    }

    /// Nobody waits for the request of this handle any more. Gives its key, unless it has ended: then, and on the
    /// device that follows a failed one, the same key may be another request's.
    pub(super) fn remove(&mut self, handle: &Arc<RequestHandle>) -> Option<RequestKey> {
        let request = handle.key()?;
        self.waiting.get(request).filter(|waiting| Arc::ptr_eq(&waiting.handle, handle))?;
        self.waiting.remove(request)?.handle.stop();
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    /// A new device counts its keys from the start, and an attempt that hung on its caller may cancel late.
    #[test]
    fn a_cancellation_of_a_former_device_hits_nobody() {
        let mut keys = SlotMap::<RequestKey, ()>::with_key();
        let key = keys.insert(());
        let [former, current] = [(), ()].map(|()| Arc::new(RequestHandle::default()));
        former.set_key(key);
        current.set_key(key);
        let (events, _inbox) = mpsc::unbounded_channel();
        let waiting = Waiting {
            handle: Arc::clone(&current),
            events,
            ids: Vec::new(),
            spans: Vec::new(),
            times: TokenizeTimes::default(),
        };
        let mut requests = Requests::default();
        requests.waiting.insert(key, waiting);
        assert_eq!(requests.remove(&former), None);
        assert!(!requests.is_empty());
        assert_eq!(requests.remove(&current), Some(key));
        assert_eq!(requests.remove(&current), None, "it has ended");
    }
}
