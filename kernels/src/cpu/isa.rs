//! Instruction sets: which exist, which this machine has, what each can multiply.

use super::error::OpError;
use crate::Dtype;
use std::{fmt, str::FromStr};

/// The instruction set that the CPU kernels of one model use, slowest first.
///
/// It is an argument everywhere, so that every path is tested on one machine; a set that the machine lacks is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CpuIsa {
    /// Plain Rust, whatever the compiler makes of it.
    Portable,
    /// AVX2 with FMA: 8 f32 lanes.
    Avx2,
    /// AVX-512 F, BW, VL, DQ: 16 f32 lanes; bf16 weights are widened to f32 in the kernel.
    Avx512,
    /// AVX-512 with `vdpbf16ps`: bf16 times bf16 into f32.
    Avx512Bf16,
    /// AVX-512 with FP16: f16 times f16 at twice the rate of f32; bf16 weights are widened as with [`Self::Avx512`].
    Avx512Fp16,
}

impl CpuIsa {
    /// Every set, slowest first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Avx512Fp16];

    /// The set that is fastest on this machine.
    ///
    /// `vdpbf16ps` counts only where it runs at the rate of an f32 FMA (AMD since Zen 4). Intel's server cores without AMX
    /// issue one every second cycle, a quarter of the FMA rate: there widening bf16 weights to f32 is twice as fast, and
    /// f16 four times.
    pub fn detect() -> Self {
        let rated = |isa: &Self| *isa != Self::Avx512Bf16 || vendor_is_amd();
        let best = Self::available().filter(rated).last();
        best.unwrap_or(Self::Portable)
    }

    /// The sets that this machine has, slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// Whether this machine has the set.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = || {
            avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
        };
        match self {
            Self::Portable => true,
            Self::Avx2 => avx2(),
            Self::Avx512 => avx512(),
            Self::Avx512Bf16 => avx512() && is_x86_feature_detected!("avx512bf16"),
            Self::Avx512Fp16 => avx512() && is_x86_feature_detected!("avx512fp16"),
        }
    }

    /// Whether this machine has the set.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        self == Self::Portable
    }

    /// Whether weights of this format are offered on the set: f32 everywhere, bf16 wherever it costs no speed against f32,
    /// f16 where it is multiplied.
    pub fn supports(self, dtype: Dtype) -> bool {
        match dtype {
            Dtype::F32 => true,
            Dtype::Bf16 => self >= Self::Avx2,
            Dtype::F16 => self == Self::Avx512Fp16,
            Dtype::I8 => false,
        }
    }

    /// The format that runs fastest on the set.
    pub fn fastest_dtype(self) -> Dtype {
        match self {
            Self::Portable | Self::Avx2 | Self::Avx512 => Dtype::F32,
            Self::Avx512Bf16 => Dtype::Bf16,
            Self::Avx512Fp16 => Dtype::F16,
        }
    }

    /// The format of the activations between ops for weights of this format: bf16 only where the set multiplies it.
    pub fn activation_dtype(self, weights: Dtype) -> Dtype {
        match (self, weights) {
            (Self::Avx512Bf16, Dtype::Bf16) => Dtype::Bf16,
            _ => Dtype::F32,
        }
    }

    /// The name that the command line, the configuration and the answers use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Avx512Fp16 => "avx512-fp16",
        }
    }

    /// Proof that the machine has the set, which the dispatch of kernels asks for.
    pub(crate) fn verified(self) -> Result<VerifiedIsa, OpError> {
        if self.is_available() { Ok(VerifiedIsa(self)) } else { Err(OpError::IsaUnavailable { isa: self }) }
    }
}

/// A [`CpuIsa`] that was found on this machine; only [`CpuIsa::verified`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VerifiedIsa(CpuIsa);

impl VerifiedIsa {
    pub(crate) fn get(self) -> CpuIsa {
        self.0
    }
}

#[cfg(target_arch = "x86_64")]
fn vendor_is_amd() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

#[cfg(not(target_arch = "x86_64"))]
fn vendor_is_amd() -> bool {
    false
}

impl fmt::Display for CpuIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for CpuIsa {
    type Err = ParseIsaError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|isa| isa.name() == text);
        found.ok_or_else(|| ParseIsaError { text: text.to_owned() })
    }
}

/// The text names no instruction set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown instruction set {text:?}: expected portable, avx2, avx512, avx512-bf16 or avx512-fp16")]
pub struct ParseIsaError {
    /// What was given.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for isa in CpuIsa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        assert!("sse2".parse::<CpuIsa>().is_err());
    }

    #[test]
    fn detection_is_available_and_every_machine_has_the_portable_path() {
        assert!(CpuIsa::detect().is_available());
        assert_eq!(CpuIsa::available().next(), Some(CpuIsa::Portable));
    }

    #[test]
    fn bf16_activations_only_where_bf16_is_multiplied() {
        for isa in CpuIsa::ALL {
            let expected = if isa == CpuIsa::Avx512Bf16 { Dtype::Bf16 } else { Dtype::F32 };
            assert_eq!(isa.activation_dtype(Dtype::Bf16), expected);
            assert_eq!(isa.activation_dtype(Dtype::F32), Dtype::F32);
            assert!(isa.supports(Dtype::F32) && !isa.supports(Dtype::I8));
            assert!(isa.supports(isa.fastest_dtype()));
        }
    }
}
