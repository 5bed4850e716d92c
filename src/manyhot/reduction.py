"""From one loss a row to what is returned: the only place where sample weights, unknown rows and reduction act."""

from typing import Literal

import torch
from torch import Tensor

from manyhot.checks import check_weights

Reduction = Literal["mean", "sum", "none"]


def reduce(
    loss: Tensor,
    *,
    known_rows: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Weight and reduce the losses of rows.

    .. math::
        \text{mean} = \frac{\sum_r w_r\,\ell_r}{\sum_r w_r}\quad\text{over rows with at least one known label}

    Args:
        loss: one loss a row, the leading axes of the logits.
        known_rows: boolean, shape of loss; rows without a known label have loss 0 and do not count in the mean.
        sample_weight: >= 0, broadcastable to loss.
        reduction: `"mean"` (0 where no row counts), `"sum"`, or `"none"`: the weighted losses, leading axes kept.
    """
    return apply(row_weights(loss, known_rows, sample_weight, reduction), loss, reduction)


def row_weights(
    loss: Tensor, known_rows: Tensor | None, sample_weight: Tensor | None, reduction: Reduction
) -> Tensor | float:
    """Return what the loss of a row is multiplied with: one number, or a tensor of the shape of loss."""
    if known_rows is None and sample_weight is None:
        return equal_weight(loss.numel(), reduction)
    weight = (
        torch.ones_like(loss) if sample_weight is None else spread_over_rows(sample_weight.to(loss.dtype), loss.shape)
    )
    if known_rows is not None:
        weight = torch.where(known_rows, weight, 0)
    if reduction == "mean":
        total = weight.sum()
        return weight / torch.where(total == 0, 1, total)
    return weight * equal_weight(1, reduction)


def spread_over_rows(sample_weight: Tensor, shape: torch.Size) -> Tensor:
    """Spread sample weights over rows of this shape."""
    check_weights("sample_weight", sample_weight)
    try:
        return sample_weight.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"sample_weight must broadcast to one weight a row, {tuple(shape)}; got {tuple(sample_weight.shape)}. "
            "Weights per label go to label_weight."
        ) from None


def equal_weight(rows: int, reduction: Reduction) -> float:
    """Return the weight of every row where all count alike."""
    if reduction == "mean":
        return 1 / max(rows, 1)
    if reduction not in ("sum", "none"):
        raise ValueError(f'reduction must be "mean", "sum" or "none"; got {reduction!r}.')
    return 1.0


def apply(weights: Tensor | float, loss: Tensor, reduction: Reduction) -> Tensor:
    """Multiply the losses of rows with their weights, and add up."""
    if isinstance(weights, Tensor):
        # `where` and not a product alone: a row of weight 0 stays out of the sum even if its loss is infinite.
        loss = torch.where(weights == 0, 0, loss) * weights
    elif weights != 1:
        # Weighted first: a sum of large losses may be beyond float32 where their mean is not.
        return (loss * weights).sum()
    return loss if reduction == "none" else loss.sum()
