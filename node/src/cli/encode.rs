//! `shoal encode`

use half::f16;
use serde::ser::{Serialize, Serializer};
use shoal_mesh::{Answer, Encode, Multivector, SparseVector, Vector, Vectors};
use shoal_protocol::message::{DenseDtype, EncodeOptions, VectorSet};

use super::args::{EncodeArgs, OutputKind};
use super::exit::{Exit, Stop};
use super::output::Output;
use super::runtime::run_interruptible;
use super::task::{self, Answered, Lines, misanswered};

pub(super) fn run(args: EncodeArgs) -> Result<Exit, Stop> {
    run_interruptible(encode(args))
}

async fn encode(args: EncodeArgs) -> Result<Exit, Stop> {
    let has = |kind| args.output.contains(&kind);
    let options = EncodeOptions {
        outputs: VectorSet {
            dense: has(OutputKind::Dense),
            sparse: has(OutputKind::Sparse),
            multivector: has(OutputKind::Multivector),
        },
        dims: args.dims,
        output_dtype: args.output_dtype.into(),
        prompt_name: args.prompt_name,
        ..EncodeOptions::default()
    };
    task::run(&args.task, |model, texts| Encode::live(model, texts).options(options), &mut VectorLines).await
}

struct VectorLines;

impl Lines for VectorLines {
    fn answer(&mut self, output: &mut Output, answered: Answered) -> Result<(), Stop> {
        let Answered { index, tokens, truncated, answer } = answered;
        let Answer::Vectors(Vectors { dense, sparse, multivector }) = &answer else {
            return Err(misanswered());
        };
        output.json(&VectorLine {
            index,
            tokens,
            truncated,
            dense: dense.as_ref().map(|vector: &Vector| Values::of(vector.dtype(), vector.bytes())),
            sparse: sparse.as_ref().map(SparseLine::of),
            multivector: multivector.as_ref().map(rows_of),
        })
    }
}

#[derive(serde::Serialize)]
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

fn rows_of(vectors: &Multivector) -> Vec<Values<'_>> {
    let row_bytes = vectors.dtype().row_bytes(vectors.dims()).max(1);
    vectors.bytes().chunks_exact(row_bytes).map(|row| Values::of(vectors.dtype(), row)).collect()
}

/// A vector as a JSON array of its elements: numbers, or bytes for packed bits.
struct Values<'a> {
    dtype: DenseDtype,
    bytes: &'a [u8],
}

impl<'a> Values<'a> {
    fn of(dtype: DenseDtype, bytes: &'a [u8]) -> Self {
        Self { dtype, bytes }
    }
}

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.dtype {
            DenseDtype::F32 => {
                let (quads, _) = self.bytes.as_chunks::<4>();
                serializer.collect_seq(quads.iter().map(|quad| f32::from_le_bytes(*quad)))
            }
            DenseDtype::F16 => {
                let (pairs, _) = self.bytes.as_chunks::<2>();
                serializer.collect_seq(pairs.iter().map(|pair| f16::from_le_bytes(*pair).to_f32()))
            }
            DenseDtype::I8 => serializer.collect_seq(self.bytes.iter().map(|byte| byte.cast_signed())),
            DenseDtype::U8 | DenseDtype::Bits => self.bytes.serialize(serializer),
        }
    }
}
