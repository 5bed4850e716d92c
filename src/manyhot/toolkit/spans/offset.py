"""One offset for all scores, by the F1 of rows held out: what a threshold would be, found and added to the bias."""

from collections.abc import Sequence

import numpy as np

# Spans with lower scores are no candidates.
LOWEST = -10.0
# Of thresholds that are about as good, the one nearest 0 is taken.
ABOUT = 0.001


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
    ranked, hits = scores[order], np.cumsum(right[order])
    if not len(ranked) or not hits[-1]:
        return 0.0
    number = np.arange(1, len(ranked) + 1)
    f1 = 2 * hits / (number + gold)
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


def judged(candidates: Sequence[Sequence[tuple]], gold: Sequence[set[tuple]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the score of each candidate of each row, and whether it is gold; (start, end, type, score) each."""
    scores = [span[3] for row in candidates for span in row]
    right = [tuple(span[:3]) in true for row, true in zip(candidates, gold, strict=True) for span in row]
    return np.array(scores, dtype=np.float64), np.array(right, dtype=bool)
