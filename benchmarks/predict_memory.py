"""Peak memory and speed of `manyhot predict` on files whose rows are many, short, long or have many labels.

    python benchmarks/predict_memory.py [--quick] [--only WORD]

Each prediction is a process of its own; its files lie in a temporary folder and are deleted after use. Prints a row a
case, as Markdown, and writes all of them to benchmarks/results; stops with an error where one takes a gigabyte or more.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from manyhot.toolkit.config import Config
from manyhot.toolkit.read.formats.files import MAX_ROW_BYTES
from manyhot.toolkit.train import train

GIGABYTE = 10**9
RESULTS = Path(__file__).parent / "results" / "predict_memory.md"
LABELS = 1000
MANYHOT = [sys.executable, "-c", "from manyhot.toolkit.cli.main import main; main()"]
# What a process takes at most counts what its parent had when it was forked: a small one stands between.
LAUNCHER = """
import json, resource, subprocess, sys, time
started = time.monotonic()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, used.ru_maxrss, time.monotonic() - started, done.stderr]))
"""


def numbers(rows: int) -> Iterator[str]:
    """Two floats a row."""
    yield "a,b\n"
    random = np.random.default_rng(0)
    for first in range(0, rows, 10_000):
        block = random.normal(size=(min(10_000, rows - first), 2))
        yield "".join(f"{a:.3f},{b:.3f}\n" for a, b in block.tolist())


def words(rows: int, number: int) -> Iterator[str]:
    """A few words a row."""
    yield "text\n"
    random = np.random.default_rng(0)
    for first in range(0, rows, 10_000):
        drawn = random.integers(0, 2000, (min(10_000, rows - first), number)).tolist()
        yield "".join(" ".join(f"w{i}" for i in row) + "\n" for row in drawn)


def long_rows(rows: int, size: int) -> Iterator[str]:
    """Texts of so many bytes, of words that are nearly all different."""
    yield "text\n"
    random = np.random.default_rng(0)
    for _ in range(rows):
        text = " ".join(f"{i:x}" for i in random.integers(0, 2**32, size // 8).tolist())
        yield text[: size - 16] + "\n"


def one_word(rows: int, size: int) -> Iterator[str]:
    """Texts that are one word of so many bytes."""
    yield "text\n"
    for i in range(rows):
        yield f"{i:04}" * (size // 4 - 4) + "\n"


def without_spaces(rows: int, size: int) -> Iterator[str]:
    """Texts of so many bytes in a script that puts no spaces between words, and is one character in three bytes."""
    yield "text\n"
    random = np.random.default_rng(0)
    for _ in range(rows):
        yield "".join(map(chr, random.integers(0x4E00, 0x9FA5, size // 3 - 8).tolist())) + "\n"


def objects(rows: int, size: int) -> Iterator[str]:
    """Rows of JSON, each with a text and a list of small numbers that nothing reads."""
    for _ in range(rows):
        yield json.dumps({"text": "w1 w2", "ids": [1] * (size // 3 - 20)}) + "\n"


def zeros(size: int) -> Iterator[str]:
    """Nothing but NUL."""
    for _ in range(size // 2**20):
        yield "\0" * 2**20


def make_runs(folder: Path) -> None:
    """Train a run on two numbers, one on words, and one on words with a thousand labels, 300 of them a row."""
    random = np.random.default_rng(0)
    values = random.normal(size=(300, 2)).tolist()
    (folder / "numbers.csv").write_text(
        "a,b,labels\n" + "".join(f"{a:.3f},{b:.3f},{'x' if a > 0 else 'y'}{'|z' * (b > 0)}\n" for a, b in values)
    )
    few, many = [], []
    for _ in range(400):
        drawn = random.choice(2000, 40, replace=False).tolist()
        text = " ".join(f"w{i}" for i in drawn)
        few.append(json.dumps({"text": text, "labels": sorted({f"l{i % 5}" for i in drawn[:2]})}))
        of_row = random.choice(LABELS, 300, replace=False).tolist()
        many.append(json.dumps({"text": text, "labels": [f"label {i}" for i in of_row]}))
    for name, lines in (("words", few), ("labels", many)):
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    options: dict[str, Any] = {"C": 1.0, "tau": 0.0, "max_iter": 5}
    train(Config(data=str(folder / "numbers.csv"), features=("a", "b"), out=str(folder / "run-numbers"), **options))
    spaceless = [json.dumps({"text": "今天天气很好"[i % 3 :], "labels": [f"l{i % 5}"]}) for i in range(400)]
    (folder / "characters.jsonl").write_text("\n".join(spaceless) + "\n")
    for name in ("words", "labels", "characters"):
        given: dict[str, Any] = options | ({"characters": "on"} if name == "words" else {})
        train(Config(data=str(folder / f"{name}.jsonl"), text=("text",), out=str(folder / f"run-{name}"), **given))


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, but for those of many megabytes")
    parser.add_argument("--only", default="", metavar="WORD", help="cases with this word in their name")
    arguments = parser.parse_args()
    tenth = 10 if arguments.quick else 1
    row = MAX_ROW_BYTES
    cases: list[tuple[str, str, str, str, int, Callable[[], Iterator[str]]]] = [
        ("one word a row", "words", "d.csv", "out.jsonl", 10**7 // tenth, lambda: words(10**7 // tenth, 1)),
        ("two floats a row", "numbers", "d.csv", "out.jsonl", 10**6 // tenth, lambda: numbers(10**6 // tenth)),
        ("three words, to CSV", "words", "d.csv", "out.csv", 10**6 // tenth, lambda: words(10**6 // tenth, 3)),
        ("1,000 labels", "labels", "d.csv", "out.jsonl", 10**5 // tenth, lambda: words(10**5 // tenth, 20)),
        ("1,000 labels, to CSV", "labels", "d.csv", "out.csv", 10**5 // tenth, lambda: words(10**5 // tenth, 20)),
        (f"texts of {row >> 20} MB", "words", "d.csv", "out.jsonl", 3, lambda: long_rows(3, row)),
        (f"words of {row >> 20} MB", "words", "d.csv", "out.jsonl", 3, lambda: one_word(3, row)),
        (f"Chinese texts of {row >> 20} MB", "characters", "d.csv", "out.jsonl", 3, lambda: without_spaces(3, row)),
        (f"lists of {row >> 20} MB", "words", "d.jsonl", "out.jsonl", 3, lambda: objects(3, row)),
        ("2.5 GB of NUL as gz", "words", "d.csv.gz", "out.jsonl", 0, lambda: zeros(2500 * 2**20 // tenth)),
    ]
    table = ["| file | rows | peak memory | rows a second | exit code |", "|---|---:|---:|---:|---:|"]
    print(*table, sep="\n", flush=True)
    over = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_runs(folder)
        for title, run, name, out, rows, content in cases:
            if arguments.only not in title:
                continue
            with gzip.open(folder / name, "wt") if name.endswith(".gz") else open(folder / name, "w") as file:
                file.writelines(content())
            command = [*MANYHOT, "predict", f"{folder}/run-{run}", f"{folder}/{name}", "-o", f"{folder}/{out}"]
            done = subprocess.run(
                [sys.executable, "-c", LAUNCHER, *command],
                capture_output=True,
                text=True,
                env=dict(os.environ),
                check=True,
            )
            code, peak, seconds, said = json.loads(done.stdout)
            peak *= 1 if sys.platform == "darwin" else 1024
            speed = f"{rows / seconds:,.0f}" if rows else "refused"
            table.append(f"| {title} | {rows:,} | {peak / 1e6:,.0f} MB | {speed} | {code} |")
            print(table[-1], flush=True)
            if code != (0 if rows else 2) or peak >= GIGABYTE:
                over.append(f"{title}: {peak / 1e6:,.0f} MB, exit {code}: {said[-300:]}")
            for path in (folder / name, folder / out):
                path.unlink(missing_ok=True)
    if not arguments.only and not arguments.quick:
        RESULTS.write_text("\n".join(table) + "\n")
    if over:
        sys.exit("\n".join(over))


if __name__ == "__main__":
    main()
