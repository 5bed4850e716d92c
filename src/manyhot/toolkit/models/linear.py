"""The linear model: logits = X W + b, fitted by full-batch L-BFGS or, where that needs too much memory, by AdamW.

BCE is a sum over labels: L-BFGS gives each a curvature of its own, which takes a fraction of the iterations, and goes
by blocks of labels, which bounds the memory. Other losses go on from there where that is nearer to their optimum than
the best biases are (objectives says which), and so share this part of their fits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from manyhot.labels import label_prior
from manyhot.toolkit.disk.fits import UNSAVED, Arrays, Bookmark, Fits
from manyhot.toolkit.models import lbfgs
from manyhot.toolkit.models.adamw import Schedule, descend
from manyhot.toolkit.models.blocks import dense_product, in_blocks
from manyhot.toolkit.models.features import DesignMatrix
from manyhot.toolkit.models.lbfgs import Fit, Rows, Space, Weights, minimise
from manyhot.toolkit.models.model import Around, Memory, Outcome, Progress, free_memory, tensors, unheard
from manyhot.toolkit.models.products import Product, transposed
from manyhot.toolkit.objectives import Loss, Route, bce_of_labels

Solver = Literal["lbfgs", "adamw"]

# Stop where five iterations gain less than this part of the objective: of a label where each is fitted by itself, and
# of all labels.
TOLERANCE_OF_LABEL = 1e-3
TOLERANCE = 1e-3
# Pairs that are remembered where all labels are one problem.
HISTORY = 5
# Begins the name of the part of a fit that losses share.
SHARED = "each label: "
# Labels that are fitted side by side.
LABELS = 256
# Arrays of the size of a vector that L-BFGS holds at its peak, beside two for each remembered pair: weights, gradients,
# direction, and of rows x labels: logits, their change and their gradient.
LBFGS_VECTORS = 6
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
        bias = self.bias.numpy()
        if sp.issparse(X):  # each row is summed by itself
            return Product(X)(self.weight.numpy()) + bias
        return in_blocks(X, lambda block: dense_product(block, self.weight), len(bias)) + bias

    def shifted(self, by: np.ndarray) -> "Linear":
        """Return the model whose logits are higher by `by`, a number a label."""
        return Linear(self.weight, self.bias + torch.from_numpy(by))

    def scaled(self, by: np.ndarray) -> "Linear":
        """Return the model whose logits are multiplied by `by`, a number a label."""
        factor = torch.from_numpy(by.astype(np.float32))
        return Linear(self.weight * factor, self.bias * factor)

    def arrays(self) -> Arrays:
        """Return weight and bias."""
        return {"weight": self.weight.numpy(), "bias": self.bias.numpy()}

    def around(self, columns: np.ndarray, values: np.ndarray, labels: np.ndarray) -> Around:
        """Return its weights and biases, which are the same around every row."""
        weight, bias = self.weight.numpy(), self.bias.numpy()
        return weight[np.ix_(columns, labels)].astype(np.float64), bias[labels].astype(np.float64)

    @classmethod
    def restored(cls, arrays: Arrays, features: int, labels: int) -> "Linear":
        """Restore what :meth:`arrays` returned.

        Raises:
            ValueError: arrays of another shape.
        """
        wanted = {"weight": (features, labels), "bias": (labels,)}
        for name, shape in wanted.items():
            if arrays[name].shape != shape:
                raise ValueError(f"expected {name} of shape {shape}; got {arrays[name].shape}")
        return cls(*tensors({name: arrays[name] for name in wanted}).values())


@dataclass(frozen=True)
class LinearLearner:
    """How linear models are fitted: by L-BFGS while its vectors and the dense logits fit a quarter of what is free.

    Attributes:
        route: how L-BFGS comes to the optimum of the loss.
        by_rows: in the space of rows, in all fits of a run, so that they can start from each other.
        shape: rows, features, labels.
        max_iter: of each part of a fit.
    """

    loss: Loss
    memory: Memory
    solver: Solver
    route: Route
    by_rows: bool
    shape: tuple[int, int, int]
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
        route: Route = "all labels",
        stand_in: bool = False,
        max_iter: int = 60,
        seed: int = 0,
        free: int | None = None,
    ) -> "LinearLearner":
        """Choose the solver by memory.

        Args:
            rows, features, labels: how many there are.
            loss: (logits, targets) to the sum over rows.
            route: of L-BFGS to its optimum.
            stand_in: where all labels together need too much memory, the optimum of BCE may stand in.
            max_iter: of L-BFGS.
            seed: of the order of mini-batches.
            free: bytes.

        Raises:
            InputError: when not even mini-batches fit.
        """
        free = free_memory() if free is None else free
        by_rows = 2 * rows < features
        parameters = (features + 1) * labels
        # What fits keep for each other, the weights, and targets.
        kept = 4 * labels * (features + 4 * (rows if by_rows else features) + rows)

        def needed(side_by_side: int, history: int) -> tuple[int, int]:
            vectors = 4 * side_by_side * (2 * rows if by_rows else features) * (2 * history + LBFGS_VECTORS)
            return vectors, 4 * side_by_side * rows * LOGITS_TENSORS

        label_wise = needed(min(labels, LABELS), lbfgs.HISTORY)
        together = needed(labels, HISTORY if route == "each label, then all" else lbfgs.HISTORY)
        parts = {"each label": [label_wise], "each label, then all": [label_wise, together], "all labels": [together]}
        how = "full-batch L-BFGS"
        if stand_in and max(map(max, parts[route])) > free // 4 >= max(label_wise):
            route, how = "each label", "L-BFGS by blocks of labels on BCE, which needs less memory"
        options = (route, by_rows, (rows, features, labels), max_iter, seed)
        if max(map(max, parts[route])) <= free // 4:
            return cls(loss, Memory(how, parameters, max(map(sum, parts[route])) + kept, free), "lbfgs", *options)
        batch = 4 * min(rows, BATCH_ROWS) * labels * LOGITS_TENSORS
        memory = Memory(
            "AdamW in mini-batches", parameters, 4 * parameters * ADAMW_VECTORS + batch + 4 * rows * labels, free
        )
        memory.check(f"{features:,} features x {labels:,} labels", "use fewer text columns or fewer labels")
        return cls(loss, memory, "adamw", *options)

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
        start: Arrays | None = None,
        groups: np.ndarray | None = None,
        fits: Fits,
        name: str,
        progress: Progress,
    ) -> Outcome:
        """Fit on rows X and targets; what other losses share of it is a fit of its own, kept under `shared(name)`."""
        assert C is not None
        if self.solver == "adamw":
            weight, bias = torch.zeros(X.shape[1], targets.shape[1]), torch.zeros(targets.shape[1])
            _adamw(X, targets, weight, bias, self.loss, C, self.seed, fits.bookmark(name), progress)
            return Outcome(Linear(weight, bias), {}, False)
        task = _Task(X, targets, C, self.by_rows)
        stages = (self.route != "all labels") + (self.route != "each label")
        of = self.max_iter * stages
        point, at_limit = start or {}, False
        if self.route != "all labels":
            point = fits.finished(shared(name)) or {}
            if not point:
                bookmark = fits.bookmark(shared(name))
                point = task.fit_labels(start, self.max_iter, bookmark, lambda n, loss: progress(n, of, loss, None))
                fits.finish(shared(name), point)
        result = point
        if self.route != "each label":
            before, cold = of - self.max_iter, self.route == "all labels"
            result = task.fit_all(
                self.loss,
                point,
                self.max_iter,
                fits.bookmark(name),
                lambda n, loss: progress(before + n, of, loss, None),
                history=lbfgs.HISTORY if cold else HISTORY,
            )
            point = result if cold else point
            at_limit = bool(result["at_limit"])
        return Outcome(task.model(result), point, at_limit or bool(point["at_limit"]))

    def mean(self, starts: list[Arrays], rows: list[np.ndarray | None]) -> Arrays | None:
        """Return the mean of linear models, which is close to the optimum of all rows; None where none was kept."""
        if not all(starts):
            return None
        number, dtype = len(starts), starts[0]["left"].dtype
        left = np.zeros((self.shape[0] if self.by_rows else self.shape[1], self.shape[2]), dtype)
        for start, of in zip(starts, rows, strict=True):
            left[slice(None) if of is None or not self.by_rows else of] += start["left"] / dtype.type(number)
        return {"left": left, "bias": np.mean([start["bias"] for start in starts], 0, dtype=np.float64).astype(dtype)}


def shared(name: str) -> str:
    """Name the part of a fit that losses share: the optimum of BCE."""
    return SHARED + name


def is_shared(name: str) -> bool:
    """Say whether a fit is a part that losses share."""
    return name.startswith(SHARED)


def fit_linear(
    X: DesignMatrix,
    targets: Tensor,
    *,
    loss: Loss,
    C: float,
    solver: Solver = "lbfgs",
    start: Linear | np.ndarray | None = None,
    max_iter: int = 100,
    tolerance: float | None = None,
    seed: int = 0,
    bookmark: Bookmark = UNSAVED,
    progress: Progress = unheard,
) -> Linear:
    r"""Minimise the sum over rows of the loss + :math:`|W|^2/(2C)`, all labels together; the bias is not penalised.

    Args:
        X: (rows, features), CSR or dense.
        targets: (rows, labels).
        loss: (logits, targets) to the sum over rows.
        C: > 0, the larger the weaker the penalty.
        solver: full batch, or mini-batches.
        start: of L-BFGS, a model, or biases (labels,) beside zeros; by default the best biases.
        max_iter: of L-BFGS.
        tolerance: of L-BFGS, which stops where five iterations gain less than this part of the objective; by
            default TOLERANCE.
        seed: of the order of mini-batches.
        bookmark: where the state is left after a round of iterations, or after an epoch.
        progress: called with the number of iterations or epochs, how many there are at most, and the mean loss.
    """
    if solver == "adamw":
        weight, bias = torch.zeros(X.shape[1], targets.shape[1]), torch.zeros(targets.shape[1])
        _adamw(X, targets, weight, bias, loss, C, seed, bookmark, progress)
        return Linear(weight, bias)
    task = _Task(X, targets, C, by_rows=not isinstance(start, Linear) and 2 * X.shape[0] < X.shape[1])
    point: Arrays = {}
    if isinstance(start, Linear):
        point = {"left": start.weight.numpy(), "bias": start.bias.numpy()}
    elif start is not None:
        point = {"bias": start}

    def heard(iteration: int, value: float) -> None:
        progress(iteration, max_iter, value, None)

    return task.model(task.fit_all(loss, point, max_iter, bookmark, heard, tolerance=tolerance))


class _Task:
    """Rows, targets and a penalty: what L-BFGS fits, by either space."""

    def __init__(self, X: DesignMatrix, targets: Tensor, C: float, by_rows: bool) -> None:
        self.targets, self.by_rows = targets, by_rows
        self.multiply, self.transposed = Product(X), Product(transposed(X))
        self.space: Space = (Rows if by_rows else Weights)(self.multiply, self.transposed, C)
        self.size = X.shape[0] if by_rows else X.shape[1]
        self.dtype = X.dtype

    def fit_labels(
        self, start: Arrays | None, max_iter: int, bookmark: Bookmark, heard: Callable[[int, float], None]
    ) -> Arrays:
        """Find the optimum of BCE, by blocks of labels."""
        labels = self.targets.shape[1]
        blocks = np.array_split(np.arange(labels), -(-labels // LABELS))
        # The best bias of a label under BCE is its log-odds.
        point = start or {"bias": torch.logit(label_prior(self.targets)).numpy()}
        return self._descend(bce_of_labels, point, blocks, False, max_iter, TOLERANCE_OF_LABEL, 10, bookmark, heard)

    def fit_all(
        self,
        loss: Loss,
        start: Arrays,
        max_iter: int,
        bookmark: Bookmark,
        heard: Callable[[int, float], None],
        history: int = lbfgs.HISTORY,
        tolerance: float | None = None,
    ) -> Arrays:
        """Find the optimum of a loss, all labels together."""
        blocks = [np.arange(self.targets.shape[1])]
        if not start and bookmark.load() is None:
            start = {"bias": best_constants(self.targets, loss).numpy()}
        least = TOLERANCE if tolerance is None else tolerance
        return self._descend(loss, start, blocks, True, max_iter, least, history, bookmark, heard)

    def _descend(
        self,
        loss: Loss,
        start: Arrays,
        blocks: list[np.ndarray],
        together: bool,
        max_iter: int,
        tolerance: float,
        history: int,
        bookmark: Bookmark,
        heard: Callable[[int, float], None],
    ) -> Arrays:
        saved = bookmark.load()
        point = start if saved is None else saved
        labels = self.targets.shape[1]
        zeros = np.zeros((self.size, labels), self.dtype)
        left = np.array(point["left"]) if "left" in point else zeros
        bias = np.array(point["bias"], self.dtype) if "bias" in point else np.zeros(labels, self.dtype)
        first, at_limit = (0, False) if saved is None else (int(saved["block"]), bool(saved["at_limit"]))
        # What each block of labels adds to the objective; a block to come counts with log-odds as its logits.
        values = np.zeros(len(blocks)) if together else np.array([self._entropy(columns) for columns in blocks])
        values = values if saved is None else saved["of_blocks"].copy()
        for number in range(first, len(blocks)):
            columns = blocks[number]
            fit = Fit.begun(np.take(left, columns, 1), bias[columns], together=together)
            if saved is not None and number == first:
                fit.iterations, fit.scale, fit.resting, fit.values = (
                    int(saved["iterations"]),
                    *(saved[name] for name in ("scale", "resting", "values")),
                )

            def after(fit: Fit = fit, columns: np.ndarray = columns, number: int = number) -> None:
                left[:, columns], bias[columns] = fit.left, fit.bias
                counts = {"block": number, "iterations": fit.iterations, "at_limit": at_limit}  # noqa: B023
                counts["of_blocks"] = values.copy()
                bookmark.save(
                    lambda: (
                        {"left": left, "bias": bias, "scale": fit.scale, "resting": fit.resting, "values": fit.values}
                        | {name: np.array(count) for name, count in counts.items()}
                    )
                )

            def told(iteration: int, value: float, number: int = number) -> None:
                values[number] = value
                heard(-(-(number * max_iter + iteration) // len(blocks)), float(values.sum()) / len(self.targets))

            minimise(
                self.space,
                _objective(loss, self.targets, columns),
                fit,
                max_iter=max_iter,
                tolerance=tolerance,
                history=history,
                heard=told,
                after=after,
            )
            at_limit = at_limit or not fit.at_rest
        return {"left": left, "bias": bias, "at_limit": np.array(at_limit)}

    def _entropy(self, labels: np.ndarray) -> float:
        """Return the BCE of some labels whose logits are their log-odds."""
        targets = self.targets[:, torch.from_numpy(labels)]
        known = torch.ones_like(targets, dtype=torch.bool) if targets.dtype == torch.bool else targets >= 0
        number, positive = known.sum(0).double(), (targets > 0).sum(0).double()
        rest = number - positive
        return float((torch.xlogy(number, number) - torch.xlogy(positive, positive) - torch.xlogy(rest, rest)).sum())

    def model(self, point: Arrays) -> Linear:
        """Return the model of a point."""
        weight = self.transposed(point["left"]) if self.by_rows else point["left"]
        return Linear(torch.from_numpy(weight), torch.from_numpy(point["bias"]))


def _objective(loss: Loss, targets: Tensor, block: np.ndarray) -> lbfgs.Objective:
    """Return what L-BFGS sees of a loss: a sum over rows, of each label or of all.

    One thread of torch: its sums, and the ends of its vectors, round by how many threads there are.
    """
    taken: list[Any] = [np.zeros(0, np.int64), None]

    def objective(logits: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not np.array_equal(taken[0], columns):
            whole = len(columns) == targets.shape[1]
            taken[:] = columns, targets if whole else targets.index_select(1, torch.from_numpy(block[columns]))
        s = torch.from_numpy(logits).requires_grad_()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            value = loss(s, taken[1])
            value.sum().backward()
        finally:
            torch.set_num_threads(threads)
        assert s.grad is not None
        return value.detach().reshape(-1).double().numpy(), s.grad.numpy()

    return objective


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
        max_iter=20,
        history_size=10,
        tolerance_grad=0.0,
        tolerance_change=1e-6,
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


def _adamw(X, targets, weight, bias, loss, C, seed, bookmark, progress) -> None:
    rows = X.shape[0]
    weight.requires_grad_()
    bias.requires_grad_()

    def value(batch: np.ndarray, _: torch.Generator) -> Tensor:
        part = X[batch]
        logits = _Multiply.apply(weight, Product(part), Product(transposed(part))) + bias
        # The penalty stands in the objective, and not in AdamW's weight decay, so that C means the same as of L-BFGS.
        return loss(logits, targets[torch.from_numpy(batch)]) / len(batch) + weight.square().sum() / (2 * C * rows)

    schedule = Schedule(
        batch=BATCH_ROWS,
        epochs=max(MIN_EPOCHS, -(-STEPS // -(-rows // BATCH_ROWS))),
        rate=LEARNING_RATE / mean_squared_length(X) ** 0.5,
        factor=lambda share: 1 - share,
    )
    descend({"weight": weight, "bias": bias}, rows, value, schedule, seed=seed, bookmark=bookmark, progress=progress)
    weight.requires_grad_(False)
    bias.requires_grad_(False)


def mean_squared_length(X: DesignMatrix) -> float:
    """Return the mean over rows of the squared length; never 0."""
    values: np.ndarray = X if isinstance(X, np.ndarray) else X.data
    return max(float(np.square(values, dtype=np.float64).sum()) / X.shape[0], 1e-12)


class _Multiply(torch.autograd.Function):
    """X @ W: bitwise repeatable where X is sparse, faster than torch's CSR product, and without its warning."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, product: "Product", transposed: "Product") -> Tensor:
        ctx.transposed = transposed
        return torch.from_numpy(product(weight.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return torch.from_numpy(ctx.transposed(np.ascontiguousarray(grads[0].numpy()))), None, None
