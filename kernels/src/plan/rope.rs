//! The frequencies of rotary positions.

use std::{f64::consts::TAU, fmt};

use crate::spec::{Rope, RopeScaling};

/// A table of angles that layers share.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RopePlan {
    /// The angle from one position to the next, for each pair of elements that is turned.
    pub(crate) frequencies: Vec<f64>,
    /// From 0.
    pub(crate) positions: usize,
}

impl RopePlan {
    pub(super) fn new(rope: &Rope, positions: usize) -> Self {
        let Rope { theta, dims, scaling } = *rope;
        let theta = match scaling {
            RopeScaling::Ntk { factor } => theta * factor,
            _ => theta,
        };
        let unscaled = |index: usize| theta.powf(-2.0 * index as f64 / dims as f64);
        let scaled = |frequency: f64| match scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Ntk { factor } => frequency / factor.powf(2.0 / dims as f64),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, tokens_original } => {
                let turns = tokens_original as f64 * frequency / TAU;
                let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let kept = kept.clamp(0.0, 1.0);
                (1.0 - kept) * frequency / factor + kept * frequency
            }
        };
        Self { frequencies: (0..dims / 2).map(unscaled).map(scaled).collect(), positions }
    }
}

impl fmt::Display for RopePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frequencies, positions } = self;
        let [first, last] = [frequencies.first(), frequencies.last()].map(|f| f.copied().unwrap_or(0.0));
        write!(f, "[{positions}, {}] at frequencies {first:.4e} to {last:.4e}", 2 * frequencies.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(theta: f64, scaling: RopeScaling) -> Vec<f64> {
        RopePlan::new(&Rope { theta, dims: 8, scaling }, 16).frequencies
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        let far = found.iter().zip(expected).find(|(a, b)| (*a / *b - 1.0).abs() > 1e-12);
        assert_eq!(far, None, "{found:?} is not {expected:?}");
    }

    #[test]
    fn frequencies_fall_by_powers_of_theta() {
        close(&frequencies(1e4, RopeScaling::None), &[1.0, 0.1, 0.01, 0.001]);
        close(&frequencies(1e4, RopeScaling::Linear { factor: 4.0 }), &[0.25, 0.025, 0.0025, 0.00025]);
    }

    /// The slowest is divided by the factor once by the base, and a little more like all others.
    #[test]
    fn fixed_ntk_stretches_the_base() {
        let all = 2f64.powf(-0.25);
        let expected = [0, 1, 2, 3].map(|index| (2e4f64).powf(-0.25 * f64::from(index)) * all);
        close(&frequencies(1e4, RopeScaling::Ntk { factor: 2.0 }), &expected);
    }

    /// Of 8,192 tokens the first three frequencies make 1,304, 130 and 13 turns, the last 1.3.
    #[test]
    fn llama3_divides_slow_turns_alone() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            tokens_original: 8192,
        };
        let kept = (8.192 / TAU - 1.0) / 3.0;
        let last = 0.001 * ((1.0 - kept) / 8.0 + kept);
        close(&frequencies(1e4, scaling), &[1.0, 0.1, 0.01, last]);
        close(&frequencies(1e8, scaling)[2..], &[1e-4 / 8.0, 1e-6 / 8.0]);
    }
}
