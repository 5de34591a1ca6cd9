//! The ops of a forward pass on one lane: threads, scratch and an instruction set, bound together for one run.

use super::AlignedBuf;
use super::error::OpError;
use super::isa::{CpuIsa, VerifiedIsa};
use super::operand::Operand;
use super::team::Team;
use super::tile::{COLUMNS_MAX, ROWS_MAX};
use half::bf16;
use std::sync::{Mutex, PoisonError};

/// The threads and the scratch memory of one lane. Scratch grows to the largest batch that was seen and stays.
pub struct CpuWorkers {
    team: Team,
    /// One per thread; a thread locks its own for the length of a fork, so nobody ever waits.
    scratch: Vec<Mutex<Scratch>>,
    /// Calls so far: tells one call's prepared operand from the next one's.
    calls: u64,
}

impl CpuWorkers {
    /// Starts `threads_max - 1` workers beside the caller (see [`Team::new`]).
    pub fn new(threads_max: usize) -> Self {
        let team = Team::new(threads_max);
        let scratch = (0..team.threads_max()).map(|_| Mutex::new(Scratch::new())).collect();
        Self { team, scratch, calls: 0 }
    }

    /// The threads that a run may use.
    pub fn threads_max(&self) -> usize {
        self.team.threads_max()
    }

    /// The threads themselves, for work that is no op.
    pub fn team(&mut self) -> &mut Team {
        &mut self.team
    }

    /// Binds an instruction set and a number of threads (cut to what there are).
    ///
    /// # Errors
    /// A set that the machine lacks.
    pub fn ops(&mut self, isa: CpuIsa, threads: usize) -> Result<CpuOps<'_>, OpError> {
        let threads = threads.clamp(1, self.threads_max());
        Ok(CpuOps {
            isa: isa.verified()?,
            threads,
            team: &mut self.team,
            scratch: &self.scratch,
            calls: &mut self.calls,
        })
    }
}

/// The ops, bound to a lane. Every op checks its operands' shapes once and then runs to its end.
pub struct CpuOps<'a> {
    pub(crate) isa: VerifiedIsa,
    pub(crate) threads: usize,
    pub(crate) team: &'a mut Team,
    scratch: &'a [Mutex<Scratch>],
    calls: &'a mut u64,
}

impl CpuOps<'_> {
    /// The instruction set.
    pub fn isa(&self) -> CpuIsa {
        self.isa.get()
    }

    /// A number that no other call on this lane has.
    pub(crate) fn next_call(&mut self) -> u64 {
        *self.calls += 1;
        *self.calls
    }

    /// Runs `body(scratch, item)` for every item on the lane's threads.
    pub(crate) fn for_each(&mut self, items: usize, body: &(dyn Fn(&mut Scratch, usize) + Sync)) {
        let scratch = self.scratch;
        self.team.for_each(self.threads, items, &|thread, item| {
            // Poison means that a task panicked, which the team reports; scratch holds nothing across items.
            let mut own = scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            body(&mut own, item);
        });
    }

    /// Splits `rows` into as many even ranges as keep the threads busy, at least `rows_min` long, and runs each.
    pub(crate) fn for_rows(
        &mut self,
        rows: usize,
        rows_min: usize,
        body: &(dyn Fn(&mut Scratch, std::ops::Range<usize>) + Sync),
    ) {
        let parts = if self.threads == 1 { 1 } else { (rows / rows_min.max(1)).clamp(1, 4 * self.threads) };
        self.for_each(parts, &|scratch, part| {
            body(scratch, rows * part / parts..rows * (part + 1) / parts);
        });
    }
}

/// What one thread computes in between.
pub(crate) struct Scratch {
    /// One register tile before its epilogue.
    pub(crate) tile: AlignedBuf<f32>,
    /// A panel of weights widened to f32.
    pub(crate) panel: AlignedBuf<f32>,
    /// The left operand where it is not read in place.
    pub(crate) operand: Operand,
    pub(crate) attention: AttentionScratch,
}

/// What attention keeps of one head of one sequence.
pub(crate) struct AttentionScratch {
    /// Keys in panels over the key rows, units along `head_dim`.
    pub(crate) keys: AlignedBuf<u32>,
    /// Values in panels over `head_dim`, units along the key rows.
    pub(crate) values: AlignedBuf<u32>,
    /// The scores of one tile's rows.
    pub(crate) scores: AlignedBuf<f32>,
    /// A tile's products with relative positions.
    pub(crate) band: AlignedBuf<f32>,
    /// A row a key: its products with the relative positions of queries.
    pub(crate) by_key: AlignedBuf<f32>,
    /// The same after the exponential, where activations are bf16.
    pub(crate) weights: AlignedBuf<bf16>,
}

impl Scratch {
    fn new() -> Self {
        Self {
            tile: AlignedBuf::zeroed(ROWS_MAX * COLUMNS_MAX),
            panel: AlignedBuf::zeroed(0),
            operand: Operand::new(),
            attention: AttentionScratch {
                keys: AlignedBuf::zeroed(0),
                values: AlignedBuf::zeroed(0),
                scores: AlignedBuf::zeroed(0),
                band: AlignedBuf::zeroed(0),
                by_key: AlignedBuf::zeroed(0),
                weights: AlignedBuf::zeroed(0),
            },
        }
    }
}
