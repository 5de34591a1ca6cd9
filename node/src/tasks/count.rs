//! Counting a request's tokens before any of it is admitted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shoal_protocol::message::{Input, Priority, Truncate};
use tokio::sync::oneshot;

use crate::tasks::pool::{TokenizeJob, TokenizedChunk, TokenizerPool};
use crate::tasks::reading::{Preparation, Reading};
use crate::tasks::tokenizer::{TextTokenizer, TokenizedItem};

/// Stops the tokenizer threads when nobody waits for the count any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Tokens that the model would see, up to the first count over `tokens_max`; texts that fail count nothing. `None` if
/// the pool is full or closed.
pub(crate) async fn count_tokens(
    pool: &TokenizerPool,
    tokenizer: Arc<TextTokenizer>,
    items: Arc<[Input]>,
    truncate: Truncate,
    tokens_max: u64,
) -> Option<u64> {
    if items.is_empty() {
        return Some(0);
    }
    let stop = StopOnDrop(Arc::default());
    let stopped = Arc::clone(&stop.0);
    let (done, counted) = oneshot::channel();
    let (mut done, mut tokens) = (Some(done), 0);
    let deliver = move |chunk: TokenizedChunk| {
        tokens += chunk.items.iter().map(tokens_of).sum::<u64>();
        if chunk.bytes_left.is_none() || tokens > tokens_max {
            stopped.store(true, Ordering::Release);
            // Whoever asked may have left.
            let _ = done.take().map(|done| done.send(tokens));
        }
    };
    let job = TokenizeJob {
        items,
        reading: Reading::Alone(Preparation::default()),
        tokenizer,
        truncate,
        priority: Priority::Interactive,
        cancelled: Arc::clone(&stop.0),
        span: tracing::Span::current(),
        deliver: Box::new(deliver),
    };
    pool.submit(job).ok()?;
    counted.await.ok()
}

fn tokens_of(item: &TokenizedItem) -> u64 {
    match item {
        TokenizedItem::Ready(sequence) => u64::from(sequence.tokens),
        TokenizedItem::Failed(_) => 0,
    }
}
