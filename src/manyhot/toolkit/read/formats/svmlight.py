"""svmlight and LIBSVM files with several labels a row, through scikit-learn, with errors that name the line.

Those of the Extreme Classification Repository begin with a line of sizes, rows features labels, and number features and
labels from 0. Such a file is held to its first line: one that is cut short is told apart from a small one.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_svmlight_file

from manyhot.toolkit.errors import InputError, first_line, shown
from manyhot.toolkit.read.formats.files import FORMATS

# "rows features labels", the first line of the files of the Extreme Classification Repository.
_SIZES = re.compile(rb"[ \t]*(\d{1,18})[ \t]+(\d{1,9})[ \t]+(\d{1,9})[ \t\r]*(?:\n|$)")
_BLANK = re.compile(rb"^[ \t\r]*$", re.MULTILINE)
# Labels come as floats: beyond, two numbers are one.
LARGEST = 2**53 - 1
_ERRORS = (ValueError, OverflowError)


@dataclass(frozen=True)
class Svmlight:
    """Rows of `label,label index:value index:value`.

    Attributes:
        features: csr_array, (rows, highest index + 1) float32, finite; the column is the index as it is written.
        ids: the labels of each row, as they are written.
        size: the number of features where a first line says so, and the indices then start at 0; else None.
    """

    features: Any
    ids: list[list[str]]
    size: int | None


def read_svmlight(path: Path, data: bytes, *, sizes: bool = False) -> Svmlight:
    """Read the bytes of an svmlight file; everything after # is a comment.

    Args:
        path: the file, for messages.
        data: what it holds.
        sizes: it has to begin with a line of sizes, by which alone it is known for such a file.

    Raises:
        InputError: names the first malformed line, a label that is no whole number, a value that is not finite, or what
            is not as the line of sizes says.
    """
    header = _SIZES.match(data)
    if sizes and header is None:
        raise InputError(
            f"{path}, line 1: expected in a .txt file the sizes that files of the Extreme Classification Repository "
            f"begin with, rows features labels, got {shown(data.splitlines()[0][:80].decode(errors='replace'))}; write "
            f"them there, or give the file the ending of its format, one of: {FORMATS}"
        )
    rows = data[header.end() :] if header else data
    if header:
        rows = _with_blank_rows(rows, int(header[1]))
    try:
        features, ids = _load(rows)
    except _ERRORS as error:
        line, text = _first_malformed(rows)
        raise InputError(
            f"{path}, line {line + bool(header)}: expected labels and features such as 1,7 3:0.5 8:1, got "
            f"{shown(text.decode().strip())} ({first_line(error)}); correct the line"
        ) from None
    if not ids:
        raise InputError(f"{path}: expected rows of data, got none; check that this is the file you meant")
    named: list[list[str]] = []
    for row, given in enumerate(ids, 1):
        if not all(math.isfinite(value) and value == int(value) for value in given):
            raise InputError(
                f"{path}, row {row}: expected whole numbers as labels, got {', '.join(map(str, given))}; "
                "number the labels"
            )
        if any(abs(value) > LARGEST for value in given):
            raise InputError(
                f"{path}, row {row}: expected labels of at most {LARGEST:,}, got {max(given, key=abs):.0f}, which is "
                "read as its neighbour is; number the labels"
            )
        named.append([str(int(value)) for value in given])
    finite = np.isfinite(features.data)
    if not finite.all():
        place = int(np.argmin(finite))
        row = int(np.searchsorted(features.indptr, place, side="right"))
        raise InputError(
            f"{path}, row {row}, feature {features.indices[place]}: expected a finite number that float32 can hold, "
            f"got {features.data[place]}; correct the value"
        )
    if header:
        _check_sizes(path, features, ids, *map(int, header.groups()))
    return Svmlight(features, named, int(header[2]) if header else None)


def _with_blank_rows(rows: bytes, number: int) -> bytes:
    """Write a feature that is 0 into blank lines where these are rows, with neither labels nor features."""
    lines = rows.count(b"\n") + (not rows.endswith(b"\n"))
    if lines != number or _BLANK.search(rows.removesuffix(b"\n")) is None:
        return rows
    return _BLANK.sub(b" 0:0", rows.removesuffix(b"\n")) + b"\n"


def _check_sizes(path: Path, features: Any, ids: Any, rows: int, width: int, labels: int) -> None:
    """Hold a file to its first line.

    Raises:
        InputError: another number of rows, or the id of a feature or a label that is beyond the number of these.
    """
    if len(ids) != rows:
        raise InputError(
            f"{path}: expected {rows:,} rows, as its first line says, got {len(ids):,}; download or write it again, or "
            "correct the first line"
        )
    if features.shape[1] > width:
        place = int(np.argmax(features.indices >= width))
        row = int(np.searchsorted(features.indptr, place, side="right"))
        raise InputError(
            f"{path}, row {row}: expected features from 0 to {width - 1}, as its first line says, got "
            f"{features.indices[place]}; correct the row or the first line"
        )
    for row, given in enumerate(ids, 1):
        if given and not (0 <= min(given) and max(given) < labels):
            wrong = next(label for label in given if not 0 <= label < labels)
            raise InputError(
                f"{path}, row {row}: expected labels from 0 to {labels - 1}, as its first line says, got {wrong:.0f}; "
                "correct the row or the first line"
            )


def _load(rows: bytes) -> tuple[Any, Any]:
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite and is reported as such
        load: Any = load_svmlight_file  # what pyright infers of its arguments is wrong
        return load(io.BytesIO(rows), multilabel=True, dtype=np.float32, zero_based=True)


def _first_malformed(rows: bytes) -> tuple[int, bytes]:
    """Halve the lines until the first bad one is alone: scikit-learn's errors name no line."""
    lines = rows.splitlines(keepends=True)
    start, stop = 0, len(lines)
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            _load(b"".join(lines[start:middle]))
            start = middle
        except _ERRORS:
            stop = middle
    return start + 1, lines[start]
