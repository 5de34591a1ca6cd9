//! GLiNER (Zaratiana et al. 2024): a text is read behind the labels that its caller looks for, and each span of its words
//! is held against each label.
//!
//! Fields and names: `gliner/config.py` and `gliner/modeling/{base,encoder,span_rep,layers}.py` of the reference.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use super::{DescribeError, HeadNames, head::Found, json, labels::Labels, vocabulary::Vocabulary};
use crate::{
    families::{Affine, FamilyError},
    spec::{EncoderSpec, Head, INNER, Pooling, Position, SpanHead},
    weights::Checkpoint,
};

pub(super) const FILE: &str = "gliner_config.json";
/// Where the encoder's own tensors are.
pub(super) const ENCODER: &str = "token_rep_layer.bert_layer.model.";

/// How texts and labels are put together for a model that scores spans of words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanTexts {
    /// Stands in front of each label, as a word of its own.
    pub marker: String,
    /// The one token that it is.
    pub marker_id: u32,
    /// How many tokens behind the marker's the one stands whose vector is the label's.
    pub label_offset: u32,
    /// Stands between the labels and the text, as a word of its own.
    pub separator: String,
    /// Words that the model reads at once.
    pub words_max: u32,
    /// Words of the longest span.
    pub span_words_max: u32,
}

/// The names of the weights behind the encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpanNames {
    pub(crate) dir: PathBuf,
    pub(crate) projection: Affine,
    /// Forwards, and from the end.
    pub(crate) lstm: [LstmNames; 2],
    /// The two layers of the perceptron of each: first words, last words, spans, labels.
    pub(crate) start: [Affine; 2],
    pub(crate) end: [Affine; 2],
    pub(crate) span: [Affine; 2],
    pub(crate) label: [Affine; 2],
}

/// One direction, each with a bias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LstmNames {
    pub(crate) input: Affine,
    pub(crate) recurrent: Affine,
}

/// A directory's `gliner_config.json`.
pub(super) struct Gliner {
    dir: PathBuf,
    path: PathBuf,
    config: Config,
}

/// What the reference takes where a field is missing.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    model_type: Option<String>,
    model_name: String,
    max_width: usize,
    hidden_size: usize,
    subtoken_pooling: String,
    span_mode: String,
    post_fusion_schema: Option<String>,
    vocab_size: i64,
    max_len: u32,
    words_splitter_type: String,
    /// Until version 0.2; then a number of layers.
    has_rnn: bool,
    num_rnn_layers: Option<usize>,
    fuse_layers: bool,
    embed_ent_token: bool,
    class_token_index: i64,
    encoder_config: Option<Value>,
    span_encoder_config: Option<Value>,
    labels_encoder: Option<String>,
    labels_decoder: Option<String>,
    relations_layer: Option<String>,
    precomputed_prompts_mode: Option<bool>,
    ent_token: String,
    sep_token: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model_type: None,
            model_name: "microsoft/deberta-v3-small".into(),
            max_width: 12,
            hidden_size: 512,
            subtoken_pooling: "first".into(),
            span_mode: "markerV0".into(),
            post_fusion_schema: None,
            vocab_size: -1,
            max_len: 384,
            words_splitter_type: "whitespace".into(),
            has_rnn: true,
            num_rnn_layers: None,
            fuse_layers: false,
            embed_ent_token: true,
            class_token_index: -1,
            encoder_config: None,
            span_encoder_config: None,
            labels_encoder: None,
            labels_decoder: None,
            relations_layer: None,
            precomputed_prompts_mode: None,
            ent_token: "<<ENT>>".into(),
            sep_token: "<<SEP>>".into(),
        }
    }
}

/// English has about 1.3; with the labels in front, and scripts that a vocabulary knows less well, a few times as many.
const TOKENS_PER_WORD: usize = 4;

const COVERED: &str = "one encoder for labels and texts; span_mode markerV0; words_splitter_type whitespace; \
                       subtoken_pooling first, last, mean, max; at most one LSTM layer";

