//! A fork-join team: the caller and its workers, which spin a bounded time for the next piece of a forward pass and
//! then sleep.
//!
//! A fork that finds its workers spinning costs well under a microsecond, one that has to wake them some tens; hence the
//! spinning. An idle team costs nothing. Each thread has a share of the items, the same one in every fork of a shape, so
//! that its weights and rows stay in its caches; who is done takes items from the others, so that a worker which the
//! operating system takes away delays one item and not its share.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// The most threads of one team, the caller included.
pub const TEAM_THREADS_MAX: usize = 64;

/// Turns that a worker waits for the next fork before it sleeps: some tens of microseconds.
const WORKER_SPINS_MAX: u32 = 2_000;

/// Turns that the caller waits for its workers before it gives its time slice away between looks.
const JOIN_SPINS_MAX: u32 = 20_000;

/// Keeps what one thread writes off the cache lines that others read.
#[repr(align(128))]
struct Padded<T>(T);

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// What a fork hands to its workers.
struct Shared {
    /// The running task; valid from before a worker's `epoch` rises until `remaining` is 0.
    task: UnsafeCell<Option<*const Task<'static>>>,
    /// Workers that have not finished the running task.
    remaining: Padded<AtomicUsize>,
    /// The first panic of a worker during the running task.
    panic: std::sync::Mutex<Option<Box<dyn Any + Send>>>,
    slots: Box<[Padded<Slot>]>,
    /// The next item of each thread's share.
    next: Box<[Padded<AtomicUsize>]>,
}

/// Where one worker looks for work.
struct Slot {
    /// Rises with every fork that this worker takes part in.
    epoch: AtomicU32,
    asleep: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: `task` is written by the caller only while no worker runs (`remaining` is 0, `Team::run` takes `&mut`), and read
// by a worker only between its epoch's rise (release/acquire) and its decrement of `remaining`.
unsafe impl Sync for Shared {}
// SAFETY: the pointer is to a `Sync` task, used under the protocol above.
unsafe impl Send for Shared {}

/// The caller's thread and `threads_max - 1` workers.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<(Thread, Option<JoinHandle<()>>)>,
}

