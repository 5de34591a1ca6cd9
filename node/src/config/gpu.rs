//! Devices by the names that people give them, and what is configured of GPUs.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What kind of device is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeviceKind {
    /// Every GPU that can be used, and the CPU beside them; the CPU alone where there is none.
    #[default]
    Auto,
    /// The CPU, even where there is something faster.
    Cpu,
    /// GPUs and nothing else: all of them, or the one of this number.
    Cuda(Option<u32>),
}

/// One device of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceName {
    /// The processor.
    Cpu,
    /// The GPU of this number among those that the process may see.
    Cuda(u32),
}

/// What becomes of a model that GPUs have no kernel for, on a node that has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WithoutKernel {
    /// It is refused, with what is missing.
    #[default]
    Refuse,
    /// The CPU serves it, and its status says why.
    Cpu,
}

/// GPUs and their limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuConfig {
    /// Refuse to start without one.
    pub require: bool,
    /// Bytes of each one's memory that the node takes; `None`: most of what is free.
    pub memory_bytes: Option<u64>,
    /// Bytes of those that are set aside for batches; `None`: an eighth.
    pub batch_bytes: Option<u64>,
    /// Tokens of one batch.
    pub batch_tokens_max: u32,
    /// What becomes of a model that they have no kernel for.
    pub without_kernel: WithoutKernel,
    /// `CUDA_VISIBLE_DEVICES`, which the driver reads by itself: only to explain what it hides.
    pub visible: Option<String>,
    /// Devices of models by name, where one was chosen.
    pub placed: BTreeMap<String, DeviceName>,
}

/// No device is called so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be auto, cpu, cuda (every GPU) or cuda:N (one of them)")]
pub struct ParseDeviceError;

impl FromStr for DeviceKind {
    type Err = ParseDeviceError;

    fn from_str(name: &str) -> Result<Self, ParseDeviceError> {
        match name {
            "auto" => Ok(Self::Auto),
            "cuda" => Ok(Self::Cuda(None)),
            _ => name.parse().map(|device| match device {
                DeviceName::Cpu => Self::Cpu,
                DeviceName::Cuda(number) => Self::Cuda(Some(number)),
            }),
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Auto => f.write_str("auto"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cpu => DeviceName::Cpu.fmt(f),
            Self::Cuda(Some(number)) => DeviceName::Cuda(number).fmt(f),
        }
    }
}

impl FromStr for DeviceName {
    type Err = ParseDeviceError;

    fn from_str(name: &str) -> Result<Self, ParseDeviceError> {
        let number = |number: &str| number.parse::<u16>().ok();
        match name {
            "cpu" => Ok(Self::Cpu),
            _ => name
                .strip_prefix("cuda:")
                .and_then(number)
                .map(|number| Self::Cuda(u32::from(number)))
                .ok_or(ParseDeviceError),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// Bytes as a number, or with a unit: `6GiB`, `512MiB`, `6GB`.
///
/// # Errors
/// What is allowed.
pub fn parse_bytes(text: &str) -> Result<u64, &'static str> {
    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let (number, unit) =
        UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).unwrap_or((text, 1));
    let bytes = number.trim_end().parse().ok().and_then(|number: u64| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes > 0).ok_or("must be a whole number of bytes above 0, such as 6GiB or 512MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_called_as_answers_name_them() {
        for name in ["auto", "cpu", "cuda", "cuda:0", "cuda:17"] {
            assert_eq!(name.parse::<DeviceKind>().expect("a name").to_string(), name);
        }
        for wrong in ["gpu", "cuda:", "cuda:-1", "cuda:99999", "cuda:0 ", "CPU", ""] {
            assert_eq!(wrong.parse::<DeviceKind>(), Err(ParseDeviceError), "{wrong:?}");
        }
    }

    #[test]
    fn bytes_have_units() {
        let all =
            [("6GiB", 6 << 30), ("512 MiB", 512 << 20), ("6GB", 6_000_000_000), ("4096", 4096), ("7B", 7)];
        for (text, bytes) in all {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "GiB", "1.5GiB", "-1", "0", "6 gib", "99999999999GiB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong:?}");
        }
    }
}
