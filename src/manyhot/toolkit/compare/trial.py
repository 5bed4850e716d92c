"""One method on one split: chosen by inner folds, fitted on all training rows, predicted on the rows to measure."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from manyhot.calibration import Calibration
from manyhot.labels import CardinalityRange, label_counts
from manyhot.toolkit.choose.blend import blended
from manyhot.toolkit.choose.calibrate import calibration_of
from manyhot.toolkit.choose.cross_fit import STRENGTHS_TRIED, Fold, choose, fit_name, prior_logits
from manyhot.toolkit.compare.methods import Method
from manyhot.toolkit.compare.tally import PeakMemory, Tally
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.fits import UNSAVED, Arrays, Bookmark
from manyhot.toolkit.fit import folds_of
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models.features import DesignMatrix, Features
from manyhot.toolkit.models.neighbours import Neighbours, affordable
from manyhot.toolkit.plan import plan
from manyhot.toolkit.read.inputs import Training


class Split(NamedTuple):
    """Rows to train on and rows to measure on, as design matrices."""

    name: str
    training: Training
    features: Features
    X: DesignMatrix
    targets: np.ndarray
    X_test: DesignMatrix
    cardinality: CardinalityRange


@dataclass(frozen=True)
class Trial:
    """What a method gives on a split.

    Attributes:
        logits: (rows to measure, labels) float32, of the decision.
        calibration: of these logits, fitted on those of held-out rows.
        C: the penalty; None of a model without one.
        tau: strength of the prior.
        offset: of all labels, or (labels,): thresholds, negated.
        search, fit, predict: seconds, all that the method would take alone.
        shared: those of search and fit that went into parts of fits which other losses use as well.
        votes: the weight of nearest training rows, where that of all is 1; 0 where they have no vote.
        at_limit: fits that stopped at their limit of iterations.
        peak: the highest memory of the process meanwhile, in bytes.
    """

    logits: np.ndarray
    calibration: Calibration
    C: float | None
    tau: float
    offset: np.ndarray
    search: float
    fit: float
    predict: float
    shared: float
    votes: float
    at_limit: int
    peak: int

    def arrays(self) -> Arrays:
        """Return what :meth:`restored` takes."""
        numbers = [np.nan if self.C is None else self.C, self.tau, self.search, self.fit, self.predict]
        numbers += [self.shared, self.votes, self.at_limit, self.peak]
        temperature, shift, _ = self.calibration
        return {
            "logits": self.logits,
            "temperature": temperature,
            "shift": shift,
            "offset": self.offset,
            "numbers": np.array(numbers, dtype=np.float64),
        }

    @classmethod
    def restored(cls, arrays: Arrays) -> "Trial":
        """Restore what :meth:`arrays` returned."""
        C, tau, search, fit, predict, shared, votes, at_limit, peak = arrays["numbers"].tolist()
        chosen = (None if np.isnan(C) else C, tau, arrays["offset"])
        calibration = Calibration(arrays["temperature"], arrays["shift"])
        return cls(
            arrays["logits"], calibration, *chosen, search, fit, predict, shared, votes, int(at_limit), int(peak)
        )

    @property
    def chosen(self) -> dict[str, Any]:
        """What was chosen, as compare.json has it; the median offset where each label has its own."""
        thresholds = "per label" if self.offset.ndim else "one"
        offset = float(np.median(self.offset))
        return {"C": self.C, "tau": self.tau, "offset": offset, "thresholds": thresholds, "votes": self.votes}


def try_method(
    method: Method,
    config: Config,
    split: Split,
    folds: list[Fold],
    tally: Tally,
    progress: Callable[[str, float, float], None],
) -> Trial:
    """Choose by the inner folds, fit on all training rows, predict the rows to measure.

    Args:
        method: the loss and the rule.
        config: everything else; its seed is that of this trial.
        split: rows to train on and to measure.
        folds: of the training rows.
        tally: keeps fits, which all methods with this loss share.
        progress: called with what is being fitted, the share of the work done, and the mean loss.

    Raises:
        FloatingPointError: the model gives NaN or infinite logits.
    """
    learner = plan(replace(config, loss=method.loss), split.training, split.features, split.targets)
    fits = len(folds) * (STRENGTHS_TRIED if learner.penalised and config.C == "auto" else 1) + 1
    tally.start()
    began, counts = time.monotonic(), label_counts(split.training.train.targets)
    choice = choose(
        folds,
        learner=learner,
        C=config.C,
        rule=method.rule,
        cardinality=split.cardinality,
        train_counts=counts,
        checkpoint=tally,
        progress=lambda what, done, value: progress(what, min(done / fits, 1), value),
    )
    columns, blend = split.features.size_without_kernel, None
    if method.neighbours and affordable(split.X):
        choice, blend = blended(
            *(choice, folds, columns),
            **{"rule": method.rule, "cardinality": split.cardinality, "train_counts": counts},
        )
    # Fits that were found and not made count too, and so does the time of the rule.
    search = tally.seconds + (time.monotonic() - began - tally.now)
    step = choice.step
    name = fit_name(step.C, "all rows")
    before = tally.seconds
    if (fitted := tally.finished(name)) is None:
        outcome = learner.fit(
            split.X,
            torch.from_numpy(split.targets),
            C=step.C,
            start=choice.start,
            groups=split.training.train.groups,
            fits=tally,
            name=name,
            progress=lambda n, of, loss, _: progress(name, (fits - 1 + n / of) / fits, loss),
        )
        predicting = time.monotonic()
        plain = outcome.model.logits(split.X_test)
        seconds = np.array(time.monotonic() - predicting)
        fitted = {"logits": plain, "predict": seconds, "stopped": np.array(outcome.at_limit)}
        tally.finish(name, fitted)
    predict, plain = float(fitted["predict"]), fitted["logits"]
    if blend is not None:
        predicting = time.monotonic()
        log_odds = Neighbours.of(split.X[:, :columns], split.targets).log_odds(split.X_test[:, :columns])
        plain, predict = blend.logits(plain, log_odds), predict + time.monotonic() - predicting
    offset = np.asarray(step.offset, dtype=np.float32)
    logits = plain + (offset - np.float32(step.tau) * prior_logits(split.targets))
    if not np.isfinite(logits).all():
        raise FloatingPointError("the model gives logits that are not finite")
    calibration = calibration_of(choice.logits, choice.held.targets, seed=config.seed)
    at_limit = choice.at_limit + int(fitted["stopped"])
    fit = tally.seconds - before - float(fitted["predict"])
    votes = 0.0 if blend is None else blend.share
    return Trial(
        *(
            logits,
            calibration,
            step.C,
            step.tau,
            offset,
            search,
            fit,
            predict,
            tally.shared,
            votes,
            at_limit,
            tally.peak,
        ),
    )


def try_methods(methods: list[Method], config: Config, split: Split, where: str, threads: int) -> dict[str, Trial]:
    """Try the methods of one loss in a process of their own; those that fail are left out.

    Each process makes the parts that losses share for itself: none waits for another.
    """
    torch.set_num_threads(threads)
    folds = folds_of(split.training, split.X, split.targets, split.features, config.seed, Listener())
    trials: dict[str, Trial] = {}
    with PeakMemory().watched() as memory:
        tally = Tally(_Kept(), where, methods[0].loss, memory)
        for method in methods:
            with suppress(Exception):  # it fails again, and is told of, where its turn comes
                trials[method.name] = try_method(method, config, split, folds, tally, lambda *_: None)
    return trials


class _Kept:
    """Finished fits in memory, for the methods of one loss."""

    def __init__(self) -> None:
        self.results: dict[str, Arrays] = {}

    def finished(self, fit: str) -> Arrays | None:
        return self.results.get(fit)

    def finish(self, fit: str, result: Arrays) -> None:
        self.results[fit] = result

    def bookmark(self, fit: str) -> Bookmark:
        return UNSAVED
