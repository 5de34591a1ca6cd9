//! What follows the last hidden states, in f32.

use super::{
    super::{ExecError, LoadError, head::table_row},
    model::{HeadParts, HeadStepPart, NormPart},
    parts::Parts,
    pass::Pass,
    results::{Answer, Kind},
};
use crate::{
    cuda::{
        AddNormKernel, DenseArgs, DeviceAddress, KernelError, NormKind, PoolArgs, VectorForm, VectorsArgs,
        activation_code, pooling_code,
    },
    describe::{HeadNames, ModuleWeights},
    dtype::Dtype,
    outputs::OutputSet,
    plan::{Buffer, ChainPlan, HeadPlan, HeadStep, PooledPlan, SparsePlan, WordsPlan},
    weights::MappedCheckpoint,
};

/// The heads that a device computes, in the order of [`widths`].
#[derive(Clone, Copy)]
enum Head {
    Dense,
    Classes,
    TokenClasses,
    Multivector,
    Lexical,
}

/// So many heads.
pub(super) const COUNT: usize = 5;
/// Rows start on 16 bytes where a product reads them.
const ROW_ELEMENTS: usize = 8;

/// What a head has a row for.
#[derive(Clone, Copy)]
pub(super) enum RowsOf {
    Sequences,
    Tokens,
    Kept,
}

impl RowsOf {
    pub(super) fn of(self, sequences: usize, tokens: usize, kept: usize) -> usize {
        match self {
            Self::Sequences => sequences,
            Self::Tokens => tokens,
            Self::Kept => kept,
        }
    }
}

/// The widest row of each head that is wanted, else 0, and what it has rows for.
pub(super) fn widths(plan: &HeadPlan, hidden: usize, wanted: OutputSet) -> [(usize, RowsOf); COUNT] {
    let widest = |chain: &ChainPlan, inputs: usize| {
        let outputs = chain.steps.iter().map(|step| match *step {
            HeadStep::Dense { outputs, .. } => outputs.next_multiple_of(ROW_ELEMENTS),
            HeadStep::LayerNorm { width, .. } | HeadStep::L2 { width } => width,
        });
        outputs.max().unwrap_or(0).max(inputs)
    };
    let pooled = |is_wanted: bool, plan: &Option<PooledPlan>| {
        let plan = plan.as_ref().filter(|_| is_wanted);
        plan.map_or(0, |plan| widest(&plan.chain, hidden * plan.poolings.len()))
    };
    let of_tokens = |is_wanted: bool, chain: Option<&ChainPlan>| {
        chain.filter(|_| is_wanted).map_or(0, |chain| widest(chain, hidden))
    };
    let multivector = plan.multivector.as_ref().map(|plan| &plan.chain);
    [
        (pooled(wanted.dense, &plan.dense), RowsOf::Sequences),
        (pooled(wanted.classes, &plan.classes), RowsOf::Sequences),
        (of_tokens(wanted.token_classes, plan.token_classes.as_ref()), RowsOf::Tokens),
        (of_tokens(wanted.multivector, multivector), RowsOf::Kept),
        (of_tokens(wanted.sparse, lexical(plan).map(|(chain, _)| chain)), RowsOf::Tokens),
    ]
}

/// The steps to a weight for each token, where the model's sparse vectors are made of these, and the ids without one.
pub(super) fn lexical(plan: &HeadPlan) -> Option<(&ChainPlan, &[u32])> {
    match plan.sparse.as_ref()? {
        SparsePlan { chain, words: WordsPlan::Lexical { skipped } } => Some((chain, skipped.as_slice())),
        SparsePlan { words: WordsPlan::Vocabulary { .. }, .. } => None,
    }
}

/// Decides where the weights of every head go.
pub(super) fn load(
    plan: &HeadPlan,
    names: &HeadNames,
    parts: &mut Parts<'_>,
) -> Result<HeadParts, LoadError> {
    let mut chain = |chain: Option<&ChainPlan>, names: &[Option<ModuleWeights>]| {
        let steps = chain.map(|chain| {
            let steps = chain.steps.iter().zip(names);
            steps
                .map(|(step, names)| load_step(step, names.as_ref(), parts))
                .collect::<Result<Vec<_>, LoadError>>()
        });
        steps.transpose()
    };
    Ok(HeadParts {
        dense: chain(plan.dense.as_ref().map(|plan| &plan.chain), &names.dense)?,
        classes: chain(plan.classes.as_ref().map(|plan| &plan.chain), &names.classes)?,
        token_classes: chain(plan.token_classes.as_ref(), &names.token_classes)?,
        multivector: chain(plan.multivector.as_ref().map(|plan| &plan.chain), &names.multivector)?,
        lexical: chain(lexical(plan).map(|(chain, _)| chain), &names.sparse)?,
    })
}

