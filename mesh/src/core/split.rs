//! Which texts travel together: a long call is cut into parts of some batches of work each.

use shoal_protocol::limits::{
    LABELS_BYTES_MAX, LABELS_MAX, PROMPT_BYTES_MAX, QUERY_BYTES_MAX, REQUEST_BODY_BYTES_MAX,
    REQUEST_ITEMS_MAX,
};
use shoal_protocol::message::{Input, ItemWork};

use super::shared::Shared;

/// Work in one part: some batches of a small device, about a second of two CPU cores. Larger parts gain nothing and
/// lose more when a node dies; smaller ones pay the request's fixed cost more often.
pub(super) const PART_TOKENS_TARGET: u64 = 8192;
/// Bytes of a request frame that are not items: ids, model and prompt names, decision record, and the largest task.
const FRAME_BYTES_FIXED: usize = 8 * 1024 + QUERY_BYTES_MAX + PROMPT_BYTES_MAX;
/// Bytes that the wire form adds to an item (enum tag, length, offset).
const ITEM_BYTES_FIXED: usize = 16;

const _: () = assert!(
    LABELS_BYTES_MAX + LABELS_MAX * ITEM_BYTES_FIXED <= QUERY_BYTES_MAX + PROMPT_BYTES_MAX,
    "a task of labels is no larger than one with a query"
);

/// Cuts a stream of inputs into parts: at most [`REQUEST_ITEMS_MAX`] items, within the frame's bytes, and about
/// 8192 tokens by the learnt ratio (the client has no tokenizer; the node re-cuts exactly). An item alone may exceed
/// the target; it then travels alone.
#[derive(Debug, Default)]
pub struct Split {
    open: Vec<Input>,
    frame_bytes: usize,
    text_bytes: u64,
    token_ids: u64,
    /// What the model reads for each text.
    work: ItemWork,
}

impl Split {
    /// A split of texts each of which is so much work.
    pub fn of(work: ItemWork) -> Self {
        Self { work, ..Self::default() }
    }

    /// Takes the next input; gives back the part before it when it no longer fits into that.
    pub fn push(&mut self, input: Input, model: &str, shared: &Shared) -> Option<Vec<Input>> {
        let frame_bytes = input.bytes() + ITEM_BYTES_FIXED;
        let (text_bytes, token_ids) = match &input {
            Input::Text(text) => (self.work.bytes(text.len() as u64, 1), 0),
            Input::TokenIds(ids) => (0, ids.len() as u64),
        };
        let tokens = self.token_ids
            + token_ids
            + shared.tokens_estimate(model, self.text_bytes + text_bytes, self.open.len() as u64 + 1);
        let full = self.open.len() >= REQUEST_ITEMS_MAX
            || self.frame_bytes + frame_bytes > REQUEST_BODY_BYTES_MAX as usize - FRAME_BYTES_FIXED
            || tokens > PART_TOKENS_TARGET;
        let part = if full { self.cut() } else { None };
        self.frame_bytes += frame_bytes;
        self.text_bytes += text_bytes;
        self.token_ids += token_ids;
        self.open.push(input);
        part
    }

    /// Ends the open part; `None` where there is none.
    pub fn cut(&mut self) -> Option<Vec<Input>> {
        let part = std::mem::replace(self, Self::of(self.work)).open;
        (!part.is_empty()).then_some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(inputs: impl IntoIterator<Item = Input>) -> Vec<Vec<Input>> {
        let (mut split, shared) = (Split::default(), Shared::default());
        let mut parts: Vec<_> =
            inputs.into_iter().filter_map(|input| split.push(input, "m", &shared)).collect();
        parts.extend(split.cut());
        assert!(split.cut().is_none());
        parts
    }

    #[test]
    fn parts_hold_every_item_once_in_order_within_the_limits() {
        let long = |n: usize| Input::Text("x".repeat(n));
        let inputs: Vec<_> = (0..9000)
            .map(|n| match n % 900 {
                0 => long(2 * 1024 * 1024),
                1..300 => long(n % 97),
                300..310 => Input::TokenIds(vec![7; 3000]),
                _ => Input::Text(String::new()),
            })
            .collect();
        let parts = parts(inputs.clone());
        assert!(parts.len() > 10);
        for part in &parts {
            assert!(!part.is_empty() && part.len() <= REQUEST_ITEMS_MAX);
            let bytes: usize = part.iter().map(|item| item.bytes() + ITEM_BYTES_FIXED).sum();
            assert!(bytes <= REQUEST_BODY_BYTES_MAX as usize - FRAME_BYTES_FIXED);
        }
        assert_eq!(parts.concat(), inputs);
    }

    #[test]
    fn texts_that_are_read_often_travel_in_smaller_parts() {
        let parts_of = |work| {
            let (mut split, shared) = (Split::of(work), Shared::default());
            let texts = (0..200).map(|_| Input::Text("a text of some words".to_owned()));
            texts.filter_map(|input| split.push(input, "m", &shared)).count() + 1
        };
        assert_eq!(parts_of(ItemWork::default()), 1);
        assert!(parts_of(ItemWork { times: 50, bytes_beside: 1000 }) > 4);
    }

    #[test]
    fn one_long_item_travels_alone_and_empty_ones_are_bounded_by_count() {
        let long = Input::TokenIds(vec![1; 100_000]);
        assert_eq!(parts([long.clone(), long]).len(), 2);
        assert_eq!(parts((0..2049).map(|_| Input::Text(String::new()))).len(), 2);
    }
}
