"""BCE, focal, asymmetric and others that people use, right at every logit, for comparison on equal terms.

p = sigmoid(s), every logarithm from log-sigmoid

BCE            - c t log p - (1-t) log(1-p)                        c the weight of positives
focal          - t (1-p)^g log p - (1-t) p^g log(1-p)
asymmetric     - t (1-p)^g+ log p - (1-t) q^g- log(1-q)            q = max(p - clip, 0)
Tversky, Dice  1 - (TP + smooth) / (TP + a FP + b FN + smooth)     TP = sum t p, FP = sum (1-t) p, FN = sum t (1-p)

All take what ZLPR takes: targets of any format, masks, unknown cells, weights, half dtypes.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from manyhot.checks import check_broadcast, check_finite, check_weights
from manyhot.losses.hyperparameters import LossModule, keep, kept
from manyhot.losses.label_wise import cells, probability, two_sided
from manyhot.losses.zlpr import kept_prior, prior_logits
from manyhot.reduction import Reduction, reduce


def bce_loss(
    logits: Tensor,
    targets: Any,
    *,
    pos_weight: float | Tensor = 1.0,
    prior: Any = None,
    tau: float = 1.0,
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Binary cross-entropy: every label a decision of its own, summed over the labels of a row.

    .. math::
        \ell = \sum_i c_i\,t_i\log(1 + e^{-s_i}) + (1 - t_i)\log(1 + e^{s_i})

    with c the weight of positives. Use it as the rival to compare with; :func:`manyhot.zlpr_loss` weighs labels against
    each other, which this cannot. A prior lifts rare labels without the distortion that `pos_weight` brings.

    Args:
        logits: (..., labels), any floating dtype, raw scores.
        targets: same shape, 0/1 or soft in [0, 1]; -1, -100 and NaN mean unknown. Or listed:
            :class:`manyhot.IndexTargets`, torch.sparse_csr, scipy.sparse.
        pos_weight: >= 0, a number or a tensor that broadcasts to logits, usually (labels,).
        prior: (labels,), frequency of each label in the training rows, inside (0, 1): :func:`manyhot.label_prior`.
            Training then uses s + tau logit(prior) and prediction s alone.
        tau: how much of the prior is used; 1 is all of it.
        mask: boolean, broadcastable to logits, True where the label is known.
        label_weight: >= 0, broadcastable to logits, multiplies the term of a label; 0 removes it.
        sample_weight: >= 0, one a row.
        reduction: `"mean"` over rows with a known label, `"sum"`, or `"none"` for one loss a row.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the leading shape of logits for `reduction="none"`.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: shapes that do not fit and options or, on the CPU, values out of range.

    Reduces to:
        ``binary_cross_entropy_with_logits(..., reduction="none").sum(-1)``; ZLPR for one label with 0/1 targets.

    Numerics:
        Half dtypes are computed in float32. An infinite logit on the wrong side gives +inf and no gradient.

    Example:
        >>> import torch, manyhot
        >>> manyhot.bce_loss(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 1]]))
        tensor(1.4402)
        >>> manyhot.bce_loss(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 1]]), pos_weight=2.0)
        tensor(2.8804)

    References:
        The prior: Menon et al., arXiv 2007.07314; Su, kexue.fm/archives/7615.
    """
    if isinstance(pos_weight, Tensor):
        check_broadcast("pos_weight", pos_weight, logits)
    check_weights("pos_weight", pos_weight)
    check_finite("tau", tau)
    batch = cells(logits, targets, mask, label_weight)
    if isinstance(pos_weight, Tensor):
        pos_weight = pos_weight.to(batch.logits.dtype)
    if prior is not None:
        batch = batch._replace(logits=batch.logits + tau * prior_logits(prior, logits))
    terms = two_sided(batch, lambda s: -F.logsigmoid(s), lambda s: -F.logsigmoid(-s), pos_weight=pos_weight)
    return reduce(batch.sum(terms), known_rows=batch.known_rows, sample_weight=sample_weight, reduction=reduction)


