//! What a kind of device must be able to do for its actor. The CPU is the only kind so far.

use shoal_kernels::spec::HeadModule;
use shoal_kernels::{
    CpuIsa, CpuLane, CpuModel, CpuOptions, Dtype, DtypePolicy, ExecError, LoadError, ModelDescription,
    OutputSet, Outputs, PackedBatch, Plan, PlanError,
};
use shoal_protocol::message::Numerics;

/// Makes lanes and loads models for one device.
pub(crate) trait Backend: Send + Sync + 'static {
    /// For example `cpu avx512-bf16`.
    fn name(&self) -> String;

    /// The storage type that a model would get, without reading its weights.
    fn dtype(&self, description: &ModelDescription, policy: DtypePolicy) -> Result<Dtype, PlanError>;

    /// Reads, checks and packs the weights. Called on the loader's thread. `progress` is told the bytes done and all.
    /// The model answers pooled vectors that are not scaled: the callers of one batch differ in what they want.
    fn load(
        &self,
        description: &ModelDescription,
        policy: DtypePolicy,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<CpuModel, LoadError>;

    /// A lane of up to `threads_max` threads. Called on the lane's own thread.
    fn start_lane(&self, threads_max: u16) -> Box<dyn Lane>;
}

/// Runs one batch at a time; see [`CpuLane::run`].
pub(crate) trait Lane {
    /// Leaves what is wanted in `out`.
    fn run(
        &mut self,
        model: &CpuModel,
        batch: &PackedBatch,
        wanted: OutputSet,
        threads: u16,
        out: &mut Outputs,
    ) -> Result<(), ExecError>;
}

/// The precision class of vectors from weights of this type.
pub(crate) fn numerics_of(dtype: Dtype) -> Numerics {
    match dtype {
        Dtype::F32 => Numerics::F32,
        Dtype::F16 | Dtype::Bf16 => Numerics::Bits16,
        Dtype::I8 => Numerics::Int8,
    }
}

/// Makes a lane of up to so many threads.
type MakeLane = dyn Fn(u16) -> Box<dyn Lane> + Send + Sync;

/// The machine's own processor.
pub(crate) struct CpuBackend {
    isa: CpuIsa,
    threads: usize,
    make_lane: Box<MakeLane>,
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
        Self { isa, threads, make_lane: Box::new(make_lane) }
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> String {
        format!("cpu {}", self.isa)
    }

    fn dtype(&self, description: &ModelDescription, policy: DtypePolicy) -> Result<Dtype, PlanError> {
        Plan::for_cpu(&description.spec, self.isa, policy).map(|plan| plan.dtype())
    }

    fn load(
        &self,
        description: &ModelDescription,
        policy: DtypePolicy,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<CpuModel, LoadError> {
        let mut description = description.clone();
        // Rows come as they are: each caller says whether they are normalised.
        if let Some(dense) = &mut description.spec.head.dense {
            dense.modules.pop_if(|last| *last == HeadModule::Normalize);
        }
        let options = CpuOptions { isa: self.isa, dtype: policy, threads: self.threads };
        CpuModel::load(&description, &options, progress)
    }

    fn start_lane(&self, threads_max: u16) -> Box<dyn Lane> {
        (self.make_lane)(threads_max)
    }
}

impl Lane for CpuLane {
    fn run(
        &mut self,
        model: &CpuModel,
        batch: &PackedBatch,
        wanted: OutputSet,
        threads: u16,
        out: &mut Outputs,
    ) -> Result<(), ExecError> {
        Self::run(self, model, batch, wanted, usize::from(threads), out)
    }
}
