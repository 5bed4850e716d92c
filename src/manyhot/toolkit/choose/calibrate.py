"""The calibration of a run, fitted on held-out logits and measured on rows that it was not fitted on."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from manyhot.calibration import Calibration, fit_calibration
from manyhot.metrics_of_probs import calibration_metrics
from manyhot.split import stratified_split

# Two numbers a label need no more, and float64 copies of what a large run holds out would not fit.
MAX_CELLS = 20_000_000
THIRDS = 3
BINS = 10
SCORES = ("ece", "brier", "log_loss")


@dataclass(frozen=True)
class Calibrated:
    """A calibration fitted on all held-out rows, and how good it is on rows left out of a fit.

    Attributes:
        calibration: what the run uses.
        measured: as :func:`beside_sigmoid` returns it.
        by_label: the same names, (labels,) each.
        reliability: as :func:`reliability` returns it, of the same rows.
    """

    calibration: Calibration
    measured: dict[str, float]
    by_label: dict[str, np.ndarray]
    reliability: np.ndarray


def calibrate(
    logits: np.ndarray,
    targets: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    multiclass: bool = False,
    seed: int = 0,
) -> Calibrated:
    """Fit on held-out rows, and measure each third of them by a calibration fitted on the others.

    Args:
        logits: (rows, labels), of the decision: with prior and offset.
        targets: (rows, labels), bool, or int8 with -1 where nobody knows.
        groups: (rows,), the same for rows that are to be in one third.
        multiclass: each row has one class.
        seed: of the thirds, and of the rows that are taken where there are too many.
    """
    chosen = _rows(logits, seed)
    logits, targets, groups = logits[chosen], targets[chosen], None if groups is None else groups[chosen]
    truth: Any = targets.argmax(1) if multiclass else targets
    part = stratified_split(targets, [1.0] * THIRDS, groups=groups, seed=seed)
    probs = np.empty(logits.shape)
    for p in np.unique(part):
        held = part == p
        # Rows so few that all are in one part have nothing to be measured by but themselves.
        others = held if held.all() else ~held
        probs[held] = fit_calibration(logits[others], truth[others]).probs(logits[held])
    return Calibrated(fit_calibration(logits, truth), *beside_sigmoid(logits, truth, probs), reliability(probs, truth))


def calibration_of(logits: np.ndarray, targets: np.ndarray, *, seed: int = 0) -> Calibration:
    """Fit on held-out rows, as :func:`calibrate` does, and measure nothing."""
    chosen = _rows(logits, seed)
    return fit_calibration(logits[chosen], targets[chosen])


def _rows(logits: np.ndarray, seed: int) -> Any:
    """Choose the rows that a calibration is fitted on: all, or of very many some."""
    rows = min(len(logits), max(MAX_CELLS // logits.shape[1], THIRDS))
    if rows == len(logits):
        return slice(None)
    return np.sort(np.random.default_rng(seed).choice(len(logits), rows, replace=False))


def reliability(probs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count probabilities in ten equal steps from 0 to 1, and add them and the truth up: (3, 10), blocks of rows add.

    Args:
        probs: (rows, labels).
        truth: (rows, labels), bool, or int8 with -1 where nobody knows; or (rows,) class ids, where the most probable
            class of each row counts alone.
    """
    right = truth
    if truth.ndim == 1:
        right, probs = probs.argmax(1) == truth, probs.max(1)
    elif truth.dtype != bool:
        known = truth >= 0
        right, probs = truth[known] > 0, probs[known]
    place = np.minimum((probs * BINS).astype(np.int64), BINS - 1).ravel()
    weights = (None, probs.ravel(), right.ravel())
    return np.stack([np.bincount(place, weight, minlength=BINS).astype(np.float64) for weight in weights])


def beside_sigmoid(
    logits: np.ndarray, truth: np.ndarray, probs: np.ndarray
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Measure probabilities beside what people take for them: sigmoid of the logits, of classes softmax.

    Args:
        logits: (rows, labels).
        truth: (rows, labels), bool, or int8 with -1 where nobody knows; or (rows,) class ids.
        probs: (rows, labels).

    Returns:
        `ece`, `brier`, `log_loss`, and the same with `_uncalibrated`, as :func:`manyhot.calibration_metrics` has them;
        and the same of each label.
    """
    labels = logits.shape[1]
    plain = Calibration(np.ones(labels), np.zeros(labels), classes=truth.ndim == 1).probs(logits)
    overall: dict[str, float] = {}
    by_label: dict[str, np.ndarray] = {}
    for end, measured in (
        ("", calibration_metrics(probs, truth)),
        ("_uncalibrated", calibration_metrics(plain, truth)),
    ):
        for score in SCORES:
            overall[score + end], by_label[score + end] = measured[score], measured[f"label_{score}"]
    return overall, by_label
