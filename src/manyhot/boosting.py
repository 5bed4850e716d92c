r"""ZLPR for gradient boosting: XGBoost and LightGBM fit all labels in one model, missing and soft ones included.

A tree needs the gradient of the loss and the diagonal of its Hessian by the margins s of a row. With negatives and
positives as two softmaxes that have a term 1 beside their labels,

    e_i =  scale (s_i + o_i) + log(1-t_i) + log w_i    where t_i < 1      p_i = e^{e_i} / (1 + sum e^e)
    f_i = -scale (s_i + o_i) + log t_i + log w_i       where t_i > 0      q_i = e^{f_i} / (1 + sum e^f)

    loss      log(1 + sum e^e) + log(1 + sum e^f)
    gradient  scale (p - q)
    diagonal  scale^2 (p (1-p) + q (1-q))

with o = tau/(2 scale) logit(prior). The diagonal is exact. It is about 1/labels where a logistic model has 1/4, which
`min_child_weight` and `lambda` of the libraries are made for; scaling it up was measured and is no better.
"""

import json
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal, Self

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import Tags
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "sklearn":
        raise
    raise ImportError('manyhot.boosting needs scikit-learn: pip install "manyhot[boosting]"') from error

from manyhot.decisions import decide
from manyhot.labels import dense_cells, is_sparse, known_of, label_prior, written_out

# XGBoost and LightGBM divide by sums of the diagonal; labels that are known nowhere in a leaf would make them 0.
LEAST_DIAGONAL = 1e-6


class ZLPRObjective:
    """ZLPR as the `objective` of ``xgboost.XGBClassifier``, whose margins are logits then: a label is above 0.

    It pickles and clones, as workers of scikit-learn ask. XGBClassifier refuses unknown and soft targets itself; where
    there are some, use :class:`XGBMultiLabel` or :func:`zlpr_objective`.

    Args:
        prior: (labels,), frequency of each label in the training rows, inside (0, 1): :func:`manyhot.label_prior`.
        tau: how much of the prior is used.
        scale: > 0, sharpness.
        label_weight: >= 0, (labels,), a factor inside the logs; 0 removes a label.

    Raises:
        ValueError: options out of range.

    Example:
        >>> import numpy as np
        >>> from manyhot.boosting import ZLPRObjective
        >>> gradient, diagonal = ZLPRObjective()(np.array([[1, 0]]), np.zeros((1, 2)))
        >>> gradient, diagonal
        (array([[-0.5,  0.5]]), array([[0.25, 0.25]]))
    """

    def __init__(self, prior: Any = None, tau: float = 1.0, *, scale: float = 1.0, label_weight: Any = None) -> None:
        if not 0 < scale < np.inf:
            raise ValueError(f"scale must be positive and finite; got {scale}.")
        if not np.isfinite(tau):
            raise ValueError(f"tau must be finite; got {tau}.")
        self.prior = None if prior is None else _prior(prior)
        self.tau = tau
        self.scale = scale
        self.label_weight = None if label_weight is None else _weights("label_weight", label_weight)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradient and the diagonal of the Hessian.

        Args:
            y_true: (rows, labels), 0/1 or shares in [0, 1]; -1, -100 and NaN are unknown.
            y_pred: (rows, labels), margins.
            sample_weight: (rows,), >= 0.

        Returns:
            Two float64 arrays in the shape of `y_pred`.
        """
        _, gradient, diagonal = self.derivatives(y_true, y_pred)
        weight = 1.0 if sample_weight is None else _column(sample_weight, gradient.ndim)
        return weight * gradient, np.maximum(weight * diagonal, LEAST_DIAGONAL)

    def derivatives(self, y_true: Any, y_pred: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the loss of each row (rows,), its gradient and the diagonal of its Hessian, both (rows, labels).

        Takes what calling takes. A row with an infinite margin on the wrong side has an infinite loss, and nothing of
        that side in gradient and diagonal; a row without a known label is 0 throughout.
        """
        s = np.asarray(y_pred, dtype=np.float64)
        t = np.asarray(y_true)
        t = (t if t.dtype == bool else t.astype(np.float64, copy=False)).reshape(s.shape)
        known = known_of(t)
        wrong = known & ~((t >= 0) & (t <= 1))
        if wrong.any():
            row, label = np.argwhere(wrong)[0][-2:] if t.ndim > 1 else (0, int(np.argmax(wrong)))
            raise ValueError(
                "targets must lie in [0, 1], or be -1, -100 or NaN where unknown; "
                f"got {t[wrong][0]:g} in row {row}, label {label}."
            )
        t, s = np.where(known, t, 0.5), np.where(known, s, 0.0)
        if self.prior is not None:
            s = s + prior_offset(self.prior, self.tau) / self.scale
        weight = np.ones(s.shape) if self.label_weight is None else np.broadcast_to(self.label_weight, s.shape)
        known = known & (weight > 0)
        log_weight = np.log(np.where(weight > 0, weight, 1.0))
        negative, positive = known & (t < 1), known & (t > 0)
        e = self.scale * s + np.log1p(-np.where(negative, t, 0.0)) + log_weight
        f = -self.scale * s + np.log(np.where(positive, t, 1.0)) + log_weight
        neg, p = _side(np.where(negative, e, -np.inf))
        pos, q = _side(np.where(positive, f, -np.inf))
        return neg + pos, self.scale * (p - q), self.scale**2 * (p * (1 - p) + q * (1 - q))


