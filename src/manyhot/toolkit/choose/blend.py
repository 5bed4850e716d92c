r"""How far to listen to the training rows most like a row, beside the linear model: held-out rows decide.

.. math::
    s'_i = a_0 c_i(s_i) + \sum_k a_k z_{ki} + b + b_i

with c the calibration of the linear logits s, and z what the k nearest rows say (manyhot.toolkit.models.neighbours).
The slopes a, at least 0, the offset b and the labels' own offsets, with a penalty of b_i^2 / 2, minimise the log-loss
of rows that neither model nor neighbours have seen. Where many labels are rare, c would draw them to what all labels
have in common, and so take part of what the prior does: there s itself stands in its place, and there are no b_i
("pooled").

A blend is used where its score on the same rows is higher. Its linear part goes into the model's own weights and bias.
"""

from typing import Any, NamedTuple

import numpy as np

from manyhot.calibration import fit_calibration
from manyhot.labels import CardinalityRange
from manyhot.toolkit.choose.calibrate import MAX_CELLS
from manyhot.toolkit.choose.cross_fit import Choice, Fold, Held, Rule, Step, step_of
from manyhot.toolkit.models.neighbours import KS, Neighbours

# The score has to rise by more than this.
GAIN = 0.0
# Labels with fewer positives are rare, and with such a share of them a blend is pooled.
RARE, RARE_SHARE = 10, 0.1
# Of so many held-out rows and more, so many are looked at first: to search for the neighbours of all takes a time that
# grows with their square, and is spent only where these promise a gain. imdb, whose neighbours have nothing to say,
# took 180 processor seconds, and takes 33 (`make bench-linear ALL=1`).
MANY, FIRST = 20_000, 5_000
# Numbers that one step holds of each input.
BLOCK = 1_000_000
ITERATIONS, HALVINGS, FLAT = 50, 30, 1e-9


class Blend(NamedTuple):
    """How a linear model and its neighbours make one logit.

    Attributes:
        scale: (labels,), what multiplies the linear logits: a_0 / T, or a_0.
        shift: (labels,), what is added.
        linear: a_0.
        votes: a_k, for each of KS.
        scores: on held-out rows, without neighbours and with them.
    """

    scale: np.ndarray
    shift: np.ndarray
    linear: float
    votes: tuple[float, ...]
    scores: tuple[float, float] = (0.0, 0.0)

    @property
    def share(self) -> float:
        """The share of neighbours in all weight."""
        return sum(self.votes) / (sum(self.votes) + self.linear)

    def logits(self, linear: np.ndarray, log_odds: list[np.ndarray]) -> np.ndarray:
        """Return s' of linear logits and of what neighbours say, (rows, labels) float32."""
        total = linear * self.scale + self.shift
        for weight, z in zip(self.votes, log_odds, strict=True):
            total += weight * z
        return total.astype(np.float32)


def blended(
    choice: Choice,
    folds: list[Fold],
    columns: int,
    *,
    rule: Rule,
    cardinality: CardinalityRange,
    train_counts: np.ndarray,
    with_metrics: bool = False,
) -> tuple[Choice, Blend | None]:
    """Blend the held-out logits of a choice with the neighbours of held-out rows.

    Args:
        choice: of the linear model.
        folds: those it was chosen by. The neighbours of a held-out row are rows of its own fold's training part.
        columns: those before are compared; the others are what a kernel makes of them.
        rule: finds tau and the offset by held-out rows.
        cardinality: how many labels a prediction may have.
        train_counts: positives of each label in all training rows.
        with_metrics: the step gets all of them, not the score alone.

    Returns:
        The choice with the blended logits, and tau, offset and score of these, and the blend; or the choice as it was,
        and None, where neighbours do not help.
    """
    held, pooled = choice.held, is_pooled(train_counts)
    heard = [np.empty(held.logits.shape, np.float32) for _ in KS]

    def hear(rows: np.ndarray) -> None:
        """Hear the neighbours of some held-out rows, those of one fold after those of another, as each is large."""
        first = 0
        for fold in folds:
            mine = rows[(rows >= first) & (rows < first + fold.X_held.shape[0])]
            voters = Neighbours.of(fold.X[:, :columns], fold.targets)
            for of_all, log_odds in zip(heard, voters.log_odds(fold.X_held[mine - first, :columns]), strict=True):
                of_all[mine] = log_odds
            first += fold.X_held.shape[0]

    def with_votes(rows: Any, before: float, counts: np.ndarray | None) -> tuple[Held, Step, Blend]:
        """Blend what was heard of some rows, and say what comes of it, where it was `before` without."""
        linear, log_odds = held.taken(rows), [of[rows] for of in heard]
        blend = fit_blend(linear.logits, log_odds, linear.targets, pooled=pooled)
        after = linear._replace(logits=blend.logits(linear.logits, log_odds))
        step = step_of(after, choice.step, rule, cardinality, counts)
        return after, step, blend._replace(scores=(before, step.score))

    every = np.arange(len(held.targets))
    some = _some(folds) if len(every) >= MANY else every[:0]
    if some.size:
        hear(some)
        before = step_of(held.taken(some), choice.step, rule, cardinality, None).score
        if not _helps(with_votes(some, before, None)[2]):
            return choice, None
    hear(np.setdiff1d(every, some))
    after, step, blend = with_votes(slice(None), choice.step.score, train_counts if with_metrics else None)
    return (choice._replace(step=step, held=after), blend) if _helps(blend) else (choice, None)


