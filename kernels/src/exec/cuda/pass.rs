//! The forward pass as launches, one after another in one stream.

use std::f32::consts::LOG2_E;

use super::{
    super::{
        ExecError,
        pass::{Ops, Place},
    },
    model::{CudaModel, LinearPart, NormPart},
    parts::Part,
    slot::Room,
};
use crate::{
    cpu::{Activation, AttentionShape, Epilogue, Mask},
    cuda::{
        AddNormArgs, AddNormKernel, AttentionArgs, DeviceAddress, DisentangledArgs, EmbedArgs, GemmArgs,
        KernelError, Launch, RopeArgs, Stream, activation_code,
    },
    plan::{Buffer, EmbedPlan, StepKernel},
};

/// One pass over one batch.
pub(super) struct Pass<'a> {
    pub(super) model: &'a CudaModel,
    pub(super) stream: &'a Stream,
    pub(super) room: &'a Room,
    /// The slot's first byte.
    pub(super) slot: DeviceAddress,
    pub(super) tokens: usize,
    pub(super) sequences: usize,
    /// Tokens of the longest sequence.
    pub(super) longest: u32,
}

impl Pass<'_> {
    /// Puts in a launch whose addresses are of the model's weights and of the slot's rooms.
    pub(super) fn launch<A: bytemuck::Pod>(
        &self,
        launch: Result<Launch<'_, A>, KernelError>,
    ) -> Result<(), ExecError> {
        let launch = launch?;
        // SAFETY: every address is that of a part of the model, which the batch's flight holds, or of a room of its slot,
        // which is nobody else's until the slot's last event; sizes are those that the parts and rooms were made for by the
        // same plan, and the batch's ids were held against the plan.
        Ok(unsafe { self.stream.launch(&launch) }?)
    }

    pub(super) fn at(&self, room: usize) -> DeviceAddress {
        self.slot + room as u64
    }

    pub(super) fn weight(&self, part: Part) -> DeviceAddress {
        part.address(self.model.memory.address())
    }

    pub(super) fn weight_or_null(&self, part: Option<Part>) -> DeviceAddress {
        part.map_or(0, |part| self.weight(part))
    }

    pub(super) fn buffer(&self, buffer: Buffer) -> DeviceAddress {
        self.at(self.room.buffer(&self.model.plan.plan, buffer, self.tokens))
    }

    fn width(&self, buffer: Buffer) -> u32 {
        self.model.plan.plan.widths[buffer as usize] as u32
    }

    fn product(
        &self,
        part: LinearPart,
        epilogue: Epilogue,
        (x, x_stride): (DeviceAddress, u32),
        to: Buffer,
    ) -> Result<(), ExecError> {
        let (out, out_stride) = (self.buffer(to), self.width(to));
        let (activation, is_gated, residual) = match epilogue {
            Epilogue::Add => (Activation::Identity, 0, out),
            Epilogue::Activate(activation) => (activation, 0, 0),
            Epilogue::Gate(activation) => (activation, 1, 0),
        };
        let args = GemmArgs {
            x,
            weight: self.weight(part.weight),
            bias: self.weight(part.bias),
            residual,
            out,
            rows: self.tokens as u32,
            columns: part.columns as u32,
            inner: part.inputs as u32,
            x_stride,
            residual_stride: out_stride,
            out_stride,
            activation: activation_code(activation),
            is_gated,
        };
        let multiprocessors = self.stream.device().info().multiprocessors;
        self.launch(self.model.plan.kernels.gemm.launch(args, multiprocessors))
    }

    /// `out = norm(x + residual)`, and the sum where it is wanted.
    pub(super) fn norm_rows(
        &self,
        kernel: &AddNormKernel,
        norm: NormPart,
        (rows, dims): (usize, usize),
        [x, residual, sum, out]: [DeviceAddress; 4],
    ) -> Result<(), ExecError> {
        let args = AddNormArgs {
            x,
            residual,
            weight: self.weight(norm.weight),
            shift: self.weight_or_null(norm.shift),
            sum,
            out,
            rows: rows as u32,
            dims: dims as u32,
            eps: norm.eps,
            weight_plus: 0.0,
        };
        self.launch(kernel.launch(args))
    }

    fn kernel(&self, at: Place) -> &StepKernel {
        &self.model.plan.kernels.layers[at.layer][at.step]
    }

    /// Of queries, keys and values that begin at `columns`.
    fn attention_args(
        &self,
        shape: &AttentionShape,
        columns: [usize; 3],
        [from, to]: [Buffer; 2],
    ) -> AttentionArgs {
        let element = self.model.plan.plan.activations.bytes();
        let [q, k, v] = columns.map(|column| self.buffer(from) + (column * element) as u64);
        let bias = self.model.weights.position_bias;
        let cu_seqlens = self.at(self.room.cu_seqlens);
        let (window_left, window_right) = match shape.mask {
            Mask::Bidirectional => (-1, -1),
            Mask::Causal => (-1, 0),
            Mask::Window { left, right } => (reach(left), reach(right)),
        };
        let stride = self.width(from);
        AttentionArgs {
            q,
            k,
            v,
            out: self.buffer(to),
            cu_seqlens_q: cu_seqlens,
            cu_seqlens_k: cu_seqlens,
            bias: self.weight_or_null(bias.map(|bias| bias.values)),
            q_stride: stride,
            k_stride: stride,
            v_stride: stride,
            out_stride: self.width(to),
            sequences: self.sequences as u32,
            heads: shape.heads as u32,
            kv_heads: shape.kv_heads as u32,
            bias_reach: bias.map_or(0, |bias| bias.reach as u32),
            window_left,
            window_right,
            scale: shape.scale * LOG2_E,
            reserved: 0,
        }
    }
}

