//! One lane: the threads and the memory that run one batch at a time.

use half::bf16;

use super::{
    ExecError,
    block::{BLOCK_TOKENS, Block, blocks},
    check::{check, check_outputs},
    head::{HeadWorkspace, Hidden},
    model::{CpuModel, EmbeddingWeights},
    pass::{self, Ops, Place},
    workspace::{Buffers, Workspace},
};
use crate::{
    batch::PackedBatch,
    cpu::{Activation, AttentionShape, CpuOps, CpuWorkers, Element, Embeddings, Epilogue, HeadOps, Rows},
    dtype::Dtype,
    outputs::{OutputSet, Outputs},
    plan::{Buffer, EmbedPlan},
};

/// Runs batches, one at a time, on up to `threads_max` threads: the caller's and its own workers, which spin a bounded
/// time for the next batch and then sleep. Any model runs on any lane.
pub struct CpuLane {
    workers: CpuWorkers,
    workspace: Workspace,
    head: HeadWorkspace,
    /// Of the running block, from 0.
    cu_seqlens: Vec<u32>,
    /// Of the sequences whose attention runs, from 0.
    bounds: Vec<u32>,
}

impl CpuLane {
    /// Starts `threads_max - 1` workers.
    ///
    /// # Panics
    /// When the operating system starts no further thread.
    pub fn new(threads_max: usize) -> Self {
        Self {
            workers: CpuWorkers::new(threads_max),
            workspace: Workspace::new(),
            head: HeadWorkspace::new(),
            cu_seqlens: Vec::new(),
            bounds: Vec::new(),
        }
    }

    /// The threads that a run may use.
    pub fn threads_max(&self) -> usize {
        self.workers.threads_max()
    }

    #[cfg(test)]
    pub(super) fn workers(&mut self) -> &mut CpuWorkers {
        &mut self.workers
    }

    /// Runs `batch` on `threads` threads (cut to what the lane has) and leaves what is wanted in `out`.
    ///
    /// The same sequence gives the same bits whatever shares its batch, on any number of threads and on any lane.
    /// Allocates only where `out` or the lane's memory has to grow beyond the largest batch before.
    ///
    /// # Errors
    /// The batch does not fit the model, or the model does not give what is wanted; see [`ExecError`].
    pub fn run(
        &mut self,
        model: &CpuModel,
        batch: &PackedBatch,
        wanted: OutputSet,
        threads: usize,
        out: &mut Outputs,
    ) -> Result<(), ExecError> {
        out.clear();
        check_outputs(wanted, model.gives())?;
        check(&model.plan, batch)?;
        let done = match model.plan.activations {
            Dtype::Bf16 => self.run_blocks::<bf16>(model, batch, wanted, threads, out),
            _ => self.run_blocks::<f32>(model, batch, wanted, threads, out),
        };
        done.inspect_err(|_| out.clear())
    }

    fn run_blocks<T: Element>(
        &mut self,
        model: &CpuModel,
        batch: &PackedBatch,
        wanted: OutputSet,
        threads: usize,
        out: &mut Outputs,
    ) -> Result<(), ExecError> {
        let threads = threads.clamp(1, self.workers.threads_max());
        let mut ops = self.workers.ops(model.isa(), threads)?;
        for sequences in blocks(&batch.cu_seqlens_q, BLOCK_TOKENS * threads) {
            let block = Block::cut(batch, sequences, &mut self.cu_seqlens);
            let buffers = self.workspace.buffers::<T>(&model.plan, block.token_ids.len());
            let (head, bounds) = (&mut self.head, &mut self.bounds);
            Pass { model, block, ops: &mut ops, buffers, head, bounds }.run(wanted, out)?;
        }
        Ok(())
    }
}

/// One forward pass of one block, with activations of type `T`.
struct Pass<'a, 'ops, T> {
    model: &'a CpuModel,
    block: Block<'a>,
    ops: &'a mut CpuOps<'ops>,
    buffers: Buffers<'a, T>,
    head: &'a mut HeadWorkspace,
    bounds: &'a mut Vec<u32>,
}

impl<T: Element> Pass<'_, '_, T> {
    fn run(mut self, wanted: OutputSet, out: &mut Outputs) -> Result<(), ExecError> {
        let CpuModel { plan, weights, .. } = self.model;
        pass::run(plan, &mut self)?;
        let rows = self.buffers.get(Buffer::Hidden);
        let Block {
            token_ids,
            skipped,
            ranges,
            range_bounds,
            labels,
            label_bounds,
            span_rules,
            cu_seqlens,
            ..
        } = self.block;
        let hidden = Hidden {
            width: plan.hidden(),
            rows,
            cu_seqlens,
            token_ids,
            skipped,
            ranges,
            range_bounds,
            labels,
            label_bounds,
            span_rules,
        };
        self.head.run(self.ops, (&plan.head, &weights.head), hidden, wanted, out)
    }
}