fn weight(names: &ModuleWeights) -> &str {
    &names.names.weight
}

fn shift(names: &ModuleWeights) -> &str {
    &names.names.bias
}

fn load_step(
    step: &HeadStep,
    names: Option<&ModuleWeights>,
    parts: &mut Parts<'_>,
) -> Result<HeadStepPart, LoadError> {
    let read = |name: fn(&ModuleWeights) -> &str, shape: &[usize]| -> Result<Vec<f32>, LoadError> {
        let names = names.expect("a described module with weights has their names");
        let checkpoint = MappedCheckpoint::open(&names.dir)?;
        let tensor = checkpoint.tensor(name(names), shape)?;
        Ok(tensor.read_all()?)
    };
    Ok(match *step {
        HeadStep::Dense { inputs, outputs, bias, activation } => {
            if !inputs.is_multiple_of(ROW_ELEMENTS) {
                let rule = "sums are over eights";
                return Err(KernelError::Operands { kernel: "dense".to_owned(), rule }.into());
            }
            let bias = bias.then(|| read(shift, &[outputs])).transpose()?;
            let weights = match names.and_then(|names| Some((names, names.rows?))) {
                None => read(weight, &[outputs, inputs])?,
                Some((names, rows)) => {
                    table_row(&MappedCheckpoint::open(&names.dir)?, weight(names), rows, inputs)?
                }
            };
            let weights = parts.values(weights);
            let bias = bias.map(|bias| parts.values(bias));
            HeadStepPart::Dense { weight: weights, bias, inputs, outputs, activation }
        }
        HeadStep::LayerNorm { width, eps, bias } => {
            let kernel = AddNormKernel::select(NormKind::Layer, Dtype::F32, width)?;
            let shifts = bias.then(|| read(shift, &[width])).transpose()?;
            let weights = parts.values(read(weight, &[width])?);
            let shifts = shifts.map(|shifts| parts.values(shifts));
            HeadStepPart::Norm { kernel, norm: NormPart { weight: weights, shift: shifts, eps }, width }
        }
        HeadStep::L2 { width } => HeadStepPart::L2 { width },
    })
}

/// Rows of f32 on the device.
#[derive(Clone, Copy)]
struct Rows {
    at: DeviceAddress,
    rows: usize,
    width: usize,
    stride: usize,
}

