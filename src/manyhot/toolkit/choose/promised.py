"""`--decision precision=P`: the threshold of each label at which held-out rows promise that precision, as offsets.

C and tau stay those with the best F1. A run predicts s > 0 whatever its decision is, so a threshold goes into the bias
of its label, and out of the calibration, whose probabilities stay as they are.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from manyhot.calibration import Calibration
from manyhot.labels import CardinalityRange
from manyhot.promises import PrecisionDecision, promise
from manyhot.toolkit.choose.cross_fit import Choice, fixed_offset, step_of

# The highest held-out logit of a label without a promise is moved so far below 0: float32 keeps its digits, and no
# new row comes up to it.
OUT_OF_REACH = 100.0


class Promised(NamedTuple):
    """A choice whose offset is one a label, the calibration of its logits, and what is promised of which label."""

    choice: Choice
    calibration: Calibration
    decision: PrecisionDecision

    def said(self, label_names: list[str]) -> dict[str, object]:
        """Return what a run keeps: the precision, the labels too rare for a promise, and others without one."""
        without, rare = ~np.isfinite(self.decision.offset), self.decision.too_rare
        return {
            "precision": self.decision.precision,
            "too_rare": [label_names[i] for i in np.flatnonzero(rare)],
            "never": [label_names[i] for i in np.flatnonzero(without & ~rare)],
        }


def with_promise(
    choice: Choice, calibration: Calibration, precision: float, max_labels: int, train_counts: np.ndarray
) -> Promised:
    """Put the threshold of each label in the place of one offset.

    Args:
        choice: what was chosen for the best F1.
        calibration: of its held-out logits.
        precision: in (0, 1).
        max_labels: the most that a row is given.
        train_counts: positives of each label in all training rows.
    """
    logits = choice.logits
    decision = promise(logits, choice.held.targets, calibration, precision, max_labels=max_labels)
    by = np.where(np.isfinite(decision.offset), decision.offset, -OUT_OF_REACH - logits.max(0)).astype(np.float32)
    offset = np.float32(choice.step.offset) + by
    step = step_of(
        choice.held,
        replace(choice.step, offset=offset),
        fixed_offset(choice.step.tau, offset),
        CardinalityRange(0, max_labels),
        train_counts,
    )
    moved = calibration._replace(offset=calibration.offset - by / calibration.temperature)
    return Promised(choice._replace(step=step), moved, decision)
