"""Random checkpoints of published shapes: Shoal and its peers side by side, on 32 texts of 128 tokens and on the mix.

    bench/peers/setup.sh
    cargo build --release -p shoal-bench
    bench/peers/.venv/bin/python bench/peers/shapes.py [--shapes bert-base,qwen3-0.6b] [--json FILE]

Time does not depend on what weights and words are: nothing is fetched, and the texts are tokenized by the model that
`setup.sh` brings. A checkpoint is made at first use and kept in `.venv/shapes`. Rounds are interleaved and bracketed by
the calibration loop as in `run.py`, and disturbed ones are repeated; ratios are `run.py`'s. On the mix the peers are
torch in both precisions and ONNX Runtime in f32 where the model exports.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

import report
import run
from measure import Calibration, Failed, Shoal, Worker
from worker import texts_of

CACHE = Path(__file__).parent / ".venv" / "shapes"
ROPE = {"rope_type": "default", "rope_theta": 1_000_000.0}
# What a published configuration says beyond the defaults of its class. Vocabularies are cut where they are larger than
# the tokenizer's: a table's size does not change the time.
SHAPES = {
    "bert-base": ("BertConfig", {}),
    "bert-large": ("BertConfig", {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
                                  "intermediate_size": 4096}),
    "roberta-base": ("RobertaConfig", {"max_position_embeddings": 514, "type_vocab_size": 1}),
    "distilbert-base": ("DistilBertConfig", {}),
    "mpnet-base": ("MPNetConfig", {}),
    "modernbert-base": ("ModernBertConfig", {}),
    "deberta-v3-base": ("DebertaV2Config", {
        "vocab_size": 32768, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "relative_attention": True, "position_buckets": 256, "max_relative_positions": -1,
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0,
        "position_biased_input": False, "max_position_embeddings": 512, "layer_norm_eps": 1e-7}),
    "nomic-bert": ("NomicBertConfig", {}),
    "eurobert-210m": ("EuroBertConfig", {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                                         "num_attention_heads": 12, "num_key_value_heads": 12}),
    "qwen3-0.6b": ("Qwen3Config", {
        "vocab_size": 151669, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 32768,
        "rope_parameters": ROPE, "tie_word_embeddings": True,
    }),
}
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
           {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
UNIFORM, MIX = "q128", "mix"
PEERS = {UNIFORM: ["torch-bf16"], MIX: ["torch-bf16", "torch-f32", "ort-f32"]}


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
        (partial / "modules.json").write_text(json.dumps(MODULES))
        (partial / "1_Pooling").mkdir()
        pooling = {"word_embedding_dimension": config.hidden_size, "pooling_mode_mean_tokens": True}
        (partial / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
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


def started(names: list[str], model: Path, threads: int) -> dict:
    """Those peers that can run the model; says which cannot, and why."""
    running = {}
    for name in names:
        worker = Worker(name, model, threads)
        try:
            worker.wait_ready()
            running[name] = worker
        except Failed as error:
            print(f"{model.name}: {name}: not run: {error}", file=sys.stderr)
    return running


def measure(args: argparse.Namespace, shape: str, one: str) -> dict:
    model, texts = checkpoint(shape, args.model), args.texts / f"{one}.jsonl"
    running = started(PEERS[one], model, args.threads)
    running["shoal-bf16"] = Shoal(args.shoal, "shoal-bf16", model, args.threads)
    calibration = Calibration(args.shoal, args.threads)
    try:
        running["shoal-bf16"].wait_ready()
        cosine = agreement({name: running[name] for name in ("torch-bf16", "shoal-bf16")}, texts)
        taken = run.rounds(args, running, calibration, lambda _, engine: figure(engine, texts))
    finally:
        for engine in running.values():
            engine.close()
    ratios = {name: report.ratio(taken["shoal-bf16"], figures, "seconds")
              for name, figures in taken.items() if name != "shoal-bf16"}
    return {"shape": shape, "texts": one, "cosine_min": cosine, "shoal_over": ratios, "rounds": taken,
            "peak": calibration.peak, "calibrations": calibration.values}


def figure(engine: Worker | Shoal, texts: Path) -> dict:
    answer = engine.throughput(texts, 32, runs=1, warmup=0)  # workers are warm by `agreement`
    known = {key: answer[key] for key in ("load_ms", "percent_of_roofline") if key in answer}
    return {"seconds": min(answer["runs_s"])} | known


def show(result: dict) -> str:
    shoal = result["rounds"]["shoal-bf16"]
    roofline, load_ms = (statistics.median(figure[key] for figure in shoal) for key in ("percent_of_roofline", "load_ms"))
    over = ", ".join(f"{ratio:.2f}x {name}" for name, ratio in result["shoal_over"].items())
    return (f"{result['shape']} {result['texts']}: {over}, {roofline:.0f} % of the roofline, loaded in {load_ms:.0f} ms, "
            f"cosine with torch {result['cosine_min']:.6f} at least")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=run.MODEL, help="whose tokenizer is taken")
    parser.add_argument("--texts", type=Path, default=run.HERE.parent / "texts")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--sets", default=",".join(PEERS), help="which texts")
    parser.add_argument("--shoal", type=Path, default=run.ROOT / "target" / "release" / "shoal-bench")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3, help="measured rounds")
    parser.add_argument("--repeats", type=int, default=4, help="rounds more, at most, in place of disturbed ones")
    parser.add_argument("--json", type=Path, help="writes everything measured")
    args = parser.parse_args()
    results = []
    for shape in args.shapes.split(","):
        for one in args.sets.split(","):
            results.append(measure(args, shape, one))
            print(show(results[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
