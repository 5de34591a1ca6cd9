//! The tokenizer threads: a bounded queue of texts, taken in small chunks so that the first batch of a long call
//! starts before its last text is tokenized, and so that a long call does not hold up a short one.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_protocol::message::{ChunkPooling, Input, Priority, Truncate};

use crate::clock;
use crate::tasks::reading::{Preparation, Reading};
use crate::tasks::tokenizer::{
    ItemFailure, Prompted, Text, TextTokenizer, TokenChunk, TokenPlace, TokenizedItem,
};

/// Requests that may wait for a tokenizer thread or be under one. Admission bounds their bytes; this bounds their
/// number, so that many empty texts cannot grow the queue without end.
pub(crate) const JOBS_MAX: usize = 4096;
/// Texts of one chunk.
const CHUNK_ITEMS_MAX: usize = 64;
/// Bytes after which a chunk ends: about a millisecond of one thread.
const CHUNK_BYTES_MAX: usize = 16 * 1024;
/// Interactive chunks in a row before a waiting bulk chunk is taken: bulk yields but is not starved.
const INTERACTIVE_RUN_MAX: u32 = 8;
/// Of a text that is read as it is.
const BARE: Preparation = Preparation { prompt: None, multivector: None };

/// Some texts of one request, tokenized.
#[derive(Debug)]
pub(crate) struct TokenizedChunk {
    /// Position in the request of the first text.
    pub(crate) first: usize,
    /// What became of each text, in order: one that is several sequences has as many entries.
    pub(crate) items: Vec<TokenizedItem>,
    /// The ids of the texts that are ready, end to end.
    pub(crate) ids: Vec<u32>,
    /// Where each of these tokens stands in its text; empty unless [`Reading::Placed`].
    pub(crate) places: Vec<TokenPlace>,
    /// The chunks of the texts that have any, end to end.
    pub(crate) chunks: Vec<TokenChunk>,
    /// How long the chunk waited for a thread.
    pub(crate) waited: Duration,
    /// How long the thread took.
    pub(crate) took: Duration,
    /// Bytes of the texts still to come, with their prompts; `None` in the last chunk.
    pub(crate) bytes_left: Option<u64>,
}

/// The texts of one request, on their way through the pool.
pub(crate) struct TokenizeJob {
    /// The texts.
    pub(crate) items: Arc<[Input]>,
    /// How.
    pub(crate) reading: Reading,
    /// The model's tokenizer.
    pub(crate) tokenizer: Arc<TextTokenizer>,
    /// What to do with long texts.
    pub(crate) truncate: Truncate,
    /// Which queue.
    pub(crate) priority: Priority,
    /// Set when nobody waits for the rest.
    pub(crate) cancelled: Arc<AtomicBool>,
    /// Where the stage shows in a trace.
    pub(crate) span: tracing::Span,
    /// Takes each chunk; called on a tokenizer thread, so it must only hand over.
    pub(crate) deliver: Box<dyn FnMut(TokenizedChunk) + Send>,
}

/// The pool's queue is full. Nothing was queued; the caller sheds the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{JOBS_MAX} requests already wait for a tokenizer thread")]
pub(crate) struct PoolFull;

struct QueuedJob {
    job: TokenizeJob,
    next: usize,
    /// Of the texts from `next` on, with what is read beside them.
    bytes_left: u64,
    /// The ids of what is read with every text, the query of pairs or the labels, once they were read.
    query: Option<Result<Vec<u32>, ItemFailure>>,
    queued_at: Instant,
}

/// Which of two queues is served next. `bulk` yields to `interactive`, but not for ever.
struct ChunkQueue<T> {
    interactive: VecDeque<T>,
    bulk: VecDeque<T>,
    interactive_run: u32,
}

impl<T> ChunkQueue<T> {
    fn push(&mut self, priority: Priority, job: T) {
        match priority {
            Priority::Interactive => self.interactive.push_back(job),
            Priority::Bulk => self.bulk.push_back(job),
        }
    }

    fn clear(&mut self) {
        self.interactive.clear();
        self.bulk.clear();
    }

    fn pop(&mut self) -> Option<T> {
        let bulk_turn = self.interactive_run >= INTERACTIVE_RUN_MAX && !self.bulk.is_empty();
        if bulk_turn || self.interactive.is_empty() {
            self.interactive_run = 0;
            return self.bulk.pop_front();
        }
        self.interactive_run = self.interactive_run.saturating_add(1);
        self.interactive.pop_front()
    }
}

struct State {
    queue: ChunkQueue<QueuedJob>,
    jobs: usize,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokenizer threads over one bounded queue. Dropping it drops what is queued; each thread ends after its chunk.
pub(crate) struct TokenizerPool {
    shared: Arc<Shared>,
}

impl TokenizerPool {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// The system has no thread to give; those already started end.
    pub(crate) fn start(threads: usize) -> std::io::Result<Self> {
        let state = State {
            queue: ChunkQueue { interactive: VecDeque::new(), bulk: VecDeque::new(), interactive_run: 0 },
            jobs: 0,
            closed: false,
        };
        let pool = Self { shared: Arc::new(Shared { state: Mutex::new(state), work: Condvar::new() }) };
        for index in 0..threads.max(1) {
            let shared = Arc::clone(&pool.shared);
            std::thread::Builder::new().name(format!("tokenizer-{index}")).spawn(move || serve(&shared))?;
        }
        Ok(pool)
    }

