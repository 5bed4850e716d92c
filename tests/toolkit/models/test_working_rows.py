"""Rows that rare labels are fitted on: what is in them, what they weigh, and the fit beside that on all rows."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.linear_model import LogisticRegression

from interrupted import Stopped
from manyhot.toolkit.models import label_blocks
from manyhot.toolkit.models import working_rows as module
from manyhot.toolkit.models.label_blocks import BlockLearner, HeldRows, bce_of
from manyhot.toolkit.models.model import Memory
from manyhot.toolkit.models.working_rows import Working, are_rare, means_of, topics_of, working_rows

LABELS = 24


@pytest.fixture
def small(monkeypatch):
    """Labels of few rows, and few of many rows, as with a hundred times as many."""
    for name, value in {"RARE": 10, "SAMPLE": 200, "TOPIC": 4, "ALIKE": 1, "MORE": 4}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(label_blocks, "TOPIC", 4)


def rows(number=1200, seed=0):
    """Draw rows of six topics of four labels, each label with words of its own; the first label is frequent."""
    rng = np.random.default_rng(seed)
    label, own = rng.integers(1, LABELS, number), rng.random(number) < 0.4
    targets = np.zeros((number, LABELS), dtype=bool)
    targets[np.flatnonzero(own), label[own]] = True
    targets[:, 0] = rng.random(number) < 0.3
    words = np.where(rng.random((number, 8)) < 0.6, 5 * label[:, None] + rng.integers(5, size=(number, 8)), 0)
    words = np.where(words, words, 120 + rng.integers(40, size=(number, 8)))
    words = np.where(own[:, None], words, 120 + rng.integers(40, size=(number, 8)))
    X = np.zeros((number, 160), dtype=np.float32)
    np.add.at(X, (np.arange(number)[:, None], words), 1)
    X[:, 1] += targets[:, 0]
    return sp.csr_array(X / np.linalg.norm(X, axis=1, keepdims=True)), sp.csr_array(targets)


def learner(threads=1, max_iter=200, by_topic=True):
    return BlockLearner(Memory("blocks", 0, 0, 0), False, 8, by_topic, threads, max_iter)


def test_a_training_of_many_rows_goes_by_topic():
    for number, by_topic in ((module.LEAST - 1, False), (module.LEAST, True)):
        assert BlockLearner.planned(number, 10, 10, cells=100, free=10**12).by_topic is by_topic


@pytest.mark.usefixtures("small")
def test_rare_is_what_few_of_many_rows_have():
    X, targets = rows()
    assert are_rare(X, targets).tolist() == [False] + [True] * (LABELS - 1)
    assert not are_rare(X.toarray(), targets).any()
    without = targets.toarray()
    without[:, 3] = False
    assert not are_rare(X, sp.csr_array(without))[3]


def test_the_mean_of_a_label_is_that_of_its_rows():
    X, targets = rows()
    means = means_of(X, targets).toarray()
    for label in range(LABELS):
        mean = X.toarray()[targets.toarray()[:, label]].mean(0)
        np.testing.assert_allclose(means[label], mean / np.linalg.norm(mean), atol=1e-6)
    nobody = sp.csr_array(targets.shape, dtype=bool)
    assert means_of(X, nobody).nnz == 0


def test_topics_have_what_is_alike_and_each_label_once():
    rng = np.random.default_rng(0)
    topic = rng.permutation(np.repeat(np.arange(8), 4))
    means = np.abs(rng.normal(0, 0.1, (32, 40)))
    means[np.arange(32)[:, None], 5 * topic[:, None] + np.arange(5)] += 1
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    found = topics_of(sp.csr_array(means), 4)
    assert sorted(np.concatenate(found).tolist()) == list(range(32))
    assert all(len(group) <= 4 for group in found)
    together = [len(set(topic[group].tolist())) for group in found]
    assert np.mean(together) < 2  # by chance 3.3
    for a, b in zip(found, topics_of(sp.csr_array(means), 4), strict=True):
        assert a.tolist() == b.tolist()
    # What cannot be told apart is parted all the same, to the end.
    assert sorted(len(group) for group in topics_of(sp.csr_array(np.ones((5, 3))), 1)) == [1] * 5


@pytest.mark.usefixtures("small")
def test_rows_that_have_a_label_and_those_like_it_are_there_and_weigh_one():
    X, targets = rows()
    block = sp.csc_array(targets)[:, [5, 6, 7]]
    likeness = X @ means_of(X, targets)[[5, 6, 7]].toarray().T
    working = working_rows(likeness, block, 0)
    assert working is not None
    weight = np.zeros(1200)
    weight[working.rows] = working.weights
    assert len(set(working.rows.tolist())) == len(working.rows)
    assert weight.sum() == pytest.approx(1200, rel=1e-6)
    assert (weight[np.unique(block.indices)] == 1).all()
    for label, count in enumerate(np.diff(block.indptr)):
        assert (weight[np.argsort(-likeness[:, label])[: 2 * count + 4]] == 1).all()
    assert (weight > 1).sum() == 200
    assert working_rows(likeness[:500], sp.csc_array(targets[:500])[:, [5, 6, 7]], 0) is None


@pytest.mark.usefixtures("small")
def test_the_sum_over_the_sample_is_right_in_the_mean():
    X, targets = rows()
    block = sp.csc_array(targets)[:, [5]]
    likeness, values = (X @ means_of(X, targets)[[5]].toarray().T), np.random.default_rng(1).exponential(size=1200)
    sums = []
    for number in range(400):
        working = working_rows(likeness, block, number)
        assert working is not None
        sums.append(float(values[working.rows] @ working.weights))
    error = np.std(sums) / 20
    assert error > 0
    assert np.mean(sums) == pytest.approx(values.sum(), abs=3 * float(error))


def test_weighted_rows_weigh_in_loss_and_gradient(monkeypatch):
    monkeypatch.setattr(label_blocks, "CHUNK", 7)
    rng = np.random.default_rng(0)
    targets = sp.csc_array(rng.random((50, 4)) < 0.2)
    weights = np.where(targets.sum(1) > 0, 1, rng.random(50) * 9).astype(np.float32)
    logits = rng.normal(size=(50, 3)).astype(np.float32) * 3
    s = torch.from_numpy(logits).double().requires_grad_()
    truth = torch.from_numpy(targets.toarray()[:, [0, 1, 3]]).double()
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(
        s, truth, weight=torch.from_numpy(weights)[:, None].double(), reduction="none"
    ).sum(0)
    wanted.sum().backward()
    values, gradient = bce_of(targets, weights)(logits, np.array([0, 1, 3]))
    np.testing.assert_allclose(values, wanted.detach().numpy(), rtol=1e-6)
    assert s.grad is not None
    np.testing.assert_allclose(gradient, s.grad.numpy(), atol=1e-5)


def test_a_fit_on_weighted_rows_is_scikit_learns(monkeypatch):
    monkeypatch.setattr(label_blocks, "TOLERANCE", 1e-9)
    X, targets = rows()
    X, targets = X[:400], sp.csc_array(targets[:400])[:, [5, 6]]
    kept = np.unique(np.concatenate([targets.indices, np.arange(0, 400, 3)]))
    working = Working(kept, np.where(targets.toarray()[kept].any(1), 1, 3).astype(np.float32))
    bias = np.full(2, -3, dtype=np.float32)
    weight, fit = learner()._fitted_on_some(X, working, 5.0, targets, bias)
    for label in range(2):
        model = LogisticRegression(C=5.0, tol=1e-8, max_iter=5000)
        model.fit(X[kept].toarray(), targets.toarray()[kept, label], sample_weight=working.weights)
        np.testing.assert_allclose(weight[:, label], model.coef_[0], atol=5e-3)
        assert fit.bias[label] == pytest.approx(float(np.ravel(model.intercept_)[0]), abs=1e-2)


@pytest.mark.usefixtures("small")
def test_rare_labels_are_ranked_as_well_as_by_all_rows():
    X, targets = rows(2400)
    held = HeldRows(X[1200:], np.zeros(LABELS, np.float32), 0.0)
    options: Any = {"C": 10.0, "held": held, "drops": ()}
    some = learner().fit(X[:1200], targets[:1200], **options)
    whole = learner(by_topic=False).fit(X[:1200], targets[:1200], **options)
    assert not np.array_equal(some.model.bias, whole.model.bias)
    truth: Any = targets[1200:]
    found = []
    for fitted in (some, whole):
        ranked = fitted.held[0]
        first = ranked.first(2)
        found.append(np.mean([truth[row, label] for row in range(1200) for label in first[row]]))
        # The level of the logits is that of all rows: the probabilities of rare labels add up to their number.
        probs = 1 / (1 + np.exp(-ranked[np.arange(1200)][:, 1:]))
        assert probs.sum() == pytest.approx(truth[:, 1:].sum(), rel=0.15)
    assert found[0] == pytest.approx(found[1], abs=0.01)


@pytest.mark.usefixtures("small")
def test_threads_and_interruptions_change_no_bit():
    X, targets = rows()
    whole = learner().fit(X, targets, C=3.0)
    kept = Stopped(3)
    with pytest.raises(KeyboardInterrupt):
        learner().fit(X, targets, C=3.0, bookmark=kept)
    kept.stop = None
    again = dataclasses.replace(learner(), threads=2).fit(X, targets, C=3.0, bookmark=kept)
    for name, array in whole.model.arrays().items():
        np.testing.assert_array_equal(array, again.model.arrays()[name])
