//! What a kind of device must be able to do for its actor.

mod cpu;
mod cuda;

use std::sync::Arc;

use shoal_kernels::cuda::DeviceError;
use shoal_kernels::spec::HeadModule;
use shoal_kernels::{
    CpuModel, CudaModel, Dtype, DtypePolicy, ExecError, LoadError, ModelDescription, OutputSet, Outputs,
    PackedBatch,
};
use shoal_protocol::message::Numerics;
use tokio::sync::oneshot;

pub(crate) use cpu::CpuBackend;
pub(crate) use cuda::{CudaBackend, LANES as CUDA_LANES};

/// A device of this machine, whether it works at the moment or not. Outlives its actor.
pub(crate) trait Backend: Send + Sync + 'static {
    /// For example `cpu avx512-bf16`.
    fn name(&self) -> String;

    /// What a model would be here, without reading its weights.
    ///
    /// # Errors
    /// What the device cannot do of it.
    fn outlook(&self, description: &ModelDescription, policy: DtypePolicy) -> Result<Outlook, LoadError>;

    /// Whether dense vectors may be pooled from parts of a text.
    fn pools_parts(&self) -> bool;

    /// What was done for want of device memory, since the node's start.
    fn shortage(&self) -> Shortage {
        Shortage::default()
    }

    /// Makes the device ready, anew after it failed. Blocks, for about a second.
    ///
    /// # Errors
    /// Why it cannot be used now.
    fn open(&self) -> Result<Arc<dyn OpenDevice>, DeviceError>;
}

/// What a model would be on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// The format of its weights.
    pub(crate) dtype: Dtype,
    /// Bytes that it would hold there.
    pub(crate) bytes: u64,
    /// Tokens of the longest text that there is room for, at most the model's own limit.
    pub(crate) tokens_max: u32,
}

/// What was done, step by step, where a device's memory did not suffice; evictions are the core's, and counted there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shortage {
    /// Batches ran in parts.
    pub(crate) batches_cut: u64,
    /// Captured graphs were dropped.
    pub(crate) graphs_dropped: u64,
    /// Loads and batches were refused.
    pub(crate) refusals: u64,
}

/// A device in use, by one actor.
pub(crate) trait OpenDevice: Send + Sync + 'static {
    /// Reads, checks and packs the weights. Called on the loader's thread. `progress` is told the bytes done and all.
    /// The model answers pooled vectors that are not scaled: the callers of one batch differ in what they want.
    fn load(
        &self,
        description: &ModelDescription,
        policy: DtypePolicy,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Weights, LoadError>;

    /// A lane of up to `threads_max` threads. Called on the lane's own thread.
    ///
    /// # Errors
    /// The device has none to give, or was lost.
    fn start_lane(&self, threads_max: u16) -> Result<Box<dyn Lane>, ExecError>;

    /// A batch on it does not end. Whether the whole device is of no more use then: everything that waits for it ends, and it
    /// must be opened anew. Otherwise the thread that hangs is left behind.
    fn give_up(&self) -> bool;
}

/// Runs one batch at a time.
pub(crate) trait Lane {
    /// Leaves what is wanted in `out`.
    fn run(
        &mut self,
        model: &Weights,
        batch: &PackedBatch,
        wanted: OutputSet,
        threads: u16,
        out: &mut Outputs,
    ) -> Result<(), ExecError>;
}

/// A loaded model, shared by the lanes of its device.
pub(crate) enum Weights {
    /// In the machine's memory.
    Cpu(Box<CpuModel>),
    /// In a GPU's.
    Cuda(Arc<CudaModel>),
}

impl Weights {
    /// What it holds there.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Cpu(model) => model.bytes(),
            Self::Cuda(model) => model.bytes(),
        }
    }

    /// The format of its weights.
    pub(crate) fn dtype(&self) -> Dtype {
        match self {
            Self::Cpu(model) => model.dtype(),
            Self::Cuda(model) => model.dtype(),
        }
    }
}

/// Does what blocks on a thread of its own, which ends with it.
///
/// # Errors
/// The system has no thread to give, or the work panicked.
pub(crate) async fn on_own_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    let (done, finished) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Who waited may have gone.
        let _ = done.send(work());
    })?;
    finished
        .await
        .map_err(|_| std::io::Error::other(format!("the thread {name} panicked; the log says where")))
}

/// The precision class of vectors from weights of this type.
pub(crate) fn numerics_of(dtype: Dtype) -> Numerics {
    match dtype {
        Dtype::F32 => Numerics::F32,
        Dtype::F16 | Dtype::Bf16 => Numerics::Bits16,
        Dtype::I8 => Numerics::Int8,
    }
}

/// Rows come as they are: each caller says whether they are normalised.
fn without_scaling(description: &ModelDescription) -> ModelDescription {
    let mut description = description.clone();
    if let Some(dense) = &mut description.spec.head.dense {
        dense.modules.pop_if(|last| *last == HeadModule::Normalize);
    }
    description
}
