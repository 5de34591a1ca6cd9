"""One checkpoint: random weights written in a published layout, and what the reference answers to sequences of ids."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
import safetensors.torch
import torch
import transformers
from safetensors.numpy import save_file

import jina_bert
from exact import OnlyF64, in_f64
from layouts import NATIVE, Layout, Weights

VOCAB = 96
LENGTHS = (1, 2, 63, 64, 65, 127, 129)
# Further short sequences of which only the reference's own error is kept: the largest of a few would be chance.
SAMPLES = 200
# Tokens of a case whose hidden states are kept: as many, from the first to the last.
ROWS = 8
# The longest case repeats so many ids up to the limit.
PERIOD = 61
FORMATS = {"F16": np.float16, "BF16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Variant:
    """One checkpoint: its configuration as published, and in which layout it is written."""

    name: str
    seed: int
    config: dict
    layout: Layout = NATIVE
    # Tokens that the positions allow for.
    limit: int = 8192
    prefix: str = ""
    decoys: tuple = ()
    # What a norm's weights are spread around: 0 where the model adds 1 to them.
    norm_mean: float = 1.0
    format: str = "F16"
    files: int = 1
    # Modules behind the encoder, written as sentence-transformers does; none: the mean, not normalised.
    pooling: str = ""
    dense: tuple[int, ...] = ()
    lengths: tuple[int, ...] = LENGTHS
    samples: int = SAMPLES
    longest: bool = True


def write_json(path: Path, document) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n")


def draw(rng: np.random.Generator, name: str, shape: tuple[int, ...], norm_mean: float) -> np.ndarray:
    """Random but not small, so that a swapped, missing or transposed tensor shows."""
    if "norm" in name.lower() and name.endswith("weight"):
        mean, std = norm_mean, 0.2
    elif len(shape) == 1:
        mean, std = 0.0, 0.15
    elif "relative_attention_bias" in name:
        mean, std = 0.0, 1.0
    else:
        mean, std = 0.0, 0.5 if "embed" in name else 1.4 / np.sqrt(shape[1])
    return mean + std * rng.standard_normal(shape)


def shapes(v: Variant) -> dict[str, tuple[int, ...]]:
    if "alibi" in v.config.values():
        return jina_bert.shapes(v.config)
    bare = transformers.AutoModel.from_config(reference_config(v))
    return {name: tuple(parameter.shape) for name, parameter in bare.state_dict().items()}


def reference_config(v: Variant) -> transformers.PreTrainedConfig:
    with tempfile.TemporaryDirectory() as scratch:
        write_json(Path(scratch) / "config.json", v.layout.reference(v.config))
        return transformers.AutoConfig.from_pretrained(scratch)


def write(v: Variant, directory: Path) -> None:
    """The checkpoint without answers."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    write_json(directory / "config.json", v.config)
    rng = np.random.default_rng(v.seed)
    kind = FORMATS[v.format]
    weights = {name: draw(rng, name, shape, v.norm_mean).astype(kind) for name, shape in shapes(v).items()}
    stored = {v.prefix + name: value for name, value in v.layout.publish(weights).items()}
    stored |= {name: np.zeros((4, 4), kind) for name in v.decoys}
    save(stored, v.files, directory)
    if v.pooling:
        write_modules(v, directory, rng)


