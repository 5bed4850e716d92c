"""Compare methods over many data sets: ranks and what differences between them mean.

Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7, 2006: methods are ranked on each set,
the Friedman test asks whether their average ranks differ at all, and two methods differ where their average ranks are
a critical difference (Nemenyi) apart.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

Interval = Sequence[float]
OUTCOMES = ("win", "tie", "loss")


def ranks_of(scores: np.ndarray) -> np.ndarray:
    """Rank the methods on each set: 1 is the largest score, ties share their ranks, NaN (no result) comes last."""
    return stats.rankdata(np.where(np.isnan(scores), np.inf, -scores), method="average", axis=1)


def friedman(scores: np.ndarray) -> tuple[float, float]:
    """Test whether all methods have the same average rank; the statistic, corrected for ties, and its p-value."""
    ranks = ranks_of(scores)
    if np.ptp(ranks, axis=1).max() == 0:  # all tied on every set: 0/0 in the formula
        return 0.0, 1.0
    found: Any = stats.friedmanchisquare(*ranks.T)
    return float(found.statistic), float(found.pvalue)


def critical_difference(methods: int, sets: int, alpha: float = 0.05) -> float:
    """Return how far apart the average ranks of two methods must be to differ, by the two-tailed Nemenyi test."""
    q = stats.studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * sets)))


def alike(average: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Return the largest runs of methods that do not differ, as (first, last) of average ranks in ascending order."""
    runs: list[tuple[int, int]] = []
    for first, low in enumerate(average):
        last = max(i for i, high in enumerate(average) if high - low <= difference)
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs


def outcome(interval: Interval) -> str:
    """Say what the interval of a difference means: a win above 0, a loss below, else a tie."""
    low, high = interval
    return "win" if low > 0 else "loss" if high < 0 else "tie"


def tally(intervals: Iterable[Interval]) -> tuple[int, int, int]:
    """Count wins, ties and losses."""
    counts = Counter(map(outcome, intervals))
    wins, ties, losses = (counts[name] for name in OUTCOMES)
    return wins, ties, losses


def p_value(value: float, interval: Interval, level: float = 0.95) -> float:
    """Return the two-sided p-value of a difference whose interval is that of a normal error, on the side of 0."""
    low, high = interval
    side = value - low if value > 0 else high - value
    if side <= 0:
        return 0.0 if value else 1.0
    return float(2 * stats.norm.sf(abs(value) / side * stats.norm.ppf((1 + level) / 2)))


def holm(ps: Sequence[float], alpha: float = 0.05) -> list[bool]:
    """Say which hypotheses Holm rejects: the smallest p at alpha / n, the next at alpha / (n - 1), until one fails."""
    rejected, going = [False] * len(ps), True
    for place, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        going = going and ps[i] <= alpha / (len(ps) - place)
        rejected[i] = going
    return rejected


def mean_difference(values: Sequence[float], intervals: Sequence[Interval]) -> tuple[float, tuple[float, float]]:
    """Average differences on separate test sets, and combine their intervals as those of independent errors.

    Each side of the mean's interval is the root of the summed squares of the sides, over their number.
    """
    value, n = float(np.mean(values)), len(values)
    sides = np.asarray(intervals, dtype=float) - np.asarray(values, dtype=float)[:, None]
    low, high = np.sqrt((sides**2).sum(0)) / n
    return value, (value - float(low), value + float(high))
