"""Targets moved a little towards an uninformed guess, without moving how many labels a row has."""

from typing import Literal

import torch
from torch import Tensor

from manyhot.targets import known_cells

Smoothing = Literal["mass", "uniform"]


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
