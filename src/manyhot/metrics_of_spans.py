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
    counts = [np.bincount([s[2] for r in x for s in r], minlength=num_types) for x in (right, predicted, true)]
    hits, of_preds, of_targets = counts
    # A type with a true span has no denominator of 0.
    f1 = 2 * hits / np.maximum(of_preds + of_targets, 1)
    there = of_targets > 0
    groups: dict[str, float | None] = dict.fromkeys(f"{name}_f1" for name in GROUPS)
    if train_counts is not None:
        if np.shape(train_counts) != (num_types,):
            raise ValueError(f"train_counts must have one number a type, ({num_types},); got {np.shape(train_counts)}.")
        for name, members in label_groups(train_counts).items():
            groups[f"{name}_f1"] = _mean(f1[members & there])
    borders = [[{s[:2] for s in row} for row in rows] for rows in (predicted, true)]
    of_borders = [sum(map(len, x)) for x in ([p & t for p, t in zip(*borders, strict=True)], *borders)]
    nested = [(row, s) for row, spans in enumerate(true) for s in spans if any(_overlap(s, o) for o in spans - {s})]
    rows = len(true)
    return {
        "micro_precision": _share(hits.sum(), of_preds.sum()),
        "micro_recall": _share(hits.sum(), of_targets.sum()),
        "micro_f1": _share(2 * hits.sum(), of_preds.sum() + of_targets.sum()),
        "macro_f1": _mean(f1[there]) or 0.0,
        **groups,
        "boundary_f1": _share(2 * of_borders[0], of_borders[1] + of_borders[2]),
        "nested_recall": _mean(np.array([s in predicted[row] for row, s in nested])),
        "exact_match": sum(p == t for p, t in zip(predicted, true, strict=True)) / rows,
        "spans_per_row_predicted": float(of_preds.sum() / rows),
        "spans_per_row_true": float(of_targets.sum() / rows),
        "empty_rows": sum(not p for p in predicted) / rows,
        "rows": rows,
        "types": num_types,
        "spans": int(of_targets.sum()),
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
    if len(preds) != len(targets) or not len(targets):
        raise ValueError(
            "preds and targets must both be a list of (start, end, type) a row, with at least one row; got "
            f"{len(preds)} and {len(targets)} rows."
        )
    predicted, true = ([{_triple(span) for span in row} for row in rows] for rows in (preds, targets))
    return predicted, true


def _triple(span: Sequence[Any]) -> Triple:
    start, end, kind, *_ = span
    return int(start), int(end), int(kind)


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None
