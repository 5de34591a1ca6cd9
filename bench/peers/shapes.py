"""Random checkpoints of published shapes: torch and Shoal side by side on 32 texts of 128 tokens.

    bench/peers/setup.sh
    cargo build --release -p shoal-bench
    bench/peers/.venv/bin/python bench/peers/shapes.py [--shapes modernbert-base,qwen3-0.6b] [--json FILE]

Time does not depend on what weights and words are: nothing is fetched, and the texts are tokenized by the model that
`setup.sh` brings. A checkpoint is made at first use and kept in `.venv/shapes`. Rounds are interleaved and bracketed by
the calibration loop as in `run.py`, and disturbed ones are repeated; the ratio is `run.py`'s.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np

import report
import run
from measure import Calibration, Shoal, Worker
from worker import texts_of

CACHE = Path(__file__).parent / ".venv" / "shapes"
SHAPES = {
    "modernbert-base": ("ModernBertConfig", {}),
    "qwen3-0.6b": ("Qwen3Config", {
        "vocab_size": 151669, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}, "tie_word_embeddings": True,
    }),
    "deberta-v3-base": ("DebertaV2Config", {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
        "pos_att_type": "p2c|c2p", "position_biased_input": False,
    }),
}


def checkpoint(shape: str, tokenizer: Path) -> Path:
    """The directory of a random model in bf16 with another model's tokenizer."""
    directory = CACHE / shape
    if not directory.exists():
        import torch
        import transformers

        name, fields = SHAPES[shape]
        torch.manual_seed(1)
        config = getattr(transformers, name)(**fields)
        partial = CACHE / f"partial-{shape}"
        transformers.AutoModel.from_config(config, dtype=torch.bfloat16).save_pretrained(partial)
        shutil.copy(tokenizer / "tokenizer.json", partial)
        limits = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, "pad_token": "[PAD]",
                  "model_input_names": ["input_ids", "attention_mask"]}
        (partial / "tokenizer_config.json").write_text(json.dumps(limits))
        partial.rename(directory)
    return directory


def agreement(running: dict, texts: Path) -> float:
    """The smallest cosine between the vectors of two engines."""
    with tempfile.TemporaryDirectory() as scratch:
        sides = []
        for name, engine in running.items():
            vectors = Path(scratch) / name
            engine.throughput(texts, 32, runs=1, warmup=0, vectors=vectors)
            side = np.fromfile(vectors, "<f4").astype(np.float64).reshape(len(texts_of(str(texts))), -1)
            sides.append(side / np.linalg.norm(side, axis=1, keepdims=True))
    return float((sides[0] * sides[1]).sum(1).min())


def measure(args: argparse.Namespace, shape: str) -> dict:
    model, texts = checkpoint(shape, args.model), args.texts / "q128.jsonl"
    running = {"torch-bf16": Worker("torch-bf16", model, args.threads),
               "shoal-bf16": Shoal(args.shoal, "shoal-bf16", model, args.threads)}
    calibration = Calibration(args.shoal, args.threads)
    try:
        for engine in running.values():
            engine.wait_ready()
        cosine = agreement(running, texts)
        taken = run.rounds(args, running, calibration, lambda _, engine: figure(engine, texts))
    finally:
        for engine in running.values():
            engine.close()
    ratio = report.ratio(taken["shoal-bf16"], taken["torch-bf16"], "seconds")
    return {"shape": shape, "cosine_min": cosine, "shoal_over_torch": ratio, "rounds": taken,
            "peak": calibration.peak, "calibrations": calibration.values}


def figure(engine: Worker | Shoal, texts: Path) -> dict:
    answer = engine.throughput(texts, 32, runs=2, warmup=1)
    known = {key: answer[key] for key in ("load_ms", "percent_of_roofline") if key in answer}
    return {"seconds": min(answer["runs_s"])} | known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=run.MODEL, help="whose tokenizer is taken")
    parser.add_argument("--texts", type=Path, default=run.HERE.parent / "texts")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--shoal", type=Path, default=run.ROOT / "target" / "release" / "shoal-bench")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3, help="measured rounds")
    parser.add_argument("--repeats", type=int, default=4, help="rounds more, at most, in place of disturbed ones")
    parser.add_argument("--json", type=Path, help="writes everything measured")
    args = parser.parse_args()
    results = [measure(args, shape) for shape in args.shapes.split(",")]
    for result in results:
        shoal = result["rounds"]["shoal-bf16"]
        roofline = statistics.median(figure["percent_of_roofline"] for figure in shoal)
        load_ms = statistics.median(figure["load_ms"] for figure in shoal)
        print(f"{result['shape']}: {result['shoal_over_torch']:.2f} of torch bf16, {roofline:.0f} % of the roofline, "
              f"loaded in {load_ms:.0f} ms, cosine with torch {result['cosine_min']:.6f} at least")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
