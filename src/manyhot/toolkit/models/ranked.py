"""The best logits of each row, where those of all labels are too many to keep."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from manyhot.labels import CardinalityRange
from manyhot.toolkit.disk.fits import Arrays
from manyhot.toolkit.models.blocks import BLOCK

# Labels that a row keeps.
TOP = 100
# Rows whose labels are ranked at once.
ROWS = 4096


@dataclass(frozen=True)
class Ranked:
    """Logits (rows, labels) of which each row keeps the best; of the others nothing is known but that they are lower.

    Attributes:
        cells: scipy CSR, float32, the labels of a row in their order. A logit of 0 is a cell like any other.
    """

    cells: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and labels."""
        return self.cells.shape

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.cells.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Write some rows out, -inf where nothing is kept."""
        part = self.cells[rows]
        dense = np.full(part.shape, -np.inf, dtype=np.float32)
        dense[np.repeat(np.arange(part.shape[0]), np.diff(part.indptr)), part.indices] = part.data
        return dense

    @classmethod
    def of(cls, logits: np.ndarray, k: int = TOP) -> "Ranked":
        """Keep the k best of each row of some logits."""
        best = Best(len(logits), k, np.zeros(logits.shape[1], dtype=np.float32), 0.0)
        best.offer(np.arange(logits.shape[1]), logits)
        return best.ranked()

    @classmethod
    def of_blocks(
        cls, logits: Callable[[Any], np.ndarray], X: Any, k: int, prior: np.ndarray | None = None, most: float = 0.0
    ) -> "Ranked":
        """Keep the best of each row of X, of which logits are made a block of rows at a time; `prior` as of Best."""
        parts = []
        for first in range(0, max(X.shape[0], 1), BLOCK):
            block = logits(X[first : first + BLOCK])
            unit = np.zeros(block.shape[1], dtype=np.float32) if prior is None else prior
            best = Best(len(block), k, unit, most)
            best.offer(np.arange(block.shape[1]), block)
            parts.append(best.ranked().cells)
        return cls(sp.csr_array(sp.vstack(parts, format="csr")))

    @property
    def rows(self) -> np.ndarray:
        """The row of each cell."""
        return np.repeat(np.arange(len(self)), np.diff(self.cells.indptr))

    def ranks(self) -> np.ndarray:
        """Return the place of each cell in its row, from 0, best first; ties go to the lower label."""
        rows = self.rows
        order = np.lexsort((self.cells.indices, -self.cells.data, rows))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order)) - np.asarray(self.cells.indptr)[rows[order]]
        return ranks

    def first(self, k: int) -> np.ndarray:
        """Return the k best labels of each row, best first, (rows, k); every row has to have so many."""
        ranks = self.ranks()
        labels = np.empty((len(self), k), dtype=np.int64)
        some = ranks < k
        labels[self.rows[some], ranks[some]] = self.cells.indices[some]
        return labels

    def decided(self, cardinality: CardinalityRange) -> Any:
        """Return label sets as CSR of bool: :func:`manyhot.decide` of these logits, among the labels that are kept."""
        ranks = self.ranks()
        chosen = (ranks < cardinality.min_labels) | ((self.cells.data > 0) & (ranks < cardinality.max_labels))
        cells = (np.ones(int(chosen.sum()), dtype=bool), (self.rows[chosen], self.cells.indices[chosen]))
        return sp.csr_array(cells, shape=self.shape)

    def has(self, targets: Any) -> np.ndarray:
        """Say of each cell whether it is one of `targets`, CSR of bool."""
        labels = self.shape[1]
        true = sp.csr_array(targets)
        keys = np.repeat(np.arange(len(self)), np.diff(true.indptr)) * labels + true.indices
        return np.isin(self.rows * labels + self.cells.indices, keys, kind="sort")

    def lower(self, by: np.ndarray, offset: float) -> "Ranked":
        """Return the logits less a number a label, and then more by an offset."""
        data = self.cells.data - by.astype(np.float32)[self.cells.indices] + np.float32(offset)
        return Ranked(sp.csr_array((data, self.cells.indices, self.cells.indptr), shape=self.shape))


class Best:
    """The best labels of each row so far, while logits come a block of labels at a time.

    What is best depends on the strength of a prior that is chosen later. So a row has two lists: the best by the logit,
    and the best by the logit less so many units of the prior as there may be at most. Of any strength between, the
    logit is a mean of these two, so that a label in neither list is below the same mean of the last of each.

    Args:
        rows: how many.
        k: labels a row, half of them for each list.
        prior: (labels,), one unit of it, in logits.
        most: the strongest prior.
    """

    def __init__(self, rows: int, k: int, prior: np.ndarray, most: float) -> None:
        self.size = len(prior)
        self.prior, self.strengths = prior.astype(np.float32), (0.0, most) if most else (0.0,)
        self.k = -(-k // len(self.strengths))
        self.labels = [np.zeros((rows, 0), dtype=np.int32) for _ in self.strengths]
        self.logits = [np.zeros((rows, 0), dtype=np.float32) for _ in self.strengths]

    def offer(self, columns: np.ndarray, logits: np.ndarray) -> None:
        """Take in logits (rows, columns) of some labels."""
        for i, strength in enumerate(self.strengths):
            found = [
                self._best(slice(first, first + ROWS), i, columns, logits, strength)
                for first in range(0, len(logits), ROWS)
            ]
            self.labels[i], self.logits[i] = (np.concatenate(parts) for parts in zip(*found, strict=True))

    def _best(
        self, rows: slice, i: int, columns: np.ndarray, logits: np.ndarray, strength: float
    ) -> tuple[np.ndarray, np.ndarray]:
        values = np.hstack([self.logits[i][rows], logits[rows]])
        new = np.broadcast_to(columns.astype(np.int32), logits[rows].shape)
        labels = np.hstack([self.labels[i][rows], new])
        if labels.shape[1] <= self.k:
            return labels, values
        by = values - np.float32(strength) * self.prior[labels] if strength else values
        kept = np.argpartition(-by, self.k - 1, axis=1)[:, : self.k]
        return np.take_along_axis(labels, kept, 1), np.take_along_axis(values, kept, 1)

    def ranked(self) -> Ranked:
        """Return the labels that are in either list."""
        rows = len(self.labels[0])
        row = np.concatenate([np.repeat(np.arange(rows), labels.shape[1]) for labels in self.labels])
        keys = row * self.size + np.concatenate([labels.ravel() for labels in self.labels])
        keys, places = np.unique(keys, return_index=True)
        values = np.concatenate([logits.ravel() for logits in self.logits])[places]
        row, label = np.divmod(keys, self.size)
        starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))])
        return Ranked(sp.csr_array((values, label, starts), shape=(rows, self.size)))

    def arrays(self, name: str) -> Arrays:
        """Return the lists, for a checkpoint; :meth:`restore` takes them."""
        lists = {"labels": self.labels, "logits": self.logits}
        return {f"{name}.{kind}.{i}": array for kind, of in lists.items() for i, array in enumerate(of)}

    def restore(self, arrays: Arrays, name: str) -> None:
        """Go on from what :meth:`arrays` returned."""
        for i in range(len(self.strengths)):
            self.labels[i], self.logits[i] = arrays[f"{name}.labels.{i}"], arrays[f"{name}.logits.{i}"]
