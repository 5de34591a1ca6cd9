//! A context: its memory, its streams and events, and what became of it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::CUresult;

use crate::device::{Answer, Struck, device};
use crate::memory::Memory;
use crate::stream::{Stream, Work};
use crate::{DEVICE_BYTES, device::Device};

pub(crate) struct Context {
    pub(crate) ordinal: usize,
    pub(crate) memory: Memory,
    pub(crate) pinned: Memory,
    pub(crate) streams: BTreeMap<u64, Stream>,
    pub(crate) events: BTreeMap<u64, Event>,
    pub(crate) modules: BTreeMap<u64, Vec<&'static str>>,
    pub(crate) functions: BTreeMap<u64, Function>,
    lost: Option<CUresult>,
    is_hung: bool,
}

/// What an event waits for: so many pieces of a stream.
#[derive(Clone, Copy, Default)]
pub(crate) struct Event {
    pub(crate) recorded: Option<(u64, u64)>,
    /// Whether somebody asked since; a first question always comes too early.
    pub(crate) was_asked: bool,
}

pub(crate) struct Function {
    pub(crate) kernel: &'static str,
    pub(crate) shared_bytes_max: u32,
}

/// What a block has without asking for more.
pub(crate) const SHARED_BYTES: u32 = 48 << 10;

static CONTEXTS: Mutex<BTreeMap<u64, Arc<Mutex<Context>>>> = Mutex::new(BTreeMap::new());
/// Handles are numbers, each given out once.
static NEXT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

pub(crate) fn new_handle() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn create(ordinal: usize) -> Answer<u64> {
    if let Some(struck) = device(ordinal)?.strike("cuCtxCreate_v4") {
        return Err(struck.code());
    }
    let context = Context {
        ordinal,
        memory: Memory::default(),
        pinned: Memory::default(),
        streams: BTreeMap::new(),
        events: BTreeMap::new(),
        modules: BTreeMap::new(),
        functions: BTreeMap::new(),
        lost: None,
        is_hung: false,
    };
    let handle = new_handle();
    let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    contexts.insert(handle, Arc::new(Mutex::new(context)));
    CURRENT.set(handle);
    Ok(handle)
}

pub(crate) fn set_current(handle: u64) -> Answer<()> {
    CURRENT.set(handle);
    if handle == 0 { Ok(()) } else { find(handle).map(drop) }
}

/// Whatever the context held is gone, with the work that waits in it.
pub(crate) fn destroy(handle: u64) -> Answer<()> {
    let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let context = contexts.remove(&handle).ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
    drop(contexts);
    let context = context.lock().unwrap_or_else(PoisonError::into_inner);
    device(context.ordinal)?.taken_bytes -= context.memory.bytes();
    Ok(())
}

fn find(handle: u64) -> Answer<Arc<Mutex<Context>>> {
    let contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    contexts.get(&handle).cloned().ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)
}

/// Does one call in the thread's context, unless that is lost or a fault is planned for the call.
pub(crate) fn call<T>(name: &str, work: impl FnOnce(&mut Context, &mut Device) -> Answer<T>) -> Answer<T> {
    let context = find(CURRENT.get())?;
    let mut context = context.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(lost) = context.lost {
        return Err(lost);
    }
    let mut device = device(context.ordinal)?;
    match device.strike(name) {
        Some(Struck::Hung) => context.is_hung = true,
        Some(Struck::Lost(code)) => context.lost = Some(code),
        Some(Struck::Refused(code)) => return Err(code),
        None => {}
    }
    if let Some(lost) = context.lost {
        return Err(lost);
    }
    let answer = work(&mut context, &mut device)?;
    // What ran meanwhile may have failed.
    context.lost.map_or(Ok(answer), Err)
}

impl Struck {
    fn code(self) -> CUresult {
        match self {
            Self::Refused(code) | Self::Lost(code) => code,
            Self::Hung => CUresult::CUDA_ERROR_UNKNOWN,
        }
    }
}

impl Context {
    pub(crate) fn stream(&mut self, handle: u64) -> Answer<&mut Stream> {
        self.streams.get_mut(&handle).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    pub(crate) fn allocate(&mut self, device: &mut Device, bytes: usize) -> Answer<u64> {
        if bytes > DEVICE_BYTES - device.taken_bytes {
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        let address = self.memory.allocate(bytes)?;
        device.taken_bytes += bytes;
        Ok(address)
    }

    /// Puts work behind what waits in a stream; by chance, all of it is done at once.
    pub(crate) fn give(&mut self, device: &mut Device, stream: u64, work: Work) -> Answer<()> {
        self.stream(stream)?.waiting.push_back(work);
        if device.draws_at_once() {
            let all = self.stream(stream)?.given();
            self.run(stream, all);
        }
        Ok(())
    }

    /// Whether so many pieces of a stream are done, after doing those.
    pub(crate) fn run(&mut self, stream: u64, pieces: u64) -> bool {
        loop {
            if self.is_hung || self.lost.is_some() {
                return false;
            }
            // A stream that is no more left nothing to wait for.
            let Some(held) = self.streams.get_mut(&stream) else { return true };
            if held.done >= pieces {
                return true;
            }
            let Some(work) = held.waiting.pop_front() else { return true };
            match work {
                Work::Wait { stream: other, pieces } => {
                    self.run(other, pieces);
                }
                Work::Copy { to, from, bytes } => {
                    // SAFETY: both ranges were held against the blocks of this context when the copy was given, blocks with
                    // work to come are not freed, and pinned memory is the caller's to leave alone until it has waited.
                    unsafe { std::ptr::copy(pointer(from).cast_const(), pointer(to), bytes) };
                }
                Work::Launch(launch) => {
                    // SAFETY: what a launch may touch is the promise of who gave it, as it is for a driver.
                    if let Err(error) = unsafe { launch.run() } {
                        self.fail(&error.0);
                    }
                }
            }
            if let Some(held) = self.streams.get_mut(&stream) {
                held.done += 1;
            }
        }
    }

    /// Pinned memory that work still needs must not go.
    pub(crate) fn check_idle(&mut self, (first, bytes): (u64, usize)) {
        let waiting = self.streams.values().flat_map(|stream| &stream.waiting);
        if !self.is_hung && waiting.into_iter().any(|work| work.touches(first, bytes)) {
            self.fail("pinned memory was freed with copies to come");
        }
    }

    fn fail(&mut self, why: &str) {
        let _ = writeln!(std::io::stderr(), "stand-in device {}: {why}", self.ordinal);
        self.lost = Some(CUresult::CUDA_ERROR_LAUNCH_FAILED);
    }
}

fn pointer(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}