def _side(exponents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log(1 + sum e^x) of each row, and the share of each label in the sum."""
    infinite = (exponents == np.inf).any(-1, keepdims=True)
    exponents = np.where(infinite, -np.inf, exponents)
    peak = np.maximum(exponents.max(-1, keepdims=True, initial=0.0), 0.0)
    terms = np.exp(exponents - peak)
    total = terms.sum(-1, keepdims=True) + np.exp(-peak)
    return np.where(infinite, np.inf, peak + np.log(total))[..., 0], terms / total


class HeldObjective:
    """Targets and an objective on them, with what `xgboost.train` and `lightgbm.train` call: (margins, data).

    :func:`zlpr_objective` makes it.
    """

    def __init__(self, objective: ZLPRObjective, targets: Any, sample_weight: Any) -> None:
        self.objective = objective
        self.targets = targets_as_array(targets)
        self.sample_weight = None if sample_weight is None else _weights("sample_weight", sample_weight)
        if self.sample_weight is not None and self.sample_weight.shape != self.targets.shape[:1]:
            raise ValueError(
                f"sample_weight must have one weight a row, ({len(self.targets)},); got {self.sample_weight.shape}."
            )

    def margins(self, predt: np.ndarray) -> np.ndarray:
        """Return margins in the shape of the targets.

        Raises:
            ValueError: those of other rows.
        """
        if predt.size != self.targets.size:
            raise ValueError(
                f"the targets have {self.targets.shape[0]:,} rows x {self.targets.shape[1]:,} labels, the margins "
                f"{predt.size:,} values: an objective holds the targets of one data set, so cv() and subsets of it do "
                "not work; call train() for each fold, with the objective of its rows."
            )
        return np.asarray(predt).reshape(self.targets.shape)

    def __call__(self, predt: np.ndarray, data: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Return gradient and diagonal in the shape of the margins."""
        gradient, diagonal = self.objective(self.targets, self.margins(predt), self.sample_weight)
        return gradient.reshape(np.shape(predt)), diagonal.reshape(np.shape(predt))


class HeldMetric(HeldObjective):
    """The mean loss of held rows; :func:`zlpr_metric` makes it."""

    def __call__(self, predt: np.ndarray, data: Any = None) -> Any:
        """Return (name, value), and for LightGBM that lower is better."""
        value, _, _ = self.objective.derivatives(self.targets, self.margins(predt))
        known = known_of(self.targets).any(1)
        weight = known * (1.0 if self.sample_weight is None else self.sample_weight)
        mean = float(np.where(weight > 0, value, 0.0) @ weight / max(weight.sum(), LEAST_DIAGONAL))
        of_lightgbm = type(data).__module__.partition(".")[0] == "lightgbm"
        return ("zlpr", mean, False) if of_lightgbm else ("zlpr", mean)


def zlpr_objective(
    targets: Any,
    *,
    prior: Any = None,
    tau: float = 1.0,
    scale: float = 1.0,
    label_weight: Any = None,
    sample_weight: Any = None,
) -> HeldObjective:
    """Return ZLPR on these targets, for ``xgboost.train(obj=)`` and ``lightgbm.train({"objective": ...})``.

    The libraries refuse unknown, soft or sparse targets; this holds them, so the data set is made without a label:

        >>> import numpy as np, xgboost
        >>> from manyhot.boosting import zlpr_objective
        >>> X, Y = np.arange(40.0).reshape(20, 2), np.tile([[1, -1, 0], [0, 1, 0.5]], (10, 1))
        >>> model = xgboost.train(
        ...     {"num_target": 3, "base_score": 0, "disable_default_eval_metric": 1},
        ...     xgboost.DMatrix(X),
        ...     10,
        ...     obj=zlpr_objective(Y),
        ... )
        >>> model.predict(xgboost.DMatrix(X)).shape
        (20, 3)

    `base_score` 0 is needed: `xgboost.train` starts from 0.5 otherwise. For LightGBM the parameters are
    ``{"objective": zlpr_objective(Y), "num_class": labels, "metric": "None"}`` and the label of the Dataset zeros.

    Args:
        targets: (rows, labels), an array, a tensor, a frame or a scipy.sparse matrix: 0/1 or shares in [0, 1], unknown
            where -1, -100 or NaN.
        prior, tau, scale, label_weight: of :class:`ZLPRObjective`.
        sample_weight: (rows,), >= 0.

    Raises:
        ValueError: targets or options out of range; when it is called, margins of other rows.
    """
    objective = ZLPRObjective(prior, tau, scale=scale, label_weight=label_weight)
    return HeldObjective(objective, targets, sample_weight)


def zlpr_metric(
    targets: Any,
    *,
    prior: Any = None,
    tau: float = 1.0,
    scale: float = 1.0,
    label_weight: Any = None,
    sample_weight: Any = None,
) -> HeldMetric:
    """Return the mean loss of rows, for early stopping: `custom_metric` of ``xgboost.train``, `feval` of ``lgb.train``.

    Args:
        targets: those of the rows that are evaluated.
        prior, tau, scale, label_weight: as the objective has them; the prior is that of the training rows.
        sample_weight: (rows,), >= 0.

    Example:
        >>> import numpy as np
        >>> from manyhot.boosting import zlpr_metric
        >>> zlpr_metric(np.array([[1, 0]]))(np.zeros((1, 2)))
        ('zlpr', 1.3862943611198906)
    """
    return HeldMetric(ZLPRObjective(prior, tau, scale=scale, label_weight=label_weight), targets, sample_weight)


def prior_offset(prior: Any, tau: float = 1.0) -> np.ndarray:
    r"""Return what a prior takes off the margins of labels, :math:`\tau/2\,\mathrm{logit}(\pi)`, (labels,) float64.

    The gain of ZLPR with a prior over plain boosting is the prior's, and a model with one logistic margin a label that
    is trained already gets it for nothing:

        >>> import numpy as np, manyhot
        >>> from manyhot.boosting import prior_offset
        >>> margins, Y = np.array([[1.0, -1.0], [2.0, -3.0]]), np.array([[1, 0], [1, 0], [1, 1], [0, 0]])
        >>> manyhot.decide(margins, threshold=prior_offset(manyhot.label_prior(Y)))
        array([[1, 0],
               [1, 0]])

    Raises:
        ValueError: a prior outside of (0, 1).
    """
    prior = _prior(prior)
    return tau / 2 * (np.log(prior) - np.log1p(-prior))


def targets_as_array(targets: Any) -> np.ndarray:
    """Return targets as a dense array (rows, labels), checked."""
    if is_sparse(targets):
        return written_out(targets, targets.shape[1]).astype(np.float64)
    return dense_cells(targets)


class _Boosted(ClassifierMixin, BaseEstimator):
    """What the two estimators share: the options, and everything but the library's own fitting and files."""

    booster_: Any

    def __init__(
        self,
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        *,
        prior: Literal["train"] | Any | None = "train",
        tau: float = 1.0,
        min_labels: int = 0,
        max_labels: int | None = None,
        early_stopping_rounds: int | None = None,
        params: dict[str, Any] | None = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.prior = prior
        self.tau = tau
        self.min_labels = min_labels
        self.max_labels = max_labels
        self.early_stopping_rounds = early_stopping_rounds
        self.params = params

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = False
        tags.classifier_tags.multi_label = True
        tags.input_tags.sparse = tags.input_tags.allow_nan = True
        return tags

    def fit(self, X: Any, Y: Any, sample_weight: Any = None, eval_set: Sequence[tuple[Any, Any]] | None = None) -> Self:
        """Fit all labels.

        Args:
            X: (rows, features), what the library takes: an array, a frame or a scipy.sparse matrix; NaN is missing.
            Y: (rows, labels), 0/1 or shares in [0, 1], unknown where -1, -100 or NaN; dense or sparse.
            sample_weight: (rows,), >= 0.
            eval_set: [(X, Y)], rows that stop the fit after `early_stopping_rounds` without a lower loss.

        Raises:
            ValueError: targets or options out of range, early stopping without an `eval_set`.
        """
        if self.early_stopping_rounds is not None and not eval_set:
            raise ValueError("early_stopping_rounds needs rows to measure: fit(X, Y, eval_set=[(X_valid, Y_valid)]).")
        if eval_set and len(eval_set) != 1:
            raise ValueError(f"eval_set must hold one pair, [(X_valid, Y_valid)]; got {len(eval_set)}.")
        targets = targets_as_array(Y)
        prior = self.prior
        if isinstance(prior, str):
            if prior != "train":
                raise ValueError(f'prior must be "train", None or the frequencies of the labels; got {prior!r}.')
            # In a label that is known nowhere, 1/2: nothing is taken off it.
            prior = label_prior(targets)
        options = {"prior": prior, "tau": self.tau}
        objective = zlpr_objective(targets, sample_weight=sample_weight, **options)
        held = None
        if eval_set:
            (X_held, Y_held) = eval_set[0]
            held = X_held, zlpr_metric(Y_held, **options)
        self.classes_ = np.arange(targets.shape[1])
        self.booster_ = self._fitted(X, objective, held)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return margins, (rows, labels) float64; a label is predicted where its margin is above 0."""
        margins = np.asarray(self._margins(X), dtype=np.float64)
        return margins.reshape(len(margins), -1)

    def predict(self, X: Any) -> np.ndarray:
        """Return 0/1 integers (rows, labels): :func:`manyhot.decide` of the margins."""
        return decide(self.decision_function(X), min_labels=self.min_labels, max_labels=self.max_labels)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the sigmoid of the margins, (rows, labels): above 1/2 where a label is above 0, and not calibrated.

        :func:`manyhot.fit_calibration` on rows held out makes probabilities of margins.
        """
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-self.decision_function(X)))

    def _fitted(self, X: Any, objective: HeldObjective, held: tuple[Any, HeldMetric] | None) -> Any:
        raise NotImplementedError

    def _margins(self, X: Any) -> Any:
        raise NotImplementedError


