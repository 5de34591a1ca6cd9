//! What the calls of one client learn and spend together.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

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
/// What a lost attempt costs the budget, in hundredths.
const RETRY_LOSS: u64 = 100;
/// What an attempt costs that was refused before anything was computed.
const RETRY_REFUSAL: u64 = 30;
/// Refusals that a client may wait out a second, beside those that its first attempts earn: callers that all wait make
/// none. (Finagle's retry budget has the same floor.)
const WAITS_PER_S: u64 = 10;
/// Hedges per first attempt, as a ratio of 100 (Dean, Barroso 2013 find 2 to 5 % of further load).
const HEDGE_PERCENT: u64 = 2;
/// Hedges (in hundredths) that a client may have saved up.
const HEDGE_SAVED_MAX: u64 = 500;
/// First frames after which their times tell something.
const FIRST_FRAMES_MIN: u32 = 20;
/// First frames after which old ones count half.
const FIRST_FRAMES_MAX: u32 = 1000;
/// An attempt that is heard of later than this share of the others is hedged.
const FIRST_FRAME_PERCENT: u32 = 95;
/// Buckets of first-frame times, two to the octave, from this time to 4 s.
const FIRST_FRAME_BUCKETS: usize = 32;
const FIRST_FRAME_US_MIN: f64 = 64.0;

/// What the calls of one client learn (tokens per byte and the time to the first frame, by model) and spend (retries and
/// hedges) together.
#[derive(Clone, Debug)]
pub struct Shared {
    models: BTreeMap<String, Learnt>,
    retry_hundredths: u64,
    hedge_hundredths: u64,
    wait_hundredths: u64,
    /// Until when the time's part of them is counted.
    waits_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Learnt {
    bytes: u64,
    tokens: u64,
    first_frames: [u32; FIRST_FRAME_BUCKETS],
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            models: BTreeMap::new(),
            retry_hundredths: RETRY_SAVED_MAX,
            hedge_hundredths: 100,
            wait_hundredths: RETRY_SAVED_MAX,
            waits_at: None,
        }
    }
}

