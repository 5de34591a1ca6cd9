//! What outlasts a context: how much memory is taken, and which faults are planned.

use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use cudarc::driver::sys::CUresult;

use crate::control::Planned;
use crate::{DEVICES, HANG};

/// What a call leaves: its result, or the driver's code.
pub(crate) type Answer<T> = Result<T, CUresult>;

#[derive(Default)]
pub(crate) struct Device {
    pub(crate) taken_bytes: usize,
    /// Decides which work runs before anybody waits for it; 0: none.
    pub(crate) chance: u64,
    /// What was put in and what was found to be done, a letter each, as far as there is room.
    pub(crate) log: Vec<u8>,
    faults: Vec<Fault>,
}

/// The answer of one call to come.
pub(crate) struct Fault {
    pub(crate) call: String,
    /// Calls that still succeed.
    pub(crate) after: u64,
    pub(crate) code: u32,
    /// Whether the context is lost with it.
    pub(crate) is_sticky: bool,
}

/// What a planned fault does to a context.
pub(crate) enum Struck {
    Refused(CUresult),
    Lost(CUresult),
    Hung,
}

static ALL: [Mutex<Device>; DEVICES] =
    [const { Mutex::new(Device { taken_bytes: 0, chance: 0, log: Vec::new(), faults: Vec::new() }) };
        DEVICES];

/// What a process is started with that cannot plan faults by itself: `DEVICE:CALL:AFTER:FAULT` and so on, with commas between.
const FAULTS_VARIABLE: &str = "SHOAL_STANDIN_FAULTS";

fn plan_from_environment() {
    let planned = std::env::var(FAULTS_VARIABLE).unwrap_or_default();
    for fault in planned.split(',').filter(|fault| !fault.is_empty()) {
        let parts: Vec<_> = fault.split(':').collect();
        let &[ordinal, call, after, what] = parts.as_slice() else { panic!("{fault:?} is no fault") };
        let number = |text: &str| text.parse::<u64>().unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        let planned = Planned::named(what).unwrap_or_else(|| panic!("{fault:?}: {what:?} is no fault"));
        let (code, is_sticky) = planned.code();
        let fault = Fault { call: call.to_owned(), after: number(after), code, is_sticky };
        let mut device = ALL[number(ordinal) as usize].lock().unwrap_or_else(PoisonError::into_inner);
        device.plan(fault);
    }
}

/// The device of this number, while no other thread has it.
pub(crate) fn device(ordinal: usize) -> Answer<MutexGuard<'static, Device>> {
    static PLANNED: Once = Once::new();
    PLANNED.call_once(plan_from_environment);
    let device = ALL.get(ordinal).ok_or(CUresult::CUDA_ERROR_INVALID_DEVICE)?;
    Ok(device.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Letters of a log.
const LOG_MAX: usize = 1 << 16;

impl Device {
    /// Remembers what happened.
    pub(crate) fn note(&mut self, letter: u8) {
        if self.log.len() < LOG_MAX {
            self.log.push(letter);
        }
    }

    pub(crate) fn plan(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// What this call meets. A fault strikes once.
    pub(crate) fn strike(&mut self, call: &str) -> Option<Struck> {
        let at = self.faults.iter().position(|fault| fault.call == call)?;
        if self.faults[at].after > 0 {
            self.faults[at].after -= 1;
            return None;
        }
        let Fault { code, is_sticky, .. } = self.faults.remove(at);
        let result = error(code);
        Some(match (code, is_sticky) {
            (HANG, _) => Struck::Hung,
            (_, true) => Struck::Lost(result),
            (_, false) => Struck::Refused(result),
        })
    }

    /// Xorshift (Marsaglia 2003).
    pub(crate) fn draws_at_once(&mut self) -> bool {
        if self.chance == 0 {
            return false;
        }
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance.is_multiple_of(3)
    }
}

/// The codes that tests plan.
fn error(code: u32) -> CUresult {
    const PLANNED: [CUresult; 8] = [
        CUresult::CUDA_ERROR_INVALID_VALUE,
        CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE,
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        CUresult::CUDA_ERROR_LAUNCH_FAILED,
        CUresult::CUDA_ERROR_NO_DEVICE,
    ];
    PLANNED.into_iter().find(|known| *known as u32 == code).unwrap_or(CUresult::CUDA_ERROR_UNKNOWN)
}
