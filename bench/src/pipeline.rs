//! Text in, vectors out, in this process: what a node does with a batch, without queues and without a network.
//!
//! All threads tokenize, then each lane takes the next batch until none is left. A lane is one thread under load: two
//! independent streams beat two threads that share each step.

use shoal_kernels::cpu::Team;
use shoal_kernels::{
    CpuLane, CpuModel, DtypePolicy, ExecError, ModelDescription, OutputSet, Outputs, PackedBatch,
};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use tokenizers::{Tokenizer, TruncationParams};

pub(crate) type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// What is measured.
#[derive(clap::Args)]
pub(crate) struct Work {
    /// A model directory in Hugging Face layout.
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// One text per line: a JSON string, or an object with a field `text`.
    #[arg(long)]
    pub(crate) texts: PathBuf,
    /// The format of the weights.
    #[arg(long, default_value = "auto")]
    pub(crate) dtype: DtypePolicy,
}

/// Tokens of one batch: enough rows for the register tiles, few enough for the caches.
pub(crate) const BATCH_TOKENS: usize = 256;

/// Batches shrink to this towards the end, so that the lanes finish together.
const BATCH_TOKENS_MIN: usize = 64;

/// Texts that a thread tokenizes at once.
const TEXTS_PER_TURN: usize = 16;

/// A loaded model with its tokenizer and its lanes.
pub(crate) struct Pipeline {
    tokenizer: Tokenizer,
    lowercases: bool,
    model: CpuModel,
    team: Team,
    lanes: Vec<Mutex<Lane>>,
    batch_tokens: usize,
}

struct Lane {
    lane: CpuLane,
    batch: PackedBatch,
    out: Outputs,
}

impl Pipeline {
    pub(crate) fn new(
        description: &ModelDescription,
        model: CpuModel,
        lanes: usize,
        threads_per_lane: usize,
        batch_tokens: usize,
    ) -> Result<Self, AnyError> {
        let mut tokenizer = Tokenizer::from_file(description.dir.join("tokenizer.json"))?;
        // The file's own blocks are those of whoever saved it; the model's limit is another, and packing needs no padding.
        tokenizer.with_padding(None);
        let max_length = description.tokens_max as usize;
        tokenizer.with_truncation(Some(TruncationParams { max_length, ..Default::default() }))?;
        let lane =
            || Lane { lane: CpuLane::new(threads_per_lane), batch: PackedBatch::new(), out: Outputs::new() };
        Ok(Self {
            tokenizer,
            lowercases: description.lowercases,
            model,
            team: Team::new(lanes),
            lanes: (0..lanes.max(1)).map(|_| Mutex::new(lane())).collect(),
            batch_tokens,
        })
    }

    pub(crate) fn model(&self) -> &CpuModel {
        &self.model
    }

    pub(crate) fn team(&mut self) -> &mut Team {
        &mut self.team
    }

    /// The ids of one text, special tokens included, cut to the model's limit.
    pub(crate) fn tokenize(&self, text: &str) -> Result<Vec<u32>, AnyError> {
        let encoding = if self.lowercases {
            self.tokenizer.encode_fast(text.to_lowercase(), true)?
        } else {
            self.tokenizer.encode_fast(text, true)?
        };
        Ok(encoding.get_ids().to_vec())
    }

    /// The vectors of all texts, `[texts, dims]` in their order, and the tokens that the model saw.
    pub(crate) fn encode(&mut self, texts: &[String]) -> Result<(Vec<f32>, usize), AnyError> {
        let ids = self.tokenize_all(texts)?;
        let tokens = ids.iter().map(Vec::len).sum();
        Ok((self.encode_ids(&ids)?, tokens))
    }

    /// The vectors of texts that are tokenized already, `[texts, dims]` in their order.
    pub(crate) fn encode_ids(&mut self, ids: &[Vec<u32>]) -> Result<Vec<f32>, AnyError> {
        let batches = split(ids, self.batch_tokens, self.lanes.len());
        let dims = self.model.dims();
        let mut vectors = vec![0.0; ids.len() * dims];
        let results = Turns::new(batches.len());
        let mut rows = vectors.as_mut_slice();
        let mut parts = Vec::with_capacity(batches.len());
        for batch in &batches {
            let (part, rest) = std::mem::take(&mut rows).split_at_mut(batch.len() * dims);
            parts.push(Mutex::new(part));
            rows = rest;
        }
        let (model, lanes) = (&self.model, &self.lanes);
        self.team.for_each(lanes.len(), batches.len(), &|thread, index| {
            let done = own(&lanes[thread]).run(model, &ids[batches[index].clone()], &mut own(&parts[index]));
            results.set(index, done.map_err(AnyError::from));
        });
        results.into_first_error()?;
        drop(parts);
        Ok(vectors)
    }

