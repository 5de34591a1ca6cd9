"""Makes the tiny checkpoints in heads/ that answer weights of words or vectors of tokens, and their golden data.

    bench/peers/setup.sh
    bench/peers/.venv/bin/python tests/golden/make_retrieval_heads.py [NAME...]   # all of them without a name

The weights are random (seeded) but not small, so that a swapped, missing or transposed tensor shows. The answers come
from sentence-transformers reading the directories just written, in f64 (f32 beside it, to tell how far apart two right
implementations may be), one text at a time. The format is described in README.md beside this file.
"""

import json
import shutil
import string
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors
import sentence_transformers
import torch
import transformers
import wordpiece
from exact import in_f64
from families_encoder import JINA_V3_FLASH
from layouts import JINA_V3
from make_families import ROBERTA, SIZES, SIZES_DISTIL
from make_heads import random_weights
from safetensors.numpy import save_file
from safetensors.torch import load_file
from sentence_transformers import MultiVectorEncoder, SparseEncoder
from tiny import write_json

ROOT = Path(__file__).parent / "heads"
POSITIONS = 72
DIMS = 24
TEXTS = [
    "a", "The river is cold!", "Where did you put the small blue boat?", "", "hundred, horses; (and) a dog: yes.",
    "If the water is warm then my sister and your mother will swim in the lake near the old town all summer long and "
    "come home before dark when the road is clear and quick to run",
]


@dataclass
class Variant:
    """One checkpoint: its class, and the files around it."""

    name: str
    seed: int
    model_type: str
    architecture: str
    # `splade`, `multivector`, `flash-colbert` or `bge-m3`
    kind: str
    offset: int = 0
    sizes: dict = field(default_factory=lambda: SIZES | {"num_hidden_layers": 1})
    config: dict = field(default_factory=dict)
    pipeline: dict | None = None
    modules: list[tuple[str, dict]] = field(default_factory=list)
    transformer: dict = field(default_factory=dict)
    metadata: dict | None = None
    # Tokens that the vocabulary gains, at its end.
    added: tuple = ()
    untied: bool = False


def splade(strategy: str, activation: str = "relu") -> list[tuple[str, dict]]:
    pooling = {"pooling_strategy": strategy, "activation_function": activation, "word_embedding_dimension": None}
    return [
        ("sentence_transformers.sparse_encoder.models.MLMTransformer", {}),
        ("sentence_transformers.sparse_encoder.models.SpladePooling", pooling),
    ]


