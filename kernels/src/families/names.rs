//! What a checkpoint calls the weights that the forward pass asks for.

use std::{collections::BTreeSet, ops::Range};

use super::FamilyError;
use crate::{
    spec::{
        Attention, Disentangled, Embeddings, EncoderSpec, Ffn, Gate, LayerSpec, Norm, NormPlacement,
        PositionBias, QkvLayout,
    },
    weights::Checkpoint,
};

/// What a family calls its weights: below one of `prefixes` (the one that holds the token table), a layer's below
/// `{layer}.{index}.`. A name that the family's descriptions never ask for is empty.
#[derive(Clone, Copy)]
pub(super) struct Naming {
    pub(super) prefixes: &'static [&'static str],
    /// What follows the name of a linear layer for its matrix.
    pub(super) matrix: &'static str,
    pub(super) token: &'static str,
    pub(super) position: &'static str,
    pub(super) token_type: &'static str,
    pub(super) embedding_norm: &'static str,
    pub(super) embedding_projection: &'static str,
    pub(super) position_bias: &'static str,
    /// Of relative positions that contents are compared with.
    pub(super) relative_table: &'static str,
    pub(super) relative_norm: &'static str,
    pub(super) final_norm: &'static str,
    /// Below it the checkpoint holds nothing but what is named here.
    pub(super) stack: &'static str,
    /// Endings of tensors below it that are no weights: the forward pass makes them itself.
    pub(super) made: &'static [&'static str],
    pub(super) layer: &'static str,
    pub(super) query: &'static str,
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    /// All three in one.
    pub(super) qkv: &'static str,
    pub(super) query_norm: &'static str,
    pub(super) key_norm: &'static str,
    /// What relative positions go through before queries meet them, and keys.
    pub(super) position_key: &'static str,
    pub(super) position_query: &'static str,
    pub(super) attention_output: &'static str,
    pub(super) attention_norm: &'static str,
    /// The second one of a sandwich.
    pub(super) attention_post_norm: &'static str,
    pub(super) ffn_gate: &'static str,
    /// Alone, or with the gate in one.
    pub(super) ffn_up: &'static str,
    pub(super) ffn_down: &'static str,
    pub(super) ffn_norm: &'static str,
    /// The second one of a sandwich.
    pub(super) ffn_post_norm: &'static str,
}

/// A weight and its bias, of a module that lies outside of the encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Affine {
    pub(crate) weight: String,
    pub(crate) bias: String,
}

impl Affine {
    pub(crate) fn linear(name: &str) -> Self {
        Self { weight: format!("{name}.weight"), bias: format!("{name}.bias") }
    }
}

/// A tensor of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
}

/// A linear layer, or some rows of one, with as many elements of its bias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinearNames {
    /// `[outputs, inputs]`.
    pub(crate) weight: Stored,
    pub(crate) bias: Option<Stored>,
    pub(crate) rows: Range<usize>,
}

/// The weight and the bias of a norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NormNames {
    pub(crate) weight: Stored,
    pub(crate) bias: Option<Stored>,
}

/// The weights of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerNames {
    /// Queries, keys and values.
    pub(crate) qkv: [LinearNames; 3],
    pub(crate) query_norm: Option<NormNames>,
    pub(crate) key_norm: Option<NormNames>,
    /// What relative positions go through before queries meet them; may be that of the keys.
    pub(crate) position_key: Option<LinearNames>,
    /// The same before keys meet them; may be that of the queries.
    pub(crate) position_query: Option<LinearNames>,
    pub(crate) attention_output: LinearNames,
    pub(crate) attention_norm: Option<NormNames>,
    pub(crate) attention_post_norm: Option<NormNames>,
    /// The upward projection, behind its gate where there is one.
    pub(crate) ffn_up: Vec<LinearNames>,
    pub(crate) ffn_down: LinearNames,
    pub(crate) ffn_norm: Option<NormNames>,
    pub(crate) ffn_post_norm: Option<NormNames>,
}

