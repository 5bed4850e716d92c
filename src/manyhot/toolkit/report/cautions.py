"""What a reader should know before trusting a number: sentences on the data, each with the labels it is of."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.runs.evaluate import Aligned

NAMED = 20
# The share of rows with mostly unknown words from which a report warns.
MANY_UNKNOWN = 0.01


def warnings_of(
    train: Examples,
    part: str,
    measured: Examples,
    aligned: Aligned,
    label_rows: list[dict[str, Any]],
    *,
    multiclass: bool = False,
) -> list[dict[str, Any]]:
    """Say what a reader should know of the data before trusting a number: sentences, each with the labels it is of.

    Args:
        train: the training rows.
        part: what was measured: "test", "valid", or of the training rows themselves "cross_fitted" or "held_out".
        measured: those rows.
        aligned: their targets.
        label_rows: what :func:`of_labels` counts.
        multiclass: labels are called classes.
    """
    what = ("class", "classes") if multiclass else ("label", "labels")
    found: list[dict[str, Any]] = []

    def warn(text: str, of: list[str] | None = None) -> None:
        names = of or []
        found.append({"text": text, "labels": names[:NAMED], "more": max(len(names) - NAMED, 0)})

    def named(rows: list[dict[str, Any]]) -> list[str]:
        return [row["name"] for row in rows]

    if train.unknown is not None:
        counts = np.asarray(train.unknown.sum(axis=0)).ravel()
        partly = [train.label_names[i] for i in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]]
        warn(
            f"{int(counts.sum()):,} label cells of {train.rows:,} training rows are unknown "
            f"({100 * counts.sum() / (train.rows * len(counts)):.1f} %). They are left out of training, and of every "
            "number.",
            partly,
        )
    unseen = [row for row in label_rows if not row["train_rows"]]
    few = sorted((row for row in label_rows if row["group"] == "rare"), key=lambda row: row["train_rows"])
    absent = [row for row in label_rows if not row["rows"]]
    silent = [row for row in label_rows if row["rows"] and not row["predicted"]]
    if few:
        warn(
            f"{_labels(few, what)} fewer than 9 training rows. The numbers of one of them alone say little.",
            named(few),
        )
    if unseen:
        warn(f"{_labels(unseen, what)} no training row at all and cannot be learned.", named(unseen))
    if absent:
        warn(f"{_labels(absent, what)} no row among those measured on. In macro-F1 each counts as 0.", named(absent))
    if silent:
        never = "is never predicted, though a measured row has it"
        if len(silent) > 1:
            never = "are never predicted, though measured rows have them"
        warn(f"{len(silent):,} {what[len(silent) > 1]} {never}.", named(silent))
    if aligned.unseen_names:
        number, times = len(aligned.unseen_names), int(aligned.unseen.sum())
        warn(
            f"{measured.source} has {number:,} {what[number > 1]} that the training rows do not have "
            f"({times:,} time{'s' if times > 1 else ''}), which count as missed.",
            aligned.unseen_names,
        )
    _warn_of_rows(train, part, measured, warn)
    return found


def _labels(rows: list[dict[str, Any]], what: tuple[str, str]) -> str:
    return f"1 {what[0]} has" if len(rows) == 1 else f"{len(rows):,} {what[1]} have"


def _warn_of_rows(train: Examples, part: str, measured: Examples, warn: Any) -> None:
    if empty := int(train.unlabelled().sum()):
        warn(
            f"{_rows(empty, 'has', 'have')} no label ({100 * empty / train.rows:.1f} % of the training rows). Such "
            "rows are learned as rows to which no label applies; --drop-unlabelled leaves them out."
        )
    if train.texts is not None and (blank := sum(not text.strip() for text in train.texts)):
        warn(f"{_rows(blank, 'has', 'have')} an empty text among the training rows.")
    seen: dict[bytes, int] = {}
    elsewhere = part in ("test", "valid")
    repeated, contradicting = 0, 0
    for row, print_ in enumerate(fingerprints(train)):
        first = seen.setdefault(print_, row)
        if first != row:
            repeated += 1
            contradicting += _contradict(train, first, row)
    if repeated:
        other = f", {contradicting:,} of them with other labels" if contradicting else ""
        held = (
            ""
            if elsewhere
            else " A held-out row may have its like among the rows fitted on, so that the numbers are too good."
        )
        warn(f"{_rows(repeated, 'repeats', 'repeat')} an earlier training row{other}.{held}")
    if elsewhere:
        both = sum(print_ in seen for print_ in fingerprints(measured))
        if both:
            warn(
                f"{_rows(both, 'is', 'are')} in {measured.source} and among the training rows alike "
                f"({100 * both / measured.rows:.1f} % of those measured on): the numbers are too good for new "
                "rows."
            )


def _rows(number: int, one: str, many: str) -> str:
    return f"1 row {one}" if number == 1 else f"{number:,} rows {many}"


def _contradict(examples: Examples, a: int, b: int) -> bool:
    """Say whether a label that is known of both rows is that of one alone."""
    differ = _cells_of(examples.targets, a) ^ _cells_of(examples.targets, b)
    if differ and examples.unknown is not None:
        differ -= _cells_of(examples.unknown, a) | _cells_of(examples.unknown, b)
    return bool(differ)


def _cells_of(cells: sp.csr_array, row: int) -> set[int]:
    return set(cells.indices[cells.indptr[row] : cells.indptr[row + 1]].tolist())


def fingerprints(examples: Examples) -> Iterator[bytes]:
    """Yield of each row what only rows with the same text, numbers and categories have."""
    numbers = examples.numbers
    categories = None if examples.categories is None else examples.categories.rows()
    for row in range(examples.rows):
        hashed = hashlib.blake2b(digest_size=16)
        if examples.texts is not None:
            hashed.update(examples.texts[row].encode())
        if isinstance(numbers, np.ndarray):
            hashed.update(np.ascontiguousarray(numbers[row]).tobytes())
        elif numbers is not None:
            cells = slice(numbers.indptr[row], numbers.indptr[row + 1])
            hashed.update(numbers.indices[cells].tobytes())
            hashed.update(numbers.data[cells].tobytes())
        if categories is not None:
            hashed.update(repr(categories[row]).encode())
        yield hashed.digest()


def of_few_known(few: int, rows: int) -> list[dict[str, Any]]:
    """Warn where training did not know most words of a hundredth of the rows or more."""
    if few < MANY_UNKNOWN * rows or not few:
        return []
    text = (
        f"{_rows(few, 'has', 'have')} more words that training did not know than words that it did "
        f"({100 * few / rows:.1f} % of those measured on). Labels there are little more than a guess."
    )
    return [{"text": text, "labels": [], "more": 0}]
