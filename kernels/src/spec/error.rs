//! Why a description is not a model.

/// The description contradicts itself or leaves its limits. Nothing was loaded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// A dimension is zero.
    #[error("{field} is 0; it must be positive")]
    Zero {
        /// The dimension.
        field: &'static str,
    },
    /// A dimension is larger than anything this program would compute.
    #[error("{field} is {value}; the largest value covered is {max}")]
    TooLarge {
        /// The dimension.
        field: &'static str,
        /// Its value.
        value: usize,
        /// Its bound.
        max: usize,
    },
    /// One dimension must be a multiple of another.
    #[error("{field} ({value}) is not a multiple of {divisor} ({divisor_value})")]
    Indivisible {
        /// The dividend.
        field: &'static str,
        /// Its value.
        value: usize,
        /// The divisor.
        divisor: &'static str,
        /// Its value.
        divisor_value: usize,
    },
    /// The position table has no row left for a token.
    #[error("position offset ({offset}) leaves no row of the position table ({rows} rows)")]
    NoPositions {
        /// Rows that no position uses.
        offset: usize,
        /// All rows.
        rows: usize,
    },
    /// The buckets of single distances reach as far as all of them should.
    #[error(
        "{buckets} relative buckets tell {} distances apart one by one, which leaves none up to {distance_max} for the wider ones",
        buckets / 4
    )]
    NoBuckets {
        /// Of both directions together.
        buckets: usize,
        /// Where they should end.
        distance_max: usize,
    },
    /// Buckets of several distances would leave some out.
    #[error(
        "{span} relative buckets of one direction end at distance {distance_max}; covered: {} and more",
        3 * (span / 2) + 1
    )]
    DenseBuckets {
        /// Of one direction.
        span: usize,
        /// Where they should end.
        distance_max: usize,
    },
    /// Attention that compares contents with positions does nothing else with them.
    #[error(
        "relative positions that contents are compared with are not covered beside a bias, rotation, norms of queries and keys, shared key heads or a mask"
    )]
    Disentangled,
    /// Layers that share a position bias differ in their heads.
    #[error("a position bias for {heads} heads meets a layer of {other}")]
    Heads {
        /// Of the first layer.
        heads: usize,
        /// Of another.
        other: usize,
    },
    /// No head was described.
    #[error("the model has no head: there is nothing that it could answer")]
    NoHead,
    /// A number that must be above zero is not, or is none.
    #[error("{field} is {value}; it must be finite and positive")]
    NotPositive {
        /// What it is of.
        field: &'static str,
        /// The given value.
        value: f64,
    },
}
