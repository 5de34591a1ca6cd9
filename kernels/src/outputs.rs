//! What a pass can leave for each sequence or token, and what a caller wants of it.

use std::fmt;

/// Outputs by kind: what a caller wants of a pass, or what a model can give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputSet {
    /// One vector per sequence.
    pub dense: bool,
    /// One weight per word of the vocabulary that matters to a sequence.
    pub sparse: bool,
    /// One vector per token.
    pub multivector: bool,
    /// Logits of labels per sequence.
    pub classes: bool,
    /// Logits of labels per token.
    pub token_classes: bool,
    /// Scores of the caller's labels for spans of words.
    pub spans: bool,
}

impl OutputSet {
    /// Nothing.
    pub const NONE: Self = Self {
        dense: false,
        sparse: false,
        multivector: false,
        classes: false,
        token_classes: false,
        spans: false,
    };
    /// Dense vectors alone.
    pub const DENSE: Self = Self { dense: true, ..Self::NONE };

    /// Whether it names no output.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self {
            dense: self.dense && !other.dense,
            sparse: self.sparse && !other.sparse,
            multivector: self.multivector && !other.multivector,
            classes: self.classes && !other.classes,
            token_classes: self.token_classes && !other.token_classes,
            spans: self.spans && !other.spans,
        }
    }

    /// What is in this set or in `other`.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            dense: self.dense || other.dense,
            sparse: self.sparse || other.sparse,
            multivector: self.multivector || other.multivector,
            classes: self.classes || other.classes,
            token_classes: self.token_classes || other.token_classes,
            spans: self.spans || other.spans,
        }
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        let Self { dense, sparse, multivector, classes, token_classes, spans } = self;
        let all = [
            (dense, "dense"),
            (sparse, "sparse"),
            (multivector, "multivector"),
            (classes, "classes"),
            (token_classes, "token_classes"),
            (spans, "spans"),
        ];
        all.into_iter().filter_map(|(has, name)| has.then_some(name))
    }
}

impl fmt::Display for OutputSet {
    /// The names, such as `dense, sparse`, or `nothing`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = self.names();
        f.write_str(names.next().unwrap_or("nothing"))?;
        names.try_for_each(|name| write!(f, ", {name}"))
    }
}

/// What one pass left. Reused from pass to pass: each clears it and keeps its memory. What was not wanted is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs {
    /// `[vectors, dims]`, after the head's modules: one for each sequence, or for each of its ranges.
    pub dense: Vec<f32>,
    /// `[sequences + 1]`: sequence `i` owns the vectors `dense_bounds[i]..dense_bounds[i + 1]`.
    pub dense_bounds: Vec<u32>,
    /// One row per sequence.
    pub sparse: SparseRows,
    /// `[kept tokens, token_dims]`, in the order of the batch.
    pub multivector: Vec<f32>,
    /// `[sequences + 1]`: sequence `i` owns the rows `multivector_bounds[i]..multivector_bounds[i + 1]`.
    pub multivector_bounds: Vec<u32>,
    /// `[sequences, labels]`: logits.
    pub classes: Vec<f32>,
    /// `[tokens, labels]`: logits, in the order of the batch, special tokens included.
    pub token_classes: Vec<f32>,
    /// What was found in each sequence.
    pub spans: SpanRows,
}

/// Spans with a label that score above their sequence's threshold, end to end (CSR): sequence `i` has
/// `spans[indptr[i]..indptr[i + 1]]`, ascending by first word, last word and label, of at most [`Self::ROW_MAX`].
#[derive(Clone, Debug, PartialEq)]
pub struct SpanRows {
    /// `[sequences + 1]`, from 0.
    pub indptr: Vec<u32>,
    /// What was kept.
    pub spans: Vec<ScoredSpan>,
    /// `[sequences]`: how many there were, those over the bound included.
    pub found: Vec<u32>,
}

/// Some words with a label. They may overlap with others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredSpan {
    /// Its first word.
    pub first: u32,
    /// Its last word.
    pub last: u32,
    /// The label, by its place among those of the sequence.
    pub label: u32,
    /// From 0 to 1.
    pub score: f32,
}

impl SpanRows {
    /// Spans that are kept of one sequence: a few times as many as a text has beginnings of spans. What is above is counted
    /// only.
    pub const ROW_MAX: usize = 1 << 14;
}

/// Sparse rows end to end (CSR): row `i` has the columns `indices[indptr[i]..indptr[i + 1]]`, ascending, with `values`
/// above 0.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseRows {
    /// `[rows + 1]`, from 0.
    pub indptr: Vec<u32>,
    /// Ids of the model's vocabulary.
    pub indices: Vec<u32>,
    /// As long as `indices`.
    pub values: Vec<f32>,
}

impl Outputs {
    /// No output of no sequence.
    pub fn new() -> Self {
        Self {
            dense: Vec::new(),
            dense_bounds: vec![0],
            sparse: SparseRows { indptr: vec![0], indices: Vec::new(), values: Vec::new() },
            multivector: Vec::new(),
            multivector_bounds: vec![0],
            classes: Vec::new(),
            token_classes: Vec::new(),
            spans: SpanRows { indptr: vec![0], spans: Vec::new(), found: Vec::new() },
        }
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        let Self {
            dense,
            dense_bounds,
            sparse,
            multivector,
            multivector_bounds,
            classes,
            token_classes,
            spans,
        } = self;
        let SparseRows { indptr, indices, values } = sparse;
        [dense, multivector, classes, token_classes, values].into_iter().for_each(Vec::clear);
        [indices, &mut spans.found].into_iter().for_each(Vec::clear);
        spans.spans.clear();
        for bounds in [indptr, dense_bounds, multivector_bounds, &mut spans.indptr] {
            bounds.clear();
            bounds.push(0);
        }
    }
}

impl Default for Outputs {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_printed_and_subtracted() {
        let both = OutputSet { sparse: true, ..OutputSet::DENSE };
        assert_eq!(both.to_string(), "dense, sparse");
        assert_eq!(OutputSet::NONE.to_string(), "nothing");
        assert_eq!(both.without(OutputSet::DENSE), OutputSet { sparse: true, ..OutputSet::NONE });
        assert_eq!(OutputSet::DENSE.with(OutputSet { sparse: true, ..OutputSet::NONE }), both);
        assert!(both.without(both).is_empty() && !both.is_empty());
    }

    #[test]
    fn cleared_outputs_are_new() {
        let mut outputs = Outputs::new();
        outputs.dense.push(1.0);
        outputs.sparse.indptr.push(1);
        outputs.sparse.indices.push(7);
        outputs.multivector_bounds.push(3);
        outputs.spans.indptr.push(1);
        outputs.spans.found.push(1);
        outputs.spans.spans.push(ScoredSpan { first: 0, last: 1, label: 0, score: 0.5 });
        outputs.clear();
        assert_eq!(outputs, Outputs::new());
    }
}
