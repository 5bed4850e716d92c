"""Choose the penalty and the strength of the prior from rows a model has not seen, without a threshold to tune.

The prior enters training as s + tau/2 logit(pi) and prediction uses s. Where the last layer has a free bias, as here,
that is the model trained without it, its bias lowered by tau/2 logit(pi): the optimum is the same in every other weight
(a test compares both). So one fit serves every tau, and all else is read off held-out logits: the tau and one offset
for all labels that have the best mean of micro- and macro-F1, and the C for which that is best. The offset goes into
the bias too, so that s > 0 stays the decision.

Where labels are predicted well, the best offset is that of right cardinality, at which as many labels are predicted as
there are (mathematics.md, section 1). Where they are not, F1 asks for more: the best threshold for a probability is
half of the best F1 (Lipton, Elkan and Naryanaswamy 2014, arXiv 1402.1892). `make defaults` compares both rules.

Where each row has one class, the same holds of cross-entropy with s + tau log(pi), which is logit adjustment. The
largest logit decides, so there is no offset, and micro-F1 is the accuracy.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from manyhot.decisions import decide
from manyhot.labels import CardinalityRange, label_prior
from manyhot.metrics import multiclass_metrics, multilabel_metrics
from manyhot.offset import best_offset, mean_f1, right_offset
from manyhot.split import stratified_split
from manyhot.toolkit.config import Auto
from manyhot.toolkit.disk.checkpoint import NO_CHECKPOINT
from manyhot.toolkit.disk.fits import Arrays, Fits
from manyhot.toolkit.models.features import DesignMatrix
from manyhot.toolkit.models.linear import mean_squared_length
from manyhot.toolkit.models.model import Learner, Score
from manyhot.toolkit.objectives import Loss

FOLDS = 3
# C times the mean squared length of a row: the same numbers fit TF-IDF rows of length 1 and hundreds of standardised
# columns. The search starts in the second place and walks while the score rises.
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
STRENGTHS_TRIED = 3  # whichever way the walk goes
# 2 is the full prior of hard targets where labels are many, as derived in mathematics.md.
TAUS = tuple(i / 4 for i in range(9))
# Begins the names of arrays that another fit starts from.
START = "start."


class Fold(NamedTuple):
    """Rows to fit on and rows held out, which of each belong together (None: none do), and which rows these are.

    Targets are bool, or int8 with -1 where nobody knows. `rows` and `rows_held` are positions in the rows they were
    taken from; None where it is all of these.
    """

    X: DesignMatrix
    targets: np.ndarray
    X_held: DesignMatrix
    targets_held: np.ndarray
    groups: np.ndarray | None = None
    groups_held: np.ndarray | None = None
    rows_held: np.ndarray | None = None
    rows: np.ndarray | None = None


@dataclass(frozen=True)
class Step:
    """One strength that was tried: what the rule made of it, measured on the held-out rows.

    C is None for a model without a penalty. The offset is one for all labels, or one a label: its threshold, negated.
    """

    C: float | None
    tau: float
    offset: float | np.ndarray
    loss: float
    score: float  # what the choice maximises: the mean of micro-F1, the accuracy of classes, and macro-F1
    metrics: dict[str, float | int | None]
    at_limit: int = 0  # folds whose fit stopped at its limit of iterations


class Held(NamedTuple):
    """What is known of held-out rows: logits without a prior, one unit of the prior, the truth, groups, positions."""

    logits: np.ndarray
    prior: np.ndarray
    targets: np.ndarray
    groups: np.ndarray | None = None
    rows: np.ndarray | None = None

    def taken(self, some: Any) -> "Held":
        """Return what is known of some of the rows."""
        return Held(*(None if of is None else of[some] for of in self))  # pyright: ignore

    def shifted(self, tau: float, offset: float | np.ndarray) -> np.ndarray:
        """Return the logits of a model with this prior and offset."""
        return self.logits - np.float32(tau) * self.prior + np.asarray(offset, dtype=np.float32)

    def mean_loss(self, loss: Loss) -> float:
        """Return the loss a row, before prior and offset."""
        return loss(torch.from_numpy(self.logits), torch.from_numpy(self.targets)).item() / len(self.logits)

    def best_offset(self, tau: float, cardinality: CardinalityRange) -> tuple[float, float]:
        """Return the best mean of micro- and macro-F1 that an offset gives, and this offset."""
        return best_offset(self.shifted(tau, 0.0), self.targets, cardinality)

    def right_offset(self, tau: float, cardinality: CardinalityRange) -> float:
        """Return the offset at which as many labels are predicted as there are."""
        return _offset_as_true(self.shifted(tau, 0.0), self.targets, cardinality)

    def score(self, tau: float, offset: float, cardinality: CardinalityRange) -> float:
        """Return the mean of micro- and macro-F1."""
        logits = self.shifted(tau, offset)
        preds = decide(logits, min_labels=cardinality.min_labels, max_labels=cardinality.max_labels)
        return mean_f1(preds, self.targets)


class HeldOut(Protocol):
    """What the rules for tau and one offset ask of held-out rows, whether all of their logits are known or the best."""

    def best_offset(self, tau: float, cardinality: CardinalityRange) -> tuple[float, float]:
        """Return the best mean of micro- and macro-F1 at a tau, and its offset."""
        ...

    def right_offset(self, tau: float, cardinality: CardinalityRange) -> float:
        """Return the offset at which as many labels are predicted as there are."""
        ...

    def score(self, tau: float, offset: float, cardinality: CardinalityRange) -> float:
        """Return the mean of micro- and macro-F1."""
        ...


class Choice(NamedTuple):
    """The best step, what is known of its held-out rows, and the mean of its folds' models.

    The final fit starts from that mean; None to start from zero.
    """

    step: Step
    held: Held
    start: Arrays | None
    at_limit: int = 0  # fits of the whole search that stopped at their limit

    @property
    def logits(self) -> np.ndarray:
        """The held-out logits as the run's decision sees them."""
        return self.held.shifted(self.step.tau, self.step.offset)


