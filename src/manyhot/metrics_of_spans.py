"""Predicted and true spans to numbers, and to the kind of each error."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from manyhot.labels import GROUPS, label_groups

Rows = Sequence[Iterable[Sequence[Any]]]
Triple = tuple[int, int, int]
Kind = Literal["right", "type", "border", "both", "missed", "spurious"]


def span_metrics(
    preds: Rows, targets: Rows, *, num_types: int, train_counts: Any = None
) -> dict[str, float | int | None]:
    """Measure predicted spans: one is right where both borders and the type are.

    Args:
        preds: a list of (start, end, type) a row, as :func:`manyhot.decide_spans` returns them; what follows the type
            is not looked at. A span listed twice counts once.
        targets: the same, true.
        num_types: how many types there are.
        train_counts: (num_types,), training spans of each type; they define rare, medium and head types, and a type
            without any is in no group. Without them the groups are None.

    Returns:
        Fractions from 0 to 1 unless said:

        - `micro_precision`, `micro_recall`, `micro_f1` over all spans; 0 where nothing is predicted, or true.
        - `macro_f1`, the mean over types with a true span; `rare_f1`, `medium_f1`, `head_f1`, the same over those of
          them with 1 to 8, 9 to 34, 35 and more training spans. None for an empty group.
        - `boundary_f1`, the micro-F1 where types are ignored.
        - `nested_recall`, the recall of true spans that share a token with another true span; None where none does.
        - `exact_match`, share of rows whose set is right, rows without a span on both sides included.
        - `spans_per_row_predicted`, `spans_per_row_true`, plain numbers; `empty_rows`, share of rows predicted empty.
        - `rows`, `types`, and `spans`, the true ones: counts.

    Raises:
        ValueError: another number of rows on either side, no row, a type that is none.

    Example:
        >>> import manyhot
        >>> metrics = manyhot.span_metrics([[(0, 2, 0), (3, 4, 1)], []], [[(0, 2, 0), (3, 5, 1)], []], num_types=2)
        >>> metrics["micro_f1"], metrics["macro_f1"], metrics["exact_match"]
        (0.5, 0.5, 0.5)
    """
    predicted, true = _sets(preds, targets)
    for name, rows in (("preds", predicted), ("targets", true)):
        for row, spans in enumerate(rows):
            for span in spans:
                if not 0 <= span[2] < num_types:
                    raise ValueError(
                        f"{name}: row {row} has a span of type {span[2]}; type ids must lie in 0 to {num_types - 1}."
                    )
    right = [p & t for p, t in zip(predicted, true, strict=True)]
    hits, of_preds, of_targets = ([[s[2] for s in row] for row in rows] for rows in (right, predicted, true))
    borders = [[{s[:2] for s in row} for row in rows] for rows in (predicted, true)]
    nested = [(row, s) for row, spans in enumerate(true) for s in spans if any(_overlap(s, o) for o in spans - {s})]
    return {
        **f1_by_kind(hits, of_preds, of_targets, num_types, train_counts),
        "boundary_f1": f1_of_sets(borders[0], borders[1]),
        "nested_recall": mean(np.array([s in predicted[row] for row, s in nested])),
        **of_rows(predicted, true, "spans"),
        "types": num_types,
        "spans": sum(map(len, true)),
    }


def f1_by_kind(
    right: Iterable[Sequence[int]],
    predicted: Iterable[Sequence[int]],
    true: Iterable[Sequence[int]],
    num_kinds: int,
    train_counts: Any,
    *,
    name: str = "type",
) -> dict[str, float | None]:
    """Return precision, recall and F1 from the kinds of what is both, predicted and true in each row.

    The kind of a span is its type, that of a triple its relation; `name` is the word for it in messages.
    """
    hits, of_preds, of_targets = (
        np.bincount([kind for row in rows for kind in row], minlength=num_kinds) for rows in (right, predicted, true)
    )
    # A kind with a true one has no denominator of 0.
    f1 = 2 * hits / np.maximum(of_preds + of_targets, 1)
    there = of_targets > 0
    groups: dict[str, float | None] = dict.fromkeys(f"{group}_f1" for group in GROUPS)
    if train_counts is not None:
        if np.shape(train_counts) != (num_kinds,):
            came = np.shape(train_counts)
            raise ValueError(f"train_counts must have one number a {name}, ({num_kinds},); got {came}.")
        for group, members in label_groups(train_counts).items():
            groups[f"{group}_f1"] = mean(f1[members & there])
    return {
        "micro_precision": _share(hits.sum(), of_preds.sum()),
        "micro_recall": _share(hits.sum(), of_targets.sum()),
        "micro_f1": _share(2 * hits.sum(), of_preds.sum() + of_targets.sum()),
        "macro_f1": mean(f1[there]) or 0.0,
        **groups,
    }


def f1_of_sets(predicted: Sequence[set], true: Sequence[set]) -> float:
    """Return the F1 of what is in the sets of rows, whatever its kind."""
    right = sum(len(p & t) for p, t in zip(predicted, true, strict=True))
    return _share(2 * right, sum(map(len, predicted)) + sum(map(len, true)))


def of_rows(predicted: Sequence[set], true: Sequence[set], things: str) -> dict[str, float | int | None]:
    """Return what is said of rows as a whole."""
    rows = len(true)
    return {
        "exact_match": sum(p == t for p, t in zip(predicted, true, strict=True)) / rows,
        f"{things}_per_row_predicted": sum(map(len, predicted)) / rows,
        f"{things}_per_row_true": sum(map(len, true)) / rows,
        "empty_rows": sum(not p for p in predicted) / rows,
        "rows": rows,
    }


class SpanError(NamedTuple):
    """What became of a true span, a predicted one, or the pair of both: a line of :func:`manyhot.span_errors`."""

    row: int
    kind: Kind
    gold: Triple | None
    pred: Triple | None


def span_errors(preds: Rows, targets: Rows) -> list[SpanError]:
    """Say of each true and each predicted span what is right or wrong with it.

    Spans are paired, each with at most one: first equal ones (`right`), then those with equal borders (`type`), then
    those of one type that share tokens (`border`), then others that share tokens (`both`); more shared tokens first.
    What is left over is `missed` or `spurious`.

    Args:
        preds: a list of (start, end, type) a row; a span listed twice counts once.
        targets: the same, true.

    Returns:
        A :class:`manyhot.SpanError`, (row, kind, gold, pred), for each pair and each span left over, by row; `gold` is
        None of a spurious span, `pred` of a missed one.

    Raises:
        ValueError: another number of rows on either side, no row.

    Example:
        >>> import manyhot
        >>> [error] = manyhot.span_errors([[(3, 4, 1)]], [[(3, 5, 1)]])
        >>> error.kind, error.gold, error.pred
        ('border', (3, 5, 1), (3, 4, 1))
    """
    errors = []
    for row, (predicted, true) in enumerate(zip(*_sets(preds, targets), strict=True)):
        pairs = sorted(
            (*_likeness(gold, pred), gold, pred) for gold in true for pred in predicted if _overlap(gold, pred)
        )
        paired: dict[Triple, tuple[Kind, Triple]] = {}
        taken: set[Triple] = set()
        for rank, _, gold, pred in pairs:
            if gold not in paired and pred not in taken:
                paired[gold] = (KINDS[rank], pred)
                taken.add(pred)
        for gold in sorted(true):
            kind, pred = paired.get(gold, ("missed", None))
            errors.append(SpanError(row, kind, gold, pred))
        errors.extend(SpanError(row, "spurious", None, pred) for pred in sorted(predicted - taken))
    return errors


KINDS: tuple[Kind, ...] = ("right", "type", "border", "both")


def _likeness(gold: Triple, pred: Triple) -> tuple[int, int]:
    """Return the place of a pair in KINDS, and less the more tokens it shares."""
    borders, kind = gold[:2] == pred[:2], gold[2] == pred[2]
    rank = (0 if kind else 1) if borders else (2 if kind else 3)
    return rank, max(gold[0], pred[0]) - min(gold[1], pred[1])


def _overlap(a: Triple, b: Triple) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def _sets(preds: Rows, targets: Rows) -> tuple[list[set[Triple]], list[set[Triple]]]:
    """Return both as a set of triples a row."""
    check_rows(preds, targets, "(start, end, type)")
    predicted, true = ([{_triple(span) for span in row} for row in rows] for rows in (preds, targets))
    return predicted, true


def check_rows(preds: Sequence[Any], targets: Sequence[Any], what: str) -> None:
    """Check that both sides have the same rows, one or more."""
    if len(preds) != len(targets) or not len(targets):
        raise ValueError(
            f"preds and targets must both be a list of {what} a row, with at least one row; got {len(preds)} and "
            f"{len(targets)} rows."
        )


def _triple(span: Sequence[Any]) -> Triple:
    start, end, kind, *_ = span
    return int(start), int(end), int(kind)


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0


def mean(values: np.ndarray) -> float | None:
    """Return the mean; None of nothing."""
    return float(np.mean(values)) if len(values) else None
