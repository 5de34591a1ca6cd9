//! Mistral (Jiang et al. 2023): E5-Mistral and its kin: Llama whose layers all look back over a window.
//!
//! Fields and names: `transformers/models/mistral/{configuration,modeling}_mistral.py`.

use serde::Deserialize;

use super::{
    Family,
    decoder::{DecoderConfig, NAMING},
};

pub(super) const FAMILY: Family = Family {
    model_types: &["mistral"],
    architectures: &["MistralModel", "MistralForCausalLM"],
    own_code: &[],
    spec: |config, head| {
        let MistralConfig { sliding_window, decoder } = super::from_value(config)?;
        let layer = decoder.layer()?;
        let layer = sliding_window.map_or_else(|| layer.clone(), |tokens| decoder.windowed(&layer, tokens));
        Ok(decoder.uniform(layer, head))
    },
    naming: &NAMING,
    heads: &[],
};

#[derive(Deserialize)]
struct MistralConfig {
    /// Null for no window.
    #[serde(default = "window")]
    sliding_window: Option<usize>,
    #[serde(flatten)]
    decoder: DecoderConfig,
}

#[expect(clippy::unnecessary_wraps, reason = "the default of a field that may be null")]
const fn window() -> Option<usize> {
    Some(4096)
}
