//! `shoal encode`, `score` and `extract`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use shoal_protocol::message::Chunking;

use super::{DeviceArgs, MODEL_DEFAULT, MeshArgs};
use crate::choices::{ChunkKind, InputKind, OutputDtype, OutputKind, Side};

/// How texts are cut into chunks.
#[derive(Args, Debug)]
pub(in crate::cli) struct ChunkArgs {
    /// Cut texts into chunks, and what becomes of them.
    #[arg(long, value_name = "POOLING")]
    chunks: Option<ChunkKind>,
    /// Tokens of a chunk; by default as many as the model takes.
    #[arg(long, value_name = "N", requires = "chunks")]
    chunk_tokens: Option<u32>,
    /// Tokens that a chunk shares with the one before it: at most half.
    #[arg(long, value_name = "N", requires = "chunks", default_value_t = 0)]
    chunk_overlap: u32,
}

impl ChunkArgs {
    pub(in crate::cli) fn chunking(&self) -> Option<Chunking> {
        let Self { chunks, chunk_tokens: tokens, chunk_overlap: overlap } = *self;
        chunks.map(|kind| Chunking { pooling: kind.into(), tokens, overlap })
    }
}

/// What every command has that reads texts.
#[derive(Args, Debug)]
pub(in crate::cli) struct TaskArgs {
    /// Name of a model, or (in this process) a directory in Hugging Face layout.
    #[arg(long, default_value = MODEL_DEFAULT, value_name = "NAME|DIR")]
    pub(in crate::cli) model: String,
    #[command(flatten)]
    pub(in crate::cli) input: InputArgs,
    /// Each line of the input is a JSON string or an object with a `text`.
    #[arg(long, conflicts_with = "texts")]
    pub(in crate::cli) jsonl: bool,
    #[command(flatten)]
    pub(in crate::cli) mesh: MeshArgs,
    #[command(flatten)]
    pub(in crate::cli) device: DeviceArgs,
    /// Cut texts over the model's limit, at the end unless `left` is said; without it such a text is an error.
    #[arg(long, value_name = "SIDE", num_args = 0..=1, require_equals = true, default_missing_value = "right")]
    pub(in crate::cli) truncate: Option<Side>,
    /// Give up after so long, for example 5s or 2m. Default: never.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(in crate::cli) deadline: Option<Duration>,
    /// Print the summary (stderr) as JSON too.
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// Where texts come from.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(in crate::cli) struct InputArgs {
    /// Read texts from a file (`-`: stdin), one a line.
    #[arg(long, value_name = "FILE|-")]
    pub(in crate::cli) input: Option<PathBuf>,
    /// The texts themselves, after `--`.
    #[arg(last = true, value_name = "TEXT")]
    pub(in crate::cli) texts: Vec<OsString>,
}

/// `shoal encode`
#[derive(Args, Debug)]
pub(in crate::cli) struct EncodeArgs {
    #[command(flatten)]
    pub(in crate::cli) task: TaskArgs,
    /// Kinds of output; by default the model's own.
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    pub(in crate::cli) output: Vec<OutputKind>,
    /// Keep the first N values and normalise again (Matryoshka models only).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) dims: Option<u32>,
    /// Element type of the vectors.
    #[arg(long, default_value = "f32", value_name = "DTYPE")]
    pub(in crate::cli) output_dtype: OutputDtype,
    /// What the texts are, for models that read queries and documents differently.
    #[arg(long, value_name = "TYPE")]
    pub(in crate::cli) input_type: Option<InputKind>,
    /// A prompt of the model's configuration, put in front of every text. Default: that of the input type.
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) prompt_name: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) chunks: ChunkArgs,
}

/// `shoal score`
#[derive(Args, Debug)]
pub(in crate::cli) struct ScoreArgs {
    #[command(flatten)]
    pub(in crate::cli) task: TaskArgs,
    /// What the texts are held against.
    #[arg(long, value_name = "QUERY")]
    pub(in crate::cli) query: String,
    /// What a model that takes an instruction is told to look for; by default what its files say.
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) instruction: Option<String>,
    /// Raw outputs of the model, without its activation.
    #[arg(long)]
    pub(in crate::cli) raw: bool,
}

/// `shoal extract`
#[derive(Args, Debug)]
pub(in crate::cli) struct ExtractArgs {
    #[command(flatten)]
    pub(in crate::cli) task: TaskArgs,
    /// What to look for; may be given more than once. Default: all that the model knows; some know nothing by themselves.
    #[arg(long = "label", value_name = "LABEL")]
    pub(in crate::cli) labels: Vec<String>,
    /// What a model of entailment is asked about a label that it does not know, which stands for {}.
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) hypothesis: Option<String>,
    /// Labels that the model does not know hold whatever the others do; a span may have several.
    #[arg(long)]
    pub(in crate::cli) multi_label: bool,
    /// Spans may lie inside of each other, where the model finds them by the labels that are given.
    #[arg(long)]
    pub(in crate::cli) nested: bool,
    /// Leave out what scores less. Default: the model's own rule.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    pub(in crate::cli) threshold: Option<f32>,
}
