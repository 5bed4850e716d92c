"""Files to what they hold: frames, matrices, attributes; the name of a file says which format it is.

CSV and TSV columns stay strings here: what a column means is decided over the whole column, in `columns`, so that the
code 007 is never turned into 7.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from manyhot.toolkit.errors import InputError, reading
from manyhot.toolkit.read.formats.arff import Relation, read_arff
from manyhot.toolkit.read.formats.delimited import read_delimited
from manyhot.toolkit.read.formats.files import (
    FORMATS,
    POLARS_ERRORS,
    check_encoding,
    check_is_file,
    kind_of_file,
    no_rows,
    not_parquet,
    read_text,
)
from manyhot.toolkit.read.formats.jsonl import read_jsonl
from manyhot.toolkit.read.formats.label_lists import find_mulan, read_label_names
from manyhot.toolkit.read.formats.matrix import Matrix, find_matrix, read_matrix
from manyhot.toolkit.read.formats.svmlight import Svmlight, read_svmlight
from manyhot.toolkit.read.formats.tagged import is_span_file

__all__ = ["Matrix", "Raw", "Relation", "Svmlight", "files_of", "read_file", "read_label_names"]

# What a file holds before anything is known of its columns.
Raw = pl.DataFrame | Matrix | Relation | Svmlight


def read_file(path: str | Path, *, header: bool = True, encoding: str | None = None) -> Raw:
    """Read one data file; its name says which format it is.

    Args:
        path: a file in one of `FORMATS`. For matrices DIR/NAME.X.npz, DIR/NAME.Y.npz and DIR/NAME all mean the same
            three files; the names of the labels come from NAME.labels.txt or else from labels.txt. Embeddings are
            arrays, NAME.npy, NAME.X.npy or an .npz of one array, with the labels in NAME.Y.npz or NAME.Y.npy.
        header: False for CSV and TSV whose first row is no names; the columns are then named 1, 2, ... Other formats
            name their columns whatever this says.
        encoding: of text, where it is not UTF-8 and has no byte order mark that says it.

    Returns:
        A frame with at least one row, CSV and TSV cells as strings; a `Matrix`; for ARFF a `Relation`; or `Svmlight`.

    Raises:
        InputError: the file is missing, empty, damaged, of another format or not of the format its name says.
    """
    with reading(path):
        return _read_file(Path(path), header, encoding)


def _read_file(path: Path, header: bool, encoding: str | None) -> Raw:
    check_encoding(path, encoding)
    kind, packing = kind_of_file(path)
    matrix = find_matrix(path)
    if matrix is not None:
        return read_matrix(matrix)
    check_is_file(path)
    if kind == ".parquet" and not packing:
        frame = _read_parquet(path)
    elif kind in (".csv", ".tsv"):
        frame = read_delimited(path, read_text(path, encoding), "," if kind == ".csv" else "\t", header=header)
    elif kind in (".jsonl", ".ndjson"):
        frame = read_jsonl(path, read_text(path, encoding))
    elif kind == ".arff":
        return read_arff(path, read_text(path, encoding))
    elif kind in (".svm", ".svmlight", ".libsvm"):
        return read_svmlight(path, read_text(path, encoding))
    elif kind == ".txt":
        return read_svmlight(path, read_text(path, encoding), sizes=True)
    elif is_span_file(path):
        raise InputError(f"{path}: expected a table, got a file of spans; they are learned with --task spans")
    else:
        raise InputError(
            f"{path}: expected a file in one of these formats: {FORMATS}, got {path.name!r}; "
            "convert the file or give it the ending of its format"
        )
    if frame.is_empty():
        raise no_rows(path)
    return frame


def files_of(path: str | Path) -> list[Path]:
    """List the files that a path means: one, those of a matrix, or an ARFF file and MULAN's XML beside it."""
    path = Path(path)
    with reading(path):
        matrix = find_matrix(path)
        if matrix is not None:
            return matrix.existing()
        xml = find_mulan(path) if kind_of_file(path)[0] == ".arff" else None
    return [path] if xml is None else [path, xml]


def is_delimited(path: str | Path) -> bool:
    """Say whether a file is CSV or TSV by its name."""
    return kind_of_file(Path(path))[0] in (".csv", ".tsv")


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except (OSError, *POLARS_ERRORS) as error:
        raise not_parquet(path, error) from None