# (held-out rows, range of labels a row) to tau and the offset; of one offset for all labels.
Rule = Callable[[Held, CardinalityRange], tuple[float, float | np.ndarray]]
OneOffset = Callable[[HeldOut, CardinalityRange], tuple[float, float]]


def make_folds(X: DesignMatrix, targets: np.ndarray, seed: int, groups: np.ndarray | None = None) -> list[Fold]:
    """Cut training rows into stratified folds, each held out once; the rows of a group stay together."""
    number = min(FOLDS, targets.shape[0] if groups is None else len(np.unique(groups)))
    part = stratified_split(targets, [1.0] * number, groups=groups, seed=seed)
    held = [part == p for p in range(number) if (part == p).any() and (part != p).any()]
    of = (lambda rows: None) if groups is None else groups.__getitem__
    return [
        Fold(
            *(X[~rows], targets[~rows], X[rows], targets[rows], of(~rows), of(rows)),
            rows_held=np.flatnonzero(rows),
            rows=np.flatnonzero(~rows),
        )
        for rows in held
    ]


def choose(
    folds: list[Fold],
    *,
    learner: Learner,
    C: float | Auto,
    rule: Rule,
    cardinality: CardinalityRange,
    train_counts: np.ndarray,
    multiclass: bool = False,
    checkpoint: Fits = NO_CHECKPOINT,
    on_step: Callable[[Step], None] | None = None,
    progress: Callable[[str, float, float], None] = lambda what, fits, value: None,
) -> Choice:
    """Choose C by held-out rows, and tau and the offset by the same rows.

    Args:
        folds: what to fit on and what to hold out.
        learner: how a model is fitted.
        C: a number fixes it; a model without a penalty has none, whatever this says.
        rule: finds tau and the offset by held-out rows; C is chosen by the score it reaches.
        cardinality: how many labels a prediction may have.
        train_counts: positives of each label in all training rows, for the groups of the metrics.
        multiclass: each row has one class, which has a prior and metrics of its own.
        checkpoint: where finished fits are kept, and found after an interruption.
        on_step: called with each strength tried; without it, a step has no metrics but its score.
        progress: called with what is being fitted, how many fits are done, and the mean loss.
    """
    starts: list[Arrays] = [{} for _ in folds]
    rounds, all_at_limit = 0, 0

    def choice_at(C: float | None) -> Choice:
        nonlocal rounds, all_at_limit
        before = rounds * len(folds)
        rounds += 1
        held, at_limit = fit_folds(
            folds,
            starts,
            learner=learner,
            C=C,
            multiclass=multiclass,
            checkpoint=checkpoint,
            progress=lambda what, fits, value: progress(what, before + fits, value),
        )
        all_at_limit += at_limit
        fitted = Step(C, 0.0, 0.0, held.mean_loss(learner.loss), 0.0, {}, at_limit)
        counts = None if on_step is None else train_counts
        step = step_of(held, fitted, rule, cardinality, counts, multiclass=multiclass)
        if on_step is not None:
            on_step(step)
        return Choice(step, held, learner.mean(starts, [fold.rows for fold in folds]))

    if not learner.penalised or C != "auto":
        choice = choice_at(C if learner.penalised and C != "auto" else None)
    else:
        choice = climb(lambda strength: choice_at(penalty_at(strength, folds)))
    return choice._replace(at_limit=all_at_limit)