class XGBMultiLabel(_Boosted):
    """XGBoost on ZLPR as a scikit-learn classifier: unknown, soft and sparse targets, and one zero for all labels.

    Args:
        n_estimators: rounds; each grows a tree a label.
        learning_rate: what a tree's leaves are multiplied with.
        prior: `"train"` counts the frequencies of labels in the rows of `fit`, which lifts rare labels; None for none,
            or (labels,) numbers inside (0, 1).
        tau: how much of the prior is used.
        min_labels, max_labels: how many labels `predict` gives a row: :func:`manyhot.cardinality_range`.
        early_stopping_rounds: stop after so many rounds without a lower loss on `eval_set`.
        params: parameters of ``xgboost.train``, such as ``{"max_depth": 4, "subsample": 0.8, "seed": 0}``.

    Attributes:
        booster_: the `xgboost.Booster`; `save_model` writes it in XGBoost's own format.
        classes_: the numbers of the labels.

    Example:
        >>> import numpy as np
        >>> from manyhot.boosting import XGBMultiLabel
        >>> X = np.arange(40.0).reshape(-1, 1)
        >>> Y = np.hstack([X < 10, X > 25]).astype(float)
        >>> Y[3, 1] = np.nan  # nobody knows
        >>> XGBMultiLabel(20).fit(X, Y).predict([[2.0], [15.0], [30.0]])
        array([[1, 0],
               [0, 0],
               [0, 1]])
    """

    def _fitted(self, X: Any, objective: HeldObjective, held: tuple[Any, HeldMetric] | None) -> Any:
        xgboost = _library("xgboost")
        labels = objective.targets.shape[1]
        fixed = {"num_target": labels, "base_score": 0.0, "disable_default_eval_metric": 1}
        params = {"learning_rate": self.learning_rate} | (self.params or {}) | fixed
        evaluated: dict[str, Any] = {}
        if held is not None:
            evaluated = {"evals": [(xgboost.DMatrix(held[0]), "valid")], "custom_metric": held[1]}
        return xgboost.train(
            params,
            xgboost.DMatrix(X),
            self.n_estimators,
            obj=objective,
            early_stopping_rounds=self.early_stopping_rounds,
            verbose_eval=False,
            **evaluated,
        )

    def _margins(self, X: Any) -> Any:
        xgboost = _library("xgboost")
        stopped = self.booster_.attr("best_iteration")
        rounds = (0, 0 if stopped is None else int(stopped) + 1)
        return self.booster_.predict(xgboost.DMatrix(X), output_margin=True, iteration_range=rounds)

    def save_model(self, path: Any) -> None:
        """Write the model in XGBoost's format, JSON for a name in .json. Options of `predict` stay outside."""
        self.booster_.save_model(path)

    def load_model(self, path: Any) -> Self:
        """Read what :meth:`save_model` wrote."""
        self.booster_ = _library("xgboost").Booster(model_file=path)
        learner = json.loads(self.booster_.save_config())["learner"]
        self.classes_ = np.arange(int(learner["learner_model_param"]["num_target"]))
        return self


