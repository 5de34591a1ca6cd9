//! What a checkpoint calls the weights that the forward pass asks for.

use std::collections::BTreeSet;

use super::FamilyError;
use crate::{
    spec::{EncoderSpec, Ffn, LayerSpec, Position},
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

/// The weights of an encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WeightNames {
    pub(crate) token: String,
    pub(crate) position: String,
    pub(crate) token_type: String,
    pub(crate) embedding_norm: Affine,
    pub(crate) layers: Vec<LayerNames>,
    /// Every tensor below this prefix must be one of the names above.
    pub(crate) stack_prefix: String,
}

impl Affine {
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
        checkpoint.find(&self.token, &[spec.embeddings.vocab, hidden])?;
        checkpoint.find(&self.position, &[rows, hidden])?;
        checkpoint.find(&self.token_type, &[spec.embeddings.token_types, hidden])?;
        self.embedding_norm.check(checkpoint, &[hidden])?;
        for (index, layer) in self.layers.iter().enumerate() {
            layer.check(spec.layer(index), hidden, checkpoint)?;
        }
        self.check_stack(checkpoint)
    }

    /// Every tensor that is loaded.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        let tables = [&self.token, &self.position, &self.token_type].map(String::as_str);
        let affines = self.layers.iter().flat_map(LayerNames::affines).chain([&self.embedding_norm]);
        tables.into_iter().chain(affines.flat_map(Affine::names))
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
