"""What separates the labels of a cell; nothing is split inside brackets or quotes, or at the end of an HTML entity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.entities import html5
from typing import NamedTuple

import polars as pl

from manyhot.toolkit.read.cells import filled
from manyhot.toolkit.read.literals import BRACKETS, closings

# In the order in which they are taken where they explain the cells alike.
SEPARATORS = ("|", ";", ",", "、", "，", "；", "،", "؛", "\n", "\t")
# They are in too many names to be taken unasked.
_ASKED_FOR = (" ", "/", "+", "&")
_HOLDING = frozenset("\"'").union(BRACKETS, BRACKETS.values())
_SPECIAL = "[&" + re.escape("".join(sorted(_HOLDING))) + "]"
_ENTITY = re.compile(r"&(#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")


class Separated(NamedTuple):
    """What separates the labels of a cell, None where each is one label; what else could, and with how many labels.

    `still` is a label, if there is one, that looks like two others joined by another separator.
    """

    sep: str | None
    labels: int
    else_sep: str | None = None
    else_labels: int = 0
    still: str | None = None


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
        lists = stripped(split_cells(holding["cell"], sep))
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
        labels = set(stripped(split_cells(cells["cell"], sep)).explode().drop_nulls().unique())
        return Separated(sep, fits[sep], still=_still_joined(labels))
    if could:
        sep = min(could, key=lambda name: could[name])
        return Separated(None, len(whole), sep, could[sep])
    return Separated(None, len(whole))


def _still_joined(labels: set[str]) -> str | None:
    """Find a label that is two others with another separator between."""
    for label in sorted(labels):
        for sep in SEPARATORS:
            parts = [part.strip() for part in label.split(sep)] if sep in label else []
            if len(parts) > 1 and labels.issuperset(parts):
                return label
    return None


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
    ends = closings(text)
    parts, start, place = [], 0, 0
    while place < len(text):
        mark = text[place]
        if text.startswith(sep, place):
            parts.append(text[start:place])
            start = place = place + len(sep)
        elif mark in "\"'" and not text[start:place].strip() and (end := _end_of_quote(text, place, sep)):
            place = end
        elif mark in BRACKETS and place in ends:
            place = ends[place] + 1
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


def _unquoted(cell: pl.Expr) -> pl.Expr:
    """Take the quotes off a label that stands in them."""
    return cell.str.replace(r'^"([^"]*)"$', "$1").str.replace(r"^'([^']*)'$", "$1").str.strip_chars()


def stripped(lists: pl.Series) -> pl.Series:
    """Trim the items of lists, take off their quotes, and drop the empty ones."""
    item = pl.element().str.strip_chars()
    if lists.explode().str.contains("[\"']").any():
        item = _unquoted(item)
    return lists.list.eval(item.filter(item != ""))
