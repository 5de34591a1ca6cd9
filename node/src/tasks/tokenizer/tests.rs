use std::path::PathBuf;

use serde_json::Value;

use shoal_kernels::Expansion;

use super::*;

mod kinds;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/bert")).join(name)
}

fn limits(tokens_max: u32) -> TokenizerLimits {
    TokenizerLimits { tokens_max, vocab_size: 10_000, lowercase: false, segments: true }
}

fn load(model: &str, limits: TokenizerLimits) -> TextTokenizer {
    TextTokenizer::load(&golden(model).join("tokenizer.json"), limits).expect("a golden tokenizer")
}

fn ids_of(tokenizer: &TextTokenizer, text: Text<'_>, truncate: Truncate) -> (TokenizedItem, Vec<u32>) {
    let mut ids = Vec::new();
    let item = tokenizer.append(text, None, truncate, &mut ids);
    (item, ids)
}

fn numbers(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("a list of ids")
}

#[test]
fn ids_equal_those_of_sentence_transformers() {
    let models = ["mean", "cls-bf16-prefixed", "bare-f16-gamma", "sharded-current", "dense-f16"];
    let mut cut = 0;
    for model in models {
        let json = std::fs::read(golden(&format!("{model}.json"))).expect("golden data");
        let json: Value = serde_json::from_slice(&json).expect("golden data is JSON");
        let tokens_max = u32::try_from(json["tokens_max"].as_u64().expect("a limit")).expect("small");
        let tokenizer = load(model, limits(tokens_max));
        let cases = json["cases"].as_array().expect("cases");
        assert!(!cases.is_empty());
        for case in cases {
            let text = case["text"].as_str().expect("a text");
            let (item, ids) = ids_of(&tokenizer, Text::Plain(text), Truncate::Right);
            assert_eq!(ids, numbers(&case["ids"]), "{model}: {text:?}");
            let truncated = case["truncated"].as_bool().expect("a flag");
            let tokens = u32::try_from(ids.len()).expect("small");
            assert_eq!(item, TokenizedItem::Ready(Sequence { truncated, ..Sequence::whole(tokens) }));
            cut += u32::from(truncated);

            let (item, ids) = ids_of(&tokenizer, Text::Plain(text), Truncate::Refuse);
            match item {
                TokenizedItem::Failed(failure) => {
                    assert!(truncated && ids.is_empty(), "{model}: {text:?}");
                    assert_eq!((failure.code, failure.limit), (ErrorCode::TooLong, tokens_max));
                    assert_eq!(Some(u64::from(failure.tokens)), case["tokens_untruncated"].as_u64());
                }
                TokenizedItem::Ready(_) => assert!(!truncated, "{model}: {text:?}"),
            }
        }
    }
    assert!(cut > 0, "no golden text is over its limit");
}

#[test]
fn prompts_stand_before_the_text() {
    let json = std::fs::read(golden("mean.json")).expect("golden data");
    let json: Value = serde_json::from_slice(&json).expect("golden data is JSON");
    let config = std::fs::read(golden("mean").join("config_sentence_transformers.json")).expect("prompts");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    let tokenizer = load("mean", limits(48));
    let cases = json["prompts"].as_array().expect("prompts");
    assert!(!cases.is_empty());
    let mut buffer = String::new();
    for case in cases {
        let prompt = config["prompts"][case["prompt_name"].as_str().expect("a name")].as_str();
        let input = Input::Text(case["text"].as_str().expect("a text").to_owned());
        let text = Text::with_prompt(&input, prompt, &mut buffer);
        let (_, ids) = ids_of(&tokenizer, text, Truncate::Right);
        assert_eq!(ids, numbers(&case["ids"]));
    }
}

#[test]
fn cutting_keeps_the_special_tokens_and_the_chosen_end() {
    let tokenizer = load("mean", limits(6));
    let text = "one two three four five six seven eight";
    let whole = ids_of(&load("mean", limits(512)), Text::Plain(text), Truncate::Refuse).1;
    let inner = &whole[1..whole.len() - 1];
    let (item, right) = ids_of(&tokenizer, Text::Plain(text), Truncate::Right);
    assert_eq!(item, TokenizedItem::Ready(Sequence { truncated: true, ..Sequence::whole(6) }));
    assert_eq!(right, [&whole[..1], &inner[..4], &whole[whole.len() - 1..]].concat());
    let (_, left) = ids_of(&tokenizer, Text::Plain(text), Truncate::Left);
    assert_eq!(left, [&whole[..1], &inner[inner.len() - 4..], &whole[whole.len() - 1..]].concat());
    // The same ids given as ids are cut in the same way.
    assert_eq!(ids_of(&tokenizer, Text::Ids(&whole), Truncate::Left).1, left);
}

