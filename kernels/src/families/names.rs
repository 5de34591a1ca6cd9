//! What a checkpoint calls the weights that the forward pass asks for.

use std::collections::BTreeSet;

use super::FamilyError;
use crate::{
    spec::{Embeddings, EncoderSpec, Ffn, LayerSpec, Position, PositionBias},
    weights::Checkpoint,
};

/// A weight and its bias: of a linear layer or of a norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Affine {
    pub(crate) weight: String,
    pub(crate) bias: String,
}

/// The weights of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerNames {
    pub(crate) query: Affine,
    pub(crate) key: Affine,
    pub(crate) value: Affine,
    pub(crate) attention_output: Affine,
    pub(crate) attention_norm: Affine,
    pub(crate) ffn_up: Affine,
    pub(crate) ffn_down: Affine,
    pub(crate) ffn_norm: Affine,
}

/// What a family calls its weights: below one of `prefixes` (the one that holds the token table), a layer's below
/// `{layer}.{index}.`.
#[derive(Clone, Copy)]
pub(super) struct Naming {
    pub(super) prefixes: &'static [&'static str],
    pub(super) token: &'static str,
    pub(super) position: &'static str,
    pub(super) token_type: &'static str,
    pub(super) embedding_norm: &'static str,
    pub(super) embedding_projection: &'static str,
    pub(super) position_bias: &'static str,
    /// Below it the checkpoint holds nothing but what is named here.
    pub(super) stack: &'static str,
    pub(super) layer: &'static str,
    pub(super) query: &'static str,
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    pub(super) attention_output: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) ffn_up: &'static str,
    pub(super) ffn_down: &'static str,
    pub(super) ffn_norm: &'static str,
}

impl Naming {
    /// The names of the weights that the description asks for.
    pub(super) fn names(&self, checkpoint: &Checkpoint, spec: &EncoderSpec) -> WeightNames {
        let holds = |prefix: &&&str| checkpoint.contains(&format!("{prefix}{}", self.token));
        // Without the token table the check that follows names it as missing.
        let prefix = self.prefixes.iter().find(holds).copied().unwrap_or_default();
        let below = |name: &str| format!("{prefix}{name}");
        let Embeddings { width, token_types, .. } = spec.embeddings;
        WeightNames {
            token: below(self.token),
            position: below(self.position),
            token_type: token_types.map(|_| below(self.token_type)),
            embedding_norm: Affine::norm(checkpoint, &below(self.embedding_norm)),
            embedding_projection: (width != spec.hidden)
                .then(|| Affine::linear(&below(self.embedding_projection))),
            position_bias: spec.position_bias.map(|_| below(self.position_bias)),
            layers: (0..spec.layer_count())
                .map(|index| self.layer(checkpoint, &below(&format!("{}.{index}", self.layer))))
                .collect(),
            stack_prefix: below(self.stack),
        }
    }

    fn layer(&self, checkpoint: &Checkpoint, at: &str) -> LayerNames {
        let linear = |name: &str| Affine::linear(&format!("{at}.{name}"));
        let norm = |name: &str| Affine::norm(checkpoint, &format!("{at}.{name}"));
        LayerNames {
            query: linear(self.query),
            key: linear(self.key),
            value: linear(self.value),
            attention_output: linear(self.attention_output),
            attention_norm: norm(self.attention_norm),
            ffn_up: linear(self.ffn_up),
            ffn_down: linear(self.ffn_down),
            ffn_norm: norm(self.ffn_norm),
        }
    }
}

/// The weights of an encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WeightNames {
    pub(crate) token: String,
    pub(crate) position: String,
    pub(crate) token_type: Option<String>,
    pub(crate) embedding_norm: Affine,
    pub(crate) embedding_projection: Option<Affine>,
    pub(crate) position_bias: Option<String>,
    pub(crate) layers: Vec<LayerNames>,
    /// Every tensor below this prefix must be one of the names above.
    pub(crate) stack_prefix: String,
}

impl Affine {
    pub(crate) fn linear(name: &str) -> Self {
        Self { weight: format!("{name}.weight"), bias: format!("{name}.bias") }
    }

