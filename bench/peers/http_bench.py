"""Shoal's HTTP port against ONNX Runtime f32 in process, on the same cores and in the same run.

    cargo build --release -p shoal -p shoal-bench
    bench/peers/.venv/bin/python bench/peers/http_bench.py [--json FILE]

One short text per request. Closed loop: so many keep-alive connections, each sending its next request when the last one
is answered. Then an open loop: requests at fixed times, latency from the intended time, at parts of the closed rate.
The load generator is `shoal-bench http` and shares the cores with the server.
"""

import argparse
import json
import select
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import run
from measure import START_S_MAX, Calibration, Failed, Worker, json_of
from worker import texts_of

RIVAL = "ort-f32"
STOP_S_MAX = 30


class Server:
    """`shoal serve` of one dtype on a port of its own choice; idle while others are measured."""

    def __init__(self, binary: Path, model: Path, dtype: str, threads: int):
        self.name = f"shoal-http-{dtype}"
        self.data = tempfile.TemporaryDirectory()
        self.log = tempfile.NamedTemporaryFile("w+", suffix=f"-{self.name}.log", delete=False)
        command = [binary, "serve", "--http", "127.0.0.1:0", "--preload", model, "--dtype", dtype,
                   "--threads", str(threads), "--data", self.data.name]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        ready, _, _ = select.select([self.process.stdout], [], [], START_S_MAX)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self.close()
            raise Failed(f"{self.name} did not become ready; see {self.log.name}")
        self.ready = json.loads(line)
        self.url = f"http://{self.ready['http']}/v1/embeddings"
        self.model = model.resolve().name

    def load(self, bench: Path, texts: Path, *arguments) -> dict:
        command = [bench, "http", "--url", self.url, "--model", self.model, "--texts", texts, "--json", *arguments]
        return json_of([str(part) for part in command])

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.data.cleanup()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    release = run.ROOT / "target" / "release"
    parser.add_argument("--model", type=Path, default=run.MODEL)
    parser.add_argument("--texts", type=Path, default=run.HERE.parent / "texts" / "short.jsonl")
    parser.add_argument("--shoal", type=Path, default=release / "shoal-bench", help="the load generator")
    parser.add_argument("--node", type=Path, default=release / "shoal", help="the server")
    parser.add_argument("--dtypes", default="auto,f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="0.25,0.5,0.7,0.85", help="of the closed loop's rate, for the open loop")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def closed_loop(args: argparse.Namespace, servers: list[Server], rival: Worker, calibration: Calibration) -> dict:
    """{name: rounds}, interleaved; the rival embeds the whole set once a round at its best batch size."""
    count = len(texts_of(str(args.texts)))
    sizes = [int(size) for size in run.BATCHES.split(",")]
    batch = min(sizes, key=lambda size: rival.throughput(args.texts, size, runs=1, warmup=1)["runs_s"][0])
    taken = {name: [] for name in [rival.name, *(s.name for s in servers)]}
    for _ in range(args.rounds):
        before = calibration.measure()
        for name in taken:
            server = next((s for s in servers if s.name == name), None)
            if server is None:
                seconds = statistics.median(rival.throughput(args.texts, batch, runs=3, warmup=0)["runs_s"])
                figure = {"requests_per_s": count / seconds, "batch": batch}
            else:
                figure = server.load(args.shoal, args.texts, "--connections", args.connections,
                                     "--seconds", args.seconds)
                if figure["errors"]:
                    raise Failed(f"{name}: {figure['errors']} of {figure['requests']} requests failed")
            after = calibration.measure()
            taken[name].append(figure | {"calibration": min(before, after)})
            before = after
    return taken


def open_loop(args: argparse.Namespace, server: Server, rate: float) -> list[dict]:
    rates = ",".join(str(round(rate * float(part), 1)) for part in args.parts.split(","))
    return server.load(args.shoal, args.texts, "--rate", rates, "--seconds", args.seconds)["points"]


def table(document: dict) -> str:
    rival = document["rates"][RIVAL]
    lines = [f"one short text per request, {document['connections']} connections; "
             f"{RIVAL} in process {rival:.0f} texts/s"]
    for name, rounds in document["closed"].items():
        if name == RIVAL:
            continue
        p50, p99 = (statistics.median(r[p] for r in rounds) / 1e3 for p in ("p50_us", "p99_us"))
        rate = document["rates"][name]
        lines.append(f"  {name}: {rate:.0f} requests/s ({rate / rival:.2f}x), p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
                     f"peak {document['peak_bytes'][name] / 1e6:.0f} MB")
        lines.append(f"    open loop {'rate/s':>7} {'got/s':>7} {'shed':>5} {'errors':>6} {'p50 ms':>8} {'p99 ms':>8} "
                     f"{'max ms':>8}")
        for p in document["open"][name]:
            lines.append(f"              {p['rate']:7.0f} {p['achieved_per_s']:7.0f} {p['shed']:5} {p['errors']:6} "
                         f"{p['p50_us'] / 1e3:8.2f} {p['p99_us'] / 1e3:8.2f} {p['max_us'] / 1e3:8.2f}")
    worst = min(r["calibration"] for rounds in document["closed"].values() for r in rounds)
    lines.append(f"  calibration: worst {worst / document['about']['calibration']['best_gflops']:.2f} of the best")
    return "\n".join(lines)


def main() -> None:
    args = arguments()
    calibration = Calibration(args.shoal, args.threads)
    rival, servers = Worker(RIVAL, args.model, args.threads), []
    try:
        rival.wait_ready()
        for dtype in args.dtypes.split(","):
            servers.append(Server(args.node, args.model, dtype, args.threads))
        closed = closed_loop(args, servers, rival, calibration)
        rates = {name: statistics.median(r["requests_per_s"] for r in rounds) for name, rounds in closed.items()}
        opened = {s.name: open_loop(args, s, rates[s.name]) for s in servers}
        document = {"about": run.about(args, calibration), "connections": args.connections, "rates": rates,
                    "closed": closed, "open": opened, "peak_bytes": {s.name: s.peak_bytes() for s in servers},
                    "ready": {s.name: s.ready for s in servers}}
    except Failed as error:
        sys.exit(str(error))
    finally:
        rival.close()
        for server in servers:
            server.close()
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    print(table(document))


if __name__ == "__main__":
    main()
