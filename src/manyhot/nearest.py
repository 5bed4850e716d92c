r"""The rows of a sparse matrix that are nearest to other rows: those with the largest inner products.

    rows = NearestRows(matrix)          (rows, features), scipy's CSR
    found = rows.search(asked, most)    found.product, found.row: (rows of asked, most)

The specification is :func:`best_of` all products. Of finite numbers whose products do not overflow, the C++ kernel
gives the same bits and makes few of them. A feature that many rows have says little and costs most, so the products are
first made without the frequent ones. With f the frequent part of a row,

.. math::
    x \cdot r \le \sum_{i \text{ rare}} x_i r_i + |f(x)| |f(r)|

and only rows whose bound reaches the worst of the best known are multiplied whole. Of 29,000 rows of GoEmotions with
140 features each, parts of words among them, 95 have a bound that reaches the worst of the 20 best; the kernel, which
comes to know these on its way, multiplies about twice as many (`make bench-nearest`).
"""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from manyhot.csr import CSR
from manyhot.kernels import native

# Frequent features have together at most this share of all squared lengths: the more, the weaker the bound.
FREQUENT = 1 / 16
# Until so many rows have been asked in all, the formula runs: to take the columns apart takes as long.
FEW = 256
# Of the formula: rows are written out to be multiplied, so many at once, and no more numbers than this, 64 MB.
MOST_AT_ONCE, MOST_NUMBERS = 64, 2**24


class Nearest(NamedTuple):
    """The best of each row asked: the best first, of equal ones the earlier.

    Attributes:
        product: (rows asked, most) float32, with each.
        row: (rows asked, most) int64, which it is.
    """

    product: np.ndarray
    row: np.ndarray


