"""Label sets of a file's rows, written as a file, batch by batch: all of them or nothing."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl

from manyhot.toolkit.disk.run_folder import check_output, whole_file
from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.models.blocks import BLOCK
from manyhot.toolkit.models.features import little_known
from manyhot.toolkit.read.batches import read_batches
from manyhot.toolkit.read.cells import close_matches, listed, plain, type_name
from manyhot.toolkit.read.columns import named_of
from manyhot.toolkit.read.data import Raw
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.read.formats.files import BLOCK_BYTES
from manyhot.toolkit.runs.drift import Drift
from manyhot.toolkit.runs.explain import guessed, unseen
from manyhot.toolkit.runs.predict import Run, examples_for

OUTPUTS = (".jsonl", ".csv", ".parquet")
# Logits that are held at once; where labels are many a batch is predicted in parts.
CELLS = 2**20

# Sees the rows of each part, their logits, and the share of each row's words that training did not know.
Look = Callable[[Examples, np.ndarray, np.ndarray], None]
# Told while the file is looked through before the first row, and then with the rows done; and the share of the file.
Progress = Callable[[int | None, float], None]


def write_predictions(
    path: Path,
    run: Run,
    data: str | Path,
    *,
    keep: Sequence[str] | None = (),
    encoding: str | None = None,
    size: int = BLOCK_BYTES,
    safe_csv: bool = False,
    progress: Progress = lambda rows, share: None,
    warn: Callable[[str], None] = lambda text: None,
    looks: Sequence[Look] = (),
    drift: Drift | None = None,
) -> int:
    """Write labels, the most probable first, with scores (logits) and probabilities, for each row of a data file.

    All of it is written or nothing.

    Args:
        path: the file to write, .jsonl, .csv or .parquet.
        run: what predicts.
        data: the file to read.
        keep: columns of it that are written before the labels; None for all. One that is named labels, scores
            or probs is written as input_labels, input_scores or input_probs.
        encoding: of the file to read, where it is text and not UTF-8.
        size: bytes that are read at a time, about.
        safe_csv: in a .csv file, write ' before text that a spreadsheet would take for a formula.
        progress: told with each batch how many rows are written.
        warn: told at the end of texts that training knew little of, and how the rows differ from those of training.
        looks: see the rows, their logits and the shares of their words that are unknown, in order.
        drift: counts the rows for a caller who wants its numbers; one of the run's own if left out.

    Returns:
        The number of rows.

    Raises:
        InputError: an output that cannot be written, or bad input.
        OSError: the disk is full or refuses.
    """
    check_output(path, OUTPUTS, data)
    writer = writer_for(path, WRITERS, safe_csv=safe_csv)
    read = run.columns
    wanted = () if keep is None else (*read.text, *read.features, *read.categories, *keep)
    step = max(CELLS // len(run.label_names) // BLOCK, 1) * BLOCK
    rows, few, categories = 0, 0, np.zeros((len(read.categories), 3), dtype=np.int64)
    drift = run.drift() if drift is None else drift
    looks = (*looks, *([] if drift is None else [drift.look]))
    with whole_file(path) as file, writer(file) as write:
        batches = read_batches(
            data,
            wanted=wanted,
            header=run.columns.header,
            encoding=encoding,
            multiple=BLOCK,
            size=size,
            surveying=lambda share: progress(None, share),
        )
        for batch in batches:
            kept = _kept(batch.raw, keep, Path(data).name, path.suffix)
            examples = examples_for(run, batch.raw, data, with_labels=False, start=batch.start)
            for start in range(0, examples.rows, step):
                part = examples.taken(np.arange(start, min(start + step, examples.rows)))
                logits, unknown = run.logits_and_judge(part)
                few += int(little_known(unknown).sum())
                categories += run.features.known_categories(part)
                for look in looks:
                    look(part, logits, unknown)
                predicted = predictions(run, logits)
                write(predicted if kept is None else kept.slice(start, step).hstack(predicted))
                rows += predicted.height
            progress(rows, batch.share)
    notes = unseen(categories, read.categories)
    if note := guessed(few, rows):
        notes.append(note)
    for note in notes:
        warn(note)
    if drift is not None and (note := drift.said()):
        warn(note)
    return rows


def predictions(run: Run, logits: np.ndarray) -> pl.DataFrame:
    """Lay out what is predicted: a list column for each thing that is said of the labels of a row."""
    import pyarrow as pa

    rows, labels, probs = run.labels_of(logits)
    ends = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(logits)))])
    names = pl.Series(run.label_names, dtype=pl.String)[labels]
    columns = {
        "labels": names.to_arrow(),
        "scores": pa.array(logits[rows, labels].astype(np.float64).round(4)),
        "probs": pa.array(probs.astype(np.float64).round(4)),
    }
    # As Arrow arrays: as objects of Python, the labels of a million rows would take a gigabyte.
    lists = [pl.Series(name, pa.LargeListArray.from_arrays(ends, values)) for name, values in columns.items()]
    types: dict[Any, Any] = dict(PREDICTED)
    return pl.DataFrame(lists).cast(types)


# What is predicted of a row, and its types.
PREDICTED = pl.Schema({"labels": pl.List(pl.String)} | dict.fromkeys(("scores", "probs"), pl.List(pl.Float64)))


# Writes frames one after the other.
Write = Callable[[pl.DataFrame], None]


@contextmanager
def _json_lines(file: BinaryIO) -> Iterator[Write]:
    """Write an object a line."""

    def write(frame: pl.DataFrame) -> None:
        buffer = io.BytesIO()
        frame.write_ndjson(buffer)
        file.write(buffer.getbuffer())

    yield write


def writer_for(path: Path, writers: dict[str, Any], *, safe_csv: bool) -> Callable[[BinaryIO], Any]:
    """Return what writes a file of this name.

    Raises:
        InputError: safe_csv for another format.
    """
    if not safe_csv:
        return writers[path.suffix]
    if path.suffix != ".csv":
        raise InputError(f"{path}: expected a .csv file with --safe-csv, got {path.suffix}; leave --safe-csv out.")
    return lambda file: writers[".csv"](file, safe=True)


def no_formulas(frame: pl.DataFrame) -> pl.DataFrame:
    """Write ' before text, names of columns too, that a spreadsheet would run as a formula; numbers stay."""
    formula, number = r"^[=+\-@\t\r]", r"^[+-]?[0-9.,]+(?:[eE][+-]?[0-9]+)?$"
    texts = [column for column in frame if column.dtype == pl.String]
    runs = [column.str.contains(formula) & ~column.str.contains(number) for column in texts]
    guarded = [
        pl.select(pl.when(run).then("'" + column).otherwise(column).alias(column.name)).to_series()
        for column, run in zip(texts, runs, strict=True)
    ]
    frame = frame.with_columns(guarded)
    names = list(frame.columns)
    for i, name in enumerate(names):
        if re.match(formula, name):
            while names[i] in names[:i] + names[i + 1 :] or names[i] == name:
                names[i] = f"'{names[i]}"
    frame.columns = names
    return frame


