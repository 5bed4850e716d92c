"""L-BFGS of linear models: both spaces against each other, the plain recursion and SciPy; float32 against float64."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit

from manyhot.toolkit.config import Config
from manyhot.toolkit.models import lbfgs as module
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.lbfgs import Fit, Rows, Weights, minimise
from manyhot.toolkit.models.line_search import CURVATURE, SLOPE, search
from manyhot.toolkit.read.inputs import read

C = 3.0


def problem(rows=50, features=200, labels=7, seed=0, dtype=np.float64):
    """Draw more features than rows, as texts have."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, features)) * (rng.random((rows, features)) < 0.2)
    targets = X @ rng.normal(size=(features, labels)) + rng.normal(size=(rows, labels)) > 1
    return X.astype(dtype), targets


def each(targets):
    """Return BCE of each label, and its gradient."""

    def objective(logits, columns):
        y = targets[:, columns]
        losses = np.logaddexp(0, logits.astype(np.float64)) - y * logits
        return losses.sum(0), (expit(logits) - y).astype(logits.dtype)

    return objective


def together(targets):
    """Return ZLPR of all labels, and its gradient."""

    def objective(logits, columns):
        s = logits.astype(np.float64)
        sides = [np.where(targets, -np.inf, s), np.where(targets, -s, -np.inf)]
        totals = [np.logaddexp.reduce(np.hstack([np.zeros((len(s), 1)), side]), 1, keepdims=True) for side in sides]
        with np.errstate(invalid="ignore"):
            gradient = np.exp(sides[0] - totals[0]) - np.exp(sides[1] - totals[1])
        return np.array([sum(total.sum() for total in totals)]), gradient.astype(logits.dtype)

    return objective


OBJECTIVES: dict[str, Any] = {"each label": each, "all labels": together}


def fitted(X, objective, labels, *, by_rows, alone, max_iter=60, tolerance=0.0, **options):
    """Fit from zero; the point and the objective after each iteration."""
    space = (Rows if by_rows else Weights)(lambda a: X @ a, lambda a: X.T @ a, C)
    left = np.zeros((X.shape[0] if by_rows else X.shape[1], labels), X.dtype)
    fit = Fit.begun(left, np.zeros(labels, X.dtype), together=not alone)
    heard = []
    minimise(
        space, objective, fit, max_iter=max_iter, tolerance=tolerance, heard=lambda n, v: heard.append(v), **options
    )
    return fit, heard


def weights(X, fit, by_rows):
    left = fit.left.astype(np.float64)
    return X.astype(np.float64).T @ left if by_rows else left


def recomputed(X, objective, W, bias):
    """Return the objective in float64, and its gradient by W."""
    X = X.astype(np.float64)
    losses, by_logits = objective(X @ W + bias, np.arange(len(bias)))
    return losses.sum() + np.square(W).sum() / (2 * C), X.T @ by_logits + W / C


@pytest.mark.parametrize("name", OBJECTIVES)
def test_rows_and_weights_are_two_spaces_of_one_algorithm(name):
    X, targets = problem()
    objective = OBJECTIVES[name](targets)
    options: Any = {"alone": name == "each label", "max_iter": 15}
    (rows, heard), (plain, heard_plain) = (fitted(X, objective, 7, by_rows=b, **options) for b in (True, False))
    np.testing.assert_allclose(heard, heard_plain, rtol=1e-10)
    np.testing.assert_allclose(weights(X, rows, True), plain.left, atol=1e-10)
    np.testing.assert_allclose(rows.bias, plain.bias, atol=1e-10)
    value, _ = recomputed(X, objective, plain.left, plain.bias)
    assert heard[-1] == pytest.approx(value, rel=1e-10)
    # The gradient in both, at another point than the optimum.
    A, bias = np.random.default_rng(1).normal(size=(50, 7)), np.ones(7)
    by_logits = objective(X @ (X.T @ A) + bias, np.arange(7))[1]
    by_rows, by_weights = (space(lambda a: X @ a, lambda a: X.T @ a, C) for space in (Rows, Weights))
    first = by_rows.gradient(by_rows.vector(A, bias), by_logits)
    second = by_weights.gradient(by_weights.vector(X.T @ A, bias), by_logits)
    np.testing.assert_allclose(X.T @ first.left, second.left, atol=1e-10)
    np.testing.assert_allclose(first.bias, second.bias, atol=1e-10)


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_optimum_is_that_of_scipy(name, by_rows):
    X, targets = problem()
    objective = OBJECTIVES[name](targets)
    fit, _ = fitted(X, objective, 7, by_rows=by_rows, alone=name == "each label", max_iter=100)

    def value(flat):
        W, bias = flat[:1400].reshape(200, 7), flat[1400:]
        losses, by_logits = objective(X @ W + bias, np.arange(7))
        total = losses.sum() + np.square(W).sum() / (2 * C)
        return total, np.concatenate([(X.T @ by_logits + W / C).ravel(), by_logits.sum(0)])

    options = {"ftol": 0, "gtol": 1e-9, "maxiter": 1000}
    best = scipy.optimize.minimize(value, np.zeros(1407), jac=True, method="L-BFGS-B", options=options)
    W = weights(X, fit, by_rows)
    np.testing.assert_allclose(W.ravel(), best.x[:1400], atol=1e-5)
    np.testing.assert_allclose(fit.bias, best.x[1400:], atol=1e-5)
    assert recomputed(X, objective, W, fit.bias)[0] == pytest.approx(best.fun, rel=1e-9)


