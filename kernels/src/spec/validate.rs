//! Refuses descriptions that no kernel could run, before memory is sized after them.

use super::{Attention, Embeddings, EncoderSpec, Ffn, LayerSpec, Norm, Position, PositionBias, SpecError};

/// Bounds far above any published encoder and low enough that no product of two of them overflows 64 bits.
pub(super) const HIDDEN_MAX: usize = 1 << 16;
const INTERMEDIATE_MAX: usize = 1 << 18;
const HEADS_MAX: usize = 1 << 10;
const LAYERS_MAX: usize = 1 << 10;
const VOCAB_MAX: usize = 1 << 23;
const POSITIONS_MAX: usize = 1 << 20;
/// A segment id is one byte in the packed batch.
const TOKEN_TYPES_MAX: usize = 1 << 8;
const BUCKETS_MAX: usize = 1 << 12;

impl EncoderSpec {
    /// Checks every dimension and every pair of dimensions that must fit each other.
    pub fn validate(&self) -> Result<(), SpecError> {
        within("hidden", self.hidden, HIDDEN_MAX)?;
        self.embeddings.validate()?;
        let Position::Learned { rows, offset } = self.position;
        within("position rows", rows, POSITIONS_MAX)?;
        if offset >= rows {
            return Err(SpecError::NoPositions { offset, rows });
        }
        self.position_bias.map_or(Ok(()), |bias| bias.validate(self))?;
        within("layers", self.layer_count(), LAYERS_MAX)?;
        (0..self.layer_count()).try_for_each(|index| self.layer(index).validate())?;
        self.head.validate(self.hidden)
    }
}

impl Embeddings {
    fn validate(&self) -> Result<(), SpecError> {
        within("vocab", self.vocab, VOCAB_MAX)?;
        within("embedding width", self.width, HIDDEN_MAX)?;
        self.token_types.map_or(Ok(()), |rows| within("token types", rows, TOKEN_TYPES_MAX))?;
        self.norm.validate()
    }
}

impl PositionBias {
    /// Every layer adds the same numbers, so each needs as many heads as the first.
    fn validate(self, spec: &EncoderSpec) -> Result<(), SpecError> {
        let Self::Buckets { buckets, distance_max } = self;
        within("relative buckets", buckets, BUCKETS_MAX)?;
        multiple(("relative buckets", buckets), ("directions and spacings", 4))?;
        within("relative distance", distance_max, POSITIONS_MAX)?;
        if distance_max <= buckets / 4 {
            return Err(SpecError::NoBuckets { buckets, distance_max });
        }
        let heads = spec.layer(0).attention.heads;
        let mut all = (0..spec.layer_count()).map(|index| spec.layer(index).attention.heads);
        let differs = all.find(|other| *other != heads);
        differs.map_or(Ok(()), |other| Err(SpecError::Heads { heads, other }))
    }
}

impl LayerSpec {
    fn validate(&self) -> Result<(), SpecError> {
        let Attention { heads, kv_heads, head_dim, .. } = self.attention;
        within("heads", heads, HEADS_MAX)?;
        within("kv_heads", kv_heads, HEADS_MAX)?;
        within("head_dim", head_dim, HIDDEN_MAX)?;
        multiple(("heads", heads), ("kv_heads", kv_heads))?;
        let Ffn::Mlp { intermediate, .. } = self.ffn;
        within("intermediate", intermediate, INTERMEDIATE_MAX)?;
        self.norm.validate()
    }
}

impl Norm {
    pub(super) fn validate(self) -> Result<(), SpecError> {
        let Self::LayerNorm { eps } = self;
        if eps.is_finite() && eps > 0.0 { Ok(()) } else { Err(SpecError::Eps { eps }) }
    }
}

pub(super) fn within(field: &'static str, value: usize, max: usize) -> Result<(), SpecError> {
    match value {
        0 => Err(SpecError::Zero { field }),
        value if value > max => Err(SpecError::TooLarge { field, value, max }),
        _ => Ok(()),
    }
}

