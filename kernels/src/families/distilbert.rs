//! DistilBERT (Sanh et al. 2019): half of BERT's blocks, no segments, names of its own.
//!
//! Fields and names: `transformers/models/distilbert/{configuration,modeling}_distilbert.py`. Sinusoidal positions are
//! stored as a table like learned ones.

use serde::Deserialize;

use super::{
    Family, bert,
    heads::{HeadClass, HeadKind, HeadLayer, TOKEN_CLASSIFIER, VocabularyNaming},
    names::Naming,
    post_norm::PostNorm,
};
use crate::spec::{Activation, Pooling, Position};

pub(super) const FAMILY: Family = Family {
    model_types: &["distilbert"],
    architectures: &["DistilBertModel"],
    own_code: &[],
    spec: |config, head| {
        let config: DistilBertConfig = super::from_value(config)?;
        let position = Position::Learned { rows: config.max_position_embeddings, offset: 0 };
        config.post_norm().spec(position, None, head)
    },
    naming: &Naming {
        prefixes: &["", "distilbert."],
        stack: "transformer.",
        layer: "transformer.layer",
        query: "attention.q_lin",
        key: "attention.k_lin",
        value: "attention.v_lin",
        attention_output: "attention.out_lin",
        attention_norm: "sa_layer_norm",
        ffn_up: "ffn.lin1",
        ffn_down: "ffn.lin2",
        ffn_norm: "output_layer_norm",
        ..bert::NAMING
    },
    heads: &[
        HeadClass {
            architectures: &["DistilBertForSequenceClassification"],
            kind: HeadKind::Sequence(
                Pooling::Cls,
                &[HeadLayer::hidden("pre_classifier", Activation::Relu), HeadLayer::labels("classifier")],
            ),
        },
        HeadClass {
            architectures: &["DistilBertForMaskedLM"],
            kind: HeadKind::Vocabulary(VocabularyNaming {
                dense: "vocab_transform",
                dense_bias: true,
                norm: "vocab_layer_norm",
                activation: None,
                table: "vocab_projector.weight",
                bias: "vocab_projector.bias",
            }),
        },
        HeadClass { architectures: &["DistilBertForTokenClassification"], kind: TOKEN_CLASSIFIER },
    ],
};

/// The norms of the modelling code; no configuration tells it.
const EPS: f32 = 1e-12;

#[derive(Deserialize)]
struct DistilBertConfig {
    vocab_size: usize,
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    hidden_dim: usize,
    max_position_embeddings: usize,
    #[serde(default = "gelu")]
    activation: String,
}

fn gelu() -> String {
    "gelu".into()
}

impl DistilBertConfig {
    fn post_norm(&self) -> PostNorm<'_> {
        PostNorm {
            vocab: self.vocab_size,
            hidden: ("dim", self.dim),
            layers: self.n_layers,
            heads: ("n_heads", self.n_heads),
            intermediate: self.hidden_dim,
            activation: ("activation", &self.activation),
            eps: EPS,
        }
    }
}
