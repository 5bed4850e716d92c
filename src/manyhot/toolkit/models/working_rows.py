"""The rows that rare labels are fitted on: those that have one, those most like them, and a sample of all others.

What tells a rare label are its rows and those that resemble them. All others only hold its logits down, and so does a
sample of them, each row as heavy as those that it stands for: the sum over the sample is right in the mean. Labels of
one topic have most such rows in common, so these are a block. Topics are found as Parabel does (Prabhu et al. 2018,
"Parabel: Partitioned Label Trees for Extreme Classification"): the means of the labels' rows, in halves by 2-means,
again and again.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from manyhot.labels import label_counts
from manyhot.toolkit.models.features import DesignMatrix

# A label is rare that at most one in so many rows has.
RARE = 100
# Labels of a topic: with fewer a label has fewer rows of others, with more products are of more columns.
TOPIC = 32
# Rows of the sample; of fewer than LEAST training rows, all are fitted on.
SAMPLE, LEAST = 4_000, 16_000
# Rows without a label that are most like its own: so many for each that has it, and so many more.
ALIKE, MORE = 2, 16
# Rounds of 2-means.
ROUNDS = 10


class Working(NamedTuple):
    """Positions of rows, and how many rows each stands for, float32."""

    rows: np.ndarray
    weights: np.ndarray


def are_rare(X: DesignMatrix, targets: Any) -> np.ndarray:
    """Say which labels are fitted on working rows, (labels,)."""
    counts = label_counts(targets)
    return (counts > 0) & (RARE * counts <= X.shape[0]) & sp.issparse(X)


def means_of(X: DesignMatrix, targets: Any) -> Any:
    """Return the mean row of each label at length 1, (labels, features), scipy CSR."""
    means: Any = sp.csr_array(sp.csr_array(targets.T, dtype=X.dtype) @ X)
    length = np.sqrt(np.asarray(means.multiply(means).sum(1))).ravel()
    means.data /= np.repeat(np.maximum(length, 1e-12), np.diff(means.indptr)).astype(X.dtype)
    return means


def topics_of(means: Any, most: int) -> list[np.ndarray]:
    """Put rows of CSR of length 1 into groups of at most so many, as many in each half of a group; positions."""
    rng = np.random.default_rng(0)
    waiting, found = [np.arange(means.shape[0])], []
    while waiting:
        group = waiting.pop()
        if len(group) <= most:
            found.append(group)
            continue
        left = _halved(means[group], rng)
        waiting += [group[~left], group[left]]
    return found


def _halved(means: Any, rng: np.random.Generator) -> np.ndarray:
    """Say which rows are in the one half, (rows,)."""
    ends, left = means[np.sort(rng.choice(means.shape[0], 2, replace=False))].toarray(), None
    for _ in range(ROUNDS):
        order = np.argsort(-(means @ (ends[0] - ends[1])), kind="stable")
        before, left = left, np.zeros(len(order), dtype=bool)
        left[order[: len(order) // 2]] = True
        if before is not None and (left == before).all():
            break
        ends = np.stack([np.asarray(means[np.flatnonzero(half)].sum(0)).ravel() for half in (left, ~left)])
        ends /= np.maximum(np.linalg.norm(ends, axis=1, keepdims=True), 1e-12)
    assert left is not None
    return left


def working_rows(likeness: np.ndarray, targets: Any, number: int) -> Working | None:
    """Choose the rows that a block of labels is fitted on; None where they are more than half of all.

    Args:
        likeness: (rows, labels), how much a row is like the mean of those that have the label.
        targets: (rows, labels), scipy CSC of bool.
        number: of the block, by which the sample is drawn.
    """
    rows = len(likeness)
    kept = np.zeros(rows, dtype=bool)
    kept[targets.indices] = True
    for label, count in enumerate(np.diff(targets.indptr)):
        # Rows that have the label are among the most like.
        most = int(min((1 + ALIKE) * count + MORE, rows))
        kept[np.argpartition(-likeness[:, label], most - 1)[:most]] = True
    near, rest = np.flatnonzero(kept), np.flatnonzero(~kept)
    if len(near) + SAMPLE > rows // 2:
        return None
    some = np.sort(np.random.default_rng(number).choice(rest, SAMPLE, replace=False))
    weights = np.repeat(np.array([1.0, len(rest) / SAMPLE], dtype=np.float32), [len(near), SAMPLE])
    return Working(np.concatenate([near, some]), weights)
