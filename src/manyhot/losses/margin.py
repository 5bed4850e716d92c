"""Cross-entropy for unbalanced classes, one class a row: what is added to a logit by its class, in training.

logit-adjusted   cross-entropy of s + tau log pi                              predict argmax s
post hoc         cross-entropy of s                                           predict argmax s - tau log pi
margin softmax   cross-entropy of s_y - r_y |u_y| and s_i + r_y |u_i|         s_i = <f, u_i>; predict argmax s

One of the first two, never both: each takes the whole prior off the decision.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from manyhot.checks import check_finite, check_weights
from manyhot.losses.hyperparameters import LossModule, PriorLogits, keep, kept
from manyhot.losses.one_class import cross_entropy, one_class
from manyhot.reduction import Reduction, reduce
from manyhot.tracing import values_readable


def logit_adjusted_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    prior: Any,
    tau: float = 1.0,
    mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy that trains on s + tau log pi, so that s itself ranks classes as if they were balanced.

    .. math::
        \ell = -\log\frac{e^{s_y + \tau\log\pi_y}}{\sum_i e^{s_i + \tau\log\pi_i}}

    Use it where classes are unbalanced and each counts the same; predict argmax s. For many labels a row use the
    `prior` of :func:`manyhot.zlpr_loss`; for a model that is trained already, :func:`adjust_logits`.

    Args:
        logits: (..., classes), any floating dtype, raw scores.
        targets: (...,), integer class ids; -1 and -100 mean unknown.
        prior: (classes,), > 0, frequencies or counts of the classes in training; only their ratios matter. Add 1/2 to
            counts where a class may be missing.
        tau: how much of the prior is used; 1 is all of it, 0 none.
        mask: boolean, broadcastable to targets, True where a row's class is known.
        sample_weight: >= 0, one a row.
        reduction: `"mean"` over rows with a known class, `"sum"`, or `"none"` for one loss a row.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the shape of targets for `reduction="none"`.

    Raises:
        TypeError: logits that are not floating-point, class ids that are no integers.
        ValueError: shapes that do not fit and, where values can be read, ids that are no class, a prior of 0.

    Reduces to:
        ``torch.nn.functional.cross_entropy`` for a uniform prior or tau 0.

    Numerics:
        Half dtypes are computed in float32. A class with an infinite logit has loss 0; one beside such a class +inf,
        with a finite gradient.

    Example:
        >>> import torch, manyhot
        >>> logits, targets = torch.tensor([[2.0, 1.0]]), torch.tensor([1])
        >>> manyhot.logit_adjusted_loss(logits, targets, prior=[0.9, 0.1])
        tensor(3.2373)

    References:
        Menon et al., arXiv 2007.07314; Su, kexue.fm/archives/7615 and 7708.
    """
    check_finite("tau", tau)
    rows = one_class(logits, targets, mask)
    loss = cross_entropy(rows.logits, rows.classes, tau * _log_prior(prior, rows.logits))
    return reduce(loss, known_rows=rows.known_rows, sample_weight=sample_weight, reduction=reduction)


def adjust_logits(logits: Tensor, *, prior: Any, tau: float = 1.0) -> Tensor:
    r"""Take the prior off the logits of a model trained with plain cross-entropy: s - tau log pi, to predict with.

    The post hoc form of :func:`logit_adjusted_loss`; a model trained with that has its prior off already.

    Args:
        logits: (..., classes), any floating dtype.
        prior: (classes,), > 0, frequencies or counts of the classes in training; only their ratios matter.
        tau: how much of the prior is taken off.

    Returns:
        Adjusted logits, same shape and dtype.

    Raises:
        ValueError: a prior of another length, or of 0 where it can be read.

    Example:
        >>> import torch, manyhot
        >>> manyhot.adjust_logits(torch.tensor([[2.0, 1.0]]), prior=[0.9, 0.1]).argmax(-1)
        tensor([1])
    """
    check_finite("tau", tau)
    s = logits if logits.dtype == torch.float64 else logits.float()
    return (s - tau * _log_prior(prior, s)).to(logits.dtype)


def _log_prior(prior: Any, logits: Tensor) -> Tensor:
    values = prior.values if isinstance(prior, PriorLogits) else _logarithms(prior)
    if values.shape != logits.shape[-1:]:
        raise ValueError(
            f"prior must have one number a class, {tuple(logits.shape[-1:])}, frequencies or counts in training; "
            f"got {tuple(values.shape)}."
        )
    return values.to(logits.device, logits.dtype)


def _logarithms(prior: Any) -> Tensor:
    prior = prior if isinstance(prior, Tensor) else torch.tensor(prior, dtype=torch.float64)
    if values_readable(prior) and not bool(((prior > 0) & (prior < math.inf)).all()):
        raise ValueError("prior must be above 0 for every class; add 1/2 to counts where a class may be missing.")
    return (prior.float() if prior.device.type == "mps" else prior.double()).log()  # Apple's GPUs have no float64


