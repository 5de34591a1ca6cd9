//! Register-only loops: the arithmetic rate that a core can reach, which every other figure is a share of.

use super::isa::CpuIsa;
use crate::Dtype;

/// Multiplications that keep the arithmetic units of one core busy and touch no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeakLoop {
    /// Fused multiply-adds of 8 f32.
    F32Avx2,
    /// Fused multiply-adds of 16 f32.
    F32Avx512,
    /// `vdpbf16ps`: 16 sums of two products of bf16.
    Bf16Avx512,
    /// Fused multiply-adds of 32 f16.
    F16Avx512,
    /// `vpdpbusd`: 16 sums of four products of 8-bit integers.
    Int8Avx512,
}

impl PeakLoop {
    /// Every loop.
    pub const ALL: [Self; 5] =
        [Self::F32Avx2, Self::F32Avx512, Self::Bf16Avx512, Self::F16Avx512, Self::Int8Avx512];

    /// The loop whose instruction the tiles of an instruction set use for weights of a format; none for portable code.
    pub fn of(isa: CpuIsa, weights: Dtype) -> Option<Self> {
        match (isa, weights) {
            (CpuIsa::Portable, _) => None,
            (CpuIsa::Avx2, _) => Some(Self::F32Avx2),
            (CpuIsa::Avx512Bf16, Dtype::Bf16) => Some(Self::Bf16Avx512),
            (CpuIsa::Avx512Fp16, Dtype::F16) => Some(Self::F16Avx512),
            _ => Some(Self::F32Avx512),
        }
    }

    /// A short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32Avx2 => "f32 avx2 fma",
            Self::F32Avx512 => "f32 avx512 fma",
            Self::Bf16Avx512 => "bf16 vdpbf16ps",
            Self::F16Avx512 => "f16 avx512 fma",
            Self::Int8Avx512 => "int8 vpdpbusd",
        }
    }

    /// Whether this machine has the instruction.
    pub fn is_available(self) -> bool {
        match self {
            Self::F32Avx2 => CpuIsa::Avx2.is_available(),
            Self::F32Avx512 => CpuIsa::Avx512.is_available(),
            Self::Bf16Avx512 => CpuIsa::Avx512Bf16.is_available(),
            Self::F16Avx512 => CpuIsa::Avx512Fp16.is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Int8Avx512 => CpuIsa::Avx512.is_available() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Int8Avx512 => false,
        }
    }

    /// Operations of one turn, a multiplication and an addition counting as two.
    pub const fn ops_per_turn(self) -> u64 {
        let per_instruction = match self {
            Self::F32Avx2 => 16,
            Self::F32Avx512 => 32,
            Self::Bf16Avx512 | Self::F16Avx512 => 64,
            Self::Int8Avx512 => 128,
        };
        per_instruction * INSTRUCTIONS
    }

    /// Runs `turns` turns on this thread; nothing on a machine without the instruction.
    pub fn run(self, turns: u64) {
        if turns == 0 || !self.is_available() {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::F32Avx2 => x86::f32_avx2(turns),
            Self::F32Avx512 => x86::f32_avx512(turns),
            Self::Bf16Avx512 => x86::bf16_avx512(turns),
            Self::F16Avx512 => x86::f16_avx512(turns),
            Self::Int8Avx512 => x86::int8_avx512(turns),
        }
    }
}

/// Independent sums: more than the latency times the issue width of any core so far.
const INSTRUCTIONS: u64 = 12;

#[cfg(target_arch = "x86_64")]
mod x86 {
    macro_rules! peak {
        ($name:ident, $instruction:literal, $registers:literal) => {
            /// The caller has checked that the machine has the instruction.
            pub(super) fn $name(turns: u64) {
                macro_rules! sum {
                    ($sum:literal) => {
                        concat!($instruction, " ", $registers, $sum, ", ", $registers, "14, ", $registers, "15\n")
                    };
                }
                // SAFETY: the instruction exists (`run` checked); it works on registers that are declared as clobbered; the
                // counter starts above 0 and ends the loop at 0. What the sums hold does not matter.
                unsafe {
                    std::arch::asm!(
                        "2:",
                        sum!(0), sum!(1), sum!(2), sum!(3), sum!(4), sum!(5),
                        sum!(6), sum!(7), sum!(8), sum!(9), sum!(10), sum!(11),
                        "dec {turns}",
                        "jnz 2b",
                        turns = inout(reg) turns => _,
                        out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                        out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                        options(nomem, nostack),
                    );
                }
            }
        };
    }
    peak!(f32_avx2, "vfmadd231ps", "ymm");
    peak!(f32_avx512, "vfmadd231ps", "zmm");
    peak!(bf16_avx512, "vdpbf16ps", "zmm");
    peak!(f16_avx512, "vfmadd231ph", "zmm");
    peak!(int8_avx512, "vpdpbusd", "zmm");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_of_this_machine_ends() {
        for peak in PeakLoop::ALL {
            peak.run(0);
            peak.run(1000);
            assert_eq!(peak.ops_per_turn() % INSTRUCTIONS, 0);
        }
        assert_eq!(PeakLoop::of(CpuIsa::Portable, Dtype::F32), None);
    }
}
