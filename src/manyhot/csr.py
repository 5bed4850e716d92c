"""A sparse matrix that is multiplied again and again: X W of a linear model, and X^T G, its gradient.

    X = CSR(matrix)    (rows, features), scipy's CSR
    X @ W              (features, n) -> (rows, n)
    X.T @ G            (rows, n) -> (features, n)

A dense ndarray has the same two expressions, so whoever multiplies need not know which one it holds.

X and its transpose are both held by rows, so that no product scatters. Every element is the sum of its terms in the
order in which its row is stored, each product and each sum rounded: the bits are the same at any number of threads and
on any instruction set, and on x86-64 they are scipy's.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch

from manyhot.kernels import native

_TYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


class CSR:
    """A sparse matrix (rows, features) by rows, for products with dense ones.

    scipy is the specification. float32 and float64 go through a C++ kernel where it was compiled, if the dense matrix
    has the same type. It runs on torch's number of threads and lets other threads of Python run.

    Args:
        matrix: scipy's csr_array or csr_matrix. It is kept, and must not change afterwards.

    Raises:
        TypeError: another format than CSR.
        ValueError: indices outside of the matrix.
    """

    def __init__(self, matrix: Any) -> None:
        if getattr(matrix, "format", None) != "csr":
            raise TypeError(f"expected a scipy matrix in CSR format; got {type(matrix).__name__}; use X.tocsr()")
        self.matrix = matrix
        self.shape: tuple[int, int] = matrix.shape
        index = np.int32 if matrix.indptr.dtype == matrix.indices.dtype == np.int32 else np.int64
        # Copies only where an array has gaps, another type or an odd address.
        self._starts, self._indices = (_laid_out(x, index) for x in (matrix.indptr, matrix.indices))
        self._values = _laid_out(matrix.data, matrix.dtype)
        self._check()

    def _check(self) -> None:
        # The kernel believes what it is told.
        starts, indices, (rows, features) = self._starts, self._indices, self.shape
        if starts.shape != (rows + 1,) or starts[0] != 0 or (np.diff(starts) < 0).any():
            raise ValueError(f"expected {rows + 1:,} row starts that begin with 0 and never fall; use X.check_format()")
        if starts[-1] > min(indices.size, self._values.size):
            raise ValueError(f"expected {starts[-1]:,} indices and values; got {indices.size:,}, {self._values.size:,}")
        stored = indices[: starts[-1]]
        if stored.size and not 0 <= stored.min() <= stored.max() < features:
            raise ValueError(f"expected indices from 0 to {features - 1:,}; got {stored.min():,} to {stored.max():,}")

    @cached_property
    def T(self) -> "CSR":
        """The transpose, by rows; made when first asked for, and kept."""
        return CSR(self.matrix.T.tocsr())

    def __matmul__(self, dense: np.ndarray) -> np.ndarray:
        """Return (rows, n), a new array in C order.

        Args:
            dense: (features, n), in any memory order; gaps between its rows cost nothing.

        Raises:
            ValueError: another number of axes or rows.
        """
        if dense.ndim != 2 or len(dense) != self.shape[1]:
            raise ValueError(f"expected a dense matrix of shape ({self.shape[1]:,}, n); got {dense.shape}")
        if native.MISSING is not None or dense.dtype != self._values.dtype or dense.dtype not in _TYPES:
            return np.ascontiguousarray(self.matrix @ dense)
        size = dense.itemsize
        if dense.strides[1] != size or dense.strides[0] % size or not dense.flags.aligned:
            dense = dense.copy("C")
        out = np.empty((self.shape[0], dense.shape[1]), dense.dtype)
        native._native.write_product(
            threads=torch.get_num_threads(),
            rows=out.shape[0],
            columns=out.shape[1],
            starts=self._starts.ctypes.data,
            indices=self._indices.ctypes.data,
            has_long_indices=self._indices.itemsize == 8,
            values=self._values.ctypes.data,
            type=native._TYPES[_TYPES[dense.dtype]],
            dense=dense.ctypes.data,
            dense_row=dense.strides[0] // size,
            out=out.ctypes.data,
            out_row=out.shape[1],
        )
        return out


def _laid_out(array: np.ndarray, dtype: Any) -> np.ndarray:
    return np.require(array, dtype, ("C", "A"))
