//! The runtime of a command, and how the user ends it.

use std::future::Future;

use tokio::runtime::{Builder, Runtime};

use super::exit::{Exit, Stop};
use crate::config::Machine;

/// Cores for each thread of the runtime. It serves HTTP, or what one command asks: the device, the tokenizers and a
/// serving node's link with its actors have their own threads. On a small machine one thread costs the fewest switches
/// between threads.
const CORES_PER_WORKER: usize = 4;
const WORKERS_MAX: usize = 8;

fn runtime() -> Result<Runtime, Stop> {
    let workers = (Machine::detect().cores / CORES_PER_WORKER).clamp(1, WORKERS_MAX);
    Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("shoal-worker")
        .enable_all()
        .build()
        .map_err(|error| Stop::new(Exit::Unavailable, format!("cannot start threads: {error}")))
}

/// Runs a command to its end, or until the user interrupts it.
pub(super) fn run_interruptible<T>(command: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        tokio::select! {
            // Asked first, so that the signal is caught before the command has done anything.
            biased;
            _ = tokio::signal::ctrl_c() => Err(Stop::silent(Exit::Interrupted)),
            ended = command => ended,
        }
    });
    // A name's lookup runs on a thread that cannot be ended: nobody waits for it.
    runtime.shutdown_background();
    ended
}

/// Runs a command that handles signals itself.
pub(super) fn run_to_end<T>(command: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
    runtime()?.block_on(command)
}
