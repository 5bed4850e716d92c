"""From rows and features to a run in memory: choose by held-out rows, calibrate on these, fit on all rows."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from manyhot.labels import CardinalityRange, label_counts
from manyhot.toolkit.choose.blend import Blend, blended
from manyhot.toolkit.choose.by_blocks import Parted, choose_by_blocks, fit_kept, part_rows
from manyhot.toolkit.choose.calibrate import Calibrated, calibrate
from manyhot.toolkit.choose.cross_fit import (
    STRENGTHS_TRIED,
    Choice,
    Fold,
    OneOffset,
    Step,
    choose,
    choose_tau,
    choose_tau_of_right_cardinality,
    fit_name,
    fixed,
    make_folds,
    prior_logits,
)
from manyhot.toolkit.choose.promised import with_promise
from manyhot.toolkit.choose.ranked_rows import calibrate_ranked
from manyhot.toolkit.config import WITHOUT_PRIOR, Config, hears_neighbours, promised_precision
from manyhot.toolkit.disk.checkpoint import NO_CHECKPOINT
from manyhot.toolkit.disk.fits import Fits
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models.features import DesignMatrix, Features
from manyhot.toolkit.models.label_blocks import BlockLearner
from manyhot.toolkit.models.linear import Linear
from manyhot.toolkit.models.listed import ListedLearner
from manyhot.toolkit.models.model import Curve, Learner, Model
from manyhot.toolkit.models.neighbours import Neighbours, affordable
from manyhot.toolkit.plan import cardinality_kept
from manyhot.toolkit.read.inputs import Training
from manyhot.toolkit.runs.drift import usual_of
from manyhot.toolkit.runs.evaluate import align, align_sparse
from manyhot.toolkit.runs.predict import Run
from manyhot.toolkit.runs.trained_rows import row_hashes


@dataclass(frozen=True)
class Fitted:
    """A run in memory, what was chosen and by which rows, every step tried, and the calibration with its numbers.

    `curve` is that of the fit on all rows.
    """

    run: Run
    choice: Choice
    steps: list[Step]
    calibrated: Calibrated
    curve: Curve


def fit(
    config: Config,
    training: Training,
    features: Features,
    X: DesignMatrix,
    targets: Any,
    learner: Learner | BlockLearner | ListedLearner,
    listener: Listener,
    checkpoint: Fits = NO_CHECKPOINT,
) -> Fitted:
    """Choose C and tau by held-out rows, calibrate on the same rows, then fit on all training rows."""
    if isinstance(learner, BlockLearner | ListedLearner):
        return _fit_lists(config, training, features, X, targets, learner, listener, checkpoint)
    cardinality, counts = training.train.cardinality(), label_counts(training.train.targets)
    multiclass = config.task == "multiclass"
    steps: list[Step] = []

    def on_step(step: Step) -> None:
        steps.append(step)
        listener.on_step(step)

    # Folds are fitted also where C and tau are given: the calibration needs rows that were held out.
    folds = folds_of(training, X, targets, features, config.seed, listener, multiclass=multiclass)
    fits = len(folds) * (STRENGTHS_TRIED if learner.penalised and config.C == "auto" else 1)
    # A fold has two thirds of the rows; of a model with a penalty it also takes two thirds of the iterations.
    folds_work = fits * 2 / 3 * (2 / 3 if learner.penalised else 1)
    folds_share = folds_work / (folds_work + 1)
    choice = choose(
        folds,
        learner=learner,
        C=config.C,
        rule=_rule(config),
        cardinality=cardinality,
        train_counts=counts,
        multiclass=multiclass,
        checkpoint=checkpoint,
        on_step=on_step,
        progress=lambda what, done, value: listener.progress(what, min(done / fits, 1) * folds_share, value),
    )
    blend = None
    if heard := hears_neighbours(config) and affordable(X):
        choice, blend = blended(
            *(choice, folds, features.size_without_kernel),
            **{"rule": _rule(config), "cardinality": cardinality, "train_counts": counts, "with_metrics": True},
        )
    calibrated = calibrate(
        choice.logits, choice.held.targets, groups=choice.held.groups, multiclass=multiclass, seed=config.seed
    )
    one_offset, promised = choice.step.offset, None
    if (precision := promised_precision(config)) is not None:
        promised = with_promise(choice, calibrated.calibration, precision, cardinality.max_labels, counts)
        choice, cardinality = promised.choice, CardinalityRange(0, cardinality.max_labels)
        calibrated = replace(calibrated, calibration=promised.calibration)
    step = choice.step
    name = fit_name(step.C, "all rows")
    curve = Curve(
        checkpoint,
        lambda n, of, loss, _: listener.progress(name, folds_share + (1 - folds_share) * n / of, loss),
    )
    outcome = learner.fit(
        X,
        torch.from_numpy(targets),
        C=step.C,
        start=choice.start,
        groups=training.train.groups,
        fits=curve,
        name=name,
        progress=curve.progress,
    )
    at_limit = choice.at_limit + int(outcome.at_limit)
    counts_of_fits = {"fits": len(folds) * len(steps) + 1, "at_limit": at_limit} if learner.penalised else {}
    # Training with the prior and a free bias is training without it and lowering the bias: see cross_fit.
    by = np.asarray(step.offset, dtype=np.float32) - np.float32(step.tau) * prior_logits(targets, multiclass)
    model, neighbours = outcome.model, None
    if blend is not None and isinstance(model, Linear):
        neighbours = Neighbours.of(X[:, : features.size_without_kernel], targets).weighing(blend.votes)
        # A row that is like no training row gets a constant vote, which goes into the bias.
        by = by + blend.shift + sum(blend.votes) * neighbours.log_odds_of_none
        model = model.scaled(blend.scale)
    info = {"loss": config.loss, "C": step.C, "tau": step.tau, "offset": one_offset} | learner.info | counts_of_fits
    if heard:
        info["neighbours"] = said_of(blend)
    if promised is not None:
        info["promise"] = promised.said(training.train.label_names)
    run = _run(
        *(config, training, features, model.shifted(by.astype(np.float32)), neighbours),
        **{"cardinality": cardinality, "calibrated": calibrated, "logits": choice.logits, "info": info},
    )
    return Fitted(run, choice, steps, calibrated, curve)


def _fit_lists(
    config: Config,
    training: Training,
    features: Features,
    X: DesignMatrix,
    targets: Any,
    learner: BlockLearner | ListedLearner,
    listener: Listener,
    checkpoint: Fits,
) -> Fitted:
    """Do what :func:`fit` does where labels are very many, with targets that are lists."""
    cardinality, counts = cardinality_kept(training), label_counts(targets)
    steps: list[Step] = []

    def on_step(step: Step) -> None:
        steps.append(step)
        listener.on_step(step)

    most = MOST_FITS if learner.penalised else 2
    parts = iter(range(most))
    heard: dict[str, int] = {}

    def progress(what: str, share: float, loss: float) -> None:
        number = heard[what] if what in heard else heard.setdefault(what, next(parts, most - 1))
        listener.progress(what, (number + share) / most, loss)

    chosen = choose_by_blocks(
        _parted(training, X, targets, features, config.seed, listener),
        learner=learner,
        C=config.C,
        rule=_rule(config),
        cardinality=cardinality,
        train_counts=counts,
        propensity=config.propensity,
        checkpoint=checkpoint,
        on_step=on_step,
        progress=progress,
    )
    choice = chosen.choice
    step, held = choice.step, choice.held
    before, after = chosen.scores
    if learner.penalised:
        listener.say(
            f"{100 * chosen.kept:.1f} % of the weights are kept, those of {chosen.drop:g} or more for rows of length "
            f"1; the mean of micro- and macro-F1 on {len(held.logits):,} held-out rows is {100 * after:.1f} with "
            f"these, {100 * before:.1f} with all"
        )
    logits: Any = choice.logits
    calibrated = calibrate_ranked(logits, held.targets, groups=held.groups, seed=config.seed)
    name = fit_name(step.C, "all rows")
    curve = Curve(checkpoint, lambda block, of, loss, score: None)
    fitted = fit_kept(
        learner,
        X,
        targets,
        C=step.C,
        drop=chosen.drop,
        groups=training.train.groups,
        fits=curve,
        name=name,
        progress=progress,
        done=curve.progress,
    )
    info = {"loss": config.loss, "C": step.C, "tau": step.tau, "offset": step.offset} | learner.info
    # How frequent labels are is measured by the rows.
    info["rows"] = training.train.rows
    info |= dict(zip(("propensity_a", "propensity_b"), config.propensity, strict=True))
    if learner.penalised:
        info |= {"dropped": chosen.drop, "weights_kept": round(chosen.kept, 6)}
        info |= {"score": round(after, 4), "score_of_all_weights": round(before, 4)}
        info |= {"fits": 2, "at_limit": choice.at_limit + fitted.at_limit}
    by = np.float32(step.offset) - np.float32(step.tau) * prior_logits(targets)
    run = _run(
        *(config, training, features, fitted.model.shifted(by.astype(np.float32)), None),
        **{"cardinality": cardinality, "calibrated": calibrated, "logits": logits, "info": info},
    )
    return Fitted(run, choice, steps, calibrated, curve)


# Fits of labels in blocks: of a sample at three strengths, of all without the rows held out, of all.
MOST_FITS = 5


def _parted(
    training: Training, X: DesignMatrix, targets: Any, features: Features, seed: int, listener: Listener
) -> Parted:
    """Hold out the rows of --valid, or else a part of the training rows."""
    if (valid := training.valid) is None:
        return part_rows(X, targets, seed, training.train.groups)
    held = align_sparse(valid.targets, valid.label_names, training.train.label_names)
    if warning := held.warning():
        listener.warn(warning)
    return Parted(X, targets, features.transform(valid), held.targets)


def _run(
    config: Config,
    training: Training,
    features: Features,
    model: Model,
    neighbours: Neighbours | None,
    *,
    cardinality: CardinalityRange,
    calibrated: Calibrated,
    logits: Any,
    info: dict[str, Any],
) -> Run:
    """Put together what prediction needs; `logits` are those of held-out rows."""
    return Run(
        features=features,
        model=model,
        neighbours=neighbours,
        columns=training.columns,
        label_names=training.train.label_names,
        train_counts=label_counts(training.train.targets),
        cardinality=cardinality,
        calibration=calibrated.calibration,
        drop_unlabelled=config.drop_unlabelled,
        info=info,
        task=config.task,
        trained_rows=None if config.no_rows else np.unique(row_hashes(training.train)),
        usual=usual_of(features, training.train, logits, cardinality),
    )


def said_of(blend: Blend | None) -> dict[str, float] | None:
    """Say how much neighbours weigh, and the score on held-out rows without them and with them; None: nothing."""
    if blend is None:
        return None
    before, after = blend.scores
    return {"share": round(blend.share, 4), "score_without": round(before, 4), "score": round(after, 4)}


def _rule(config: Config) -> OneOffset:
    if config.loss in WITHOUT_PRIOR:
        return fixed(0.0)
    if config.tau != "auto":
        return fixed(config.tau)
    return choose_tau_of_right_cardinality if config.decision == "cardinality" else choose_tau


def folds_of(
    training: Training,
    X: DesignMatrix,
    targets: np.ndarray,
    features: Features,
    seed: int,
    listener: Listener,
    *,
    multiclass: bool = False,
) -> list[Fold]:
    """Hold out the rows of --valid, or else each third of the training rows once."""
    if training.valid is None:
        return make_folds(X, targets, seed, training.train.groups)
    valid = training.valid
    held = align(valid.targets, valid.label_names, training.train.label_names, valid.unknown)
    X_held, targets_held, rows_held = features.transform(training.valid), held.targets, None
    if multiclass and held.unseen_names:
        # A row of an unseen class has no class to compare with.
        known = targets_held.any(1)
        if not known.any():
            raise InputError(
                f"{training.valid.source}: expected classes of the training file, got only others; name another --valid"
            )
        listener.warn(f"{int((~known).sum()):,} rows of --valid left out: their class is unknown to the run")
        X_held, targets_held, rows_held = X_held[known], targets_held[known], np.flatnonzero(known)
    elif warning := held.warning():
        listener.warn(warning)
    return [Fold(X, targets, X_held, targets_held, rows_held=rows_held)]
