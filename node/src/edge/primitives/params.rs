//! `params` of a primitive's body, and the task that they make.

use serde::Deserialize;
use shoal_protocol::message::{Chunking, EncodeOptions, ExtractOptions, ScoreOptions, Task, Truncate};

use super::super::counters::Route;
use super::super::error::EdgeError;
use crate::choices::{ChunkKind, InputKind, OutputDtype, OutputKind, Side};

/// `params` of every primitive: each reads what is its own.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Params {
    output_types: Option<Vec<OutputKind>>,
    output_dtype: Option<OutputDtype>,
    instruction: Option<String>,
    labels: Option<Vec<String>>,
    options: Option<Options>,
}

/// What to do with long texts: whether they are cut, or at which end.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "true, false, \"left\" or \"right\"")]
enum Cut {
    Whether(bool),
    At(Side),
}

impl From<Cut> for Truncate {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Whether(false) => Self::Refuse,
            Cut::Whether(true) => Self::Right,
            Cut::At(side) => side.into(),
        }
    }
}

/// How texts are cut into chunks.
#[derive(Clone, Copy, Deserialize)]
struct ChunkOptions {
    pooling: ChunkKind,
    #[serde(default)]
    tokens: Option<u32>,
    #[serde(default)]
    overlap: u32,
}

impl From<ChunkOptions> for Chunking {
    fn from(ChunkOptions { pooling, tokens, overlap }: ChunkOptions) -> Self {
        Self { pooling: pooling.into(), tokens, overlap }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    dims: Option<u32>,
    normalize: Option<bool>,
    input_type: Option<InputKind>,
    prompt_name: Option<String>,
    chunks: Option<ChunkOptions>,
    truncate: Option<Cut>,
    threshold: Option<f32>,
    hypothesis_template: Option<String>,
    multi_label: Option<bool>,
    nested: Option<bool>,
    raw_scores: Option<bool>,
}

impl Params {
    /// The task of a route; an `instruction` of the body goes before that of the `params`.
    pub(super) fn task(
        self,
        route: Route,
        query: Option<String>,
        instruction: Option<String>,
    ) -> Result<Task, EdgeError> {
        let Self { output_types, output_dtype, instruction: own, labels, options } = self;
        let options = options.unwrap_or_default();
        let truncate = options.truncate.map_or(Truncate::Refuse, Into::into);
        let (instruction, raw) = (instruction.or(own), options.raw_scores.unwrap_or(false));
        Ok(match route {
            Route::Encode => Task::Encode(EncodeOptions {
                outputs: OutputKind::set(&output_types.unwrap_or_default()),
                dims: options.dims,
                output_dtype: output_dtype.unwrap_or_default().into(),
                normalize: options.normalize,
                input_type: options.input_type.map(Into::into),
                prompt: instruction.filter(|_| options.prompt_name.is_none()),
                prompt_name: options.prompt_name,
                chunking: options.chunks.map(|chunks| Box::new(chunks.into())),
                truncate,
                ..EncodeOptions::default()
            }),
            Route::Score => {
                let missing =
                    || EdgeError::Invalid { message: "`query` is missing".to_owned(), param: Some("query") };
                let query = query.ok_or_else(missing)?;
                Task::Score(ScoreOptions { query, raw, instruction, truncate, ..ScoreOptions::default() })
            }
            _ => Task::Extract(ExtractOptions {
                labels: labels.unwrap_or_default(),
                threshold: options.threshold,
                hypothesis: options.hypothesis_template,
                multi_label: options.multi_label.unwrap_or(false),
                nested: options.nested.unwrap_or(false),
                raw,
                truncate,
                ..ExtractOptions::default()
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shoal_protocol::message::{ChunkPooling, DenseDtype, InputType, VectorSet};

    use super::*;

    fn encode(params: Value) -> EncodeOptions {
        let params: Params = serde_json::from_value(params).expect("read");
        match params.task(Route::Encode, None, None) {
            Ok(Task::Encode(options)) => options,
            _ => panic!("another task"),
        }
    }

    #[test]
    fn every_option_of_extract_reaches_its_task() {
        let all = json!({
            "labels": ["person"],
            "options": {"threshold": 0.25, "nested": true, "multi_label": true, "truncate": "left"},
        });
        let params: Params = serde_json::from_value(all).expect("read");
        let expected = ExtractOptions {
            labels: vec!["person".to_owned()],
            threshold: Some(0.25),
            nested: true,
            multi_label: true,
            truncate: Truncate::Left,
            ..ExtractOptions::default()
        };
        match params.task(Route::Extract, None, None) {
            Ok(Task::Extract(options)) => assert_eq!(options, expected),
            _ => panic!("another task"),
        }
    }

    #[test]
    fn every_option_reaches_the_task() {
        assert_eq!(encode(json!({})), EncodeOptions::default());
        let all = json!({
            "output_types": ["dense", "multivector"], "output_dtype": "int8", "instruction": "find: ",
            "options": {
                "dims": 8, "normalize": false, "input_type": "query", "truncate": "left",
                "chunks": {"pooling": "late", "tokens": 64, "overlap": 8},
            },
        });
        let chunking = Chunking { pooling: ChunkPooling::Late, tokens: Some(64), overlap: 8 };
        let expected = EncodeOptions {
            outputs: VectorSet { multivector: true, ..VectorSet::DENSE },
            dims: Some(8),
            output_dtype: DenseDtype::I8,
            normalize: Some(false),
            input_type: Some(InputType::Query),
            prompt: Some("find: ".to_owned()),
            chunking: Some(Box::new(chunking)),
            truncate: Truncate::Left,
            ..EncodeOptions::default()
        };
        assert_eq!(encode(all), expected);
        for (cut, expected) in [(json!(true), Truncate::Right), (json!("right"), Truncate::Right)] {
            assert_eq!(encode(json!({"options": {"truncate": cut}})).truncate, expected);
        }
        let mean = encode(json!({"options": {"chunks": {"pooling": "mean"}, "truncate": false}}));
        assert_eq!((mean.chunking, mean.truncate), (Some(Box::default()), Truncate::Refuse));
        for options in [json!({"truncate": "middle"}), json!({"chunks": {}}), json!({"input_type": "text"})] {
            assert!(serde_json::from_value::<Params>(json!({"options": options})).is_err());
        }
    }
}
