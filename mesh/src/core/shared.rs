//! What the calls of one client learn and spend together.

use std::collections::BTreeMap;

/// Models whose ratio is remembered; the one learnt from least is forgotten for a new one.
const MODELS_MAX: usize = 256;
/// Bytes after which old observations count half: the ratio follows a change of language within a few parts.
const LEARN_BYTES_MAX: u64 = 1 << 20;
/// Before anything is learnt: English text on a WordPiece vocabulary has about 4.4 bytes a token.
const BYTES_PER_TOKEN_FIRST: u64 = 4;
/// Bounds of what can be learnt, in tokens per 16 bytes: 1 (long words, spaces) to 16 (every byte a token).
const TOKENS_PER_16_BYTES: (u64, u64) = (1, 16);
/// Special tokens that an encoder puts around each text.
const SPECIAL_TOKENS: u64 = 2;

/// Retries per first attempt, as a ratio of 100: within the 10-20 % at which retries cannot amplify an outage.
const RETRY_PERCENT: u64 = 15;
/// Retries (in hundredths) that a client may have saved up; also what it starts with, so that a quiet client
/// survives a node's death under a window full of parts.
const RETRY_SAVED_MAX: u64 = 1000;

/// What the calls of one client learn (tokens per byte, by model) and spend (retries) together.
#[derive(Clone, Debug)]
pub struct Shared {
    ratios: BTreeMap<String, Ratio>,
    retry_hundredths: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ratio {
    bytes: u64,
    tokens: u64,
}

impl Default for Shared {
    fn default() -> Self {
        Self { ratios: BTreeMap::new(), retry_hundredths: RETRY_SAVED_MAX }
    }
}

impl Shared {
    /// Tokens that `items` texts of together `bytes` bytes will probably make.
    #[must_use]
    pub fn tokens_estimate(&self, model: &str, bytes: u64, items: u64) -> u64 {
        let text = match self.ratios.get(model) {
            Some(ratio) => {
                let (low, high) = TOKENS_PER_16_BYTES;
                let tokens_per_16 = (ratio.tokens * 16 / ratio.bytes.max(1)).clamp(low, high);
                bytes.saturating_mul(tokens_per_16).div_ceil(16)
            }
            None => bytes.div_ceil(BYTES_PER_TOKEN_FIRST),
        };
        text.saturating_add(items * SPECIAL_TOKENS)
    }

    /// A part was answered: `items` texts of `bytes` bytes made `tokens` tokens, special ones included.
    pub fn learn(&mut self, model: &str, bytes: u64, items: u64, tokens: u64) {
        if bytes == 0 {
            return;
        }
        if !self.ratios.contains_key(model) && self.ratios.len() >= MODELS_MAX {
            let least = self.ratios.iter().min_by_key(|(_, ratio)| ratio.bytes);
            if let Some(name) = least.map(|(name, _)| name.clone()) {
                self.ratios.remove(&name);
            }
        }
        let ratio = match self.ratios.get_mut(model) {
            Some(ratio) => ratio,
            None => self.ratios.entry(model.to_owned()).or_default(),
        };
        // At most a token a byte, whatever a peer claims: tokens never exceed bytes here.
        let tokens = tokens.saturating_sub(items * SPECIAL_TOKENS).min(bytes);
        ratio.bytes = ratio.bytes.saturating_add(bytes);
        ratio.tokens = ratio.tokens.saturating_add(tokens);
        while ratio.bytes > LEARN_BYTES_MAX {
            ratio.bytes /= 2;
            ratio.tokens /= 2;
        }
    }

    /// A first attempt was made: it earns a part of a retry.
    pub(super) fn earn_retry(&mut self) {
        self.retry_hundredths = (self.retry_hundredths + RETRY_PERCENT).min(RETRY_SAVED_MAX);
    }

    /// Takes one retry; `false` where the budget is spent and the failure must be told instead.
    pub(super) fn spend_retry(&mut self) -> bool {
        let left = self.retry_hundredths.checked_sub(100);
        if let Some(left) = left {
            self.retry_hundredths = left;
        }
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_learnt_per_model_and_bounded() {
        let mut shared = Shared::default();
        assert_eq!(shared.tokens_estimate("a", 400, 1), 102);
        for _ in 0..100 {
            shared.learn("a", 100_000, 100, 50_200);
        }
        assert_eq!(shared.tokens_estimate("a", 400, 1), 202);
        assert_eq!(shared.tokens_estimate("b", 400, 1), 102, "another model's own");
        shared.learn("hostile", 16, 1, u64::MAX);
        assert_eq!(shared.tokens_estimate("hostile", 16, 1), 18, "at most a token a byte");
        shared.learn("hostile", u64::MAX, 1, 0);
        assert!(shared.tokens_estimate("hostile", u64::MAX, 1) > 0, "no overflow");
        for model in 0..2 * MODELS_MAX {
            shared.learn(&model.to_string(), 10, 1, 5);
        }
        assert!(shared.ratios.len() <= MODELS_MAX);
        assert!(shared.ratios.contains_key("a"), "the well-known one stays");
    }

    #[test]
    fn retries_are_a_small_share_of_first_attempts() {
        let mut shared = Shared::default();
        let saved = (0..).take_while(|_| shared.spend_retry()).count();
        assert_eq!(saved, 10);
        let mut retries = 0;
        for _ in 0..1000 {
            shared.earn_retry();
            retries += usize::from(shared.spend_retry());
        }
        assert_eq!(retries, 150);
    }
}
