"""How methods stand beside each other on the same rows: metrics, intervals, differences, and which is best."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from manyhot.metrics import multilabel_metrics
from manyhot.toolkit.compare.bootstrap import METRICS, Counts, interval, resampled
from manyhot.toolkit.report.findings import score_histogram
from manyhot.toolkit.runs.evaluate import Aligned, with_unseen


class Decided(NamedTuple):
    """What a method gives for the rows that are measured: logits and predictions, bool, (rows, labels)."""

    logits: np.ndarray
    preds: np.ndarray


class Standings(NamedTuple):
    """Numbers of each method, by its name, and of each metric the best method of ours and of the rivals."""

    methods: dict[str, dict[str, Any]]
    best: dict[str, dict[str, str | None]]


def standings(
    methods: Mapping[str, list[Decided]],
    ours: set[str],
    default: str,
    aligned: Aligned,
    *,
    train_counts: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Standings:
    """Measure every method, its intervals, and its difference from the best of the other side.

    Args:
        methods: what each decided, once for each seed it was trained with; the numbers are means over seeds.
        ours: those that are compared with the best rival, and rivals with the best of them.
        default: the one that all others are compared with too.
        aligned: the truth of the same rows.
        train_counts: (labels,), training rows of each label that training knew.
        groups: (rows,), the same for rows that are drawn together.
        seed: of the resamples.
    """
    measured: dict[str, list[dict[str, Any]]] = {}
    counts: dict[str, list[Counts]] = {}
    counted = train_counts
    for name, seeds in methods.items():
        measured[name], counts[name] = [], []
        for logits, preds in seeds:
            preds, logits, targets, counted = with_unseen(preds, logits, aligned, train_counts)
            measured[name].append(multilabel_metrics(preds, targets, logits, train_counts=counted))
            counts[name].append(Counts.of(preds, targets, groups))
    means = {name: mean_over_seeds(parts) for name, parts in measured.items()}
    drawn = resampled(counts, counted, seed=seed) if counts else {}

    leading = leaders(means, ours, METRICS)
    numbers = {}
    for name in means:
        side = "rival" if name in ours else "ours"
        numbers[name] = {
            "metrics": means[name],
            "intervals": {metric: interval_of(means, drawn, name, metric) for metric in METRICS},
            "differences": {
                metric: difference(means, drawn, name, leading[metric][side], metric) for metric in METRICS
            },
            "against_default": None
            if name == default or default not in means
            else {metric: difference(means, drawn, name, default, metric) for metric in METRICS},
            "label_f1": np.mean([part.label_f1() for part in counts[name]], axis=0).round(6).tolist(),
            "cardinality": {
                "predicted": np.bincount(methods[name][0].preds.sum(1)).tolist(),
                "true": np.bincount(aligned.sizes()).tolist(),
            },
            "scores": score_histogram(methods[name][0].logits, aligned.targets),
            "by_seed": [{metric: part[metric] for metric in METRICS} for part in measured[name]],
        }
    return Standings(numbers, leading)


# The numbers of each method by metric, and those of every resample.
Means = Mapping[str, Mapping[str, Any]]
Drawn = Mapping[str, Mapping[str, np.ndarray]]


def leaders(means: Means, ours: set[str], metrics: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """Name the best method of ours, and of the rivals, for each metric."""

    def best(metric: str, among: set[str]) -> str | None:
        found = [name for name in means if name in among and means[name][metric] is not None]
        return max(found, key=lambda name: means[name][metric], default=None)

    return {metric: {"ours": best(metric, ours), "rival": best(metric, set(means) - ours)} for metric in metrics}


def difference(means: Means, drawn: Drawn, name: str, other: str | None, metric: str) -> dict[str, Any] | None:
    """Return by how much a method differs from another, with an interval; None where there is nothing to compare."""
    if other is None or means[name][metric] is None:
        return None
    value = means[name][metric] - means[other][metric]
    found = interval(value, drawn[name][metric] - drawn[other][metric])
    return None if found is None else {"than": other, "value": value, "interval": found}


def interval_of(means: Means, drawn: Drawn, name: str, metric: str) -> tuple[float, float] | None:
    """Return the interval of a metric, cut to what a fraction can be."""
    found = interval(means[name][metric], drawn[name][metric])
    return None if found is None else (max(found[0], 0.0), min(found[1], 1.0))


def mean_over_seeds(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over seeds of every metric; None stays None, and whole numbers stay whole."""
    return {
        key: value if value is None or isinstance(value, int) else float(np.mean([part[key] for part in parts]))
        for key, value in parts[0].items()
    }