impl Shared {
    /// Tokens that `items` texts of together `bytes` bytes will probably make.
    #[must_use]
    pub fn tokens_estimate(&self, model: &str, bytes: u64, items: u64) -> u64 {
        let text = match self.models.get(model).filter(|learnt| learnt.bytes > 0) {
            Some(ratio) => {
                let (low, high) = TOKENS_PER_16_BYTES;
                let tokens_per_16 = (ratio.tokens * 16 / ratio.bytes).clamp(low, high);
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
        let ratio = self.of_model(model);
        // At most a token a byte, whatever a peer claims: tokens never exceed bytes here.
        let tokens = tokens.saturating_sub(items * SPECIAL_TOKENS).min(bytes);
        ratio.bytes = ratio.bytes.saturating_add(bytes);
        ratio.tokens = ratio.tokens.saturating_add(tokens);
        while ratio.bytes > LEARN_BYTES_MAX {
            ratio.bytes /= 2;
            ratio.tokens /= 2;
        }
    }

    fn of_model(&mut self, model: &str) -> &mut Learnt {
        if !self.models.contains_key(model) && self.models.len() >= MODELS_MAX {
            let least = self.models.iter().min_by_key(|(_, learnt)| learnt.bytes);
            if let Some(name) = least.map(|(name, _)| name.clone()) {
                self.models.remove(&name);
            }
        }
        self.models.entry(model.to_owned()).or_default()
    }

    /// An attempt was heard of for the first time, this long after it was sent.
    pub(super) fn learn_first_frame(&mut self, model: &str, after: Duration) {
        let octaves = (after.as_micros() as f64 / FIRST_FRAME_US_MIN).max(1.0).log2();
        let bucket = ((2.0 * octaves) as usize).min(FIRST_FRAME_BUCKETS - 1);
        let frames = &mut self.of_model(model).first_frames;
        frames[bucket] += 1;
        if frames.iter().sum::<u32>() > FIRST_FRAMES_MAX {
            frames.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// How long after its sending an attempt is late; `None` while too little is known.
    pub(super) fn late_after(&self, model: &str) -> Option<Duration> {
        let frames = &self.models.get(model)?.first_frames;
        let all: u32 = frames.iter().sum();
        let rank = all * FIRST_FRAME_PERCENT / 100;
        let mut below = 0;
        let bucket = frames.iter().position(|count| {
            below += count;
            below > rank
        })?;
        // The upper edge of its bucket.
        let us = FIRST_FRAME_US_MIN * ((bucket + 1) as f64 / 2.0).exp2();
        (all >= FIRST_FRAMES_MIN).then(|| Duration::from_micros(us as u64))
    }

    /// A first attempt was made: it earns a part of a retry, of a waited-out refusal, and of a hedge.
    pub(super) fn earn_retry(&mut self) {
        self.retry_hundredths = (self.retry_hundredths + RETRY_PERCENT).min(RETRY_SAVED_MAX);
        self.wait_hundredths = (self.wait_hundredths + RETRY_PERCENT).min(RETRY_SAVED_MAX);
        self.hedge_hundredths = (self.hedge_hundredths + HEDGE_PERCENT).min(HEDGE_SAVED_MAX);
    }

    /// Takes one retry; `false` where the budget is spent and the failure must be told instead.
    pub(super) fn spend_retry(&mut self) -> bool {
        spend(&mut self.retry_hundredths, RETRY_LOSS)
    }

    /// Takes what it costs to ask another node after a refusal; `false` where the refusal must be waited out.
    pub(super) fn spend_refusal(&mut self) -> bool {
        spend(&mut self.retry_hundredths, RETRY_REFUSAL)
    }

    /// Takes what it costs to come again after a refusal that was waited out; `false` where that must wait longer. Apart
    /// from the other retries, so that an overload leaves those that a death needs.
    pub(super) fn spend_wait(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(*self.waits_at.get_or_insert(now));
        let earned = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_mul(WAITS_PER_S) / 10;
        if earned > 0 {
            self.waits_at = Some(now);
            self.wait_hundredths = self.wait_hundredths.saturating_add(earned).min(RETRY_SAVED_MAX);
        }
        spend(&mut self.wait_hundredths, RETRY_LOSS)
    }

    /// Takes one hedge; `false` where the budget is spent.
    pub(super) fn spend_hedge(&mut self) -> bool {
        spend(&mut self.hedge_hundredths, 100)
    }
}

fn spend(saved: &mut u64, cost: u64) -> bool {
    let left = saved.checked_sub(cost);
    *saved = left.unwrap_or(*saved);
    left.is_some()
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
        assert!(shared.models.len() <= MODELS_MAX);
        assert!(shared.models.contains_key("a"), "the well-known one stays");
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

    #[test]
    fn waited_out_refusals_are_a_share_of_first_attempts_and_some_a_second() {
        let (mut shared, start) = (Shared::default(), crate::core::fleet::origin());
        let mut all = |at| (0..).take_while(|_| shared.spend_wait(at)).count();
        assert_eq!((all(start), all(start)), (10, 0), "what was saved");
        let waited: usize = (1..=300).map(|step| all(start + step * Duration::from_millis(33))).sum();
        assert_eq!(waited, 99, "ten a second, however often they are asked for");
        (0..1000).for_each(|_| shared.earn_retry());
        assert_eq!((0..).take_while(|_| shared.spend_wait(start)).count(), 10, "no more than can be saved");
        assert!(shared.spend_retry(), "another's purse");
    }

    #[test]
    fn an_attempt_is_late_where_nineteen_of_twenty_were_heard_of() {
        let mut shared = Shared::default();
        for n in 0..19 {
            assert_eq!(shared.late_after("a"), None, "{n}");
            shared.learn_first_frame("a", Duration::from_millis(1));
        }
        shared.learn_first_frame("a", Duration::from_secs(100));
        shared.learn_first_frame("a", Duration::ZERO);
        let late = shared.late_after("a").expect("enough");
        assert!((1000..1500).contains(&late.as_micros()), "{late:?}");
        for _ in 0..FIRST_FRAMES_MAX {
            shared.learn_first_frame("a", Duration::from_millis(20));
        }
        assert!(shared.late_after("a").expect("enough") > Duration::from_millis(20));
    }

    #[test]
    fn hedges_are_two_in_a_hundred() {
        let mut shared = Shared::default();
        assert!(shared.spend_hedge() && !shared.spend_hedge());
        let mut hedges = 0;
        for _ in 0..1000 {
            shared.earn_retry();
            hedges += usize::from(shared.spend_hedge());
        }
        assert_eq!(hedges, 20);
    }
}
