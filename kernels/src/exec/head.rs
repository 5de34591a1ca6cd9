//! From the last hidden states to the answers.

use super::{
    ExecError, LoadError,
    load::keep_first,
    span_weights::SpanWeights,
    spans::SpanWorkspace,
    sparse::{SparseWeights, SparseWorkspace},
};
use crate::{
    batch::SpanRule,
    cpu::{Activation, AlignedBuf, CpuIsa, CpuOps, Element, Epilogue, LayerNorm, PackedLinear},
    describe::{HeadNames, ModuleWeights, TableRows},
    dtype::Dtype,
    outputs::{OutputSet, Outputs},
    plan::{ChainPlan, HeadPlan, HeadStep, PooledPlan},
    weights::{MappedCheckpoint, WeightsError},
};

/// The weights of every head of a model.
pub(super) struct HeadWeights {
    dense: Option<Chain>,
    classes: Option<Chain>,
    token_classes: Option<Chain>,
    sparse: Option<SparseWeights>,
    multivector: Option<Chain>,
    spans: Option<SpanWeights>,
}

/// Steps with their weights, in order.
pub(super) struct Chain(Vec<Step>);

enum Step {
    Dense(PackedLinear, Activation),
    Norm(LayerNorm),
    L2 { width: usize },
}

impl HeadWeights {
    /// `dtype` is that of the encoder's weights; the product with a vocabulary, as large as all of them, has the same.
    pub(super) fn load(
        plan: &HeadPlan,
        (isa, dtype): (CpuIsa, Dtype),
        names: &HeadNames,
    ) -> Result<Self, LoadError> {
        let pooled = |plan: &Option<PooledPlan>, names: &[Option<ModuleWeights>]| {
            plan.as_ref().map(|plan| Chain::load(&plan.chain, isa, names)).transpose()
        };
        let of_tokens = |plan: &Option<ChainPlan>, names: &[Option<ModuleWeights>]| {
            plan.as_ref().map(|plan| Chain::load(plan, isa, names)).transpose()
        };
        let sparse = plan.sparse.as_ref().map(|plan| {
            let chain = Chain::load(&plan.chain, isa, &names.sparse)?;
            SparseWeights::load(plan, chain, (isa, dtype), names.vocabulary.as_ref())
        });
        let multivector = plan.multivector.as_ref();
        let multivector = multivector.map(|plan| Chain::load(&plan.chain, isa, &names.multivector));
        let spans = plan.spans.as_ref().map(|plan| {
            let names = names.spans.as_ref().expect("a described head of spans has the names of its weights");
            SpanWeights::load(plan, isa, names)
        });
        Ok(Self {
            dense: pooled(&plan.dense, &names.dense)?,
            classes: pooled(&plan.classes, &names.classes)?,
            token_classes: of_tokens(&plan.token_classes, &names.token_classes)?,
            sparse: sparse.transpose()?,
            multivector: multivector.transpose()?,
            spans: spans.transpose()?,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        let Self { dense, classes, token_classes, sparse, multivector, spans } = self;
        let chains = [dense, classes, token_classes, multivector].into_iter().flatten().map(Chain::bytes);
        let sparse = sparse.as_ref().map_or(0, SparseWeights::bytes);
        chains.sum::<usize>() + sparse + spans.as_ref().map_or(0, SpanWeights::bytes)
    }
}

impl Chain {
    fn load(plan: &ChainPlan, isa: CpuIsa, names: &[Option<ModuleWeights>]) -> Result<Self, LoadError> {
        let steps = plan.steps.iter().zip(names);
        Ok(Self(steps.map(|(step, names)| Step::load(step, isa, names.as_ref())).collect::<Result<_, _>>()?))
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(Step::bytes).sum()
    }
}

impl Step {
    /// Packs what `step` needs. Small beside the encoder, it is f32 in every format.
    fn load(step: &HeadStep, isa: CpuIsa, names: Option<&ModuleWeights>) -> Result<Self, LoadError> {
        let file = |names: Option<&ModuleWeights>| {
            let ModuleWeights { dir, names, rows } =
                names.expect("a described module with weights has their names");
            Ok::<_, WeightsError>((MappedCheckpoint::open(dir)?, names.clone(), *rows))
        };
        let vector = |checkpoint: &MappedCheckpoint, name: &str, len| -> Result<Vec<f32>, WeightsError> {
            let tensor = checkpoint.tensor(name, &[len])?;
            let values = tensor.read_all();
            tensor.release();
            values
        };
        match *step {
            HeadStep::Dense { inputs, outputs, bias, activation } => {
                let (checkpoint, names, rows) = file(names)?;
                if let Some(rows) = rows {
                    let weight = table_row(&checkpoint, &names.weight, rows, inputs)?;
                    let fill = |_, row: &mut [f32]| row.copy_from_slice(&weight);
                    let packed = PackedLinear::pack(isa, Dtype::F32, 1, inputs, None, fill)?;
                    return Ok(Self::Dense(packed, activation));
                }
                let bias = bias.then(|| vector(&checkpoint, &names.bias, outputs)).transpose()?;
                let tensor = checkpoint.tensor(&names.weight, &[outputs, inputs])?;
                let mut failed = None;
                let fill =
                    |output, row: &mut [f32]| keep_first(&mut failed, tensor.read(output * inputs, row));
                let packed = PackedLinear::pack(isa, Dtype::F32, outputs, inputs, bias.as_deref(), fill)?;
                tensor.release();
                failed.map_or(Ok(Self::Dense(packed, activation)), |error| Err(error.into()))
            }
            HeadStep::LayerNorm { width, eps, bias } => {
                let (checkpoint, names, _) = file(names)?;
                let gamma = vector(&checkpoint, &names.weight, width)?;
                let beta = if bias { vector(&checkpoint, &names.bias, width)? } else { vec![0.0; width] };
                Ok(Self::Norm(LayerNorm::new(gamma, beta, eps)?))
            }
            HeadStep::L2 { width } => Ok(Self::L2 { width }),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Dense(linear, _) => linear.bytes(),
            Self::Norm(norm) => norm.bytes(),
            Self::L2 { .. } => 0,
        }
    }
}

/// One row of a table, less another: a product with it is what the logit of one word has over that of the other.
pub(super) fn table_row(
    checkpoint: &MappedCheckpoint,
    table: &str,
    TableRows { of, row, less }: TableRows,
    inputs: usize,
) -> Result<Vec<f32>, WeightsError> {
    let tensor = checkpoint.tensor(table, &[of, inputs])?;
    let (mut weight, mut other) = (vec![0.0; inputs], vec![0.0; inputs]);
    tensor.read(row * inputs, &mut weight)?;
    if let Some(less) = less {
        tensor.read(less * inputs, &mut other)?;
        weight.iter_mut().zip(&other).for_each(|(weight, other)| *weight -= other);
    }
    tensor.release();
    Ok(weight)
}

/// The last hidden states of one block.
#[derive(Clone, Copy)]
pub(super) struct Hidden<'a, T> {
    pub(super) width: usize,
    /// `[tokens, width]`.
    pub(super) rows: &'a [T],
    /// From 0.
    pub(super) cu_seqlens: &'a [u32],
    /// `[tokens]`.
    pub(super) token_ids: &'a [u32],
    /// `[tokens]`: which get no vector of their own; or empty.
    pub(super) skipped: &'a [bool],
    /// First token and the one after the last in their sequence: see `PackedBatch::ranges`.
    pub(super) ranges: &'a [[u32; 2]],
    /// Of each sequence, only differences and their place in `ranges` count; or empty.
    pub(super) range_bounds: &'a [u32],
    /// Tokens in their sequence: see `PackedBatch::labels`.
    pub(super) labels: &'a [u32],
    /// As `range_bounds`, of `labels`.
    pub(super) label_bounds: &'a [u32],
    /// `[sequences]`; or empty.
    pub(super) span_rules: &'a [SpanRule],
}

impl<T> Hidden<'_, T> {
    pub(super) fn tokens(&self) -> usize {
        self.rows.len() / self.width
    }

