"""What Python callers hand in, to the few forms that a run reads: texts, frames, matrices; label sets, 0/1 matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch

from manyhot.targets import IndexTargets
from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.formats.files import POLARS_ERRORS


def texts_of(data: Any) -> list[str] | None:
    """Take texts as a list: one, or a list, tuple, array or Series of them; None where these are no texts.

    A missing text of a Series is an empty one, as in a frame.
    """
    if isinstance(data, str):
        return [str(data)]
    if isinstance(data, pl.Series) or is_pandas_series(data):
        return _with_gaps(list(data))
    if isinstance(data, np.ndarray) and data.ndim == 1 and data.dtype.kind in "UO":
        return _with_gaps(data.tolist())
    if isinstance(data, list | tuple) and all(isinstance(text, str) for text in data):
        return list(map(str, data))
    return None


def _with_gaps(cells: list[Any]) -> list[str] | None:
    """Make a missing cell, None or NaN, an empty text; None where some cell is neither that nor text."""
    texts = [cell if isinstance(cell, str) or str(cell) not in ("None", "nan", "<NA>") else "" for cell in cells]
    return texts if all(isinstance(text, str) for text in texts) else None


def is_pandas_series(data: Any) -> bool:
    """Say whether this is a Series of pandas, which need not be installed."""
    return hasattr(data, "iloc") and getattr(data, "ndim", 0) == 1


def frame_of(frame: Any, *, header: bool) -> pl.DataFrame:
    """Take a frame of pandas; without a header, a file's columns are called 1, 2, ..., and those of pandas 0, 1, ..."""
    names = [str(name) for name in frame.columns]
    if not header and list(frame.columns) == list(range(len(names))):
        names = [str(position + 1) for position in range(len(names))]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise InputError(
            f"the data: expected a different name for each column, got {shown(twice[0])} twice; rename one."
        )

    # polars' own conversion needs pyarrow.
    def cells(position: int) -> pl.Series:
        column = frame.iloc[:, position]
        found = [None if missing else cell for cell, missing in zip(column.tolist(), column.isna(), strict=True)]
        try:
            return pl.Series(names[position], found, strict=False)
        except POLARS_ERRORS:  # of several types: whether it is used is another question
            return pl.Series(names[position], [None if cell is None else str(cell) for cell in found], pl.String)

    return pl.DataFrame([cells(position) for position in range(len(names))])


def targets_of(targets: Any, num_labels: int, mask: Any = None) -> list[list[str]] | np.ndarray | sp.csr_array:
    """Take targets as label sets, or as a matrix in the order of the run's labels.

    Args:
        targets: a list, tuple, array or Series of label sets, each a list, tuple, set or array of names, or the one
            name of a row; `IndexTargets`; or (rows, labels) numbers, an array, tensor, scipy.sparse or torch.sparse.
        num_labels: of the run.
        mask: (rows, labels), False where nobody knows; the result is NaN there.

    Raises:
        InputError: a mask beside names, or of another shape.
    """
    sets = _named_sets(targets)
    if sets is not None:
        if mask is not None:
            raise InputError("evaluate expects targets as a matrix with mask=; got label sets, which have no cells.")
        return sets
    if isinstance(targets, IndexTargets):
        targets = targets.dense(num_labels)
    if isinstance(targets, torch.Tensor):
        targets = targets.detach().cpu()
        targets = (targets.to_dense() if targets.layout != torch.strided else targets).float().numpy()
    matrix: Any = sp.csr_array(targets) if sp.issparse(targets) else np.asarray(targets)
    if mask is None:
        return matrix
    known = np.asarray(mask.detach().cpu() if isinstance(mask, torch.Tensor) else mask)
    if known.shape != matrix.shape:
        raise InputError(f"evaluate expects a mask of the shape of targets, {matrix.shape}; got {known.shape}.")
    dense = matrix.toarray() if sp.issparse(matrix) else matrix
    return np.where(known > 0, dense.astype(np.float32), np.nan)


def _named_sets(targets: Any) -> list[list[str]] | None:
    """Take label sets of names; None where these are no names."""
    if isinstance(targets, pl.Series) or is_pandas_series(targets):
        targets = targets.to_list()
    if isinstance(targets, np.ndarray) and targets.dtype.kind in "UO" and targets.ndim == 1:
        targets = targets.tolist()
    if not isinstance(targets, list | tuple):
        return None
    rows: list[list[str]] = []
    for row in targets:
        names = [row] if isinstance(row, str) else row
        names = [] if names is None else names.tolist() if isinstance(names, np.ndarray) else names
        if not isinstance(names, list | tuple | set | frozenset) or not all(isinstance(name, str) for name in names):
            return None
        rows.append(list(names))
    return rows
