"""One offset for all scores, by the F1 of rows held out: what a threshold would be, found and added to the bias."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Spans with lower scores are no candidates.
LOWEST = -10.0
# Thresholds so near to the best F1 are as good: the one nearest 0 is taken.
ABOUT = 0.001
# Drawings of the rows held out.
RESAMPLES = 200


class Candidates(NamedTuple):
    """What is known of rows held out.

    Attributes:
        scores: of each candidate.
        right: whether it is a gold span.
        rows: in which row it is.
        gold: (rows,), the gold spans of each row.
    """

    scores: np.ndarray
    right: np.ndarray
    rows: np.ndarray
    gold: np.ndarray


def bagged_offset(found: Candidates, lowest: float = LOWEST) -> float:
    """Find what to add to the scores of candidates with which those above 0 have a high micro-F1 in other rows too.

    The best threshold of a few rows follows their chances: F1 is a step function of it, whose highest step is often a
    narrow one. So the rows are drawn anew, with replacement, many times, and the mean of the best offsets is taken
    (Breiman, Bagging predictors, 1996). Of many rows all drawings agree, and it is the best offset itself.
    Below `lowest` there are no candidates.
    """
    random = np.random.default_rng(0)
    order = np.argsort(-found.scores, kind="stable")
    scores, right, rows = found.scores[order], found.right[order], found.rows[order]
    offsets = []
    for _ in range(RESAMPLES):
        times = np.bincount(random.integers(len(found.gold), size=len(found.gold)), minlength=len(found.gold))
        drawn = times[rows] > 0
        number = times[rows[drawn]]
        offsets.append(_best(scores[drawn], right[drawn] * number, number, int(times @ found.gold), lowest))
    return float(np.mean(offsets))


def best_offset(scores: np.ndarray, right: np.ndarray, gold: int, lowest: float = LOWEST) -> float:
    """Find what to add to the scores of candidates so that those above 0 have the best micro-F1.

    Candidates are the spans that a decision keeps at the threshold `lowest`; as it goes by falling score, those that it
    keeps at a higher threshold are the ones of them above it. All thresholds between two scores are tried.

    Args:
        scores: of each candidate.
        right: whether it is a gold span.
        gold: how many of these there are.
        lowest: below which there are no candidates.

    Returns:
        The offset nearest 0 whose F1 is within ABOUT of the best; 0 where no candidate is right.
    """
    order = np.argsort(-scores, kind="stable")
    return _best(scores[order], right[order], np.ones(len(scores), dtype=np.int64), gold, lowest)


def _best(ranked: np.ndarray, right: np.ndarray, times: np.ndarray, gold: int, lowest: float) -> float:
    """Return the best offset of falling scores, each there so many times, and right so many times."""
    hits = np.cumsum(right)
    if not len(ranked) or not hits[-1]:
        return 0.0
    f1 = 2 * hits / (np.cumsum(times) + gold)
    # What is predicted with the first k is so for every threshold from the next score on up to the last of them.
    low = np.append(ranked[1:], lowest)
    possible = low < ranked
    thresholds = np.where((low <= 0) & (ranked > 0), 0.0, (low + ranked) / 2)
    good = possible & (f1 >= f1[possible].max() - ABOUT)
    return float(-thresholds[good][np.argmin(np.abs(thresholds[good]))])


def f1_at_zero(scores: np.ndarray, right: np.ndarray, gold: int) -> float:
    """Return the micro-F1 of the candidates above 0."""
    above = scores > 0
    predicted = int(above.sum())
    return float(2 * right[above].sum() / (predicted + gold)) if predicted + gold else 0.0


def judged(candidates: Sequence[Sequence[tuple]], gold: Sequence[set[tuple]]) -> Candidates:
    """Score and judge the candidates of each row, (start, end, type, score) each."""
    scores = [span[3] for row in candidates for span in row]
    right = [tuple(span[:3]) in true for row, true in zip(candidates, gold, strict=True) for span in row]
    rows = np.repeat(np.arange(len(candidates)), [len(row) for row in candidates])
    numbers = np.array([len(row) for row in gold], dtype=np.int64)
    return Candidates(np.array(scores, dtype=np.float64), np.array(right, dtype=bool), rows, numbers)
