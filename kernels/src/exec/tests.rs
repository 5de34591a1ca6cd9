//! A lane's memory: nothing is allocated once the largest batch has been seen.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Mutex,
};

use super::*;
use crate::{
    batch::PackedBatch,
    cpu::CpuIsa,
    describe::ModelDescription,
    dtype::{Dtype, DtypePolicy},
    fixture,
    outputs::{OutputSet, Outputs},
};

/// Counts the allocations of each thread of this test binary.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches a thread-local number that needs
// neither allocation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's contract is the same.
        unsafe { System.realloc(start, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const THREADS: usize = 3;

/// The allocations so far of every thread of the lane.
fn allocations(lane: &mut CpuLane) -> [u64; THREADS] {
    let counts = Mutex::new([0; THREADS]);
    lane.workers().team().run(THREADS, &|thread| {
        counts.lock().expect("no thread panics")[thread] = ALLOCATIONS.get();
    });
    counts.into_inner().expect("no thread panics")
}

fn batch(lengths: &[usize]) -> PackedBatch {
    let mut batch = PackedBatch::new();
    let ids = [1, 2, 3, 4, 5, 0, 3, 1].repeat(5);
    lengths.iter().for_each(|&length| batch.push(&ids[..length]));
    batch
}

fn load(isa: CpuIsa, dtype: Dtype) -> CpuModel {
    let dir = fixture::model("", &[]);
    let description = ModelDescription::from_dir(dir.path()).expect("the fixture is covered");
    let options = CpuOptions { isa, dtype: DtypePolicy::Exact(dtype), threads: 1 };
    CpuModel::load(&description, &options, &mut |_, _| {}).expect("the fixture loads")
}

/// Rounds in a row without an allocation that count as the steady state.
const QUIET_ROUNDS: usize = 20;
/// Scratch grows a few times per thread, whenever that thread first gets a larger part; so far fewer than this many
/// rounds can pass before a quiet stretch, whereas one allocation per batch never lets one come.
const ROUNDS_MAX: usize = 100 * QUIET_ROUNDS;

#[test]
fn a_lane_stops_allocating_once_it_has_seen_its_largest_batch() {
    let batches = [batch(&[40; 20]), batch(&[1]), batch(&[7, 40, 3]), batch(&[13; 30])];
    for isa in CpuIsa::available() {
        let formats = [Dtype::F32, Dtype::Bf16, Dtype::F16].into_iter();
        for dtype in formats {
            if !isa.supports(dtype) {
                eprintln!("{isa} does not multiply {dtype}: not run");
                continue;
            }
            let (model, mut lane, mut out) = (load(isa, dtype), CpuLane::new(THREADS), Outputs::new());
            let (mut quiet, mut rounds) = (0, 0);
            while quiet < QUIET_ROUNDS && rounds < ROUNDS_MAX {
                let before = allocations(&mut lane);
                for (batch, threads) in batches.iter().zip([THREADS, THREADS, 1, THREADS]) {
                    lane.run(&model, batch, OutputSet::DENSE, threads, &mut out).expect("the batch fits");
                }
                quiet = if allocations(&mut lane) == before { quiet + 1 } else { 0 };
                rounds += 1;
            }
            assert_eq!(quiet, QUIET_ROUNDS, "{isa} {dtype} still allocates after {rounds} rounds");
        }
    }
}

#[test]
fn counting_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}
