//! One lane: the threads and the memory that run one batch at a time.

use half::bf16;

use super::{
    ExecError,
    check::check,
    model::{CpuModel, EmbeddingWeights, LayerWeights},
    workspace::{Buffers, Workspace},
};
use crate::{
    batch::PackedBatch,
    cpu::{CpuOps, CpuWorkers, Element, Embeddings, Rows},
    dtype::Dtype,
    plan::{Buffer, LayerPlan, Step},
};

/// Runs batches, one at a time, on up to `threads_max` threads: the caller's and its own workers, which spin a bounded
/// time for the next batch and then sleep. Any model runs on any lane.
pub struct CpuLane {
    workers: CpuWorkers,
    workspace: Workspace,
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

    /// Runs `batch` on `threads` threads (cut to what the lane has) and leaves `[sequences, dims]` in `out`.
    ///
    /// The same sequence gives the same bits whatever shares its batch, on any number of threads and on any lane.
    /// Allocates only where `out` or the lane's memory has to grow beyond the largest batch before.
    ///
    /// # Errors
    /// The batch does not fit the model; see [`ExecError`].
    pub fn run(
        &mut self,
        model: &CpuModel,
        batch: &PackedBatch,
        threads: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), ExecError> {
        out.clear();
        check(&model.plan.embed, batch)?;
        if batch.sequences() == 0 {
            return Ok(());
        }
        out.resize(batch.sequences() * model.dims(), 0.0);
        let mut ops = self.workers.ops(model.isa(), threads)?;
        let tokens = batch.tokens();
        let done = match model.plan.activations {
            Dtype::Bf16 => {
                let buffers = self.workspace.buffers::<bf16>(&model.plan, tokens);
                Pass {
                    model,
                    batch,
                    ops: &mut ops,
                    buffers,
                }
                .run(out)
            }
            _ => {
                let buffers = self.workspace.buffers::<f32>(&model.plan, tokens);
                Pass {
                    model,
                    batch,
                    ops: &mut ops,
                    buffers,
                }
                .run(out)
            }
        };
        done.inspect_err(|_| out.clear())
    }
}

/// One forward pass, with activations of type `T`.
struct Pass<'a, 'ops, T> {
    model: &'a CpuModel,
    batch: &'a PackedBatch,
    ops: &'a mut CpuOps<'ops>,
    buffers: Buffers<'a, T>,
}

impl<T: Element> Pass<'_, '_, T> {
    fn run(mut self, out: &mut [f32]) -> Result<(), ExecError> {
        self.embed()?;
        for (layer, weights) in self.model.plan.layers.iter().zip(&self.model.weights.layers) {
            self.layer(layer, weights)?;
        }
        let head = self.model.plan.head;
        let (dims, hidden) = (self.model.dims(), self.buffers.get(Buffer::Hidden));
        self.ops
            .pool(&[head.pooling], dims, hidden, &self.batch.cu_seqlens_q, out)?;
        if head.l2 {
            self.ops.l2_normalise(dims, out)?;
        }
        Ok(())
    }

    fn embed(&mut self) -> Result<(), ExecError> {
        let EmbeddingWeights {
            token,
            position,
            token_type,
            norm,
        } = &self.model.weights.embeddings;
        let tables = Embeddings {
            token,
            position: Some(position),
            token_type: Some(token_type),
        };
        let PackedBatch {
            token_ids,
            positions,
            type_ids,
            ..
        } = self.batch;
        let hidden = self.buffers.get_mut(Buffer::Hidden);
        Ok(self
            .ops
            .embed_norm(&tables, Some(norm), token_ids, positions, type_ids, hidden)?)
    }

    fn layer(&mut self, layer: &LayerPlan, weights: &LayerWeights) -> Result<(), ExecError> {
        for step in &layer.steps {
            match *step {
                Step::Linear {
                    linear,
                    from,
                    epilogue,
                    to,
                } => {
                    let (x, out) = self.buffers.pair(from, to);
                    self.ops.linear(&weights.linears[linear], x, epilogue, out)?;
                }
                Step::Attention {
                    ref shape,
                    columns,
                    from,
                    to,
                } => {
                    let width = self.model.plan.widths[from as usize];
                    let (x, out) = self.buffers.pair(from, to);
                    let [q, k, v] = columns.map(|column| Rows::new(x, width, column));
                    let PackedBatch {
                        cu_seqlens_q,
                        cu_seqlens_k,
                        ..
                    } = self.batch;
                    self.ops
                        .attention(shape, q, k, v, cu_seqlens_q, cu_seqlens_k, out)?;
                }
                Step::Norm { norm, buffer } => {
                    self.ops
                        .layer_norm(&weights.norms[norm], self.buffers.get_mut(buffer))?;
                }
            }
        }
        Ok(())
    }
}
