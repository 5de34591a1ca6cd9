"""Makes the tiny checkpoints in heads/ that classify sequences or tokens, and their golden logits.

    bench/peers/setup.sh
    bench/peers/.venv/bin/python tests/golden/make_heads.py [NAME...]   # all of them without a name

The weights are random (seeded) but not small, so that a swapped, missing or transposed tensor shows. The logits come
from transformers reading the directories just written, in f64 (f32 beside it, to tell how far apart two right
implementations may be), one sequence at a time. The format is described in README.md beside this file.
"""

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors
import torch
import transformers
from exact import in_f64
from make_families import ROBERTA, SIZES, SIZES_DISTIL
from safetensors.numpy import save_file
from tiny import VOCAB, write_json

ROOT = Path(__file__).parent / "heads"
POSITIONS = 72
LENGTHS = [1, 2, 3, 31, 32, 33, 64]
SAMPLES = 100
SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"
BIO = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]


@dataclass
class Variant:
    """One checkpoint: its class, its labels, and where it says what becomes of its logits."""

    name: str
    seed: int
    model_type: str
    architecture: str
    labels: list[str]
    activation: str = "identity"
    offset: int = 0
    sizes: dict = field(default_factory=lambda: SIZES | {"num_hidden_layers": 1})
    config: dict = field(default_factory=dict)
    # Of config_sentence_transformers.json, as versions 6 and later write it, with a modules.json.
    pipeline: dict | None = None


