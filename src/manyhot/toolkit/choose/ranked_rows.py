"""What held-out rows say where the best logits of each are all that is kept: tau, the offset, numbers, calibration.

A label that a row has not kept is not predicted for it: what is kept are many more than rows have labels. So label
sets, and all that is counted of them, are those of all logits, and rankings those of the first labels. Probabilities
are measured of the labels that are kept; of the others next to none is true.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from manyhot.calibration import Calibration, fit_listed_calibration
from manyhot.labels import CardinalityRange, label_groups, label_propensity
from manyhot.metrics_of_probs import calibration_metrics
from manyhot.offset import best_offset_among, mean_f1_of_counts, offset_of_rank
from manyhot.rankings import top_k_metrics
from manyhot.split import stratified_split
from manyhot.toolkit.choose.calibrate import SCORES, THIRDS, Calibrated, reliability
from manyhot.toolkit.models.model import Score
from manyhot.toolkit.models.ranked import Ranked

# How many first labels rankings are measured by.
KS = (1, 3, 5)


@dataclass(frozen=True)
class RankedHeld:
    """What is known of held-out rows, as of :class:`Held`.

    Attributes:
        logits: the best, without a prior.
        prior: (labels,), one unit of it.
        targets: (rows, labels), scipy CSR of bool.
        rows: positions; None where there is a file of them.
        groups: the same for rows that belong together, or None.
    """

    logits: Ranked
    prior: np.ndarray
    targets: Any
    rows: np.ndarray | None = None
    groups: np.ndarray | None = None

    def shifted(self, tau: float, offset: Any) -> Ranked:
        """Return the logits of a model with this prior and offset."""
        return self.logits.lower(np.float32(tau) * self.prior, float(offset))

    def mean_loss(self) -> float:
        """Return binary cross-entropy a row of the labels that are kept, before prior and offset."""
        s = self.logits.cells.data.astype(np.float64)
        return float((np.logaddexp(0, s) - s * self.logits.has(self.targets)).sum() / max(len(self.logits), 1))

    def best_offset(self, tau: float, cardinality: CardinalityRange) -> tuple[float, float]:
        """Return the best mean of micro- and macro-F1 that an offset gives, and this offset."""
        logits = self.shifted(tau, 0.0)
        ranks = logits.ranks()
        some = ranks < cardinality.max_labels
        true = np.asarray(self.targets.sum(0))
        return best_offset_among(
            ranks[some],
            logits.cells.indices[some],
            logits.cells.data[some],
            logits.has(self.targets)[some],
            cardinality.min_labels,
            true,
            np.ones(len(true), dtype=bool),
        )

    def right_offset(self, tau: float, cardinality: CardinalityRange) -> float:
        """Return the offset at which as many labels are predicted as there are."""
        logits = self.shifted(tau, 0.0)
        ranks = logits.ranks()
        free = (ranks >= cardinality.min_labels) & (ranks < cardinality.max_labels)
        return offset_of_rank(logits.cells.data[free], int(self.targets.nnz) - cardinality.min_labels * len(logits))

    def score(self, tau: float, offset: float, cardinality: CardinalityRange) -> float:
        """Return the mean of micro- and macro-F1."""
        return mean_f1_of_sets(self.shifted(tau, offset).decided(cardinality), self.targets)


def score_of_best(cardinality: CardinalityRange) -> Score:
    """Return the score that stops a network: that of :func:`score_by`, of the best logits of each row."""

    def score(logits: Ranked, targets: Any) -> float:
        held = RankedHeld(logits, np.zeros(logits.shape[1], dtype=np.float32), targets)
        return held.score(0.0, held.right_offset(0.0, cardinality), cardinality)

    return score


def mean_f1_of_sets(preds: Any, targets: Any) -> float:
    """Return the mean of micro- and macro-F1 of label sets, CSR of bool."""
    hits, sizes = np.asarray(preds.multiply(targets).sum(0)), np.asarray(preds.sum(0)) + np.asarray(targets.sum(0))
    return mean_f1_of_counts(hits, sizes, np.ones(len(sizes), dtype=bool))


def metrics_of_sets(
    preds: Any,
    targets: Any,
    first: np.ndarray,
    *,
    train_counts: np.ndarray,
    train_rows: int,
    propensity: tuple[float, float],
) -> dict[str, float | int | None]:
    """Measure label sets and first labels: keys and numbers of :func:`manyhot.multilabel_metrics`, but for LRAP.

    Args:
        preds: (rows, labels), CSR of bool.
        targets: the same.
        first: (rows, k), the best labels, best first.
        train_counts: (labels,), training rows of each label.
        train_rows: how many there were.
        propensity: A and B of :func:`manyhot.label_propensity`.

    Returns:
        Also nDCG at 1 and 3, and `psp_at_1`, `_3` and `_5`, by :func:`manyhot.label_propensity`.
    """
    rows, labels = targets.shape
    right = preds.multiply(targets)
    hits, given, true = (np.asarray(of.sum(0), dtype=np.int64) for of in (right, preds, targets))
    f1 = 2 * hits / np.maximum(given + true, 1)
    of_rows = [np.asarray(of.sum(1), dtype=np.int64) for of in (right, preds, targets)]
    groups = {
        f"{name}_f1": float(f1[members].mean()) if members.any() else None
        for name, members in label_groups(train_counts).items()
    }
    ranked: dict[str, Any] = {}
    ks = tuple(k for k in KS if k <= first.shape[1])
    if ks:
        a, b = propensity
        of_labels = label_propensity(train_counts, train_rows, a=a, b=b) if train_rows >= LEAST_ROWS else None
        ranked = dict(top_k_metrics(first, targets, ks=ks, propensity=of_labels))
        del ranked["rows"]
    return {
        "micro_f1": float(2 * hits.sum() / max(given.sum() + true.sum(), 1)),
        "macro_f1": float(f1.mean()),
        "samples_f1": float((2 * of_rows[0] / np.maximum(of_rows[1] + of_rows[2], 1)).mean()),
        **groups,
        "exact_match": float(((of_rows[0] == of_rows[1]) & (of_rows[0] == of_rows[2])).mean()),
        "hamming_loss": float((given.sum() + true.sum() - 2 * hits.sum()) / (rows * labels)),
        **ranked,
        "labels_per_row_predicted": float(of_rows[1].mean()),
        "labels_per_row_true": float(of_rows[2].mean()),
        "empty_rows": float((of_rows[1] == 0).mean()),
        "rows": rows,
        "labels": labels,
    }


# Of which propensities can be estimated.
LEAST_ROWS = 3


def first_of(ranked: Ranked) -> np.ndarray:
    """Return the first labels that rankings are measured by, as many as every row has kept."""
    return ranked.first(int(min(max(KS), np.diff(ranked.cells.indptr).min(initial=max(KS)))))


def calibrate_ranked(logits: Ranked, targets: Any, *, groups: np.ndarray | None = None, seed: int = 0) -> Calibrated:
    """Fit on the labels that held-out rows have kept, and measure each third by a calibration fitted on the others.

    As :func:`manyhot.toolkit.choose.calibrate.calibrate` does; there are no numbers of single labels.
    """
    scores, label, truth = logits.cells.data, logits.cells.indices, logits.has(targets)
    labels = logits.shape[1]
    part = stratified_split(targets, [1.0] * THIRDS, groups=groups, seed=seed)[logits.rows]
    probs = np.empty(len(scores))
    for p in np.unique(part):
        held = part == p
        others = held if held.all() else ~held
        fitted = fit_listed_calibration(scores[others], truth[others], label[others], labels)
        probs[held] = probs_of_cells(fitted, scores[held], label[held])
    calibration = fit_listed_calibration(scores, truth, label, labels)
    return Calibrated(calibration, measured_of_cells(scores, truth, probs), {}, reliability_of_cells(probs, truth))


def probs_of_cells(calibration: Calibration, scores: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the probability of each cell."""
    temperature, offset = calibration.temperature[label], calibration.offset[label]
    return calibration._replace(temperature=temperature, offset=offset).probs(scores.astype(np.float64))


def measured_of_cells(scores: np.ndarray, truth: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    """Measure probabilities of cells beside sigmoid of the logits, as :func:`beside_sigmoid` of `calibrate` does."""
    plain = 1 / (1 + np.exp(-np.clip(scores.astype(np.float64), -700, 700)))
    measured = {end: calibration_metrics(of[:, None], truth[:, None]) for end, of in (("", probs), (PLAIN, plain))}
    return {score + end: float(of[score]) for end, of in measured.items() for score in SCORES}


PLAIN = "_uncalibrated"


def reliability_of_cells(probs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count probabilities of cells as :func:`reliability` does."""
    return reliability(probs[:, None], truth[:, None])
