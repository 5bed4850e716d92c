"""Which column holds the label sets, or which several of them a label each, where nobody says."""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.cells import filled, listed, without_missing
from manyhot.toolkit.read.kinds import TRUTHS, where, whole

LABEL_NAMES = ("labels", "label", "tags", "topics", "categories", "classes", "genres", "targets", "y")
# label1, label_2, tag.3: one of several columns that hold a label each.
_ONE_OF_SEVERAL = re.compile(r"(?i)(label|tag|topic|category|class|genre|target)s?[\s_.-]?(\d+)")
_YES_NO = ("yes", "no", "y", "n", "t", "f", "x", "on", "off", "pos", "neg", "positive", "negative", "✓", "✔", "✗", "-")
# Kinds of columns whose cells are text.
_TEXTS = ("string", "comma", "thousands", "grouped")
_FRACTIONS = r"^(?:[+-]?\d*\.\d+(?:[eE][+-]?\d+)?[\s,;|]*)+$|^-?\d*,\d+$"


def find_label_column(
    frame: pl.DataFrame, source: str, kinds: dict[str, str], free: Sequence[str], *, zero_or_one: bool
) -> list[str]:
    """Find the one column of label sets; what has a telling name goes before what is only a list.

    Or several columns of one name and a number, with a label each.
    """
    # With a file of label names, 0 and 1 are positions in it; where each row has one class, they are two classes.
    last = ("number", "empty", "01") if zero_or_one else ("number", "empty")
    named = [name for name in free if name.lower() in LABEL_NAMES]
    objects = [name for name in free if kinds[name] == "object"]
    pools = (
        [name for name in named if kinds[name] == "list" or are_truths(frame[name])],
        [name for name in named if kinds[name] in _TEXTS and not _are_fractions(frame[name])],
        [name for name in objects if name.lower() in ("cats", *LABEL_NAMES)],
        _one_of_several(frame, kinds, free),
        [name for name in free if kinds[name] == "list"],
        [name for name in objects if are_truths(frame[name])],
        # A fraction is no label's name.
        where(frame, [name for name in named if kinds[name] in last], _are_classes if zero_or_one else _are_ids),
    )
    for position, pool in enumerate(pools):
        if len(pool) > 1 and position != 3:
            options = " or ".join(f"--labels {name}" for name in pool)
            raise InputError(f"{source}: expected one column of labels, got {listed(pool)}; say which: {options}")
        if pool:
            _refuse_coordinate(source, kinds, pool, free)
            return pool
    return []


def _are_ids(cell: pl.Expr) -> pl.Expr:
    return whole(cell).all()


def _are_classes(cell: pl.Expr) -> pl.Expr:
    """Say whether all cells are whole numbers, as 1 or as 1.0, or true and false."""
    text = without_missing(cell.cast(pl.String)).str.to_lowercase().str.strip_suffix(".0")
    return (whole(text) | text.is_in(["true", "false"])).all()


def _refuse_coordinate(source: str, kinds: dict[str, str], labels: Sequence[str], free: Sequence[str]) -> None:
    """Refuse to choose between numbers in a column y, which may be half of a place, and columns of 0 and 1."""
    truths = [name for name in free if kinds[name] == "01" and name not in labels]
    if [name.lower() for name in labels] == ["y"] and kinds[labels[0]] in ("number", "comma") and len(truths) > 1:
        raise InputError(
            f"{source}: expected one column of labels or 0/1 columns, got numbers in {labels[0]} and the 0/1 columns "
            f"{listed(truths)}; say which: --labels {labels[0]} or --labels {','.join(truths[:12])}"
        )


def are_truths(column: pl.Series) -> bool:
    """Say whether lists or objects hold nothing but 0 and 1, as fractions or truths."""
    if isinstance(column.dtype, pl.Struct):
        return all(bool(part.cast(pl.Float64).is_in([0.0, 1.0]).all()) for part in column.struct.unnest())
    if not isinstance(column.dtype, pl.List) or not (column.dtype.inner.is_float() or column.dtype.inner == pl.Boolean):
        return False
    items = column.explode().drop_nulls().cast(pl.Float64)
    return len(items) > 0 and bool(items.is_in([0.0, 1.0]).all())


def _are_fractions(column: pl.Series) -> bool:
    """Say whether most cells are numbers with a fraction, one or several, whatever the others are."""
    cells = filled(column).str.replace_all(r"\b[01]\.0\b", "1")
    numbers = cells.str.contains(_FRACTIONS)
    # 2,5 may be two ids; where some are below 0, it is a number.
    signed = cells.str.contains(".", literal=True) | cells.str.starts_with("-").any()
    return 2 * (numbers & signed).sum() > len(cells)


def _one_of_several(frame: pl.DataFrame, kinds: dict[str, str], free: Sequence[str]) -> list[str]:
    """Find label1, label2, label3: two columns or more of one stem with a number, that hold names or whole numbers."""
    stems: dict[str, list[str]] = {}
    for name in free:
        if match := _ONE_OF_SEVERAL.fullmatch(name):
            stems.setdefault(match[1].lower(), []).append(name)
    for names in stems.values():
        if len(names) > 1 and hold_names(frame, kinds, names):
            return names
    return []


def hold_names(frame: pl.DataFrame, kinds: dict[str, str], names: Sequence[str]) -> bool:
    """Say whether several columns hold names of labels, and not one 0 or 1 of their own each."""
    held = [name for name in names if kinds[name] != "empty"]
    if not held or any(kinds[name] not in ("string", "grouped", "number", "01") for name in held):
        return False
    numbers = [name for name in held if kinds[name] in ("number", "01")]
    if len(where(frame, numbers, lambda cell: whole(cell).all())) < len(numbers):
        return False
    if numbers == held:
        return all(kinds[name] == "number" for name in held)
    words = [filled(frame[name]).str.to_lowercase() for name in held]
    # Yes, no and a cross say whether a row has the label that the column is named after.
    return not any(cells.is_in(TRUTHS).any() for cells in words) and not all(
        cells.is_in(_YES_NO).all() for cells in words
    )
