//! Finds the driver and says what devices it has, or why there are none.

use std::ffi::{CStr, c_char, c_int};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use cudarc::driver::sys::{CUdevice, CUdevice_attribute, CUresult, CUuuid};
use libloading::Library;

use super::calls::{self, Code, Unusable};
use super::error::check;

/// Where the driver is: wherever the loader looks, then where distributions, containers and WSL put it.
const PATHS: [&str; 7] = [
    "libcuda.so.1",
    "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "/usr/lib/aarch64-linux-gnu/libcuda.so.1",
    "/usr/lib64/libcuda.so.1",
    "/usr/local/nvidia/lib64/libcuda.so.1",
    "/usr/lib/wsl/lib/libcuda.so.1",
    "/run/opengl-driver/lib/libcuda.so.1",
];

/// The kernels are compiled by CUDA 13.0, whose binaries need a driver that knows it: 580 and newer.
const VERSION_MIN: u32 = 13_000;

/// The library is loaded, has every call that is made, and is initialised. There is one a process.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    version: u32,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaDeviceInfo {
    /// Its number among those that the process may see (`CUDA_VISIBLE_DEVICES`).
    pub ordinal: u32,
    /// As the driver names it; that of a MIG instance has `MIG` in it.
    pub name: String,
    /// As `nvidia-smi -L` prints it.
    pub uuid: String,
    /// Compute capability, before and behind the point.
    pub compute: (u32, u32),
    /// Multiprocessors, of which every one runs blocks.
    pub multiprocessors: u32,
    /// All of its memory.
    pub total_bytes: u64,
}

/// Why no device can be had. Nothing of the driver is in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// No library of that name.
    #[error(
        "libcuda.so.1 not found: NVIDIA's driver 580 or newer brings it, in containers their runtime does ({reason})"
    )]
    Missing {
        /// What the loader said of the first place.
        reason: String,
    },
    /// A library, but of another driver.
    #[error("{path} has no {symbol}: the driver is older than 580, or not NVIDIA's", path = path.display())]
    Symbol {
        /// What was loaded.
        path: PathBuf,
        /// The call that it lacks.
        symbol: &'static str,
    },
    /// Two libraries in one process.
    #[error("{path} is not the libcuda that this process uses already", path = path.display())]
    Ambiguous {
        /// What was loaded.
        path: PathBuf,
    },
    /// A driver that does not know the kernels' binaries.
    #[error("the driver knows CUDA {}.{}, the kernels need 13.0: install driver 580 or newer", found / 1000, found % 1000 / 10)]
    Old {
        /// As `cuDriverGetVersion` counts: 1,000 times the major version.
        found: u32,
    },
    /// The driver does not come up.
    #[error("the driver does not start: {code}{advice}")]
    Start {
        /// Its answer.
        code: String,
        /// What may help, after a colon; or nothing.
        advice: &'static str,
    },
    /// A driver, and no device that the process may see.
    #[error("no device: {reason}")]
    NoDevice {
        /// What hides them, or that there are none.
        reason: String,
    },
}

impl Driver {
    /// Loads the driver from where it usually is. `visible` is the process's `CUDA_VISIBLE_DEVICES`, which the driver reads by
    /// itself; here it only explains why there are no devices.
    ///
    /// # Errors
    /// Why there is none that can be used.
    pub fn load(visible: Option<&str>) -> Result<Self, DriverError> {
        Self::load_from(&PATHS.map(Path::new), visible)
    }

    /// Loads the first library of these that there is.
    ///
    /// # Errors
    /// Why there is none that can be used.
    pub fn load_from(paths: &[&Path], visible: Option<&str>) -> Result<Self, DriverError> {
        let mut reason = None;
        for &path in paths {
            // SAFETY: NVIDIA's library has initialisers that are made to run in any process; a file that somebody else put
            // in its place runs as what it is, like every library of the system.
            match unsafe { Library::new(path) } {
                // Never closed: the driver's threads and the table of calls live as long as the process.
                Ok(library) => return Self::check(path, std::mem::ManuallyDrop::new(library), visible),
                Err(error) => reason = reason.or_else(|| Some(error.to_string())),
            }
        }
        Err(DriverError::Missing { reason: reason.unwrap_or_else(|| "nowhere to look".to_owned()) })
    }

    fn check(
        path: &Path,
        library: std::mem::ManuallyDrop<Library>,
        visible: Option<&str>,
    ) -> Result<Self, DriverError> {
        calls::use_calls_of(&library).map_err(|unusable| match unusable {
            Unusable::Missing(symbol) => DriverError::Symbol { path: path.to_owned(), symbol },
            Unusable::Another => DriverError::Ambiguous { path: path.to_owned() },
        })?;
        // SAFETY: a call without preconditions; calling it again does nothing.
        match unsafe { calls::cuInit(0) } {
            code if code == CUresult::CUDA_ERROR_NO_DEVICE as Code => return Err(no_device(visible)),
            code => started(code)?,
        }
        let mut version: c_int = 0;
        // SAFETY: `version` takes the one number.
        started(unsafe { calls::cuDriverGetVersion(&raw mut version) })?;
        let version = u32::try_from(version).unwrap_or(0);
        if version < VERSION_MIN {
            return Err(DriverError::Old { found: version });
        }
        Ok(Self { version })
    }

