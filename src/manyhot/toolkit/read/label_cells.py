"""Cells that hold label sets: lists in any bracket, objects, vectors of 0 and 1, labels with a separator between.

Nothing is split inside brackets or quotes, or at the semicolon of an HTML entity such as `&amp;`. Nothing is executed.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Sequence
from html.entities import html5
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.cells import filled, holds_cells, trimmed

# In the order in which they are taken where they explain the cells alike.
SEPARATORS = ("|", ";", ",", "、", "，", "；", "،", "؛", "\n", "\t")
# They are in too many names to be taken unasked.
_ASKED_FOR = (" ", "/", "+", "&")
_PAIRS = dict(zip("([{（［｛【「『", ")]}）］｝】」』", strict=True))
_CALLED = r"(?:frozenset|set|tuple|list|(?:np\.|numpy\.)?array)"
# What begins as a list does, and ends so. Cells without a bracket inside need no closer look.
_BRACKETED = rf"(?s)^(?:{_CALLED}\s*\(.*\)|\[.*\]|\(.*\)|\{{.*\}})$"
_SIMPLE = r"^[\[({][^\[\](){}]*[\])}]$"
_HOLDING = frozenset("\"'").union(_PAIRS, _PAIRS.values())
_SPECIAL = "[&" + re.escape("".join(sorted(_HOLDING))) + "]"
_ENTITY = re.compile(r"&(#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")
_POSTGRES = re.compile(r'\{\s*(?:(?:"(?:[^"\\]|\\.)*"|[^",{}\\:\s][^",{}\\:]*)\s*(?:,\s*(?!\})|(?=\})))+\}')
_POSTGRES_ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"|([^",{}]+)')
_NUMPY = re.compile(r"\bnp\.(?:str_|bool_?|int\d+|float\d+)\(([^()]*)\)")
_TRUTHS = {"0": "0", "1": "1", "0.0": "0", "1.0": "1", "false": "0", "true": "1"}
_BETWEEN = r"[\s,;|/]+"


class Separated(NamedTuple):
    """What separates the labels of a cell, None where each is one label; and what else could, with their number."""

    sep: str | None
    labels: int
    else_sep: str | None = None
    else_labels: int = 0


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
    bracketed = _bracketed(cells["cell"])
    if not bracketed.any():
        return False
    inside, outside = cells.filter(bracketed), cells.filter(~bracketed)
    readable = any(_is_literal(cell) for cell in inside["cell"].unique(maintain_order=True).head(1000))
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


def _bracketed(cells: pl.Series) -> pl.Series:
    """Say of trimmed cells whether one pair of brackets holds all of it."""
    like = cells.str.contains(_BRACKETED)
    unsure = cells.filter(like & ~cells.str.contains(_SIMPLE)).unique()
    if not len(unsure):
        return like
    open_ended = [cell for cell in unsure if not _is_one_bracket(cell)]
    return like & ~cells.is_in(open_ended) if open_ended else like


def _is_one_bracket(cell: str) -> bool:
    if _is_literal(cell):
        return True
    first = min(place for mark in "([{" if (place := cell.find(mark)) >= 0)
    return _closings(cell).get(first) == len(cell) - 1


def _is_literal(cell: str) -> bool:
    """Say whether a cell is a list that Python or JSON writes, not only text in brackets."""
    value = _literal(cell)
    return isinstance(value, list | tuple | set | frozenset | dict)


def find_separator(column: pl.Series, names: Sequence[str] | None = None) -> Separated:
    """Find what separates labels.

    Where their names are known, it is what leaves the fewest labels that are neither a name nor a position. Else it is
    what leaves the fewest distinct labels, and parts the cells to labels that recur: where cells come again and again,
    the parts are more than the cells, and no part is a cell by itself, it belongs to the names.
    """
    cells = filled(column).alias("cell").value_counts(name="rows")
    cells = cells.with_columns(label=_unquoted(pl.col("cell")))
    whole, rows = set(cells["label"]), int(cells["rows"].sum())
    recur = 2 * len(whole) <= rows
    fits: dict[str, int] = {}
    could: dict[str, int] = {}
    for sep in (*SEPARATORS, *_ASKED_FOR):
        if sep in _ASKED_FOR and (fits or names is not None):
            break
        has = cells["cell"].str.contains(sep, literal=True)
        holding = cells.filter(has)
        if not holding.height:
            continue
        lists = _stripped(split_cells(holding["cell"], sep))
        several = lists.list.len() > 1
        share = int(holding.filter(several)["rows"].sum())
        if not share or share < 0.01 * rows:
            continue
        labels = set(lists.explode().drop_nulls().unique()).union(cells.filter(~has)["label"])
        if names is not None:
            strange = len(_strange(labels, names))
            if strange < len(_strange(whole, names)):
                fits[sep] = strange
            continue
        alone = not whole.isdisjoint(lists.filter(several).explode().drop_nulls().unique())
        if sep in _ASKED_FOR:
            if share >= 0.1 * rows and len(labels) < len(whole) and (alone or 2 * len(labels) <= len(whole)):
                could[sep] = len(labels)
        elif not recur or len(labels) <= len(whole) or alone:
            fits[sep] = len(labels)
        else:
            could[sep] = len(labels)
    if fits:
        sep = min(fits, key=lambda name: fits[name])
        return Separated(sep, fits[sep])
    if could:
        sep = min(could, key=lambda name: could[name])
        return Separated(None, len(whole), sep, could[sep])
    return Separated(None, len(whole))


def _strange(labels: set[str], names: Sequence[str]) -> set[str]:
    return {label for label in labels.difference(names) if not label.isdecimal()}


def split_cells(cells: pl.Series, sep: str) -> pl.Series:
    """Split text at a separator, but not inside brackets or quotes, or at the end of an HTML entity."""
    if _HOLDING & set(sep):
        return cells.str.split(sep)
    special = cells.filter(cells.str.contains(_SPECIAL) & cells.str.contains(sep, literal=True)).unique()
    if not len(special):
        return cells.str.split(sep)
    known = pl.DataFrame({"cell": special, "parts": [_split(cell, sep) for cell in special]})
    table = pl.DataFrame({"cell": cells}).join(known, on="cell", how="left", maintain_order="left")
    return table.select(pl.coalesce("parts", pl.col("cell").str.split(sep))).to_series().alias(cells.name)


def _split(text: str, sep: str) -> list[str]:
    closings = _closings(text)
    parts, start, place = [], 0, 0
    while place < len(text):
        mark = text[place]
        if text.startswith(sep, place):
            parts.append(text[start:place])
            start = place = place + len(sep)
        elif mark in "\"'" and not text[start:place].strip() and (end := _end_of_quote(text, place, sep)):
            place = end
        elif mark in _PAIRS and place in closings:
            place = closings[place] + 1
        elif mark == "&" and (entity := _ENTITY.match(text, place)) and _is_entity(entity[1]):
            place = entity.end()
        else:
            place += 1
    return [*parts, text[start:]]


def _is_entity(name: str) -> bool:
    return name.startswith("#") or f"{name};" in html5


def _end_of_quote(text: str, place: int, sep: str) -> int:
    """Say where a quote ends that holds a whole part; 0 where it is text, as in 'n' roll."""
    end = place
    while (end := text.find(text[place], end + 1)) > 0:
        rest = text[end + 1 :]
        if not rest.strip() or rest.startswith(sep) or rest.lstrip().startswith(sep):
            return end + 1
    return 0


def _closings(text: str) -> dict[int, int]:
    """Say where each bracket that is closed is closed."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for place, mark in enumerate(text):
        if mark in _PAIRS:
            opened.append(place)
        elif mark in _PAIRS.values():
            at = next((i for i in reversed(range(len(opened))) if _PAIRS[text[opened[i]]] == mark), None)
            if at is not None:  # what was opened after it is never closed
                found[opened[at]] = place
                del opened[at:]
    return found


