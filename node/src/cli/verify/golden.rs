//! Answers of another implementation, and how close a model's own are to them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shoal_mesh::{Answer, SparseVector, Vectors};
use shoal_protocol::message::{
    EncodeOptions, ExtractOptions, Numerics, ScoreOptions, ServedBy, Task, VectorSet,
};

use crate::choices::{InputKind, OutputKind};

/// Answers that another implementation gave.
#[derive(Deserialize)]
pub(super) struct Golden {
    /// Which one.
    pub(super) made_by: String,
    pub(super) cases: Vec<Case>,
}

/// A text, how it is asked about, and the answer.
#[derive(Deserialize)]
pub(super) struct Case {
    pub(super) text: String,
    prompt_name: Option<String>,
    input_type: Option<InputKind>,
    /// What the text is held against.
    query: Option<String>,
    instruction: Option<String>,
    /// What the model is asked to find.
    #[serde(default)]
    labels: Vec<String>,
    /// Without the activation that the model's files name.
    #[serde(default)]
    raw: bool,
    #[serde(flatten)]
    wanted: Wanted,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Dense(Vec<f32>),
    Sparse { indices: Vec<u32>, values: Vec<f32> },
    Multivector(Vec<Vec<f32>>),
    Score(f32),
    Classes(BTreeMap<String, f32>),
    Spans(Vec<Place>),
}

#[derive(Deserialize)]
struct Place {
    start: u32,
    end: u32,
    label: String,
    score: f32,
}

/// A model's number beside the golden one.
type Pair = (f32, f32);

/// Numbers of one case, side by side.
pub(super) enum Compared {
    /// One direction in space.
    Vector(Vec<Pair>),
    /// Each says something by itself.
    Scores(Vec<Pair>),
}

impl Case {
    /// What is asked.
    pub(super) fn task(&self) -> Task {
        let outputs = |kind| OutputKind::set(&[kind]);
        match self.wanted {
            Wanted::Dense(_) => self.encode(outputs(OutputKind::Dense)),
            Wanted::Sparse { .. } => self.encode(outputs(OutputKind::Sparse)),
            Wanted::Multivector(_) => self.encode(outputs(OutputKind::Multivector)),
            Wanted::Score(_) => Task::Score(ScoreOptions {
                query: self.query.clone().unwrap_or_default(),
                instruction: self.instruction.clone(),
                raw: self.raw,
                ..ScoreOptions::default()
            }),
            Wanted::Classes(_) | Wanted::Spans(_) => Task::Extract(ExtractOptions {
                labels: self.labels.clone(),
                raw: self.raw,
                ..ExtractOptions::default()
            }),
        }
    }

    fn encode(&self, outputs: VectorSet) -> Task {
        Task::Encode(EncodeOptions {
            outputs,
            prompt_name: self.prompt_name.clone(),
            input_type: self.input_type.map(Into::into),
            ..EncodeOptions::default()
        })
    }

    /// The answer beside the golden one, or how the two are not of one kind.
    pub(super) fn compare(&self, answer: &Answer) -> Result<Compared, String> {
        match (&self.wanted, answer) {
            (Wanted::Dense(golden), Answer::Vectors(Vectors { dense: Some(own), .. })) => {
                let own = own.as_f32().unwrap_or_default();
                same_length(own.len(), golden.len(), "values")?;
                Ok(Compared::Vector(side_by_side(&own, golden).collect()))
            }
            (Wanted::Sparse { indices, values }, Answer::Vectors(Vectors { sparse: Some(own), .. })) => {
                same_length(values.len(), indices.len(), "indices")?;
                let golden: BTreeMap<_, _> = indices.iter().copied().zip(values.iter().copied()).collect();
                Ok(Compared::Vector(by_word(own, golden)))
            }
            (Wanted::Multivector(golden), Answer::Vectors(Vectors { multivector: Some(own), .. })) => {
                same_length(own.len(), golden.len(), "vectors")?;
                let (own, golden) = (own.as_f32().unwrap_or_default(), golden.concat());
                same_length(own.len(), golden.len(), "values")?;
                Ok(Compared::Vector(side_by_side(&own, &golden).collect()))
            }
            (Wanted::Score(golden), Answer::Score(own)) => Ok(Compared::Scores(vec![(*own, *golden)])),
            (Wanted::Classes(golden), Answer::Classes(own)) => {
                let own: BTreeMap<&str, f32> = own.iter().map(|class| (&*class.label, class.score)).collect();
                let beside = |(label, golden): (&String, &f32)| {
                    let own =
                        own.get(label.as_str()).ok_or_else(|| format!("the model has no label {label:?}"));
                    own.map(|own| (*own, *golden))
                };
                golden.iter().map(beside).collect::<Result<_, _>>().map(Compared::Scores)
            }
            (Wanted::Spans(golden), Answer::Spans(own)) => {
                let places = |own: &shoal_mesh::Span| (own.start, own.end, own.label.to_string());
                let (found, wanted): (Vec<_>, Vec<_>) = (
                    own.iter().map(places).collect(),
                    golden.iter().map(|span| (span.start, span.end, span.label.clone())).collect(),
                );
                if found != wanted {
                    return Err(format!("the model finds {found:?}; the golden answer has {wanted:?}"));
                }
                Ok(Compared::Scores(own.iter().zip(golden).map(|(a, b)| (a.score, b.score)).collect()))
            }
            _ => Err("the model's answer is of another kind than the golden one".to_owned()),
        }
    }
}

