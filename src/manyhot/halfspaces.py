"""Is there an input inside many half-spaces at once, and how far from all their boundaries? Linear programmes of reach.

max delta   such that   (u - l) . (x, 1) >= delta |u - l|   for each upper row u and each lower row l

A row holds the weights of a label and its bias. The cheap way first: a few projections onto what is violated. Then
linear programmes over the constraints that matter, found as they are violated.
"""

from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np

Status = Literal["yes", "tie", "no", "undecided"]

# Projections before a linear programme is asked. Each goes somewhat beyond the boundary, so that it ends inside.
STEPS = 8
BEYOND, PUSH = 1.5, 0.05
# A witness that is nearer to a boundary is replaced by the best there is, where there is a solver.
NARROW = 1e-3
# Differences below this share of their rows are computed from the difference itself, not from two scores.
CLOSE = 1e-6
# What a solver's own tolerance (1e-7) leaves of an equality.
ROUNDING = 1e-9
# Terms of exact fractions that a look for a tie may cost.
EXACT_TERMS = 300_000


class Found(NamedTuple):
    """What is known of one class or set: a witness (d,) for `yes` and `tie`, and the margin there."""

    status: Status
    margin: float
    witness: np.ndarray | None


class Halfspaces:
    """Rows that must be above rows: every pair is a constraint, by its own norm.

    Args:
        upper: (p, d + 1) float64, weights and bias.
        lower: (q, d + 1).
        strict: (p q,) boolean, which constraints an equality does not satisfy; for the others a tie is possible.
        nonnegative: inputs have no negative coordinate, as after a ReLU.
    """

    def __init__(self, upper: np.ndarray, lower: np.ndarray, strict: np.ndarray | None, nonnegative: bool) -> None:
        self.upper, self.lower, self.nonnegative = upper, lower, nonnegative
        norms = np.concatenate([np.linalg.norm(u - lower, axis=1) for u in upper])
        self.size = upper.shape[1] - 1
        self.level = norms == 0
        # A constraint between equal rows is 0 at every input, and no input changes that.
        self.norms = np.where(self.level, 1.0, norms)
        self.strict = strict
        longest = max(np.abs(upper).max(initial=0), np.abs(lower).max(initial=0))
        self.close = np.flatnonzero((norms < CLOSE * longest) & ~self.level)
        self.homogeneous = not (upper[:, -1:] - lower[:, -1]).any()

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Return constraints by number, each of length 1: (len(index), d + 1)."""
        above, below = np.divmod(index, len(self.lower))
        return (self.upper[above] - self.lower[below]) / self.norms[index, None]

    def slacks(self, x: np.ndarray) -> np.ndarray:
        """Return how far x (d,) is inside each half-space, (p q,); +inf for equal rows."""
        at = np.append(x, 1.0)
        slacks = ((self.upper @ at)[:, None] - self.lower @ at).reshape(-1) / self.norms
        if len(self.close):
            slacks[self.close] = self.rows(self.close) @ at
        slacks[self.level] = np.inf
        return slacks

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Scale an input to the largest coordinate 1 where that changes nothing but the margin."""
        longest = np.abs(x).max(initial=0)
        return x / longest if self.homogeneous and longest > 0 else x


def settle(spaces: Halfspaces, start: np.ndarray, tolerance: float) -> Found:
    """Say whether an input is inside all half-spaces, from a first guess of one."""
    equal = bool(spaces.level.any())
    if spaces.strict is not None:
        if (spaces.level & spaces.strict).any():
            return Found("no", 0.0, None)
        equal = False  # a label that is always at the threshold is not predicted, as wanted
    x = project(spaces, start)
    margin = float(spaces.slacks(x).min(initial=np.inf))
    if margin <= NARROW:
        try:
            found = _by_programme(spaces, x, tolerance)
        except ImportError:
            if margin <= tolerance:
                raise
        else:
            if found.status != "yes":
                return found
            margin, x = found.margin, found.witness
    return Found("tie" if equal else "yes", 0.0 if equal else margin, x)


def project(spaces: Halfspaces, x: np.ndarray) -> np.ndarray:
    """Move x onto the worst half-space and a little beyond, a few times or until it is inside all."""
    for _ in range(STEPS):
        x = spaces.scaled(np.maximum(x, 0) if spaces.nonnegative else x)
        slacks = spaces.slacks(x)
        worst = int(slacks.argmin())
        if slacks[worst] > 0:
            break
        normal = spaces.rows(np.array([worst]))[0, :-1]
        x = x + (PUSH - BEYOND * slacks[worst]) * normal
    return spaces.scaled(np.maximum(x, 0) if spaces.nonnegative else x)


