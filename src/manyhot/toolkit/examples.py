"""Rows as a model sees them: texts, numbers, label sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp

from manyhot.toolkit.cells import (
    all_bracketed,
    check_holds_labels,
    counted,
    label_codes,
    label_tokens,
    listed,
    plain,
    read_indicators,
    read_numbers,
    read_texts,
)
from manyhot.toolkit.columns import Columns
from manyhot.toolkit.data import InputError, Matrix, read_file


@dataclass(frozen=True)
class Examples:
    """What a model learns from or is asked about, row by row.

    Attributes:
        source: the file, for messages.
        texts: one string a row, the text columns joined by a line end, a missing cell being empty; or None.
        numbers: (rows, features) float32, an array or scipy CSR; or None.
        targets: (rows, labels) bool, scipy CSR; None when labels were not asked for.
        label_names: the labels of `targets`, column by column.
    """

    source: str
    texts: list[str] | None
    numbers: Any
    targets: Any
    label_names: list[str]

    @property
    def rows(self) -> int:
        """The number of rows."""
        if self.texts is not None:
            return len(self.texts)
        return 0 if self.numbers is None else self.numbers.shape[0]


def examples_from_frame(
    frame: pl.DataFrame,
    columns: Columns,
    source: str,
    *,
    label_names: Sequence[str] | None = None,
    with_labels: bool = True,
) -> Examples:
    """Read the examples of a table by the columns found in training.

    Args:
        frame: a table, as `read_file` returns it or typed.
        columns: what `find_columns` returned.
        source: the file, for messages.
        label_names: needed for "ids", which are positions in it; for "list" and "separated" it fixes the labels and
            their order, and without it the labels are the file's own, sorted; 0/1 columns name their labels themselves.
        with_labels: False ignores the label columns, even where they are malformed or absent.

    Raises:
        InputError: a column is missing, or a cell is not what the column should hold.
    """
    frame = plain(frame)
    if columns.label_format == "matrix":
        raise InputError(f"{source}: expected NAME.X.npz as in training, got a table; name the file NAME.X.npz")
    wanted = [*columns.text, *columns.features, *(columns.labels if with_labels else ())]
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise InputError(
            f"{source}: expected the columns {listed(wanted)} as in training, got a file without {listed(missing)}; "
            f"it has {listed(frame.columns)}: add or rename the columns"
        )
    texts = read_texts(frame, columns.text, source) if columns.text else None
    numbers = read_numbers(frame, columns.features, source) if columns.features else None
    if not with_labels:
        return Examples(source, texts, numbers, None, [])
    if columns.label_format == "indicator":
        return Examples(source, texts, numbers, read_indicators(frame, columns.labels, source), list(columns.labels))
    (name,) = columns.labels
    column, ids = frame[name], columns.label_format == "ids"
    check_holds_labels(column, source)
    as_list = columns.label_format == "list" or (ids and columns.label_sep is None and all_bracketed(column))
    tokens = label_tokens(column, source, as_list=as_list, sep=columns.label_sep)
    if label_names is None:
        if ids:
            raise ValueError("labels given as ids need label_names, the names they are positions in")
        label_names = tokens["token"].unique().sort().to_list()
    codes = label_codes(tokens, label_names, column, source, ids=ids)
    cells = (np.ones(len(codes), dtype=bool), (tokens["row"].to_numpy(), codes.to_numpy()))
    targets = sp.csr_array(cells, shape=(frame.height, len(label_names)))
    return Examples(source, texts, numbers, targets, list(label_names))


def examples_from_matrix(matrix: Matrix, source: str, *, with_labels: bool = True) -> Examples:
    """Take the examples of NAME.X.npz and NAME.Y.npz as they are.

    Raises:
        InputError: labels are asked for and there is no NAME.Y.npz.
    """
    if not with_labels:
        return Examples(source, None, matrix.features, None, [])
    if matrix.targets is None:
        raise InputError(
            f"{source}: expected labels in NAME.Y.npz beside NAME.X.npz, got none; "
            "save the 0/1 matrix there with scipy.sparse.save_npz"
        )
    return Examples(source, None, matrix.features, matrix.targets, list(matrix.label_names or ()))


def check_trainable(examples: Examples) -> None:
    """Refuse examples that nothing can be learned from; prediction and evaluation have no such minimum.

    Raises:
        InputError: fewer than two rows, fewer than two labels, or no row with a label.
    """
    if examples.rows < 2:
        raise InputError(
            f"{examples.source}: training needs at least two rows, got {examples.rows}; add rows to the file"
        )
    positives = 0 if examples.targets is None else int(examples.targets.sum())
    if not positives:
        raise InputError(
            f"{examples.source}: expected rows with labels, got none; name another column: --labels COLUMN"
        )
    if len(examples.label_names) < 2:
        raise InputError(
            f"{examples.source}: multi-label learning needs at least two labels, got only "
            f"{listed(examples.label_names)}; name another column: --labels COLUMN"
        )


def check_one_class(examples: Examples) -> None:
    """Refuse rows with several labels or none, where each is to have one class.

    Raises:
        InputError: names the first such row, counts them and says what to do.
    """
    sizes = np.asarray(examples.targets.sum(axis=1)).ravel()
    wrong = np.flatnonzero(sizes != 1)
    if not wrong.size:
        return
    row = int(wrong[0])
    cells = examples.targets[[row]].toarray()[0]
    got = listed([examples.label_names[i] for i in np.flatnonzero(cells)]) if sizes[row] else "none"
    several, none = int((sizes > 1).sum()), int((sizes == 0).sum())
    counts = [f"{counted(n, 'row')} with {what}" for n, what in ((several, "several"), (none, "none")) if n]
    advice = ["leave --task out to learn sets of labels"]
    if none:
        advice.append("--drop-unlabelled leaves out rows without a class")
    if several:
        advice.append("--label-sep names another separator where a class has this one in its name")
    raise InputError(
        f"{examples.source}, row {row + 1}: expected one class, as --task multiclass asks, got {got} "
        f"({', '.join(counts)}); {'; '.join(advice)}"
    )


def read_examples(
    path: str | Path, columns: Columns, *, label_names: list[str] | None = None, with_labels: bool = True
) -> Examples:
    """Read a file by the columns that training found.

    Raises:
        InputError: bad input, or a table where training had a matrix and the other way round.
    """
    raw, source = read_file(path), Path(path).name
    if isinstance(raw, Matrix) != (columns.label_format == "matrix"):
        kinds = ("a table (CSV, TSV, JSONL, Parquet)", "a matrix (NAME.X.npz)")
        wanted = columns.label_format == "matrix"
        raise InputError(f"{source}: expected {kinds[wanted]}, as in training; got {kinds[not wanted]}.")
    if isinstance(raw, Matrix):
        return examples_from_matrix(raw, source, with_labels=with_labels)
    return examples_from_frame(raw, columns, source, label_names=label_names, with_labels=with_labels)


def drop_unlabelled(examples: Examples) -> tuple[Examples, int]:
    """Leave out rows without labels; the second value counts them."""
    keep = np.flatnonzero(np.diff(examples.targets.indptr) > 0)
    kept = replace(
        examples,
        texts=None if examples.texts is None else [examples.texts[i] for i in keep],
        numbers=None if examples.numbers is None else examples.numbers[keep],
        targets=examples.targets[keep],
    )
    return kept, examples.rows - len(keep)
