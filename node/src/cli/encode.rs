//! `shoal encode`

use std::borrow::Cow;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use half::f16;
use serde::ser::{Serialize, SerializeSeq, Serializer};
use serde_json::json;
use shoal_mesh::{Answer, ClientError, Encode, EncodeStream, ItemResult, Vector};
use shoal_protocol::RequestId;
use shoal_protocol::message::{DenseDtype, EncodeOptions, Input, Priority, ServedBy, Truncate};
use tokio::sync::{mpsc, oneshot};

use super::args::{EncodeArgs, OutputKind};
use super::exit::{Exit, Stop};
use super::input::{Chunk, InputError, InputSource, read_chunks};
use super::output::{Output, tell};
use super::progress::TextsProgress;
use super::runtime::run_interruptible;
use super::target::Target;
use crate::clock;

/// Chunks that are read ahead of the call.
const CHUNKS_AHEAD_MAX: usize = 2;
/// Lines that are printed before they are made visible, unless the next result must be waited for anyway.
const LINES_UNSEEN_MAX: usize = 1024;

pub(super) fn run(args: EncodeArgs) -> Result<Exit, Stop> {
    run_interruptible(encode(args))
}

async fn encode(args: EncodeArgs) -> Result<Exit, Stop> {
    let started = clock::now();
    let target = Target::open(&args.mesh, &args.device, &args.model).await?;
    require_dense(&args, &target.model)?;
    let (texts, mut input_ended) = read_on_a_thread(match args.input.input.clone() {
        Some(path) => InputSource::File { path, jsonl: args.jsonl },
        None => InputSource::Texts(args.input.texts.clone()),
    });
    let mut call = Encode::live(&target.model, texts)
        .options(EncodeOptions {
            dims: args.dims,
            output_dtype: args.output_dtype.into(),
            prompt_name: args.prompt_name.clone(),
            truncate: if args.truncate { Truncate::Right } else { Truncate::Refuse },
            numerics: target.numerics,
            ..EncodeOptions::default()
        })
        // Somebody who types texts waits for them; a file yields to those who wait.
        .priority(if args.input.input.is_none() { Priority::Interactive } else { Priority::Bulk });
    call = match args.deadline {
        Some(after) => call.deadline(after.saturating_sub(clock::now() - started)),
        None => call.no_deadline(),
    };
    let mut answers = target.client().encode_stream(call);
    let mut printer = Printer::new();
    let failure = printer.print_all(&mut answers).await?;
    if let Some(error) = failure {
        let printed = printer.texts;
        drop(printer);
        let request = (!args.mesh.mesh.is_empty()).then(|| answers.request_id());
        let stop = half_way(error, printed, answers.items().1, input_ended.try_recv().ok());
        return Err(naming(request, stop));
    }
    if let Some(summary) = answers.summary()
        && let Some(served_by) = &summary.served_by
    {
        let (device, reason) = target.device_of(served_by).await;
        let took = clock::now() - started;
        let Printer { texts, failed, .. } = printer;
        let (tokens, request_id) = (summary.tokens, summary.request_id);
        let in_mesh = !args.mesh.mesh.is_empty();
        let summary = Summary { texts, failed, tokens, took, request_id, in_mesh, served_by, device, reason };
        tell_summary(args.json, &summary);
    }
    let failed = printer.failed;
    drop(printer);
    target.close().await;
    if let Ok(Err(error)) = input_ended.await {
        return Err(Stop::new(Exit::Input, error.to_string()));
    }
    Ok(if failed == 0 { Exit::Ok } else { Exit::Input })
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

/// A call that failed: what was answered is printed, and this is what became of the rest. `taken` texts were given to
/// the call; `ended` is what reading came to, if it has ended.
fn half_way(error: ClientError, printed: u64, taken: u64, ended: Option<Result<u64, InputError>>) -> Stop {
    let rest = match ended {
        Some(Ok(total)) => format!("{} of {total} texts have no answer", total - printed),
        // The call's failure is what ended the command, whatever else is wrong with the input.
        Some(Err(_)) | None => {
            let open = taken - printed;
            format!("{open} of the {taken} texts read so far have no answer, nor has the rest of the input")
        }
    };
    let Stop { exit, message } = Stop::from(error);
    if exit == Exit::Model && printed == 0 {
        return Stop::new(exit, message); // the whole call is wrong
    }
    Stop::new(exit, format!("{message}; {rest}"))
}

/// With the request's id, by which the nodes of a mesh tell what became of it.
fn naming(request: Option<RequestId>, stop: Stop) -> Stop {
    match (request, stop) {
        (Some(id), Stop { exit, message }) if !message.is_empty() => {
            Stop::new(exit, format!("{message}; request {id}"))
        }
        (_, stop) => stop,
    }
}

/// How many texts there were, once all are read.
type Ended = oneshot::Receiver<Result<u64, InputError>>;

/// Reading blocks, so it has a thread of its own; the channel's bound is what keeps memory bounded.
fn read_on_a_thread(source: InputSource) -> (impl Stream<Item = Input> + Send, Ended) {
    let (send, mut chunks) = mpsc::channel::<Chunk>(CHUNKS_AHEAD_MAX);
    let (end, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let mut total = 0;
        let read = read_chunks(source, |chunk| {
            total += chunk.len() as u64;
            send.blocking_send(chunk).is_ok()
        });
        // Nobody listens any more once the command has failed otherwise.
        drop(end.send(read.map(|()| total)));
    });
    let chunks = stream::poll_fn(move |cx| chunks.poll_recv(cx));
    (chunks.flat_map(|chunk| stream::iter(chunk.into_iter().map(Input::Text))), ended)
}

