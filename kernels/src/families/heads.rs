//! The heads that `transformers` puts behind an encoder, one class each, as a family calls their tensors.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{Affine, Described, FamilyError, NormNames, post_norm::refuse};
use crate::{
    spec::{Activation, Embeddings, EncoderSpec, HeadModule, Norm, PooledHead, Pooling, Poolings, TokenHead},
    weights::Checkpoint,
};

/// Classes that are called differently and share their head.
pub(super) struct HeadClass {
    /// As in `config.json`.
    pub(super) architectures: &'static [&'static str],
    pub(super) kind: HeadKind,
}

/// What a class answers, and by which layers; the last of them has one output a label.
pub(super) enum HeadKind {
    /// From a pooled sequence.
    Sequence(Pooling, &'static [HeadLayer]),
    /// From each token.
    Token(&'static [HeadLayer]),
    /// Of a masked language model, from each token.
    Vocabulary(VocabularyNaming),
}

/// What a masked language model calls its head: a dense layer, a norm and the table of words.
pub(super) struct VocabularyNaming {
    pub(super) dense: &'static str,
    pub(super) dense_bias: bool,
    pub(super) norm: &'static str,
    /// That of the encoder's feed-forward networks where none is told.
    pub(super) activation: Option<Activation>,
    /// Used where the configuration says that it is not the encoder's table of tokens.
    pub(super) table: &'static str,
    /// The tensor itself.
    pub(super) bias: &'static str,
}

impl VocabularyNaming {
    /// RoBERTa's, and that of those that follow it.
    pub(super) const LM_HEAD: Self = Self {
        dense: "lm_head.dense",
        dense_bias: true,
        norm: "lm_head.layer_norm",
        activation: Some(Activation::GeluErf),
        table: "lm_head.decoder.weight",
        bias: "lm_head.bias",
    };
}

/// A linear layer, or a norm.
#[derive(Clone, Copy)]
pub(super) struct HeadLayer {
    /// Below the prefix of the encoder's own tensors, or at the checkpoint's root.
    in_encoder: bool,
    name: &'static str,
    kind: LayerKind,
}

#[derive(Clone, Copy)]
enum LayerKind {
    /// As wide as the encoder.
    Hidden { activation: Activation, bias: bool },
    /// One output a label.
    Labels { bias: bool },
    /// With the epsilon of the encoder's norm of its tables, and a bias if that has one.
    Norm,
}

impl HeadLayer {
    /// As wide as the encoder, with a bias.
    pub(super) const fn hidden(name: &'static str, activation: Activation) -> Self {
        Self { in_encoder: false, name, kind: LayerKind::Hidden { activation, bias: true } }
    }

    /// The same without a bias.
    pub(super) const fn hidden_without_bias(name: &'static str, activation: Activation) -> Self {
        Self { in_encoder: false, name, kind: LayerKind::Hidden { activation, bias: false } }
    }

    /// One output a label.
    pub(super) const fn labels(name: &'static str) -> Self {
        Self { in_encoder: false, name, kind: LayerKind::Labels { bias: true } }
    }

    /// The same without a bias.
    pub(super) const fn labels_without_bias(name: &'static str) -> Self {
        Self { in_encoder: false, name, kind: LayerKind::Labels { bias: false } }
    }

    /// A norm like that of the encoder's tables.
    pub(super) const fn norm(name: &'static str) -> Self {
        Self { in_encoder: false, name, kind: LayerKind::Norm }
    }

    /// The same, saved as a part of the encoder.
    pub(super) const fn in_encoder(self) -> Self {
        Self { in_encoder: true, ..self }
    }
}

/// One layer on each token: nearly every `…ForTokenClassification`.
pub(super) const TOKEN_CLASSIFIER: HeadKind = HeadKind::Token(&[HeadLayer::labels("classifier")]);

/// One layer on the last token: language models that read from left to right.
pub(super) const SCORE_CLASSIFIER: HeadKind =
    HeadKind::Sequence(Pooling::LastToken, &[HeadLayer::labels_without_bias("score")]);

/// BERT's pooler, which is saved as a part of the encoder, and one layer behind it: BERT, and those that follow it.
pub(super) const POOLER_CLASSIFIER: HeadKind = HeadKind::Sequence(
    Pooling::Cls,
    &[HeadLayer::hidden("pooler.dense", Activation::Tanh).in_encoder(), HeadLayer::labels("classifier")],
);

/// Two layers on the first token with `tanh` between them: RoBERTa, and those that follow it.
pub(super) const TANH_CLASSIFIER: HeadKind = HeadKind::Sequence(
    Pooling::Cls,
    &[HeadLayer::hidden("classifier.dense", Activation::Tanh), HeadLayer::labels("classifier.out_proj")],
);

/// A head with the names of its weights, one for each module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NamedHead {
    /// Logits of labels per sequence.
    Sequence(PooledHead, Vec<Affine>),
    /// Logits of labels per token.
    Token(TokenHead, Vec<Affine>),
    /// Logits of words per token.
    Vocabulary(TokenHead, Vec<Affine>, WordTable),
}

/// What a token is compared with to get the logits of words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WordTable {
    pub(crate) words: usize,
    pub(crate) weight: String,
    pub(crate) bias: String,
}

