//! What models of late interaction (ColBERT, Khattab and Zaharia 2020) want of their texts.
//!
//! Three layouts say it: PyLate's, that of sentence-transformers 6, and Stanford's (`artifact.metadata`). Where they leave
//! something open, it is what sentence-transformers takes them to mean.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{DescribeError, json, vocabulary::Vocabulary};

/// How queries and documents are prepared for a model that gives one vector per token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MultivectorTexts {
    /// Of what is looked for.
    pub query: MultivectorText,
    /// Of where it is looked for.
    pub document: MultivectorText,
}

impl MultivectorTexts {
    /// How long texts with tokens that no other sees may become; 0 where there are none.
    pub(crate) fn unseen_up_to(&self) -> usize {
        let unseen = |text: &MultivectorText| text.expansion.filter(|expansion| !expansion.attended);
        let tokens = [&self.query, &self.document].map(|text| unseen(text).map_or(0, |own| own.tokens));
        tokens.into_iter().max().unwrap_or(0) as usize
    }

    /// Nothing is added and nothing left out.
    pub(super) fn plain(tokens_max: u32) -> Self {
        let text = MultivectorText { tokens_max, ..MultivectorText::default() };
        Self { query: text.clone(), document: text }
    }
}

/// How a text is prepared for a model that gives one vector per token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MultivectorText {
    /// The token that is inserted behind the first one of every text.
    pub marker: Option<u32>,
    /// The longest text in tokens, special tokens and the marker included.
    pub tokens_max: u32,
    /// Tokens that get no vector, though the others see them: ascending ids.
    pub skipped: Vec<u32>,
    /// What a text is filled up with, behind its last token.
    pub expansion: Option<Expansion>,
}

/// Further tokens, with vectors of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// The token.
    pub token: u32,
    /// Up to so many tokens in all; a longer text gets none.
    pub tokens: u32,
    /// Whether they are seen by any token; else they see the text and are seen by none.
    pub attended: bool,
}

/// What ColBERT skips where nothing is told: `string.punctuation` of Python.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
/// As long as a ColBERT query is where nothing is told.
const QUERY_TOKENS: u32 = 32;

/// PyLate's keys in `config_sentence_transformers.json`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct PylateConfig {
    #[serde(default)]
    query_prefix: Option<String>,
    #[serde(default)]
    document_prefix: Option<String>,
    #[serde(default)]
    query_length: Option<u32>,
    #[serde(default)]
    document_length: Option<u32>,
    #[serde(default)]
    attend_to_expansion_tokens: bool,
    #[serde(default)]
    skiplist_words: Option<Vec<String>>,
    #[serde(default)]
    do_query_expansion: Option<bool>,
}

impl PylateConfig {
    pub(super) fn texts(self, dir: &Path, tokens_max: u32) -> Result<MultivectorTexts, DescribeError> {
        let words = self.skiplist_words.unwrap_or_else(punctuation);
        let expands = self.do_query_expansion != Some(false);
        let length = self.query_length.unwrap_or(QUERY_TOKENS);
        let wants = Wants {
            query_marker: self.query_prefix,
            document_marker: self.document_prefix,
            query_tokens: Some(length),
            document_tokens: self.document_length,
            expansion: expands.then_some((None, length, self.attend_to_expansion_tokens)),
            skipped: words,
            skipping: Skipping::DOCUMENTS,
        };
        wants.resolve(dir, tokens_max)
    }
}

fn punctuation() -> Vec<String> {
    PUNCTUATION.chars().map(String::from).collect()
}

/// Stanford's `artifact.metadata`.
#[derive(Default, Deserialize)]
struct Artifact {
    #[serde(default)]
    query_token_id: Option<String>,
    #[serde(default)]
    doc_token_id: Option<String>,
    #[serde(default)]
    query_maxlen: Option<u32>,
    #[serde(default)]
    doc_maxlen: Option<u32>,
    #[serde(default)]
    mask_punctuation: Option<bool>,
    #[serde(default)]
    attend_to_mask_tokens: bool,
}

/// Whether `config.json` names Stanford's class, which is an encoder of its `model_type` with a projection.
pub(super) fn is_stanford(config: &Value) -> bool {
    config.pointer("/architectures/0").and_then(Value::as_str) == Some("HF_ColBERT")
}

/// Of a model in Stanford's layout.
pub(super) fn stanford_texts(dir: &Path, tokens_max: u32) -> Result<MultivectorTexts, DescribeError> {
    let artifact = json::optional::<Artifact>(&dir.join("artifact.metadata"), json::BYTES_MAX)?;
    let artifact = artifact.unwrap_or_default();
    let length = artifact.query_maxlen.unwrap_or(QUERY_TOKENS);
    let wants = Wants {
        query_marker: Some(artifact.query_token_id.unwrap_or_else(|| "[unused0]".into())),
        document_marker: Some(artifact.doc_token_id.unwrap_or_else(|| "[unused1]".into())),
        query_tokens: Some(length),
        document_tokens: artifact.doc_maxlen,
        expansion: Some((None, length, artifact.attend_to_mask_tokens)),
        skipped: if artifact.mask_punctuation == Some(false) { Vec::new() } else { punctuation() },
        skipping: Skipping::DOCUMENTS,
    };
    wants.resolve(dir, tokens_max)
}

