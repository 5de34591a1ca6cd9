"""JinaBERT (Guenther et al. 2023) written from the paper: BERT with a gated network and, in place of positions, ALiBi.

transformers has no code for it, the checkpoints bring their own. Of that code only what it does is taken: the bias is
symmetric (the paper's encoder variant of Press et al. 2022), the first half of `gated_layers` goes through the
activation, the norms stand behind the residuals.
"""

import math

import torch
from torch.nn.functional import gelu, layer_norm, linear

Weights = dict[str, torch.Tensor]


def slopes(heads: int) -> list[float]:
    """Press et al. 2022, section 3; between powers of two, every second slope of the next one as well."""
    power = 2 ** math.floor(math.log2(heads))
    regular = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    between = [2 ** (-8 * (2 * head + 1) / (2 * power)) for head in range(heads - power)]
    return regular + between


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """What a checkpoint holds."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    out = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
    }

    def affine(name: str, *shape: int) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = shape, shape[:1]

    affine("embeddings.LayerNorm", hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            affine(f"{at}.attention.{name}", hidden, hidden)
        affine(f"{at}.attention.output.LayerNorm", hidden)
        out[f"{at}.mlp.gated_layers.weight"] = (2 * wide, hidden)
        affine(f"{at}.mlp.wo", hidden, wide)
        affine(f"{at}.mlp.layernorm", hidden)
    affine("pooler.dense", hidden, hidden)
    return out


def attention(config: dict, weights: Weights, at: str, x: torch.Tensor) -> torch.Tensor:
    tokens, heads = len(x), config["num_attention_heads"]

    def project(name: str) -> torch.Tensor:
        out = linear(x, weights[f"{at}.self.{name}.weight"], weights[f"{at}.self.{name}.bias"])
        return out.view(tokens, heads, -1).transpose(0, 1)

    query, key, value = project("query"), project("key"), project("value")
    at_token = torch.arange(tokens, dtype=x.dtype)
    distance = (at_token[:, None] - at_token[None, :]).abs()
    bias = torch.tensor(slopes(heads), dtype=x.dtype)[:, None, None] * distance
    scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]) - bias
    mixed = (scores.softmax(-1) @ value).transpose(0, 1).reshape(tokens, -1)
    return linear(mixed, weights[f"{at}.output.dense.weight"], weights[f"{at}.output.dense.bias"])


def hidden_states(config: dict, weights: Weights, ids: list[int], type_ids: list[int] | None = None) -> torch.Tensor:
    """`[tokens, hidden]` in the format of the weights; all tokens of the first segment where none are told."""

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return layer_norm(x, weight.shape, weight, bias, config["layer_norm_eps"])

    tokens = weights["embeddings.word_embeddings.weight"][torch.tensor(ids)]
    segments = weights["embeddings.token_type_embeddings.weight"][torch.tensor(type_ids or [0] * len(ids))]
    x = norm("embeddings.LayerNorm", tokens + segments)
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        x = norm(f"{at}.attention.output.LayerNorm", x + attention(config, weights, f"{at}.attention", x))
        gate, up = linear(x, weights[f"{at}.mlp.gated_layers.weight"]).chunk(2, dim=-1)
        down = linear(gelu(gate) * up, weights[f"{at}.mlp.wo.weight"], weights[f"{at}.mlp.wo.bias"])
        x = norm(f"{at}.mlp.layernorm", x + down)
    return x
