//! A node in a few lines, for what the edge does with its answers: vectors are hashes of the texts, failures are
//! chosen by the model's name. The real node is tested elsewhere.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use shoal_mesh::{BoxFuture, Peer, Reply, Service};
use shoal_protocol::message::*;
use shoal_protocol::{Bytes, DeviceIndex, ErrorCode, Frame, Message, Micros, NodeId, Tokens, TraceContext};
use tokio::sync::{Notify, watch};

pub(super) const NODE: NodeId = NodeId([0xab; 16]);
pub(super) const DEVICE: &str = "cpu hash";
/// Values of a vector.
pub(super) const DIMS: usize = 8;
/// Tokens that a text may have, special ones included.
pub(super) const TOKENS_MAX: u32 = 8;
/// Ids of its vocabulary.
const VOCABULARY: u32 = 100;
/// The hint of its refusals.
const RETRY_AFTER: Duration = Duration::from_millis(1500);

/// See the module.
pub(super) struct HashService {
    /// Requests to the model `slow` that wait for `release`.
    waiting: watch::Sender<usize>,
    pub(super) release: Notify,
    /// The trace of the last request.
    pub(super) trace: Mutex<Option<TraceContext>>,
}

impl Default for HashService {
    fn default() -> Self {
        Self { waiting: watch::Sender::new(0), release: Notify::new(), trace: Mutex::default() }
    }
}

impl HashService {
    /// Waits until so many requests wait.
    pub(super) async fn until_waiting(&self, count: usize) {
        let mut waiting = self.waiting.subscribe();
        let reached = waiting.wait_for(|now| *now == count);
        let reached = tokio::time::timeout(Duration::from_secs(60), reached).await;
        reached.expect("in time").expect("the sender lives");
    }

    /// Waits for the release or for the caller to leave.
    async fn wait(&self, reply: &Reply) {
        self.waiting.send_modify(|count| *count += 1);
        tokio::select! {
            () = reply.cancelled() => {}
            () = self.release.notified() => {}
        }
        self.waiting.send_modify(|count| *count -= 1);
    }

    async fn encode(&self, request: TaskRequest, mut reply: Reply) {
        *self.trace.lock().expect("no panic under it") = request.trace;
        if request.model == "slow" {
            self.wait(&reply).await;
        }
        // That a caller left is no concern of the service's.
        let _left = match refusal(&request) {
            Some(failure) => reply.end(Message::Failure(failure)).await,
            None => {
                let (result, tokens) = results(&request);
                let _left = reply.send(Message::TaskResult(result)).await;
                reply.end(Message::End(end(&request, tokens))).await
            }
        };
    }
}

/// What a request for vectors asks of them.
fn options(request: &TaskRequest) -> EncodeOptions {
    match &request.task {
        Task::Encode(options) => options.clone(),
        Task::Score(_) | Task::Extract(_) => EncodeOptions::default(),
    }
}

/// The text of an item that is one.
fn text(item: &Input) -> &str {
    match item {
        Input::Text(text) => text,
        Input::TokenIds(_) => "",
    }
}

/// Answers to these items: sparse vectors of the length, scores of how many words a text shares with the query, spans of
/// the word `Ada`, and else two classes.
fn answers(request: &TaskRequest, dense: DenseBlock, items: &[&Input]) -> Answers {
    match &request.task {
        Task::Encode(options) if options.outputs.sparse => {
            let sparse = SparseBlock {
                ends: (1..=items.len() as u32).collect(),
                indices: items.iter().map(|item| text(item).len() as u32).collect(),
                values: vec![0.5; items.len()],
            };
            let dense = options.outputs.dense.then_some(dense);
            Answers::Vectors { dense, sparse: Some(Box::new(sparse)), multivector: None }
        }
        Task::Encode(_) => dense.into(),
        Task::Score(options) => {
            let query: Vec<_> = options.query.split_whitespace().collect();
            let shared =
                |item: &&Input| text(item).split_whitespace().filter(|word| query.contains(word)).count();
            Answers::Scores(
                items.iter().map(|item| shared(item) as f32 * if options.raw { 1.0 } else { 0.1 }).collect(),
            )
        }
        Task::Extract(_) if request.model == "mrl" => {
            let span = |item: &&Input| text(item).find("Ada").map(|at| at as u32);
            let found: Vec<_> = items.iter().map(span).collect();
            let count = |upto: usize| found[..=upto].iter().flatten().count() as u32;
            let spans = found.iter().flatten().map(|start| Span {
                start: *start,
                end: start + 3,
                label: 0,
                score: 0.75,
            });
            let ends = (0..found.len()).map(count).collect();
            Answers::Spans(SpanBlock { labels: vec!["person".into()], ends, spans: spans.collect() })
        }
        Task::Extract(_) => Answers::Classes(ClassBlock {
            labels: vec!["ham".into(), "spam".into()],
            scores: [0.1, 0.9].repeat(items.len()),
        }),
    }
}

/// A model whose name is an error's code fails with it.
fn refusal(request: &TaskRequest) -> Option<Failure> {
    let cut = options(request).dims.is_some_and(|dims| dims as usize != DIMS);
    let (code, message) = match request.model.as_str() {
        "hash" if cut => (ErrorCode::InvalidRequest, "hash has 8 dims, which cannot be cut"),
        "hash" | "org/hash" | "nan" | "mrl" | "slow" => return None,
        name => match ErrorCode::ALL.into_iter().find(|code| code.as_str() == name) {
            Some(code) => (code, "as asked"),
            None => (ErrorCode::ModelNotFound, "no such model"),
        },
    };
    let has_hint = matches!(code, ErrorCode::Overloaded | ErrorCode::Draining);
    Some(Failure {
        retry_after_us: has_hint.then(|| RETRY_AFTER.into()),
        ..Failure::new(code, message.into())
    })
}

