//! Two texts as one sequence: how a tokenizer's special tokens stand around and between them, and how a pair is cut.

use std::panic::{AssertUnwindSafe, catch_unwind};

use shoal_protocol::ErrorCode;
use shoal_protocol::message::Truncate;
use tokenizers::Tokenizer;

use super::{ItemFailure, Part, Sequence, TextTokenizer, TokenizedItem};

/// The special tokens of a pair, and where its second segment begins.
#[derive(Debug)]
pub(super) struct PairFrame {
    prefix: Vec<u32>,
    middle: Vec<u32>,
    suffix: Vec<u32>,
    /// How many special tokens in front of the second text belong to segment 0, counted from the end of the first
    /// text; `None` where all tokens are of segment 0.
    middle_of_first: Option<usize>,
}

/// Texts that show the frame whatever the vocabulary; the longer one first, which cannot be mistaken for special tokens.
const PROBE: (&str, &str) = ("b a 1", "a 1 b");

impl PairFrame {
    /// The frame of a tokenizer's post-processor; `None` where there is none that can be put around cut texts.
    pub(super) fn of(tokenizer: &Tokenizer, segments: bool) -> Option<Self> {
        let plain = |text: &str| {
            let encoded = catch_unwind(AssertUnwindSafe(|| tokenizer.encode_fast(text, false)));
            Some(encoded.ok()?.ok()?.get_ids().to_vec())
        };
        let framed = |first: &str, second: &str| {
            let encoded = catch_unwind(AssertUnwindSafe(|| tokenizer.encode_fast((first, second), true)));
            let encoding = encoded.ok()?.ok()?;
            Some((encoding.get_ids().to_vec(), encoding.get_type_ids().to_vec()))
        };
        let (first, second) = (plain(PROBE.0)?, plain(PROBE.1)?);
        let (ids, types) = framed(PROBE.0, PROBE.1)?;
        let start = (0..ids.len()).find(|start| ids[*start..].starts_with(&first))?;
        let rest = &ids[start + first.len()..];
        let gap = (0..=rest.len()).find(|gap| rest[*gap..].starts_with(&second))?;
        let frame = Self {
            prefix: ids[..start].to_vec(),
            middle: rest[..gap].to_vec(),
            suffix: rest[gap + second.len()..].to_vec(),
            middle_of_first: match types.iter().position(|id| *id != 0).filter(|_| segments) {
                None => None,
                Some(at) => Some(at.checked_sub(start + first.len()).filter(|at| *at <= gap)?),
            },
        };
        let is_monotone = types.is_sorted() && types.iter().all(|id| *id <= 1);
        // The frame must not depend on the texts, or cutting them before framing would be wrong.
        let again =
            framed("", PROBE.1)?.0 == [&frame.prefix[..], &frame.middle, &second, &frame.suffix].concat();
        (is_monotone && again).then_some(frame)
    }

    fn special(&self) -> usize {
        self.prefix.len() + self.middle.len() + self.suffix.len()
    }
}

/// Of which of two texts tokens are cut.
#[derive(Clone, Copy)]
enum Cut {
    Longest,
    First,
}

/// How many tokens of each text are kept where `room` is left for both: of the longer one is cut until they are equal,
/// then of both, as `longest_first` of the `tokenizers` library does it under Python.
fn kept(first: usize, second: usize, room: usize) -> (usize, usize) {
    if first + second <= room {
        return (first, second);
    }
    let (short, long) = (first.min(second), first.max(second));
    let (short, long) = match room.checked_sub(short) {
        Some(left) if left >= short => (short, left.min(long)),
        _ => (room / 2, room - room / 2),
    };
    if first <= second { (short, long) } else { (long, short) }
}

impl TextTokenizer {
    /// Whether it can put two texts into one sequence.
    pub(crate) fn takes_pairs(&self) -> bool {
        self.pair.is_some()
    }

    /// Ids of a text without special tokens: what [`append_pair`](Self::append_pair) takes as the first of a pair, so that
    /// it is tokenized once for all of its pairs.
    ///
    /// # Errors
    /// The tokenizer cannot read it.
    pub(crate) fn plain_ids(&self, text: &str) -> Result<Vec<u32>, ItemFailure> {
        Ok(self.encode(text, false)?.get_ids().to_vec())
    }

