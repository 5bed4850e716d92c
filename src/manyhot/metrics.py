"""Label sets and scores to numbers, by scikit-learn where it has them."""

from importlib import import_module
from typing import Any

import numpy as np

from manyhot.labels import GROUPS, known_of, label_groups, written_out
from manyhot.targets import array_of

# Cells that are ranked at once.
BLOCK_CELLS = 4_000_000


def multiclass_metrics(
    logits: Any, targets: Any, *, mask: Any = None, train_counts: Any = None
) -> dict[str, float | int | None]:
    """Measure argmax predictions where each row has exactly one class.

    Args:
        logits: (rows, classes), anything whose order matters; ties go to the lower class.
        targets: (rows,), class ids from 0; a row of -1 or -100 is unknown and left out.
        mask: boolean, broadcastable to targets, True where a row's class is known.
        train_counts: (classes,), training rows of each class; they define rare, medium and head classes.

    Returns:
        Fractions from 0 to 1 unless said:

        - `accuracy`, share of rows whose class is right; `accuracy_at_3`, whose class is among the best three.
        - `macro_f1`, `rare_f1`, `medium_f1`, `head_f1`: as in :func:`multilabel_metrics`, over classes.
        - `rows`, those whose class is known, and `classes`, counts.

    Raises:
        TypeError: a mask that is not boolean.
        ValueError: shapes that differ, no row, fewer than two classes, ids that are no class, no known class, or logits
            that are NaN.

    Example:
        >>> import numpy as np, manyhot
        >>> logits = np.array([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0], [1.0, 3.0, 0.0]])
        >>> metrics = manyhot.multiclass_metrics(logits, [0, 1, 0])
        >>> metrics["accuracy"], metrics["macro_f1"]
        (0.6666666666666666, 0.4444444444444444)
    """
    scores, ids = np.asarray(array_of(logits), dtype=np.float64), array_of(targets)
    if scores.ndim != 2 or ids.shape != scores.shape[:1] or ids.dtype.kind not in "iu":
        raise ValueError(
            "logits must have shape (rows, classes) and targets be class ids of shape (rows,); "
            f"got {scores.shape} and {ids.dtype} of {ids.shape}."
        )
    known = known_of(ids) & _mask(mask, ids.shape)
    wrong = known & ((ids < 0) | (ids >= scores.shape[1]))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"class ids must lie in 0 to {scores.shape[1] - 1}, or be -1 or -100 where unknown; "
            f"got {ids[row]} in row {row}."
        )
    if ids.size and not known.any():
        raise ValueError("multiclass_metrics needs known classes; every class is unknown.")
    if (nan := known & np.isnan(scores).any(1)).any():
        raise ValueError(f"logits must not be NaN; got NaN in row {int(nan.argmax())}.")
    scores, ids = scores[known], ids[known]
    classes = np.arange(scores.shape[1])
    preds = scores.argmax(1)[:, None] == classes if scores.size else np.zeros(scores.shape, dtype=bool)
    measured = multilabel_metrics(preds, ids[:, None] == classes, scores, train_counts=train_counts)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    return {
        "accuracy": measured["exact_match"],
        "macro_f1": measured["macro_f1"],
        **{f"{name}_f1": measured[f"{name}_f1"] for name in GROUPS},
        "accuracy_at_3": float((best == ids[:, None]).any(1).mean()),
        "rows": measured["rows"],
        "classes": measured["labels"],
    }