    /// Queues a request's texts.
    ///
    /// # Errors
    /// [`PoolFull`].
    pub(crate) fn submit(&self, job: TokenizeJob) -> Result<(), PoolFull> {
        {
            let mut state = self.shared.lock();
            if state.jobs >= JOBS_MAX {
                return Err(PoolFull);
            }
            state.jobs += 1;
            let bytes_left = job.reading.bytes_of(&job.items);
            let queued = QueuedJob { next: 0, bytes_left, query: None, queued_at: clock::now(), job };
            state.queue.push(queued.job.priority, queued);
        }
        self.shared.work.notify_one();
        Ok(())
    }
}

impl fmt::Debug for TokenizerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenizerPool").field("jobs", &self.shared.lock().jobs).finish()
    }
}

impl Drop for TokenizerPool {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closed = true;
            state.queue.clear();
        }
        self.shared.work.notify_all();
    }
}

fn serve(shared: &Shared) {
    let mut prompted = String::new();
    loop {
        let mut queued = {
            let mut state = shared.lock();
            loop {
                if state.closed {
                    return;
                }
                match state.queue.pop() {
                    Some(queued) => break queued,
                    None => {
                        state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        };
        let more = !queued.job.cancelled.load(Ordering::Acquire) && run_chunk(&mut queued, &mut prompted);
        let mut state = shared.lock();
        if more {
            state.queue.push(queued.job.priority, queued);
        } else {
            state.jobs -= 1;
        }
    }
}

/// Tokenizes the next chunk and delivers it; false when it was the last.
fn run_chunk(queued: &mut QueuedJob, prompted: &mut String) -> bool {
    let QueuedJob { job, next, bytes_left, query, queued_at } = queued;
    let _stage = tracing::debug_span!(parent: &job.span, "tokenize", first = *next).entered();
    let started_at = clock::now();
    let first = *next;
    let count = chunk_items(&job.items[first..]);
    let inputs = &job.items[first..first + count];
    let bytes = job.reading.bytes_of(inputs);
    *bytes_left -= bytes;
    let is_last = first + count == job.items.len();
    let mut chunk = TokenizedChunk {
        first,
        items: Vec::with_capacity(count),
        // A text of n bytes has at most about n/2 tokens with word pieces; rare larger counts grow the buffer.
        ids: Vec::with_capacity(bytes as usize / 2 + 4 * count),
        places: Vec::new(),
        chunks: Vec::new(),
        waited: started_at.saturating_duration_since(*queued_at),
        took: Duration::ZERO,
        bytes_left: (!is_last).then_some(*bytes_left),
    };
    for (index, input) in (first..).zip(inputs) {
        read(job, query, (index, input), &mut chunk, prompted);
    }
    let ended_at = clock::now();
    chunk.took = ended_at.saturating_duration_since(started_at);
    *next = first + count;
    *queued_at = ended_at;
    (job.deliver)(chunk);
    !is_last
}

/// Tokenizes one text.
fn read(
    job: &TokenizeJob,
    query: &mut Option<Result<Vec<u32>, ItemFailure>>,
    (index, input): (usize, &Input),
    chunk: &mut TokenizedChunk,
    prompted: &mut String,
) {
    let TokenizedChunk { ids, places, chunks, items, .. } = chunk;
    let TokenizeJob { reading, tokenizer, truncate, .. } = job;
    let item = match (reading, input) {
        (Reading::Pairs { query: text }, Input::Text(other)) => {
            match query.get_or_insert_with(|| tokenizer.plain_ids(text)) {
                Ok(query) => tokenizer.append_pair(query, other, *truncate, ids),
                Err(failure) => TokenizedItem::Failed(failure.clone()),
            }
        }
        (Reading::Hypotheses { hypotheses }, Input::Text(text)) => {
            return tokenizer.append_hypotheses(text, hypotheses, *truncate, ids, items);
        }
        (Reading::Templated { template }, Input::Text(text)) => {
            tokenizer.append_templated(template, text, *truncate, ids)
        }
        (Reading::Labelled { prompt, .. }, Input::Text(text)) => {
            match query.get_or_insert_with(|| tokenizer.prompt_ids(prompt)) {
                Ok(labels) => {
                    let labels = (&**prompt, labels.as_slice());
                    return tokenizer.append_words(labels, text, *truncate, ids, chunks, items);
                }
                Err(failure) => TokenizedItem::Failed(failure.clone()),
            }
        }
        (Reading::Placed, Input::Text(text)) => tokenizer.append_placed(text, *truncate, ids, places),
        (Reading::Chunked { prompt, chunking }, Input::Text(text)) => {
            let prompt = prompt.as_deref().unwrap_or("");
            prompted.clear();
            prompted.extend([prompt, text]);
            let text = Prompted { prompt, text, whole: prompted };
            match chunking.pooling {
                ChunkPooling::Mean => return tokenizer.append_windows(text, *chunking, ids, items),
                ChunkPooling::Late => tokenizer.append_chunks(text, *chunking, *truncate, ids, chunks),
            }
        }
        (reading, input) => {
            let preparation = reading.preparation(index).unwrap_or(&BARE);
            let text = Text::with_prompt(input, preparation.prompt.as_deref(), prompted);
            tokenizer.append(text, preparation.multivector.as_deref(), *truncate, ids)
        }
    };
    items.push(item);
}

/// How many of `items` make the next chunk: at least one.
fn chunk_items(items: &[Input]) -> usize {
    let mut bytes = 0;
    let fitting = items.iter().take(CHUNK_ITEMS_MAX).take_while(|item| {
        let before = bytes;
        bytes += item.bytes();
        before < CHUNK_BYTES_MAX
    });
    fitting.count()
}

#[cfg(test)]
mod tests;
