//! Refuses descriptions that no kernel could run, before memory is sized after them.

use super::{
    Attention, Disentangled, Embeddings, EncoderSpec, LayerSpec, Mask, Norm, Position, PositionBias, Rope,
    RopeScaling, SpecError,
};

/// Bounds far above any published encoder and low enough that no product of two of them overflows 64 bits.
pub(super) const HIDDEN_MAX: usize = 1 << 16;
const INTERMEDIATE_MAX: usize = 1 << 18;
const HEADS_MAX: usize = 1 << 10;
const LAYERS_MAX: usize = 1 << 10;
pub(super) const VOCAB_MAX: usize = 1 << 23;
const POSITIONS_MAX: usize = 1 << 20;
/// A segment id is one byte in the packed batch.
const TOKEN_TYPES_MAX: usize = 1 << 8;
const BUCKETS_MAX: usize = 1 << 12;

impl EncoderSpec {
    /// Checks every dimension and every pair of dimensions that must fit each other.
    pub fn validate(&self) -> Result<(), SpecError> {
        within("hidden", self.hidden, HIDDEN_MAX)?;
        self.embeddings.validate()?;
        self.position.validate()?;
        layer_count(self.layer_count())?;
        self.position_bias.map_or(Ok(()), |bias| bias.validate(self))?;
        self.each_layer().try_for_each(LayerSpec::validate)?;
        self.disentangled.map_or(Ok(()), |relative| relative.validate(self))?;
        self.final_norm.map_or(Ok(()), Norm::validate)?;
        self.head.validate(self.hidden)
    }
}

/// Refuses stacks that are empty or higher than any model's.
pub(super) fn layer_count(count: usize) -> Result<(), SpecError> {
    within("layers", count, LAYERS_MAX)
}

impl Position {
    fn validate(self) -> Result<(), SpecError> {
        match self {
            Self::Learned { rows, offset } => {
                within("position rows", rows, POSITIONS_MAX)?;
                if offset < rows { Ok(()) } else { Err(SpecError::NoPositions { offset, rows }) }
            }
            Self::InAttention { tokens_max } => within("positions", tokens_max, POSITIONS_MAX),
        }
    }
}

impl Embeddings {
    fn validate(&self) -> Result<(), SpecError> {
        within("vocab", self.vocab, VOCAB_MAX)?;
        within("embedding width", self.width, HIDDEN_MAX)?;
        self.token_types.map_or(Ok(()), |rows| within("token types", rows, TOKEN_TYPES_MAX))?;
        self.scale.map_or(Ok(()), |scale| positive("embedding scale", scale.into()))?;
        self.norm.map_or(Ok(()), Norm::validate)
    }
}

impl PositionBias {
    /// Every layer adds the same numbers, so each needs as many heads as the first.
    fn validate(self, spec: &EncoderSpec) -> Result<(), SpecError> {
        if let Self::Buckets { buckets, distance_max } = self {
            within("relative buckets", buckets, BUCKETS_MAX)?;
            multiple(("relative buckets", buckets), ("directions and spacings", 4))?;
            within("relative distance", distance_max, POSITIONS_MAX)?;
            if distance_max <= buckets / 4 {
                return Err(SpecError::NoBuckets { buckets, distance_max });
            }
        }
        let heads = spec.layer(0).attention.heads;
        let mut all = spec.each_layer().map(|layer| layer.attention.heads);
        let differs = all.find(|other| *other != heads);
        differs.map_or(Ok(()), |other| Err(SpecError::Heads { heads, other }))
    }
}

