"""Linear models of very many labels: BCE by blocks of labels, with sparse targets and sparse weights.

BCE is a sum over labels, so a block of them is a problem of its own: dense targets and dense weights are there of one
block at a time. Of its weights small ones are dropped, as DiSMEC does (Babbar and Schölkopf 2017, arXiv 1609.02521):
its squared hinge has more of them, and here held-out rows say from where on they are of use. Frequent labels are
fitted on all rows, the most frequent first, so that those of a block come to rest at about the same time. Rare ones go
by their topic, and are fitted on some of the rows (:mod:`working_rows`).
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F

from manyhot.labels import label_counts, label_prior
from manyhot.toolkit.disk.fits import UNSAVED, Arrays, Bookmark
from manyhot.toolkit.models import lbfgs
from manyhot.toolkit.models.blocks import BLOCK
from manyhot.toolkit.models.features import DesignMatrix
from manyhot.toolkit.models.lbfgs import Fit, Rows, Space, Weights, minimise
from manyhot.toolkit.models.linear import LABELS, LBFGS_VECTORS, mean_squared_length
from manyhot.toolkit.models.model import Around, Memory, Progress, free_memory, unheard
from manyhot.toolkit.models.products import Product, transposed
from manyhot.toolkit.models.ranked import TOP, Best, Ranked
from manyhot.toolkit.models.working_rows import LEAST, TOPIC, Working, are_rare, means_of, topics_of, working_rows

# Weights that are nearer to 0 are dropped, where rows are of length 1; of longer rows, less by their length. The first
# is DiSMEC's; the others are for where held-out rows say that they cost nothing.
DROPPED = (0.01, 0.03, 0.1, 0.3)
# Weights of a label that stay at most, in the mean of a block, and bytes of each: a number and where it is.
STAYS, BYTES = 10_000, 8
# Tensors of rows x labels that a fit holds at its peak.
TENSORS = 8
# A label is at rest where five iterations gain less than this part of its objective; and pairs that are remembered.
TOLERANCE, HISTORY = 1e-2, 5
# Rows of logits that a pass of the loss holds in the cache.
CHUNK = 256
# Labels that are fitted side by side at least.
FEWEST = 16


@dataclass(frozen=True)
class SparseLinear:
    """Weights (features, labels), scipy CSR, and biases (labels,), float32."""

    weight: Any
    bias: np.ndarray

    def logits(self, X: DesignMatrix) -> np.ndarray:
        """Return (rows, labels) float32."""
        found = np.empty((X.shape[0], len(self.bias)), np.float32)
        for first in range(0, len(found), BLOCK):
            # Each row is summed by itself, in the order of its features.
            found[first : first + BLOCK] = (sp.csr_array(X[first : first + BLOCK]) @ self.weight).toarray()
        return found + self.bias

    def shifted(self, by: np.ndarray) -> "SparseLinear":
        """Return the model whose logits are higher by `by`, a number a label."""
        return SparseLinear(self.weight, self.bias + by.astype(np.float32))

    def arrays(self) -> Arrays:
        """Return weight and bias."""
        weight = {f"weight.{part}": getattr(self.weight, part) for part in ("data", "indices", "indptr")}
        return weight | {"bias": self.bias}

    def around(self, columns: np.ndarray, values: np.ndarray, labels: np.ndarray) -> Around:
        """Return its weights and biases, which are the same around every row."""
        return self.weight[columns][:, labels].toarray().astype(np.float64), self.bias[labels].astype(np.float64)

    @classmethod
    def restored(cls, arrays: Arrays, features: int, labels: int) -> "SparseLinear":
        """Restore what :meth:`arrays` returned.

        Raises:
            ValueError: arrays that are no matrix of this shape.
        """
        parts = [np.array(arrays[f"weight.{part}"]) for part in ("data", "indices", "indptr")]
        weight = sp.csr_array(tuple(parts), shape=(features, labels))
        weight.check_format(full_check=True)
        if arrays["bias"].shape != (labels,):
            raise ValueError(f"expected bias of shape {(labels,)}; got {arrays['bias'].shape}")
        return cls(weight.astype(np.float32), np.array(arrays["bias"], dtype=np.float32))


class HeldRows(NamedTuple):
    """Rows that are not fitted on: their matrix, one unit of the prior of each label, and the strongest prior."""

    X: DesignMatrix
    prior: np.ndarray
    most: float


class Blocked(NamedTuple):
    """What a fit by blocks gives.

    Attributes:
        model: with the weights that were kept.
        at_limit: blocks that stopped at their limit of iterations.
        kept: the share of the weights.
        held: the best logits of held-out rows: with all weights, and as each way of dropping leaves them.
    """

    model: Any
    at_limit: int
    kept: float
    held: list[Ranked]


class _Block(NamedTuple):
    weight: Any
    bias: np.ndarray
    logits: list[np.ndarray]
    at_rest: bool
    loss: float


class _Products(NamedTuple):
    """The products with a matrix (rows, features) and with its transpose."""

    shape: tuple[int, int]
    dtype: np.dtype
    multiply: Product
    transpose: Product

    @classmethod
    def of(cls, X: DesignMatrix) -> "_Products":
        return cls(X.shape, X.dtype, Product(X), Product(transposed(X)))


@dataclass(frozen=True)
class BlockLearner:
    """How linear models of very many labels are fitted: BCE, a block of labels after the other.

    Attributes:
        memory: what fitting takes.
        by_rows: in the space of rows, as of :class:`LinearLearner`.
        block: labels that are one block.
        by_topic: rare labels are fitted on some of the rows: so are all fits of a training, or none.
        threads: blocks that are fitted at once, each by a thread; their number changes no bit.
        max_iter: of each.
    """

    memory: Memory
    by_rows: bool
    block: int
    by_topic: bool = False
    threads: int = 1
    max_iter: int = 60
    penalised = True

    @classmethod
    def planned(
        cls,
        rows: int,
        features: int,
        labels: int,
        *,
        cells: int,
        positives: int = 0,
        max_iter: int = 60,
        free: int | None = None,
    ) -> "BlockLearner":
        """Choose by memory how many labels are a block, and how many blocks are fitted at once.

        Args:
            rows, features, labels: how many there are.
            cells: of the rows, that are not 0.
            positives: of all labels together.
            max_iter: of L-BFGS.
            free: bytes.

        Raises:
            InputError: when not even a few labels side by side fit.
        """
        free = free_memory() if free is None else free
        by_rows = 2 * rows < features
        # A vector of L-BFGS, tensors of rows x labels, and the weights of a block, whole and as they are cut.
        vectors = 4 * (2 * rows if by_rows else features) * (2 * HISTORY + LBFGS_VECTORS)
        label = vectors + 4 * rows * TENSORS + 12 * features
        # The rows of a fold and all transposes, the weights that stay, in pieces and put together, and what rows keep.
        stay = int(min(STAYS, features) * labels)
        kept = 24 * cells + 2 * BYTES * stay + 48 * TOP * rows
        by_topic = rows >= LEAST
        if by_topic:  # the mean row of each label, and as they are halved
            kept += 2 * BYTES * min(cells * positives // rows, features * labels)
        block = int(min(max((free // 2 - kept) // label, FEWEST), LABELS, labels))
        threads = int(min(max((free // 2 - kept) // (label * block), 1), torch.get_num_threads(), -(-labels // block)))
        memory = Memory(
            f"L-BFGS on BCE, {-(-labels // block):,} blocks of {block:,} labels, {threads} at once",
            stay + labels,
            kept + threads * block * label,
            free,
        )
        memory.check(
            f"{rows:,} rows x {features:,} features x {labels:,} labels, {block:,} labels at a time",
            "use fewer rows, or the most frequent labels and features",
        )
        return cls(memory, by_rows, block, by_topic, threads, max_iter)

    @property
    def info(self) -> dict[str, str]:
        """The solver, and that weights are sparse."""
        return {"solver": "lbfgs", "weights": "sparse"}

    @property
    def restore(self) -> Callable[[Arrays, int, int], SparseLinear]:
        """(arrays, features, labels) to the model that they are of."""
        return SparseLinear.restored

    def fit(
        self,
        X: DesignMatrix,
        targets: Any,
        *,
        C: float,
        drop: float = DROPPED[0],
        held: HeldRows | None = None,
        drops: tuple[float, ...] = (),
        groups: np.ndarray | None = None,
        bookmark: Bookmark = UNSAVED,
        done: Progress = unheard,
    ) -> Blocked:
        """Fit on rows X and targets.

        Args:
            X: (rows, features).
            targets: (rows, labels), scipy CSR of bool.
            C: the penalty.
            drop: weights that are nearer to 0 are dropped, where rows are of length 1.
            held: rows whose best logits are asked for: of all weights, and of those that each of `drops` leaves.
            drops: ways of dropping.
            groups: of no use here; a network holds rows out.
            bookmark: where the state is left after each block.
            done: called after each block, with the mean loss.
        """
        labels = targets.shape[1]
        blocks, means = self._blocks(X, targets)
        order = np.concatenate([columns for columns, _ in blocks])
        # A label that no row has is as frequent as one may be that was not seen.
        bias = torch.logit(torch.from_numpy(label_prior(targets))).float().numpy()
        by_label: Any = sp.csc_array(targets)
        whole = _Products.of(X)
        length = mean_squared_length(X) ** 0.5
        multiply_held = None if held is None else Product(held.X)

        def of_block(number: int) -> _Block:
            columns, is_topic = blocks[number]
            of_columns = by_label[:, columns]
            working = None
            if is_topic:
                likeness = whole.multiply(np.ascontiguousarray(means[columns].toarray().T))
                working = working_rows(likeness, of_columns, number)
                del likeness
            if working is None:
                weight, fit = self._fitted(whole, self.by_rows, C, of_columns, bias[columns])
            else:
                weight, fit = self._fitted_on_some(X, working, C, of_columns, bias[columns])
            logits: list[np.ndarray] = []
            if multiply_held is not None:
                logits = [multiply_held(_cut(weight, least / length)) + fit.bias for least in (0.0, *drops)]
            loss = float(fit.values[-1].sum()) / X.shape[0] if len(fit.values) else 0.0
            return _Block(sp.csc_array(_cut(weight, drop / length)), fit.bias, logits, fit.at_rest, loss)

        best = [] if held is None else [Best(held.X.shape[0], TOP, held.prior, held.most) for _ in (0.0, *drops)]
        parts, at_limit, first = [sp.csc_array((X.shape[1], 0), dtype=np.float32)], 0, 0
        if (saved := bookmark.load()) is not None:
            first, at_limit, bias = int(saved["block"]), int(saved["at_limit"]), saved["bias"].copy()
            pieces = tuple(saved[f"weight.{part}"] for part in CSR_PARTS)
            parts = [sp.csc_array(pieces, shape=(X.shape[1], len(pieces[2]) - 1))]
            for i, of in enumerate(best):
                of.restore(saved, str(i))
        for number, block in enumerate(_side_by_side(of_block, range(first, len(blocks)), self.threads), first):
            columns, _ = blocks[number]
            parts.append(block.weight)
            bias[columns], at_limit = block.bias, at_limit + int(not block.at_rest)
            for of, logits in zip(best, block.logits, strict=True):
                of.offer(columns, logits)
            done(number + 1, len(blocks), block.loss, None)
            bookmark.save(partial(_state, number + 1, at_limit, bias, parts, best))
        model = SparseLinear(_put_together(parts, order, labels), bias)
        kept = model.weight.nnz / max(X.shape[1] * len(order), 1)
        return Blocked(model, at_limit, kept, [of.ranked() for of in best])

    def _blocks(self, X: DesignMatrix, targets: Any) -> tuple[list[tuple[np.ndarray, bool]], Any]:
        """Part the labels: positions, and whether they are rare ones of a topic; and return the means of their rows."""
        counts, rare = label_counts(targets), are_rare(X, targets) & self.by_topic
        order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
        frequent = order[~rare[order]]
        parts = -(-len(frequent) // self.block)
        blocks = [(columns, False) for columns in (np.array_split(frequent, parts) if parts else ())]
        if not rare.any():
            return blocks or [(frequent, False)], None
        means = means_of(X, targets)
        rarer = np.flatnonzero(rare)
        return [*blocks, *((rarer[of], True) for of in topics_of(means[rarer], min(self.block, TOPIC)))], means

    def _fitted(
        self, X: _Products, by_rows: bool, C: float, targets: Any, bias: np.ndarray, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, Fit]:
        """Fit some labels from their biases on; their weights (features, labels), and where the fit stands."""
        space: Space = (Rows if by_rows else Weights)(X.multiply, X.transpose, C)
        left = np.zeros((X.shape[0] if by_rows else X.shape[1], len(bias)), dtype=X.dtype)
        fit = Fit.begun(left, bias, together=False)
        objective = bce_of(targets, weights)
        minimise(space, objective, fit, max_iter=self.max_iter, tolerance=TOLERANCE, history=HISTORY)
        return X.transpose(fit.left) if by_rows else fit.left, fit

    def _fitted_on_some(
        self, X: Any, working: Working, C: float, targets: Any, bias: np.ndarray
    ) -> tuple[np.ndarray, Fit]:
        """Do the same on some rows, and on the features that these have."""
        part = X[working.rows]
        used = np.flatnonzero(np.bincount(part.indices, minlength=X.shape[1]))
        part = _Products.of(sp.csr_array(part[:, used]))
        of_rows = sp.csc_array(sp.csr_array(targets)[working.rows])
        by_rows = 2 * part.shape[0] < part.shape[1]
        weight, fit = self._fitted(part, by_rows, C, of_rows, bias, working.weights)
        whole = np.zeros((X.shape[1], len(bias)), dtype=weight.dtype)
        whole[used] = weight
        return whole, fit


# What a sparse matrix is made of.
CSR_PARTS = ("data", "indices", "indptr")


def _state(block: int, at_limit: int, bias: np.ndarray, parts: list[Any], best: list[Best]) -> Arrays:
    """Return what a fit goes on from; the pieces of the weights are put together for it."""
    parts[:] = [sp.csc_array(sp.hstack(parts, format="csc"))]
    state = {"block": np.array(block), "at_limit": np.array(at_limit), "bias": bias}
    state |= {f"weight.{part}": getattr(parts[0], part) for part in CSR_PARTS}
    for i, of in enumerate(best):
        state |= of.arrays(str(i))
    return state


def _side_by_side(of_block: Callable[[int], _Block], numbers: range, threads: int) -> Iterator[_Block]:
    """Fit some blocks at once, and yield them in their order; each by one thread of torch, which is the faster way."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Any] = deque()
    try:
        for number in numbers:
            waiting.append(pool.submit(of_block, number))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _cut(weight: np.ndarray, least: float) -> np.ndarray:
    """Drop weights below the least, and of more than may stay the smallest; all stay where the least is 0."""
    if not least:
        return weight
    size = np.abs(weight)
    if np.count_nonzero(size >= least) > (most := STAYS * weight.shape[1]):
        least = max(least, float(np.partition(size, size.size - most, axis=None)[size.size - most]))
    return np.where(size < least, np.float32(0), weight)


