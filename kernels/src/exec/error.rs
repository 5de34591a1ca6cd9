//! Why a model was not loaded, and why a batch was not run.

use crate::{
    cpu::{CpuIsa, OpError},
    cuda::{DeviceError, KernelError},
    dtype::Dtype,
    outputs::OutputSet,
    plan::PlanError,
    weights::WeightsError,
};

/// The model is not loaded; what had been packed is freed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The machine lacks the instruction set.
    #[error("this machine has no {isa}; it has {}", CpuIsa::available().map(CpuIsa::name).collect::<Vec<_>>().join(", "))]
    Isa {
        /// What was asked for.
        isa: CpuIsa,
    },
    /// The device cannot run the model as asked for.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The files changed since they were described, or hold what no weight may be.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A weight cannot be packed.
    #[error(transparent)]
    Op(#[from] OpError),
    /// The device has no room, or was lost.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device has no kernel for a part of the model.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Not one token of it has room.
    #[error(
        "{bytes} bytes of device memory are needed for its shortest batch and {room_bytes} are set aside for one"
    )]
    Room {
        /// What the shortest needs.
        bytes: u64,
        /// What there is.
        room_bytes: u64,
    },
    /// A weight is larger than the format can say: load the model in another.
    #[error("a weight is {value}, more than {dtype} holds; load the model as bf16")]
    Range {
        /// The weight.
        value: f32,
        /// The format.
        dtype: Dtype,
    },
}

/// The batch was not run and the outputs are empty; lane and model are as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// An id that the model's vocabulary does not hold.
    #[error("token id {id} at row {row} is not below the vocabulary's {vocab}")]
    TokenId {
        /// Where in the batch.
        row: usize,
        /// The id.
        id: u32,
        /// Ids of the model.
        vocab: usize,
    },
    /// A position that the model has no row for.
    #[error("position {position} at row {row} is not below the model's {positions}")]
    Position {
        /// Where in the batch.
        row: usize,
        /// The position.
        position: u32,
        /// Positions of the model.
        positions: usize,
    },
    /// A segment that the model does not know.
    #[error("type id {type_id} at row {row} is not below the model's {token_types}")]
    TypeId {
        /// Where in the batch.
        row: usize,
        /// The segment.
        type_id: u8,
        /// Segments of the model.
        token_types: usize,
    },
    /// Arrays that must be equally long are not.
    #[error("{field} has {found} elements; {expected} are needed")]
    Length {
        /// The array.
        field: &'static str,
        /// Its length.
        found: usize,
        /// What the others ask for.
        expected: usize,
    },
    /// Cumulative lengths do not rise from 0 to the number of tokens.
    #[error("{field} must rise from 0 to {tokens}; element {index} is {value}")]
    CuSeqlens {
        /// The array.
        field: &'static str,
        /// The first element that is wrong.
        index: usize,
        /// Its value.
        value: u32,
        /// Tokens of the batch.
        tokens: usize,
    },
    /// A sequence without a token has no vector; even an empty text has its special tokens.
    #[error("sequence {sequence} has no token")]
    EmptySequence {
        /// Its place in the batch.
        sequence: usize,
    },
    /// Tokens that are seen by none need attention without distances: those to the tokens that are left would be wrong.
    #[error(
        "sequence {sequence} has {keys} keys for {tokens} tokens; this model's attention takes all of them"
    )]
    Keys {
        /// Its place in the batch.
        sequence: usize,
        /// Keys that it has.
        keys: u32,
        /// Tokens that it has.
        tokens: u32,
    },
    /// A device that pools whole sequences was asked to pool from parts of one.
    #[error(
        "this device pools dense vectors from whole sequences, and sequence {sequence} has ranges of its own"
    )]
    WholeSequences {
        /// Its place in the batch.
        sequence: usize,
    },
    /// Dense vectors are pooled from at least one token, and from tokens of their own sequence.
    #[error("a dense vector of sequence {sequence} is pooled from {start}..{end} of {tokens} tokens")]
    Range {
        /// Its place in the batch.
        sequence: usize,
        /// The first token.
        start: u32,
        /// The one after the last.
        end: u32,
        /// Tokens that it has.
        tokens: u32,
    },
    /// A label stands at a token of its own sequence.
    #[error("a label of sequence {sequence} stands at token {label} of {tokens}")]
    Label {
        /// Its place in the batch.
        sequence: usize,
        /// The token.
        label: u32,
        /// Tokens that it has.
        tokens: u32,
    },
    /// The model has no head for what is wanted, or nothing is wanted.
    #[error("the model gives {gives}; {wanted} was asked for")]
    Outputs {
        /// What is wanted.
        wanted: OutputSet,
        /// What there are heads for.
        gives: OutputSet,
    },
    /// As many batches as a lane takes are on their way: finish one first.
    #[error("the lane is busy: a batch must be finished first")]
    Busy,
    /// A batch is more than a lane has room for on its device; where it is one sequence alone, it cannot be cut.
    #[error(
        "{bytes} bytes of device memory are needed for this batch and {room_bytes} are set aside for one; shorten or split \
         its texts, or set more aside"
    )]
    Room {
        /// What the batch needs.
        bytes: u64,
        /// What there is.
        room_bytes: u64,
    },
    /// An answer is not a number: the format of the activations could not hold one of them.
    #[error("the answers are not numbers: an activation is more than {dtype} holds; load the model as {}",
        if *dtype == Dtype::F16 { "bf16" } else { "f32, on the CPU" })]
    NotFinite {
        /// The format.
        dtype: Dtype,
    },
    /// No batch is on its way.
    #[error("no batch was put into the lane")]
    Idle,
    /// The model was loaded into another device than that of the lane.
    #[error("the model is on another device")]
    OtherDevice,
    /// The device has no room for the batch, or was lost.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A kernel refused its operands, or the batch is more than a launch takes: split it.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A step has the kernel of another, which is a defect of this program.
    #[error("the plan does not fit its kernels")]
    Selection,
    /// An op refused its operands: the plan and the kernels disagree, which is a defect of this program.
    #[error("the plan does not fit the kernels: {0}")]
    Op(#[from] OpError),
}
