//! The same model as different versions write it, and what a configuration may ask for that is not covered.

use serde_json::{Map, Value, json};

use super::*;
use crate::spec::{Attention, LayerPattern, Mask};

macro_rules! published {
    ($name:literal) => {
        include_str!(concat!("../../../snapshots/", $name, ".json"))
    };
}

const MODERNBERT: &str = published!("modernbert-base");
const NOMIC: &str = published!("nomic-embed-text-v1.5");
const GTE: &str = published!("gte-multilingual-base");
const JINA_V3: &str = published!("jina-embeddings-v3");
const QWEN2: &str = published!("gte-qwen2-1.5b-instruct");
const QWEN3: &str = published!("qwen3-embedding-0.6b");
const MISTRAL: &str = published!("e5-mistral-7b-instruct");
const LLAMA: &str = published!("llama-3.2-1b");
const GEMMA: &str = published!("embeddinggemma-300m");
const DEBERTA: &str = published!("deberta-v3-base");

/// A published configuration without the fields `without` and with those of `fields`.
fn changed(config: &str, without: &[&str], fields: Value) -> Result<EncoderSpec, FamilyError> {
    let mut config: Map<String, Value> = serde_json::from_str(config).expect("an object");
    config.retain(|name, _| !without.contains(&name.as_str()));
    config.extend(fields.as_object().cloned().expect("an object"));
    spec(&Value::Object(config), head())
}

fn covered(config: &str, without: &[&str], fields: Value) -> EncoderSpec {
    changed(config, without, fields).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(config: &str, fields: Value) -> String {
    changed(config, &[], fields).expect_err("not covered").to_string()
}

fn attention(spec: &EncoderSpec, layer: usize) -> Attention {
    spec.layer(layer).attention
}

#[test]
fn transformers_4_and_5_write_the_same_models() {
    let same = |config: &str, without: &[&str], fields: Value| {
        assert_eq!(covered(config, without, fields.clone()), covered(config, &[], json!({})), "{fields}");
    };
    let rope = |theta: f64| json!({"rope_theta": theta, "rope_type": "default"});
    let every_third: Vec<_> =
        (0..22).map(|index| if index % 3 == 0 { "full_attention" } else { "sliding_attention" }).collect();
    same(
        MODERNBERT,
        &["global_rope_theta", "local_rope_theta", "global_attn_every_n_layers"],
        json!({"layer_types": every_third, "rope_parameters":
            {"full_attention": rope(160_000.0), "sliding_attention": rope(10_000.0)}}),
    );
    same(
        QWEN3,
        &["rope_theta", "rope_scaling", "torch_dtype"],
        json!({
            "rope_parameters": rope(1e6), "dtype": "bfloat16", "layer_types": vec!["full_attention"; 28],
        }),
    );
    same(
        LLAMA,
        &["rope_theta", "rope_scaling"],
        json!({"rope_parameters": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3", "rope_theta": 500_000.0,
        }}),
    );
    same(
        GEMMA,
        &["rope_theta", "rope_local_base_freq", "rope_scaling"],
        json!({"rope_parameters":
        {"full_attention": rope(1e6), "sliding_attention": rope(10_000.0)}}),
    );
    same(GEMMA, &["layer_types"], json!({}));
    same(GEMMA, &["layer_types", "_sliding_window_pattern"], json!({"sliding_window_pattern": 6}));
    same(JINA_V3, &["position_embedding_type", "rotary_emb_base"], json!({"rope_parameters": rope(2e4)}));
    // Published files hold the names of both.
    same(
        NOMIC,
        &[],
        json!({
            "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
            "hidden_act": "silu", "layer_norm_eps": 1e-12, "max_position_embeddings": 2048,
            "rope_parameters": rope(1000.0),
        }),
    );
}

#[test]
fn masks_are_those_of_the_reference() {
    let mask =
        |config, without: &[&str], fields, layer| attention(&covered(config, without, fields), layer).mask;
    assert_eq!(mask(QWEN3, &[], json!({}), 0), Mask::Causal);
    assert_eq!(mask(QWEN2, &[], json!({}), 0), Mask::Bidirectional);
    assert_eq!(mask(QWEN2, &["is_causal"], json!({}), 0), Mask::Causal);
    let window = json!({"use_sliding_window": true, "sliding_window": 64});
    assert_eq!(mask(QWEN2, &["is_causal"], window.clone(), 20), Mask::Causal);
    assert_eq!(mask(QWEN2, &["is_causal"], window.clone(), 21), Mask::Window { left: 63, right: 0 });
    assert_eq!(mask(QWEN2, &[], window, 21), Mask::Window { left: 64, right: 64 });
    assert_eq!(mask(MISTRAL, &[], json!({}), 31), Mask::Window { left: 4095, right: 0 });
    assert_eq!(mask(MISTRAL, &["sliding_window"], json!({}), 0), Mask::Window { left: 4095, right: 0 });
    assert_eq!(mask(MISTRAL, &[], json!({"sliding_window": null}), 0), Mask::Causal);
    assert_eq!(mask(GEMMA, &[], json!({}), 0), Mask::Window { left: 256, right: 256 });
    assert_eq!(mask(GEMMA, &[], json!({}), 5), Mask::Bidirectional);
    let causal = json!({"use_bidirectional_attention": null});
    assert_eq!(mask(GEMMA, &[], causal.clone(), 0), Mask::Window { left: 511, right: 0 });
    assert_eq!(mask(GEMMA, &[], causal, 5), Mask::Causal);
}

