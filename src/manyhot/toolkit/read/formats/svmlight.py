"""svmlight and LIBSVM files with several labels a row, through scikit-learn, with errors that name the line."""

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

# "rows features labels", the first line of the files of the Extreme Classification Repository.
_SIZES = re.compile(rb"\s*\d+\s+(\d{1,9})\s+\d+\s*\n")
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


def read_svmlight(path: Path, data: bytes) -> Svmlight:
    """Read the bytes of an svmlight file; everything after # is a comment.

    Raises:
        InputError: names the first malformed line, a label that is no whole number, or a value that is not finite.
    """
    header = _SIZES.match(data)
    rows = data[header.end() :] if header else data
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
    return Svmlight(features, named, int(header[1]) if header else None)


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