    /// Appends a text as one sequence with each of the hypotheses about it, of which none is cut; or says why there are none.
    pub(crate) fn append_hypotheses(
        &self,
        text: &str,
        hypotheses: &[Box<str>],
        truncate: Truncate,
        ids: &mut Vec<u32>,
        items: &mut Vec<TokenizedItem>,
    ) {
        let before = (ids.len(), items.len());
        let failure = match self.plain_ids(text) {
            Err(failure) => Some(failure),
            Ok(text) => (0u32..).zip(hypotheses).find_map(|(index, hypothesis)| {
                match self.append_pair_cut(&text, hypothesis, Cut::First, truncate, ids) {
                    TokenizedItem::Ready(sequence) => {
                        let part = Part { index, of: hypotheses.len() as u32, weight: 1 };
                        items.push(TokenizedItem::Ready(Sequence { part, ..sequence }));
                        None
                    }
                    TokenizedItem::Failed(failure) => Some(failure),
                }
            }),
        };
        if let Some(failure) = failure {
            ids.truncate(before.0);
            items.truncate(before.1);
            items.push(TokenizedItem::Failed(failure));
        }
    }

    /// Appends the ids of two texts as one sequence, the longer cut first, or says why there are none.
    pub(crate) fn append_pair(
        &self,
        first: &[u32],
        second: &str,
        truncate: Truncate,
        ids: &mut Vec<u32>,
    ) -> TokenizedItem {
        self.append_pair_cut(first, second, Cut::Longest, truncate, ids)
    }

