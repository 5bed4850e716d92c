"""Which column plays which part.

`find_columns` looks once, before training; every later file is read by the `Columns` found, so that it is never
understood in another way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.cells import (
    all_bracketed,
    check_holds_labels,
    close_matches,
    counted,
    filled,
    holds_cells,
    holds_labels,
    holds_vectors,
    label_codes,
    label_tokens,
    listed,
    numbered,
    plain,
    trimmed,
    type_name,
)
from manyhot.toolkit.read.indicators import NO_SET, Uncertain, find_indicators, hold_shares, known_sets

_LABEL_NAMES = ("labels", "label", "tags", "topics", "categories", "classes", "genres", "targets", "y")
_TEXT_NAMES = frozenset(
    ("text", "title", "body", "content", "comment", "review", "description", "abstract", "sentence", "message")
)
_SEPARATORS = ("|", ";", ",")
_SAMPLE = 10_000
_CATEGORY_VALUES = 50
# Scripts that put no space between words.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_MONTH_OR_DAY = r"jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun"
_DATE = rf"(?i)^(?:\d+(?:st|nd|rd|th)?|[-/:.,+\s]|t|z|[ap]m|utc|gmt|(?:{_MONTH_OR_DAY})[a-z]*)+$"
_KIND_WORDS = {"01": "0/1", "number": "numeric", "string": "text or codes", "empty": "empty", "list": "list"} | {
    "vector": "list of numbers"
}


@dataclass(frozen=True)
class Columns:
    """The part of each column that is used; what training found and every later file is read by.

    Attributes:
        text: columns of text, joined in this order.
        features: numeric columns, or lists of numbers of one length.
        categories: columns of few distinct texts or codes.
        labels: one column of label sets, or one column of 0 and 1 for each label.
        label_format: "list" | "separated" | "indicator" | "shares" | "ids", or "matrix" for examples that came as
            NAME.X.npz and "svmlight" for those of such a file; `labels` then has the names by id, if there are any.
        label_sep: what separates labels (or ids) in a cell; None where every cell is one label or a list.
        header: False where CSV and TSV files have none, and columns are named 1, 2, ...
        indices: of svmlight files, the index of the first feature and the number of features.
        uncertain: what -1 says in a label column; None where it says that nobody knows.
        named: words that would say so of a set, such as NA, and are names of labels.
    """

    text: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    label_format: str = "list"
    label_sep: str | None = None
    header: bool = True
    indices: tuple[int, int] | None = None
    categories: tuple[str, ...] = ()
    uncertain: Uncertain | None = None
    named: tuple[str, ...] = ()


def find_columns(
    frame: pl.DataFrame,
    source: str,
    *,
    text: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    num_labels: int | None = None,
    label_sep: str | None = None,
    label_names: Sequence[str] | None = None,
    one_class: bool = False,
) -> tuple[Columns, list[str]]:
    """Find which columns hold text, numbers and labels; what the caller names is taken as named.

    Where a column of text is found, it is what a model reads. Else numbers are, and categories: columns of text or
    codes with at most 50 values, which have two rows each on average. Naming `text` or `features` settles it: the
    other is then used only where it is named as well.

    Args:
        frame: the training table, as `read_file` returns it or typed.
        source: the file, for messages.
        text, features, labels: names of columns, or None to have them found. A feature of text or codes is a category.
        num_labels: in place of `labels`, the first so many columns, or the last where it is negative.
        label_sep: the separator of labels within a cell, or None to have it found.
        label_names: the names in the file of label names; cells then hold these names or positions among them, from 0.
        one_class: each row has one class; a column of 0 and 1 then holds two of them.

    Returns:
        The columns, and sentences that say what was found and what is not used.

    Raises:
        InputError: a column does not exist, plays two parts, or what is what cannot be told.
    """
    frame = plain(frame)
    if num_labels is not None:
        labels = counted_off(frame.columns, num_labels, source)
    named = [*(text or ()), *(features or ()), *(labels or ())]
    check_named(frame.columns, source, named)
    kinds = _kinds(frame)
    free = [name for name in frame.columns if name not in named]

    label_columns = (
        list(labels)
        if labels
        else _find_label_column(source, kinds, free, zero_or_one=one_class or label_names is not None)
    )
    free = [name for name in free if name not in label_columns]
    if text is None:
        can_be_text = [name for name in free if kinds[name] == "string"] if features is None else []
        text = [name for name in can_be_text if name.lower() in _TEXT_NAMES or _looks_like_text(frame[name])]
    remark = []
    if not label_columns:
        alone = not text and features is None
        label_columns, remark = _find_indicators(frame, source, kinds, free, alone=alone)
    if features is None:
        taken = {*text, *label_columns, *_ids(frame, kinds)}
        features = (
            [] if text else [name for name in free if name not in taken and _is_feature(frame[name], kinds[name])]
        )
    if not text and not features:
        raise InputError(
            f"{source}: expected a column of text or numeric columns to learn from, got {_described(kinds)}; "
            "name them: --text COLUMN or --features COLUMN,COLUMN"
        )
    categories = [name for name in features if kinds[name] == "string"]
    features = [name for name in features if kinds[name] != "string"]

    label_format, sep, label_note = how_labels_are_written(
        frame, source, kinds, label_columns, label_sep, label_names, one_class
    )
    columns = Columns(
        tuple(text),
        tuple(features),
        tuple(label_columns),
        label_format,
        sep,
        categories=tuple(categories),
        named=tuple(name for name in label_names or () if name in NO_SET),
    )
    used = {*text, *features, *categories, *label_columns}
    unused = [name for name in frame.columns if name not in used]
    said = [f"text: {listed(text)}"] if text else []
    if features:
        said.append(f"features: {listed(features)} ({counted(len(features), 'numeric column')})")
    if categories:
        values = [f"{name} ({filled(frame[name]).n_unique():,} values)" for name in categories]
        said.append(f"categories: {listed(values)}; a column a value, and one for those seen once or never")
    said.append(f"labels: {listed(label_columns)} ({label_note})")
    said += remark
    if unused:
        said.append(f"not used: {listed(unused)}")
    return columns, said


def _is_feature(column: pl.Series, kind: str) -> bool:
    """Say whether a column is a feature where none are named: a number, a list of them, or a category.

    A category has at most 50 values, which have two rows each on average.
    """
    if kind != "string":
        return kind in ("01", "number", "vector")
    values = filled(column).n_unique()
    return values <= _CATEGORY_VALUES and 2 * values <= len(column)


def _kinds(frame: pl.DataFrame) -> dict[str, str]:
    """Say of each column what it can be: list, vector, 01, number, string, empty or, for other types, their name."""
    kinds: dict[str, str] = {}
    for name, dtype in frame.schema.items():
        if holds_labels(dtype) and isinstance(dtype, pl.List):
            kinds[name] = "list"
        elif holds_cells(dtype):
            kinds[name] = "string" if dtype == pl.String else "number"
        elif holds_vectors(dtype):
            kinds[name] = "vector"
        else:
            kinds[name] = type_name(dtype)
    strings = [name for name, kind in kinds.items() if kind == "string"]
    typed = [name for name, kind in kinds.items() if kind == "number"]
    numbers = _where(frame, strings, _all_numbers)
    # Trimming costs as much as parsing, and few columns need it.
    numbers += _where(frame, sorted(set(strings) - set(numbers)), lambda cell: _all_numbers(trimmed(cell)))
    kinds |= dict.fromkeys(numbers, "number")
    kinds |= dict.fromkeys(_where(frame, strings, _all_truths), "01")
    kinds |= dict.fromkeys(_where(frame, typed, lambda cell: cell.cast(pl.Float64).is_in([0.0, 1.0]).all()), "01")
    empty = _where(frame, strings, lambda cell: trimmed(cell).is_null().all())
    return kinds | dict.fromkeys(
        [*empty, *(name for name in typed if frame[name].null_count() == frame.height)], "empty"
    )


def _where(frame: pl.DataFrame, names: Sequence[str], question: Callable[[pl.Expr], pl.Expr]) -> list[str]:
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


def _all_truths(cell: pl.Expr) -> pl.Expr:
    return trimmed(cell).str.to_lowercase().is_in(["0", "1", "0.0", "1.0", "true", "false"]).all()


def _shares(frame: pl.DataFrame, names: Sequence[str]) -> list[str]:
    """List the numeric columns with no value below 0 or above 1."""
    return _where(frame, names, lambda cell: cell.cast(pl.Float64, strict=False).is_between(0, 1).all())


def _looks_like_text(column: pl.Series) -> bool:
    """Tell sentences from codes, names of classes and dates by the first cells."""
    cells = filled(column.head(_SAMPLE))
    if 2 * cells.n_unique() <= len(cells):
        return False
    worded = cells.str.contains(r"\s") | (cells.str.count_matches(_UNSPACED) >= 6)
    dates = cells.str.contains(_DATE) & cells.str.contains(r"\d\D*\d\D*\d")
    return 2 * worded.sum() > len(cells) and 2 * dates.sum() < len(cells)


def _ids(frame: pl.DataFrame, kinds: dict[str, str]) -> list[str]:
    numbers = [name for name, kind in kinds.items() if kind == "number"]
    named = [name for name in numbers if re.fullmatch(r"id|index|row|.*_id|", name.lower())]
    counting = _where(
        frame, numbers, lambda cell: (cell.cast(pl.Float64, strict=False).diff() == 1).sum() == pl.len() - 1
    )
    # One or two rows count up by chance.
    return named + (counting if frame.height > 2 else [])


def _find_label_column(source: str, kinds: dict[str, str], free: Sequence[str], *, zero_or_one: bool) -> list[str]:
    """Find the one column of label sets; what has a telling name goes before what is only a list."""
    # With a file of label names, 0 and 1 are positions in it; where each row has one class, they are two classes.
    last = ("number", "empty", "01") if zero_or_one else ("number", "empty")
    named = [name for name in free if name.lower() in _LABEL_NAMES]
    for pool in (
        [name for name in named if kinds[name] == "list"],
        [name for name in named if kinds[name] == "string"],
        [name for name in free if kinds[name] == "list"],
        [name for name in named if kinds[name] in last],
    ):
        if len(pool) > 1:
            options = " or ".join(f"--labels {name}" for name in pool)
            raise InputError(f"{source}: expected one column of labels, got {listed(pool)}; say which: {options}")
        if pool:
            return pool
    return []


def _find_indicators(
    frame: pl.DataFrame, source: str, kinds: dict[str, str], free: Sequence[str], *, alone: bool
) -> tuple[list[str], list[str]]:
    """Find the 0/1 columns that are labels, beside text else those of shares; `alone` where they may be features.

    The second list has what is to be said of columns beside them.
    """
    found = find_indicators(frame, [name for name in free if kinds[name] == "01"], free, alone=alone)
    truths = found.labels
    if len(truths) < 2 and not alone:
        shares = set(_shares(frame, [name for name in free if kinds[name] == "number"]))
        truths = [name for name in free if name in shares or kinds[name] == "01"]
    if len(truths) < 2:
        advice = "; ".join(found.advice()) or "name them: --labels COLUMN or --labels COLUMN,COLUMN"
        raise InputError(
            f"{source}: expected a list column, a column named {', '.join(_LABEL_NAMES)}, or two or more 0/1 columns "
            f"as labels, got {_described(kinds)}; {advice}"
        )
    if alone:
        ids = set(_ids(frame, kinds))
        numeric = [name for name in free if (kinds[name] in ("01", "number") or name in truths) and name not in ids]
        in_block = truths in (numeric[: len(truths)], numeric[-len(truths) :])
        if not in_block or len(numeric) == len(truths):
            advice = "".join(f"; {advice}" for advice in found.advice())
            raise InputError(
                f"{source}: expected the 0/1 columns that are labels in one block before or after the other numeric "
                f"columns, got {listed(truths)} as 0/1 columns among {listed(numeric)}; say which are labels: "
                f"--labels {truths[0]},{truths[1]}{advice}"
            )
    return truths, found.remarks(alone=alone)


def how_labels_are_written(
    frame: pl.DataFrame,
    source: str,
    kinds: dict[str, str],
    names: Sequence[str],
    sep: str | None,
    label_names: Sequence[str] | None,
    one_class: bool,
) -> tuple[str, str | None, str]:
    """Say how labels are written: the format, the separator and a remark for the reader."""
    if len(names) > 1:
        if sep is not None or label_names is not None:
            option = "--label-sep" if sep is not None else "--label-names"
            raise InputError(
                f"{source}: expected one column of labels with {option}, got the columns {listed(names)}, which are "
                f"one label each; leave {option} out or name one column: --labels COLUMN"
            )
        if hold_shares(frame, names):
            return "shares", None, f"{len(names)} columns of shares from 0 to 1; a half or more is a label"
        return "indicator", None, f"{len(names)} columns of 0 and 1"
    (name,) = names
    column, where = frame[name], f"{source}, column {shown(name)}"
    if kinds[name] == "01" and label_names is None and sep is None and not one_class:
        raise InputError(
            f"{where}: multi-label learning needs at least two labels, got one column of 0 and 1; "
            f"name all of them: --labels {name},COLUMN"
        )
    check_holds_labels(column, source)
    as_list = kinds[name] == "list" or all_bracketed(column)
    if as_list and sep is not None:
        raise InputError(f"{where}: expected text to split at {sep!r}, got lists; leave --label-sep out")
    if sep == "":
        raise InputError(f"{where}: expected a separator of at least one character, got none; type --label-sep ';'")
    if not as_list and sep is None:
        sep = _separator(column)
    tokens, _ = known_sets(label_tokens(column, source, as_list=as_list, sep=sep), label_names)
    found = tokens["token"].unique()
    if found.is_empty():
        raise InputError(f"{where}: expected labels, got only empty cells; name another column: --labels COLUMN")
    by_position = (
        label_names is not None and found.str.contains(r"^-?\d+$").all() and not found.is_in(list(label_names)).all()
    )
    if label_names is not None:
        label_codes(tokens, label_names, column, source, ids=by_position)
    count = counted(len(found) if label_names is None else len(label_names), "label")
    how = "a list column" if as_list else "one label a cell" if sep is None else f"separated by {sep!r}"
    if by_position:
        return "ids", sep, f"{how}, positions among {count}"
    return ("list" if as_list else "separated"), sep, f"{how}, {count}"


def _separator(column: pl.Series) -> str | None:
    cells = filled(column)
    for sep in _SEPARATORS:
        share = int(cells.str.contains(sep, literal=True).sum())
        if share and share >= 0.01 * len(cells):
            return sep
    return None


def counted_off(names: Sequence[str], num_labels: int, source: str) -> list[str]:
    """Take the first columns, or the last where the number is negative; at least one is left over to learn from."""
    if not 0 < abs(num_labels) < len(names):
        raise InputError(
            f"{source}: expected --num-labels from 1 to {len(names) - 1}, or from -1 to -{len(names) - 1} for the last "
            f"columns, as there are {len(names)} columns; got {num_labels}"
        )
    return list(names[:num_labels] if num_labels > 0 else names[num_labels:])


def check_named(columns: Sequence[str], source: str, named: Sequence[str]) -> None:
    """Refuse a name that is no column's, and one that is named twice."""
    for position, name in enumerate(named):
        if name not in columns:
            raise InputError(
                f"{source}: expected a column {shown(name)}, got a file without it"
                f"{close_matches(name, columns)}; name one of its columns: {listed(columns)}"
            )
        if name in named[:position]:
            raise InputError(f"{source}: expected one part for each column, got {shown(name)} twice; name it once")


def _described(kinds: dict[str, str]) -> str:
    return listed([f"{name} ({_KIND_WORDS.get(kind, kind)})" for name, kind in kinds.items()])
