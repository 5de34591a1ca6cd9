//! Relative positions that contents are compared with, as the kernel reads them.

use std::sync::Arc;

use super::{
    super::{LoadError, reader::Reader, relative::RelativeRows},
    load::Loader,
    model::RelativePart,
    parts::Part,
};
use crate::{
    cpu::{CpuIsa, RelativeBuckets},
    dtype::Dtype,
    families::{LayerNames, LinearNames},
    plan::{DisentangledPlan, HeadLayout},
};

/// One layer's table `[heads, rows, head_dim]`, which is projected when its turn comes.
pub(super) struct Positions<'a> {
    shared: Arc<RelativeRows<'a>>,
    projection: &'a LinearNames,
    heads: HeadLayout,
    upside_down: bool,
    pub(super) dtype: Dtype,
}

impl Positions<'_> {
    /// Of the table in the device's format.
    pub(super) fn bytes(&self) -> usize {
        let HeadLayout { stored, width, .. } = self.heads;
        self.shared.rows() * self.projection.rows.len() / stored * width * self.dtype.bytes()
    }

    /// Projects the table, and puts each head's rows below each other, filled up.
    pub(super) fn read(&self, reader: &Reader<'_>) -> Result<Vec<f32>, LoadError> {
        let projected = self.shared.project(reader, self.projection)?;
        let (rows, HeadLayout { stored, width, .. }) = (self.shared.rows(), self.heads);
        let all = projected.len() / rows;
        let mut table = vec![0.0; rows * all / stored * width];
        for (index, to) in table.chunks_exact_mut(width).enumerate() {
            let (head, row) = (index / rows, index % rows);
            let row = if self.upside_down { rows - 1 - row } else { row };
            let from = &projected[row * all + head * stored..][..stored];
            from.iter().enumerate().for_each(|(element, value)| to[self.heads.place(element)] = *value);
        }
        Ok(table)
    }
}

impl<'a> Loader<'a> {
    /// What layers share of relative positions.
    pub(super) fn relative(&mut self) -> Result<Option<(RelativePart, Arc<RelativeRows<'a>>)>, LoadError> {
        let Some((plan, names)) = self.plan.disentangled.zip(self.names.relative.as_ref()) else {
            return Ok(None);
        };
        let DisentangledPlan { span, distance_max, tokens_max, .. } = plan;
        let buckets = RelativeBuckets::new(span, distance_max, tokens_max)?;
        let [key_rows, query_rows] = buckets.rows().map(|rows| self.parts.indices(rows.to_vec()));
        let part = RelativePart { key_rows, query_rows, rows: 2 * span, reach: tokens_max - 1 };
        let shared = RelativeRows::read(self.reader, CpuIsa::detect(), &plan, names)?;
        Ok(Some((part, Arc::new(shared))))
    }

    /// A layer's tables of keys and of queries.
    pub(super) fn positions(
        &mut self,
        names: &'a LayerNames,
        heads: HeadLayout,
        shared: Option<&Arc<RelativeRows<'a>>>,
    ) -> [Option<Part>; 2] {
        [(&names.position_key, true), (&names.position_query, false)].map(|(projection, upside_down)| {
            let (shared, projection) = (Arc::clone(shared?), projection.as_ref()?);
            let dtype = self.plan.weights;
            Some(self.parts.positions(Positions { shared, projection, heads, upside_down, dtype }))
        })
    }
}
