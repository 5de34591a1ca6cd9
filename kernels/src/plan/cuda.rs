//! Which of CUDA's kernels does each step of a plan.

use super::{EmbedPlan, LayerPlan, NormOp, NormPlan, Plan, PlanError, Step, Target, select};
use crate::{
    cuda::{
        AddNormKernel, AttentionKernels, DenseKernel, DisentangledKernel, Distance, EmbedKernel, GemmKernels,
        Kernel, KernelError, NormKind, PoolKernel, RopeKernel, RopePairs, VectorsKernel,
    },
    dtype::{Dtype, DtypePolicy},
    spec::EncoderSpec,
};

/// A plan for CUDA devices, with a kernel for everything in it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CudaPlan {
    pub(crate) plan: Plan,
    pub(crate) kernels: CudaKernels,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CudaKernels {
    pub(crate) embed: EmbedKernel,
    /// Behind the sum of the tables, where it is not part of that kernel.
    pub(crate) embed_norm: Option<AddNormKernel>,
    pub(crate) gemm: GemmKernels,
    /// One a step, for each layer.
    pub(crate) layers: Vec<Vec<StepKernel>>,
    pub(crate) final_norm: Option<AddNormKernel>,
    pub(crate) pool: PoolKernel,
    /// From the encoder's format to f32.
    pub(crate) widen: VectorsKernel,
    /// From f32 to f32, by length.
    pub(crate) vectors: VectorsKernel,
    pub(crate) dense: DenseKernel,
}

/// The kernel of one step. All products are of the same kernels, which differ by the number of rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum StepKernel {
    Product,
    Attention(AttentionKernels),
    Disentangled(DisentangledKernel),
    Turn(RopeKernel),
    Norm(AddNormKernel),
}

impl CudaPlan {
    /// Plans a valid spec for a CUDA device.
    ///
    /// # Errors
    /// What there is no kernel for; a CPU may have one.
    pub(crate) fn new(spec: &EncoderSpec, policy: DtypePolicy) -> Result<Self, PlanError> {
        if spec.head.spans.is_some() {
            return Err(KernelError::Part { what: "scores of spans (words, lstm, spans by labels)" }.into());
        }
        let dtype = select::cuda_dtype(spec, policy)?;
        let plan = Plan::of(spec, Target::Cuda, dtype, dtype)?;
        let kernels = CudaKernels::select(&plan, select::distance(spec.position_bias))?;
        Ok(Self { plan, kernels })
    }
}

impl CudaKernels {
    fn select(plan: &Plan, distance: Distance) -> Result<Self, KernelError> {
        let dtype = plan.activations;
        let EmbedPlan { norm, width, .. } = plan.embed;
        let is_layer_norm = matches!(norm, Some(NormOp::Layer { .. }));
        let embed_norm = norm.filter(|_| !is_layer_norm);
        for linear in plan.layers.iter().flat_map(|layer| &layer.linears) {
            GemmKernels::check_shape(linear.outputs.iter().sum(), linear.inputs, linear.gated)?;
        }
        let layers = plan.layers.iter().map(|layer| {
            let steps = layer.steps.iter();
            steps.map(|step| Self::step(step, layer, dtype, distance)).collect::<Result<_, _>>()
        });
        Ok(Self {
            embed: EmbedKernel::select(is_layer_norm, dtype, width)?,
            embed_norm: embed_norm.map(|op| AddNormKernel::select(op.kind(), dtype, width)).transpose()?,
            gemm: GemmKernels::select(dtype)?,
            layers: layers.collect::<Result<_, _>>()?,
            final_norm: plan
                .final_norm
                .map(|op| AddNormKernel::select(op.kind(), dtype, plan.hidden()))
                .transpose()?,
            pool: PoolKernel::select(dtype)?,
            widen: VectorsKernel::select(dtype)?,
            vectors: VectorsKernel::select(Dtype::F32)?,
            dense: DenseKernel::select(Dtype::F32)?,
        })
    }

    /// Every kernel that a batch may need.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Kernel> {
        let norms = self.embed_norm.iter().chain(&self.final_norm).map(AddNormKernel::kernel);
        let steps = self.layers.iter().flatten().flat_map(StepKernel::all);
        let head = [self.pool.kernel(), self.widen.kernel(), self.vectors.kernel(), self.dense.kernel()];
        self.gemm.all().chain(norms).chain(steps).chain(head).chain([self.embed.kernel()])
    }

    fn step(
        step: &Step,
        layer: &LayerPlan,
        dtype: Dtype,
        distance: Distance,
    ) -> Result<StepKernel, KernelError> {
        Ok(match step {
            Step::Linear { .. } => StepKernel::Product,
            Step::Disentangled { shape, .. } => {
                StepKernel::Disentangled(DisentangledKernel::select(dtype, shape.head_dim)?)
            }
            Step::Attention { shape, .. } => {
                let kernels = AttentionKernels::select(distance, dtype, shape.head_dim)?;
                StepKernel::Attention(kernels)
            }
            Step::Turn { shape, .. } => {
                let (head_dim, turned) = (shape.head_dim, layer.heads.turned());
                StepKernel::Turn(RopeKernel::select(RopePairs::Halves, dtype, head_dim, turned)?)
            }
            Step::Norm { norm, .. } => {
                let NormPlan { width, op, .. } = layer.norms[*norm];
                StepKernel::Norm(AddNormKernel::select(op.kind(), dtype, width)?)
            }
        })
    }
}

impl StepKernel {
    fn all(&self) -> Vec<&Kernel> {
        match self {
            Self::Product => Vec::new(),
            Self::Attention(kernels) => kernels.all().collect(),
            Self::Disentangled(kernel) => vec![kernel.kernel()],
            Self::Turn(kernel) => vec![kernel.kernel()],
            Self::Norm(kernel) => vec![kernel.kernel()],
        }
    }
}

impl NormOp {
    pub(crate) const fn kind(self) -> NormKind {
        match self {
            Self::Layer { .. } => NormKind::Layer,
            Self::Rms { .. } => NormKind::Rms,
        }
    }
}
