//! `shoal score`

use shoal_mesh::core::rank;
use shoal_mesh::{Answer, Ranked, Score};
use shoal_protocol::message::ScoreOptions;

use super::args::ScoreArgs;
use super::exit::{Exit, Stop};
use super::output::Output;
use super::runtime::run_interruptible;
use super::task::{self, Answered, Lines, misanswered};

pub(super) fn run(args: ScoreArgs) -> Result<Exit, Stop> {
    run_interruptible(score(args))
}

async fn score(args: ScoreArgs) -> Result<Exit, Stop> {
    let options = ScoreOptions {
        query: args.query,
        raw: args.raw,
        instruction: args.instruction,
        ..ScoreOptions::default()
    };
    let make = |model: &str, texts| Score::live(model, texts).options(options);
    task::run(&args.task, make, &mut ScoreLines::default()).await
}

/// Scores, until all are there.
#[derive(Default)]
struct ScoreLines {
    scores: Vec<Ranked>,
}

impl Lines for ScoreLines {
    fn answer(&mut self, _output: &mut Output, answered: Answered) -> Result<(), Stop> {
        let Answer::Score(score) = answered.answer else {
            return Err(misanswered());
        };
        self.scores.push(Ranked { index: answered.index, score });
        Ok(())
    }

    fn end(&mut self, output: &mut Output) -> Result<(), Stop> {
        rank(&mut self.scores);
        self.scores
            .iter()
            .try_for_each(|Ranked { index, score }| output.json(&ScoreLine { index: *index, score: *score }))
    }
}

#[derive(serde::Serialize)]
struct ScoreLine {
    index: u64,
    score: f32,
}
