"""Columns of a kernel against the definition in NumPy."""

import numpy as np
import pytest

from manyhot.toolkit.models import kernel as module
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.kernel import Kernel
from manyhot.toolkit.read.examples import Examples


def numbers_of(rows=80, columns=5, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def fitted(numbers):
    found = Kernel.fit(numbers)
    assert found is not None
    return found


def test_inner_products_are_the_kernel_where_all_rows_are_landmarks():
    X = numbers_of(40)
    kernel = fitted(X)
    distances = ((X[:, None].astype(np.float64) - X[None]) ** 2).sum(-1)
    gamma = 1 / np.median(distances[np.triu_indices(40, 1)])
    assert kernel.gamma[0] == pytest.approx(gamma)
    K = np.exp(-gamma * distances)
    centre = np.eye(40) - 1 / 40
    columns = kernel.transform(X).astype(np.float64)
    scale = (columns**2).sum() / np.trace(centre @ K @ centre)
    np.testing.assert_allclose(columns @ columns.T, scale * centre @ K @ centre, atol=0.02 * scale)


def test_rows_that_repeat_change_neither_the_width_nor_the_directions():
    once = numbers_of(12)
    distances = ((once[:, None].astype(np.float64) - once[None]) ** 2).sum(-1)
    found = fitted(np.repeat(once, 8, axis=0))
    assert found.gamma[0] == pytest.approx(1 / np.median(distances[np.triu_indices(12, 1)]), rel=1e-5)
    assert found.size == 12
    most = np.repeat(once, [80, *[1] * 11], axis=0)  # nearly all pairs are of equal rows
    assert np.isfinite(fitted(most).transform(most)).all()


def test_columns_have_mean_0_and_are_as_long_as_the_numbers(monkeypatch):
    monkeypatch.setattr(module, "LANDMARKS", 30)
    X = numbers_of(200)
    columns = fitted(X).transform(X)
    assert columns.dtype == np.float32
    assert columns.shape[1] <= 30
    np.testing.assert_allclose(columns.mean(0), 0, atol=1e-5)
    assert np.square(columns).sum() == pytest.approx(np.square(X).sum(), rel=1e-4)


def test_rows_that_are_all_alike_and_too_many_numbers_have_none(monkeypatch):
    assert Kernel.fit(np.ones((30, 4), np.float32)) is None
    monkeypatch.setattr(module, "MOST_NUMBERS", 4)
    assert Kernel.fit(numbers_of(columns=5)) is None
    assert Kernel.fit(numbers_of(columns=4)) is not None


def test_features_with_a_kernel_are_those_without_and_its_columns_last():
    X = 3 * numbers_of() + 2
    texts = [f"word{i % 7} text" for i in range(len(X))]
    for examples in (Examples("f.csv", None, X, None, []), Examples("f.csv", texts, X, None, [])):
        plain, dense = Features.fit_transform(examples)
        found, wider = Features.fit_transform(examples, kernel=True)
        assert found.kernel is not None
        assert (found.size_without_kernel, found.size) == (plain.size, wider.shape[1])
        both = [part if isinstance(part, np.ndarray) else part.toarray() for part in (dense, wider)]
        np.testing.assert_array_equal(both[1][:, : plain.size], both[0])
        assert found.describe() == plain.describe() + f" + {found.kernel.size} for nearness to 80 rows"
        state, arrays = found.state()
        state["text"] = [dict(block) for block in state["text"]]
        again = Features.from_state(state, {name: np.ascontiguousarray(a) for name, a in arrays.items()})
        after = again.transform(examples)
        np.testing.assert_array_equal(after if isinstance(after, np.ndarray) else after.toarray(), both[1])
    with pytest.raises(ValueError, match=r"expected kernel.landmarks of shape \(80, 6\); got \(80, 5\)"):
        Kernel.restored(fitted(X).arrays(), 6)


def test_sparse_numbers_have_none():
    X = np.zeros((60, 20), np.float32)
    X[np.arange(60), np.arange(60) % 20] = 1
    import scipy.sparse as sp

    assert Features.fit(Examples("f.npz", None, sp.csr_array(X), None, []), kernel=True).kernel is None


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_row_has_the_same_bits_whatever_rows_come_with_it(size):
    kernel, X = fitted(numbers_of(120, 33)), numbers_of(300, 33, seed=1)
    parts = [kernel.transform(X[first : first + size]) for first in range(0, 300, size)]
    np.testing.assert_array_equal(np.concatenate(parts), kernel.transform(X))
