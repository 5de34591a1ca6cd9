//! MPNet (Song et al. 2020): BERT without segments, with RoBERTa's positions and T5's relative ones.
//!
//! Fields and names: `transformers/models/mpnet/{configuration,modeling}_mpnet.py`. Its code fixes what its configuration
//! seems to leave open: the padding token's row of the position table, the number of buckets and their reach.

use serde::Deserialize;

use super::{
    Family, bert,
    bert::BertConfig,
    heads::{HeadClass, HeadKind, TANH_CLASSIFIER, TOKEN_CLASSIFIER, VocabularyNaming},
    names::Naming,
    post_norm::refuse,
};
use crate::spec::{Position, PositionBias};

const PADDING_ROW: usize = 1;
const BUCKETS: usize = 32;
const DISTANCE_MAX: usize = 128;

pub(super) const FAMILY: Family = Family {
    model_types: &["mpnet"],
    architectures: &["MPNetModel"],
    own_code: &[],
    spec: |config, head| {
        let MpnetConfig { relative_attention_num_buckets: buckets, bert } = super::from_value(config)?;
        if buckets != BUCKETS {
            return refuse("relative_attention_num_buckets", buckets, "32");
        }
        let position = Position::Learned { rows: bert.max_position_embeddings, offset: PADDING_ROW + 1 };
        let mut spec = bert.post_norm().spec(position, None, head)?;
        spec.position_bias = Some(PositionBias::Buckets { buckets, distance_max: DISTANCE_MAX });
        Ok(spec)
    },
    naming: &Naming {
        prefixes: &["", "mpnet."],
        query: "attention.attn.q",
        key: "attention.attn.k",
        value: "attention.attn.v",
        attention_output: "attention.attn.o",
        attention_norm: "attention.LayerNorm",
        ..bert::NAMING
    },
    heads: &[
        HeadClass {
            architectures: &["MPNetForMaskedLM"],
            kind: HeadKind::Vocabulary(VocabularyNaming::LM_HEAD),
        },
        HeadClass { architectures: &["MPNetForSequenceClassification"], kind: TANH_CLASSIFIER },
        HeadClass { architectures: &["MPNetForTokenClassification"], kind: TOKEN_CLASSIFIER },
    ],
};

#[derive(Deserialize)]
struct MpnetConfig {
    #[serde(default = "buckets")]
    relative_attention_num_buckets: usize,
    #[serde(flatten)]
    bert: BertConfig,
}

const fn buckets() -> usize {
    BUCKETS
}