/// The weights of an encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WeightNames {
    pub(crate) token: Stored,
    pub(crate) position: Option<Stored>,
    pub(crate) token_type: Option<Stored>,
    pub(crate) embedding_norm: Option<NormNames>,
    pub(crate) embedding_projection: Option<LinearNames>,
    pub(crate) position_bias: Option<Stored>,
    /// Of relative positions that contents are compared with, and its norm.
    pub(crate) relative: Option<(Stored, Option<NormNames>)>,
    pub(crate) layers: Vec<LayerNames>,
    pub(crate) final_norm: Option<NormNames>,
    /// Of the encoder's own tensors.
    pub(crate) prefix: String,
}

impl Naming {
    /// Nothing has a name.
    pub(super) const NONE: Self = Self {
        prefixes: &[""],
        matrix: "weight",
        token: "",
        position: "",
        token_type: "",
        embedding_norm: "",
        embedding_projection: "",
        position_bias: "",
        relative_table: "",
        relative_norm: "",
        final_norm: "",
        stack: "",
        made: &[],
        layer: "",
        query: "",
        key: "",
        value: "",
        qkv: "",
        query_norm: "",
        key_norm: "",
        position_key: "",
        position_query: "",
        attention_output: "",
        attention_norm: "",
        attention_post_norm: "",
        ffn_gate: "",
        ffn_up: "",
        ffn_down: "",
        ffn_norm: "",
        ffn_post_norm: "",
    };

    /// Whether the checkpoint calls its tables and its first layer so.
    pub(super) fn is_of(&self, checkpoint: &Checkpoint, root: &str) -> bool {
        let Self { token, layer, attention_output, matrix, .. } = self;
        let first = format!("{layer}.0.{attention_output}.{matrix}");
        let holds = |prefix: &&str, name: &str| checkpoint.contains(&format!("{root}{prefix}{name}"));
        self.prefixes.iter().any(|prefix| holds(prefix, token) && holds(prefix, &first))
    }

    /// The names of the weights that the description asks for: each is there with its shape, and the stack holds no
    /// other.
    pub(super) fn names(
        &self,
        (checkpoint, root): (&Checkpoint, &str),
        spec: &EncoderSpec,
    ) -> Result<WeightNames, FamilyError> {
        let holds = |prefix: &&&str| checkpoint.contains(&format!("{root}{prefix}{}", self.token));
        // Without the token table the check that follows names it as missing.
        let prefix = format!("{root}{}", self.prefixes.iter().find(holds).copied().unwrap_or_default());
        let names = self.below(&prefix, checkpoint, spec);
        for Stored { name, shape } in names.all() {
            checkpoint.find(name, shape)?;
        }
        let known = names.all().map(|stored| stored.name.as_str()).collect::<BTreeSet<_>>();
        let stack = format!("{prefix}{}", self.stack);
        let is_stray = |name: &&str| {
            name.starts_with(&stack)
                && !known.contains(name)
                && !self.made.iter().any(|ending| name.ends_with(ending))
        };
        match checkpoint.names().find(is_stray) {
            None => Ok(names),
            Some(tensor) => Err(FamilyError::Unexplained { tensor: tensor.to_owned() }),
        }
    }

    fn below(&self, prefix: &str, checkpoint: &Checkpoint, spec: &EncoderSpec) -> WeightNames {
        let Embeddings { vocab, width, token_types, norm, .. } = spec.embeddings;
        let hidden = spec.hidden;
        let below = |name: &str| format!("{prefix}{name}");
        let table = |name: &str, rows| Stored { name: below(name), shape: vec![rows, width] };
        let rows = spec.position.table_rows();
        let norm_of = |name: &str, width, norm: Option<Norm>| {
            norm.map(|norm| NormNames::new(checkpoint, &below(name), width, norm))
        };
        let position_bias = match spec.position_bias {
            Some(PositionBias::Buckets { buckets, .. }) => {
                let shape = vec![buckets, spec.layer(0).attention.heads];
                Some(Stored { name: below(self.position_bias), shape })
            }
            Some(PositionBias::Alibi) | None => None,
        };
        let layer = |(index, layer)| {
            let at = below(&format!("{}.{index}", self.layer));
            LayerNaming { naming: self, checkpoint, at, layer, disentangled: spec.disentangled, hidden }
                .names()
        };
        WeightNames {
            token: table(self.token, vocab),
            position: (rows > 0).then(|| table(self.position, rows)),
            token_type: token_types.map(|rows| table(self.token_type, rows)),
            embedding_norm: norm_of(self.embedding_norm, width, norm),
            embedding_projection: (width != hidden).then(|| {
                LinearNames::new(&below(self.embedding_projection), self.matrix, [hidden, width], true)
            }),
            position_bias,
            relative: spec.disentangled.map(|Disentangled { span, norm, .. }| {
                let table = Stored { name: below(self.relative_table), shape: vec![2 * span, hidden] };
                (table, norm_of(self.relative_norm, hidden, norm))
            }),
            layers: spec.each_layer().enumerate().map(layer).collect(),
            final_norm: norm_of(self.final_norm, hidden, spec.final_norm),
            prefix: prefix.to_owned(),
        }
    }
}

