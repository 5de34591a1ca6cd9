//! The memory of one batch on its way.

use std::sync::Arc;

use super::{head, results::Flight};
use crate::{
    batch::PackedBatch,
    cuda::{CudaDevice, DeviceAddress, DeviceError, DeviceMemory, Event, Pinned},
    outputs::OutputSet,
    plan::{Buffer, Plan},
};

/// Operands start on whole multiples.
const ALIGNMENT: usize = 256;

/// One batch's memory and the events between its streams. What is on the device stays where it is; pinned memory grows to the
/// largest batch that it was used for.
pub(super) struct Slot {
    memory: DeviceMemory,
    input: Option<Pinned>,
    pub(super) results: Option<Pinned>,
    /// The input is on the device.
    pub(super) arrived: Event,
    /// The results are on the device.
    pub(super) computed: Event,
    /// The results are in `results`, and nothing of the slot is in use.
    pub(super) done: Event,
    /// What is on its way.
    pub(super) flight: Option<Flight>,
}

/// What decides how much room a batch needs.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) tokens: usize,
    pub(super) sequences: usize,
    /// Tokens that get a vector of their own.
    pub(super) kept: usize,
    pub(super) has_types: bool,
}

impl Shape {
    pub(super) fn of(batch: &PackedBatch, kept: usize) -> Self {
        let has_types = !batch.type_ids.is_empty();
        Self { tokens: batch.tokens(), sequences: batch.sequences(), kept, has_types }
    }
}

/// Where everything of one batch lies, in bytes from the slot's first.
pub(super) struct Room {
    pub(super) token_ids: usize,
    pub(super) positions: usize,
    pub(super) cu_seqlens: usize,
    pub(super) type_ids: Option<usize>,
    /// Tokens that get a vector of their own.
    pub(super) kept: usize,
    input_bytes: usize,
    /// The plan's buffers.
    pub(super) buffers: usize,
    /// For each head, two buffers of so many bytes.
    pub(super) heads: [(usize, usize); head::COUNT],
    bytes: usize,
}

impl Room {
    pub(super) fn new(plan: &Plan, shape: Shape, wanted: OutputSet) -> Self {
        let mut bytes = 0;
        let mut take = |count: usize| {
            let start = bytes;
            bytes += count.next_multiple_of(ALIGNMENT);
            start
        };
        let Shape { tokens, sequences, kept, has_types } = shape;
        let token_ids = take(4 * tokens);
        let positions = take(4 * tokens);
        let cu_seqlens = take(4 * (sequences + 1));
        let type_ids = has_types.then(|| take(tokens));
        let kept_at = take(4 * kept);
        let input_bytes = take(0);
        let buffers = take(plan.workspace_bytes(tokens));
        let heads = head::widths(&plan.head, plan.hidden(), wanted);
        let heads = heads.map(|(width, rows)| {
            let each = 4 * width * rows.of(sequences, tokens, kept);
            let each = each.next_multiple_of(ALIGNMENT);
            (take(2 * each), each)
        });
        Self { token_ids, positions, cu_seqlens, type_ids, kept: kept_at, input_bytes, buffers, heads, bytes }
    }

    /// All of it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// A buffer of the plan.
    pub(super) fn buffer(&self, plan: &Plan, buffer: Buffer, tokens: usize) -> usize {
        self.buffers + plan.starts[buffer as usize] * tokens * plan.activations.bytes()
    }
}

impl Slot {
    pub(super) fn new(device: &Arc<CudaDevice>, bytes: u64) -> Result<Self, DeviceError> {
        let [arrived, computed, done] = [Event::new(device)?, Event::new(device)?, Event::new(device)?];
        let memory = device.allocate(bytes)?;
        Ok(Self { memory, input: None, results: None, arrived, computed, done, flight: None })
    }

    /// The first byte on the device.
    pub(super) fn address(&self) -> DeviceAddress {
        self.memory.address()
    }

    /// Makes room for the input; nothing of the slot is in use.
    pub(super) fn reserve_input(&mut self, device: &Arc<CudaDevice>, room: &Room) -> Result<(), DeviceError> {
        grow(&mut self.input, room.input_bytes, |bytes| Pinned::for_uploads(device, bytes))
    }

    pub(super) fn reserve_results(
        &mut self,
        device: &Arc<CudaDevice>,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        grow(&mut self.results, bytes, |bytes| Pinned::for_results(device, bytes))
    }

    /// Writes the input as the room has it; returns it with its length.
    pub(super) fn write(
        &mut self,
        room: &Room,
        batch: &PackedBatch,
        kept: &[u32],
    ) -> Option<(&Pinned, usize)> {
        let pinned = self.input.as_mut()?;
        let bytes = pinned.bytes_mut();
        let mut put = |at: usize, values: &[u8]| bytes[at..at + values.len()].copy_from_slice(values);
        put(room.token_ids, bytemuck::cast_slice(&batch.token_ids));
        put(room.positions, bytemuck::cast_slice(&batch.positions));
        put(room.cu_seqlens, bytemuck::cast_slice(&batch.cu_seqlens_q));
        if let Some(at) = room.type_ids {
            put(at, &batch.type_ids);
        }
        put(room.kept, bytemuck::cast_slice(kept));
        Some((pinned, room.input_bytes))
    }
}

/// Pinned memory costs a call to the operating system: it doubles.
fn grow(
    held: &mut Option<Pinned>,
    bytes: usize,
    new: impl FnOnce(usize) -> Result<Pinned, DeviceError>,
) -> Result<(), DeviceError> {
    if held.as_ref().is_none_or(|held| held.bytes().len() < bytes) {
        *held = Some(new(bytes.next_power_of_two())?);
    }
    Ok(())
}

/// Questions whether a batch has ended, each with a turn for other threads: longer than any batch takes.
const QUESTIONS_MAX: u32 = 1 << 24;

impl Drop for Slot {
    /// A batch on its way still uses the slot's memory and its model's: it ends first, or the device is given up, whose
    /// context then takes all of it along.
    fn drop(&mut self) {
        let mut questions = 0..QUESTIONS_MAX;
        let mut goes_on = || {
            std::thread::yield_now();
            questions.next().is_some()
        };
        // Of a lost device nothing is in use any more.
        let _ = self.done.wait(&mut goes_on);
    }
}