ONE = ["LABEL_0"]
MODERN = {"global_attn_every_n_layers": 2, "local_attention": 16, "global_rope_theta": 160000.0, "num_hidden_layers": 2,
          "local_rope_theta": 10000.0, "norm_eps": 1e-5, "hidden_activation": "gelu", "pad_token_id": 0,
          "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
QWEN2 = {"num_key_value_heads": 1, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
         "pad_token_id": 0, "hidden_act": "silu"}
QWEN3 = QWEN2 | {"head_dim": 16, "attention_bias": False}
VARIANTS = [
    Variant("bert-score", 41, "bert", "BertForSequenceClassification", ONE,
            config={"sbert_ce_default_activation_function": IDENTITY}),
    Variant("bert-nli", 42, "bert", "BertForSequenceClassification", ["entailment", "neutral", "contradiction"]),
    Variant("bert-score-6", 43, "bert", "BertForSequenceClassification", ONE,
            pipeline={"model_type": "CrossEncoder", "activation_fn": IDENTITY}),
    Variant("xlm-roberta-score", 44, "xlm-roberta", "XLMRobertaForSequenceClassification", ONE, "sigmoid", offset=2,
            config=ROBERTA),
    Variant("roberta-labels", 45, "roberta", "RobertaForSequenceClassification", ["a", "b", "c", "d"], offset=2,
            config=ROBERTA | {"problem_type": "multi_label_classification"}),
    Variant("distilbert-sentiment", 46, "distilbert", "DistilBertForSequenceClassification", ["NEGATIVE", "POSITIVE"],
            sizes=SIZES_DISTIL | {"n_layers": 1}, config={"activation": "gelu", "sinusoidal_pos_embds": False}),
    Variant("electra-score", 47, "electra", "ElectraForSequenceClassification", ONE, "sigmoid",
            config={"embedding_size": 24, "sentence_transformers": {"activation_fn": SIGMOID, "version": "4.1.0"}}),
    Variant("mpnet-labels", 48, "mpnet", "MPNetForSequenceClassification", ["x", "y"], offset=2,
            config={"pad_token_id": 1, "layer_norm_eps": 1e-5, "relative_attention_num_buckets": 32}),
    Variant("modernbert-score", 49, "modernbert", "ModernBertForSequenceClassification", ONE, "sigmoid",
            config=MODERN | {"classifier_pooling": "mean"}),
    Variant("qwen3-score", 56, "qwen3", "Qwen3ForSequenceClassification", ONE, "sigmoid", config=QWEN3),
    Variant("qwen2-labels", 57, "qwen2", "Qwen2ForSequenceClassification", ["x", "y", "z"], config=QWEN2),
    Variant("bert-ner", 51, "bert", "BertForTokenClassification", BIO),
    Variant("xlm-roberta-ner", 52, "xlm-roberta", "XLMRobertaForTokenClassification", BIO, offset=2, config=ROBERTA),
    Variant("distilbert-ner", 53, "distilbert", "DistilBertForTokenClassification", BIO[:3],
            sizes=SIZES_DISTIL | {"n_layers": 1}, config={"activation": "gelu", "sinusoidal_pos_embds": False}),
    Variant("modernbert-ner", 55, "modernbert", "ModernBertForTokenClassification", BIO[:3], config=MODERN),
    Variant("electra-ner", 54, "electra", "ElectraForTokenClassification", BIO[:5], config={"embedding_size": 24}),
]


def config(v: Variant) -> dict:
    document = {
        "architectures": [v.architecture], "model_type": v.model_type, "vocab_size": VOCAB,
        "max_position_embeddings": POSITIONS + v.offset, "torch_dtype": "float16", "transformers_version": "4.41.0",
        "id2label": {str(i): label for i, label in enumerate(v.labels)},
        "label2id": {label: i for i, label in enumerate(v.labels)},
    }
    act = {} if v.model_type in ("distilbert", "modernbert") else {"hidden_act": "gelu"}
    return document | act | v.sizes | v.config


def auto_class(v: Variant):
    if v.architecture.endswith("ForTokenClassification"):
        return transformers.AutoModelForTokenClassification
    return transformers.AutoModelForSequenceClassification


def random_weights(seed: int, model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Random numbers of the shapes that the model has, in f16."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, parameter in model.state_dict().items():
        shape = tuple(parameter.shape)
        if "norm.weight" in name.lower():
            mean, std = 1.0, 0.2
        elif len(shape) == 1:
            mean, std = 0.0, 0.15
        else:
            mean, std = 0.0, 0.5 if "embeddings." in name else 1.4 / np.sqrt(shape[1])
        out[name] = (mean + std * rng.standard_normal(shape)).astype(np.float16)
    return out


def write(v: Variant, directory: Path) -> None:
    write_json(directory / "config.json", config(v))
    empty = auto_class(v).from_config(transformers.AutoConfig.from_pretrained(directory))
    save_file(random_weights(v.seed, empty), directory / "model.safetensors", metadata={"format": "pt"})
    if v.pipeline is not None:
        write_json(directory / "config_sentence_transformers.json", v.pipeline | {"prompts": {}})
        write_json(directory / "sentence_bert_config.json", {
            "transformer_task": "sequence-classification", "module_output_name": "scores",
            "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        })
        transformer = "sentence_transformers.base.modules.transformer.Transformer"
        write_json(directory / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": transformer}])


def logits(model: torch.nn.Module, ids: list[int], type_ids: list[int]) -> np.ndarray:
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    if any(type_ids):
        inputs["token_type_ids"] = torch.tensor([type_ids])
    with torch.no_grad():
        return model(**inputs).logits[0].double().numpy()


def golden(v: Variant, directory: Path) -> dict:
    load = auto_class(v).from_pretrained
    read = lambda dtype: load(directory, dtype=torch.float32, attn_implementation="eager").to(dtype).eval()
    narrow = read(torch.float32)
    # What a language model computes in f32 whatever it is told would hide in the truth.
    with in_f64():
        wide = read(torch.float64)
    rng = np.random.default_rng(v.seed + 1000)
    cases, errors = [], []
    for length in [*LENGTHS, POSITIONS]:
        ids = rng.integers(3, VOCAB, length).tolist()
        pairs = v.model_type in ("bert", "electra")
        type_ids = [int(pairs and 2 * i > length) for i in range(length)]
        with in_f64():
            truth = logits(wide, ids, type_ids)
        errors.append(np.abs(logits(narrow, ids, type_ids) - truth).max())
        case = {"ids": ids, "type_ids": type_ids if any(type_ids) else []}
        cases.append(case | {"logits": [float(f"{x:.12g}") for x in truth.reshape(-1)]})
    for _ in range(SAMPLES):
        ids = rng.integers(3, VOCAB, rng.integers(1, 9)).tolist()
        with in_f64():
            truth = logits(wide, ids, [])
        errors.append(np.abs(logits(narrow, ids, []) - truth).max())
    made_by = {package.__name__: package.__version__ for package in (torch, transformers, safetensors, np)}
    return {
        "output": "token_classes" if v.architecture.endswith("ForTokenClassification") else "classes",
        "labels": v.labels, "activation": v.activation, "multi_label": "problem_type" in v.config,
        "tokens_max": POSITIONS, "f32_error_max": float(f"{max(errors):.3g}"), "made_by": made_by, "cases": cases,
    }


def main() -> None:
    torch.set_num_threads(1)
    for v in (v for v in VARIANTS if not sys.argv[1:] or v.name in sys.argv[1:]):
        directory = ROOT / v.name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        write(v, directory)
        document = golden(v, directory)
        (ROOT / f"{v.name}.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
        print(v.name, document["f32_error_max"], sum(f.stat().st_size for f in directory.iterdir()), "bytes")


if __name__ == "__main__":
    main()
