"""Logits and a file's label sets to numbers, also where the file has labels that training did not know."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from manyhot.calibration import Calibration
from manyhot.decisions import decide
from manyhot.labels import CardinalityRange
from manyhot.metrics import multiclass_metrics, multilabel_metrics
from manyhot.toolkit.choose.calibrate import SCORES, compare


@dataclass(frozen=True)
class Aligned:
    """Targets in the order of the training labels, and beside them those that training did not know."""

    known: np.ndarray
    unknown: np.ndarray
    unknown_names: list[str]

    def warning(self) -> str | None:
        """Say what the unknown labels do to the numbers; None without any."""
        if not self.unknown_names:
            return None
        counts = self.unknown.sum(0)
        order = np.argsort(-counts, kind="stable")
        named = ", ".join(f"{self.unknown_names[i]} ({counts[i]:,})" for i in order[:10])
        more = f" and {len(order) - 10:,} more" if len(order) > 10 else ""
        return (
            f"{len(order):,} labels of this file are unknown to the run, {int(counts.sum()):,} times: {named}{more}. "
            "They count as missed: false negatives in micro-F1, F1 0 in macro-F1."
        )


def align(targets: Any, names: list[str], known_names: list[str]) -> Aligned:
    """Order the columns of `targets` (rows, names) as in training."""
    cells: Any = sp.csc_array(targets)
    cells.eliminate_zeros()
    column = {name: i for i, name in enumerate(names)}
    known = np.zeros((targets.shape[0], len(known_names)), dtype=bool)
    for i, name in enumerate(known_names):
        if name in column:
            known[cells.indices[cells.indptr[column[name]] : cells.indptr[column[name] + 1]], i] = True
    # A label that no row has is no gold label: an unused 0/1 column or name is no miss.
    trained = set(known_names)
    used = np.diff(cells.indptr) > 0
    others = [i for i, name in enumerate(names) if name not in trained and used[i]]
    return Aligned(known, cells[:, others].toarray().astype(bool), [names[i] for i in others])


def measure(
    logits: np.ndarray,
    aligned: Aligned,
    *,
    cardinality: CardinalityRange,
    train_counts: np.ndarray,
    multiclass: bool = False,
) -> dict[str, float | int | None]:
    """Decide and measure; the keys of :func:`manyhot.multilabel_metrics`, `labels` being those of training.

    With `multiclass`, those of :func:`manyhot.multiclass_metrics`, `classes` being those of training.
    """
    preds = decide(logits, min_labels=cardinality.min_labels, max_labels=cardinality.max_labels)
    preds, logits, targets, counts = with_unknown(preds, logits, aligned, train_counts)
    if multiclass:
        metrics = multiclass_metrics(logits, targets.argmax(1), train_counts=counts)
        return metrics | {"classes": len(train_counts)}
    metrics = multilabel_metrics(preds, targets, logits, train_counts=counts)
    return metrics | {"labels": len(train_counts)}


def with_unknown(
    preds: np.ndarray, logits: np.ndarray, aligned: Aligned, train_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return all four with a column for each label that training did not know: missed, and seen 0 times."""
    if not aligned.unknown_names:
        return preds, logits, aligned.known, train_counts
    missed = np.zeros(aligned.unknown.shape, dtype=preds.dtype)
    lowest = np.broadcast_to(logits.min(1, keepdims=True) - 1, missed.shape)
    return (
        np.hstack([preds, missed]),
        np.hstack([logits, lowest]),
        np.hstack([aligned.known, aligned.unknown]),
        np.concatenate([train_counts, np.zeros(len(aligned.unknown_names))]),
    )


def measure_probs(logits: np.ndarray, aligned: Aligned, calibration: Calibration) -> dict[str, float | None]:
    """Measure the probabilities of the labels that training knew.

    :func:`manyhot.toolkit.choose.calibrate.compare` says how. None where no row has a class that training knew.
    """
    truth: Any = aligned.known
    if calibration.classes:
        # A row of an unknown class has no class to be probable.
        known = truth.any(1)
        if not known.any():
            return {score + end: None for end in ("", "_uncalibrated") for score in SCORES}
        logits, truth = logits[known], truth[known].argmax(1)
    return dict(compare(logits, truth, calibration.probs(logits))[0])
