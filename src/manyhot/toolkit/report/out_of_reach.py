"""Labels and label sets that a run can never predict: its last layer has fewer inputs than labels."""

from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from manyhot.reach import reachable_classes, reachable_sets
from manyhot.toolkit.runs.predict import Run

MOST_SETS, FEWEST_SETS = 2000, 20
# Labels times inputs^2 of all sets that are looked at: about a minute of linear programmes. A number and not a clock,
# so that a training and its repetition say the same.
WORK = 2e9
NAMED = 20


def never_predicted(run: Run, targets: sp.csr_array) -> list[dict[str, Any]]:
    """Warn of what no row can be given, whatever it says: sentences, each with the labels it is of; none where all is.

    Args:
        run: the run; of a model that ends in `weight` (inputs, labels) and `bias`, with inputs >= 0 behind a ReLU.
        targets: of training rows; their distinct label sets are looked at, the most frequent first.
    """
    # A row with votes is not bound by the last layer; of very many labels no linear programme ends.
    if run.neighbours is not None or run.keeps_best:
        return []
    arrays = run.model.arrays()
    inputs, labels = arrays["weight"].shape
    if inputs >= labels:
        return []
    weight, bias = arrays["weight"].T, arrays["bias"]
    nonnegative = "hidden_bias" in arrays
    multiclass = run.task == "multiclass"
    what = "classes" if multiclass else "labels"
    why = f"its last layer has {inputs:,} input{'s' if inputs > 1 else ''} for {labels:,} {what}"
    found: list[dict[str, Any]] = []
    lost = _labels(run, weight, bias, nonnegative)
    if len(lost):
        number = f"{len(lost):,} {what}" if len(lost) > 1 else "1 class" if multiclass else "1 label"
        names = [run.label_names[i] for i in lost]
        text = f"{number} that this model can never predict, whatever the row: {why}."
        found.append({"text": text, "labels": names[:NAMED], "more": max(len(names) - NAMED, 0)})
    if multiclass:
        return found
    most = int(np.clip(WORK / (labels * inputs**2), FEWEST_SETS, MOST_SETS))
    sets, rows, distinct = _frequent_sets(targets, labels, most)
    out = _sets(run, weight, bias, nonnegative, sets)
    if len(out):
        first = int(out[0])
        text = (
            f"{len(out):,} of the {len(sets):,} {'most frequent ' if len(sets) < distinct else ''}label sets "
            f"of training rows that this model can never predict, whatever the row: {why}. The most frequent of them "
            f"has {rows[first]:,} training row{'s' if rows[first] > 1 else ''}:"
        )
        names = [run.label_names[i] for i in np.flatnonzero(sets[first])]
        found.append({"text": text, "labels": names[:NAMED], "more": max(len(names) - NAMED, 0)})
    return found


def _labels(run: Run, weight: np.ndarray, bias: np.ndarray, nonnegative: bool) -> np.ndarray:
    """Return labels that are above 0 for no input and, where every row gets a label, the best one for none either."""
    above = (bias > 0) | ((weight > 0) if nonnegative else (weight != 0)).any(1)
    if run.task != "multiclass" and (above.all() or run.cardinality[0] == 0):
        return np.flatnonzero(~above)
    best = reachable_classes(weight, bias, nonnegative=nonnegative).status != "no"
    return np.flatnonzero(~(best if run.task == "multiclass" else best | above))


def _sets(run: Run, weight: np.ndarray, bias: np.ndarray, nonnegative: bool, sets: np.ndarray) -> np.ndarray:
    """Return which label sets no input gets: neither as the labels above 0 nor, filled up or cut, as the best k."""
    out = np.flatnonzero(reachable_sets(weight, sets, bias=bias, nonnegative=nonnegative).status == "no")
    by_rank = out[np.isin(sets[out].sum(1), tuple(run.cardinality))]
    if len(by_rank):
        ranked = reachable_sets(weight, sets[by_rank], bias=bias, nonnegative=nonnegative, top_k=True).status
        out = np.setdiff1d(out, by_rank[ranked != "no"])
    return out


def _frequent_sets(targets: sp.csr_array, labels: int, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the most frequent label sets, (sets, labels) boolean, how many rows have each, and how many sets exist."""
    rows: dict[tuple[int, ...], int] = {}
    indices: Any = targets.indices
    for start, end in pairwise(np.asarray(targets.indptr).tolist()):
        key = tuple(sorted(indices[start:end].tolist()))
        rows[key] = rows.get(key, 0) + 1
    chosen = sorted(rows, key=lambda key: (-rows[key], key))[:most]
    sets = np.zeros((len(chosen), labels), dtype=bool)
    for place, key in enumerate(chosen):
        sets[place, list(key)] = True
    return sets, np.array([rows[key] for key in chosen]), len(rows)
