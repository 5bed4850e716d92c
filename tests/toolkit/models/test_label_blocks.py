"""Linear models by blocks of labels: beside scikit-learn, and the same bits however the labels are parted."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.linear_model import LogisticRegression

from interrupted import Stopped
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models import label_blocks as module
from manyhot.toolkit.models.label_blocks import BlockLearner, HeldRows, SparseLinear, bce_of
from manyhot.toolkit.models.model import Memory
from manyhot.toolkit.models.ranked import Ranked


def rows(number=120, features=30, labels=11, seed=0):
    rng = np.random.default_rng(seed)
    X = np.where(rng.random((number, features)) < 0.3, rng.random((number, features)), 0).astype(np.float32)
    truth = X @ rng.normal(size=(features, labels)) * 3 - np.linspace(0.5, 3, labels)
    targets = truth + rng.logistic(size=truth.shape) > 0
    targets[:, 4] = False
    return sp.csr_array(X), sp.csr_array(targets)


def learner(block=3, threads=1, by_rows=False, max_iter=200):
    return BlockLearner(Memory("blocks", 0, 0, 0), by_rows, block, False, threads, max_iter)


@pytest.fixture
def to_the_end(monkeypatch):
    monkeypatch.setattr(module, "TOLERANCE", 1e-7)


@pytest.mark.usefixtures("to_the_end")
@pytest.mark.parametrize("by_rows", [False, True])
def test_each_label_is_a_logistic_regression(by_rows):
    X, targets = rows()
    fitted = learner(by_rows=by_rows).fit(X, targets, C=2.0, drop=0.0)
    assert fitted.at_limit == 0
    logits = fitted.model.logits(X)
    for label in range(11):
        if label == 4:
            # Seen in no row: as frequent as what was not seen may be.
            assert logits[:, 4].tolist() == pytest.approx([np.log(0.5 / 120.5)] * 120, rel=1e-5)
            continue
        truth = targets[:, [label]].toarray()[:, 0]
        wanted = LogisticRegression(C=2.0, tol=1e-8, max_iter=5000).fit(X.toarray(), truth)
        np.testing.assert_allclose(logits[:, label], wanted.decision_function(X.toarray()), atol=2e-2)


def test_the_loss_is_bce_and_its_gradient(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)
    _, targets = rows(50)
    logits = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32) * 4
    columns = np.array([0, 2, 3, 5, 9, 10])
    s = torch.from_numpy(logits).double().requires_grad_()
    truth = torch.from_numpy(targets[:, columns].toarray()).double()
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(s, truth, reduction="none").sum(0)
    wanted.sum().backward()
    values, gradient = bce_of(sp.csc_array(targets))(logits, columns)
    np.testing.assert_allclose(values, wanted.detach().numpy(), rtol=1e-6)
    assert s.grad is not None
    np.testing.assert_allclose(gradient, s.grad.numpy(), atol=1e-6)


def test_threads_change_no_bit():
    X, targets = rows()
    held = HeldRows(X[:20], np.zeros(11, np.float32), 2.0)
    one, two = (learner(threads=n).fit(X[20:], targets[20:], C=3.0, held=held, drops=(0.1,)) for n in (1, 2))
    assert torch.get_num_threads() >= 1
    for name, array in one.model.arrays().items():
        np.testing.assert_array_equal(array, two.model.arrays()[name])
    for a, b in zip(one.held, two.held, strict=True):
        np.testing.assert_array_equal(a.cells.data, b.cells.data)


@pytest.mark.usefixtures("to_the_end")
def test_small_weights_are_dropped_and_held_out_rows_see_it():
    X, targets = rows()
    held = HeldRows(X[:20], np.zeros(11, np.float32), 2.0)
    whole = learner().fit(X[20:], targets[20:], C=3.0, drop=0.0, held=held, drops=(0.5,))
    cut = learner().fit(X[20:], targets[20:], C=3.0, drop=0.5)
    length = np.sqrt(np.square(X[20:].toarray(), dtype=np.float64).sum() / 100)
    weight = whole.model.weight.toarray()
    np.testing.assert_array_equal(cut.model.weight.toarray(), np.where(np.abs(weight) < 0.5 / length, 0, weight))
    assert 0 < cut.kept < whole.kept <= 1
    for ranked, model in zip(whole.held, (whole.model, cut.model), strict=True):
        dense = ranked[np.arange(20)]
        some = np.isfinite(dense)
        assert not some[:, 4].any()
        np.testing.assert_allclose(dense[some], model.logits(X[:20])[some], atol=1e-5)


def test_no_more_weights_stay_than_memory_was_planned_for(monkeypatch):
    X, targets = rows()
    whole = learner(block=11).fit(X, targets, C=3.0, drop=1e-6).model.weight.toarray()
    monkeypatch.setattr(module, "STAYS", 7)
    held = HeldRows(X, np.zeros(11, np.float32), 2.0)
    cut = learner(block=11).fit(X, targets, C=3.0, drop=1e-6, held=held, drops=(1e-6,))
    least = np.sort(np.abs(whole), axis=None)[-70]
    np.testing.assert_array_equal(cut.model.weight.toarray(), np.where(np.abs(whole) < least, 0, whole))
    dense, some = cut.held[1][np.arange(120)], np.isfinite(cut.held[1][np.arange(120)])
    np.testing.assert_allclose(dense[some], cut.model.logits(X)[some], atol=1e-5)


def test_an_interrupted_fit_ends_in_the_same_bits():
    X, targets = rows()
    options: Any = {"C": 3.0, "held": HeldRows(X[:20], np.linspace(0, 1, 11).astype(np.float32), 2.0), "drops": (0.1,)}
    whole = learner().fit(X[20:], targets[20:], **options)
    for stop in (1, 2, 3):
        kept = Stopped(stop)
        with pytest.raises(KeyboardInterrupt):
            learner(threads=2).fit(X[20:], targets[20:], bookmark=kept, **options)
        kept.stop = None
        again = learner().fit(X[20:], targets[20:], bookmark=kept, **options)
        for name, array in whole.model.arrays().items():
            np.testing.assert_array_equal(array, again.model.arrays()[name])
        for a, b in zip(whole.held, again.held, strict=True):
            np.testing.assert_array_equal(a.cells.toarray(), b.cells.toarray())


def test_a_row_has_the_same_bits_whatever_rows_come_with_it():
    X, targets = rows(600)
    model = learner().fit(X, targets, C=3.0).model
    logits = model.logits(X)
    for some in (slice(0, 1), slice(3, 300), slice(599, 600)):
        np.testing.assert_array_equal(model.logits(X[some]), logits[some])
    ranked = Ranked.of_blocks(model.logits, X, 11)
    np.testing.assert_array_equal(ranked[np.arange(600)], logits)
    np.testing.assert_allclose(logits, X @ model.weight.toarray() + model.bias, atol=1e-5)


def test_what_a_run_keeps_restores_the_model():
    X, targets = rows()
    model = learner().fit(X, targets, C=3.0).model
    again = SparseLinear.restored(model.arrays(), 30, 11)
    np.testing.assert_array_equal(again.logits(X), model.logits(X))
    moved = model.shifted(np.full(11, 0.5, np.float32))
    np.testing.assert_allclose(moved.logits(X), model.logits(X) + 0.5, atol=1e-6)
    slopes, base = model.around(np.array([1, 4]), np.ones(2), np.array([0, 9]))
    np.testing.assert_array_equal(slopes, model.weight.toarray()[np.ix_([1, 4], [0, 9])])
    np.testing.assert_array_equal(base, model.bias[[0, 9]])
    for name, wrong in (("weight.indices", 30 * [99]), ("weight.indptr", [0, 1]), ("bias", [0.0])):
        with pytest.raises((ValueError, IndexError)):
            SparseLinear.restored(model.arrays() | {name: np.array(wrong)}, 30, 11)


def plan(rows, features, labels, free, cells=0):
    return BlockLearner.planned(rows, features, labels, cells=cells, free=free)


def test_a_plan_takes_as_many_labels_at_a_time_as_fit_and_refuses_before_anything_is_made():
    roomy = plan(100_000, 100_000, 10_000, 64 * 10**9, 5 * 10**6)
    assert roomy.block == 256
    assert roomy.memory.bytes < 12 * 10**9
    tight = plan(100_000, 100_000, 10_000, 6 * 10**9, 5 * 10**6)
    assert module.FEWEST <= tight.block < 256
    assert tight.threads == 1
    assert tight.memory.bytes < 6 * 10**9
    with pytest.raises(InputError, match=r"for 500,000 rows x 500,000 features x 100,000 labels, 16 labels at"):
        plan(500_000, 500_000, 100_000, 8 * 10**9, 25 * 10**6)
    planned = plan(500_000, 100_000, 100_000, 64 * 10**9, 25 * 10**6)
    assert planned.memory.bytes < 64 * 10**9
    assert "blocks of" in planned.memory.describe()