OF_VARIANT = {"architectures", "model_type", "vocab_size", "pad_token_id", "max_position_embeddings", "num_hidden_layers"}
ST6, OF_TOKENS = "sentence_transformers.", {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
PROJECTION = {"in_features": 32, "out_features": DIMS, "bias": False,
              "activation_function": "torch.nn.modules.linear.Identity"}
PYLATE = {"model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 24,
          "document_length": 40, "attend_to_expansion_tokens": False, "skiplist_words": list(string.punctuation),
          "do_query_expansion": True}
VARIANTS = [
    Variant("splade-max", 61, "bert", "BertForMaskedLM", "splade", modules=splade("max"),
            pipeline={"model_type": "SparseEncoder"}),
    Variant("splade-sum", 62, "distilbert", "DistilBertForMaskedLM", "splade", sizes=SIZES_DISTIL | {"n_layers": 1},
            config={"activation": "gelu", "sinusoidal_pos_embds": False}, modules=splade("sum"),
            pipeline={"model_type": "SparseEncoder"}),
    Variant("splade-log-6", 63, "bert", "BertForMaskedLM", "splade", pipeline={"model_type": "SparseEncoder"},
            config={"tie_word_embeddings": False}, untied=True, transformer={
                "transformer_task": "fill-mask", "module_output_name": "token_embeddings",
                "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}}},
            modules=[(ST6 + "base.modules.transformer.Transformer", {}),
                     (ST6 + "sparse_encoder.modules.splade_pooling.SpladePooling",
                      {"pooling_strategy": "max", "activation_function": "log1p_relu", "embedding_dimension": None})]),
    Variant("splade-roberta", 64, "roberta", "RobertaForMaskedLM", "splade", offset=1, config=ROBERTA | {"pad_token_id": 0},
            modules=splade("max"), pipeline={"model_type": "SparseEncoder"}),
    Variant("colbert-pylate", 71, "bert", "BertModel", "multivector", added=("[Q] ", "[D] "), pipeline=PYLATE,
            modules=[("sentence_transformers.models.Transformer", {}), ("pylate.models.Dense.Dense", PROJECTION)]),
    Variant("colbert-attend", 72, "bert", "BertModel", "multivector", added=("[Q] ", "[D] "),
            pipeline=PYLATE | {"attend_to_expansion_tokens": True, "skiplist_words": []},
            modules=[("sentence_transformers.models.Transformer", {}), ("pylate.models.Dense.Dense", PROJECTION)]),
    Variant("colbert-stanford", 73, "bert", "HF_ColBERT", "multivector", added=("[unused0]", "[unused1]"),
            metadata={"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 20, "doc_maxlen": 48,
                      "mask_punctuation": True, "attend_to_mask_tokens": False, "dim": DIMS}),
    # jina-colbert-v2: Stanford's layout around XLM-R-flash with rotations.
    Variant("colbert-flash", 76, "xlm-roberta", "HF_ColBERT", "flash-colbert", added=("[QueryMarker]", "[DocumentMarker]"),
            config={name: value for name, value in JINA_V3_FLASH.items() if name not in OF_VARIANT},
            metadata={"query_token_id": "[QueryMarker]", "doc_token_id": "[DocumentMarker]", "query_maxlen": 20,
                      "doc_maxlen": 48, "mask_punctuation": False, "attend_to_mask_tokens": True, "dim": DIMS}),
    Variant("multivector-6", 74, "bert", "BertModel", "multivector",
            pipeline={"model_type": "MultiVectorEncoder", "prompts": {"query": "query: ", "document": ""}},
            transformer={
                "transformer_task": "feature-extraction", "module_output_name": "token_embeddings",
                "query_length": 16, "document_length": 44,
                "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}},
            modules=[(ST6 + "base.modules.transformer.Transformer", {}),
                     (ST6 + "base.modules.dense.Dense", PROJECTION | OF_TOKENS),
                     (ST6 + "multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
                      {"skiplist_words": ["!", "?"], "skiplist_tasks": ["document"], "keep_only_token_ids": None}),
                     (ST6 + "base.modules.normalize.Normalize", OF_TOKENS)]),
    Variant("bge-m3", 75, "xlm-roberta", "XLMRobertaModel", "bge-m3", offset=1, config=ROBERTA | {"pad_token_id": 0},
            modules=[("sentence_transformers.models.Transformer", {}),
                     ("sentence_transformers.models.Pooling", {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}),
                     ("sentence_transformers.models.Normalize", {})]),
]


def write_tokenizer(v: Variant, directory: Path) -> int:
    """Returns the number of entries."""
    wordpiece.write(directory, cased=False, model_max_length=POSITIONS, fixed_padding=None)
    path = directory / "tokenizer.json"
    document = json.loads(path.read_text())
    words = document["model"]["vocab"]
    for token in v.added:
        words[token] = len(words)
        if not token.startswith("[unused"):
            document["added_tokens"].append({
                "id": words[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": False})
    path.write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n")
    (directory / "vocab.txt").unlink()
    if v.kind == "bge-m3":
        path = directory / "tokenizer_config.json"
        write_json(path, json.loads(path.read_text()) | {"eos_token": "[SEP]"})
    return len(words)


def write(v: Variant, directory: Path) -> None:
    words = write_tokenizer(v, directory)
    document = {
        "architectures": [v.architecture], "model_type": v.model_type, "vocab_size": words, "pad_token_id": 0,
        "max_position_embeddings": POSITIONS + v.offset, "torch_dtype": "float16", "transformers_version": "4.48.0",
    }
    act = {} if v.model_type == "distilbert" else {"hidden_act": "gelu"}
    write_json(directory / "config.json", document | act | v.sizes | v.config)
    config = reference_config(v, directory)
    auto = transformers.AutoModelForMaskedLM if v.kind == "splade" else transformers.AutoModel
    weights = random_weights(v.seed, auto.from_config(config))
    if not v.untied:
        weights = {name: value for name, value in weights.items() if "decoder" not in name and name != "vocab_projector.weight"}
    if v.metadata is not None:
        rng = np.random.default_rng(v.seed + 1)
        if v.kind == "flash-colbert":
            weights = {f"roberta.{name}": value for name, value in JINA_V3.publish(weights).items()}
        else:
            weights = {f"bert.{name}": value for name, value in weights.items()}
        weights["linear.weight"] = (0.3 * rng.standard_normal((DIMS, 32))).astype(np.float16)
        write_json(directory / "artifact.metadata", v.metadata)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    if v.kind == "bge-m3":
        rng = np.random.default_rng(v.seed + 1)
        for name, rows, mean in (("sparse_linear", 1, 0.4), ("colbert_linear", 32, 0.0)):
            weight = (0.3 * rng.standard_normal((rows, 32))).astype(np.float16)
            bias = (mean + 0.1 * rng.standard_normal(rows)).astype(np.float16)
            save_file({"weight": weight, "bias": bias}, directory / f"{name}.safetensors", metadata={"format": "pt"})
    write_pipeline(v, directory)


def reference_config(v: Variant, directory: Path) -> transformers.PreTrainedConfig:
    """What transformers is told."""
    if v.kind != "flash-colbert":
        return transformers.AutoConfig.from_pretrained(directory)
    with tempfile.TemporaryDirectory() as scratch:
        write_json(Path(scratch) / "config.json", JINA_V3.reference(json.loads((directory / "config.json").read_text())))
        return transformers.AutoConfig.from_pretrained(scratch)


def write_pipeline(v: Variant, directory: Path) -> None:
    if v.pipeline is not None:
        write_json(directory / "config_sentence_transformers.json", v.pipeline)
    if not v.modules:
        return
    # What sentence-transformers 5 limits comes from its own file, else from the tokenizer's.
    write_json(directory / "sentence_bert_config.json", v.transformer or {"max_seq_length": POSITIONS, "do_lower_case": False})
    modules = []
    for index, (kind, config) in enumerate(v.modules):
        path = f"{index}_{kind.rsplit('.', 1)[1]}" if index else ""
        modules.append({"idx": index, "name": str(index), "path": path, "type": kind})
        if index:
            (directory / path).mkdir()
            write_json(directory / path / "config.json", config)
        if "in_features" in config:
            rng = np.random.default_rng(v.seed + index)
            # sentence-transformers reads it in the encoder's f16.
            weight = (0.3 * rng.standard_normal((config["out_features"], config["in_features"]))).astype(np.float16)
            weight = weight.astype(np.float32)
            save_file({"linear.weight": weight}, directory / path / "model.safetensors", metadata={"format": "pt"})
    write_json(directory / "modules.json", modules)


def twelve(values) -> list[float]:
    return [float(f"{x:.12g}") for x in np.asarray(values).reshape(-1)]


def golden_sparse(directory: Path) -> tuple[list[dict], float]:
    narrow, wide = (SparseEncoder(str(directory), device="cpu").to(dtype) for dtype in (torch.float32, torch.float64))
    cases, error = [], 0.0
    for text in TEXTS:
        ids = wide.tokenizer(text)["input_ids"]
        rows = [model.encode([text], convert_to_sparse_tensor=False)[0].double().numpy() for model in (narrow, wide)]
        error = max(error, np.abs(rows[0] - rows[1]).max())
        indices = np.flatnonzero(rows[1])
        cases.append({"text": text, "ids": ids, "indices": indices.tolist(), "values": twelve(rows[1][indices])})
    return cases, error


def golden_multivector(directory: Path) -> tuple[list[dict], float]:
    narrow, wide = (MultiVectorEncoder(str(directory), device="cpu").to(dtype) for dtype in (torch.float32, torch.float64))
    cases, error = [], 0.0
    for task in ("query", "document"):
        for text in TEXTS:
            features = wide.preprocess([text], prompt=wide.prompts.get(task), task=task)
            ids, seen = features["input_ids"][0].tolist(), int(features["attention_mask"][0].sum())
            vectors = [
                np.asarray(getattr(model, f"encode_{task}")([text], convert_to_numpy=False)[0].double())
                for model in (narrow, wide)
            ]
            error = max(error, np.abs(vectors[0] - vectors[1]).max())
            cases.append({"task": task, "text": text, "ids": ids, "seen": seen, "rows": len(vectors[1]),
                          "vectors": twelve(vectors[1])})
    return cases, error


def golden_flash_colbert(directory: Path) -> tuple[list[dict], float]:
    """Stanford's preparation of texts (Khattab and Zaharia 2020): the marker behind the first token, queries filled up with
    masks, which are seen; then its projection of every token, scaled to length 1."""
    v = next(v for v in VARIANTS if v.name == directory.name)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    marker = [tokenizer.convert_tokens_to_ids(token) for token in v.added]
    mask = wordpiece.SPECIALS.index("[MASK]")
    with tempfile.TemporaryDirectory() as scratch:
        reference_config(v, directory).save_pretrained(scratch)
        linear = load_file(directory / "model.safetensors").pop("linear.weight")
        shutil.copy(directory / "model.safetensors", scratch)
        load = transformers.AutoModel.from_pretrained
        narrow = load(scratch, dtype=torch.float32, attn_implementation="eager").eval()
        with in_f64():
            wide = load(scratch, dtype=torch.float32, attn_implementation="eager").to(torch.float64).eval()

    def vectors(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
            rows = torch.nn.functional.linear(hidden, linear.to(hidden.dtype))
            return torch.nn.functional.normalize(rows, dim=-1).double().numpy()

    cases, error = [], 0.0
    for task, length, own in (("query", v.metadata["query_maxlen"], marker[0]), ("document", v.metadata["doc_maxlen"], marker[1])):
        for text in TEXTS:
            first, *rest, last = tokenizer(text)["input_ids"]
            ids = [first, own, *rest[: length - 3], last]
            ids += [mask] * (length - len(ids)) if task == "query" else []
            with in_f64():
                truth = vectors(wide, ids)
            error = max(error, np.abs(vectors(narrow, ids) - truth).max())
            cases.append({"task": task, "text": text, "ids": ids, "seen": len(ids), "rows": len(ids), "vectors": twelve(truth)})
    return cases, error


def bge_m3(directory: Path, ids: list[int], dtype: torch.dtype) -> tuple[np.ndarray, dict, np.ndarray]:
    """BGE-M3's three answers, as its paper (Chen et al. 2024) and the published FlagEmbedding describe them: the first
    token's hidden state scaled to length 1; for each word the greatest `relu` of a projection, without the tokens that
    begin, end, fill up or are unknown; a projection of every token but the first, scaled to length 1."""
    load = transformers.AutoModel.from_pretrained
    model = load(directory, dtype=torch.float32, attn_implementation="eager").to(dtype).eval()
    heads = {name: {key: value.to(dtype) for key, value in load_file(directory / f"{name}.safetensors").items()}
             for name in ("sparse_linear", "colbert_linear")}
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        dense = torch.nn.functional.normalize(hidden[0], dim=-1)
        weights = torch.relu(torch.nn.functional.linear(hidden, **heads["sparse_linear"]))[:, 0].double().numpy()
        vectors = torch.nn.functional.linear(hidden[1:], **heads["colbert_linear"])
        vectors = torch.nn.functional.normalize(vectors, dim=-1).double().numpy()
    unused = {wordpiece.SPECIALS.index(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")}
    words: dict[int, float] = {}
    for token, weight in zip(ids, weights.tolist()):
        if token not in unused and weight > words.get(token, 0.0):
            words[token] = weight
    return dense.double().numpy(), dict(sorted(words.items())), vectors


def golden_bge_m3(directory: Path) -> tuple[list[dict], float]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    cases, error = [], 0.0
    for text in [*TEXTS, "river river, cold river"]:
        ids = tokenizer(text)["input_ids"]
        narrow, (dense, words, vectors) = (bge_m3(directory, ids, dtype) for dtype in (torch.float32, torch.float64))
        spread = [np.array([row.get(token, 0.0) for token in ids]) for row in (narrow[1], words)]
        pairs = [(narrow[0], dense), tuple(spread), (narrow[2], vectors)]
        error = max([error, *(np.abs(a - b).max() for a, b in pairs)])
        cases.append({"text": text, "ids": ids, "dense": twelve(dense), "indices": list(words),
                      "values": twelve(list(words.values())), "rows": len(vectors), "vectors": twelve(vectors)})
    return cases, error


def main() -> None:
    torch.set_num_threads(1)
    for v in (v for v in VARIANTS if not sys.argv[1:] or v.name in sys.argv[1:]):
        directory = ROOT / v.name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        write(v, directory)
        makers = {"splade": golden_sparse, "multivector": golden_multivector, "bge-m3": golden_bge_m3,
                  "flash-colbert": golden_flash_colbert}
        cases, error = makers[v.kind](directory)
        packages = (torch, transformers, sentence_transformers, safetensors, np)
        document = {"tokens_max": POSITIONS, "f32_error_max": float(f"{error:.3g}"),
                    "made_by": {package.__name__: package.__version__ for package in packages}, "cases": cases}
        (ROOT / f"{v.name}.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
        print(v.name, document["f32_error_max"], [case.get("rows", len(case.get("indices", []))) for case in cases])


if __name__ == "__main__":
    main()
