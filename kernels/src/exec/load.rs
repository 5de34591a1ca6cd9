//! Maps, checks, converts, packs and unmaps a checkpoint.

use std::{
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    LoadError,
    head::HeadWeights,
    model::{CpuModel, EmbeddingWeights, LayerWeights, Weights},
};
use crate::{
    cpu::{CpuIsa, EmbeddingTable, LayerNorm, PackedLinear, PositionBias, RopeTable},
    describe::ModelDescription,
    dtype::DtypePolicy,
    families::{LayerNames, LinearNames, NormNames, Stored, WeightNames},
    plan::{BiasKind, BiasPlan, EmbedPlan, LayerPlan, LinearRole, NormOp, NormPlan, NormRole, Plan},
    weights::{MappedCheckpoint, Tensor, WeightsError},
};

/// Is told the bytes of the files packed so far, and all of them.
type Tell<'a> = dyn FnMut(u64, u64) + Send + 'a;

/// How a model is to be loaded.
#[derive(Clone, Debug)]
pub struct CpuOptions {
    /// The instruction set; the fastest of this machine by default.
    pub isa: CpuIsa,
    /// The format of the weights.
    pub dtype: DtypePolicy,
    /// Threads that pack the weights.
    pub threads: usize,
}

impl Default for CpuOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { isa: CpuIsa::detect(), dtype: DtypePolicy::Auto, threads }
    }
}

impl CpuModel {
    /// Loads what was described. `progress` is told the bytes of the files packed so far, and all of them.
    ///
    /// The files are read in their own order, converted row by row and unmapped; the process holds the packed weights
    /// and little else.
    ///
    /// # Errors
    /// What the device cannot do, or what became of the files since they were described.
    pub fn load(
        description: &ModelDescription,
        options: &CpuOptions,
        progress: &mut Tell<'_>,
    ) -> Result<Self, LoadError> {
        let isa = options.isa;
        if !isa.is_available() {
            return Err(LoadError::Isa { isa });
        }
        let plan = Plan::for_cpu(&description.spec, isa, options.dtype)?;
        let checkpoint = MappedCheckpoint::open(&description.dir)?;
        let progress = Progress::new(
            progress,
            checkpoint.stored_bytes(description.names.all().map(|stored| stored.name.as_str())),
        );
        let loader =
            Loader { plan: &plan, names: &description.names, checkpoint: &checkpoint, progress: &progress };
        let head = HeadWeights::load(&plan.head, (isa, plan.weights), &description.head_names)?;
        let weights = loader.weights(options.threads, head)?;
        Ok(Self { weights, device_name: format!("cpu {isa}"), plan })
    }
}

/// What the packing threads share.
struct Loader<'a> {
    plan: &'a Plan,
    names: &'a WeightNames,
    checkpoint: &'a MappedCheckpoint,
    progress: &'a Progress<'a>,
}

