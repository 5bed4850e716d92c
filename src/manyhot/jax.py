r"""ZLPR and its two siblings for JAX: the loss of each row, under jit, grad and vmap; and the decision.

The formulas are those of :func:`manyhot.zlpr_loss`, :func:`manyhot.pairwise_loss` and
:func:`manyhot.single_log_loss`, in operations of JAX. As the losses of optax they return one value a row: take the
mean yourself.
"""

# pyright: reportMissingImports=false

import math
from functools import partial
from typing import Any

try:
    import jax
    import jax.numpy as jnp
    from jax import Array
except ModuleNotFoundError as error:
    if error.name not in ("jax", "jaxlib"):
        raise
    raise ImportError('manyhot.jax needs JAX: pip install "manyhot[jax]"') from error

from manyhot.targets import UNKNOWN


def zlpr(
    logits: Any,
    labels: Any,
    *,
    threshold: Any = 0.0,
    scale: Any = 1.0,
    margin: Any = 0.0,
    prior: Any = None,
    tau: Any = 1.0,
    label_weight: Any = None,
    where: Any = None,
    sample_weight: Any = None,
) -> Array:
    r"""Push every positive above the threshold, every negative below it, and every positive above every negative.

    .. math::
        \ell = \log\Big(1 + \sum_{i\in N} e^{s_i}\Big) + \log\Big(1 + \sum_{j\in P} e^{-s_j}\Big)

    Use it where you would use ``optax.sigmoid_binary_cross_entropy(...).sum(-1)``, and predict the labels above 0.

    Args:
        logits: (..., labels), any floating dtype, raw scores: no sigmoid before.
        labels: same shape, any dtype: 0/1 or shares in [0, 1]; -1, -100 and NaN are unknown.
        threshold: the logit above which a label is predicted; broadcasts to logits.
        scale: > 0, sharpness.
        margin: >= 0, added on both sides.
        prior: (labels,), frequency of each label in the training rows, inside (0, 1): :func:`manyhot.label_prior`.
        tau: how much of the prior is used.
        label_weight: >= 0, broadcasts to logits, a factor inside the logs; 0 removes a label.
        where: boolean, broadcasts to logits, True where the label is known.
        sample_weight: >= 0, broadcasts to the rows.

    Returns:
        (...,) one loss a row, in float32, or float64 for float64 logits; 0 for a row without a known label. The
        gradient comes back in the dtype of the logits, and is never NaN for logits that are not.

    Raises:
        ValueError: shapes that differ, a scale or margin that is a number of Python and out of range. Values of arrays
            are not looked at.

    Example:
        >>> import jax.numpy as jnp
        >>> from manyhot.jax import zlpr
        >>> zlpr(jnp.array([[2.0, -1.0, 3.0, -2.0]]), jnp.array([[1, 0, 1, 0]]))
        Array([0.577452], dtype=float32)
    """
    if prior is not None:
        _check_scale(scale, margin)
        prior = jnp.asarray(prior, _wide(logits))
        threshold = threshold - tau / (2 * scale) * (jnp.log(prior) - jnp.log1p(-prior))
    neg, pos = _exponents(logits, labels, threshold, scale, margin, label_weight, where)
    return _weighted(_softplus_of_sum(neg) + _softplus_of_sum(pos), sample_weight)


def pairwise(
    logits: Any,
    labels: Any,
    *,
    scale: Any = 1.0,
    margin: Any = 0.0,
    label_weight: Any = None,
    where: Any = None,
    sample_weight: Any = None,
) -> Array:
    r"""Push every positive above every negative of its row; predict the top k, where k is known.

    .. math::
        \ell = \log\Big(1 + \sum_{i\in N}\sum_{j\in P} e^{\gamma(s_i - s_j + 2m)}\Big)

    Takes and returns what :func:`zlpr` does. A row without positives or without negatives has loss and gradient 0.
    """
    neg, pos = _exponents(logits, labels, 0.0, scale, margin, label_weight, where)
    empty = jnp.isneginf(neg).all(-1) | jnp.isneginf(pos).all(-1)
    # An empty side takes no part in any arithmetic: -inf + inf would be NaN.
    neg, pos = (jnp.where(empty[..., None], 0.0, e) for e in (neg, pos))
    (neg, wrong), (pos, also_wrong) = (_log_sum(e) for e in (neg, pos))
    both = neg + pos
    # Beside an infinite sum the other one keeps its gradient, as in torch.
    value = jnp.where(wrong | also_wrong, both + jnp.inf, jnp.logaddexp(both, 0.0))
    return _weighted(jnp.where(empty, 0.0, value), sample_weight)


def single_log(
    logits: Any,
    labels: Any,
    *,
    threshold: Any = 0.0,
    scale: Any = 1.0,
    margin: Any = 0.0,
    label_weight: Any = None,
    where: Any = None,
    sample_weight: Any = None,
) -> Array:
    r"""ZLPR with one logarithm, :math:`\log(1 + \sum_{i\in N} e^{s_i} + \sum_{j\in P} e^{-s_j})`, for comparison.

    Takes and returns what :func:`zlpr` does.
    """
    sides = _exponents(logits, labels, threshold, scale, margin, label_weight, where)
    return _weighted(_softplus_of_sum(jnp.concatenate(sides, -1)), sample_weight)