#[test]
fn foreign_ids_are_refused_and_do_not_reach_the_buffer() {
    let tokenizer = load("mean", TokenizerLimits { vocab_size: 570, ..limits(8) });
    let (item, ids) = ids_of(&tokenizer, Text::Ids(&[2, 570, 3]), Truncate::Refuse);
    let TokenizedItem::Failed(failure) = item else {
        panic!("id 570 of 570 was taken");
    };
    assert_eq!(failure.code, ErrorCode::InvalidRequest);
    assert!(failure.message.contains("570"), "{}", failure.message);
    assert!(ids.is_empty());
    let (item, _) = ids_of(&tokenizer, Text::Ids(&[]), Truncate::Refuse);
    assert!(matches!(item, TokenizedItem::Failed(_)), "no token, no vector");
    let (item, ids) = ids_of(&tokenizer, Text::Ids(&[2, 569, 3]), Truncate::Refuse);
    assert_eq!(item, TokenizedItem::Ready(Sequence::whole(3)));
    assert_eq!(ids, [2, 569, 3]);
}

#[test]
fn the_empty_text_has_its_special_tokens() {
    let (item, ids) = ids_of(&load("mean", limits(48)), Text::Plain(""), Truncate::Refuse);
    assert_eq!(item, TokenizedItem::Ready(Sequence::whole(2)));
    assert_eq!(ids.len(), 2);
}

#[test]
fn damaged_files_are_typed_errors() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("tokenizer.json");
    let missing = TextTokenizer::load(&path, limits(8)).err().expect("no file");
    assert!(matches!(missing, TokenizerError::Read { .. }));
    let nested = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let sound = std::fs::read(golden("mean").join("tokenizer.json")).expect("golden data");
    let cut = sound[..sound.len() / 2].to_vec();
    for bytes in [b"{}".to_vec(), b"\xff\xfe".to_vec(), Vec::new(), nested, cut] {
        std::fs::write(&path, bytes).expect("written");
        let error = TextTokenizer::load(&path, limits(8)).err().expect("damaged");
        assert!(matches!(error, TokenizerError::Parse { .. }), "{error}");
    }
    let room = TextTokenizer::load(&golden("mean").join("tokenizer.json"), limits(2)).err();
    assert!(matches!(room, Some(TokenizerError::NoRoom { special: 2, limit: 2, .. })));
}

#[test]
fn a_cased_tokenizer_lowers_when_the_pipeline_does() {
    let model = "cls-bf16-prefixed";
    let plain = load(model, limits(40));
    let lowering = load(model, TokenizerLimits { lowercase: true, ..limits(40) });
    let upper = ids_of(&plain, Text::Plain("The River"), Truncate::Refuse).1;
    let lower = ids_of(&plain, Text::Plain("the river"), Truncate::Refuse).1;
    assert_ne!(upper, lower, "the fixture is not cased");
    assert_eq!(ids_of(&lowering, Text::Plain("The River"), Truncate::Refuse).1, lower);
}

#[test]
fn a_marker_stands_behind_the_first_token_and_masks_behind_the_last() {
    let tokenizer = load("mean", limits(48));
    let expansion = Expansion { token: 4, tokens: 7, attended: false };
    let query =
        MultivectorText { marker: Some(99), tokens_max: 6, expansion: Some(expansion), ..Default::default() };
    let appended = |text: Text<'_>, text_needs: &MultivectorText, truncate| {
        let mut ids = vec![8];
        let item = tokenizer.append(text, Some(text_needs), truncate, &mut ids);
        (item, ids.split_off(1))
    };
    let (item, ids) = appended(Text::Plain("river"), &query, Truncate::Refuse);
    assert_eq!(item, TokenizedItem::Ready(Sequence { seen: 4, ..Sequence::whole(7) }));
    assert_eq!(ids, [2, 99, 398, 3, 4, 4, 4]);
    // Ids of a caller's own, with the marker and without, become the same.
    for given in [&[2, 398, 3][..], &[2, 99, 398, 3]] {
        assert_eq!(appended(Text::Ids(given), &query, Truncate::Refuse).1, ids);
    }
    let long = "river river river river";
    let (item, ids) = appended(Text::Plain(long), &query, Truncate::Right);
    assert_eq!(item, TokenizedItem::Ready(Sequence { seen: 6, truncated: true, ..Sequence::whole(7) }));
    assert_eq!(ids, [2, 99, 398, 398, 398, 3, 4]);
    let (refused, _) = appended(Text::Plain(long), &query, Truncate::Refuse);
    assert!(matches!(
        refused,
        TokenizedItem::Failed(ItemFailure { code: ErrorCode::TooLong, tokens: 7, limit: 6, .. })
    ));
    let attended =
        MultivectorText { expansion: Some(Expansion { attended: true, ..expansion }), ..query.clone() };
    let (item, _) = appended(Text::Plain("river"), &attended, Truncate::Refuse);
    assert!(matches!(item, TokenizedItem::Ready(Sequence { tokens: 7, seen: 7, .. })), "{item:?}");
    let tiny = MultivectorText { tokens_max: 2, ..query };
    let (refused, ids) = appended(Text::Plain("river"), &tiny, Truncate::Right);
    assert!(matches!(refused, TokenizedItem::Failed(ItemFailure { code: ErrorCode::ModelUnsupported, .. })));
    assert!(ids.is_empty());
}
