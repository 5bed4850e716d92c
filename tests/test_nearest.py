"""Nearest rows against sorted products in float64, and the kernel bit for bit against the formula."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from manyhot import nearest as module
from manyhot.kernels import native
from manyhot.nearest import Nearest, NearestRows, best_of

needs_kernel = pytest.mark.skipif(native.MISSING is not None, reason="no C++ kernel")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def drawn(rows: int, features: int, *, seed: int, signed: bool = False, steep: float = 1.0) -> Any:
    """Draw rows of length 1, or empty, whose first features are frequent, the more the steeper."""
    rng = np.random.default_rng(seed)
    often = (1 + np.arange(features)) ** -steep
    X = rng.random((rows, features)) * (rng.random((rows, features)) < 0.9 * often)
    X[rng.random(rows) < 0.1] = 0
    if signed:
        X *= rng.choice([-1, 1], X.shape)
    X /= np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)
    return sp.csr_array(X.astype(np.float32))


def by_formula(rows: Any, asked: Any, most: int) -> Nearest:
    """Sort the products that scipy makes, row by row."""
    product = (asked @ rows.T).toarray()
    row = np.array([sorted(range(rows.shape[0]), key=lambda r: (-x[r], r))[:most] for x in product], np.int64)
    row = row.reshape(len(product), -1)
    return Nearest(np.take_along_axis(product, row, 1), row)


def by_kernel(rows: Any, asked: Any, most: int, monkeypatch: pytest.MonkeyPatch) -> Nearest:
    monkeypatch.setattr(module, "FEW", 0)
    monkeypatch.setattr(module, "best_of", lambda *_: pytest.fail("the formula ran"))
    return NearestRows(rows).search(asked, most)


def check(found: Nearest, expected: Nearest) -> None:
    np.testing.assert_array_equal(found.row, expected.row)
    assert found.product.tobytes() == expected.product.tobytes()


# Of steep ones nearly all rows have the first features, and the bound decides; of flat ones nothing is frequent.
@needs_kernel
@pytest.mark.parametrize("steep", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("share", [0.0, 1 / 16, 0.5, 1.0])
def test_the_kernel_has_the_rows_and_bits_of_the_formula(monkeypatch, steep, signed, share):
    monkeypatch.setattr(module, "FREQUENT", share)
    rows = drawn(700, 60, seed=0, signed=signed, steep=steep)
    asked = drawn(90, 60, seed=1, signed=signed, steep=steep)
    for most in (1, 5, 20, 699, 700, 900):
        check(by_kernel(rows, asked, most, monkeypatch), by_formula(rows, asked, most))


@needs_kernel
@pytest.mark.parametrize("rows", [1, 2, 19, 255, 256, 257, 513])
def test_any_number_of_rows(monkeypatch, rows):
    matrix, asked = drawn(rows, 30, seed=2), drawn(40, 30, seed=3)
    check(by_kernel(matrix, asked, 20, monkeypatch), by_formula(matrix, asked, 20))


@needs_kernel
def test_features_are_frequent_where_that_spares_products():
    rows = drawn(700, 60, seed=0, steep=0.3)
    of = np.bincount(rows.indices, minlength=60)
    chosen = NearestRows(rows)._searched.is_frequent
    square = np.bincount(rows.indices, weights=rows.data.astype(float) ** 2, minlength=60)
    assert 0 < square[chosen].sum() <= module.FREQUENT * square.sum() < square[chosen].sum() + square[~chosen].max()
    assert of[chosen].min() >= of[~chosen].max()
    # With few to a row, all products are fewer than the rows.
    assert not NearestRows(drawn(700, 3000, seed=0, steep=0.9))._searched.is_frequent.any()


@needs_kernel
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_equal_rows_come_in_their_order(monkeypatch, share):
    monkeypatch.setattr(module, "FREQUENT", share)
    rows = sp.csr_array(np.tile(drawn(10, 8, seed=4, steep=0.2).toarray(), (60, 1)))
    asked = drawn(30, 8, seed=5, steep=0.2)
    check(by_kernel(rows, asked, 100, monkeypatch), by_formula(rows, asked, 100))


@needs_kernel
def test_a_row_like_none_gets_the_first_rows(monkeypatch):
    rows = drawn(50, 12, seed=6)
    found = by_kernel(rows, sp.csr_array((2, 12), dtype=np.float32), 5, monkeypatch)
    np.testing.assert_array_equal(found.row, [range(5)] * 2)
    np.testing.assert_array_equal(found.product, np.zeros((2, 5)))


@needs_kernel
def test_lengths_other_than_1_and_long_indices(monkeypatch):
    scale = 10.0 ** np.random.default_rng(7).integers(-18, 15, 300)
    rows = sp.csr_array((drawn(300, 40, seed=8, steep=0.3).multiply(scale[:, None])).astype(np.float32))
    asked = sp.csr_array(drawn(40, 40, seed=9, steep=0.3) * np.float32(1e4))
    expected = by_formula(rows, asked, 20)
    check(by_kernel(rows, asked, 20, monkeypatch), expected)
    rows.indices, rows.indptr = rows.indices.astype(np.int64), rows.indptr.astype(np.int64)
    check(by_kernel(rows, asked, 20, monkeypatch), expected)


@needs_kernel
def test_lengths_that_round_down_and_sums_that_overflow(monkeypatch):
    rows = np.zeros((100, 40), np.float32)
    rows[:, :2], rows[0, :2], rows[1, 2] = 1e20, 1e30, 1.7e30
    rows[np.arange(100), 3 + np.arange(100) % 37] = 1e31
    asked = np.zeros((3, 40), np.float32)
    asked[:, :3] = 1.4e-45
    short = sp.csr_array(rows), sp.csr_array(asked)
    rows = np.zeros((100, 5), np.float32)
    rows[:, 1], rows[1:, 3], rows[0] = 1e37, -3.2e38, [-3e38, 1e38, -0.9e38, 0, 0]
    large = sp.csr_array(rows), sp.csr_array(np.ones((3, 5), np.float32))
    for given, most in ((short, 1), (large, 1), (large, 100)):
        check(by_kernel(*given, most, monkeypatch), by_formula(*given, most))


@needs_kernel
def test_the_same_at_any_number_of_threads(monkeypatch):
    rows, asked = drawn(600, 80, seed=10, steep=0.5), drawn(300, 80, seed=11, steep=0.5)
    torch.set_num_threads(1)
    alone = by_kernel(rows, asked, 20, monkeypatch)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        check(by_kernel(rows, asked, 20, monkeypatch), alone)


@pytest.mark.parametrize("few", [0, 10**9])
def test_features_twice_and_out_of_order_are_added_up(monkeypatch, few):
    monkeypatch.setattr(module, "FEW", few)
    plain = drawn(60, 20, seed=12)
    half, count = plain.data / 2, np.diff(plain.indptr)
    order = np.concatenate(
        [
            np.r_[b - 1 : a - 1 : -1, b - 1 : a - 1 : -1] if a else np.r_[0:b, 0:b]
            for a, b in zip(plain.indptr[:-1], plain.indptr[1:], strict=True)
        ]
    )
    twice = sp.csr_array((half[order], plain.indices[order], 2 * plain.indptr), shape=plain.shape)
    assert not twice.has_canonical_format
    assert count.max() > 1
    before = twice.copy()
    check(NearestRows(twice).search(twice, 7), by_formula(plain, plain, 7))
    np.testing.assert_array_equal(twice.indices, before.indices)  # what was given is as it was


@pytest.mark.parametrize("few", [0, 10**9])
def test_numbers_beyond_the_last_row_are_not_read(monkeypatch, few):
    monkeypatch.setattr(module, "FEW", few)
    rows = drawn(40, 20, seed=21)
    longer = rows.copy()
    longer.data, longer.indices = np.append(rows.data, np.float32(9)), np.append(rows.indices, 10**6).astype(np.int32)
    check(NearestRows(longer).search(longer, 5), by_formula(rows, rows, 5))


@pytest.mark.parametrize("few", [0, 10**9])
def test_what_is_no_number_breaks_nothing(monkeypatch, few):
    monkeypatch.setattr(module, "FEW", few)
    rows, asked = drawn(400, 20, seed=13, steep=0.3), drawn(50, 20, seed=14, steep=0.3)
    rows.data[::7], asked.data[::11] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        found = NearestRows(rows).search(asked, 20)
    assert found.row.shape == found.product.shape == (50, 20)
    assert ((found.row >= 0) & (found.row < 400)).all()


def test_few_rows_are_multiplied_with_all_and_then_the_kernel_is_made(monkeypatch):
    rows, asked = drawn(300, 20, seed=15), drawn(module.FEW, 20, seed=16)
    searched = NearestRows(rows)
    first = searched.search(asked, 20)
    assert "_searched" not in vars(searched)
    check(searched.search(asked, 20), first)
    assert ("_searched" in vars(searched)) == (native.MISSING is None)


@pytest.mark.parametrize("most", [2**24, 100, 1])
def test_products_have_the_bits_of_scipys_however_many_at_once(monkeypatch, most):
    monkeypatch.setattr(module, "MOST_NUMBERS", most)
    rows, asked = drawn(90, 12, seed=17, signed=True), drawn(150, 12, seed=18, signed=True)
    np.testing.assert_array_equal(NearestRows(rows).products(asked), (asked @ rows.T).toarray())


def test_the_best_of_products_by_hand():
    product = np.array([[1, 3, 3, 2], [0, 0, 0, 0], [-1, -3, -2, -1]], np.float32)
    found = best_of(product, 3)
    np.testing.assert_array_equal(found.row, [[1, 2, 3], [0, 1, 2], [0, 3, 2]])
    np.testing.assert_array_equal(found.product, [[3, 3, 2], [0, 0, 0], [-1, -1, -2]])
    assert best_of(product, 9).row.shape == (3, 4)
    # Of very many equal ones, the first.
    many = np.zeros((2, 50_000), np.float32)
    many[1, [40, 49_000]] = 1
    np.testing.assert_array_equal(best_of(many, 4).row, [[0, 1, 2, 3], [40, 49_000, 0, 1]])
    for rows, columns, most in ((0, 4, 2), (3, 0, 2), (3, 4, 0)):
        assert best_of(np.zeros((rows, columns), np.float32), most).row.shape == (rows, min(columns, most))


def test_what_is_refused():
    rows = drawn(20, 5, seed=19)
    for wrong in (rows.toarray(), rows.tocsc(), rows.astype(np.float64), [[1.0]], None):
        with pytest.raises(TypeError, match="expected a scipy matrix in CSR format, float32; got "):
            NearestRows(wrong)
    with pytest.raises(ValueError, match="expected rows of 5 features; got 4"):
        NearestRows(rows).search(drawn(3, 4, seed=20), 2)
    rows.indices[0] = 5
    with pytest.raises(ValueError, match="expected indices from 0 to 4"):
        NearestRows(rows)
