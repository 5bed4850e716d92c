"""Metrics made smooth: a decision of 0 or 1 replaced by its probability p, and the metric's negative as a loss.

accuracy    -mean(t p + (1-t)(1-p))                                   p = sigmoid(s)
            -p_y                                                      one class y a row, p = softmax(s)
F-beta      -(1+b^2) sum(t p) / sum(b^2 t + p)                        sums over the batch, a label or a row
F-weighted  -t (1 - F/(1+b^2)) log p - (1-t) F/(1+b^2) log(1-p)       F the smooth F-beta, without a gradient of its own

The gradient of a smooth metric vanishes with p(1-p) where a label is very wrong. The last line is what becomes of the
F-beta loss when p and 1-p in its gradient are replaced by their logarithms, as cross-entropy is of accuracy.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from manyhot.losses.hyperparameters import LossModule, keep, kept
from manyhot.losses.label_wise import Cells, axis_weights, cells, probability, two_sided
from manyhot.losses.one_class import one_class
from manyhot.parallel import all_sum, any_of
from manyhot.reduction import Reduction, reduce

Average = Literal["micro", "macro", "samples"]


def smooth_accuracy_loss(
    logits: Tensor,
    targets: Any,
    *,
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Minus the expected accuracy when each label is decided at random by its probability.

    .. math::
        \ell = -\frac{\sum_i w_i\,(t_i p_i + (1 - t_i)(1 - p_i))}{\sum_i w_i}, \qquad p = \sigma(s)

    for many-hot targets, one label or many, and :math:`\ell = -p_y` with p = softmax(s) where each row has one class y.
    Use it to refine a model that is nearly right, or to see what cross-entropy replaces: its gradient carries p(1-p)
    and is nearly 0 where a label is very wrong. :func:`manyhot.exact_loss` is accuracy under noise of any kind.

    Args:
        logits: (..., labels) or (..., classes), any floating dtype, raw scores.
        targets: many-hot: the shape of logits, 0/1 or soft in [0, 1], -1, -100 and NaN unknown; or listed,
            :class:`manyhot.IndexTargets`, torch.sparse_csr, scipy.sparse. One class a row: integer ids of the leading
            shape of logits, -1 and -100 unknown.
        mask: boolean, True where known: broadcastable to logits, or to the ids where targets are class ids.
        label_weight: >= 0, broadcastable to logits, for many-hot targets alone; 0 removes a label.
        sample_weight: >= 0, one a row.
        reduction: `"mean"` over rows with a known label, `"sum"`, or `"none"` for one loss a row.

    Returns:
        In [-1, 0], float32 (float64 for float64 logits): a scalar, or the leading shape of logits for `"none"`.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: shapes that do not fit and options or, on the CPU, values out of range.

    Reduces to:
        minus the share of labels that s > 0 gets right, minus the accuracy of argmax, as logits grow;
        ``exact_loss(noise="gumbel")`` and for two classes ``exact_loss(noise="logistic")`` of a difference for -p_y.

    Numerics:
        Half dtypes are computed in float32. Infinite logits are certain decisions and have no gradient.

    Example:
        >>> import torch, manyhot
        >>> manyhot.smooth_accuracy_loss(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 1]]))
        tensor(-0.5749)
        >>> manyhot.smooth_accuracy_loss(torch.tensor([[2.0, -1.0]]), torch.tensor([1]))
        tensor(-0.0474)

    References:
        Su, kexue.fm/archives/7708.
    """
    if isinstance(targets, Tensor) and isinstance(logits, Tensor) and targets.ndim == logits.ndim - 1:
        if label_weight is not None:
            raise ValueError(
                "label_weight weighs the labels of many-hot targets; weigh rows of one class by sample_weight."
            )
        rows = one_class(logits, targets, mask)
        # An infinite logit is certain: softmax itself would be NaN there.
        s = rows.logits
        certain = s == math.inf
        s = torch.where(certain.any(-1, keepdim=True), torch.where(certain, 0, -math.inf), s)
        # Where no class has a chance, none is right.
        never = (s == -math.inf).all(-1, keepdim=True)
        p = torch.where(never, 0, F.softmax(torch.where(never, 0, s), -1))
        loss = -p.gather(-1, rows.classes).squeeze(-1)
        return reduce(loss, known_rows=rows.known_rows, sample_weight=sample_weight, reduction=reduction)
    batch = cells(logits, targets, mask, label_weight)
    total = batch.sum(torch.ones_like(batch.logits))
    loss = -batch.sum(two_sided(batch, probability, lambda s: probability(-s))) / torch.where(total == 0, 1, total)
    return reduce(loss, known_rows=batch.known_rows, sample_weight=sample_weight, reduction=reduction)


