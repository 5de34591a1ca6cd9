"""Makes the tiny checkpoints in families/ and their golden vectors: every family but BERT, which has a script of its own.

    bench/peers/setup.sh
    bench/peers/.venv/bin/python tests/golden/make_families.py

The weights are random (seeded) but not small, so that a swapped, missing or transposed tensor shows. The vectors come
from transformers reading the directories just written, in f64 (f32 beside it, to tell how far apart two right
implementations may be), one sequence at a time. The format is described in README.md beside this file.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors
import torch
import transformers
from safetensors.numpy import save_file

ROOT = Path(__file__).parent / "families"
VOCAB = 96
POSITIONS = 180
LENGTHS = [1, 2, 63, 64, 65, 127, 129]
# Further short sequences of which only the reference's own error is kept: the largest of a few would be chance.
SAMPLES = 200
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SIZES_DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}


@dataclass
class Variant:
    """One checkpoint: its family, and in which layout it is written."""

    name: str
    seed: int
    model_type: str
    architecture: str
    offset: int = 0
    prefix: str = ""
    sizes: dict = field(default_factory=lambda: SIZES)
    config: dict = field(default_factory=dict)
    decoys: tuple = ()
    # As transformers 5 writes it.
    current: bool = False


ROBERTA = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-5, "type_vocab_size": 1}
VARIANTS = [
    Variant("roberta", 21, "roberta", "RobertaForMaskedLM", offset=2, prefix="roberta.", config=ROBERTA,
            decoys=("lm_head.dense.weight", "lm_head.bias")),
    Variant("xlm-roberta", 22, "xlm-roberta", "XLMRobertaModel", offset=2, config=ROBERTA, current=True),
    Variant("camembert", 23, "camembert", "CamembertModel", offset=2, sizes=SIZES | {"num_hidden_layers": 1},
            config=ROBERTA | {"position_embedding_type": "absolute"}),
    Variant("distilbert", 24, "distilbert", "DistilBertForMaskedLM", prefix="distilbert.", sizes=SIZES_DISTIL,
            config={"activation": "gelu", "sinusoidal_pos_embds": False},
            decoys=("vocab_transform.weight", "vocab_projector.bias")),
    Variant("mpnet", 25, "mpnet", "MPNetForMaskedLM", offset=2,
            config={"pad_token_id": 1, "layer_norm_eps": 1e-5, "relative_attention_num_buckets": 32}),
    Variant("electra", 26, "electra", "ElectraForPreTraining", prefix="electra.",
            config={"embedding_size": 24, "type_vocab_size": 2, "summary_type": "first"},
            decoys=("discriminator_predictions.dense.weight",)),
]


def write_json(path: Path, document) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n")


def config(v: Variant) -> dict:
    document = {
        "architectures": [v.architecture], "model_type": v.model_type, "vocab_size": VOCAB,
        "max_position_embeddings": POSITIONS, "dtype" if v.current else "torch_dtype": "float16",
        "transformers_version": "5.0.0" if v.current else "4.41.0",
    }
    act = {} if v.model_type == "distilbert" else {"hidden_act": "gelu"}
    return document | act | v.sizes | v.config


def random_weights(v: Variant, model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Random numbers of the shapes that the model has, in f16."""
    rng = np.random.default_rng(v.seed)
    out = {}
    for name, parameter in model.state_dict().items():
        shape = tuple(parameter.shape)
        if "LayerNorm.weight" in name or "layer_norm.weight" in name:
            mean, std = 1.0, 0.2
        elif len(shape) == 1:
            mean, std = 0.0, 0.15
        elif "relative_attention_bias" in name:
            mean, std = 0.0, 1.0
        else:
            mean, std = 0.0, 0.5 if "embeddings" in name else 1.4 / np.sqrt(shape[1])
        out[name] = (mean + std * rng.standard_normal(shape)).astype(np.float16)
    return out


def write(v: Variant, directory: Path) -> dict[str, np.ndarray]:
    write_json(directory / "config.json", config(v))
    bare = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(directory))
    weights = random_weights(v, bare)
    stored = {v.prefix + name: value for name, value in weights.items()}
    stored |= {name: np.zeros((4, 4), np.float16) for name in v.decoys}
    save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    return weights


def reference(directory: Path, weights: dict[str, np.ndarray], dtype: torch.dtype) -> torch.nn.Module:
    model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    state = model.state_dict()
    for name, value in weights.items():
        # Poolers stand beside what an embedding uses, and may be made anew.
        if not name.startswith("pooler"):
            assert np.array_equal(state[name].numpy(), value.astype(np.float32)), (directory.name, name)
    return model.to(dtype).eval()


def hidden_states(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
    return out.last_hidden_state[0].double().numpy()


def distance(a: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(a - truth) / np.linalg.norm(truth))


def golden(v: Variant, directory: Path, weights: dict[str, np.ndarray]) -> dict:
    narrow, wide = (reference(directory, weights, dtype) for dtype in (torch.float32, torch.float64))
    rng = np.random.default_rng(v.seed + 1000)
    limit = POSITIONS - v.offset
    cases, errors = [], []
    for length in [*LENGTHS, limit]:
        # The padding token would stop RoBERTa's count of positions.
        ids = rng.integers(3, VOCAB, length).tolist()
        truth = hidden_states(wide, ids)
        errors.append(distance(hidden_states(narrow, ids).mean(0), truth.mean(0)))
        cases.append({"ids": ids, "vector": [float(f"{x:.12g}") for x in truth.mean(0)]})
    for _ in range(SAMPLES):
        ids = rng.integers(3, VOCAB, rng.integers(1, 9)).tolist()
        errors.append(distance(hidden_states(narrow, ids).mean(0), hidden_states(wide, ids).mean(0)))
    made_by = {package.__name__: package.__version__ for package in (torch, transformers, safetensors, np)}
    return {"tokens_max": limit, "f32_error_max": float(f"{max(errors):.3g}"), "made_by": made_by, "cases": cases}


def main() -> None:
    torch.set_num_threads(1)
    for v in VARIANTS:
        directory = ROOT / v.name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        document = golden(v, directory, write(v, directory))
        (ROOT / f"{v.name}.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
        print(v.name, document["f32_error_max"], sum(f.stat().st_size for f in directory.iterdir()), "bytes")


if __name__ == "__main__":
    main()
