"""Which column plays which part.

`find_columns` looks once, before training; every later file is read by the `Columns` found, so that it is never
understood in another way.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.cells import (
    NO_VALUE,
    check_holds_labels,
    close_matches,
    counted,
    filled,
    label_codes,
    listed,
    numbered,
    plain,
    with_points,
)
from manyhot.toolkit.read.indicators import Uncertain, find_indicators, hold_shares, hold_truths, known_sets
from manyhot.toolkit.read.kinds import ids_of, kinds_of, shares_of
from manyhot.toolkit.read.label_cells import are_lists, label_lists, label_tokens, object_columns
from manyhot.toolkit.read.label_columns import LABEL_NAMES, are_truths, find_label_column, hold_names
from manyhot.toolkit.read.literals import is_literal
from manyhot.toolkit.read.separators import find_separator
from manyhot.toolkit.read.uses import Use, are_worded, grouped_cell, unused_sentences, why_not
from manyhot.toolkit.read.vectors import find_vectors

_TEXT_NAMES = frozenset(
    ("text", "title", "body", "content", "comment", "review", "description", "abstract", "sentence", "message")
)
# Beside a text these are text as well; alone they may be a subject at school.
_HEADINGS = frozenset(("subject", "headline", "heading", "summary", "caption"))
_CATEGORY_VALUES = 50
_SAMPLE = 10_000
_KIND_WORDS = {"01": "0/1", "number": "numeric", "string": "text or codes", "empty": "empty", "list": "list"} | {
    "vector": "list of numbers",
    "comma": "numeric, with a decimal comma",
    "thousands": "numbers with a comma before three digits",
    "grouped": "numbers with separators of thousands",
    "object": "object",
}


@dataclass(frozen=True)
class Columns:
    """The part of each column that is used; what training found and every later file is read by.

    Attributes:
        text: columns of text, joined in this order.
        features: numeric columns, or lists of numbers of one length.
        categories: columns of few distinct texts or codes.
        labels: one column of label sets, or one column of 0 and 1 for each label.
        label_format: "list" | "separated" | "indicator" | "shares" | "ids" | "vector", a list of 0 and 1, one for each
            name in the file of names | "objects", {name: 0 or 1} | "joined", several columns of names; or "matrix" for
            examples that came as NAME.X.npz and "svmlight" for those of such a file; `labels` then has the names by id,
            if there are any.
        label_sep: what separates labels (or ids) in a cell; None where every cell is one label or a list.
        header: False where CSV and TSV files have none, and columns are named 1, 2, ...
        indices: of svmlight files, the index of the first feature and the number of features.
        uncertain: what -1 says in a label column; None where it says that nobody knows.
        named: words that would say so of a set, such as NA, and are names of labels.
        commas: those of `features` and `labels` that have numbers with a decimal comma, where they are text.
        join: rows with the same texts and features are one, with the labels of all of them.
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
    commas: tuple[str, ...] = ()
    join: bool = False

    @property
    def by_position(self) -> bool:
        """Whether cells say positions among the label names, which have to be known to read them."""
        return self.label_format in ("ids", "vector")

    @property
    def names_needed(self) -> bool:
        """Whether cells can be read only where all label names are known; objects may leave out what nobody knows."""
        return self.by_position or self.label_format == "objects"