impl Disentangled {
    /// The kernels spread products over distances a vector at a time: neighbouring distances have neighbouring buckets. That
    /// is so where the wider buckets, as many as the single ones, end at least e times as far.
    fn validate(self, spec: &EncoderSpec) -> Result<(), SpecError> {
        let Self { span, distance_max, .. } = self;
        within("relative buckets", span, BUCKETS_MAX)?;
        multiple(("relative buckets", span), ("single and wide ones", 2))?;
        within("relative distance", distance_max, POSITIONS_MAX)?;
        if distance_max < 3 * (span / 2) + 1 {
            return Err(SpecError::DenseBuckets { span, distance_max });
        }
        within("terms of relative positions", self.terms(), 2)?;
        self.norm.map_or(Ok(()), Norm::validate)?;
        let is_plain = |attention: Attention| {
            attention.kv_heads == attention.heads
                && attention.mask == Mask::Bidirectional
                && attention.rope.is_none()
                && attention.qk_norm.is_none()
        };
        let plain = spec.position_bias.is_none() && spec.each_layer().all(|layer| is_plain(layer.attention));
        if plain { Ok(()) } else { Err(SpecError::Disentangled) }
    }
}

impl LayerSpec {
    fn validate(&self) -> Result<(), SpecError> {
        self.attention.validate()?;
        within("intermediate", self.ffn.intermediate, INTERMEDIATE_MAX)?;
        let mut norms = [self.attention_norm, self.ffn_norm].into_iter().flatten();
        norms.try_for_each(Norm::validate)
    }
}

impl Attention {
    fn validate(&self) -> Result<(), SpecError> {
        let Self { heads, kv_heads, head_dim, .. } = *self;
        within("heads", heads, HEADS_MAX)?;
        within("kv_heads", kv_heads, HEADS_MAX)?;
        within("head_dim", head_dim, HIDDEN_MAX)?;
        multiple(("heads", heads), ("kv_heads", kv_heads))?;
        self.scale.map_or(Ok(()), |scale| positive("attention scale", scale.into()))?;
        self.qk_norm.map_or(Ok(()), Norm::validate)?;
        self.rope.map_or(Ok(()), |rope| rope.validate(head_dim))
    }
}

impl Rope {
    fn validate(&self, head_dim: usize) -> Result<(), SpecError> {
        within("rope dims", self.dims, head_dim)?;
        multiple(("rope dims", self.dims), ("the two halves", 2))?;
        positive("rope theta", self.theta)?;
        match self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } | RopeScaling::Ntk { factor } => positive("rope factor", factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, tokens_original } => {
                positive("rope factor", factor)?;
                positive("rope low_freq_factor", low_freq_factor)?;
                positive("rope high_freq_factor less low_freq_factor", high_freq_factor - low_freq_factor)?;
                within("rope original positions", tokens_original, POSITIONS_MAX)
            }
        }
    }
}

impl Norm {
    pub(super) fn validate(self) -> Result<(), SpecError> {
        let (Self::LayerNorm { eps, .. } | Self::RmsNorm { eps, .. }) = self;
        positive("norm eps", eps.into())
    }
}

