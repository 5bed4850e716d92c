"""The rows of a comparison that most methods get wrong: there the data may be wrong, or no loss will help."""

from typing import Any

import numpy as np

from manyhot.toolkit.read.columns import Columns
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.report.findings import SHOWN_LABELS, WORST, blocks, excerpt_of
from manyhot.toolkit.runs.evaluate import Aligned


def hard_rows(
    preds: list[np.ndarray], examples: Examples, aligned: Aligned, label_names: list[str], columns: Columns
) -> list[dict[str, Any]]:
    """Show the rows with the lowest F1, which is the mean over methods; of equal ones those with more wrong labels.

    Args:
        preds: of each method, (rows, labels), bool.
        examples: the rows.
        aligned: their targets.
        label_names: of the columns of `preds`.
        columns: what the rows consist of.

    Returns:
        The number of each row in the file, an excerpt, and its labels, true or given by some method, with how many
        methods give them; JSON-able.
    """
    f1, wrong = np.zeros(examples.rows), np.zeros(examples.rows)
    for given in preds:
        for rows in blocks(given.shape):
            true, some = aligned.targets[rows] > 0, given[rows] & (aligned.targets[rows] >= 0)
            hits = (some & true).sum(1)
            both = some.sum(1) + true.sum(1) + aligned.unseen[rows].sum(1)
            f1[rows] += np.where(both == 0, 1.0, 2 * hits / np.maximum(both, 1)) / len(preds)
            wrong[rows] += both - 2 * hits
    order = np.lexsort((np.arange(examples.rows), -wrong, f1.round(9)))[:WORST]
    order = order[wrong[order] > 0]
    shown = examples.taken(order)
    places: Any = shown.places
    times = np.stack([given[order] for given in preds]).sum(0)

    def labels(i: int, *, true: bool) -> list[dict[str, Any]]:
        if true:
            found = np.flatnonzero(aligned.targets[order[i]] > 0).tolist()
        else:
            found = np.flatnonzero((aligned.targets[order[i]] == 0) & (times[i] > 0)).tolist()
        found.sort(key=lambda label: (-times[i, label], label))
        return [{"name": label_names[label], "methods": int(times[i, label])} for label in found[:SHOWN_LABELS]]

    def unseen(i: int) -> list[dict[str, Any]]:
        found = np.flatnonzero(aligned.unseen[order[i]])[:SHOWN_LABELS]
        return [{"name": aligned.unseen_names[label], "methods": 0} for label in found]

    return [
        {
            "row": int(places[i]) + 1,
            "text": excerpt_of(shown, i, columns),
            "f1": round(float(f1[order[i]]), 4),
            "true": labels(i, true=True) + unseen(i),
            "others": labels(i, true=False),
        }
        for i in range(len(order))
    ]