impl Pass<'_> {
    /// Runs the heads that are wanted and says where their answers are. `kept`: how many tokens get a vector of their own.
    pub(super) fn heads(&self, wanted: OutputSet, kept: usize) -> Result<Vec<Answer>, ExecError> {
        let (plan, parts) = (&self.model.plan.plan.head, &self.model.weights.heads);
        let mut answers = Vec::with_capacity(COUNT);
        let mut answer = |kind: Kind, rows: Rows| {
            let Rows { at, rows, width, stride } = rows;
            answers.push(Answer { kind, rows_at: at, rows, width, stride });
        };
        if let (true, Some(plan), Some(steps)) = (wanted.dense, &plan.dense, &parts.dense) {
            answer(Kind::Dense, self.chain(steps, self.pooled(plan, Head::Dense)?, Head::Dense)?);
        }
        if let (true, Some(plan), Some(steps)) = (wanted.classes, &plan.classes, &parts.classes) {
            answer(Kind::Classes, self.chain(steps, self.pooled(plan, Head::Classes)?, Head::Classes)?);
        }
        if let (true, Some(steps)) = (wanted.token_classes, &parts.token_classes) {
            let rows = self.widened(0, self.tokens, Head::TokenClasses)?;
            answer(Kind::TokenClasses, self.chain(steps, rows, Head::TokenClasses)?);
        }
        if let (true, Some(steps), true) = (wanted.multivector, &parts.multivector, kept > 0) {
            let rows = self.widened(self.at(self.room.kept), kept, Head::Multivector)?;
            answer(Kind::Multivector, self.chain(steps, rows, Head::Multivector)?);
        }
        if let (true, Some(steps)) = (wanted.sparse, &parts.lexical) {
            // Weights by token; the lane makes rows of words of them.
            let rows = self.widened(0, self.tokens, Head::Lexical)?;
            answer(Kind::TokenWeights, self.chain(steps, rows, Head::Lexical)?);
        }
        Ok(answers)
    }

    /// The first of a head's two buffers.
    fn first(&self, head: Head) -> DeviceAddress {
        self.at(self.room.heads[head as usize].0)
    }

    /// The other one.
    fn other(&self, head: Head, at: DeviceAddress) -> DeviceAddress {
        let first = self.first(head);
        if at == first { first + self.room.heads[head as usize].1 as u64 } else { first }
    }

    fn hidden(&self) -> usize {
        self.model.plan.plan.hidden()
    }

    /// A row for each sequence: its poolings side by side.
    fn pooled(&self, plan: &PooledPlan, head: Head) -> Result<Rows, ExecError> {
        let (at, hidden) = (self.first(head), self.hidden());
        let width = hidden * plan.poolings.len();
        for (index, &pooling) in plan.poolings.iter().enumerate() {
            let args = PoolArgs {
                x: self.buffer(Buffer::Hidden),
                cu_seqlens: self.at(self.room.cu_seqlens),
                out: at + (4 * hidden * index) as u64,
                sequences: self.sequences as u32,
                dims: hidden as u32,
                out_stride: width as u32,
                pooling: pooling_code(pooling),
            };
            self.launch(self.model.plan.kernels.pool.launch(args))?;
        }
        Ok(Rows { at, rows: self.sequences, width, stride: width })
    }

    /// A row for each token, or for those that are `kept`.
    fn widened(&self, kept: DeviceAddress, rows: usize, head: Head) -> Result<Rows, ExecError> {
        let (at, width) = (self.first(head), self.hidden());
        let args = VectorsArgs {
            x: self.buffer(Buffer::Hidden),
            kept,
            out: at,
            rows: rows as u32,
            dims: width as u32,
            x_stride: width as u32,
            form: VectorForm::F32.code(),
            is_unit: 0,
            reserved: 0,
        };
        self.launch(self.model.plan.kernels.widen.launch(args))?;
        Ok(Rows { at, rows, width, stride: width })
    }

    fn chain(&self, steps: &[HeadStepPart], mut x: Rows, head: Head) -> Result<Rows, ExecError> {
        for step in steps {
            x = self.head_step(step, x, head)?;
        }
        Ok(x)
    }

    fn head_step(&self, step: &HeadStepPart, x: Rows, head: Head) -> Result<Rows, ExecError> {
        let (to, rows, kernels) = (self.other(head, x.at), x.rows, &self.model.plan.kernels);
        match *step {
            HeadStepPart::Dense { weight, bias, inputs, outputs, activation } => {
                let stride = outputs.next_multiple_of(ROW_ELEMENTS);
                let args = DenseArgs {
                    x: x.at,
                    weight: self.weight(weight),
                    bias: self.weight_or_null(bias),
                    out: to,
                    rows: rows as u32,
                    columns: outputs as u32,
                    inner: inputs as u32,
                    x_stride: x.stride as u32,
                    out_stride: stride as u32,
                    activation: activation_code(activation),
                };
                self.launch(kernels.dense.launch(args))?;
                Ok(Rows { at: to, rows, width: outputs, stride })
            }
            HeadStepPart::Norm { ref kernel, norm, width } => {
                self.norm_rows(kernel, norm, (rows, width), [x.at, 0, 0, x.at])?;
                Ok(x)
            }
            HeadStepPart::L2 { width } => {
                let args = VectorsArgs {
                    x: x.at,
                    kept: 0,
                    out: to,
                    rows: rows as u32,
                    dims: width as u32,
                    x_stride: x.stride as u32,
                    form: VectorForm::F32.code(),
                    is_unit: 1,
                    reserved: 0,
                };
                self.launch(kernels.vectors.launch(args))?;
                Ok(Rows { at: to, rows, width, stride: width })
            }
        }
    }
}
