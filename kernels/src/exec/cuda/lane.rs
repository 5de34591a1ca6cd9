//! One lane of a device: batches that follow one another, so that the copies of one hide behind the work of the other.

use std::{collections::VecDeque, sync::Arc};

use super::{
    super::{
        ExecError,
        check::{check, check_outputs},
        pass,
    },
    model::CudaModel,
    pass::Pass,
    results::{Answer, Flight},
    slot::{Room, Shape, Slot},
};
use crate::{
    batch::PackedBatch,
    cuda::{CudaDevice, DeviceError, Stream},
    outputs::{OutputSet, Outputs},
    plan::Plan,
};

/// Batches that a lane has on their way at once.
pub const BATCHES_MAX: usize = 2;

/// Runs batches in the order in which they are put in. Any model of the device runs on any of its lanes.
pub struct CudaLane {
    device: Arc<CudaDevice>,
    copies: Stream,
    compute: Stream,
    results: Stream,
    slots: Vec<Slot>,
    /// Of the device's memory, for each.
    room_bytes: u64,
    /// Slots on their way, oldest first.
    in_flight: VecDeque<usize>,
    /// Of the batch that is put in: tokens with a vector of their own.
    kept: Vec<u32>,
}

impl CudaLane {
    /// A lane for `batches` on their way at once, at most [`BATCHES_MAX`], with so many bytes of the device's memory for each:
    /// taken now, so that no model takes them later, and where they are for as long as the lane is.
    ///
    /// # Errors
    /// The device has no room for them, or was lost.
    pub fn new(device: &Arc<CudaDevice>, batches: usize, room_bytes: u64) -> Result<Self, DeviceError> {
        let slots = (0..batches.clamp(1, BATCHES_MAX)).map(|_| Slot::new(device, room_bytes));
        Ok(Self {
            copies: Stream::new(device)?,
            compute: Stream::new(device)?,
            results: Stream::new(device)?,
            slots: slots.collect::<Result<_, _>>()?,
            room_bytes,
            in_flight: VecDeque::with_capacity(BATCHES_MAX),
            kept: Vec::new(),
            device: Arc::clone(device),
        })
    }

    /// Batches that were put in and not finished.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Puts a batch in and does not wait for it.
    ///
    /// The same sequence gives the same bits whatever shares its batch.
    ///
    /// # Errors
    /// [`ExecError::Busy`] while as many are on their way as the lane takes, [`ExecError::Room`] where one is more than it has
    /// room for; the batch does not fit the model; the host has no pinned memory, or the device was lost.
    pub fn submit(
        &mut self,
        model: &Arc<CudaModel>,
        batch: &PackedBatch,
        wanted: OutputSet,
    ) -> Result<(), ExecError> {
        self.check(model, batch, wanted)?;
        self.submit_checked(model, batch, wanted)
    }

    fn check(&self, model: &CudaModel, batch: &PackedBatch, wanted: OutputSet) -> Result<(), ExecError> {
        check_outputs(wanted, model.gives())?;
        check(model.plan(), batch)?;
        check_keys(batch)?;
        check_ranges(batch)?;
        if Arc::ptr_eq(&self.device, model.device()) { Ok(()) } else { Err(ExecError::OtherDevice) }
    }

