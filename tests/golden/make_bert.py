"""Makes the tiny BertModel checkpoints in bert/ and their golden vectors.

    bench/peers/setup.sh
    bench/peers/.venv/bin/python tests/golden/make_bert.py

Weights are random (seeded) but not small: attention is peaked, biases and LayerNorm weights differ from their
defaults, so that a swapped, missing or transposed tensor shows. The golden vectors come from transformers and
sentence-transformers reading the directories just written, in f64 (f32 beside it, to tell how far apart two right
implementations may be), one text at a time (no padding).
The format is described in README.md beside this file.
"""

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
import sentence_transformers
import tokenizers
import torch
import transformers
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer

import wordpiece

ROOT = Path(__file__).parent / "bert"
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclass
class Variant:
    """One checkpoint: what differs from the others, and in which layout it is written."""

    name: str
    seed: int
    hidden: int
    heads: int
    layers: int
    ffn: int
    dtype: str = "float32"
    activation: str = "gelu"
    positions: int = 64
    cased: bool = False
    eps: float = 1e-12
    prefix: str = ""
    gamma_beta: bool = False
    decoys: bool = False
    shards: int = 1
    layout: str = "classic"  # classic | current | bare
    pooling: str = "mean"
    dense: int = 0
    dense_plain: bool = False  # no bias, no activation
    layer_norm: bool = False
    normalize: bool = True
    max_seq_length: int | None = None
    fixed_padding: int | None = None
    prompts: dict = field(default_factory=dict)


VARIANTS = [
    Variant("mean", 11, hidden=32, heads=2, layers=2, ffn=64, max_seq_length=48, fixed_padding=16,
            prompts={"query": "query: ", "passage": "passage: "}),
    Variant("cls-bf16-prefixed", 12, hidden=64, heads=2, layers=2, ffn=96, dtype="bfloat16", activation="gelu_new",
            positions=40, cased=True, prefix="bert.", decoys=True, pooling="cls", normalize=False,
            max_seq_length=512),
    Variant("bare-f16-gamma", 13, hidden=48, heads=3, layers=1, ffn=80, dtype="float16", activation="relu",
            positions=20, eps=1e-5, gamma_beta=True, layout="bare", normalize=False),
    Variant("sharded-current", 14, hidden=32, heads=1, layers=1, ffn=40, positions=64, shards=2,
            layout="current", max_seq_length=32),
    Variant("dense-f16", 15, hidden=32, heads=2, layers=1, ffn=64, dtype="float16", pooling="cls", dense=24,
            positions=64, layout="classic", max_seq_length=64),
    Variant("poolings-layernorm", 16, hidden=32, heads=2, layers=1, ffn=64, pooling="mean+cls+max", dense=20,
            dense_plain=True, layer_norm=True, positions=64, layout="current", max_seq_length=32),
]


def tensors(v: Variant, vocab_size: int) -> dict[str, np.ndarray]:
    """Random weights under the names that BertModel checkpoints use."""
    rng = np.random.default_rng(v.seed)
    out = {}

    def normal(name, *shape, std, mean=0.0):
        out[name] = (mean + std * rng.standard_normal(shape)).astype(DTYPES[v.dtype])

    def layer_norm(name):
        weight, bias = ("gamma", "beta") if v.gamma_beta else ("weight", "bias")
        normal(f"{name}.{weight}", v.hidden, std=0.2, mean=1.0)
        normal(f"{name}.{bias}", v.hidden, std=0.1)

    def linear(name, rows, columns):
        normal(f"{name}.weight", rows, columns, std=1.4 / np.sqrt(columns))
        normal(f"{name}.bias", rows, std=0.2)

    normal("embeddings.word_embeddings.weight", vocab_size, v.hidden, std=0.5)
    normal("embeddings.position_embeddings.weight", v.positions, v.hidden, std=0.2)
    normal("embeddings.token_type_embeddings.weight", 2, v.hidden, std=0.2)
    layer_norm("embeddings.LayerNorm")
    for n in range(v.layers):
        layer = f"encoder.layer.{n}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", v.hidden, v.hidden)
        linear(f"{layer}.attention.output.dense", v.hidden, v.hidden)
        layer_norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", v.ffn, v.hidden)
        linear(f"{layer}.output.dense", v.hidden, v.ffn)
        layer_norm(f"{layer}.output.LayerNorm")
    linear("pooler.dense", v.hidden, v.hidden)
    if v.layout == "classic":
        out["embeddings.position_ids"] = np.arange(v.positions, dtype=np.int64)[None, :]
    return out


