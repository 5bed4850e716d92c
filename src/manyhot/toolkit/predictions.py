"""Label sets of a file's rows, written as a file: the whole of it or nothing."""

import csv
import io
import json
from pathlib import Path

import polars as pl

from manyhot.toolkit.data import InputError
from manyhot.toolkit.examples import Examples
from manyhot.toolkit.predict import Run
from manyhot.toolkit.run_folder import write_file

OUTPUTS = (".jsonl", ".csv", ".parquet")


def write_predictions(path: Path, run: Run, examples: Examples) -> int:
    """Write labels and their scores, best first, a row of `examples` each, in order; the whole file or nothing.

    Returns:
        The number of rows.

    Raises:
        InputError: a suffix other than .jsonl, .csv and .parquet.
        OSError: the disk is full or refuses.
    """
    check_output(path)
    sets = run.label_sets(run.logits(examples))
    labels = [[name for name, _ in row] for row in sets]
    scores = [[round(score, 4) for _, score in row] for row in sets]
    buffer = io.BytesIO()
    if path.suffix == ".parquet":
        schema = {"labels": pl.List(pl.String), "scores": pl.List(pl.Float64)}
        pl.DataFrame({"labels": labels, "scores": scores}, schema=schema).write_parquet(buffer)
    elif path.suffix == ".jsonl":
        for row in zip(labels, scores, strict=True):
            line = json.dumps(dict(zip(("labels", "scores"), row, strict=True)), ensure_ascii=False)
            buffer.write(line.encode() + b"\n")
    else:
        # Lists as JSON text: a label may hold any separator, and `manyhot train` reads such cells as lists.
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("labels", "scores"))
        writer.writerows(
            [json.dumps(a, ensure_ascii=False), json.dumps(b)] for a, b in zip(labels, scores, strict=True)
        )
        buffer.write(text.getvalue().encode())
    write_file(path, buffer.getvalue())
    return len(sets)


def check_output(path: Path) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Raises:
        InputError: another suffix, or a folder that does not exist.
    """
    if path.suffix not in OUTPUTS:
        raise InputError(f"{path}: expected an output that ends in {', '.join(OUTPUTS)}.")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path}: expected a file in a folder that exists.")
