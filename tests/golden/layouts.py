"""How checkpoints were published whose names or configurations are not those of transformers' own code.

Each layout says what transformers must be told instead of the published configuration, and what the published file
calls its tensors. That both are the same model is checked when the golden data is made: transformers reads the file as
it is published.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Layout:
    """From what a checkpoint says to what transformers understands, and from its tensors to the published ones."""

    reference: Callable[[dict], dict] = lambda config: config
    renames: tuple[tuple[str, str], ...] = ()
    # Published name of a matrix that holds the rows of several, in this order.
    fused: tuple[tuple[str, tuple[str, ...]], ...] = ()
    # A part of published names that transformers must not see, and what it sees instead.
    hidden: tuple[str, str] = ("", "")

    def publish(self, weights: Weights) -> Weights:
        out = dict(weights)
        for whole, parts in self.fused:
            last = parts[-1]
            for name in [name for name in weights if re.search(last, name)]:
                names = [re.sub(last, part.replace("\\", ""), name) for part in parts]
                joined = np.concatenate([out.pop(part) for part in names])
                out[re.sub(last, whole, name)] = joined
        for pattern, name in self.renames:
            out = {re.sub(pattern, name, old): value for old, value in out.items()}
        return out


QKV = (r"self_attn\.q_proj", r"self_attn\.k_proj", r"self_attn\.v_proj")


def nomic(config: dict) -> dict:
    """nomic-embed-text v1 and v1.5: fields called as in GPT-2. A scaled base is of no effect up to the trained length."""
    return {
        "model_type": "nomic_bert", "vocab_size": config["vocab_size"], "hidden_size": config["n_embd"],
        "num_hidden_layers": config["n_layer"], "num_attention_heads": config["n_head"],
        "intermediate_size": config["n_inner"], "hidden_act": "silu", "type_vocab_size": config["type_vocab_size"],
        "layer_norm_eps": config["layer_norm_epsilon"], "max_position_embeddings": config["n_positions"],
        "rope_parameters": {"rope_type": "default", "rope_theta": config["rotary_emb_base"]},
    }


def gte(config: dict) -> dict:
    """Alibaba-NLP/new-impl. Its "ntk" (Su 2023) turns frequency i by factor^-(2(i+1)/dim), whatever the length."""
    rope = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    if config["rope_scaling"]:
        factor, dim = config["rope_scaling"]["factor"], config["hidden_size"] // config["num_attention_heads"]
        rope = {"rope_type": "linear", "rope_theta": config["rope_theta"] * factor, "factor": factor ** (2 / dim)}
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
             "type_vocab_size", "layer_norm_eps", "max_position_embeddings")
    return {"model_type": "gte", "rope_parameters": rope} | {name: config[name] for name in names}


def jina_v3(config: dict) -> dict:
    """XLM-R-flash with rotations; the adapters are not part of it."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
             "type_vocab_size", "layer_norm_eps", "max_position_embeddings")
    rope = {"rope_type": "default", "rope_theta": config["rotary_emb_base"]}
    return {"model_type": "jina_embeddings_v3", "rope_parameters": rope} | {name: config[name] for name in names}


NATIVE = Layout()
NOMIC = Layout(nomic, (
    (r"^embeddings\.LayerNorm", "emb_ln"), (r"^layers", "encoder.layers"), (r"self_attn\.o_proj", "attn.out_proj"),
    (r"mlp\.up_proj", "mlp.fc11"), (r"mlp\.gate_proj", "mlp.fc12"), (r"mlp\.down_proj", "mlp.fc2"),
    (r"post_attention_layernorm", "norm1"), (r"post_mlp_layernorm", "norm2"),
), (("attn.Wqkv", QKV),))
GTE = Layout(gte, (
    (r"^layers", "encoder.layer"), (r"self_attn\.o_proj", "attention.o_proj"),
    (r"post_attention_layernorm", "attn_ln"), (r"post_mlp_layernorm", "mlp_ln"),
), (("attention.qkv_proj", QKV), ("mlp.up_gate_proj", (r"mlp\.up_proj", r"mlp\.gate_proj"))))
JINA_V3 = Layout(jina_v3, (
    (r"^embeddings\.LayerNorm", "emb_ln"), (r"^layers", "encoder.layers"), (r"self_attn\.o_proj", "mixer.out_proj"),
    (r"post_attention_layernorm", "norm1"), (r"post_mlp_layernorm", "norm2"),
), (("mixer.Wqkv", QKV),))
# jina-reranker-v2 has XLM-RoBERTa's own positions, and these names for the rest.
FLASH = Layout(lambda config: config, (
    (r"embeddings\.LayerNorm", "emb_ln"), (r"encoder\.layer\.", "encoder.layers."),
    (r"attention\.output\.dense", "mixer.out_proj"), (r"attention\.output\.LayerNorm", "norm1"),
    (r"intermediate\.dense", "mlp.fc1"), (r"output\.dense", "mlp.fc2"), (r"output\.LayerNorm", "norm2"),
), (("mixer.Wqkv", (r"attention\.self\.query", r"attention\.self\.key", r"attention\.self\.value")),))
# Every matrix stands beside the adapters that may be added to it.
ADAPTED = ".parametrizations.weight.original"
JINA_V3_ADAPTED = Layout(
    jina_v3, (*JINA_V3.renames, (r"(Wqkv|out_proj|fc1|fc2|word_embeddings|token_type_embeddings)\.weight$", r"\1" + ADAPTED)),
    JINA_V3.fused, (ADAPTED, ".weight"))
