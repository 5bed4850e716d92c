"""Lists and objects written as text, as JSON, Python, NumPy and PostgreSQL write them; nothing is executed."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

import polars as pl

from manyhot.toolkit.errors import InputError, shown

BRACKETS = dict(zip("([{（［｛【「『", ")]}）］｝】」』", strict=True))
_CALLED = r"(?:frozenset|set|tuple|list|(?:np\.|numpy\.)?array)"
# What begins as a list does, and ends so. Cells without a bracket inside need no closer look.
_BRACKETED = rf"(?s)^(?:{_CALLED}\s*\(.*\)|\[.*\]|\(.*\)|\{{.*\}})$"
_SIMPLE = r"^[\[({][^\[\](){}]*[\])}]$"
_POSTGRES = re.compile(r'\{\s*(?:(?:"(?:[^"\\]|\\.)*"|[^",{}\\:\s][^",{}\\:]*)\s*(?:,\s*(?!\})|(?=\})))+\}')
_POSTGRES_ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"|([^",{}]+)')
_NUMPY = re.compile(r"\bnp\.(?:str_|bool_?|int\d+|float\d+)\(([^()]*)\)")


def are_bracketed(cells: pl.Series) -> pl.Series:
    """Say of trimmed cells whether one pair of brackets holds all of it."""
    like = cells.str.contains(_BRACKETED)
    unsure = cells.filter(like & ~cells.str.contains(_SIMPLE)).unique()
    if not len(unsure):
        return like
    open_ended = [cell for cell in unsure if not _is_one_bracket(cell)]
    return like & ~cells.is_in(open_ended) if open_ended else like


def _is_one_bracket(cell: str) -> bool:
    if is_literal(cell):
        return True
    first = min(place for mark in "([{" if (place := cell.find(mark)) >= 0)
    return closings(cell).get(first) == len(cell) - 1


def is_literal(cell: str) -> bool:
    """Say whether a cell is a list that Python or JSON writes, not only text in brackets."""
    value = literal(cell)
    return isinstance(value, list | tuple | set | frozenset | dict)


def closings(text: str) -> dict[int, int]:
    """Say where each bracket that is closed is closed."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for place, mark in enumerate(text):
        if mark in BRACKETS:
            opened.append(place)
        elif mark in BRACKETS.values():
            at = next((i for i in reversed(range(len(opened))) if BRACKETS[text[opened[i]]] == mark), None)
            if at is not None:  # what was opened after it is never closed
                found[opened[at]] = place
                del opened[at:]
    return found


def parse_lists(cells: pl.Series, source: str) -> pl.Series:
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
    value = literal(text)
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


def literal(text: str) -> Any:
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
