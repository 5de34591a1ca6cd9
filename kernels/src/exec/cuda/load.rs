//! Maps, checks, converts and uploads a checkpoint.

use std::{iter, ops::Range, panic::resume_unwind, sync::Arc, thread};

use super::{
    super::{
        LoadError,
        reader::{LinearRows, Reader, Tell},
        relative::RelativeRows,
    },
    head,
    model::{BiasPart, CudaModel, CudaWeights, EmbeddingParts, LayerParts, LinearPart, NormPart},
    parts::{Fill, Part, Parts, Rows},
    upload::Upload,
};
use crate::{
    cpu::{PositionBias, RopeTable},
    cuda::CudaDevice,
    describe::{HeadNames, ModelDescription},
    dtype::{Dtype, DtypePolicy},
    families::{LayerNames, NormNames, WeightNames},
    plan::{
        BiasKind, BiasPlan, CudaPlan, EmbedPlan, HeadLayout, LayerPlan, LinearPlan, LinearRole, NormOp,
        NormRole, Plan, RopePlan,
    },
    weights::MappedCheckpoint,
};

impl CudaModel {
    /// Loads what was described into memory of `device`. `progress` is told the bytes of the files read so far, and all of
    /// them; `goes_on`, which may pause, is asked while a copy is waited for.
    ///
    /// # Errors
    /// What the device has no kernel or no room for, what became of the files since they were described, or that it was lost.
    pub fn load(
        description: &ModelDescription,
        device: &Arc<CudaDevice>,
        dtype: DtypePolicy,
        goes_on: &mut dyn FnMut() -> bool,
        progress: &mut Tell<'_>,
    ) -> Result<Self, LoadError> {
        let plan = CudaPlan::new(&description.spec, dtype)?;
        plan.kernels.all().try_for_each(|kernel| device.prepare(kernel))?;
        let checkpoint = MappedCheckpoint::open(&description.dir)?;
        let reader = Reader::new(&checkpoint, &description.names, progress);
        let (weights, parts) = lay_out(&plan.plan, description, &reader)?;
        let memory = device.allocate(parts.bytes())?;
        let upload = Upload::new(device, (memory.address(), parts.bytes()), goes_on)?;
        fill(parts, &reader, upload)?;
        let device_name = device.name();
        Ok(Self { device: Arc::clone(device), plan, weights, memory, device_name })
    }
}

/// The device memory that the weights of a model would hold.
pub(super) fn weight_bytes(plan: &Plan, description: &ModelDescription) -> Result<u64, LoadError> {
    let checkpoint = MappedCheckpoint::open(&description.dir)?;
    let mut untold = |_, _| {};
    let reader = Reader::new(&checkpoint, &description.names, &mut untold);
    let (_, parts) = lay_out(plan, description, &reader)?;
    Ok(parts.bytes())
}

/// Decides where each weight goes.
fn lay_out<'a>(
    plan: &'a Plan,
    description: &'a ModelDescription,
    reader: &'a Reader<'a>,
) -> Result<(CudaWeights, Parts<'a>), LoadError> {
    let mut loader = Loader { plan, names: &description.names, reader, parts: Parts::default() };
    let weights = loader.weights(&description.head_names)?;
    Ok((weights, loader.parts))
}

/// Threads that convert rows while others are copied: memory is not faster with more.
const THREADS_MAX: usize = 8;

/// Uploads every part in order.
fn fill(parts: Parts<'_>, reader: &Reader<'_>, mut upload: Upload<'_>) -> Result<(), LoadError> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    for (start, fill) in parts.into_fills() {
        upload.pad_to(start)?;
        match fill {
            Fill::Values(values) => upload.write(bytemuck::cast_slice(&values))?,
            Fill::Indices(indices) => upload.write(bytemuck::cast_slice(&indices))?,
            Fill::Positions(positions) => {
                let values = positions.read(reader)?;
                let mut bytes = vec![0; values.len() * positions.dtype.bytes()];
                narrow(&values, positions.dtype, &mut bytes)?;
                upload.write(&bytes)?;
            }
            Fill::Rows(rows) => {
                fill_rows(&rows, &mut upload, threads)?;
                reader.done_with(&rows.stored);
            }
        }
    }
    Ok(upload.finish()?)
}

/// Rows go straight to pinned memory; one that does not fit into what is left of a buffer is cut.
fn fill_rows(rows: &Rows<'_>, upload: &mut Upload<'_>, threads: usize) -> Result<(), LoadError> {
    let (row_bytes, mut next) = (rows.width() * rows.dtype.bytes(), 0);
    let mut alone = vec![0; row_bytes];
    while next < rows.order.len() {
        let room = upload.room()?;
        let fitting = (room.len() / row_bytes.max(1)).min(rows.order.len() - next);
        if fitting == 0 {
            convert(rows, next..next + 1, &mut alone)?;
            upload.write(&alone)?;
            next += 1;
            continue;
        }
        let room = &mut room[..fitting * row_bytes];
        let share = fitting.div_ceil(threads);
        thread::scope(|scope| {
            let shares = room.chunks_mut(share * row_bytes).enumerate();
            let converting: Vec<_> = shares
                .map(|(index, to)| {
                    let first = next + index * share;
                    scope.spawn(move || convert(rows, first..first + to.len() / row_bytes, to))
                })
                .collect();
            let joined =
                converting.into_iter().map(|share| share.join().unwrap_or_else(|panic| resume_unwind(panic)));
            joined.collect::<Result<(), LoadError>>()
        })?;
        upload.filled(fitting * row_bytes)?;
        next += fitting;
    }
    Ok(())
}