@partial(jax.jit, static_argnames=("min_labels", "max_labels"))
def decide(logits: Any, *, threshold: Any = 0.0, min_labels: int = 0, max_labels: int | None = None) -> Array:
    """Predict the labels above the threshold, filled up from the best or cut to the best: :func:`manyhot.decide`.

    For decisions inside of a compiled function; `manyhot.decide(np.asarray(logits))` gives the same.

    Args:
        logits: (..., labels).
        threshold: broadcasts to logits.
        min_labels: >= 0, rows with fewer take the next best; static under jit.
        max_labels: >= min_labels, rows with more keep the best; None for no limit; static under jit.

    Returns:
        0/1 int32, shape of logits. Ties go to the lower index; NaN and -inf are never chosen.

    Raises:
        ValueError: a range that is empty or negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from manyhot.jax import decide
        >>> decide(jnp.array([[2.0, -1.0, 3.0], [-3.0, -1.0, -2.0]]), min_labels=1).tolist()
        [[1, 0, 1], [0, 1, 0]]
    """
    if min_labels < 0 or (max_labels is not None and max_labels < min_labels):
        raise ValueError(
            f"decide needs 0 <= min_labels <= max_labels; got min_labels={min_labels}, max_labels={max_labels}."
        )
    s = jnp.asarray(logits)
    s = s.astype(_wide(s))
    real = s > -jnp.inf
    chosen = (s > threshold) & real
    if min_labels == 0 and max_labels is None:
        return chosen.astype(jnp.int32)
    size = jnp.clip(chosen.sum(-1, keepdims=True), min_labels, max_labels)
    # One threshold a row leaves the order of its logits alone, and subtracting it would round the order away.
    per_label = jnp.ndim(threshold) > 0 and jnp.shape(threshold)[-1] > 1
    ranked = jnp.where(real, s - threshold if per_label else s, -jnp.inf)
    place = jnp.argsort(jnp.argsort(-ranked, axis=-1, stable=True), axis=-1, stable=True)
    return ((place < size) & (ranked > -jnp.inf)).astype(jnp.int32)


def _wide(logits: Any) -> Any:
    """Return the type that is computed in: at least float32."""
    return jnp.promote_types(jnp.result_type(logits), jnp.float32)


def _check_scale(scale: Any, margin: Any) -> None:
    """Check numbers of Python alone: a traced one has no value to look at."""
    if isinstance(scale, int | float) and not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite; got {scale}.")
    if isinstance(margin, int | float) and not 0 <= margin < math.inf:
        raise ValueError(f"margin must be 0 or more and finite; got {margin}.")


def _exponents(
    logits: Any, labels: Any, threshold: Any, scale: Any, margin: Any, label_weight: Any, where: Any
) -> tuple[Array, Array]:
    """Write out what each label has in either sum, -inf where it has nothing.

    What is unknown, or in no sum, is replaced before any arithmetic, so that no gradient meets its NaN or infinity.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.shape != labels.shape or logits.ndim == 0:
        raise ValueError(
            f"labels must have the shape of logits, {logits.shape}; got {labels.shape}. Labels are many-hot: class ids "
            "become that with jax.nn.one_hot."
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"logits must be floating-point raw scores; got {logits.dtype}. The order is (logits, labels)."
        )
    _check_scale(scale, margin)
    dtype = _wide(logits)
    known = jnp.ones(labels.shape, bool)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        known = ~jnp.isnan(labels) & (labels != UNKNOWN[0]) & (labels != UNKNOWN[1])
    elif jnp.issubdtype(labels.dtype, jnp.signedinteger):
        known = (labels != UNKNOWN[0]) & (labels != UNKNOWN[1])
    if where is not None:
        known = known & where
    log_weight = 0.0
    if label_weight is not None:
        weight = jnp.broadcast_to(jnp.asarray(label_weight, dtype), logits.shape)
        known = known & (weight > 0)
        log_weight = jnp.log(jnp.where(weight > 0, weight, 1))
    t = jnp.where(known, labels.astype(dtype), 0.5)
    s = jnp.where(known, logits.astype(dtype), 0) - jnp.asarray(threshold, dtype)
    negative, positive = known & (t < 1), known & (t > 0)
    neg = scale * (s + margin) + jnp.log1p(-jnp.where(negative, t, 0)) + log_weight
    pos = -scale * (s - margin) + jnp.log(jnp.where(positive, t, 1)) + log_weight
    return tuple(
        # The inner `where` keeps an infinity of the other side out of this one's gradient.
        jnp.where(inside, jnp.where(inside, e, 0), -jnp.inf).astype(dtype)
        for inside, e in ((negative, neg), (positive, pos))
    )


def _softplus_of_sum(exponents: Array) -> Array:
    """Return log(1 + sum of e^x) over the last axis: 0 of nothing, infinity with gradient 0 of an infinite one."""
    infinite = jnp.isposinf(exponents).any(-1)
    terms = jnp.where(infinite[..., None], -jnp.inf, exponents)
    peak = jax.lax.stop_gradient(jnp.maximum(jnp.max(terms, -1, initial=-jnp.inf), 0))
    total = jnp.exp(terms - peak[..., None]).sum(-1) + jnp.exp(-peak)
    return jnp.where(infinite, jnp.inf, peak + jnp.log(total))


def _log_sum(exponents: Array) -> tuple[Array, Array]:
    """Return log(sum of e^x) over the last axis, not all of it -inf, and where it is infinite: a constant there."""
    infinite = jnp.isposinf(exponents).any(-1)
    terms = jnp.where(infinite[..., None], 0.0, exponents)
    peak = jax.lax.stop_gradient(jnp.max(terms, -1, initial=-jnp.inf))
    return peak + jnp.log(jnp.exp(terms - peak[..., None]).sum(-1)), infinite


def _weighted(loss: Array, sample_weight: Any) -> Array:
    """Multiply with weights of rows; a row of weight 0 is 0 even where its loss is infinite."""
    if sample_weight is None:
        return loss
    weight = jnp.broadcast_to(jnp.asarray(sample_weight, loss.dtype), loss.shape)
    return jnp.where(weight > 0, jnp.where(weight > 0, loss, 0) * weight, 0)