def _unquoted(cell: pl.Expr) -> pl.Expr:
    """Take the quotes off a label that stands in them."""
    return cell.str.replace(r'^"([^"]*)"$', "$1").str.replace(r"^'([^']*)'$", "$1").str.strip_chars()


def _stripped(lists: pl.Series) -> pl.Series:
    """Trim the items of lists, take off their quotes, and drop the empty ones."""
    item = pl.element().str.strip_chars()
    if lists.explode().str.contains("[\"']").any():
        item = _unquoted(item)
    return lists.list.eval(item.filter(item != ""))


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
        return _parsed_lists(cells, source)
    return _stripped(pl.select(pl.concat_list(pl.lit(cells))).to_series() if sep is None else split_cells(cells, sep))


def label_tokens(lists: pl.Series) -> pl.DataFrame:
    """List the labels of all cells, each once a cell: `row`, counted from 0, and `token`."""
    tokens = pl.DataFrame({"token": lists}).with_row_index("row").explode("token").drop_nulls()
    return tokens.unique(maintain_order=True)


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
    items = None if items is None else _truths(items)
    if items is None:
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


def holds_objects(dtype: Any) -> bool:
    """Say whether a column of this type holds an object of numbers a cell, such as {"a": 1, "b": 0}."""
    return isinstance(dtype, pl.Struct) and len(dtype.fields) > 1 and _are_numbers(dtype)