impl Config {
    /// What of it is not covered, if anything.
    fn not_covered(&self) -> Option<String> {
        let told = |field: &str, value: &str| Some(format!("{field} {value:?}"));
        let kind = self.model_type.as_deref().unwrap_or("gliner");
        match self {
            Self { labels_encoder: Some(encoder), .. } => {
                Some(format!("a bi-encoder, whose labels have an encoder of their own ({encoder})"))
            }
            Self { labels_decoder: Some(decoder), .. } => Some(format!("labels that {decoder} writes")),
            Self { relations_layer: Some(_), .. } => Some("a head of relations".into()),
            Self { span_mode, .. } if span_mode != "markerV0" => told("span_mode", span_mode),
            _ if !["gliner", "gliner_uni_encoder_span"].contains(&kind) => told("model_type", kind),
            Self { words_splitter_type: splitter, .. } if splitter != "whitespace" => {
                told("words_splitter_type", splitter)
            }
            Self { fuse_layers: true, .. } => Some("a sum over all layers (fuse_layers)".into()),
            Self { post_fusion_schema: Some(schema), .. } if !schema.is_empty() => {
                told("post_fusion_schema", schema)
            }
            Self { span_encoder_config: Some(_), .. } => {
                Some("a second encoder (span_encoder_config)".into())
            }
            Self { precomputed_prompts_mode: Some(true), .. } => Some("precomputed labels".into()),
            Self { num_rnn_layers: Some(layers @ 2..), .. } => Some(format!("{layers} LSTM layers")),
            _ => None,
        }
    }

    fn pooling(&self) -> Option<Pooling> {
        match self.subtoken_pooling.as_str() {
            "first" => Some(Pooling::Cls),
            "last" => Some(Pooling::LastToken),
            "mean" => Some(Pooling::Mean),
            "max" => Some(Pooling::Max),
            _ => None,
        }
    }
}

impl Gliner {
    /// `None` where the directory holds another kind of model.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, DescribeError> {
        let path = dir.join(FILE);
        let config = json::optional(&path, json::BYTES_MAX)?;
        Ok(config.map(|config| Self { dir: dir.to_owned(), path, config }))
    }

    /// The configuration of the encoder, and the file that has it.
    pub(super) fn encoder(&self) -> Result<(PathBuf, Value), DescribeError> {
        if let Some(mut encoder) = self.config.encoder_config.clone() {
            if let Some(fields) = encoder.as_object_mut() {
                fields.entry("model_type").or_insert_with(|| "deberta-v2".into());
            }
            return Ok((self.path.clone(), encoder));
        }
        let path = self.dir.join("config.json");
        let Some(mut encoder) = json::optional::<Value>(&path, json::BYTES_MAX)? else {
            let found = format!("an encoder that is told by its name, {:?}", self.config.model_name);
            let covered = "encoder_config, or the encoder's config.json beside it";
            return Err(DescribeError::NotCovered { path: self.path.clone(), found, covered });
        };
        // The tables have grown by the marker and the separator since that file was written.
        if let (Some(fields), 1..) = (encoder.as_object_mut(), self.config.vocab_size) {
            fields.insert("vocab_size".into(), self.config.vocab_size.into());
        }
        Ok((path, encoder))
    }

    /// The head behind an encoder of so wide hidden states, all of whose weights are there, and no others.
    pub(super) fn head(&self, hidden: usize, checkpoint: &Checkpoint) -> Result<Found, DescribeError> {
        let Config { max_width: words_max, hidden_size: width, has_rnn, num_rnn_layers, .. } = self.config;
        let not_covered =
            |found| DescribeError::NotCovered { path: self.path.clone(), found, covered: COVERED };
        if let Some(found) = self.config.not_covered() {
            return Err(not_covered(found));
        }
        let unknown = || not_covered(format!("subtoken_pooling {:?}", self.config.subtoken_pooling));
        let pooling = self.config.pooling().ok_or_else(unknown)?;
        let recurrent = num_rnn_layers.map_or(has_rnn, |layers| layers > 0);
        let head = SpanHead { width, pooling, recurrent, words_max };
        let names = SpanNames::new(self.dir.clone());
        let expected = names.shapes(head, hidden);
        for (name, shape) in &expected {
            checkpoint.find(name, shape)?;
        }
        let known: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        let is_stray = |name: &&str| !name.starts_with(ENCODER) && !known.contains(name);
        if let Some(tensor) = checkpoint.names().find(is_stray) {
            let source = FamilyError::Unexplained { tensor: tensor.to_owned() };
            return Err(DescribeError::Family { path: self.path.clone(), source });
        }
        Ok(Found {
            head: Head { spans: Some(head), ..Head::default() },
            names: HeadNames { spans: Some(names), ..HeadNames::default() },
            labels: Labels::default(),
            pooling_assumed: false,
            template: None,
        })
    }

    /// The reference cuts texts by words alone. An encoder without a table of positions gets all of their tokens, more than
    /// it was made for, as long as its words are of a usual length.
    pub(super) fn lengthen(&self, spec: &mut EncoderSpec) {
        if let (Some(_), Position::InAttention { tokens_max }) = (&spec.disentangled, &mut spec.position) {
            *tokens_max = TOKENS_PER_WORD.saturating_mul(self.config.max_len as usize).max(*tokens_max);
        }
    }

    /// What texts need, held against the tokenizer.
    pub(super) fn texts(&self) -> Result<SpanTexts, DescribeError> {
        let Config { ent_token, sep_token, class_token_index, max_len, max_width, embed_ent_token, .. } =
            &self.config;
        let contradiction = |reason| DescribeError::Contradiction { path: self.path.clone(), reason };
        if *max_len == 0 {
            return Err(contradiction("max_len is 0".into()));
        }
        let marker_id = Vocabulary::read(&self.dir)?.id(ent_token);
        match marker_id.filter(|id| i64::from(*id) == *class_token_index) {
            None => {
                let id = marker_id.map_or("no token".into(), |id| format!("token {id}"));
                let reason = format!(
                    "class_token_index is {class_token_index}, and the tokenizer has {id} for {ent_token:?}"
                );
                Err(contradiction(reason))
            }
            Some(marker_id) => Ok(SpanTexts {
                marker: ent_token.clone(),
                marker_id,
                label_offset: u32::from(!embed_ent_token),
                separator: sep_token.clone(),
                words_max: *max_len,
                // Checked with the head.
                span_words_max: *max_width as u32,
            }),
        }
    }
}

