"""Makes tasks/long.json: what texts longer than bert/mean takes give in chunks.

    bench/peers/setup.sh
    bench/peers/.venv/bin/python tests/golden/make_long.py

The hidden states are those of transformers in f64. The windows, the weighted mean of their vectors and the means of
stretches of one pass (late chunking, Guenther et al. 2024) are written out here. The format is described in README.md
beside this file.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

ROOT = Path(__file__).parent
MODEL = ROOT / "bert/mean"
LIMIT, SPECIAL = 48, 2
LONG = "the river runs to the old town where my sister keeps a small blue boat and two horses by the cold water . " * 4
TEXTS = ["the river", "", "naïve café by the river 🙂 " * 9, LONG]
PROMPT = "query"
# Tokens of a chunk and how many it shares; None: as many as the model takes.
WINDOWS = [(None, 0), (20, 0), (20, 10), (1, 0)]
STRETCHES = [(None, 0), (8, 0), (8, 3)]


def windows(count: int, tokens: int, overlap: int) -> list[range]:
    starts, step = [0], tokens - overlap
    while starts[-1] + tokens < count:
        starts.append(starts[-1] + step)
    return [range(start, min(start + tokens, count)) for start in starts]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(np.linalg.norm(vector), 1e-12)


class Model:
    def __init__(self):
        self.tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(MODEL / "tokenizer.json"))
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.backend_tokenizer.no_padding()
        self.model = transformers.AutoModel.from_pretrained(MODEL, dtype=torch.float64, attn_implementation="eager").eval()
        self.first, self.last = self.tokenizer.backend_tokenizer.encode("").ids

    def read(self, text: str):
        """Ids without special tokens, and their places."""
        encoding = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def states(self, ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            ids = torch.tensor([[self.first, *ids, self.last]])
            return self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].numpy()

    def vector(self, ids: list[int]) -> np.ndarray:
        return unit(self.states(ids).mean(0))


def mean_case(model: Model, prompt: str, text: str, tokens: int | None, overlap: int) -> dict:
    ids, (before, _) = model.read(text)[0], model.read(prompt)
    room = LIMIT - SPECIAL - len(before)
    tokens_used = min(room, tokens or room)
    if len(ids) <= tokens_used:
        whole, seen = model.read(prompt + text)[0], 0
        vector, seen = model.vector(whole), len(whole) + SPECIAL
    else:
        parts = [[ids[at] for at in window] for window in windows(len(ids), tokens_used, overlap)]
        vectors = [len(part) * model.vector(before + part) for part in parts]
        vector = unit(sum(vectors) / sum(len(part) for part in parts))
        seen = sum(len(part) + len(before) + SPECIAL for part in parts)
    return {"text": text, "tokens": tokens, "overlap": overlap, "seen": seen, "vector": digits(vector)}


def late_case(model: Model, prompt: str, text: str, tokens: int | None, overlap: int) -> dict:
    ids, offsets = model.read(prompt + text)
    states = model.states(ids)[1:-1]
    own = [at for at, (_, end) in enumerate(offsets) if end > len(prompt)]
    chunks = []
    for window in windows(len(own), tokens or max(len(own), 1), overlap) if own else []:
        rows = [own[at] for at in window]
        place = (max(offsets[rows[0]][0] - len(prompt), 0), offsets[rows[-1]][1] - len(prompt))
        chunks.append({"start": place[0], "end": place[1], "vector": digits(unit(states[rows].mean(0)))})
    return {"text": text, "tokens": tokens, "overlap": overlap, "chunks": chunks}


def digits(vector: np.ndarray) -> list[float]:
    return [float(f"{x:.12g}") for x in vector]


def main() -> None:
    torch.set_num_threads(1)
    model = Model()
    prompt = json.loads((MODEL / "config_sentence_transformers.json").read_text())["prompts"][PROMPT]
    mean = [mean_case(model, prompt, text, *window) for text in TEXTS for window in WINDOWS]
    fitting = [text for text in TEXTS if len(model.read(prompt + text)[0]) <= LIMIT - SPECIAL] + [LONG[:120]]
    late = [late_case(model, prompt, text, *window) for text in fitting for window in STRETCHES]
    document = {"prompt_name": PROMPT, "mean": mean, "late": late}
    (ROOT / "tasks/long.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
    print(len(mean), len(late), [case["seen"] for case in mean], [len(case["chunks"]) for case in late])


if __name__ == "__main__":
    main()
