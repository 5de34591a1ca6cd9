use std::sync::Mutex;

use serde_json::Value;
use shoal_mesh::ClientError;
use shoal_protocol::message::{DenseDtype, Input, ModelState, Numerics, Truncate};
use shoal_protocol::{ErrorCode, TraceContext};

use super::*;

fn golden_json(model: &str) -> Value {
    let json = std::fs::read(golden().join(format!("{model}.json"))).expect("golden data");
    serde_json::from_slice(&json).expect("golden data is JSON")
}

fn numbers(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).expect("a vector")
}

fn assert_near(found: &[f32], wanted: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() <= tolerance, "{what}: {found} {wanted}");
    }
}

fn code_of(result: Result<shoal_mesh::Completed, ClientError>) -> ErrorCode {
    result.expect_err("must fail").code()
}

/// Where the log of a test goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic under it").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_names_the_trace_of_a_request() {
    let node = start(golden_config(&["mean"])).await;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
    let _logging = tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish());
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let context: TraceContext = trace.parse().expect("sound");
    vectors(&node, Encode::new("mean", ["a text"]).trace(context)).await;
    let text = String::from_utf8(log.0.lock().expect("no panic under it").clone()).expect("UTF-8");
    let done = text.lines().find(|line| line.contains("done")).expect("the end of a request is logged");
    assert!(done.contains("encode{") && done.contains(&format!("trace={trace}")), "{done}");
}

#[tokio::test]
async fn a_catalogue_entry_may_allow_dimensions() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = golden().join("mean").display().to_string();
    let entry = format!(
        "version = 1\nname = \"cuttable\"\nmatryoshka_dimensions = [8, 16]\n\
         [[sources]]\nkind = \"directory\"\npath = \"{model}\"\n"
    );
    std::fs::write(dir.path().join("cuttable.toml"), entry).expect("written");
    let mut config = golden_config(&["mean"]);
    config.models.store.catalogue_dir = dir.path().to_path_buf();
    let node = start(config).await;
    let client = node.client();
    let cut = |model: &str, dims: u32| client.encode(Encode::new(model, ["a text"]).dims(dims));
    for dims in [8, 16, 32] {
        let encoded = cut("cuttable", dims).await.expect("stated, or the model's own");
        assert_eq!(f32_of(&encoded.items[0]).len(), dims as usize);
    }
    assert_eq!(code_of(cut("cuttable", 9).await), ErrorCode::InvalidRequest, "not stated");
    assert_eq!(code_of(cut("mean", 8).await), ErrorCode::InvalidRequest, "the same files without the entry");
}

#[tokio::test]
async fn vectors_equal_those_of_sentence_transformers() {
    let models = ["mean", "cls-bf16-prefixed", "bare-f16-gamma", "sharded-current"];
    let node = start(golden_config(&models)).await;
    for model in models {
        let json = golden_json(model);
        let cases = json["cases"].as_array().expect("cases");
        let texts = cases.iter().map(|case| case["text"].as_str().expect("a text"));
        let call = Encode::new(model, texts).truncate(Truncate::Right);
        let encoded = node.client().encode(call).await.expect("encoded");
        for (case, item) in cases.iter().zip(&encoded.items) {
            assert_near(&f32_of(item), &numbers(&case["vector"]), 1e-4, model);
            let ids = case["ids"].as_array().expect("ids").len();
            assert_eq!(item.tokens_seen() as usize, ids);
        }
        let served_by = encoded.served_by.expect("something was sent");
        assert_eq!(served_by.node, node.id());
        assert_eq!(served_by.numerics, Numerics::F32);
        assert!(encoded.request_id.is_answered_by(node.id()));
    }
    let status = node.status(true).await;
    assert!(status.ready);
    for model in models {
        let found = status.models.iter().find(|found| found.name == model).expect("listed");
        assert_eq!(found.state, ModelState::Ready);
        assert!(found.bytes.0 > 0 && found.requests > 0 && found.tokens > 0);
        let stages = status.histograms.iter().filter(|histogram| histogram.model == model);
        assert_eq!(stages.count(), 7);
    }
}

/// A checkpoint of this name that says of itself that its vectors may be cut.
fn matryoshka(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for file in std::fs::read_dir(golden().join(name)).expect("golden data") {
        let file = file.expect("an entry");
        let to = copy.path().join(file.file_name());
        if file.path().is_file() {
            std::fs::copy(file.path(), to).expect("copied");
        }
    }
    let pooling = "1_Pooling/config.json";
    std::fs::create_dir(copy.path().join("1_Pooling")).expect("a directory");
    std::fs::copy(golden().join(name).join(pooling), copy.path().join(pooling)).expect("copied");
    let path = copy.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    config["matryoshka_dimensions"] = serde_json::json!([8, 16]);
    std::fs::write(path, config.to_string()).expect("written");
    copy
}

