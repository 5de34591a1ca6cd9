//! Llama (Touvron et al. 2023) and EuroBERT (Boizard et al. 2025), which is Llama looking both ways.
//!
//! Fields and names: `transformers/models/llama/` and `transformers/models/eurobert/`.

use super::{
    Family,
    decoder::{DecoderConfig, NAMING},
};
use crate::spec::Mask;

pub(super) const FAMILY: Family = Family {
    model_types: &["llama"],
    architectures: &["LlamaModel", "LlamaForCausalLM"],
    own_code: &[],
    spec: |config, head| {
        let config: DecoderConfig = super::from_value(config)?;
        Ok(config.uniform(config.layer()?, head))
    },
    naming: &NAMING,
    heads: &[],
};

pub(super) const EUROBERT: Family = Family {
    model_types: &["eurobert"],
    architectures: &["EuroBertModel", "EuroBertForMaskedLM"],
    own_code: &["modeling_eurobert.EuroBertModel"],
    spec: |config, head| {
        let config: DecoderConfig = super::from_value(config)?;
        let mut layer = config.layer()?;
        layer.attention.mask = Mask::Bidirectional;
        Ok(config.uniform(layer, head))
    },
    naming: &NAMING,
    heads: &[],
};