class Found(NamedTuple):
    """The columns, sentences that say what was found and what is not used, and what there is to say of each column."""

    columns: Columns
    said: list[str]
    uses: list[Use]


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
) -> Found:
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

    Raises:
        InputError: a column does not exist or plays two parts, or nothing tells which part a column plays.
    """
    frame = plain(frame)
    if num_labels is not None:
        labels = counted_off(frame.columns, num_labels, source)
    text, features, labels = (
        None if part is None else named_of(frame.columns, part) for part in (text, features, labels)
    )
    named = [*(text or ()), *(features or ()), *(labels or ())]
    check_named(frame.columns, source, named)
    kinds = kinds_of(frame)
    free = [name for name in frame.columns if name not in named]

    label_columns = (
        list(labels)
        if labels
        else find_label_column(frame, source, kinds, free, zero_or_one=one_class or label_names is not None)
    )
    free = [name for name in free if name not in label_columns]
    commas = [name for name, kind in kinds.items() if kind == "comma" and label_columns != [name]]
    points, kinds = with_points(frame, commas), kinds | dict.fromkeys(commas, "number")
    ids = ids_of(points, kinds)
    if text is None:
        can_be_text = [name for name in free if kinds[name] == "string"] if features is None else []
        text = _find_text(frame, can_be_text)
    remark: list[str] = []
    if not label_columns:
        alone = not text and features is None
        label_columns, remark = _find_indicators(points, source, kinds, free, alone=alone)
    if features is None:
        taken = {*text, *label_columns, *ids}
        features = (
            [] if text else [name for name in free if name not in taken and _is_feature(frame[name], kinds[name])]
        )
    if not text and not features:
        raise InputError(
            f"{source}: expected a column of text or numeric columns to learn from, got {_described(kinds)}; "
            "name them: --text COLUMN or --features COLUMN,COLUMN"
        )
    _refuse_separators(frame, source, kinds, features)
    categories = [name for name in features if kinds[name] == "string"]
    features = [name for name in features if kinds[name] != "string"]

    label_format, sep, label_note = how_labels_are_written(
        points, source, kinds, label_columns, label_sep, label_names, one_class
    )
    columns = Columns(
        tuple(text),
        tuple(features),
        tuple(label_columns),
        label_format,
        sep,
        categories=tuple(categories),
        commas=tuple(name for name in commas if name in {*features, *label_columns}),
        named=tuple(name for name in label_names or () if name in NO_VALUE),
    )
    uses = _uses(points, kinds, ids, columns, label_note)
    said = [f"text: {listed(text)}"] if text else []
    if features:
        said.append(f"features: {listed(features)} ({counted(len(features), 'numeric column')})")
    if columns.commas:
        said.append(f"numbers with a decimal comma: {listed(columns.commas)}")
    if categories:
        values = [f"{use.column} ({use.why})" for use in uses if use.role == "category"]
        said.append(f"categories: {listed(values)}; a column a value, and one for those seen once or never")
    said.append(f"labels: {listed(label_columns)} ({label_note})")
    said += remark
    said += unused_sentences([use for use in uses if use.role == "not used"], text, [*features, *categories])
    return Found(columns, said, uses)


def _uses(
    frame: pl.DataFrame, kinds: dict[str, str], ids: dict[str, str], columns: Columns, label_note: str
) -> list[Use]:
    """Say of each column what it is used as, or why it is not."""
    uses: list[Use] = []
    for name in frame.columns:
        if name in columns.labels:
            uses.append(Use(name, "label", label_note))
        elif name in columns.text:
            uses.append(Use(name, "text", _KIND_WORDS.get(kinds[name], kinds[name]) if kinds[name] != "string" else ""))
        elif name in columns.categories:
            uses.append(Use(name, "category", f"{filled(frame[name]).n_unique():,} values"))
        elif name in columns.features:
            comma = ", with a decimal comma" if name in columns.commas else ""
            uses.append(Use(name, "feature", _KIND_WORDS[kinds[name]] + comma))
        elif name in ids:
            uses.append(Use(name, "not used", ids[name]))
        else:
            uses.append(why_not(frame[name], kinds[name], beside_text=bool(columns.text)))
    return uses


def _find_text(frame: pl.DataFrame, names: Sequence[str]) -> list[str]:
    """Find the columns of text, by their names or their cells; headings only beside a body."""
    text = [name for name in names if name.lower() in _TEXT_NAMES or _looks_like_text(frame[name])]
    if any(name.lower() not in _HEADINGS for name in text):
        text += [name for name in names if name not in text and name.lower() in _HEADINGS and _is_heading(frame[name])]
    return [name for name in names if name in text]


def _is_heading(column: pl.Series) -> bool:
    """Tell headings, which may come again and again, from a subject that is one of few."""
    return filled(column).n_unique() > _CATEGORY_VALUES and are_worded(column)


def _refuse_separators(frame: pl.DataFrame, source: str, kinds: dict[str, str], features: Sequence[str]) -> None:
    """Refuse numbers with separators of thousands, which no reader of numbers takes."""
    for name in features:
        if kinds[name] == "thousands":
            raise InputError(
                f"{source}, column {shown(name)}: expected numbers, got some with a comma before three digits, which "
                "may be 1234 or 1.234; write 1,234 as one of them"
            )
        if kinds[name] == "grouped":
            raise InputError(
                f"{source}, column {shown(name)}: expected numbers, got some such as "
                f"{shown(grouped_cell(frame[name]))}; write them without separators of thousands"
            )


def _is_feature(column: pl.Series, kind: str) -> bool:
    """Say whether a column is a feature where none are named: a number, a list of them, or a category.

    A category has at most 50 values, which have two rows each on average.
    """
    if kind != "string":
        return kind in ("01", "number", "vector")
    values = filled(column).n_unique()
    return values <= _CATEGORY_VALUES and 2 * values <= len(column)


def _looks_like_text(column: pl.Series) -> bool:
    """Tell sentences from codes, names of classes and dates by the first cells."""
    cells = filled(column.head(_SAMPLE))
    return 2 * cells.n_unique() > len(cells) and are_worded(column)


def _find_indicators(
    frame: pl.DataFrame, source: str, kinds: dict[str, str], free: Sequence[str], *, alone: bool
) -> tuple[list[str], list[str]]:
    """Find the 0/1 columns that are labels, beside text else those of shares; `alone` where they may be features.

    The second list has what is to be said of columns beside them.
    """
    found = find_indicators(frame, [name for name in free if kinds[name] == "01"], free, alone=alone)
    truths = found.labels
    if len(truths) < 2 and not alone:
        shares = set(shares_of(frame, [name for name in free if kinds[name] == "number"]))
        truths = [name for name in free if name in shares or kinds[name] == "01"]
    if len(truths) < 2:
        advice = "; ".join(found.advice()) or "name them: --labels COLUMN or --labels COLUMN,COLUMN"
        raise InputError(
            f"{source}: expected a list column, a column named {', '.join(LABEL_NAMES)}, or two or more 0/1 columns "
            f"as labels, got {_described(kinds)}; {advice}"
        )
    if alone:
        ids = set(ids_of(frame, kinds))
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
    named = len(names) > 1 and label_names is None and not hold_truths(frame, names)
    if named and hold_names(frame, kinds, names):
        return _how_joined(frame, source, names, sep)
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
    if one_class and column.dtype == pl.Boolean:
        column = column.cast(pl.String)
    if kinds[name] == "01" and label_names is None and sep is None and not one_class:
        raise InputError(
            f"{where}: multi-label learning needs at least two labels, got one column of 0 and 1; "
            f"name all of them: --labels {name},COLUMN"
        )
    if sep == "":
        raise InputError(f"{where}: expected a separator of at least one character, got none; type --label-sep ';'")
    if (objects := object_columns(column, source)) is not None and objects.width > 1:
        if sep is not None or label_names is not None:
            option = "--label-sep" if sep is not None else "--label-names"
            raise InputError(f"{where}: expected text or lists with {option}, got objects; leave {option} out")
        return "objects", None, f"objects, {counted(objects.width, 'label')}"
    if not isinstance(column.dtype, pl.List) or not are_truths(column):
        check_holds_labels(column, source)
    as_list = are_lists(column, source, asked=sep is not None)
    if as_list and sep is not None:
        raise InputError(f"{where}: expected text to split at {sep!r}, got lists; leave --label-sep out")
    lists = label_lists(column, source, as_list=True, sep=None) if as_list else None
    if (vectors := find_vectors(column, lists, source)) is not None:
        if label_names is None or len(label_names) != vectors.size:
            count = "" if label_names is None else f", and {len(label_names)} label names"
            raise InputError(
                f"{where}: expected the names of the labels that are on, got vectors of {vectors.size} 0s and 1s, such "
                f"as {shown(vectors.example)}{count}; name the {vectors.size} labels in their order, one a line in a "
                "file: --label-names FILE, or write one 0/1 column for each label"
            )
        return "vector", None, f"vectors of 0 and 1, {counted(vectors.size, 'label')}"
    remark = ""
    if not as_list and sep is None:
        found = find_separator(column, label_names)
        sep = found.sep
        if found.else_sep is not None:
            typed = {"\n": r"$'\n'", "\t": r"$'\t'"}.get(found.else_sep) or shlex.quote(found.else_sep)
            remark = f"; --label-sep {typed} would make them {found.else_labels:,}"
        if found.still is not None:
            remark = f"; {shown(found.still)} looks like several: write all cells with one separator"
    lists = label_lists(column, source, as_list=False, sep=sep) if lists is None else lists
    tokens, _ = known_sets(label_tokens(lists), label_names)
    names_found = tokens["token"].unique(maintain_order=True)
    if not as_list and (inside := [name for name in names_found if name[0] in "[({" and is_literal(name)]):
        raise InputError(f"{where}: expected a list, got {shown(inside[0])} in quotes; write it without them")
    if names_found.is_empty():
        raise InputError(f"{where}: expected labels, got only empty cells; name another column: --labels COLUMN")
    by_position = (
        label_names is not None
        and names_found.str.contains(r"^-?\d+$").all()
        and not names_found.is_in(list(label_names)).all()
    )
    if label_names is not None:
        label_codes(tokens, label_names, column, source, ids=by_position)
    count = counted(len(names_found) if label_names is None else len(label_names), "label")
    how = "a list column" if as_list else "one label a cell" if sep is None else f"separated by {sep!r}"
    if by_position:
        return "ids", sep, f"{how}, positions among {count}"
    return ("list" if as_list else "separated"), sep, f"{how}, {count}{remark}"


def _how_joined(frame: pl.DataFrame, source: str, names: Sequence[str], sep: str | None) -> tuple[str, str | None, str]:
    """Say how several columns of names are written."""
    lists = label_lists(joined(frame, names, sep), source, as_list=False, sep=sep)
    count = counted(label_tokens(lists)["token"].n_unique(), "label")
    return "joined", sep, f"{len(names)} columns of names joined, {count}"


def joined(frame: pl.DataFrame, names: Sequence[str], sep: str | None) -> pl.Series:
    """Join columns of names: a list a row, or with a separator within cells a text."""
    cells = numbered(frame, names).select(pl.all().cast(pl.String))
    together = pl.concat_list(pl.all()) if sep is None else pl.concat_str(pl.all(), separator=sep, ignore_nulls=True)
    return cells.select(together.alias(names[0])).to_series()


def counted_off(names: Sequence[str], num_labels: int, source: str) -> list[str]:
    """Take the first columns, or the last where the number is negative; at least one is left over to learn from."""
    if not 0 < abs(num_labels) < len(names):
        raise InputError(
            f"{source}: expected --num-labels from 1 to {len(names) - 1}, or from -1 to -{len(names) - 1} for the last "
            f"columns, as there are {len(names)} columns; got {num_labels}"
        )
    return list(names[:num_labels] if num_labels > 0 else names[num_labels:])


def named_of(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return columns by the names that a caller typed; white space round a name in the file need not be typed."""
    bare = [column.strip() for column in columns]
    return [name if name in columns or bare.count(name) != 1 else columns[bare.index(name)] for name in names]


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