def save(stored: Weights, files: int, directory: Path) -> None:
    if files == 1:
        save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
        return
    index = {}
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        part = {tensor: stored[tensor] for tensor in sorted(stored)[number::files]}
        save_file(part, directory / name, metadata={"format": "pt"})
        index |= dict.fromkeys(part, name)
    total = sum(tensor.nbytes for tensor in stored.values())
    write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def write_modules(v: Variant, directory: Path, rng: np.random.Generator) -> None:
    kinds = ["Transformer", "Pooling", *["Dense"] * len(v.dense), "Normalize"]
    paths = ["", *[f"{number}_{kind}" for number, kind in enumerate(kinds) if number]]
    write_json(directory / "modules.json", [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(zip(kinds, paths))
    ])
    width = v.config["hidden_size"]
    (directory / "1_Pooling").mkdir()
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    pooling = {f"pooling_mode_{mode}": mode.removesuffix("_tokens").removesuffix("_token") == v.pooling for mode in modes}
    write_json(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": width} | pooling)
    for number, outputs in enumerate(v.dense, 2):
        module = directory / f"{number}_Dense"
        module.mkdir()
        weight = (rng.standard_normal((outputs, width)) / np.sqrt(width)).astype(np.float32)
        save_file({"linear.weight": weight}, module / "model.safetensors", metadata={"format": "pt"})
        write_json(module / "config.json", {"in_features": width, "out_features": outputs, "bias": False,
                                            "activation_function": "torch.nn.modules.linear.Identity"})
        width = outputs


def stored(directory: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    out = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safetensors.safe_open(path, "pt") as file:
            out |= {name: file.get_tensor(name).to(dtype) for name in file.keys()}
    return out


def reference(v: Variant, directory: Path, dtype: torch.dtype) -> Callable[[list[int]], torch.Tensor]:
    """What gives the last hidden states: another implementation that reads the directory as it was written."""
    if "alibi" in v.config.values():
        weights = {name.removeprefix(v.prefix): value for name, value in stored(directory, dtype).items()}
        return lambda ids: jina_bert.hidden_states(v.config, weights, ids)
    with tempfile.TemporaryDirectory() as scratch:
        write_json(Path(scratch) / "config.json", v.layout.reference(v.config))
        for path in directory.glob("*.safetensors*"):
            shutil.copy(path, scratch)
        if v.layout.hidden[0]:
            weights = stored(directory, dtype)
            seen = {name.replace(*v.layout.hidden): weights[name] for name in weights if name not in v.decoys}
            safetensors.torch.save_file(seen, Path(scratch) / "model.safetensors", metadata={"format": "pt"})
        model, report = transformers.AutoModel.from_pretrained(
            scratch, dtype=dtype, attn_implementation="eager", output_loading_info=True)
    # Poolers stand beside what an embedding uses, and may be made anew.
    missing = [name for name in report["missing_keys"] if not name.startswith("pooler")]
    assert not missing and not report["mismatched_keys"], (v.name, report)
    assert set(report["unexpected_keys"]) <= set(v.decoys), (v.name, report)
    model = model.to(dtype).eval()

    def forward(ids: list[int]) -> torch.Tensor:
        mask = torch.ones(1, len(ids), dtype=torch.long)
        return model(input_ids=torch.tensor([ids]), attention_mask=mask).last_hidden_state[0]

    return forward


def pooled(v: Variant, directory: Path, states: np.ndarray) -> np.ndarray:
    """The answer to one sequence, in f64 whatever its hidden states are."""
    states = states.astype(np.float64)
    if not v.pooling:
        return states.mean(0)
    vector = {"mean": states.mean(0), "cls": states[0], "lasttoken": states[-1]}[v.pooling]
    for number in range(len(v.dense)):
        vector = stored(directory / f"{number + 2}_Dense", torch.float64)["linear.weight"].numpy() @ vector
    return vector / np.linalg.norm(vector)


def distance(a: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(a - truth) / np.linalg.norm(truth))


class Reference:
    """Both precisions of one checkpoint's reference."""

    def __init__(self, v: Variant, directory: Path):
        self.v, self.directory = v, directory
        self.narrow = reference(v, directory, torch.float32)
        with in_f64():
            self.wide = reference(v, directory, torch.float64)

    def states(self, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """The hidden states in f32, and in truth."""
        with torch.no_grad():
            narrow = self.narrow(ids).numpy()
            with in_f64(), OnlyF64():
                wide = self.wide(ids).numpy()
        return narrow, wide

    def answer(self, states: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, float]:
        """The truth, and how far f32 is from it."""
        narrow, wide = (pooled(self.v, self.directory, own) for own in states)
        return wide, distance(narrow, wide)


def digits(vector: np.ndarray) -> list[float]:
    return [float(f"{x:.12g}") for x in vector]


def nine(values: np.ndarray) -> list[float]:
    return [float(f"{x:.9g}") for x in values]


def golden(v: Variant, directory: Path) -> dict:
    model = Reference(v, directory)
    rng = np.random.default_rng(v.seed + 1000)
    vocab = v.config["vocab_size"]
    few = v.limit < 1000
    cases, errors, hidden_errors = [], [], []
    for length in [*v.lengths, *([v.limit] if few and v.longest else [])]:
        # The padding token would stop RoBERTa's count of positions.
        ids = rng.integers(3, vocab, length).tolist()
        states = model.states(ids)
        truth, error = model.answer(states)
        errors.append(error)
        rows = sorted({int(row) for row in np.linspace(0, length - 1, ROWS)})
        narrow, wide = (own[rows] for own in states)
        hidden_errors.append(distance(narrow, wide))
        cases.append({"ids": ids, "vector": digits(truth), "rows": rows, "hidden": nine(wide.reshape(-1))})
    for _ in range(v.samples):
        states = model.states(rng.integers(3, vocab, rng.integers(1, 9)).tolist())
        errors.append(model.answer(states)[1])
        hidden_errors.append(distance(*states))
    made_by = {package.__name__: package.__version__ for package in (torch, transformers, safetensors, np)}
    document = {"tokens_max": v.limit, "f32_error_max": float(f"{max(errors):.3g}"),
                "f32_hidden_error_max": float(f"{max(hidden_errors):.3g}"), "made_by": made_by, "cases": cases}
    if not few and v.longest:
        ids = rng.integers(3, vocab, PERIOD).tolist()
        truth, error = model.answer(model.states((ids * (v.limit // PERIOD + 1))[: v.limit]))
        document["longest"] = {"ids": ids, "tokens": v.limit, "f32_error": float(f"{error:.3g}"), "vector": digits(truth)}
    return document


def make(v: Variant, root: Path) -> None:
    directory = root / v.name
    write(v, directory)
    document = golden(v, directory)
    (root / f"{v.name}.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    print(v.name, document["f32_error_max"], document.get("longest", {}).get("f32_error"), size, "bytes", flush=True)
