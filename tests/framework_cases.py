"""The inputs that every leaf is run through, and what is right for them: tests/reference.py in float64."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

import reference
from reference import Result

# (logits, labels, options) to the loss of each row and the gradient of their sum by the logits.
Computed = Callable[["FrameworkCase"], tuple[np.ndarray, np.ndarray]]
ROWS, LABELS = 30, 14
INF, NAN = math.inf, math.nan
VALUE, GRADIENT = {"float32": 1e-6, "float64": 1e-12}, {"float32": 1e-6, "float64": 1e-12}


class FrameworkCase(NamedTuple):
    """One input. `dense` is what the labels mean, in float64; `labels` what a leaf is given."""

    name: str
    logits: np.ndarray
    labels: np.ndarray
    options: Mapping[str, Any]
    # Where a gradient comes back in half precision, that is how exact it can be.
    half: bool = False

    def expected(self, loss: str = "zlpr") -> Result:
        """Return what is right."""
        options = dict(self.options)
        labels = self.labels.astype(np.float64)
        with np.errstate(all="ignore"):
            return getattr(reference, loss)(self.logits.astype(np.float64), labels, reduction="none", **options)


class Errors(NamedTuple):
    """How far a leaf is off: values in parts of what is right, or of 1 where that is less; gradients as they are."""

    value: float
    gradient: float


def errors(case: FrameworkCase, value: np.ndarray, gradient: np.ndarray, loss: str = "zlpr") -> Errors:
    """Compare with what is right; NaN or an infinity in the wrong place is an infinite error."""
    right = case.expected(loss)
    value, gradient = np.asarray(value, dtype=np.float64), np.asarray(gradient, dtype=np.float64)
    assert value.shape == right.value.shape, (value.shape, right.value.shape)
    assert gradient.shape == right.gradient.shape, (gradient.shape, right.gradient.shape)
    return Errors(_largest(value, right.value, relative=True), _largest(gradient, right.gradient, relative=False))


def check(case: FrameworkCase, value: np.ndarray, gradient: np.ndarray, precision: str, loss: str = "zlpr") -> Errors:
    """Fail where a leaf is off by more than its precision allows."""
    found = errors(case, value, gradient, loss)
    assert found.value <= VALUE[precision], (case.name, found)
    assert found.gradient <= (5e-4 if case.half else GRADIENT[precision]), (case.name, found)
    return found


def _largest(found: np.ndarray, right: np.ndarray, *, relative: bool) -> float:
    if not np.array_equal(np.isinf(found), np.isinf(right)) or np.isnan(found).any():
        return INF
    finite = np.isfinite(right)
    off = np.abs(found[finite] - right[finite])
    if relative:
        off = off / np.maximum(np.abs(right[finite]), 1)
    return float(off.max(initial=0.0))


def _cases() -> list[FrameworkCase]:
    chance = np.random.default_rng(20220805)
    s = (3 * chance.standard_normal((ROWS, LABELS))).astype(np.float32)
    hard = (chance.random((ROWS, LABELS)) < 0.3).astype(np.float32)
    soft = chance.random((ROWS, LABELS)).astype(np.float32)
    unknown, wild = soft.copy(), s.copy()
    kinds = chance.random((ROWS, LABELS))
    unknown[kinds < 0.2] = -1
    unknown[(kinds >= 0.2) & (kinds < 0.4)] = NAN
    unknown[kinds >= 0.95] = -100
    wild[kinds < 0.1] = INF
    wild[(kinds >= 0.1) & (kinds < 0.2)] = -INF
    wild[(kinds >= 0.2) & (kinds < 0.4)] = NAN
    nothing = hard.copy()
    nothing[3] = -1
    nothing[4] = NAN
    infinite, sided = s.copy(), hard.copy()
    sided[0, :2], sided[1, :2], sided[2, :2] = (0, 1), (1, 0), (0, 1)
    infinite[0, 0], infinite[1, 0], infinite[2, :2] = INF, -INF, (-INF, INF)  # two on the wrong side, one on the right
    prior = (hard.sum(0) + 0.5) / (ROWS + 1)
    weight = chance.random(LABELS) * 2
    weight[5] = 0
    none: dict[str, Any] = {}
    return [
        FrameworkCase("hard", s, hard, none),
        FrameworkCase("soft", s, soft, none),
        FrameworkCase("unknown", wild, unknown, none),
        FrameworkCase("unknown row", s, nothing, none),
        FrameworkCase("large", s * 1e4, hard, none),
        FrameworkCase("infinite", infinite, sided, none),
        FrameworkCase("all positive", s, np.ones_like(hard), none),
        FrameworkCase("all negative", s, np.zeros_like(hard), none),
        FrameworkCase("prior", s, hard, {"prior": prior, "tau": 1.5, "scale": 2.0}),
        FrameworkCase("label weight", s, soft, {"label_weight": weight}),
        FrameworkCase("threshold", s, hard, {"threshold": 0.7, "scale": 1.5, "margin": 0.25}),
        FrameworkCase("float16", s.astype(np.float16), hard, none, half=True),
        FrameworkCase("bool", s, hard > 0, none),
        FrameworkCase("int8", s, np.where(kinds < 0.2, -1, hard).astype(np.int8), none),
        FrameworkCase("one label", s[:, :1], hard[:, :1], none),
        FrameworkCase("leading axes", s.ravel()[:30].reshape(2, 3, 5), hard.ravel()[:30].reshape(2, 3, 5), none),
    ]


CASES = {case.name: case for case in _cases()}
