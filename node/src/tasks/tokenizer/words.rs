//! Texts in words, behind the labels that are looked for in them, as GLiNER's reference reads them.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;
use shoal_kernels::SpanTexts;
use shoal_protocol::ErrorCode;
use shoal_protocol::limits::CHUNKS_PER_ITEM_MAX;
use shoal_protocol::message::{ChunkPlace, Truncate};

use super::{ItemFailure, Part, Sequence, TextTokenizer, TokenChunk, TokenizedItem};

/// A word, or anything else that is no space: `\w+(?:[-_]\w+)*|\S` as Python's `re` has it, whose `\w` knows no combining
/// marks and whose `\s` knows four separators of ASCII.
static WORD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"[\p{L}\p{N}_]+(?:[-_][\p{L}\p{N}_]+)*|[^\s\x1c-\x1f]").expect("a sound expression")
});

/// The labels of a request, as words in front of each of its texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LabelPrompt {
    texts: SpanTexts,
    /// The marker and the label for each, then the separator.
    words: Vec<String>,
    labels: usize,
}

impl LabelPrompt {
    pub(crate) fn new(texts: SpanTexts, labels: &[String]) -> Self {
        let marked = labels.iter().flat_map(|label| [texts.marker.clone(), label.clone()]);
        let words = marked.chain([texts.separator.clone()]).collect();
        Self { words, labels: labels.len(), texts }
    }

    /// Bytes that are read with each text.
    pub(crate) fn bytes(&self) -> usize {
        self.words.iter().map(String::len).sum()
    }

    /// The tokens that stand for the labels, in a sequence that begins with them.
    pub(crate) fn label_tokens(&self, ids: &[u32]) -> impl Iterator<Item = u32> {
        let SpanTexts { marker_id, label_offset, .. } = self.texts;
        let marked = (0..).zip(ids).filter(move |(_, id)| **id == marker_id);
        marked.take(self.labels).map(move |(at, _)| at + label_offset)
    }
}

/// The words of a text.
struct Words {
    places: Vec<ChunkPlace>,
    ids: Vec<u32>,
    /// Before which id each word begins, and the last one ends.
    bounds: Vec<usize>,
}

impl Words {
    fn tokens(&self, words: &Range<usize>) -> Range<usize> {
        self.bounds[words.start]..self.bounds[words.end]
    }
}

/// How much of a text is read at once.
#[derive(Clone, Copy)]
struct Room {
    tokens: usize,
    words: usize,
    /// Words that windows share at least.
    span_words: usize,
}

impl Room {
    /// As many words from `first` on as fit: at least one, whether it does or not.
    fn from(self, words: &Words, first: usize) -> Range<usize> {
        let end = words.places.len().min(first + self.words);
        let fits = |last: &usize| *last <= words.bounds[first] + self.tokens;
        let fitting = words.bounds[first + 1..=end].partition_point(fits).max(1);
        first..end.min(first + fitting)
    }

    /// As many as fit up to the end.
    fn to_end(self, words: &Words) -> Range<usize> {
        let count = words.places.len();
        let least = count.saturating_sub(self.words);
        let all = words.ids.len();
        let over = words.bounds[least..count].partition_point(|first| first + self.tokens < all);
        (least + over).min(count.saturating_sub(1))..count
    }

    /// Windows over all words. Each shares a quarter of its words with the next one, and at least as many as the longest span
    /// has, so that each span is in one; but at most half.
    fn windows(self, words: &Words) -> Vec<Range<usize>> {
        let mut windows = vec![self.from(words, 0)];
        while let Some(last) = windows.last().filter(|last| last.end < words.places.len()).cloned() {
            let shared = self.span_words.max(last.len() / 4).min(last.len() / 2);
            windows.push(self.from(words, last.end - shared));
        }
        windows
    }
}