def _by_programme(spaces: Halfspaces, x: np.ndarray, tolerance: float) -> Found:
    chosen = _first_constraints(spaces, x)
    # Most classes inside a hull are surrounded by their neighbours: then this one programme is enough.
    if (bound := _bound(spaces, chosen, tolerance)) is not None:
        return Found("no", bound, None)
    margin = -np.inf
    for box in (True,) if spaces.homogeneous else (True, False):
        x, chosen = _widest(spaces, chosen, box, tolerance)
        margin = float(spaces.slacks(x).min(initial=np.inf))
        if margin > tolerance:
            return Found("yes", margin, x)
    if spaces.homogeneous and spaces.strict is not None and not spaces.strict.any():
        return Found("tie", 0.0, np.zeros(spaces.size))  # at 0 all labels are at the threshold, and none above
    if (bound := _bound(spaces, chosen, tolerance)) is not None:
        return Found("no", bound, None)
    for guess in (_levelled(spaces, chosen), x):
        if _is_tie(spaces, guess, tolerance):
            return Found("tie", 0.0, guess)
    # Without bias x = 0 has 0; where the bound has sunk that low, the programme stopped before all constraints were in.
    return Found("undecided", max(margin, 0.0) if spaces.homogeneous else margin, None)


def _first_constraints(spaces: Halfspaces, x: np.ndarray) -> np.ndarray:
    """Return numbers of the constraints to start with: the rows that are nearest, and those that x violates most."""
    wanted = max(2 * spaces.size, 16)
    there = np.flatnonzero(~spaces.level)
    if len(there) <= 4 * wanted:
        return there
    nearest = there[np.argpartition(spaces.norms[there], wanted)[:wanted]]
    worst = np.argpartition(spaces.slacks(x), wanted)[:wanted]
    return np.union1d(nearest, worst)


