use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};

use super::*;
use crate::tasks::tokenizer::TokenizerLimits;

const PATIENCE: Duration = Duration::from_secs(20);

fn tokenizer() -> Arc<TextTokenizer> {
    let path =
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/bert/mean/tokenizer.json"));
    let limits = TokenizerLimits { tokens_max: 48, vocab_size: 570, lowercase: false, segments: true };
    Arc::new(TextTokenizer::load(&path, limits).expect("a golden tokenizer"))
}

fn job(items: Vec<Input>, priority: Priority) -> (TokenizeJob, Receiver<TokenizedChunk>) {
    let (sender, receiver) = sync_channel(1024);
    let job = TokenizeJob {
        items: items.into(),
        reading: Reading::Alone(Preparation::default()),
        tokenizer: tokenizer(),
        truncate: Truncate::Right,
        priority,
        cancelled: Arc::default(),
        span: tracing::Span::none(),
        deliver: Box::new(move |chunk| sender.send(chunk).expect("the test listens")),
    };
    (job, receiver)
}

fn texts(count: usize) -> Vec<Input> {
    (0..count).map(|index| Input::Text(format!("text {index}"))).collect()
}

#[test]
fn chunks_come_in_order_and_cover_every_text() {
    let pool = TokenizerPool::start(2).expect("threads");
    let (job, chunks) = job(texts(1000), Priority::Bulk);
    pool.submit(job).expect("room");
    let mut seen = 0;
    loop {
        let chunk = chunks.recv_timeout(PATIENCE).expect("a chunk");
        assert_eq!(chunk.first, seen);
        let tokens: u32 = chunk
            .items
            .iter()
            .map(|item| match item {
                TokenizedItem::Ready(sequence) => sequence.tokens,
                TokenizedItem::Failed(failure) => panic!("{failure:?}"),
            })
            .sum();
        assert_eq!(tokens as usize, chunk.ids.len());
        seen += chunk.items.len();
        let left = Reading::Placed.bytes_of(&texts(1000)[seen..]);
        match chunk.bytes_left {
            Some(bytes) => assert_eq!(bytes, left),
            None => break,
        }
    }
    assert_eq!(seen, 1000);
}

#[test]
fn a_cancelled_job_stops_and_frees_its_place() {
    let pool = TokenizerPool::start(1).expect("threads");
    let (job, chunks) = job(texts(100_000), Priority::Bulk);
    let cancelled = Arc::clone(&job.cancelled);
    pool.submit(job).expect("room");
    chunks.recv_timeout(PATIENCE).expect("the first chunk");
    cancelled.store(true, Ordering::Release);
    // The channel closes once the pool has dropped the job: far before its last chunk.
    let rest = chunks.iter().filter(|chunk| chunk.bytes_left.is_none()).count();
    assert_eq!(rest, 0);
    // The place is given back right after.
    let deadline = clock::now() + PATIENCE;
    while pool.shared.lock().jobs > 0 {
        assert!(clock::now() < deadline, "{pool:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_full_pool_refuses() {
    let pool = TokenizerPool::start(1).expect("threads");
    // The first job's delivery waits until the queue is full.
    let (blocker, gate) = sync_channel::<()>(0);
    let (mut first, _chunks) = job(texts(1), Priority::Bulk);
    let mut gate = Some(gate);
    first.deliver = Box::new(move |_| {
        if let Some(gate) = gate.take() {
            let _ = gate.recv();
        }
    });
    pool.submit(first).expect("room");
    let (template, _chunks) = job(texts(1), Priority::Bulk);
    let another = || TokenizeJob {
        items: Arc::clone(&template.items),
        reading: Reading::Alone(Preparation::default()),
        tokenizer: Arc::clone(&template.tokenizer),
        truncate: Truncate::Right,
        priority: Priority::Bulk,
        cancelled: Arc::default(),
        span: tracing::Span::none(),
        deliver: Box::new(|_| ()),
    };
    for _ in 1..JOBS_MAX {
        pool.submit(another()).expect("room");
    }
    assert_eq!(pool.submit(another()), Err(PoolFull));
    drop(blocker);
}

#[test]
fn bulk_yields_but_is_not_starved() {
    let mut queue =
        ChunkQueue { interactive: (0..100).collect(), bulk: (1000..1003).collect(), interactive_run: 0 };
    let order: Vec<i32> = std::iter::from_fn(|| queue.pop()).collect();
    assert_eq!(order.len(), 103);
    assert_eq!(order[..9], [0, 1, 2, 3, 4, 5, 6, 7, 1000]);
    assert_eq!(order[17], 1001);
}

#[test]
fn chunks_are_small() {
    let long = Input::Text("x".repeat(CHUNK_BYTES_MAX));
    assert_eq!(chunk_items(&[long.clone(), long.clone()]), 1);
    assert_eq!(chunk_items(&texts(1000)), CHUNK_ITEMS_MAX);
    assert_eq!(chunk_items(&[long]), 1);
}
