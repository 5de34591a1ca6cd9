//! How configurations tell rotary positions: `rope_theta` beside `rope_scaling` in transformers 4, both in
//! `rope_parameters` in 5.

use serde::Deserialize;

use super::{
    FamilyError,
    post_norm::{refuse, refuse_unless},
};
use crate::spec::{Rope, RopeScaling};

/// `rope_scaling` or `rope_parameters`, or what the latter says of one kind of layers.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    /// As it was called before.
    r#type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    pub(super) partial_rotary_factor: Option<f64>,
}

/// `rope_parameters` of layers that turn by different bases.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct LayerRopes {
    pub(super) full_attention: RopeParameters,
    pub(super) sliding_attention: RopeParameters,
}

impl RopeParameters {
    /// The rotation of the first `dims` elements of a head, with `theta` where these parameters tell none.
    pub(super) fn rope(&self, theta: f64, dims: usize) -> Result<Rope, FamilyError> {
        refuse_unless("partial_rotary_factor", self.partial_rotary_factor.unwrap_or(1.0), 1.0, "1")?;
        Ok(Rope { theta: self.rope_theta.unwrap_or(theta), dims, scaling: self.scaling()? })
    }

    fn scaling(&self) -> Result<RopeScaling, FamilyError> {
        match self.rope_type.as_deref().or(self.r#type.as_deref()) {
            None | Some("default") => Ok(RopeScaling::None),
            Some("ntk") => Ok(RopeScaling::Ntk { factor: field("factor", self.factor)? }),
            Some("linear") => Ok(RopeScaling::Linear { factor: field("factor", self.factor)? }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: field("factor", self.factor)?,
                low_freq_factor: field("low_freq_factor", self.low_freq_factor)?,
                high_freq_factor: field("high_freq_factor", self.high_freq_factor)?,
                tokens_original: field(
                    "original_max_position_embeddings",
                    self.original_max_position_embeddings,
                )?,
            }),
            Some(other) => refuse("rope_type", format!("{other:?}"), "default, linear, ntk, llama3"),
        }
    }
}

fn field<T>(name: &'static str, value: Option<T>) -> Result<T, FamilyError> {
    value.ok_or_else(|| FamilyError::Field { reason: format!("the rope parameters lack the field `{name}`") })
}