    /// Checkpoints converted from TensorFlow keep its names for the two parts of a norm.
    fn norm(checkpoint: &Checkpoint, name: &str) -> Self {
        let gamma = format!("{name}.gamma");
        if checkpoint.contains(&gamma) {
            Self { weight: gamma, bias: format!("{name}.beta") }
        } else {
            Self::linear(name)
        }
    }

    fn check(&self, checkpoint: &Checkpoint, weight: &[usize]) -> Result<(), FamilyError> {
        checkpoint.find(&self.weight, weight)?;
        checkpoint.find(&self.bias, &weight[..1])?;
        Ok(())
    }

    fn names(&self) -> [&str; 2] {
        [&self.weight, &self.bias]
    }
}

impl LayerNames {
    fn check(&self, layer: &LayerSpec, hidden: usize, checkpoint: &Checkpoint) -> Result<(), FamilyError> {
        let attention = layer.attention;
        let (query, kv) = (attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim);
        let Ffn::Mlp { intermediate, .. } = layer.ffn;
        self.query.check(checkpoint, &[query, hidden])?;
        self.key.check(checkpoint, &[kv, hidden])?;
        self.value.check(checkpoint, &[kv, hidden])?;
        self.attention_output.check(checkpoint, &[hidden, query])?;
        self.attention_norm.check(checkpoint, &[hidden])?;
        self.ffn_up.check(checkpoint, &[intermediate, hidden])?;
        self.ffn_down.check(checkpoint, &[hidden, intermediate])?;
        self.ffn_norm.check(checkpoint, &[hidden])
    }

    fn affines(&self) -> [&Affine; 8] {
        let Self { query, key, value, attention_output, attention_norm, ffn_up, ffn_down, ffn_norm } = self;
        [query, key, value, attention_output, attention_norm, ffn_up, ffn_down, ffn_norm]
    }
}

impl WeightNames {
    /// Every weight that the description needs is there with its shape, and the stack holds no other.
    pub(super) fn check(&self, spec: &EncoderSpec, checkpoint: &Checkpoint) -> Result<(), FamilyError> {
        let hidden = spec.hidden;
        let Position::Learned { rows, .. } = spec.position;
        let Embeddings { vocab, width, token_types, .. } = spec.embeddings;
        checkpoint.find(&self.token, &[vocab, width])?;
        checkpoint.find(&self.position, &[rows, width])?;
        if let (Some(name), Some(rows)) = (&self.token_type, token_types) {
            checkpoint.find(name, &[rows, width])?;
        }
        self.embedding_norm.check(checkpoint, &[width])?;
        self.embedding_projection.as_ref().map_or(Ok(()), |name| name.check(checkpoint, &[hidden, width]))?;
        if let (Some(name), Some(PositionBias::Buckets { buckets, .. })) =
            (&self.position_bias, spec.position_bias)
        {
            checkpoint.find(name, &[buckets, spec.layer(0).attention.heads])?;
        }
        for (index, layer) in self.layers.iter().enumerate() {
            layer.check(spec.layer(index), hidden, checkpoint)?;
        }
        self.check_stack(checkpoint)
    }

    /// Every tensor that is loaded.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        let tables = [Some(&self.token), Some(&self.position), self.token_type.as_ref()];
        let tables = tables.into_iter().chain([self.position_bias.as_ref()]).flatten().map(String::as_str);
        let affines = self.layers.iter().flat_map(LayerNames::affines).chain([&self.embedding_norm]);
        tables.chain(affines.chain(&self.embedding_projection).flat_map(Affine::names))
    }

    fn check_stack(&self, checkpoint: &Checkpoint) -> Result<(), FamilyError> {
        let known = self.all().collect::<BTreeSet<_>>();
        let stray =
            checkpoint.names().find(|name| name.starts_with(&self.stack_prefix) && !known.contains(name));
        match stray {
            None => Ok(()),
            Some(tensor) => Err(FamilyError::Unexplained { tensor: tensor.to_owned() }),
        }
    }
}
