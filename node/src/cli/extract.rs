//! `shoal extract`

use shoal_mesh::{Answer, Class, Extract, Span};
use shoal_protocol::message::ExtractOptions;

use super::args::ExtractArgs;
use super::exit::{Exit, Stop};
use super::output::Output;
use super::runtime::run_interruptible;
use super::task::{self, Answered, Lines, misanswered};

pub(super) fn run(args: ExtractArgs) -> Result<Exit, Stop> {
    run_interruptible(extract(args))
}

async fn extract(args: ExtractArgs) -> Result<Exit, Stop> {
    let options = ExtractOptions {
        labels: args.labels,
        threshold: args.threshold,
        hypothesis: args.hypothesis,
        multi_label: args.multi_label,
        nested: args.nested,
        ..ExtractOptions::default()
    };
    task::run(&args.task, |model, texts| Extract::live(model, texts).options(options), &mut ExtractLines)
        .await
}

struct ExtractLines;

impl Lines for ExtractLines {
    fn answer(&mut self, output: &mut Output, answered: Answered) -> Result<(), Stop> {
        let Answered { index, truncated, answer, .. } = answered;
        match &answer {
            Answer::Spans(spans) => {
                let spans = spans.iter().map(SpanLine::of).collect();
                output.json(&ExtractLine { index, truncated, spans: Some(spans), labels: None })
            }
            Answer::Classes(classes) => {
                let labels = classes.iter().map(ClassLine::of).collect();
                output.json(&ExtractLine { index, truncated, spans: None, labels: Some(labels) })
            }
            Answer::Vectors(_) | Answer::Chunks(_) | Answer::Score(_) => Err(misanswered()),
        }
    }
}

#[derive(serde::Serialize)]
struct ExtractLine<'a> {
    index: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    spans: Option<Vec<SpanLine<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<ClassLine<'a>>>,
}

#[derive(serde::Serialize)]
struct SpanLine<'a> {
    start: u32,
    end: u32,
    label: &'a str,
    score: f32,
    text: &'a str,
}

impl<'a> SpanLine<'a> {
    fn of(span: &'a Span) -> Self {
        let Span { start, end, label, score, text } = span;
        Self { start: *start, end: *end, label, score: *score, text }
    }
}

#[derive(serde::Serialize)]
struct ClassLine<'a> {
    label: &'a str,
    score: f32,
}

impl<'a> ClassLine<'a> {
    fn of(class: &'a Class) -> Self {
        Self { label: &class.label, score: class.score }
    }
}
