"""The divergence that belongs to ZLPR: how far one set of logits is from another, for R-Drop and distillation."""

import torch
from torch import Tensor

from manyhot.batch import options_of
from manyhot.checks import check_logits, check_mask
from manyhot.logsumexp import logsumexp
from manyhot.reduction import Reduction, reduce


def zlpr_divergence(
    logits: Tensor,
    target_logits: Tensor,
    *,
    threshold: float | Tensor = 0.0,
    scale: float = 1.0,
    margin: float = 0.0,
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Measure by how much `logits` are worse than `target_logits` for the soft targets that the latter stand for.

    .. math::
        D(u\,\|\,s) = \mathrm{ZLPR}(s, q) - \mathrm{ZLPR}(u, q), \qquad q = \sigma(2\gamma(u - s_0))

    for logits s and target logits u: u is the optimum of the soft targets q, so the divergence is 0 where s = u and
    positive elsewhere. It is to ZLPR what the Kullback-Leibler divergence is to cross-entropy. Use it to pull a student
    towards a teacher, ``zlpr_divergence(student, teacher.detach())``, or two passes with different dropout towards each
    other, R-Drop: ``(zlpr_divergence(a, b) + zlpr_divergence(b, a)) / 2`` beside the loss. For targets that are
    probabilities and no logits use :func:`manyhot.zlpr_loss`.

    Args:
        logits: (..., labels), any floating dtype.
        target_logits: same shape; detach them where they are not to be moved.
        threshold: the logit above which a label is predicted, a number or a tensor that broadcasts to logits.
        scale: > 0, sharpness, that of the loss beside it.
        margin: >= 0, that of the loss beside it.
        mask: boolean, broadcastable to logits, True where the label is known.
        label_weight: >= 0, broadcastable to logits; 0 removes a label.
        sample_weight: >= 0, one a row.
        reduction: `"mean"` over rows with a known label, `"sum"`, or `"none"` for one divergence a row.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the leading shape of logits for `reduction="none"`.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: shapes that do not fit, options out of range.

    Reduces to:
        0 for equal logits, with gradient 0. With d = scale (s - u) and the shares p of the labels and of an empty slot
        in the optimum, ``log(sum p e^d) + log(sum p e^-d)``: the variance of d under p for small d.

    Numerics:
        Computed from d, and never as the difference of two losses: equal logits give exactly 0, and nearly equal ones
        keep their digits. An infinite target logit is a target of 0 or 1: it costs what it costs in :func:`zlpr_loss`,
        and nothing beside the same infinity. An infinite logit beside another one gives +inf and no gradient.

    Example:
        >>> import torch, manyhot
        >>> teacher = torch.tensor([[2.0, -1.0, 0.5]])
        >>> manyhot.zlpr_divergence(teacher, teacher)
        tensor(0.)
        >>> manyhot.zlpr_divergence(torch.zeros(1, 3), teacher)
        tensor(0.5307)

    References:
        Su, kexue.fm/archives/9064 for the optimum of soft targets; the divergence is ours. R-Drop, arXiv 2106.14448.
    """
    for name, x in (("logits", logits), ("target_logits", target_logits)):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            came = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{name} must be a floating-point tensor, the raw scores of a model; got {came}.")
    check_logits(logits)
    if target_logits.shape != logits.shape:
        raise ValueError(
            f"target_logits must have the shape of logits, {tuple(logits.shape)}; got {tuple(target_logits.shape)}."
        )
    check_mask(mask, logits)
    threshold, label_weight, dtype = options_of(
        logits, threshold=threshold, scale=scale, margin=margin, label_weight=label_weight
    )
    dtype = torch.float64 if target_logits.dtype == torch.float64 else dtype
    s, u = logits.to(dtype), target_logits.to(dtype)
    known = None if mask is None else mask.expand(logits.shape)
    counts, log_weight = known, 0.0
    if label_weight is not None:
        weighted = label_weight > 0
        log_weight = torch.where(weighted, label_weight, 1).log()
        counts = weighted.expand(logits.shape) if known is None else known & weighted
    if counts is not None:
        # Inside of the sums and outside: what does not count may hold anything.
        s, u = torch.where(counts, s, 0), torch.where(counts, u, 0)
    # Each label's term in either sum of ZLPR(u, q), which are equal: w e^(scale margin) sqrt(q (1 - q)).
    certain = u.isinf()
    z = scale * (torch.where(certain, 0, u) - threshold)
    terms = scale * margin - torch.logaddexp(z, -z) + log_weight
    d = scale * (s - torch.where(certain, 0, u))
    # A target logit that is infinite stands for a 0 or a 1: it has no term there, and in ZLPR(s, q) one alone, the same
    # as a hard target has; none where s is as infinite.
    x = torch.where(s == u, 0, scale * (s - threshold))
    hard = certain & (s != u)
    neg = torch.where(hard & (u < 0), x + scale * margin + log_weight, -torch.inf)
    pos = torch.where(hard & (u > 0), -x + scale * margin + log_weight, -torch.inf)
    terms, d = torch.where(certain, -torch.inf, terms), torch.where(certain, 0, d)
    if counts is not None:
        terms = torch.where(counts, terms, -torch.inf)
    # The 1 of log(1 + sum) is a slot of its own, where d is 0.
    slot = torch.zeros_like(d[..., :1])
    terms, d = torch.cat((terms, slot), -1), torch.cat((d, slot), -1)
    log_total = logsumexp(terms).unsqueeze(-1)
    known_rows = None if known is None else known.any(-1)
    divergence = _two_logs(terms - log_total, d, neg - log_total, pos - log_total)
    return reduce(divergence, known_rows=known_rows, sample_weight=sample_weight, reduction=reduction)


def _two_logs(log_p: Tensor, d: Tensor, neg: Tensor, pos: Tensor) -> Tensor:
    """Return log(sum p e^d + sum e^neg) + log(sum p e^-d + sum e^pos), exact for small d, finite for large ones.

    d may be infinite; neg and pos are -inf but for hard targets.
    """
    # A common shift of d changes nothing. Measured from the one that is nearest to their mean, an exact difference, the
    # mean square is at most twice the variance that is to be left of it below.
    p, infinite = log_p.exp(), d.isinf()
    finite = torch.where(infinite, 0, d)
    nearest = (finite - (p * finite).sum(-1, keepdim=True)).detach().abs()
    shift = finite.gather(-1, torch.where(infinite, torch.inf, nearest).argmin(-1, keepdim=True)).detach()
    d = d - shift
    hard = torch.maximum(neg.detach(), pos.detach()).amax(-1) > -torch.inf
    small = (d.detach().abs().amax(-1) < 1) & ~hard
    # (1 + a)(1 + b) = 1 + a + b + ab with a = sum p (e^d - 1) and b = sum p (e^-d - 1), where a + b has no difference
    # in it: e^d + e^-d - 2 = 4 sinh(d/2)^2.
    near = torch.where(small.unsqueeze(-1), d, 0)
    both = 4 * (p * (near / 2).sinh().square()).sum(-1)
    product = (p * near.expm1()).sum(-1) * (p * (-near).expm1()).sum(-1)
    far = torch.where(small.unsqueeze(-1), 0, d)
    up, down = torch.cat((log_p + far, neg - shift), -1), torch.cat((log_p - far, pos + shift), -1)
    value = torch.where(small, torch.log1p(both + product), logsumexp(up) + logsumexp(down))
    return value.clamp(min=0)  # rounding may take a value of 0 below it