impl TextTokenizer {
    /// The ids of the labels, as they stand in front of every text.
    ///
    /// # Errors
    /// A label that holds a marker would be two, and one of which nothing is left none.
    pub(crate) fn prompt_ids(&self, prompt: &LabelPrompt) -> Result<Vec<u32>, ItemFailure> {
        let words: Vec<&str> = prompt.words.iter().map(String::as_str).collect();
        let ids = self.encode(words, false)?.get_ids().to_vec();
        let marked = ids.iter().filter(|id| **id == prompt.texts.marker_id).count();
        if marked == prompt.labels {
            return Ok(ids);
        }
        let message = format!(
            "the labels are read as {marked} and not as {}: one of them holds {:?}",
            prompt.labels, prompt.texts.marker
        );
        Err(ItemFailure { code: ErrorCode::InvalidRequest, message, tokens: 0, limit: 0 })
    }

    /// Appends a text behind its labels, whose ids are given, as one sequence where the model reads it at once, else as a
    /// sequence a window; or says why it has none. Where its words stand is appended to `chunks`, and what becomes of it to
    /// `items`. A text that may be cut is cut to one window.
    pub(crate) fn append_words(
        &self,
        labels: (&LabelPrompt, &[u32]),
        text: &str,
        truncate: Truncate,
        ids: &mut Vec<u32>,
        chunks: &mut Vec<TokenChunk>,
        items: &mut Vec<TokenizedItem>,
    ) {
        match self.words_of(text).and_then(|words| Ok((self.cut_words(labels, &words, truncate)?, words))) {
            Err(failure) => items.push(TokenizedItem::Failed(failure)),
            Ok((windows, words)) => {
                let of = windows.len() as u32;
                for (index, window) in (0..).zip(windows) {
                    let part = Part { index, of, weight: 1 };
                    let sequence = self.append_window(labels.1, (&words, window), part, ids, chunks);
                    items.push(TokenizedItem::Ready(sequence));
                }
            }
        }
    }

    fn words_of(&self, text: &str) -> Result<Words, ItemFailure> {
        let (mut places, mut words) = (Vec::new(), Vec::new());
        let (mut bytes, mut chars) = (0, 0u32);
        for word in WORD.find_iter(text) {
            let count = |stretch: &str| stretch.chars().count() as u32;
            let start = chars + count(&text[bytes..word.start()]);
            (bytes, chars) = (word.end(), start + count(word.as_str()));
            places.push(ChunkPlace { start, end: chars });
            words.push(word.as_str());
        }
        let encoding = self.encode(words, true)?;
        // The word of each id, and behind the last one none: what the tokenizer leaves nothing of is no word.
        let of_ids = encoding.get_word_ids();
        let starts =
            (0..of_ids.len()).filter(|&at| at == 0 || of_ids[at] != of_ids[at - 1]).collect::<Vec<_>>();
        let place = |&at: &usize| of_ids[at].and_then(|word| places.get(word as usize)).copied();
        let kept = starts.iter().filter_map(place).collect();
        let bounds = starts.iter().copied().chain([of_ids.len()]).collect();
        Ok(Words { places: kept, ids: encoding.get_ids().to_vec(), bounds })
    }

    /// The windows that are read.
    fn cut_words(
        &self,
        (prompt, prompt_ids): (&LabelPrompt, &[u32]),
        words: &Words,
        truncate: Truncate,
    ) -> Result<Vec<Range<usize>>, ItemFailure> {
        let limit = self.limits.tokens_max;
        let framing = self.prefix.len() + prompt_ids.len() + self.suffix.len();
        let refused = |code, message, tokens: usize, limit| {
            Err(ItemFailure { code, message, tokens: u32::try_from(tokens).unwrap_or(u32::MAX), limit })
        };
        if framing >= limit as usize {
            let message = format!("the labels have {framing} tokens, which leaves no room for a text");
            return refused(ErrorCode::TooLong, message, framing, limit);
        }
        self.check_known(&[&self.prefix, prompt_ids, &words.ids, &self.suffix])?;
        let SpanTexts { words_max, span_words_max, .. } = prompt.texts;
        let tokens = limit as usize - framing;
        let room = Room { tokens, words: words_max as usize, span_words: span_words_max as usize };
        if words.places.is_empty() {
            let nothing = 0..0;
            return Ok(vec![nothing]);
        }
        let windows = match truncate {
            Truncate::Refuse => room.windows(words),
            Truncate::Right => vec![room.from(words, 0)],
            Truncate::Left => vec![room.to_end(words)],
        };
        if windows.len() > CHUNKS_PER_ITEM_MAX {
            let message =
                format!("the text is read in {} windows: at most {CHUNKS_PER_ITEM_MAX} are", windows.len());
            return refused(ErrorCode::TooLong, message, words.ids.len(), limit);
        }
        let longest = windows.iter().map(|window| words.tokens(window).len()).max().unwrap_or(0);
        if truncate == Truncate::Refuse && longest > tokens {
            let message = format!("a word of {longest} tokens does not fit behind the labels");
            return refused(ErrorCode::TooLong, message, framing + longest, limit);
        }
        Ok(windows)
    }

