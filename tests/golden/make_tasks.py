"""Makes the tiny models in tasks/ that are read from text to answer, and what transformers answers.

    bench/peers/setup.sh
    bench/peers/.venv/bin/python tests/golden/make_tasks.py [NAME...]   # all of them without a name

The tokenizer is the one of bert/mean, or tokenizers/unigram-deberta-v3. Weights are random (seeded). Scores are those of `sentence_transformers`'
CrossEncoder, pairs cut by the tokenizer itself (longest first); spans are those of transformers' token classification
pipeline with `aggregation_strategy="simple"`; classes those of its text classification. The format is described in
README.md beside this file.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from make_heads import DEBERTA, random_weights
from safetensors.numpy import save_file
from sentence_transformers import CrossEncoder

ROOT = Path(__file__).parent
TASKS = ROOT / "tasks"
POSITIONS = 64
BIO = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
MODELS = {
    "rerank": (71, "BertForSequenceClassification", ["LABEL_0"]),
    "ner": (72, "BertForTokenClassification", BIO),
    "classes": (73, "BertForSequenceClassification", ["spam", "ham", "neither"]),
    "nli": (74, "BertForSequenceClassification", ["contradiction", "neutral", "entailment"]),
    "rerank-deberta": (75, "DebertaV2ForSequenceClassification", ["LABEL_0"]),
    "ner-deberta": (76, "DebertaV2ForTokenClassification", BIO),
    "nli-deberta": (77, "DebertaV2ForSequenceClassification", ["entailment", "neutral", "contradiction"]),
}
# By the first word of a class: the rest of its configuration, and its tokenizer.
KINDS = {
    "Bert": ({"model_type": "bert", "vocab_size": 570, "type_vocab_size": 2}, "bert/mean/tokenizer.json"),
    "Deberta": ({"model_type": "deberta-v2", "vocab_size": 641} | DEBERTA, "tokenizers/unigram-deberta-v3.tokenizer.json"),
}
QUERY = "where does the river meet the sea?"
DOCUMENTS = [
    "the river", "", "a bank by the river", "The RIVER meets the sea at the harbour.", "naïve café 東京 🙂 x",
    "one two three four five six seven eight nine ten " * 6, "the river",
]
TEXTS = [
    "Ada Lovelace met Charles Babbage in London.", "", "x", "São Paulo, 東京 and Zürich 🙂 are cities",
    "the quick brown fox jumps over the lazy dog, again and again and again", "U.S.A. (New York)",
]


def write_json(path: Path, document) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=True) + "\n")


def kind(architecture: str) -> tuple[dict, str]:
    return next(kind for name, kind in KINDS.items() if architecture.startswith(name))


def config(architecture: str, labels: list[str]) -> dict:
    return kind(architecture)[0] | {
        "architectures": [architecture], "hidden_act": "gelu",
        "max_position_embeddings": POSITIONS, "torch_dtype": "float16", "transformers_version": "4.41.0",
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def write(name: str) -> Path:
    seed, architecture, labels = MODELS[name]
    directory = TASKS / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    write_json(directory / "config.json", config(architecture, labels))
    empty = getattr(transformers, architecture)(transformers.AutoConfig.from_pretrained(directory))
    save_file(random_weights(seed, empty), directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)
    shutil.copy(ROOT / kind(architecture)[1], directory / "tokenizer.json")
    limit = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": POSITIONS,
        # As BertTokenizer has it: without it the second text would be of the first's segment.
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    special = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
    write_json(directory / "tokenizer_config.json", limit | special)
    return directory


def rounded(value: float) -> float:
    return float(f"{value:.9g}")


def tokenizer(directory: Path):
    return transformers.PreTrainedTokenizerFast.from_pretrained(directory)


def scores(name: str) -> None:
    directory = write(name)
    reader = tokenizer(directory)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    cases = []
    for document in DOCUMENTS:
        # A list of pairs, as CrossEncoder gives it: of one pair the library drops an empty text.
        pair = reader([(QUERY, document)], truncation="longest_first", max_length=POSITIONS, return_tensors="pt")
        whole = reader([(QUERY, document)], truncation=False)["input_ids"][0]
        with torch.no_grad():
            logit = model(**{k: v for k, v in pair.items()}).logits[0, 0].double()
        cases.append({
            "text": document, "tokens": pair["input_ids"].shape[1],
            "truncated": len(whole) > POSITIONS, "logit": rounded(logit.item()),
            "score": rounded(torch.sigmoid(logit).item()),
        })
    whole = [c["text"] for c in cases if not c["truncated"]]
    encoder = CrossEncoder(str(directory), device="cpu", model_kwargs={"dtype": torch.float32})
    for document, score in zip(whole, encoder.predict([(QUERY, d) for d in whole], batch_size=1)):
        ours = next(c["score"] for c in cases if c["text"] == document)
        assert abs(float(score) - ours) < 1e-4, (document, score, ours)
    write_json(TASKS / f"{name}.json", {"query": QUERY, "tokens_max": POSITIONS, "cases": cases})


def spans(name: str) -> None:
    directory = write(name)
    model = transformers.AutoModelForTokenClassification.from_pretrained(directory, dtype=torch.float32).eval()
    pipe = transformers.pipeline("ner", model=model, tokenizer=tokenizer(directory), aggregation_strategy="simple", device="cpu")
    cases = []
    for text in TEXTS:
        # The pipeline takes no empty text: its tokens are special ones only, so it has no span.
        found = pipe(text) if text else []
        cases.append({"text": text, "spans": [
            {"start": int(s["start"]), "end": int(s["end"]), "label": s["entity_group"], "score": rounded(float(s["score"]))}
            for s in found
        ]})
    assert sum(len(c["spans"]) for c in cases) > 12
    write_json(TASKS / f"{name}.json", {"cases": cases})


def classes(name: str) -> None:
    directory = write(name)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer(directory), top_k=None, device="cpu")
    cases = [{"text": text, "labels": [
        {"label": c["label"], "score": rounded(c["score"])} for c in pipe([text])[0]
    ]} for text in TEXTS]
    write_json(TASKS / f"{name}.json", {"cases": cases})


def hypotheses(name: str) -> None:
    directory = write(name)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    pipe = transformers.pipeline("zero-shot-classification", model=model, tokenizer=tokenizer(directory), device="cpu")
    asked = [
        (["river", "a, b", "cold water"], None, False), (["river", "a, b", "cold water"], None, True),
        (["river"], None, False), (["river", "boat"], "The text is about {}, is it?", False),
    ]
    cases = []
    # The pipeline takes no empty text, and cuts long ones in front of the hypothesis.
    for text in [text for text in TEXTS if text] + [DOCUMENTS[5]]:
        for labels, template, multi in asked:
            told = {} if template is None else {"hypothesis_template": template}
            found = pipe(text, labels, multi_label=multi, **told)
            cases.append({"text": text, "labels": labels, "hypothesis": template, "multi_label": multi, "scores": [
                {"label": label, "score": rounded(score)} for label, score in zip(found["labels"], found["scores"])
            ]})
    write_json(TASKS / f"{name}.json", {"cases": cases})


if __name__ == "__main__":
    torch.set_num_threads(1)
    ANSWERS = {"rerank": scores, "ner": spans, "classes": classes, "nli": hypotheses}
    for name in sys.argv[1:] or MODELS:
        ANSWERS[name.split("-")[0]](name)
