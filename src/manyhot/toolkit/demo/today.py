"""What people do today: binary cross-entropy, cut at 0.5, or where one threshold is best on held-out rows.

Same rows and features as the run beside it, and a penalty found by the same folds, so that most of these fits are there
when the run is: what is added to them there is the prior, an offset, and votes of training rows. A row may have any
number of labels, none among them: that a row has at least one is known to those who ask the training rows.
"""

from collections.abc import Callable, Mapping

import numpy as np

from manyhot.labels import CardinalityRange
from manyhot.toolkit.compare.methods import METHODS
from manyhot.toolkit.compare.standings import Decided
from manyhot.toolkit.compare.tally import PeakMemory, Tally
from manyhot.toolkit.compare.trial import Split, try_method
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.fits import Arrays, Unsaved
from manyhot.toolkit.fit import folds_of
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models.linear import is_shared
from manyhot.toolkit.read.inputs import Training
from manyhot.toolkit.runs.predict import Run

WHERE = "test"
RIVALS = {"bce": "BCE, cut at 0.5", "bce+threshold": "BCE, one threshold"}


class _Kept(Unsaved):
    """Results of fits that a method finds: those that the run shares, and then those of the method before."""

    def __init__(self, of_run: Mapping[str, Arrays]) -> None:
        # By the names of a Tally, which also wants to know what they cost.
        free = {"cost": np.zeros(2)}
        self.results = {f"{WHERE}, {fit}": result | free for fit, result in of_run.items() if is_shared(fit)}

    def finished(self, fit: str) -> Arrays | None:
        return self.results.get(fit)

    def finish(self, fit: str, result: Arrays) -> None:
        self.results[fit] = result


def decided_today(
    config: Config,
    training: Training,
    run: Run,
    fits: Mapping[str, Arrays],
    progress: Callable[[str, float, float], None],
) -> dict[str, Decided]:
    """Train and decide, and return for each of RIVALS what it gives for the test rows.

    Args:
        config: of the run.
        training: rows to learn from and to test on.
        run: makes the features.
        fits: what the run was fitted with, by name.
        progress: called with what is being fitted, the share of the work done, and the mean loss.
    """
    assert training.test is not None
    features, targets = run.features, training.train.dense_targets()
    X, X_test = features.transform(training.train), features.transform(training.test)
    split = Split(WHERE, training, features, X, targets, X_test, CardinalityRange(0, targets.shape[1]))
    folds = folds_of(training, X, targets, features, config.seed, Listener())
    tally = Tally(_Kept(fits), WHERE, "bce", PeakMemory())
    found = {}
    for method in METHODS:
        if method.name in RIVALS:
            logits = try_method(method, config, split, folds, tally, progress).logits
            found[method.name] = Decided(logits, np.asarray(logits > 0))
    return found
