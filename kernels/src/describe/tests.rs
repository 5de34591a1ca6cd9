//! Whole directories: what is read, and what is refused with the file's name.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::{
    fixture::{config, model, put_weights, shapes},
    spec::{Activation, HeadModule, Pooling},
};

fn refusal(files: &[(&str, Value)]) -> String {
    let dir = model("", files);
    let error = ModelDescription::from_dir(dir.path()).expect_err("the directory is not covered").to_string();
    error.replace(dir.path().to_str().expect("UTF-8"), "DIR")
}

fn one(pooling: Pooling) -> Poolings {
    Poolings(vec![pooling])
}

fn modules(kinds: &[&str]) -> (&'static str, Value) {
    let modules = kinds.iter().enumerate().map(|(idx, kind)| {
        let path = if idx == 0 { String::new() } else { format!("{idx}_{kind}") };
        json!({"idx": idx, "name": idx.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")})
    });
    ("modules.json", modules.collect())
}

fn pooling(config: Value) -> [(&'static str, Value); 2] {
    [modules(&["Transformer", "Pooling"]), ("1_Pooling/config.json", config)]
}

#[test]
fn a_bare_encoder_assumes_the_mean() {
    let dir = model("bert.", &[]);
    let description = ModelDescription::from_dir(dir.path()).expect("covered");
    assert_eq!((&description.pooling, description.pooling_assumed), (&one(Pooling::Mean), true));
    assert_eq!((description.normalizes, description.tokens_max, description.dims), (false, 40, 4));
    let norm = description.names.embedding_norm.as_ref().expect("BERT has one");
    assert_eq!(norm.weight.name, "bert.embeddings.LayerNorm.gamma");
    assert_eq!(description.prompts, Prompts::default());
    assert_eq!(description.weight_bytes_estimate(Dtype::Bf16), 2 * description.spec.parameters());
}

#[test]
fn labels_of_a_bare_encoder_say_nothing_whatever_they_say() {
    let mut contradicting = config();
    contradicting["id2label"] = json!({"0": "a", "2": "b"});
    contradicting["num_labels"] = 7.into();
    let dir = model("", &[("config.json", contradicting)]);
    let description = ModelDescription::from_dir(dir.path()).expect("covered");
    assert!(description.pooling_assumed && description.labels.is_empty());
}

#[test]
fn the_older_layout_is_read() {
    let booleans = json!({"word_embedding_dimension": 4, "pooling_mode_cls_token": true,
        "pooling_mode_mean_tokens": false, "pooling_mode_max_tokens": false});
    let dir = model(
        "",
        &[
            modules(&["Transformer", "Pooling", "Normalize"]),
            ("1_Pooling/config.json", booleans),
            ("sentence_bert_config.json", json!({"max_seq_length": 16, "do_lower_case": true})),
            ("tokenizer_config.json", json!({"model_max_length": 1e30})),
            (
                "config_sentence_transformers.json",
                json!({"prompts": {"query": "q: "}, "default_prompt_name": "query"}),
            ),
        ],
    );
    let description = ModelDescription::from_dir(dir.path()).expect("covered");
    assert_eq!((&description.pooling, description.pooling_assumed), (&one(Pooling::Cls), false));
    assert_eq!((description.normalizes, description.lowercases, description.tokens_max), (true, true, 16));
    assert_eq!(description.prompts.by_name["query"], "q: ");
    assert_eq!(description.prompts.default_name.as_deref(), Some("query"));
}

#[test]
fn the_current_layout_is_read() {
    let class = |name: &str| format!("sentence_transformers.{name}");
    let dir = model(
        "",
        &[
            (
                "modules.json",
                json!([
                    {"idx": 0, "name": "0", "path": "", "type": class("base.modules.transformer.Transformer")},
                    {"idx": 1, "name": "1", "path": "1_Pooling", "type": class("sentence_transformer.modules.pooling.Pooling")},
                ]),
            ),
            (
                "1_Pooling/config.json",
                json!({"embedding_dimension": 4, "pooling_mode": "lasttoken", "include_prompt": true}),
            ),
            ("sentence_bert_config.json", json!({"transformer_task": "feature-extraction"})),
            ("tokenizer_config.json", json!({"model_max_length": 24})),
        ],
    );
    let description = ModelDescription::from_dir(dir.path()).expect("covered");
    assert_eq!((&description.pooling, description.tokens_max), (&one(Pooling::LastToken), 24));
    assert!(!description.normalizes);
}

#[test]
fn every_pooling_has_two_spellings() {
    for (boolean, name, expected) in [
        ("cls_token", "cls", Pooling::Cls),
        ("max_tokens", "max", Pooling::Max),
        ("mean_tokens", "mean", Pooling::Mean),
        ("mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
        ("weightedmean_tokens", "weightedmean", Pooling::WeightedMean),
        ("lasttoken", "lasttoken", Pooling::LastToken),
    ] {
        let mut older = serde_json::Map::new();
        older.insert(format!("pooling_mode_{boolean}"), true.into());
        for config in [Value::Object(older), json!({"pooling_mode": name}), json!({"pooling_mode": [name]})] {
            let dir = model("", &pooling(config));
            assert_eq!(ModelDescription::from_dir(dir.path()).expect("covered").pooling, one(expected));
        }
    }
}

/// A directory whose pooled vectors, cls and mean side by side, go through a Dense.
fn with_dense(dense: Value, shapes: &[(String, Vec<usize>)]) -> tempfile::TempDir {
    let poolings = json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true});
    let chain = modules(&["Transformer", "Pooling", "Dense", "Dropout", "Normalize"]);
    let dir = model("", &[chain, ("1_Pooling/config.json", poolings), ("2_Dense/config.json", dense)]);
    put_weights(&dir.path().join("2_Dense"), "", shapes);
    dir
}

fn dense_shapes(outputs: usize, inputs: usize) -> [(String, Vec<usize>); 2] {
    [("linear.weight".to_owned(), vec![outputs, inputs]), ("linear.bias".to_owned(), vec![outputs])]
}

#[test]
fn modules_follow_several_poolings() {
    let dir = with_dense(json!({"in_features": 8, "out_features": 3}), &dense_shapes(3, 8));
    let description = ModelDescription::from_dir(dir.path()).expect("covered");
    assert_eq!(description.pooling, Poolings(vec![Pooling::Cls, Pooling::Mean]), "in the library's order");
    assert_eq!((description.dims, description.normalizes), (3, true));
    let modules = &description.spec.head.dense.as_ref().expect("a dense head").modules;
    let dense = HeadModule::Dense { outputs: 3, bias: true, activation: Activation::Tanh };
    assert_eq!(modules, &[dense, HeadModule::Normalize]);
    assert!(description.spec.to_string().ends_with("pool cls+mean -> dense 3 + bias, tanh -> l2\n"));
}

#[test]
fn a_module_that_does_not_fit_is_named() {
    let told = |dense: Value, shapes: &[(String, Vec<usize>)]| {
        let dir = with_dense(dense, shapes);
        let error = ModelDescription::from_dir(dir.path()).expect_err("not covered").to_string();
        error.replace(dir.path().to_str().expect("UTF-8"), "DIR")
    };
    let shapes = dense_shapes(3, 8);
    assert_eq!(
        told(json!({"in_features": 4, "out_features": 3}), &shapes),
        "DIR/2_Dense/config.json: in_features is 4, but the modules before give vectors of 8"
    );
    let with = |field: &str, value: Value| {
        let mut dense = json!({"in_features": 8, "out_features": 3});
        dense[field] = value;
        told(dense, &shapes)
    };
    assert!(with("out_features", json!(2)).contains("tensor \"linear.weight\": shape [3, 8]"));
    assert!(with("use_residual", json!(true)).contains("a Dense with use_residual is not covered"));
    assert!(
        with("module_input_name", json!("token_embeddings")).contains("\"token_embeddings\" is not covered")
    );
    let own = with("activation_function", json!("own.Magic"));
    assert!(own.contains("the activation own.Magic is not covered; covered: Tanh, Identity"), "{own}");
    let without = told(json!({"in_features": 8, "out_features": 3}), &shapes[..1]);
    assert!(without.contains("\"linear.bias\": not in the checkpoint"), "{without}");
}

#[test]
fn what_is_not_covered_is_named_with_its_file() {
    let chain = refusal(&[modules(&["Transformer", "Pooling", "LSTM", "Normalize"])]);
    assert_eq!(
        chain,
        "DIR/modules.json: the chain of modules Transformer, Pooling, LSTM, Normalize is not covered; \
         covered: Transformer, Pooling, then any of Dense, LayerNorm, Normalize, Dropout, the last of which may give scores; \
         Transformer for sequence-classification; Transformer for fill-mask, SpladePooling; \
         Transformer for text-generation, LogitScore; Transformer, then any of Dense, Normalize, MultiVectorMask for tokens"
    );
    assert!(refusal(&[modules(&["Transformer"])]).contains("the chain of modules Transformer is not"));
    let own = json!([{"path": "", "type": "custom_st.Transformer"}]);
    assert!(refusal(&[("modules.json", own)]).contains("the chain of modules custom_st.Transformer is not"));
    let twice = refusal(&pooling(json!({"pooling_mode": ["cls", "cls"]})));
    assert!(
        twice.starts_with("DIR/1_Pooling/config.json: pooling by \"cls\" twice is not covered"),
        "{twice}"
    );
    let unknown = refusal(&pooling(json!({"pooling_mode_magic": true})));
    assert!(unknown.contains("pooling by \"pooling_mode_magic\" is not covered"), "{unknown}");
    let [chain, config] = pooling(json!({"pooling_mode": "mean", "include_prompt": false}));
    let prompts = ("config_sentence_transformers.json", json!({"prompts": {"query": "q: "}}));
    assert!(refusal(&[chain, config, prompts]).contains("include_prompt: false"));
    let sparse = ("config_sentence_transformers.json", json!({"model_type": "SparseEncoder"}));
    assert!(
        refusal(&[sparse])
            .contains("SparseEncoder is not covered; covered: SentenceTransformer, CrossEncoder")
    );
}

#[test]
fn what_does_not_fit_is_named_with_its_file() {
    assert!(
        refusal(&[modules(&["Transformer", "Pooling"])]).starts_with("cannot read DIR/1_Pooling/config.json")
    );
    let outside = json!([{"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "../x", "type": "sentence_transformers.models.Pooling"}]);
    assert!(refusal(&[("modules.json", outside)]).contains("\"../x\" of a module leads outside"));
    let prompt = ("config_sentence_transformers.json", json!({"default_prompt_name": "query"}));
    assert!(refusal(&[prompt]).ends_with("default_prompt_name \"query\" is not one of the prompts"));
    let zero = ("sentence_bert_config.json", json!({"max_seq_length": 0}));
    assert_eq!(refusal(&[zero]), "DIR/sentence_bert_config.json: max_seq_length is 0");
    let negative = ("sentence_bert_config.json", json!({"max_seq_length": -1}));
    assert!(refusal(&[negative]).starts_with("DIR/sentence_bert_config.json: invalid value: integer `-1`"));
}

#[test]
fn weights_must_be_those_of_the_configuration() {
    let changed = |field: &str, value: usize| {
        let mut config = config();
        config[field] = value.into();
        refusal(&[("config.json", config)])
    };
    assert_eq!(
        changed("vocab_size", 7),
        "DIR/config.json: tensor \"embeddings.word_embeddings.weight\": shape [6, 4], the configuration needs [7, 4]"
    );
    assert_eq!(
        changed("num_hidden_layers", 2),
        "DIR/config.json: tensor \"encoder.layer.1.attention.self.query.weight\": not in the checkpoint"
    );
    let dir = model("", &[]);
    let told = |shapes: &[(String, Vec<usize>)]| {
        put_weights(dir.path(), "", shapes);
        ModelDescription::from_dir(dir.path()).expect_err("the weights do not fit").to_string()
    };
    let mut shapes = shapes();
    shapes.push(("encoder.layer.1.output.dense.bias".to_owned(), vec![4]));
    assert!(told(&shapes).contains("\"encoder.layer.1.output.dense.bias\" is not accounted for"));
    assert!(told(&shapes[1..]).ends_with("\"embeddings.word_embeddings.weight\": not in the checkpoint"));
}

#[test]
fn a_missing_or_garbled_configuration_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let told = |dir: &Path| ModelDescription::from_dir(dir).expect_err("no model").to_string();
    assert!(told(dir.path()).starts_with("cannot read "));
    std::fs::write(dir.path().join("config.json"), "{\"hidden_size\": ").expect("written");
    assert!(told(dir.path()).contains("config.json: EOF while parsing"), "{}", told(dir.path()));
    assert!(told(&dir.path().join("none")).contains("none/config.json"));
}
