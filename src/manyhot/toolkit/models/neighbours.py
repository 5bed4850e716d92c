"""The training rows most like a row, and what their labels say of its own."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from manyhot.labels import label_prior
from manyhot.nearest import Nearest, NearestRows, best_of
from manyhot.toolkit.disk.fits import Arrays
from manyhot.toolkit.models.blocks import BLOCK, dense_product, in_blocks, tensor_to_read
from manyhot.toolkit.models.features import DesignMatrix

# How many rows are heard, each number by itself: few are near, many are sure.
KS = (5, 20)
# Added to a similarity, so that rows without any are heard too where there are no others.
LEAST_WEIGHT = 1e-6
# Of a row that is shorter, 1 over the length is no number of single precision.
SHORTEST = float(np.finfo(np.float32).tiny)
# A matrix of more is not kept: its rows would be most of a run, and comparing with them most of a prediction.
MOST_NONZEROS = 2**25


@dataclass(frozen=True)
class Neighbours:
    r"""Training rows by their cosine similarity to a row x.

    .. math::
        q_{ki} = \frac{\sum_{r \in N_k(x)} w_r t_{ri}}{\sum_{r \in N_k(x)} w_r}, \qquad
        w_r = \max(\cos(x, r), 0) + 10^{-6}, \qquad
        z_{ki} = \mathrm{logit} \frac{k q_{ki} + \pi_i}{k + 1}

    with N_k the k most similar rows, of equal ones the earlier, and pi the frequency of labels. So a label that no
    neighbour has is below its frequency, and finite. A row that is similar to none has q = pi.

    Attributes:
        rows: (training rows, features) float32, of length 1; an empty row stays so.
        targets: (training rows, labels) float32, 1 where a row has a label.
        known: the same, 1 where it is known; None where all is.
        prior: (labels,) float64.
        weights: what a run multiplies each z_k by.

    References:
        Zhang and Zhou 2007, ML-kNN, for the idea; that z joins a linear model as a logit is ours.
    """

    rows: DesignMatrix
    targets: sp.csr_array
    known: sp.csr_array | None
    prior: np.ndarray
    weights: tuple[float, ...] = (0.0,) * len(KS)

    @classmethod
    def of(cls, X: DesignMatrix, targets: np.ndarray) -> "Neighbours":
        """Take training rows X (rows, features) and their targets, bool, or int8 with -1 where nobody knows."""
        known = None if targets.dtype == bool else sp.csr_array((targets >= 0).astype(np.float32))
        return cls(of_length_1(X), sp.csr_array((targets > 0).astype(np.float32)), known, label_prior(targets))

    def weighing(self, weights: tuple[float, ...]) -> "Neighbours":
        """Return the same rows with these weights, one for each of KS."""
        return replace(self, weights=weights)

    def shares(self, X: DesignMatrix, ks: tuple[int, ...] = KS) -> dict[int, np.ndarray]:
        """Return q for each k, (rows of X, labels) float64."""
        found: dict[int, list[np.ndarray]] = {k: [] for k in ks}
        for first in range(0, X.shape[0], BLOCK):
            nearest = self._nearest(of_length_1(X[first : first + BLOCK]), max(ks))
            votes: Any
            for k, votes in _votes(nearest, ks, self.rows.shape[0]).items():
                total = votes.sum(1)[:, None] if self.known is None else (votes @ self.known).toarray()
                given = (votes @ self.targets).toarray()
                share = np.divide(given, total, out=np.broadcast_to(self.prior, given.shape).copy(), where=total > 0)
                found[k].append(share)
        empty = np.zeros((0, len(self.prior)))
        return {k: np.concatenate([empty, *blocks]) for k, blocks in found.items()}

    def log_odds(self, X: DesignMatrix, ks: tuple[int, ...] = KS) -> list[np.ndarray]:
        """Return z for each k, (rows of X, labels) float32."""
        found = []
        for k, share in self.shares(X, ks).items():
            p = (k * share + self.prior) / (k + 1)
            found.append((np.log(p) - np.log1p(-p)).astype(np.float32))
        return found

    @cached_property
    def log_odds_of_none(self) -> np.ndarray:
        """z of a row that no training row is like, (labels,): the log-odds of the frequency."""
        return np.log(self.prior) - np.log1p(-self.prior)

    def votes(self, X: DesignMatrix) -> np.ndarray:
        """Return what these rows add to the logits of a run, (rows of X, labels) float32: 0 for a row like none."""
        total = np.zeros((X.shape[0], len(self.prior)), np.float32)
        for weight, z in zip(self.weights, self.log_odds(X), strict=True):
            total += np.float32(weight) * (z - self.log_odds_of_none.astype(np.float32))
        return total

    def _nearest(self, block: DesignMatrix, most: int) -> Nearest:
        """Find the nearest rows of rows of length 1."""
        if sp.issparse(block):
            return self._sparse.search(block, most)
        columns = self._columns
        return best_of(in_blocks(block, lambda rows: dense_product(rows, columns), columns.shape[1]), most)

    @cached_property
    def _columns(self) -> torch.Tensor:
        return tensor_to_read(self.rows).T

    @cached_property
    def _sparse(self) -> NearestRows:
        return NearestRows(self.rows)

    def arrays(self) -> Arrays:
        """Return what :meth:`restored` takes."""
        parts: dict[str, Any] = {"rows": self.rows, "targets": self.targets, "known": self.known}
        found: Arrays = {"neighbours.prior": self.prior, "neighbours.weights": np.array(self.weights)}
        for name, part in parts.items():
            if sp.issparse(part):
                found |= {f"neighbours.{name}.{key}": getattr(part, key) for key in ("data", "indices", "indptr")}
            elif part is not None:
                found[f"neighbours.{name}"] = part
        return found

    @classmethod
    def restored(cls, arrays: Arrays, features: int) -> "Neighbours":
        """Restore what :meth:`arrays` returned.

        Raises:
            ValueError, KeyError: arrays that do not fit each other or so many features.
        """
        prior, weights = arrays["neighbours.prior"], arrays["neighbours.weights"]
        sizes = {"rows": features, "targets": prior.size, "known": prior.size}
        parts: dict[str, Any] = dict.fromkeys(sizes)
        for name, size in sizes.items():
            if f"neighbours.{name}.indptr" in arrays:
                data, indices, indptr = (arrays[f"neighbours.{name}.{key}"] for key in ("data", "indices", "indptr"))
                parts[name] = sp.csr_array((data, indices, indptr), shape=(len(indptr) - 1, size))
                parts[name].check_format(full_check=True)  # a product follows indices unchecked
                if name != "rows":
                    parts[name].sum_duplicates()
                    if parts[name].nnz < len(data):
                        raise ValueError(f"expected each label of a row once in neighbours.{name}")
            elif name == "rows":
                parts[name] = arrays["neighbours.rows"]
        if parts["targets"] is None or parts["rows"].shape[1] != features:
            raise ValueError(f"expected neighbours.rows of {features} features; got {parts['rows'].shape}")
        if parts["rows"].dtype != np.float32:
            raise ValueError(f"expected float32 in neighbours.rows; got {parts['rows'].dtype}")
        for name, part in parts.items():
            if part is not None and part.shape[0] != parts["rows"].shape[0]:
                raise ValueError(f"expected neighbours.{name} of {parts['rows'].shape[0]} rows; got {part.shape[0]}")
        if parts["known"] is not None and (parts["targets"] > parts["known"]).nnz:
            raise ValueError("expected labels in neighbours.targets that neighbours.known says are known")
        if weights.shape != (len(KS),):
            raise ValueError(f"expected {len(KS)} numbers in neighbours.weights; got {weights.shape}")
        return cls(parts["rows"], parts["targets"], parts["known"], prior, tuple(weights.tolist()))


def of_length_1(X: DesignMatrix) -> DesignMatrix:
    """Return rows of length 1, float32; empty ones, and those nearly so, as they are."""
    if isinstance(X, np.ndarray):
        length = np.sqrt(np.square(X, dtype=np.float64).sum(1, keepdims=True))
        return (X / np.where(length > SHORTEST, length, 1)).astype(np.float32)
    of = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    length = np.sqrt(np.bincount(of, weights=np.square(X.data, dtype=np.float64), minlength=X.shape[0]))
    scale = (1 / np.where(length > SHORTEST, length, 1)).astype(np.float32)
    return sp.csr_array((X.data * scale[of], X.indices, X.indptr), shape=X.shape)


def affordable(X: DesignMatrix) -> bool:
    """Say whether a run may hold these rows."""
    return (X.size if isinstance(X, np.ndarray) else X.nnz) <= MOST_NONZEROS


def _votes(nearest: Nearest, ks: tuple[int, ...], rows: int) -> dict[int, sp.csr_array]:
    """Return for each k the weights of the k nearest of so many rows, CSR; none of a row that is like none."""
    similar, row = nearest
    like = similar[:, :1].max(1, initial=0) > 0
    weight = np.maximum(similar, 0).astype(np.float64) + LEAST_WEIGHT
    found = {}
    for k in ks:
        indptr = np.concatenate([[0], np.cumsum(like * min(k, row.shape[1]))])
        found[k] = sp.csr_array((weight[like, :k].ravel(), row[like, :k].ravel(), indptr), shape=(len(row), rows))
    return found