def step_of(
    held: Held,
    fitted: Step,
    rule: Rule,
    cardinality: CardinalityRange,
    train_counts: np.ndarray | None,
    *,
    multiclass: bool = False,
) -> Step:
    """Apply a rule to held-out logits and measure what comes out; all metrics where counts are given."""
    tau, offset = rule(held, cardinality)
    shifted = held.shifted(tau, offset)
    preds = decide(shifted, min_labels=cardinality.min_labels, max_labels=cardinality.max_labels)
    metrics = {}
    if train_counts is not None and multiclass:
        metrics = multiclass_metrics(shifted, held.targets.argmax(1), train_counts=train_counts)
    elif train_counts is not None:
        metrics = multilabel_metrics(preds, held.targets, shifted, train_counts=train_counts)
    return replace(fitted, tau=tau, offset=offset, score=mean_f1(preds, held.targets), metrics=metrics)


def fit_folds(
    folds: list[Fold],
    starts: list[Arrays],
    *,
    learner: Learner,
    C: float | None,
    multiclass: bool = False,
    checkpoint: Fits = NO_CHECKPOINT,
    progress: Callable[[str, float, float], None] = lambda what, fits, value: None,
) -> tuple[Held, int]:
    """Fit a model for each fold, starting from `starts`, which it replaces, and predict the rows held out.

    Returns:
        The held-out rows with their logits, and how many fits stopped at their limit.
    """
    logits, at_limit = [], 0
    for i, fold in enumerate(folds):
        name = fit_name(C, f"fold {i + 1} of {len(folds)}")
        result = checkpoint.finished(name)
        if result is None:
            fitted = learner.fit(
                fold.X,
                torch.from_numpy(fold.targets),
                C=C,
                start=starts[i],
                groups=fold.groups,
                fits=checkpoint,
                name=name,
                progress=lambda step, of, loss, _, i=i, name=name: progress(name, i + step / of, loss),
            )
            start = {START + key: array for key, array in fitted.start.items()}
            result = {"held": fitted.model.logits(fold.X_held), "stopped": np.array(fitted.at_limit)} | start
            checkpoint.finish(name, result)
        logits.append(result["held"])
        at_limit += int(result["stopped"])
        starts[i] = {key.removeprefix(START): array for key, array in result.items() if key.startswith(START)}
    prior = [np.broadcast_to(prior_logits(fold.targets, multiclass), fold.targets_held.shape) for fold in folds]
    targets = [fold.targets_held for fold in folds]
    groups = [fold.groups_held for fold in folds if fold.groups_held is not None]
    rows = [np.arange(len(fold.targets_held)) if fold.rows_held is None else fold.rows_held for fold in folds]
    held = Held(
        np.concatenate(logits),
        np.concatenate(prior),
        np.concatenate(targets),
        np.concatenate(groups) if groups else None,
        np.concatenate(rows),
    )
    return held, at_limit