    fn append_pair_cut(
        &self,
        first: &[u32],
        second: &str,
        cut: Cut,
        truncate: Truncate,
        ids: &mut Vec<u32>,
    ) -> TokenizedItem {
        let failed = |code, message, tokens: usize, limit| {
            let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
            TokenizedItem::Failed(ItemFailure { code, message, tokens, limit })
        };
        let Some(frame) = &self.pair else {
            let message = "the model's tokenizer does not put two texts into one sequence".to_owned();
            return failed(ErrorCode::ModelUnsupported, message, 0, 0);
        };
        let encoding = match self.encode(second, false) {
            Ok(encoding) => encoding,
            Err(failure) => return TokenizedItem::Failed(failure),
        };
        let (second, limit) = (encoding.get_ids(), self.limits.tokens_max);
        let tokens = first.len() + second.len() + frame.special();
        if truncate == Truncate::Refuse && tokens > limit as usize {
            let message = format!(
                "the query and the text have {tokens} tokens and the model takes {limit}: shorten them or allow \
                 truncation"
            );
            return failed(ErrorCode::TooLong, message, tokens, limit);
        }
        let Some(room) = (limit as usize).checked_sub(frame.special()) else {
            let message = format!("the special tokens of a pair alone fill the model's {limit} tokens");
            return failed(ErrorCode::ModelUnsupported, message, tokens, limit);
        };
        let (first_kept, second_kept) = match cut {
            Cut::Longest => kept(first.len(), second.len(), room),
            Cut::First if second.len() <= room => (first.len().min(room - second.len()), second.len()),
            Cut::First => {
                let message = "what is asked about a text leaves no room for it".to_owned();
                return failed(ErrorCode::TooLong, message, tokens, limit);
            }
        };
        let (first, second) = match truncate {
            Truncate::Left => (&first[first.len() - first_kept..], &second[second.len() - second_kept..]),
            Truncate::Right | Truncate::Refuse => (&first[..first_kept], &second[..second_kept]),
        };
        let parts = [&frame.prefix[..], first, &frame.middle, second, &frame.suffix];
        if let Err(failure) = self.check_known(&parts) {
            return TokenizedItem::Failed(failure);
        }
        let start = ids.len();
        parts.iter().for_each(|part| ids.extend_from_slice(part));
        // Both are at most `tokens_max`, which is a u32.
        let sent = (ids.len() - start) as u32;
        let of_first = frame.middle_of_first.map(|middle| (frame.prefix.len() + first.len() + middle) as u32);
        TokenizedItem::Ready(Sequence {
            segment_tokens: of_first.unwrap_or(sent),
            truncated: (sent as usize) < tokens,
            ..Sequence::whole(sent)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::tasks::tokenizer::TokenizerLimits;

    /// What `tokenizers` 0.23.3 keeps of a pair under Python. (The crate's 0.23.2 cuts each text to the room first, and
    /// so takes unequal texts for equal ones.)
    #[test]
    fn the_longer_text_is_cut_first() {
        for (first, second, room, expected) in [
            (2, 3, 9, (2, 3)),
            (18, 2, 3, (2, 1)),
            (10, 6, 3, (2, 1)),
            (6, 10, 3, (1, 2)),
            (18, 18, 3, (1, 2)),
            (18, 16, 3, (2, 1)),
            (18, 2, 9, (7, 2)),
            (10, 6, 9, (5, 4)),
            (6, 10, 9, (4, 5)),
            (18, 18, 9, (4, 5)),
            (18, 16, 9, (5, 4)),
            (0, 18, 9, (0, 9)),
            (18, 0, 0, (0, 0)),
        ] {
            assert_eq!(kept(first, second, room), expected, "{first} and {second} in {room}");
        }
    }

    #[test]
    fn pairs_are_framed_as_the_library_does_it() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/bert/mean/tokenizer.json");
        let mut reference = Tokenizer::from_file(&path).expect("a golden tokenizer");
        reference.with_padding(None);
        reference.with_truncation(None).expect("none is sound");
        let limits = TokenizerLimits { tokens_max: 48, vocab_size: 570, lowercase: false, segments: true };
        let ours = TextTokenizer::load(&path, limits).expect("loads");
        for (first, second) in [("", ""), ("", "river"), ("the river", ""), ("river bank", "a river, 1 bank")]
        {
            let expected = reference.encode_fast((first, second), true).expect("reads");
            let first_ids = ours.plain_ids(first).expect("reads");
            let mut ids = vec![7];
            let item = ours.append_pair(&first_ids, second, Truncate::Refuse, &mut ids);
            assert_eq!(ids[1..], *expected.get_ids(), "{first}|{second}");
            let segment_tokens = expected.get_type_ids().iter().filter(|id| **id == 0).count() as u32;
            let tokens = ids.len() as u32 - 1;
            assert_eq!(item, TokenizedItem::Ready(Sequence { segment_tokens, ..Sequence::whole(tokens) }));
        }
    }

    #[test]
    fn a_cut_pair_keeps_its_frame_and_the_end_that_was_asked_for() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/bert/mean/tokenizer.json");
        let limits = TokenizerLimits { tokens_max: 6, vocab_size: 570, lowercase: false, segments: true };
        let tokenizer = TextTokenizer::load(&path, limits).expect("loads");
        let river = "river bank ".repeat(5);
        let query = tokenizer.plain_ids(&river).expect("reads");
        for (truncate, expected) in
            [(Truncate::Right, [2, 398, 134, 3, 398, 3]), (Truncate::Left, [2, 398, 134, 3, 134, 3])]
        {
            let mut ids = Vec::new();
            let item = tokenizer.append_pair(&query, "river bank river bank", truncate, &mut ids);
            assert_eq!(ids, expected);
            let expected = Sequence { segment_tokens: 4, truncated: true, ..Sequence::whole(6) };
            assert_eq!(item, TokenizedItem::Ready(expected));
        }
    }

    #[test]
    fn a_pair_over_the_limit_is_refused_unless_it_may_be_cut() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/bert/mean/tokenizer.json");
        let limits = TokenizerLimits { tokens_max: 8, vocab_size: 570, lowercase: false, segments: false };
        let tokenizer = TextTokenizer::load(&path, limits).expect("loads");
        let query = tokenizer.plain_ids("river river").expect("reads");
        let mut ids = Vec::new();
        let refused = tokenizer.append_pair(&query, "bank bank bank bank", Truncate::Refuse, &mut ids);
        let TokenizedItem::Failed(failure) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((failure.code, failure.limit, ids.len()), (ErrorCode::TooLong, 8, 0));
        let taken = tokenizer.append_pair(&query, "", Truncate::Refuse, &mut ids);
        assert_eq!(taken, TokenizedItem::Ready(Sequence::whole(ids.len() as u32)), "one segment");
    }
}
