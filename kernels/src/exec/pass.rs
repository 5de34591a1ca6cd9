//! The forward pass: what a plan says, in order, whatever computes it.

use super::ExecError;
use crate::{
    cpu::{AttentionShape, Epilogue},
    plan::{Buffer, Plan, Step},
};

/// Where a step is in its plan.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) layer: usize,
    pub(super) step: usize,
}

/// What computes the steps of a pass over one batch. Weights are named by their places in the plan's lists.
pub(super) trait Ops {
    /// The tables' rows of each token, added up and normed, to the residual stream.
    fn embed(&mut self) -> Result<(), ExecError>;

    fn linear(
        &mut self,
        at: Place,
        linear: usize,
        epilogue: Epilogue,
        route: [Buffer; 2],
    ) -> Result<(), ExecError>;

    /// Queries, keys and values begin at `columns`.
    fn attention(
        &mut self,
        at: Place,
        shape: &AttentionShape,
        columns: [usize; 3],
        route: [Buffer; 2],
    ) -> Result<(), ExecError>;

    /// The same where contents are compared with relative positions, too.
    fn disentangled(
        &mut self,
        at: Place,
        shape: &AttentionShape,
        columns: [usize; 3],
        route: [Buffer; 2],
    ) -> Result<(), ExecError>;

    /// In place.
    fn turn(
        &mut self,
        at: Place,
        shape: &AttentionShape,
        norms: Option<[usize; 2]>,
        rope: Option<usize>,
        buffer: Buffer,
    ) -> Result<(), ExecError>;

    /// In place where both buffers are one; added to what is there where `adds`.
    fn norm(&mut self, at: Place, norm: usize, adds: bool, route: [Buffer; 2]) -> Result<(), ExecError>;

    /// Of the residual stream, in place, where the plan has one.
    fn final_norm(&mut self) -> Result<(), ExecError>;
}

/// Runs everything up to the last hidden states, which are left in the residual stream.
pub(super) fn run(plan: &Plan, ops: &mut impl Ops) -> Result<(), ExecError> {
    ops.embed()?;
    for (layer, of_layer) in plan.layers.iter().enumerate() {
        for (step, what) in of_layer.steps.iter().enumerate() {
            let at = Place { layer, step };
            match *what {
                Step::Linear { linear, from, epilogue, to } => {
                    ops.linear(at, linear, epilogue, [from, to])?
                }
                Step::Attention { ref shape, columns, from, to } => {
                    ops.attention(at, shape, columns, [from, to])?;
                }
                Step::Disentangled { ref shape, columns, from, to } => {
                    ops.disentangled(at, shape, columns, [from, to])?;
                }
                Step::Turn { ref shape, norms, rope, buffer } => ops.turn(at, shape, norms, rope, buffer)?,
                Step::Norm { norm, from, adds, to } => ops.norm(at, norm, adds, [from, to])?,
            }
        }
    }
    ops.final_norm()
}
