"""The sparse product against float64 NumPy, and bit for bit against scipy."""

import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from manyhot.csr import CSR
from manyhot.kernels import native

SETS: list[str] = native._native.instruction_sets() if native.MISSING is None else ["none"]
# Where compilers make one instruction of a product and a sum, which is a matter of scipy's flags elsewhere.
AS_SCIPY = platform.machine() in ("x86_64", "AMD64")
# Every width of vector, every number of vectors of a tile and what is left of one, in either type.
COLUMNS = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 28, 31, 33, 47, 48, 49, 80, 90, 96, 97, 130, 192, 200)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    if native.MISSING is None:
        native._native.use_instruction_set(SETS[0])


def use(name: str) -> None:
    if native.MISSING is None:
        native._native.use_instruction_set(name)


def drawn(rows: int, features: int, density: float, *, seed: int = 0, dtype: Any = np.float32) -> Any:
    """Draw a matrix whose rows have very unlike numbers of non-zeros, some none."""
    rng = np.random.default_rng(seed)
    kept = rng.random((rows, features)) < density * 2 * rng.random((rows, 1)) * (rng.random((rows, 1)) < 0.8)
    return sp.csr_array((rng.normal(size=(rows, features)) * kept).astype(dtype))


def normal(*shape: int, seed: int = 1, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def check(product: np.ndarray, X: Any, dense: np.ndarray) -> None:
    """Compare with float64, and with scipy's bits.

    A sum of m terms, each product and each sum rounded, is off by at most m + 1 roundings of its terms' magnitudes.
    """
    assert product.dtype == dense.dtype
    assert product.shape == (X.shape[0], dense.shape[1])
    assert product.flags.c_contiguous
    wide = X.astype(np.float64).toarray()
    terms = np.bincount(np.repeat(np.arange(X.shape[0]), np.diff(X.indptr)), minlength=X.shape[0])[:, None]
    slack = (terms + 2) * np.finfo(dense.dtype).eps / 2 * (np.abs(wide) @ np.abs(dense.astype(np.float64)))
    assert (np.abs(product - wide @ dense.astype(np.float64)) <= slack).all()
    if AS_SCIPY:
        assert product.tobytes() == (X @ dense).tobytes()


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_products_at_every_number_of_columns(columns: int, dtype: Any) -> None:
    X = drawn(40, 70, 0.3, dtype=dtype)
    weight, slope = normal(70, columns, dtype=dtype), normal(40, columns, dtype=dtype)
    for name in SETS:
        use(name)
        check(CSR(X) @ weight, X, weight)
        check(CSR(X).T @ slope, X.T.tocsr(), slope)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (1, 300), (300, 1), (2, 17)])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("columns", [0, 1, 20])
def test_shapes_at_the_edge(shape: tuple[int, int], density: float, columns: int) -> None:
    X = drawn(*shape, density)
    for matrix in (X, sp.csr_matrix(X)):
        check(CSR(matrix) @ normal(shape[1], columns), X, normal(shape[1], columns))
        check(CSR(matrix).T @ normal(shape[0], columns), X.T.tocsr(), normal(shape[0], columns))


@pytest.mark.parametrize("columns", [1, 28, 100])
def test_bits_do_not_depend_on_threads_or_instruction_sets(columns: int) -> None:
    # Enough for seven threads at one column; a full row among rows that are empty or short.
    X = sp.vstack([drawn(900, 800, 0.15), drawn(1, 800, 5.0), drawn(300, 800, 0.3)], format="csr", dtype=np.float32)
    assert X.nnz * 9 > 7 * 131072
    weight, slope = normal(800, columns), normal(1201, columns)
    product, results = CSR(X), set()
    for name in SETS:
        use(name)
        for threads in (1, 2, 3, 7, 2):
            torch.set_num_threads(threads)
            results.add(((product @ weight).tobytes(), (product.T @ slope).tobytes()))
    assert len(results) == 1
    check(product @ weight, X, weight)
    check(product.T @ slope, X.T.tocsr(), slope)


@pytest.mark.parametrize("starts", [np.int32, np.int64])
@pytest.mark.parametrize("indices", [np.int32, np.int64, np.uint16])
def test_types_of_indices(starts: Any, indices: Any) -> None:
    X = drawn(40, 70, 0.3)
    X.indptr, X.indices = X.indptr.astype(starts), X.indices.astype(indices)
    weight = normal(70, 20)
    check(CSR(X) @ weight, drawn(40, 70, 0.3), weight)


def test_a_row_is_summed_as_it_is_stored() -> None:
    # Not in order of columns, one column twice: 1 is lost beside 2^25 unless the two large ones meet first.
    X = sp.csr_array((np.array([2**25, -(2**25), 1], np.float32), [4, 1, 4], [0, 3]), shape=(1, 6))
    assert CSR(X) @ np.ones((6, 1), np.float32) == 1
    X = sp.csr_array((np.array([2**25, 1, -(2**25)], np.float32), [4, 4, 1], [0, 3]), shape=(1, 6))
    assert CSR(X) @ np.ones((6, 1), np.float32) == 0


