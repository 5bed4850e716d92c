"""Label sets and scores to numbers, by scikit-learn where it has them."""

from importlib import import_module
from typing import Any

import numpy as np
from torch import Tensor

from manyhot.labels import GROUPS, label_groups

# Cells that are ranked at once.
BLOCK_CELLS = 4_000_000


def multiclass_metrics(logits: Any, targets: Any, *, train_counts: Any = None) -> dict[str, float | int | None]:
    """Measure argmax predictions where each row has exactly one class.

    Args:
        logits: (rows, classes), anything whose order matters; ties go to the lower class.
        targets: (rows,), class ids from 0.
        train_counts: (classes,), training rows of each class; they define rare, medium and head classes.

    Returns:
        Fractions from 0 to 1 unless said:

        - `accuracy`, share of rows whose class is right; `accuracy_at_3`, whose class is among the best three.
        - `macro_f1`, `rare_f1`, `medium_f1`, `head_f1`: as in :func:`multilabel_metrics`, over classes.
        - `rows`, `classes`, counts.

    Raises:
        ValueError: shapes that differ, no row, fewer than two classes, ids that are no class, or logits that are NaN.

    Example:
        >>> import numpy as np, manyhot
        >>> logits = np.array([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0], [1.0, 3.0, 0.0]])
        >>> metrics = manyhot.multiclass_metrics(logits, [0, 1, 0])
        >>> metrics["accuracy"], metrics["macro_f1"]
        (0.6666666666666666, 0.4444444444444444)
    """
    scores = np.asarray(logits.detach().cpu().numpy() if isinstance(logits, Tensor) else logits, dtype=np.float64)
    ids = np.asarray(targets.detach().cpu().numpy() if isinstance(targets, Tensor) else targets)
    if scores.ndim != 2 or ids.shape != scores.shape[:1] or ids.dtype.kind not in "iu":
        raise ValueError(
            "logits must have shape (rows, classes) and targets be class ids of shape (rows,); "
            f"got {scores.shape} and {ids.dtype} of {ids.shape}."
        )
    if ids.size and not 0 <= ids.min() <= ids.max() < scores.shape[1]:
        raise ValueError(f"class ids must lie in 0 to {scores.shape[1] - 1}; got {ids.min()} to {ids.max()}.")
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
    preds: Any, targets: Any, scores: Any, *, train_counts: Any = None
) -> dict[str, float | int | None]:
    """Measure label sets and rankings.

    Args:
        preds: (rows, labels), 0/1 decisions.
        targets: (rows, labels), 0/1 truth.
        scores: (rows, labels), logits or anything whose order matters; the ranking metrics use them.
        train_counts: (labels,), positives of each label in training; they define rare, medium and head labels, and a
            label without any is in no group. Without them the groups are None.

    Returns:
        Fractions from 0 to 1 unless said:

        - `micro_f1`; `macro_f1`, the mean over all labels; `samples_f1`, the mean over rows; an F1 without a positive
          on either side counts as 0.
        - `rare_f1`, `medium_f1`, `head_f1`: macro-F1 of labels with 1 to 8, 9 to 34, 35 and more training rows; None
          for an empty group.
        - `exact_match`, share of rows whose set is right; `hamming_loss`, share of cells that are wrong.
        - `lrap`, label ranking average precision (1 for a row without labels); `precision_at_1`, `_3`, `_5`, hits among
          the best k over k; `ndcg_at_5` (0 for a row without labels).
        - `labels_per_row_predicted`, `labels_per_row_true`, plain numbers; `empty_rows`, share of rows predicted empty.
        - `rows`, `labels`, counts.

    Raises:
        ValueError: shapes that differ, no row, fewer than two labels, or scores that are NaN.

    Example:
        >>> import numpy as np, manyhot
        >>> logits, targets = np.array([[2.0, -1.0, 3.0], [-3.0, 1.0, -2.0]]), np.array([[1, 0, 1], [0, 1, 1]])
        >>> metrics = manyhot.multilabel_metrics(manyhot.decide(logits), targets, logits)
        >>> metrics["micro_f1"], metrics["exact_match"]
        (0.8571428571428571, 0.5)
    """
    try:
        # By name: scikit-learn's annotations refuse documented values such as average=None.
        metrics: Any = import_module("sklearn.metrics")
    except ImportError as error:
        raise ImportError("metrics need scikit-learn: pip install 'manyhot[toolkit]'") from error

    preds, targets, scores = (
        x.detach().cpu().numpy() if isinstance(x, Tensor) else x for x in (preds, targets, scores)
    )
    preds, targets, scores = np.asarray(preds) > 0, np.asarray(targets) > 0, np.asarray(scores, dtype=np.float64)
    if not preds.shape == targets.shape == scores.shape or preds.ndim != 2 or 0 in preds.shape or preds.shape[1] < 2:
        raise ValueError(
            "preds, targets and scores must all have shape (rows, labels) with at least one row and two labels; "
            f"got {preds.shape}, {targets.shape} and {scores.shape}."
        )
    if np.isnan(scores).any():
        raise ValueError(f"scores must not be NaN; got NaN in row {int(np.isnan(scores).any(1).argmax())}.")
    # scikit-learn takes no infinities; the order is all that counts.
    finite = scores[np.isfinite(scores)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    scores = np.nan_to_num(scores, posinf=np.nextafter(high, np.inf) + 1, neginf=np.nextafter(low, -np.inf) - 1)
    f1 = metrics.f1_score(targets, preds, average=None, zero_division=0)
    groups: dict[str, float | None] = dict.fromkeys(f"{name}_f1" for name in GROUPS)
    if train_counts is not None:
        for name, members in label_groups(train_counts).items():
            groups[f"{name}_f1"] = float(np.mean(f1[members])) if members.any() else None
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    hits = np.take_along_axis(targets, best, axis=1)
    return {
        "micro_f1": float(metrics.f1_score(targets, preds, average="micro", zero_division=0)),
        "macro_f1": float(np.mean(f1)),
        "samples_f1": float(metrics.f1_score(targets, preds, average="samples", zero_division=0)),
        **groups,
        "exact_match": float((preds == targets).all(1).mean()),
        "hamming_loss": float((preds != targets).mean()),
        "lrap": _ranking_average_precision(targets, scores),
        **{f"precision_at_{k}": float(hits[:, :k].sum(1).mean() / k) for k in (1, 3, 5)},
        "ndcg_at_5": float(metrics.ndcg_score(targets, scores, k=5)),
        "labels_per_row_predicted": float(preds.sum(1).mean()),
        "labels_per_row_true": float(targets.sum(1).mean()),
        "empty_rows": float((preds.sum(1) == 0).mean()),
        "rows": int(preds.shape[0]),
        "labels": int(preds.shape[1]),
    }


def _ranking_average_precision(targets: np.ndarray, scores: np.ndarray) -> float:
    """Return scikit-learn's label_ranking_average_precision_score, without its loop over rows.

    Of each true label the share of true ones among all labels with a score as high or higher; the mean of a row's, and
    of the rows. The loop took longer than `manyhot train` took to fit: 4 s of 3,000 rows and 90 labels.
    """
    total, labels = 0.0, scores.shape[1]
    block = max(BLOCK_CELLS // labels, 1)
    for first in range(0, len(scores), block):
        part, truth = scores[first : first + block], targets[first : first + block]
        order = np.argsort(-part, axis=1, kind="stable")
        part, truth = np.take_along_axis(part, order, 1), np.take_along_axis(truth, order, 1)
        # The last place of those with the same score.
        ends = np.hstack([part[:, 1:] != part[:, :-1], np.ones((len(part), 1), dtype=bool)])
        last = np.minimum.accumulate(np.where(ends, np.arange(labels), labels)[:, ::-1], axis=1)[:, ::-1]
        share = np.take_along_axis(truth.cumsum(1), last, 1) / (last + 1)
        number = truth.sum(1)
        total += float(np.where(number > 0, (share * truth).sum(1) / np.maximum(number, 1), 1.0).sum())
    return total / len(scores)