#[tokio::test]
async fn options_do_what_they_say() {
    let trained = matryoshka("mean");
    let node = start(config(&[("mean", &golden().join("mean")), ("cut", trained.path())])).await;
    let json = golden_json("mean");
    let text = json["cases"][0]["text"].as_str().expect("a text");
    let call = || Encode::new("mean-alias", [text]);
    let whole = &vectors(&node, call()).await[0];
    assert_near(&[whole.iter().map(|x| x * x).sum()], &[1.0], 1e-5, "unit length");

    let raw = &vectors(&node, call().normalize(false)).await[0];
    let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((length - 1.0).abs() > 1e-3, "the fixture's vectors have unit length anyway");
    let scaled: Vec<f32> = raw.iter().map(|x| x / length).collect();
    assert_near(&scaled, whole, 1e-6, "normalize");

    let cut = &vectors(&node, Encode::new("cut", [text]).dims(8)).await[0];
    let length = whole[..8].iter().map(|x| x * x).sum::<f32>().sqrt();
    let expected: Vec<f32> = whole[..8].iter().map(|x| x / length).collect();
    assert_near(cut, &expected, 1e-6, "dims");

    let bits = node.client().encode(call().output_dtype(DenseDtype::Bits)).await;
    let Some(vector) = bits.expect("encoded").items[0].vector().cloned() else {
        panic!("a vector");
    };
    assert_eq!(vector.bytes().len(), 4);
    assert_eq!(vector.bytes()[0] >> 7 == 1, whole[0] > 0.0);

    for case in json["prompts"].as_array().expect("prompts") {
        let name = case["prompt_name"].as_str().expect("a name").to_owned();
        let call = Encode::new("mean", [case["text"].as_str().expect("a text")]).prompt_name(name);
        assert_near(&vectors(&node, call).await[0], &numbers(&case["vector"]), 1e-4, "prompt");
    }
}

#[tokio::test]
async fn bad_requests_get_typed_errors_and_good_items_their_vectors() {
    let node = start(golden_config(&["mean"])).await;
    let client = node.client();
    let text = || Encode::new("mean", ["a text"]);
    let unknown = client.encode(Encode::new("nothing", ["a"])).await;
    assert_eq!(code_of(unknown), ErrorCode::ModelNotFound);
    assert_eq!(code_of(client.encode(text().dims(33)).await), ErrorCode::InvalidRequest);
    assert_eq!(
        code_of(client.encode(text().dims(8)).await),
        ErrorCode::InvalidRequest,
        "not a Matryoshka model"
    );
    let prompt = client.encode(text().prompt_name("other".to_owned())).await;
    assert_eq!(code_of(prompt), ErrorCode::InvalidRequest);
    let bits16 = client.encode(text().numerics(Numerics::Bits16)).await;
    assert_eq!(code_of(bits16), ErrorCode::ModelUnsupported);
    let ids = client.encode(Encode::inputs("mean", [Input::TokenIds(vec![2, 3])])).await;
    assert_eq!(code_of(ids), ErrorCode::InvalidRequest);

    let long = "word ".repeat(400);
    let mixed = client.encode(Encode::new("mean", ["", &long, "short"])).await.expect("encoded");
    assert!(matches!(mixed.items[0], ItemResult::Answered { tokens: 2, .. }));
    assert!(matches!(
        mixed.items[1],
        ItemResult::Failed { code: ErrorCode::TooLong, limit: 48, tokens, .. } if tokens > 400
    ));
    assert!(matches!(mixed.items[2], ItemResult::Answered { truncated: false, .. }));
    let only = client.encode(Encode::new("mean", [&long])).await.expect("answered");
    assert!(matches!(only.items[0], ItemResult::Failed { code: ErrorCode::TooLong, .. }));
}

#[tokio::test]
async fn ids_are_taken_where_configured_and_checked() {
    let mut config = golden_config(&["mean"]);
    config.models.token_ids = TokenIdsPolicy::Model;
    let node = start(config).await;
    let json = golden_json("mean");
    let case = &json["cases"][0];
    let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
    let inputs = [Input::TokenIds(ids), Input::TokenIds(vec![2, 1_000_000, 3])];
    let encoded = node.client().encode(Encode::inputs("mean", inputs)).await.expect("encoded");
    assert_near(&f32_of(&encoded.items[0]), &numbers(&case["vector"]), 1e-4, "ids");
    assert!(matches!(encoded.items[1], ItemResult::Failed { code: ErrorCode::InvalidRequest, .. }));
}

#[tokio::test]
async fn a_text_gets_the_same_bits_alone_and_in_a_crowd() {
    let node = start(golden_config(&["mean"])).await;
    let texts: Vec<String> =
        (0..3000).map(|index| format!("text {index} {}", "and more ".repeat(index % 13))).collect();
    let crowd = vectors(&node, Encode::new("mean", texts.clone())).await;
    assert_eq!(crowd.len(), texts.len());
    for index in [0, 1, 77, 1500, 2999] {
        let alone = vectors(&node, Encode::new("mean", [texts[index].clone()])).await;
        assert_eq!(alone[0], crowd[index], "text {index}");
    }
}

#[tokio::test]
async fn stages_do_not_overlap() {
    let node = start(golden_config(&["mean"])).await;
    let encoded = node.client().encode(Encode::new("mean", ["a text"])).await.expect("encoded");
    let timings = encoded.timings;
    let stages = [
        timings.tokenize_wait_us,
        timings.tokenize_us,
        timings.load_us,
        timings.queue_us,
        timings.compute_us,
        timings.post_us,
    ];
    let sum: u64 = stages.iter().map(|stage| stage.0).sum();
    assert!(sum <= timings.total_us.0, "{timings:?}");
    assert!(timings.compute_us.0 > 0 && timings.tokenize_us.0 > 0, "{timings:?}");
}
