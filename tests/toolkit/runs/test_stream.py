"""`predict` on files larger than memory: what it takes does not grow with their rows.

`make stream-test` has files of 0.3 GB, more than 1 GB as objects of Python, and STREAM_GB=2 larger ones; what runs by
default is the same on 30 MB, read in smaller blocks.
"""

import gzip
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manyhot.toolkit.config import Config
from manyhot.toolkit.train import train

COMMAND = [sys.executable, "-c", "from manyhot.toolkit.cli.main import main; main()"]
GIGABYTE = 10**9
SIZE = int(float(os.environ.get("STREAM_GB") or 0.3) * GIGABYTE)
# Rows that are repeated until a file is large enough; the identifier in front of each is its own.
TEXTS, NUMBERS, COLUMNS = 4000, 4000, 40


def some_texts(rows=TEXTS):
    """Texts of about 400 bytes over 20,000 words, frequent and rare."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{i:x}" + "aeiou"[i % 5] * (i % 6) for i in range(20_000)])
    shares = 1 / np.arange(1, len(words) + 1)
    drawn = rng.choice(len(words), (rows, 60), p=shares / shares.sum())
    return [" ".join(words[row]) for row in drawn]


def text_rows():
    """A column the run reads, beside a longer one that it does not."""
    texts = some_texts()
    return pl.DataFrame(
        {
            "text": texts,
            "page": [f'{a}, "{b}"\n{c}' for a, b, c in zip(texts, texts[1:] + texts[:1], texts, strict=True)],
        }
    )


def number_rows():
    rng = np.random.default_rng(0)
    return pl.DataFrame(np.round(rng.normal(size=(NUMBERS, COLUMNS)), 5), schema=[f"x{i}" for i in range(COLUMNS)])


def write(path, rows, size, row_group=None):
    """Write rows again and again until the file, unpacked, has about `size` bytes; return how many there are."""
    count = written = 0
    if path.suffix == ".parquet":
        writer: Any = None
        held = []
        while written < size:
            frame = numbered(rows, count)
            held.append(frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
            writer = writer or pq.ParquetWriter(path, held[0].schema, compression="none", use_dictionary=False)
            count, written = count + rows.height, written + frame.estimated_size()
            if row_group is None or len(held) * rows.height >= row_group:
                writer.write_table(pa.concat_tables(held), row_group_size=2**40)
                held = []
        if held:
            writer.write_table(pa.concat_tables(held), row_group_size=2**40)
        writer.close()
        return count
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else open(path, "wb") as file:
        while written < size:
            frame = numbered(rows, count)
            if ".jsonl" in path.name:
                text = frame.write_ndjson()
            else:
                text = frame.write_csv(include_header=count == 0)
            written += file.write(text.encode())
            count += rows.height
    return count


def numbered(rows, start):
    return rows.select(pl.int_range(start, start + rows.height).alias("id"), pl.all())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on texts and a run on numbers, each with five labels."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(1)
    texts = text_rows().select("text").head(1000)
    numbers = number_rows().head(1000)
    for name, frame in (("texts", texts), ("numbers", numbers)):
        sets = [[f"l{i}" for i in np.flatnonzero(row)] for row in rng.random((1000, 5)) < 0.3]
        frame.with_columns(labels=pl.Series(sets)).write_ndjson(folder / f"{name}.jsonl")
        options: Any = {"features": [f"x{i}" for i in range(COLUMNS)]} if name == "numbers" else {"text": ["text"]}
        train(
            Config(data=str(folder / f"{name}.jsonl"), C=1.0, tau=0.0, max_iter=10, out=str(folder / name), **options)
        )
    return folder


# What a process takes at most counts what its parent had when it was forked: a small one stands between.
LAUNCHER = """
import json, resource, subprocess, sys, time
started = time.monotonic()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, used.ru_maxrss, time.monotonic() - started]))
"""


def measured(arguments):
    """Run the command in a process of its own; return the most memory it had, in bytes, and its seconds."""
    command = [sys.executable, "-c", LAUNCHER, *COMMAND, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    code, peak, seconds = json.loads(done.stdout)
    assert code == 0, done.stderr
    return peak * (1 if sys.platform == "darwin" else 1024), seconds


CASES = [
    ("numbers", "new.csv", "out.parquet", None),
    ("numbers", "new.jsonl", "out.csv", None),
    ("numbers", "new.parquet", "out.jsonl", None),
    ("texts", "new.jsonl", "out.jsonl", None),
    ("texts", "new.csv", "out.csv", None),
    ("texts", "new.parquet", "out.parquet", None),
    ("texts", "one-row-group.parquet", "out.parquet", 2**40),
    ("texts", "new.csv.gz", "out.jsonl", None),
]
# STREAM_EVERY=3 takes every third of them.
CASES = CASES[:: int(os.environ.get("STREAM_EVERY") or 1)]


@pytest.mark.stream
@pytest.mark.parametrize(("kind", "name", "out", "row_group"), CASES)
def test_large_files_in_less_than_1_gb(runs, tmp_path, kind, name, out, row_group):
    path = tmp_path / name
    rows = write(path, text_rows() if kind == "texts" else number_rows(), SIZE, row_group)
    peak, seconds = measured(["predict", runs / kind, path, "-o", tmp_path / out, "--keep", "id"])
    path.unlink()
    print(f"\n| {kind}, {name} to {out} | {rows:,} | {peak / 1e6:,.0f} MB | {rows / seconds:,.0f} |")
    read = {"jsonl": pl.scan_ndjson, "csv": pl.scan_csv, "parquet": pl.scan_parquet}[out.rpartition(".")[2]]
    ids = read(tmp_path / out).select(pl.col("id").cast(pl.Int64)).collect()["id"]
    assert len(ids) == rows
    assert ids.equals(pl.Series("id", range(rows)))
    assert peak < GIGABYTE


# A process that was forked from a large one has its memory on its account: this small one stands between.
STARTER = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
# Reads a file of 4 MB and then one of 30 MB in blocks of 1 MB, and says what memory each took at most.
TWICE = """
import json, resource, sys
from pathlib import Path
from manyhot.toolkit.runs.predictions import write_predictions
from manyhot.toolkit.runs.saved_run import load_run
run, folder, endings = load_run(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
found = {}
for name in ("small", "large"):
    for ending in endings:
        data = folder / f"{name}{ending}"
        write_predictions(folder / f"out.{ending.split('.')[1]}", run, data, keep=["id"], size=2**20)
        found.setdefault(ending, []).append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(runs, tmp_path):
    """The small files come first, so that what they take is what the large ones start from."""
    endings = (".jsonl", ".csv", ".parquet", ".csv.gz")
    rows = text_rows().with_columns(page=pl.col("page").repeat_by(8).list.join(" "))
    for name, size in (("small", 4_000_000), ("large", 20_000_000)):
        for ending in endings:
            write(tmp_path / f"{name}{ending}", rows.head(400), size)
    script = [sys.executable, "-c", TWICE, str(runs / "texts"), str(tmp_path), *endings]
    done = subprocess.run([sys.executable, "-c", STARTER, *script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    most = json.loads(done.stdout)
    before = max(small for small, _ in most.values())
    for ending, (_, large) in most.items():
        # Read whole, the large files take some 60 MB more than the small ones.
        assert large - before < 25_000, (ending, most)
