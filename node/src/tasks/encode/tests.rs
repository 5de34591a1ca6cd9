use shoal_kernels::{Matryoshka, MultivectorText, MultivectorTexts, Outputs, Prompts};
use shoal_protocol::ErrorCode;
use shoal_protocol::limits::RESULT_BODY_BYTES_MAX;
use shoal_protocol::message::{DenseDtype, InputType, ItemOutcome, Numerics, Task, TaskResult};
use shoal_protocol::{Frame, Message, WIRE_VERSION};

use super::*;
use crate::config::TokenIdsPolicy;
use crate::tasks::ask::{Answering, Ask, testing::*};
use crate::tasks::frames::{failure_frames, result_frames};

fn form(options: EncodeOptions) -> Result<VectorForm, AskError> {
    let prompts = prompts();
    ask(options, abilities(&prompts)).map(|(_, _, gather)| gather.form)
}

#[test]
fn the_default_is_the_models_own_pipeline() {
    let own = VectorForm { dims: 32, normalize: true, dtype: DenseDtype::F32 };
    assert_eq!(form(EncodeOptions::default()), Ok(own));
    let raw = EncodeOptions { normalize: Some(false), dims: Some(8), ..EncodeOptions::default() };
    assert_eq!(form(raw), Ok(VectorForm { dims: 8, normalize: false, dtype: DenseDtype::F32 }));
}

#[test]
fn texts_for_a_vector_a_token_are_prepared_by_their_type_and_others_are_not() {
    let prompts = prompts();
    let marked =
        |marker| MultivectorText { marker: Some(marker), tokens_max: 8, ..MultivectorText::default() };
    let texts = MultivectorTexts { query: marked(7), document: marked(9) };
    let gives = OutputSet { multivector: true, ..OutputSet::DENSE };
    let abilities = Abilities { gives, multivector: Some(&texts), ..abilities(&prompts) };
    let marker = |outputs, input_type| {
        let options = EncodeOptions { outputs, input_type, ..EncodeOptions::default() };
        let ask = Ask::new(Task::Encode(options), text(), abilities).expect("sound");
        ask.reading.preparation(0).and_then(|own| own.multivector.as_ref()?.marker)
    };
    assert_eq!(marker(VectorSet::DENSE, Some(InputType::Query)), None);
    for (input_type, expected) in [(Some(InputType::Query), 7), (Some(InputType::Document), 9), (None, 9)] {
        assert_eq!(marker(VectorSet::MULTIVECTOR, input_type), Some(expected));
    }
}

#[test]
fn a_model_gives_its_main_vectors_unless_others_are_named() {
    let prompts = prompts();
    let set_of = |outputs, gives| {
        let options = EncodeOptions { outputs, ..EncodeOptions::default() };
        ask(options, Abilities { gives, ..abilities(&prompts) }).map(|(_, _, gather)| gather.set)
    };
    let all = OutputSet { sparse: true, multivector: true, ..OutputSet::DENSE };
    let none = VectorSet::default();
    assert_eq!(set_of(none, all), Ok(VectorSet::DENSE));
    assert_eq!(set_of(none, all.without(OutputSet::DENSE)), Ok(VectorSet::MULTIVECTOR));
    assert_eq!(set_of(none, OutputSet { sparse: true, ..OutputSet::NONE }), Ok(VectorSet::SPARSE));
    assert_eq!(set_of(VectorSet::SPARSE, all), Ok(VectorSet::SPARSE));
    let refused = set_of(VectorSet::SPARSE, OutputSet::DENSE).expect_err("no sparse head");
    assert_eq!(refused.code(), ErrorCode::ModelUnsupported);
    assert!(refused.to_string().contains("sparse was asked for and the model gives dense"), "{refused}");
    let classifier = OutputSet { classes: true, ..OutputSet::NONE };
    let refused = set_of(none, classifier).expect_err("no vectors at all");
    assert!(refused.to_string().contains("no head for encode: it gives classes"), "{refused}");
}