/// Some rows, in the device's format.
fn convert(rows: &Rows<'_>, of: Range<usize>, to: &mut [u8]) -> Result<(), LoadError> {
    let (mut stored, mut row) = (vec![0.0; rows.stored.inputs], vec![0.0; rows.width()]);
    for (index, to) in of.zip(to.chunks_exact_mut(rows.width() * rows.dtype.bytes())) {
        rows.read(index, &mut stored, &mut row)?;
        narrow(&row, rows.dtype, to)?;
    }
    Ok(())
}

/// Writes the values in a device's format.
fn narrow(values: &[f32], dtype: Dtype, to: &mut [u8]) -> Result<(), LoadError> {
    match dtype {
        Dtype::F16 => {
            for (&value, to) in values.iter().zip(to.chunks_exact_mut(2)) {
                let half = half::f16::from_f32(value);
                if half.is_infinite() {
                    return Err(LoadError::Range { value, dtype });
                }
                to.copy_from_slice(&half.to_le_bytes());
            }
        }
        Dtype::Bf16 => {
            let halves = values.iter().map(|value| half::bf16::from_f32(*value).to_le_bytes());
            halves.zip(to.chunks_exact_mut(2)).for_each(|(half, to)| to.copy_from_slice(&half));
        }
        Dtype::F32 | Dtype::I8 => to.copy_from_slice(bytemuck::cast_slice(values)),
    }
    Ok(())
}

/// Decides where each weight goes; rows are read later, in the order of the parts.
pub(super) struct Loader<'a> {
    pub(super) plan: &'a Plan,
    pub(super) names: &'a WeightNames,
    pub(super) reader: &'a Reader<'a>,
    pub(super) parts: Parts<'a>,
}

impl<'a> Loader<'a> {
    fn weights(&mut self, head_names: &HeadNames) -> Result<CudaWeights, LoadError> {
        let (plan, names) = (self.plan, self.names);
        let embeddings = self.embeddings()?;
        let (relative, shared) = self.relative()?.unzip();
        let layers = plan.layers.iter().zip(&names.layers);
        let layers = layers.map(|(layer, names)| self.layer(layer, names, shared.as_ref()));
        let layers = layers.collect::<Result<_, _>>()?;
        let final_norm = plan.final_norm.zip(names.final_norm.as_ref());
        let final_norm = final_norm.map(|(op, names)| self.norm(names, op, None)).transpose()?;
        let ropes = plan.ropes.iter().map(|rope| self.rope(rope)).collect::<Result<_, _>>()?;
        Ok(CudaWeights {
            embeddings,
            position_bias: plan.position_bias.as_ref().map(|bias| self.position_bias(bias)).transpose()?,
            relative,
            ropes,
            layers,
            final_norm,
            heads: head::load(&plan.head, head_names, &mut self.parts)?,
        })
    }

    fn embeddings(&mut self) -> Result<EmbeddingParts, LoadError> {
        let EmbedPlan { vocab, ref position_rows, token_types, norm, .. } = self.plan.embed;
        let names = self.names;
        let token = self.table(self.reader.table(&names.token, &(0..vocab))?);
        let position = names.position.as_ref().zip(position_rows.as_ref());
        let position = position.map(|(stored, rows)| self.reader.table(stored, rows)).transpose()?;
        let token_type = names.token_type.as_ref().zip(token_types);
        let token_type =
            token_type.map(|(stored, rows)| self.reader.table(stored, &(0..rows))).transpose()?;
        let norm = names.embedding_norm.as_ref().zip(norm);
        let projection = names.embedding_projection.as_ref();
        Ok(EmbeddingParts {
            token,
            position: position.map(|rows| self.table(rows)),
            token_type: token_type.map(|rows| self.table(rows)),
            norm: norm.map(|(names, op)| self.norm(names, op, None)).transpose()?,
            projection: projection
                .map(|names| {
                    let stored = self.reader.linear(&[names])?;
                    let order = (0..stored.rows.len()).map(Some).collect();
                    Ok::<_, LoadError>(self.product(stored, order, None))
                })
                .transpose()?,
        })
    }

    fn layer(
        &mut self,
        layer: &LayerPlan,
        names: &'a LayerNames,
        relative: Option<&Arc<RelativeRows<'a>>>,
    ) -> Result<LayerParts, LoadError> {
        let linears = layer.linears.iter().map(|linear| self.linear(linear, layer.heads, names));
        let linears = linears.collect::<Result<_, _>>()?;
        let positions = self.positions(names, layer.heads, relative);
        let norms = layer.norms.iter().map(|norm| {
            let heads = matches!(norm.role, NormRole::Query | NormRole::Key).then_some(layer.heads);
            self.norm(names.of_norm(norm.role), norm.op, heads)
        });
        Ok(LayerParts { linears, positions, norms: norms.collect::<Result<_, _>>()? })
    }

