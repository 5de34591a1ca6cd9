//! Why a device did not do what it was told.

use cudarc::driver::sys::CUresult;

use super::calls::{self, Code};

/// A call of the driver failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The device goes on; what the call was to make is not there.
    #[error("{call}: {code}")]
    Refused {
        /// The driver's call.
        call: &'static str,
        /// Its answer.
        code: String,
    },
    /// The context is gone with all that it held, and every later call fails. Close the device and open it again.
    #[error("the device was lost in {call}: {code}; close it and open it again")]
    Lost {
        /// The driver's call that told so, often not the one that caused it.
        call: &'static str,
        /// Its answer.
        code: String,
    },
    /// Work did not end while its caller was ready to wait. It may still write to the device's memory: close the device and
    /// open it again.
    #[error("the device's work does not end; close it and open it again")]
    Hung,
    /// Nothing was allocated. Free something of this device, or give it a larger budget.
    #[error(
        "{wanted_bytes} bytes do not fit: {free_bytes} of {budget_bytes} bytes are free, {largest_bytes} in one piece"
    )]
    Memory {
        /// What was asked for.
        wanted_bytes: u64,
        /// What is free in all.
        free_bytes: u64,
        /// The largest piece of it.
        largest_bytes: u64,
        /// What the device may hold.
        budget_bytes: u64,
    },
    /// The device has less memory than it was to hold; nothing was opened.
    #[error(
        "{wanted_bytes} bytes of device memory were asked for, {free_bytes} are free; other processes may hold the rest"
    )]
    Budget {
        /// What was asked for.
        wanted_bytes: u64,
        /// What is free.
        free_bytes: u64,
    },
    /// The binaries in this program have no code for the device, which is older than sm_80.
    #[error("{name} is sm_{major}{minor}; kernels are built for sm_80 and newer")]
    Architecture {
        /// The device's name.
        name: String,
        /// Compute capability, before the point.
        major: u32,
        /// And behind it.
        minor: u32,
    },
}

impl DeviceError {
    /// Whether the device must be closed, and perhaps opened again, before anything works on it.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Hung => true,
            Self::Refused { .. } | Self::Memory { .. } | Self::Budget { .. } | Self::Architecture { .. } => {
                false
            }
        }
    }
}

/// Codes after which a context still works (CUDA Driver API, `CUresult`). All others are taken for its end: to open a device
/// anew costs a second, to go on with a corrupted context costs answers.
const HARMLESS: [CUresult; 11] = [
    CUresult::CUDA_ERROR_INVALID_VALUE,
    CUresult::CUDA_ERROR_OUT_OF_MEMORY,
    CUresult::CUDA_ERROR_INVALID_IMAGE,
    CUresult::CUDA_ERROR_INVALID_HANDLE,
    CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
    CUresult::CUDA_ERROR_NOT_FOUND,
    CUresult::CUDA_ERROR_NOT_READY,
    CUresult::CUDA_ERROR_NOT_SUPPORTED,
    CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
    CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND,
    CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
];

/// What the driver answered to a call.
pub(super) fn check(call: &'static str, code: Code) -> Result<(), DeviceError> {
    if code == CUresult::CUDA_SUCCESS as Code {
        return Ok(());
    }
    let name = calls::name(code);
    match HARMLESS.iter().any(|harmless| *harmless as Code == code) {
        true => Err(DeviceError::Refused { call, code: name }),
        false => Err(DeviceError::Lost { call, code: name }),
    }
}
