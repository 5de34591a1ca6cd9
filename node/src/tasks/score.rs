//! The score primitive. A cross-encoder reads the query and each text as one sequence and gives the score itself; an
//! encoder reads them apart, and their vectors are compared.

use std::sync::Arc;

use shoal_kernels::cpu::max_sim;
use shoal_kernels::{CpuIsa, OutputSet, PairTemplate, ScoreActivation};
use shoal_protocol::ErrorCode;
use shoal_protocol::message::{Answers, Input, InputType, ScoreOptions, TaskResult};

use crate::tasks::ask::{Abilities, AskError};
use crate::tasks::frames::{Gather, not_a_number, result_frames};
use crate::tasks::reading::{Reading, prompt_of};
use crate::tasks::rows::{Row, Rows};
use crate::tasks::tokenizer::{ItemFailure, Template, TokenPlace};

/// How scores come about.
#[derive(Debug)]
pub(crate) enum Scoring {
    /// Each is the one logit of a pair.
    Pairs(PairGather),
    /// Each compares a text's vectors with the query's.
    Vectors(Comparing),
}

/// Holds a request against a model. A query that is read apart becomes the first of the items.
///
/// # Errors
/// See [`AskError`].
pub(super) fn ask(
    options: ScoreOptions,
    items: &mut Vec<Input>,
    abilities: Abilities<'_>,
) -> Result<(OutputSet, Reading, Scoring), AskError> {
    let Abilities { gives, prompts, labels, score_activation, .. } = abilities;
    if gives.classes {
        if labels.len() != 1 {
            return Err(AskError::ScoreLabels { labels: labels.len() });
        }
        let reading = match abilities.pair_template {
            Some(template) => Reading::Templated { template: Arc::new(filled(template, &options)) },
            None if abilities.takes_pairs => Reading::Pairs { query: options.query.into() },
            None => return Err(AskError::NoPairs),
        };
        let activation = if options.raw { ScoreActivation::Identity } else { score_activation };
        let wanted = OutputSet { classes: true, ..OutputSet::NONE };
        let pairs = PairGather { activation, scores: Vec::new() };
        return Ok((wanted, reading, Scoring::Pairs(pairs)));
    }
    let means = match gives {
        OutputSet { dense: true, .. } if abilities.pooling_assumed => return Err(AskError::PoolingAssumed),
        OutputSet { dense: true, .. } => Means::Dense { dims: abilities.dims, cosine: !options.raw },
        OutputSet { multivector: true, .. } => Means::MaxSim { isa: abilities.isa },
        OutputSet { sparse: true, .. } => Means::Sparse,
        _ => return Err(AskError::NoHead { task: "score", gives }),
    };
    let wanted = means.wanted();
    let prepared = |own: Option<&str>, input_type| {
        let prompt = own.or_else(|| prompt_of(prompts, Some(input_type)));
        abilities.preparation(prompt, Some(input_type), wanted)
    };
    let reading = Reading::QueryFirst {
        query: prepared(options.instruction.as_deref(), InputType::Query),
        document: prepared(None, InputType::Document),
    };
    items.insert(0, Input::Text(options.query));
    Ok((wanted, reading, Scoring::Vectors(Comparing { means, query: None, held: Vec::new() })))
}

/// A model's template with what a caller puts into it.
fn filled(template: &PairTemplate, options: &ScoreOptions) -> Template {
    let head = template.head(options.instruction.as_deref(), &options.query);
    Template { prefix: template.prefix.to_owned(), head, suffix: template.suffix.to_owned() }
}

impl Scoring {
    /// The scores of a batch's rows.
    pub(crate) fn handle_rows(&mut self, rows: Rows) -> Vec<TaskResult> {
        match self {
            Self::Pairs(pairs) => result_frames(pairs, &rows),
            Self::Vectors(comparing) => comparing.handle_rows(rows),
        }
    }
}

/// The scores of one frame, each from the one logit of a pair.
#[derive(Debug)]
pub(crate) struct PairGather {
    activation: ScoreActivation,
    scores: Vec<f32>,
}

impl Gather for PairGather {
    fn row_bytes(&self, _rows: &Rows, _row: Row) -> usize {
        size_of::<f32>()
    }

    fn push(&mut self, rows: &Rows, row: Row, _places: &[TokenPlace]) -> Result<(), ItemFailure> {
        let logit = rows.classes(row, 1)[0];
        let score = match self.activation {
            ScoreActivation::Identity => logit,
            ScoreActivation::Sigmoid => sigmoid(logit),
        };
        push_finite(&mut self.scores, score)
    }

    fn take(&mut self) -> Answers {
        Answers::Scores(std::mem::take(&mut self.scores))
    }
}

fn push_finite(scores: &mut Vec<f32>, score: f32) -> Result<(), ItemFailure> {
    if !score.is_finite() {
        return Err(not_a_number());
    }
    scores.push(score);
    Ok(())
}