/// What sentence-transformers 6 writes into the file of its `Transformer`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct TransformerTexts {
    #[serde(default)]
    query_length: Option<u32>,
    #[serde(default)]
    document_length: Option<u32>,
    #[serde(default)]
    query_expansion: Option<QueryExpansion>,
}

#[derive(Clone, Debug, Deserialize)]
struct QueryExpansion {
    strategy: String,
    #[serde(default)]
    attend: bool,
    #[serde(default)]
    token: Option<String>,
    length: u32,
}

/// The module behind it, which says what gets no vector.
#[derive(Deserialize)]
pub(super) struct MultiVectorMask {
    #[serde(default)]
    skiplist_words: Vec<String>,
    #[serde(default)]
    skiplist_tasks: Option<Vec<String>>,
    #[serde(default)]
    keep_only_token_ids: Option<Vec<u32>>,
}

impl TransformerTexts {
    pub(super) fn texts(
        self,
        mask: Option<(&Path, MultiVectorMask)>,
        dir: &Path,
        tokens_max: u32,
    ) -> Result<MultivectorTexts, DescribeError> {
        let refuse = |path: &Path, found: String, covered| {
            Err(DescribeError::NotCovered { path: path.to_owned(), found, covered })
        };
        let (mut skipped, mut skipping) = (Vec::new(), Skipping::default());
        if let Some((path, mask)) = mask {
            if mask.keep_only_token_ids.is_some_and(|ids| !ids.is_empty()) {
                return refuse(path, "keep_only_token_ids".into(), "skiplist_words");
            }
            let tasks = mask.skiplist_tasks.unwrap_or_else(|| vec!["document".into()]);
            let skips = |of: &str| tasks.iter().any(|task| task == of);
            skipping = Skipping { queries: skips("query"), documents: skips("document") };
            skipped = mask.skiplist_words;
        }
        let mut query_tokens = self.query_length;
        let expansion = match self.query_expansion {
            None => None,
            Some(QueryExpansion { strategy, attend, token, length }) => {
                match strategy.as_str() {
                    "fixed" => query_tokens = Some(length),
                    "min" => {}
                    other => return refuse(dir, format!("query_expansion by {other:?}"), "fixed, min"),
                }
                Some((token, length, attend))
            }
        };
        let wants = Wants {
            query_marker: None,
            document_marker: None,
            query_tokens,
            document_tokens: self.document_length,
            expansion,
            skipped,
            skipping,
        };
        wants.resolve(dir, tokens_max)
    }
}

/// The three layouts in one, tokens by their content.
struct Wants {
    query_marker: Option<String>,
    document_marker: Option<String>,
    query_tokens: Option<u32>,
    document_tokens: Option<u32>,
    /// The token (the mask where none is told), up to how many, and whether they are seen.
    expansion: Option<(Option<String>, u32, bool)>,
    skipped: Vec<String>,
    skipping: Skipping,
}

/// In which texts words are skipped.
#[derive(Clone, Copy, Default)]
struct Skipping {
    queries: bool,
    documents: bool,
}

impl Skipping {
    const DOCUMENTS: Self = Self { queries: false, documents: true };
}

impl Wants {
    /// Looks every token up in the tokenizer beside the encoder.
    fn resolve(self, dir: &Path, tokens_max: u32) -> Result<MultivectorTexts, DescribeError> {
        let vocabulary = Vocabulary::read(dir)?;
        let path = dir.join("tokenizer.json");
        let missing = |reason: String| DescribeError::Contradiction { path: path.clone(), reason };
        let marker = |content: Option<String>| match content.filter(|content| !content.trim().is_empty()) {
            None => Ok(None),
            Some(content) => {
                let id = vocabulary.id(&content).or_else(|| vocabulary.id(content.trim()));
                let id =
                    id.ok_or_else(|| missing(format!("the marker {content:?} is not one of its tokens")));
                id.map(Some)
            }
        };
        let expansion = self.expansion.map(|(token, tokens, attended)| {
            let id = match &token {
                Some(content) => vocabulary.id(content),
                None => vocabulary.mask(),
            };
            let token =
                id.ok_or_else(|| missing("the token that queries are filled up with is not in it".into()))?;
            Ok::<_, DescribeError>(Expansion { token, tokens: tokens.min(tokens_max), attended })
        });
        // A word that is no token of its own cannot be skipped.
        let mut skipped: Vec<_> = self.skipped.iter().filter_map(|word| vocabulary.id(word)).collect();
        skipped.sort_unstable();
        skipped.dedup();
        let limit = |tokens: Option<u32>| tokens.map_or(tokens_max, |tokens| tokens.min(tokens_max));
        Ok(MultivectorTexts {
            query: MultivectorText {
                marker: marker(self.query_marker)?,
                tokens_max: limit(self.query_tokens),
                skipped: if self.skipping.queries { skipped.clone() } else { Vec::new() },
                expansion: expansion.transpose()?,
            },
            document: MultivectorText {
                marker: marker(self.document_marker)?,
                tokens_max: limit(self.document_tokens),
                skipped: if self.skipping.documents { skipped } else { Vec::new() },
                expansion: None,
            },
        })
    }
}