impl Ops for Pass<'_> {
    fn embed(&mut self) -> Result<(), ExecError> {
        let (plan, kernels) = (&self.model.plan.plan.embed, &self.model.plan.kernels);
        let parts = &self.model.weights.embeddings;
        let to = if plan.projects { EmbedPlan::UNPROJECTED } else { Buffer::Hidden };
        let out = self.buffer(to);
        let fused = parts.norm.filter(|_| kernels.embed_norm.is_none());
        let args = EmbedArgs {
            words: self.weight(parts.token),
            positions: self.weight_or_null(parts.position),
            types: self.weight_or_null(parts.token_type),
            word_ids: self.at(self.room.token_ids),
            position_ids: self.at(self.room.positions),
            type_ids: self.room.type_ids.map_or(0, |at| self.at(at)),
            weight: self.weight_or_null(fused.map(|norm| norm.weight)),
            shift: self.weight_or_null(fused.and_then(|norm| norm.shift)),
            out,
            rows: self.tokens as u32,
            dims: plan.width as u32,
            position_first: 0,
            scale: plan.scale.unwrap_or(1.0),
            eps: fused.map_or(0.0, |norm| norm.eps),
            weight_plus: 0.0,
        };
        self.launch(kernels.embed.launch(args))?;
        if let (Some(kernel), Some(norm)) = (&kernels.embed_norm, parts.norm) {
            self.norm_rows(kernel, norm, (self.tokens, plan.width), [out, 0, 0, out])?;
        }
        let Some(projection) = parts.projection else { return Ok(()) };
        let identity = Epilogue::Activate(Activation::Identity);
        self.product(projection, identity, (out, plan.width as u32), Buffer::Hidden)
    }

    fn linear(
        &mut self,
        at: Place,
        linear: usize,
        epilogue: Epilogue,
        [from, to]: [Buffer; 2],
    ) -> Result<(), ExecError> {
        let part = self.model.weights.layers[at.layer].linears[linear];
        self.product(part, epilogue, (self.buffer(from), self.width(from)), to)
    }

    fn attention(
        &mut self,
        at: Place,
        shape: &AttentionShape,
        columns: [usize; 3],
        route: [Buffer; 2],
    ) -> Result<(), ExecError> {
        let StepKernel::Attention(kernels) = self.kernel(at) else { return Err(ExecError::Selection) };
        let args = self.attention_args(shape, columns, route);
        self.launch(kernels.launch(args, (self.longest, self.longest)))
    }

    fn disentangled(
        &mut self,
        at: Place,
        shape: &AttentionShape,
        columns: [usize; 3],
        route: [Buffer; 2],
    ) -> Result<(), ExecError> {
        let weights = &self.model.weights;
        let (StepKernel::Disentangled(kernel), Some(relative)) = (self.kernel(at), weights.relative) else {
            return Err(ExecError::Selection);
        };
        let [keys, queries] = weights.layers[at.layer].positions.map(|table| self.weight_or_null(table));
        let args = DisentangledArgs {
            attention: self.attention_args(shape, columns, route),
            keys,
            queries,
            key_rows: self.weight(relative.key_rows),
            query_rows: self.weight(relative.query_rows),
            rows: relative.rows as u32,
            reach: relative.reach as u32,
        };
        self.launch(kernel.launch(args, self.longest))
    }

    fn turn(
        &mut self,
        at: Place,
        shape: &AttentionShape,
        norms: Option<[usize; 2]>,
        rope: Option<usize>,
        buffer: Buffer,
    ) -> Result<(), ExecError> {
        let StepKernel::Turn(kernel) = self.kernel(at) else { return Err(ExecError::Selection) };
        let of_layer = &self.model.weights.layers[at.layer].norms;
        let [query, key] = [0, 1].map(|which| norms.map(|norms| of_layer[norms[which]]));
        let layout = self.model.plan.plan.layers[at.layer].heads;
        let args = RopeArgs {
            x: self.buffer(buffer),
            angles: self.weight_or_null(rope.map(|rope| self.model.weights.ropes[rope])),
            positions: self.at(self.room.positions),
            q_weight: self.weight_or_null(query.map(|norm| norm.weight)),
            k_weight: self.weight_or_null(key.map(|norm| norm.weight)),
            rows: self.tokens as u32,
            stride: self.width(buffer),
            heads: shape.heads as u32,
            kv_heads: shape.kv_heads as u32,
            head_dim: shape.head_dim as u32,
            rope_dims: layout.turned() as u32,
            eps: query.map_or(0.0, |norm| norm.eps),
            weight_plus: 0.0,
        };
        self.launch(kernel.launch(args))
    }

    fn norm(&mut self, at: Place, norm: usize, adds: bool, [from, to]: [Buffer; 2]) -> Result<(), ExecError> {
        let StepKernel::Norm(kernel) = self.kernel(at) else { return Err(ExecError::Selection) };
        let part = self.model.weights.layers[at.layer].norms[norm];
        let shape = (self.tokens, self.width(to) as usize);
        let (x, out) = (self.buffer(from), self.buffer(to));
        if !adds {
            return self.norm_rows(kernel, part, shape, [x, 0, 0, out]);
        }
        // The kernel adds before it norms. So what was normed in place is added by a second launch, whose own norm goes to
        // where nobody reads it any more.
        self.norm_rows(kernel, part, shape, [x, 0, 0, x])?;
        self.norm_rows(kernel, part, shape, [x, out, out, x])
    }

    fn final_norm(&mut self) -> Result<(), ExecError> {
        let (kernel, norm) = (&self.model.plan.kernels.final_norm, self.model.weights.final_norm);
        let (Some(kernel), Some(norm)) = (kernel, norm) else { return Ok(()) };
        let hidden = self.buffer(Buffer::Hidden);
        let shape = (self.tokens, self.width(Buffer::Hidden) as usize);
        self.norm_rows(kernel, norm, shape, [hidden, 0, 0, hidden])
    }
}

/// Negative would be without an end.
fn reach(neighbours: usize) -> i32 {
    i32::try_from(neighbours).unwrap_or(i32::MAX)
}
