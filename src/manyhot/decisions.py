"""Logits to label sets: above the threshold, the top k, at least a, at most b."""

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from manyhot.targets import tensor_of
from manyhot.tracing import traced

Array = TypeVar("Array", Tensor, np.ndarray)


def decide(logits: Array, *, threshold: float | Any = 0.0, min_labels: int = 0, max_labels: int | None = None) -> Array:
    r"""Predict the labels above the threshold, filled up from the best or cut to the best where a range is given.

    .. math::
        \hat y_i = 1 \iff s_i > s_0

    Where every row of the training data has at least one label, `min_labels=1` says so: with labels that exclude each
    other, s > 0 alone may leave a row empty. :func:`manyhot.cardinality_range` reads both numbers off training targets.

    Args:
        logits: (..., labels), a tensor or an array; integers are compared and ranked as such.
        threshold: a number, or values that broadcast to logits: one per label (labels,), one per row (..., 1).
        min_labels: >= 0, rows with fewer labels take the next best by s - threshold.
        max_labels: >= min_labels, rows with more keep the best; None for no limit.

    Returns:
        0/1 integers (int64), shape of logits: a tensor for a tensor, an array for an array. Ties go to the lower index.
        NaN and -inf are never chosen, also not to fill up.

    Raises:
        ValueError: a range that is empty or negative, a threshold of NaN.

    Example:
        >>> import torch, manyhot
        >>> manyhot.decide(torch.tensor([[2.0, -1.0, 3.0], [-3.0, -1.0, -2.0]]), min_labels=1)
        tensor([[1, 0, 1],
                [0, 1, 0]])

    References:
        Su, kexue.fm/archives/7359; the range is ours.
    """
    if min_labels < 0 or (max_labels is not None and max_labels < min_labels):
        raise ValueError(
            f"decide needs 0 <= min_labels <= max_labels; got min_labels={min_labels}, max_labels={max_labels}."
        )
    if not isinstance(logits, Tensor):
        options = {"min_labels": min_labels, "max_labels": max_labels}
        return decide(tensor_of(logits), threshold=threshold, **options).numpy()  # pyright: ignore
    logits = logits.detach()
    # A float32 would round integers beyond 2^24 to their neighbours; their order is that of the integers themselves.
    whole = not logits.is_floating_point()
    logits = logits.long() if whole else logits if logits.dtype == torch.float64 else logits.float()
    wide = logits.double() if whole else logits
    if isinstance(threshold, int | float):
        nan = math.isnan(threshold)
    else:
        threshold = (threshold if isinstance(threshold, Tensor) else tensor_of(threshold)).to(logits.device)
        nan = not traced() and bool(threshold.isnan().any())
    if nan:
        raise ValueError("threshold must be numbers; got NaN.")
    chosen = (wide > threshold) & (wide > -torch.inf)
    count = chosen.sum(-1)
    wrong = count < min_labels
    if max_labels is not None:
        wrong = wrong | (count > max_labels)
    size = count.clamp(min_labels, max_labels).unsqueeze(-1)
    # One threshold a row leaves the order of its logits alone, and subtracting it would round the order away.
    per_label = isinstance(threshold, Tensor) and threshold.ndim and threshold.shape[-1] > 1
    ranked = wide - threshold if per_label else logits
    if traced():
        return torch.where(wrong.unsqueeze(-1), _best(ranked, size), chosen).long()  # pyright: ignore
    # Sorting costs far more than comparing, and few rows need it.
    if wrong.any():
        chosen[wrong] = _best(ranked[wrong], size[wrong])
    return chosen.long()  # pyright: ignore


def decide_above(logits: Any, offset: Any, *, min_labels: int, max_labels: int) -> Any:
    """Return :func:`decide` of logits + offset, a number, or (labels,) float64; a tensor for a tensor.

    In a half dtype the sum would make equal what is not. An offset halfway between two float32 needs float64.
    """
    scores = logits if isinstance(logits, Tensor) else tensor_of(logits)
    by = tensor_of(offset).to(scores.device) if isinstance(offset, np.ndarray) else offset
    exact = isinstance(offset, np.ndarray) or not scores.is_floating_point()
    wide = scores.double() if exact else scores.to(torch.promote_types(scores.dtype, torch.float32))
    found = decide(wide + by, min_labels=min_labels, max_labels=max_labels)
    return found if isinstance(logits, Tensor) else found.numpy()


def top_k(logits: Array, k: int | Array) -> Array:
    """Predict the k labels with the largest logits.

    The decision that goes with :func:`manyhot.pairwise_loss`, where the number of labels of a row is known.

    Args:
        logits: (..., labels), a tensor or an array.
        k: 0 to labels; one number, or one per row in the leading shape of logits.

    Returns:
        0/1 integers (int64), shape of logits: a tensor for a tensor, an array for an array. Ties go to the lower index.
        NaN and -inf are never chosen, so a row may have fewer than k.

    Raises:
        ValueError: k outside of 0 to labels.

    Example:
        >>> import torch, manyhot
        >>> manyhot.top_k(torch.tensor([[2.0, -1.0, 3.0], [-3.0, -1.0, -2.0]]), 2)
        tensor([[1, 0, 1],
                [0, 1, 1]])
    """
    if isinstance(logits, Tensor):
        size = torch.as_tensor(k if isinstance(k, int | Tensor) else tensor_of(k), device=logits.device)
        if size.is_floating_point():
            raise ValueError(f"k must be a whole number, or one per row; got {k}.")
        if not traced() and bool(((size < 0) | (size > logits.shape[-1])).any()):
            raise ValueError(f"k must lie between 0 and the number of labels, {logits.shape[-1]}; got {k}.")
        return _best(logits.detach(), size.expand(logits.shape[:-1]).unsqueeze(-1)).long()
    return top_k(tensor_of(logits), k if isinstance(k, int) else tensor_of(k)).numpy()


def _best(values: Tensor, size: Tensor) -> Tensor:
    """Mark the `size` largest values of each row; NaN and -inf are never marked."""
    if values.is_floating_point():
        values = torch.where(values.isnan(), -torch.inf, values)
    order = values.argsort(dim=-1, descending=True, stable=True)
    marked = torch.arange(values.shape[-1], device=values.device) < size
    return torch.zeros_like(marked).scatter(-1, order, marked) & (values > -torch.inf)
