//! Maps, checks, converts, packs and unmaps a checkpoint.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    LoadError,
    head::HeadWeights,
    model::{CpuModel, EmbeddingWeights, LayerWeights, Weights},
    reader::{Reader, Tell},
    relative::RelativeRows,
};
use crate::{
    cpu::{
        CpuIsa, EmbeddingTable, LayerNorm, PackedLinear, PositionBias, RelativeBuckets, RelativeTables,
        RopeTable,
    },
    describe::ModelDescription,
    dtype::DtypePolicy,
    families::{LayerNames, LinearNames, NormNames, Stored, WeightNames},
    plan::{BiasKind, BiasPlan, DisentangledPlan, EmbedPlan, LayerPlan, NormOp, NormPlan, Plan},
    weights::{MappedCheckpoint, WeightsError},
};

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
        let reader = Reader::new(&checkpoint, &description.names, progress);
        let loader = Loader { isa, plan: &plan, names: &description.names, reader: &reader };
        let head = HeadWeights::load(&plan.head, (isa, plan.weights), &description.head_names)?;
        let weights = loader.weights(options.threads, head)?;
        Ok(Self { isa, weights, device_name: format!("cpu {isa}"), plan })
    }
}

/// What layers share of relative positions.
type Relative<'a> = (RelativeRows<'a>, Arc<RelativeBuckets>);

/// What the packing threads share.
struct Loader<'a> {
    isa: CpuIsa,
    plan: &'a Plan,
    names: &'a WeightNames,
    reader: &'a Reader<'a>,
}

impl<'a> Loader<'a> {
    /// Packs tables and layers on up to `threads` threads, each taking the next that is free.
    fn weights(&self, threads: usize, head: HeadWeights) -> Result<Weights, LoadError> {
        let layers = &self.plan.layers;
        let relative = self.relative()?;
        let next = AtomicUsize::new(0);
        let take_layers = || -> Result<Vec<(usize, LayerWeights)>, LoadError> {
            let mut packed = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(layer) = layers.get(index) else {
                    return Ok(packed);
                };
                packed.push((index, self.layer(layer, &self.names.layers[index], relative.as_ref())?));
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
                PositionBias::from_buckets(&self.reader.read(stored)?, heads, distance_max, tokens_max)?
            }
            (BiasKind::Buckets { .. }, None) => unreachable!("a described table has a name"),
            (BiasKind::Alibi, _) => PositionBias::alibi(heads, tokens_max)?,
        };
        Ok(Some(bias))
    }

    fn relative(&self) -> Result<Option<Relative<'a>>, LoadError> {
        let Some((plan, names)) = self.plan.disentangled.zip(self.names.relative.as_ref()) else {
            return Ok(None);
        };
        let DisentangledPlan { span, distance_max, tokens_max, .. } = plan;
        let buckets = Arc::new(RelativeBuckets::new(span, distance_max, tokens_max)?);
        Ok(Some((RelativeRows::read(self.reader, self.isa, &plan, names)?, buckets)))
    }

    fn relative_tables(
        &self,
        layer: &LayerPlan,
        names: &LayerNames,
        (rows, buckets): &Relative<'_>,
    ) -> Result<RelativeTables, LoadError> {
        let project = |names: &LinearNames| rows.project(self.reader, names);
        let keys = names.position_key.as_ref().map(project).transpose()?;
        let queries = names.position_query.as_ref().map(project).transpose()?;
        let (dtype, tables) = (self.plan.activations, [keys.as_deref(), queries.as_deref()]);
        let heads = layer.heads_of_queries();
        Ok(RelativeTables::pack(self.isa, dtype, buckets, heads, tables)?)
    }

    fn layer(
        &self,
        layer: &LayerPlan,
        names: &LayerNames,
        relative: Option<&Relative<'_>>,
    ) -> Result<LayerWeights, LoadError> {
        let linears = layer.linears.iter();
        let linears = linears.map(|linear| self.linear(&names.of_linear(linear.role), linear.gated));
        let norms = layer.norms.iter().map(|NormPlan { role, op, .. }| self.norm(names.of_norm(*role), *op));
        Ok(LayerWeights {
            linears: linears.collect::<Result<_, _>>()?,
            relative: relative.map(|shared| self.relative_tables(layer, names, shared)).transpose()?,
            norms: norms.collect::<Result<_, _>>()?,
        })
    }

    /// Packs the stored layers of one product: below each other as if they were one, or a gate with what it opens.
    fn linear(&self, names: &[&LinearNames], gated: bool) -> Result<PackedLinear, LoadError> {
        let stored = self.reader.linear(names)?;
        let (isa, dtype, inputs) = (self.isa, self.plan.weights, stored.inputs);
        let (rows, bias) = (stored.rows.len(), Some(&stored.bias[..]));
        let mut failed = None;
        let fill_row = |output: usize, row: &mut [f32]| keep_first(&mut failed, stored.read(output, row));
        let packed = match gated {
            true => PackedLinear::pack_gated(isa, dtype, rows / 2, inputs, bias, fill_row),
            false => PackedLinear::pack(isa, dtype, rows, inputs, bias, fill_row),
        };
        self.reader.done_with(&stored);
        failed.map_or(Ok(packed?), |error| Err(error.into()))
    }

    /// Some rows of a stored table `[_, width]`.
    fn table(&self, stored: &Stored, rows: Range<usize>) -> Result<EmbeddingTable, LoadError> {
        let used = self.reader.table(stored, &rows)?;
        let mut failed = None;
        let packed = EmbeddingTable::pack(self.plan.weights, rows.len(), used.inputs, |row, values| {
            keep_first(&mut failed, used.read(row, values));
        });
        self.reader.done_with(&used);
        failed.map_or(Ok(packed?), |error| Err(error.into()))
    }

    fn norm(&self, names: &NormNames, op: NormOp) -> Result<LayerNorm, LoadError> {
        let (weight, shift) = self.reader.norm(names, op)?;
        let (NormOp::Layer { eps } | NormOp::Rms { eps, .. }) = op;
        Ok(match shift {
            Some(shift) => LayerNorm::new(weight, shift, eps)?,
            None => LayerNorm::rms(weight, eps)?,
        })
    }
}

/// Packing calls back once per row and cannot be stopped; the first row that fails decides.
pub(super) fn keep_first(failed: &mut Option<WeightsError>, result: Result<(), WeightsError>) {
    if let Err(error) = result {
        failed.get_or_insert(error);
    }
}
