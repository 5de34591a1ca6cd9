//! Every kind of tokenizer on thousands of nasty strings, which are made here as `tests/golden/make_tokenizers.py` makes
//! them.

use std::iter;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::*;

const KINDS: [&str; 11] = [
    "wordpiece-uncased",
    "wordpiece-cased",
    "unigram-xlm-roberta",
    "unigram-deberta-v3",
    "unigram-deberta-current",
    "bpe-roberta",
    "bpe-modernbert",
    "bpe-qwen",
    "bpe-llama3",
    "bpe-mistral",
    "bpe-gemma",
];
const FRAGMENTS_MAX: u64 = 12;

/// What the reference makes of the strings.
#[derive(Deserialize)]
struct Golden {
    strings: usize,
    tokens_max: u32,
    prompt: String,
    /// Ids of the first strings.
    written_out: Vec<Vec<u32>>,
    /// A hash of the ids of so many strings that all are covered: whole, cut to the limit, and behind the prompt.
    whole: Vec<String>,
    cut: Vec<String>,
    prompted: Vec<String>,
}

fn read<T: DeserializeOwned>(file: &str) -> T {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/tokenizers"));
    serde_json::from_slice(&std::fs::read(dir.join(file)).expect("golden data")).expect("golden data is JSON")
}

/// Knuth's MMIX generator; its upper bits are used.
fn draws(seed: u64) -> impl Iterator<Item = u64> {
    let next = |state: &u64| {
        Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    };
    iter::successors(next(&seed), next).map(|state| state >> 33)
}

/// Fragments, and now and then any character at all.
fn string(number: u64, fragments: &[String]) -> String {
    let mut draws = draws(number);
    let mut draw = |below: usize| {
        let drawn = draws.next().expect("endless") % below as u64;
        usize::try_from(drawn).expect("below a usize")
    };
    let mut text = String::new();
    for _ in 0..=draw(FRAGMENTS_MAX as usize) {
        match fragments.get(draw(fragments.len() + fragments.len() / 8)) {
            Some(fragment) => text.push_str(fragment),
            None => text.extend(char::from_u32(u32::try_from(draw(0x11_0000)).expect("a code point"))),
        }
    }
    text
}

/// FNV-1a over the ids behind their number.
fn fnv(state: u64, ids: &[u32]) -> u64 {
    let length = u32::try_from(ids.len()).expect("a short text");
    let bytes = iter::once(&length).chain(ids).flat_map(|number| number.to_le_bytes());
    bytes.fold(state, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

fn hashes<'a>(ids: impl Iterator<Item = &'a Vec<u32>>) -> String {
    format!("{:016x}", ids.fold(0xCBF2_9CE4_8422_2325, |state, ids| fnv(state, ids)))
}

#[test]
fn nasty_strings_get_the_ids_of_the_reference() {
    let fragments: Vec<String> = read("fragments.json");
    for kind in KINDS {
        let golden: Golden = read(&format!("{kind}.json"));
        let strings: Vec<String> =
            (0..golden.strings).map(|number| string(number as u64, &fragments)).collect();
        let path = super::golden(&format!("../tokenizers/{kind}.tokenizer.json"));
        let ways = [
            (&golden.whole, 1 << 20, None),
            (&golden.cut, golden.tokens_max, None),
            (&golden.prompted, 1 << 20, Some(golden.prompt.as_str())),
        ];
        for (expected, tokens_max, prompt) in ways {
            let tokenizer = TextTokenizer::load(&path, limits(tokens_max)).expect("a golden tokenizer");
            let mut buffer = String::new();
            let ids: Vec<Vec<u32>> = strings
                .iter()
                .map(|text| {
                    let input = Input::Text(text.clone());
                    let text = Text::with_prompt(&input, prompt, &mut buffer);
                    ids_of(&tokenizer, text, Truncate::Right).1
                })
                .collect();
            if prompt.is_none() && tokens_max > golden.tokens_max {
                for (number, truth) in golden.written_out.iter().enumerate() {
                    assert_eq!(&ids[number], truth, "{kind}: {:?}", strings[number]);
                }
            }
            let group = golden.strings / expected.len();
            for (index, expected) in expected.iter().enumerate() {
                let group = index * group..(index + 1) * group;
                let what = format!("{kind}, limit {tokens_max}, prompt {prompt:?}, strings {group:?}");
                assert_eq!(&hashes(ids[group.clone()].iter()), expected, "{what}: {:?}", &strings[group]);
            }
        }
    }
}