class NearestRows:
    """A sparse matrix whose rows are searched.

    Args:
        matrix: (rows, features) float32, in scipy's CSR format. It is kept, and must not change afterwards.

    Raises:
        TypeError: another format or dtype.
        ValueError: indices outside of the matrix, or more rows or features than int32 counts.
    """

    def __init__(self, matrix: Any) -> None:
        self._product, self._asked = _checked(matrix), 0
        self._rows = self._product.matrix

    def search(self, asked: Any, most: int) -> Nearest:
        """Find the `most` nearest rows, or all that there are.

        Args:
            asked: (rows asked, features) float32, in scipy's CSR format.
            most: how many of each row asked.

        Raises:
            TypeError: another format or dtype.
            ValueError: another number of features, or indices outside of the matrix.
        """
        asked, most = _checked(asked).matrix, min(most, self._rows.shape[0])
        if asked.shape[1] != self._rows.shape[1]:
            raise ValueError(f"expected rows of {self._rows.shape[1]:,} features; got {asked.shape[1]:,}")
        self._asked += asked.shape[0]
        if native.MISSING is not None or self._asked <= FEW or not most:
            return best_of(self.products(asked), most)
        return self._search(asked, most)

    def products(self, asked: Any) -> np.ndarray:
        """Return the products with all rows, (rows asked, rows)."""
        found = np.empty((asked.shape[0], self._rows.shape[0]), np.float32)
        some = min(max(MOST_NUMBERS // max(asked.shape[1], 1), 1), MOST_AT_ONCE)
        # Half the time of scipy's product of two sparse matrices, to the same bits: most pairs of rows share a feature.
        for first in range(0, len(found), some):
            found[first : first + some] = (self._product @ asked[first : first + some].T.toarray("C")).T
        return found

    def _search(self, asked: Any, most: int) -> Nearest:
        found = Nearest(np.empty((asked.shape[0], most), np.float32), np.empty((asked.shape[0], most), np.int64))
        searched, given = self._searched, _Arrays.of(asked)
        native._native.write_nearest(
            threads=torch.get_num_threads(),
            rows=self._rows.shape[0],
            features=self._rows.shape[1],
            by_row=searched.by_row.addresses,
            postings=searched.postings.addresses,
            is_frequent=searched.is_frequent.ctypes.data,
            frequent=searched.frequent.ctypes.data,
            longest=searched.longest,
            count=asked.shape[0],
            asked=given.addresses,
            most=most,
            product=found.product.ctypes.data,
            row=found.row.ctypes.data,
        )
        return found

    @cached_property
    def _searched(self) -> "_Searched":
        rows = self._rows
        squares = type(rows)((np.square(rows.data, dtype=np.float64), rows.indices, rows.indptr), shape=rows.shape)
        is_frequent = _frequent(squares)
        part = np.sqrt(squares @ is_frequent.astype(np.float64))
        # Upwards, since a bound is made of it.
        length = np.nextafter(part.astype(np.float32), np.float32(np.inf))
        return _Searched(
            _Arrays.of(rows),
            _Arrays.of(self._product.T.matrix),
            is_frequent,
            np.where(part > 0, length, np.float32(0)),
            float(np.sqrt(np.max(squares.sum(1), initial=0))),
        )


def _frequent(squares: Any) -> np.ndarray:
    """Say which features are frequent, (features,) bool, by the squares of a matrix."""
    rows, features = squares.shape
    number = np.bincount(squares.indices, minlength=features)
    order = np.argsort(-number, kind="stable")
    # Rows asked have a feature as often as rows here have it, and each time so many products are made. Where fewer of
    # these are left than rows, whose bounds are looked at anyway, there is no more to gain by a weaker bound.
    left = np.square(number[order], dtype=np.float64)[::-1].cumsum()[::-1] / max(rows, 1)
    share = np.asarray(squares.sum(0)).reshape(-1)[order].cumsum()
    found = np.zeros(features, dtype=bool)
    found[order[(left > rows) & (share <= FREQUENT * squares.data.sum())]] = True
    return found


class _Arrays(NamedTuple):
    """A matrix as the kernel takes it."""

    starts: np.ndarray
    indices: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, matrix: Any) -> "_Arrays":
        given = (matrix.indptr, np.int64), (matrix.indices, np.int32), (matrix.data, np.float32)
        return cls(*(np.require(array, dtype, ("C", "A")) for array, dtype in given))

    @property
    def addresses(self) -> tuple[int, int, int]:
        return self.starts.ctypes.data, self.indices.ctypes.data, self.values.ctypes.data


class _Searched(NamedTuple):
    by_row: _Arrays
    postings: _Arrays
    is_frequent: np.ndarray
    frequent: np.ndarray
    longest: float


def best_of(product: np.ndarray, most: int) -> Nearest:
    """Return the `most` largest of each row, (rows, columns) float32: the largest first, of equal ones the earlier."""
    most = min(most, product.shape[1])
    if not product.size or not most:
        return Nearest(np.zeros((len(product), most), np.float32), np.zeros((len(product), most), np.int64))
    # A seventh of the time of numpy's partition.
    least = torch.from_numpy(product).topk(most, dim=1).values[:, -1:].numpy()
    is_best = ~(product < least)  # what is no number is not left out, so that each row has as many
    for row in np.flatnonzero(np.count_nonzero(is_best, 1) > most):
        # Of as many equal ones as there may be, the first; the others are not sorted.
        ties = np.flatnonzero(~((product[row] < least[row]) | (product[row] > least[row])))
        is_best[row, ties[most - np.count_nonzero(product[row] > least[row]) :]] = False
    row, column = np.nonzero(is_best)
    order = np.lexsort((column, -product[row, column], row))
    row, column = row[order].reshape(-1, most), column[order].reshape(-1, most)
    return Nearest(product[row, column], column)


def _checked(matrix: Any) -> CSR:
    """Return a matrix whose rows name each feature once, in their order, in which sums are made."""
    dtype = getattr(matrix, "dtype", None)
    if getattr(matrix, "format", None) != "csr" or dtype != np.float32:
        raise TypeError(f"expected a scipy matrix in CSR format, float32; got {type(matrix).__name__}, {dtype}")
    if max(matrix.shape) >= 2**31:
        raise ValueError(f"expected fewer than 2^31 rows and features; got {matrix.shape}")
    found = CSR(matrix)
    if matrix.has_canonical_format and matrix.indptr[-1] == len(matrix.data):
        return found
    matrix = matrix.copy()
    matrix.prune()
    matrix.sum_duplicates()
    return CSR(matrix)
