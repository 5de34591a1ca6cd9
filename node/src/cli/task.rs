//! What `encode`, `score` and `extract` share: texts in, a call, a line for each answer, and a summary.

use std::time::{Duration, Instant};

use futures_util::stream::{self, Stream, StreamExt};
use serde_json::json;
use shoal_mesh::{Answer, AnswerStream, Call, ClientError, ItemResult, TaskOptions};
use shoal_protocol::RequestId;
use shoal_protocol::message::{Input, Priority, ServedBy, Truncate};
use tokio::sync::{mpsc, oneshot};

use super::args::TaskArgs;
use super::exit::{Exit, Stop};
use super::input::{Chunk, InputError, InputSource, read_chunks};
use super::output::{Output, tell};
use super::progress::TextsProgress;
use super::target::Target;
use crate::clock;

/// Chunks that are read ahead of the call.
const CHUNKS_AHEAD_MAX: usize = 2;
/// Lines that are printed before they are made visible, unless the next result must be waited for anyway.
const LINES_UNSEEN_MAX: usize = 1024;

/// An answer to one text.
pub(super) struct Answered {
    /// The text's position.
    pub(super) index: u64,
    /// Tokens that the model saw.
    pub(super) tokens: u32,
    /// Whether the text was cut.
    pub(super) truncated: bool,
    /// What the model answered.
    pub(super) answer: Answer,
}

/// What a command prints of its answers.
pub(super) trait Lines {
    /// An answer came; in input order.
    fn answer(&mut self, output: &mut Output, answered: Answered) -> Result<(), Stop>;

    /// All answers came.
    fn end(&mut self, _output: &mut Output) -> Result<(), Stop> {
        Ok(())
    }
}

/// The texts of a command, on their way into a call.
pub(super) type Texts = stream::BoxStream<'static, Input>;

/// Makes the call that the flags describe and prints its answers. `make` gives the call of the target's model.
pub(super) async fn run<O: TaskOptions>(
    args: &TaskArgs,
    make: impl FnOnce(&str, Texts) -> Call<O>,
    lines: &mut dyn Lines,
) -> Result<Exit, Stop> {
    let started = clock::now();
    let target = Target::open(&args.mesh, &args.device, &args.model).await?;
    let (texts, mut input_ended) = read_on_a_thread(match args.input.input.clone() {
        Some(path) => InputSource::File { path, jsonl: args.jsonl },
        None => InputSource::Texts(args.input.texts.clone()),
    });
    let mut call = make(&target.model, texts.boxed())
        .truncate(args.truncate.map_or(Truncate::Refuse, Into::into))
        .numerics(target.numerics)
        // Somebody who types texts waits for them; a file yields to those who wait.
        .priority(if args.input.input.is_none() { Priority::Interactive } else { Priority::Bulk });
    call = match args.deadline {
        Some(after) => call.deadline(after.saturating_sub(clock::now() - started)),
        None => call.no_deadline(),
    };
    let mut answers = target.client().stream(call);
    let mut printer = Printer::new(lines);
    let failure = printer.print_all(&mut answers).await?;
    if let Some(error) = failure {
        let answered = printer.texts;
        drop(printer);
        let request = (!args.mesh.mesh.is_empty()).then(|| answers.request_id());
        let stop = half_way(error, answered, answers.items().1, input_ended.try_recv().ok());
        return Err(naming(request, stop));
    }
    printer.end()?;
    let (texts, failed) = (printer.texts, printer.failed);
    drop(printer);
    summarise(args, &target, &answers, (texts, failed), started).await;
    target.close().await;
    if let Ok(Err(error)) = input_ended.await {
        return Err(Stop::new(Exit::Input, error.to_string()));
    }
    Ok(if failed == 0 { Exit::Ok } else { Exit::Input })
}

/// A call that failed: what was answered is printed, and this is what became of the rest. `taken` texts were given to
/// the call; `ended` is what reading came to, if it has ended.
fn half_way(error: ClientError, answered: u64, taken: u64, ended: Option<Result<u64, InputError>>) -> Stop {
    let rest = match ended {
        Some(Ok(total)) => format!("{} of {total} texts have no answer", total - answered),
        // The call's failure is what ended the command, whatever else is wrong with the input.
        Some(Err(_)) | None => {
            let open = taken - answered;
            format!("{open} of the {taken} texts read so far have no answer, nor has the rest of the input")
        }
    };
    let Stop { exit, message } = Stop::from(error);
    if exit == Exit::Model && answered == 0 {
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

struct Printer<'a> {
    lines: &'a mut dyn Lines,
    output: Output,
    progress: TextsProgress,
    texts: u64,
    failed: u64,
}

impl<'a> Printer<'a> {
    fn new(lines: &'a mut dyn Lines) -> Self {
        Self { lines, output: Output::new(), progress: TextsProgress::new(), texts: 0, failed: 0 }
    }

    /// Prints every result as it comes; gives back why the call failed, if it did.
    async fn print_all(&mut self, answers: &mut AnswerStream) -> Result<Option<ClientError>, Stop> {
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
                let answered = Answered { index, tokens, truncated, answer };
                self.lines.answer(&mut self.output, answered)
            }
            ItemResult::Failed { code, message, tokens, limit } => {
                self.failed += 1;
                let error = ItemError { code: code.as_str(), message, tokens, limit };
                self.output.json(&FailedLine { index, error })
            }
        }
    }

    fn end(&mut self) -> Result<(), Stop> {
        self.lines.end(&mut self.output)?;
        self.output.flush()
    }
}

/// Of a text that got an answer which is none to this command.
pub(super) fn misanswered() -> Stop {
    Stop::new(Exit::Unavailable, "a text was answered with something that was not asked for")
}

/// Tells on stderr what the call took and where it ran.
async fn summarise(
    args: &TaskArgs,
    target: &Target,
    answers: &AnswerStream,
    (texts, failed): (u64, u64),
    started: Instant,
) {
    let Some(summary) = answers.summary() else {
        return;
    };
    let Some(served_by) = &summary.served_by else {
        return;
    };
    let (device, reason) = target.device_of(served_by).await;
    let took = clock::now() - started;
    let (tokens, request_id) = (summary.tokens, summary.request_id);
    let in_mesh = !args.mesh.mesh.is_empty();
    let summary = Summary { texts, failed, tokens, took, request_id, in_mesh, served_by, device, reason };
    tell_summary(args.json, &summary);
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
