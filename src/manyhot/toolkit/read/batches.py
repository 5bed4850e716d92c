"""A data file in batches: the rows, types and errors of `read_file`, and memory that its size does not change."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from manyhot.toolkit.errors import InputError, reading
from manyhot.toolkit.read.data import Raw, read_file
from manyhot.toolkit.read.formats import delimited, jsonl
from manyhot.toolkit.read.formats.files import (
    BLOCK_BYTES,
    TextFile,
    check_encoding,
    check_is_file,
    empty,
    kind_of_file,
    no_rows,
)
from manyhot.toolkit.read.formats.matrix import find_matrix

# Rows of a batch: in 8 MB of one-word texts there are two million, and each becomes several objects of Python.
MOST_ROWS = 2**15
# Bytes of rows that are held until there are enough for a batch.
MOST_BYTES = 2**24


class FileBatch(NamedTuple):
    """Rows that follow each other.

    Attributes:
        raw: what `read_file` returns, with fewer rows.
        start: the number of rows before it.
        share: how much of the file is read with it, from 0 to 1.
    """

    raw: Raw
    start: int
    share: float


def read_batches(
    path: str | Path,
    *,
    wanted: Sequence[str] = (),
    header: bool = True,
    encoding: str | None = None,
    multiple: int = 1,
    size: int = BLOCK_BYTES,
    surveying: Callable[[float], None] = lambda share: None,
) -> Iterator[FileBatch]:
    """Read a data file from its first row to its last.

    Tables are read a part at a time, and together the parts are what `read_file` returns: JSONL is read twice, as the
    type of a column is that of all its rows. Any other file is one batch.

    Args:
        path: what `read_file` takes.
        wanted: columns that will be used: others may be left out where the file has all of these. None named: all are.
        header, encoding: what `read_file` takes.
        multiple: each batch but the last has a multiple of so many rows.
        size: bytes of a batch, about; more where so many rows have more.
        surveying: told how much of the file is read, from 0 to 1, while the first batch is waited for.

    Raises:
        InputError: what `read_file` raises; a mistake in a row comes after the batches before it, save for JSONL.
    """
    with reading(path):
        yield from _read_batches(Path(path), wanted, header, encoding, multiple, size, surveying)


def _read_batches(
    path: Path,
    wanted: Sequence[str],
    header: bool,
    encoding: str | None,
    multiple: int,
    size: int,
    surveying: Callable[[float], None],
) -> Iterator[FileBatch]:
    check_encoding(path, encoding)
    kind, packing = kind_of_file(path)
    is_text = kind in (".csv", ".tsv", ".jsonl", ".ndjson")
    is_parquet = kind == ".parquet" and not packing
    if find_matrix(path) is not None or not (is_text or is_parquet):
        yield FileBatch(read_file(path, header=header, encoding=encoding), 0, 1.0)
        return
    check_is_file(path)
    if is_parquet:
        from manyhot.toolkit.read.formats import parquet  # its library takes 30 MB, which other formats need not pay

        frames = parquet.read_rows(path, wanted, size)
    elif kind in (".csv", ".tsv"):
        frames = _read_delimited(path, "," if kind == ".csv" else "\t", header, encoding, size)
    else:
        frames = _read_jsonl(path, wanted, encoding, size, surveying)
    start = 0
    for frame, share in _in_multiples(frames, multiple):
        yield FileBatch(frame, start, share)
        start += frame.height
    if not start:
        raise no_rows(path)


def _read_delimited(
    path: Path, separator: str, header: bool, encoding: str | None, size: int
) -> Iterator[tuple[pl.DataFrame, float]]:
    with TextFile(path, encoding=encoding) as file:
        old_line_ends = _survey_text(path, file)

    def text() -> io.BufferedReader:
        return io.BufferedReader(TextFile(path, old_line_ends=old_line_ends, encoding=encoding))

    dialect = delimited.find_dialect(path, text, separator, header=header)
    with TextFile(path, old_line_ends=old_line_ends, encoding=encoding) as file:
        for frame in delimited.read_rows(path, file, dialect, size):
            yield frame, file.share


def _survey_text(path: Path, file: TextFile) -> bool:
    """Refuse a file without text; say whether its line ends are carriage returns. One look at the beginning does."""
    blank = True

    def chunks() -> Iterator[bytes]:
        nonlocal blank
        while chunk := file.read(2**16):
            blank = blank and not chunk.strip()
            yield chunk

    rest = chunks()
    old = delimited.has_old_line_ends(rest)
    while blank and next(rest, b""):
        pass
    if blank:
        raise empty(path)
    return old


def _read_jsonl(
    path: Path, wanted: Sequence[str], encoding: str | None, size: int, surveying: Callable[[float], None]
) -> Iterator[tuple[pl.DataFrame, float]]:
    with TextFile(path, encoding=encoding) as file:
        schema, rows = jsonl.survey(path, file, size, lambda: surveying(file.share), wanted)
    if not rows:
        raise empty(path)
    if wanted and set(wanted) <= set(schema):
        schema = pl.Schema({name: schema[name] for name in wanted})
    read = 0
    with TextFile(path, encoding=encoding) as file:
        for frame in jsonl.read_rows(path, file, schema, size):
            read += frame.height
            yield frame, file.share
    if read != rows:
        raise InputError(
            f"{path}: expected a file that stays as it is, got one of {rows:,} rows and then of {read:,}; wait until "
            "it is written, or copy it"
        )


def _in_multiples(frames: Iterator[tuple[pl.DataFrame, float]], of: int) -> Iterator[tuple[pl.DataFrame, float]]:
    """Put frames together to batches of a multiple of so many rows, at most MOST_ROWS; the last has the rest.

    Where the rows of one multiple take more than MOST_BYTES, they are not waited for.
    """
    most = max(MOST_ROWS // of, 1) * of
    held: list[pl.DataFrame] = []
    rows, share = 0, 0.0
    for frame, share in frames:
        held.append(frame)
        rows += frame.height
        much = sum(part.estimated_size() for part in held) > MOST_BYTES
        if rows >= of or (rows and much):
            together = pl.concat(held)
            whole = rows if rows < of else rows - rows % of
            for first in range(0, whole, most):
                yield together.slice(first, min(most, whole - first)), share
            held, rows = [together.tail(rows - whole)] if rows > whole else [], rows - whole
            del together
    if rows:
        yield pl.concat(held), share