class BCELoss(LossModule):
    """Module form of :func:`bce_loss`, same options; tensors become buffers.

    Example:
        >>> import torch, manyhot
        >>> manyhot.BCELoss(pos_weight=2.0)(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 1]]))
        tensor(2.8804)
    """

    def __init__(
        self,
        *,
        pos_weight: float | Tensor = 1.0,
        prior: Any = None,
        tau: float = 1.0,
        label_weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        keep(
            self,
            pos_weight=pos_weight,
            prior=kept_prior(prior),
            tau=tau,
            label_weight=label_weight,
            reduction=reduction,
        )

    def forward(
        self, logits: Tensor, targets: Any, *, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch."""
        return bce_loss(logits, targets, mask=mask, sample_weight=sample_weight, **kept(self))


def focal_loss(
    logits: Tensor,
    targets: Any,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Sigmoid focal loss: binary cross-entropy in which a label that is right counts little.

    .. math::
        \ell = -\sum_i \alpha\,t_i(1 - p_i)^\gamma\log p_i + (1-\alpha)(1 - t_i)\,p_i^\gamma\log(1 - p_i)

    with p = sigmoid(s). Use it to compare with where easy negatives abound; :func:`asymmetric_loss` treats the two
    sides differently.

    Args:
        logits: (..., labels), any floating dtype, raw scores.
        targets: as in :func:`bce_loss`. Soft targets share out the two terms.
        gamma: >= 0, how little; 0 is binary cross-entropy.
        alpha: weight of positives in [0, 1], 1 - alpha that of negatives, .25 in the paper's detectors; None: both 1.
        mask: boolean, broadcastable to logits, True where the label is known.
        label_weight: >= 0, broadcastable to logits, multiplies the term of a label; 0 removes it.
        sample_weight: >= 0, one a row.
        reduction: `"mean"` over rows with a known label, `"sum"`, or `"none"` for one loss a row.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the leading shape of logits for `reduction="none"`.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: shapes that do not fit and options or, on the CPU, values out of range.

    Reduces to:
        :func:`bce_loss` for gamma 0 and alpha None; :func:`asymmetric_loss` with equal gammas and clip 0.

    Numerics:
        (1-p)^gamma is exp(gamma log(1-p)): the gradient is finite for every gamma, where a power of 1-p has the
        gradient NaN at p = 1 for gamma < 1.

    Example:
        >>> import torch, manyhot
        >>> manyhot.focal_loss(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 1]]))
        tensor(0.7037)

    References:
        Lin et al., arXiv 1708.02002, equation (5).
    """
    _check_exponent("gamma", gamma)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha, the weight of positives, must lie in [0, 1] or be None; got {alpha}.")
    batch = cells(logits, targets, mask, label_weight)
    a, b = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    terms = two_sided(batch, lambda s: a * _focal(s, gamma), lambda s: b * _focal(-s, gamma))
    return reduce(batch.sum(terms), known_rows=batch.known_rows, sample_weight=sample_weight, reduction=reduction)


def _focal(s: Tensor, gamma: float) -> Tensor:
    """Compute -(1-p)^gamma log p from logarithms alone."""
    loss = -F.logsigmoid(s)
    return loss * (gamma * F.logsigmoid(-s)).exp() if gamma else loss


def _check_exponent(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more; got {value}.")


class FocalLoss(LossModule):
    """Module form of :func:`focal_loss`, same options; tensors become buffers.

    Example:
        >>> import torch, manyhot
        >>> manyhot.FocalLoss(gamma=0.0)(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 1]]))
        tensor(1.4402)
    """

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: float | None = None,
        label_weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        keep(self, gamma=gamma, alpha=alpha, label_weight=label_weight, reduction=reduction)

    def forward(
        self, logits: Tensor, targets: Any, *, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch."""
        return focal_loss(logits, targets, mask=mask, sample_weight=sample_weight, **kept(self))


def asymmetric_loss(
    logits: Tensor,
    targets: Any,
    *,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Asymmetric loss (ASL): focal loss with a gamma a side, which leaves out negatives that are nearly right.

    .. math::
        \ell = -\sum_i t_i(1 - p_i)^{\gamma_+}\log p_i + (1 - t_i)\,q_i^{\gamma_-}\log(1 - q_i),
        \qquad q_i = \max(p_i - \text{clip}, 0)

    with p = sigmoid(s). Use it to compare with: three options to tune, and its defaults fit extreme imbalance.

    Args:
        logits: (..., labels), any floating dtype, raw scores.
        targets: as in :func:`bce_loss`. Soft targets share out the two terms.
        gamma_pos: >= 0, focusing of positives.
        gamma_neg: >= 0, focusing of negatives.
        clip: in [0, 1), probability that is taken off a negative.
        mask: boolean, broadcastable to logits, True where the label is known.
        label_weight: >= 0, broadcastable to logits, multiplies the term of a label; 0 removes it.
        sample_weight: >= 0, one a row.
        reduction: `"mean"` over rows with a known label, `"sum"` as in the published code, or `"none"`.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the leading shape of logits for `reduction="none"`.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: shapes that do not fit and options or, on the CPU, values out of range.

    Reduces to:
        :func:`focal_loss` for equal gammas and clip 0.

    Numerics:
        Equal to the published code wherever that is finite and its clamp at 1e-8 does not act. That clamp takes the
        whole gradient off a positive below -18.4 and is 0 in half precision; here a positive at -20 has gradient -1. A
        clip bounds the loss of a negative: at +inf it is (1 - clip)^gamma_neg log(1 / clip).

    Example:
        >>> import torch, manyhot
        >>> manyhot.asymmetric_loss(torch.tensor([[2.0, -1.0]]), torch.tensor([[0, 1]]))
        tensor(1.8065)

    References:
        Ridnik et al., arXiv 2009.14119, equations (4) to (7); defaults as in its code.
    """
    _check_exponent("gamma_pos", gamma_pos)
    _check_exponent("gamma_neg", gamma_neg)
    if not 0 <= clip < 1:
        raise ValueError(f"clip, a probability taken off negatives, must lie in [0, 1); got {clip}.")
    batch = cells(logits, targets, mask, label_weight)
    terms = two_sided(batch, lambda s: _focal(s, gamma_pos), lambda s: _clipped(s, gamma_neg, clip))
    return reduce(batch.sum(terms), known_rows=batch.known_rows, sample_weight=sample_weight, reduction=reduction)


def _clipped(s: Tensor, gamma: float, clip: float) -> Tensor:
    """Compute -q^gamma log(1-q) of a negative, q = max(p - clip, 0)."""
    if clip == 0:
        return _focal(-s, gamma)
    p, high = probability(s), s > 0
    counts = ~(p <= clip)  # NaN counts
    q = torch.where(counts, p - clip, 0.5)  # any number inside, where nothing is taken from it
    # 1 - q is 1 - p + clip, and keeps its digits near 1 as 1 - q, near clip as the sum.
    log = torch.where(high, (torch.sigmoid(-s) + clip).log(), torch.log1p(-torch.where(high, 0, q)))
    return torch.where(counts, -log * q**gamma, 0)


class AsymmetricLoss(LossModule):
    """Module form of :func:`asymmetric_loss`, same options; tensors become buffers.

    Example:
        >>> import torch, manyhot
        >>> manyhot.AsymmetricLoss(gamma_neg=2.0)(torch.tensor([[2.0, -1.0]]), torch.tensor([[0, 1]]))
        tensor(2.1864)
    """

    def __init__(
        self,
        *,
        gamma_pos: float = 1.0,
        gamma_neg: float = 4.0,
        clip: float = 0.05,
        label_weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        keep(self, gamma_pos=gamma_pos, gamma_neg=gamma_neg, clip=clip, label_weight=label_weight, reduction=reduction)

    def forward(
        self, logits: Tensor, targets: Any, *, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch."""
        return asymmetric_loss(logits, targets, mask=mask, sample_weight=sample_weight, **kept(self))


def tversky_loss(
    logits: Tensor,
    targets: Any,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 1.0,
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Tversky loss, with the defaults Dice loss: one minus the overlap of a row's probabilities with its labels.

    .. math::
        \ell = 1 - \frac{TP + \text{smooth}}{TP + \alpha\,FP + \beta\,FN + \text{smooth}},\qquad
        TP = \sum_i t_i p_i,\; FP = \sum_i (1-t_i)\,p_i,\; FN = \sum_i t_i(1-p_i)

    with p = sigmoid(s). Use it to compare with; :func:`manyhot.smooth_f_loss` takes the same ratio over a batch or a
    label.

    Args:
        logits: (..., labels), any floating dtype, raw scores.
        targets: as in :func:`bce_loss`, soft ones too.
        alpha: >= 0, price of a false positive.
        beta: >= 0, price of a false negative.
        smooth: >= 0, added to both sides of the fraction. 0 is the definition without it, in which a row without labels
            has loss 1 and no gradient. Dice loss written as (2 TP + x) / (sum p + sum t + x) has smooth = x/2.
        mask: boolean, broadcastable to logits, True where the label is known.
        label_weight: >= 0, broadcastable to logits, enters the three sums; 0 removes a label.
        sample_weight: >= 0, one a row.
        reduction: `"mean"` over rows with a known label, `"sum"`, or `"none"` for one loss a row.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the leading shape of logits for `reduction="none"`.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: shapes that do not fit and options or, on the CPU, values out of range.

    Reduces to:
        1 + ``smooth_f_loss(average="samples", beta=b)`` for smooth 0, alpha 1/(1+b^2) and beta b^2/(1+b^2).

    Numerics:
        0/0, all probabilities 0 beside no label and smooth 0, is loss 1, the limit.

    Example:
        >>> import torch, manyhot
        >>> manyhot.tversky_loss(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]]))
        tensor(0.0935)

    References:
        Milletari et al., arXiv 1606.04797 (Dice); Salehi et al., arXiv 1706.05721 (Tversky).
    """
    for name, value in (("alpha", alpha), ("beta", beta), ("smooth", smooth)):
        _check_exponent(name, value)
    batch = cells(logits, targets, mask, label_weight)
    s, t = batch.logits, batch.targets
    p, q = probability(s), probability(-s)
    hits = batch.sum(t * p) + smooth
    total = hits + alpha * batch.sum((1 - t) * p) + beta * batch.sum(t * q)
    loss = 1 - hits / torch.where(total == 0, 1, total)
    return reduce(loss, known_rows=batch.known_rows, sample_weight=sample_weight, reduction=reduction)


class TverskyLoss(LossModule):
    """Module form of :func:`tversky_loss`, same options; tensors become buffers.

    Example:
        >>> import torch, manyhot
        >>> manyhot.TverskyLoss(smooth=0.0)(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]]))
        tensor(0.1806)
    """

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        smooth: float = 1.0,
        label_weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        keep(self, alpha=alpha, beta=beta, smooth=smooth, label_weight=label_weight, reduction=reduction)

    def forward(
        self, logits: Tensor, targets: Any, *, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch."""
        return tversky_loss(logits, targets, mask=mask, sample_weight=sample_weight, **kept(self))
