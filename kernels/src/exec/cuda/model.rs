//! A model in a device's memory.

use std::sync::Arc;

use super::{
    super::LoadError,
    head, load,
    parts::Part,
    slot::{Room, Shape},
};
use crate::{
    cpu::Activation,
    cuda::{AddNormKernel, CudaDevice, DeviceMemory},
    describe::ModelDescription,
    dtype::{Dtype, DtypePolicy},
    outputs::OutputSet,
    plan::{CudaPlan, Plan, PlanError},
};

/// A loaded model: its plan and its weights. Shared by every lane of its device.
pub struct CudaModel {
    pub(super) device: Arc<CudaDevice>,
    pub(super) plan: CudaPlan,
    pub(super) weights: CudaWeights,
    pub(super) memory: DeviceMemory,
    pub(super) device_name: String,
}

/// Where the weights are, in the order of the plan's lists.
pub(super) struct CudaWeights {
    pub(super) embeddings: EmbeddingParts,
    pub(super) position_bias: Option<BiasPart>,
    pub(super) relative: Option<RelativePart>,
    pub(super) ropes: Vec<Part>,
    pub(super) layers: Vec<LayerParts>,
    pub(super) final_norm: Option<NormPart>,
    pub(super) heads: HeadParts,
}

pub(super) struct EmbeddingParts {
    pub(super) token: Part,
    pub(super) position: Option<Part>,
    pub(super) token_type: Option<Part>,
    pub(super) norm: Option<NormPart>,
    pub(super) projection: Option<LinearPart>,
}

pub(super) struct LayerParts {
    pub(super) linears: Vec<LinearPart>,
    /// Relative positions as queries meet them, and as keys do.
    pub(super) positions: [Option<Part>; 2],
    pub(super) norms: Vec<NormPart>,
}

#[derive(Clone, Copy)]
pub(super) struct LinearPart {
    pub(super) weight: Part,
    pub(super) bias: Part,
    /// Rows of the weights, gates among them.
    pub(super) columns: usize,
    pub(super) inputs: usize,
}

#[derive(Clone, Copy)]
pub(super) struct NormPart {
    pub(super) weight: Part,
    pub(super) shift: Option<Part>,
    pub(super) eps: f32,
}

/// What attention adds to its scores, as its kernel reads it.
#[derive(Clone, Copy)]
pub(super) struct BiasPart {
    pub(super) values: Part,
    /// The largest distance of a table.
    pub(super) reach: usize,
}

/// The rows of relative positions by distance, for keys and for queries.
#[derive(Clone, Copy)]
pub(super) struct RelativePart {
    pub(super) key_rows: Part,
    pub(super) query_rows: Part,
    /// Of a table.
    pub(super) rows: usize,
    /// The largest distance with a row.
    pub(super) reach: usize,
}

/// Steps of each head that the device computes.
pub(super) struct HeadParts {
    pub(super) dense: Option<Vec<HeadStepPart>>,
    pub(super) classes: Option<Vec<HeadStepPart>>,
    pub(super) token_classes: Option<Vec<HeadStepPart>>,
    pub(super) multivector: Option<Vec<HeadStepPart>>,
    pub(super) lexical: Option<Vec<HeadStepPart>>,
}

pub(super) enum HeadStepPart {
    Dense { weight: Part, bias: Option<Part>, inputs: usize, outputs: usize, activation: Activation },
    Norm { kernel: AddNormKernel, norm: NormPart, width: usize },
    L2 { width: usize },
}

/// What a model would be on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaFit {
    /// The format of its weights and activations.
    pub dtype: Dtype,
    /// What its weights would hold, to the byte.
    pub weight_bytes: u64,
    /// Tokens of the longest text that there is room for, at most the model's own limit.
    pub tokens_max: u32,
}

/// What devices compute of a model's heads: weights of a whole vocabulary's words are a CPU's.
fn given(plan: &Plan) -> OutputSet {
    OutputSet { sparse: head::lexical(&plan.head).is_some(), ..plan.head.gives }
}

impl CudaModel {
    /// What a model would be on a device whose lanes have so many bytes for a batch; its weights are laid out, and not read.
    ///
    /// # Errors
    /// What devices have no kernel for, of all that the model is for, or no room; or what became of the files since they were
    /// described.
    pub fn fit(
        description: &ModelDescription,
        policy: DtypePolicy,
        room_bytes: u64,
    ) -> Result<CudaFit, LoadError> {
        let plan = CudaPlan::new(&description.spec, policy)?.plan;
        let missing = plan.head.gives.without(given(&plan));
        if !missing.is_empty() {
            return Err(PlanError::CudaOutputs { missing }.into());
        }
        if description.multivector.as_ref().is_some_and(|texts| texts.unseen_up_to() > 0) {
            return Err(PlanError::CudaUnseen.into());
        }
        let gives = given(&plan);
        let room = |tokens: usize| {
            let shape = Shape { tokens, sequences: 1, kept: tokens, has_types: true };
            Room::new(&plan, shape, gives).bytes()
        };
        let (mut fits, mut most) = (0, description.tokens_max as usize);
        while fits < most {
            let middle = (fits + most).div_ceil(2);
            if room(middle) <= room_bytes { fits = middle } else { most = middle - 1 }
        }
        if fits == 0 {
            return Err(LoadError::Room { bytes: room(1), room_bytes });
        }
        let weight_bytes = load::weight_bytes(&plan, description)?;
        Ok(CudaFit { dtype: plan.dtype(), weight_bytes, tokens_max: fits as u32 })
    }

    /// The device memory that the weights hold.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// The device that has it.
    pub fn device(&self) -> &Arc<CudaDevice> {
        &self.device
    }

    /// The format of weights and activations.
    pub fn dtype(&self) -> Dtype {
        self.plan.plan.dtype()
    }

    /// Width of the dense vectors; 0 where the model gives none.
    pub fn dims(&self) -> usize {
        self.plan.plan.dims()
    }

    /// The outputs that it can give here.
    pub fn gives(&self) -> OutputSet {
        given(&self.plan.plan)
    }

    /// The steps of a forward pass; print it to see them.
    pub fn plan(&self) -> &Plan {
        &self.plan.plan
    }

    /// Where answers come from, such as `cuda:0 NVIDIA H200`.
    pub fn device_name(&self) -> &str {
        &self.device_name
    }
}

impl std::fmt::Debug for CudaModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaModel").field("device", &self.device_name).field("bytes", &self.bytes()).finish()
    }
}