/// One block on its way to its names.
struct LayerNaming<'a> {
    naming: &'a Naming,
    checkpoint: &'a Checkpoint,
    at: String,
    layer: &'a LayerSpec,
    disentangled: Option<Disentangled>,
    hidden: usize,
}

impl LayerNaming<'_> {
    fn names(&self) -> LayerNames {
        let (naming, hidden) = (self.naming, self.hidden);
        let LayerSpec { placement, attention_norm, attention, ffn_norm, ffn } = self.layer;
        let second = |norm: Option<Norm>| norm.filter(|_| *placement == NormPlacement::Sandwich);
        let Attention { head_dim, qk_norm, output_bias, .. } = *attention;
        let query = attention.widths().0;
        let qkv = self.qkv();
        let [position_query, position_key] = self.positions(&qkv);
        LayerNames {
            query_norm: self.norm(naming.query_norm, head_dim, qk_norm),
            key_norm: self.norm(naming.key_norm, head_dim, qk_norm),
            position_key,
            position_query,
            qkv,
            attention_output: self.linear(naming.attention_output, [hidden, query], output_bias),
            attention_norm: self.norm(naming.attention_norm, hidden, *attention_norm),
            attention_post_norm: self.norm(naming.attention_post_norm, hidden, second(*attention_norm)),
            ffn_up: self.ffn_up(),
            ffn_down: self.linear(naming.ffn_down, [hidden, ffn.intermediate], ffn.down_bias),
            ffn_norm: self.norm(naming.ffn_norm, hidden, *ffn_norm),
            ffn_post_norm: self.norm(naming.ffn_post_norm, hidden, second(*ffn_norm)),
        }
    }

    fn qkv(&self) -> [LinearNames; 3] {
        let Naming { query, key, value, qkv, .. } = *self.naming;
        let Attention { qkv: layout, qkv_bias, .. } = self.layer.attention;
        let (width, kv) = self.layer.attention.widths();
        match layout {
            QkvLayout::Split => [(query, width), (key, kv), (value, kv)]
                .map(|(name, outputs)| self.linear(name, [outputs, self.hidden], qkv_bias)),
            QkvLayout::Fused => [0..width, width..width + kv, width + kv..width + 2 * kv]
                .map(|rows| self.linear(qkv, [width + 2 * kv, self.hidden], qkv_bias).rows(rows)),
        }
    }

    /// What relative positions go through before keys meet them, and before queries do.
    fn positions(&self, [query, key, _]: &[LinearNames; 3]) -> [Option<LinearNames>; 2] {
        let Some(relative) = self.disentangled else { return [None, None] };
        let Naming { position_query, position_key, .. } = *self.naming;
        let terms = [
            (relative.position_to_content, query, position_query),
            (relative.content_to_position, key, position_key),
        ];
        terms.map(|(used, content, own)| {
            used.then(|| match relative.shares_projections {
                true => content.clone(),
                false => self.linear(own, [content.rows.len(), self.hidden], true),
            })
        })
    }

    fn ffn_up(&self) -> Vec<LinearNames> {
        let Naming { ffn_gate, ffn_up, .. } = *self.naming;
        let Ffn { intermediate, gate, up_bias, .. } = self.layer.ffn;
        let one = |name| self.linear(name, [intermediate, self.hidden], up_bias);
        let half = |start| {
            let both = self.linear(ffn_up, [2 * intermediate, self.hidden], up_bias);
            both.rows(start..start + intermediate)
        };
        match gate {
            None => vec![one(ffn_up)],
            Some(Gate::Split) => vec![one(ffn_gate), one(ffn_up)],
            Some(Gate::GateUp) => vec![half(0), half(intermediate)],
            Some(Gate::UpGate) => vec![half(intermediate), half(0)],
        }
    }

    fn linear(&self, name: &str, shape: [usize; 2], bias: bool) -> LinearNames {
        LinearNames::new(&format!("{}.{name}", self.at), self.naming.matrix, shape, bias)
    }

    fn norm(&self, name: &str, width: usize, norm: Option<Norm>) -> Option<NormNames> {
        norm.map(|norm| NormNames::new(self.checkpoint, &format!("{}.{name}", self.at), width, norm))
    }
}

