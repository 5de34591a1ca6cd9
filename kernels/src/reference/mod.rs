//! Every op in f64, written for clarity: what the kernels are tested against.
//!
//! Operands are contiguous and row-major. Sizes are the caller's duty: a wrong one panics.

use crate::cpu::{Activation, AttentionShape, Mask, Pooling, WordPooling, WordWeights};

mod special;

pub use special::{erf, normal_cdf};

/// `x W^T + b` for `x [rows, inputs]`, `weights [outputs, inputs]`, `bias [outputs]`.
pub fn linear(x: &[f64], weights: &[f64], bias: &[f64]) -> Vec<f64> {
    let inputs = weights.len() / bias.len();
    let dot = |row: &[f64], column: &[f64]| row.iter().zip(column).map(|(a, b)| a * b).sum::<f64>();
    let outputs =
        |row| weights.chunks_exact(inputs).zip(bias).map(move |(column, bias)| dot(row, column) + bias);
    x.chunks_exact(inputs).flat_map(outputs).collect()
}

/// One activation function.
pub fn activate(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Identity => x,
        Activation::GeluErf => x * normal_cdf(x),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Silu => x * sigmoid(x),
        Activation::Relu => x.max(0.0),
        Activation::Tanh => x.tanh(),
    }
}

/// One direction of an LSTM over the rows of one sequence `x [rows, inputs]`, in the order in which they are given: weights
/// `[4 half, inputs]` with their bias, and `[4 half, half]`, whose gates stand below each other in PyTorch's order.
pub fn lstm(x: &[f64], input: (&[f64], &[f64]), recurrent: &[f64]) -> Vec<f64> {
    let (weights, bias) = input;
    let (half, inputs) = (bias.len() / 4, weights.len() / bias.len());
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let (mut hidden, mut cell, mut out) = (vec![0.0; half], vec![0.0; half], Vec::new());
    for row in x.chunks_exact(inputs) {
        let of_state = linear(&hidden, recurrent, &vec![0.0; 4 * half]);
        let gates: Vec<f64> = linear(row, weights, bias).iter().zip(&of_state).map(|(a, b)| a + b).collect();
        for (unit, (cell, hidden)) in cell.iter_mut().zip(&mut hidden).enumerate() {
            let gate = |gate: usize| gates[gate * half + unit];
            *cell = sigmoid(gate(1)) * *cell + sigmoid(gate(0)) * gate(2).tanh();
            *hidden = sigmoid(gate(3)) * cell.tanh();
        }
        out.extend_from_slice(&hidden);
    }
    out
}

/// The logit of each label `[labels, inner]`, with its bias, for the span whose first word has the row `start [inner]` and
/// whose last one has `end [inner]`.
pub fn span_logits(start: &[f64], end: &[f64], labels: &[f64], biases: &[f64]) -> Vec<f64> {
    let inner: Vec<f64> = start.iter().zip(end).map(|(start, end)| (start + end).max(0.0)).collect();
    linear(&inner, labels, biases)
}

/// Layer normalisation of each row of `x [rows, dims]`.
pub fn layer_norm(x: &[f64], gamma: &[f64], beta: &[f64], epsilon: f64) -> Vec<f64> {
    let dims = gamma.len() as f64;
    let normalise = |row: &[f64]| {
        let mean = row.iter().sum::<f64>() / dims;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / dims;
        let scale = 1.0 / (variance + epsilon).sqrt();
        let parameters = gamma.iter().zip(beta);
        row.iter().zip(parameters).map(|(v, (g, b))| (v - mean) * scale * g + b).collect::<Vec<_>>()
    };
    x.chunks_exact(gamma.len()).flat_map(normalise).collect()
}

/// The sum of the rows that each token looks up; each table is `[rows, dims]` with the ids of all tokens.
pub fn embed(dims: usize, tables: &[(&[f64], &[u32])]) -> Vec<f64> {
    let tokens = tables.first().map_or(0, |(_, ids)| ids.len());
    let value = |token: usize, dim: usize| {
        tables.iter().map(|(rows, ids)| rows[ids[token] as usize * dims + dim]).sum()
    };
    (0..tokens * dims).map(|index| value(index / dims, index % dims)).collect()
}

/// Attention for `q [tokens_q, heads * head_dim]`, `k` and `v` `[tokens_k, kv_heads * head_dim]`.
pub fn attention(
    shape: &AttentionShape,
    qkv: (&[f64], &[f64], &[f64]),
    cu_seqlens_q: &[u32],
    cu_seqlens_k: &[u32],
) -> Vec<f64> {
    let sees = |distance: i64| match shape.mask {
        Mask::Bidirectional => true,
        Mask::Causal => distance <= 0,
        Mask::Window { left, right } => {
            distance.unsigned_abs() <= if distance < 0 { left as u64 } else { right as u64 }
        }
    };
    attention_where(shape, qkv, cu_seqlens_q, cu_seqlens_k, |_, distance| sees(distance).then_some(0.0))
}

