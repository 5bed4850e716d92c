"""The best logits of each row, beside sorting all of them."""

import numpy as np
import pytest
import scipy.sparse as sp

from manyhot import decide
from manyhot.labels import CardinalityRange
from manyhot.toolkit.models import ranked as module
from manyhot.toolkit.models.ranked import Best, Ranked


@pytest.fixture(autouse=True)
def rows_in_parts(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 7)


def logits_of(rows=20, labels=30, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, labels)).round(1).astype(np.float32)


def test_the_k_best_are_kept_and_zeros_among_them():
    logits = logits_of()
    logits[3] = 0.0
    ranked = Ranked.of(logits, 6)
    assert np.diff(ranked.cells.indptr).tolist() == [6] * 20
    for row in range(20):
        kept = np.sort(ranked[np.array([row])][0])[::-1]
        assert kept[:6].tolist() == np.sort(logits[row])[::-1][:6].tolist()
        assert np.isneginf(kept[6:]).all()
    assert ranked.shape == (20, 30)


def test_ranks_and_first_labels_are_those_of_a_stable_sort():
    logits = logits_of()
    ranked = Ranked.of(logits, 30)
    assert ranked.first(30).tolist() == np.argsort(-logits, axis=1, kind="stable").tolist()
    some = Ranked.of(logits, 9)
    values = np.take_along_axis(logits, some.first(9), 1)
    assert values.tolist() == np.sort(logits, 1)[:, ::-1][:, :9].tolist()


@pytest.mark.parametrize("cardinality", [(0, 30), (1, 3), (2, 2), (0, 0)])
def test_label_sets_are_those_of_decide(cardinality):
    logits = logits_of() - np.linspace(0, 4, 20, dtype=np.float32)[:, None]
    low, high = cardinality
    wanted = decide(logits, min_labels=low, max_labels=high)
    got = Ranked.of(logits, 30).decided(CardinalityRange(low, high))
    assert got.dtype == bool
    assert got.toarray().astype(int).tolist() == wanted.tolist()


def test_cells_that_are_true_and_logits_that_are_lower():
    logits = logits_of()
    ranked = Ranked.of(logits, 8)
    targets = sp.csr_array(np.random.default_rng(1).random(logits.shape) < 0.2)
    assert ranked.has(targets).tolist() == targets.toarray()[ranked.rows, ranked.cells.indices].tolist()
    by = np.arange(30, dtype=np.float64)
    moved = ranked.lower(by, 0.25)
    wanted = logits - by.astype(np.float32) + np.float32(0.25)
    assert moved.cells.data.tolist() == wanted[ranked.rows, ranked.cells.indices].tolist()


def test_blocks_of_labels_in_any_order_leave_the_best_of_both_ends_of_the_prior():
    logits, prior = logits_of(25, 40), np.random.default_rng(2).normal(size=40).astype(np.float32)
    best = Best(25, 10, prior, 2.0)
    order = np.random.default_rng(3).permutation(40)
    again, state = best, {}
    for columns in np.array_split(order, 6):
        again = Best(25, 10, prior, 2.0)
        if state:
            again.restore(state, "x")
        again.offer(columns, logits[:, columns])
        best.offer(columns, logits[:, columns])
        state = again.arrays("x")
    ranked = best.ranked()
    assert (again.ranked().cells != ranked.cells).nnz == 0
    assert ranked.cells.data.tolist() == logits[ranked.rows, ranked.cells.indices].tolist()
    dense = ranked[np.arange(25)]
    for strength in (0.0, 0.3, 1.0, 1.7, 2.0):
        shifted = logits - np.float32(strength) * prior
        share = strength / 2
        ends = [np.sort(logits - np.float32(tau) * prior, 1)[:, -5] for tau in (0.0, 2.0)]
        bound = (1 - share) * ends[0] + share * ends[1]
        lost = np.where(np.isneginf(dense), shifted, -np.inf).max(1)
        assert (lost <= bound + 1e-5).all()
