"""Cells of a table to texts, numbers and labels, with errors that name the row and the column.

Rows in messages count data rows from 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from manyhot.toolkit.errors import InputError, shown

TRUTHS = {"true": "1", "false": "0"}
# A number or a set of labels of which nothing else is said is unknown, as pandas, R and SQL write it. Other words for
# unknown, such as none or -1, are names that people give to classes, and values.
NO_VALUE = ("NaN", "nan", "NAN", "null", "NULL", "NA", "N/A", "n/a", "#N/A", "<NA>", "?")
_TRUE_OR_FALSE = (*TRUTHS, "0", "1", "0.0", "1.0")


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    """Reduce the types that mean the same to one: text to String, also where there is none at all, arrays to lists."""

    def plain(dtype: Any) -> Any:
        if isinstance(dtype, pl.List | pl.Array):
            return pl.List(plain(dtype.inner))
        return pl.String if dtype in (pl.Categorical, pl.Enum, pl.Null) else dtype

    return frame.cast({name: plain(dtype) for name, dtype in frame.schema.items() if plain(dtype) != dtype})


def holds_cells(dtype: Any) -> bool:
    """Say whether a column of this type holds one text or number a cell."""
    return dtype == pl.String or dtype == pl.Boolean or dtype.is_numeric()


def holds_labels(dtype: Any) -> bool:
    """Say whether a column of this type can hold labels: text, whole numbers, or lists of them."""
    inner = dtype.inner if isinstance(dtype, pl.List) else dtype
    return inner == pl.String or inner.is_integer()


def numbered(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Take columns under the names 0, 1, ...: polars takes a name such as * or ^a.*$ for a pattern."""
    return pl.DataFrame([frame[name].alias(str(position)) for position, name in enumerate(names)])


def trimmed(cell: pl.Expr) -> pl.Expr:
    """Text without white space round it, or null where nothing is left."""
    text = cell.str.strip_chars()
    return pl.when(text != "").then(text)


def filled(column: pl.Series) -> pl.Series:
    """The cells of a column that are not empty, as trimmed text."""
    return pl.select(trimmed(pl.lit(column.cast(pl.String)))).to_series().drop_nulls()


def read_texts(frame: pl.DataFrame, names: Sequence[str], source: str) -> list[str]:
    """Join text columns by a line end; a missing cell is empty."""
    for name in names:
        if not holds_cells(frame.schema[name]):
            raise InputError(
                f"{source}, column {shown(name)}: expected text, got a {type_name(frame.schema[name])} column; "
                "write it as text"
            )
    cells = numbered(frame, names).select(pl.all().cast(pl.String).fill_null(""))
    return cells.select(pl.concat_str(pl.all(), separator="\n")).to_series().to_list()


def holds_vectors(dtype: Any) -> bool:
    """Say whether a column of this type holds a list of numbers with fractions a cell, such as an embedding."""
    return isinstance(dtype, pl.List) and dtype.inner.is_float()


def read_numbers(frame: pl.DataFrame, names: Sequence[str], source: str, start: int = 0) -> np.ndarray:
    """Read numeric columns, one or for lists several each, as (rows, columns) float32; NaN is a missing cell.

    `start` rows of the file are before the frame.

    Raises:
        InputError: a cell that is neither empty nor a finite number, or lists of different lengths.
    """
    single = [name for name in names if not holds_vectors(frame.schema[name])]
    numbers = parsed(frame, single, source, "finite numbers")
    wrong = ~np.isfinite(numbers)
    for column in np.flatnonzero(wrong.any(axis=0)):
        wrong[:, column] &= ~is_missing(frame[single[column]])
    if wrong.any():
        refuse_first(wrong, frame, single, source, "a finite number that float32 can hold", start)
    if len(single) == len(names):
        return numbers
    place = {name: numbers[:, [i]] for i, name in enumerate(single)}
    return np.hstack([place[name] if name in place else _vectors(frame[name], source, start) for name in names])


