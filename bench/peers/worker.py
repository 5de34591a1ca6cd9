"""One peer in a process of its own, so that no runtime's idle threads share a process with another's busy ones.

Reads one JSON request a line on stdin and answers one JSON object a line on stdout; ends when stdin does.
`{"op":"throughput","texts":FILE,"batch":N,"warmup":N,"runs":N,"vectors":FILE|null}`
-> `{"runs_s":[…],"tokens":N|null}`
`{"op":"latency","texts":FILE,"warmup":N,"runs":N}` -> `{"latency_us":[…]}`
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path


def texts_of(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [line if isinstance(line, str) else line["text"] for line in lines]


def throughput(engine, request: dict) -> dict:
    texts, seconds = texts_of(request["texts"]), []
    for run in range(request["warmup"] + request["runs"]):
        start = time.perf_counter()
        vectors, tokens = engine.embed(texts, request["batch"])
        if run >= request["warmup"]:
            seconds.append(time.perf_counter() - start)
    if request.get("vectors"):
        vectors.astype("<f4").tofile(request["vectors"])
    return {"runs_s": seconds, "tokens": tokens}


def latency(engine, request: dict) -> dict:
    texts, micros = texts_of(request["texts"]), []
    for run in range(request["warmup"] + request["runs"]):
        start = time.perf_counter()
        engine.embed_one(texts[run % len(texts)])
        if run >= request["warmup"]:
            micros.append(1e6 * (time.perf_counter() - start))
    return {"latency_us": micros}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    # The libraries print where they like; only answers may reach the real stdout.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import engines

    engine = engines.create(arguments.engine, arguments.model, arguments.threads)
    print(json.dumps({"ready": arguments.engine, "executes": engine.executes}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"throughput": throughput, "latency": latency}[request["op"]](engine, request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
