//! Where each weight lies in a model's memory, and what is put there.

use super::{super::reader::LinearRows, relative::Positions};
use crate::{cuda::DeviceAddress, dtype::Dtype, plan::HeadLayout, weights::WeightsError};

/// Weights start on whole multiples.
const ALIGNMENT: u64 = 256;

/// A weight's first byte, counted from the model's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part(u64);

impl Part {
    pub(super) fn address(self, model: DeviceAddress) -> DeviceAddress {
        model + self.0
    }
}

/// What a model's memory holds, in order.
#[derive(Default)]
pub(super) struct Parts<'a> {
    bytes: u64,
    fills: Vec<(Part, Fill<'a>)>,
}

pub(super) enum Fill<'a> {
    /// f32, as they are.
    Values(Vec<f32>),
    /// Numbers of rows.
    Indices(Vec<u32>),
    /// Rows of a checkpoint.
    Rows(Rows<'a>),
    /// A table that is still to be projected.
    Positions(Positions<'a>),
}

/// Stored rows as the kernels read them.
pub(super) struct Rows<'a> {
    pub(super) stored: LinearRows<'a>,
    /// Which stored row each is; zeros where none is.
    pub(super) order: Vec<Option<usize>>,
    pub(super) dtype: Dtype,
    /// Of heads that stand side by side in a row, and are filled up.
    pub(super) heads: Option<HeadLayout>,
}

impl<'a> Parts<'a> {
    pub(super) fn values(&mut self, values: Vec<f32>) -> Part {
        let bytes = size_of_val(values.as_slice());
        self.push(bytes, Fill::Values(values))
    }

    pub(super) fn rows(&mut self, rows: Rows<'a>) -> Part {
        let bytes = rows.order.len() * rows.width() * rows.dtype.bytes();
        self.push(bytes, Fill::Rows(rows))
    }

    pub(super) fn indices(&mut self, indices: Vec<u32>) -> Part {
        let bytes = size_of_val(indices.as_slice());
        self.push(bytes, Fill::Indices(indices))
    }

    pub(super) fn positions(&mut self, positions: Positions<'a>) -> Part {
        let bytes = positions.bytes();
        self.push(bytes, Fill::Positions(positions))
    }

    fn push(&mut self, bytes: usize, fill: Fill<'a>) -> Part {
        let part = Part(self.bytes);
        self.bytes = (self.bytes + bytes as u64).next_multiple_of(ALIGNMENT);
        self.fills.push((part, fill));
        part
    }

    /// Of all of it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// By rising first bytes.
    pub(super) fn into_fills(self) -> impl Iterator<Item = (u64, Fill<'a>)> {
        self.fills.into_iter().map(|(part, fill)| (part.0, fill))
    }
}

impl Rows<'_> {
    /// Elements of a row.
    pub(super) fn width(&self) -> usize {
        let inputs = self.stored.inputs;
        self.heads.map_or(inputs, |heads| inputs / heads.stored * heads.width)
    }

    /// One row, as f32. `stored` takes it as the checkpoint has it, `row` as the kernels read it.
    pub(super) fn read(&self, row: usize, stored: &mut [f32], to: &mut [f32]) -> Result<(), WeightsError> {
        let Some(row) = self.order[row] else {
            to.fill(0.0);
            return Ok(());
        };
        match self.heads {
            None => self.stored.read(row, to),
            Some(heads) => {
                self.stored.read(row, stored)?;
                to.fill(0.0);
                let both = stored.chunks_exact(heads.stored).zip(to.chunks_exact_mut(heads.width));
                for (stored, to) in both {
                    stored.iter().enumerate().for_each(|(index, value)| to[heads.place(index)] = *value);
                }
                Ok(())
            }
        }
    }
}