impl SpanNames {
    fn new(dir: PathBuf) -> Self {
        // Between the two stand an activation and a dropout.
        let perceptron = |name: &str| ["0", "3"].map(|layer| Affine::linear(&format!("{name}.{layer}")));
        let of_span = |name: &str| perceptron(&format!("span_rep_layer.span_rep_layer.{name}"));
        let lstm = |suffix: &str| {
            let [input, recurrent] = ["ih", "hh"].map(|side| Affine {
                weight: format!("rnn.lstm.weight_{side}_l0{suffix}"),
                bias: format!("rnn.lstm.bias_{side}_l0{suffix}"),
            });
            LstmNames { input, recurrent }
        };
        Self {
            dir,
            projection: Affine::linear("token_rep_layer.projection"),
            lstm: ["", "_reverse"].map(lstm),
            start: of_span("project_start"),
            end: of_span("project_end"),
            span: of_span("out_project"),
            label: perceptron("prompt_rep_layer"),
        }
    }

    /// Every tensor that the head has.
    fn shapes(&self, head: SpanHead, hidden: usize) -> Vec<(String, Vec<usize>)> {
        let SpanHead { width, recurrent, .. } = head;
        let mut shapes = Vec::new();
        let mut affine = |Affine { weight, bias }: &Affine, outputs: usize, inputs: usize| {
            shapes.push((weight.clone(), vec![outputs, inputs]));
            shapes.push((bias.clone(), vec![outputs]));
        };
        let inner = INNER.saturating_mul(width);
        if width != hidden {
            affine(&self.projection, width, hidden);
        }
        for LstmNames { input, recurrent } in self.lstm.iter().filter(|_| recurrent) {
            affine(input, width / 2 * 4, width);
            affine(recurrent, width / 2 * 4, width / 2);
        }
        for ([first, second], inputs) in [
            (&self.start, width),
            (&self.end, width),
            (&self.label, width),
            (&self.span, width.saturating_mul(2)),
        ] {
            affine(first, inner, inputs);
            affine(second, width, inner);
        }
        shapes
    }
}

#[cfg(test)]
#[path = "gliner_tests.rs"]
mod tests;