/// Which heads are looked for: a masked language model may be asked for its logits, or be an encoder and no more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadOf {
    Labels(usize),
    Words,
}

/// What ModernBERT's configuration leaves open in its heads.
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    classifier_pooling: Option<String>,
    #[serde(default)]
    classifier_activation: Option<String>,
    #[serde(default)]
    classifier_bias: bool,
}

impl Told {
    /// How sequences are pooled where the configuration says it.
    fn read(config: &serde_json::Value) -> Result<Option<Pooling>, FamilyError> {
        let Self { classifier_pooling, classifier_activation, classifier_bias } = super::from_value(config)?;
        if classifier_bias {
            return refuse("classifier_bias", true, "false");
        }
        if let Some(other) = classifier_activation.filter(|name| name != "gelu") {
            return refuse("classifier_activation", other, "gelu");
        }
        match classifier_pooling.as_deref() {
            None => Ok(None),
            Some("cls") => Ok(Some(Pooling::Cls)),
            Some("mean") => Ok(Some(Pooling::Mean)),
            Some(other) => refuse("classifier_pooling", other, "cls, mean"),
        }
    }
}

/// As many labels as `transformers` gives a classifier that is told nothing.
const LABELS_DEFAULT: usize = 2;

impl HeadKind {
    /// How many labels the weights have: the rows of the last layer, if it is there.
    pub(super) fn label_outputs(&self, encoder: &Described, checkpoint: &Checkpoint) -> usize {
        let (Self::Sequence(_, [.., last]) | Self::Token([.., last])) = self else { return LABELS_DEFAULT };
        let name = Affine::linear(&format!("{}{}", last.prefix(encoder), last.name));
        checkpoint.rows(&name.weight).unwrap_or(LABELS_DEFAULT)
    }

    pub(super) fn is_of(&self, of: HeadOf) -> bool {
        matches!(self, Self::Vocabulary(_)) == (of == HeadOf::Words)
    }

    /// The head with its weights checked: all there with their shapes, and no others beside them.
    pub(super) fn named(
        &self,
        config: &serde_json::Value,
        encoder: &Described,
        of: HeadOf,
        checkpoint: &Checkpoint,
    ) -> Result<NamedHead, FamilyError> {
        let layers = match *self {
            Self::Sequence(_, layers) | Self::Token(layers) => layers,
            Self::Vocabulary(ref naming) => return naming.named(config, encoder, checkpoint),
        };
        let labels = if let HeadOf::Labels(labels) = of { labels } else { 0 };
        let mut width = encoder.spec.hidden;
        let (mut modules, mut names) = (Vec::new(), Vec::new());
        for layer in layers {
            let (module, name) = layer.named(encoder, checkpoint, width, labels)?;
            width = module.outputs(width);
            modules.push(module);
            names.push(name);
        }
        refuse_others(layers, encoder, &names, checkpoint)?;
        let pooling = Told::read(config)?;
        Ok(match *self {
            Self::Sequence(usual, _) => {
                let poolings = Poolings(vec![pooling.unwrap_or(usual)]);
                NamedHead::Sequence(PooledHead { poolings, modules }, names)
            }
            _ => NamedHead::Token(TokenHead { modules }, names),
        })
    }
}