/// Names both dimensions when the first is not a multiple of the second.
pub(crate) fn multiple(
    (field, value): (&'static str, usize),
    (divisor, divisor_value): (&'static str, usize),
) -> Result<(), SpecError> {
    if divisor_value != 0 && value.is_multiple_of(divisor_value) {
        return Ok(());
    }
    Err(SpecError::Indivisible { field, value, divisor, divisor_value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Activation, Head, LayerPattern, Mask, NormPlacement, Pooling, QkvLayout};

    fn spec() -> EncoderSpec {
        let norm = Norm::LayerNorm { eps: 1e-12 };
        let attention = Attention {
            heads: 4,
            kv_heads: 4,
            head_dim: 8,
            qkv: QkvLayout::Split,
            bias: true,
            mask: Mask::Bidirectional,
        };
        let ffn = Ffn::Mlp { intermediate: 64, activation: Activation::Relu };
        let layer = LayerSpec { norm, placement: NormPlacement::Post, attention, ffn };
        EncoderSpec {
            hidden: 32,
            embeddings: Embeddings { vocab: 100, width: 32, token_types: Some(2), norm },
            position: Position::Learned { rows: 16, offset: 0 },
            position_bias: None,
            layers: LayerPattern::Uniform { count: 2, layer },
            head: Head::pooled(Pooling::Mean, true),
        }
    }

    /// What `validate` says once `change` was made to a valid description.
    fn refusal(change: impl FnOnce(&mut EncoderSpec, &mut LayerSpec)) -> String {
        let mut spec = spec();
        let LayerPattern::Uniform { count, mut layer } = spec.layers.clone();
        change(&mut spec, &mut layer);
        spec.layers = LayerPattern::Uniform { count, layer };
        spec.validate().expect_err("the changed description is not valid").to_string()
    }

    #[test]
    fn a_sound_description_passes() {
        assert_eq!(spec().validate(), Ok(()));
        assert_eq!(spec().position.tokens_max(), 16);
    }

    #[test]
    fn refusals_name_the_fields() {
        assert_eq!(refusal(|spec, _| spec.hidden = 0), "hidden is 0; it must be positive");
        assert_eq!(
            refusal(|spec, _| spec.embeddings.vocab = usize::MAX),
            "vocab is 18446744073709551615; the largest value covered is 8388608"
        );
        assert_eq!(
            refusal(|_, layer| layer.attention.kv_heads = 3),
            "heads (4) is not a multiple of kv_heads (3)"
        );
        assert_eq!(
            refusal(|spec, _| spec.position = Position::Learned { rows: 2, offset: 2 }),
            "position offset (2) leaves no row of the position table (2 rows)"
        );
        let buckets = |buckets, distance_max| Some(PositionBias::Buckets { buckets, distance_max });
        assert_eq!(
            refusal(|spec, _| spec.position_bias = buckets(32, 8)),
            "32 relative buckets tell 8 distances apart one by one, which leaves none up to 8 for the wider ones"
        );
        assert_eq!(
            refusal(|spec, _| spec.position_bias = buckets(30, 128)),
            "relative buckets (30) is not a multiple of directions and spacings (4)"
        );
        assert_eq!(
            refusal(|_, layer| layer.norm = Norm::LayerNorm { eps: f32::NAN }),
            "norm eps is NaN; it must be finite and positive"
        );
        assert_eq!(
            refusal(|_, layer| layer.ffn = Ffn::Mlp { intermediate: 0, activation: Activation::Silu }),
            "intermediate is 0; it must be positive"
        );
    }

    #[test]
    fn parameters_are_counted() {
        let tables = (100 + 2 + 16) * 32 + 2 * 32;
        let layer = 4 * (32 * 32 + 32) + (2 * 32 * 64 + 64 + 32) + 4 * 32;
        assert_eq!(spec().parameters(), tables + 2 * layer);
        let mut projected = spec();
        projected.embeddings.width = 8;
        projected.embeddings.token_types = None;
        projected.position_bias = Some(PositionBias::Buckets { buckets: 32, distance_max: 128 });
        let tables = (100 + 16) * 8 + 2 * 8 + (8 + 1) * 32 + 32 * 4;
        assert_eq!(projected.parameters(), tables + 2 * layer);
    }
}
