//! How a token knows where it stands.

use super::Norm;

/// How positions enter the embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// A table `[rows, width]` added to the embeddings; position `p` reads row `p + offset`
    /// (BERT: offset 0, Devlin et al. 2018; RoBERTa: offset 2).
    Learned {
        /// Rows of the table.
        rows: usize,
        /// Rows at its start that no position uses.
        offset: usize,
    },
    /// Not at all: attention rotates by them ([`Rope`]), adds a [`PositionBias`] or is [`Disentangled`].
    InAttention {
        /// The longest sequence that the model is meant for.
        tokens_max: usize,
    },
}

impl Position {
    /// The longest sequence that has a position for every token.
    pub const fn tokens_max(self) -> usize {
        match self {
            Self::Learned { rows, offset } => rows.saturating_sub(offset),
            Self::InAttention { tokens_max } => tokens_max,
        }
    }

    /// Rows of the learned table.
    pub(crate) const fn table_rows(self) -> usize {
        match self {
            Self::Learned { rows, .. } => rows,
            Self::InAttention { .. } => 0,
        }
    }
}

/// A number per head, added to the scaled score of a query and a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionBias {
    /// Looked up by the bucket of their distance (Raffel et al. 2020, section 2.1): one half of the buckets for keys behind
    /// the query, one for keys before it; of each half, one half for single distances, the others ever wider up to
    /// `distance_max`, the last for all beyond. A table `[buckets, heads]`.
    Buckets {
        /// Of both directions together.
        buckets: usize,
        /// From here on distances are no longer told apart.
        distance_max: usize,
    },
    /// Their distance, whichever is first, times a negative slope that the head's number tells (Press et al. 2022; for
    /// encoders Günther et al. 2023).
    Alibi,
}

/// Attention that also compares what one token says with where the other stands (He et al. 2021, equation 4, without the
/// term of two positions): the score of the query at `i` and the key at `j` is `q_i k_j + q_i K[b] + k_j Q[b]`, where `b` is
/// the bucket of `i - j`, and `K` and `Q` are projections, each layer's own, of one table `[2 span, hidden]`.
///
/// `span / 2` distances of each direction have buckets of their own, further ones ever wider buckets up to `distance_max`
/// (DeBERTa-v2); what lies beyond the table has its first or its last row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disentangled {
    /// Buckets of one direction.
    pub span: usize,
    /// Where the last of them ends.
    pub distance_max: usize,
    /// Whether queries meet positions: `q_i K[b]`.
    pub content_to_position: bool,
    /// Whether keys meet positions: `k_j Q[b]`.
    pub position_to_content: bool,
    /// Of the table, before it is projected.
    pub norm: Option<Norm>,
    /// Whether the table goes through the projections of keys and of queries, or through such of its own.
    pub shares_projections: bool,
}

impl Disentangled {
    /// How many terms a score has beside that of both contents.
    pub const fn terms(&self) -> usize {
        self.content_to_position as usize + self.position_to_content as usize
    }

    pub(super) fn parameters(&self, hidden: usize) -> usize {
        2 * self.span * hidden + self.norm.map_or(0, |norm| norm.parameters(hidden))
    }

    /// Those of the table's own projections to `width`.
    pub(super) const fn layer_parameters(&self, hidden: usize, width: usize) -> usize {
        if self.shares_projections { 0 } else { self.terms() * (hidden + 1) * width }
    }
}

/// Rotary positions (Su et al. 2021): element `i` of a head's first half and element `i` of its second are turned by
/// `position * theta^(-2 i / dims)`, queries and keys alike. Elements beyond the first `dims` stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// Elements of a head that are turned: even, at most `head_dim`.
    pub dims: usize,
    /// How the frequencies are stretched to longer texts than the model first saw.
    pub scaling: RopeScaling,
}

/// What becomes of the frequencies `theta^(-2 i / dims)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Nothing.
    None,
    /// Divided by `factor` (Chen et al. 2023).
    Linear {
        /// How much longer texts may be.
        factor: f64,
    },
    /// Of `theta * factor`, and divided by `factor^(2 / dims)`: the fastest stay nearly as they are, the slowest are divided
    /// by the factor (the "fixed NTK" of GTE's modelling code, equation 6 of <https://kexue.fm/archives/9706>).
    Ntk {
        /// How much longer texts may be.
        factor: f64,
    },
    /// Divided by `factor` where a turn takes more than `tokens_original / low_freq_factor` tokens, kept where it takes
    /// less than `tokens_original / high_freq_factor`, in between something in between (Llama 3.1's model card).
    Llama3 {
        /// How much longer texts may be.
        factor: f64,
        /// Of slow turns.
        low_freq_factor: f64,
        /// Of fast turns.
        high_freq_factor: f64,
        /// The length that the model first saw.
        tokens_original: usize,
    },
}