def fit_name(C: float | None, rows: str) -> str:
    """Name a fit by its penalty and its rows."""
    return rows if C is None else f"C {C:g}, {rows}"


def fixed(tau: float) -> OneOffset:
    """Return the rule that takes this strength of the prior and no offset."""
    return lambda held, cardinality: (tau, 0.0)


def fixed_offset(tau: float, offset: float | np.ndarray) -> Rule:
    """Return the rule that takes this strength of the prior and this offset."""
    return lambda held, cardinality: (tau, offset)


def choose_tau(held: HeldOut, cardinality: CardinalityRange) -> tuple[float, float]:
    """Find the tau and the offset with the best mean of micro- and macro-F1."""
    best = (-1.0, 0.0, 0.0)
    for tau in TAUS:
        score, offset = held.best_offset(tau, cardinality)
        best = max(best, (score, -tau, offset))
    return -best[1], best[2]


def choose_tau_of_right_cardinality(held: HeldOut, cardinality: CardinalityRange) -> tuple[float, float]:
    """Find the tau with the best mean of micro- and macro-F1 where as many labels are predicted as there are."""
    best = (-1.0, 0.0)
    for tau in TAUS:
        best = max(best, (held.score(tau, held.right_offset(tau, cardinality), cardinality), -tau))
    return -best[1], held.right_offset(-best[1], cardinality)


def score_by(cardinality: CardinalityRange) -> Score:
    """Return the score that stops a network: the mean F1 of logits, moved so that their number of labels is right."""

    def score(logits: np.ndarray, targets: np.ndarray) -> float:
        shifted = logits + np.float32(_offset_as_true(logits, targets, cardinality))
        preds = decide(shifted, min_labels=cardinality.min_labels, max_labels=cardinality.max_labels)
        return mean_f1(preds, targets)

    return score


def penalty_at(strength: float, folds: list[Fold]) -> float:
    """Return the C of a strength, to two digits."""
    size = float(np.mean([mean_squared_length(fold.X) for fold in folds]))
    return float(f"{strength / size:.2g}")


def _offset_as_true(logits: np.ndarray, targets: np.ndarray, cardinality: CardinalityRange) -> float:
    """Find the offset at which as many labels are predicted as there are."""
    known = None if targets.dtype == bool else targets >= 0
    return right_offset(logits, int((targets > 0).sum()), cardinality, known)


def prior_logits(targets: Any, multiclass: bool = False) -> np.ndarray:
    """Return logit(prior)/2 of each label, log(prior) of each class: what one unit of tau takes off its logit."""
    prior = label_prior(targets)
    if multiclass:
        return np.log(prior / prior.sum()).astype(np.float32)
    return (np.log(prior / (1 - prior)) / 2).astype(np.float32)


def climb(choice_at: Callable[[float], Choice]) -> Choice:
    """Walk up from the second strength while the score rises; down, if the first step up does not."""
    best = choice_at(STRENGTHS[1])
    for path in (STRENGTHS[2:], STRENGTHS[:1]):
        first = best
        for strength in path:
            choice = choice_at(strength)
            if choice.step.score <= best.step.score:
                break
            best = choice
        if best is not first:
            break
    return best