impl Loader<'_> {
    /// Packs tables and layers on up to `threads` threads, each taking the next that is free.
    fn weights(&self, threads: usize, head: HeadWeights) -> Result<Weights, LoadError> {
        let layers = &self.plan.layers;
        let next = AtomicUsize::new(0);
        let take_layers = || -> Result<Vec<(usize, LayerWeights)>, LoadError> {
            let mut packed = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(layer) = layers.get(index) else {
                    return Ok(packed);
                };
                packed.push((index, self.layer(layer, &self.names.layers[index])?));
            }
        };
        std::thread::scope(|scope| {
            let helpers =
                (1..threads.min(layers.len() + 1)).map(|_| scope.spawn(take_layers)).collect::<Vec<_>>();
            let embeddings = self.embeddings();
            let mut packed = take_layers()?;
            for helper in helpers {
                packed.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            packed.sort_by_key(|(index, _)| *index);
            let layers = packed.into_iter().map(|(_, layer)| layer).collect();
            let names = self.names.final_norm.as_ref().zip(self.plan.final_norm);
            let ropes = self.plan.ropes.iter();
            let ropes = ropes.map(|rope| RopeTable::new(&rope.frequencies, rope.positions));
            Ok(Weights {
                embeddings: embeddings?,
                position_bias: self.position_bias()?,
                ropes: ropes.collect::<Result<_, _>>()?,
                layers,
                final_norm: names.map(|(names, op)| self.norm(names, op)).transpose()?,
                head,
            })
        })
    }

    fn embeddings(&self) -> Result<EmbeddingWeights, LoadError> {
        let EmbedPlan { vocab, ref position_rows, token_types, norm, .. } = self.plan.embed;
        let names = self.names;
        let position = names.position.as_ref().zip(position_rows.clone());
        let token_type = names.token_type.as_ref().zip(token_types);
        let norm = names.embedding_norm.as_ref().zip(norm);
        let projection = names.embedding_projection.as_ref();
        Ok(EmbeddingWeights {
            token: self.table(&names.token, 0..vocab)?,
            position: position.map(|(stored, rows)| self.table(stored, rows)).transpose()?,
            token_type: token_type.map(|(stored, rows)| self.table(stored, 0..rows)).transpose()?,
            norm: norm.map(|(names, op)| self.norm(names, op)).transpose()?,
            projection: projection.map(|names| self.linear(&[names], false)).transpose()?,
        })
    }

    fn position_bias(&self) -> Result<Option<PositionBias>, LoadError> {
        let Some(BiasPlan { kind, heads, tokens_max }) = self.plan.position_bias else {
            return Ok(None);
        };
        let bias = match (kind, &self.names.position_bias) {
            (BiasKind::Buckets { distance_max, .. }, Some(stored)) => {
                PositionBias::from_buckets(&self.read(stored)?, heads, distance_max, tokens_max)?
            }
            (BiasKind::Buckets { .. }, None) => unreachable!("a described table has a name"),
            (BiasKind::Alibi, _) => PositionBias::alibi(heads, tokens_max)?,
        };
        Ok(Some(bias))
    }

    fn layer(&self, layer: &LayerPlan, names: &LayerNames) -> Result<LayerWeights, LoadError> {
        let linears = layer.linears.iter();
        let linears = linears.map(|linear| self.linear(&names.of_linear(linear.role), linear.gated));
        let norms = layer.norms.iter().map(|NormPlan { role, op, .. }| {
            let names = names.of_norm(*role).expect("a described norm has a name");
            self.norm(names, *op)
        });
        Ok(LayerWeights {
            linears: linears.collect::<Result<_, _>>()?,
            norms: norms.collect::<Result<_, _>>()?,
        })
    }

    /// Packs the stored layers of one product: below each other as if they were one, or a gate with what it opens.
    fn linear(&self, names: &[&LinearNames], gated: bool) -> Result<PackedLinear, LoadError> {
        let mut bias = Vec::new();
        let mut sources = Vec::new();
        for LinearNames { weight, bias: of_bias, rows } in names {
            let outputs = rows.len();
            match of_bias {
                Some(stored) => bias.extend(self.read_rows(stored, rows)?),
                None => bias.resize(bias.len() + outputs, 0.0),
            }
            let tensor = self.checkpoint.tensor(&weight.name, &weight.shape)?.rows(weight.shape[0], rows);
            tensor.prefetch();
            sources.extend((0..outputs).map(|row| (tensor, row)));
        }
        let (isa, dtype, inputs) = (self.plan.isa, self.plan.weights, names[0].weight.shape[1]);
        let mut failed = None;
        let fill_row = |output: usize, row: &mut [f32]| {
            let (tensor, source) = sources[output];
            keep_first(&mut failed, tensor.read(source * inputs, row));
        };
        let (rows, bias) = (sources.len(), Some(&bias[..]));
        let packed = match gated {
            true => PackedLinear::pack_gated(isa, dtype, rows / 2, inputs, bias, fill_row),
            false => PackedLinear::pack(isa, dtype, rows, inputs, bias, fill_row),
        };
        for (tensor, _) in sources.iter().filter(|(_, row)| *row == 0) {
            self.done(tensor);
        }
        failed.map_or(Ok(packed?), |error| Err(error.into()))
    }

    /// Some rows of a stored table `[_, width]`.
    fn table(&self, stored: &Stored, rows: Range<usize>) -> Result<EmbeddingTable, LoadError> {
        let (count, width) = (rows.len(), stored.shape[1]);
        let tensor = self.checkpoint.tensor(&stored.name, &stored.shape)?;
        let used = tensor.rows(stored.shape[0], &rows);
        let mut failed = None;
        let packed = EmbeddingTable::pack(self.plan.weights, count, width, |row, values| {
            keep_first(&mut failed, used.read(row * width, values));
        });
        self.done(&tensor);
        failed.map_or(Ok(packed?), |error| Err(error.into()))
    }

    fn norm(&self, names: &NormNames, op: NormOp) -> Result<LayerNorm, LoadError> {
        let mut gamma = self.read(&names.weight)?;
        match op {
            NormOp::Layer { eps } => {
                let zeros = || Ok(vec![0.0; gamma.len()]);
                let beta = names.bias.as_ref().map_or_else(zeros, |stored| self.read(stored))?;
                Ok(LayerNorm::new(gamma, beta, eps)?)
            }
            NormOp::Rms { eps, plus_one } => {
                if plus_one {
                    gamma.iter_mut().for_each(|weight| *weight += 1.0);
                }
                Ok(LayerNorm::rms(gamma, eps)?)
            }
        }
    }

    /// A whole tensor.
    fn read(&self, stored: &Stored) -> Result<Vec<f32>, WeightsError> {
        self.read_rows(stored, &(0..stored.shape[0]))
    }

    fn read_rows(&self, stored: &Stored, rows: &Range<usize>) -> Result<Vec<f32>, WeightsError> {
        let tensor = self.checkpoint.tensor(&stored.name, &stored.shape)?.rows(stored.shape[0], rows);
        let values = tensor.read_all();
        self.done(&tensor);
        values
    }

    fn done(&self, tensor: &Tensor<'_>) {
        tensor.release();
        self.progress.add(tensor.bytes());
    }
}

