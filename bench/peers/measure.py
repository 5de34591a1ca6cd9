"""Processes that are measured (peers' workers and shoal-bench), the calibration loop, and the reference vectors."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import graphs
from worker import texts_of

HERE = Path(__file__).parent
START_S_MAX = 300
SHOAL = {"shoal-auto": "auto", "shoal-f32": "f32", "shoal-f16": "f16", "shoal-bf16": "bf16"}


class Failed(Exception):
    """A measured process ended or answered something else; says which one and where its log is."""


class Worker:
    """A peer in its own process; asleep between requests."""

    def __init__(self, engine: str, model: Path, threads: int):
        self.name = engine
        self.log = tempfile.NamedTemporaryFile("w+", suffix=f"-{engine}.log", delete=False)
        command = [sys.executable, HERE / "worker.py", "--engine", engine, "--model", model, "--threads", str(threads)]
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "true", "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                        text=True, env=environment)
        self.executes = ""

    def wait_ready(self) -> None:
        self.executes = self.answer()["executes"]

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name} ended (exit {self.process.wait()}); see {self.log.name}")
        return json.loads(line)

    def ask(self, request: dict) -> dict:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def throughput(self, texts: Path, batch: int, runs: int, warmup: int, vectors: Path | None = None) -> dict:
        return self.ask({"op": "throughput", "texts": str(texts), "batch": batch, "runs": runs, "warmup": warmup,
                         "vectors": vectors and str(vectors)})

    def latency(self, texts: Path, runs: int, warmup: int) -> dict:
        return self.ask({"op": "latency", "texts": str(texts), "runs": runs, "warmup": warmup})

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        os.unlink(self.log.name)


class Shoal:
    """shoal-bench, one process a request: it loads the model anew, outside of what it measures."""

    batches = [0]  # it chooses its own batches

    def __init__(self, binary: Path, engine: str, model: Path, threads: int):
        self.name, self.dtype = engine, SHOAL[engine]
        self.command = [str(binary), "embed", "--model", str(model), "--dtype", self.dtype,
                        "--threads", str(threads), "--json"]
        self.executes = ""

    def wait_ready(self) -> None:
        """Fails where this machine does not offer the dtype."""
        self.latency(HERE.parent / "texts" / "q16.jsonl", runs=1, warmup=0)

    def run(self, *arguments) -> dict:
        answer = json_of(self.command + [str(a) for a in arguments])
        self.executes = f"{answer.get('device', '?')} {answer.get('dtype', '?')}"
        return answer

    def throughput(self, texts: Path, batch: int, runs: int, warmup: int, vectors: Path | None = None) -> dict:
        out = ["--vectors-out", vectors] if vectors else []
        # A fresh process needs a warm-up run even where a worker that lives on does not.
        return self.run("--texts", texts, "--runs", runs, "--warmup", max(1, warmup), *out)

    def latency(self, texts: Path, runs: int, warmup: int) -> dict:
        return self.run("--texts", texts, "--latency-runs", runs, "--warmup", max(20, warmup))

    def close(self) -> None:
        pass


def json_of(command: list[str]) -> dict:
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S_MAX)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


class Calibration:
    """How fast the machine is at this moment, in GFLOP/s of f32: two virtual cores may be one physical core for seconds
    to minutes, and everything measured then is halved."""

    def __init__(self, shoal: Path | None, threads: int):
        self.values, self.peak = [], {}
        self.command = shoal and [str(shoal), "calibrate", "--threads", str(threads), "--json", "--millis"]
        self.loop = "register-only f32 loop of shoal-bench"
        try:
            self.measure_peak()
        except (Failed, ValueError, OSError) as error:
            print(f"calibrate: {error}", file=sys.stderr)
            self.command = None
        if self.command is None:
            self.loop = "numpy f32 matrix product of 768x768"
            rng = np.random.default_rng(1)
            self.a, self.b = rng.standard_normal((2, 768, 768), np.float32)
            self.out = np.empty_like(self.a)

    def measure(self) -> float:
        time.sleep(0.03)  # lets the threads of the process measured before fall asleep
        value = self.register_loop() if self.command else self.matmul()
        self.values.append(value)
        return value

    def measure_peak(self) -> None:
        """Every precision's peak: the best at any time, since a moment's peak may be a disturbed one."""
        if self.command is None:
            return
        for name, value in json_of(self.command + ["200"]).items():
            if isinstance(value, float):
                self.peak[name] = max(value, self.peak.get(name, 0.0))

    def register_loop(self) -> float:
        value = float(json_of(self.command + ["40", "--kind", "f32"])["f32_gflops"])
        self.peak["f32_gflops"] = max(value, self.peak["f32_gflops"])
        return value

    def matmul(self) -> float:
        best, end = 0.0, time.perf_counter() + 0.05
        while (start := time.perf_counter()) < end:
            np.matmul(self.a, self.b, out=self.out)
            best = max(best, 2 * 768**3 / (time.perf_counter() - start) / 1e9)
        return best


def reference(model: Path, texts: Path, threads: int) -> np.ndarray:
    """Vectors of sentence-transformers in f32, one text at a time; kept beside the graphs."""
    key = hashlib.sha256(texts.read_bytes() + graphs.model_hash(model).encode()).hexdigest()[:16]
    path = graphs.CACHE / f"reference-{key}.f32"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        worker = Worker("torch-f32", model, threads)
        worker.wait_ready()
        worker.throughput(texts, batch=1, runs=1, warmup=0, vectors=path)
        worker.close()
    return np.fromfile(path, "<f4").reshape(len(texts_of(str(texts))), -1)


def parity(vectors: Path, expected: np.ndarray) -> dict:
    """Cosine against the reference, each text; what is not normalised is normalised in f64 first."""
    got = np.fromfile(vectors, "<f4").astype(np.float64).reshape(expected.shape)
    want = expected.astype(np.float64)
    cosine = (got * want).sum(1) / (np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1))
    return {"cosine_min": float(cosine.min()), "cosine_mean": float(cosine.mean())}