fn end(request: &TaskRequest, tokens: u64) -> End {
    End {
        request_id: request.request_id.answered_by(NODE),
        items: u32::try_from(request.items.len()).expect("few"),
        tokens,
        served_by: ServedBy {
            node: NODE,
            device: DeviceIndex(0),
            device_name: DEVICE.into(),
            numerics: Numerics::F32,
        },
        timings: Timings {
            tokenize_us: Micros(1_250),
            queue_us: Micros(2_000),
            compute_us: Micros(3_999),
            total_us: Micros(8_000),
            ..Timings::default()
        },
    }
}

fn results(request: &TaskRequest) -> (TaskResult, u64) {
    let dims = options(request).dims.unwrap_or(DIMS as u32);
    let (mut indices, mut outcomes) = (Vec::new(), Vec::new());
    let mut dense = DenseBlock { dims, ..DenseBlock::default() };
    let mut tokens_seen = 0;
    for (index, item) in (0..).zip(&request.items) {
        let outcome = outcome(item, request.task.truncate());
        if let ItemOutcome::Answered { tokens, .. } = outcome {
            tokens_seen += u64::from(tokens);
            dense.rows += 1;
            let vector = match request.model.as_str() {
                "nan" => [f32::NAN; DIMS],
                _ => vector(item),
            };
            let values = vector.iter().take(dims as usize);
            dense.data.extend(values.flat_map(|value| value.to_le_bytes()));
        }
        indices.push(index);
        outcomes.push(outcome);
    }
    let is_answered = |(_, outcome): &(&Input, &ItemOutcome)| matches!(outcome, ItemOutcome::Answered { .. });
    let answered: Vec<_> =
        request.items.iter().zip(&outcomes).filter(is_answered).map(|(item, _)| item).collect();
    let answers = answers(request, dense, &answered);
    (TaskResult { indices, outcomes, answers }, tokens_seen)
}

fn outcome(item: &Input, truncate: Truncate) -> ItemOutcome {
    let tokens = match item {
        Input::Text(text) => text.split_whitespace().count() + 2,
        Input::TokenIds(ids) => match ids.iter().find(|id| **id >= VOCABULARY) {
            Some(id) => {
                return ItemOutcome::Failed {
                    code: ErrorCode::InvalidRequest,
                    message: format!("token id {id} is outside of the vocabulary"),
                    tokens: 0,
                    limit: 0,
                };
            }
            None => ids.len(),
        },
    };
    let tokens = u32::try_from(tokens).expect("short texts");
    if tokens > TOKENS_MAX && truncate == Truncate::Refuse {
        let limit = TOKENS_MAX;
        let message = "too long".to_owned();
        return ItemOutcome::Failed { code: ErrorCode::TooLong, message, tokens, limit };
    }
    ItemOutcome::Answered { tokens: tokens.min(TOKENS_MAX), truncated: tokens > TOKENS_MAX }
}

/// The vector of an item: a byte of its FNV-1a hash a value.
pub(super) fn vector(item: &Input) -> [f32; DIMS] {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let seed = 0xcbf2_9ce4_8422_2325;
    let hash = match item {
        Input::Text(text) => text.bytes().fold(seed, fnv),
        Input::TokenIds(ids) => ids.iter().flat_map(|id| id.to_le_bytes()).fold(seed, fnv),
    };
    hash.to_le_bytes().map(|byte| (f32::from(byte) - 127.3) / 129.7)
}

fn model(name: &str, matryoshka: bool) -> ModelStatus {
    ModelStatus {
        name: name.into(),
        aliases: vec![format!("{name}-alias")],
        state: ModelState::Ready,
        bytes: Bytes(1234),
        device: Some(DeviceIndex(0)),
        pinned: true,
        numerics: Numerics::F32,
        tokens_max: TOKENS_MAX,
        dims: DIMS as u32,
        matryoshka,
        pooling: "mean".into(),
        dtype: "f32".into(),
        placed: String::new(),
        error: None,
        requests: 7,
        tokens: 70,
    }
}

pub(super) fn status() -> Status {
    let stored = ModelStatus {
        state: ModelState::Stored,
        device: None,
        dims: 0,
        tokens_max: 0,
        dtype: String::new(),
        pooling: String::new(),
        ..model("org/stored", false)
    };
    Status {
        node: NODE,
        generation: 1,
        software: "shoal-tests".into(),
        uptime_us: Micros(5_000_000),
        draining: false,
        ready: true,
        warnings: Vec::new(),
        devices: vec![DeviceStatus {
            device: DeviceIndex(0),
            name: DEVICE.into(),
            reason: "a test".into(),
            is_up: true,
            lanes: 2,
            threads: 2,
            load: LoadRecord { queue_tokens: 321, ..LoadRecord::default() },
            gauges: GaugeSet { queue_tokens_max: Tokens(4096), shed: 3, ..GaugeSet::default() },
        }],
        models: vec![model("hash", false), model("mrl", true), stored],
        histograms: Vec::new(),
        members: Vec::new(),
    }
}

impl Service for HashService {
    fn serve(self: Arc<Self>, _: Peer, request: Frame, reply: Reply) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            match request.message {
                Message::TaskRequest(request) => self.encode(request, reply).await,
                Message::StatusRequest(_) => drop(reply.end(Message::Status(Box::new(status()))).await),
                _ => drop(reply.fail(ErrorCode::InvalidRequest, "not for a node").await),
            }
        })
    }
}