fn same_length(own: usize, golden: usize, of: &str) -> Result<(), String> {
    if own == golden {
        return Ok(());
    }
    Err(format!("the model answers {own} {of}; the golden answer has {golden}"))
}

fn side_by_side<'a>(own: &'a [f32], golden: &'a [f32]) -> impl Iterator<Item = Pair> + 'a {
    own.iter().copied().zip(golden.iter().copied())
}

/// Every word that either has, with 0 where it is only the other's.
fn by_word(own: &SparseVector, mut golden: BTreeMap<u32, f32>) -> Vec<Pair> {
    let own = own.indices().iter().zip(own.values());
    let mut pairs: Vec<_> = own.map(|(word, own)| (*own, golden.remove(word).unwrap_or(0.0))).collect();
    pairs.extend(golden.into_values().map(|golden| (0.0, golden)));
    pairs
}

/// How close the answers are.
#[derive(Serialize)]
pub(super) struct Closeness {
    pub(super) made_by: String,
    pub(super) cases: usize,
    /// The smallest, of vectors.
    pub(super) cosine: f64,
    /// What it must reach in this precision.
    pub(super) cosine_min: f64,
    /// The largest difference of two numbers.
    pub(super) error_max: f64,
    /// How far scores are off, all of them together and relative to them.
    pub(super) scores_off: f64,
    /// How far they may be in this precision.
    pub(super) scores_off_max: f64,
    pub(super) device: String,
    #[serde(skip)]
    scores: Vec<Pair>,
}

impl Closeness {
    pub(super) fn new(made_by: String, cases: usize) -> Self {
        Self {
            made_by,
            cases,
            cosine: 1.0,
            cosine_min: 1.0,
            error_max: 0.0,
            scores_off: 0.0,
            scores_off_max: 0.0,
            device: String::new(),
            scores: Vec::new(),
        }
    }

    pub(super) fn is_close(&self) -> bool {
        self.cosine >= self.cosine_min && self.scores_off <= self.scores_off_max
    }

    pub(super) fn has_scores(&self) -> bool {
        !self.scores.is_empty()
    }

    pub(super) fn add(&mut self, compared: Compared) {
        let (Compared::Vector(pairs) | Compared::Scores(pairs)) = &compared;
        for (own, golden) in pairs {
            self.error_max = self.error_max.max(f64::from((own - golden).abs()));
        }
        match compared {
            Compared::Vector(pairs) => {
                // A NaN among the values must not pass for the smallest cosine so far.
                let cosine = cosine(&pairs);
                self.cosine = if cosine.is_nan() { -1.0 } else { self.cosine.min(cosine) };
            }
            Compared::Scores(pairs) => {
                self.scores.extend(pairs);
                let square = |value: f32| f64::from(value).powi(2);
                let off: f64 = self.scores.iter().map(|(own, golden)| square(own - golden)).sum();
                let all: f64 = self.scores.iter().map(|(_, golden)| square(*golden)).sum();
                let off = if off == 0.0 { 0.0 } else { (off / all).sqrt() };
                self.scores_off = if off.is_nan() { f64::MAX } else { off };
            }
        }
    }

    pub(super) fn served(&mut self, by: &ServedBy) {
        self.device.clone_from(&by.device_name);
        (self.cosine_min, self.scores_off_max) = match by.numerics {
            Numerics::F32 | Numerics::Any => (0.99999, 0.001),
            Numerics::Bits16 => (0.999, 0.03),
            Numerics::Int8 => (0.99, 0.1),
        };
    }
}

/// Two zero vectors are the same.
fn cosine(pairs: &[Pair]) -> f64 {
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        pairs.iter().map(|(own, golden)| of(f64::from(*own), f64::from(*golden))).sum()
    };
    let (own, golden) = (sum(&|own, _| own * own), sum(&|_, golden| golden * golden));
    let length = (own * golden).sqrt();
    if length > 0.0 { sum(&|own, golden| own * golden) / length } else { f64::from(u8::from(own == golden)) }
}
