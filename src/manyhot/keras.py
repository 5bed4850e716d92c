r"""ZLPR for Keras 3, in its own operations: one source for the backends PyTorch, JAX and TensorFlow.

Targets are dense, 0/1 or shares in [0, 1], and -1, -100 and NaN are unknown. Predict with
``manyhot.decide(model.predict(X))``.
"""

# pyright: reportMissingImports=false

import math
from typing import Any, Literal

import numpy as np

try:
    import keras
    from keras import ops
except ModuleNotFoundError as error:
    if error.name != "keras":
        raise
    raise ImportError('manyhot.keras needs Keras 3: pip install "manyhot[keras]"') from error

from manyhot.targets import UNKNOWN


def zlpr(
    y_true: Any,
    y_pred: Any,
    from_logits: bool = True,
    threshold: float = 0.0,
    scale: float = 1.0,
    margin: float = 0.0,
    prior: Any = None,
    tau: float = 1.0,
    axis: int = -1,
) -> Any:
    r"""Push every positive above the threshold, every negative below it, and every positive above every negative.

    .. math::
        \ell = \log\Big(1 + \sum_{i\in N} e^{s_i}\Big) + \log\Big(1 + \sum_{j\in P} e^{-s_j}\Big)

    Args:
        y_true: (batch, labels), any dtype.
        y_pred: (batch, labels), logits: no sigmoid before.
        from_logits: True; a sigmoid cannot be undone without loss.
        threshold: the logit above which a label is predicted.
        scale: > 0, sharpness.
        margin: >= 0, added on both sides.
        prior: (labels,), frequency of each label in the training rows, inside (0, 1): :func:`manyhot.label_prior`.
        tau: how much of the prior is used.
        axis: that of the labels.

    Returns:
        (batch,), one loss a row, at least float32; 0 for a row without a known label.

    Raises:
        ValueError: `from_logits=False`, shapes that differ, options out of range.

    Example:
        >>> import numpy as np
        >>> from manyhot.keras import zlpr
        >>> round(float(zlpr(np.array([[1, 0, 1, 0]]), np.array([[2.0, -1.0, 3.0, -2.0]]))[0]), 4)
        0.5775
    """
    _check(from_logits, scale, margin)
    y_pred, y_true = ops.convert_to_tensor(y_pred), ops.convert_to_tensor(y_true)
    if len(y_true.shape) != len(y_pred.shape) or any(
        None not in (a, b) and a != b for a, b in zip(y_true.shape, y_pred.shape, strict=True)
    ):
        raise ValueError(
            f"y_true must have the shape of y_pred, {tuple(y_pred.shape)}; got {tuple(y_true.shape)}. Targets are "
            "many-hot: class ids become that with keras.ops.one_hot."
        )
    dtype = "float64" if keras.backend.standardize_dtype(y_pred.dtype) == "float64" else "float32"
    s, t = ops.cast(y_pred, dtype), ops.cast(y_true, dtype)
    if axis != -1:
        s, t = (ops.moveaxis(x, axis, -1) for x in (s, t))
    known = ops.logical_not(ops.isnan(t) | (t == UNKNOWN[0]) | (t == UNKNOWN[1]))
    shift: Any = threshold
    if prior is not None:
        shift = threshold - tau / (2 * scale) * _log_odds(prior)
    # What is unknown, or in no sum, is replaced before any arithmetic, so that no gradient meets its NaN or infinity.
    zero = ops.zeros_like(s)
    t = ops.where(known, t, zero + 0.5)
    s = ops.where(known, s, zero) - ops.convert_to_tensor(shift, dtype)
    negative, positive = known & (t < 1), known & (t > 0)
    neg = scale * (s + margin) + ops.log1p(-ops.where(negative, t, zero))
    pos = -scale * (s - margin) + ops.log(ops.where(positive, t, zero + 1))
    return _softplus_of_sum(negative, neg) + _softplus_of_sum(positive, pos)


def _softplus_of_sum(inside: Any, exponents: Any) -> Any:
    """Return log(1 + sum of e^x) over what is inside: 0 of nothing, infinity with gradient 0 of an infinite one."""
    infinite = ops.any(inside & (exponents == math.inf), axis=-1)
    inside = inside & ops.logical_not(infinite)[..., None] & (exponents > -math.inf)
    zero = ops.zeros_like(exponents)
    terms = ops.where(inside, exponents, zero)
    peak = ops.stop_gradient(ops.maximum(ops.max(ops.where(inside, terms, zero), axis=-1), 0))
    # Terms outside are 0 and not e^(0 - peak): the exponential is of numbers at most 0 alone.
    shares = ops.where(inside, ops.exp(ops.where(inside, terms - peak[..., None], zero)), zero)
    value = peak + ops.log(ops.sum(shares, axis=-1) + ops.exp(-peak))
    return ops.where(infinite, ops.zeros_like(value) + math.inf, value)


def _check(from_logits: bool, scale: float, margin: float) -> None:
    if not from_logits:
        raise ValueError("ZLPR takes logits: leave the sigmoid out of the last layer, and from_logits as it is.")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite; got {scale}.")
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin must be 0 or more and finite; got {margin}.")


