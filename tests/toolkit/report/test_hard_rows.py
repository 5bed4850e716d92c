"""Rows that most methods get wrong, against counting by hand."""

import json

import numpy as np
import pytest
import scipy.sparse as sp

from manyhot.toolkit.read.columns import Columns
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.report import findings
from manyhot.toolkit.report.hard_rows import hard_rows
from manyhot.toolkit.runs.evaluate import Aligned

NAMES = ["a", "b", "c", "d", "e"]


def of(preds, known, unknown=None, unknown_names=()):
    known = np.asarray(known, dtype=bool)
    unknown = np.zeros((len(known), 0), dtype=bool) if unknown is None else unknown
    examples = Examples("t.csv", [f"row {i}" for i in range(len(known))], None, sp.csr_array(known), NAMES)
    aligned = Aligned(known, unknown, list(unknown_names))
    return hard_rows([np.asarray(p, dtype=bool) for p in preds], examples, aligned, NAMES, Columns(text=("text",)))


@pytest.mark.parametrize("cells", [findings.BLOCK_CELLS, 20])
def test_rows_are_ordered_by_their_mean_f1_and_labels_counted(monkeypatch, cells):
    monkeypatch.setattr(findings, "BLOCK_CELLS", cells)
    chance = np.random.default_rng(0)
    known = chance.random((80, 5)) < 0.3
    preds = [known ^ (chance.random((80, 5)) < p) for p in (0.1, 0.2, 0.6)]
    f1, wrong = [], []
    for row in range(80):
        truth = set(np.flatnonzero(known[row]))
        sets = [set(np.flatnonzero(p[row])) for p in preds]
        f1.append(np.mean([2 * len(truth & s) / (len(truth) + len(s)) if truth | s else 1.0 for s in sets]))
        wrong.append(sum(len(truth ^ s) for s in sets))
    found = of(preds, known)
    want = sorted((row for row in range(80) if wrong[row]), key=lambda row: (round(f1[row], 9), -wrong[row], row))
    assert [row["row"] - 1 for row in found] == want[: findings.WORST]
    assert len(want) > findings.WORST
    for row in found:
        i = row["row"] - 1
        assert row["text"] == f"row {i}"
        assert row["f1"] == pytest.approx(f1[i], abs=1e-4)
        for which, true in (("true", True), ("others", False)):
            counted = {NAMES[j]: int(sum(p[i, j] for p in preds)) for j in range(5) if known[i, j] == true}
            shown = {label["name"]: label["methods"] for label in row[which]}
            assert shown == {name: count for name, count in counted.items() if true or count}
            times = [label["methods"] for label in row[which]]
            assert times == sorted(times, reverse=True)
    json.dumps(found)


def test_rows_that_all_methods_get_right_are_not_shown():
    known = np.eye(5, dtype=bool)
    assert of([known, known], known) == []
    other = known.copy()
    other[2, 4] = True
    assert [row["row"] for row in of([known, other], known)] == [3]


def test_labels_that_training_did_not_know_are_true_and_found_by_none():
    known, unknown = np.zeros((2, 5), dtype=bool), np.array([[True], [False]])
    (row,) = of([known], known, unknown, ["new"])
    assert (row["row"], row["f1"], row["true"]) == (1, 0.0, [{"name": "new", "methods": 0}])
