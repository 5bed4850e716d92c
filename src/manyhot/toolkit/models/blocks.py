"""Rows to numbers by blocks of one size, so that those of a row have the same bits whatever rows come with it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

# Products of other shapes may round otherwise. Who predicts a file in parts cuts it at multiples of this.
BLOCK = 256


def tensor_to_read(array: np.ndarray) -> Tensor:
    """Return an array as a tensor, of its memory where it may be written: torch warns of others."""
    return torch.from_numpy(np.require(array, requirements="W"))


def dense_product(block: np.ndarray, by: Tensor) -> np.ndarray:
    """Return block @ by, by torch: NumPy's product of a block rounds by where in it a row stands."""
    return (tensor_to_read(block) @ by).numpy()


def in_blocks(X: Any, of_block: Callable[[Any], np.ndarray], columns: int, dtype: Any = np.float32) -> np.ndarray:
    """Return (rows, columns), of what takes blocks of exactly BLOCK rows of X, the last filled up with 0."""
    found = np.empty((X.shape[0], columns), dtype)
    for first in range(0, len(found), BLOCK):
        part = X[first : first + BLOCK]
        rows = part.shape[0]
        if rows < BLOCK and sp.issparse(part):
            part = sp.csr_array(part)
            part.resize(BLOCK, X.shape[1])
        elif rows < BLOCK:
            part = np.pad(part, ((0, BLOCK - rows), (0, 0)))
        found[first : first + rows] = of_block(part)[:rows]
    return found