def with_points(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Write the numbers of columns that have a decimal comma with a point."""
    texts = [name for name in names if name in frame.columns and frame.schema[name] == pl.String]
    return frame.with_columns(frame[name].str.replace(",", ".", literal=True) for name in texts)


def is_missing(column: pl.Series) -> np.ndarray:
    """Say which cells of numbers are missing: null, nothing but white space, or a word that says so."""
    if column.dtype != pl.String:
        return column.is_null().to_numpy()
    return pl.select(without_missing(pl.lit(column)).is_null()).to_series().to_numpy()


def without_missing(cell: pl.Expr) -> pl.Expr:
    """Trimmed text, or null where it says that nothing is known."""
    text = trimmed(cell)
    return pl.when(~text.is_in(NO_VALUE)).then(text)


def read_categories(frame: pl.DataFrame, names: Sequence[str], source: str) -> pl.DataFrame:
    """Read columns of categories as trimmed text under the names 0, 1, ...; null is a missing one.

    Codes that became 1.0, as a missing cell beside them makes of whole numbers, are 1.
    """
    for name in names:
        if not holds_cells(frame.schema[name]):
            raise InputError(
                f"{source}, column {shown(name)}: expected text or codes, got a {type_name(frame.schema[name])} "
                "column; write it as text"
            )
    cells = numbered(frame, names)
    codes = [name for name, dtype in cells.schema.items() if dtype.is_float()]
    whole = cells.select(pl.col(codes).cast(pl.String).str.strip_suffix(".0"))
    return cells.with_columns(whole).select(trimmed(pl.all().cast(pl.String)))


def _vectors(column: pl.Series, source: str, start: int) -> np.ndarray:
    """Read a column of lists of one length as (rows, length) float32."""
    sizes = column.list.len()
    where = f"{source}, row {{}}, column {shown(column.name)}"
    size = sizes[0]
    different = (sizes.ne_missing(size) | sizes.is_null()).arg_max() or 0
    if size is None or sizes[different] != size:
        got = "an empty cell" if sizes[different] is None else sizes[different]
        expected = "a list of numbers" if size is None else f"{size} numbers as in row {start + 1}"
        raise InputError(
            f"{where.format(start + different + 1)}: expected {expected}, got {got}; write lists of one length, "
            "or leave the row out"
        )
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite and is reported as such
        numbers = column.explode().cast(pl.Float64).to_numpy().reshape(-1, size).astype(np.float32)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        row, i = (int(x) for x in divmod(wrong.argmax(), size))
        raise InputError(
            f"{where.format(start + row + 1)}, number {i + 1}: expected a finite number that float32 can hold, got "
            f"{column[row][i]}; correct the cell, or leave the row out"
        )
    return numbers


def parsed(frame: pl.DataFrame, names: Sequence[str], source: str, expected: str) -> np.ndarray:
    """Parse cells to float32, row by row in memory; what is no number, or missing, becomes NaN."""
    for name in names:
        if not holds_cells(frame.schema[name]):
            raise InputError(
                f"{source}, column {shown(name)}: expected {expected}, got a {type_name(frame.schema[name])} column; "
                "write it as numbers"
            )
    cells = numbered(frame, names)
    numbers = cells.select(pl.all().cast(pl.Float32, strict=False))
    # Few columns hold white space or words, and only those are read again.
    again = [name for name, dtype in cells.schema.items() if dtype == pl.String and numbers[name].has_nulls()]
    words = pl.col(again).str.strip_chars().str.to_lowercase()
    # In a column of nothing else, true and false are features too; in a column of numbers they are a mistake.
    truths = again
    if expected == "finite numbers" and again:
        only = cells.select((words.is_in(_TRUE_OR_FALSE) | (words == "")).all())
        truths = [name for name in again if only[name][0]]
    numbers = numbers.with_columns(cells.select(words.cast(pl.Float32, strict=False)))
    if truths:
        words = pl.col(truths).str.strip_chars().str.to_lowercase().replace(TRUTHS)
        numbers = numbers.with_columns(cells.select(words.cast(pl.Float32, strict=False)))
    return numbers.to_numpy(order="c", writable=True)


def refuse_first(
    wrong: np.ndarray, frame: pl.DataFrame, names: Sequence[str], source: str, expected: str, start: int = 0
) -> None:
    """Refuse the first wrong cell of a table."""
    row = int(wrong.any(axis=1).argmax())
    name = names[int(wrong[row].argmax())]
    cell = frame[name][row]
    got = "an empty cell" if cell is None or cell == "" else shown(cell)
    raise InputError(
        f"{source}, row {start + row + 1}, column {shown(name)}: expected {expected}, got {got}; "
        "correct the cell, or leave the row or the column out"
    )


def check_holds_labels(column: pl.Series, source: str, advice: str = "name another column: --labels COLUMN") -> None:
    """Refuse a column of a type that holds no labels."""
    if not holds_labels(column.dtype):
        raise InputError(
            f"{source}, column {shown(column.name)}: expected labels as a list, as text or as whole numbers, got a "
            f"{type_name(column.dtype)} column; {advice}"
        )


def label_codes(
    tokens: pl.DataFrame, label_names: Sequence[str], column: pl.Series, source: str, *, ids: bool
) -> pl.Series:
    """Turn labels into positions in `label_names`."""
    if ids:
        codes = tokens["token"].cast(pl.Int64, strict=False)
        codes = codes.set(~codes.is_between(0, len(label_names) - 1), None)
    else:
        codes = tokens["token"].cast(pl.Enum(label_names), strict=False).to_physical()
    if codes.has_nulls():
        row, token = tokens.row(int(codes.is_null().arg_max() or 0))
        where = f"{source}, row {row + 1}, column {shown(column.name)}"
        if ids:
            raise InputError(
                f"{where}: expected a position from 0 to {len(label_names) - 1} in the label names, got "
                f"{shown(token)}; correct the cell or the file of label names"
            )
        raise InputError(
            f"{where}: expected one of the {len(label_names)} label names, got {shown(token)}"
            f"{close_matches(token, label_names)}; correct the cell or add the name to the file of label names"
        )
    return codes


def close_matches(name: str, names: Sequence[str]) -> str:
    """Ask whether a name like this was meant; nothing where none is like it."""
    close = difflib.get_close_matches(name, names)
    return f" (did you mean {' or '.join(shown(match) for match in close)}?)" if close else ""


# Characters of a name in a message: a header without line ends is one name of a megabyte.
LONGEST = 120


def listed(names: Sequence[str], limit: int = 12) -> str:
    """List the first names for a message, and count the rest."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(name if len(name) <= LONGEST else f"{name[:LONGEST]}..." for name in names[:limit]) + rest


def type_name(dtype: Any) -> str:
    """The name of a type without what is inside, which for an object can be thousands of fields."""
    inner = f" of {type_name(dtype.inner)}" if isinstance(dtype, pl.List) else ""
    return f"{dtype.base_type().__name__.lower()}{inner}"


# What training sees more seldom is told by name: it is the rare group of the metrics.
RARE = 9
RARE_NAMED = 8


def seldom_seen(counts: Mapping[str, int], one: str, many: str) -> str:
    """Say which of some labels are seen, but rarely, the rarest first: "2 labels seen fewer than 9 times (a, b)".

    Args:
        counts: how often each is seen, by name.
        one: what one of them is called.
        many: what several are called.
    """
    rare = sorted((name for name, count in counts.items() if 0 < count < RARE), key=lambda name: counts[name])
    if not rare:
        return ""
    return f"{len(rare):,} {one if len(rare) == 1 else many} seen fewer than {RARE} times ({listed(rare, RARE_NAMED)})"


def counted(count: int, what: str) -> str:
    """Write a count with its noun."""
    return f"{count} {what}" if count == 1 else f"{count:,} {what}s"