impl LayerNames {
    fn of_linear(&self, role: LinearRole) -> Vec<&LinearNames> {
        match role {
            LinearRole::Qkv => self.qkv.iter().collect(),
            LinearRole::AttentionOutput => vec![&self.attention_output],
            LinearRole::FfnUp => self.ffn_up.iter().collect(),
            LinearRole::FfnDown => vec![&self.ffn_down],
        }
    }

    fn of_norm(&self, role: NormRole) -> Option<&NormNames> {
        match role {
            NormRole::Attention => self.attention_norm.as_ref(),
            NormRole::AttentionPost => self.attention_post_norm.as_ref(),
            NormRole::Ffn => self.ffn_norm.as_ref(),
            NormRole::FfnPost => self.ffn_post_norm.as_ref(),
            NormRole::Query => self.query_norm.as_ref(),
            NormRole::Key => self.key_norm.as_ref(),
        }
    }
}

/// Packing calls back once per row and cannot be stopped; the first row that fails decides.
pub(super) fn keep_first(failed: &mut Option<WeightsError>, result: Result<(), WeightsError>) {
    if let Err(error) = result {
        failed.get_or_insert(error);
    }
}

/// Adds up what the packing threads have done and tells the caller.
struct Progress<'a> {
    told: Mutex<(u64, &'a mut Tell<'a>)>,
    total: u64,
}

impl<'a> Progress<'a> {
    fn new(tell: &'a mut Tell<'a>, total: u64) -> Self {
        Self { told: Mutex::new((0, tell)), total }
    }

    fn add(&self, bytes: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.0 += bytes;
        let done = told.0;
        (told.1)(done, self.total);
    }
}
