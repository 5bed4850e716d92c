"""Two-way multi-label loss: the pairwise line along the labels of a row, and along the rows of a label.

softplus(T- LSE_N(s/T-) + T+ LSE_P(-s/T+))          over the labels of a row + over the rows of a label
"""

import math
from typing import Any

import torch
from torch import Tensor

from manyhot.batch import batch_of, dense, exponents
from manyhot.logsumexp import logsumexp
from manyhot.losses.hyperparameters import LossModule, keep, kept
from manyhot.losses.label_wise import axis_weights
from manyhot.losses.zlpr import PAIRWISE
from manyhot.reduction import Reduction, reduce


def two_way_loss(
    logits: Tensor,
    targets: Any,
    *,
    temperature_pos: float = 4.0,
    temperature_neg: float = 1.0,
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Two-way multi-label loss: positives above negatives within each row, and within each label over the batch.

    .. math::
        \ell = \log\Big(1 + \Big(\sum_N e^{s_i/T_-}\Big)^{T_-}\Big(\sum_P e^{-s_j/T_+}\Big)^{T_+}\Big)

    averaged over the rows with a positive, plus the same along the other axis, averaged over the labels with a
    positive. Use it to compare with, at the batch size it is published for: the second half depends on the batch. Its
    first half at temperatures of 1 is :func:`manyhot.pairwise_loss`, and like that it has no zero to decide by.

    Args:
        logits: (..., labels), any floating dtype, raw scores; all leading axes together are the batch.
        targets: as in :func:`manyhot.bce_loss`; soft targets weigh the terms of the two sums.
        temperature_pos: > 0, T+.
        temperature_neg: > 0, T-.
        mask: boolean, broadcastable to logits, True where the label is known.
        label_weight: >= 0, (labels,): 2 is the label written down twice, 0 removes it.
        sample_weight: >= 0, one a row: 2 is the row written down twice, 0 removes it.
        reduction: `"mean"` is the loss of the batch. `"sum"` is that times the weight of the rows with a known label,
            and `"none"` gives each of these rows the loss of the batch times its weight.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the leading shape of logits for `reduction="none"`.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: shapes that do not fit and options or, on the CPU, values out of range.

    Reduces to:
        the mean of :func:`manyhot.pairwise_loss` over rows plus that of the transposed batch for temperatures of 1,
        where each row and label has a positive.

    Numerics:
        A batch without positives has loss 0, where the published code takes the mean of nothing; a row or label without
        negatives has loss 0 exactly; integer targets of any dtype give the same.

    Example:
        >>> import torch, manyhot
        >>> manyhot.two_way_loss(torch.tensor([[2.0, -1.0], [0.5, 1.0]]), torch.tensor([[1, 0], [0, 1]]))
        tensor(0.4255)

    References:
        Kobayashi, "Two-way Multi-Label Loss", CVPR 2023.
    """
    for name, value in (("temperature_pos", temperature_pos), ("temperature_neg", temperature_neg)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive; got {value}.")
    batch = dense(batch_of(logits, targets, mask=mask))
    assert isinstance(batch.targets, Tensor)
    rows, labels = axis_weights(logits, label_weight, sample_weight)
    positive = batch.targets > 0 if mask is None else (batch.targets > 0) & mask
    neg, _ = exponents(batch._replace(scale=1 / temperature_neg))
    _, pos = exponents(batch._replace(scale=1 / temperature_pos))
    neg, pos, positive = (x.reshape(-1, logits.shape[-1]) for x in (neg, pos, positive))

    def one_way(neg: Tensor, pos: Tensor, positive: Tensor, inside: Tensor | None, outside: Tensor | None) -> Tensor:
        if inside is not None:
            weighted = inside > 0
            log = torch.where(weighted, inside, 1).log()
            neg, pos = torch.where(weighted, neg + log, -math.inf), torch.where(weighted, pos + log, -math.inf)
            positive = positive & weighted
        if neg.shape[-1] == 0:  # a batch without rows
            return neg.sum()
        loss = PAIRWISE.formula(temperature_neg * logsumexp(neg), temperature_pos * logsumexp(pos))
        return reduce(loss, known_rows=positive.any(-1), sample_weight=outside)

    loss = one_way(neg, pos, positive, labels, rows) + one_way(neg.mT, pos.mT, positive.mT, rows, labels)
    loss, known = loss.expand(logits.shape[:-1]), batch.known_rows()
    return reduce(loss, known_rows=known, sample_weight=sample_weight, reduction=reduction)


class TwoWayLoss(LossModule):
    """Module form of :func:`two_way_loss`, same options; tensors become buffers.

    Example:
        >>> import torch, manyhot
        >>> loss = manyhot.TwoWayLoss(temperature_pos=1.0)
        >>> loss(torch.tensor([[2.0, -1.0], [0.5, 1.0]]), torch.tensor([[1, 0], [0, 1]]))
        tensor(0.4255)
    """

    def __init__(
        self,
        *,
        temperature_pos: float = 4.0,
        temperature_neg: float = 1.0,
        label_weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        keep(
            self,
            temperature_pos=temperature_pos,
            temperature_neg=temperature_neg,
            label_weight=label_weight,
            reduction=reduction,
        )

    def forward(
        self, logits: Tensor, targets: Any, *, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch."""
        return two_way_loss(logits, targets, mask=mask, sample_weight=sample_weight, **kept(self))
