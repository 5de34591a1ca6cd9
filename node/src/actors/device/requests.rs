//! The requests of a device: their ids until they are packed, and their way back.

use std::sync::Arc;

use ractor::ActorRef;
use shoal_kernels::{OutputSet, Outputs, PackedBatch};
use shoal_protocol::message::Beacon;
use slotmap::SecondaryMap;
use tokio::sync::mpsc;

use super::message::{DeviceEvent, DeviceMsg, RequestHandle, Submission, TokenizeTimes};
use super::tell;
use crate::core::{BatchItem, ItemTokens, RequestKey, StageTimes, TokenizedPiece};
use crate::tasks::pool::{PoolFull, TokenizeJob, TokenizedChunk, TokenizerPool};
use crate::tasks::reading::Reading;
use crate::tasks::rows::{Row, Rows};
use crate::tasks::tokenizer::{Sequence, TokenChunk, TokenPlace, TokenizedItem};

/// Where a sequence's ids lie among its request's.
#[derive(Clone, Copy)]
struct Span {
    /// The text's position in the request.
    text: u32,
    start: u32,
    /// Where its chunks begin among the request's.
    first_chunk: u32,
    sequence: Sequence,
}

impl Span {
    /// Its part of what lies token by token.
    fn of<T>(self, tokens: &[T]) -> &[T] {
        &tokens[self.start as usize..][..self.sequence.tokens as usize]
    }

    /// Its chunks, of all of the request's.
    fn chunks(self, all: &[TokenChunk]) -> &[TokenChunk] {
        &all[self.first_chunk as usize..][..self.sequence.chunks as usize]
    }
}

struct Waiting {
    handle: Arc<RequestHandle>,
    events: mpsc::UnboundedSender<DeviceEvent>,
    /// The ids of every text that is ready, end to end.
    ids: Vec<u32>,
    /// Where each of these tokens stands in its text; empty unless that was asked for.
    places: Vec<TokenPlace>,
    /// The chunks of its texts, end to end; empty unless they were asked for.
    chunks: Vec<TokenChunk>,
    /// How its texts are read.
    reading: Reading,
    /// What the request wants of each pass.
    wanted: OutputSet,
    /// By the number under which the device knows each sequence.
    spans: Vec<Span>,
    times: TokenizeTimes,
}

impl Waiting {
    /// Appends one of its sequences to a batch.
    fn pack(&self, index: usize, packed: &mut PackedBatch) {
        let span = self.spans[index];
        let Sequence { tokens, segment_tokens, seen, .. } = span.sequence;
        let ids = span.of(&self.ids);
        if seen < tokens {
            packed.push_expanded(ids, seen as usize);
        } else {
            packed.push_pair(ids, segment_tokens as usize);
        }
        let skipped = self.reading.skipped(span.text as usize);
        if !skipped.is_empty() {
            packed.skip(|id| skipped.binary_search(&id).is_ok());
        }
        if self.reading.is_late() {
            packed.pool_from(span.chunks(&self.chunks).iter().map(|chunk| chunk.tokens));
        }
        if let Reading::Labelled { prompt, rule } = &self.reading {
            let words = span.chunks(&self.chunks).iter().map(|word| word.tokens);
            packed.find_spans(words, prompt.label_tokens(ids), *rule);
        }
    }

    /// What a batch left for some of its sequences. Row `i` of the batch began at token `cu_seqlens[i]`.
    fn rows(&self, items: &[BatchItem], outputs: &Arc<Outputs>, cu_seqlens: &[u32]) -> Rows {
        let mut rows = Rows {
            outputs: Arc::clone(outputs),
            rows: Vec::with_capacity(items.len()),
            places: Vec::new(),
            chunks: Vec::new(),
        };
        for item in items {
            let span = self.spans[item.index as usize];
            let Sequence { truncated, part, chunks, .. } = span.sequence;
            rows.rows.push(Row {
                index: span.text,
                row: item.row,
                tokens: item.tokens,
                first_token: cu_seqlens[item.row as usize],
                truncated,
                part,
                chunks,
                first_chunk: rows.chunks.len() as u32,
            });
            rows.chunks.extend(span.chunks(&self.chunks).iter().map(|chunk| chunk.place));
            if !self.places.is_empty() {
                rows.places.extend_from_slice(span.of(&self.places));
            }
        }
        rows
    }

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
        let Submission {
            handle,
            front,
            items,
            reading,
            wanted,
            truncate,
            priority,
            span,
            events,
            deadline: _,
        } = submission;
        handle.set_key(request);
        let device = device.clone();
        let job = TokenizeJob {
            reading: reading.clone(),
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
            places: Vec::new(),
            chunks: Vec::new(),
            reading,
            wanted,
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
        let (mut start, mut first_chunk) = (waiting.ids.len() as u32, waiting.chunks.len() as u32);
        if waiting.ids.is_empty() {
            waiting.ids = chunk.ids;
        } else {
            waiting.ids.extend_from_slice(&chunk.ids);
        }
        waiting.places.extend_from_slice(&chunk.places);
        waiting.chunks.extend_from_slice(&chunk.chunks);
        let (mut failed, mut text) = (Vec::new(), chunk.first as u32);
        for item in chunk.items {
            match item {
                TokenizedItem::Ready(sequence) => {
                    let (index, tokens) = (waiting.spans.len() as u32, sequence.tokens);
                    self.ready.push(ItemTokens { index, tokens });
                    waiting.spans.push(Span { text, start, first_chunk, sequence });
                    start += tokens;
                    first_chunk += sequence.chunks;
                    text += u32::from(sequence.part.is_last());
                }
                TokenizedItem::Failed(failure) => {
                    failed.push((text, failure));
                    text += 1;
                }
            }
        }
        if !failed.is_empty() {
            waiting.send(DeviceEvent::ItemsFailed(failed));
        }
        Some(TokenizedPiece { items: &self.ready, bytes_left: chunk.bytes_left })
    }

    /// Puts the texts of a batch end to end, in row order. Gives what their requests want of it, all together.
    pub(super) fn pack(&self, items: &[BatchItem], packed: &mut PackedBatch) -> OutputSet {
        let mut wanted = OutputSet::NONE;
        for item in items {
            // A request that ended between being batched and being packed would leave a hole: the core batches
            // only what is unfinished, and tells of an end before it batches anew.
            match self.waiting.get(item.request) {
                Some(waiting) => {
                    waiting.pack(item.index as usize, packed);
                    wanted = wanted.with(waiting.wanted);
                }
                None => packed.push(&[]),
            }
        }
        wanted
    }

    /// Hands what a finished batch left to those who wait for it. Its row `i` began at token `cu_seqlens[i]`.
    pub(super) fn deliver(&self, items: &[BatchItem], outputs: Outputs, cu_seqlens: &[u32]) {
        let outputs = Arc::new(outputs);
        for own in items.chunk_by(|a, b| a.request == b.request) {
            let Some(waiting) = self.waiting.get(own[0].request) else {
                continue;
            };
            let rows = waiting.rows(own, &outputs, cu_seqlens);
            waiting.send(DeviceEvent::Rows(rows));
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
            places: Vec::new(),
            chunks: Vec::new(),
            reading: Reading::Placed,
            wanted: OutputSet::DENSE,
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
