//! RoBERTa (Liu et al. 2019), XLM-RoBERTa (Conneau et al. 2020) and CamemBERT: BERT whose positions begin behind the
//! padding token's row.
//!
//! Fields and names: `transformers/models/roberta/{configuration,modeling}_roberta.py`, and the two that copy them.

use serde::Deserialize;

use super::{
    Family, bert,
    bert::BertConfig,
    heads::{HeadClass, HeadKind, TANH_CLASSIFIER, TOKEN_CLASSIFIER, VocabularyNaming},
    names::Naming,
};
use crate::spec::Position;

pub(super) const FAMILY: Family = Family {
    model_types: &["roberta", "xlm-roberta", "camembert"],
    architectures: &["RobertaModel", "XLMRobertaModel", "CamembertModel"],
    own_code: &[],
    spec: |config, head| {
        let RobertaConfig { pad_token_id, bert } = super::from_value(config)?;
        let offset = pad_token_id.saturating_add(1);
        bert.spec(Position::Learned { rows: bert.max_position_embeddings, offset }, head)
    },
    naming: &Naming { prefixes: &["", "roberta."], ..bert::NAMING },
    heads: &[
        HeadClass {
            architectures: &[
                "RobertaForSequenceClassification",
                "XLMRobertaForSequenceClassification",
                "CamembertForSequenceClassification",
            ],
            kind: TANH_CLASSIFIER,
        },
        HeadClass {
            architectures: &["RobertaForMaskedLM", "XLMRobertaForMaskedLM", "CamembertForMaskedLM"],
            kind: HeadKind::Vocabulary(VocabularyNaming::LM_HEAD),
        },
        HeadClass {
            architectures: &[
                "RobertaForTokenClassification",
                "XLMRobertaForTokenClassification",
                "CamembertForTokenClassification",
            ],
            kind: TOKEN_CLASSIFIER,
        },
    ],
};

#[derive(Deserialize)]
struct RobertaConfig {
    #[serde(default = "one")]
    pad_token_id: usize,
    #[serde(flatten)]
    bert: BertConfig,
}

const fn one() -> usize {
    1
}
