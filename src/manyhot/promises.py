r"""A threshold for each label where held-out rows promise a precision.

With the k held-out rows that have the highest logit of a label, the precision that they promise is what was right among
them, drawn to what their calibrated probabilities expect:

.. math::
    \hat\pi(k) = \frac{\sum_{r \le k} t_r + \kappa \bar p_k}{k + \kappa}, \qquad
    \bar p_k = \frac1k \sum_{r \le k} p_r

so a label with few rows keeps to the calibration, in which labels share what they have in common
(:func:`manyhot.fit_calibration`), and one with many to what it was itself. The threshold lies below the last k at
which that is the precision at least with 95 % confidence,

.. math::
    \hat\pi(k) - z \sqrt{\hat\pi(k) (1 - \hat\pi(k)) / (k + \kappa)} \ge \pi, \qquad z = 1.64

The last k of many that reach a precision is one that was lucky, and models of folds are not quite the final one: with
z = 0 what was promised as 90 % was 87 % in the mean of six sets. `make bench-promises` has what test rows reach.
"""

from typing import Any, NamedTuple

import numpy as np

from manyhot.calibration import Calibration
from manyhot.decisions import decide_above

# kappa, the rows that the calibration counts as, and z. They were compared with 0 to 60 and 0 to 2.3 on parts of
# training files, where less confidence reaches less than was promised, and more predicts less.
CALIBRATION_ROWS, SURE = 20.0, 1.64


class PrecisionDecision(NamedTuple):
    """How logits become label sets of a promised precision: what :func:`fit_decision` reads off held-out rows.

    Attributes:
        offset: (labels,), added to the logits; -inf of a label without a promise, which is never predicted.
        min_labels: 0: a row that must have a label would have one without a promise.
        max_labels: the most that a row is given.
        precision: what was asked for.
        promised: (labels,), the least that held-out rows promise of each label; NaN without a promise.
        recall: (labels,), the share of the held-out rows with the label that is predicted.
        too_rare: (labels,), bool: labels of which so few rows have it that one wrong row among them is one too many.
    """

    offset: np.ndarray
    min_labels: int
    max_labels: int
    precision: float
    promised: np.ndarray
    recall: np.ndarray
    too_rare: np.ndarray

    def decide(self, logits: Any) -> Any:
        """Predict label sets: :func:`manyhot.decide` of logits (..., labels), a tensor or an array."""
        return decide_above(logits, self.offset, min_labels=self.min_labels, max_labels=self.max_labels)


def promise(
    logits: np.ndarray,
    targets: np.ndarray,
    calibration: Calibration,
    precision: float,
    *,
    max_labels: int,
) -> PrecisionDecision:
    """Find the threshold of each label.

    Args:
        logits: (rows, labels), of rows held out.
        targets: (rows, labels), bool, or int8 with -1 where nobody knows.
        calibration: of these logits.
        precision: in (0, 1).
        max_labels: the most that a row is given.
    """
    labels = logits.shape[1]
    offset, promised, recall = np.full(labels, -np.inf), np.full(labels, np.nan), np.zeros(labels)
    positives, probs = (targets > 0).sum(0), calibration.probs(logits)
    # With fewer, a single wrong row among as many is below the precision, and none is above it: neither says it.
    # A hair less than 1 is 1: 10 * (1 - .9) is .9999999999999998 in floats.
    too_rare = positives * (1 - precision) < 1 - 1e-9
    for label in np.flatnonzero(~too_rare):
        known = targets[:, label] >= 0
        scores, truth = logits[known, label], targets[known, label] > 0
        order = np.argsort(-scores, kind="stable")
        scores, hits = scores[order].astype(np.float64), truth[order].cumsum()
        k = np.arange(1, len(scores) + 1)
        expected = np.cumsum(probs[known, label][order], dtype=np.float64) / k
        said = (hits + CALIBRATION_ROWS * expected) / (k + CALIBRATION_ROWS)
        said -= SURE * np.sqrt(said * (1 - said) / (k + CALIBRATION_ROWS))
        # Between two equal logits there is no threshold.
        apart = np.append(scores[:-1] > scores[1:], True)
        last = np.flatnonzero((said >= precision) & apart)
        if not last.size:
            continue
        at = int(last[-1])
        below = scores[at + 1] if at + 1 < len(scores) else scores[at] - 2
        offset[label] = -(scores[at] + below) / 2
        promised[label], recall[label] = said[at], hits[at] / positives[label]
    return PrecisionDecision(offset, 0, max_labels, precision, promised, recall, too_rare)