    pub(super) fn sequences(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }
}

/// Where the vectors of a block lie between two steps, `[rows, width]`. Grows to the largest block and stays.
pub(super) struct HeadWorkspace {
    from: AlignedBuf<f32>,
    to: AlignedBuf<f32>,
    /// Of the block's rows.
    ranges: Vec<[u32; 2]>,
    sparse: SparseWorkspace,
    spans: SpanWorkspace,
}

impl HeadWorkspace {
    pub(super) fn new() -> Self {
        let [from, to] = [AlignedBuf::zeroed(0), AlignedBuf::zeroed(0)];
        let (sparse, spans) = (SparseWorkspace::new(), SpanWorkspace::new());
        Self { from, to, ranges: Vec::new(), sparse, spans }
    }

    /// Runs the heads that are wanted, all of which the model has, and appends what they give.
    pub(super) fn run<T: Element>(
        &mut self,
        ops: &mut CpuOps<'_>,
        (plan, weights): (&HeadPlan, &HeadWeights),
        hidden: Hidden<'_, T>,
        wanted: OutputSet,
        out: &mut Outputs,
    ) -> Result<(), ExecError> {
        if let (true, Some(plan), Some(chain)) = (wanted.dense, &plan.dense, &weights.dense) {
            let vectors = self.cut(hidden, &mut out.dense_bounds);
            out.dense.extend_from_slice(self.pooled(ops, plan, chain, hidden, vectors)?);
        }
        if let (true, Some(plan), Some(chain)) = (wanted.classes, &plan.classes, &weights.classes) {
            self.ranges.clear();
            out.classes.extend_from_slice(self.pooled(ops, plan, chain, hidden, hidden.sequences())?);
        }
        if let (true, Some(chain)) = (wanted.token_classes, &weights.token_classes) {
            out.token_classes.extend_from_slice(self.of_tokens(ops, chain, hidden)?);
        }
        if let (true, Some(weights)) = (wanted.sparse, &weights.sparse) {
            let len = self.of_tokens(ops, &weights.chain, hidden)?.len();
            self.sparse.run(ops, weights, hidden, &self.from[..len], &mut out.sparse)?;
        }
        if let (true, Some(plan), Some(chain)) = (wanted.multivector, &plan.multivector, &weights.multivector)
        {
            let kept = self.keep(hidden, plan.skipped_first, &mut out.multivector_bounds);
            if kept > 0 {
                let vectors = self.chain(ops, chain, kept, kept * hidden.width)?;
                out.multivector.extend_from_slice(vectors);
            }
        }
        if let (true, Some(plan), Some(weights)) = (wanted.spans, &plan.spans, &weights.spans) {
            self.spans.run(ops, (plan, weights), hidden, &mut out.spans)?;
        }
        Ok(())
    }

