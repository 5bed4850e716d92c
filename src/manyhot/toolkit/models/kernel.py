"""Columns of a kernel beside standardised numbers: how near a row is to some training rows, which no line can say."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics.pairwise import rbf_kernel

from manyhot.toolkit.models.blocks import dense_product, in_blocks, tensor_to_read

# benchmarks/pieces.py chose it on training rows; 300 and 600 are no better with votes of nearest rows beside them.
LANDMARKS = 100
MOST_NUMBERS = 2000
# Directions of the landmarks that are smaller than this part of the largest are noise of rounding.
LEAST_EIGENVALUE = 1e-4
SEED = 0


@dataclass(frozen=True)
class Kernel:
    r"""The Nystroem approximation of a Gaussian kernel.

    .. math::
        \phi(x) = k(x, Z) V w^{-1/2}, \qquad k(x, z) = e^{-\gamma |x - z|^2}, \qquad
        k(Z, Z) = V \mathrm{diag}(w) V^T

    with gamma one by the median of the squared distances of landmarks Z that differ. The mean over training rows is
    taken off, and the rest is as long as the numbers are, in the mean.

    Attributes:
        landmarks: (landmarks, numbers) float32, training rows as they are in the matrix.
        basis: (landmarks, columns) float64, V w^(-1/2), scaled.
        mean: (columns,) float64, scaled.
        gamma: (1,) float64.

    References:
        Williams and Seeger 2001.
    """

    landmarks: np.ndarray
    basis: np.ndarray
    mean: np.ndarray
    gamma: np.ndarray

    @classmethod
    def fit(cls, numbers: np.ndarray) -> "Kernel | None":
        """Fit on the standardised numbers of training rows; None where all landmarks are alike, or numbers too many."""
        rows = len(numbers)
        if numbers.shape[1] > MOST_NUMBERS:
            return None
        chosen = np.random.default_rng(SEED).choice(rows, min(LANDMARKS, rows), replace=False)
        landmarks = numbers[np.sort(chosen)]
        distances = pdist(landmarks, "sqeuclidean")
        if not distances.any():
            return None
        gamma = 1 / np.median(distances[distances > 0])
        values, vectors = np.linalg.eigh(np.exp(-gamma * squareform(distances)))
        kept = values > LEAST_EIGENVALUE * values.max()
        plain = cls(landmarks, vectors[:, kept] / np.sqrt(values[kept]), np.zeros(int(kept.sum())), np.array([gamma]))
        columns = plain.columns(numbers)
        mean = columns.mean(0)
        length = np.square(columns - mean).sum() / rows
        if not length:
            return None
        scale = np.sqrt(np.square(numbers, dtype=np.float64).sum() / rows / length)
        return cls(landmarks, plain.basis * scale, mean * scale, plain.gamma)

    def transform(self, numbers: np.ndarray) -> np.ndarray:
        """Return (rows, columns) float32 of standardised numbers."""
        return self.columns(numbers).astype(np.float32)

    def columns(self, numbers: np.ndarray) -> np.ndarray:
        """Return (rows, columns) float64."""
        landmarks, gamma, basis = self.landmarks.astype(np.float64), float(self.gamma[0]), tensor_to_read(self.basis)

        def of_block(block: np.ndarray) -> np.ndarray:
            return dense_product(rbf_kernel(block.astype(np.float64), landmarks, gamma=gamma), basis) - self.mean

        return in_blocks(numbers, of_block, self.size, np.float64)

    @property
    def size(self) -> int:
        """Number of columns of the matrix."""
        return self.basis.shape[1]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what :meth:`restored` takes."""
        return {f"kernel.{name}": getattr(self, name) for name in ("landmarks", "basis", "mean", "gamma")}

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], numbers: int) -> "Kernel":
        """Restore what :meth:`arrays` returned.

        Raises:
            ValueError: arrays that do not fit each other or so many numbers.
        """
        found = cls(*(arrays[f"kernel.{name}"] for name in ("landmarks", "basis", "mean", "gamma")))
        landmarks, columns = found.basis.shape
        wanted = {"landmarks": (landmarks, numbers), "mean": (columns,), "gamma": (1,)}
        for name, shape in wanted.items():
            if (got := getattr(found, name).shape) != shape:
                raise ValueError(f"expected kernel.{name} of shape {shape}; got {got}")
        return found
