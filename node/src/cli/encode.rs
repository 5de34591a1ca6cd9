//! `shoal encode`

use std::borrow::Cow;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use half::f16;
use serde::ser::{Serialize, SerializeSeq, Serializer};
use serde_json::json;
use shoal_mesh::{Client, Encode, Encoded, ItemResult, Vector};
use shoal_protocol::message::{DenseDtype, EncodeOptions, Priority, ServedBy, Truncate};
use tokio::sync::mpsc;

use super::args::{EncodeArgs, OutputKind};
use super::exit::{Exit, Stop};
use super::input::{Chunk, InputError, InputSource, read_chunks};
use super::output::{Output, tell};
use super::progress::TextsProgress;
use super::runtime::run_interruptible;
use super::target::Target;
use crate::clock;

/// Chunks that are read ahead of the calls.
const CHUNKS_AHEAD_MAX: usize = 2;
/// Calls in flight: enough that the device never waits for the next chunk.
const CALLS_MAX: usize = 4;

pub(super) fn run(args: EncodeArgs) -> Result<Exit, Stop> {
    run_interruptible(encode(args))
}

async fn encode(args: EncodeArgs) -> Result<Exit, Stop> {
    let started = clock::now();
    let target = Target::open(&args.mesh, &args.device, &args.model).await?;
    require_dense(&args, &target.model)?;
    let source = match args.input.input.clone() {
        Some(path) => InputSource::File { path, jsonl: args.jsonl },
        None => InputSource::Texts(args.input.texts.clone()),
    };
    // Somebody who types texts waits for them; a file yields to those who wait.
    let priority = match source {
        InputSource::Texts(_) => Priority::Interactive,
        InputSource::File { .. } => Priority::Bulk,
    };
    let (chunks, input_ended) = read_on_a_thread(source);
    let caller = Caller {
        client: target.client().clone(),
        model: target.model.clone(),
        options: EncodeOptions {
            dims: args.dims,
            output_dtype: args.output_dtype.into(),
            normalize: None,
            prompt_name: args.prompt_name.clone(),
            truncate: if args.truncate { Truncate::Right } else { Truncate::Refuse },
            numerics: target.numerics,
        },
        priority,
        deadline: args.deadline.and_then(|after| started.checked_add(after)),
    };
    let calls = Box::pin(stream::unfold(chunks, async |mut chunks: mpsc::Receiver<Chunk>| {
        chunks.recv().await.map(|chunk| (chunk, chunks))
    }));
    let mut answers = calls.map(|chunk| caller.call(chunk)).buffered(CALLS_MAX);
    let mut printer = Printer::new();
    while let Some(encoded) = answers.next().await {
        printer.print(encoded?)?;
    }
    drop(answers);
    let summary = printer.summary;
    if let Some(served_by) = &summary.served_by {
        let (device, reason) = target.device_of(served_by).await;
        tell_summary(&args, &summary, clock::now() - started, &device, &reason);
    }
    target.close().await;
    if let Ok(Err(error)) = input_ended.await {
        return Err(Stop::new(Exit::Input, error.to_string()));
    }
    Ok(if summary.failed == 0 { Exit::Ok } else { Exit::Input })
}

/// The models that are covered give dense vectors.
fn require_dense(args: &EncodeArgs, model: &str) -> Result<(), Stop> {
    match args.output.iter().find(|kind| **kind != OutputKind::Dense) {
        None => Ok(()),
        Some(kind) => {
            let kind = format!("{kind:?}").to_lowercase();
            let message = format!("model {model} has no {kind} output; it offers: dense");
            Err(Stop::new(Exit::Model, message))
        }
    }
}

type Ended = tokio::sync::oneshot::Receiver<Result<(), InputError>>;

/// Reading blocks, so it has a thread of its own; the channel's bound is what keeps memory bounded.
fn read_on_a_thread(source: InputSource) -> (mpsc::Receiver<Chunk>, Ended) {
    let (send, chunks) = mpsc::channel(CHUNKS_AHEAD_MAX);
    let (end, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let read = read_chunks(source, |chunk| send.blocking_send(chunk).is_ok());
        // Nobody listens any more once the command has failed otherwise.
        drop(end.send(read));
    });
    (chunks, ended)
}