def _helps(blend: Blend) -> bool:
    before, after = blend.scores
    return any(blend.votes) and after > before + GAIN


def _some(folds: list[Fold]) -> np.ndarray:
    """Draw FIRST of the held-out rows, from all folds alike."""
    rng, start, taken = np.random.default_rng(0), 0, []
    rows = sum(fold.X_held.shape[0] for fold in folds)
    for fold in folds:
        number = fold.X_held.shape[0]
        taken.append(start + np.sort(rng.choice(number, min(-(-FIRST * number // rows), number), replace=False)))
        start += number
    return np.concatenate(taken)


def is_pooled(counts: np.ndarray) -> bool:
    """Say whether so many labels are rare that none has a scale and shift of its own."""
    return bool(np.mean(counts < RARE) >= RARE_SHARE)


def fit_blend(logits: np.ndarray, log_odds: list[np.ndarray], targets: np.ndarray, *, pooled: bool) -> Blend:
    """Find the slopes and offsets that minimise the log-loss.

    Args:
        logits: (rows, labels), of a linear model that has not seen the rows.
        log_odds: the same of neighbours, for each k.
        targets: (rows, labels), bool, or int8 with -1 where nobody knows.
        pooled: the labels have no calibration and no offsets of their own.
    """
    labels = targets.shape[1]
    most = max(MAX_CELLS // labels, 1)
    if len(targets) > most:
        rows = np.sort(np.random.default_rng(0).choice(len(targets), most, replace=False))
        logits, targets, log_odds = logits[rows], targets[rows], [z[rows] for z in log_odds]
    slope, offset = np.ones(labels), np.zeros(labels)
    if not pooled:
        calibration = fit_calibration(logits, targets)
        slope, offset = 1 / calibration.temperature, calibration.offset
    inputs = [logits, *log_odds]
    free = np.ones(len(inputs) + 1, dtype=bool)
    while True:
        common, own = _newton(inputs, targets, slope, offset, free, pooled=pooled)
        if (common[:-1] >= 0).all():
            break
        # A model that is better heard the wrong way round is not heard.
        free[int(common[:-1].argmin())] = False
    shift = common[0] * offset + common[-1] + own
    return Blend(common[0] * slope, shift, float(common[0]), tuple(common[1:-1].tolist()))


def _newton(inputs, targets, slope, offset, free, *, pooled) -> tuple[np.ndarray, np.ndarray]:
    """Minimise over the common numbers (slopes and b; those not free stay 0) and over b_i, by exact Newton steps.

    The second derivatives have an arrow's shape: each b_i is eliminated by itself.
    """
    rows, labels = targets.shape
    step = max(BLOCK // rows, 1)
    blocks = [slice(first, first + step) for first in range(0, labels, step)]

    def evaluated(common: np.ndarray, own: np.ndarray, *, derivatives: bool):
        size = len(common)
        value, gradient, hessian = float(0.5 * own @ own), np.zeros(size), np.zeros((size, size))
        of_own, cross, curvature = own.copy(), np.zeros((size, labels)), np.ones(labels)
        for block in blocks:
            target = targets[:, block]
            known = None if target.dtype == bool else target >= 0
            truth = (target > 0).astype(np.float64)
            parts = [inputs[0][:, block] * slope[block] + offset[block], *(z[:, block] for z in inputs[1:])]
            s = common[-1] + own[block] + sum(a * part for a, part in zip(common, parts, strict=False) if a)
            loss = np.logaddexp(0, s) - truth * s
            value += float(loss.sum() if known is None else loss[known].sum())
            if not derivatives:
                continue
            p = np.exp(s - np.logaddexp(0, s))
            residual, weight = p - truth, p * (1 - p)
            if known is not None:
                residual, weight = residual * known, weight * known
            of_own[block] += residual.sum(0)
            curvature[block] += weight.sum(0)
            for i in range(size):
                weighted = weight if i == size - 1 else weight * parts[i]
                gradient[i] += residual.sum() if i == size - 1 else np.vdot(residual, parts[i])
                cross[i, block] = weighted.sum(0)
                for j in range(i, size):
                    hessian[i, j] += weighted.sum() if j == size - 1 else np.vdot(weighted, parts[j])
                    hessian[j, i] = hessian[i, j]
        return value, gradient, hessian, of_own, cross, curvature

    common, own = np.zeros(len(free)), np.zeros(labels)
    common[0] = 1.0 if free[0] else 0.0
    for _ in range(ITERATIONS):
        value, gradient, hessian, of_own, cross, curvature = evaluated(common, own, derivatives=True)
        if pooled:
            of_own, cross = np.zeros(labels), np.zeros_like(cross)
        reduced = hessian - (cross / curvature) @ cross.T
        right = gradient - (cross / curvature) @ of_own
        move = np.zeros(len(free))
        move[free] = -np.linalg.lstsq(reduced[np.ix_(free, free)], right[free], rcond=None)[0]
        move_own = -(of_own + cross.T @ move) / curvature
        falls = float(gradient @ move + of_own @ move_own)
        length = 1.0
        for _ in range(HALVINGS):
            new = evaluated(common + length * move, own + length * move_own, derivatives=False)[0]
            if new <= value + 1e-4 * length * falls:
                break
            length /= 2
        else:
            break
        common, own = common + length * move, own + length * move_own
        if -falls < FLAT * max(value, 1.0):
            break
    return common, own
