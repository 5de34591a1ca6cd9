//! A lane's OS thread: takes one batch, runs it, hands the result back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use shoal_kernels::cuda::DeviceError;
use shoal_kernels::{ExecError, OutputSet, Outputs, PackedBatch};
use shoal_protocol::{BatchId, ErrorCode};

use crate::actors::backend::{Lane, OpenDevice, Weights};
use crate::core::{LaneIndex, RequestError};

/// A batch on its way to a lane.
pub(crate) struct LaneJob {
    /// Names the batch.
    pub(crate) batch: BatchId,
    /// The model; shared with the other lanes.
    pub(crate) model: Arc<Weights>,
    /// The texts.
    pub(crate) packed: PackedBatch,
    /// What its requests want, all together.
    pub(crate) wanted: OutputSet,
    /// Threads to use.
    pub(crate) threads: u16,
}

/// Why a batch has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LaneError {
    /// The forward pass refused the batch. The lane goes on.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// The forward pass panicked. The lane's thread has ended; another must take its place.
    #[error("the forward pass panicked; the lane is replaced")]
    Panicked,
}

impl LaneError {
    /// What the batch's requests are told.
    pub(crate) fn refusal(&self) -> RequestError {
        let code = match self {
            Self::Exec(ExecError::NotFinite { .. }) => ErrorCode::ModelUnsupported,
            Self::Exec(ExecError::Room { .. }) => ErrorCode::TooLong,
            Self::Exec(_) | Self::Panicked => return RequestError::DeviceFailed,
        };
        RequestError::Refused { code, reason: self.to_string().into() }
    }

    /// Why the device is of no more use, where it is that.
    pub(crate) fn lost(&self) -> Option<&DeviceError> {
        match self {
            Self::Exec(ExecError::Device(error)) => error.is_end().then_some(error),
            Self::Exec(_) | Self::Panicked => None,
        }
    }
}

/// A batch on its way back.
pub(crate) struct LaneResult {
    /// The lane.
    pub(crate) lane: LaneIndex,
    /// Names the batch.
    pub(crate) batch: BatchId,
    /// What was wanted, or why not.
    pub(crate) outputs: Result<Outputs, LaneError>,
    /// Given back for its memory.
    pub(crate) packed: PackedBatch,
}

/// A running lane. Dropping it ends its thread after the batch that it runs, if that ever ends: a hung thread cannot
/// be ended, only left behind.
#[derive(Debug)]
pub(crate) struct LaneThread {
    jobs: SyncSender<LaneJob>,
}

/// The lane's thread takes no batch: it has one, or it is gone. A fault of whoever sent it; the batch was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lane takes no batch")]
pub(crate) struct LaneBusy;

impl LaneThread {
    /// Starts the thread and its team. `deliver` is called on it and must only hand over.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn start(
        device: Arc<dyn OpenDevice>,
        lane: LaneIndex,
        threads_max: u16,
        deliver: impl Fn(LaneResult) + Send + 'static,
    ) -> std::io::Result<Self> {
        // One place: the core gives a lane its next batch only after the last came back.
        let (jobs, queue) = sync_channel(1);
        std::thread::Builder::new().name(format!("lane-{}", lane.0)).spawn(move || {
            let runner = device.start_lane(threads_max);
            // What lives longer here would keep a device open that nobody uses.
            drop(device);
            serve(lane, runner, &queue, deliver);
        })?;
        Ok(Self { jobs })
    }

    /// Hands a batch over; never waits.
    ///
    /// # Errors
    /// [`LaneBusy`].
    pub(crate) fn run(&self, job: LaneJob) -> Result<(), LaneBusy> {
        self.jobs.try_send(job).map_err(|_| LaneBusy)
    }
}

fn serve(
    lane: LaneIndex,
    mut runner: Result<Box<dyn Lane>, ExecError>,
    queue: &Receiver<LaneJob>,
    deliver: impl Fn(LaneResult),
) {
    for job in queue {
        let LaneJob { batch, model, packed, wanted, threads } = job;
        // Sent on with the result, so each batch has its own: one allocation a batch.
        let mut outputs = Outputs::new();
        let stage = tracing::debug_span!("compute", batch = batch.0, tokens = packed.tokens(), threads);
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let runner = runner.as_mut().map_err(|error| error.clone())?;
            stage.in_scope(|| runner.run(&model, &packed, wanted, threads, &mut outputs))
        }));
        let outputs = match ran {
            Ok(Ok(())) => Ok(outputs),
            Ok(Err(error)) => Err(LaneError::Exec(error)),
            Err(_) => Err(LaneError::Panicked),
        };
        let panicked = matches!(outputs, Err(LaneError::Panicked));
        // Before the delivery: once the batch is done its model may be evicted, and must not live on here.
        drop(model);
        deliver(LaneResult { lane, batch, outputs, packed });
        if panicked {
            // Its team and workspace are in an unknown state.
            return;
        }
    }
}
