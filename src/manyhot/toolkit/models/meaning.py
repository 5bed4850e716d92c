r"""The numbers of a frozen encoder as a block of the matrix, beside words and pairs of words.

Column by column :math:`w (x - \mu) / (\sigma \sqrt{d})`, mean and standard deviation of the training rows, d the number
of columns that vary: rows whose mean squared length is :math:`w^2`, where those of words have length 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from manyhot.toolkit.models.pretrained import Encoder

# The length of its rows, where words have 1 and pairs 0.5: the best mean of six sets of training rows, on which parts
# of words beside it gain nothing (benchmarks/meaning.py). Texts in another language than the encoder's are better off
# at 0.5.
WEIGHT = 1.0


@dataclass(frozen=True)
class Meaning:
    """An encoder, and for each of its numbers the mean of the training rows and what it is multiplied by."""

    encoder: Encoder
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, encoder: Encoder, texts: list[str]) -> "Meaning":
        """Fit on training texts; a number that is the same for all of them is 0 in every row."""
        numbers = encoder.transform(texts).astype(np.float64)
        std = numbers.std(0)
        varies = std > 1e-6 * np.abs(numbers).max(0, initial=0)
        scale = np.divide(WEIGHT / np.sqrt(max(varies.sum(), 1)), std, out=np.zeros_like(std), where=varies)
        return cls(encoder, numbers.mean(0), scale)

    def transform(self, texts: list[str]) -> np.ndarray:
        """Return (rows, width) float32."""
        return ((self.encoder.transform(texts) - self.mean) * self.scale).astype(np.float32)

    @property
    def size(self) -> int:
        """Number of columns of the matrix."""
        return self.scale.size

    def describe(self) -> str:
        """Say what the numbers are, for the terminal."""
        pooled = self.encoder.pooling.describe()
        long = ", mean of the pieces of long texts" if self.encoder.long == "mean" else ""
        return f"{self.size:,} numbers of {self.encoder.name} ({pooled}{long})"

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Split into JSON and arrays; :meth:`from_state` puts them together again."""
        described, arrays = self.encoder.state()
        return described, arrays | {"meaning.mean": self.mean, "meaning.scale": self.scale}

    @classmethod
    def from_state(cls, state: dict[str, Any], arrays: dict[str, np.ndarray], device: str) -> "Meaning":
        """Restore what :meth:`state` returned.

        Raises:
            ValueError, KeyError: parts that do not fit.
        """
        encoder = Encoder.from_state(state, arrays, device)
        shape = encoder.transform([""]).shape[1:]
        for name in ("meaning.mean", "meaning.scale"):
            if arrays[name].shape != shape:
                raise ValueError(f"expected {name} of shape {shape}; got {arrays[name].shape}")
        return cls(encoder, arrays["meaning.mean"], arrays["meaning.scale"])