impl LinearNames {
    /// All rows of `{name}.{matrix} [outputs, inputs]`.
    fn new(name: &str, matrix: &str, [outputs, inputs]: [usize; 2], bias: bool) -> Self {
        Self {
            weight: Stored { name: format!("{name}.{matrix}"), shape: vec![outputs, inputs] },
            bias: bias.then(|| Stored { name: format!("{name}.bias"), shape: vec![outputs] }),
            rows: 0..outputs,
        }
    }

    fn rows(self, rows: Range<usize>) -> Self {
        Self { rows, ..self }
    }

    fn stored(&self) -> impl Iterator<Item = &Stored> {
        [&self.weight].into_iter().chain(&self.bias)
    }
}

impl NormNames {
    /// Checkpoints converted from TensorFlow keep its names for the two parts of a norm.
    pub(super) fn new(checkpoint: &Checkpoint, name: &str, width: usize, norm: Norm) -> Self {
        let [old, new] = [["gamma", "beta"], ["weight", "bias"]]
            .map(|parts| parts.map(|part| Stored { name: format!("{name}.{part}"), shape: vec![width] }));
        let [weight, bias] = if checkpoint.contains(&old[0].name) { old } else { new };
        let has_bias = matches!(norm, Norm::LayerNorm { bias: true, .. });
        Self { weight, bias: has_bias.then_some(bias) }
    }

    /// The names alone.
    pub(super) fn affine(self) -> Affine {
        let bias = self.bias.map(|bias| bias.name).unwrap_or_default();
        Affine { weight: self.weight.name, bias }
    }

    fn stored(&self) -> impl Iterator<Item = &Stored> {
        [&self.weight].into_iter().chain(&self.bias)
    }
}

impl LayerNames {
    fn stored(&self) -> impl Iterator<Item = &Stored> {
        let norms = [&self.attention_norm, &self.attention_post_norm, &self.ffn_norm, &self.ffn_post_norm];
        let norms = norms.into_iter().chain([&self.query_norm, &self.key_norm]).flatten();
        let positions = [&self.position_key, &self.position_query].into_iter().flatten();
        let linears = self.qkv.iter().chain(&self.ffn_up).chain([&self.attention_output, &self.ffn_down]);
        let linears = linears.chain(positions);
        linears.flat_map(LinearNames::stored).chain(norms.flat_map(NormNames::stored))
    }
}

impl WeightNames {
    /// Every tensor that is loaded; one that several layers take rows of as often as they do.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Stored> {
        let tables = [&self.position, &self.token_type, &self.position_bias].into_iter().flatten();
        let tables = tables.chain(self.relative.iter().map(|(table, _)| table));
        let relative_norm = self.relative.iter().flat_map(|(_, norm)| norm);
        let norms = [&self.embedding_norm, &self.final_norm].into_iter().flatten().chain(relative_norm);
        [&self.token]
            .into_iter()
            .chain(tables)
            .chain(norms.flat_map(NormNames::stored))
            .chain(self.embedding_projection.iter().flat_map(LinearNames::stored))
            .chain(self.layers.iter().flat_map(LayerNames::stored))
    }
}
