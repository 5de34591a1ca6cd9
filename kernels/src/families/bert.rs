//! BERT (Devlin et al. 2018): MiniLM, BGE, E5, GTE v1 and every other `BertModel` checkpoint.
//!
//! Fields and names: `transformers/models/bert/{configuration,modeling}_bert.py`; defaults are those of `BertConfig`.

use serde::Deserialize;

use super::{
    Family, FamilyError,
    heads::{HeadClass, HeadKind, POOLER_CLASSIFIER, TOKEN_CLASSIFIER, VocabularyNaming},
    names::Naming,
    post_norm::{PostNorm, refuse},
};
use crate::spec::{EncoderSpec, Head, Position};

pub(super) const FAMILY: Family = Family {
    model_types: &["bert"],
    architectures: &["BertModel"],
    own_code: &[],
    spec: |config, head| {
        let config: BertConfig = super::from_value(config)?;
        config.spec(Position::Learned { rows: config.max_position_embeddings, offset: 0 }, head)
    },
    naming: &NAMING,
    heads: &[
        HeadClass { architectures: &["BertForSequenceClassification"], kind: POOLER_CLASSIFIER },
        HeadClass {
            architectures: &["BertForMaskedLM", "BertForPreTraining"],
            kind: HeadKind::Vocabulary(VocabularyNaming {
                dense: "cls.predictions.transform.dense",
                dense_bias: true,
                norm: "cls.predictions.transform.LayerNorm",
                activation: None,
                table: "cls.predictions.decoder.weight",
                bias: "cls.predictions.bias",
            }),
        },
        HeadClass { architectures: &["BertForTokenClassification"], kind: TOKEN_CLASSIFIER },
    ],
};

/// The encoder stands at the root, or below `bert.` where a head was saved with it.
pub(super) const NAMING: Naming = Naming {
    prefixes: &["", "bert."],
    token: "embeddings.word_embeddings.weight",
    position: "embeddings.position_embeddings.weight",
    token_type: "embeddings.token_type_embeddings.weight",
    embedding_norm: "embeddings.LayerNorm",
    embedding_projection: "embeddings_project",
    position_bias: "encoder.relative_attention_bias.weight",
    stack: "encoder.",
    layer: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    ffn_up: "intermediate.dense",
    ffn_down: "output.dense",
    ffn_norm: "output.LayerNorm",
    ..Naming::NONE
};

/// Fields that BERT shares with its descendants.
#[derive(Deserialize)]
pub(super) struct BertConfig {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) intermediate_size: usize,
    pub(super) max_position_embeddings: usize,
    #[serde(default = "gelu")]
    pub(super) hidden_act: String,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "eps")]
    pub(super) layer_norm_eps: f32,
    /// Written until transformers 4; 5 knows absolute positions only.
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
}

fn gelu() -> String {
    "gelu".into()
}

const fn two() -> usize {
    2
}

const fn eps() -> f32 {
    1e-12
}

impl BertConfig {
    pub(super) fn spec(&self, position: Position, head: Head) -> Result<EncoderSpec, FamilyError> {
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(other) => return refuse("position_embedding_type", other, "absolute"),
        }
        if self.is_decoder {
            return refuse("is_decoder", "true", "false");
        }
        self.post_norm().spec(position, self.token_types(), head)
    }

    pub(super) const fn token_types(&self) -> Option<usize> {
        Some(self.type_vocab_size)
    }

    pub(super) fn post_norm(&self) -> PostNorm<'_> {
        PostNorm {
            vocab: self.vocab_size,
            hidden: ("hidden_size", self.hidden_size),
            layers: self.num_hidden_layers,
            heads: ("num_attention_heads", self.num_attention_heads),
            intermediate: self.intermediate_size,
            activation: ("hidden_act", &self.hidden_act),
            eps: self.layer_norm_eps,
        }
    }
}