class LogitAdjustedLoss(LossModule):
    """Module form of :func:`logit_adjusted_loss`, same options; of the prior logarithms are kept.

    Example:
        >>> import torch, manyhot
        >>> manyhot.LogitAdjustedLoss(prior=[0.9, 0.1])(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
        tensor(3.2373)
    """

    def __init__(self, *, prior: Any, tau: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        if not isinstance(prior, nn.Parameter):
            prior = PriorLogits(_logarithms(prior))
        keep(self, prior=prior, tau=tau, reduction=reduction)

    def forward(
        self, logits: Tensor, targets: Tensor, *, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch."""
        return logit_adjusted_loss(logits, targets, mask=mask, sample_weight=sample_weight, **kept(self))


def margin_softmax_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    radius: float | Tensor,
    norms: Tensor | None = None,
    mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy of the worst embedding within a ball around the sample's own.

    .. math::
        \ell = -\log\frac{e^{\langle f, u_y\rangle - r_y|u_y|}}
        {e^{\langle f, u_y\rangle - r_y|u_y|} + \sum_{i\neq y} e^{\langle f, u_i\rangle + r_y|u_i|}}

    for the embedding f of a sample and class vectors u: a ball of radius :math:`r_y` around f stays on the right side
    of every boundary. Use larger radii for rare classes, whose samples cover less of their region. The embedding enters
    through its logits, so any linear head will do: ``margin_softmax_loss(head(f), y, radius=r,
    norms=head.weight.norm(dim=-1))``.

    Args:
        logits: (..., classes), the inner products <f, u_i>, a bias added where there is one.
        targets: (...,), integer class ids; -1 and -100 mean unknown.
        radius: >= 0, a number, or (classes,), that of each class.
        norms: (classes,), >= 0, the lengths of the class vectors, with their gradient. None: all 1, which makes
            it the additive margin of 2 r_y on the target.
        mask: boolean, broadcastable to targets, True where a row's class is known.
        sample_weight: >= 0, one a row.
        reduction: `"mean"` over rows with a known class, `"sum"`, or `"none"` for one loss a row.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the shape of targets for `reduction="none"`.

    Raises:
        TypeError: logits that are not floating-point, class ids that are no integers.
        ValueError: shapes that do not fit and, where values can be read, ids that are no class, a radius below 0.

    Reduces to:
        ``torch.nn.functional.cross_entropy`` for radius 0; cross-entropy of s_y - 2 r_y beside the other logits where
        all norms are 1.

    Numerics:
        As :func:`logit_adjusted_loss`. A class vector of length 0 has margin 0 and a finite gradient.

    Example:
        >>> import torch, manyhot
        >>> manyhot.margin_softmax_loss(torch.tensor([[2.0, 1.0]]), torch.tensor([0]), radius=0.5)
        tensor(0.6931)
        >>> f, u = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.6, 0.8]])
        >>> manyhot.margin_softmax_loss(f @ u.T, torch.tensor([0]), radius=0.5, norms=u.norm(dim=-1))
        tensor(0.7444)

    References:
        Su, kexue.fm/archives/7708. Logit adjustment is this margin by analogy and no special case of it.
    """
    rows = one_class(logits, targets, mask)
    s, y = rows.logits, rows.classes
    per_class: dict[str, Tensor] = {}
    for name, value in (("radius", radius), ("norms", 1.0 if norms is None else norms)):
        value = value.to(s) if isinstance(value, Tensor) else torch.tensor(value, dtype=s.dtype, device=s.device)
        if value.ndim and value.shape != s.shape[-1:]:
            raise ValueError(f"{name} must have one number a class, {tuple(s.shape[-1:])}; got {tuple(value.shape)}.")
        check_weights(name, value)
        per_class[name] = value.expand(s.shape[-1:])
    shift = per_class["radius"][y] * per_class["norms"]
    loss = cross_entropy(s, y, torch.where(torch.arange(s.shape[-1], device=s.device) == y, -shift, shift))
    return reduce(loss, known_rows=rows.known_rows, sample_weight=sample_weight, reduction=reduction)


class MarginSoftmaxLoss(LossModule):
    """Module form of :func:`margin_softmax_loss`; the norms move with the head, so they come with the batch.

    Example:
        >>> import torch, manyhot
        >>> loss = manyhot.MarginSoftmaxLoss(radius=0.5)
        >>> loss(torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
        tensor(0.6931)
    """

    def __init__(self, *, radius: float | Tensor, reduction: Reduction = "mean") -> None:
        super().__init__()
        keep(self, radius=radius, reduction=reduction)

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        norms: Tensor | None = None,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch."""
        return margin_softmax_loss(logits, targets, norms=norms, mask=mask, sample_weight=sample_weight, **kept(self))