def decoy_tensors(v: Variant, vocab_size: int) -> dict[str, np.ndarray]:
    """The masked-language-model head that many encoders ship and that an embedding server must ignore."""
    dtype = DTYPES[v.dtype]
    return {
        "cls.predictions.bias": np.zeros(vocab_size, dtype),
        "cls.predictions.transform.dense.weight": np.zeros((v.hidden, v.hidden), dtype),
        "cls.predictions.transform.dense.bias": np.zeros(v.hidden, dtype),
    }


def write_weights(v: Variant, directory: Path, vocab_size: int) -> None:
    weights = {v.prefix + name: value for name, value in tensors(v, vocab_size).items()}
    if v.decoys:
        weights |= decoy_tensors(v, vocab_size)
    if v.shards == 1:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(weights)
    weight_map = {name: f"model-{1 + i % v.shards:05}-of-{v.shards:05}.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(weight_map.values())):
        shard = {name: weights[name] for name in names if weight_map[name] == file}
        save_file(shard, directory / file, metadata={"format": "pt"})
    total = sum(value.nbytes for value in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(directory / "model.safetensors.index.json", index)


def write_json(path: Path, document) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def write_config(v: Variant, directory: Path, vocab_size: int) -> None:
    write_json(directory / "config.json", {
        "architectures": ["BertForMaskedLM" if v.decoys else "BertModel"],
        "model_type": "bert",
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": v.activation,
        "hidden_dropout_prob": 0.1,
        "hidden_size": v.hidden,
        "initializer_range": 0.02,
        "intermediate_size": v.ffn,
        "layer_norm_eps": v.eps,
        "max_position_embeddings": v.positions,
        "num_attention_heads": v.heads,
        "num_hidden_layers": v.layers,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "dtype" if v.layout == "current" else "torch_dtype": v.dtype,
        "type_vocab_size": 2,
        "vocab_size": vocab_size,
    })


def write_modules(v: Variant, directory: Path) -> None:
    """modules.json and what it names, in the classic or in sentence-transformers 6's layout."""
    current = v.layout == "current"
    kinds = {
        "Transformer": "base.modules.transformer" if current else "models",
        "Pooling": "sentence_transformer.modules.pooling" if current else "models",
        "LayerNorm": "sentence_transformer.modules.layer_norm" if current else "models",
        "Dense": "base.modules.dense" if current else "models",
        "Normalize": "base.modules.normalize" if current else "models",
    }
    chain = ["Transformer", "Pooling"] + ["LayerNorm"] * v.layer_norm + ["Dense"] * bool(v.dense)
    chain += ["Normalize"] * v.normalize
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "",
         "type": f"sentence_transformers.{kinds[kind]}.{kind}"}
        for i, kind in enumerate(chain)
    ]
    write_json(directory / "modules.json", modules)
    if current:
        modes = v.pooling.split("+")
        mode = modes[0] if len(modes) == 1 else modes
        pooling = {"embedding_dimension": v.hidden, "pooling_mode": mode, "include_prompt": True}
        write_json(directory / "sentence_bert_config.json", {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        })
    else:
        names = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "sqrt": "mean_sqrt_len_tokens"}
        pooling = {"word_embedding_dimension": v.hidden}
        pooling |= {f"pooling_mode_{long}": v.pooling == short for short, long in names.items()}
        limits = {"max_seq_length": v.max_seq_length, "do_lower_case": False}
        write_json(directory / "sentence_bert_config.json", limits)
    write_json(directory / "1_Pooling" / "config.json", pooling)
    if v.layer_norm:
        write_layer_norm(v, directory / "2_LayerNorm")
    if v.dense:
        write_dense(v, directory / f"{2 + v.layer_norm}_Dense")
    document = {"__version__": {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}}
    if v.prompts:
        document |= {"prompts": v.prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(directory / "config_sentence_transformers.json", document)


def pooled(v: Variant) -> int:
    return v.hidden * len(v.pooling.split("+"))


def write_layer_norm(v: Variant, directory: Path) -> None:
    rng = np.random.default_rng(v.seed + 2000)
    write_json(directory / "config.json", {"dimension": pooled(v)})
    save_file({
        "norm.weight": (1 + 0.2 * rng.standard_normal(pooled(v))).astype(np.float32),
        "norm.bias": (0.2 * rng.standard_normal(pooled(v))).astype(np.float32),
    }, directory / "model.safetensors", metadata={"format": "pt"})


def write_dense(v: Variant, directory: Path) -> None:
    rng = np.random.default_rng(v.seed + 1000)
    activation = "linear.Identity" if v.dense_plain else "activation.Tanh"
    write_json(directory / "config.json", {
        "in_features": pooled(v), "out_features": v.dense, "bias": not v.dense_plain,
        "activation_function": f"torch.nn.modules.{activation}",
    })
    weights = {"linear.weight": (0.3 * rng.standard_normal((v.dense, pooled(v)))).astype(np.float32)}
    if not v.dense_plain:
        weights["linear.bias"] = (0.2 * rng.standard_normal(v.dense)).astype(np.float32)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def texts(limit: int) -> list[str]:
    """What every variant embeds; `limit` counts [CLS] and [SEP]."""
    return [
        "The river runs south in the evening, and nobody walks there.",
        "",
        "moon",
        " \t \n ",
        "A café in Zürich: 12 euro (€) for “tea”!",
        "中文日本語 and 海 山",
        "unknownable zzz ## [MASK] 🙂 ß Ω",
        "a b c d e f g h 0 1 2 3",
        "x" * 101,
        " ".join(["river"] * (limit - 2)),
        " ".join(["stone"] * (limit - 1)),
        "Where does the water go when the beach is closed? " * 12,
    ]


def limit_of(v: Variant) -> int:
    return min(v.positions, v.max_seq_length or v.positions)


def numbers(values: np.ndarray) -> list:
    """Twelve significant digits: far below the f32 error that any test can ask for."""
    return [float(f"{x:.12g}") for x in np.asarray(values, np.float64).ravel()]


def embed(model: SentenceTransformer, ids: list[int], **extra) -> tuple[np.ndarray, np.ndarray]:
    """Runs the model's modules on one unpadded sequence: ([tokens, hidden], [dims])."""
    features = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long), **extra}
    with torch.no_grad():
        out = model(features)
    return out["token_embeddings"][0].numpy(), out["sentence_embedding"][0].numpy()


