//! A GPU.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use shoal_kernels::cuda::{CudaDevice, CudaDeviceInfo, DeviceError, Driver};
use shoal_kernels::{
    CudaFit, CudaLane, CudaModel, DtypePolicy, ExecError, LoadError, ModelDescription, OutputSet, Outputs,
    PackedBatch,
};

use super::{Backend, Lane, OpenDevice, Outlook, Shortage, Weights, without_scaling};
use crate::clock;

/// Batches on their way at once: while one is computed, the next is copied in and the results of the last are copied out.
/// Each has a lane, and streams of its own.
pub(crate) const LANES: u16 = 2;
/// What batches get of a budget for which nothing else is configured, in parts …
const BATCH_PARTS: u64 = 8;
/// … and at most.
const BATCH_BYTES_MAX: u64 = 4 << 30;
/// Bytes are given out in whole multiples.
const GRAIN_BYTES: u64 = 256;
/// No batch takes so long: what is still on the device then will not end. The core gives it up long before.
const BATCH_TIME_MAX: Duration = Duration::from_mins(5);
/// Nor does a load, which the core gives up after ten minutes.
const LOAD_TIME_MAX: Duration = Duration::from_mins(15);
/// Questions whether work has ended before the thread rests between two of them: a short batch is over by then.
const QUICK_QUESTIONS: u32 = 256;
/// Rest between two further questions.
const REST: Duration = Duration::from_micros(30);
/// What a former device's threads may take to let go of it before it is opened again beside it.
const FORMER_MAX: Duration = Duration::from_secs(2);
/// Between two looks whether they have.
const FORMER_PERIOD: Duration = Duration::from_millis(2);

/// A GPU with its budget of memory.
pub(crate) struct CudaBackend {
    driver: Driver,
    info: CudaDeviceInfo,
    budget_bytes: u64,
    /// For each lane's batch.
    room_bytes: u64,
    opened: Mutex<Opened>,
    counters: Arc<Counters>,
}

/// What was done for want of memory, by all lives of a device.
#[derive(Default)]
struct Counters {
    batches_cut: AtomicU64,
    refusals: AtomicU64,
}

impl Counters {
    fn note_refusal(&self, error: &DeviceError) {
        if matches!(error, DeviceError::Memory { .. }) {
            self.refusals.fetch_add(1, Ordering::Relaxed);
        }
    }
}

enum Opened {
    /// When it was found; nobody uses it yet.
    AtStart(Arc<CudaDevice>),
    /// It is in use, or was.
    Before(Weak<CudaDevice>),
}

impl CudaBackend {
    /// Opens the device, to see that it can be. It takes `memory_bytes` of its memory, or most of what is free, and sets
    /// `batch_bytes` of those aside for batches, or an eighth.
    ///
    /// # Errors
    /// It cannot be used.
    pub(crate) fn new(
        driver: Driver,
        info: CudaDeviceInfo,
        memory_bytes: Option<u64>,
        batch_bytes: Option<u64>,
    ) -> Result<Self, DeviceError> {
        let device = CudaDevice::open(driver, &info, memory_bytes)?;
        let (budget_bytes, _) = device.memory_bytes();
        let for_batches = batch_bytes.unwrap_or((budget_bytes / BATCH_PARTS).min(BATCH_BYTES_MAX));
        let room_bytes = for_batches.min(budget_bytes) / u64::from(LANES) / GRAIN_BYTES * GRAIN_BYTES;
        let opened = Mutex::new(Opened::AtStart(device));
        Ok(Self {
            driver,
            info,
            budget_bytes,
            room_bytes: room_bytes.max(GRAIN_BYTES),
            opened,
            counters: Arc::default(),
        })
    }

    /// What models may hold of its memory: all but what is set aside for batches.
    pub(crate) fn resident_bytes_max(&self) -> u64 {
        self.budget_bytes.saturating_sub(self.room_bytes * u64::from(LANES))
    }

    /// What it has, for people.
    pub(crate) fn described(&self) -> String {
        let CudaDeviceInfo { uuid, compute: (major, minor), multiprocessors, total_bytes, .. } = &self.info;
        let mib = |bytes: u64| bytes >> 20;
        format!(
            "{uuid}, sm_{major}{minor}, {multiprocessors} multiprocessors; takes {} of {} MiB, {} of these for batches",
            mib(self.budget_bytes),
            mib(*total_bytes),
            mib(self.room_bytes * u64::from(LANES)),
        )
    }

