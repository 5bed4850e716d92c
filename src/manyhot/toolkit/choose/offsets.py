"""Thresholds that people tune on held-out logits, one for all labels or one a label, as offsets: thresholds negated.

They are the rivals of `manyhot compare` at their best: each is the best one on the same rows, by the same score, that
ours are chosen by.
"""

import numpy as np

from manyhot.labels import CardinalityRange
from manyhot.offset import best_offset
from manyhot.toolkit.choose.cross_fit import Held


def choose_offset(held: Held, cardinality: CardinalityRange) -> tuple[float, float]:
    """Find the threshold for all labels with the best mean of micro- and macro-F1."""
    return 0.0, best_offset(held.logits, held.targets, cardinality)[1]


def choose_label_offsets(held: Held, cardinality: CardinalityRange) -> tuple[float, np.ndarray]:
    """Find the threshold of each label with the best F1 of that label; the common one for labels without a positive.

    Every threshold between two logits is tried: with the labels' rows sorted, F1 at the k-th is
    2 hits / (k + positives). The range of labels a row comes after it, as after every other rule. Unknown rows of a
    label come last and do not count.
    """
    known = held.targets >= 0
    logits, targets = np.where(known, held.logits, -np.inf), held.targets > 0
    order = np.argsort(-logits, axis=0, kind="stable")
    values = np.take_along_axis(logits, order, 0)
    hits = np.take_along_axis(targets, order, 0).cumsum(0)
    positives = targets.sum(0)
    place = np.take_along_axis(known, order, 0).cumsum(0)
    f1 = 2 * hits / np.maximum(place + positives, 1)
    # Between two equal logits there is no threshold.
    f1[:-1][values[:-1] == values[1:]] = -1
    last = f1.argmax(0)
    columns = np.arange(logits.shape[1])
    low = np.where(last + 1 < len(logits), values[np.minimum(last + 1, len(logits) - 1), columns], -np.inf)
    high = values[last, columns]
    # Where every row is above it, the threshold is a little below the lowest.
    threshold = np.where(np.isfinite(low), (high + low) / 2, high - 1)
    _, common = choose_offset(held, cardinality)
    return 0.0, np.where(positives > 0, -threshold, common).astype(np.float32)