impl Team {
    /// Starts the workers; `threads_max` counts the caller and is cut to `1..=TEAM_THREADS_MAX`.
    ///
    /// # Panics
    /// When the operating system starts no further thread.
    pub fn new(threads_max: usize) -> Self {
        let workers = threads_max.clamp(1, TEAM_THREADS_MAX) - 1;
        let slot = || Slot {
            epoch: AtomicU32::new(0),
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        };
        let shared = Arc::new(Shared {
            task: UnsafeCell::new(None),
            remaining: Padded(AtomicUsize::new(0)),
            panic: std::sync::Mutex::new(None),
            slots: (0..workers).map(|_| Padded(slot())).collect(),
            next: (0..=workers).map(|_| Padded(AtomicUsize::new(0))).collect(),
        });
        let start = |index: usize| {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("shoal-team-{}", index + 1));
            let handle =
                builder.spawn(move || work(&shared, index)).expect("the system starts a worker thread");
            (handle.thread().clone(), Some(handle))
        };
        let workers = (0..workers).map(start).collect();
        Self { shared, workers }
    }

    /// The threads that a run may use, the caller included.
    pub fn threads_max(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(thread)` once on each of `threads` threads (cut to what the team has), the caller being thread 0,
    /// and returns when all have. A panic of any of them is raised here, after the others have finished.
    pub fn run(&mut self, threads: usize, task: &Task<'_>) {
        let helpers = threads.clamp(1, self.threads_max()) - 1;
        if helpers == 0 {
            return task(0);
        }
        let join = self.fork(helpers, task);
        let own = catch_unwind(AssertUnwindSafe(|| task(0)));
        drop(join);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        let panic = self.shared.panic.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Calls `body(thread, item)` for every item below `items`: each thread its share first, then what is left of others'.
    pub fn for_each(&mut self, threads: usize, items: usize, body: &(dyn Fn(usize, usize) + Sync)) {
        let threads = threads.min(self.threads_max()).min(items);
        if threads <= 1 {
            return (0..items).for_each(|item| body(0, item));
        }
        let shared = Arc::clone(&self.shared);
        let share = |thread: usize| items * thread / threads..items * (thread + 1) / threads;
        for thread in 0..threads {
            // The fork publishes the stores.
            shared.next[thread].0.store(share(thread).start, Ordering::Relaxed);
        }
        self.run(threads, &|thread| {
            for owner in (thread..threads).chain(0..thread) {
                let end = share(owner).end;
                loop {
                    let item = shared.next[owner].0.fetch_add(1, Ordering::Relaxed);
                    if item >= end {
                        break;
                    }
                    body(thread, item);
                }
            }
        });
    }

    fn fork<'a>(&'a mut self, helpers: usize, task: &'a Task<'_>) -> Join<'a> {
        let shared = &*self.shared;
        *shared.panic.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        // SAFETY: no worker runs, so none reads `task`. The lifetime is erased for storage; `Join` keeps the borrow until
        // every worker has finished with it.
        unsafe {
            *shared.task.get() = Some(std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task))
        };
        shared.remaining.0.store(helpers, Ordering::Relaxed);
        for (slot, (thread, _)) in shared.slots.iter().zip(&self.workers).take(helpers) {
            // SeqCst against `work`: either the worker sees the new epoch or we see that it sleeps.
            slot.0.epoch.fetch_add(1, Ordering::SeqCst);
            if slot.0.asleep.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
        Join { remaining: &shared.remaining.0 }
    }
}

/// Waits, on drop, for the workers of one fork.
struct Join<'a> {
    remaining: &'a AtomicUsize,
}

impl Drop for Join<'_> {
    fn drop(&mut self) {
        let mut spins = 0;
        while self.remaining.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < JOIN_SPINS_MAX {
                std::hint::spin_loop();
            } else {
                // The workers compute, or wait for a processor that this thread may hold.
                std::thread::yield_now();
            }
        }
    }
}

/// The life of one worker.
fn work(shared: &Shared, index: usize) {
    let slot = &shared.slots[index].0;
    let mut seen = 0;
    loop {
        wait_for_epoch(slot, seen);
        if slot.stop.load(Ordering::Acquire) {
            return;
        }
        seen = seen.wrapping_add(1);
        // SAFETY: the epoch rose after `task` was written, and stays valid until `remaining` is decremented below.
        let task = unsafe { (*shared.task.get()).map(|task| &*task) };
        let task = task.expect("a fork stores its task before it raises an epoch");
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(index + 1))) {
            let mut first = shared.panic.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            first.get_or_insert(panic);
        }
        shared.remaining.0.fetch_sub(1, Ordering::Release);
    }
}

/// Spins a bounded time, then sleeps, until the epoch differs from `seen`.
fn wait_for_epoch(slot: &Slot, seen: u32) {
    let mut spins = 0;
    while slot.epoch.load(Ordering::Acquire) == seen {
        spins += 1;
        if spins < WORKER_SPINS_MAX {
            std::hint::spin_loop();
            continue;
        }
        slot.asleep.store(true, Ordering::SeqCst);
        if slot.epoch.load(Ordering::SeqCst) == seen {
            std::thread::park();
        }
        slot.asleep.store(false, Ordering::SeqCst);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        for (slot, (thread, handle)) in self.shared.slots.iter().zip(&mut self.workers) {
            slot.0.stop.store(true, Ordering::Release);
            slot.0.epoch.fetch_add(1, Ordering::SeqCst);
            thread.unpark();
            if let Some(handle) = handle.take() {
                // A worker catches the panics of its tasks and has none of its own to report.
                drop(handle.join());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_item_runs_once_on_any_number_of_threads() {
        let mut team = Team::new(4);
        for threads in [1, 2, 3, 4, 9] {
            for items in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
                team.for_each(threads, items, &|thread, item| {
                    assert!(thread < threads.min(4));
                    counts[item].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_run_reaches_each_thread_once_even_after_the_workers_slept() {
        let mut team = Team::new(3);
        for _ in 0..50 {
            let mask = AtomicU64::new(0);
            team.run(3, &|thread| {
                mask.fetch_add(1 << (8 * thread), Ordering::Relaxed);
            });
            assert_eq!(mask.load(Ordering::Relaxed), 0x01_01_01);
            let asleep = || team.shared.slots.iter().all(|slot| slot.0.asleep.load(Ordering::SeqCst));
            while !asleep() {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let mut team = Team::new(2);
        for culprit in [0, 1] {
            let finished = AtomicU32::new(0);
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.run(2, &|thread| {
                    if thread == culprit {
                        panic!("thread {thread}");
                    }
                    finished.fetch_add(1, Ordering::Relaxed);
                });
            }));
            let message = caught.expect_err("the panic is raised");
            assert_eq!(message.downcast_ref::<String>(), Some(&format!("thread {culprit}")));
            assert_eq!(finished.load(Ordering::Relaxed), 1);
            team.run(2, &|_| {});
        }
    }
}
