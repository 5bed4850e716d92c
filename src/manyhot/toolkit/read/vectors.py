"""Cells that hold a vector of 0 and 1, one for each label, where others hold the names of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.cells import trimmed
from manyhot.toolkit.read.label_cells import label_lists

_TRUTHS = {"0": "0", "1": "1", "0.0": "0", "1.0": "1", "false": "0", "true": "1"}
_MAYBE = ("-1", "-100", "-1.0", "-100.0")
_BETWEEN = r"[\s,;|/]+"


class Vectors(NamedTuple):
    """Vectors of 0 and 1: the lists of their items, how many each has, and what a cell looks like."""

    lists: pl.Series
    size: int
    example: Any


def find_vectors(column: pl.Series, lists: pl.Series | None, source: str) -> Vectors | None:
    """Find that all cells are vectors of 0 and 1 of one length: lists, or text such as 0 1 1 0 or 0110.

    Args:
        column: the cells.
        lists: what `label_lists` makes of them, where they are lists.
        source: the file, for messages.

    Raises:
        InputError: 0s and 1s that are neither vectors of one length nor positions.
    """
    items = lists if isinstance(column.dtype, pl.List) or _has_brackets(column) else _items_of_text(column)
    if items is None:
        return None
    _refuse_unknown(items, column, source)
    if (items := _truths(items)) is None:
        return None
    sizes = items.list.len()
    some = sizes.filter(sizes > 0)
    if some.max() == 1:
        return None
    if some.n_unique() == 1:
        example = column[int((sizes > 0).arg_max() or 0)]
        return Vectors(items, int(some[0]), example.to_list() if isinstance(example, pl.Series) else example)
    repeats = sizes > items.list.n_unique()
    if repeats.any():
        raise InputError(
            f"{source}, row {(repeats.arg_max() or 0) + 1}, column {shown(column.name)}: expected the names of labels, "
            "or vectors of 0s and 1s of one length, got 0s and 1s of different lengths; write the names, or one 0/1 "
            "column for each label"
        )
    return None


def _refuse_unknown(lists: pl.Series, column: pl.Series, source: str) -> None:
    """Refuse vectors with -1 or -100 where nobody knows, which are no names either."""
    items = lists.explode().drop_nulls()
    sizes = lists.list.len().drop_nulls()
    if sizes.filter(sizes > 0).n_unique() != 1 or sizes.max() == 1:
        return
    if items.is_in(_MAYBE).any() and items.is_in([*_MAYBE, *_TRUTHS]).all():
        raise InputError(
            f"{source}, column {shown(column.name)}: expected the names of the labels that are on, got vectors of 0, "
            f"1 and {items.filter(items.is_in(_MAYBE))[0]}; write a column a label, and leave unknown cells empty"
        )


def _has_brackets(column: pl.Series) -> bool:
    return column.dtype == pl.String and bool(column.str.contains(r"[\[({]").any())


def _items_of_text(column: pl.Series) -> pl.Series | None:
    """Part the 0s and 1s of text; None where that is not what all of it is."""
    if column.dtype != pl.String:
        return None
    text = pl.select(trimmed(pl.lit(column))).to_series().str.replace_all(r"\b([01])\.0\b", "$1")
    if not text.str.contains(rf"^[01]+(?:{_BETWEEN}[01]+)*$").all():
        return None
    if text.str.contains(_BETWEEN).any():
        return text.str.replace_all(_BETWEEN, " ").str.split(" ")
    sizes = text.str.len_bytes()
    # 10 and 11 are numbers; 010 is none.
    return text.str.split("") if text.str.contains("^0.").any() and sizes.drop_nulls().n_unique() == 1 else None


def _truths(lists: pl.Series) -> pl.Series | None:
    """Turn 1.0 and true into 1; None where something is neither 0 nor 1."""
    items = lists.explode().drop_nulls().str.to_lowercase()
    if not len(items) or not items.is_in(list(_TRUTHS)).all():
        return None
    return lists.list.eval(pl.element().str.to_lowercase().replace(_TRUTHS))


def read_vectors(column: pl.Series, names: Sequence[str], source: str) -> np.ndarray:
    """Read vectors of 0 and 1 as (rows, names) bool; an empty cell has no label.

    Raises:
        InputError: a cell of another length, or one that is no vector.
    """
    cells = np.zeros((len(column), len(names)), dtype=bool)
    lists = label_lists(column, source, as_list=_has_brackets(column), sep=None)
    if not lists.list.len().sum():
        return cells
    found = find_vectors(column, lists, source)
    if found is None or found.size != len(names):
        raise InputError(
            f"{source}, column {shown(column.name)}: expected vectors of {len(names)} 0s and 1s, one for each label "
            f"name, got {'something else' if found is None else found.size}; correct the column or the file of label "
            "names"
        )
    full = (found.lists.list.len().fill_null(0) > 0).to_numpy()
    cells[full] = (found.lists.explode().drop_nulls() == "1").to_numpy().reshape(-1, len(names))
    return cells