def _log_odds(prior: Any) -> np.ndarray:
    values = np.asarray(prior, dtype=np.float64)
    if not ((values > 0) & (values < 1)).all():
        raise ValueError("prior must lie inside (0, 1), a frequency a label: manyhot.label_prior(Y_train) gives it.")
    return np.log(values) - np.log1p(-values)


@keras.saving.register_keras_serializable(package="manyhot")
class ZLPR(keras.losses.Loss):
    """:func:`zlpr` as a loss for ``model.compile``; it is saved with the model.

    **A row of which nothing is known counts in Keras' mean**: its loss is 0 and the denominator is the batch. Where
    there are such rows, give them a `sample_weight` of 0 and this loss ``reduction="mean_with_sample_weight"``.

    Args:
        threshold, scale, margin, prior, tau: of :func:`zlpr`.
        reduction: of Keras.
        name: of the loss.
        dtype: of the computation, at least float32.

    Example:
        >>> import numpy as np
        >>> from manyhot.keras import ZLPR
        >>> loss = ZLPR(prior=[0.5, 0.1])
        >>> ZLPR.from_config(loss.get_config()).prior
        [0.5, 0.1]
    """

    def __init__(
        self,
        threshold: float = 0.0,
        scale: float = 1.0,
        margin: float = 0.0,
        prior: Any = None,
        tau: float = 1.0,
        reduction: Any = "sum_over_batch_size",
        name: str = "zlpr",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        _check(True, scale, margin)
        self.threshold = threshold
        self.scale = scale
        self.margin = margin
        # Numbers of Python, so that the configuration is JSON.
        self.prior = None if prior is None else [float(x) for x in np.asarray(prior)]
        self.tau = tau
        if prior is not None:
            _log_odds(prior)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Compute one loss a row."""
        return zlpr(y_true, y_pred, True, self.threshold, self.scale, self.margin, self.prior, self.tau)

    def get_config(self) -> dict[str, Any]:
        """Return what :meth:`from_config` takes."""
        names = ("threshold", "scale", "margin", "prior", "tau")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="manyhot")
class F1Score(keras.metrics.Metric):
    """F1 of the labels whose logit is above 0, of known cells.

    Keras' own F1Score takes no threshold of 0, and 0.5 of a logit is another decision.

    Args:
        average: `"micro"`, or `"macro"`, the mean over labels with a known cell.
        num_labels: how many there are; read off the first batch if left out.
        name: of the metric; `micro_f1` or `macro_f1` if left out.
        dtype: of the counts.

    Example:
        >>> import numpy as np
        >>> from manyhot.keras import F1Score
        >>> metric = F1Score()
        >>> metric.update_state(np.array([[1.0, 0, -1]]), np.array([[2.0, 0.4, 3.0]]))
        >>> round(float(metric.result()), 4)
        0.6667
    """

    def __init__(
        self,
        average: Literal["micro", "macro"] = "micro",
        num_labels: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name or f"{average}_f1", dtype=dtype)
        if average not in ("micro", "macro"):
            raise ValueError(f'average must be "micro" or "macro"; got {average!r}.')
        self.average = average
        self.num_labels = num_labels
        self._ready = False
        if num_labels is not None:
            self._make(num_labels)

    def _make(self, num_labels: int) -> None:
        self.hits, self.sizes, self.known = (
            self.add_variable(shape=(num_labels,), initializer="zeros", dtype=self.dtype, name=name)
            for name in ("hits", "sizes", "known")
        )
        self._ready = True

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch: y_true (batch, labels), 0/1 with unknown cells; y_pred logits; sample_weight (batch,)."""
        y_true, y_pred = (ops.convert_to_tensor(y, dtype=self.dtype) for y in (y_true, y_pred))
        if not self._ready:
            self._make(y_pred.shape[-1])
        known = ops.logical_not(ops.isnan(y_true) | (y_true == UNKNOWN[0]) | (y_true == UNKNOWN[1]))
        true, preds = known & (y_true > 0.5), known & (y_pred > 0)
        weight = ops.ones_like(y_pred)
        if sample_weight is not None:
            given = ops.convert_to_tensor(sample_weight, dtype=self.dtype)
            weight = weight * (given[..., None] if len(given.shape) < len(y_pred.shape) else given)

        def counted(cells: Any) -> Any:
            rows = ops.reshape(ops.cast(cells, self.dtype) * weight, (-1, y_pred.shape[-1]))
            return ops.sum(rows, axis=0)

        self.hits.assign(self.hits + counted(true & preds))
        self.sizes.assign(self.sizes + counted(true) + counted(preds))
        self.known.assign(self.known + counted(known))

    def result(self) -> Any:
        """Return F1 so far; 0 before anything was counted."""
        if not self._ready:
            return ops.convert_to_tensor(0.0)
        hits, sizes, known = (ops.convert_to_tensor(counts) for counts in (self.hits, self.sizes, self.known))
        if self.average == "micro":
            return ops.divide_no_nan(2 * ops.sum(hits), ops.sum(sizes))
        judged = ops.cast(known > 0, self.dtype)
        by_label = ops.divide_no_nan(2 * hits, sizes)
        return ops.divide_no_nan(ops.sum(by_label * judged), ops.sum(judged))

    def get_config(self) -> dict[str, Any]:
        """Return what :meth:`from_config` takes."""
        return super().get_config() | {"average": self.average, "num_labels": self.num_labels}