def test_labels_side_by_side_are_fitted_as_each_alone():
    X, targets = problem()
    targets[:, 0] = False
    targets[3, 0] = True
    options: Any = {"by_rows": True, "alone": True, "max_iter": 200, "tolerance": 1e-3}
    all_of_them, _ = fitted(X, each(targets), 7, **options)
    for label in range(7):
        alone, _ = fitted(X, each(targets[:, [label]]), 1, **options)
        np.testing.assert_allclose(all_of_them.left[:, [label]], alone.left, atol=1e-9)
        np.testing.assert_allclose(all_of_them.bias[[label]], alone.bias, atol=1e-9)


def test_the_direction_is_that_of_the_two_loops():
    rng = np.random.default_rng(0)
    steps, changes = rng.normal(size=(2, 4, 9))
    changes += 3 * steps
    changes[1] = -steps[1]  # says nothing of a convex function
    gradient, scale = rng.normal(size=9), 0.3
    pairs = module._Pairs(3, 1)
    for s, y in zip(steps, changes, strict=True):
        vectors = [v.left.ravel() for v in pairs.vectors]
        table = [np.array([v @ u for v in vectors]).reshape(-1, 1) for u in (s, y)]
        ends = tuple(np.array([u @ v]) for u, v in ((s, s), (s, y), (y, y)))
        pairs.add(*(module.Vector(a[:, None], a[:, None], np.zeros(1)) for a in (s, y)), *table, ends, ends[1] > 0)
    kept = [v.left.ravel() for v in pairs.vectors]
    assert len(kept) == 6
    weights, of_gradient = pairs.direction(np.array([[v @ gradient] for v in kept]), np.array([scale]))
    found = sum(w * v for w, v in zip(weights[:, 0], kept, strict=True)) + of_gradient[0] * gradient
    q, taken = -gradient, []
    good = [(s, y) for s, y in zip(steps[1:], changes[1:], strict=True) if s @ y > 0]
    assert len(good) == 2
    for s, y in reversed(good):
        taken.append(s @ q / (s @ y))
        q = q - taken[-1] * y
    r = scale * q
    for (s, y), a in zip(good, reversed(taken), strict=True):
        r = r + s * (a - y @ r / (s @ y))
    np.testing.assert_allclose(found, r, atol=1e-12)


# Rounding


STRENGTHS = (10.0, 100.0, 1000.0)


def stays_true(monkeypatch, X, targets, strength):
    """Fit both ways in the space of rows: <A_d, Z_d> > 0 in every iteration, and the objective is that of float64."""
    monkeypatch.setitem(globals(), "C", strength / float(np.square(X.data).sum() / X.shape[0]))
    directions = []
    original = module._Descent.direction

    def direction(self):
        found = original(self)
        moving = ~self.fit.resting[self.problems]
        directions.append(self.over_problems(module._inner(found[0].left, found[0].right))[moving])
        return found

    monkeypatch.setattr(module._Descent, "direction", direction)
    labels = targets.shape[1]
    for name, alone in (("each label", True), ("all labels", False)):
        objective = OBJECTIVES[name](targets)
        fit, heard = fitted(X, objective, labels, by_rows=True, alone=alone)
        W = X.T.astype(np.float64) @ fit.left.astype(np.float64)
        value = objective(X.astype(np.float64) @ W + fit.bias, np.arange(labels))[0].sum()
        assert heard[-1] == pytest.approx(value + np.square(W).sum() / (2 * C), rel=1e-4)
        assert all(second <= first * (1 + 1e-5) for first, second in pairwise(heard))
    assert len(directions) > 50
    assert all((d > 0).all() for d in directions)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", ["enron", "debtags"])
