r"""Label cells that look wrong: the probability of rows held out contradicts what the file says.

Each label is looked at by itself. With p the calibrated probability of rows that the model had not seen, this is
confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068) for two classes:

.. math::
    t^1_i = \text{mean of } p_i \text{ where label } i \text{ is given}, \qquad
    t^0_i = \text{mean of } p_i \text{ where it is not}

A cell looks *missing* where the label is not given and :math:`p_i \ge \max(t^1_i, 1/2)`, and *wrong* where it is given
and :math:`p_i \le \min(t^0_i, 1/2)`. The worst cell is the one that its probability contradicts most, of any label:
`make bench-audit` has rankings that take the thresholds off too, and they find fewer of the cells that were flipped.
"""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

# Cells of a block of rows that are looked at at once.
BLOCK_CELLS = 4_000_000


class Limits(NamedTuple):
    """The probability from which a missing label is suspected, and up to which a given one is; (labels,) each."""

    missing: np.ndarray
    wrong: np.ndarray


class Suspects(NamedTuple):
    """Cells that look wrong, worst first: positions of rows and labels, and the probability of the label there.

    Attributes:
        rows: (cells,), int64.
        labels: (cells,), int64.
        probs: (cells,), float32.
        given: (cells,), bool: the file has the label, which looks wrong; or has not, and it looks missing.
    """

    rows: np.ndarray
    labels: np.ndarray
    probs: np.ndarray
    given: np.ndarray

    def of(self, given: bool) -> "Suspects":
        """Return those that look wrong (True), or missing, in their order."""
        return self.taken(np.flatnonzero(self.given == given))

    def taken(self, cells: np.ndarray) -> "Suspects":
        """Return some cells, by their positions."""
        return Suspects(*(part[cells] for part in self))


def limits_of(probs: np.ndarray, targets: np.ndarray) -> Limits:
    """Find what is usual of rows with and of rows without each label.

    Args:
        probs: (rows, labels), of rows held out, in [0, 1].
        targets: (rows, labels), bool, or int8 with -1 where nobody knows.

    Returns:
        Both limits of each label. A label that no row has, or every row, is never suspected for lack of it, or
        of being too much: its limit is past 1, or below 0.
    """
    sums, counts = np.zeros((2, probs.shape[1])), np.zeros((2, probs.shape[1]))
    for rows in _blocks(probs.shape):
        p, y = probs[rows].astype(np.float64), targets[rows]
        for value, cells in enumerate((y == 0, y > 0)):
            sums[value] += np.where(cells, p, 0).sum(0)
            counts[value] += cells.sum(0)
    mean = sums / np.maximum(counts, 1)
    return Limits(
        missing=np.where(counts[1] > 0, np.maximum(mean[1], 0.5), np.inf),
        wrong=np.where(counts[0] > 0, np.minimum(mean[0], 0.5), -np.inf),
    )


def suspects(probs: np.ndarray, targets: np.ndarray, limits: Limits, most: int | None = None) -> Suspects:
    """Return the cells beyond the limits, worst first; ties in the order of rows and labels.

    Args:
        probs: (rows, labels), of rows held out.
        targets: (rows, labels), bool, or int8 with -1 where nobody knows; such a cell is no suspect.
        limits: what :func:`limits_of` returned, of these rows or of others.
        most: return this many of those that look missing and of those that look wrong at most.
    """
    found = []
    for rows in _blocks(probs.shape):
        p, y = probs[rows], targets[rows]
        row, label = np.nonzero(((y == 0) & (p >= limits.missing)) | ((y > 0) & (p <= limits.wrong)))
        found.append(Suspects(row + rows.start, label, p[row, label].astype(np.float32), y[row, label] > 0))
    cells = Suspects(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    against = np.where(cells.given, 1 - cells.probs, cells.probs)
    order = np.lexsort((cells.labels, cells.rows, -against))
    if most is not None:
        given = cells.given[order]
        order = order[np.sort(np.concatenate([np.flatnonzero(given)[:most], np.flatnonzero(~given)[:most]]))]
    return cells.taken(order)


def counted_by_label(cells: Suspects, targets: np.ndarray, label_names: list[str]) -> list[dict[str, Any]]:
    """Count the rows of each label with suspects, and its cells that look missing and wrong; the most first."""
    missing, wrong = (Counter(cells.of(given).labels.tolist()) for given in (False, True))
    rows = (targets > 0).sum(0)
    return [
        {"label": label_names[i], "rows": int(rows[i]), "missing": missing[i], "wrong": wrong[i]}
        for i in sorted(missing | wrong, key=lambda i: (-missing[i] - wrong[i], label_names[i]))
    ]


def _blocks(shape: tuple[int, ...]) -> list[slice]:
    step = max(BLOCK_CELLS // max(shape[1], 1), 1)
    return [slice(start, start + step) for start in range(0, max(shape[0], 1), step)]
