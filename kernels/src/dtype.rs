//! The number formats that weights are stored in and that kernels compute in.

use std::{fmt, str::FromStr};

/// A storage and compute format. Accumulation is always f32, whatever the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32: 8 exponent bits, 7 mantissa bits.
    Bf16,
    /// 8-bit integers with scales.
    I8,
}

impl Dtype {
    /// Every format, widest first.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::I8];

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 => 1,
        }
    }

    /// The name that the command line, the configuration and the answers use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I8 => "int8",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Dtype {
    type Err = ParseDtypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|dtype| dtype.name() == text);
        found.ok_or_else(|| ParseDtypeError { text: text.to_owned() })
    }
}

/// What the caller asks for; the plan resolves it against the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DtypePolicy {
    /// bf16 where the device multiplies it natively, else f32.
    #[default]
    Auto,
    /// This format or a typed error, never silently another.
    Exact(Dtype),
}

impl fmt::Display for DtypePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Exact(dtype) => dtype.fmt(f),
        }
    }
}

impl FromStr for DtypePolicy {
    type Err = ParseDtypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Exact) }
    }
}

/// The text names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown dtype {text:?}: expected auto, f32, f16, bf16 or int8")]
pub struct ParseDtypeError {
    /// What was given.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for dtype in Dtype::ALL {
            assert_eq!(dtype.to_string().parse(), Ok(dtype));
            assert_eq!(dtype.to_string().parse(), Ok(DtypePolicy::Exact(dtype)));
        }
        assert_eq!("auto".parse(), Ok(DtypePolicy::Auto));
        assert!("auto".parse::<Dtype>().is_err());
        assert!("fp32".parse::<DtypePolicy>().is_err());
    }
}