    /// Leaves the ranges of the block's rows that become vectors in `ranges`, none where each sequence becomes one, and
    /// appends the bounds of the vectors by sequence; returns how many there are.
    fn cut<T>(&mut self, hidden: Hidden<'_, T>, bounds: &mut Vec<u32>) -> usize {
        let Hidden { cu_seqlens, ranges, range_bounds, .. } = hidden;
        let before = bounds.last().copied().unwrap_or_default();
        self.ranges.clear();
        if range_bounds.is_empty() {
            let sequences = hidden.sequences() as u32;
            bounds.extend(before + 1..=before + sequences);
            return sequences as usize;
        }
        for (first, own) in cu_seqlens.iter().zip(range_bounds.windows(2)) {
            let own = &ranges[own[0] as usize..own[1] as usize];
            self.ranges.extend(own.iter().map(|range| range.map(|token| first + token)));
            bounds.push(before + self.ranges.len() as u32);
        }
        self.ranges.len()
    }

    /// As many vectors as there are ranges, or one per sequence.
    fn pooled<T: Element>(
        &mut self,
        ops: &mut CpuOps<'_>,
        plan: &PooledPlan,
        chain: &Chain,
        hidden: Hidden<'_, T>,
        vectors: usize,
    ) -> Result<&[f32], ExecError> {
        let Hidden { width, rows, cu_seqlens, .. } = hidden;
        let len = vectors * width * plan.poolings.len();
        if len == 0 {
            return Ok(&[]);
        }
        self.from.reserve(len);
        let to = &mut self.from[..len];
        if self.ranges.is_empty() {
            ops.pool(&plan.poolings, width, rows, cu_seqlens, to)?;
        } else {
            ops.pool_ranges(&plan.poolings, width, rows, &self.ranges, to)?;
        }
        self.chain(ops, chain, vectors, len)
    }

    /// One vector per token.
    fn of_tokens<T: Element>(
        &mut self,
        ops: &mut CpuOps<'_>,
        chain: &Chain,
        hidden: Hidden<'_, T>,
    ) -> Result<&[f32], ExecError> {
        let len = hidden.rows.len();
        self.from.reserve(len);
        self.from.iter_mut().zip(hidden.rows).for_each(|(wide, value)| *wide = value.to_f32());
        self.chain(ops, chain, hidden.tokens(), len)
    }

    /// Widens the tokens that get a vector into `from` and appends their bounds by sequence; returns how many there are.
    fn keep<T: Element>(
        &mut self,
        hidden: Hidden<'_, T>,
        skipped_first: usize,
        bounds: &mut Vec<u32>,
    ) -> usize {
        let width = hidden.width;
        self.from.reserve(hidden.rows.len());
        let before = bounds.last().copied().unwrap_or_default();
        let mut kept = 0;
        for sequence in hidden.cu_seqlens.windows(2) {
            for token in sequence[0] as usize + skipped_first..sequence[1] as usize {
                if hidden.skipped.get(token) == Some(&true) {
                    continue;
                }
                let to = &mut self.from[kept * width..][..width];
                let row = &hidden.rows[token * width..][..width];
                to.iter_mut().zip(row).for_each(|(wide, value)| *wide = value.to_f32());
                kept += 1;
            }
            bounds.push(before + kept as u32);
        }
        kept
    }

    /// What the steps make of the first `len` values of `from`, which are `rows` vectors.
    fn chain(
        &mut self,
        ops: &mut CpuOps<'_>,
        Chain(steps): &Chain,
        rows: usize,
        mut len: usize,
    ) -> Result<&[f32], ExecError> {
        let Self { from, to, .. } = self;
        for step in steps {
            match step {
                Step::Dense(linear, activation) => {
                    let results = rows * linear.outputs();
                    to.reserve(results);
                    let epilogue = Epilogue::Activate(*activation);
                    ops.linear(linear, &from[..len], epilogue, &mut to[..results])?;
                    std::mem::swap(from, to);
                    len = results;
                }
                Step::Norm(norm) => ops.layer_norm(norm, &mut from[..len])?,
                Step::L2 { width } => ops.l2_normalise(*width, &mut from[..len])?,
            }
        }
        Ok(&from[..len])
    }
}
