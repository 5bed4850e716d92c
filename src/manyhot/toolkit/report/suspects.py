"""The labels of a run's training file that look wrong or missing, of rows held out: counts, and the worst of them."""

from typing import Any, NamedTuple

import numpy as np

from manyhot.toolkit.choose.label_errors import Limits, Suspects, counted_by_label, limits_of, suspects
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.report.findings import blocks, excerpt_of
from manyhot.toolkit.runs.predict import Run

# Suspects shown of either kind, missing and wrong; and labels that have most.
SHOWN, SHOWN_LABELS = 10, 10


class Suspected(NamedTuple):
    """The probabilities from which cells are suspects, and what a report says of these."""

    limits: Limits
    found: dict[str, Any]


def suspected(
    run: Run, examples: Examples, targets: np.ndarray, logits: np.ndarray, *, with_rows: bool
) -> Suspected | None:
    """Look for label errors among rows held out; None of classes, which exclude each other.

    Args:
        run: whose calibration is taken.
        examples: the rows.
        targets: (rows, labels), bool, or int8 with -1 where nobody knows.
        logits: (rows, labels), of models that have not seen the rows.
        with_rows: False leaves the counts alone.
    """
    if run.task == "multiclass":
        return None
    probs = np.empty(logits.shape, dtype=np.float32)
    for rows in blocks(logits.shape):
        probs[rows] = run.calibration.probs(logits[rows])
    limits = limits_of(probs, targets)
    cells = suspects(probs, targets, limits)
    missing, wrong = cells.of(False), cells.of(True)
    worst = Suspects(*(np.concatenate([a[:SHOWN], b[:SHOWN]]) for a, b in zip(missing, wrong, strict=True)))
    shown = examples.taken(worst.rows)
    places = worst.rows if shown.places is None else shown.places
    found = {
        "file": examples.source,
        "rows": len(logits),
        "missing": len(missing.rows),
        "wrong": len(wrong.rows),
        "labels": counted_by_label(cells, targets, run.label_names)[:SHOWN_LABELS],
        "worst": [
            {
                "row": int(places[i]) + 1,
                "text": excerpt_of(shown, i, run.columns),
                "name": run.label_names[worst.labels[i]],
                "looks": "wrong" if worst.given[i] else "missing",
                "prob": round(float(worst.probs[i]), 4),
            }
            for i in range(len(worst.rows))
        ]
        if with_rows
        else None,
    }
    return Suspected(limits, found)


def rows_shown(findings: dict[str, Any]) -> int:
    """Count the rows of which a report has an excerpt."""
    worst = {(findings["measured"]["file"], row["row"]) for row in findings["worst"] or ()}
    of = findings.get("suspects") or {}
    return len(worst | {(of["file"], cell["row"]) for cell in of.get("worst") or ()})
