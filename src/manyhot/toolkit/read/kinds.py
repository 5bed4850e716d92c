"""What each column can be, by all of its cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import polars as pl

from manyhot.toolkit.read.cells import (
    holds_cells,
    holds_labels,
    holds_vectors,
    numbered,
    trimmed,
    type_name,
    without_missing,
)
from manyhot.toolkit.read.label_cells import holds_objects
from manyhot.toolkit.read.uses import is_unnamed

_COMMA = r"^[+-]?(?:0|[1-9]\d*)?(?:,\d+)?(?:[eE][+-]?\d+)?$"
_THOUSANDS = r"^[+-]?[1-9]\d{0,2}(?:,\d{3})*$"
# 1,234.50, 1.234,56 or 1 234: beyond doubt numbers, whose separators of thousands no reader of numbers takes.
_GROUPED = r"^[+-]?\d{1,3}(?:(?:,\d{3})+(?:\.\d+)?|(?:\.\d{3})+(?:,\d+)?|(?:['’\s\x{a0}\x{202f}]\d{3})+(?:[.,]\d+)?)$"
_PLAIN_OR_GROUPED = rf"^[+-]?\d+(?:[.,]\d+)?$|{_GROUPED}"
TRUTHS = ("0", "1", "0.0", "1.0", "true", "false")


def kinds_of(frame: pl.DataFrame) -> dict[str, str]:
    """Say of each column what it can be: list, vector, 01, number, string, empty or, for other types, their name."""
    kinds: dict[str, str] = {}
    for name, dtype in frame.schema.items():
        if holds_labels(dtype) and isinstance(dtype, pl.List):
            kinds[name] = "list"
        elif holds_cells(dtype):
            kinds[name] = "string" if dtype == pl.String else "number"
        elif holds_vectors(dtype):
            kinds[name] = "vector"
        elif holds_objects(dtype):
            kinds[name] = "object"
        else:
            kinds[name] = type_name(dtype)
    strings = [name for name, kind in kinds.items() if kind == "string"]
    typed = [name for name, kind in kinds.items() if kind == "number"]
    numbers = where(frame, strings, _all_numbers)
    # Trimming costs as much as parsing, and few columns need it.
    numbers += where(frame, sorted(set(strings) - set(numbers)), lambda cell: _all_numbers(trimmed(cell)))
    # NA beside numbers is a missing one.
    rest = [name for name in strings if name not in numbers]
    numbers += where(frame, rest, lambda cell: _all_numbers(without_missing(cell)) & _any_number(cell))
    kinds |= dict.fromkeys(numbers, "number")
    commas = where(frame, [name for name in strings if name not in numbers], lambda cell: _all(cell, _COMMA))
    commas = [name for name in commas if frame[name].str.contains(",", literal=True).any()]
    unsure = where(frame, commas, lambda cell: _all(cell, _THOUSANDS))
    # Where another column has a decimal comma beyond doubt, that is how this file writes numbers.
    kinds |= dict.fromkeys(commas, "comma") | dict.fromkeys(unsure if commas == unsure else (), "thousands")
    rest = [name for name in strings if name not in numbers and name not in commas]
    grouped = where(frame, rest, lambda cell: _all(cell, _PLAIN_OR_GROUPED))
    grouped = [name for name in grouped if frame[name].str.contains(_GROUPED).any()]
    kinds |= dict.fromkeys(grouped, "grouped")
    kinds |= dict.fromkeys(where(frame, strings, _all_truths), "01")
    kinds |= dict.fromkeys(where(frame, typed, lambda cell: cell.cast(pl.Float64).is_in([0.0, 1.0]).all()), "01")
    empty = where(frame, strings, lambda cell: trimmed(cell).is_null().all())
    return kinds | dict.fromkeys(
        [*empty, *(name for name in typed if frame[name].null_count() == frame.height)], "empty"
    )


def where(frame: pl.DataFrame, names: Sequence[str], question: Callable[[pl.Expr], pl.Expr]) -> list[str]:
    """List the columns for which the answer is yes; the first rows settle most, the others are read as a whole."""
    for part in (frame.head(100), frame):
        cells = numbered(part, names)
        answers = cells.select(question(pl.col(column)) for column in cells.columns)
        names = [name for position, name in enumerate(names) if answers[str(position)][0]]
    return list(names)


def _all_numbers(text: pl.Expr) -> pl.Expr:
    number = text.cast(pl.Float64, strict=False).is_not_null()
    # 007 is a code: as a number it would be the same as 7.
    code = text.str.starts_with("0") & (text.str.len_bytes() > 1)
    for fraction in ("0.", "0e", "0E"):
        code &= ~text.str.starts_with(fraction)
    return ((number & ~code) | text.is_null() | (text == "")).all()


def _any_number(cell: pl.Expr) -> pl.Expr:
    return without_missing(cell).cast(pl.Float64, strict=False).is_not_null().any()


def _all(text: pl.Expr, pattern: str) -> pl.Expr:
    cell = without_missing(text)
    return (cell.str.contains(pattern) | cell.is_null()).all()


def _all_truths(cell: pl.Expr) -> pl.Expr:
    return trimmed(cell).str.to_lowercase().is_in(TRUTHS).all()


def shares_of(frame: pl.DataFrame, names: Sequence[str]) -> list[str]:
    """List the numeric columns with no value below 0 or above 1."""
    return where(frame, names, lambda cell: cell.cast(pl.Float64, strict=False).is_between(0, 1).all())


def ids_of(frame: pl.DataFrame, kinds: dict[str, str]) -> dict[str, str]:
    """Find the columns that only tell rows apart, and say how that shows."""
    numbers = [name for name, kind in kinds.items() if kind in ("number", "01")]
    unnamed = where(
        frame, [name for name in numbers if is_unnamed(name)], lambda cell: cell.is_unique().all() & whole(cell).all()
    )
    numbers = [name for name in numbers if kinds[name] == "number"]
    named = [name for name in numbers if re.fullmatch(r"id|index|row|.*_id", name.lower())]
    # One or two rows count up by chance.
    counting = (
        where(frame, numbers, lambda cell: (cell.cast(pl.Float64, strict=False).diff() == 1).sum() == pl.len() - 1)
        if frame.height > 2
        else []
    )
    return (
        dict.fromkeys(unnamed, "unnamed, and another number in each row")
        | dict.fromkeys(named, "an id by its name")
        | dict.fromkeys(counting, "counts the rows")
    )


def whole(cell: pl.Expr) -> pl.Expr:
    """Say which cells are whole numbers; missing ones are."""
    text = without_missing(cell.cast(pl.String))
    return text.str.contains(r"^[+-]?\d+$") | text.is_null()
