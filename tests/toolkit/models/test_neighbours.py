"""Nearest training rows and what their labels say, against loops over pairs of rows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from manyhot import label_prior
from manyhot.toolkit.models import neighbours as module
from manyhot.toolkit.models.neighbours import KS, Neighbours, affordable, of_length_1


def rows_of(rows, seed, features=12, labels=4):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, features)) * (rng.random((rows, features)) < 0.4)
    return X.astype(np.float32), rng.random((rows, labels)) < [0.5, 0.2, 0.1, 0.0]


def shares_by_loops(X, training, targets, k):
    """Sort all training rows of each row by similarity, the earlier first, and add up the weights of the first k."""
    prior, found = label_prior(targets), []
    for x in X.astype(np.float64):
        similar = [
            float(x @ r) / max(np.linalg.norm(x) * np.linalg.norm(r), 1e-30) for r in training.astype(np.float64)
        ]
        if max(similar) <= 0:
            found.append(prior)
            continue
        nearest = sorted(range(len(training)), key=lambda r: (-round(similar[r], 6), r))[:k]
        weights = {r: max(similar[r], 0) + 1e-6 for r in nearest}
        share = prior.copy()
        for label in range(targets.shape[1]):
            known = [r for r in nearest if targets[r, label] >= 0]
            if known:
                total = sum(weights[r] for r in known)
                share[label] = sum(weights[r] for r in known if targets[r, label] > 0) / total
        found.append(share)
    return np.array(found)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("unknown", [False, True])
def test_shares_are_those_of_loops_over_rows(kind, unknown):
    training, targets = rows_of(90, 0)
    X, _ = rows_of(300, 1)  # more than a block
    training[7] = training[3]
    X[5], X[6], training[8] = training[3], 0, 0
    if unknown:
        targets = targets.astype(np.int8)
        targets[np.random.default_rng(2).random(targets.shape) < 0.3] = -1
    of = sp.csr_array if kind == "sparse" else np.asarray
    found = Neighbours.of(of(training), targets).shares(of(X), (1, 5, 20))
    for k in (1, 5, 20):
        np.testing.assert_allclose(found[k], shares_by_loops(X, training, targets, k), atol=1e-5)
    np.testing.assert_array_equal(found[5][6], label_prior(targets))
    # Row 5 is training row 3, and row 7, its equal, comes after it.
    if not unknown:
        np.testing.assert_array_equal(found[1][5], targets[3])


def test_log_odds_by_hand():
    # Of two rows the nearer has the first label; k = 5 hears both, as no more are there.
    training = np.array([[1, 0], [1, 1]], dtype=np.float32)
    neighbours = Neighbours.of(training, np.array([[True, False], [False, False]]))
    near, far = 1.0 + 1e-6, np.sqrt(0.5) + 1e-6
    prior = np.array([1.5 / 3, 0.5 / 3])
    p = (5 * np.array([near / (near + far), 0]) + prior) / 6
    np.testing.assert_allclose(
        neighbours.log_odds(np.array([[2, 0]], np.float32))[0][0], np.log(p / (1 - p)), rtol=1e-5
    )
    # A label without a row is below its frequency, and finite.
    assert neighbours.log_odds(training)[0][0, 1] < np.log(prior[1] / (1 - prior[1]))


def test_votes_are_weighted_and_nothing_for_a_row_like_none():
    training, targets = rows_of(60, 0)
    X, _ = rows_of(5, 1)
    X[2] = 0
    neighbours = Neighbours.of(training, targets).weighing((0.5, 2.0))
    votes, z = neighbours.votes(X), neighbours.log_odds(X)
    prior = label_prior(targets)
    expected = sum(w * (part - np.log(prior / (1 - prior))) for w, part in zip((0.5, 2.0), z, strict=True))
    np.testing.assert_allclose(votes, expected, atol=1e-5)
    np.testing.assert_allclose(votes[2], 0, atol=1e-6)
    assert np.abs(votes).max() > 0.1


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_row_has_the_same_bits_whatever_rows_come_after_it(kind):
    training, targets = rows_of(200, 0)
    X, _ = rows_of(module.BLOCK + 40, 1)
    of = sp.csr_array if kind == "sparse" else np.asarray
    neighbours = Neighbours.of(of(training), targets).weighing((1.0, 1.0))
    whole = neighbours.votes(of(X))
    for size in (1, 7, module.BLOCK):
        parts = [neighbours.votes(of(X[first : first + size])) for first in range(0, len(X), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_what_is_saved_is_restored(kind):
    training, targets = rows_of(40, 0)
    targets = targets.astype(np.int8)
    targets[3, 1] = -1
    X: Any = sp.csr_array(training) if kind == "sparse" else training
    neighbours = Neighbours.of(X, targets).weighing((0.25, 0.5))
    arrays = {name: np.ascontiguousarray(value) for name, value in neighbours.arrays().items()}
    again = Neighbours.restored(arrays, X.shape[1])
    assert again.weights == (0.25, 0.5)
    np.testing.assert_array_equal(again.votes(X), neighbours.votes(X))
    with pytest.raises(ValueError, match=r"features|indices"):
        Neighbours.restored(arrays, X.shape[1] - 1)
    name = "neighbours.rows.data" if kind == "sparse" else "neighbours.rows"
    with pytest.raises(ValueError, match=r"expected float32 in neighbours\.rows; got float64"):
        Neighbours.restored(arrays | {name: arrays[name].astype(np.float64)}, X.shape[1])
    with pytest.raises(ValueError, match=r"expected 2 numbers in neighbours\.weights"):
        Neighbours.restored(arrays | {"neighbours.weights": np.ones(3)}, X.shape[1])


def test_lengths_and_what_is_too_much(monkeypatch):
    X, _ = rows_of(20, 0)
    X[4] = 0
    for rows in (of_length_1(X), of_length_1(sp.csr_array(X)).toarray()):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.arange(20) != 4, atol=1e-6)
    # Shorter ones would become infinite.
    X[4, 2] = 1e-40
    for rows in (of_length_1(X), of_length_1(sp.csr_array(X)).toarray()):
        np.testing.assert_array_equal(rows[4], X[4])
    monkeypatch.setattr(module, "MOST_NONZEROS", 100)
    assert not affordable(X)
    assert affordable(sp.csr_array(X[:10]))


def test_no_rows_give_no_shares():
    training, targets = rows_of(20, 0)
    assert [z.shape for z in Neighbours.of(training, targets).log_odds(training[:0])] == [(0, 4)] * len(KS)


def test_rows_without_any_likeness_are_heard_where_the_likest_are_unknown():
    training, targets = np.eye(2, dtype=np.float32), np.array([[-1, 0], [1, 0]], dtype=np.int8)
    shares = Neighbours.of(training, targets).shares(training[:1], (2,))[2]
    np.testing.assert_allclose(shares, [[1, 0]])


def test_labels_that_are_said_to_be_unknown_are_refused():
    training, targets = np.eye(3, dtype=np.float32), np.array([[1, 0], [-1, 1], [0, 1]], dtype=np.int8)
    neighbours = Neighbours.of(training, targets)
    assert Neighbours.restored(neighbours.arrays(), 3).known is not None
    fewer = replace(neighbours, known=sp.csr_array(np.array([[0, 1], [0, 1], [1, 1]], dtype=np.float32)))
    with pytest.raises(ValueError, match=r"neighbours\.targets that neighbours\.known says are known"):
        Neighbours.restored(fewer.arrays(), 3)