/// The logistic function.
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Which vectors are compared, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    /// Dot product of dense vectors, scaled to unit length for the cosine.
    Dense { dims: u32, cosine: bool },
    /// Dot product of sparse vectors.
    Sparse,
    /// For each vector of the query the best dot product with one of the text, summed (Khattab and Zaharia 2020).
    MaxSim { isa: CpuIsa },
}

impl Means {
    fn wanted(self) -> OutputSet {
        match self {
            Self::Dense { .. } => OutputSet::DENSE,
            Self::Sparse => OutputSet { sparse: true, ..OutputSet::NONE },
            Self::MaxSim { .. } => OutputSet { multivector: true, ..OutputSet::NONE },
        }
    }

    /// How well two rows agree, whatever other rows there are. Sums over one vector are in f64, so that their order does
    /// not show.
    fn compare(
        self,
        (query, query_row): (&Rows, Row),
        (rows, row): (&Rows, Row),
    ) -> Result<f32, ItemFailure> {
        let score = match self {
            Self::Dense { dims, cosine } => {
                let (a, b) = (query.dense(query_row, dims), rows.dense(row, dims));
                let scale = if cosine { (dot(a, a) * dot(b, b)).sqrt().max(1e-12) } else { 1.0 };
                dot(a, b) / scale
            }
            Self::Sparse => sparse_dot(query.sparse(query_row), rows.sparse(row)),
            Self::MaxSim { isa } => {
                return max_sim_of(isa, query.multivector(query_row), rows.multivector(row).0);
            }
        };
        #[expect(clippy::cast_possible_truncation, reason = "a score is an f32 by definition")]
        {
            Ok(score as f32)
        }
    }
}

/// A query or a text without vectors agrees with nothing.
fn max_sim_of(isa: CpuIsa, (query, width): (&[f32], usize), text: &[f32]) -> Result<f32, ItemFailure> {
    let mut score = [0.0];
    if query.is_empty() {
        return Ok(0.0);
    }
    let bounds = [0, (text.len() / width) as u32];
    max_sim(isa, width, query, text, &bounds, &mut score).map_err(|error| {
        // Both are rows of one model's vectors, on the processor that the node was started for.
        let message = format!("the vectors cannot be compared: {error}");
        ItemFailure { code: ErrorCode::Internal, message, tokens: 0, limit: 0 }
    })?;
    Ok(score[0])
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

fn sparse_dot((a_ids, a): (&[u32], &[f32]), (b_ids, b): (&[u32], &[f32])) -> f64 {
    let (mut i, mut j, mut sum) = (0, 0, 0.0);
    while i < a_ids.len() && j < b_ids.len() {
        match a_ids[i].cmp(&b_ids[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                sum += f64::from(a[i]) * f64::from(b[j]);
                (i, j) = (i + 1, j + 1);
            }
        }
    }
    sum
}

/// Texts whose vectors are compared with the query's, which is the first item of the request. Texts that come before it
/// are held: at most one request's.
#[derive(Debug)]
pub(crate) struct Comparing {
    means: Means,
    query: Option<(Rows, Row)>,
    held: Vec<Rows>,
}

impl Comparing {
    fn handle_rows(&mut self, mut rows: Rows) -> Vec<TaskResult> {
        let own = rows.rows.iter().position(|row| row.index == 0);
        if let Some(own) = own {
            let row = rows.rows.remove(own);
            let outputs = Arc::clone(&rows.outputs);
            self.query =
                Some((Rows { outputs, rows: Vec::new(), places: Vec::new(), chunks: Vec::new() }, row));
        }
        // The caller's positions do not count the query.
        rows.rows.iter_mut().for_each(|row| row.index -= 1);
        self.held.push(rows);
        let Some(query) = &self.query else {
            return Vec::new();
        };
        let mut gather = CompareGather { means: self.means, query, scores: Vec::new() };
        let held = std::mem::take(&mut self.held);
        held.iter().flat_map(|rows| result_frames(&mut gather, rows)).collect()
    }
}

struct CompareGather<'a> {
    means: Means,
    query: &'a (Rows, Row),
    scores: Vec<f32>,
}

impl Gather for CompareGather<'_> {
    fn row_bytes(&self, _rows: &Rows, _row: Row) -> usize {
        size_of::<f32>()
    }

    fn push(&mut self, rows: &Rows, row: Row, _places: &[TokenPlace]) -> Result<(), ItemFailure> {
        let (query, query_row) = self.query;
        push_finite(&mut self.scores, self.means.compare((query, *query_row), (rows, row))?)
    }

    fn take(&mut self) -> Answers {
        Answers::Scores(std::mem::take(&mut self.scores))
    }
}

#[cfg(test)]
mod tests;
