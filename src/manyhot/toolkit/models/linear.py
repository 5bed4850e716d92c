"""The linear model: logits = X W + b, fitted by full-batch L-BFGS or, where that needs too much memory, by AdamW.

L-BFGS goes in rounds. After each it forgets its history, so that weights and the number of the round are all that an
interrupted fit needs to end in the same bits.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from manyhot.csr import CSR
from manyhot.labels import label_prior
from manyhot.toolkit.disk.fits import UNSAVED, Arrays, Steps
from manyhot.toolkit.models.adamw import Schedule, descend
from manyhot.toolkit.models.features import DesignMatrix
from manyhot.toolkit.models.model import BLOCK, Memory, Model, Progress, free_memory, tensors, unheard
from manyhot.toolkit.objectives import Loss

Solver = Literal["lbfgs", "adamw"]

HISTORY = 10
ROUND = 20
# Of the folds' fits. As many as the final fit has: with fewer, the level of the folds' logits is not yet that of the
# final ones, and the offset that gives the right number of labels for the first gives a wrong one for the second.
ROUGH_ITER = 60
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
        weight, bias = self.weight.numpy(), self.bias.numpy()
        if sp.issparse(X):  # each row is summed by itself
            return _Product(X)(weight) + bias
        blocks = [X[first : first + BLOCK] @ weight for first in range(0, X.shape[0], BLOCK)]
        return np.concatenate(blocks) + bias

    def shifted(self, by: np.ndarray) -> "Linear":
        """Return the model whose logits are higher by `by`, a number a label."""
        return Linear(self.weight, self.bias + torch.from_numpy(by))

    def arrays(self) -> Arrays:
        """Return weight and bias."""
        return {"weight": self.weight.numpy(), "bias": self.bias.numpy()}

    @classmethod
    def restored(cls, arrays: Arrays, features: int, labels: int) -> "Linear":
        """Restore what :meth:`arrays` returned.

        Raises:
            ValueError: arrays of another shape.
        """
        weight, bias = arrays["weight"], arrays["bias"]
        if weight.shape != (features, labels) or bias.shape != (labels,):
            raise ValueError(f"expected weights of shape {(features, labels)}; got {weight.shape}")
        return cls(*tensors({"weight": weight, "bias": bias}).values())


@dataclass(frozen=True)
class LinearLearner:
    """How linear models are fitted: by L-BFGS while its vectors and the dense logits fit a quarter of what is free."""

    loss: Loss
    memory: Memory
    solver: Solver
    shape: tuple[int, int]
    max_iter: int = 60
    seed: int = 0
    penalised = True

    @classmethod
    def planned(
        cls,
        rows: int,
        features: int,
        labels: int,
        *,
        loss: Loss,
        max_iter: int = 60,
        seed: int = 0,
        free: int | None = None,
    ) -> "LinearLearner":
        """Choose the solver by memory.

        Raises:
            InputError: when not even mini-batches fit.
        """
        free = free_memory() if free is None else free
        parameters = (features + 1) * labels
        lbfgs = 4 * parameters * LBFGS_VECTORS
        logits = 4 * rows * labels * LOGITS_TENSORS
        solver: Solver = "lbfgs" if max(lbfgs, logits) <= free // 4 else "adamw"
        if solver == "lbfgs":
            memory = Memory("full-batch L-BFGS", parameters, lbfgs + logits, free)
        else:
            batch = 4 * min(rows, BATCH_ROWS) * labels * LOGITS_TENSORS
            adamw = 4 * parameters * ADAMW_VECTORS + batch + 4 * rows * labels
            memory = Memory("AdamW in mini-batches", parameters, adamw, free)
            memory.check(f"{features:,} features x {labels:,} labels", "use fewer text columns or fewer labels")
        return cls(loss, memory, solver, (features, labels), max_iter, seed)

    @property
    def warm(self) -> bool:
        """Mini-batches are for models too large to keep one a fold."""
        return self.solver == "lbfgs"

    @property
    def info(self) -> dict[str, str]:
        """The solver."""
        return {"solver": self.solver}

    def fit(
        self,
        X: DesignMatrix,
        targets: Tensor,
        *,
        C: float | None,
        start: Model | None = None,
        rough: bool = False,
        groups: np.ndarray | None = None,
        steps: Steps,
        progress: Progress,
    ) -> Linear:
        """Fit on rows X and targets; see :func:`fit_linear`."""
        assert C is not None
        assert start is None or isinstance(start, Linear)
        max_iter = ROUGH_ITER if rough else self.max_iter
        options: Any = {"solver": self.solver, "start": start, "max_iter": max_iter, "seed": self.seed}
        return fit_linear(X, targets, loss=self.loss, C=C, steps=steps, progress=progress, **options)

    def mean(self, models: list[Model]) -> Linear | None:
        """Return the mean of linear models, which is close to the optimum of all rows; None of none."""
        if not models:
            return None
        arrays = [model.arrays() for model in models]
        weight, bias = (torch.stack([torch.from_numpy(a[name]) for a in arrays]).mean(0) for name in ("weight", "bias"))
        return Linear(weight, bias)

    def model(self, arrays: Arrays) -> Linear:
        """Restore what :meth:`Linear.arrays` returned."""
        return Linear.restored(arrays, *self.shape)


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
    steps: Steps = UNSAVED,
    progress: Progress = unheard,
) -> Linear:
    r"""Minimise the sum over rows of the loss + :math:`|W|^2/(2C)`; the bias is not penalised.

    Args:
        X: (rows, features), CSR or dense.
        targets: (rows, labels).
        loss: (logits, targets) to the sum over rows.
        C: > 0, the larger the weaker the penalty.
        solver: full batch, or mini-batches.
        start: weights to start from; by default zeros, and for L-BFGS the best biases beside them.
        max_iter: of L-BFGS.
        seed: of the order of mini-batches.
        steps: where the state is left after a round of iterations, or after an epoch.
        progress: called with the number of evaluations or epochs, how many there are at most, and the mean loss.
    """
    shape = (X.shape[1], targets.shape[1])
    weight = torch.zeros(shape) if start is None else start.weight.clone()
    if start is not None:
        bias = start.bias.clone()
    elif solver == "lbfgs" and steps.load() is None:
        bias = best_constants(targets, loss)
    else:
        bias = torch.zeros(shape[1])
    weight.requires_grad_()
    bias.requires_grad_()
    if solver == "lbfgs":
        _lbfgs(X, targets, weight, bias, loss, C, max_iter, steps, progress)
    else:
        _adamw(X, targets, weight, bias, loss, C, seed, steps, progress)
    return Linear(weight.detach(), bias.detach())


def best_constants(targets: Tensor, loss: Loss) -> Tensor:
    """Return the biases (labels,) of a model without features, after one round of L-BFGS.

    From zero, the level that all biases have in common is the last to come to rest: on cal500 (338 rows, 174 labels)
    the logits still sank after 100 iterations, so that folds and final fit, of different lengths, disagreed on how many
    labels there are. From here a round of 20 is further than 60 iterations from zero. No bias is further from 0 than
    the log-odds of its label: where a loss saturates, such as smooth F1, nothing would bring it back.
    """
    bias = torch.zeros(targets.shape[1], requires_grad=True)
    ones = torch.ones(len(targets), 1)
    optimizer = torch.optim.LBFGS(
        [bias],
        max_iter=ROUND,
        history_size=HISTORY,
        tolerance_grad=0.0,
        tolerance_change=TOLERANCE,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(ones * bias, targets) / len(targets)
        value.backward()
        return value

    optimizer.step(closure)
    odds = torch.logit(label_prior(targets))
    return bias.detach().clamp(odds.clamp(max=0), odds.clamp(min=0))


def _lbfgs(X, targets, weight, bias, loss, C, max_iter, steps, progress) -> None:
    rows = X.shape[0]
    product, transposed = _Product(X), _Product(_transposed(X))
    evaluations = 0

    def closure() -> Tensor:
        nonlocal evaluations
        optimizer.zero_grad()
        logits = _Multiply.apply(weight, product, transposed) + bias
        # The mean in place of the sum has the same optimum, and tolerances that mean the same at any number of rows.
        value = (loss(logits, targets) + weight.square().sum() / (2 * C)) / rows
        value.backward()
        evaluations += 1
        progress(evaluations, _evaluations(max_iter), value.item(), None)
        return value

    done, ended = 0, False
    if (saved := steps.load()) is not None:
        done, ended, evaluations = (int(saved[name]) for name in ("iterations", "ended", "evaluations"))
        with torch.no_grad():
            weight.copy_(torch.from_numpy(saved["weight"]))
            bias.copy_(torch.from_numpy(saved["bias"]))
    while done < max_iter and not ended:
        iterations = min(ROUND, max_iter - done)
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=iterations,
            max_eval=_evaluations(iterations),
            history_size=HISTORY,
            tolerance_grad=0.0,
            tolerance_change=TOLERANCE,
            line_search_fn="strong_wolfe",
        )
        before = evaluations
        optimizer.step(closure)
        state = optimizer.state[weight]
        ended = state["n_iter"] < iterations and evaluations - before < _evaluations(iterations)
        done += iterations
        counts = {"iterations": done, "ended": ended, "evaluations": evaluations}
        steps.save(
            lambda: (
                {"weight": weight.detach().numpy(), "bias": bias.detach().numpy()}
                | {name: np.array(count) for name, count in counts.items()}  # noqa: B023, called at once
            )
        )


def _evaluations(iterations: int) -> int:
    # As torch's own default: line searches take few.
    return iterations * 5 // 4


def _adamw(X, targets, weight, bias, loss, C, seed, steps, progress) -> None:
    rows = X.shape[0]

    def value(batch: np.ndarray, _: torch.Generator) -> Tensor:
        part = X[batch]
        logits = _Multiply.apply(weight, _Product(part), _Product(_transposed(part))) + bias
        # The penalty stands in the objective, and not in AdamW's weight decay, so that C means the same as of L-BFGS.
        return loss(logits, targets[torch.from_numpy(batch)]) / len(batch) + weight.square().sum() / (2 * C * rows)

    schedule = Schedule(
        batch=BATCH_ROWS,
        epochs=max(MIN_EPOCHS, -(-STEPS // -(-rows // BATCH_ROWS))),
        rate=LEARNING_RATE / mean_squared_length(X) ** 0.5,
        factor=lambda share: 1 - share,
    )
    descend({"weight": weight, "bias": bias}, rows, value, schedule, seed=seed, steps=steps, progress=progress)


def mean_squared_length(X: DesignMatrix) -> float:
    """Return the mean over rows of the squared length; never 0."""
    values: np.ndarray = X if isinstance(X, np.ndarray) else X.data
    return max(float(np.square(values, dtype=np.float64).sum()) / X.shape[0], 1e-12)


def _transposed(X: DesignMatrix) -> DesignMatrix:
    # CSR of the transpose: one pass over rows for the gradient too, and no scatter.
    return sp.csr_array(X.T) if sp.issparse(X) else np.ascontiguousarray(X.T)


class _Multiply(torch.autograd.Function):
    """X @ W: bitwise repeatable where X is sparse, faster than torch's CSR product, and without its warning."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, product: "_Product", transposed: "_Product") -> Tensor:
        ctx.transposed = transposed
        return torch.from_numpy(product(weight.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return torch.from_numpy(ctx.transposed(np.ascontiguousarray(grads[0].numpy()))), None, None


class _Product:
    """Multiplication by a fixed matrix, dense or sparse."""

    def __init__(self, X: DesignMatrix) -> None:
        self.matrix: Any = CSR(X) if sp.issparse(X) else X

    def __call__(self, dense: np.ndarray) -> np.ndarray:
        return self.matrix @ dense