class SmoothAccuracyLoss(LossModule):
    """Module form of :func:`smooth_accuracy_loss`, same options; tensors become buffers.

    Example:
        >>> import torch, manyhot
        >>> manyhot.SmoothAccuracyLoss()(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 1]]))
        tensor(-0.5749)
    """

    def __init__(self, *, label_weight: Tensor | None = None, reduction: Reduction = "mean") -> None:
        super().__init__()
        keep(self, label_weight=label_weight, reduction=reduction)

    def forward(
        self, logits: Tensor, targets: Any, *, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch."""
        return smooth_accuracy_loss(logits, targets, mask=mask, sample_weight=sample_weight, **kept(self))


def smooth_f_loss(
    logits: Tensor,
    targets: Any,
    *,
    beta: float = 1.0,
    average: Average = "micro",
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    group: Any = None,
) -> Tensor:
    r"""Minus the F-beta score with probabilities in place of decisions.

    .. math::
        \ell = -\frac{(1+\beta^2)\sum t\,p}{\sum (\beta^2 t + p)}, \qquad p = \sigma(s)

    with sums over all cells of the batch (micro), over the rows for each label (macro) or over the labels of each row
    (samples). Use it where F-beta is what counts and batches are large enough for it; :func:`f_weighted_bce_loss` keeps
    its gradient where labels are very wrong.

    Args:
        logits: (..., labels), any floating dtype, raw scores; all leading axes together are the batch.
        targets: same shape, 0/1 or soft in [0, 1]; -1, -100 and NaN mean unknown. Or listed:
            :class:`manyhot.IndexTargets`, torch.sparse_csr, scipy.sparse.
        beta: > 0; 2 counts recall more, 1/2 precision.
        average: `"micro"`, `"macro"` or `"samples"`: what the sums run over, as in the metric of that name. An F
            without a positive on either side counts as 0.
        mask: boolean, broadcastable to logits, True where the label is known. A label without known cells is left out.
        label_weight: >= 0, (labels,): 2 is the label written down twice, 0 removes it.
        sample_weight: >= 0, one a row: 2 is the row written down twice, 0 removes it.
        reduction: for samples as in every loss a row. Else the rows share one loss: `"mean"` is that of the batch,
            `"sum"` that times the weight of the rows with a known label, and `"none"` gives each of these rows the loss
            of the batch times its weight.
        group: of torch.distributed, where the rows of a batch are split among its processes: sums run over all of them,
            and gradients are right once averaged, as DistributedDataParallel does. For micro and macro, with `"mean"`.

    Returns:
        In [-1, 0] for the mean, float32 (float64 for float64 logits): a scalar, or the leading shape of logits.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: shapes that do not fit and options or, on the CPU, values out of range.

    Reduces to:
        minus the F-beta score of the decision s > 0 as logits grow; :func:`manyhot.tversky_loss` - 1 for samples.

    Numerics:
        Half dtypes are computed in float32. The mean of the losses of parts of a batch is not the loss of the batch.

    Example:
        >>> import torch, manyhot
        >>> manyhot.smooth_f_loss(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]]))
        tensor(-0.8194)

    References:
        Su, kexue.fm/archives/7708.
    """
    if group is not None and (average == "samples" or reduction != "mean"):
        raise ValueError(
            'group is for average="micro" and "macro" with reduction="mean", whose sums run over the rows of all '
            f"processes; got {average!r} and {reduction!r}. Losses a row each: manyhot.parallel.mean."
        )
    rows, labels = axis_weights(logits, label_weight, sample_weight)
    batch = cells(logits, targets, mask, None)
    value = _smooth_f(batch, rows, labels, beta, average, group)
    if group is not None and average == "micro":
        return -value
    if average == "macro":
        known = _counted_labels(batch, rows)
        if group is not None:
            everywhere = torch.ones(batch.logits.shape[-1:], dtype=torch.bool, device=logits.device)
            known = any_of(everywhere & (len(batch.logits) > 0) if known is None else known, group)
            return -reduce(value, known_rows=known, sample_weight=labels)
        value = reduce(value, known_rows=known, sample_weight=labels)
    value = value.reshape(batch.logits.shape[:-1]) if average == "samples" else value.expand(batch.logits.shape[:-1])
    return reduce(-value, known_rows=batch.known_rows, sample_weight=sample_weight, reduction=reduction)


def _counted_labels(batch: Cells, rows: Tensor | None) -> Tensor | None:
    """Say which labels are known in a row that counts, (labels,), or None when all are."""
    labels = batch.logits.shape[-1]
    counts = None if batch.weight is None else batch.weight.reshape(-1, labels) > 0
    if rows is not None:
        counted = (rows > 0).unsqueeze(-1).expand(-1, labels)
        counts = counted if counts is None else counts & counted
    return None if counts is None else counts.any(0)


def _smooth_f(
    batch: Cells, rows: Tensor | None, labels: Tensor | None, beta: float, average: Average, group: Any = None
) -> Tensor:
    """Compute the smooth F-beta of the batch, (), of each label, (labels,), or of each row, (rows, 1)."""
    if not 0 < beta < math.inf:
        raise ValueError(f"beta must be positive; got {beta}.")
    if average not in ("micro", "macro", "samples"):
        raise ValueError(f'average must be "micro", "macro" or "samples"; got {average!r}.')
    p, t = (x.reshape(-1, x.shape[-1]) for x in (probability(batch.logits), batch.targets))
    weight = torch.ones_like(p) if batch.weight is None else batch.weight.reshape(p.shape)
    # A weight that is the same in every term of both sums would cancel, but for rounding and for 0.
    if rows is not None and average != "samples":
        weight = weight * rows.unsqueeze(-1)
    if labels is not None and average != "macro":
        weight = weight * labels
    axes = {"micro": (0, 1), "macro": (0,), "samples": (1,)}[average]
    hits, total = (weight * t * p).sum(axes), (weight * (beta**2 * t + p)).sum(axes)
    if group is not None:
        hits, total = all_sum(torch.stack((hits, total)), group)
    value = (1 + beta**2) * hits / torch.where(total == 0, 1, total)
    return value.unsqueeze(-1) if average == "samples" else value


class SmoothFLoss(LossModule):
    """Module form of :func:`smooth_f_loss`, same options; tensors become buffers.

    Example:
        >>> import torch, manyhot
        >>> manyhot.SmoothFLoss(average="macro")(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]]))
        tensor(-0.4683)
    """

    def __init__(
        self,
        *,
        beta: float = 1.0,
        average: Average = "micro",
        label_weight: Tensor | None = None,
        reduction: Reduction = "mean",
        group: Any = None,
    ) -> None:
        super().__init__()
        keep(self, beta=beta, average=average, label_weight=label_weight, reduction=reduction, group=group)

    def forward(
        self, logits: Tensor, targets: Any, *, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch."""
        return smooth_f_loss(logits, targets, mask=mask, sample_weight=sample_weight, **kept(self))


