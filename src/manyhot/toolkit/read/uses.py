"""What each column is used as, or why it is not used and what to type to have it used."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from manyhot.toolkit.errors import shown
from manyhot.toolkit.read.cells import filled, listed

_SHOWN = 6
_SAMPLE = 10_000
# Scripts that put no space between words.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_MONTH_OR_DAY = r"jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun"
_DATE = rf"(?i)^(?:\d+(?:st|nd|rd|th)?|[-/:.,+\s]|t|z|[ap]m|utc|gmt|(?:{_MONTH_OR_DAY})[a-z]*)+$"
# A day, a month and a year in either order, or a month and a year.
_DAY = "|".join(
    rf"\d{{1,2}}{mark}\d{{1,2}}{mark}(?:\d{{4}}|\d\d)|\d{{4}}{mark}\d{{1,2}}{mark}\d{{1,2}}"
    for mark in ("-", "/", r"\.")
)
_DAY += r"|\d{4}[-/]\d{1,2}|\d{1,2}[-/]\d{4}"
# What tells a date from a number with separators, an address or a telephone number: a month or a day by name, a time,
# or a day without more of its kind round it.
_DATED = rf"(?i){_MONTH_OR_DAY}|\d:\d\d|\dt\d|(?:^|[^\d./-])(?:{_DAY})(?:[^\d./-]|$)"
_NUMERIC = {"number": "numbers", "01": "0 and 1", "vector": "lists of numbers"}


class Use(NamedTuple):
    """One column: what it is used as, and how it was found, or why it is not used.

    Attributes:
        column: its name.
        role: text, feature, category, label, part, group, or not used.
        why: what is in it, or why it is not used.
        adds: the option that would have it used, text, features or labels; empty where none would.
    """

    column: str
    role: str
    why: str
    adds: str = ""


def are_worded(column: pl.Series) -> bool:
    """Say whether most of the first cells have several words, with letters, and are no dates."""
    cells = filled(column.head(_SAMPLE))
    worded = cells.str.contains(r"\s") & cells.str.contains(r"\p{L}") | (cells.str.count_matches(_UNSPACED) >= 6)
    return 2 * worded.sum() > len(cells) and not are_dates(cells)


def are_dates(cells: pl.Series) -> bool:
    """Say whether half of some filled cells or more are dates."""
    dates = cells.str.contains(_DATE) & cells.str.contains(_DATED) & cells.str.contains(r"\d\D*\d\D*\d")
    return len(cells) > 0 and 2 * dates.sum() >= len(cells)


def why_not(column: pl.Series, kind: str, *, beside_text: bool) -> Use:
    """Say why a column that is no id is not used, by what is in it."""
    name = column.name
    if kind in _NUMERIC:
        return Use(name, "not used", _NUMERIC[kind] + (", beside text" if beside_text else ", not named"), "features")
    if kind == "thousands":
        return Use(name, "not used", "numbers such as 1,234, which may be 1234 or 1.234: write one of them")
    if kind == "grouped":
        return Use(name, "not used", f"numbers such as {shown(grouped_cell(column))}: write them without separators")
    if kind == "empty":
        return Use(name, "not used", "empty")
    if kind != "string":
        what = f"a {kind} column" if kind != "list" else "lists, but not the labels"
        return Use(name, "not used", what, "labels" if kind == "list" else "")
    cells = filled(column)
    values = cells.n_unique()
    if values == 1:
        return Use(name, "not used", "the same in every row")
    if 2 * cells.cast(pl.Float64, strict=False).count() > len(cells):
        word = cells.filter(cells.cast(pl.Float64, strict=False).is_null()).first()
        if word is not None:
            return Use(name, "not used", f"numbers, and cells such as {shown(word)}: leave those empty")
    if are_dates(cells.head(_SAMPLE)):
        return Use(name, "not used", "dates", "text" if beside_text else "")
    if are_worded(column) and 2 * values > len(cells):
        return Use(name, "not used", "text, not named", "text")
    if values == len(column):
        return Use(name, "not used", "another code in each row")
    what = "taken for codes" if beside_text else f"too many of {len(cells):,} for a category"
    return Use(name, "not used", f"{values:,} different values, {what}", "text" if beside_text else "features")


def grouped_cell(column: pl.Series) -> str:
    """Return a number of the column that has separators of thousands."""
    cells = filled(column)
    return str(cells[int((cells.cast(pl.Float64, strict=False).is_null()).arg_max() or 0)])


def unused_sentences(unused: Sequence[Use], text: Sequence[str], features: Sequence[str]) -> list[str]:
    """Say of the columns that are not used why, a sentence a reason, with what to type."""
    groups: dict[tuple[str, str], list[str]] = {}
    for use in unused:
        groups.setdefault((use.why, use.adds), []).append(use.column)
    said = []
    for (why, adds), names in groups.items():
        option = advice(names, adds, text, features)
        said.append(
            f"not used: {listed([name or shown(name) for name in names])}: {why}" + (f"; {option}" if option else "")
        )
    return said


def advice(names: Sequence[str], adds: str, text: Sequence[str], features: Sequence[str]) -> str:
    """Write what to type to have columns used; nothing where there are too many names to type."""
    if adds == "labels":
        return f"--labels {shlex.quote(names[0])} takes {'it' if len(names) == 1 else 'one'} for the labels"
    now = {"text": list(text), "features": list(features)}
    if not adds or len(names) + len(now[adds]) > _SHOWN:
        return ""
    now[adds] += names
    options = [f"--{option} {shlex.quote(','.join(of))}" for option, of in now.items() if of]
    return f"{' '.join(options)} adds {'it' if len(names) == 1 else 'them'}"


def is_unnamed(name: str) -> bool:
    """Say whether a name is none, as that of an index that pandas wrote."""
    return re.fullmatch(r"\s*|(?i:unnamed): \d+", name) is not None