def test_products_are_rounded_before_they_are_added() -> None:
    third = np.float32(1 / 3)
    X = sp.csr_array(np.array([[-(third * third), third]]))
    for name in SETS:
        use(name)
        # In one instruction the sum would be what rounding takes from the product.
        product = CSR(X) @ np.repeat(np.array([[1], [third]], np.float32), 50, 1)
        assert (product == 0).all()


LAYOUTS = ("fortran", "columns", "rows", "steps", "backwards", "mirrored", "broadcast", "odd address", "read-only")


def laid_out(values: np.ndarray, layout: str) -> np.ndarray:
    """Return the same matrix in other places, among numbers that must not be read."""
    rows, columns = values.shape
    around = np.full((2 * rows + 3, 2 * columns + 3), np.nan, values.dtype)
    places = {
        "columns": around[:rows, 1 : 1 + columns],
        "rows": around[1 : 1 + 2 * rows : 2, :columns],
        "steps": around[:rows, : 2 * columns : 2],
        "backwards": around[rows:0:-1, :columns],
        "mirrored": around[:rows, columns:0:-1],
    }
    if layout == "fortran":
        return np.asfortranarray(values)
    if layout == "broadcast":
        return np.broadcast_to(values[:1], values.shape)
    if layout == "odd address":
        return np.frombuffer(b"x" + values.tobytes(), values.dtype, offset=1).reshape(values.shape)
    if layout == "read-only":
        values = values.copy()
        values.flags.writeable = False
        return values
    places[layout][:] = values
    return places[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dense_matrices_in_any_place(layout: str, dtype: Any) -> None:
    X = drawn(40, 70, 0.3, dtype=dtype)
    for columns in (1, 5, 20, 100):
        dense = laid_out(normal(70, columns, dtype=dtype), layout)
        before = dense.copy()
        check(CSR(X) @ dense, X, before)
        assert np.array_equal(dense, before)


def test_sparse_matrices_in_any_place() -> None:
    X = drawn(40, 70, 0.3)
    other = X.copy()
    other.data = laid_out(X.data[:, None], "steps")[:, 0]
    other.indices = np.repeat(X.indices, 2)[::2]
    other.indptr = np.frombuffer(b"x" + X.indptr.tobytes(), X.indptr.dtype, offset=1)
    assert not other.indptr.flags.aligned
    weight = normal(70, 20)
    check(CSR(other) @ weight, X, weight)


def test_infinities_and_nan_come_through() -> None:
    X = sp.csr_array(np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [np.inf, 0, 0], [0, np.nan, 1]], np.float32))
    dense = np.array([[1, np.inf], [np.nan, -np.inf], [1, np.inf]], np.float32)
    for columns in (2, 60):
        weight = np.tile(dense, (1, columns // 2))
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(CSR(X) @ weight, X @ weight)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, ">f4"])
def test_other_types_are_multiplied_by_scipy(dtype: Any) -> None:
    X, weight = drawn(40, 70, 0.3), normal(70, 3).astype(dtype)
    np.testing.assert_array_equal(CSR(X) @ weight, X @ weight)
    assert (CSR(X) @ weight).dtype == (X @ weight).dtype


def test_without_the_kernel_scipy_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    X = drawn(40, 70, 0.3)
    weight, slope = normal(70, 20), normal(40, 20)
    monkeypatch.setattr(native, "MISSING", "not there")
    monkeypatch.setattr(native, "_native", None)
    check(CSR(X) @ weight, X, weight)
    check(CSR(X).T @ slope, X.T.tocsr(), slope)
    check(CSR(X) @ np.asfortranarray(weight), X, weight)


def test_the_transpose_is_made_once() -> None:
    X = CSR(drawn(40, 70, 0.3))
    assert X.T is X.T
    assert X.T.shape == (70, 40)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(69, 3), (70,), (), (70, 3, 1)])
def test_dense_matrices_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a dense matrix of shape \(70, n\); got \("):
        _ = CSR(drawn(40, 70, 0.3)) @ np.zeros(shape, np.float32)


@pytest.mark.parametrize("matrix", [np.zeros((2, 2)), sp.csc_array(np.eye(2)), sp.coo_array(np.eye(2))])
def test_other_formats(matrix: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a scipy matrix in CSR format; got .*; use "):
        CSR(matrix)


@pytest.mark.parametrize(
    ("starts", "indices", "message"),
    [
        ([0, 2, 3], [0, 1, 3], "expected indices from 0 to 2; got 0 to 3"),
        ([0, 2, 3], [0, -1, 2], "expected indices from 0 to 2; got -1 to 2"),
        ([0, 3, 2], [0, 1, 2], "row starts"),
        ([1, 2, 3], [0, 1, 2], "row starts"),
        ([0, 3], [0, 1, 2], "expected 3 row starts"),
        ([0, 2, 4], [0, 1, 2], "expected 4 indices and values; got 3, 3"),
    ],
)
def test_matrices_that_point_outside(starts: list[int], indices: list[int], message: str) -> None:
    X = sp.csr_array((np.ones(3, np.float32), np.arange(3), [0, 2, 3]), shape=(2, 3))
    X.indptr, X.indices = np.array(starts, np.int32), np.array(indices, np.int32)
    with pytest.raises(ValueError, match=message):
        CSR(X)
