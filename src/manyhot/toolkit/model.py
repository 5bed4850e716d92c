"""The linear model: logits = X W + b, fitted by full-batch L-BFGS or, where that needs too much memory, by AdamW."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import psutil
import scipy.sparse as sp
import torch
from torch import Tensor

from manyhot.toolkit.data import InputError
from manyhot.toolkit.features import DesignMatrix

Loss = Callable[[Tensor, Tensor], Tensor]
Solver = Literal["lbfgs", "adamw"]

HISTORY = 10
# Stop where a step gains less than this of the mean loss.
TOLERANCE = 1e-6
# Vectors of the size of the weights that torch's L-BFGS holds at its peak: 2 x HISTORY of history, then weights,
# gradient and what the line search keeps.
LBFGS_VECTORS = 26
ADAMW_VECTORS = 6
# Temporaries of the eager loss and its backward in tensors of rows x labels float32: 11.4 at 13,000 x 983.
LOGITS_TENSORS = 12
# On Reuters' training rows so many steps come to about 1 % of the objective that L-BFGS reaches.
BATCH_ROWS = 256
STEPS = 1200
MIN_EPOCHS = 5
# For rows of length 1; longer rows take shorter steps.
LEARNING_RATE = 0.2


@dataclass(frozen=True)
class Linear:
    """Weights (features, labels) and biases (labels,), float32."""

    weight: Tensor
    bias: Tensor

    def logits(self, X: DesignMatrix) -> np.ndarray:
        """Return (rows, labels) float32."""
        product = _Product(X)
        return product(self.weight.numpy()) + self.bias.numpy()


@dataclass(frozen=True)
class Plan:
    """How a model will be fitted, and what memory that takes."""

    solver: Solver
    parameters: int
    bytes: int
    free: int

    def describe(self) -> str:
        """Say it in one line."""
        how = "full-batch L-BFGS" if self.solver == "lbfgs" else "AdamW in mini-batches"
        return (
            f"{self.parameters:,} weights, {how}, about {gigabytes(self.bytes)} of memory ({gigabytes(self.free)} free)"
        )


def plan(rows: int, features: int, labels: int, *, free: int | None = None) -> Plan:
    """Choose the solver by memory: L-BFGS while its vectors and the dense logits fit a quarter of what is free.

    Raises:
        InputError: when not even mini-batches fit.
    """
    free = psutil.virtual_memory().available if free is None else free
    parameters = (features + 1) * labels
    lbfgs = 4 * parameters * LBFGS_VECTORS
    logits = 4 * rows * labels * LOGITS_TENSORS
    if max(lbfgs, logits) <= free // 4:
        return Plan("lbfgs", parameters, lbfgs + logits, free)
    adamw = 4 * parameters * ADAMW_VECTORS + 4 * min(rows, BATCH_ROWS) * labels * LOGITS_TENSORS + 4 * rows * labels
    if adamw <= free:
        return Plan("adamw", parameters, adamw, free)
    raise InputError(
        f"the model needs about {gigabytes(adamw)} of memory for {features:,} features x {labels:,} labels and "
        f"{gigabytes(free)} are free; use fewer text columns or fewer labels, or a machine with more memory."
    )


def gigabytes(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size / 1e6, 1):.0f} MB"


def fit_linear(
    X: DesignMatrix,
    targets: Tensor,
    *,
    loss: Loss,
    C: float,
    solver: Solver = "lbfgs",
    start: Linear | None = None,
    max_iter: int = 100,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda step, value: None,
) -> Linear:
    r"""Minimise the sum over rows of the loss + :math:`|W|^2/(2C)`; the bias is not penalised.

    Args:
        X: (rows, features), CSR or dense.
        targets: (rows, labels).
        loss: (logits, targets) to the sum over rows.
        C: > 0, the larger the weaker the penalty.
        solver: full batch, or mini-batches.
        start: weights to start from; zeros by default.
        max_iter: of L-BFGS.
        seed: of the order of mini-batches.
        progress: called with the number of evaluations or epochs and the mean loss.
    """
    shape = (X.shape[1], targets.shape[1])
    weight = torch.zeros(shape) if start is None else start.weight.clone()
    bias = torch.zeros(shape[1]) if start is None else start.bias.clone()
    weight.requires_grad_()
    bias.requires_grad_()
    fit = _lbfgs if solver == "lbfgs" else _adamw
    fit(X, targets, weight, bias, loss, C, max_iter, seed, progress)
    return Linear(weight.detach(), bias.detach())


def _lbfgs(X, targets, weight, bias, loss, C, max_iter, seed, progress) -> None:
    rows = X.shape[0]
    product, transposed = _Product(X), _Product(_transposed(X))
    # The mean in place of the sum has the same optimum, and tolerances that mean the same at any number of rows.
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iter,
        history_size=HISTORY,
        tolerance_grad=0.0,
        tolerance_change=TOLERANCE,
        line_search_fn="strong_wolfe",
    )
    evaluations = 0

    def closure() -> Tensor:
        nonlocal evaluations
        optimizer.zero_grad()
        logits = _Multiply.apply(weight, product, transposed) + bias
        value = (loss(logits, targets) + weight.square().sum() / (2 * C)) / rows
        value.backward()
        evaluations += 1
        progress(evaluations, value.item())
        return value

    optimizer.step(closure)


def _adamw(X, targets, weight, bias, loss, C, max_iter, seed, progress) -> None:
    rows = X.shape[0]
    generator = torch.Generator().manual_seed(seed)
    # weight_decay=0: the penalty stands in the objective, so that C means the same for both solvers.
    rate = LEARNING_RATE / mean_squared_length(X) ** 0.5
    optimizer = torch.optim.AdamW([weight, bias], lr=rate, weight_decay=0.0)
    batches = -(-rows // BATCH_ROWS)
    epochs = max(MIN_EPOCHS, -(-STEPS // batches))
    steps = epochs * batches
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(rows, generator=generator).split(BATCH_ROWS):
            part = X[batch.numpy()]
            optimizer.zero_grad()
            logits = _Multiply.apply(weight, _Product(part), _Product(_transposed(part))) + bias
            value = loss(logits, targets[batch]) / len(batch) + weight.square().sum() / (2 * C * rows)
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.item() * len(batch)
        progress(epoch + 1, total / rows)


def mean_squared_length(X: DesignMatrix) -> float:
    """Return the mean over rows of the squared length; never 0."""
    values: np.ndarray = X if isinstance(X, np.ndarray) else X.data
    return max(float(np.square(values, dtype=np.float64).sum()) / X.shape[0], 1e-12)


def _transposed(X: DesignMatrix) -> DesignMatrix:
    # CSR of the transpose: one pass over rows for the gradient too, and no scatter.
    return sp.csr_array(X.T) if sp.issparse(X) else np.ascontiguousarray(X.T)


class _Multiply(torch.autograd.Function):
    """X @ W through scipy: bitwise repeatable, faster on the CPU than torch's CSR product, and without its warning."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, product: "_Product", transposed: "_Product") -> Tensor:
        ctx.transposed = transposed
        return torch.from_numpy(product(weight.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return torch.from_numpy(ctx.transposed(np.ascontiguousarray(grads[0].numpy()))), None, None


class _Product:
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
        if len(self.blocks) == 1:
            return self.blocks[0] @ dense
        with ThreadPoolExecutor(len(self.blocks)) as pool:
            return np.concatenate(list(pool.map(lambda block: block @ dense, self.blocks)))