class LGBMMultiLabel(_Boosted):
    """LightGBM on ZLPR as a scikit-learn classifier: one model of all labels, which LightGBM itself does not have.

    Args:
        n_estimators, learning_rate, prior, tau, min_labels, max_labels, early_stopping_rounds: as
            :class:`XGBMultiLabel` has them.
        params: parameters of ``lightgbm.train``, such as ``{"num_leaves": 15, "bagging_fraction": 0.8, "seed": 0}``.

    Attributes:
        booster_: the `lightgbm.Booster`; `save_model` writes it in LightGBM's own text.
        classes_: the numbers of the labels.

    Example:
        >>> import numpy as np
        >>> from manyhot.boosting import LGBMMultiLabel
        >>> X = np.arange(90.0).reshape(-1, 1)
        >>> Y = np.hstack([X < 30, X > 55]).astype(int)
        >>> LGBMMultiLabel(20).fit(X, Y).predict(np.array([[2.0], [42.0], [80.0]]))
        array([[1, 0],
               [0, 0],
               [0, 1]])
    """

    def _fitted(self, X: Any, objective: HeldObjective, held: tuple[Any, HeldMetric] | None) -> Any:
        lightgbm = _library("lightgbm")
        rows, labels = objective.targets.shape
        fixed = {"objective": objective, "num_class": labels, "metric": "None", "boost_from_average": False}
        params = {"learning_rate": self.learning_rate, "verbosity": -1} | (self.params or {}) | fixed
        train = lightgbm.Dataset(_of_lightgbm(X), label=np.zeros(rows), params=params | {"objective": "none"})
        evaluated: dict[str, Any] = {}
        if held is not None:
            zeros = np.zeros(len(held[1].targets))
            evaluated = {"valid_sets": [train.create_valid(_of_lightgbm(held[0]), label=zeros)], "feval": held[1]}
            if self.early_stopping_rounds is not None:
                evaluated["callbacks"] = [lightgbm.early_stopping(self.early_stopping_rounds, verbose=False)]
        return lightgbm.train(params, train, self.n_estimators, **evaluated)

    def _margins(self, X: Any) -> Any:
        return self.booster_.predict(_of_lightgbm(X))

    def save_model(self, path: Any) -> None:
        """Write the model in LightGBM's text format. Options of `predict` stay outside."""
        self.booster_.save_model(path)

    def load_model(self, path: Any) -> Self:
        """Read what :meth:`save_model` wrote."""
        self.booster_ = _library("lightgbm").Booster(model_file=path)
        self.classes_ = np.arange(self.booster_.num_model_per_iteration())
        return self


def _of_lightgbm(X: Any) -> Any:
    """Return features as LightGBM takes them: of scipy matrices alone, not of its arrays."""
    return import_module("scipy.sparse").csr_matrix(X) if hasattr(X, "tocsr") else X


def _library(name: Literal["xgboost", "lightgbm"]) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(f'this class needs {name}: pip install "manyhot[boosting]"') from error


def _prior(prior: Any) -> np.ndarray:
    values = np.asarray(prior, dtype=np.float64)
    if not ((values > 0) & (values < 1)).all():
        raise ValueError("prior must lie inside (0, 1), a frequency a label: manyhot.label_prior(Y_train) gives it.")
    return values


def _weights(name: str, weights: Any) -> np.ndarray:
    values = np.asarray(weights, dtype=np.float64)
    if not ((values >= 0) & (values < np.inf)).all():
        raise ValueError(f"{name} must be 0 or more, and finite.")
    return values


def _column(weights: Any, axes: int) -> np.ndarray:
    values = _weights("sample_weight", weights)
    return values.reshape(-1, *(1,) * (axes - 1))
