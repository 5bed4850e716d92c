"""The formats a target can have: dense 0/1 or soft values of any dtype, with cells that are unknown."""

from typing import Literal

import torch
from torch import Tensor

Smoothing = Literal["mass", "uniform"]

# Both are in use for "not annotated": -1 in medical and missing-label data, -100 from torch's ignore_index.
UNKNOWN = (-1, -100)


def known_cells(targets: Tensor, mask: Tensor | None = None) -> Tensor | None:
    """Say where a label is known: True per cell, shape of `targets`, or None when no cell can be unknown.

    A cell is unknown where `mask` is False or where the target is -1, -100 or NaN.
    """
    known = None
    if targets.is_floating_point():
        known = ~targets.isnan() & (targets != UNKNOWN[0]) & (targets != UNKNOWN[1])
    elif targets.dtype.is_signed:
        known = (targets != UNKNOWN[0]) & (targets != UNKNOWN[1])
    if mask is None:
        return known
    mask = mask.expand(targets.shape)
    return mask if known is None else known & mask


def known_rows(targets: Tensor, mask: Tensor | None = None) -> Tensor | None:
    """Say which rows have a known label: True per row, or None when all have."""
    known = known_cells(targets, mask)
    return None if known is None else known.any(-1)


def values_readable(*tensors: Tensor | None) -> bool:
    """Say whether looking at values costs no device sync and breaks no trace (torch.compile, torch.func)."""
    return not torch.compiler.is_compiling() and not any(
        # torch offers no public way to ask for vmap and grad of torch.func.
        t.device.type != "cpu" or torch._C._functorch.is_functorch_wrapped_tensor(t)  # pyright: ignore
        for t in tensors
        if t is not None
    )


def check_batch(logits: Tensor, targets: Tensor, mask: Tensor | None) -> None:
    """Check shapes and types always, and values where that is free of a device sync."""
    check_dense(targets, logits, mask)
    if values_readable(logits, targets, mask):
        check_values(targets, mask)


def check_dense(targets: Tensor, logits: Tensor, mask: Tensor | None = None) -> None:
    """Check that dense targets and their mask fit the logits, whatever their values.

    Raises:
        TypeError: logits that are not floating-point, targets that are no real tensor, a mask that is not boolean.
        ValueError: logits without a label axis, or shapes that differ.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        came = f"a tensor of {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(
            f"logits must be a floating-point tensor, the raw scores of a model; got {came}. "
            "The order is loss(logits, targets): are the two swapped?"
        )
    if not isinstance(targets, Tensor) or targets.is_complex():
        came = f"a tensor of {targets.dtype}" if isinstance(targets, Tensor) else type(targets).__name__
        raise TypeError(f"targets must be a tensor of 0/1 or of values in [0, 1], shaped like the logits; got {came}.")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have shape (..., labels) with at least one label; got {tuple(logits.shape)}.")
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets must have the shape of logits, {tuple(logits.shape)}; got {tuple(targets.shape)}. "
            "Targets are many-hot, one 0/1 per label: class ids become that with torch.nn.functional.one_hot."
        )
    if mask is not None:
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


def check_values(targets: Tensor, mask: Tensor | None = None) -> None:
    """Check that every known target lies in [0, 1]; reads the values, so the caller decides when that may be.

    Raises:
        ValueError: names the first row and label that does not.
    """
    if targets.dtype == torch.bool:
        return
    wrong = (targets < 0) | (targets > 1)
    known = known_cells(targets, mask)
    if known is not None:
        wrong = wrong & known
    if wrong.any():
        raise ValueError(
            f"targets must lie in [0, 1], or be -1, -100 or NaN where unknown; "
            f"got {targets[wrong][0].item():g} at {first_cell(wrong)}."
        )


def first_cell(where: Tensor) -> str:
    """Name the first True cell for a message: `row 3, label 7`."""
    *row, label = where.nonzero()[0].tolist()
    return ", ".join([f"row {row[0] if len(row) == 1 else tuple(row)}"] * bool(row) + [f"label {label}"])


def smooth_labels(
    targets: Tensor, epsilon: float, *, smoothing: Smoothing = "mass", mask: Tensor | None = None
) -> Tensor:
    r"""Move a share `epsilon` of the targets towards an uninformed guess.

    .. math::
        \text{mass:}\quad t_i \to (1-\epsilon)\,t_i + \epsilon\,k/n \qquad
        \text{uniform:}\quad t_i \to (1-\epsilon)\,t_i + \epsilon/2

    with k the number of positives and n the number of known labels of the row. `mass` keeps the expected number of
    labels and leaves a row without positives as it is. `uniform` gives every negative the weight epsilon/2, which
    drowns the positives once labels are many: at n=1000, k=3, epsilon=.1 and zero logits the ZLPR gradient of a
    positive is .25 without smoothing, .225 with `mass` and .0176 with `uniform`.

    Args:
        targets: (..., labels), 0/1 or soft, any dtype; -1, -100 and NaN are unknown and come back as NaN.
        epsilon: share in [0, 1] that is moved.
        smoothing: `"mass"` or `"uniform"`.
        mask: boolean, broadcastable to targets; False cells do not count towards k and n.

    Returns:
        Soft targets, float32 (float64 for float64 targets), same shape.

    Raises:
        ValueError: epsilon outside [0, 1] or an unknown `smoothing`.

    Example:
        >>> import torch, manyhot
        >>> manyhot.smooth_labels(torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]), 0.2)
        tensor([[0.8500, 0.0500, 0.0500, 0.0500],
                [0.0000, 0.0000, 0.0000, 0.0000]])
    """
    check_smoothing(epsilon, smoothing)
    t = targets if targets.dtype == torch.float64 else targets.float()
    known = known_cells(targets, mask)
    if known is None:
        known = torch.ones_like(targets, dtype=torch.bool)
    if smoothing == "mass":
        k = torch.where(known, t, 0).sum(-1, keepdim=True)
        guess = k / known.sum(-1, keepdim=True).clamp(min=1)
    else:
        guess = 0.5
    return torch.where(known, t * (1 - epsilon) + epsilon * guess, torch.nan)


def check_smoothing(epsilon: float, smoothing: str) -> None:
    """Check the options of :func:`smooth_labels`, also where they are not used."""
    if not 0 <= epsilon <= 1:
        raise ValueError(f"label smoothing must lie in [0, 1]; got {epsilon}.")
    if smoothing not in ("mass", "uniform"):
        raise ValueError(f'smoothing must be "mass" or "uniform"; got {smoothing!r}.')
