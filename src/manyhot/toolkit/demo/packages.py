"""The job of the demo: one-line titles of Debian packages and the tags that people gave them."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import polars as pl

from manyhot.toolkit.config import Config
from manyhot.toolkit.demo.job import Job
from manyhot.toolkit.disk.run_folder import whole_file
from manyhot.toolkit.errors import InputError, typed
from manyhot.toolkit.read.examples import Examples

SAMPLE = "debtags.jsonl.gz"
# Long enough to show something, short enough to read.
SHOWN_TAGS = (3, 6)
SENTENCE = "a chess game for the terminal"


@contextmanager
def packages() -> Iterator[Job]:
    """Have the sample as a file: titles, tags, and which part each row is of."""
    with as_file(files("manyhot.toolkit.demo") / "sample" / SAMPLE) as sample:
        yield Job(
            Config(data=str(sample), split_column="part"),
            "packages",
            "titles of Debian packages, a line each, and the tags that people gave them",
            choose_rows,
            lambda test, row: [f'"{(test.texts or [])[row]}"'],
            lambda path: f'manyhot predict {typed(path)} "{SENTENCE}"',
        )


def choose_rows(test: Examples, number: int) -> np.ndarray:
    """Take the first test rows of a few tags, whatever is predicted for them."""
    low, high = SHOWN_TAGS
    sizes = np.diff(test.targets.indptr)
    return np.flatnonzero((sizes >= low) & (sizes <= high))[:number]


def save_packages(out: Path) -> int:
    """Write the sample as a table to train on, titles and tags, and return its rows.

    Raises:
        InputError: the name ends in something other than .csv, or the file is there.
    """
    if out.suffix != ".csv":
        raise InputError(f"{out}: expected a name that ends in .csv, such as packages.csv.")
    if out.exists():
        raise InputError(f"{out}: expected a name that is free; this file is there.")
    sample = (files("manyhot.toolkit.demo") / "sample" / SAMPLE).read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(sample).decode().splitlines()]
    table = pl.DataFrame({"title": [row["title"] for row in rows], "tags": ["; ".join(row["tags"]) for row in rows]})
    with whole_file(out) as file:
        table.write_csv(file)
    return len(rows)
