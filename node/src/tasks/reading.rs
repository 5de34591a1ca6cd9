//! How the texts of a request are read: what stands in front of each, what stands beside it, and what is added to it.

use std::sync::Arc;

use shoal_kernels::{MultivectorText, MultivectorTexts, Prompts, SpanRule};
use shoal_protocol::message::{ChunkPooling, Chunking, Input, InputType};

use crate::tasks::tokenizer::{LabelPrompt, Template};

/// What is done to a text before a model sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preparation {
    /// Put in front of it.
    pub(crate) prompt: Option<Arc<str>>,
    /// What is added to its tokens and which of them get no vector, where each of them is to get one.
    pub(crate) multivector: Option<Arc<MultivectorText>>,
}

impl Preparation {
    /// Bytes that are read with the text.
    fn bytes(&self) -> usize {
        self.prompt.as_ref().map_or(0, |prompt| prompt.len())
    }
}

/// How the texts of a request are read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reading {
    /// Each alone.
    Alone(Preparation),
    /// Each alone: the first, which is the query, in its own way.
    QueryFirst {
        /// The query.
        query: Preparation,
        /// The others.
        document: Preparation,
    },
    /// Each behind the query, as one sequence.
    Pairs {
        /// The query.
        query: Arc<str>,
    },
    /// Each once in front of each hypothesis.
    Hypotheses {
        /// One for each label.
        hypotheses: Arc<[Box<str>]>,
    },
    /// Each in a template, with the query.
    Templated {
        /// All but the text.
        template: Arc<Template>,
    },
    /// Each alone, with the places of its tokens.
    Placed,
    /// Each in words, behind the labels that are looked for in it.
    Labelled {
        /// The labels.
        prompt: Arc<LabelPrompt>,
        /// Which spans are kept.
        rule: SpanRule,
    },
    /// Each behind the prompt, in chunks.
    Chunked {
        /// The prompt.
        prompt: Option<Arc<str>>,
        /// How.
        chunking: Chunking,
    },
}

impl Reading {
    /// What is done to the text at a position, where that is anything.
    pub(crate) fn preparation(&self, index: usize) -> Option<&Preparation> {
        match self {
            Self::QueryFirst { query, .. } if index == 0 => Some(query),
            Self::Alone(preparation) | Self::QueryFirst { document: preparation, .. } => Some(preparation),
            Self::Pairs { .. }
            | Self::Hypotheses { .. }
            | Self::Templated { .. }
            | Self::Placed
            | Self::Labelled { .. }
            | Self::Chunked { .. } => None,
        }
    }

    /// Whether a text's dense vectors are those of its chunks.
    pub(crate) fn is_late(&self) -> bool {
        matches!(self, Self::Chunked { chunking, .. } if chunking.pooling == ChunkPooling::Late)
    }

    /// Tokens that get no vector of their own in the text at a position: ascending ids.
    pub(crate) fn skipped(&self, index: usize) -> &[u32] {
        let multivector = self.preparation(index).and_then(|own| own.multivector.as_ref());
        multivector.map_or(&[], |text| &text.skipped)
    }

    /// Bytes of texts with what is read beside each, as admission counts them.
    pub(crate) fn bytes_of(&self, items: &[Input]) -> u64 {
        let (times, beside) = (self.times(), self.bytes_beside());
        items.iter().map(|item| (item.bytes() * times + beside) as u64).sum()
    }

    /// How often each text is read.
    fn times(&self) -> usize {
        match self {
            Self::Hypotheses { hypotheses } => hypotheses.len(),
            _ => 1,
        }
    }

    /// Bytes that are read beside each text.
    fn bytes_beside(&self) -> usize {
        match self {
            Self::Hypotheses { hypotheses } => hypotheses.iter().map(|hypothesis| hypothesis.len()).sum(),
            Self::Pairs { query } => query.len(),
            Self::Templated { template } => template.bytes(),
            Self::Labelled { prompt, .. } => prompt.bytes(),
            Self::Alone(preparation) | Self::QueryFirst { document: preparation, .. } => preparation.bytes(),
            Self::Chunked { prompt, .. } => prompt.as_ref().map_or(0, |prompt| prompt.len()),
            Self::Placed => 0,
        }
    }
}

/// The prompt of an input type, as sentence-transformers' `encode_query` and `encode_document` choose it; else the
/// model's default.
pub(super) fn prompt_of(prompts: &Prompts, input_type: Option<InputType>) -> Option<&str> {
    let names: &[&str] = match input_type {
        Some(InputType::Query) => &["query"],
        Some(InputType::Document) => &["document", "passage", "corpus"],
        None => &[],
    };
    let named = names.iter().find_map(|name| prompts.by_name.get(*name));
    let default = || prompts.default_name.as_ref().and_then(|name| prompts.by_name.get(name));
    named.or_else(default).map(String::as_str)
}

/// What a text of an input type needs for a vector a token: documents are what is not said to be a query.
pub(super) fn multivector_of(
    texts: &MultivectorTexts,
    input_type: Option<InputType>,
) -> Arc<MultivectorText> {
    Arc::new(match input_type {
        Some(InputType::Query) => texts.query.clone(),
        Some(InputType::Document) | None => texts.document.clone(),
    })
}