@contextmanager
def _csv(file: BinaryIO, *, safe: bool = False) -> Iterator[Write]:
    """Write lists as JSON text: a label may hold any separator, and `manyhot train` reads such cells as lists."""

    def write(frame: pl.DataFrame) -> None:
        nested = [column for column in frame if column.dtype.is_nested()]
        texts = [pl.Series(c.name, [_json(cell) for cell in c.to_list()], dtype=pl.String) for c in nested]
        buffer = io.BytesIO()
        frame = frame.with_columns(texts)
        frame = no_formulas(frame) if safe else frame
        frame.write_csv(buffer, include_header=file.tell() == 0)
        file.write(buffer.getbuffer())

    yield write


@contextmanager
def _parquet(file: BinaryIO) -> Iterator[Write]:
    """Write row groups of some megabytes. polars writes a frame, or pulls the rows itself; pyarrow appends."""
    import pyarrow.parquet as pq

    writer: Any = None

    def write(frame: pl.DataFrame) -> None:
        nonlocal writer
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
        writer.write_table(table)

    try:
        yield write
    except BaseException:
        # Left open, it waits for ever at the end of the process. What it still writes is thrown away with the file.
        with suppress(Exception):
            writer.close()
        raise
    writer.close()


WRITERS = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}


def _json(cell: Any) -> str | None:
    return None if cell is None else json.dumps(cell, ensure_ascii=False, default=str)


def _kept(raw: Raw, keep: Sequence[str] | None, source: str, ending: str) -> pl.DataFrame | None:
    """Take the columns that are kept, under names that are free."""
    if keep is not None and not keep:
        return None
    if not isinstance(raw, pl.DataFrame):
        raise InputError(f"{source}: expected a table (CSV, TSV, JSONL, Parquet) with --keep, got another file")
    keep = None if keep is None else named_of(raw.columns, keep)
    for name in keep or ():
        if name not in raw.columns:
            raise InputError(
                f"{source}: expected a column {shown(name)} to keep, got a file without it"
                f"{close_matches(name, raw.columns)}; it has {listed(raw.columns)}"
            )
    # By position: polars takes a name such as * or ^a.*$ for a pattern.
    frame = plain(raw if keep is None else pl.DataFrame([raw[name] for name in dict.fromkeys(keep)]))
    for name, dtype in frame.schema.items():
        if ending != ".parquet" and _holds(dtype, (pl.Binary, pl.Object)):
            raise InputError(
                f"{source}, column {shown(name)}: expected text, numbers or dates to keep in a {ending} file, got a "
                f"{type_name(dtype)} column; leave it out of --keep, or write a .parquet file"
            )
    return frame.rename(free_names(frame.columns, PREDICTED))


def free_names(names: Iterable[str], taken: Container[str]) -> dict[str, str]:
    """Name what is kept beside predictions: as it is, or with input_ before it where its name is taken."""
    free = {name: name for name in names}
    for name in free:
        while free[name] in taken or (free[name] != name and free[name] in free):
            free[name] = f"input_{free[name]}"
    return free


def _holds(dtype: Any, kinds: tuple[Any, ...]) -> bool:
    if isinstance(dtype, pl.List | pl.Array):
        return _holds(dtype.inner, kinds)
    if isinstance(dtype, pl.Struct):
        return any(_holds(field.dtype, kinds) for field in dtype.fields)
    return dtype in kinds
