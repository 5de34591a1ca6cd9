//! Relative positions that contents are compared with, projected for a layer. They do not depend on any text, so that it is
//! done once, when a model is loaded: in f32, whatever the format of the weights.

use super::{
    LoadError,
    load::keep_first,
    reader::{LinearRows, Reader},
};
use crate::{
    cpu::{Activation, CpuIsa, CpuWorkers, Epilogue, LayerNorm, PackedLinear},
    dtype::Dtype,
    families::{LinearNames, NormNames, Stored},
    plan::{DisentangledPlan, NormOp},
};

/// The table `[2 span, hidden]` as every layer projects it.
pub(super) struct RelativeRows<'a> {
    isa: CpuIsa,
    rows: usize,
    values: Vec<f32>,
    /// Where its projections are those of contents, and so have been read before.
    again: Option<Reader<'a>>,
}

impl<'a> RelativeRows<'a> {
    /// Reads the table and norms it where that is planned.
    pub(super) fn read(
        reader: &Reader<'a>,
        isa: CpuIsa,
        plan: &DisentangledPlan,
        (table, norm): &(Stored, Option<NormNames>),
    ) -> Result<Self, LoadError> {
        let mut values = reader.read(table)?;
        if let Some((names, op)) = norm.as_ref().zip(plan.norm) {
            let (weight, shift) = reader.norm(names, op)?;
            let (NormOp::Layer { eps } | NormOp::Rms { eps, .. }) = op;
            let norm = match shift {
                Some(shift) => LayerNorm::new(weight, shift, eps)?,
                None => LayerNorm::rms(weight, eps)?,
            };
            CpuWorkers::new(1).ops(isa, 1)?.layer_norm(&norm, &mut values)?;
        }
        let again = plan.shares_projections.then(|| reader.again());
        Ok(Self { isa, rows: 2 * plan.span, values, again })
    }

    /// Rows of the table.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The table `[2 span, outputs]` behind a layer's projection.
    pub(super) fn project(&self, reader: &Reader<'_>, names: &LinearNames) -> Result<Vec<f32>, LoadError> {
        match &self.again {
            Some(again) => self.project_from(again, names),
            None => self.project_from(reader, names),
        }
    }

    fn project_from(&self, reader: &Reader<'_>, names: &LinearNames) -> Result<Vec<f32>, LoadError> {
        let stored = reader.linear(&[names])?;
        let LinearRows { rows, bias, inputs, .. } = &stored;
        let mut failed = None;
        let fill_row = |row: usize, values: &mut [f32]| keep_first(&mut failed, stored.read(row, values));
        let packed = PackedLinear::pack(self.isa, Dtype::F32, rows.len(), *inputs, Some(bias), fill_row)?;
        reader.done_with(&stored);
        failed.map_or(Ok(()), Err)?;
        let mut projected = vec![0.0; self.rows * rows.len()];
        let identity = Epilogue::Activate(Activation::Identity);
        CpuWorkers::new(1).ops(self.isa, 1)?.linear(&packed, &self.values, identity, &mut projected)?;
        Ok(projected)
    }
}
