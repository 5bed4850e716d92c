"""manyhot in scikit-learn: a linear multi-label classifier, folds with every label in them, F1 of known cells."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, Self

import numpy as np

try:
    import scipy.sparse as sp
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import BaseCrossValidator
    from sklearn.utils import Tags, assert_all_finite, check_consistent_length, column_or_1d
    from sklearn.utils.extmath import safe_sparse_dot
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("sklearn", "scipy"):
        raise
    raise ImportError('manyhot.sklearn needs scikit-learn: pip install "manyhot[toolkit]"') from error

import torch
import torch.nn.functional as F
from torch import Tensor

from manyhot.calibration import Calibration, fit_calibration
from manyhot.decisions import decide
from manyhot.labels import cardinality_range, dense_cells, is_sparse, label_prior, written_out
from manyhot.losses.baselines import bce_loss
from manyhot.losses.zlpr import zlpr_loss
from manyhot.metrics import multilabel_metrics
from manyhot.split import stratified_split
from manyhot.toolkit.choose.cross_fit import make_folds
from manyhot.toolkit.models.linear import fit_linear

# Probabilities stay so far inside of (0, 1).
LEAST = 1e-12


class MultiLabelClassifier(ClassifierMixin, BaseEstimator):
    r"""A linear model of all labels together, fitted with ZLPR: predict the labels whose score is above 0.

    .. math::
        \min_{W, b}\; C \sum_r w_r\,\ell(W x_r + b, y_r) + \tfrac12 |W|^2

    by full-batch L-BFGS in float64, the solver of the command; the bias is not penalised. Put a `StandardScaler`, or
    TF-IDF for texts, before it. Where ``OneVsRestClassifier(LogisticRegression())`` fits a model a label and cuts each
    at 1/2, this weighs the labels of a row against each other, lifts rare ones by the prior, gives a row as many labels
    as training rows have, and takes labels that nobody knows.

    Args:
        loss: `"zlpr"`, or `"bce"` for one logistic model a label.
        C: > 0, the larger the weaker the penalty, as in `LogisticRegression`.
        prior: `"train"` counts the frequencies of labels in the rows of `fit`; None for none, or (labels,) numbers
            inside (0, 1).
        tau: tau/2 of the log-odds of the prior are taken off the scores of either loss: with 1 all of it for ZLPR, as
            in :func:`manyhot.zlpr_loss`, and half of it for `"bce"`, whose scores are twice as long, which gives fewer
            labels.
        decision: `"range"` predicts at least and at most as many labels a row as :func:`manyhot.cardinality_range` says
            of the rows of `fit`; `"zero"` those above 0 alone.
        max_iter: of L-BFGS.
        tol: stop where five iterations gain less than this part of the objective. On scene, standardised, C=1, that
            ends 0.1 % above the least objective with 1e-4, and 0.01 % with 1e-5 after half as many iterations more.
        calibrate: fit :func:`manyhot.fit_calibration` on scores of rows held out (three folds), for `predict_proba`;
            four fits in place of one.

    Attributes:
        coef_: (labels, features); one row for two classes.
        intercept_: (labels,), the prior taken off.
        classes_: numbers of the labels, or the classes of a y with one a row.
        n_iter_: iterations of L-BFGS.
        cardinality_range_: how many labels a row has at least and at most.
        calibration_: of `predict_proba`, None without `calibrate`.

    A y with one axis is one class a row, as every classifier takes it: logistic regression of two classes,
    cross-entropy of more, without a prior.

    Example:
        >>> import numpy as np
        >>> from manyhot.sklearn import MultiLabelClassifier
        >>> X = np.array([[0.0, 2.0], [2.0, 0.0], [2.0, 2.0], [0.0, 1.0]])
        >>> Y = np.array([[0, 1], [1, 0], [1, 1], [0, 1]])
        >>> MultiLabelClassifier().fit(X, Y).predict([[3.0, 0.0], [0.0, 3.0]])
        array([[1, 0],
               [0, 1]])
    """

    def __init__(
        self,
        *,
        loss: Literal["zlpr", "bce"] = "zlpr",
        C: float = 1.0,
        prior: Literal["train"] | Any | None = "train",
        tau: float = 1.0,
        decision: Literal["range", "zero"] = "range",
        max_iter: int = 500,
        tol: float = 1e-4,
        calibrate: bool = False,
    ) -> None:
        self.loss = loss
        self.C = C
        self.prior = prior
        self.tau = tau
        self.decision = decision
        self.max_iter = max_iter
        self.tol = tol
        self.calibrate = calibrate

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        tags.classifier_tags.multi_label = True
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit.

        Args:
            X: (rows, features), an array, a frame or a scipy.sparse matrix.
            y: (rows, labels), 0/1 or shares in [0, 1], unknown where -1, -100 or NaN, dense or sparse; or (rows,), one
                class a row.
            sample_weight: (rows,), >= 0; a row of weight 2 is two rows.

        Raises:
            ValueError: targets or options out of range, or one class only.
        """
        self._check_options()
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32])
        check_consistent_length(X, y)
        targets = self._targets(y)
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        X = sp.csr_array(X, dtype=np.float64) if sp.issparse(X) else np.ascontiguousarray(X, dtype=np.float64)
        if weight is not None:
            used = weight > 0
            X, targets, weight = X[used], targets[used], weight[used].astype(np.float64)
        several = self._kind == "labels"
        self.cardinality_range_ = cardinality_range(targets, sample_weight=weight) if several else None
        self.coef_, intercept = self._solved(X, targets, weight)
        shift = self._shift(targets, weight) if several else 0.0
        self.intercept_ = intercept - shift
        self.calibration_ = self._calibrated(X, targets, weight) if self.calibrate else None
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return scores, (rows, labels); of two classes (rows,), above 0 for the second."""
        scores = self._scores(X)
        return scores[:, 0] if self._kind == "two classes" else scores

    def predict(self, X: Any) -> np.ndarray:
        """Return 0/1 integers (rows, labels), or a class a row."""
        scores = self._scores(X)
        if self._kind == "two classes":
            return self.classes_[(scores[:, 0] > 0).astype(np.int64)]
        if self._kind == "classes":
            return self.classes_[scores.argmax(1)]
        if self.decision == "zero" or self.cardinality_range_ is None:
            return decide(scores)
        return decide(scores, **self.cardinality_range_._asdict())

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities: of labels each by itself, (rows, labels); of classes with the sum 1.

        Without `calibrate` the sigmoid of the score of a label, which is above 1/2 where the score is above 0 and no
        probability after training with ZLPR or a prior. With it, calibrated on rows held out; a label that is predicted
        may be below 1/2 then.
        """
        scores = self._scores(X)
        if self.calibration_ is not None:
            probs = self.calibration_.probs(scores)
        elif self._kind == "classes":
            probs = torch.from_numpy(scores).softmax(-1).numpy()
        else:
            probs = torch.from_numpy(scores).sigmoid().numpy()
        probs = np.clip(probs, LEAST, 1 - LEAST)
        return np.hstack([1 - probs, probs]) if self._kind == "two classes" else probs

    def _check_options(self) -> None:
        for name, allowed in (("loss", ("zlpr", "bce")), ("decision", ("range", "zero"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}; got {getattr(self, name)!r}.")
        for name in ("C", "max_iter", "tol"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be above 0; got {getattr(self, name)!r}.")
        if isinstance(self.prior, str) and self.prior != "train":
            raise ValueError(f'prior must be "train", None or the frequencies of the labels; got {self.prior!r}.')

    def _targets(self, y: Any) -> np.ndarray:
        """Read y: sets `classes_` and what kind of target it is, and returns (rows, labels)."""
        if is_sparse(y):
            self._kind: Literal["labels", "two classes", "classes"] = "labels"
            self.classes_ = np.arange(y.shape[1])
            return written_out(y, y.shape[1]).astype(np.float64)
        try:
            y = np.asarray(y)
        except ValueError:  # lists of different lengths
            y = np.array([None])
        if y.ndim < 2 and y.dtype == object and not all(isinstance(x, str | int | float | np.generic) for x in y.flat):
            raise ValueError(
                "y must be a matrix (rows, labels) of 0/1, or a class a row; sets of label names become a matrix with "
                "sklearn.preprocessing.MultiLabelBinarizer."
            )
        if y.ndim == 2 and y.shape[1] > 1:
            if y.dtype == object:
                y = y.astype(np.float64)
            self._kind = "labels"
            self.classes_ = np.arange(y.shape[1])
            return dense_cells(y).astype(np.float64)
        y = column_or_1d(y, warn=True)
        if y.dtype.kind == "f":
            assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        self.classes_, ids = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs two classes or more; y has 1 class, {self.classes_[0]!r}.")
        self._kind = "two classes" if len(self.classes_) == 2 else "classes"
        return (ids[:, None] == np.arange(len(self.classes_))[-1 if len(self.classes_) == 2 else 0 :]).astype(float)

    def _solved(self, X: Any, targets: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Fit without a prior: coefficients and intercept."""
        # The frequencies are the best biases of BCE, and a start that repeated rows and weights make the same.
        prior = label_prior(targets, sample_weight=weight)
        bias = np.log(prior) if self._kind == "classes" else np.log(prior) - np.log1p(-prior)
        steps: list[int] = []
        loss = partial(_cross_entropy, weight=weight) if self._kind == "classes" else _loss(self.loss, weight)
        with warnings.catch_warnings():
            # Scores on the way may all lie in [0, 1], and are no probabilities.
            warnings.filterwarnings("ignore", "all logits lie in")
            model = fit_linear(
                X,
                torch.from_numpy(targets),
                loss=loss,
                C=self.C,
                start=bias,
                max_iter=self.max_iter,
                tolerance=self.tol,
                progress=lambda n, of, value, score: steps.append(n),
            )
        self.n_iter_ = max(steps, default=1)
        if self.n_iter_ >= self.max_iter:
            warnings.warn(
                f"L-BFGS stopped at max_iter={self.max_iter} with more to gain; scale the features, or raise max_iter.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return np.ascontiguousarray(model.weight.numpy().T), model.bias.numpy().copy()

    def _shift(self, targets: np.ndarray, weight: np.ndarray | None) -> np.ndarray | float:
        """Return what the prior takes off the biases.

        Training with the prior and a free bias is training without it and lowering the bias.
        """
        if self.prior is None:
            return 0.0
        given = not isinstance(self.prior, str)
        prior = np.asarray(self.prior, np.float64) if given else label_prior(targets, sample_weight=weight)
        if prior.shape != targets.shape[1:] or not ((prior > 0) & (prior < 1)).all():
            raise ValueError(f"prior must be ({targets.shape[1]},) numbers inside (0, 1); got shape {prior.shape}.")
        return self.tau / 2 * (np.log(prior) - np.log1p(-prior))

    def _calibrated(self, X: Any, targets: np.ndarray, weight: np.ndarray | None) -> Calibration:
        """Fit the calibration on scores of rows held out."""
        scores, iterations = np.empty(targets.shape), self.n_iter_
        for fold in make_folds(X, targets, seed=0):
            assert fold.rows is not None
            assert fold.rows_held is not None
            of = None if weight is None else weight[fold.rows]
            coef, intercept = self._solved(fold.X, fold.targets, of)
            shift = self._shift(fold.targets, of) if self._kind == "labels" else 0.0
            scores[fold.rows_held] = safe_sparse_dot(fold.X_held, coef.T) + intercept - shift
        self.n_iter_ = iterations
        return fit_calibration(scores, targets.argmax(1) if self._kind == "classes" else targets)

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        return safe_sparse_dot(X, self.coef_.T, dense_output=True) + self.intercept_


def _loss(name: str, weight: np.ndarray | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the sum over rows of a loss, each with its weight."""
    return partial(
        {"zlpr": zlpr_loss, "bce": bce_loss}[name],
        sample_weight=None if weight is None else torch.from_numpy(weight),
        reduction="sum",
    )


def _cross_entropy(logits: Tensor, targets: Tensor, weight: np.ndarray | None) -> Tensor:
    rows = F.cross_entropy(logits, targets, reduction="none")
    return rows.sum() if weight is None else rows @ torch.from_numpy(weight)


class StratifiedMultilabelKFold(BaseCrossValidator):
    """Folds that have their share of every label, for `cv=`: :func:`manyhot.stratified_split`.

    `KFold` takes rows as they come: on a file that is sorted by label, the training part of a fold lacks what it is
    measured on. With `groups`, the rows of a group stay together.

    Args:
        n_splits: >= 2.
        random_state: a number; the same gives the same folds.

    Example:
        >>> import numpy as np
        >>> from manyhot.sklearn import StratifiedMultilabelKFold
        >>> Y = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
        >>> [Y[test].sum(0).tolist() for _, test in StratifiedMultilabelKFold(2).split(Y, Y)]
        [[1, 1], [1, 1]]
    """

    __metadata_request__split = {"groups": True}  # noqa: RUF012, what a splitter of scikit-learn says so

    def __init__(self, n_splits: int = 5, *, random_state: int = 0) -> None:
        if n_splits < 2:
            raise ValueError(f"n_splits must be 2 or more; got {n_splits}.")
        self.n_splits = n_splits
        self.random_state = random_state

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:  # pyright: ignore
        """Return how many folds there are."""
        return self.n_splits

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[Any]:  # pyright: ignore
        """Yield (training rows, test rows) of each fold, positions in order.

        Raises:
            ValueError: no y, or one with a class a row, which `StratifiedKFold` is for; too few rows or groups.
        """
        if y is None or (not is_sparse(y) and np.ndim(y) != 2):
            raise ValueError("StratifiedMultilabelKFold needs y (rows, labels); StratifiedKFold takes classes.")
        y = y if is_sparse(y) else np.asarray(y)
        part = stratified_split(y, [1.0] * self.n_splits, groups=groups, seed=self.random_state)
        if len(np.unique(part)) < self.n_splits:
            raise ValueError(f"n_splits={self.n_splits} needs as many rows, and groups where there are some.")
        for fold in range(self.n_splits):
            yield np.flatnonzero(part != fold), np.flatnonzero(part == fold)


def f1_score(y_true: Any, y_pred: Any, *, average: Literal["micro", "macro", "samples"] = "micro") -> float:
    """Return F1 of known cells, for ``make_scorer(manyhot.sklearn.f1_score)``: scikit-learn's refuses NaN and -1.

    Args:
        y_true: (rows, labels), 0/1, unknown where -1, -100 or NaN; dense or sparse.
        y_pred: (rows, labels), 0/1.
        average: `"micro"`, `"macro"` over labels with a known cell, or `"samples"` over rows with one.

    Example:
        >>> import numpy as np
        >>> from manyhot.sklearn import f1_score
        >>> f1_score(np.array([[1, 0], [-1, 1]]), np.array([[1, 0], [1, 0]]))
        0.6666666666666666
    """
    if average not in ("micro", "macro", "samples"):
        raise ValueError(f'average must be "micro", "macro" or "samples"; got {average!r}.')
    y_pred = written_out(y_pred, y_pred.shape[1]) if is_sparse(y_pred) else np.asarray(y_pred)
    score = multilabel_metrics(y_pred, y_true if is_sparse(y_true) else np.asarray(y_true), y_pred)[f"{average}_f1"]
    assert score is not None
    return float(score)
