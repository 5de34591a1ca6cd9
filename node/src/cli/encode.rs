//! `shoal encode`

use shoal_mesh::{Answer, Encode, SparseVector, Vector, Vectors};
use shoal_protocol::message::EncodeOptions;

use super::args::EncodeArgs;
use super::exit::{Exit, Stop};
use super::output::Output;
use super::runtime::run_interruptible;
use super::task::{self, Answered, Lines, misanswered};
use crate::choices::OutputKind;
use crate::values::{ChunkValues, Values};

pub(super) fn run(args: EncodeArgs) -> Result<Exit, Stop> {
    run_interruptible(encode(args))
}

async fn encode(args: EncodeArgs) -> Result<Exit, Stop> {
    let options = EncodeOptions {
        outputs: OutputKind::set(&args.output),
        dims: args.dims,
        output_dtype: args.output_dtype.into(),
        input_type: args.input_type.map(Into::into),
        prompt_name: args.prompt_name,
        chunking: args.chunks.chunking().map(Box::new),
        ..EncodeOptions::default()
    };
    task::run(&args.task, |model, texts| Encode::live(model, texts).options(options), &mut VectorLines).await
}

struct VectorLines;

impl Lines for VectorLines {
    fn answer(&mut self, output: &mut Output, answered: Answered) -> Result<(), Stop> {
        let Answered { index, tokens, truncated, answer } = answered;
        let line = VectorLine { index, tokens, truncated, ..VectorLine::default() };
        match &answer {
            Answer::Vectors(Vectors { dense, sparse, multivector }) => output.json(&VectorLine {
                dense: dense.as_ref().map(|vector: &Vector| Values::of(vector.dtype(), vector.bytes())),
                sparse: sparse.as_ref().map(SparseLine::of),
                multivector: multivector.as_ref().map(Values::rows),
                ..line
            }),
            Answer::Chunks(chunks) => {
                output.json(&VectorLine { chunks: Some(ChunkValues::of(chunks).collect()), ..line })
            }
            _ => Err(misanswered()),
        }
    }
}

#[derive(Default, serde::Serialize)]
struct VectorLine<'a> {
    index: u64,
    tokens: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    dense: Option<Values<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sparse: Option<SparseLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multivector: Option<Vec<Values<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<Vec<ChunkValues<'a>>>,
}

#[derive(serde::Serialize)]
struct SparseLine<'a> {
    indices: &'a [u32],
    values: &'a [f32],
}

impl<'a> SparseLine<'a> {
    fn of(vector: &'a SparseVector) -> Self {
        Self { indices: vector.indices(), values: vector.values() }
    }
}