impl<T: Element> Ops for Pass<'_, '_, T> {
    fn embed(&mut self) -> Result<(), ExecError> {
        let EmbeddingWeights { token, position, token_type, norm, projection } =
            &self.model.weights.embeddings;
        let scale = self.model.plan.embed.scale;
        let (position, token_type) = (position.as_ref(), token_type.as_ref());
        let tables = Embeddings { token, scale, position, token_type };
        let Block { token_ids, positions, type_ids, .. } = self.block;
        let Some(projection) = projection else {
            let hidden = self.buffers.get_mut(Buffer::Hidden);
            return Ok(self.ops.embed_norm(
                &tables,
                norm.as_ref(),
                token_ids,
                positions,
                type_ids,
                hidden,
            )?);
        };
        let embedded = token_ids.len() * token.dims();
        let to = &mut self.buffers.get_mut(EmbedPlan::UNPROJECTED)[..embedded];
        self.ops.embed_norm(&tables, norm.as_ref(), token_ids, positions, type_ids, to)?;
        let (from, hidden) = self.buffers.pair(EmbedPlan::UNPROJECTED, Buffer::Hidden);
        let identity = Epilogue::Activate(Activation::Identity);
        Ok(self.ops.linear(projection, &from[..embedded], identity, hidden)?)
    }

    fn linear(
        &mut self,
        at: Place,
        linear: usize,
        epilogue: Epilogue,
        [from, to]: [Buffer; 2],
    ) -> Result<(), ExecError> {
        let (x, out) = self.buffers.pair(from, to);
        Ok(self.ops.linear(&self.model.weights.layers[at.layer].linears[linear], x, epilogue, out)?)
    }

    /// An encoder's keys are its own tokens, or the first ones of a sequence; `check` has made sure of it.
    fn attention(
        &mut self,
        _: Place,
        shape: &AttentionShape,
        columns: [usize; 3],
        [from, to]: [Buffer; 2],
    ) -> Result<(), ExecError> {
        let [width, width_out] = [from, to].map(|buffer| self.model.plan.widths[buffer as usize]);
        let (x, out) = self.buffers.pair(from, to);
        let bias = self.model.weights.position_bias.as_ref();
        for (sequences, keys) in self.block.key_groups() {
            let bounds = &self.block.cu_seqlens[sequences.start..=sequences.end];
            let (first, last) = (bounds[0] as usize, bounds[sequences.len()] as usize);
            self.bounds.clear();
            self.bounds.extend(bounds.iter().map(|bound| bound - bounds[0]));
            let keys_end = keys.map_or(last, |keys| first + keys);
            let bounds_k = [0, (keys_end - first) as u32];
            let bounds_k = if keys.is_some() { &bounds_k[..] } else { &*self.bounds };
            let rows = |last: usize, column| Rows::new(&x[first * width..last * width], width, column);
            let [q, k, v] = [(last, columns[0]), (keys_end, columns[1]), (keys_end, columns[2])]
                .map(|(last, column)| rows(last, column));
            let out = &mut out[first * width_out..last * width_out];
            self.ops.attention(shape, bias, q, k, v, self.bounds, bounds_k, out)?;
        }
        Ok(())
    }

    fn disentangled(
        &mut self,
        at: Place,
        shape: &AttentionShape,
        columns: [usize; 3],
        [from, to]: [Buffer; 2],
    ) -> Result<(), ExecError> {
        let Some(tables) = &self.model.weights.layers[at.layer].relative else {
            unreachable!("a layer that compares contents with positions has their tables")
        };
        let width = self.model.plan.widths[from as usize];
        let (x, out) = self.buffers.pair(from, to);
        let qkv = columns.map(|column| Rows::new(x, width, column));
        Ok(self.ops.disentangled_attention(shape, tables, qkv, self.block.cu_seqlens, out)?)
    }

    fn turn(
        &mut self,
        at: Place,
        shape: &AttentionShape,
        norms: Option<[usize; 2]>,
        rope: Option<usize>,
        buffer: Buffer,
    ) -> Result<(), ExecError> {
        let weights = &self.model.weights;
        let [query_norm, key_norm] = [0, 1].map(|which| Some(&weights.layers[at.layer].norms[norms?[which]]));
        let head_ops = HeadOps { query_norm, key_norm, rope: rope.map(|rope| &weights.ropes[rope]) };
        let x = self.buffers.get_mut(buffer);
        Ok(self.ops.norm_and_turn(shape, head_ops, self.block.positions, x)?)
    }

    fn norm(&mut self, at: Place, norm: usize, adds: bool, [from, to]: [Buffer; 2]) -> Result<(), ExecError> {
        let norm = &self.model.weights.layers[at.layer].norms[norm];
        if from == to {
            return Ok(self.ops.layer_norm(norm, self.buffers.get_mut(to))?);
        }
        let (x, out) = self.buffers.pair(from, to);
        Ok(self.ops.layer_norm_into(norm, x, adds, out)?)
    }

    fn final_norm(&mut self) -> Result<(), ExecError> {
        let Some(norm) = &self.model.weights.final_norm else { return Ok(()) };
        Ok(self.ops.layer_norm(norm, self.buffers.get_mut(Buffer::Hidden))?)
    }
}
