//! Tiny random checkpoints whose heads classify sequences or tokens, and what a head may get wrong.

use std::fs;

use serde_json::{Value, json};
use shoal_kernels::{
    CpuIsa, CpuLane, CpuModel, Dtype, ExecError, ModelDescription, ModelTask, OutputSet, Outputs,
    PackedBatch, ScoreActivation,
};
use shoal_tests::{
    changed,
    golden::{self, Logits, TINY_CLASSIFIERS, cosine, error_max},
};

use super::{bits, describe, devices, load};

/// A right f32 implementation stays within this many times the reference's own f32 error.
const F32_ERRORS_MAX: f64 = 4.0;
/// Of all logits of a checkpoint side by side.
const BITS16_COSINE_MIN: f64 = 0.999;

fn batch(cases: &[Logits]) -> PackedBatch {
    let mut batch = PackedBatch::new();
    cases.iter().for_each(|case| batch.push(&case.ids));
    if cases.iter().any(|case| !case.type_ids.is_empty()) {
        let of_case = |case: &Logits| {
            let none = vec![0; case.ids.len()];
            if case.type_ids.is_empty() { none } else { case.type_ids.clone() }
        };
        batch.type_ids = cases.iter().flat_map(of_case).collect();
    }
    batch
}

/// The logits of a batch, whichever of the two outputs they are.
fn logits(lane: &mut CpuLane, model: &CpuModel, batch: &PackedBatch, threads: usize) -> Vec<f32> {
    let mut out = Outputs::new();
    lane.run(model, batch, model.gives(), threads, &mut out).unwrap_or_else(|error| panic!("{error}"));
    [out.classes, out.token_classes].concat()
}

#[test]
fn logits_are_those_of_the_reference() {
    for name in TINY_CLASSIFIERS {
        let golden = golden::tiny_classifier(name);
        let description = describe(&golden::tiny_head_dir(name));
        let truth = golden.cases.iter().flat_map(|case| case.logits.clone()).collect::<Vec<_>>();
        for device in devices() {
            let what = format!("{name} on {} {}", device.0, device.1);
            let (model, mut lane) = (load(&description, device), CpuLane::new(2));
            let together = logits(&mut lane, &model, &batch(&golden.cases), 2);
            let one_by_one =
                golden.cases.chunks(1).flat_map(|case| logits(&mut lane, &model, &batch(case), 1));
            let one_by_one = one_by_one.collect::<Vec<_>>();
            assert_eq!(bits(&together), bits(&one_by_one), "{what}: company changes nothing");
            if device.1 == Dtype::F32 {
                let (error, allowed) = (error_max(&together, &truth), F32_ERRORS_MAX * golden.f32_error_max);
                assert!(error <= allowed, "{what}: off by {error:e}, allowed {allowed:e}");
            } else {
                let cosine = cosine(&together, &truth);
                assert!(cosine >= BITS16_COSINE_MIN, "{what}: cosine {cosine}");
            }
        }
    }
}

/// Random texts, as a cross-encoder and a causal reranker see them: in 16 bits, two change their order only where their f32
/// scores are closer than four times the noise that a difference of two scores has in 16 bits here.
#[test]
fn no_pair_changes_its_order_beyond_the_noise_of_16_bits() {
    let isa = CpuIsa::detect();
    let narrow = Dtype::ALL.into_iter().filter(|dtype| *dtype != Dtype::F32 && isa.supports(*dtype));
    for (name, dtype) in ["heads/xlm-roberta-score", "tasks/judge"]
        .into_iter()
        .flat_map(|name| narrow.clone().map(move |dtype| (name, dtype)))
    {
        let description = describe(&golden::root().join(name));
        let mut batch = PackedBatch::new();
        for text in 0..400_u32 {
            let id = |place: u32| 3 + (text * 7919 + place * 104_729 + text * place * 31) % 90;
            batch.push(&(0..1 + text % 61).map(id).collect::<Vec<_>>());
        }
        let scores = |dtype| logits(&mut CpuLane::new(2), &load(&description, (isa, dtype)), &batch, 2);
        let (exact, rounded) = (scores(Dtype::F32), scores(dtype));
        let squares = exact.iter().zip(&rounded).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
        let noise = (2.0 * squares / exact.len() as f32).sqrt();
        let spread = exact.iter().fold(0.0_f32, |most, score| most.max((score - exact[0]).abs()));
        assert!(
            noise > 0.0 && spread > 20.0 * noise,
            "{name} {dtype}: noise {noise:e} in scores of {spread:e}"
        );
        for (a, exact_a) in exact.iter().enumerate() {
            for (b, exact_b) in exact.iter().enumerate() {
                let (margin, rounded) = (exact_a - exact_b, rounded[a] - rounded[b]);
                assert!(
                    margin <= 4.0 * noise || rounded > 0.0,
                    "{name} {dtype}: texts {a} and {b} are {margin:e} apart, {rounded:e} in 16 bits, noise {noise:e}"
                );
            }
        }
    }
}

