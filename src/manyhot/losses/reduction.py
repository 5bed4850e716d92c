"""From one loss a row to what is returned: the only place where sample weights, unknown rows and reduction act."""

from typing import Literal

import torch
from torch import Tensor

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
    weight = torch.ones_like(loss) if sample_weight is None else sample_weight
    try:
        weight = weight.to(loss.dtype).expand(loss.shape)
    except RuntimeError:
        raise ValueError(
            f"sample_weight must broadcast to one weight a row, {tuple(loss.shape)}; got {tuple(weight.shape)}. "
            "Weights per label go to label_weight."
        ) from None
    if known_rows is not None:
        weight = torch.where(known_rows, weight, 0)
    # `where` and not a product alone: a row of weight 0 stays out of the sum even if its loss is infinite.
    weighted = torch.where(weight == 0, 0, loss) * weight
    if reduction == "none":
        return weighted
    if reduction == "sum":
        return weighted.sum()
    if reduction == "mean":
        total = weight.sum()
        return weighted.sum() / torch.where(total == 0, 1, total)
    raise ValueError(f'reduction must be "mean", "sum" or "none"; got {reduction!r}.')