def f_weighted_bce_loss(
    logits: Tensor,
    targets: Any,
    *,
    beta: float = 1.0,
    average: Average = "micro",
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Binary cross-entropy weighted by what F-beta has reached: what the smooth F-beta loss becomes in logarithms.

    .. math::
        \ell = -\sum_i t_i\Big(1 - \frac{F}{1+\beta^2}\Big)\log p_i + (1 - t_i)\,\frac{F}{1+\beta^2}\log(1 - p_i),
        \qquad p = \sigma(s)

    with F the smooth F-beta of the batch, through which no gradient goes. Early on F is near 0 and positives are all
    that counts; at F = 1 and beta = 1 both sides weigh 1/2. Use it where :func:`smooth_f_loss` learns slowly.

    Args:
        logits: (..., labels), any floating dtype, raw scores; all leading axes together are the batch.
        targets: same shape, 0/1 or soft in [0, 1]; -1, -100 and NaN mean unknown. Or listed:
            :class:`manyhot.IndexTargets`, torch.sparse_csr, scipy.sparse.
        beta: > 0; 2 counts recall more, 1/2 precision.
        average: whose F a cell is weighted by: of the batch (micro), its label (macro) or its row (samples).
        mask: boolean, broadcastable to logits, True where the label is known.
        label_weight: >= 0, (labels,), multiplies the terms of a label, in F too; 0 removes it.
        sample_weight: >= 0, one a row, counts in F too.
        reduction: `"mean"` over rows with a known label, `"sum"`, or `"none"` for one loss a row.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the leading shape of logits for `reduction="none"`.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: shapes that do not fit and options or, on the CPU, values out of range.

    Reduces to:
        half of :func:`manyhot.bce_loss` at F = 1 and beta = 1. Divided by ``p(1-p)/|t-p|``, the gradient of
        :func:`smooth_f_loss` times the half of its denominator is the gradient of this.

    Numerics:
        From log-sigmoid, finite for finite logits of any size; an infinite logit on the wrong side gives +inf and no
        gradient. Half dtypes are computed in float32.

    Example:
        >>> import torch, manyhot
        >>> manyhot.f_weighted_bce_loss(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]]))
        tensor(0.2033)

    References:
        Su, kexue.fm/archives/7708.
    """
    rows, labels = axis_weights(logits, label_weight, sample_weight)
    with torch.no_grad():
        value = _smooth_f(cells(logits, targets, mask, None), rows, labels, beta, average)
    # no_grad alone saves the graph, but neither torch.func's forward mode nor a trace heeds it.
    value = value.detach()
    batch = cells(logits, targets, mask, label_weight)
    share = value.reshape(*batch.logits.shape[:-1], 1) if average == "samples" else value
    share = share / (1 + beta**2)
    terms = two_sided(
        batch, lambda s: -F.logsigmoid(s), lambda s: -F.logsigmoid(-s), pos_weight=1 - share, neg_weight=share
    )
    return reduce(batch.sum(terms), known_rows=batch.known_rows, sample_weight=sample_weight, reduction=reduction)


class FWeightedBCELoss(LossModule):
    """Module form of :func:`f_weighted_bce_loss`, same options; tensors become buffers.

    Example:
        >>> import torch, manyhot
        >>> manyhot.FWeightedBCELoss(beta=2.0)(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]]))
        tensor(0.1588)
    """

    def __init__(
        self,
        *,
        beta: float = 1.0,
        average: Average = "micro",
        label_weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        keep(self, beta=beta, average=average, label_weight=label_weight, reduction=reduction)

    def forward(
        self, logits: Tensor, targets: Any, *, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch."""
        return f_weighted_bce_loss(logits, targets, mask=mask, sample_weight=sample_weight, **kept(self))
