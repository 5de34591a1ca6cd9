"""Makes the text sets of the benches, seeded: short, mix, long and the single-query sets q16 and q128.

    bench/peers/.venv/bin/python bench/texts/make_texts.py --model DIR

Sentences come from a small grammar of our own. Token counts are those of all-MiniLM-L6-v2's tokenizer, special tokens
included, and exact: lengths follow fixed quantiles of the distributions described in `SETS`.
"""

import argparse
import json
import random
import statistics
from pathlib import Path

from tokenizers import Tokenizer

OUT = Path(__file__).parent


def phrases(lines: str) -> list[str]:
    return lines.strip().replace("\n", "|").split("|")


PEOPLE = phrases("""
the night nurse|an old fisherman|our new neighbour|the site engineer|a visiting lecturer|the second violinist
the translator|a junior accountant|the harbour pilot|my grandmother|the beekeeper|a retired judge
the train conductor|the committee|an apprentice electrician|the head gardener|a volunteer firefighter
the customer|the payroll department|every subscriber|the warehouse team|Dr. Okonkwo|Mrs. Lindqvist
Captain Ferreira|the municipal archivist""")

ACTIONS = phrases("""
repaired|inspected|misplaced|photographed|ordered|described|returned|catalogued|cancelled|measured|sold
inherited|painted|dismantled|recommended|borrowed|translated|postponed|reviewed|calibrated|unpacked|examined
rebooked|archived|refunded|labelled""")

THINGS = phrases("""
the copper kettle|a shipment of ceramic tiles|the quarterly report|two broken thermostats|the wooden footbridge
an annotated map of the valley|the backup generator|a jar of buckwheat honey|the invoice for the heat pump
a collection of meteorological instruments|the spare key|the replacement gearbox|a handwritten recipe
the subscription that renews in March|the vaccination schedule|an unusually large pumpkin
the defective headphones|a crate of blood oranges|the tide tables|the original photographs|the insurance policy
a microscope slide|the fibre-optic cable|the greenhouse thermometer|a bicycle with a bent wheel
the minutes of the last meeting""")

QUALITIES = phrases("""
carefully|without any hurry|for the third time|at considerable expense|almost by accident|after a long argument
on behalf of the tenants|with surprisingly little effort|despite the forecast|in complete silence
under supervision|with borrowed tools|as agreed|against all advice""")

PLACES = phrases("""
near the old lighthouse|in the basement of the library|outside Gothenburg|on platform 4|behind the bakery
at the regional hospital|in the upper vineyard|beside the reservoir|on the third floor|at the ferry terminal
in the conservatory|along the canal|two kilometres from the border""")

TIMES = phrases("""
last Tuesday|before sunrise|during the storm|in early November|at 7:45 in the morning|over the long weekend
in 1987|once the snow had melted|shortly after lunch|within 14 days|on the evening of the concert
three weeks ago""")

LINKS = ["because", "although", "while", "so", "but", "and", "even though", "just as", "until"]

STATES = phrases("""
the roof was leaking again|nobody had asked for it|the water level kept rising|prices fell by 12%
the software update failed|the children were asleep|the contract had already expired
the road was closed to lorries|two of the sensors disagreed|the bread was still warm|the signal came back
the deadline had been moved|it cost more than €300|the results could not be reproduced|the orchestra was tuning""")

QUESTIONS = ["how do I {}?", "what is the best way to {}?", "is it possible to {}?", "who decided to {}?",
             "why does it take so long to {}?", "can we still {}?"]

GOALS = phrases("""
change the delivery address|renew an expired passport|descale an espresso machine
claim a refund for a delayed flight|grow tomatoes on a north-facing balcony
connect the printer to the wireless network|export the calendar as a spreadsheet
remove limescale from the shower|compare two mortgage offers|keep sourdough starter alive|report a lost parcel
reset the combination of the suitcase|insulate the attic without losing space
cancel the membership before it renews|train for a half marathon in winter""")


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def clause(rng: random.Random) -> str:
    parts = [rng.choice(PEOPLE), rng.choice(ACTIONS), rng.choice(THINGS)]
    for choices, chance in ((QUALITIES, 0.4), (PLACES, 0.45), (TIMES, 0.45)):
        if rng.random() < chance:
            parts.append(rng.choice(choices))
    return " ".join(parts)


def sentence(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.04:
        return capital(f"{rng.choice(GOALS)}.")
    if kind < 0.08:
        return capital(f"{rng.choice(THINGS)} {rng.choice(PLACES)}.")
    if kind < 0.15:
        return capital(rng.choice(QUESTIONS).format(rng.choice(GOALS)))
    if kind < 0.25:
        return capital(f"{rng.choice(TIMES)}, {clause(rng)}.")
    if kind < 0.6:
        return capital(f"{clause(rng)}, {rng.choice(LINKS)} {rng.choice(STATES)}.")
    if kind < 0.7:
        return capital(f"{rng.choice(STATES)}.")
    return capital(f"{clause(rng)}.")


class Writer:
    """Writes texts of an exact number of tokens."""

    def __init__(self, model: Path, seed: int):
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.rng = random.Random(seed)
        self.seen = set()

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(text).ids)

    def text(self, tokens: int) -> str:
        """Whole sentences whose counts add up; tries again until they do (tokens >= 8)."""
        while True:
            left, sentences = tokens - 2, []
            while left > 0:
                candidate = sentence(self.rng)
                size = self.count(candidate) - 2
                if size > left:
                    break
                if size == left or left - size >= 6:
                    sentences.append(candidate)
                    left -= size
            text = " ".join(sentences)
            if left == 0 and text not in self.seen and self.count(text) == tokens:
                self.seen.add(text)
                return text


def uniform(count: int):
    return [(i + 0.5) / count for i in range(count)]


def short_lengths() -> list[int]:
    """16 to 32 tokens, mean about 22.6: what a search box or a product title sends."""
    return [16 + int(16.99 * u**1.4) for u in uniform(512)]


def mix_lengths() -> list[int]:
    """Long-tailed, 8 to 245 tokens: log-normal with median 35 and 90th percentile near 105."""
    normal = statistics.NormalDist()
    return [round(min(245, max(8, 35 * 2.718281828 ** (0.82 * normal.inv_cdf(u))))) for u in uniform(256)]


SETS = {
    "short": short_lengths,
    "mix": mix_lengths,
    "long": lambda: [256] * 64,
    "q16": lambda: [16] * 64,
    "q128": lambda: [128] * 32,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    writer = Writer(parser.parse_args().model, seed=20261120)
    for name, lengths in SETS.items():
        counts = lengths()
        writer.rng.shuffle(counts)
        with open(OUT / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for tokens in counts:
                file.write(json.dumps({"text": writer.text(tokens), "tokens": tokens}, ensure_ascii=False) + "\n")
        ordered = sorted(counts)
        print(name, len(counts), "texts, tokens: sum", sum(counts), "mean", round(statistics.mean(counts), 1),
              "median", ordered[len(ordered) // 2], "p90", ordered[len(ordered) * 9 // 10],
              "min", ordered[0], "max", ordered[-1])


if __name__ == "__main__":
    main()
