"""Makes the tiny checkpoints in heads/ that classify sequences or tokens, and their golden logits.

    bench/peers/setup.sh
    bench/peers/.venv/bin/python tests/golden/make_heads.py [NAME...]   # all of them without a name

The weights are random (seeded) but not small, so that a swapped, missing or transposed tensor shows. The logits come
from transformers reading the directories just written (or, for layouts that it does not know, the same weights under
the names that it does), in f64 (f32 beside it, to tell how far apart two right implementations may be), one sequence at
a time. The format is described in README.md beside this file.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors
import torch
import transformers
from families_encoder import GTE_NEW, JINA_V2
from exact import in_f64
from layouts import FLASH, GTE, NATIVE, Layout
from make_families import ROBERTA, SIZES, SIZES_DISTIL
from safetensors.numpy import save_file
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
import jina_bert
from tiny import VOCAB, stored, write_json

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
    layout: Layout = NATIVE
    # Of the encoder's tensors, where they are published under another.
    renamed: tuple[str, str] = ("", "")
    # Whether the configuration says how many labels there are.
    tells_labels: bool = True
    # Behind the encoder, as sentence-transformers writes them: the class and the configuration of each.
    modules: list[tuple[str, dict]] = field(default_factory=list)
    # Of config_sentence_transformers.json, as versions 6 and later write it, with a modules.json.
    pipeline: dict | None = None


ONE = ["LABEL_0"]
MODERN = {"global_attn_every_n_layers": 2, "local_attention": 16, "global_rope_theta": 160000.0, "num_hidden_layers": 2,
          "local_rope_theta": 10000.0, "norm_eps": 1e-5, "hidden_activation": "gelu", "pad_token_id": 0,
          "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
OWN_CODE = "jinaai/xlm-roberta-flash-implementation--"
FLASH_CONFIG = ROBERTA | {
    "auto_map": {"AutoConfig": OWN_CODE + "configuration_xlm_roberta.XLMRobertaFlashConfig",
                 "AutoModel": OWN_CODE + "modeling_xlm_roberta.XLMRobertaModel",
                 "AutoModelForSequenceClassification": OWN_CODE + "modeling_xlm_roberta.XLMRobertaForSequenceClassification"},
    "position_embedding_type": "absolute", "use_flash_attn": True,
}
JINA_CONFIG = {name: value for name, value in JINA_V2.items() if name != "architectures"} | {
    "num_hidden_layers": 1, "max_position_embeddings": POSITIONS,
    "auto_map": {"AutoConfig": "jinaai/jina-bert-implementation--configuration_bert.JinaBertConfig",
                 "AutoModelForSequenceClassification":
                     "jinaai/jina-bert-implementation--modeling_bert.JinaBertForSequenceClassification"},
}
GTE_CONFIG = {name: GTE_NEW[name] for name in (
    "auto_map", "layer_norm_eps", "layer_norm_type", "logn_attention_clip1", "logn_attention_scale", "pack_qkv",
    "pad_token_id", "position_embedding_type", "rope_scaling", "rope_theta", "type_vocab_size", "unpad_inputs")}
ST6 = "sentence_transformers.base.modules."
# cross-encoder/ettin-reranker: the head of ModernBERT's class, a module a layer.
ETTIN = [
    ("sentence_transformers.sentence_transformer.modules.pooling.Pooling",
     {"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True}),
    (ST6 + "dense.Dense", {"in_features": 32, "out_features": 32, "bias": False,
                           "activation_function": "torch.nn.modules.activation.GELU",
                           "module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}),
    ("sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm", {"dimension": 32}),
    (ST6 + "dense.Dense", {"in_features": 32, "out_features": 1, "bias": True,
                           "activation_function": "torch.nn.modules.linear.Identity",
                           "module_input_name": "sentence_embedding", "module_output_name": "scores"}),
]
QWEN2 = {"num_key_value_heads": 1, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
         "pad_token_id": 0, "hidden_act": "silu"}
QWEN3 = QWEN2 | {"head_dim": 16, "attention_bias": False}
DEBERTA = {"relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True,
           "pos_att_type": ["p2c", "c2p"], "layer_norm_eps": 1e-7, "max_relative_positions": -1, "type_vocab_size": 0,
           "position_biased_input": False, "pooler_dropout": 0, "pooler_hidden_act": "gelu", "pooler_hidden_size": 32}
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
    Variant("ettin-score", 58, "modernbert", "ModernBertModel", ONE, config=MODERN, modules=ETTIN, tells_labels=False,
            pipeline={"model_type": "CrossEncoder", "activation_fn": IDENTITY}),
    Variant("gte-score", 59, "new", "NewForSequenceClassification", ONE, "sigmoid", config=GTE_CONFIG, layout=GTE,
            renamed=("gte.", "new.")),
    Variant("gte-ner", 65, "new", "NewForTokenClassification", BIO[:3], config=GTE_CONFIG, layout=GTE,
            renamed=("gte.", "new.")),
    Variant("jina-bert-score", 66, "bert", "JinaBertForSequenceClassification", ONE, "sigmoid", config=JINA_CONFIG,
            tells_labels=False),
    Variant("jina-flash-score", 67, "xlm-roberta", "XLMRobertaForSequenceClassification", ONE, "sigmoid", offset=2,
            config=FLASH_CONFIG, layout=FLASH),
    Variant("qwen3-score", 56, "qwen3", "Qwen3ForSequenceClassification", ONE, "sigmoid", config=QWEN3),
    Variant("qwen2-labels", 57, "qwen2", "Qwen2ForSequenceClassification", ["x", "y", "z"], config=QWEN2),
    Variant("deberta-score", 58, "deberta-v2", "DebertaV2ForSequenceClassification", ONE, "sigmoid", config=DEBERTA),
    Variant("deberta-nli", 59, "deberta-v2", "DebertaV2ForSequenceClassification",
            ["entailment", "neutral", "contradiction"], config=DEBERTA | {"pos_att_type": "p2c|c2p"}),
    Variant("deberta-ner", 60, "deberta-v2", "DebertaV2ForTokenClassification", BIO, config=DEBERTA),
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
    }
    if v.tells_labels:
        document["id2label"] = {str(i): label for i, label in enumerate(v.labels)}
        document["label2id"] = {label: i for i, label in enumerate(v.labels)}
    act = {} if v.model_type in ("distilbert", "modernbert") else {"hidden_act": "gelu"}
    return document | act | v.sizes | v.config


def auto_class(v: Variant):
    if v.modules:
        return transformers.AutoModel
    if v.architecture.endswith("ForTokenClassification"):
        return transformers.AutoModelForTokenClassification
    return transformers.AutoModelForSequenceClassification


def reference_config(v: Variant) -> dict:
    """What transformers is told."""
    document = config(v)
    if v.layout is NATIVE:
        return document
    labels = {name: document[name] for name in ("id2label", "label2id")}
    return {name: value for name, value in v.layout.reference(document).items() if name != "auto_map"} | labels


def random_weights(seed: int, model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Random numbers of the shapes that the model has, in f16."""
    return drawn(seed, {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()})


