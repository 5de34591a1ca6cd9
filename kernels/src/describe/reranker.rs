//! Language models that judge whether a text answers a query: the score is what the logit of one word has over that of
//! another, behind a template (Qwen3-Reranker, Zhang et al. 2025).

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{DescribeError, json, vocabulary::Vocabulary};

/// What stands around a query and a text. The three parts are read apart, so that what ends the sequence is never cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairTemplate {
    /// In front of the pair.
    pub prefix: &'static str,
    /// Behind it.
    pub suffix: &'static str,
    /// What is asked of a text where the caller says nothing.
    pub instruction: &'static str,
}

impl PairTemplate {
    /// Of Qwen3-Reranker, as its model card has it.
    const QWEN3: Self = Self {
        prefix: "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the \
                 Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n",
        suffix: "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        instruction: "Given a web search query, retrieve relevant passages that answer the query",
    };
    /// By which its chat template is known.
    const QWEN3_MARK: &str =
        "Judge whether the Document meets the requirements based on the Query and the Instruct";

    /// What stands between the prefix and the text.
    pub fn head(&self, instruction: Option<&str>, query: &str) -> String {
        let instruction = instruction.unwrap_or(self.instruction);
        format!("<Instruct>: {instruction}\n<Query>: {query}\n<Document>: ")
    }
}

/// The words whose logits are compared.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct LogitScore {
    pub(super) true_token_id: usize,
    #[serde(default)]
    pub(super) false_token_id: Option<usize>,
}

impl LogitScore {
    /// Of a model whose files do not say: sentence-transformers takes these, too.
    pub(super) fn yes_or_no(dir: &Path) -> Result<Self, DescribeError> {
        let vocabulary = Vocabulary::read(dir)?;
        let id = |word: &str| {
            let reason = format!("the word {word:?}, by which a reranker answers, is no token");
            let missing = || DescribeError::Contradiction { path: dir.join("tokenizer.json"), reason };
            vocabulary.id(word).map(|id| id as usize).ok_or_else(missing)
        };
        Ok(Self { true_token_id: id("yes")?, false_token_id: Some(id("no")?) })
    }
}

/// Whether `config.json` names a causal language model.
pub(super) fn is_causal(config: &Value) -> bool {
    let class = config.pointer("/architectures/0").and_then(Value::as_str);
    class.is_some_and(|class| class.ends_with("ForCausalLM"))
}

/// The template of the model in `dir`. Where its files say that it judges, a template of its own is meant for that; it is a
/// program and is not run, but must be the one that is known.
pub(super) fn template(dir: &Path, config: &Value, is_told: bool) -> Result<PairTemplate, DescribeError> {
    let refuse = |path, found: &str| {
        let covered = "the template of Qwen3-Reranker";
        Err(DescribeError::NotCovered { path, found: found.to_owned(), covered })
    };
    if config.get("model_type").and_then(Value::as_str) != Some("qwen3") {
        return refuse(dir.join("config.json"), "a reranker made from another language model");
    }
    if !is_told {
        return Ok(PairTemplate::QWEN3);
    }
    let path = dir.join("chat_template.jinja");
    match crate::files::read_bounded(&path, json::BYTES_MAX) {
        Ok(own) if !String::from_utf8_lossy(&own).contains(PairTemplate::QWEN3_MARK) => {
            refuse(path, "another template of chats")
        }
        Ok(_) => Ok(PairTemplate::QWEN3),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(PairTemplate::QWEN3),
        Err(source) => Err(DescribeError::Io { path, source }),
    }
}
