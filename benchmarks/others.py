"""Measure one learner of others on files given as to `manyhot compare`, in a process of its own.

    python benchmarks/others.py XGBoost+prior yeast-train.X.npz --test yeast-test.X.npz      (as quality.py calls it)

Rows, features and folds are those of `manyhot compare`; the learner is its own, with its defaults, and those of
scikit-learn predict by their own rule. Only max_iter of the logistic regression is 1000, since its default of 100 often
ends too early. From the margins of trees logit(prior)/2 is taken off, a sum that takes no fit and is worth 1 to 5
points of macro-F1 to them.
"""

import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does; XGBoost waits in OpenMP too

import numpy as np
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from manyhot import label_counts, multilabel_metrics, stratified_split
from manyhot.toolkit.choose.cross_fit import prior_logits
from manyhot.toolkit.config import Config, blocks_of, make_config
from manyhot.toolkit.models.features import DesignMatrix, Features
from manyhot.toolkit.read.examples import Examples, drop_unlabelled
from manyhot.toolkit.read.inputs import read
from manyhot.toolkit.runs.evaluate import align

FOLDS = 3  # of manyhot compare, where a set has no test rows


class Learner(NamedTuple):
    """How a learner is made, and how it scores labels; it fits as scikit-learn's do.

    It predicts by its own rule, or where its scores are above logit(prior)/2.
    """

    package: str
    make: Callable[[], Any]
    scores: Callable[[Any, DesignMatrix], np.ndarray]
    prior: bool = False


def of_trees() -> Any:
    # One model a label is the default (multi_strategy="one_output_per_tree"). By name: wheels are not for every system.
    return import_module("xgboost").XGBClassifier(tree_method="hist")


def of_leaves() -> Any:
    return OneVsRestClassifier(import_module("lightgbm").LGBMClassifier(verbosity=-1))


def margins_of_leaves(fitted: Any, X: DesignMatrix) -> np.ndarray:
    """Return (rows, labels) margins; a label without a row to learn from is a constant, and far below."""
    models, far = fitted.estimators_, np.full(X.shape[0], -50.0)
    return np.stack([m.predict(X, raw_score=True) if hasattr(m, "booster_") else far for m in models], 1)


LEARNERS = {
    "OvR logistic": Learner(
        "scikit-learn",
        lambda: OneVsRestClassifier(LogisticRegression(max_iter=1000)),
        lambda fitted, X: fitted.decision_function(X),
    ),
    "OvR LinearSVC": Learner(
        "scikit-learn", lambda: OneVsRestClassifier(LinearSVC()), lambda fitted, X: fitted.decision_function(X)
    ),
    "XGBoost+prior": Learner(
        "xgboost-cpu", of_trees, lambda fitted, X: fitted.predict(X, output_margin=True), prior=True
    ),
    "LightGBM+prior": Learner("lightgbm", of_leaves, margins_of_leaves, prior=True),
}


def config_of(words: list[str]) -> Config:
    """Turn a file and the options that describe it into what the command reads with."""
    data, *rest = words
    options: dict[str, Any] = {"data": data}
    while rest:
        name = rest.pop(0).removeprefix("--").replace("-", "_")
        options[name] = rest.pop(0) if rest and not rest[0].startswith("--") else True
    return make_config(None, [], options)


def csr_of_others(X: DesignMatrix) -> DesignMatrix:
    """Turn a sparse matrix into the class and the index type that liblinear and XGBoost take."""
    if not sp.issparse(X):
        return X
    X = sp.csr_matrix(X)
    X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    return X


def measured(learner: Learner, words: list[str]) -> dict[str, Any]:
    """Fit and measure on the rows that `manyhot compare` measures on; seconds are of fitting and predicting alone."""
    config = config_of(words)
    data = read(config)
    seconds, said = {"fit": 0.0, "predict": 0.0}, set()

    def decided(train: Examples, test: Examples) -> tuple[np.ndarray, np.ndarray]:
        features, _ = Features.fit_transform(train, **blocks_of(config))
        # XGBoost takes what a sparse row does not list as missing, and learns on which side of a split it goes.
        X, X_test = (csr_of_others(features.transform(rows)) for rows in (train, test))
        # Not int8: scikit-learn 1.9 numbers labels in the type of the targets, and mixes up those beyond 127.
        targets = train.targets.toarray().astype(np.int64)
        began = time.monotonic()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fitted = learner.make().fit(X, targets)
        fit = time.monotonic()
        scores = np.array(learner.scores(fitted, X_test), dtype=float).reshape(X_test.shape[0], targets.shape[1])
        if learner.prior:
            scores -= prior_logits(targets)
        preds = scores > 0 if learner.prior else np.asarray(fitted.predict(X_test))
        seconds["fit"] += fit - began
        seconds["predict"] += time.monotonic() - fit
        said.update("not converged" for w in caught if issubclass(w.category, ConvergenceWarning))
        # A label without a training row is constant to scikit-learn, with a score of 0 that is above most.
        scores[:, ~targets.any(0)] = scores.min() - 1
        return preds, scores

    counts = label_counts(data.train.targets)
    if data.test is None:
        targets = data.train.targets.toarray()
        part = stratified_split(targets, [1.0] * FOLDS, seed=0)
        preds, scores = np.zeros(targets.shape, dtype=bool), np.zeros(targets.shape)
        for fold in range(FOLDS):
            held = part == fold
            preds[held], scores[held] = decided(
                data.train.taken(np.flatnonzero(~held)), data.train.taken(np.flatnonzero(held))
            )
    else:
        test = drop_unlabelled(data.test)[0] if config.drop_unlabelled else data.test
        aligned = align(test.targets, test.label_names, data.train.label_names)
        preds, scores = decided(data.train, test)
        # Labels that training did not see count as missed, as `manyhot evaluate` has it.
        unseen = aligned.unseen
        preds = np.hstack([preds, np.zeros_like(unseen, dtype=preds.dtype)])
        scores = np.hstack([scores, np.full(unseen.shape, scores.min() - 1)])
        targets = np.hstack([aligned.targets, unseen])
        counts = np.concatenate([counts, np.zeros(unseen.shape[1])])
    return {
        "error": None,
        "metrics": multilabel_metrics(preds, targets, scores, train_counts=counts),
        "seconds": seconds,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "said": sorted(said),
        "version": f"{learner.package} {version(learner.package)}",
    }


if __name__ == "__main__":
    print(json.dumps(measured(LEARNERS[sys.argv[1]], sys.argv[2:])))
