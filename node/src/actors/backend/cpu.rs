//! The machine's own processor.

use std::sync::Arc;

use shoal_kernels::cuda::DeviceError;
use shoal_kernels::{
    CpuIsa, CpuLane, CpuModel, CpuOptions, DtypePolicy, ExecError, LoadError, ModelDescription, OutputSet,
    Outputs, PackedBatch, Plan,
};

use super::{Backend, Lane, OpenDevice, Outlook, Weights, without_scaling};

/// Makes a lane of up to so many threads.
type MakeLane = dyn Fn(u16) -> Box<dyn Lane> + Send + Sync;

/// The machine's own processor. There is nothing to open.
#[derive(Clone)]
pub(crate) struct CpuBackend {
    isa: CpuIsa,
    threads: usize,
    make_lane: Arc<MakeLane>,
}

impl CpuBackend {
    /// `threads` pack a model's weights while it loads.
    pub(crate) fn new(isa: CpuIsa, threads: usize) -> Self {
        Self::with_lanes(isa, threads, |threads_max| Box::new(CpuLane::new(usize::from(threads_max))))
    }

    /// As [`new`](Self::new), with lanes of the caller's.
    pub(crate) fn with_lanes(
        isa: CpuIsa,
        threads: usize,
        make_lane: impl Fn(u16) -> Box<dyn Lane> + Send + Sync + 'static,
    ) -> Self {
        Self { isa, threads, make_lane: Arc::new(make_lane) }
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> String {
        format!("cpu {}", self.isa)
    }

    fn outlook(&self, description: &ModelDescription, policy: DtypePolicy) -> Result<Outlook, LoadError> {
        let dtype = Plan::for_cpu(&description.spec, self.isa, policy)?.dtype();
        let (bytes, tokens_max) = (description.weight_bytes_estimate(dtype), description.tokens_max);
        Ok(Outlook { dtype, bytes, tokens_max })
    }

    fn pools_parts(&self) -> bool {
        true
    }

    fn open(&self) -> Result<Arc<dyn OpenDevice>, DeviceError> {
        Ok(Arc::new(self.clone()))
    }
}

impl OpenDevice for CpuBackend {
    fn load(
        &self,
        description: &ModelDescription,
        policy: DtypePolicy,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Weights, LoadError> {
        let options = CpuOptions { isa: self.isa, dtype: policy, threads: self.threads };
        let model = CpuModel::load(&without_scaling(description), &options, progress)?;
        Ok(Weights::Cpu(Box::new(model)))
    }

    fn start_lane(&self, threads_max: u16) -> Result<Box<dyn Lane>, ExecError> {
        Ok((self.make_lane)(threads_max))
    }

    fn give_up(&self) -> bool {
        false
    }
}

impl Lane for CpuLane {
    fn run(
        &mut self,
        model: &Weights,
        batch: &PackedBatch,
        wanted: OutputSet,
        threads: u16,
        out: &mut Outputs,
    ) -> Result<(), ExecError> {
        match model {
            Weights::Cpu(model) => Self::run(self, model, batch, wanted, usize::from(threads), out),
            Weights::Cuda(_) => Err(ExecError::OtherDevice),
        }
    }
}
