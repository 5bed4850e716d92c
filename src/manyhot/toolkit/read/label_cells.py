"""Cells that hold label sets: lists in any bracket, objects, labels with a separator between."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.cells import filled, holds_cells, trimmed
from manyhot.toolkit.read.literals import are_bracketed, is_literal, literal, parse_lists
from manyhot.toolkit.read.separators import split_cells, stripped


def are_lists(column: pl.Series, source: str, *, asked: bool) -> bool:
    """Say whether the cells of a column are lists.

    Args:
        column: a column that can hold labels.
        source: the file, for messages.
        asked: a separator is given. Brackets are then text, save where a cell is a list that can be read.

    Raises:
        InputError: some cells are lists and some are not; names the first row that is unlike the others.
    """
    if isinstance(column.dtype, pl.List):
        return True
    if column.dtype != pl.String:
        return False
    cells = pl.DataFrame({"cell": column}).with_row_index("row").select("row", trimmed(pl.col("cell"))).drop_nulls()
    bracketed = are_bracketed(cells["cell"])
    if not bracketed.any():
        return False
    inside, outside = cells.filter(bracketed), cells.filter(~bracketed)
    readable = any(is_literal(cell) for cell in inside["cell"].unique(maintain_order=True).head(1000))
    if not len(outside):
        return readable or not asked
    several = bool(inside["cell"].str.contains(r"[,;|\s]").any())
    if not readable and (asked or not several or len(inside) <= len(outside)):
        return False
    most, (row, cell) = (
        ("a list as in most cells", outside.row(0)) if len(inside) > len(outside) else ("text", inside.row(0))
    )
    raise InputError(
        f"{source}, row {row + 1}, column {shown(column.name)}: expected {most}, got {shown(cell)}; write all cells "
        f"alike, one label as {shown(json.dumps(['a']))}"
    )


def label_lists(column: pl.Series, source: str, *, as_list: bool, sep: str | None) -> pl.Series:
    """Read the cells of a column as lists of trimmed labels, in the order in which they stand.

    Raises:
        InputError: a cell that is no list where the others are.
    """
    if isinstance(column.dtype, pl.List):
        item = pl.element().str.strip_chars()
        return column.cast(pl.List(pl.String)).list.eval(item.filter(item != ""))
    cells = column.cast(pl.String)
    if as_list:
        return parse_lists(cells, source)
    return stripped(pl.select(pl.concat_list(pl.lit(cells))).to_series() if sep is None else split_cells(cells, sep))


def label_tokens(lists: pl.Series) -> pl.DataFrame:
    """List the labels of all cells, each once a cell: `row`, counted from 0, and `token`."""
    tokens = pl.DataFrame({"token": lists}).with_row_index("row").explode("token").drop_nulls()
    return tokens.unique(maintain_order=True)


def holds_objects(dtype: Any) -> bool:
    """Say whether a column of this type holds an object of numbers a cell, such as {"a": 1, "b": 0}."""
    return isinstance(dtype, pl.Struct) and len(dtype.fields) > 1 and _are_numbers(dtype)


def _are_numbers(dtype: pl.Struct) -> bool:
    return all(
        field.dtype == pl.Null or (holds_cells(field.dtype) and field.dtype != pl.String) for field in dtype.fields
    )


def object_columns(column: pl.Series, source: str, names: Sequence[str] = ()) -> pl.DataFrame | None:
    """Lay out objects, typed or written as text, as a column a name; None where the cells are no objects.

    A name that is left out is no label where the objects name only labels that are on. Where some name others too, it
    is a missing cell; so is one of `names` that no object has.

    Raises:
        InputError: an object whose values are no numbers, or a cell that is none where others are.
    """
    if isinstance(column.dtype, pl.Struct):
        frame = column.struct.unnest() if _are_numbers(column.dtype) else None
    elif column.dtype == pl.String and filled(column.head(1000)).str.starts_with("{").any():
        frame = _parsed_objects(column, source)
    else:
        return None
    if frame is None:
        return None
    absent = [pl.Series(name, [None] * len(column), pl.Float64) for name in names if name not in frame.columns]
    frame = frame.with_columns(absent)
    low = frame.select(pl.all().cast(pl.Float64).min()).row(0)
    if all(value is None or value > 0 for value in low):
        frame = frame.select(pl.all().fill_null(0))
    return frame


def _parsed_objects(column: pl.Series, source: str) -> pl.DataFrame | None:
    records: list[dict[str, float | None]] = []
    for row, cell in enumerate(column, 1):
        value = literal(cell.strip()) if cell and cell.strip() else {}
        if not isinstance(value, dict):
            if not any(records):
                return None
            raise InputError(
                f"{source}, row {row}, column {shown(column.name)}: expected an object such as "
                f"""{{"a": 1, "b": 0}}, as above it, got {shown(cell)}; correct the cell"""
            )
        for name, number in value.items():
            if not isinstance(name, str) or not isinstance(number, int | float | None):
                raise InputError(
                    f"{source}, row {row}, column {shown(column.name)}: expected an object of label names with 0 or 1, "
                    f"got {shown(cell)}; correct the cell"
                )
        records.append({name.strip(): None if number is None else float(number) for name, number in value.items()})
    names = list(dict.fromkeys(name for record in records for name in record))
    # Rows of nothing but {} still are rows.
    return pl.DataFrame({name: [record.get(name) for record in records] for name in names or [column.name]})