fn positive(field: &'static str, value: f64) -> Result<(), SpecError> {
    if value.is_finite() && value > 0.0 { Ok(()) } else { Err(SpecError::NotPositive { field, value }) }
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
    use crate::spec::{Activation, Ffn, Gate, Head, LayerPattern, Mask, NormPlacement, Pooling, QkvLayout};

    fn spec() -> EncoderSpec {
        let norm = Some(Norm::LayerNorm { eps: 1e-12, bias: true });
        let attention = Attention {
            heads: 4,
            kv_heads: 4,
            head_dim: 8,
            scale: None,
            qkv: QkvLayout::Split,
            qkv_bias: true,
            output_bias: true,
            qk_norm: None,
            rope: None,
            mask: Mask::Bidirectional,
        };
        let (intermediate, activation) = (64, Activation::Relu);
        let ffn = Ffn { intermediate, activation, gate: None, up_bias: true, down_bias: true };
        let placement = NormPlacement::Post;
        let layer = LayerSpec { placement, attention_norm: norm, attention, ffn_norm: norm, ffn };
        EncoderSpec {
            hidden: 32,
            embeddings: Embeddings { vocab: 100, width: 32, token_types: Some(2), scale: None, norm },
            position: Position::Learned { rows: 16, offset: 0 },
            position_bias: None,
            disentangled: None,
            layers: LayerPattern::Uniform { count: 2, layer },
            final_norm: None,
            head: Head::pooled(Pooling::Mean, true),
        }
    }

    /// What `validate` says once `change` was made to a valid description.
    fn refusal(change: impl FnOnce(&mut EncoderSpec, &mut LayerSpec)) -> String {
        let mut spec = spec();
        let mut layer = spec.layer(0).clone();
        change(&mut spec, &mut layer);
        spec.layers = LayerPattern::Uniform { count: spec.layer_count(), layer };
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
            refusal(|_, layer| layer.ffn_norm = Some(Norm::RmsNorm { eps: f32::NAN, plus_one: false })),
            "norm eps is NaN; it must be finite and positive"
        );
        assert_eq!(refusal(|_, layer| layer.ffn.intermediate = 0), "intermediate is 0; it must be positive");
        let relative = Disentangled {
            span: 8,
            distance_max: 16,
            content_to_position: true,
            position_to_content: false,
            norm: None,
            shares_projections: true,
        };
        let beside_a_bias = refusal(|spec, _| {
            (spec.position_bias, spec.disentangled) = (Some(PositionBias::Alibi), Some(relative));
        });
        assert!(beside_a_bias.contains("not covered beside a bias, rotation"), "{beside_a_bias}");
        let scaling = RopeScaling::Linear { factor: 0.0 };
        let rope = |dims, theta| Some(Rope { theta, dims, scaling });
        assert_eq!(
            refusal(|_, layer| layer.attention.rope = rope(10, 1e4)),
            "rope dims is 10; the largest value covered is 8"
        );
        assert_eq!(
            refusal(|_, layer| layer.attention.rope = rope(8, 1e4)),
            "rope factor is 0; it must be finite and positive"
        );
        assert_eq!(
            refusal(|_, layer| layer.attention.rope = rope(8, f64::INFINITY)),
            "rope theta is inf; it must be finite and positive"
        );
        assert_eq!(
            refusal(|spec, _| spec.embeddings.scale = Some(-1.0)),
            "embedding scale is -1; it must be finite and positive"
        );
    }

    #[test]
    fn a_stack_of_layers_that_differ_is_bounded_before_it_is_built() {
        let layer = |_| -> LayerSpec { unreachable!("no layer is asked for") };
        let refused = LayerPattern::listed(usize::MAX, layer).expect_err("far too many");
        assert_eq!(refused.to_string(), "layers is 18446744073709551615; the largest value covered is 1024");
        assert!(LayerPattern::listed(0, layer).is_err());
    }

    #[test]
    fn parameters_of_modern_blocks_are_counted() {
        let mut spec = spec();
        let mut layer = spec.layer(0).clone();
        layer.placement = NormPlacement::Sandwich;
        layer.attention_norm = Some(Norm::RmsNorm { eps: 1e-6, plus_one: true });
        layer.ffn_norm = Some(Norm::LayerNorm { eps: 1e-6, bias: false });
        layer.ffn.gate = Some(Gate::Split);
        layer.ffn.up_bias = false;
        layer.attention.kv_heads = 2;
        layer.attention.output_bias = false;
        layer.attention.qk_norm = layer.attention_norm;
        let bare = LayerSpec { attention_norm: None, ..layer.clone() };
        let attention = (32 + 16 + 16) * 32 + (32 + 16 + 16) + 32 * 32 + 2 * 8;
        let ffn = 3 * 32 * 64 + 32;
        spec.layers = LayerPattern::listed(3, |index| if index == 0 { bare.clone() } else { layer.clone() })
            .expect("few layers");
        spec.position = Position::InAttention { tokens_max: 16 };
        spec.position_bias = Some(PositionBias::Alibi);
        spec.final_norm = layer.ffn_norm;
        let norms = 2 * 32 + 2 * (4 * 32) + 32;
        assert_eq!(spec.parameters() as usize, (100 + 2 + 2) * 32 + 3 * (attention + ffn) + norms);
        let printed = spec.to_string();
        assert!(printed.contains("  1 x (0)\n") && printed.contains("  2 x (1-2)\n"), "{printed}");
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