/// Attention where `look(head, distance)` says what is added to the score of a key at this distance from the query's
/// position, or that it is not seen. The last query of a sequence stands at its last key. A query that sees nothing gives
/// zeros. The mask of `shape` is not used.
pub fn attention_where(
    shape: &AttentionShape,
    (q, k, v): (&[f64], &[f64], &[f64]),
    cu_seqlens_q: &[u32],
    cu_seqlens_k: &[u32],
    look: impl Fn(usize, i64) -> Option<f64>,
) -> Vec<f64> {
    let look = |head, _, _, distance| look(head, distance);
    attend(shape, (q, k, v), cu_seqlens_q, cu_seqlens_k, look)
}

/// Disentangled attention (He et al. 2021): each query sees its sequence, and its score with a key has beside `q k` the terms
/// `q K[b]` and `k Q[b]`, all scaled alike. `tables` are `K` and `Q`, `[2 span, heads * head_dim]`, empty where there is no
/// such term; `b` is the row for the distance (see [`relative_row`]).
pub fn disentangled_attention(
    shape: &AttentionShape,
    (q, k, v): (&[f64], &[f64], &[f64]),
    cu_seqlens: &[u32],
    [keys, queries]: [&[f64]; 2],
    distance_max: usize,
) -> Vec<f64> {
    let AttentionShape { heads, head_dim, scale, .. } = *shape;
    let width = heads * head_dim;
    let span = keys.len().max(queries.len()) / width / 2;
    let term = |head: usize, content: &[f64], token: u32, table: &[f64], distance: i64| {
        let row = relative_row(distance, span, distance_max) * width + head * head_dim;
        let content = &content[token as usize * width + head * head_dim..][..head_dim];
        if table.is_empty() { 0.0 } else { content.iter().zip(&table[row..]).map(|(a, b)| a * b).sum() }
    };
    let look = |head, query, key, distance: i64| {
        let [of_query, of_key] = [(q, query, keys), (k, key, queries)]
            .map(|(content, token, table)| term(head, content, token, table, -distance));
        Some(f64::from(scale) * (of_query + of_key))
    };
    attend(shape, (q, k, v), cu_seqlens, cu_seqlens, look)
}

/// The row of a table `[2 span]` for a query that stands `distance` behind its key: `span / 2` distances of each direction
/// have rows of their own, the others share `span / 2 - 1` that grow by a factor up to `distance_max - 1`, and the outermost.
pub fn relative_row(distance: i64, span: usize, distance_max: usize) -> usize {
    let middle = (span / 2) as f64;
    let far = distance.abs() as f64;
    let reach = ((distance_max - 1) as f64 / middle).ln();
    let wide = ((far / middle).ln() / reach * (middle - 1.0)).ceil() + middle;
    let bucket = if far <= middle { far } else { wide } * distance.signum() as f64;
    (bucket + span as f64).clamp(0.0, (2 * span - 1) as f64) as usize
}

/// Attention where `look(head, query, key, distance)` says what is added to a score, or that the key is not seen.
fn attend(
    shape: &AttentionShape,
    (q, k, v): (&[f64], &[f64], &[f64]),
    cu_seqlens_q: &[u32],
    cu_seqlens_k: &[u32],
    look: impl Fn(usize, u32, u32, i64) -> Option<f64>,
) -> Vec<f64> {
    let AttentionShape { heads, kv_heads, head_dim, scale, .. } = *shape;
    let range_of = |width: usize, token: u32, head: usize| {
        let start = token as usize * width + head * head_dim;
        start..start + head_dim
    };
    let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let mut out = vec![0.0; q.len()];
    for (lengths_q, lengths_k) in cu_seqlens_q.windows(2).zip(cu_seqlens_k.windows(2)) {
        let shift = i64::from(lengths_k[1] - lengths_k[0]) - i64::from(lengths_q[1] - lengths_q[0]);
        for (token, head) in (lengths_q[0]..lengths_q[1]).flat_map(|t| (0..heads).map(move |h| (t, h))) {
            let kv_head = head / (heads / kv_heads);
            let query = &q[range_of(width, token, head)];
            let position = i64::from(token - lengths_q[0]) + shift;
            let score = |key: u32| {
                let bias = look(head, token, key, i64::from(key - lengths_k[0]) - position)?;
                let row = &k[range_of(kv_width, key, kv_head)];
                let product: f64 = query.iter().zip(row).map(|(a, b)| a * b).sum();
                Some((key, f64::from(scale) * product + bias))
            };
            let (keys, scores): (Vec<u32>, Vec<f64>) = (lengths_k[0]..lengths_k[1]).filter_map(score).unzip();
            for (key, weight) in keys.into_iter().zip(softmax(&scores)) {
                let value = &v[range_of(kv_width, key, kv_head)];
                let sums = out[range_of(width, token, head)].iter_mut();
                sums.zip(value).for_each(|(sum, value)| *sum += weight * value);
            }
        }
    }
    out
}

