"""Numbers of rankings of which the first k are known: against loops, and against the metrics of all scores."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import manyhot
from manyhot import IndexTargets

ROWS, LABELS, MOST = 40, 30, 5


@pytest.fixture
def truth() -> np.ndarray:
    targets = np.random.default_rng(0).random((ROWS, LABELS)) < 0.1
    targets[3], targets[4] = False, True
    return targets


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(ROWS, LABELS))


def by_loops(best: np.ndarray, truth: np.ndarray, p: np.ndarray, k: int) -> tuple[float, float, float]:
    precision, ndcg, reached, ideal = 0.0, 0.0, 0.0, 0.0
    for row, labels in enumerate(best):
        true = {i for i in range(LABELS) if truth[row, i]}
        precision += sum(label in true for label in labels[:k]) / k
        got = sum(1 / math.log2(place + 2) for place, label in enumerate(labels[:k]) if label in true)
        most = sum(1 / math.log2(place + 2) for place in range(min(k, len(true))))
        ndcg += got / most if true else 0.0
        reached += sum(1 / p[label] for label in labels[:k] if label in true)
        ideal += sum(sorted((1 / p[label] for label in true), reverse=True)[:k])
    return precision / ROWS, ndcg / ROWS, float(reached / ideal)


def test_numbers_are_those_of_the_definitions(truth: np.ndarray, scores: np.ndarray) -> None:
    best, p = np.argsort(-scores, 1)[:, :MOST], manyhot.label_propensity(truth.sum(0), ROWS)
    lists = IndexTargets([np.flatnonzero(row).tolist() for row in truth])
    width = int(truth.sum(1).max())
    padded = torch.full((ROWS, width), -1)
    for i, row in enumerate(truth):
        padded[i, : row.sum()] = torch.from_numpy(np.flatnonzero(row))
    for targets in (truth, lists, IndexTargets(padded), sp.csr_array(truth), torch.from_numpy(truth)):
        got = manyhot.top_k_metrics(best, targets, propensity=p)
        for k in (1, 3, 5):
            names = [f"{name}_at_{k}" for name in ("precision", "ndcg", "psp")]
            assert [got[name] for name in names] == pytest.approx(by_loops(best, truth, p, k), rel=1e-12)
    everything: dict[str, Any] = manyhot.multilabel_metrics(manyhot.decide(scores), truth, scores)
    assert got["ndcg_at_5"] == pytest.approx(everything["ndcg_at_5"])
    assert got["precision_at_3"] == pytest.approx(everything["precision_at_3"])


def test_a_label_that_is_listed_twice_counts_once() -> None:
    best = torch.tensor([[0, 1, 2], [3, 0, 1]])
    once, twice = IndexTargets([[0, 2], [3]]), IndexTargets([[0, 2, 0], [3, 3]])
    propensity = np.linspace(0.2, 0.9, 4)
    found = manyhot.top_k_metrics(best, twice, ks=(1, 3), propensity=propensity)
    assert found == manyhot.top_k_metrics(best, once, ks=(1, 3), propensity=propensity)


def test_the_best_order_has_a_psp_of_1(truth: np.ndarray) -> None:
    p = manyhot.label_propensity(truth.sum(0), ROWS)
    best = np.argsort(-(truth / p), 1, kind="stable")[:, :MOST]
    got = manyhot.top_k_metrics(best, truth, propensity=p)
    assert [got[f"psp_at_{k}"] for k in (1, 3, 5)] == pytest.approx([1, 1, 1])
    nothing = manyhot.top_k_metrics([[0]], IndexTargets([[]]), ks=(1,), propensity=[0.5])
    assert nothing == {"precision_at_1": 0.0, "ndcg_at_1": 0.0, "psp_at_1": 0.0, "rows": 1}


def test_a_million_labels_take_no_rows_by_labels() -> None:
    layer = manyhot.LinearZLPRLoss(4, 1_000_000)
    _, labels = layer.top_k(torch.randn(3, 4), 5)
    targets = IndexTargets([row.tolist() for row in labels[:, :2]])
    assert manyhot.top_k_metrics(labels, targets)["precision_at_5"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("labels", "options", "match"),
    [
        ([[0, 1]], {"ks": (3,)}, r"labels must be ids of shape \(rows, at least 3\)"),
        ([[0.5, 1]], {"ks": (1,)}, "labels must be ids"),
        ([[0, 1]], {"ks": (0, 1)}, r"ks must be whole numbers of 1 or more; got \(0, 1\)"),
        ([[0, 1]], {"ks": ()}, r"ks must be whole numbers of 1 or more; got \(\)"),
        ([[-1, 0]], {"ks": (1,)}, "labels must be ids, which count from 0; got -1"),
        ([[0, 1], [1, 2]], {"ks": (1,)}, "as many rows, at least one; got 2 and 1"),
        ([[1, 1]], {"ks": (2,)}, "must be distinct"),
        ([[0, 1]], {"ks": (1,), "propensity": [0.5]}, "a number in .* for each label, at least 3"),
        ([[0, 1]], {"ks": (1,), "propensity": [0.5, 0.5, 0.0]}, r"a number in \(0, 1\]"),
    ],
)
def test_what_is_refused(labels: Any, options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        manyhot.top_k_metrics(labels, IndexTargets([[0, 2]]), **options)


def test_propensities_are_those_of_the_paper() -> None:
    # Of a label that every row has the propensity goes to 1; of one that none has it is the least.
    p = manyhot.label_propensity([0, 5, 5000], 5000)
    C = (math.log(5000) - 1) * 2.5**0.55
    assert p.tolist() == pytest.approx([1 / (1 + C * (n + 1.5) ** -0.55) for n in (0, 5, 5000)])
    assert (np.diff(p) > 0).all()
    with pytest.raises(ValueError, match="3 rows or more"):
        manyhot.label_propensity([1], 2)