def test_what_is_tracked_stays_true_on_real_tables(monkeypatch, data_root, name, strength):
    options: Any = {"data": "mulan/enron/enron-train.X.npz"}
    if name == "debtags":
        options = {"data": "debtags/train.jsonl.gz", "text": ("title", "description"), "labels": ("tags",)}
    options["data"] = str(data_root / options["data"])
    examples = read(Config(**options)).train.taken(np.arange(300))
    X, targets = Features.fit_transform(examples)[1], examples.targets.toarray()
    stays_true(monkeypatch, X, targets[:, targets.any(0)][:, :60], strength)


def test_a_problem_at_rest_leaves_and_is_not_moved_again():
    X, targets = problem()
    targets[:, :3] = False  # their biases go down, and little is gained
    sizes = []

    def counted(logits, columns):
        sizes.append(len(columns))
        return each(targets)(logits, columns)

    fit, heard = fitted(X, counted, 7, by_rows=True, alone=True, tolerance=1e-3, max_iter=200)
    assert fit.at_rest
    assert sizes[0] == 7
    assert min(sizes) < 4
    value, _ = recomputed(X, each(targets), weights(X, fit, True), fit.bias)
    assert heard[-1] == pytest.approx(value, rel=1e-9)


def test_a_fit_goes_on_from_what_is_left_after_a_round():
    X, targets = problem(dtype=np.float32)
    left: list[Any] = []

    def run(fit, stop=None):
        def after():
            left.append((fit.left.copy(), fit.bias.copy(), fit.iterations, fit.scale, fit.resting.copy(), fit.values))
            if len(left) == stop:
                raise KeyboardInterrupt

        space = Rows(lambda a: X @ a, lambda a: X.T @ a, C)
        minimise(space, each(targets), fit, max_iter=50, tolerance=1e-7, after=after)
        return fit

    begun = [Fit.begun(np.zeros((50, 7), np.float32), np.zeros(7, np.float32), together=False) for _ in range(2)]
    whole = run(begun[0])
    assert len(left) >= 2
    left.clear()
    with pytest.raises(KeyboardInterrupt):
        run(begun[1], stop=1)
    resumed = run(Fit(*left[0]))
    assert (resumed.left == whole.left).all()
    assert (resumed.bias == whole.bias).all()


def test_a_point_of_rest_is_left_at_once():
    X, targets = problem()
    fit, _ = fitted(X, each(targets), 7, by_rows=True, alone=True, max_iter=200, tolerance=1e-12)
    calls = []
    again = Fit.begun(fit.left.copy(), fit.bias.copy(), together=False)
    space = Rows(lambda a: X @ a, lambda a: calls.append(1) or X.T @ a, C)
    minimise(space, each(targets), again, max_iter=200, tolerance=1e-4)
    assert again.at_rest
    assert len(calls) < 15
    np.testing.assert_allclose(again.left, fit.left, atol=1e-4)


# The line search

FUNCTIONS: dict[str, Any] = {
    "far": (lambda t: (t - 30) ** 2, lambda t: 2 * (t - 30)),
    "near": (lambda t: (t - 1e-3) ** 2, lambda t: 2 * (t - 1e-3)),
    "steep": (lambda t: np.exp(5 * t) - 20 * t, lambda t: 5 * np.exp(5 * t) - 20),
    "flat": (lambda t: -np.log1p(t) + t / 50, lambda t: -1 / (1 + t) + 1 / 50),
    "wall": (lambda t: np.where(t < 0.2, -t, np.inf), lambda t: np.where(t < 0.2, -1.0, np.nan)),
}


def test_steps_meet_wolfe_each_for_itself():
    functions = list(FUNCTIONS.values())
    at = [
        np.array([float(f(np.float64(0))) for f, _ in functions]),
        np.array([float(g(np.float64(0))) for _, g in functions]),
    ]
    looked = np.zeros(len(functions))

    def along(t, tried):
        looked[tried] = t[tried]
        pairs = [(float(f(t[i])), float(g(t[i]))) for i, (f, g) in enumerate(functions) if tried[i]]
        values, slopes = zip(*pairs, strict=True)
        return np.array(values), np.array(slopes)

    live = np.ones(len(functions), dtype=bool)
    t, values = search(along, *at, np.ones(len(functions)), live)
    assert (looked == t).all()
    for i, (name, (f, g)) in enumerate(FUNCTIONS.items()):
        assert values[i] == pytest.approx(float(f(t[i])))
        assert values[i] <= at[0][i] + SLOPE * t[i] * at[1][i] + 1e-6, name
        if name != "wall":
            assert abs(g(t[i])) <= -CURVATURE * at[1][i] * (1 + 1e-9), name
    still, _ = search(along, *at, np.ones(len(functions)), ~live)
    assert (still == 0).all()
