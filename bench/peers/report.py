"""What is made of the figures: which rounds count, ratios, and the table."""

import statistics

from engines import ENGINES

# Multiply-adds x 2 of all-MiniLM-L6-v2: linear layers a token, and attention a token and key (6 layers of width 384).
LINEAR_FLOP = 6 * 2 * (4 * 384 * 384 + 2 * 384 * 1536)
ATTENTION_FLOP = 6 * 4 * 384

# Calibrations beside two figures of one round that are this close count as the same state of the machine.
ALIKE = 0.92

# What each of Shoal's rows is held against.
REDUCED = ["ov-bf16-throughput", "ov-bf16-latency", "ov-f16-throughput", "ov-f16-latency", "ov-f32-throughput",
           "ort-f32", "torch-bf16"]
RIVALS = {
    "shoal-auto": REDUCED,
    "shoal-bf16": REDUCED,
    "shoal-f16": REDUCED,
    "shoal-f32": ["ov-f32-throughput", "ov-f32-latency", "ort-f32", "ort-fused-f32", "torch-f32"],
}


def work(tokens: list[int]) -> float:
    """GFLOP that the texts need when nothing is padded."""
    return sum(count * (LINEAR_FLOP + ATTENTION_FLOP * count) for count in tokens) / 1e9


def calm(figures: list[dict], calibrations: list[float], part: float) -> int:
    """How many rounds were taken while the machine ran at `part` of its best or more."""
    return sum(f["calibration"] >= part * max(calibrations) for f in figures)


def kept(figures: list[dict], calibrations: list[float], part: float) -> list[dict]:
    """The calm rounds; all of them where fewer than half are calm, for then calm ones are a biased choice."""
    good = [f for f in figures if f["calibration"] >= part * max(calibrations)]
    return good if 2 * len(good) >= len(figures) else figures


def ratio(ours: list[dict], theirs: list[dict], field: str) -> float:
    """Median over the rounds of theirs / ours, so that what slowed a whole round cancels. Rounds in which the machine
    stood differently for the two (their calibrations are further apart than ALIKE) are left out when half or more are
    alike."""
    other = {f["round"]: f for f in theirs}
    pairs = [(f, other[f["round"]]) for f in ours if f["round"] in other]
    alike = [(a, b) for a, b in pairs
             if min(a["calibration"], b["calibration"]) >= ALIKE * max(a["calibration"], b["calibration"])]
    taken = alike if 2 * len(alike) >= len(pairs) else pairs
    return statistics.median(b[field] / a[field] for a, b in taken)


def ratios(results: list[dict], faster: bool, field: str) -> list[str]:
    """`faster`: how many times the peer's speed; else what part of the peer's time."""
    by_name = {r["engine"]: r["rounds"] for r in results}
    lines = []
    for ours, theirs in RIVALS.items():
        values = [(ratio(by_name[ours], by_name[name], field), name)
                  for name in theirs if ours in by_name and name in by_name]
        parts = [f"{value if faster else 1 / value:.2f}x {name}" for value, name in values]
        if parts:
            lines.append(f"  {ours} / peer{'' if faster else ' (lower is better)'}: " + ", ".join(parts))
    return lines


def peak_of(result: dict, peak: dict) -> float | None:
    """The register-only peak of the precision that multiplies. Shoal names instruction set and format; where the set
    has no fast instruction for a 16-bit format, that is widened to f32."""
    if result["engine"] in ENGINES:
        precision = ENGINES[result["engine"]][2]
    else:
        isa, precision = result["executes"].split()[-2:]
        if not isa.endswith({"bf16": "bf16", "f16": "fp16"}.get(precision, "")):
            precision = "f32"
    return peak.get("int8_gops" if precision == "int8" else f"{precision}_gflops")


def spread(result: dict, best: float) -> str:
    values = [f["calibration"] / best for f in result["rounds"]]
    return f"{min(values):.2f}-{max(values):.2f} {result['rounds_kept']}/{len(values)}"


def throughput_lines(results: list[dict], about: dict) -> list[str]:
    peak, best = about["calibration"]["peak"], about["calibration"]["best_gflops"]
    lines = [f"{'engine':22} {'batch':>5} {'texts/s':>8} {'tokens/s':>9} {'of peak':>7} {'cosine min':>10} {'mean':>8}"
             f"  calm (min-max kept)  executes"]
    for r in sorted(results, key=lambda r: -r["sentences_per_s"]):
        top = peak_of(r, peak)
        share = f"{100 * r['gflops'] / top:.0f}%" if top else "-"
        lines.append(f"{r['engine']:22} {r['batch'] or 'own':>5} {r['sentences_per_s']:8.1f} {r['tokens_per_s']:9.0f} "
                     f"{share:>7} {r['parity']['cosine_min']:10.6f} {r['parity']['cosine_mean']:8.6f}  "
                     f"{spread(r, best):19}  {r['executes']}")
    return lines + ratios(results, True, "seconds")


def query_lines(results: list[dict], about: dict) -> list[str]:
    best = about["calibration"]["best_gflops"]
    lines = [f"{'engine':22} {'p50 ms':>8} {'p99 ms':>8}  calm (min-max kept)"]
    for r in sorted(results, key=lambda r: r["p50_us"]):
        lines.append(f"{r['engine']:22} {r['p50_us'] / 1e3:8.2f} {r['p99_us'] / 1e3:8.2f}  {spread(r, best)}")
    return lines + ratios(results, False, "p50_us")


def table(document: dict) -> str:
    about = document["about"]
    calibration = about["calibration"]
    lines = [f"{about['machine']}, {about['cpus']} CPUs, {about['date']}, commit {about['commit']}",
             f"calibration ({calibration['loop']}): {calibration['worst_gflops']:.0f} to "
             f"{calibration['best_gflops']:.0f} GFLOP/s; peak {calibration['peak'] or 'not measured'}"]
    for one in dict.fromkeys(r["set"] for r in document["results"]):
        results = [r for r in document["results"] if r["set"] == one]
        queries = "p50_us" in results[0]
        lines += ["", f"{one}: " + ("one query at a time" if queries else "text in, vector out")]
        lines += query_lines(results, about) if queries else throughput_lines(results, about)
    return "\n".join(lines)
