//! What every kernel has in common.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytemuck::Pod;

use crate::Dtype;

/// An address in a device's memory, on 16 bytes where nothing else is said; 0 where an operand is not there.
pub type DeviceAddress = u64;

/// What a block may ask for on every device since sm_80 (sm_86, sm_89 and sm_120 have the least: 99 KiB).
pub(super) const SHARED_BYTES_MAX: usize = 99 << 10;
/// Blocks in y and z (CUDA C++ Programming Guide, compute capabilities).
pub(super) const GRID_Y_MAX: u32 = 65_535;
/// Blocks in x.
pub(super) const GRID_X_MAX: u32 = i32::MAX as u32;
/// Elements that one load or copy moves.
pub(super) const VECTOR_ELEMENTS: u32 = 8;

/// Binaries begin with words of 8 bytes.
#[repr(C, align(8))]
struct Aligned<B: ?Sized>(B);

macro_rules! modules {
    ($($name:ident $file:literal)*) => {
        /// A source file, which is compiled to one binary.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum KernelModule {
            $(#[doc = concat!("`kernels/cuda/", $file, ".cu`.")] $name,)*
        }

        impl KernelModule {
            /// Every module.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Code for every architecture, compressed, as the driver takes it.
            #[must_use]
            pub const fn image(self) -> &'static [u8] {
                match self {
                    $(Self::$name => {
                        static IMAGE: &Aligned<[u8]> =
                            &Aligned(*include_bytes!(concat!("../../cuda/prebuilt/", $file, ".fatbin")));
                        &IMAGE.0
                    })*
                }
            }
        }
    };
}

modules! {
    Activation "activation"
    Attention "attention"
    Dense "dense"
    Disentangled "disentangled"
    Embed "embed"
    Gemm "gemm"
    Norm "norm"
    Pool "pool"
    Rope "rope"
    Splade "splade"
    Vectors "vectors"
}

/// A kernel, chosen when a model is planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Where it is.
    pub module: KernelModule,
    /// Its name in the module: `op_variant_dtype`.
    pub name: String,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// Of its name, in this process.
    number: usize,
}

/// Names are numbered in the order in which they are met: a handful for each op.
fn number_of(name: &str) -> usize {
    static NUMBERS: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());
    let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
    let next = numbers.len();
    *numbers.entry(name.to_owned()).or_insert(next)
}

/// One launch of a kernel: nothing is allocated for it.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a, A> {
    /// Which.
    pub kernel: &'a Kernel,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// The one argument.
    pub args: A,
}

impl<A: Pod> Launch<'_, A> {
    /// The argument as the device reads it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        bytemuck::bytes_of(&self.args)
    }
}

/// Why there is no kernel for this, or no launch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// Activations on CUDA devices are f16 or bf16.
    #[error("no CUDA kernel for this computes in {0}: encoders have f16 and bf16, heads f32, too")]
    Dtype(Dtype),
    /// Attention was built for other head sizes.
    #[error(
        "no CUDA attention kernel has head_dim {head_dim}{with}: {covered:?} are covered; run the model on the CPU"
    )]
    HeadDim {
        /// Elements of one head.
        head_dim: usize,
        /// `with ALiBi`, `with relative positions`, or nothing.
        with: &'static str,
        /// What there is.
        covered: &'static [usize],
    },
    /// A row that no norm kernel holds.
    #[error("no CUDA norm kernel takes rows of {dims}: multiples of 8 up to {dims_max} are covered")]
    RowDims {
        /// Elements of a row.
        dims: usize,
        /// The longest row.
        dims_max: usize,
    },
    /// Rotary positions of heads that no kernel turns.
    #[error(
        "no CUDA kernel rotates {rope_dims} of {head_dim} elements of a head: multiples of 16 up to {head_dim_max} \
         are covered; run the model on the CPU"
    )]
    Rope {
        /// Elements of one head.
        head_dim: usize,
        /// Those that are rotated.
        rope_dims: usize,
        /// The largest head.
        head_dim_max: usize,
    },
    /// A part of the model that only CPUs compute so far.
    #[error("no CUDA kernel computes {what}: run the model on the CPU")]
    Part {
        /// What it is.
        what: &'static str,
    },
    /// The operands contradict each other.
    #[error("{kernel}: {rule}")]
    Operands {
        /// The kernel.
        kernel: String,
        /// The rule that is broken.
        rule: &'static str,
    },
    /// More blocks than a device launches at once: split the batch.
    #[error("{kernel}: {blocks} blocks are more than a grid has")]
    Grid {
        /// The kernel.
        kernel: String,
        /// Blocks in the dimension that is too large.
        blocks: u64,
    },
}

/// How the kernels' names end.
pub(super) fn suffix(dtype: Dtype) -> Result<&'static str, KernelError> {
    match dtype {
        Dtype::F16 | Dtype::Bf16 => Ok(dtype.name()),
        Dtype::F32 | Dtype::I8 => Err(KernelError::Dtype(dtype)),
    }
}

/// How the names of kernels end that follow the encoder, where rows may be f32.
pub(super) fn head_suffix(input: Dtype) -> Result<&'static str, KernelError> {
    if input == Dtype::F32 { Ok(input.name()) } else { suffix(input) }
}

impl Kernel {
    pub(super) fn new(module: KernelModule, name: String, threads: u32, shared_bytes: u32) -> Self {
        let number = number_of(&name);
        Self { module, name, threads, shared_bytes, number }
    }

    /// Tells it from all others by name in this process; small.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    pub(super) fn require(&self, holds: bool, rule: &'static str) -> Result<(), KernelError> {
        if holds { Ok(()) } else { Err(KernelError::Operands { kernel: self.name.clone(), rule }) }
    }

    pub(super) fn blocks(&self, blocks: u64, most: u32) -> Result<u32, KernelError> {
        let fits = u32::try_from(blocks).ok().filter(|blocks| *blocks <= most);
        fits.ok_or_else(|| KernelError::Grid { kernel: self.name.clone(), blocks })
    }

    /// Rows that are this many elements apart all start on 16 bytes.
    pub(super) fn require_aligned(&self, strides: &[u32]) -> Result<(), KernelError> {
        let aligned = strides.iter().all(|stride| stride.is_multiple_of(VECTOR_ELEMENTS));
        self.require(aligned, "a row starts off its boundary of 16 bytes")
    }
}
