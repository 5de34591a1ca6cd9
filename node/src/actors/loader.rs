//! A device's loader thread: packs weights and frees them, one at a time, off the request path.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use shoal_kernels::cuda::DeviceError;
use shoal_kernels::{DtypePolicy, LoadError, ModelDescription};
use shoal_protocol::ErrorCode;

use crate::actors::backend::{OpenDevice, Weights};
use crate::clock;
use crate::core::ModelKey;

/// Loads and frees that may wait. The core asks for one load at a time and frees only to make room, so this is
/// never reached unless the loader hangs.
const JOBS_MAX: usize = 1024;

/// Why a model is not resident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoadFailure {
    /// The wire's code.
    pub(crate) code: ErrorCode,
    /// For people.
    pub(crate) reason: Arc<str>,
    /// Whether it did not find a piece of memory that is large enough.
    pub(crate) is_short: bool,
    /// Why the device is of no more use, where it is that.
    pub(crate) lost: Option<DeviceError>,
}

impl LoadFailure {
    fn of(error: &LoadError) -> Self {
        let code = match error {
            LoadError::Isa { .. } | LoadError::Plan(_) | LoadError::Kernel(_) | LoadError::Range { .. } => {
                ErrorCode::ModelUnsupported
            }
            LoadError::Device(_) => ErrorCode::DeviceFailed,
            // Files that changed or lie, and whatever a later version adds: repair them and try again.
            _ => ErrorCode::ModelBroken,
        };
        let lost = match error {
            LoadError::Device(error) if error.is_end() => Some(error.clone()),
            _ => None,
        };
        let is_short = matches!(error, LoadError::Device(DeviceError::Memory { .. }));
        Self { code, reason: error.to_string().into(), is_short, lost }
    }
}

/// What the loader has done.
pub(crate) enum Loaded {
    /// A load ended.
    Model {
        /// Which.
        model: ModelKey,
        /// The model, or why not.
        result: Result<Arc<Weights>, LoadFailure>,
    },
    /// A model's memory was given back.
    Freed {
        /// Which.
        model: ModelKey,
    },
}

enum Job {
    Load { model: ModelKey, description: Arc<ModelDescription>, dtype: DtypePolicy },
    Free { model: ModelKey, weights: Option<Arc<Weights>> },
}

/// The loader takes no more work: it hangs, or its thread is gone. Nothing will be delivered for the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the loader takes no more work")]
pub(crate) struct LoaderStuck;

/// The running loader. Dropping it ends its thread after the load that it does.
#[derive(Debug)]
pub(crate) struct LoaderThread {
    jobs: SyncSender<Job>,
}

impl LoaderThread {
    /// Starts the thread. `deliver` is called on it and must only hand over.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn start(
        device: Arc<dyn OpenDevice>,
        deliver: impl Fn(Loaded) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(JOBS_MAX);
        std::thread::Builder::new().name("loader".to_owned()).spawn(move || {
            for job in queue {
                deliver(match job {
                    Job::Load { model, description, dtype } => {
                        Loaded::Model { model, result: load(&*device, &description, dtype) }
                    }
                    Job::Free { model, weights } => {
                        drop(weights);
                        Loaded::Freed { model }
                    }
                });
            }
        })?;
        Ok(Self { jobs })
    }

    /// Loads a model.
    ///
    /// # Errors
    /// [`LoaderStuck`].
    pub(crate) fn load(
        &self,
        model: ModelKey,
        description: Arc<ModelDescription>,
        dtype: DtypePolicy,
    ) -> Result<(), LoaderStuck> {
        let job = Job::Load { model, description, dtype };
        self.jobs.try_send(job).map_err(|_| LoaderStuck)
    }

    /// Frees a model's memory, which takes milliseconds for a large one.
    ///
    /// # Errors
    /// [`LoaderStuck`]; the memory was freed here instead.
    pub(crate) fn free(&self, model: ModelKey, weights: Option<Arc<Weights>>) -> Result<(), LoaderStuck> {
        let job = Job::Free { model, weights };
        self.jobs.try_send(job).map_err(|_| LoaderStuck)
    }
}

fn load(
    device: &dyn OpenDevice,
    description: &ModelDescription,
    dtype: DtypePolicy,
) -> Result<Arc<Weights>, LoadFailure> {
    let dir = description.dir.display();
    let _stage = tracing::info_span!("load", %dir).entered();
    tracing::info!("loading");
    let started_at = clock::now();
    let mut quarter = 0;
    let mut progress = |done: u64, total: u64| {
        let reached = (done * 4).checked_div(total).unwrap_or(4);
        if reached > quarter {
            quarter = reached;
            tracing::debug!(done, total, "loading");
        }
    };
    let loaded = catch_unwind(AssertUnwindSafe(|| device.load(description, dtype, &mut progress)));
    let result = match loaded {
        Ok(Ok(model)) => Ok(Arc::new(model)),
        Ok(Err(error)) => Err(LoadFailure::of(&error)),
        Err(_) => Err(LoadFailure {
            code: ErrorCode::ModelBroken,
            reason: "packing its weights panicked; the log says where".into(),
            is_short: false,
            lost: None,
        }),
    };
    let elapsed_ms = clock::now().saturating_duration_since(started_at).as_millis();
    match &result {
        Ok(model) => {
            tracing::info!(elapsed_ms, bytes = model.bytes(), dtype = %model.dtype(), "loaded");
        }
        Err(failure) => tracing::warn!(elapsed_ms, reason = %failure.reason, "load failed"),
    }
    result
}
