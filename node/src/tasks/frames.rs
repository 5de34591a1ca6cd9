//! Answers of a batch to result frames within the wire's limits.

use shoal_protocol::ErrorCode;
use shoal_protocol::limits::{ERROR_MESSAGE_BYTES_MAX, LABELS_BYTES_MAX, LABELS_MAX, RESULT_BODY_BYTES_MAX};
use shoal_protocol::message::{Answers, ItemOutcome, TaskResult};

use crate::tasks::rows::{Row, Rows};
use crate::tasks::tokenizer::{ItemFailure, TokenPlace};

/// Failed items in one frame: their messages are at most [`ERROR_MESSAGE_BYTES_MAX`] bytes each.
const FAILURES_PER_FRAME: usize = 1024;
/// Bytes of a row that are not its answer: index, outcome and the archive's own structure.
const ROW_OVERHEAD_BYTES: usize = 64;
/// Bytes of a frame that are not rows: the archive's structure, with room to spare, and the labels that rows name.
const FRAME_OVERHEAD_BYTES: usize = 4096 + LABELS_BYTES_MAX + 8 * LABELS_MAX;
/// Bytes of the rows of one frame.
const ROWS_BYTES_MAX: usize = RESULT_BODY_BYTES_MAX as usize - FRAME_OVERHEAD_BYTES;

/// Gathers the answers of one frame.
pub(crate) trait Gather {
    /// Bytes that the row's answer takes on the wire.
    fn row_bytes(&self, rows: &Rows, row: Row) -> usize;

    /// Adds the row's answer; `places` are those of its tokens, where they were asked for. A failure adds nothing.
    fn push(&mut self, rows: &Rows, row: Row, places: &[TokenPlace]) -> Result<(), ItemFailure>;

    /// What was added since the last time.
    fn take(&mut self) -> Answers;
}

/// The frames of a batch's rows: every row is in one of them.
pub(crate) fn result_frames(gather: &mut impl Gather, rows: &Rows) -> Vec<TaskResult> {
    let (mut frames, mut failures, mut bytes) = (Vec::new(), Vec::new(), 0);
    let (mut indices, mut outcomes) = (Vec::new(), Vec::new());
    for (row, places) in rows.placed() {
        let row_bytes = gather.row_bytes(rows, row) + ROW_OVERHEAD_BYTES;
        if row_bytes > ROWS_BYTES_MAX {
            failures.push((row.index, too_large(row_bytes)));
            continue;
        }
        if bytes + row_bytes > ROWS_BYTES_MAX {
            let (indices, outcomes) = (std::mem::take(&mut indices), std::mem::take(&mut outcomes));
            frames.push(TaskResult { indices, outcomes, answers: gather.take() });
            bytes = 0;
        }
        match gather.push(rows, row, places) {
            Ok(()) => {
                bytes += row_bytes;
                indices.push(row.index);
                outcomes.push(ItemOutcome::Answered { tokens: row.tokens, truncated: row.truncated });
            }
            Err(failure) => failures.push((row.index, failure)),
        }
    }
    if !indices.is_empty() {
        frames.push(TaskResult { indices, outcomes, answers: gather.take() });
    }
    frames.extend(failure_frames(failures));
    frames
}

fn too_large(bytes: usize) -> ItemFailure {
    let message = format!(
        "the answer takes {bytes} bytes and a frame at most {ROWS_BYTES_MAX}: ask for a smaller output type, or cut \
         the text"
    );
    ItemFailure { code: ErrorCode::InvalidRequest, message, tokens: 0, limit: 0 }
}

/// The item for which a model gives something that is no number.
pub(crate) fn not_a_number() -> ItemFailure {
    let message = "the model's answer is not a number".to_owned();
    ItemFailure { code: ErrorCode::ModelBroken, message, tokens: 0, limit: 0 }
}

/// Frames that tell of texts that failed by themselves.
pub(crate) fn failure_frames(failures: Vec<(u32, ItemFailure)>) -> Vec<TaskResult> {
    let frames = failures.chunks(FAILURES_PER_FRAME).map(|failures| TaskResult {
        indices: failures.iter().map(|(index, _)| *index).collect(),
        outcomes: failures
            .iter()
            .map(|(_, failure)| ItemOutcome::Failed {
                code: failure.code,
                message: cut(&failure.message),
                tokens: failure.tokens,
                limit: failure.limit,
            })
            .collect(),
        answers: Answers::NONE,
    });
    frames.collect()
}

/// The message, or its beginning if it is over the wire's limit.
pub(crate) fn cut(message: &str) -> String {
    message[..message.floor_char_boundary(ERROR_MESSAGE_BYTES_MAX)].to_owned()
}
