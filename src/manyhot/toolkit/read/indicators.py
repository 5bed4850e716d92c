"""Columns of 0 and 1, one a label: which they are, and what their cells say, those that nobody knows among them.

Unknown cells are left out of every loss and every number. Columns of features have rules of their own: there an empty
cell is a missing number, and -1 is a number.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
import scipy.sparse as sp

from manyhot.targets import UNKNOWN
from manyhot.toolkit.errors import shown
from manyhot.toolkit.read.cells import NO_VALUE, TRUTHS, holds_cells, listed, numbered, parsed, refuse_first

# What -1 in a label column says, if it does not say that nobody knows.
Uncertain = Literal["negative", "positive"]
# A cell of nothing but one of these, in any case, says that nobody knows.
_WORDS = (
    "",
    "nan",
    "null",
    "none",
    "na",
    "n/a",
    "#n/a",
    "<na>",
    "?",
    "؟",
    "\uff1f",
    "-",
    "--",
    ".",
    "unknown",
    "missing",
)
_MARKS = [float(mark) for mark in UNKNOWN]
_VALUES = [0.0, 1.0, *_MARKS]

# Which cells are labels, (rows, labels) bool, and which of them nobody knows; None where all are known.
Cells = tuple[sp.csr_array, sp.csr_array | None]


def read_indicators(
    frame: pl.DataFrame, names: Sequence[str], source: str, *, shares: bool = False, uncertain: Uncertain | None = None
) -> Cells:
    """Read 0/1 columns; of shares from 0 to 1, a half or more is a label.

    Raises:
        InputError: names the first cell that is neither that nor unknown.
    """
    several, one = ("shares from 0 to 1", "a share from 0 to 1") if shares else ("0 and 1", "0 or 1")
    cells = parsed(frame, names, source, several)
    numbers, no_number = settled(cells, uncertain), np.isnan(cells)
    wrong = ((numbers < 0) | (numbers > 1)) if shares else ~np.isnan(numbers) & (numbers != 0) & (numbers != 1)
    for i in np.flatnonzero(no_number.any(axis=0)).tolist():
        wrong[:, i] |= no_number[:, i] & ~_unknown_cells(frame[names[i]])
    if wrong.any():
        refuse_first(wrong, frame, names, source, one)
    return told_apart(numbers)


def known_sets(tokens: pl.DataFrame, names: Sequence[str] | None) -> tuple[pl.DataFrame, list[int]]:
    """Part the labels of sets, `row` and `token`, from the rows whose set is unknown: nothing but NaN or its like.

    `names` are labels, whatever they look like.
    """
    words = [word for word in NO_VALUE if word not in (names or ())]
    alone = pl.len().over("row") == 1
    unknown = tokens.select(pl.col("token").is_in(words) & alone).to_series()
    return tokens.filter(~unknown), tokens.filter(unknown)["row"].to_list()


def settled(values: np.ndarray, uncertain: Uncertain | None) -> np.ndarray:
    """Copy the values of label cells, NaN where nobody knows: at -100, and at -1 unless `uncertain` reads it so."""
    mark, never = UNKNOWN
    at_mark = {None: np.nan, "negative": 0.0, "positive": 1.0}[uncertain]
    return np.where(values == never, np.nan, np.where(values == mark, at_mark, values)).astype(np.float32)


def told_apart(numbers: Any) -> Cells:
    """Part settled numbers (rows, labels), an array or CSR, into labels, a half or more, and unknown cells."""
    cells: Any = sp.csr_array(numbers)
    targets: Any = sp.csr_array((cells.data >= 0.5, cells.indices, cells.indptr), shape=cells.shape, copy=True)
    targets.eliminate_zeros()
    missing = np.isnan(cells.data)
    if not missing.any():
        return targets, None
    unknown: Any = sp.csr_array((missing, cells.indices, cells.indptr), shape=cells.shape, copy=True)
    unknown.eliminate_zeros()
    return targets, unknown


def hold_shares(frame: pl.DataFrame, names: Sequence[str]) -> bool:
    """Say whether what is known of label columns is shares: nothing but numbers from 0 to 1, and some between."""
    if not all(holds_cells(frame.schema[name]) for name in names):
        return False
    known = _select(frame, names, lambda cell, dtype: _known(cell, dtype))
    numbers = _select(frame, names, _number)
    between = numbers.select((pl.all().is_between(0, 1) | pl.all().is_in(_MARKS)).all())
    inside = numbers.select(pl.all().is_between(0, 1, closed="none").any())
    words = any(known[name].null_count() < numbers[name].null_count() for name in numbers.columns)
    return not words and all(between.row(0)) and any(inside.row(0))


def hold_truths(frame: pl.DataFrame, names: Sequence[str]) -> bool:
    """Say whether what is known of columns is 0 and 1 alone, or the marks that may stand for unknown, -1 and -100."""
    if not all(holds_cells(frame.schema[name]) for name in names):
        return False
    known, numbers = _select(frame, names, _known), _select(frame, names, _number)
    words = any(known[name].null_count() < numbers[name].null_count() for name in numbers.columns)
    return not words and all(numbers.select(pl.all().is_in(_VALUES).all()).row(0))


class Found(NamedTuple):
    """Columns that are labels, and columns beside them that may be and are not taken for labels.

    Attributes:
        labels: in the order of the file.
        left: columns of -1 that stand in one run with others that hold 0 and 1.
        runs: those runs.
        two_sided: some of `left` hold a 0, so that -1 says something else.
        third: columns next to the labels that hold 0, 1 and one value that may be a code for unknown, and that value.
    """

    labels: list[str]
    left: list[str]
    runs: list[str]
    two_sided: bool
    third: dict[str, str]

    def advice(self) -> list[str]:
        """Say what to do where such a column is a label."""
        said = []
        if self.left:
            names = shlex.quote(",".join(self.runs))
            if self.two_sided:
                said.append(f"if -1 means that nobody knows, type --labels {names}")
            else:
                said.append(f"if -1 means no, type --labels {names} --uncertain negative")
        for name, value in self.third.items():
            said.append(f"if {shown(value)} in {name} means that nobody knows, leave such cells empty")
        return said

    def remarks(self, *, alone: bool) -> list[str]:
        """Say what such columns are taken for."""
        kinds = [(self.left, "-1 and 1" if self.left and not self.two_sided else "-1, 0 and 1")]
        kinds += [([name], f"0, 1 and {shown(value)}") for name, value in self.third.items()]
        taken = "not used" if not alone else "taken for {}"
        each = [(names, values) for names, values in kinds if names]
        return [
            f"{listed(names)}: {values}, {taken.format('a feature' if len(names) == 1 else 'features')}; {advice}"
            for (names, values), advice in zip(each, self.advice(), strict=True)
        ]


def find_indicators(frame: pl.DataFrame, truths: Sequence[str], free: Sequence[str], *, alone: bool) -> Found:
    """Find the label columns: those of 0 and 1, and those that are so but for unknown cells.

    A column of 0, 1 and words such as NA joins the columns of 0 and 1 that it touches. Beside text it need not touch
    any, and where there are not two of them, it is enough that it touches its like. A column of -1, 0 and 1 may as well
    be a feature: it joins where most columns of the run in which it stands hold 0 and 1, and no column of -1 is outside
    of that run.

    Args:
        frame: the table.
        truths: the columns of 0 and 1; some of their cells may be empty.
        free: the columns that can be labels.
        alone: no text is read, so that columns may be features.
    """
    kinds = _kinds(frame, truths, free)
    few = len(truths) < 2
    minus = [name for name, kind in kinds.items() if kind in ("signed", "one-sided")]
    left, runs, labels = [], [], set(truths)
    for is_run, names in groupby(frame.columns, key=lambda name: name in kinds):
        run = list(names) if is_run else []
        of = [kinds[name] for name in run]
        sure = [name for name in run if kinds[name] in ("truth", "word")]
        if "truth" in of or not alone or (few and len(sure) > 1):
            labels.update(sure)
        here = [name for name in run if name in minus]
        if not here or len(run) < 2:
            continue
        if 2 * len(sure) > len(run) and here == minus and "one-sided" not in of and labels.issuperset(sure):
            labels.update(here)
        elif sure or few:
            left += here
            runs += run
    return Found(
        [name for name in frame.columns if name in labels],
        left,
        runs,
        any(kinds[name] == "signed" for name in left),
        _third_values(frame, labels, {*free} - labels - {*kinds}),
    )


def _third_values(frame: pl.DataFrame, labels: set[str], others: set[str]) -> dict[str, str]:
    """Find columns next to labels that hold 0, 1 and one thing more: a word, or a number that counts nothing."""
    found: dict[str, str] = {}
    for names in (frame.columns, frame.columns[::-1]):
        beside = False
        for name in names:
            if name in others and beside and name not in found and holds_cells(frame.schema[name]):
                values = _select(frame, [name], _known).to_series().cast(pl.String).drop_nulls().unique().to_list()
                rest = {value.removesuffix(".0") for value in values} - {"0", "1", *TRUTHS}
                if (
                    len(values) - len(rest) == 2
                    and len(rest) == 1
                    and not re.fullmatch(r"[2-7]|[\d.]*\.\d+", min(rest))
                ):
                    found[name] = min(rest)
            beside = name in labels or name in found
    return found


def _kinds(frame: pl.DataFrame, truths: Sequence[str], free: Sequence[str]) -> dict[str, str]:
    """Say of each column that holds nothing but 0, 1 and signs of the unknown: truth, word, signed or one-sided.

    A column of -1 and 1 without a 0 is one-sided: as a label, it would have no row that is known to be without it.
    """
    sure = set(truths)
    names = [name for name in free if name not in sure and holds_cells(frame.schema[name])]
    for part in (frame.head(100), frame):  # the first rows settle most
        answers = _select(part, names, _can_be_label).select(pl.all().all())
        names = [name for i, name in enumerate(names) if answers[str(i)][0]]
    numbers = _select(frame, names, _number)
    kinds = dict.fromkeys(truths, "truth")
    for i, name in enumerate(names):
        values = set(numbers[str(i)].drop_nulls().unique())
        if values & set(UNKNOWN):
            kinds[name] = "signed" if 0 in values else "one-sided"
        elif values:
            kinds[name] = "word"
    return {name: kinds[name] for name in frame.columns if name in kinds}


def _can_be_label(cell: pl.Expr, dtype: Any) -> pl.Expr:
    return _known(cell, dtype).is_null() | _number(cell, dtype).is_in(_VALUES).fill_null(False)


def _known(cell: pl.Expr, dtype: Any) -> pl.Expr:
    """The cells of a column, null where nobody knows."""
    if dtype != pl.String:
        return cell.cast(pl.Float64).fill_nan(None)
    words = cell.str.strip_chars().str.to_lowercase()
    return pl.when(~words.is_in(_WORDS)).then(words)


def _number(cell: pl.Expr, dtype: Any) -> pl.Expr:
    """The cells of a column as numbers, null where nobody knows, and where a word is no number."""
    known = _known(cell, dtype)
    return known.replace(TRUTHS).cast(pl.Float64, strict=False) if dtype == pl.String else known


def _select(frame: pl.DataFrame, names: Sequence[str], of: Any) -> pl.DataFrame:
    """Ask the same of some columns; the answers are named 0, 1, ..."""
    cells = numbered(frame, names)
    return cells.select(of(pl.col(name), dtype).alias(name) for name, dtype in cells.schema.items())


def _unknown_cells(column: pl.Series) -> np.ndarray:
    return pl.select(_known(pl.lit(column), column.dtype).is_null()).to_series().to_numpy()
