//! A long short-term memory in both directions (Hochreiter and Schmidhuber 1997, gates as in PyTorch's `nn.LSTM`).

use super::element::{load, store};
use super::error::{OpError, expect_cu_seqlens, expect_size};
use super::ops::CpuOps;
use super::simd::{Kernel, Simd, dispatch, math};
use super::weights::PackedLinear;
use super::{Activation, AlignedBuf, Epilogue};

/// Rows of a gate's weights stand below each other: input, forget, cell, output.
const GATES: usize = 4;

/// One direction. All its products are f32.
pub struct LstmDirection {
    /// `[4 half, inputs]`, with the sum of both biases.
    pub input: PackedLinear,
    /// `[4 half, half]`.
    pub recurrent: PackedLinear,
}

/// Both directions, forwards first; their results stand side by side.
pub struct Lstm {
    directions: [LstmDirection; 2],
    half: usize,
}

impl Lstm {
    /// Puts two directions of one shape together.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn new(directions: [LstmDirection; 2]) -> Result<Self, OpError> {
        const OP: &str = "lstm";
        let (half, inputs) = (directions[0].recurrent.inputs(), directions[0].input.inputs());
        for LstmDirection { input, recurrent } in &directions {
            expect_size(OP, "gates of the input", input.outputs(), GATES * half)?;
            expect_size(OP, "inputs", input.inputs(), inputs)?;
            expect_size(OP, "recurrent gates", recurrent.outputs(), GATES * half)?;
            expect_size(OP, "recurrent inputs", recurrent.inputs(), half)?;
        }
        Ok(Self { directions, half })
    }

    /// Columns of the result.
    pub fn outputs(&self) -> usize {
        2 * self.half
    }

    /// The heap that the packed weights hold.
    pub fn bytes(&self) -> usize {
        self.directions.iter().map(|direction| direction.input.bytes() + direction.recurrent.bytes()).sum()
    }
}

/// What a run keeps between its steps. Grows to the largest batch and stays.
pub(crate) struct LstmWorkspace {
    /// What the rows say to the gates, `[rows, 4 half]`.
    of_rows: AlignedBuf<f32>,
    /// What the last step says to them, `[sequences, 4 half]`.
    of_state: AlignedBuf<f32>,
    /// `[sequences, half]`.
    hidden: AlignedBuf<f32>,
    cell: AlignedBuf<f32>,
    /// First row and length of each sequence with a row, the longest first: those that still run are the first ones.
    running: Vec<[u32; 2]>,
}

impl LstmWorkspace {
    pub(crate) fn new() -> Self {
        let [of_rows, of_state, hidden, cell] = std::array::from_fn(|_| AlignedBuf::zeroed(0));
        Self { of_rows, of_state, hidden, cell, running: Vec::new() }
    }
}

impl CpuOps<'_> {
    /// Runs each sequence of `x [rows, inputs]` both ways: `out [rows, 2 half]`.
    ///
    /// All sequences take a step at once, so that the weights are read once a step. A sequence's bits depend on it alone.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub(crate) fn lstm(
        &mut self,
        lstm: &Lstm,
        x: &[f32],
        cu_seqlens: &[u32],
        workspace: &mut LstmWorkspace,
        out: &mut [f32],
    ) -> Result<(), OpError> {
        const OP: &str = "lstm";
        let rows = x.len() / lstm.directions[0].input.inputs();
        expect_cu_seqlens(OP, "cu_seqlens", cu_seqlens, rows)?;
        expect_size(OP, "out", out.len(), rows * lstm.outputs())?;
        let lengths = cu_seqlens.windows(2).map(|bounds| [bounds[0], bounds[1] - bounds[0]]);
        workspace.running.clear();
        workspace.running.extend(lengths.filter(|[_, length]| *length > 0));
        workspace.running.sort_unstable_by_key(|&[first, length]| (std::cmp::Reverse(length), first));
        for (column, direction) in [0, lstm.half].into_iter().zip(&lstm.directions) {
            self.one_way(direction, x, (column, lstm.outputs()), workspace, out)?;
        }
        Ok(())
    }

    /// Fills the columns from `column` on, from the sequences' ends where it is not 0.
    fn one_way(
        &mut self,
        direction: &LstmDirection,
        x: &[f32],
        (column, width): (usize, usize),
        workspace: &mut LstmWorkspace,
        out: &mut [f32],
    ) -> Result<(), OpError> {
        let LstmDirection { input, recurrent } = direction;
        let LstmWorkspace { of_rows, of_state, hidden, cell, running } = workspace;
        let (half, identity) = (recurrent.inputs(), Epilogue::Activate(Activation::Identity));
        let gates = out.len() / width * GATES * half;
        of_rows.reserve(gates);
        self.linear(input, x, identity, &mut of_rows[..gates])?;
        let states = running.len() * half;
        of_state.reserve(GATES * states);
        of_state[..GATES * states].fill(0.0);
        [&mut *hidden, &mut *cell].into_iter().for_each(|state| state.reserve(states));
        cell[..states].fill(0.0);
        let steps = running.first().map_or(0, |[_, length]| *length);
        for step in 0..steps {
            let active = running.partition_point(|[_, length]| *length > step);
            let of_state = &mut of_state[..active * GATES * half];
            if step > 0 {
                self.linear(recurrent, &hidden[..active * half], identity, of_state)?;
            }
            for (slot, &[first, length]) in running[..active].iter().enumerate() {
                let row = if column == 0 { first + step } else { first + length - 1 - step } as usize;
                dispatch(
                    self.isa,
                    Step {
                        of_row: &of_rows[row * GATES * half..][..GATES * half],
                        of_state: &of_state[slot * GATES * half..][..GATES * half],
                        cell: &mut cell[slot * half..][..half],
                        hidden: &mut hidden[slot * half..][..half],
                    },
                );
                out[row * width + column..][..half].copy_from_slice(&hidden[slot * half..][..half]);
            }
        }
        Ok(())
    }
}

/// One step of one sequence; both states are as wide as a gate.
struct Step<'a> {
    of_row: &'a [f32],
    of_state: &'a [f32],
    cell: &'a mut [f32],
    hidden: &'a mut [f32],
}

impl Kernel for Step<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { of_row, of_state, cell, hidden } = self;
        let half = cell.len();
        for column in (0..half).step_by(S::LANES) {
            let count = half - column;
            // SAFETY: the caller vouches for S; `count` elements are left in both states and in each gate.
            unsafe {
                let gate = |gate: usize| {
                    let at = gate * half + column;
                    let of_row = load::<S, f32>(of_row.as_ptr().add(at), count);
                    S::add(of_row, load::<S, f32>(of_state.as_ptr().add(at), count))
                };
                let tanh = |x| math::activate::<S>(Activation::Tanh, x);
                let kept =
                    S::mul(math::sigmoid::<S>(gate(1)), load::<S, f32>(cell.as_ptr().add(column), count));
                let next = S::fma(math::sigmoid::<S>(gate(0)), tanh(gate(2)), kept);
                store::<S, f32>(cell.as_mut_ptr().add(column), next, count);
                let shown = S::mul(math::sigmoid::<S>(gate(3)), tanh(next));
                store::<S, f32>(hidden.as_mut_ptr().add(column), shown, count);
            }
        }
    }
}