impl HeadLayer {
    fn prefix<'a>(&self, encoder: &'a Described) -> &'a str {
        if self.in_encoder { &encoder.names.prefix } else { "" }
    }

    /// The layer on vectors of `width`, with the names of its weights, which are there.
    fn named(
        &self,
        encoder: &Described,
        checkpoint: &Checkpoint,
        width: usize,
        labels: usize,
    ) -> Result<(HeadModule, Affine), FamilyError> {
        let name = format!("{}{}", self.prefix(encoder), self.name);
        let (outputs, activation, bias) = match self.kind {
            LayerKind::Norm => return norm(encoder, checkpoint, &name, width),
            LayerKind::Hidden { activation, bias } => (encoder.spec.hidden, activation, bias),
            LayerKind::Labels { bias } => (labels, Activation::Identity, bias),
        };
        let names = Affine::linear(&name);
        checkpoint.find(&names.weight, &[outputs, width])?;
        if bias {
            checkpoint.find(&names.bias, &[outputs])?;
        }
        Ok((HeadModule::Dense { outputs, bias, activation }, names))
    }
}

/// A norm that adds as much to the variance as that of the encoder's tables, and has a bias if that has one.
fn norm(
    encoder: &Described,
    checkpoint: &Checkpoint,
    name: &str,
    width: usize,
) -> Result<(HeadModule, Affine), FamilyError> {
    let Some(norm @ Norm::LayerNorm { eps, bias }) = encoder.spec.embeddings.norm else {
        return refuse("the head's norm", "unlike that of the tables", "LayerNorm");
    };
    let names = NormNames::new(checkpoint, name, width, norm).affine();
    checkpoint.find(&names.weight, &[width])?;
    if bias {
        checkpoint.find(&names.bias, &[width])?;
    }
    Ok((HeadModule::LayerNorm { eps, bias }, names))
}

/// A tensor that stands beside those of the head would change the answers if it were used.
fn refuse_others(
    layers: &[HeadLayer],
    encoder: &Described,
    names: &[Affine],
    checkpoint: &Checkpoint,
) -> Result<(), FamilyError> {
    let known: BTreeSet<_> = names.iter().flat_map(|name| [name.weight.as_str(), &name.bias]).collect();
    let groups = layers.iter().map(|layer| {
        let group = layer.name.split('.').next().unwrap_or(layer.name);
        format!("{}{group}.", layer.prefix(encoder))
    });
    let groups: BTreeSet<_> = groups.collect();
    let in_group = |name: &str| groups.iter().any(|group| name.starts_with(group));
    match checkpoint.names().find(|name| in_group(name) && !known.contains(name)) {
        None => Ok(()),
        Some(tensor) => Err(FamilyError::Unexplained { tensor: tensor.to_owned() }),
    }
}

#[derive(Deserialize)]
struct Tying {
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
}

const fn yes() -> bool {
    true
}

impl VocabularyNaming {
    fn named(
        &self,
        config: &serde_json::Value,
        encoder: &Described,
        checkpoint: &Checkpoint,
    ) -> Result<NamedHead, FamilyError> {
        let EncoderSpec { hidden, embeddings: Embeddings { vocab: words, width, .. }, .. } = encoder.spec;
        let activation = self.activation.unwrap_or(encoder.spec.layer(0).ffn.activation);
        let dense = Affine::linear(self.dense);
        checkpoint.find(&dense.weight, &[width, hidden])?;
        if self.dense_bias {
            checkpoint.find(&dense.bias, &[width])?;
        }
        let (norm, norm_names) = norm(encoder, checkpoint, self.norm, width)?;
        let Tying { tie_word_embeddings } = super::from_value(config)?;
        let (weight, own_bias) = if tie_word_embeddings {
            (encoder.names.token.name.as_str(), None)
        } else {
            (self.table, Some(self.table.replace(".weight", ".bias")))
        };
        // A table of its own may have a bias of its own, too.
        let bias = own_bias.filter(|name| checkpoint.contains(name)).unwrap_or_else(|| self.bias.to_owned());
        checkpoint.find(weight, &[words, width])?;
        checkpoint.find(&bias, &[words])?;
        let modules = vec![HeadModule::Dense { outputs: width, bias: self.dense_bias, activation }, norm];
        let table = WordTable { words, weight: weight.to_owned(), bias };
        Ok(NamedHead::Vocabulary(TokenHead { modules }, vec![dense, norm_names], table))
    }
}
