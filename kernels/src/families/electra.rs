//! ELECTRA (Clark et al. 2020): BERT whose tables may be narrower than its blocks; generators and discriminators alike.
//!
//! Fields and names: `transformers/models/electra/{configuration,modeling}_electra.py`.

use serde::Deserialize;

use super::{Family, bert, bert::BertConfig, names::Naming};
use crate::spec::Position;

pub(super) const FAMILY: Family = Family {
    model_types: &["electra"],
    architectures: &["ElectraModel", "ElectraForPreTraining", "ElectraForMaskedLM"],
    spec: |config, head| {
        let ElectraConfig { embedding_size, bert } = super::from_value(config)?;
        let position = Position::Learned { rows: bert.max_position_embeddings, offset: 0 };
        let mut spec = bert.spec(position, head)?;
        spec.embeddings.width = embedding_size;
        Ok(spec)
    },
    naming: &Naming { prefixes: &["", "electra."], ..bert::NAMING },
};

#[derive(Deserialize)]
struct ElectraConfig {
    #[serde(default = "embedding_size")]
    embedding_size: usize,
    #[serde(flatten)]
    bert: BertConfig,
}

const fn embedding_size() -> usize {
    128
}