def _are_numbers(dtype: pl.Struct) -> bool:
    return all(
        field.dtype == pl.Null or (holds_cells(field.dtype) and field.dtype != pl.String) for field in dtype.fields
    )


def object_columns(column: pl.Series, source: str) -> pl.DataFrame | None:
    """Lay out objects, typed or written as text, as a column a name; None where the cells are no objects.

    A name that is left out is no label where the objects name only labels that are on. Where some name others too, it
    is a missing cell.

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
    low = frame.select(pl.all().cast(pl.Float64).min()).row(0)
    if all(value is None or value > 0 for value in low):
        frame = frame.select(pl.all().fill_null(0))
    return frame


def _parsed_objects(column: pl.Series, source: str) -> pl.DataFrame | None:
    records: list[dict[str, float | None]] = []
    for row, cell in enumerate(column, 1):
        value = _literal(cell.strip()) if cell and cell.strip() else {}
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


def _parsed_lists(cells: pl.Series, source: str) -> pl.Series:
    """Parse lists that are written as text, as JSON, Python, NumPy or PostgreSQL writes them."""
    known: dict[str, list[str] | None] = {}
    lists: list[list[str] | None] = []
    for row, cell in enumerate(cells, 1):
        text = (cell or "").strip()
        if text not in known:
            known[text] = _parsed_list(text) if text else []
        items = known[text]
        if items is None:
            raise InputError(
                f"{source}, row {row}, column {shown(cells.name)}: expected a list of labels such as "
                f"""["a", "b"], got {shown(cell)}; correct the cell"""
            )
        lists.append(items)
    return pl.Series(cells.name, lists, dtype=pl.List(pl.String))


def _parsed_list(text: str) -> list[str] | None:
    value = _literal(text)
    if value == {}:
        return []
    if isinstance(value, str | int) and text.startswith("("):  # ('a') is no tuple to Python
        value = [value]
    if not isinstance(value, list | tuple | set | frozenset):
        return None
    items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
    labels: list[str] = []
    for item in items:
        if item is None:
            continue
        if isinstance(item, bool) or (isinstance(item, float) and item in (0, 1)):
            item = int(item)
        if not isinstance(item, str | int):
            return None
        labels.append(str(item).strip())
    return [label for label in labels if label]


def _literal(text: str) -> Any:
    """Parse a value as JSON, Python, NumPy or PostgreSQL writes it; None where it is none of theirs."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    # NumPy writes arrays without commas, and Python would glue 'a' 'b' together to one label.
    if re.search(r"""['"]\s+['"]""", text):
        return None
    for written in dict.fromkeys((text, _plainly(text))):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python warns of unknown escapes such as '\d'
                return ast.literal_eval(written)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            pass
    if _POSTGRES.fullmatch(text):
        found = _POSTGRES_ITEM.finditer(text[1:-1])
        items = [re.sub(r"\\(.)", r"\1", m[1]) if m[1] is not None else m[2].strip() for m in found]
        return [item for item in items if item and item.upper() != "NULL"]
    return None


def _plainly(text: str) -> str:
    """Drop what Python and NumPy write round a list or its items: set(), frozenset({...}), array([...], dtype=...)."""
    text = _NUMPY.sub(r"\1", text)
    if call := re.fullmatch(rf"(?s){_CALLED}\s*\((.*)\)", text):
        text = re.sub(r",\s*dtype=[^\[\](){}]*$", "", call[1].strip()) or "[]"
    if re.fullmatch(r"\[[01](?:\.0?)?(?:\s+[01](?:\.0?)?)+\s*\]", text):  # a vector of NumPy
        text = re.sub(r"\s+", ",", text)
    return text