#[test]
fn what_the_model_cannot_give_is_refused() {
    let prompts = prompts();
    for dims in [0, 33, u32::MAX] {
        let options = EncodeOptions { dims: Some(dims), ..EncodeOptions::default() };
        assert!(matches!(form(options), Err(AskError::Dims { wanted, dims: 32, .. }) if wanted == dims));
    }
    let untrained = Abilities { matryoshka: &Matryoshka::Untrained, ..abilities(&prompts) };
    for (dims, is_taken) in [(8, false), (32, true)] {
        let options = EncodeOptions { dims: Some(dims), ..EncodeOptions::default() };
        assert_eq!(Ask::new(options.into(), text(), untrained).is_ok(), is_taken);
    }
    let options = EncodeOptions { numerics: Numerics::F32, ..EncodeOptions::default() };
    let error = Ask::new(options.into(), text(), abilities(&prompts)).expect_err("runs in 16 bits");
    assert_eq!(error.code(), ErrorCode::ModelUnsupported);
    let empty = Ask::new(Task::default(), Vec::new(), abilities(&prompts));
    assert_eq!(empty.err(), Some(AskError::NoItems));
}

#[test]
fn prompts_go_by_name_or_default_or_are_the_callers() {
    let mut prompts = prompts();
    let named = |name: &str| EncodeOptions { prompt_name: Some(name.to_owned()), ..EncodeOptions::default() };
    let prompt = |options: EncodeOptions, prompts: &Prompts| {
        ask(options, abilities(prompts)).map(|(_, reading, _)| match reading {
            Reading::Alone(preparation) => preparation.prompt.map(|prompt| prompt.to_string()),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(prompt(named("query"), &prompts), Ok(Some("query: ".to_owned())));
    assert_eq!(prompt(named("plain"), &prompts), Ok(None));
    let unknown = prompt(named("other"), &prompts).expect_err("unknown");
    assert!(unknown.to_string().contains("plain, query"), "{unknown}");
    assert_eq!(prompt(EncodeOptions::default(), &prompts), Ok(None));
    prompts.default_name = Some("query".to_owned());
    assert_eq!(prompt(EncodeOptions::default(), &prompts), Ok(Some("query: ".to_owned())));
    prompts.by_name.insert("passage".to_owned(), "text: ".to_owned());
    for (input_type, expected) in [(InputType::Query, "query: "), (InputType::Document, "text: ")] {
        let typed = EncodeOptions { input_type: Some(input_type), ..EncodeOptions::default() };
        assert_eq!(prompt(typed, &prompts), Ok(Some(expected.to_owned())));
        let both = EncodeOptions { input_type: Some(input_type), ..named("query") };
        assert_eq!(prompt(both, &prompts), Ok(Some("query: ".to_owned())), "a name goes first");
    }
    let own = EncodeOptions { prompt: Some("find: ".to_owned()), ..EncodeOptions::default() };
    assert_eq!(prompt(own, &prompts), Ok(Some("find: ".to_owned())));
}

#[test]
fn ids_are_taken_only_where_configured() {
    let prompts = prompts();
    let ids = || vec![shoal_protocol::message::Input::TokenIds(vec![2, 3])];
    assert_eq!(Ask::new(Task::default(), ids(), abilities(&prompts)).err(), Some(AskError::TokenIds));
    let taking = Abilities { token_ids: TokenIdsPolicy::Model, ..abilities(&prompts) };
    assert!(Ask::new(Task::default(), ids(), taking).is_ok());
    let score = shoal_protocol::message::ScoreOptions::default();
    assert_eq!(Ask::new(score.into(), ids(), taking).err(), Some(AskError::TextsOnly { task: "score" }));
}

fn bytes_of(frame: TaskResult) -> usize {
    let mut bytes = Vec::new();
    let frame = Frame::from(Message::TaskResult(frame));
    shoal_protocol::encode(&frame, WIRE_VERSION, &mut bytes).expect("fits its limit");
    bytes.len()
}

/// A batch of texts of so many tokens that leaves every kind of vector.
fn batch(rows: usize, dims: usize, tokens: usize) -> Rows {
    let mut outputs = Outputs::new();
    outputs.dense = vec![0.5; rows * dims];
    outputs.dense_bounds = (0..=rows as u32).collect();
    outputs.multivector = vec![0.25; rows * tokens * 2];
    for row in 1..=rows {
        outputs.sparse.indices.extend(0..tokens as u32);
        outputs.sparse.values.extend((0..tokens).map(|_| 0.5));
        outputs.sparse.indptr.push((row * tokens) as u32);
        outputs.multivector_bounds.push((row * tokens) as u32);
    }
    rows_of(outputs, rows, tokens)
}

#[test]
fn the_fullest_frames_fit_the_wire() {
    let all = VectorSet { sparse: true, multivector: true, ..VectorSet::DENSE };
    for (set, dims, dtype) in [
        (VectorSet::DENSE, 1024, DenseDtype::F32),
        (VectorSet::DENSE, 3, DenseDtype::Bits),
        (all, 64, DenseDtype::F32),
        (VectorSet::MULTIVECTOR, 1, DenseDtype::I8),
    ] {
        let rows = batch(2048, dims as usize, 512);
        let mut gather = VectorGather::new(set, dims, VectorForm { dims, normalize: true, dtype });
        let frames = result_frames(&mut gather, &rows);
        assert_eq!(frames.iter().map(|frame| frame.indices.len()).sum::<usize>(), 2048);
        for frame in frames {
            assert!(bytes_of(frame) <= RESULT_BODY_BYTES_MAX as usize);
        }
    }
    let failure = ItemFailure { code: ErrorCode::TooLong, message: "é".repeat(10_000), tokens: 1, limit: 2 };
    let frames = failure_frames((0..2048).map(|index| (index, failure.clone())).collect());
    assert_eq!(frames.iter().map(|frame| frame.indices.len()).sum::<usize>(), 2048);
    for frame in frames {
        bytes_of(frame);
    }
}

#[test]
fn an_answer_that_fits_no_frame_fails_alone() {
    let mut rows = batch(2, 4, 600_000);
    rows.rows[1].tokens = 7;
    let dtype = DenseDtype::F32;
    let mut gather =
        VectorGather::new(VectorSet::MULTIVECTOR, 4, VectorForm { dims: 4, normalize: false, dtype });
    let frames = result_frames(&mut gather, &rows);
    let outcomes: Vec<_> = frames.iter().flat_map(|frame| &frame.outcomes).collect();
    let is_refused = |outcome: &&ItemOutcome| matches!(outcome, ItemOutcome::Failed { code: ErrorCode::InvalidRequest, message, .. } if message.contains("smaller"));
    assert!(outcomes.len() == 2 && outcomes.iter().all(is_refused), "{outcomes:?}");
}

#[test]
fn every_kind_of_vector_is_the_rows_own() {
    let mut outputs = Outputs::new();
    outputs.dense = vec![3.0, 4.0, 6.0, 8.0];
    outputs.dense_bounds = vec![0, 1, 2];
    outputs.sparse.indptr = vec![0, 2, 3];
    outputs.sparse.indices = vec![1, 5, 9];
    outputs.sparse.values = vec![0.5, 1.5, 2.5];
    outputs.multivector = vec![1.0, 2.0, 3.0];
    outputs.multivector_bounds = vec![0, 1, 3];
    let rows = rows_of(outputs, 2, 2);
    let all = VectorSet { sparse: true, multivector: true, ..VectorSet::DENSE };
    let form = VectorForm { dims: 2, normalize: true, dtype: DenseDtype::F16 };
    let mut answering = Answering::Vectors(VectorGather::new(all, 2, form));
    let frames = answering.handle_rows(rows);
    let [TaskResult { answers: Answers::Vectors { dense, sparse, multivector }, .. }] = &frames[..] else {
        panic!("{frames:?}");
    };
    let halves = |values: &[f32]| -> Vec<u8> {
        values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect()
    };
    assert_eq!(dense.as_ref().expect("dense").data, halves(&[0.6, 0.8, 0.6, 0.8]));
    let sparse = sparse.as_deref().expect("sparse");
    assert_eq!((&sparse.ends[..], &sparse.indices[..]), (&[2, 3][..], &[1, 5, 9][..]));
    let multivector = multivector.as_deref().expect("multivector");
    assert_eq!((multivector.dims, &multivector.ends[..]), (1, &[1, 3][..]));
    assert_eq!(multivector.data, halves(&[1.0, 2.0, 3.0]));
}
