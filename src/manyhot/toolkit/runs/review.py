r"""Rows worth a look: those whose label set is expected to be furthest from the truth.

With p the calibrated probabilities and Y the set that is predicted, labels taken as independent, the expected loss is

.. math::
    1 - \frac{2 \sum_{i \in Y} p_i}{|Y| + \sum_i p_i}

the F1 of the set with the true numbers in place of their expectations; 0 where nothing is predicted and nothing
expected. It is of the whole set: a row of one doubtful label among five sure ones is surer than a row of one doubtful
label alone. `make bench-review` measures it beside the number of wrong labels that are expected, beside the one label
that is least certain, and beside rows at random.
"""

import heapq
import json
from pathlib import Path
from typing import Any

import numpy as np

from manyhot.decisions import decide
from manyhot.toolkit.disk.run_folder import check_output, whole_file
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.runs.predict import Run

# Labels of a row whose probabilities are written.
NAMED = 10
OUTPUTS = (".jsonl",)


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


def review_path(out: Path) -> Path:
    """Return where rows to label next are written beside the predictions."""
    return out.with_name(f"{out.stem}-review.jsonl")


class Review:
    """The N rows with the highest expected loss of all that were seen, each text once, in memory of N rows."""

    def __init__(self, run: Run, number: int) -> None:
        self.run, self.number, self._seen = run, number, 0
        self._kept: list[tuple[float, int, dict[str, Any]]] = []
        self._texts: set[str] = set()

    def look(self, examples: Examples, logits: np.ndarray, unknown: np.ndarray | None = None) -> None:
        """Look at the next rows of the file; how many of their words are unknown shows in their probabilities."""
        low, high = self.run.cardinality
        probs = self.run.calibration.probs(logits)
        losses = expected_loss(probs, decide(logits, min_labels=low, max_labels=high))
        for i in np.argsort(-losses, kind="stable").tolist():
            key = (float(losses[i]), -(self._seen + i))
            if len(self._kept) == self.number and key <= self._kept[0][:2]:
                break
            text = None if examples.texts is None else examples.texts[i]
            if text is not None and text in self._texts:
                continue
            said = self._said(self._seen + i, text, logits[i], probs[i], key[0])
            if len(self._kept) < self.number:
                heapq.heappush(self._kept, (*key, said))
            else:
                self._texts.discard(heapq.heapreplace(self._kept, (*key, said))[2].get("text", ""))
            if text is not None:
                self._texts.add(text)
        self._seen += len(logits)

    def _said(self, row: int, text: str | None, logits: np.ndarray, probs: np.ndarray, loss: float) -> dict[str, Any]:
        labels = [label.name for label in self.run.label_sets(logits[None])[0]]
        best = np.argsort(-probs, kind="stable")[:NAMED].tolist()
        return {
            "row": row + 1,
            **({} if text is None else {"text": text}),
            "labels": labels,
            "probs": {self.run.label_names[i]: round(float(probs[i]), 4) for i in best},
            "expected_loss": round(loss, 4),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows, the highest loss first: number in the file from 1, text, labels, the best probabilities."""
        return [said for *_, said in sorted(self._kept, key=lambda kept: kept[:2], reverse=True)]

    def write(self, path: Path) -> None:
        """Write a row a line, as labelling tools read it; all of them or nothing.

        Raises:
            InputError: another suffix than .jsonl, or a folder that is not there.
            OSError: the disk is full or refuses.
        """
        check_output(path, OUTPUTS)
        with whole_file(path) as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows()).encode())