def bce_of(targets: Any, weights: np.ndarray | None = None) -> lbfgs.Objective:
    """Return BCE of each label as a sum over rows, and its gradient by the logits.

    Args:
        targets: (rows, labels), scipy CSC of bool.
        weights: (rows,), float32, of the sum; rows that have a label have a weight of 1.

    A row of a block stays in the cache from the sigmoid to the sum, and positives, which are few, are added by
    themselves: dense targets in a loss of torch's take twice the time.
    """
    taken: list[Any] = [np.zeros(0, np.int64), None, None]
    by_row = None if weights is None else torch.from_numpy(weights)[:, None]

    def objective(logits: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not np.array_equal(taken[0], columns):
            some: Any = targets[:, columns]
            taken[:] = columns, some.indices, np.repeat(np.arange(len(columns)), np.diff(some.indptr))
        _, row, column = taken
        s, by_logits = torch.from_numpy(logits), torch.empty(logits.shape)
        values = torch.zeros(len(columns), dtype=torch.float64)
        for first in range(0, len(logits), CHUNK):
            part = s[first : first + CHUNK]
            losses, slopes = F.softplus(part), torch.sigmoid(part, out=by_logits[first : first + CHUNK])
            if by_row is not None:
                for of in (losses, slopes):
                    of *= by_row[first : first + CHUNK]
            values += losses.sum(0)
        gradient = by_logits.numpy()
        gradient[row, column] -= 1
        return values.numpy() - np.bincount(column, logits[row, column], minlength=len(columns)), gradient

    return objective


def _put_together(parts: list[Any], order: np.ndarray, labels: int) -> Any:
    """Put the weights of blocks where their labels are; each piece is let go of when it is copied."""
    joined: Any = sp.csc_array(sp.hstack(parts, format="csc"))
    parts.clear()
    joined = joined[:, np.argsort(order)]
    sizes = np.zeros(labels, dtype=np.int64)
    sizes[np.sort(order)] = np.diff(joined.indptr)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return sp.csc_array((joined.data, joined.indices, starts), shape=(joined.shape[0], labels)).tocsr()
