"""Makes minilm/: what sentence-transformers answers for 200 texts with the real all-MiniLM-L6-v2.

    bench/peers/setup.sh
    bench/peers/.venv/bin/python tests/golden/make_minilm.py --model DIR

DIR is a directory in Hugging Face layout; its weights' hash is checked. The format is described in README.md.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import sentence_transformers
import tokenizers
import torch
import transformers
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from minilm_texts import texts

OUT = Path(__file__).parent / "minilm"
TOKENS_MAX = 256
MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(directory: Path, dtype: torch.dtype) -> SentenceTransformer:
    arguments = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = SentenceTransformer(str(directory), device="cpu", model_kwargs=arguments).to(dtype)
    model.max_seq_length = TOKENS_MAX
    return model


def clean_tokenizer(directory: Path) -> Tokenizer:
    """The model's tokenizer without the truncation (128) and Fixed padding (128) that its file carries."""
    tok = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tok.no_truncation()
    tok.no_padding()
    return tok


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    directory = parser.parse_args().model
    weights = sha256(directory / "model.safetensors")
    assert weights == MODEL_SHA256, f"{directory} is not the checkpoint that these vectors belong to: {weights}"
    torch.set_num_threads(2)
    model, wide, tok = load(directory, torch.float32), load(directory, torch.float64), clean_tokenizer(directory)

    lines, vectors, error = [], [], 0.0
    for note, text in texts():
        # One text at a time: nothing is padded, so the answer depends on the text alone.
        features = model.preprocess([text])
        ids, full = features["input_ids"][0].tolist(), tok.encode(text).ids
        assert ids == (full if len(full) <= TOKENS_MAX else full[: TOKENS_MAX - 1] + full[-1:]), (note, text)
        assert not features["token_type_ids"].any() and features["attention_mask"].all()
        assert not note.endswith(" tokens") or len(full) == int(note.split()[0]), (note, len(full))
        vector = model.encode([text], convert_to_numpy=True)[0]
        error = max(error, float(np.abs(vector - wide.encode([text])[0]).max()))
        assert vector.dtype == np.float32 and abs(np.linalg.norm(vector.astype(np.float64)) - 1) < 1e-6
        vectors.append(vector)
        lines.append({"text": text, "note": note, "tokens": len(ids), "tokens_untruncated": len(full),
                      "truncated": len(full) > TOKENS_MAX, "ids": ids})

    OUT.mkdir(exist_ok=True)
    with open(OUT / "texts.jsonl", "w", encoding="utf-8") as file:
        for line in lines:
            # Escaped, so that control and bidirectional characters cannot hide in the file.
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    np.stack(vectors).astype("<f4").tofile(OUT / "vectors.f32")
    packages = [torch, transformers, sentence_transformers, tokenizers, np]
    meta = {
        "model": "all-MiniLM-L6-v2",
        "sha256": {"model.safetensors": weights, "tokenizer.json": sha256(directory / "tokenizer.json")},
        "texts": len(lines), "dims": 384, "tokens_max": TOKENS_MAX, "tokens": sum(line["tokens"] for line in lines),
        "f32_error_max": float(f"{error:.3g}"),
        "made_by": {package.__name__: package.__version__ for package in packages},
    }
    (OUT / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(json.dumps(meta, indent=1))


if __name__ == "__main__":
    main()
