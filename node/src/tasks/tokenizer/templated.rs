//! A query and a text inside of a template, for language models that judge the one by the other.

use shoal_protocol::message::Truncate;

use super::single::Rule;
use super::{ItemFailure, Sequence, TextTokenizer, TokenizedItem};

/// What stands around a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    /// Begins the sequence, and is never cut.
    pub(crate) prefix: String,
    /// Instruction and query: what stands in front of the text.
    pub(crate) head: String,
    /// Ends the sequence, and is never cut.
    pub(crate) suffix: String,
}

impl Template {
    /// Bytes that are read with each text.
    pub(crate) fn bytes(&self) -> usize {
        self.prefix.len() + self.head.len() + self.suffix.len()
    }
}

impl TextTokenizer {
    /// Appends the ids of a text in its template, or says why there are none. The three parts are read apart, as the
    /// reference reads them, so that what is cut is always the text's.
    pub(crate) fn append_templated(
        &self,
        template: &Template,
        text: &str,
        truncate: Truncate,
        ids: &mut Vec<u32>,
    ) -> TokenizedItem {
        match self.templated(template, text, truncate, ids) {
            Ok(item) => item,
            Err(failure) => TokenizedItem::Failed(failure),
        }
    }

    fn templated(
        &self,
        Template { prefix, head, suffix }: &Template,
        text: &str,
        truncate: Truncate,
        ids: &mut Vec<u32>,
    ) -> Result<TokenizedItem, ItemFailure> {
        let [prefix, suffix] = [self.plain_ids(prefix)?, self.plain_ids(suffix)?];
        let content = self.plain_ids(&format!("{head}{text}"))?;
        let room = (self.limits.tokens_max as usize).saturating_sub(prefix.len() + suffix.len());
        if truncate != Truncate::Left || content.len() <= room {
            return Ok(self.append_cut([&prefix, &content, &suffix], self.rule(None, truncate), ids));
        }
        // The instruction and the query stay, and the end of the text. A word takes the space in front of it.
        let head_tokens = self.plain_ids(head.trim_end())?.len().min(room);
        let kept = [&content[..head_tokens], &content[content.len() - (room - head_tokens)..]].concat();
        let item = self.append_cut([&prefix, &kept, &suffix], Rule::whole(self.limits.tokens_max), ids);
        Ok(match item {
            TokenizedItem::Ready(sequence) => TokenizedItem::Ready(Sequence { truncated: true, ..sequence }),
            failed @ TokenizedItem::Failed(_) => failed,
        })
    }
}