def golden(v: Variant, directory: Path, clean: tokenizers.Tokenizer) -> dict:
    # A hidden size that is no multiple of 64 fits no optimised attention path, so both precisions use the plain one.
    arguments = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = SentenceTransformer(str(directory), device="cpu", model_kwargs=arguments)
    wide = SentenceTransformer(str(directory), device="cpu", model_kwargs=arguments).double()
    check_weights(v, model, len(wordpiece.vocabulary(v.cased)))
    limit = limit_of(v)
    assert v.layout == "bare" or min(model.max_seq_length, v.positions) == limit, (model.max_seq_length, limit)
    cases, errors = [], []
    for index, text in enumerate(texts(limit)):
        full = clean.encode(text).ids
        ids = full if len(full) <= limit else full[: limit - 1] + full[-1:]
        model.max_seq_length = limit
        own = model.preprocess([text])["input_ids"][0].tolist()
        assert own == ids, (v.name, text, own, ids)
        hidden32, vector32 = embed(model, ids)
        hidden64, vector64 = embed(wide, ids)
        encoded = model.encode([text])[0]
        assert np.abs(encoded - vector64).max() < 3e-5, (v.name, text)
        case = {
            "text": text, "ids": ids, "tokens_untruncated": len(full), "truncated": len(full) > limit,
            "vector": numbers(vector64),
        }
        if index == 0:
            case["last_hidden_state"] = numbers(hidden64)
        errors.append(max(np.abs(hidden32 - hidden64).max(), np.abs(vector32 - vector64).max()))
        cases.append(case)
    return {
        "model": v.name, "dims": v.dense or v.hidden, "hidden": v.hidden, "tokens_max": limit,
        "pooling": v.pooling, "pooling_assumed": v.layout == "bare", "normalizes": v.normalize,
        "f32_error_max": float(f"{max(errors):.3g}"), "made_by": versions(), "cases": cases,
        "prompts": prompt_cases(v, wide, clean), "poolings": pooling_cases(v, wide, clean),
        "type_ids_case": type_ids_case(v, wide, clean),
    }


