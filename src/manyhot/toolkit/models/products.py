"""Products of a fixed matrix of features with dense ones, the same in every bit at any number of threads."""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from manyhot.toolkit.models.features import DesignMatrix


def transposed(X: DesignMatrix) -> DesignMatrix:
    """Return the transpose, sparse by its rows: one pass over rows for the gradient too, and no scatter."""
    return sp.csr_array(X.T) if sp.issparse(X) else np.ascontiguousarray(X.T)


class Product:
    """Multiplication by a fixed matrix. CSR rows are cut in blocks of equal work, one a thread: scipy releases the GIL.

    A row is summed by one thread in the order of its columns, so the result does not depend on the number of threads.
    """

    def __init__(self, X: DesignMatrix) -> None:
        threads = min(torch.get_num_threads(), os.cpu_count() or 1)
        if sp.issparse(X) and threads > 1 and X.nnz > 100_000:
            X = sp.csr_array(X)
            cuts = np.searchsorted(X.indptr, np.linspace(0, X.nnz, threads + 1)[1:-1])
            bounds = [0, *cuts.tolist(), X.shape[0]]
            self.blocks: list[Any] = [X[a:b] for a, b in pairwise(bounds)]
        else:
            self.blocks = [X]

    def __call__(self, dense: np.ndarray) -> np.ndarray:
        """Return the product with (columns, n), (rows, n)."""
        if len(self.blocks) == 1:
            return self.blocks[0] @ dense
        with ThreadPoolExecutor(len(self.blocks)) as pool:
            return np.concatenate(list(pool.map(lambda block: block @ dense, self.blocks)))
