//! Holds a batch against a plan before anything is computed.

use super::ExecError;
use crate::{
    batch::PackedBatch,
    outputs::OutputSet,
    plan::{EmbedPlan, Plan},
};

/// Something is wanted, and there is a head for all of it.
pub(super) fn check_outputs(wanted: OutputSet, gives: OutputSet) -> Result<(), ExecError> {
    if wanted.is_empty() || !wanted.without(gives).is_empty() {
        return Err(ExecError::Outputs { wanted, gives });
    }
    Ok(())
}

/// Every id, position and length is one that the model has.
pub(super) fn check(plan: &Plan, batch: &PackedBatch) -> Result<(), ExecError> {
    let tokens = batch.tokens();
    length("positions", batch.positions.len(), tokens)?;
    if !batch.type_ids.is_empty() {
        length("type_ids", batch.type_ids.len(), tokens)?;
    }
    if !batch.skipped.is_empty() {
        length("skipped", batch.skipped.len(), tokens)?;
    }
    cu_seqlens("cu_seqlens_q", &batch.cu_seqlens_q, tokens)?;
    length("cu_seqlens_k", batch.cu_seqlens_k.len(), batch.cu_seqlens_q.len())?;
    keys(plan, batch)?;
    ranges(batch)?;
    labels(batch)?;
    let EmbedPlan { vocab, positions, token_types, .. } = plan.embed;
    if let Some((row, id)) = first_outside(&batch.token_ids, vocab) {
        return Err(ExecError::TokenId { row, id, vocab });
    }
    if let Some((row, position)) = first_outside(&batch.positions, positions) {
        return Err(ExecError::Position { row, position, positions });
    }
    // Without a table of segments all tokens are of the one that is not told apart.
    let token_types = token_types.unwrap_or(1);
    if let Some(row) = batch.type_ids.iter().position(|&id| usize::from(id) >= token_types) {
        return Err(ExecError::TypeId { row, type_id: batch.type_ids[row], token_types });
    }
    Ok(())
}

/// An encoder's keys are its own tokens: all of a sequence, or its first ones where the plan can leave the others out.
fn keys(plan: &Plan, batch: &PackedBatch) -> Result<(), ExecError> {
    let (queries, keys) = (&batch.cu_seqlens_q, &batch.cu_seqlens_k);
    let tokens = batch.tokens();
    let refuse =
        |index: usize| Err(ExecError::CuSeqlens { field: "cu_seqlens_k", index, value: keys[index], tokens });
    if keys.first() != Some(&0) {
        return refuse(0);
    }
    for (sequence, (queries, bounds)) in queries.windows(2).zip(keys.windows(2)).enumerate() {
        let tokens = queries[1] - queries[0];
        match bounds[1].checked_sub(bounds[0]) {
            Some(keys) if keys == tokens => {}
            Some(keys) if (1..tokens).contains(&keys) => {
                if tokens as usize > plan.sight {
                    return Err(ExecError::Keys { sequence, keys, tokens });
                }
            }
            _ => return refuse(sequence + 1),
        }
    }
    Ok(())
}

/// What dense vectors and words are pooled from lies in their sequences.
fn ranges(batch: &PackedBatch) -> Result<(), ExecError> {
    let PackedBatch { ranges, range_bounds, cu_seqlens_q, .. } = batch;
    if range_bounds.is_empty() {
        return length("ranges", ranges.len(), 0);
    }
    bounds("range_bounds", range_bounds, ranges.len(), cu_seqlens_q.len())?;
    for (sequence, (tokens, bounds)) in cu_seqlens_q.windows(2).zip(range_bounds.windows(2)).enumerate() {
        let tokens = tokens[1] - tokens[0];
        let own = &ranges[bounds[0] as usize..bounds[1] as usize];
        if let Some(&[start, end]) = own.iter().find(|[start, end]| start >= end || *end > tokens) {
            return Err(ExecError::Range { sequence, start, end, tokens });
        }
    }
    Ok(())
}

/// Labels stand in their sequences, each of which says what is kept.
fn labels(batch: &PackedBatch) -> Result<(), ExecError> {
    let PackedBatch { labels, label_bounds, span_rules, range_bounds, cu_seqlens_q, .. } = batch;
    if label_bounds.is_empty() {
        length("labels", labels.len(), 0)?;
        return length("span_rules", span_rules.len(), 0);
    }
    bounds("label_bounds", label_bounds, labels.len(), cu_seqlens_q.len())?;
    length("range_bounds", range_bounds.len(), cu_seqlens_q.len())?;
    length("span_rules", span_rules.len(), batch.sequences())?;
    for (sequence, (tokens, bounds)) in cu_seqlens_q.windows(2).zip(label_bounds.windows(2)).enumerate() {
        let tokens = tokens[1] - tokens[0];
        let own = &labels[bounds[0] as usize..bounds[1] as usize];
        if let Some(&label) = own.iter().find(|label| **label >= tokens) {
            return Err(ExecError::Label { sequence, label, tokens });
        }
    }
    Ok(())
}

/// What belongs to sequences is told apart by bounds that rise from 0 to its number.
fn bounds(field: &'static str, bounds: &[u32], total: usize, expected: usize) -> Result<(), ExecError> {
    length(field, bounds.len(), expected)?;
    let index = bounds.len() - 1;
    if [bounds[0], bounds[index]] != [0, total as u32] || !bounds.is_sorted() {
        return Err(ExecError::CuSeqlens { field, index, value: bounds[index], tokens: total });
    }
    Ok(())
}

fn first_outside(ids: &[u32], rows: usize) -> Option<(usize, u32)> {
    ids.iter().position(|&id| id as usize >= rows).map(|row| (row, ids[row]))
}

fn length(field: &'static str, found: usize, expected: usize) -> Result<(), ExecError> {
    if found == expected { Ok(()) } else { Err(ExecError::Length { field, found, expected }) }
}

fn cu_seqlens(field: &'static str, cu_seqlens: &[u32], tokens: usize) -> Result<(), ExecError> {
    let refuse = |index: usize| {
        let value = cu_seqlens.get(index).copied().unwrap_or_default();
        Err(ExecError::CuSeqlens { field, index, value, tokens })
    };
    if cu_seqlens.first() != Some(&0) {
        return refuse(0);
    }
    for (sequence, bounds) in cu_seqlens.windows(2).enumerate() {
        match bounds[0].cmp(&bounds[1]) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return Err(ExecError::EmptySequence { sequence }),
            std::cmp::Ordering::Greater => return refuse(sequence + 1),
        }
    }
    let last = cu_seqlens.len() - 1;
    if cu_seqlens[last] as usize == tokens { Ok(()) } else { refuse(last) }
}
