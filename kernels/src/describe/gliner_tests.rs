//! GLiNER's directories: what is read, and what is refused by its field.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{
    describe::{ModelDescription, ModelTask},
    dtype::DtypePolicy,
    fixture,
    outputs::OutputSet,
    plan::CudaPlan,
    weights::fixture::{counting, write},
};

const HEAD: SpanHead = SpanHead { width: 2, pooling: Pooling::Cls, recurrent: true, words_max: 12 };

fn gliner_config() -> Value {
    let mut encoder = fixture::config();
    encoder["model_type"] = "bert".into();
    json!({
        "model_type": "gliner", "hidden_size": 2, "vocab_size": 6, "class_token_index": 5, "has_rnn": true,
        "labels_encoder": null, "post_fusion_schema": "", "encoder_config": encoder,
    })
}

/// A directory with the tensors of such a model, without those that `keeps` refuses, and with more.
fn model(config: &Value, keeps: impl Fn(&str) -> bool, more: &[(&str, &[usize])]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let put = |name: &str, content: &Value| {
        std::fs::write(dir.path().join(name), content.to_string()).expect("written");
    };
    put(FILE, config);
    let vocab = json!({"a": 0, "b": 1, "c": 2, "d": 3, "<<SEP>>": 4});
    put(
        "tokenizer.json",
        &json!({"model": {"vocab": vocab}, "added_tokens": [{"id": 5, "content": "<<ENT>>"}]}),
    );
    let encoder = fixture::shapes().into_iter().map(|(name, shape)| (format!("{ENCODER}{name}"), shape));
    let head = SpanNames::new(dir.path().to_owned()).shapes(HEAD, 4);
    let more = more.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec()));
    let all: Vec<_> = encoder.chain(head).chain(more).filter(|(name, _)| keeps(name)).collect();
    let tensors: Vec<_> = all.iter().map(|(name, shape)| counting(name, shape)).collect();
    write(&dir.path().join("model.safetensors"), &tensors);
    dir
}

fn refusal_of(dir: &Path) -> String {
    let error = ModelDescription::from_dir(dir).expect_err("the directory is not covered").to_string();
    error.replace(dir.to_str().expect("UTF-8"), "DIR")
}

#[test]
fn a_model_is_described_with_its_encoder_inside_or_beside() {
    let inside = gliner_config();
    let mut beside = inside.clone();
    beside["encoder_config"] = Value::Null;
    let mut encoder = inside["encoder_config"].clone();
    // As it was before the marker and the separator came.
    encoder["vocab_size"] = 4.into();
    for (config, file) in [(inside, None), (beside, Some(encoder))] {
        let dir = model(&config, |_| true, &[]);
        if let Some(encoder) = file {
            std::fs::write(dir.path().join("config.json"), encoder.to_string()).expect("written");
        }
        let description = ModelDescription::from_dir(dir.path()).expect("covered");
        assert_eq!(description.spec.head.spans, Some(HEAD));
        assert_eq!(description.gives(), OutputSet { spans: true, ..OutputSet::NONE });
        assert_eq!((description.task(), description.tokens_max), (ModelTask::Extract, 40));
        let texts = description.span_texts.expect("labels stand before texts");
        assert_eq!((texts.marker.as_str(), texts.marker_id, texts.label_offset), ("<<ENT>>", 5, 0));
        assert_eq!((texts.words_max, texts.span_words_max), (384, 12));
        assert_eq!(description.spec.embeddings.vocab, 6);
        let refused = CudaPlan::new(&description.spec, DtypePolicy::Auto).expect_err("no kernel").to_string();
        assert_eq!(
            refused,
            "no CUDA kernel computes scores of spans (words, lstm, spans by labels): run the model on the CPU"
        );
    }
}

#[test]
fn what_is_not_covered_is_refused_by_its_field() {
    let refused = |field: &str, value: Value| {
        let mut config = gliner_config();
        config[field] = value;
        refusal_of(model(&config, |_| true, &[]).path())
    };
    for (field, value, words) in [
        (
            "labels_encoder",
            json!("BAAI/bge-small"),
            "a bi-encoder, whose labels have an encoder of their own (BAAI/bge-small)",
        ),
        ("span_mode", json!("token_level"), "span_mode \"token_level\""),
        ("model_type", json!("gliner_streaming_span"), "model_type \"gliner_streaming_span\""),
        ("labels_decoder", json!("gpt2"), "labels that gpt2 writes"),
        ("relations_layer", json!("biaffine"), "a head of relations"),
        ("words_splitter_type", json!("spacy"), "words_splitter_type \"spacy\""),
        ("subtoken_pooling", json!("sum"), "subtoken_pooling \"sum\""),
        ("fuse_layers", json!(true), "a sum over all layers (fuse_layers)"),
        ("post_fusion_schema", json!("l2l-l2t"), "post_fusion_schema \"l2l-l2t\""),
        ("num_rnn_layers", json!(2), "2 LSTM layers"),
    ] {
        let expected = format!("DIR/gliner_config.json: {words} is not covered; covered: {COVERED}");
        assert_eq!(refused(field, value), expected);
    }
    assert!(refused("encoder_config", Value::Null).contains("an encoder that is told by its name"));
    assert!(refused("max_width", json!(0)).contains("words of a span is 0; it must be positive"));
    assert!(refused("max_len", json!(0)).contains("max_len is 0"));
    let marker = refused("class_token_index", json!(4));
    assert!(
        marker.ends_with("class_token_index is 4, and the tokenizer has token 5 for \"<<ENT>>\""),
        "{marker}"
    );
}

#[test]
fn an_encoder_without_positions_takes_the_tokens_of_as_many_words_as_are_read() {
    let encoder: EncoderSpec = {
        let config = json!({
            "model_type": "deberta-v2", "vocab_size": 6, "hidden_size": 4, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 512,
            "relative_attention": true, "position_buckets": 256, "pos_att_type": "p2c|c2p", "norm_rel_ebd": "layer_norm",
            "position_biased_input": false, "share_att_key": true, "type_vocab_size": 0,
        });
        crate::families::spec(&config, Head::pooled(Pooling::Mean, false)).expect("covered")
    };
    let dir = model(&gliner_config(), |_| true, &[]);
    let gliner = Gliner::read(dir.path()).expect("read").expect("a GLiNER");
    let mut longer = encoder.clone();
    gliner.lengthen(&mut longer);
    assert_eq!((encoder.position.tokens_max(), longer.position.tokens_max()), (512, 4 * 384));
    let mut learned = EncoderSpec { position: Position::Learned { rows: 512, offset: 0 }, ..encoder };
    gliner.lengthen(&mut learned);
    assert_eq!(learned.position.tokens_max(), 512);
}

#[test]
fn weights_that_are_missing_or_too_many_are_named() {
    let refused = |keeps: fn(&str) -> bool, more: &[(&str, &[usize])]| {
        refusal_of(model(&gliner_config(), keeps, more).path())
    };
    let missing = refused(|name| name != "rnn.lstm.bias_hh_l0_reverse", &[]);
    assert!(missing.contains("rnn.lstm.bias_hh_l0_reverse"), "{missing}");
    let stray = refused(|_| true, &[("rnn.lstm.weight_ih_l1", &[4, 2])]);
    assert!(stray.contains("tensor \"rnn.lstm.weight_ih_l1\" is not accounted for"), "{stray}");
    let mut transposed = gliner_config();
    transposed["hidden_size"] = 4.into();
    assert!(refusal_of(model(&transposed, |_| true, &[]).path()).contains("rnn.lstm.weight_ih_l0"));
}