    fn submit_checked(
        &mut self,
        model: &Arc<CudaModel>,
        batch: &PackedBatch,
        wanted: OutputSet,
    ) -> Result<(), ExecError> {
        let free = (0..self.slots.len()).find(|slot| !self.in_flight.contains(slot));
        let free = free.ok_or(ExecError::Busy)?;
        // A batch that failed while it was put in may have left work.
        if !self.slots[free].done.is_done()? {
            return Err(ExecError::Busy);
        }
        let plan = model.plan();
        let multivector = plan.head.multivector.as_ref().filter(|_| wanted.multivector);
        let bounds = multivector.map(|head| keep(batch, head.skipped_first, &mut self.kept));
        if bounds.is_none() {
            self.kept.clear();
        }
        let room = Room::new(plan, Shape::of(batch, self.kept.len()), wanted);
        self.check_room(&room)?;
        self.slots[free].reserve_input(&self.device, &room)?;
        let put_in = self.put_in(free, &room, model, batch, wanted);
        let (answers, failed) = match put_in {
            Ok(answers) => (answers, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        // What was put in uses the weights until it has ended, whether all of it was put in or not.
        let multivector_bounds = bounds.unwrap_or_else(|| vec![0]);
        let vectors = if wanted.dense { batch.sequences() as u32 } else { 0 };
        let tokens = wanted.sparse.then(|| (batch.token_ids.clone(), batch.cu_seqlens_q.clone()));
        let model = Arc::clone(model);
        self.slots[free].flight = Some(Flight { model, answers, vectors, multivector_bounds, tokens });
        if let Some(error) = failed {
            self.compute.record(&self.slots[free].done)?;
            return Err(error);
        }
        self.in_flight.push_back(free);
        Ok(())
    }

    fn put_in(
        &mut self,
        slot: usize,
        room: &Room,
        model: &CudaModel,
        batch: &PackedBatch,
        wanted: OutputSet,
    ) -> Result<Vec<Answer>, ExecError> {
        let slot = &mut self.slots[slot];
        let address = slot.address();
        if let Some((input, bytes)) = slot.write(room, batch, &self.kept) {
            // SAFETY: the room is the slot's alone; its input is written again after its last event only.
            unsafe { self.copies.copy_in(address, input, bytes)? };
        }
        self.copies.record(&slot.arrived)?;
        self.compute.wait(&slot.arrived)?;
        let lengths = batch.cu_seqlens_q.windows(2).map(|bounds| bounds[1] - bounds[0]);
        let mut of_batch = Pass {
            model,
            stream: &self.compute,
            room,
            slot: address,
            tokens: batch.tokens(),
            sequences: batch.sequences(),
            longest: lengths.max().unwrap_or(0),
        };
        let mut answers = Vec::new();
        if batch.tokens() > 0 {
            pass::run(model.plan(), &mut of_batch)?;
            answers = of_batch.heads(wanted, self.kept.len())?;
        }
        self.compute.record(&slot.computed)?;
        self.results.wait(&slot.computed)?;
        slot.reserve_results(&self.device, answers.iter().map(Answer::bytes).sum())?;
        if let Some(results) = &slot.results {
            let mut at = 0;
            for answer in &answers {
                // SAFETY: the rows are the slot's; its results are read after its last event only.
                unsafe { self.results.copy_out((results, at), answer.rows_at, answer.bytes())? };
                at += answer.bytes();
            }
        }
        self.results.record(&slot.done)?;
        Ok(answers)
    }

    /// Waits for the oldest batch and leaves what it was to give in `out`. `goes_on`, which may pause, is asked while it is
    /// waited for; where it says no, the device is given up.
    ///
    /// # Errors
    /// [`ExecError::Idle`]: none is on its way; or the device was lost, and every batch on it.
    pub fn finish(&mut self, goes_on: &mut dyn FnMut() -> bool, out: &mut Outputs) -> Result<(), ExecError> {
        out.clear();
        self.finish_into(goes_on, out).inspect_err(|_| out.clear())
    }

    /// Appends what the oldest batch left to what is there.
    fn finish_into(&mut self, goes_on: &mut dyn FnMut() -> bool, out: &mut Outputs) -> Result<(), ExecError> {
        let slot = self.in_flight.front().copied().ok_or(ExecError::Idle)?;
        let slot = &mut self.slots[slot];
        slot.done.wait(goes_on)?;
        self.in_flight.pop_front();
        let (Some(flight), Some(results)) = (slot.flight.take(), &slot.results) else { return Ok(()) };
        flight.append(results.bytes(), out)
    }

    /// Runs one batch from its beginning to its end. One that is more than the lane has room for runs in parts, as many on
    /// their way as the lane takes; how many they are is what comes back.
    ///
    /// # Errors
    /// As [`Self::submit`] and [`Self::finish`]; [`ExecError::Room`] where one sequence alone is more than there is room for.
    pub fn run(
        &mut self,
        model: &Arc<CudaModel>,
        batch: &PackedBatch,
        wanted: OutputSet,
        goes_on: &mut dyn FnMut() -> bool,
        out: &mut Outputs,
    ) -> Result<usize, ExecError> {
        out.clear();
        if !self.in_flight.is_empty() {
            return Err(ExecError::Busy);
        }
        self.check(model, batch, wanted)?;
        let ran = self.run_parts(model, batch, wanted, goes_on, out);
        if ran.is_err() {
            out.clear();
            // Parts that are still on their way are nobody's any more.
            while !self.in_flight.is_empty() {
                let mut dropped = Outputs::new();
                if let Err(ExecError::Device(_)) = self.finish_into(goes_on, &mut dropped) {
                    self.in_flight.clear();
                }
            }
        }
        ran
    }

    fn run_parts(
        &mut self,
        model: &Arc<CudaModel>,
        batch: &PackedBatch,
        wanted: OutputSet,
        goes_on: &mut dyn FnMut() -> bool,
        out: &mut Outputs,
    ) -> Result<usize, ExecError> {
        let (mut next, mut parts) = (0, 0);
        while next < batch.sequences() || parts == 0 {
            let end = self.fitting(model.plan(), batch, next, wanted);
            if self.in_flight.len() == self.slots.len() {
                self.finish_into(goes_on, out)?;
            }
            let is_whole = next == 0 && end == batch.sequences();
            let part = (!is_whole).then(|| batch.sequences_of(next..end));
            self.submit_checked(model, part.as_ref().unwrap_or(batch), wanted)?;
            (next, parts) = (end, parts + 1);
        }
        while !self.in_flight.is_empty() {
            self.finish_into(goes_on, out)?;
        }
        Ok(parts)
    }

    /// The end of the most sequences from `first` on that there is room for; at least one.
    fn fitting(&self, plan: &Plan, batch: &PackedBatch, first: usize, wanted: OutputSet) -> usize {
        let fits = |end: usize| {
            let tokens = (batch.cu_seqlens_q[end] - batch.cu_seqlens_q[first]) as usize;
            // As if all tokens had vectors of their own: what is left out is not worth counting twice.
            let (sequences, has_types) = (end - first, !batch.type_ids.is_empty());
            let kept = if wanted.multivector { tokens } else { 0 };
            let room = Room::new(plan, Shape { tokens, sequences, kept, has_types }, wanted);
            room.bytes() <= self.room_bytes
        };
        let (mut least, mut most) = ((first + 1).min(batch.sequences()), batch.sequences());
        while least < most {
            let middle = (least + most).div_ceil(2);
            if fits(middle) { least = middle } else { most = middle - 1 }
        }
        least
    }

    fn check_room(&self, room: &Room) -> Result<(), ExecError> {
        let (bytes, room_bytes) = (room.bytes(), self.room_bytes);
        if bytes <= room_bytes { Ok(()) } else { Err(ExecError::Room { bytes, room_bytes }) }
    }
}

/// Attention on a device takes all tokens of a sequence as its keys.
fn check_keys(batch: &PackedBatch) -> Result<(), ExecError> {
    let (queries, keys) = (batch.cu_seqlens_q.windows(2), batch.cu_seqlens_k.windows(2));
    let length = |bounds: &[u32]| bounds[1] - bounds[0];
    let differs = queries.zip(keys).position(|(queries, keys)| length(queries) != length(keys));
    differs.map_or(Ok(()), |sequence| {
        let [keys, tokens] = [&batch.cu_seqlens_k, &batch.cu_seqlens_q].map(|all| length(&all[sequence..]));
        Err(ExecError::Keys { sequence, keys, tokens })
    })
}

/// Dense vectors on a device are pooled from all tokens of a sequence.
fn check_ranges(batch: &PackedBatch) -> Result<(), ExecError> {
    let tokens = batch.cu_seqlens_q.windows(2).map(|bounds| bounds[1] - bounds[0]);
    let ranges = batch.range_bounds.windows(2).map(|own| &batch.ranges[own[0] as usize..own[1] as usize]);
    match tokens.zip(ranges).position(|(tokens, ranges)| ranges != [[0, tokens]]) {
        None => Ok(()),
        Some(sequence) => Err(ExecError::WholeSequences { sequence }),
    }
}

/// Lists the tokens that get a vector of their own; returns their bounds by sequence.
fn keep(batch: &PackedBatch, skipped_first: usize, kept: &mut Vec<u32>) -> Vec<u32> {
    kept.clear();
    let sequences = batch.cu_seqlens_q.windows(2);
    let ends = sequences.map(|bounds| {
        let tokens = bounds[0].saturating_add(skipped_first as u32)..bounds[1];
        kept.extend(tokens.filter(|&token| batch.skipped.get(token as usize) != Some(&true)));
        kept.len() as u32
    });
    std::iter::once(0).chain(ends).collect()
}

impl std::fmt::Debug for CudaLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (device, in_flight) = (self.device.name(), &self.in_flight);
        f.debug_struct("CudaLane").field("device", &device).field("in_flight", in_flight).finish()
    }
}
