//! Request bodies: a JSON object of known fields, read once, without an intermediate tree.
//!
//! Generous on what is read: unknown fields are skipped (without recursion, whatever their depth), of a field that
//! comes twice the last one counts, `null` is an absent field. Strict on the known fields: an error names the field
//! and the place in the body.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;

use super::error::EdgeError;

/// What a dialect's request body holds.
pub(super) trait Fields {
    /// The fields that it knows.
    const NAMES: &'static [&'static str];

    /// Reads the value of `name`, which is one of [`Self::NAMES`].
    fn read<'de, A: MapAccess<'de>>(&mut self, name: &'static str, map: &mut A) -> Result<(), A::Error>;
}

/// Reads a body into `fields`.
///
/// # Errors
/// [`EdgeError::Json`] with the place in the body and, where one is at fault, the field.
pub(super) fn read_object<F: Fields>(body: &[u8], fields: &mut F) -> Result<(), EdgeError> {
    let mut field = None;
    let mut json = serde_json::Deserializer::from_slice(body);
    let seed = ObjectSeed { fields, field: &mut field };
    seed.deserialize(&mut json).and_then(|()| json.end()).map_err(|error| {
        let syntax = matches!(error.classify(), Category::Syntax | Category::Eof);
        let message = match field {
            _ if syntax => format!("the body is not valid JSON: {error}"),
            Some(name) => format!("`{name}`: {error}"),
            None => format!("the body: {error}"),
        };
        EdgeError::Json { message, param: field.filter(|_| !syntax), syntax }
    })
}

struct ObjectSeed<'a, F> {
    fields: &'a mut F,
    /// The field that is being read, kept for the error.
    field: &'a mut Option<&'static str>,
}

impl<'de, F: Fields> DeserializeSeed<'de> for ObjectSeed<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: Fields> Visitor<'de> for ObjectSeed<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(NameSeed(F::NAMES))? {
            match name {
                Some(name) => {
                    *self.field = Some(name);
                    self.fields.read(name, &mut map)?;
                    *self.field = None;
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// A key, if it is a known one.
struct NameSeed(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().copied().find(|name| *name == key))
    }
}

/// The next value, `None` for `null`.
pub(super) fn optional<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    map: &mut A,
) -> Result<Option<T>, A::Error> {
    map.next_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, Debug)]
    struct Sample {
        size: Option<u32>,
    }

    impl Fields for Sample {
        const NAMES: &'static [&'static str] = &["size"];

        fn read<'de, A: MapAccess<'de>>(&mut self, _: &'static str, map: &mut A) -> Result<(), A::Error> {
            self.size = optional(map)?;
            Ok(())
        }
    }

    fn read(body: &[u8]) -> Result<Sample, EdgeError> {
        let mut sample = Sample::default();
        read_object(body, &mut sample).map(|()| sample)
    }

    #[test]
    fn unknown_fields_are_skipped_and_the_last_of_two_counts() {
        let sample = read(br#" {"size":1,"user":"u","x":[{"y":[null]}],"size":2} "#).unwrap();
        assert_eq!(sample.size, Some(2));
        assert_eq!(read(br#"{"size":null}"#).unwrap().size, None);
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!(r#"{{"x":{}{},"size":3}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read(deep.as_bytes()).unwrap().size, Some(3));
        let known = format!(r#"{{"size":{}"#, "[".repeat(100_000));
        assert!(read(known.as_bytes()).is_err());
    }

    #[test]
    fn errors_name_field_and_place() {
        let cases: [(&[u8], &str, Option<&str>, bool); 9] = [
            (b"", "EOF while parsing", None, true),
            (b"{\"size\":1,}", "trailing comma at line 1 column 11", None, true),
            (b"{\"size\":NaN}", "expected value at line 1 column 9", None, true),
            (b"{\"size\":1} x", "trailing characters", None, true),
            (b"{\"size\":\n-1}", "integer `-1`, expected u32 at line 2", Some("size"), false),
            (b"{\"size\":1e400}", "number out of range", None, true),
            (b"{\"size\":123456789012345678901234567890}", "expected u32", Some("size"), false),
            (b"{\"size\":\"\xff\"}", "invalid unicode code point at line 1", None, true),
            (b"[1]", "invalid type: sequence, expected a JSON object", None, false),
        ];
        for (body, words, at, is_syntax) in cases {
            let Err(EdgeError::Json { message, param, syntax }) = read(body) else {
                panic!("{body:?} was read");
            };
            assert!(message.contains(words), "{message}");
            assert_eq!((param, syntax), (at, is_syntax), "{message}");
        }
    }
}
