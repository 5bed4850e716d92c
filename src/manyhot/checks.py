"""What a loss is given, checked before anything is computed: sentences that say what was expected and what came."""

import math
from typing import Any

import torch
from torch import Tensor

from manyhot.targets import IndexTargets, Targets, first_cell, known_cells
from manyhot.tracing import values_readable


def check_logits(logits: Any, axis: str = "label") -> None:
    """Check that logits are floating-point numbers with a last axis of labels or classes.

    Raises:
        TypeError: no tensor, or one that is not floating-point.
        ValueError: no last axis, or one of length 0.
    """
    if isinstance(logits, Tensor) and logits.is_floating_point() and logits.itemsize < 2:
        raise TypeError(f"logits must be of 16 bits or more; got {logits.dtype}. Use logits.float().")
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        came = f"a tensor of {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(
            f"logits must be a floating-point tensor, the raw scores of a model; got {came}. "
            "The order is loss(logits, targets): are the two swapped?"
        )
    if logits.ndim == 0 or logits.shape[-1] == 0:
        several = "classes" if axis == "class" else f"{axis}s"
        raise ValueError(
            f"logits must have shape (..., {several}) with at least one {axis}; got {tuple(logits.shape)}."
        )


def check_forms(targets: Targets, logits: Tensor, mask: Tensor | None = None) -> None:
    """Check that targets and their mask fit the logits, whatever their values.

    Raises:
        TypeError: logits that are not floating-point, targets that are complex, a mask that is not boolean.
        ValueError: logits without a label axis, or shapes that differ.
    """
    check_logits(logits)
    shape = logits.shape
    if isinstance(targets, IndexTargets):
        if targets.shape != shape[:-1]:
            raise ValueError(
                f"targets must list the labels of {tuple(shape[:-1])} rows, the leading shape of logits; "
                f"got {tuple(targets.shape)}."
            )
    elif targets.is_complex():
        raise TypeError(
            f"targets must be 0/1 or values in [0, 1], shaped like the logits; got a tensor of {targets.dtype}."
        )
    elif targets.shape != shape:
        raise ValueError(
            f"targets must have the shape of logits, {tuple(shape)}; got {tuple(targets.shape)}. "
            "Targets are many-hot, one 0/1 per label: class ids become that with torch.nn.functional.one_hot, "
            "lists of label ids go into manyhot.IndexTargets."
        )
    check_mask(mask, logits)


def check_mask(mask: Tensor | None, logits: Tensor) -> None:
    """Check that a mask is boolean and fits the logits.

    Raises:
        TypeError: one that is not boolean.
        ValueError: one that does not broadcast to the logits.
    """
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean, True where the label is known; got {mask.dtype}. Use mask.bool().")
    check_broadcast("mask", mask, logits)


def check_broadcast(name: str, value: Tensor, logits: Tensor) -> None:
    """Check that a tensor option broadcasts to the logits without enlarging them."""
    try:
        fits = torch.broadcast_shapes(value.shape, logits.shape) == logits.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must broadcast to logits of shape {tuple(logits.shape)}: one value, one per label "
            f"({logits.shape[-1]},), one per row (..., 1), or one per cell; got {tuple(value.shape)}."
        )


def check_scale(scale: float, margin: float) -> None:
    """Refuse a scale or a margin out of range.

    Raises:
        ValueError: says which.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite; got {scale}.")
    if not 0 <= margin < math.inf:
        raise ValueError(
            f"margin must be 0 or more and finite: it pushes both sides away from the threshold; got {margin}."
        )


def check_finite(name: str, value: float | Tensor) -> None:
    """Check that an option, a number or a tensor, is neither NaN nor infinite; a tensor only where it can be read."""
    if not isinstance(value, Tensor):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite; got {value}.")
    # One sum says that all is well. One that overflows only asks for a closer look.
    elif values_readable(value) and not math.isfinite(value.detach().sum().item()):
        wrong = value[~value.isfinite()]
        if wrong.numel():
            raise ValueError(f"{name} must be finite; got {wrong[0].item():g}.")


def check_weights(name: str, weights: float | Tensor) -> None:
    """Check that weights, a number or a tensor, are 0 or more and finite; a tensor only where it can be read."""
    low = high = weights
    if isinstance(weights, Tensor):
        if not values_readable(weights) or not weights.numel():
            return
        low, high = weights.detach().aminmax()
    if not (low >= 0 and high < math.inf):
        wrong = torch.as_tensor(weights)
        wrong = wrong[~((wrong >= 0) & (wrong < math.inf))][0].item()
        raise ValueError(f"{name} must be {'finite' if wrong == math.inf else '0 or more'}; got {wrong:g}.")


def check_values(targets: Tensor, mask: Tensor | None = None) -> None:
    """Check that every known target lies in [0, 1]; reads the values, so the caller decides when that may be.

    Raises:
        ValueError: names the first row and label that does not.
    """
    if targets.dtype == torch.bool or not targets.numel():
        return
    low, high = targets.detach().aminmax()
    if low >= 0 and high <= 1:  # the usual case, in one pass; an unknown target, NaN too, is for the rest to judge
        return
    wrong = (targets < 0) | (targets > 1)
    known = known_cells(targets, mask)
    if known is not None:
        wrong = wrong & known
    if wrong.any():
        raise ValueError(
            "targets must lie in [0, 1], or be -1, -100 or NaN where unknown; "
            f"got {targets[wrong][0].item():g} at {first_cell(wrong)}."
        )
