//! The real CPU behind a gate: batches stall, panic or take their time when a test says so.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use shoal_kernels::{
    CpuIsa, CpuModel, Dtype, DtypePolicy, ExecError, LoadError, ModelDescription, PackedBatch, PlanError,
};

use crate::actors::backend::{Backend, CpuBackend, Lane};

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

    /// The machine's CPU behind this gate.
    pub(super) fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(GatedBackend { cpu: CpuBackend::new(CpuIsa::detect(), 2), gate: self.clone() })
    }
}

struct GatedBackend {
    cpu: CpuBackend,
    gate: Gate,
}

struct GatedLane {
    lane: Box<dyn Lane>,
    gate: Gate,
}

impl Backend for GatedBackend {
    fn name(&self) -> String {
        self.cpu.name()
    }

    fn dtype(&self, description: &ModelDescription, policy: DtypePolicy) -> Result<Dtype, PlanError> {
        self.cpu.dtype(description, policy)
    }

    fn load(
        &self,
        description: &ModelDescription,
        policy: DtypePolicy,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<CpuModel, LoadError> {
        self.cpu.load(description, policy, progress)
    }

    fn start_lane(&self, threads_max: u16) -> Box<dyn Lane> {
        Box::new(GatedLane { lane: self.cpu.start_lane(threads_max), gate: self.gate.clone() })
    }
}

impl Lane for GatedLane {
    fn run(
        &mut self,
        model: &CpuModel,
        batch: &PackedBatch,
        threads: u16,
        out: &mut Vec<f32>,
    ) -> Result<(), ExecError> {
        self.gate.pass();
        self.lane.run(model, batch, threads, out)
    }
}