    /// The vector of one text, on all threads of the first lane.
    pub(crate) fn encode_one(&mut self, text: &str) -> Result<Vec<f32>, AnyError> {
        let ids = self.tokenize(text)?;
        let mut vector = vec![0.0; self.model.dims()];
        own(&self.lanes[0]).run(&self.model, &[ids], &mut vector)?;
        Ok(vector)
    }

    fn tokenize_all(&mut self, texts: &[String]) -> Result<Vec<Vec<u32>>, AnyError> {
        let mut team = std::mem::replace(&mut self.team, Team::new(1));
        let turns: Vec<_> =
            texts.chunks(TEXTS_PER_TURN).map(|texts| (texts, Mutex::new(Vec::new()))).collect();
        let results = Turns::new(turns.len());
        team.for_each(self.lanes.len(), turns.len(), &|_, index| {
            let (texts, ids) = &turns[index];
            let tokenized = texts.iter().map(|text| self.tokenize(text)).collect::<Result<Vec<_>, _>>();
            results.set(index, tokenized.map(|tokenized| *own(ids) = tokenized));
        });
        self.team = team;
        results.into_first_error()?;
        Ok(turns
            .into_iter()
            .flat_map(|(_, ids)| ids.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect())
    }
}

impl Lane {
    fn run(
        &mut self,
        model: &CpuModel,
        sequences: &[Vec<u32>],
        vectors: &mut [f32],
    ) -> Result<(), ExecError> {
        self.batch.clear();
        sequences.iter().for_each(|ids| self.batch.push(ids));
        self.lane.run(model, &self.batch, OutputSet::DENSE, self.lane.threads_max(), &mut self.out)?;
        vectors.copy_from_slice(&self.out.dense);
        Ok(())
    }
}

/// The lock that this thread alone takes.
fn own<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of each item of a fork.
struct Turns(Vec<Mutex<Result<(), AnyError>>>);

impl Turns {
    fn new(items: usize) -> Self {
        Self((0..items).map(|_| Mutex::new(Ok(()))).collect())
    }

    fn set(&self, index: usize, result: Result<(), AnyError>) {
        *own(&self.0[index]) = result;
    }

    fn into_first_error(self) -> Result<(), AnyError> {
        self.0.into_iter().try_for_each(|result| result.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Cuts sequences, in their order, into batches of about `tokens_max` tokens, smaller towards the end.
fn split(ids: &[Vec<u32>], tokens_max: usize, lanes: usize) -> Vec<Range<usize>> {
    let mut left: usize = ids.iter().map(Vec::len).sum();
    let mut batches = Vec::new();
    let mut start = 0;
    while start < ids.len() {
        let budget = (left / (2 * lanes)).clamp(BATCH_TOKENS_MIN.min(tokens_max), tokens_max);
        let mut end = start + 1;
        let mut tokens = ids[start].len();
        while end < ids.len() && tokens + ids[end].len() <= budget {
            tokens += ids[end].len();
            end += 1;
        }
        batches.push(start..end);
        left -= tokens;
        start = end;
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn batches_cover_every_sequence_once_and_keep_to_the_budget() {
        let ids: Vec<Vec<u32>> = (0..100).map(|index| vec![0; index * 7 % 60]).collect();
        let batches = split(&ids, 256, 2);
        assert_eq!(batches[0].start, 0);
        assert!(batches.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!(batches[batches.len() - 1].end, ids.len());
        let tokens = |range: &std::ops::Range<usize>| ids[range.clone()].iter().map(Vec::len).sum::<usize>();
        assert!(batches.iter().all(|batch| batch.len() == 1 || tokens(batch) <= 256));
        assert!(tokens(&batches[0]) > 190 && tokens(&batches[batches.len() - 1]) < 128);
        assert!(split(&[], 256, 2).is_empty());
    }
}
