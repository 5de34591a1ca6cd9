use shoal_protocol::limits::RESULT_BODY_BYTES_MAX;
use shoal_protocol::message::{DenseDtype, EncodeOptions, ExtractOptions, ScoreOptions};
use shoal_protocol::{Frame, Message, WIRE_VERSION};

use super::*;

fn prompts() -> Prompts {
    Prompts {
        by_name: [("query", "query: "), ("plain", "")]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into(),
        default_name: None,
    }
}

fn abilities(prompts: &Prompts) -> Abilities<'_> {
    Abilities {
        dims: 32,
        matryoshka: &Matryoshka::Any,
        normalizes: true,
        numerics: Numerics::Bits16,
        prompts,
        token_ids: TokenIdsPolicy::Refuse,
    }
}

fn text() -> Vec<Input> {
    vec![Input::Text("a".to_owned())]
}

fn ask(options: &EncodeOptions) -> Result<VectorForm, AskError> {
    Ask::new(&options.clone().into(), &text(), abilities(&prompts())).map(|ask| ask.form)
}

#[test]
fn the_default_is_the_models_own_pipeline() {
    let own = VectorForm { dims: 32, normalize: true, dtype: DenseDtype::F32 };
    assert_eq!(ask(&EncodeOptions::default()), Ok(own));
    let raw = EncodeOptions { normalize: Some(false), dims: Some(8), ..EncodeOptions::default() };
    assert_eq!(ask(&raw), Ok(VectorForm { dims: 8, normalize: false, dtype: DenseDtype::F32 }));
}

#[test]
fn what_the_model_cannot_give_is_refused() {
    let prompts = prompts();
    for dims in [0, 33, u32::MAX] {
        let options = EncodeOptions { dims: Some(dims), ..EncodeOptions::default() };
        assert!(matches!(ask(&options), Err(AskError::Dims { wanted, dims: 32, .. }) if wanted == dims));
    }
    let untrained = Abilities { matryoshka: &Matryoshka::Untrained, ..abilities(&prompts) };
    for (dims, is_taken) in [(8, false), (32, true)] {
        let options = EncodeOptions { dims: Some(dims), ..EncodeOptions::default() };
        assert_eq!(Ask::new(&options.into(), &text(), untrained).is_ok(), is_taken);
    }
    let options = EncodeOptions { numerics: Numerics::F32, ..EncodeOptions::default() };
    let error = ask(&options).expect_err("runs in 16 bits");
    assert_eq!(error.code(), ErrorCode::ModelUnsupported);
    let none: &[Input] = &[];
    let empty = Ask::new(&Task::default(), none, abilities(&prompts));
    assert_eq!(empty, Err(AskError::NoItems));
    for task in [ScoreOptions::default().into(), ExtractOptions::default().into()] {
        let refused = Ask::new(&task, &text(), abilities(&prompts)).expect_err("no head");
        assert_eq!(refused.code(), ErrorCode::ModelUnsupported);
        assert!(refused.to_string().contains(task.name()), "{refused}");
    }
    let options = EncodeOptions { outputs: VectorSet::SPARSE, ..EncodeOptions::default() };
    assert_eq!(ask(&options).expect_err("dense only").code(), ErrorCode::ModelUnsupported);
}

#[test]
fn prompts_go_by_name_or_default() {
    let mut prompts = prompts();
    let named = |name: &str| EncodeOptions { prompt_name: Some(name.to_owned()), ..EncodeOptions::default() };
    let prompt = |options: &EncodeOptions, prompts: &Prompts| {
        Ask::new(&options.clone().into(), &text(), abilities(prompts))
            .map(|ask| ask.prompt.map(str::to_owned))
    };
    assert_eq!(prompt(&named("query"), &prompts), Ok(Some("query: ".to_owned())));
    assert_eq!(prompt(&named("plain"), &prompts), Ok(None));
    let unknown = prompt(&named("other"), &prompts).expect_err("unknown");
    assert!(unknown.to_string().contains("plain, query"), "{unknown}");
    assert_eq!(prompt(&EncodeOptions::default(), &prompts), Ok(None));
    prompts.default_name = Some("query".to_owned());
    assert_eq!(prompt(&EncodeOptions::default(), &prompts), Ok(Some("query: ".to_owned())));
}

#[test]
fn ids_are_taken_only_where_configured() {
    let prompts = prompts();
    let ids = [Input::TokenIds(vec![2, 3])];
    let options = Task::default();
    assert_eq!(Ask::new(&options, &ids, abilities(&prompts)), Err(AskError::TokenIds));
    let taking = Abilities { token_ids: TokenIdsPolicy::Model, ..abilities(&prompts) };
    assert!(Ask::new(&options, &ids, taking).is_ok());
}

fn bytes_of(frame: TaskResult) -> usize {
    let mut bytes = Vec::new();
    let frame = Frame::from(Message::TaskResult(frame));
    shoal_protocol::encode(&frame, WIRE_VERSION, &mut bytes).expect("fits its limit");
    bytes.len()
}

#[test]
fn the_fullest_frames_fit_the_wire() {
    let vector = vec![0.5; 1024];
    for (dims, dtype) in [(1024, DenseDtype::F32), (3, DenseDtype::Bits), (1, DenseDtype::I8)] {
        let form = VectorForm { dims, normalize: true, dtype };
        let rows = form.rows_per_frame().min(2048);
        let rows = (0..u32::try_from(rows).expect("small")).map(|index| EncodedRow {
            index,
            tokens: 7,
            truncated: false,
            vector: &vector,
        });
        let frame = result_frame(form, rows.collect::<Vec<_>>().into_iter());
        assert!(bytes_of(frame) <= RESULT_BODY_BYTES_MAX as usize);
    }
    let failure = ItemFailure { code: ErrorCode::TooLong, message: "é".repeat(10_000), tokens: 1, limit: 2 };
    let frames = failure_frames((0..2048).map(|index| (index, failure.clone())).collect());
    assert_eq!(frames.iter().map(|frame| frame.indices.len()).sum::<usize>(), 2048);
    for frame in frames {
        bytes_of(frame);
    }
}