/// The softmax of one row.
pub fn softmax(scores: &[f64]) -> Vec<f64> {
    let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - maximum).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// One sequence's rows `[tokens, dims]` pooled to `[dims]`; zeros for no tokens.
pub fn pool(pooling: Pooling, dims: usize, rows: &[f64]) -> Vec<f64> {
    let tokens = rows.len() / dims;
    if tokens == 0 {
        return vec![0.0; dims];
    }
    let column = |dim: usize| rows.iter().skip(dim).step_by(dims).copied();
    let count = tokens as f64;
    let one = |dim: usize| match pooling {
        Pooling::Cls => rows[dim],
        Pooling::Last => rows[(tokens - 1) * dims + dim],
        Pooling::Max => column(dim).fold(f64::NEG_INFINITY, f64::max),
        Pooling::Mean => column(dim).sum::<f64>() / count,
        Pooling::MeanSqrtLen => column(dim).sum::<f64>() / count.sqrt(),
        Pooling::WeightedMean => {
            let weighted: f64 = column(dim).enumerate().map(|(index, v)| (index + 1) as f64 * v).sum();
            weighted / (count * (count + 1.0) / 2.0)
        }
    };
    (0..dims).map(one).collect()
}

/// RMS normalisation of each row of `x [rows, dims]` (Zhang and Sennrich 2019).
pub fn rms_norm(x: &[f64], gamma: &[f64], epsilon: f64) -> Vec<f64> {
    let normalise = |row: &[f64]| {
        let square = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
        row.iter().zip(gamma).map(|(v, g)| v / (square + epsilon).sqrt() * g).collect::<Vec<_>>()
    };
    x.chunks_exact(gamma.len()).flat_map(normalise).collect()
}

/// Rotary positions (Su et al. 2021) of `x [tokens, heads * head_dim]`: with frequency `i`, element `i` of each head turns
/// with the one as many elements further as there are frequencies.
pub fn rope(head_dim: usize, frequencies: &[f64], positions: &[u32], x: &[f64]) -> Vec<f64> {
    let half = frequencies.len();
    let mut out = x.to_vec();
    let width = x.len() / positions.len();
    for (row, &position) in out.chunks_exact_mut(width).zip(positions) {
        for head in row.chunks_exact_mut(head_dim) {
            for (index, frequency) in frequencies.iter().enumerate() {
                let (sine, cosine) = (f64::from(position) * frequency).sin_cos();
                let (first, second) = (head[index], head[half + index]);
                head[index] = first * cosine - second * sine;
                head[half + index] = second * cosine + first * sine;
            }
        }
    }
    out
}

/// Each row of `x [rows, dims]` divided by its length, which is at least 1e-12.
pub fn l2_normalise(dims: usize, x: &[f64]) -> Vec<f64> {
    let unit = |row: &[f64]| {
        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
        row.iter().map(|v| v / length).collect::<Vec<_>>()
    };
    x.chunks_exact(dims).flat_map(unit).collect()
}

/// A sequence's weights of words from its tokens' logits `[tokens, words]`: `ln(1 + max(x, 0))`, as many times as told,
/// summed or the greatest over the tokens.
pub fn word_weights(weights: WordWeights, words: usize, logits: &[f64]) -> Vec<f64> {
    let weight = |logit: f64| (0..weights.logarithms).fold(logit.max(0.0), |weight, _| weight.ln_1p());
    let of_word = |word: usize| logits.iter().skip(word).step_by(words).copied().map(weight);
    let pool = |word| match weights.pooling {
        WordPooling::Max => of_word(word).fold(0.0, f64::max),
        WordPooling::Sum => of_word(word).sum(),
    };
    (0..words).map(pool).collect()
}

/// The sum over the rows of `query` of the greatest dot product with a row of `document`; 0 without one.
pub fn max_sim(dims: usize, query: &[f64], document: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let greatest = |row: &[f64]| document.chunks_exact(dims).map(|other| dot(row, other)).reduce(f64::max);
    query.chunks_exact(dims).filter_map(greatest).sum()
}