def _widest(spaces: Halfspaces, chosen: np.ndarray, box: bool, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the input with the largest least slack, |x| <= 1 in a box or anywhere, and the constraints it took."""
    most = 1.0 if box else np.inf
    least = np.full(spaces.size, 0.0 if spaces.nonnegative else -most)
    while True:
        x, bound = _programme(spaces.rows(chosen), least, most)
        slacks = spaces.slacks(x)
        missed = np.flatnonzero(slacks < bound - ROUNDING)
        missed = missed[~np.isin(missed, chosen)]
        # With more constraints the bound sinks: at or below 0 it has said what there is to say.
        if not len(missed) or bound < (tolerance if box and spaces.homogeneous else -tolerance):
            return x, chosen
        at_once = max(2 * spaces.size, 32)
        if len(missed) > at_once:
            missed = missed[np.argpartition(slacks[missed], at_once)[:at_once]]
        chosen = np.union1d(chosen, missed)


def _programme(rows: np.ndarray, least: np.ndarray, most: float) -> tuple[np.ndarray, float]:
    """Solve max delta over x between `least` and `most`; where x has no end, delta <= 1 gives it one."""
    size = len(least)
    objective = np.append(np.zeros(size), -1.0)
    left = np.hstack([rows[:, :-1], -np.ones((len(rows), 1))])
    highest = np.append(np.full(size, most), np.inf if most < np.inf else 1.0)
    solved = _solve(objective, left, -rows[:, -1], np.inf, np.append(least, -np.inf), highest)
    assert solved is not None, "a low enough delta is always allowed"
    return solved[:-1], float(solved[-1])


def _bound(spaces: Halfspaces, chosen: np.ndarray, tolerance: float) -> float | None:
    """Return a number below 0, or 0 in a head without bias, that proves that no input is inside; None without a proof.

    Weights of constraints, >= 0 and of sum 1, whose combination of normals vanishes: the least slack of any x is at
    most the combination of slacks, which is that of the biases. Where there is no bias that is 0, and it is a proof
    that no x makes one constraint positive and none negative, if all weights are positive, no smaller part of
    the normals cancels, and all other constraints lie in their span.
    """
    if spaces.homogeneous and spaces.strict is not None and not spaces.strict.any():
        return None  # x = 0 is an input that has the empty set
    rows = spaces.rows(chosen)
    normals, bias = rows[:, :-1], rows[:, -1]
    left = np.vstack([normals.T, np.ones(len(rows))])
    # For inputs >= 0 a combination that is nowhere positive is enough.
    low, high = np.zeros(spaces.size + 1), np.zeros(spaces.size + 1)
    low[-1] = high[-1] = 1
    if spaces.nonnegative:
        low[:-1] = -np.inf
    weights = _solve(bias, left, low, high, np.zeros(len(rows)), np.ones(len(rows)))
    if weights is None:
        return None
    used = weights > ROUNDING
    count = int(used.sum())
    parts = normals[used]
    if spaces.nonnegative:
        parts = np.vstack([parts, np.eye(spaces.size)[-(weights @ normals) > ROUNDING]])
    # The one combination that vanishes, found again without the solver's tolerance.
    basis, lengths, combinations = np.linalg.svd(parts.T)
    rank = int((lengths > ROUNDING).sum())
    if rank != len(parts) - 1:
        return None
    weights = combinations[-1] / combinations[-1][:count].sum()
    if weights.min() < tolerance:
        return None
    if not spaces.homogeneous:
        bound = float(weights[:count] @ bias[used])
        return bound if bound < -tolerance else None
    if rank < spaces.size:
        span = basis[:, :rank]
        everything = spaces.rows(np.flatnonzero(~spaces.level))[:, :-1]
        if np.abs(everything - everything @ span @ span.T).max() > ROUNDING:
            return None
    return 0.0


def _levelled(spaces: Halfspaces, chosen: np.ndarray) -> np.ndarray:
    """Return an input that violates none of the chosen constraints and keeps off as many as it can."""
    rows = spaces.rows(chosen)
    least = np.full(spaces.size, 0.0 if spaces.nonnegative else -1.0)
    if spaces.strict is None or not spaces.strict[chosen].any():
        solved = _solve(-rows[:, :-1].sum(0), rows[:, :-1], -rows[:, -1], np.inf, least, np.ones(spaces.size))
    else:
        strict = spaces.strict[chosen].astype(float)
        solved = _solve(
            np.append(np.zeros(spaces.size), -1.0),
            np.hstack([rows[:, :-1], -strict[:, None]]),
            -rows[:, -1],
            np.inf,
            np.append(least, 0.0),
            np.append(np.ones(spaces.size), 1.0),
        )
    return np.zeros(spaces.size) if solved is None else solved[: spaces.size]


def _is_tie(spaces: Halfspaces, x: np.ndarray, tolerance: float) -> bool:
    """Say whether x satisfies all constraints, strict ones strictly, some of them level, and no step frees it of these.

    What is level is found in fractions, not floats. In a head without bias not all may be, as at x = 0.
    """
    slacks = spaces.slacks(x)
    near = np.flatnonzero(slacks < CLOSE)
    if slacks.min(initial=np.inf) < -CLOSE or len(near) * spaces.size > EXACT_TERMS:
        return False
    at, level = _exact(np.append(x, 1.0)), []
    for number in near.tolist():
        above, below = divmod(number, len(spaces.lower))
        terms = zip(_exact(spaces.upper[above]), _exact(spaces.lower[below]), at, strict=True)
        slack = sum(((high - low) * v for high, low, v in terms), Fraction(0))
        if slack < 0 or (slack == 0 and spaces.strict is not None and spaces.strict[number]):
            return False
        if slack == 0:
            level.append(number)
    if not level or (spaces.homogeneous and len(level) == len(slacks)):
        return False
    steps = spaces.rows(np.array(level)) * np.append(np.ones(spaces.size), 0.0)
    least = np.where(x == 0, 0.0, -1.0) if spaces.nonnegative else np.full(spaces.size, -1.0)
    return _programme(steps, least, 1.0)[1] <= tolerance


def _exact(row: np.ndarray) -> list[Fraction]:
    return [Fraction(v) for v in row.tolist()]


def _solve(
    objective: np.ndarray,
    left: np.ndarray,
    low: np.ndarray,
    high: np.ndarray | float,
    least: np.ndarray,
    most: np.ndarray,
) -> np.ndarray | None:
    """Minimise a linear objective by scipy's HiGHS; None where nothing is allowed."""
    try:
        # milp without integers is the same simplex as linprog, with a third of its overhead.
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ModuleNotFoundError as error:
        raise ImportError(
            "a linear programme is needed here, for which scipy is missing: pip install 'manyhot[toolkit]'"
        ) from error
    limits: Any = low, high  # scipy's stubs know single numbers alone
    box: Any = least, most
    solved = milp(objective, constraints=LinearConstraint(left, *limits), bounds=Bounds(*box))
    if solved.status == 2:
        return None
    if solved.x is None:
        raise RuntimeError(f"HiGHS solved no linear programme of {left.shape[0]} x {left.shape[1]}: {solved.message}")
    return solved.x
