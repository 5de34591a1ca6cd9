//! The heads that `transformers` puts behind an encoder, one class each, as a family calls their tensors.

use std::collections::BTreeSet;

use super::{Affine, FamilyError};
use crate::{
    spec::{Activation, HeadModule, PooledHead, Pooling, Poolings, TokenHead},
    weights::Checkpoint,
};

/// Classes that are called differently and share their head.
pub(super) struct HeadClass {
    /// As in `config.json`.
    pub(super) architectures: &'static [&'static str],
    pub(super) kind: HeadKind,
}

/// What a class answers, and by which layers; the last of them has one output a label.
pub(super) enum HeadKind {
    /// From a pooled sequence.
    Sequence(Pooling, &'static [HeadLayer]),
    /// From each token.
    Token(&'static [HeadLayer]),
}

/// A linear layer with a bias.
#[derive(Clone, Copy)]
pub(super) struct HeadLayer {
    /// Below the prefix of the encoder's own tensors, or at the checkpoint's root.
    in_encoder: bool,
    name: &'static str,
    activation: Activation,
    outputs: Outputs,
}

#[derive(Clone, Copy)]
enum Outputs {
    /// As many as the encoder is wide.
    Hidden,
    Labels,
}

impl HeadLayer {
    /// As wide as the encoder.
    pub(super) const fn hidden(name: &'static str, activation: Activation) -> Self {
        Self { in_encoder: false, name, activation, outputs: Outputs::Hidden }
    }

    /// One output a label.
    pub(super) const fn labels(name: &'static str) -> Self {
        Self { in_encoder: false, name, activation: Activation::Identity, outputs: Outputs::Labels }
    }

    /// The same, saved as a part of the encoder.
    pub(super) const fn in_encoder(self) -> Self {
        Self { in_encoder: true, ..self }
    }
}

/// One layer on each token: nearly every `…ForTokenClassification`.
pub(super) const TOKEN_CLASSIFIER: HeadKind = HeadKind::Token(&[HeadLayer::labels("classifier")]);

/// Two layers on the first token with `tanh` between them: RoBERTa, and those that follow it.
pub(super) const TANH_CLASSIFIER: HeadKind = HeadKind::Sequence(
    Pooling::Cls,
    &[HeadLayer::hidden("classifier.dense", Activation::Tanh), HeadLayer::labels("classifier.out_proj")],
);

/// A head with the names of its weights, one for each module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NamedHead {
    /// Logits of labels per sequence.
    Sequence(PooledHead, Vec<Affine>),
    /// Logits of labels per token.
    Token(TokenHead, Vec<Affine>),
}

/// The sizes that a head is made for, and where its encoder's tensors lie.
pub(crate) struct HeadSizes<'a> {
    pub(crate) hidden: usize,
    pub(crate) labels: usize,
    pub(crate) encoder_prefix: &'a str,
}

impl HeadKind {
    /// The head with its weights checked: all there with their shapes, and no others beside them.
    pub(super) fn named(
        &self,
        sizes: &HeadSizes<'_>,
        checkpoint: &Checkpoint,
    ) -> Result<NamedHead, FamilyError> {
        let layers = match *self {
            Self::Sequence(_, layers) | Self::Token(layers) => layers,
        };
        let (mut modules, mut names) = (Vec::new(), Vec::new());
        let mut inputs = sizes.hidden;
        for layer in layers {
            let outputs = match layer.outputs {
                Outputs::Hidden => sizes.hidden,
                Outputs::Labels => sizes.labels,
            };
            let name = Affine::linear(&format!("{}{}", layer.prefix(sizes), layer.name));
            checkpoint.find(&name.weight, &[outputs, inputs])?;
            checkpoint.find(&name.bias, &[outputs])?;
            names.push(name);
            modules.push(HeadModule::Dense { outputs, bias: true, activation: layer.activation });
            inputs = outputs;
        }
        refuse_others(layers, sizes, &names, checkpoint)?;
        Ok(match *self {
            Self::Sequence(pooling, _) => {
                NamedHead::Sequence(PooledHead { poolings: Poolings(vec![pooling]), modules }, names)
            }
            Self::Token(_) => NamedHead::Token(TokenHead { modules }, names),
        })
    }
}

impl HeadLayer {
    fn prefix<'a>(&self, sizes: &HeadSizes<'a>) -> &'a str {
        if self.in_encoder { sizes.encoder_prefix } else { "" }
    }
}

/// A tensor that stands beside those of the head would change the answers if it were used.
fn refuse_others(
    layers: &[HeadLayer],
    sizes: &HeadSizes<'_>,
    names: &[Affine],
    checkpoint: &Checkpoint,
) -> Result<(), FamilyError> {
    let known: BTreeSet<_> = names.iter().flat_map(|name| [name.weight.as_str(), &name.bias]).collect();
    let groups = layers.iter().map(|layer| {
        let group = layer.name.split('.').next().unwrap_or(layer.name);
        format!("{}{group}.", layer.prefix(sizes))
    });
    let groups: BTreeSet<_> = groups.collect();
    let in_group = |name: &str| groups.iter().any(|group| name.starts_with(group));
    match checkpoint.names().find(|name| in_group(name) && !known.contains(name)) {
        None => Ok(()),
        Some(tensor) => Err(FamilyError::Unexplained { tensor: tensor.to_owned() }),
    }
}
