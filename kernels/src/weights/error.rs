//! Why a checkpoint is refused: each error names the file, the tensor and what is wrong with it.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A checkpoint cannot be used. Nothing was loaded, and no file was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// Neither a single file nor an index of shards is there.
    #[error("no weights in {dir}: expected model.safetensors or model.safetensors.index.json")]
    Missing {
        /// The model's directory.
        dir: PathBuf,
    },
    /// A pickle of PyTorch, which is a program.
    #[error(
        "{path} is a pickle of PyTorch, a program, which is not run; this makes {to} of it: {}",
        conversion(path, to)
    )]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What stands beside it once it is converted.
        to: &'static str,
    },
    /// The operating system refused.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// The file is not sound safetensors.
    #[error("{path} is not a sound safetensors file: {source}")]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with its header.
        source: HeaderError,
    },
    /// The index of shards is not usable.
    #[error("{path} is not a usable index of shards: {reason}")]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Two shards hold the same tensor.
    #[error("tensor {tensor:?} is in {path} and in another shard")]
    InTwoShards {
        /// The tensor.
        tensor: String,
        /// The second shard that holds it.
        path: PathBuf,
    },
    /// One tensor is not what the description says.
    #[error("tensor {tensor:?}: {source}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        source: TensorError,
    },
    /// The file under a checked header changed before its data was mapped.
    #[error("{path} changed while it was being read: load it again once it is complete")]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

/// The command that reads tensors from a pickle, and nothing else, and writes them again.
fn conversion(path: &Path, to: &str) -> String {
    let (from, to) = (path.display(), path.with_file_name(to));
    format!(
        "python3 -c 'import sys, torch, safetensors.torch as s; \
         t = torch.load(sys.argv[1], map_location=\"cpu\", weights_only=True); \
         s.save_file({{n: v.clone().contiguous() for n, v in t.items()}}, sys.argv[2], {{\"format\": \"pt\"}})' \
         '{from}' '{}'",
        to.display()
    )
}

/// A safetensors header that cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Shorter than the 8 bytes that tell the header's length.
    #[error("{file_bytes} bytes are too few for the length of a header")]
    TooShort {
        /// The file's size.
        file_bytes: u64,
    },
    /// The header claims to be longer than any real one.
    #[error("the header claims {header_bytes} bytes; at most {max} are read")]
    TooLong {
        /// The claim.
        header_bytes: u64,
        /// The bound.
        max: u64,
    },
    /// The header claims to be longer than the file.
    #[error("the header claims {header_bytes} bytes, the file holds {file_bytes}")]
    Truncated {
        /// The claim.
        header_bytes: u64,
        /// The file's size.
        file_bytes: u64,
    },
    /// The header is not the JSON that the format prescribes: syntax, a duplicate name, a missing field, a number
    /// that is no offset.
    #[error("header: {reason}")]
    Json {
        /// What the parser says; names the tensor where it got that far.
        reason: String,
    },
    /// A tensor of a type that the format does not know.
    #[error("tensor {tensor:?} has the unknown dtype {dtype:?}")]
    UnknownDtype {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
    },
    /// A tensor ends before it begins.
    #[error("tensor {tensor:?} lies at {begin}..{end}, which ends before it begins")]
    Reversed {
        /// The tensor.
        tensor: String,
        /// Its first byte.
        begin: u64,
        /// The byte after its last.
        end: u64,
    },
    /// The product of the dimensions overflows.
    #[error("tensor {tensor:?} has a shape whose size overflows: {shape:?}")]
    ShapeOverflow {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// The bytes set aside for a tensor are not those of its shape and type.
    #[error("tensor {tensor:?} needs {needed} bytes for its shape and dtype and is given {given}")]
    Length {
        /// The tensor.
        tensor: String,
        /// Product of shape and element size.
        needed: u64,
        /// Length of its range.
        given: u64,
    },
    /// The tensors do not tile the data: a gap if `begin` is larger than `expected`, an overlap if smaller.
    #[error("tensor {tensor:?} begins at byte {begin} of the data; the one before it ends at {expected}")]
    NotContiguous {
        /// The tensor.
        tensor: String,
        /// Its first byte.
        begin: u64,
        /// Where it must begin.
        expected: u64,
    },
    /// The file holds less, or more, data than the tensors.
    #[error("the tensors end at byte {tensors_end} of the data; the file holds {data_bytes}")]
    DataLength {
        /// The byte after the last tensor.
        tensors_end: u64,
        /// Bytes of the file behind the header.
        data_bytes: u64,
    },
}

/// A tensor that is not what the description needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The checkpoint does not hold it.
    #[error("not in the checkpoint")]
    Missing,
    /// Another shape.
    #[error("shape {found:?}, the configuration needs {expected:?}")]
    Shape {
        /// What the file says.
        found: Vec<u64>,
        /// What the description needs.
        expected: Vec<usize>,
    },
    /// A type that is not converted: only f32, f16 and bf16 are.
    #[error("dtype {found} is not covered: expected F32, F16 or BF16")]
    Dtype {
        /// What the file says.
        found: &'static str,
    },
    /// A weight that is infinite or not a number.
    #[error("element {index} is not finite")]
    NotFinite {
        /// Its place in the flattened tensor.
        index: usize,
    },
}
