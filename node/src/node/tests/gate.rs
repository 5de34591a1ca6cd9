//! The real CPU behind a gate: batches stall, panic or take their time when a test says so.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use shoal_kernels::{CpuIsa, CpuLane, ExecError, OutputSet, Outputs, PackedBatch};

use crate::actors::backend::{Backend, CpuBackend, Lane, Weights};

/// What happens to the next batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// It waits until the gate is opened, then runs.
    Stall,
    /// Its lane panics.
    Panic,
}

#[derive(Default)]
struct State {
    acts: VecDeque<Act>,
    stall_all: bool,
    open: bool,
}

/// Decides over batches. Opens for good when it is dropped, so that stalled threads end with their test.
#[derive(Clone, Default)]
pub(super) struct Gate {
    shared: Arc<(Mutex<State>, Condvar)>,
}

/// Opens the gate at the end of a test, however it ends.
pub(super) struct OpenAtEnd(pub(super) Gate);

impl Drop for OpenAtEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

impl Gate {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.shared.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.1.notify_all();
        result
    }

    /// The next batches, one act each; later ones run.
    pub(super) fn next(&self, acts: &[Act]) {
        self.with(|state| state.acts.extend(acts));
    }

    /// Every batch stalls from now on.
    pub(super) fn stall_all(&self, stall: bool) {
        self.with(|state| state.stall_all = stall);
    }

    /// Stalled batches go on, and no further one stalls.
    pub(super) fn open(&self) {
        self.with(|state| state.open = true);
    }

    fn pass(&self) {
        let (lock, changed) = &*self.shared;
        let mut state = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let act = state.acts.pop_front().or(state.stall_all.then_some(Act::Stall));
        match act {
            None => {}
            Some(Act::Panic) => {
                drop(state);
                panic!("a lane that panics on purpose");
            }
            Some(Act::Stall) => {
                while !state.open {
                    state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The machine's CPU with lanes behind this gate.
    pub(super) fn backend(&self) -> Arc<dyn Backend> {
        let gate = self.clone();
        Arc::new(CpuBackend::with_lanes(CpuIsa::detect(), 2, move |threads_max| {
            Box::new(GatedLane { lane: CpuLane::new(usize::from(threads_max)), gate: gate.clone() })
        }))
    }
}

struct GatedLane {
    lane: CpuLane,
    gate: Gate,
}

impl Lane for GatedLane {
    fn run(
        &mut self,
        model: &Weights,
        batch: &PackedBatch,
        wanted: OutputSet,
        threads: u16,
        out: &mut Outputs,
    ) -> Result<(), ExecError> {
        self.gate.pass();
        Lane::run(&mut self.lane, model, batch, wanted, threads, out)
    }
}