def check_weights(v: Variant, model: SentenceTransformer, vocab_size: int) -> None:
    """The library really read every tensor that was written (it fills what it misses with random numbers)."""
    state = model[0].auto_model.state_dict()
    for name, value in tensors(v, vocab_size).items():
        name = name.replace("gamma", "weight").replace("beta", "bias")
        if name in state and not name.startswith("pooler"):
            assert np.array_equal(state[name].numpy(), value.astype(np.float32)), (v.name, name)
        else:
            assert name.startswith(("pooler", "embeddings.position_ids")), (v.name, name)


def prompt_cases(v: Variant, wide: SentenceTransformer, clean: tokenizers.Tokenizer) -> list[dict]:
    text = "a quick walk"
    return [
        {"prompt_name": name, "text": text, "ids": clean.encode(prompt + text).ids,
         "vector": numbers(wide.encode([text], prompt_name=name)[0])}
        for name, prompt in v.prompts.items()
    ]


def pooling_cases(v: Variant, wide: SentenceTransformer, clean: tokenizers.Tokenizer) -> dict:
    """The same hidden states under every pooling of sentence-transformers, not normalised."""
    if v.name != "mean":
        return {}
    ids = clean.encode(texts(limit_of(v))[0]).ids
    pool = type(wide[1])
    out = {"ids": ids}
    for mode in pool.POOLING_MODES:
        wide[1] = pool(v.hidden, pooling_mode=mode)
        with torch.no_grad():
            features = wide[1](wide[0]({"input_ids": torch.tensor([ids]),
                                        "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}))
        out[mode] = numbers(features["sentence_embedding"][0].numpy())
    wide[1] = pool(v.hidden, pooling_mode=v.pooling)
    return out


def type_ids_case(v: Variant, wide: SentenceTransformer, clean: tokenizers.Tokenizer) -> dict:
    """A pair of texts as a cross-encoder would see it: the second segment has type id 1. The model's own pooling."""
    pair = clean.encode("the river is cold", "swim in summer")
    _, vector = embed(wide, pair.ids, token_type_ids=torch.tensor([pair.type_ids]))
    return {"ids": pair.ids, "type_ids": pair.type_ids, "vector": numbers(vector)}


def versions() -> dict:
    packages = [torch, transformers, sentence_transformers, tokenizers, safetensors, np]
    return {package.__name__: package.__version__ for package in packages}


def main(names: list[str]) -> None:
    """Makes the variants that are named, or all of them."""
    torch.set_num_threads(1)
    for v in (v for v in VARIANTS if not names or v.name in names):
        directory = ROOT / v.name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        limit = v.max_seq_length if v.layout == "current" else 512
        clean = wordpiece.write(directory, v.cased, limit if v.layout != "bare" else v.positions, v.fixed_padding)
        write_weights(v, directory, clean.get_vocab_size())
        write_config(v, directory, clean.get_vocab_size())
        if v.layout != "bare":
            write_modules(v, directory)
        (ROOT / f"{v.name}.json").write_text(
            json.dumps(golden(v, directory, clean), ensure_ascii=False, indent=None, separators=(",", ":")) + "\n")
        print(v.name, sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
