"""C, tau, the offset and a calibration where labels are too many for cross-fitting with dense targets.

One part of the rows is held out once. C is chosen on a sample of the labels, and by the same fits from where on weights
are of use; then all labels are fitted on the other rows, and what held-out rows say of tau and the offset is read off
the best logits of each. The fit on all rows starts anew, so that it ends where that one did: where the penalty is weak,
fits end before their optimum, and one that goes on from another is more sure of itself than what tau was chosen for.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from manyhot.labels import CardinalityRange, cardinality_range, label_counts
from manyhot.split import stratified_split
from manyhot.toolkit.choose.cross_fit import TAUS, Choice, OneOffset, Step, climb, fit_name, prior_logits
from manyhot.toolkit.choose.ranked_rows import RankedHeld, first_of, metrics_of_sets
from manyhot.toolkit.config import Auto
from manyhot.toolkit.disk.checkpoint import NO_CHECKPOINT
from manyhot.toolkit.disk.fits import Arrays, Fits
from manyhot.toolkit.models.features import DesignMatrix
from manyhot.toolkit.models.label_blocks import CSR_PARTS, DROPPED, Blocked, BlockLearner, HeldRows
from manyhot.toolkit.models.linear import mean_squared_length
from manyhot.toolkit.models.listed import ListedLearner
from manyhot.toolkit.models.model import Progress, unheard
from manyhot.toolkit.models.ranked import Ranked

# Shares of the rows that are fitted on and held out.
SHARES = (0.8, 0.2)
# Labels that C is chosen by, evenly taken of all in the order of their frequency.
SAMPLE = 128
# Of the score of these labels, what dropping more weights may cost.
COSTS = 0.001


class Parted(NamedTuple):
    """Rows to fit on and rows held out.

    Attributes:
        X, X_held: matrices.
        targets, targets_held: (rows, labels), scipy CSR of bool.
        groups, groups_held: of rows that belong together, or None.
        rows_held: positions among the training rows; None of a file of their own.
    """

    X: DesignMatrix
    targets: Any
    X_held: DesignMatrix
    targets_held: Any
    groups: np.ndarray | None = None
    groups_held: np.ndarray | None = None
    rows_held: np.ndarray | None = None


class Chosen(NamedTuple):
    """What held-out rows said.

    Attributes:
        choice: tau, offset and the held-out logits.
        drop: weights that are nearer to 0 are dropped.
        kept: the share of the weights.
        scores: on held-out rows, with all weights and with those kept.
    """

    choice: Choice
    drop: float
    kept: float
    scores: tuple[float, float]


def part_rows(X: DesignMatrix, targets: Any, seed: int, groups: np.ndarray | None = None) -> Parted:
    """Hold out a stratified part of the rows; the rows of a group stay together."""
    part = stratified_split(targets, SHARES, groups=groups, seed=seed)
    if not (part == 0).any() or not (part == 1).any():  # of two rows, or two groups
        part = np.arange(len(part)) % 2 if groups is None else np.unique(groups, return_inverse=True)[1] % 2
    fitted, held = np.flatnonzero(part == 0), np.flatnonzero(part == 1)
    of = (lambda rows: None) if groups is None else groups.__getitem__
    return Parted(X[fitted], targets[fitted], X[held], targets[held], of(fitted), of(held), held)


def choose_by_blocks(
    parted: Parted,
    *,
    learner: BlockLearner | ListedLearner,
    C: float | Auto,
    rule: OneOffset,
    cardinality: CardinalityRange,
    train_counts: np.ndarray,
    propensity: tuple[float, float],
    checkpoint: Fits = NO_CHECKPOINT,
    on_step: Callable[[Step], None] = lambda step: None,
    progress: Callable[[str, float, float], None] = lambda what, share, loss: None,
) -> Chosen:
    """Choose C, and what the rule leaves open.

    Args:
        parted: the rows.
        learner: how models are fitted.
        C: a number fixes it; a network has none.
        rule: what makes tau and the offset of held-out rows.
        cardinality: how many labels a prediction may have.
        train_counts: positives of each label in all training rows, for the groups of the metrics.
        propensity: A and B of :func:`manyhot.label_propensity`.
        checkpoint: where finished fits are kept, and found after an interruption.
        on_step: called with what was chosen.
        progress: called with what is being fitted, the share of it that is done, and the mean loss.
    """
    penalty, drop = None, 0.0
    if isinstance(learner, BlockLearner):
        penalty, drop = _penalty(parted, learner, C, rule, checkpoint, progress)
    name = fit_name(penalty, "without held-out rows")
    prior = prior_logits(parted.targets)
    fitted = fit_kept(
        learner,
        parted.X,
        parted.targets,
        C=penalty,
        drop=drop,
        held=HeldRows(parted.X_held, prior, max(TAUS)),
        drops=(drop,),
        groups=parted.groups,
        fits=checkpoint,
        name=name,
        progress=progress,
    )
    whole, held = (
        RankedHeld(logits, prior, parted.targets_held, parted.rows_held, parted.groups_held) for logits in fitted.held
    )
    tau, offset = rule(held, cardinality)
    scores = whole.score(*rule(whole, cardinality), cardinality), held.score(tau, offset, cardinality)
    logits = held.shifted(tau, offset)
    metrics = metrics_of_sets(
        logits.decided(cardinality),
        parted.targets_held,
        first_of(logits),
        train_counts=train_counts,
        train_rows=parted.X.shape[0] + (0 if parted.rows_held is None else len(parted.rows_held)),
        propensity=propensity,
    )
    step = Step(penalty, tau, offset, held.mean_loss(), scores[1], metrics, fitted.at_limit)
    on_step(step)
    held_out: Any = held
    return Chosen(Choice(step, held_out, None, fitted.at_limit), drop, fitted.kept, scores)


def _penalty(
    parted: Parted,
    learner: BlockLearner,
    C: float | Auto,
    rule: OneOffset,
    checkpoint: Fits,
    progress: Callable[[str, float, float], None],
) -> tuple[float, float]:
    """Choose by a sample of the labels C, unless it is fixed, and from where on weights are of use."""
    counts = label_counts(parted.targets)
    order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
    sample = np.sort(order[np.unique(np.linspace(0, len(order) - 1, min(SAMPLE, len(order))).astype(np.int64))])
    targets, targets_held = (sp.csr_array(of[:, sample]) for of in (parted.targets, parted.targets_held))
    prior, cardinality = prior_logits(targets), cardinality_range(targets)
    scores: dict[float, list[float]] = {}

    def tried(penalty: float) -> Choice:
        fitted = fit_kept(
            learner,
            parted.X,
            targets,
            C=penalty,
            held=HeldRows(parted.X_held, prior, max(TAUS)),
            drops=DROPPED,
            fits=checkpoint,
            name=fit_name(penalty, f"{len(sample)} labels"),
            progress=progress,
        )
        held: Any = None
        for logits in fitted.held:
            held = RankedHeld(logits, prior, targets_held)
            tau, offset = rule(held, cardinality)
            scores.setdefault(penalty, []).append(held.score(tau, offset, cardinality))
        return Choice(Step(penalty, 0.0, 0.0, 0.0, scores[penalty][0], {}), held, None)

    size = mean_squared_length(parted.X)
    choice = climb(lambda strength: tried(float(f"{strength / size:.2g}"))) if C == "auto" else tried(C)
    assert choice.step.C is not None
    whole, *dropped = scores[choice.step.C]
    good = [drop for drop, score in zip(DROPPED, dropped, strict=True) if score >= whole - COSTS]
    return choice.step.C, max(good, default=DROPPED[0])


def fit_kept(
    learner: BlockLearner | ListedLearner,
    X: DesignMatrix,
    targets: Any,
    *,
    C: float | None,
    drop: float = DROPPED[0],
    held: HeldRows | None = None,
    drops: tuple[float, ...] = (),
    groups: np.ndarray | None = None,
    fits: Fits,
    name: str,
    progress: Callable[[str, float, float], None],
    done: Progress = unheard,
) -> Blocked:
    """Fit as :meth:`BlockLearner.fit` does, or find that it was done before an interruption."""
    result = fits.finished(name)
    if result is not None:
        return _restored(result, learner.restore, X.shape[1], targets.shape[1])

    def heard(block: int, of: int, loss: float, score: float | None) -> None:
        done(block, of, loss, score)
        progress(name, block / of, loss)

    options: dict[str, Any] = {"C": C, "drop": drop, "held": held, "drops": drops, "groups": groups}
    fitted = learner.fit(X, targets, bookmark=fits.bookmark(name), done=heard, **options)
    fits.finish(name, _arrays(fitted))
    return fitted


def _arrays(fitted: Blocked) -> Arrays:
    arrays = fitted.model.arrays() | {"at_limit": np.array(fitted.at_limit), "kept": np.array(fitted.kept)}
    for i, ranked in enumerate(fitted.held):
        arrays |= {f"held.{i}.{part}": getattr(ranked.cells, part) for part in CSR_PARTS}
    return arrays


def _restored(arrays: Arrays, restore: Callable[[Arrays, int, int], Any], features: int, labels: int) -> Blocked:
    held = []
    while f"held.{len(held)}.data" in arrays:
        parts = tuple(arrays[f"held.{len(held)}.{part}"] for part in CSR_PARTS)
        held.append(Ranked(sp.csr_array(parts, shape=(len(parts[2]) - 1, labels))))
    model = restore(arrays, features, labels)
    return Blocked(model, int(arrays["at_limit"]), float(arrays["kept"]), held)
