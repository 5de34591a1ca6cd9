"""Makes the tiny models in gliner/, and what the reference finds with them.

    bench/peers/setup.sh
    bench/peers/.venv/bin/pip install --no-deps --target DIR gliner==0.2.29 sentencepiece
    PYTHONPATH=DIR bench/peers/.venv/bin/python tests/golden/make_gliner.py [NAME...]

Weights are random (seeded), in f16, and computed with in f32. Spans are those of `predict_entities`; those of texts of
more words than a model reads at once are what the reference's own greedy search makes of all its windows together. Where
two of the reference's scores are so close that rounding could turn their order, another seed is needed, and asserted.
The format is described in README.md beside this file.
"""

import itertools
import json
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import gliner
import numpy as np
import torch
from gliner.decoding.decoder import Span
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer

ROOT = Path(__file__).parent
MARGIN = 2e-5
WORDS = re.compile(r"\w+(?:[-_]\w+)*|\S")
TEXTS = [
    "Ada Lovelace met Charles Babbage in London.", "", "  ", "x", "São Paulo, 東京 and Zürich 🙂 are cities",
    "U.S.A. (New-York_City 2024-05) paid €5 to ½ of x²!", "a \u200d b 👩\u200d🚀 c\u0301d हिन्दी में लिखा\x1fe",
    "the quick brown fox jumps over the lazy dog, again and again and again",
]
LONG = " ".join(f"{text} {number}." for number, text in enumerate(TEXTS * 2))
LABELS = [["person", "place", "time of day"], ["thing"], [f"kind {number}" for number in range(11)]]
MODERNBERT = {
    "model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"], "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 512, "global_attn_every_n_layers": 3,
    "local_attention": 16, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
}
BERT = {
    "model_type": "bert", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 320, "type_vocab_size": 2,
}

DEBERTA = {
    "model_type": "deberta-v2", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64, "type_vocab_size": 0, "hidden_act": "gelu", "layer_norm_eps": 1e-7,
    "position_biased_input": False, "relative_attention": True, "position_buckets": 16, "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": "p2c|c2p", "pad_token_id": 0,
}


@dataclass(frozen=True)
class Variant:
    """One model: its encoder, what `gliner_config.json` says, and whose tokenizer it has."""

    name: str
    seed: int
    encoder: dict
    tokenizer: str
    config: dict = field(default_factory=dict)
    # The encoder's configuration lies beside `gliner_config.json` and not in it.
    beside: bool = False
    # How far the logits are spread, and how far their middle is below 0, as most spans of a text are none of its names.
    spread: float = 0.4
    below: float = 2.5


VARIANTS = [
    Variant("modernbert", 81, MODERNBERT, "tokenizers/bpe-modernbert.tokenizer.json",
            {"hidden_size": 24, "max_width": 5, "max_len": 40, "num_rnn_layers": 1}),
    Variant("modernbert-bare", 82, MODERNBERT, "tokenizers/bpe-modernbert.tokenizer.json",
            {"hidden_size": 32, "max_width": 3, "max_len": 400, "num_rnn_layers": 0, "embed_ent_token": False,
             "subtoken_pooling": "mean"}, beside=True),
    Variant("bert-last", 83, BERT, "bert/mean/tokenizer.json",
            {"hidden_size": 24, "max_width": 12, "max_len": 60, "has_rnn": True, "subtoken_pooling": "last"}),
    Variant("deberta", 84, DEBERTA, "tokenizers/unigram-deberta-v3.tokenizer.json",
            {"hidden_size": 24, "max_width": 12, "max_len": 384, "has_rnn": True}),
]


def write_json(path: Path, document) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=True) + "\n")


def write_tokenizer(v: Variant, directory: Path) -> int:
    """The tokenizer with the two tokens of GLiNER; returns the number of entries."""
    tok = Tokenizer.from_file(str(ROOT / v.tokenizer))
    tok.no_padding()
    tok.no_truncation()
    tok.add_special_tokens([AddedToken(token, normalized=False) for token in ("[FLERT]", "<<ENT>>", "<<SEP>>")])
    (directory / "tokenizer.json").write_text(tok.to_str() + "\n")
    write_json(directory / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]",
        "model_input_names": ["input_ids", "attention_mask"],
    })
    return tok.get_vocab_size()


def draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random but not small, so that a swapped, missing or transposed tensor shows."""
    if "norm" in name.lower() and name.endswith("weight"):
        mean, std = 1.0, 0.2
    elif len(shape) == 1:
        mean, std = 0.0, 0.15
    else:
        mean, std = 0.0, 0.5 if "embeddings." in name else 1.4 / np.sqrt(shape[1])
    return (mean + std * rng.standard_normal(shape)).astype(np.float16)


def write(v: Variant, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    entries = write_tokenizer(v, directory)
    encoder = v.encoder | {"vocab_size": entries}
    known = {"model_name": "encoder", "span_mode": "markerV0", "vocab_size": entries, "class_token_index": entries - 2,
             "model_type": "gliner", "words_splitter_type": "whitespace", "fuse_layers": False, "labels_encoder": None,
             "ent_token": "<<ENT>>", "sep_token": "<<SEP>>", "post_fusion_schema": "", "num_post_fusion_layers": 1}
    # Written in full for the reference, which would look for the encoder's name on a hub otherwise.
    write_json(directory / "gliner_config.json", known | v.config | {"encoder_config": encoder})
    config = gliner.GLiNERConfig(**json.loads((directory / "gliner_config.json").read_text()))
    empty = gliner.model.UniEncoderSpanModel(gliner.config.UniEncoderSpanConfig(**config.to_dict()))
    rng = np.random.default_rng(v.seed)
    weights = {name: draw(rng, name, tuple(value.shape)) for name, value in empty.state_dict().items()}
    span = "span_rep_layer.span_rep_layer.out_project.3"
    weights[f"{span}.weight"] *= np.float16(v.spread)
    shared = 0.5 * rng.standard_normal(v.config["hidden_size"])
    weights["prompt_rep_layer.3.bias"] = shared.astype(np.float16)
    weights[f"{span}.bias"] = (-v.below / (shared @ shared) * shared).astype(np.float16)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)


def window_bounds(v: Variant, count: int) -> list[tuple[int, int]]:
    """Each shares a quarter with the one before it, and at least as many words as a span has, but at most half."""
    size, bounds, first = v.config["max_len"], [], 0
    while True:
        last = min(first + size, count)
        bounds.append((first, last))
        if last == count:
            return bounds
        words = last - first
        first = last - min(max(v.config["max_width"], words // 4), words // 2)


def readable(model, text: str) -> str:
    """The text with spaces for the words of which its tokenizer leaves nothing: the reference gives their places to the
    words behind them, so that all later spans would stand elsewhere than what they name."""
    tokenizer = model.data_processor.transformer_tokenizer
    for match in WORDS.finditer(text):
        if not tokenizer([match.group()], is_split_into_words=True, add_special_tokens=False)["input_ids"]:
            text = text[: match.start()] + " " * len(match.group()) + text[match.end() :]
    return text


def candidates(model, v: Variant, text: str, labels: list[str]) -> dict[tuple[int, int, int], float]:
    """Every span with every label and its score, the better one where two windows have it: by code points and label."""
    places = [match.span() for match in WORDS.finditer(text)]
    found = {}
    for first, last in window_bounds(v, len(places)) if places else []:
        window = text[places[first][0] : places[last - 1][1]]
        offset = places[first][0]
        prepared = model.prepare_batch([window], labels)
        batch = model.collate_batch(prepared["input_x"], prepared["entity_types"], None)
        scores = torch.sigmoid(model.run_batch(batch)[0])[0]
        own = [(start + offset, end + offset) for start, end in (m.span() for m in WORDS.finditer(window))]
        for start, width, label in itertools.product(range(len(own)), range(scores.shape[1]), range(len(labels))):
            if start + width < len(own):
                key = (own[start][0], own[start + width][1], label)
                found[key] = max(found.get(key, 0.0), scores[start, width, label].item())
    return found


def greedy(model, found, threshold: float, nested: bool, multi: bool, labels: list[str]) -> list[dict]:
    spans = [Span(start, end - 1, labels[label], score) for (start, end, label), score in sorted(found.items())
             if score > threshold]
    kept = model.decoder.greedy_search(spans, not nested, multi_label=multi)
    return [{"start": s.start, "end": s.end + 1, "label": s.entity_type, "score": s.score} for s in kept]


def is_clear(found, threshold: float) -> bool:
    if any(abs(score - threshold) <= MARGIN for score in found.values()):
        return False
    passing = sorted((item for item in found.items() if item[1] > threshold), key=lambda item: -item[1])
    for at, (span, score) in enumerate(passing):
        close = itertools.takewhile(lambda item: score - item[1] <= MARGIN, passing[at + 1 :])
        if any(span[1] > other[0] and other[1] > span[0] for other, _ in close):
            return False
    return True


def rounded(spans: list[dict]) -> list[dict]:
    return [{key: s[key] for key in ("start", "end", "label")} | {"score": float(f"{s['score']:.7g}")} for s in spans]


def threshold_for(found) -> float:
    """The first of some thresholds that no score is close to, above which no order is in doubt, and some spans."""
    wanted = min(4, len(found) // 8)
    some = [threshold for threshold in (0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)
            if sum(score > threshold for score in found.values()) >= wanted]
    grid = [*some, *(round(0.5 + step / 100, 2) for step in range(50))]
    return next(threshold for threshold in grid if is_clear(found, threshold))


def cases(model, v: Variant) -> list[dict]:
    out = []
    for text, labels in [*itertools.product(TEXTS, LABELS), (LONG, LABELS[0]), (LONG, LABELS[2])]:
        original, text = text, readable(model, text)
        found = candidates(model, v, text, labels)
        whole = len(WORDS.findall(text)) <= v.config["max_len"]
        threshold = threshold_for(found)
        for nested, multi in itertools.product((False, True), repeat=2):
            spans = greedy(model, found, threshold, nested, multi, labels)
            if whole:
                reference = model.predict_entities(text, labels, flat_ner=not nested, threshold=threshold, multi_label=multi)
                keys = ("start", "end", "label")
                assert [[s[k] for k in keys] for s in spans] == [[s[k] for k in keys] for s in reference], (text, spans, reference)
                spans = reference
            case = {"text": original, "labels": labels, "threshold": threshold, "nested": nested, "multi_label": multi}
            out.append(case | {"spans": rounded(spans)})
    if len(WORDS.findall(LONG)) > v.config["max_len"]:
        spans = model.predict_entities(readable(model, LONG), LABELS[0], threshold=0.5)
        case = {"text": LONG, "labels": LABELS[0], "threshold": 0.5, "nested": False, "multi_label": False}
        out.append(case | {"truncate": True, "spans": rounded(spans)})
    return out


def main() -> None:
    torch.set_num_threads(1)
    for v in (v for v in VARIANTS if not sys.argv[1:] or v.name in sys.argv[1:]):
        directory = ROOT / "gliner" / v.name
        write(v, directory)
        model = gliner.GLiNER.from_pretrained(str(directory), local_files_only=True).eval()
        document = {"max_len": v.config["max_len"], "cases": cases(model, v)}
        (ROOT / "gliner" / f"{v.name}.json").write_text(json.dumps(document, ensure_ascii=True) + "\n")
        if v.beside:
            path = directory / "gliner_config.json"
            config = json.loads(path.read_text())
            encoder = config.pop("encoder_config")
            # As its own file was before its table grew.
            write_json(directory / "config.json", encoder | {"vocab_size": encoder["vocab_size"] - 3})
            write_json(path, config)
        found = [len(case["spans"]) for case in document["cases"]]
        size = sum(file.stat().st_size for file in directory.iterdir())
        print(v.name, len(found), "cases", sum(found), "spans", size, "bytes", flush=True)


if __name__ == "__main__":
    main()