struct Caller {
    client: Client,
    model: String,
    options: EncodeOptions,
    priority: Priority,
    deadline: Option<std::time::Instant>,
}

impl Caller {
    async fn call(&self, chunk: Chunk) -> Result<Encoded, Stop> {
        let mut call = Encode::new(&self.model, chunk).options(self.options.clone()).priority(self.priority);
        call = match self.deadline {
            Some(deadline) => call.deadline(deadline.saturating_duration_since(clock::now())),
            None => call.no_deadline(),
        };
        Ok(self.client.encode(call).await?)
    }
}

#[derive(Default)]
struct Summary {
    texts: u64,
    failed: u64,
    tokens: u64,
    served_by: Option<ServedBy>,
}

struct Printer {
    output: Output,
    progress: TextsProgress,
    summary: Summary,
}

impl Printer {
    fn new() -> Self {
        Self { output: Output::new(), progress: TextsProgress::new(), summary: Summary::default() }
    }

    fn print(&mut self, encoded: Encoded) -> Result<(), Stop> {
        let count = encoded.items.len() as u64;
        for item in encoded.items {
            let index = self.summary.texts;
            self.summary.texts += 1;
            match item {
                ItemResult::Vector { tokens, truncated, vector } => {
                    self.output.json(&VectorLine { index, tokens, truncated, dense: Values(vector) })?
                }
                ItemResult::Failed { code, message, tokens, limit } => {
                    self.summary.failed += 1;
                    let mut error = json!({ "code": code.as_str(), "message": message });
                    for (key, value) in [("tokens", tokens), ("limit", limit)] {
                        if value > 0 {
                            error[key] = value.into();
                        }
                    }
                    self.output.json(&json!({ "index": index, "error": error }))?;
                }
            }
        }
        self.summary.tokens += encoded.tokens;
        self.summary.served_by = encoded.served_by.or(self.summary.served_by.take());
        self.progress.advance(count);
        self.output.flush()
    }
}

fn tell_summary(args: &EncodeArgs, summary: &Summary, took: Duration, device: &str, reason: &str) {
    let seconds = took.as_secs_f64();
    let speed = (summary.tokens as f64 / seconds.max(1e-9)).round();
    if args.json {
        let json = json!({
            "texts": summary.texts, "failed": summary.failed, "tokens": summary.tokens, "seconds": seconds,
            "tokens_per_s": speed, "device": device, "reason": reason,
            "node": summary.served_by.as_ref().map(|served_by| served_by.node.to_string()),
        });
        tell(&json.to_string());
        return;
    }
    let failed = match summary.failed {
        0 => String::new(),
        failed => format!(" ({failed} failed)"),
    };
    let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    tell(&format!(
        "{} texts{failed}, {} tokens in {seconds:.2} s, {speed} tokens/s on {device}{reason}",
        summary.texts, summary.tokens
    ));
}

#[derive(serde::Serialize)]
struct VectorLine {
    index: u64,
    tokens: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    dense: Values,
}

/// A vector as a JSON array of its elements: numbers, or bytes for packed bits.
struct Values(Vector);

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.0.bytes();
        match self.0.dtype() {
            DenseDtype::F32 => self.0.as_f32().unwrap_or(Cow::Borrowed(&[])).serialize(serializer),
            DenseDtype::F16 => {
                let (pairs, _) = bytes.as_chunks::<2>();
                let mut sequence = serializer.serialize_seq(Some(pairs.len()))?;
                for pair in pairs {
                    sequence.serialize_element(&f16::from_le_bytes(*pair).to_f32())?;
                }
                sequence.end()
            }
            DenseDtype::I8 => serializer.collect_seq(bytes.iter().map(|byte| byte.cast_signed())),
            DenseDtype::U8 | DenseDtype::Bits => bytes.serialize(serializer),
        }
    }
}
