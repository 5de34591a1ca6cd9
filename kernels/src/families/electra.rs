//! ELECTRA (Clark et al. 2020): BERT whose tables may be narrower than its blocks; generators and discriminators alike.
//!
//! Fields and names: `transformers/models/electra/{configuration,modeling}_electra.py`.

use serde::Deserialize;

use super::{
    Family, bert,
    bert::BertConfig,
    heads::{HeadClass, HeadKind, HeadLayer, TOKEN_CLASSIFIER, VocabularyNaming},
    names::Naming,
};
use crate::spec::{Activation, Pooling, Position};

pub(super) const FAMILY: Family = Family {
    model_types: &["electra"],
    architectures: &["ElectraModel", "ElectraForPreTraining"],
    own_code: &[],
    spec: |config, head| {
        let ElectraConfig { embedding_size, bert } = super::from_value(config)?;
        let position = Position::Learned { rows: bert.max_position_embeddings, offset: 0 };
        let mut spec = bert.spec(position, head)?;
        spec.embeddings.width = embedding_size;
        Ok(spec)
    },
    naming: &Naming { prefixes: &["", "electra."], ..bert::NAMING },
    heads: &[
        HeadClass {
            architectures: &["ElectraForSequenceClassification"],
            kind: HeadKind::Sequence(
                Pooling::Cls,
                &[
                    HeadLayer::hidden("classifier.dense", Activation::GeluErf),
                    HeadLayer::labels("classifier.out_proj"),
                ],
            ),
        },
        HeadClass {
            architectures: &["ElectraForMaskedLM"],
            kind: HeadKind::Vocabulary(VocabularyNaming {
                dense: "generator_predictions.dense",
                dense_bias: true,
                norm: "generator_predictions.LayerNorm",
                activation: Some(Activation::GeluErf),
                table: "generator_lm_head.weight",
                bias: "generator_lm_head.bias",
            }),
        },
        HeadClass { architectures: &["ElectraForTokenClassification"], kind: TOKEN_CLASSIFIER },
    ],
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
