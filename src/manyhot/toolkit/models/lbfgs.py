r"""L-BFGS for linear models: the minimum of :math:`f(XW + b) + |W|^2/(2C)`, one problem or many side by side.

The solver knows f by a function of the logits that returns values and gradient. Where f is a sum over labels, each
label is a problem of its own, with its own curvature, step length and end; else all labels together are one. One code
serves both: a number for each problem has the shape (problems,), labels or 1.

A vector is (left, right, bias), and the inner product of two is sum(left_u * right_v) + bias_u . bias_v:

- in the space of weights left and right are W, (features, labels);
- in the space of rows left is A, (rows, labels), of W = X^T A, and right is X X^T A = X W. From W = 0 on every iterate
  of L-BFGS has this form: it is the same algorithm, and a vector has 2 x rows x labels numbers for features x labels.
  The gradient is (D, X X^T D) with D = G + A/C, in this order: X X^T G + right/C cancels near the optimum, right no
  longer belongs to left, and the fit diverges.

Along a direction the logits are linear, so a line search takes no product. Sums are made in float64. The two-loop
recursion runs on a table of inner products (Chen, Wang and Zhou 2014, "Large-scale L-BFGS using MapReduce"), so that an
iteration reads each vector of the history few times.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from manyhot.toolkit.models.line_search import search

HISTORY = 10
# After so many iterations the history is let go of and right multiplied anew, since in float32 it drifts from left.
# What is kept is also all that an interrupted fit needs to end in the same bits.
ROUND = 20
# Iterations over which a gain is looked at.
WINDOW = 5
# A pair of step s and change of gradient y says something where s.y is more than this of |s||y|.
CURVED = 1e-4
# A first step, before any pair, moves no logit further.
FIRST = 1.0
# Problems at rest leave when they are so many of those that are carried along.
RESTING = 0.25
# So many rows of a sum are added up in the dtype of the data, and the rest in float64.
BLOCK = 128
# Numbers of a vector that are combined at once, which the second cache holds: with 28 labels half the time of 128 rows.
AT_ONCE = 32_768

# (logits, columns of them among all labels) to the values (problems,) and the gradient by the logits.
Objective = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
Product = Callable[[np.ndarray], np.ndarray]


class Vector(NamedTuple):
    """Weights and biases: (size, labels), (size, labels), (labels,)."""

    left: np.ndarray
    right: np.ndarray
    bias: np.ndarray


class Space(Protocol):
    """The space of the vectors: what is kept of each, and their products."""

    @property
    def C(self) -> float: ...  # noqa: D102
    def vector(self, left: np.ndarray, bias: np.ndarray) -> Vector:
        """Return the vector with this left side."""
        ...

    def logits(self, vector: Vector) -> np.ndarray:
        """Return X W + b of a vector."""
        ...

    def gradient(self, at: Vector, by_logits: np.ndarray) -> Vector:
        """Return the gradient of f + |W|^2/(2C), given that of f by the logits."""
        ...


@dataclass(frozen=True)
class Weights:
    """The space of weights, for X as the product with it and with its transpose."""

    multiply: Product
    transposed: Product
    C: float

    def vector(self, left: np.ndarray, bias: np.ndarray) -> Vector:  # noqa: D102
        return Vector(left, left, bias)

    def logits(self, vector: Vector) -> np.ndarray:  # noqa: D102
        return self.multiply(vector.left) + vector.bias

    def gradient(self, at: Vector, by_logits: np.ndarray) -> Vector:  # noqa: D102
        return self.vector(self.transposed(by_logits) + at.left / self.C, _sum(by_logits))


@dataclass(frozen=True)
class Rows:
    """The space of rows."""

    multiply: Product
    transposed: Product
    C: float

    def vector(self, left: np.ndarray, bias: np.ndarray) -> Vector:  # noqa: D102
        return Vector(left, self.multiply(self.transposed(left)), bias)

    def logits(self, vector: Vector) -> np.ndarray:  # noqa: D102
        return vector.right + vector.bias

    def gradient(self, at: Vector, by_logits: np.ndarray) -> Vector:  # noqa: D102
        return self.vector(by_logits + at.left / self.C, _sum(by_logits))


@dataclass
class Fit:
    """Where a fit stands between two rounds.

    Attributes:
        left: (size, labels).
        bias: (labels,).
        iterations: made so far.
        scale: (problems,), step over gradient where nothing else is known; 0 before the first pair.
        resting: (problems,), where nothing is to be gained any more.
        values: (at most WINDOW + 1, problems), the objective after the last iterations.
    """

    left: np.ndarray
    bias: np.ndarray
    iterations: int
    scale: np.ndarray
    resting: np.ndarray
    values: np.ndarray

    @classmethod
    def begun(cls, left: np.ndarray, bias: np.ndarray, *, together: bool) -> "Fit":
        """Begin; the arrays are the fit's from here on."""
        problems = 1 if together else bias.size
        return cls(left, bias, 0, np.zeros(problems), np.zeros(problems, dtype=bool), np.zeros((0, problems)))

    @property
    def at_rest(self) -> bool:
        """Nothing is to be gained any more."""
        return bool(self.resting.all())


