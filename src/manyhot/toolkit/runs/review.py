r"""Rows worth a look: those whose label set is expected to be furthest from the truth.

With p the calibrated probabilities and Y the set that is predicted, labels taken as independent, the expected loss is

.. math::
    1 - \frac{2 \sum_{i \in Y} p_i}{|Y| + \sum_i p_i}

the F1 of the set with the true numbers in place of their expectations; 0 where nothing is predicted and nothing
expected. It is of the whole set: a row of one doubtful label among five sure ones is surer than a row of one doubtful
label alone. `make bench-review` measures it beside the number of wrong labels that are expected, and beside the one
label that is least certain.
"""

import heapq
from collections.abc import Iterator
from typing import Any

import numpy as np

from manyhot.decisions import decide
from manyhot.toolkit.runs.predict import Run


def expected_loss(probs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return 1 minus the F1 that is expected of each row's label set, (rows,) float64 in [0, 1].

    Args:
        probs: (rows, labels), calibrated.
        chosen: (rows, labels), above 0 where a label is predicted.
    """
    given = chosen > 0
    right = np.where(given, probs, 0).sum(1, dtype=np.float64)
    sizes = given.sum(1) + probs.sum(1, dtype=np.float64)
    return np.where(sizes > 0, 1 - 2 * right / np.where(sizes > 0, sizes, 1), 0.0)


class Review:
    """The N rows with the highest expected loss of all that were seen, in memory that grows with N alone."""

    def __init__(self, run: Run, number: int) -> None:
        self.run, self.number, self._seen = run, number, 0
        self._kept: list[tuple[float, int, dict[str, Any]]] = []

    def look(self, texts: list[str] | None, logits: np.ndarray) -> None:
        """Look at the next rows of the file."""
        low, high = self.run.cardinality
        probs = self.run.calibration.probs(logits)
        losses = expected_loss(probs, decide(logits, min_labels=low, max_labels=high))
        best = np.argsort(-losses, kind="stable")[: self.number]
        sets = self.run.label_sets(logits[best])
        for i, labels in zip(best.tolist(), sets, strict=True):
            row = self._seen + i
            key = (float(losses[i]), -row)
            if len(self._kept) == self.number and key <= self._kept[0][:2]:
                break
            said: dict[str, Any] = {"row": row + 1} | ({} if texts is None else {"text": texts[i]})
            said["labels"] = [label.name for label in labels]
            said["probs"] = {
                self.run.label_names[j]: round(float(probs[i, j]), 4) for j in np.argsort(-probs[i], kind="stable")[:10]
            }
            said["expected_loss"] = round(float(losses[i]), 4)
            (heapq.heappush if len(self._kept) < self.number else heapq.heapreplace)(self._kept, (*key, said))
        self._seen += len(logits)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows, the highest loss first: number from 1, text, labels, the ten best probabilities."""
        for _, _, said in sorted(self._kept, reverse=True):
            yield said