#[test]
fn descriptions_are_what_the_files_say() {
    for name in TINY_CLASSIFIERS {
        let golden = golden::tiny_classifier(name);
        let description = describe(&golden::tiny_head_dir(name));
        assert_eq!(
            (&description.labels, description.multi_label),
            (&golden.labels, golden.multi_label),
            "{name}"
        );
        assert_eq!(description.tokens_max, golden.tokens_max, "{name}");
        let gives = description.gives();
        assert_eq!(gives.to_string(), golden.output, "{name}");
        let task =
            if gives.classes && golden.labels.len() == 1 { ModelTask::Score } else { ModelTask::Extract };
        assert_eq!((description.task(), description.dims), (task, 0), "{name}");
        let sigmoid = description.score_activation == ScoreActivation::Sigmoid;
        assert_eq!(sigmoid, golden.activation == "sigmoid", "{name}");
    }
}

#[test]
fn a_model_is_not_asked_for_what_it_does_not_give() {
    let model = load(&describe(&golden::tiny_head_dir("bert-ner")), (CpuIsa::Portable, Dtype::F32));
    let mut batch = PackedBatch::new();
    batch.push(&[5, 6]);
    let refusal = |wanted| {
        let (mut lane, mut out) = (CpuLane::new(1), Outputs::new());
        lane.run(&model, &batch, wanted, 1, &mut out).expect_err("not given")
    };
    let gives = OutputSet { token_classes: true, ..OutputSet::NONE };
    for wanted in [OutputSet::DENSE, OutputSet { classes: true, ..gives }, OutputSet::NONE] {
        assert_eq!(refusal(wanted), ExecError::Outputs { wanted, gives });
    }
    assert_eq!(refusal(OutputSet::DENSE).to_string(), "the model gives token_classes; dense was asked for");
}

/// What describing a copy of a checkpoint says after its configuration was changed.
fn refusal(name: &str, change: impl FnOnce(&mut Value)) -> String {
    changed::refusal(&golden::tiny_head_dir(name), "config.json", change)
}

#[test]
fn labels_and_tensors_must_fit_each_other() {
    assert_eq!(
        refusal("bert-nli", |config| config["id2label"] = json!({"0": "yes", "1": "no"})),
        "DIR/config.json: tensor \"classifier.weight\": shape [3, 32], the configuration needs [2, 32]"
    );
    assert_eq!(
        refusal("bert-nli", |config| config["num_labels"] = 4.into()),
        "DIR/config.json: num_labels is 4, but id2label names 3 labels"
    );
    assert_eq!(
        refusal("bert-ner", |config| config["architectures"] = json!(["BertForSequenceClassification"])),
        "DIR/config.json: tensor \"bert.pooler.dense.weight\": not in the checkpoint"
    );
    assert_eq!(
        refusal("xlm-roberta-score", |config| {
            config["architectures"] = json!(["XLMRobertaForTokenClassification"]);
        }),
        "DIR/config.json: tensor \"classifier.weight\": not in the checkpoint"
    );
    let activation = refusal("electra-score", |config| {
        config["sentence_transformers"] = json!({"activation_fn": "torch.nn.modules.activation.Softmax"});
    });
    assert!(
        activation.contains("Softmax of scores is not covered; covered: Sigmoid, Identity"),
        "{activation}"
    );
}

#[test]
fn a_cross_encoder_needs_a_head() {
    let bare = refusal("bert-score-6", |config| config["architectures"] = json!(["BertModel"]));
    assert!(
        bare.ends_with("describes a cross-encoder, but the architecture has no head of labels"),
        "{bare}"
    );
}

