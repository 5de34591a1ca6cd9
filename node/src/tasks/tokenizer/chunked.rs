//! Long texts in chunks: as a sequence each, or as stretches of one sequence.

use std::ops::Range;

use shoal_protocol::ErrorCode;
use shoal_protocol::limits::CHUNKS_PER_ITEM_MAX;
use shoal_protocol::message::{ChunkPlace, Chunking, Truncate};

use super::{ItemFailure, Part, Sequence, Text, TextTokenizer, TokenizedItem};

/// A stretch of a sequence that gets a vector of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenChunk {
    /// Its first token and the one after its last, counted in the sequence.
    pub(crate) tokens: [u32; 2],
    /// Where it stands in the caller's text.
    pub(crate) place: ChunkPlace,
}

/// A text behind its prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prompted<'a> {
    /// The prompt; may be empty.
    pub(crate) prompt: &'a str,
    /// The text.
    pub(crate) text: &'a str,
    /// Both, end to end.
    pub(crate) whole: &'a str,
}

/// Cuts `count` tokens into windows of at most `tokens`, of which each shares `overlap` with the one before it.
fn windows(
    count: usize,
    tokens: usize,
    overlap: u32,
) -> Result<impl ExactSizeIterator<Item = Range<usize>>, ItemFailure> {
    let refused = |message, limit: usize| {
        let tokens = u32::try_from(count).unwrap_or(u32::MAX);
        Err(ItemFailure { code: ErrorCode::InvalidRequest, message, tokens, limit: limit as u32 })
    };
    let step = tokens.saturating_sub(overlap as usize);
    if step < tokens.div_ceil(2) || step == 0 {
        let message = format!("chunks of {tokens} tokens cannot share {overlap}: at most half of them");
        return refused(message, tokens);
    }
    let chunks = 1 + count.saturating_sub(tokens).div_ceil(step);
    if chunks > CHUNKS_PER_ITEM_MAX {
        let message = format!("the text makes {chunks} chunks, and at most {CHUNKS_PER_ITEM_MAX} are made");
        return refused(message, CHUNKS_PER_ITEM_MAX);
    }
    Ok((0..chunks).map(move |window| window * step..count.min(window * step + tokens)))
}

impl TextTokenizer {
    /// Appends a text as one sequence where it fits into a chunk, else as a sequence a chunk, each behind the prompt; or says
    /// why it has none. What becomes of it is appended to `items`.
    pub(crate) fn append_windows(
        &self,
        text: Prompted<'_>,
        chunking: Chunking,
        ids: &mut Vec<u32>,
        items: &mut Vec<TokenizedItem>,
    ) {
        let before = items.len();
        if let Err(failure) = self.windows_of(text, chunking, ids, items) {
            items.truncate(before);
            items.push(TokenizedItem::Failed(failure));
        }
    }

    fn windows_of(
        &self,
        text: Prompted<'_>,
        chunking: Chunking,
        ids: &mut Vec<u32>,
        items: &mut Vec<TokenizedItem>,
    ) -> Result<(), ItemFailure> {
        let (prompt, own) = (self.plain_ids(text.prompt)?, self.plain_ids(text.text)?);
        let framing = self.prefix.len() + prompt.len() + self.suffix.len();
        let room = (self.limits.tokens_max as usize).saturating_sub(framing);
        let tokens = chunking.tokens.map_or(room, |tokens| room.min(tokens as usize));
        if room == 0 {
            let message = "the prompt leaves no room for a chunk".to_owned();
            let (tokens, limit) = (framing as u32, self.limits.tokens_max);
            return Err(ItemFailure { code: ErrorCode::TooLong, message, tokens, limit });
        }
        if own.len() <= tokens {
            items.push(self.append(Text::Plain(text.whole), None, Truncate::Refuse, ids));
            return Ok(());
        }
        self.check_known(&[&self.prefix, &prompt, &own, &self.suffix])?;
        let windows = windows(own.len(), tokens, chunking.overlap)?;
        let of = windows.len() as u32;
        for (index, window) in windows.enumerate() {
            let weight = window.len() as u32;
            let start = ids.len();
            [&self.prefix, &prompt[..], &own[window], &self.suffix].iter().for_each(|part| ids.extend(*part));
            let part = Part { index: index as u32, of, weight };
            items
                .push(TokenizedItem::Ready(Sequence { part, ..Sequence::whole((ids.len() - start) as u32) }));
        }
        Ok(())
    }

    /// Appends a text as one sequence, and where its chunks lie in it to `chunks`. The prompt is in none.
    pub(crate) fn append_chunks(
        &self,
        text: Prompted<'_>,
        chunking: Chunking,
        truncate: Truncate,
        ids: &mut Vec<u32>,
        chunks: &mut Vec<TokenChunk>,
    ) -> TokenizedItem {
        let (sequence, places) = match self.append_with_places(text.whole, truncate, ids) {
            Ok(appended) => appended,
            Err(failure) => return TokenizedItem::Failed(failure),
        };
        let prompt_chars = text.prompt.chars().count() as u32;
        let is_own = |place: &super::TokenPlace| place.end > prompt_chars;
        let Some(first) = places.iter().position(is_own) else {
            return TokenizedItem::Ready(sequence);
        };
        let own = &places[first..];
        let tokens = chunking.tokens.map_or(own.len(), |tokens| tokens as usize);
        let windows = match windows(own.len(), tokens, chunking.overlap) {
            Ok(windows) => windows,
            Err(failure) => {
                ids.truncate(ids.len() - sequence.tokens as usize);
                return TokenizedItem::Failed(failure);
            }
        };
        let count = windows.len() as u32;
        chunks.extend(windows.map(|window| {
            let [from, to] = [window.start, window.end].map(|at| (self.prefix.len() + first + at) as u32);
            let start = own[window.start].start.saturating_sub(prompt_chars);
            let end = own[window].iter().map(|place| place.end - prompt_chars.min(place.end)).max();
            TokenChunk {
                tokens: [from, to],
                place: ChunkPlace { start, end: end.unwrap_or(start).max(start) },
            }
        }));
        TokenizedItem::Ready(Sequence { chunks: count, ..sequence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_every_token_and_share_what_was_asked() {
        let of = |count, tokens, overlap| windows(count, tokens, overlap).map(|all| all.collect::<Vec<_>>());
        assert_eq!(of(10, 4, 0), Ok(vec![0..4, 4..8, 8..10]));
        assert_eq!(of(10, 4, 2), Ok(vec![0..4, 2..6, 4..8, 6..10]));
        let one = |windows: Vec<Range<usize>>| (windows.len(), windows[0].clone());
        assert_eq!(of(4, 4, 2).map(one), Ok((1, 0..4)));
        assert_eq!(of(5, 1, 0).map(|all| all.len()), Ok(5));
        assert_eq!(of(3, 9, 4).map(one), Ok((1, 0..3)));
        assert!(of(10, 4, 3).expect_err("more than half").message.contains("at most half"));
        assert!(of(10, 1, 1).is_err());
        let many = of(CHUNKS_PER_ITEM_MAX + 1, 1, 0).expect_err("too many");
        assert_eq!((many.code, many.limit as usize), (ErrorCode::InvalidRequest, CHUNKS_PER_ITEM_MAX));
        assert!(of(CHUNKS_PER_ITEM_MAX, 1, 0).is_ok());
    }
}