    /// The newest CUDA that it knows, as 1,000 times the major and 10 times the minor version.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The devices that the process may see, at least one; `visible` as for [`load`](Self::load).
    ///
    /// # Errors
    /// There is none, or one does not say what it is.
    pub fn devices(&self, visible: Option<&str>) -> Result<Vec<CudaDeviceInfo>, DriverError> {
        let mut count: c_int = 0;
        // SAFETY: `count` takes the one number.
        started(unsafe { calls::cuDeviceGetCount(&raw mut count) })?;
        if count <= 0 {
            return Err(no_device(visible));
        }
        (0..count).map(|ordinal| self.device(ordinal)).collect()
    }

    fn device(self, ordinal: c_int) -> Result<CudaDeviceInfo, DriverError> {
        let device = handle(ordinal)?;
        let mut name: [c_char; 256] = [0; 256];
        // SAFETY: `name` takes as many characters as it says, of which the driver's last is zero.
        started(unsafe { calls::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device) })?;
        // SAFETY: the driver ended the text within the array, which was zero before.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let mut total_bytes = 0;
        // SAFETY: `total_bytes` takes the one number.
        started(unsafe { calls::cuDeviceTotalMem_v2(&raw mut total_bytes, device) })?;
        let mut uuid = CUuuid { bytes: [0; 16] };
        // SAFETY: `uuid` takes the one identifier.
        started(unsafe { calls::cuDeviceGetUuid_v2(&raw mut uuid, device) })?;
        let attribute = |attribute| -> Result<u32, DriverError> {
            let mut value: c_int = 0;
            // SAFETY: `value` takes the one number.
            started(unsafe { calls::cuDeviceGetAttribute(&raw mut value, attribute, device) })?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        Ok(CudaDeviceInfo {
            ordinal: ordinal as u32,
            uuid: uuid_text(&name, uuid.bytes.map(|byte| byte as u8)),
            name,
            compute: (
                attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            total_bytes: total_bytes as u64,
        })
    }
}

/// The driver's handle of a device.
pub(super) fn handle(ordinal: c_int) -> Result<CUdevice, DriverError> {
    let mut device: CUdevice = 0;
    // SAFETY: `device` takes the one handle.
    started(unsafe { calls::cuDeviceGet(&raw mut device, ordinal) })?;
    Ok(device)
}

/// `GPU-` or `MIG-`, then the bytes in groups.
fn uuid_text(name: &str, bytes: [u8; 16]) -> String {
    let mut text = String::from(if name.contains("MIG ") { "MIG" } else { "GPU" });
    for (index, byte) in bytes.iter().enumerate() {
        let dash = if [0, 4, 6, 8, 10].contains(&index) { "-" } else { "" };
        let _ = write!(text, "{dash}{byte:02x}");
    }
    text
}

fn no_device(visible: Option<&str>) -> DriverError {
    let reason = match visible {
        Some(visible) => {
            format!("CUDA_VISIBLE_DEVICES={visible:?} hides all of them, or names none that is there")
        }
        None => "the driver finds none; `nvidia-smi -L` should list it".to_owned(),
    };
    DriverError::NoDevice { reason }
}

/// What the driver says when it comes up (CUDA Driver API, `CUresult`).
fn started(code: Code) -> Result<(), DriverError> {
    const ADVICE: [(CUresult, &str); 3] = [
        (
            CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
            ": the library and the kernel's module are of different versions; restart the machine",
        ),
        (CUresult::CUDA_ERROR_SYSTEM_NOT_READY, ": is the fabric manager running?"),
        (
            CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE,
            ": the compatibility package does not cover this device; remove it from the library path",
        ),
    ];
    check("start", code).map_err(|_| {
        let advice = ADVICE.iter().find(|(known, _)| *known as Code == code).map_or("", |(_, advice)| advice);
        DriverError::Start { code: calls::name(code), advice }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_says_so() {
        let error =
            Driver::load_from(&[Path::new("libshoal-no-driver.so.1")], None).expect_err("there is none");
        assert!(matches!(&error, DriverError::Missing { .. }), "{error}");
        assert!(error.to_string().contains("NVIDIA's driver 580 or newer brings it"), "{error}");
    }

    /// Any library stands for a driver that lacks a call.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_library_without_a_call_is_named_with_it() {
        let path = Path::new("libm.so.6");
        let error = Driver::load_from(&[path], None).expect_err("it is no driver");
        assert_eq!(error, DriverError::Symbol { path: path.to_owned(), symbol: "cuInit" });
    }

    #[test]
    fn why_there_is_no_device_names_what_hides_it() {
        assert!(no_device(Some("7")).to_string().contains("CUDA_VISIBLE_DEVICES=\"7\" hides"));
        assert!(no_device(None).to_string().contains("nvidia-smi -L"));
    }

    #[test]
    fn identifiers_are_those_that_tools_print() {
        let bytes = std::array::from_fn(|index| index as u8 + 0xa0);
        assert_eq!(uuid_text("NVIDIA H200", bytes), "GPU-a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf");
        assert!(uuid_text("NVIDIA H200 MIG 1g.18gb", bytes).starts_with("MIG-a0"));
    }
}