#[test]
fn a_cross_encoder_of_modules_ends_with_scores() {
    let told = |file: &str, change: &dyn Fn(&mut Value)| {
        changed::refusal(&golden::tiny_head_dir("ettin-score"), file, change)
    };
    assert_eq!(
        told("4_Dense/config.json", &|module| module["module_output_name"] = "sentence_embedding".into()),
        "DIR/4_Dense/config.json: a module for \"sentence_embedding\" is not covered; covered: scores"
    );
    let early = told("2_Dense/config.json", &|module| module["module_output_name"] = "scores".into());
    assert!(
        early.ends_with("a module for \"scores\" is not covered; covered: sentence_embedding"),
        "{early}"
    );
    let none = told("modules.json", &|modules| modules.as_array_mut().expect("a list").truncate(4));
    assert!(none.ends_with("describes a cross-encoder, but no module gives scores"), "{none}");
    let pipeline = "config_sentence_transformers.json";
    let embeds = told(pipeline, &|pipeline| pipeline["model_type"] = "SentenceTransformer".into());
    assert!(
        embeds.ends_with("a module for \"scores\" is not covered; covered: sentence_embedding"),
        "{embeds}"
    );
}

/// The reranker of `tasks/judge` in a directory of its own, without the files that say that it is one.
fn bare_language_model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let judge = golden::tiny_head_dir("../tasks/judge");
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(judge.join(name), dir.path().join(name)).expect("copied");
    }
    dir
}

#[test]
fn a_language_model_ranks_where_somebody_says_so_and_has_the_words() {
    let dir = bare_language_model();
    let embeds = ModelDescription::from_dir(dir.path()).expect("an embedder");
    assert_eq!((embeds.gives(), embeds.pair_template), (OutputSet::DENSE, None));
    let refused = ModelDescription::of_reranker(dir.path()).expect_err("no words to answer by").to_string();
    assert!(refused.contains("the word \"yes\", by which a reranker answers, is no token"), "{refused}");
    let path = dir.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    let words = tokenizer["model"]["vocab"].as_object_mut().expect("words");
    words.insert("yes".to_owned(), json!(100));
    words.insert("no".to_owned(), json!(200));
    fs::write(&path, tokenizer.to_string()).expect("written");
    let ranks = ModelDescription::of_reranker(dir.path()).expect("a reranker");
    assert_eq!((ranks.task(), ranks.score_activation), (ModelTask::Score, ScoreActivation::Sigmoid));
    assert!(ranks.pair_template.is_some());
    let judge = describe(&golden::tiny_head_dir("../tasks/judge"));
    let logit = |description: &ModelDescription| {
        let mut batch = PackedBatch::new();
        batch.push(&[5, 9, 17]);
        let model = load(description, (CpuIsa::Portable, Dtype::F32));
        bits(&logits(&mut CpuLane::new(1), &model, &batch, 1))
    };
    assert_eq!(logit(&ranks), logit(&judge), "the same rows of the same table");
}

#[test]
fn rerankers_with_other_templates_or_words_are_refused() {
    let dir = bare_language_model();
    let judge = golden::tiny_head_dir("../tasks/judge");
    fs::create_dir(dir.path().join("1_LogitScore")).expect("made");
    for name in ["modules.json", "sentence_bert_config.json", "1_LogitScore/config.json"] {
        fs::copy(judge.join(name), dir.path().join(name)).expect("copied");
    }
    let refusal = |file: &str, content: &str| {
        let path = dir.path().join(file);
        let before = fs::read(&path);
        fs::write(&path, content).expect("written");
        let refused = ModelDescription::from_dir(dir.path()).expect_err("not covered").to_string();
        match before {
            Ok(bytes) => fs::write(&path, bytes).expect("written"),
            Err(_) => fs::remove_file(&path).expect("removed"),
        }
        refused
    };
    let other = refusal("chat_template.jinja", "{{ messages }}");
    assert!(other.contains("another template of chats is not covered"), "{other}");
    let outside = refusal("1_LogitScore/config.json", "{\"true_token_id\": 9000}");
    assert!(outside.contains("the word 9000 of its answers is none of"), "{outside}");
    assert!(
        ModelDescription::from_dir(dir.path()).is_ok(),
        "without a template of its own it is the known one"
    );
}