    /// Waits until nobody holds the former device any more: its memory is what the next one needs.
    #[expect(
        clippy::disallowed_methods,
        reason = "a thread of its own looks whether others have let go, each by its end"
    )]
    fn end_former(former: &Weak<CudaDevice>) {
        if let Some(former) = former.upgrade() {
            former.give_up();
        }
        let until = clock::now() + FORMER_MAX;
        while former.strong_count() > 0 && clock::now() < until {
            thread::sleep(FORMER_PERIOD);
        }
    }
}

impl Backend for CudaBackend {
    fn name(&self) -> String {
        format!("cuda:{} {}", self.info.ordinal, self.info.name)
    }

    fn outlook(&self, description: &ModelDescription, policy: DtypePolicy) -> Result<Outlook, LoadError> {
        let CudaFit { dtype, weight_bytes, tokens_max } =
            CudaModel::fit(description, policy, self.room_bytes)?;
        Ok(Outlook { dtype, bytes: weight_bytes, tokens_max })
    }

    fn pools_parts(&self) -> bool {
        false
    }

    fn open(&self) -> Result<Arc<dyn OpenDevice>, DeviceError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let device = match &*opened {
            Opened::AtStart(device) => Arc::clone(device),
            Opened::Before(former) => {
                Self::end_former(former);
                CudaDevice::open(self.driver, &self.info, Some(self.budget_bytes))?
            }
        };
        *opened = Opened::Before(Arc::downgrade(&device));
        Ok(Arc::new(OpenCuda { device, room_bytes: self.room_bytes, counters: Arc::clone(&self.counters) }))
    }

    fn shortage(&self) -> Shortage {
        let [batches_cut, refusals] =
            [&self.counters.batches_cut, &self.counters.refusals].map(|count| count.load(Ordering::Relaxed));
        Shortage { batches_cut, graphs_dropped: 0, refusals }
    }
}

struct OpenCuda {
    device: Arc<CudaDevice>,
    room_bytes: u64,
    counters: Arc<Counters>,
}

impl OpenDevice for OpenCuda {
    fn load(
        &self,
        description: &ModelDescription,
        policy: DtypePolicy,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Weights, LoadError> {
        let mut patience = Patience::new(LOAD_TIME_MAX);
        let mut goes_on = || patience.goes_on();
        let description = without_scaling(description);
        let model = CudaModel::load(&description, &self.device, policy, &mut goes_on, progress);
        let model = model.inspect_err(|error| {
            if let LoadError::Device(error) = error {
                self.counters.note_refusal(error);
            }
        });
        Ok(Weights::Cuda(Arc::new(model?)))
    }

    fn start_lane(&self, _: u16) -> Result<Box<dyn Lane>, ExecError> {
        let lane = CudaLane::new(&self.device, 1, self.room_bytes)?;
        Ok(Box::new(CountedLane { lane, counters: Arc::clone(&self.counters) }))
    }

    fn give_up(&self) -> bool {
        self.device.give_up();
        true
    }
}

struct CountedLane {
    lane: CudaLane,
    counters: Arc<Counters>,
}

impl Lane for CountedLane {
    fn run(
        &mut self,
        model: &Weights,
        batch: &PackedBatch,
        wanted: OutputSet,
        _: u16,
        out: &mut Outputs,
    ) -> Result<(), ExecError> {
        let Weights::Cuda(model) = model else { return Err(ExecError::OtherDevice) };
        let mut patience = Patience::new(BATCH_TIME_MAX);
        let ran = self.lane.run(model, batch, wanted, &mut || patience.goes_on(), out);
        match &ran {
            Ok(parts) if *parts > 1 => drop(self.counters.batches_cut.fetch_add(1, Ordering::Relaxed)),
            Err(ExecError::Room { .. }) => drop(self.counters.refusals.fetch_add(1, Ordering::Relaxed)),
            Ok(_) | Err(_) => {}
        }
        ran.map(drop)
    }
}

/// Asks often at first, then now and then, and not for ever.
struct Patience {
    until: Instant,
    questions: u32,
}

impl Patience {
    fn new(time_max: Duration) -> Self {
        Self { until: clock::now() + time_max, questions: 0 }
    }

    #[expect(clippy::disallowed_methods, reason = "a device tells what has ended only to those who ask")]
    fn goes_on(&mut self) -> bool {
        self.questions = self.questions.saturating_add(1);
        if self.questions < QUICK_QUESTIONS {
            thread::yield_now();
            return true;
        }
        thread::sleep(REST);
        clock::now() < self.until
    }
}
