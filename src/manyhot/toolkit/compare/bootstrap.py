"""How much a measured number would move with other rows: resamples of the rows, the same ones for every method.

A resample takes as many rows as there are, with replacement. All that F1 needs of a row is which labels it has, which
are predicted and which of these are right; so a resample is a row of counts, and its sums are one sparse product.
(Efron and Tibshirani 1993, chapter 13; the pairing: Koehn 2004, "Statistical significance tests".)

Macro-F1 of a resample is biased downwards: a label of two rows is missing in one resample of eight, and its F1 is 0
there. So an interval is the measured number plus the quantiles of how resamples lie around their own mean.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from manyhot.labels import label_groups

RESAMPLES = 2000
LEVEL = 0.95
# A difference of sums that is smaller is none.
NOTHING = 1e-12
# Weights of so many cells are held at a time.
CELLS = 4_000_000
METRICS = ("micro_f1", "macro_f1", "samples_f1", "exact_match", "rare_f1")


@dataclass(frozen=True)
class Counts:
    """What resampling needs to know of a prediction: sums over the units that are drawn, rows or groups of rows.

    Attributes:
        hits, predicted, true: (units, labels), sparse.
        by_row: (units, 3), sums of the F1 of rows, of exact matches, and of rows.
        known: (labels,), those of which some cell is known; macro-F1 is their mean.
    """

    hits: Any
    predicted: Any
    true: Any
    by_row: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, preds: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None) -> "Counts":
        """Count.

        Args:
            preds: (rows, labels), 0/1.
            targets: (rows, labels), 0/1, or -1 where nobody knows: such a cell counts neither way.
            groups: (rows,), the same for rows that are drawn together; None: every row by itself.
        """
        preds, targets = np.asarray(preds), np.asarray(targets)
        known: np.ndarray = targets >= 0
        measured: np.ndarray = np.any(known, axis=0)
        preds, targets = (preds > 0) & known, targets > 0
        hits = preds & targets
        sizes = preds.sum(1) + targets.sum(1)
        by_row = np.column_stack(
            [2 * hits.sum(1) / np.maximum(sizes, 1), (preds == targets).all(1), np.ones(len(preds))]
        )
        hit, predicted, true = (sp.csr_array(part, dtype=np.float32) for part in (hits, preds, targets))
        if groups is not None:
            _, group = np.unique(groups, return_inverse=True)
            together: Any = sp.csr_array((np.ones(len(group), np.float32), (group, np.arange(len(group)))))
            hit, predicted, true = (together @ part for part in (hit, predicted, true))
            by_row = together @ by_row
        return cls(hit, predicted, true, by_row, measured)

    def label_f1(self) -> np.ndarray:
        """Return the F1 of each label, (labels,); 0 of a label that is neither there nor predicted."""
        hits, predicted, true = (
            np.asarray(part.sum(axis=0)).ravel() for part in (self.hits, self.predicted, self.true)
        )
        return 2 * hits / np.maximum(predicted + true, 1)


def resampled(
    methods: Mapping[str, list[Counts]], train_counts: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, dict[str, np.ndarray]]:
    """Measure every method on the same resamples.

    Args:
        methods: the counts of each, one for each seed it was trained with; all have the same units.
        train_counts: (labels,), training rows of each label; they say which are rare.
        seed: of the resamples.
        resamples: how many.

    Returns:
        (resamples,) for each method and each of METRICS: the mean over its seeds; NaN for rare_f1 without rare labels.
    """
    rare = label_groups(train_counts)["rare"]
    units = next(iter(methods.values()))[0].by_row.shape[0]
    found: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for weights in _weights(units, resamples, seed):
        for name, seeds in methods.items():
            found[name].append(np.mean([_measured(counts, weights, rare) for counts in seeds], axis=0))
    return {name: dict(zip(METRICS, np.concatenate(parts).T, strict=True)) for name, parts in found.items()}


def interval(value: float | None, resamples: np.ndarray, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the interval around a measured number; None where there is none.

    Where resamples show no difference at all as often as an end of the interval is passed, those that lack the one row
    by which two methods differ, the interval has 0 in it: of the mean that they lie around the last digits are chance.
    """
    if value is None or np.isnan(resamples).any():
        return None
    tail = (1 - level) / 2
    ends = np.quantile(resamples - resamples.mean(), [tail, 1 - tail])
    low, high = (value + float(end) for end in ends)
    none = np.mean(np.abs(resamples) < NOTHING) >= tail
    return (min(low, 0.0), max(high, 0.0)) if none else (low, high)


def _weights(units: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield (some resamples, units): how often each unit is drawn."""
    rng = np.random.default_rng(seed)
    at_once = max(1, CELLS // units)
    for first in range(0, resamples, at_once):
        number = min(at_once, resamples - first)
        drawn = rng.integers(units, size=(number, units)) + units * np.arange(number)[:, None]
        yield np.bincount(drawn.ravel(), minlength=number * units).reshape(number, units).astype(np.float32)


def _measured(counts: Counts, weights: np.ndarray, rare: np.ndarray) -> np.ndarray:
    """Return (resamples, METRICS)."""
    hits, predicted, true = ((part.T @ weights.T).T for part in (counts.hits, counts.predicted, counts.true))
    sizes = predicted + true
    f1 = 2 * hits / np.maximum(sizes, 1)
    sums = weights.astype(np.float64) @ counts.by_row
    return np.column_stack(
        [
            2 * hits.sum(1, dtype=np.float64) / np.maximum(sizes.sum(1, dtype=np.float64), 1),
            f1[:, counts.known].mean(1, dtype=np.float64),
            sums[:, 0] / sums[:, 2],
            sums[:, 1] / sums[:, 2],
            f1[:, rare & counts.known].mean(1) if (rare & counts.known).any() else np.full(len(f1), np.nan),
        ]
    )
