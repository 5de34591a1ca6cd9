//! The `input` of OpenAI and the `inputs` of TEI: a text, texts, a token array or token arrays.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, SeqAccess, Visitor};
use shoal_protocol::message::Input;

/// What a token id may be in JSON.
const TOKEN_ID: &str = "a token id (a whole number from 0 to 4294967295)";

/// The texts of a request in order, or as many of them as its limits allow: what lies beyond is counted and skipped,
/// so that a hostile list costs no memory.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Inputs {
    /// The kept ones.
    pub(super) items: Vec<Input>,
    /// How many were sent.
    pub(super) count: usize,
    /// Token ids that were sent, over all items.
    pub(super) token_ids: usize,
    /// The first item that is a token array.
    pub(super) first_token_array: Option<usize>,
}

impl Inputs {
    /// Unicode characters of the texts.
    pub(super) fn characters(&self) -> usize {
        let characters = |item: &Input| match item {
            Input::Text(text) => text.chars().count(),
            Input::TokenIds(_) => 0,
        };
        self.items.iter().map(characters).sum()
    }

    fn push(&mut self, element: Element, items_max: usize) {
        let item = match element {
            Element::Text(text) => Input::Text(text),
            Element::TokenIds { ids, count } => {
                self.first_token_array.get_or_insert(self.count);
                self.token_ids += count;
                Input::TokenIds(ids)
            }
        };
        self.count += 1;
        if self.items.len() < items_max {
            self.items.push(item);
        }
    }
}

/// Reads [`Inputs`] and keeps at most so many items and token ids.
#[derive(Clone, Copy)]
pub(super) struct InputsSeed {
    pub(super) items_max: usize,
    pub(super) token_ids_max: usize,
}

impl<'de> DeserializeSeed<'de> for InputsSeed {
    type Value = Inputs;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Inputs, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for InputsSeed {
    type Value = Inputs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a list of texts, a token array or a list of token arrays")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Inputs, E> {
        let mut inputs = Inputs::default();
        inputs.push(Element::Text(text.to_owned()), self.items_max);
        Ok(inputs)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Inputs, A::Error> {
        let mut inputs = Inputs::default();
        loop {
            if inputs.count >= self.items_max {
                while elements.next_element::<IgnoredAny>()?.is_some() {
                    inputs.count += 1;
                }
                return Ok(inputs);
            }
            let seed = ElementSeed {
                token_ids_max: self.token_ids_max.saturating_sub(inputs.token_ids),
                numbers: inputs.count == 0,
            };
            match elements.next_element_seed(seed)? {
                None => return Ok(inputs),
                Some(First::Element(element)) => inputs.push(element, self.items_max),
                Some(First::Id(id)) => {
                    let ids = read_ids(Some(id), &mut elements, self.token_ids_max)?;
                    inputs.push(ids, self.items_max);
                    return Ok(inputs);
                }
            }
        }
    }
}

/// One text.
enum Element {
    Text(String),
    TokenIds {
        /// As many as may be kept.
        ids: Vec<u32>,
        /// As many as were sent.
        count: usize,
    },
}

/// An element of the outer list; a number is only sound as its first, and makes the list one token array.
enum First {
    Element(Element),
    Id(u32),
}

struct ElementSeed {
    token_ids_max: usize,
    numbers: bool,
}

impl<'de> DeserializeSeed<'de> for ElementSeed {
    type Value = First;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<First, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ElementSeed {
    type Value = First;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.numbers {
            return write!(f, "a text, a token array or {TOKEN_ID}");
        }
        f.write_str("a text or a token array")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<First, E> {
        Ok(First::Element(Element::Text(text.to_owned())))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<First, E> {
        let unexpected = serde::de::Unexpected::Unsigned(value);
        match u32::try_from(value) {
            Ok(id) if self.numbers => Ok(First::Id(id)),
            _ => Err(E::invalid_value(unexpected, &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut ids: A) -> Result<First, A::Error> {
        read_ids(None, &mut ids, self.token_ids_max).map(First::Element)
    }
}

fn read_ids<'de, A: SeqAccess<'de>>(
    first: Option<u32>,
    elements: &mut A,
    token_ids_max: usize,
) -> Result<Element, A::Error> {
    let mut ids: Vec<u32> = first.into_iter().collect();
    let mut count = ids.len();
    while let Some(id) = elements.next_element_seed(TokenId)? {
        count += 1;
        if ids.len() < token_ids_max {
            ids.push(id);
        }
    }
    Ok(Element::TokenIds { ids, count })
}

struct TokenId;

impl<'de> DeserializeSeed<'de> for TokenId {
    type Value = u32;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u32, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for TokenId {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TOKEN_ID)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u32, E> {
        u32::try_from(value).map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(value), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Inputs, serde_json::Error> {
        let seed = InputsSeed { items_max: 3, token_ids_max: 4 };
        seed.deserialize(&mut serde_json::Deserializer::from_str(json))
    }

    fn text(text: &str) -> Input {
        Input::Text(text.into())
    }

    #[test]
    fn the_four_forms_are_read() {
        assert_eq!(read(r#""a""#).unwrap().items, [text("a")]);
        assert_eq!(read(r#"["a","\u00e9"]"#).unwrap().items, [text("a"), text("é")]);
        let one = read("[1,2,3]").unwrap();
        assert_eq!(one.items, [Input::TokenIds(vec![1, 2, 3])]);
        assert_eq!((one.token_ids, one.first_token_array), (3, Some(0)));
        let mixed = read(r#"["a",[],[7]]"#).unwrap();
        assert_eq!(mixed.items, [text("a"), Input::TokenIds(vec![]), Input::TokenIds(vec![7])]);
        assert_eq!(mixed.first_token_array, Some(1));
        assert_eq!(read("[]").unwrap(), Inputs::default());
    }

    #[test]
    fn what_lies_beyond_the_limits_is_counted_and_not_kept() {
        let many = read(r#"["a","b","c","d",{"x":[]}]"#).unwrap();
        assert_eq!((many.items.len(), many.count), (3, 5));
        let long = read("[[1,2,3],[4,5,6]]").unwrap();
        assert_eq!(long.token_ids, 6);
        assert_eq!(long.items[1], Input::TokenIds(vec![4]));
        assert_eq!(read("[1,2,3,4,5,6]").unwrap().token_ids, 6);
    }

    #[test]
    fn everything_else_is_refused_with_its_place() {
        for (json, words) in [
            ("1", "invalid type: integer `1`, expected a text, a list of texts"),
            ("{}", "invalid type: map"),
            ("null", "invalid type: null"),
            (r#"["a",1]"#, "expected a text or a token array"),
            (r#"[1,"a"]"#, "expected a token id"),
            ("[-1]", "integer `-1`"),
            ("[1,4294967296]", "integer `4294967296`"),
            ("[1e3]", "floating point"),
            ("[[0.5]]", "floating point `0.5`, expected a token id"),
            ("[[1],[[1]]]", "invalid type: sequence"),
            ("[NaN]", "expected value"),
        ] {
            let error = read(json).expect_err(json).to_string();
            assert!(error.contains(words), "{json}: {error}");
            assert!(error.contains("at line 1 column"), "{json}: {error}");
        }
    }
}