def drawn(seed: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    out = {}
    for name, shape in shapes.items():
        if "norm.weight" in name.lower():
            mean, std = 1.0, 0.2
        elif len(shape) == 1:
            mean, std = 0.0, 0.15
        else:
            mean, std = 0.0, 0.5 if "embeddings." in name else 1.4 / np.sqrt(shape[1])
        out[name] = (mean + std * rng.standard_normal(shape)).astype(np.float16)
    return out


def jina_weights(v: Variant) -> dict[str, np.ndarray]:
    """Of a class that transformers has no code for."""
    shapes = {f"bert.{name}": shape for name, shape in jina_bert.shapes(config(v)).items()}
    hidden = v.config["hidden_size"]
    shapes |= {"classifier.weight": (len(v.labels), hidden), "classifier.bias": (len(v.labels),)}
    return drawn(v.seed, shapes)


def is_jina(v: Variant) -> bool:
    return v.architecture.startswith("JinaBert")


def write(v: Variant, directory: Path, scratch: Path) -> None:
    """The checkpoint as it is published in `directory`, and as transformers knows it in `scratch`."""
    write_json(directory / "config.json", config(v))
    write_json(scratch / "config.json", reference_config(v))
    if is_jina(v):
        weights = jina_weights(v)
    else:
        weights = random_weights(v.seed, auto_class(v).from_config(transformers.AutoConfig.from_pretrained(scratch)))
    save_file(weights, scratch / "model.safetensors", metadata={"format": "pt"})
    old, new = v.renamed
    published = {name.removeprefix(old): value for name, value in weights.items()}
    outside = {name for name in weights if not name.startswith(old)}
    published = {name if name in outside else new + name: value for name, value in v.layout.publish(published).items()}
    save_file(published, directory / "model.safetensors", metadata={"format": "pt"})
    if v.pipeline is not None:
        write_pipeline(v, directory)


def write_pipeline(v: Variant, directory: Path) -> None:
    write_json(directory / "config_sentence_transformers.json", v.pipeline | {"prompts": {}})
    task, value, output = ("feature-extraction", "last_hidden_state", "token_embeddings") if v.modules else (
        "sequence-classification", "logits", "scores")
    write_json(directory / "sentence_bert_config.json", {
        "transformer_task": task, "module_output_name": output,
        "modality_config": {"text": {"method": "forward", "method_output_name": value}},
    })
    modules = [{"idx": 0, "name": "0", "path": "", "type": ST6 + "transformer.Transformer"}]
    for index, (kind, document) in enumerate(v.modules, 1):
        path = f"{index}_{kind.rsplit('.', 1)[1]}"
        modules.append({"idx": index, "name": str(index), "path": path, "type": kind})
        (directory / path).mkdir()
        write_json(directory / path / "config.json", document)
        if "dimension" in document:
            shapes = {"norm.weight": (document["dimension"],), "norm.bias": (document["dimension"],)}
        elif "in_features" in document:
            shapes = {"linear.weight": (document["out_features"], document["in_features"])}
            shapes |= {"linear.bias": (document["out_features"],)} if document["bias"] else {}
        else:
            continue
        save_file(drawn(v.seed + index, shapes), directory / path / "model.safetensors", metadata={"format": "pt"})
    write_json(directory / "modules.json", modules)


Forward = Callable[[list[int], list[int]], torch.Tensor]


def forward_of(v: Variant, directory: Path, scratch: Path, dtype: torch.dtype) -> Forward:
    """What gives logits of ids and segments."""
    if is_jina(v):
        weights = {name.removeprefix("bert."): value for name, value in stored(directory, dtype).items()}

        def jina(ids: list[int], type_ids: list[int]) -> torch.Tensor:
            first = jina_bert.hidden_states(v.config, weights, ids, type_ids)[0]
            pooled = torch.tanh(weights["pooler.dense.weight"] @ first + weights["pooler.dense.bias"])
            return weights["classifier.weight"] @ pooled + weights["classifier.bias"]

        return jina
    model = auto_class(v).from_pretrained(
        directory if v.layout is NATIVE else scratch, dtype=torch.float32, attn_implementation="eager").to(dtype).eval()
    classes = {"Pooling": Pooling, "Dense": Dense, "LayerNorm": LayerNorm}
    modules = []
    for index, (kind, _) in enumerate(v.modules, 1):
        name = kind.rsplit(".", 1)[1]
        modules.append(classes[name].load(str(directory), subfolder=f"{index}_{name}").to(dtype))

    def forward(ids: list[int], type_ids: list[int]) -> torch.Tensor:
        mask = torch.ones(1, len(ids), dtype=torch.long)
        inputs = {"input_ids": torch.tensor([ids]), "attention_mask": mask}
        if any(type_ids):
            inputs["token_type_ids"] = torch.tensor([type_ids])
        out = model(**inputs)
        if not modules:
            return out.logits[0]
        features = {"token_embeddings": out.last_hidden_state, "attention_mask": mask}
        for module in modules:
            features = module(features)
        return features["scores"][0]

    return forward


def logits(model: Forward, ids: list[int], type_ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(ids, type_ids).double().numpy()


def golden(v: Variant, directory: Path, scratch: Path) -> dict:
    narrow = forward_of(v, directory, scratch, torch.float32)
    # What a language model computes in f32 whatever it is told would hide in the truth.
    with in_f64():
        wide = forward_of(v, directory, scratch, torch.float64)
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
        with tempfile.TemporaryDirectory() as scratch:
            write(v, directory, Path(scratch))
            document = golden(v, directory, Path(scratch))
        (ROOT / f"{v.name}.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
        print(v.name, document["f32_error_max"], sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    main()