    fn linear(
        &mut self,
        linear: &LinearPlan,
        heads: HeadLayout,
        names: &'a LayerNames,
    ) -> Result<LinearPart, LoadError> {
        let stored = self.reader.linear(&names.of_linear(linear.role))?;
        let rows = stored.rows.len();
        Ok(match linear.role {
            LinearRole::Qkv => self.product(stored, spread(rows, heads), None),
            LinearRole::AttentionOutput => self.product(stored, (0..rows).map(Some).collect(), Some(heads)),
            LinearRole::FfnUp if linear.gated => {
                // Gate and up of an output stand side by side: one thread of the product has both.
                let pairs = (0..rows / 2).flat_map(|output| [Some(output), Some(rows / 2 + output)]);
                self.product(stored, pairs.collect(), None)
            }
            LinearRole::FfnUp | LinearRole::FfnDown => {
                self.product(stored, (0..rows).map(Some).collect(), None)
            }
        })
    }

    fn product(
        &mut self,
        stored: LinearRows<'a>,
        order: Vec<Option<usize>>,
        heads: Option<HeadLayout>,
    ) -> LinearPart {
        let bias = order.iter().map(|row| row.map_or(0.0, |row| stored.bias[row])).collect();
        let columns = order.len();
        let rows = Rows { stored, order, dtype: self.plan.weights, heads };
        let inputs = rows.width();
        LinearPart { bias: self.parts.values(bias), weight: self.parts.rows(rows), columns, inputs }
    }

    fn table(&mut self, stored: LinearRows<'a>) -> Part {
        let order = (0..stored.rows.len()).map(Some).collect();
        self.parts.rows(Rows { stored, order, dtype: self.plan.weights, heads: None })
    }

    /// A norm of rows, or of heads that stand in wider ones: the mean over the wider head is smaller by the ratio of both.
    fn norm(
        &mut self,
        names: &NormNames,
        op: NormOp,
        heads: Option<HeadLayout>,
    ) -> Result<NormPart, LoadError> {
        let (mut weight, shift) = self.reader.norm(names, op)?;
        let (NormOp::Layer { mut eps } | NormOp::Rms { mut eps, .. }) = op;
        if let Some(heads) = heads {
            let ratio = heads.stored as f32 / heads.width as f32;
            eps *= ratio;
            let mut wide = vec![0.0; heads.width];
            weight.iter().enumerate().for_each(|(at, value)| wide[heads.place(at)] = value * ratio.sqrt());
            weight = wide;
        }
        let weight = self.parts.values(weight);
        Ok(NormPart { weight, shift: shift.map(|shift| self.parts.values(shift)), eps })
    }

    /// `[positions, pairs, 2]`: cosine and sine; pairs that only fill up are zeros, whatever turns them.
    fn rope(&mut self, rope: &RopePlan) -> Result<Part, LoadError> {
        let table = RopeTable::new(&rope.frequencies, rope.positions)?;
        let (pairs, room) = (rope.frequencies.len(), HeadLayout::pairs_room(rope.frequencies.len()));
        let angles = table.rows().flat_map(|(cosines, sines)| {
            let turned = cosines.iter().zip(sines).flat_map(|(cosine, sine)| [*cosine, *sine]);
            turned.chain(iter::repeat_n(0.0, 2 * (room - pairs)))
        });
        Ok(self.parts.values(angles.collect()))
    }

    /// In powers of two, as the kernel's scores are.
    fn position_bias(&mut self, bias: &BiasPlan) -> Result<BiasPart, LoadError> {
        let BiasPlan { kind, heads, tokens_max } = *bias;
        let (table, reach) = match kind {
            BiasKind::Buckets { distance_max, .. } => {
                let stored = self.names.position_bias.as_ref().expect("a described table has a name");
                let table = self.reader.read(stored)?;
                (PositionBias::from_buckets(&table, heads, distance_max, tokens_max)?, tokens_max - 1)
            }
            // A slope is what one step costs.
            BiasKind::Alibi => (PositionBias::alibi(heads, 2)?, 0),
        };
        let values: Vec<f32> = match kind {
            BiasKind::Buckets { .. } => table.rows().flatten().copied().collect(),
            BiasKind::Alibi => table.rows().map(|distances| -distances[0]).collect(),
        };
        let values = values.into_iter().map(|value| value * std::f32::consts::LOG2_E).collect();
        Ok(BiasPart { values: self.parts.values(values), reach })
    }
}

/// Rows of heads that stand below each other, filled up.
fn spread(rows: usize, heads: HeadLayout) -> Vec<Option<usize>> {
    let mut order = vec![None; rows / heads.stored * heads.width];
    for row in 0..rows {
        let (head, element) = (row / heads.stored, row % heads.stored);
        order[head * heads.width + heads.place(element)] = Some(row);
    }
    order
}