    fn append_window(
        &self,
        prompt_ids: &[u32],
        (words, window): (&Words, Range<usize>),
        part: Part,
        ids: &mut Vec<u32>,
        chunks: &mut Vec<TokenChunk>,
    ) -> Sequence {
        let (start, before) = (ids.len(), self.prefix.len() + prompt_ids.len());
        let own = words.tokens(&window);
        // Only a single word that may be cut is longer than the room.
        let room = self.limits.tokens_max as usize - before - self.suffix.len();
        let kept = own.start..own.end.min(own.start + room);
        [&self.prefix, prompt_ids, &words.ids[kept.clone()], &self.suffix]
            .iter()
            .for_each(|part| ids.extend(*part));
        chunks.extend(window.clone().map(|word| {
            let tokens = words.tokens(&(word..word + 1));
            let place = |at: usize| (before + at.min(kept.end) - own.start) as u32;
            TokenChunk { tokens: [place(tokens.start), place(tokens.end)], place: words.places[word] }
        }));
        let is_whole = part.of > 1 || window.len() == words.places.len() && kept.len() == own.len();
        Sequence {
            part,
            truncated: !is_whole,
            chunks: window.len() as u32,
            ..Sequence::whole((ids.len() - start) as u32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_pythons_expression() {
        let words = |text| WORD.find_iter(text).map(|word| word.as_str()).collect::<Vec<_>>();
        assert_eq!(words("New-York_City, 5€ x²½!"), ["New-York_City", ",", "5", "€", "x²½", "!"]);
        assert_eq!(words("a-_b --c_"), ["a-_b", "-", "-", "c_"]);
        // A combining mark is no part of a word, and a separator of ASCII is a space.
        assert_eq!(words("e\u{301}\u{1f}है"), ["e", "\u{301}", "ह", "\u{948}"]);
        assert_eq!(words(" \u{a0}\u{85}\u{1c}"), [""; 0]);
    }

    fn words_of(tokens: &[usize]) -> Words {
        let mut bounds = vec![0];
        bounds.extend(tokens.iter().scan(0, |end, tokens| {
            *end += tokens;
            Some(*end)
        }));
        let places = vec![ChunkPlace { start: 0, end: 1 }; tokens.len()];
        Words { places, ids: vec![0; bounds[tokens.len()]], bounds }
    }

    #[test]
    fn windows_cover_every_span_of_words() {
        let room = Room { tokens: 20, words: 8, span_words: 3 };
        assert_eq!(room.windows(&words_of(&[1; 8])).len(), 1);
        assert_eq!(room.windows(&words_of(&[1; 20])), [0..8, 5..13, 10..18, 15..20]);
        let wide = Room { words: 16, tokens: 99, ..room };
        assert_eq!(wide.windows(&words_of(&[1; 30])), [0..16, 12..28, 24..30], "a quarter");
        let narrow = Room { tokens: 4, ..room };
        assert_eq!(narrow.windows(&words_of(&[1; 7])), [0..4, 2..6, 4..7], "at most half");
        assert_eq!(
            narrow.windows(&words_of(&[2, 0, 9, 0, 1])),
            [0..2, 1..2, 2..3, 3..5],
            "a word too long stands alone"
        );
        assert_eq!(room.to_end(&words_of(&[1; 20])), 12..20);
        assert_eq!(narrow.to_end(&words_of(&[1, 1, 2, 2])), 2..4);
        assert_eq!(narrow.to_end(&words_of(&[1, 9])), 1..2);
    }
}