struct Printer {
    output: Output,
    progress: TextsProgress,
    texts: u64,
    failed: u64,
}

impl Printer {
    fn new() -> Self {
        Self { output: Output::new(), progress: TextsProgress::new(), texts: 0, failed: 0 }
    }

    /// Prints every result as it comes; gives back why the call failed, if it did.
    async fn print_all(&mut self, answers: &mut EncodeStream) -> Result<Option<ClientError>, Stop> {
        let mut ready = answers.ready_chunks(LINES_UNSEEN_MAX);
        let mut failure = None;
        while let Some(results) = ready.next().await {
            for result in results {
                match result {
                    Ok((index, item)) => self.print(index, item)?,
                    Err(error) => failure = Some(error),
                }
            }
            self.output.flush()?;
        }
        Ok(failure)
    }

    fn print(&mut self, index: u64, item: ItemResult) -> Result<(), Stop> {
        self.texts += 1;
        self.progress.advance(1);
        match item {
            ItemResult::Answered { tokens, truncated, answer } => {
                let Answer::Vectors(vectors) = answer else {
                    return Err(Stop::new(Exit::Unavailable, "a text was answered with no vector"));
                };
                let dense = vectors.dense.map(Values);
                self.output.json(&VectorLine { index, tokens, truncated, dense })
            }
            ItemResult::Failed { code, message, tokens, limit } => {
                self.failed += 1;
                let error = ItemError { code: code.as_str(), message, tokens, limit };
                self.output.json(&FailedLine { index, error })
            }
        }
    }
}

/// What is told at the end.
struct Summary<'a> {
    texts: u64,
    failed: u64,
    tokens: u64,
    took: Duration,
    request_id: RequestId,
    in_mesh: bool,
    served_by: &'a ServedBy,
    device: String,
    reason: String,
}

fn tell_summary(as_json: bool, summary: &Summary<'_>) {
    let Summary { texts, failed, tokens, device, reason, .. } = summary;
    let seconds = summary.took.as_secs_f64();
    let speed = (*tokens as f64 / seconds.max(1e-9)).round();
    if as_json {
        let json = json!({
            "texts": texts, "failed": failed, "tokens": tokens, "seconds": seconds, "tokens_per_s": speed,
            "device": device, "reason": reason, "node": summary.served_by.node.to_string(),
            "request_id": summary.request_id.to_string(),
        });
        return tell(&json.to_string());
    }
    let failed = if *failed == 0 { String::new() } else { format!(" ({failed} failed)") };
    let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    let noun = if *texts == 1 { "text" } else { "texts" };
    // A node that ends with the command remembers nothing.
    let request = if summary.in_mesh { format!("; request {}", summary.request_id) } else { String::new() };
    tell(&format!(
        "{texts} {noun}{failed}, {tokens} tokens in {seconds:.2} s, {speed} tokens/s on {device}{reason}{request}"
    ));
}

#[derive(serde::Serialize)]
struct FailedLine {
    index: u64,
    error: ItemError,
}

/// Counts that are not known are not shown.
#[derive(serde::Serialize)]
struct ItemError {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "is_zero")]
    tokens: u32,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[derive(serde::Serialize)]
struct VectorLine {
    index: u64,
    tokens: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    dense: Option<Values>,
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
