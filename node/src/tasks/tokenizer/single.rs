//! One text as one sequence: how it is framed, cut and filled up.

use shoal_kernels::{Expansion, MultivectorText};
use shoal_protocol::ErrorCode;
use shoal_protocol::message::Truncate;

use super::{ItemFailure, Sequence, TextTokenizer, TokenizedItem};

/// How the ids of one text become a sequence.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    truncate: Truncate,
    /// Of the text with its special tokens, the marker included.
    tokens_max: u32,
    /// Stands behind the first token.
    marker: Option<u32>,
    /// Stands behind the last token.
    expansion: Option<Expansion>,
}

impl TextTokenizer {
    /// For a text that gets a vector a token, where it is told what such a one needs.
    pub(super) fn rule(&self, multivector: Option<&MultivectorText>, truncate: Truncate) -> Rule {
        let Some(text) = multivector else {
            return Rule { truncate, ..Rule::whole(self.limits.tokens_max) };
        };
        let tokens_max = text.tokens_max.min(self.limits.tokens_max);
        Rule { truncate, tokens_max, marker: text.marker, expansion: text.expansion }
    }

    /// Of ids that a caller sends: in their frame, with the marker or without, or bare.
    pub(super) fn append_ids(&self, given: &[u32], rule: Rule, ids: &mut Vec<u32>) -> TokenizedItem {
        let framed = given
            .strip_prefix(self.prefix.as_slice())
            .and_then(|rest| rest.strip_suffix(self.suffix.as_slice()));
        match framed {
            Some(text_ids) => {
                let unmarked = text_ids.strip_prefix(rule.marker.as_slice()).unwrap_or(text_ids);
                self.append_framed(unmarked, rule, ids)
            }
            None => self.append_cut([&[], given, &[]], rule, ids),
        }
    }

    pub(super) fn append_framed(&self, text_ids: &[u32], rule: Rule, ids: &mut Vec<u32>) -> TokenizedItem {
        self.append_cut([&self.prefix, text_ids, &self.suffix], rule, ids)
    }

    /// Cuts the text between its special tokens so that the whole fits the limit; these always stay.
    pub(super) fn append_cut(&self, parts: [&[u32]; 3], rule: Rule, ids: &mut Vec<u32>) -> TokenizedItem {
        match self.cut(parts, rule) {
            Ok(kept) => rule.append([parts[0], kept, parts[2]], kept.len() < parts[1].len(), ids),
            Err(failure) => TokenizedItem::Failed(failure),
        }
    }

    /// What is kept of the text in the middle.
    fn cut<'a>(
        &self,
        [prefix, text_ids, suffix]: [&'a [u32]; 3],
        rule: Rule,
    ) -> Result<&'a [u32], ItemFailure> {
        let Rule { truncate, tokens_max, marker, expansion } = rule;
        let special = prefix.len() + suffix.len() + usize::from(marker.is_some());
        let tokens = text_ids.len() + special;
        let failed = |code, message, limit| {
            Err(ItemFailure { code, message, tokens: u32::try_from(tokens).unwrap_or(u32::MAX), limit })
        };
        let kept = match ((tokens_max as usize).checked_sub(special), truncate) {
            (None, _) => {
                let message = format!("the special tokens alone fill the {tokens_max} tokens of such a text");
                return failed(ErrorCode::ModelUnsupported, message, tokens_max);
            }
            (Some(room), _) if text_ids.len() <= room => text_ids,
            (Some(room), Truncate::Right) => &text_ids[..room],
            (Some(room), Truncate::Left) => &text_ids[text_ids.len() - room..],
            (Some(_), Truncate::Refuse) => {
                let message = format!(
                    "the text has {tokens} tokens and the model takes {tokens_max}: shorten it or allow truncation"
                );
                return failed(ErrorCode::TooLong, message, tokens_max);
            }
        };
        if tokens == 0 {
            let message = "the text has no tokens, so it has no vector".to_owned();
            return failed(ErrorCode::InvalidRequest, message, 0);
        }
        let filler = expansion.map(|expansion| expansion.token);
        self.check_known(&[prefix, kept, suffix, marker.as_slice(), filler.as_slice()])?;
        Ok(kept)
    }

    /// The model has an embedding for every id of the parts of a sequence.
    pub(super) fn check_known(&self, parts: &[&[u32]]) -> Result<(), ItemFailure> {
        let vocab_size = self.limits.vocab_size;
        let Some(id) = parts.iter().copied().flatten().find(|id| **id >= vocab_size) else {
            return Ok(());
        };
        let tokens = parts.iter().map(|part| part.len()).sum::<usize>();
        Err(ItemFailure {
            code: ErrorCode::InvalidRequest,
            message: format!("token id {id} is outside of the model's vocabulary of {vocab_size}"),
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
            limit: vocab_size,
        })
    }
}

impl Rule {
    /// Of a text that is not cut and to which nothing is added.
    pub(super) const fn whole(tokens_max: u32) -> Self {
        Self { truncate: Truncate::Refuse, tokens_max, marker: None, expansion: None }
    }

    /// Puts the parts end to end, the marker behind the first token and what fills the text up behind the last.
    fn append(self, parts: [&[u32]; 3], truncated: bool, ids: &mut Vec<u32>) -> TokenizedItem {
        let start = ids.len();
        parts.into_iter().for_each(|part| ids.extend_from_slice(part));
        if let Some(marker) = self.marker {
            ids.insert((start + 1).min(ids.len()), marker);
        }
        // At most `tokens_max`, which is a u32, as is what an expansion fills up to.
        let own = (ids.len() - start) as u32;
        let (mut tokens, mut seen) = (own, own);
        if let Some(Expansion { token, tokens: filled, attended }) = self.expansion {
            tokens = own.max(filled);
            ids.resize(start + tokens as usize, token);
            seen = if attended { tokens } else { own };
        }
        TokenizedItem::Ready(Sequence { seen, truncated, ..Sequence::whole(tokens) })
    }
}
