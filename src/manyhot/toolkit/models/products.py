"""Products of a fixed matrix of features with dense ones; of a sparse one the same bits at any number of threads."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from manyhot.csr import CSR
from manyhot.toolkit.models.features import DesignMatrix


def transposed(X: DesignMatrix) -> DesignMatrix:
    """Return the transpose, sparse by its rows: one pass over rows for the gradient too, and no scatter."""
    return sp.csr_array(X.T) if sp.issparse(X) else np.ascontiguousarray(X.T)


class Product:
    """Multiplication by a fixed matrix, dense or sparse."""

    def __init__(self, X: DesignMatrix) -> None:
        self.matrix: Any = CSR(X) if sp.issparse(X) else X

    def __call__(self, dense: np.ndarray) -> np.ndarray:
        """Return the product with (columns, n), (rows, n)."""
        return self.matrix @ dense
