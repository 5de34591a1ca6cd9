//! JinaBERT (Günther et al. 2023): jina-embeddings-v2 and jina-reranker-v1: BERT with slopes in place of positions and a gated network.
//!
//! Fields and names: `configuration_bert.py` and `modeling_bert.py` of jinaai/jina-bert-implementation.

use serde::Deserialize;

use super::{
    Family, bert,
    bert::BertConfig,
    heads::{HeadClass, POOLER_CLASSIFIER},
    names::Naming,
    post_norm::{refuse, refuse_unless},
};
use crate::spec::{Activation, Gate, Position, PositionBias};

pub(super) const FAMILY: Family = Family {
    model_types: &[],
    architectures: &["JinaBertModel", "JinaBertForMaskedLM"],
    own_code: &[
        "modeling_bert.JinaBertModel",
        "modeling_bert.JinaBertForMaskedLM",
        "modeling_bert.JinaBertForSequenceClassification",
    ],
    spec: |config, head| {
        let JinaConfig { position_embedding_type, feed_forward_type, bert } = super::from_value(config)?;
        refuse_unless("position_embedding_type", position_embedding_type.as_str(), "alibi", "alibi")?;
        let blocks = bert.post_norm();
        let mut layer = blocks.layer()?;
        // The name of the network tells its activation, whatever `hidden_act` says.
        layer.ffn.activation = match feed_forward_type.as_str() {
            "geglu" => Activation::GeluErf,
            "reglu" => Activation::Relu,
            other => return refuse("feed_forward_type", other, "geglu, reglu"),
        };
        (layer.ffn.gate, layer.ffn.up_bias) = (Some(Gate::GateUp), false);
        let position = Position::InAttention { tokens_max: bert.max_position_embeddings };
        let mut spec = blocks.stack(layer, position, bert.token_types(), head);
        spec.position_bias = Some(PositionBias::Alibi);
        Ok(spec)
    },
    naming: &Naming {
        ffn_up: "mlp.gated_layers",
        ffn_down: "mlp.wo",
        ffn_norm: "mlp.layernorm",
        ..bert::NAMING
    },
    heads: &[HeadClass { architectures: &["JinaBertForSequenceClassification"], kind: POOLER_CLASSIFIER }],
};

#[derive(Deserialize)]
struct JinaConfig {
    position_embedding_type: String,
    feed_forward_type: String,
    #[serde(flatten)]
    bert: BertConfig,
}
