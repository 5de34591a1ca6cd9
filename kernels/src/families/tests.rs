//! Published configurations, and everything a configuration may get wrong.

use serde_json::{Value, json};

use super::*;
use crate::spec::{Pooling, Position};

mod forms;

fn head() -> Head {
    Head::pooled(Pooling::Mean, true)
}

fn tiny() -> Value {
    json!({
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": 11, "hidden_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 5,
    })
}

/// `tiny` with one field changed; null removes it.
fn with(field: &str, value: Value) -> Result<EncoderSpec, FamilyError> {
    let mut config = tiny();
    let object = config.as_object_mut().expect("an object");
    match value {
        Value::Null => object.remove(field),
        value => object.insert(field.to_owned(), value),
    };
    spec(&config, head())
}

fn refusal(field: &str, value: Value) -> String {
    with(field, value).expect_err("the configuration is not covered").to_string()
}

#[test]
fn defaults_are_those_of_transformers() {
    let explicit = json!({
        "architectures": null, "hidden_act": "gelu", "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute", "is_decoder": false, "auto_map": {},
    });
    let mut full = tiny();
    full.as_object_mut().expect("an object").extend(explicit.as_object().expect("an object").clone());
    assert_eq!(spec(&full, head()).expect("covered"), spec(&tiny(), head()).expect("covered"));
    assert!(with("model_type", Value::Null).is_ok(), "the architecture alone suffices");
}

#[test]
fn an_unknown_architecture_is_named_with_what_is_covered() {
    let covered = format!("is not covered; covered: {}", covered().join(", "));
    assert!(covered.contains("BertModel, BertForSequenceClassification, BertForMaskedLM"), "{covered}");
    for name in ["DebertaModel", "T5EncoderModel", "MPNetForQuestionAnswering"] {
        assert_eq!(refusal("architectures", json!([name])), format!("architecture {name} {covered}"));
    }
    assert_eq!(
        spec(&json!({"model_type": "mamba"}), head()).expect_err("unknown").to_string(),
        format!("architecture mamba {covered}")
    );
    assert_eq!(
        spec(&json!({}), head()).expect_err("unknown").to_string(),
        format!("architecture (none named) {covered}")
    );
}

#[test]
fn fields_are_checked() {
    assert_eq!(refusal("hidden_size", Value::Null), "missing field `hidden_size`");
    assert!(refusal("hidden_size", json!(-8)).contains("-8"));
    assert!(refusal("hidden_size", json!("8")).contains("invalid type: string"));
    assert!(
        refusal("hidden_act", json!("quick_gelu")).starts_with("hidden_act is \"quick_gelu\", which is not")
    );
    assert!(refusal("position_embedding_type", json!("relative_key")).contains("covered: absolute"));
    assert!(refusal("is_decoder", json!(true)).starts_with("is_decoder is true"));
    assert_eq!(
        refusal("num_attention_heads", json!(3)),
        "hidden_size (8) is not a multiple of num_attention_heads (3)"
    );
    assert!(refusal("num_attention_heads", json!(0)).contains("num_attention_heads (0)"));
    assert!(refusal("num_hidden_layers", json!(1_000_000)).starts_with("layers is 1000000"));
    assert!(refusal("layer_norm_eps", json!(0)).starts_with("norm eps is 0"));
    assert!(spec(&json!([1]), head()).is_err() && spec(&Value::Null, head()).is_err());
}

#[test]
fn code_of_a_checkpoint_is_known_or_refused() {
    let refused = refusal("auto_map", json!({"AutoModel": "modeling_bert.JinaBertModel"}));
    assert!(
        refused.contains("code of its own, modeling_bert.JinaBertModel, which is never run"),
        "{refused}"
    );
    assert!(refusal("auto_map", json!({"AutoConfig": "configuration.Own"})).contains("configuration.Own"));
    assert!(refusal("auto_map", json!({"AutoModel": ["modeling.Own", null]})).contains("modeling.Own"));
    let jina = |class: &str| {
        let mut config: Value =
            serde_json::from_str(include_str!("../../../tests/golden/families/jina-bert/config.json"))
                .expect("golden data");
        config["auto_map"]["AutoModel"] = json!(class);
        spec(&config, head())
    };
    assert!(jina("modeling_bert.JinaBertModel").is_ok() && jina("a/b--modeling_bert.JinaBertModel").is_ok());
    assert!(jina("a/b--modeling_bert.JinaBertModel2").is_err() && jina("modeling_bert").is_err());
}

/// `tiny` as another family's, with further fields.
fn of(model_type: &str, fields: Value) -> Result<EncoderSpec, FamilyError> {
    let mut config = tiny();
    let object = config.as_object_mut().expect("an object");
    object
        .extend(json!({"architectures": null, "model_type": model_type}).as_object().cloned().expect("one"));
    object.extend(fields.as_object().cloned().expect("an object"));
    spec(&config, head())
}

#[test]
fn families_differ_in_what_their_code_does() {
    let position = |model_type, fields| of(model_type, fields).expect("covered").position;
    assert_eq!(position("roberta", json!({})), Position::Learned { rows: 5, offset: 2 });
    assert_eq!(position("camembert", json!({"pad_token_id": 0})), Position::Learned { rows: 5, offset: 1 });
    assert_eq!(position("mpnet", json!({"pad_token_id": 0})), Position::Learned { rows: 5, offset: 2 });
    assert_eq!(of("electra", json!({})).expect("covered").embeddings.width, 128);
    let refusal = |model_type, fields| of(model_type, fields).expect_err("not covered").to_string();
    let none_left = "position offset (5) leaves no row of the position table (5 rows)";
    assert_eq!(refusal("xlm-roberta", json!({"pad_token_id": 4})), none_left);
    assert!(refusal("roberta", json!({"pad_token_id": u64::MAX})).starts_with("position offset"));
    assert!(refusal("mpnet", json!({"relative_attention_num_buckets": 16})).ends_with("covered: 32"));
    assert_eq!(refusal("distilbert", json!({})), "missing field `dim`");
    assert!(refusal("electra", json!({"embedding_size": 0})).starts_with("embedding width is 0"));
    assert!(
        refusal("electra", json!({"position_embedding_type": "relative_key"})).ends_with("covered: absolute")
    );
}

#[test]
fn activations_have_many_names() {
    for (name, printed) in [
        ("gelu", "gelu_erf"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("swish", "silu"),
        ("relu", "relu"),
    ] {
        let spec = with("hidden_act", json!(name)).expect("covered").to_string();
        assert!(spec.contains(&format!("mlp: 16, {printed}\n")), "{name}: {spec}");
    }
}
