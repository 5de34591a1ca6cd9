//! The ids of tokens by their content, as `tokenizer.json` has them.

use std::{collections::HashMap, path::Path};

use serde::Deserialize;

use super::{DescribeError, json};

/// A vocabulary of a million entries takes about 40 MB.
const BYTES_MAX: u64 = 128 << 20;

/// Every token with its id.
pub(super) struct Vocabulary {
    ids: HashMap<String, u32>,
    special: SpecialTokens,
}

/// The roles that `tokenizer_config.json` gives to tokens.
#[derive(Default, Deserialize)]
pub(super) struct SpecialTokens {
    #[serde(default)]
    cls_token: Option<Token>,
    #[serde(default)]
    eos_token: Option<Token>,
    #[serde(default)]
    mask_token: Option<Token>,
    #[serde(default)]
    pad_token: Option<Token>,
    #[serde(default)]
    unk_token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Content(String),
    Whole { content: String },
}

#[derive(Deserialize)]
struct Tokenizer {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct Model {
    vocab: Entries,
}

/// With the ids, or with scores in the order of the ids.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entries {
    ById(HashMap<String, u32>),
    Scored(Vec<(String, f64)>),
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

impl Vocabulary {
    pub(super) fn read(dir: &Path) -> Result<Self, DescribeError> {
        let Tokenizer { model, added_tokens } = json::required(&dir.join("tokenizer.json"), BYTES_MAX)?;
        let mut ids = match model.vocab {
            Entries::ById(ids) => ids,
            Entries::Scored(entries) => (0..).zip(entries).map(|(id, (content, _))| (content, id)).collect(),
        };
        ids.extend(added_tokens.into_iter().map(|AddedToken { id, content }| (content, id)));
        let path = dir.join("tokenizer_config.json");
        let special = json::optional(&path, super::TOKENIZER_CONFIG_BYTES_MAX)?.unwrap_or_default();
        Ok(Self { ids, special })
    }

    /// The id of the one token that is exactly `content`.
    pub(super) fn id(&self, content: &str) -> Option<u32> {
        self.ids.get(content).copied()
    }

    /// The token that stands for a word to be guessed.
    pub(super) fn mask(&self) -> Option<u32> {
        self.of(&self.special.mask_token)
    }

    /// Those that begin, end and fill up every text, and the one for what has no token: ascending.
    pub(super) fn without_meaning(&self) -> Vec<u32> {
        let SpecialTokens { cls_token, eos_token, pad_token, unk_token, .. } = &self.special;
        let tokens = [cls_token, eos_token, pad_token, unk_token];
        let mut ids: Vec<_> = tokens.into_iter().filter_map(|token| self.of(token)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn of(&self, token: &Option<Token>) -> Option<u32> {
        let (Token::Content(content) | Token::Whole { content }) = token.as_ref()?;
        self.id(content)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(tokenizer: &Value, config: &Value) -> Result<Vocabulary, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).expect("written");
        std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).expect("written");
        Vocabulary::read(dir.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn both_forms_of_a_vocabulary_are_read() {
        let config = json!({"mask_token": {"content": "<mask>", "lstrip": true}, "cls_token": "<s>",
            "eos_token": "</s>", "pad_token": "<s>", "unk_token": null});
        let scored = json!({"model": {"type": "Unigram", "vocab": [["<s>", 0.0], ["</s>", 0], ["▁a", -1.5]]},
            "added_tokens": [{"id": 7, "content": "<mask>", "special": true}]});
        let by_id = json!({"model": {"vocab": {"<s>": 0, "</s>": 1, "▁a": 2, "<mask>": 7}}});
        for tokenizer in [scored, by_id] {
            let vocabulary = read(&tokenizer, &config).expect("sound");
            assert_eq!(
                (vocabulary.id("▁a"), vocabulary.id("a"), vocabulary.mask()),
                (Some(2), None, Some(7))
            );
            assert_eq!(vocabulary.without_meaning(), [0, 1]);
        }
    }

    #[test]
    fn what_is_no_tokenizer_is_named() {
        let told = |tokenizer: Value| read(&tokenizer, &json!({})).err().expect("not a tokenizer");
        assert!(told(json!({"model": {}})).contains("tokenizer.json: missing field `vocab`"));
        assert!(told(json!({"model": {"vocab": {"a": -1}}})).contains("tokenizer.json: "));
    }
}
