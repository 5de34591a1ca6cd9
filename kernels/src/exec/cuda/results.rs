//! What a batch left, from pinned memory to those who wait for it.

use std::sync::Arc;

use super::{
    super::{
        ExecError,
        sparse::{append, lexical_row},
    },
    head,
    model::CudaModel,
};
use crate::{cuda::DeviceAddress, outputs::Outputs};

/// A batch that was put in.
pub(super) struct Flight {
    /// Dense vectors: one a sequence.
    pub(super) vectors: u32,
    /// Its weights must not go before it.
    pub(super) model: Arc<CudaModel>,
    pub(super) answers: Vec<Answer>,
    pub(super) multivector_bounds: Vec<u32>,
    /// The batch's ids and bounds, where weights by token become weights of words.
    pub(super) tokens: Option<(Vec<u32>, Vec<u32>)>,
}

/// What one head leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Dense,
    Classes,
    TokenClasses,
    Multivector,
    /// One weight a token, of which rows of words are made.
    TokenWeights,
}

/// Rows of f32 that one head left.
#[derive(Clone, Copy)]
pub(super) struct Answer {
    pub(super) kind: Kind,
    /// On the device.
    pub(super) rows_at: DeviceAddress,
    pub(super) rows: usize,
    pub(super) width: usize,
    /// Elements from a row to the next.
    pub(super) stride: usize,
}

impl Answer {
    pub(super) fn bytes(&self) -> usize {
        self.rows * self.stride * size_of::<f32>()
    }
}

impl Flight {
    /// Appends what the batch left to what is there. `bytes` has the rows of its answers, one after another.
    pub(super) fn append(&self, mut bytes: &[u8], out: &mut Outputs) -> Result<(), ExecError> {
        for answer in &self.answers {
            let (rows, later) = bytes.split_at(answer.bytes());
            bytes = later;
            let rows: &[f32] = bytemuck::cast_slice(rows);
            let rows = rows.chunks_exact(answer.stride).map(|row| &row[..answer.width]);
            // A number that its format could not hold has spread to all that followed from it.
            if rows.clone().flatten().any(|value| !value.is_finite()) {
                return Err(ExecError::NotFinite { dtype: self.model.dtype() });
            }
            match answer.kind {
                Kind::Dense => rows.for_each(|row| out.dense.extend_from_slice(row)),
                Kind::Classes => rows.for_each(|row| out.classes.extend_from_slice(row)),
                Kind::TokenClasses => rows.for_each(|row| out.token_classes.extend_from_slice(row)),
                Kind::Multivector => rows.for_each(|row| out.multivector.extend_from_slice(row)),
                Kind::TokenWeights => self.append_words(&rows.flatten().copied().collect::<Vec<_>>(), out)?,
            }
        }
        rise(&mut out.dense_bounds, 1..=self.vectors);
        rise(&mut out.multivector_bounds, self.multivector_bounds.iter().copied().skip(1));
        Ok(())
    }

    fn append_words(&self, weights: &[f32], out: &mut Outputs) -> Result<(), ExecError> {
        let (_, skipped) = head::lexical(&self.model.plan().head).ok_or(ExecError::Selection)?;
        let (token_ids, cu_seqlens) = self.tokens.as_ref().ok_or(ExecError::Selection)?;
        let mut row = Vec::new();
        for bounds in cu_seqlens.windows(2) {
            let tokens = bounds[0] as usize..bounds[1] as usize;
            lexical_row(skipped, &token_ids[tokens.clone()], &weights[tokens], &mut row);
            append(&mut out.sparse, &row);
            row.clear();
        }
        Ok(())
    }
}

/// Appends bounds that were counted from 0 to those that are there.
fn rise(bounds: &mut Vec<u32>, further: impl IntoIterator<Item = u32>) {
    let before = bounds.last().copied().unwrap_or_default();
    bounds.extend(further.into_iter().map(|bound| before + bound));
}