#[test]
fn what_is_not_covered_is_named() {
    let both = refusal(NOMIC, json!({"hidden_size": 1024}));
    assert_eq!(both, "`n_embd` and `hidden_size` contradict each other");
    assert!(refusal(NOMIC, json!({"moe_every_n_layers": 2})).starts_with("moe_every_n_layers is 2"));
    assert!(refusal(NOMIC, json!({"prenorm": true})).starts_with("prenorm is true"));
    assert!(refusal(NOMIC, json!({"activation_function": "quick"})).starts_with("activation_function is"));
    assert_eq!(
        refusal(GTE, json!({"rope_scaling": {"type": "ntk"}})),
        "the rope parameters lack the field `factor`"
    );
    assert!(refusal(GTE, json!({"logn_attention_scale": true})).starts_with("logn_attention_scale is true"));
    let neither = changed(JINA_V3, &["auto_map"], json!({"position_embedding_type": "relative_key"}));
    assert!(neither.expect_err("of no kind").to_string().ends_with("covered: absolute"));
    let yarn = json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}});
    assert!(refusal(LLAMA, yarn).starts_with("rope_type is \"yarn\""));
    assert!(
        refusal(LLAMA, json!({"partial_rotary_factor": 0.5})).starts_with("partial_rotary_factor is 0.5")
    );
    assert!(refusal(GEMMA, json!({"attn_logit_softcapping": 50.0})).ends_with("covered: null"));
    assert!(
        refusal(GEMMA, json!({"layer_types": ["full_attention"]})).starts_with("layer_types is a list of 1")
    );
    for (config, field) in [(MODERNBERT, "global_attn_every_n_layers"), (GEMMA, "_sliding_window_pattern")] {
        assert!(
            refusal(config, json!({field: 0})).ends_with("is 0, which is not covered; covered: 1 and more")
        );
    }
    assert!(refusal(MODERNBERT, json!({"layer_types": ["chunked_attention"]})).contains("chunked_attention"));
    assert!(refusal(QWEN3, json!({"num_key_value_heads": 5})).contains("heads (16)"));
    assert!(refusal(LLAMA, json!({"num_hidden_layers": 1_000_000})).starts_with("layers is 1000000"));
    assert!(
        refusal(GEMMA, json!({"num_hidden_layers": usize::MAX, "layer_types": null}))
            .starts_with("layers is")
    );
}

/// Where the reference turns by the longest text of a batch, longer ones than it was trained on are not taken.
#[test]
fn a_limit_ends_where_answers_would_depend_on_their_company() {
    let tokens_max = |fields| covered(NOMIC, &[], fields).position.tokens_max();
    assert_eq!(tokens_max(json!({})), 8192);
    assert_eq!(tokens_max(json!({"rotary_scaling_factor": 2})), 2048);
}

#[test]
fn a_head_may_be_wider_than_its_share() {
    let spec = covered(QWEN3, &["head_dim"], json!({}));
    assert_eq!(attention(&spec, 0).widths(), (2048, 1024), "128 where none is told");
    assert!(matches!(spec.layers, LayerPattern::Uniform { count: 28, .. }));
    assert_eq!(attention(&covered(LLAMA, &["head_dim"], json!({})), 0).head_dim, 64);
}

#[test]
fn relative_positions_are_told_in_several_ways() {
    let published = covered(DEBERTA, &[], json!({}));
    for (without, fields) in [
        (&[][..], json!({"pos_att_type": ["c2p", "p2c"], "max_relative_positions": 512})),
        (&[], json!({"pos_att_type": "C2P | P2C", "architectures": ["DebertaV2ForSequenceClassification"]})),
        (&["max_relative_positions", "type_vocab_size", "hidden_act"], json!({"embedding_size": 768})),
        (&["layer_norm_eps"], json!({"conv_kernel_size": 0, "attention_head_size": 64})),
    ] {
        assert_eq!(covered(DEBERTA, without, fields.clone()), published, "{fields}");
    }
    let scale = |fields| attention(&covered(DEBERTA, &[], fields), 0).scale.expect("its own");
    assert_eq!(scale(json!({})), (3.0f32 * 64.0).sqrt().recip());
    assert_eq!(scale(json!({"pos_att_type": ["p2c"]})), (2.0f32 * 64.0).sqrt().recip());
    let refusal = |fields| refusal(DEBERTA, fields);
    assert_eq!(
        refusal(json!({"conv_kernel_size": 3})),
        "conv_kernel_size is 3, which is not covered; covered: 0"
    );
    assert!(refusal(json!({"embedding_size": 128})).starts_with("embedding_size is 128"));
    assert!(refusal(json!({"relative_attention": false})).starts_with("relative_attention is false"));
    assert!(refusal(json!({"position_buckets": -1})).starts_with("position_buckets is -1"));
    assert!(refusal(json!({"pos_att_type": "c2p|p2p"})).starts_with("pos_att_type is [\"c2p\", \"p2p\"]"));
    assert!(refusal(json!({"pos_att_type": null})).starts_with("terms of relative positions is 0"));
    assert!(refusal(json!({"norm_rel_ebd": "batch"})).starts_with("norm_rel_ebd is \"batch\""));
    assert!(refusal(json!({"pooler_hidden_act": "tanh"})).starts_with("pooler_hidden_act is tanh"));
    assert!(refusal(json!({"attention_head_size": 32})).starts_with("attention_head_size is 32"));
    assert_eq!(
        refusal(json!({"max_relative_positions": 384})),
        "256 relative buckets of one direction end at distance 384; covered: 385 and more"
    );
}
