//! Weights as the families name them, read from a mapped checkpoint.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use crate::{
    families::{LayerNames, LinearNames, NormNames, Stored, WeightNames},
    plan::{LinearRole, NormOp, NormRole},
    weights::{MappedCheckpoint, Tensor, WeightsError},
};

/// Is told the bytes of the files read so far, and all of them.
pub(super) type Tell<'a> = dyn FnMut(u64, u64) + Send + 'a;

/// What loading threads share.
pub(super) struct Reader<'a> {
    checkpoint: &'a MappedCheckpoint,
    progress: Progress<'a>,
}

/// The stored layers of one product, below each other as if they were one.
pub(super) struct LinearRows<'a> {
    /// Where each row is: a tensor, and its row.
    pub(super) rows: Vec<(Tensor<'a>, usize)>,
    /// As long; zeros where a layer has none.
    pub(super) bias: Vec<f32>,
    pub(super) inputs: usize,
    /// What of the files is not needed once the rows were read.
    read: Vec<Tensor<'a>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(checkpoint: &'a MappedCheckpoint, names: &WeightNames, tell: &'a mut Tell<'a>) -> Self {
        let total = checkpoint.stored_bytes(names.all().map(|stored| stored.name.as_str()));
        Self { checkpoint, progress: Progress { told: Mutex::new((0, Some(tell))), total } }
    }

    /// For what is read a second time, of which nobody is told.
    pub(super) fn again<'b>(&self) -> Reader<'b>
    where
        'a: 'b,
    {
        let progress = Progress { told: Mutex::new((0, None)), total: 0 };
        Reader { checkpoint: self.checkpoint, progress }
    }

    pub(super) fn linear<'n>(&self, names: &[&'n LinearNames]) -> Result<LinearRows<'n>, WeightsError>
    where
        'a: 'n,
    {
        let (mut bias, mut rows, mut read) = (Vec::new(), Vec::new(), Vec::new());
        for LinearNames { weight, bias: of_bias, rows: used } in names {
            let outputs = used.len();
            match of_bias {
                Some(stored) => bias.extend(self.read_rows(stored, used)?),
                None => bias.resize(bias.len() + outputs, 0.0),
            }
            let tensor = self.checkpoint.tensor(&weight.name, &weight.shape)?.rows(weight.shape[0], used);
            tensor.prefetch();
            rows.extend((0..outputs).map(|row| (tensor, row)));
            read.push(tensor);
        }
        Ok(LinearRows { rows, bias, inputs: names[0].weight.shape[1], read })
    }

    /// Some rows of a stored table `[_, width]`.
    pub(super) fn table<'n>(
        &self,
        stored: &'n Stored,
        rows: &Range<usize>,
    ) -> Result<LinearRows<'n>, WeightsError>
    where
        'a: 'n,
    {
        let tensor = self.checkpoint.tensor(&stored.name, &stored.shape)?;
        let used = tensor.rows(stored.shape[0], rows);
        let rows = (0..rows.len()).map(|row| (used, row)).collect();
        Ok(LinearRows { rows, bias: Vec::new(), inputs: stored.shape[1], read: vec![tensor] })
    }

    /// What a norm multiplies by, and what it adds then: nothing, for the mean square.
    pub(super) fn norm(
        &self,
        names: &NormNames,
        op: NormOp,
    ) -> Result<(Vec<f32>, Option<Vec<f32>>), WeightsError> {
        let mut weight = self.read(&names.weight)?;
        match op {
            NormOp::Layer { .. } => {
                let zeros = || Ok(vec![0.0; weight.len()]);
                let shift = names.bias.as_ref().map_or_else(zeros, |stored| self.read(stored))?;
                Ok((weight, Some(shift)))
            }
            NormOp::Rms { plus_one, .. } => {
                if plus_one {
                    weight.iter_mut().for_each(|weight| *weight += 1.0);
                }
                Ok((weight, None))
            }
        }
    }

    /// A whole tensor.
    pub(super) fn read(&self, stored: &Stored) -> Result<Vec<f32>, WeightsError> {
        self.read_rows(stored, &(0..stored.shape[0]))
    }

    fn read_rows(&self, stored: &Stored, rows: &Range<usize>) -> Result<Vec<f32>, WeightsError> {
        let tensor = self.checkpoint.tensor(&stored.name, &stored.shape)?.rows(stored.shape[0], rows);
        let values = tensor.read_all();
        self.done(&tensor);
        values
    }

    /// These rows were read.
    pub(super) fn done_with(&self, rows: &LinearRows<'_>) {
        rows.read.iter().for_each(|tensor| self.done(tensor));
    }

    fn done(&self, tensor: &Tensor<'_>) {
        tensor.release();
        self.progress.add(tensor.bytes());
    }
}

impl LinearRows<'_> {
    /// One row, as f32.
    pub(super) fn read(&self, row: usize, values: &mut [f32]) -> Result<(), WeightsError> {
        let (tensor, source) = self.rows[row];
        tensor.read(source * self.inputs, values)
    }
}

impl LayerNames {
    pub(super) fn of_linear(&self, role: LinearRole) -> Vec<&LinearNames> {
        match role {
            LinearRole::Qkv => self.qkv.iter().collect(),
            LinearRole::AttentionOutput => vec![&self.attention_output],
            LinearRole::FfnUp => self.ffn_up.iter().collect(),
            LinearRole::FfnDown => vec![&self.ffn_down],
        }
    }

    pub(super) fn of_norm(&self, role: NormRole) -> &NormNames {
        let names = match role {
            NormRole::Attention => &self.attention_norm,
            NormRole::AttentionPost => &self.attention_post_norm,
            NormRole::Ffn => &self.ffn_norm,
            NormRole::FfnPost => &self.ffn_post_norm,
            NormRole::Query => &self.query_norm,
            NormRole::Key => &self.key_norm,
        };
        names.as_ref().expect("a described norm has a name")
    }
}

/// Adds up what the loading threads have done and tells the caller.
struct Progress<'a> {
    told: Mutex<(u64, Option<&'a mut Tell<'a>>)>,
    total: u64,
}

impl Progress<'_> {
    fn add(&self, bytes: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.0 += bytes;
        let (done, tell) = &mut *told;
        if let Some(tell) = tell {
            tell(*done, self.total);
        }
    }
}
