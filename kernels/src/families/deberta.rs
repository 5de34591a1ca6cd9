//! DeBERTa-v2 and -v3 (He et al. 2021, 2023): BERT's blocks, whose attention compares what tokens say with where they stand.
//!
//! Fields and names: `transformers/models/deberta_v2/{configuration,modeling}_deberta_v2.py`. DeBERTa-v3, mDeBERTa and what
//! is made from them say `deberta-v2`, too; the first DeBERTa (`deberta`) has other tensors and no buckets.

use serde::Deserialize;

use super::{
    Family, FamilyError, bert,
    heads::{HeadClass, HeadKind, HeadLayer, TOKEN_CLASSIFIER},
    names::Naming,
    post_norm::{PostNorm, refuse, refuse_unless},
};
use crate::spec::{Activation, Disentangled, EncoderSpec, Head, Norm, Pooling, Position};

pub(super) const FAMILY: Family = Family {
    model_types: &["deberta-v2"],
    architectures: &["DebertaV2Model", "DebertaV2ForMaskedLM"],
    own_code: &[],
    spec: |config, head| super::from_value::<DebertaConfig>(config)?.spec(head),
    naming: &Naming {
        prefixes: &["", "deberta."],
        relative_table: "encoder.rel_embeddings.weight",
        relative_norm: "encoder.LayerNorm",
        query: "attention.self.query_proj",
        key: "attention.self.key_proj",
        value: "attention.self.value_proj",
        position_key: "attention.self.pos_key_proj",
        position_query: "attention.self.pos_query_proj",
        ..bert::NAMING
    },
    heads: &[
        HeadClass {
            architectures: &["DebertaV2ForSequenceClassification"],
            kind: HeadKind::Sequence(
                Pooling::Cls,
                &[HeadLayer::hidden("pooler.dense", Activation::GeluErf), HeadLayer::labels("classifier")],
            ),
        },
        HeadClass { architectures: &["DebertaV2ForTokenClassification"], kind: TOKEN_CLASSIFIER },
    ],
};

/// Defaults are those of `DebertaV2Config`, and of its modelling code for what the configuration class leaves out.
#[derive(Deserialize)]
struct DebertaConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    #[serde(default = "positions")]
    max_position_embeddings: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default)]
    type_vocab_size: usize,
    #[serde(default = "eps")]
    layer_norm_eps: f32,
    #[serde(default)]
    embedding_size: Option<usize>,
    #[serde(default)]
    attention_head_size: Option<usize>,
    #[serde(default = "yes")]
    position_biased_input: bool,
    #[serde(default)]
    relative_attention: bool,
    /// -1: as many as there are positions.
    #[serde(default = "unset")]
    max_relative_positions: i64,
    #[serde(default = "unset")]
    position_buckets: i64,
    #[serde(default)]
    pos_att_type: Option<Terms>,
    #[serde(default = "none")]
    norm_rel_ebd: String,
    #[serde(default)]
    share_att_key: bool,
    /// Of a convolution behind the first layer (DeBERTa-v2-xlarge and -xxlarge).
    #[serde(default)]
    conv_kernel_size: i64,
    #[serde(default)]
    pooler_hidden_size: Option<usize>,
    #[serde(default = "gelu")]
    pooler_hidden_act: String,
}

/// Which terms of positions a score has: `"p2c|c2p"`, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Terms {
    Joined(String),
    Listed(Vec<String>),
}

fn gelu() -> String {
    "gelu".into()
}

fn none() -> String {
    "none".into()
}

const fn positions() -> usize {
    512
}

const fn eps() -> f32 {
    1e-7
}

const fn yes() -> bool {
    true
}

const fn unset() -> i64 {
    -1
}

impl DebertaConfig {
    fn spec(&self, head: Head) -> Result<EncoderSpec, FamilyError> {
        let hidden = self.hidden_size;
        refuse_unless("embedding_size", self.embedding_size.unwrap_or(hidden), hidden, "hidden_size")?;
        refuse_unless("conv_kernel_size", self.conv_kernel_size.max(0), 0, "0")?;
        refuse_unless("relative_attention", self.relative_attention, true, "true")?;
        refuse_unless(
            "pooler_hidden_size",
            self.pooler_hidden_size.unwrap_or(hidden),
            hidden,
            "hidden_size",
        )?;
        refuse_unless("pooler_hidden_act", self.pooler_hidden_act.as_str(), "gelu", "gelu")?;
        let blocks = PostNorm {
            vocab: self.vocab_size,
            hidden: ("hidden_size", hidden),
            layers: self.num_hidden_layers,
            heads: ("num_attention_heads", self.num_attention_heads),
            intermediate: self.intermediate_size,
            activation: ("hidden_act", &self.hidden_act),
            eps: self.layer_norm_eps,
        };
        let relative = self.relative()?;
        let mut layer = blocks.layer()?;
        let head_dim = layer.attention.head_dim;
        let told = self.attention_head_size.unwrap_or(head_dim);
        refuse_unless("attention_head_size", told, head_dim, "hidden_size / num_attention_heads")?;
        layer.attention.scale = Some(((head_dim * (1 + relative.terms())) as f32).sqrt().recip());
        // Without a table of positions the model is meant for as many tokens as it was trained on.
        let rows = self.max_position_embeddings;
        let position = match self.position_biased_input {
            true => Position::Learned { rows, offset: 0 },
            false => Position::InAttention { tokens_max: rows },
        };
        let token_types = (self.type_vocab_size > 0).then_some(self.type_vocab_size);
        let mut spec = blocks.stack(layer, position, token_types, head);
        spec.disentangled = Some(relative);
        Ok(spec)
    }

    fn relative(&self) -> Result<Disentangled, FamilyError> {
        let Ok(span @ 1..) = usize::try_from(self.position_buckets) else {
            return refuse("position_buckets", self.position_buckets, "2 and more");
        };
        let distance_max = match usize::try_from(self.max_relative_positions) {
            Ok(told @ 1..) => told,
            _ => self.max_position_embeddings,
        };
        let eps = self.layer_norm_eps;
        let norm = match self.norm_rel_ebd.to_lowercase().as_str() {
            "none" => None,
            "layer_norm" => Some(Norm::LayerNorm { eps, bias: true }),
            _ => return refuse("norm_rel_ebd", format!("{:?}", self.norm_rel_ebd), "none, layer_norm"),
        };
        let mut relative = Disentangled {
            span,
            distance_max,
            content_to_position: false,
            position_to_content: false,
            norm,
            shares_projections: self.share_att_key,
        };
        let terms = match &self.pos_att_type {
            None => Vec::new(),
            Some(Terms::Joined(joined)) => joined.split('|').map(|term| term.trim().to_lowercase()).collect(),
            Some(Terms::Listed(listed)) => listed.clone(),
        };
        for term in &terms {
            match term.as_str() {
                "c2p" => relative.content_to_position = true,
                "p2c" => relative.position_to_content = true,
                _ => return refuse("pos_att_type", format!("{terms:?}"), "c2p, p2c, both"),
            }
        }
        Ok(relative)
    }
}
