"""Logits and a file's label sets to numbers, also where the file has labels that training did not see."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from manyhot.calibration import Calibration
from manyhot.decisions import decide
from manyhot.labels import CardinalityRange
from manyhot.metrics import multiclass_metrics, multilabel_metrics
from manyhot.toolkit.choose.calibrate import SCORES, beside_sigmoid
from manyhot.toolkit.choose.ranked_rows import first_of, measured_of_cells, metrics_of_sets, probs_of_cells
from manyhot.toolkit.models.ranked import Ranked


@dataclass(frozen=True)
class Aligned:
    """Targets in the order of the training labels, and beside them those of labels that training did not see.

    Attributes:
        targets: (rows, labels), bool, or int8 with -1 where nobody knows; scipy CSR of bool where labels are very many.
        unseen: (rows, other labels), bool, an array or CSR as `targets` is.
        unseen_names: of these.
    """

    targets: Any
    unseen: Any
    unseen_names: list[str]

    def sizes(self) -> np.ndarray:
        """Count the labels of each row, (rows,)."""
        return (self.targets > 0).sum(1) + self.unseen.sum(1)

    def unseen_of(self, row: int) -> np.ndarray:
        """Return which of the unseen labels a row has."""
        return self.unseen[[row]].indices if sp.issparse(self.unseen) else np.flatnonzero(self.unseen[row])

    def warning(self, *, multiclass: bool = False) -> str | None:
        """Say what the unseen labels do to the numbers; None without any."""
        if not self.unseen_names:
            return None
        counts = self.unseen.sum(0)
        order = np.argsort(-counts, kind="stable")
        named = ", ".join(f"{self.unseen_names[i]} ({counts[i]:,})" for i in order[:10])
        more = f" and {len(order) - 10:,} more" if len(order) > 10 else ""
        what = ("class", "classes") if multiclass else ("label", "labels")
        which = f"1 {what[0]} of this file is" if len(order) == 1 else f"{len(order):,} {what[1]} of this file are"
        missed = "wrong in accuracy" if multiclass else "false negatives in micro-F1"
        times = int(counts.sum())
        return (
            f"{which} unknown to the run, {times:,} time{'s' * (times != 1)}: {named}{more}. "
            f"{'It counts' if len(order) == 1 else 'They count'} as missed: {missed}, F1 0 in macro-F1."
        )


def align(targets: Any, names: list[str], label_names: list[str], unknown: Any = None) -> Aligned:
    """Order the columns of `targets` (rows, names) as in training; `unknown` says which cells nobody knows."""
    cells: Any = sp.csc_array(targets)
    trained = {name: i for i, name in enumerate(label_names)}
    here = [i for i, name in enumerate(names) if name in trained]
    place = [trained[names[i]] for i in here]
    ordered = np.zeros((cells.shape[0], len(label_names)), dtype=bool if unknown is None else np.int8)
    ordered[:, place] = cells[:, here].toarray()
    if unknown is not None:
        ordered[:, place] -= sp.csc_array(unknown)[:, here].toarray().astype(np.int8)
    # A label that no row has is no gold label: an unused 0/1 column or name is no miss.
    used = np.asarray(cells.sum(axis=0)).ravel() > 0
    others = [i for i, name in enumerate(names) if name not in trained and used[i]]
    return Aligned(ordered, cells[:, others].toarray().astype(bool), [names[i] for i in others])


def align_sparse(targets: Any, names: list[str], label_names: list[str]) -> Aligned:
    """Do what :func:`align` does, and write nothing out; all cells are known."""
    cells: Any = sp.csc_array(targets, dtype=bool)
    place = {name: i for i, name in enumerate(names)}
    here = np.array([place.get(name, -1) for name in label_names], dtype=np.int64)
    known = np.flatnonzero(here >= 0)
    moved = sp.csc_array(cells[:, here[known]])
    sizes = np.zeros(len(label_names), dtype=np.int64)
    sizes[known] = np.diff(moved.indptr)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    ordered = sp.csc_array((moved.data, moved.indices, starts), shape=(cells.shape[0], len(label_names)))
    trained, used = set(label_names), np.diff(cells.indptr) > 0
    others = [i for i, name in enumerate(names) if name not in trained and used[i]]
    return Aligned(sp.csr_array(ordered), sp.csr_array(cells[:, others]), [names[i] for i in others])


def measure_ranked(
    logits: Ranked,
    aligned: Aligned,
    *,
    cardinality: CardinalityRange,
    calibration: Calibration,
    train_counts: np.ndarray,
    train_rows: int,
    propensity: tuple[float, float],
) -> dict[str, float | int | None]:
    """Do what :func:`measure` and :func:`measure_probs` do, of the best logits of each row and sparse targets.

    The keys are those of :func:`manyhot.toolkit.choose.ranked_rows.metrics_of_sets`.
    """
    preds, targets, counts = logits.decided(cardinality), aligned.targets, train_counts
    if others := len(aligned.unseen_names):
        # A label that training did not see is missed.
        preds = sp.csr_array(sp.hstack([preds, sp.csr_array((len(logits), others), dtype=bool)]))
        targets = sp.csr_array(sp.hstack([targets, aligned.unseen]))
        counts = np.concatenate([train_counts, np.zeros(others)])
    metrics = metrics_of_sets(
        preds, targets, first_of(logits), train_counts=counts, train_rows=train_rows, propensity=propensity
    )
    scores, label, truth = logits.cells.data, logits.cells.indices, logits.has(aligned.targets)
    probs = probs_of_cells(calibration, scores, label)
    return metrics | {"labels": len(train_counts)} | dict(measured_of_cells(scores, truth, probs))


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
    preds, logits, targets, counts = with_unseen(preds, logits, aligned, train_counts)
    if multiclass:
        metrics = multiclass_metrics(logits, targets.argmax(1), train_counts=counts)
        return metrics | {"classes": len(train_counts)}
    metrics = multilabel_metrics(preds, targets, logits, train_counts=counts)
    return metrics | {"labels": len(train_counts)}


def with_unseen(
    preds: np.ndarray, logits: np.ndarray, aligned: Aligned, train_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return all four with a column for each label that training did not see: missed, and seen 0 times."""
    if not aligned.unseen_names:
        return preds, logits, aligned.targets, train_counts
    missed = np.zeros(aligned.unseen.shape, dtype=preds.dtype)
    lowest = np.broadcast_to(logits.min(1, keepdims=True) - 1, missed.shape)
    return (
        np.hstack([preds, missed]),
        np.hstack([logits, lowest]),
        np.hstack([aligned.targets, aligned.unseen]),
        np.concatenate([train_counts, np.zeros(len(aligned.unseen_names))]),
    )


def measure_probs(logits: np.ndarray, aligned: Aligned, calibration: Calibration) -> dict[str, float | None]:
    """Measure the probabilities of the labels that training saw.

    :func:`manyhot.toolkit.choose.calibrate.beside_sigmoid` says how. None where no row has a class that training saw.
    """
    truth: Any = aligned.targets
    if calibration.classes:
        # A row of an unseen class has no class to be probable.
        known = truth.any(1)
        if not known.any():
            return {score + end: None for end in ("", "_uncalibrated") for score in SCORES}
        logits, truth = logits[known], truth[known].argmax(1)
    return dict(beside_sigmoid(logits, truth, calibration.probs(logits))[0])