def multilabel_metrics(
    preds: Any, targets: Any, scores: Any, *, mask: Any = None, train_counts: Any = None
) -> dict[str, float | int | None]:
    """Measure label sets and rankings.

    Unknown cells are left out, as the losses leave them out: a row is its known labels, a label its known rows, and
    what was predicted or scored elsewhere counts neither for nor against.

    Args:
        preds: (rows, labels), 0/1 decisions, dense, listed or sparse as the targets: :func:`manyhot.decide`.
        targets: (rows, labels), 0/1 truth, unknown where -1, -100 or NaN. Or listed: :class:`manyhot.IndexTargets`,
            torch.sparse_csr, scipy.sparse.
        scores: (rows, labels), logits or anything whose order matters; the ranking metrics use them.
        mask: boolean, broadcastable to targets, True where the label is known.
        train_counts: (labels,), positives of each label in training; they define rare, medium and head labels, and a
            label without any is in no group. Without them the groups are None.

    Returns:
        Fractions from 0 to 1 unless said:

        - `micro_f1`; `macro_f1`, the mean over all labels with a known cell; `samples_f1`, the mean over rows with one;
          an F1 without a positive on either side counts as 0.
        - `rare_f1`, `medium_f1`, `head_f1`: macro-F1 of labels with 1 to 8, 9 to 34, 35 and more training rows; None
          for an empty group.
        - `exact_match`, share of rows whose known labels are all right; `hamming_loss`, share of known cells that are
          wrong.
        - `lrap`, label ranking average precision (1 for a row without labels); `precision_at_1`, `_3`, `_5`, hits among
          the best k over k; `ndcg_at_5` (0 for a row without labels).
        - `labels_per_row_predicted`, `labels_per_row_true`, plain numbers, of known cells; `empty_rows`, share of rows
          predicted empty, unknown cells included.
        - `rows`, those with a known label, and `labels`, counts.

    Raises:
        TypeError: a mask that is not boolean.
        ValueError: shapes that differ, no row, fewer than two labels, decisions or truth other than 0 and 1, no known
            target, or scores of known cells that are NaN.

    Example:
        >>> import numpy as np, manyhot
        >>> logits, targets = np.array([[2.0, -1.0, 3.0], [-3.0, 1.0, -2.0]]), np.array([[1, 0, 1], [0, 1, 1]])
        >>> metrics = manyhot.multilabel_metrics(manyhot.decide(logits), targets, logits)
        >>> metrics["micro_f1"], metrics["exact_match"]
        (0.8571428571428571, 0.5)
        >>> targets[1, 2] = -1  # the label that was missed, if nobody knows
        >>> manyhot.multilabel_metrics(manyhot.decide(logits), targets, logits)["exact_match"]
        1.0
    """
    try:
        # By name: scikit-learn's annotations refuse documented values such as average=None.
        metrics: Any = import_module("sklearn.metrics")
    except ImportError as error:
        raise ImportError("metrics need scikit-learn: pip install 'manyhot[toolkit]'") from error

    scores = np.asarray(array_of(scores), dtype=np.float64)
    preds, truth = (written_out(x, scores.shape[-1] if scores.ndim else 0) for x in (preds, targets))
    if not preds.shape == truth.shape == scores.shape or preds.ndim != 2 or 0 in preds.shape or preds.shape[1] < 2:
        raise ValueError(
            "preds, targets and scores must all have shape (rows, labels) with at least one row and two labels; "
            f"got {preds.shape}, {truth.shape} and {scores.shape}."
        )
    known = known_of(truth) & _mask(mask, truth.shape)
    _check_binary("targets must be 0 or 1, or -1, -100 or NaN where unknown", truth, known, "Decide at 1/2 first.")
    _check_binary("preds must be 0/1 decisions", preds, np.True_, "Scores become that with manyhot.decide.")
    judged = known.any(1)
    if not judged.any():
        raise ValueError("multilabel_metrics needs known targets; every target is unknown.")
    nan = known & np.isnan(scores)
    if nan.any():
        raise ValueError(f"scores must not be NaN; got NaN in row {int(nan.any(1).argmax())}.")
    preds, truth, scores, known = preds[judged] == 1, truth[judged] == 1, scores[judged], known[judged]
    empty_rows = float((~preds.any(1)).mean())
    # An unknown label is on neither side and ranked below all others: so no number sees it.
    preds, targets = preds & known, truth & known
    # scikit-learn takes no infinities; the order is all that counts.
    finite = scores[np.isfinite(scores)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    last = np.nextafter(low, -np.inf) - 1
    scores = np.nan_to_num(scores, posinf=np.nextafter(high, np.inf) + 1, neginf=last)
    scores[~known] = np.nextafter(last, -np.inf) - 1
    f1 = metrics.f1_score(targets, preds, average=None, zero_division=0)
    measured = known.any(0)
    groups: dict[str, float | None] = dict.fromkeys(f"{name}_f1" for name in GROUPS)
    if train_counts is not None:
        for name, members in label_groups(train_counts).items():
            members = members & measured
            groups[f"{name}_f1"] = float(np.mean(f1[members])) if members.any() else None
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    hits = np.take_along_axis(targets, best, axis=1)
    precision, gain = _rankings(targets, scores)
    return {
        "micro_f1": float(metrics.f1_score(targets, preds, average="micro", zero_division=0)),
        "macro_f1": float(np.mean(f1[measured])),
        "samples_f1": float(metrics.f1_score(targets, preds, average="samples", zero_division=0)),
        **groups,
        "exact_match": float((preds == targets).all(1).mean()),
        "hamming_loss": float((preds != targets).sum() / known.sum()),
        "lrap": precision,
        **{f"precision_at_{k}": float(hits[:, :k].sum(1).mean() / k) for k in (1, 3, 5)},
        "ndcg_at_5": gain,
        "labels_per_row_predicted": float(preds.sum(1).mean()),
        "labels_per_row_true": float(targets.sum(1).mean()),
        "empty_rows": empty_rows,
        "rows": int(preds.shape[0]),
        "labels": int(preds.shape[1]),
    }


def _mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Spread a mask over the targets; all are known where there is none."""
    if mask is None:
        return np.ones(shape, dtype=bool)
    given = array_of(mask)
    if given.dtype != bool:
        raise TypeError(f"mask must be boolean, True where the target is known; got {given.dtype}.")
    try:
        return np.broadcast_to(given, shape)
    except ValueError:
        raise ValueError(f"mask must broadcast to the targets, {shape}; got {given.shape}.") from None


def _check_binary(expected: str, values: np.ndarray, known: np.ndarray | np.bool_, advice: str) -> None:
    """Check that known values are 0 or 1."""
    if values.dtype == bool:
        return
    wrong = known & (values != 0) & (values != 1)
    if wrong.any():
        row, label = np.argwhere(wrong)[0]
        raise ValueError(f"{expected}; got {values[row, label]:g} in row {row}, label {label}. {advice}")


def _rankings(targets: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return scikit-learn's label_ranking_average_precision_score and its ndcg_score of 5, without loops over rows.

    The first: each true label has the share of true ones among all labels with a score as high or higher; a row has the
    mean of its labels, and the result is the mean of rows. In the second, labels with the same score count as their
    mean. scikit-learn's loops took longer than `manyhot train` took to fit: 4 s for 3,000 rows and 90 labels.
    """
    precision, gain, labels = 0.0, 0.0, scores.shape[1]
    discounts = 1 / np.log2(np.arange(2, min(labels, 5) + 2))
    ideal = np.concatenate([[1.0], discounts.cumsum()])  # of a row without labels the gain is 0
    block = max(BLOCK_CELLS // labels, 1)
    for first in range(0, len(scores), block):
        part, truth = scores[first : first + block], targets[first : first + block]
        order = np.argsort(-part, axis=1, kind="stable")
        part, truth = np.take_along_axis(part, order, 1), np.take_along_axis(truth, order, 1)
        # The first and the last place of those with the same score.
        ends = np.hstack([part[:, 1:] != part[:, :-1], np.ones((len(part), 1), dtype=bool)])
        last = np.minimum.accumulate(np.where(ends, np.arange(labels), labels)[:, ::-1], axis=1)[:, ::-1]
        starts = np.hstack([np.ones((len(part), 1), dtype=bool), ends[:, :-1]])
        start = np.maximum.accumulate(np.where(starts, np.arange(labels), 0), axis=1)
        so_far = np.take_along_axis(truth.cumsum(1), last, 1)
        before = np.take_along_axis(np.hstack([np.zeros((len(part), 1), int), truth.cumsum(1)]), start, 1)
        share, number = so_far / (last + 1), truth.sum(1)
        precision += float(np.where(number > 0, (share * truth).sum(1) / np.maximum(number, 1), 1.0).sum())
        mean = ((so_far - before) / (last - start + 1))[:, :5]
        gain += float((mean @ discounts / ideal[np.minimum(number, len(discounts))]).sum())
    return precision / len(scores), gain / len(scores)