def minimise(
    space: Space,
    objective: Objective,
    fit: Fit,
    *,
    max_iter: int,
    tolerance: float,
    history: int = HISTORY,
    heard: Callable[[int, float], None] = lambda iteration, value: None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Move a fit, in place, until it is at rest or has made so many iterations.

    Args:
        space: of weights or of rows.
        objective: f, of the logits of some labels.
        fit: where it stands. One problem in it means that all labels are one.
        max_iter: iterations, those that it made before among them.
        tolerance: a problem is at rest where WINDOW iterations gained less than this part of its objective.
        history: pairs of steps and changes of the gradient that are remembered.
        heard: called after each iteration with its number and the objective.
        after: called after each round.

    Raises:
        FloatingPointError: the objective is not finite where a round starts.
    """
    while fit.iterations < max_iter and not fit.at_rest:
        descent = _Descent(space, objective, fit, history)
        for _ in range(min(ROUND, max_iter - fit.iterations)):
            fit.iterations += 1
            moved = descent.step(tolerance)
            heard(fit.iterations, float(fit.values[-1].sum()))
            if not moved or fit.at_rest:
                break
        descent.leave()
        after()


class _Descent:
    """A round: the point, its gradient and the history, of the problems that are not at rest."""

    def __init__(self, space: Space, objective: Objective, fit: Fit, history: int) -> None:
        self.space, self.objective, self.fit = space, objective, fit
        self.together = fit.resting.size == 1
        self.problems = np.flatnonzero(~fit.resting)
        self.columns = np.arange(fit.bias.size) if self.together else self.problems
        self.x = space.vector(_columns(fit.left, ~fit.resting).copy(), fit.bias[self.columns])
        self.logits = space.logits(self.x)
        losses, by_logits = objective(self.logits, self.columns)
        self.gradient = space.gradient(self.x, by_logits)
        self.penalty = self.over_problems(_inner(self.x.left, self.x.right)) / (2 * space.C)
        self.value = losses + self.penalty
        if not np.isfinite(self.value).all():
            raise FloatingPointError("the loss is not finite where its fit starts")
        self.scale = fit.scale[self.problems]
        self.pairs = _Pairs(history, len(self.problems))
        self.products = np.zeros((0, len(self.problems)))  # of the gradient with the vectors of the history
        if not len(fit.values):
            fit.values = self.value[None].copy()

    def over_problems(self, by_label: np.ndarray) -> np.ndarray:
        """Sum over the labels of each problem."""
        return by_label.sum(-1, keepdims=True) if self.together else by_label

    def dot(self, u: Vector, v: Vector) -> np.ndarray:
        """Return inner products, (problems,)."""
        return self.over_problems(_inner(u.left, v.right) + u.bias.astype(np.float64) * v.bias)

    def step(self, tolerance: float) -> bool:
        """Make an iteration; False where no problem got further, and the history is of no use."""
        live = ~self.fit.resting[self.problems]
        direction, slope, known = self.direction()
        moved = self.space.logits(direction)
        start = np.ones(len(self.problems))
        if not known.all():
            furthest = np.abs(moved).max(0, initial=0.0)
            furthest = furthest.max(keepdims=True) if self.together else furthest
            start = np.where(known | (furthest == 0), 1.0, FIRST / np.maximum(furthest, 1e-30))
        linear, quadratic = (self.over_problems(_inner(u.left, direction.right)) for u in (self.x, direction))
        C, by_logits = self.space.C, np.zeros_like(moved)

        def along(t: np.ndarray, tried: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            labels = slice(None) if tried.all() else np.flatnonzero(tried)
            t, base, steps = t[tried], _columns(self.logits, tried), _columns(moved, tried)
            losses, seen = self.objective(base + t.astype(steps.dtype) * steps, self.columns[labels])
            by_logits[:, labels] = seen
            rise = (t * linear[tried] + t * t / 2 * quadratic[tried]) / C
            slopes = self.over_problems(_inner(seen, steps)) + (linear[tried] + t * quadratic[tried]) / C
            return losses + self.penalty[tried] + rise, slopes

        t, value = search(along, self.value, slope, start, live & (slope < 0))
        stuck = live & (t == 0)
        # What steepest descent does not move is at rest.
        self.fit.resting[self.problems[stuck & ~self.pairs.useful]] = True
        self.pairs.forget(stuck)
        if (stuck | ~live).all():
            return False
        step = _scaled(direction, t)
        _add(self.x, step)
        self.value, self.penalty = value, self.penalty + (t * linear + t * t / 2 * quadratic) / C
        moved *= t.astype(moved.dtype)
        self.logits += moved
        self.remember(step, self.space.gradient(self.x, by_logits), t > 0)
        self.note(tolerance)
        return True

    def direction(self) -> tuple[Vector, np.ndarray, np.ndarray]:
        """Return a direction, how steep it is (problems,), and where a length of 1 is a good one."""
        square = self.dot(self.gradient, self.gradient)
        known = self.scale > 0
        scale = np.where(known, self.scale, np.median(self.scale[known]) if known.any() else 1.0)
        weights, of_gradient = self.pairs.direction(self.products, scale)
        slope = (weights * self.products).sum(0) + of_gradient * square
        uphill = ~(slope < 0)
        if uphill.any():  # rounding: the matrix is positive definite
            self.pairs.forget(uphill)
            weights[:, uphill], of_gradient[uphill] = 0.0, -scale[uphill]
            slope = np.where(uphill, -scale * square, slope)
        vectors = [*self.pairs.vectors, self.gradient]
        weights = np.vstack([weights, of_gradient])
        left = _combined([v.left for v in vectors], weights)
        same = self.gradient.right is self.gradient.left
        right = left if same else _combined([v.right for v in vectors], weights)
        bias = sum(w.astype(left.dtype) * v.bias for w, v in zip(weights, vectors, strict=True))
        return Vector(left, right, np.asarray(bias)), slope, known

    def remember(self, step: Vector, gradient: Vector, moved: np.ndarray) -> None:
        """Take in a step and the new gradient; the old one becomes the change."""
        vectors, shape = self.pairs.vectors, (-1, 2, len(self.problems))
        # Both products with a vector follow each other, while it is in the cache.
        found = np.array([(self.dot(gradient, v), self.dot(step, v)) for v in vectors]).reshape(shape)
        new, of_step = found[:, 0], found[:, 1]
        change = _subtracted(gradient, self.gradient)
        ss, sy, yy = self.dot(step, step), self.dot(step, change), self.dot(change, change)
        good = moved & (sy > CURVED * np.sqrt(ss * yy))
        self.scale = np.where(good, sy / np.where(yy > 0, yy, 1.0), self.scale)
        self.pairs.add(step, change, of_step, new - self.products, (ss, sy, yy), good)
        ends = np.array([self.dot(gradient, step), self.dot(gradient, change)])
        self.products, self.gradient = np.vstack([new, ends])[-len(self.pairs.vectors) :], gradient

    def note(self, tolerance: float) -> None:
        """Write the iteration down, and let problems rest that gained too little."""
        fit = self.fit
        values = fit.values[-1].copy()
        values[self.problems] = self.value
        fit.values = np.vstack([fit.values, values])[-WINDOW - 1 :]
        if len(fit.values) > WINDOW:
            fit.resting |= fit.values[0] - values <= tolerance * np.abs(values)
        keep = ~fit.resting[self.problems]
        if not self.together and keep.any() and (~keep).sum() >= RESTING * keep.size:
            self.narrow(keep)

    def narrow(self, keep: np.ndarray) -> None:
        """Leave out problems at rest."""
        self.leave()
        self.problems, self.columns = self.problems[keep], self.columns[keep]
        self.x, self.gradient = _taken(self.x, keep), _taken(self.gradient, keep)
        self.logits, self.products = _columns(self.logits, keep), self.products[:, keep]
        self.value, self.penalty, self.scale = self.value[keep], self.penalty[keep], self.scale[keep]
        self.pairs.narrow(keep)

    def leave(self) -> None:
        """Write the point back."""
        self.fit.left[:, self.columns] = self.x.left
        self.fit.bias[self.columns] = self.x.bias
        self.fit.scale[self.problems] = self.scale


class _Pairs:
    """The history: steps and changes of the gradient, oldest first, and their inner products.

    Attributes:
        vectors: step, change, step, change ...
        table: (vectors, vectors, problems).
        good: (pairs, problems), where a pair says something of the problem's curvature.
    """

    def __init__(self, most: int, problems: int) -> None:
        self.most = most
        self.vectors: list[Vector] = []
        self.table = np.zeros((0, 0, problems))
        self.good = np.zeros((0, problems), dtype=bool)

    @property
    def useful(self) -> np.ndarray:
        """Say which problems have a pair, (problems,)."""
        return np.asarray(self.good.any(0))

    def forget(self, problems: np.ndarray) -> None:
        """Let go of what is known of some problems, a mask."""
        self.good[:, problems] = False

    def add(
        self,
        step: Vector,
        change: Vector,
        of_step: np.ndarray,
        of_change: np.ndarray,
        ends: tuple[np.ndarray, np.ndarray, np.ndarray],
        good: np.ndarray,
    ) -> None:
        """Add a pair, given the products of both with all vectors before, with themselves and with each other."""
        size, problems = len(self.vectors), good.size
        table = np.zeros((size + 2, size + 2, problems))
        table[:size, :size] = self.table
        table[size, :size] = table[:size, size] = of_step
        table[size + 1, :size] = table[:size, size + 1] = of_change
        table[size, size], table[size, size + 1], table[size + 1, size + 1] = ends
        table[size + 1, size] = ends[1]
        self.vectors += [step, change]
        self.good = np.vstack([self.good, good])[-self.most :]
        over = max(len(self.vectors) - 2 * self.most, 0)
        del self.vectors[:over]
        self.table = table[over:, over:]

    def direction(self, products: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return minus the inverse Hessian times the gradient, as weights of the vectors and of the gradient.

        Args:
            products: (vectors, problems), of the gradient with each.
            scale: (problems,), of the first matrix.
        """
        weights, of_gradient = np.zeros_like(products), np.full(len(scale), -1.0)
        pairs = range(len(self.good))
        curvature = [np.where(self.good[i], self.table[2 * i, 2 * i + 1], np.inf) for i in pairs]
        taken = {}
        for i in reversed(pairs):
            taken[i] = ((self.table[2 * i] * weights).sum(0) + products[2 * i] * of_gradient) / curvature[i]
            weights[2 * i + 1] -= taken[i]
        weights, of_gradient = weights * scale, of_gradient * scale
        for i in pairs:
            back = ((self.table[2 * i + 1] * weights).sum(0) + products[2 * i + 1] * of_gradient) / curvature[i]
            weights[2 * i] += taken[i] - back
        return weights, of_gradient

    def narrow(self, keep: np.ndarray) -> None:
        """Leave out problems, one vector after the other, so that no two copies of all are there."""
        for i, vector in enumerate(self.vectors):
            self.vectors[i] = _taken(vector, keep)
        self.table, self.good = self.table[:, :, keep], self.good[:, keep]


def _inner(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the inner products of the columns of two arrays, (labels,) float64."""
    labels, blocks = u.shape[1], len(u) // BLOCK
    whole = blocks * BLOCK
    parts = [array[:whole].reshape(blocks, BLOCK, labels) for array in (u, v)]
    total = np.einsum("bnl,bnl->bl", *parts).sum(0, dtype=np.float64)
    return total + np.einsum("nl,nl->l", u[whole:], v[whole:])


def _combined(arrays: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Return the sum of arrays (size, labels), each times weights (problems,)."""
    out, weights = np.empty_like(arrays[0], order="C"), weights.astype(arrays[0].dtype)
    rows = max(min(AT_ONCE // out.shape[1], len(out)), 1)
    # Written out for so many rows, as a few labels are too short for a loop of their own.
    wide = np.tile(weights, (1, rows)) if weights.shape[1] > 1 else weights
    flat, terms = out.reshape(-1), [array.reshape(-1) for array in arrays]
    scaled = np.empty(rows * out.shape[1], out.dtype)
    for first in range(0, flat.size, scaled.size):
        part = slice(first, first + scaled.size)
        total = flat[part]
        np.multiply(terms[0][part], wide[0, : total.size], out=total)
        for term, weight in zip(terms[1:], wide[1:], strict=True):
            total += np.multiply(term[part], weight[: total.size], out=scaled[: total.size])
    return out


# In place, as vectors are most of the memory.


def _scaled(vector: Vector, by: np.ndarray) -> Vector:
    for array in _arrays(vector):
        array *= by.astype(array.dtype)
    return vector


def _add(to: Vector, vector: Vector) -> None:
    for array, more in zip(_arrays(to), _arrays(vector), strict=True):
        array += more


def _subtracted(vector: Vector, from_old: Vector) -> Vector:
    for old, new in zip(_arrays(from_old), _arrays(vector), strict=True):
        np.subtract(new, old, out=old)
    return from_old


def _arrays(vector: Vector) -> list[np.ndarray]:
    return [vector.left, vector.bias] if vector.right is vector.left else [*vector]


def _taken(vector: Vector, keep: np.ndarray) -> Vector:
    left = _columns(vector.left, keep)
    return Vector(left, left if vector.right is vector.left else _columns(vector.right, keep), vector.bias[keep])


def _columns(array: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Take columns by a mask, row by row in memory; one problem has them all."""
    return array if keep.all() else np.compress(keep, array, axis=1)


def _sum(array: np.ndarray) -> np.ndarray:
    return array.sum(0, dtype=np.float64).astype(array.dtype)
