"""The signed log-sum-exp: one sum over the negatives of a row, one over its positives.

Every row-wise k-of-n loss is one line in these two numbers, so target formats, masks, weights, thresholds and devices
are dealt with below them, in batch.py and kernels/, and nowhere else.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from manyhot.batch import Batch, batch_of, exponents
from manyhot.kernels import blocked, native
from manyhot.targets import IndexTargets
from manyhot.tracing import traced, watched

Impl = Literal["auto", "eager", "blocked", "native"]


def signed_logsumexp(
    logits: Tensor,
    targets: Any,
    *,
    threshold: float | Tensor = 0.0,
    scale: float = 1.0,
    margin: float = 0.0,
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Log-sum-exp of the negatives and, with the sign turned, of the positives of each row.

    .. math::
        \mathrm{neg} &= \log\sum_i w_i\,(1-t_i)\,e^{\gamma(s_i - s_0 + m)} \\
        \mathrm{pos} &= \log\sum_i w_i\,t_i\,e^{-\gamma(s_i - s_0 - m)}

    with logits s, targets t, threshold :math:`s_0`, scale :math:`\gamma`, margin m and label weights w. This is the
    building block for losses of your own; for training use :func:`manyhot.zlpr_loss`, which is
    ``softplus(neg) + softplus(pos)``.

    Args:
        logits: (..., labels), any floating dtype. -inf and +inf are allowed.
        targets: same shape, any dtype: 0/1 or soft values in [0, 1]. -1, -100 and NaN mean unknown: such a cell has no
            effect and no gradient, whatever its logit. Or the positives alone: :class:`manyhot.IndexTargets`, a
            torch.sparse_csr tensor or a scipy.sparse matrix.
        threshold: the logit above which a label is predicted; a number or a tensor that broadcasts to the logits:
            one per label (labels,), one per row (..., 1). May require a gradient.
        scale: > 0, sharpness of both sums.
        margin: >= 0, how far beyond the threshold a logit is pushed, on either side.
        mask: boolean, broadcastable to logits, True where the label is known.
        label_weight: >= 0, broadcastable to logits, usually (labels,), a factor inside the log; 0 removes a label.
        impl: `"eager"` is the formula in plain PyTorch, with derivatives of any order; `"native"` the C++ kernel for
            the CPU; `"blocked"` PyTorch in blocks of rows that fit the cache; `"auto"` takes the fastest that fits.
            What is asked for by name never falls back: where it does not fit, the error says why.

    Returns:
        (neg, pos), each of the leading shape of logits, float32 (float64 for float64 logits). -inf where a side is
        empty.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: shapes that do not fit, options out of range, an `impl` that does not fit and, on the CPU outside
            of torch.compile, targets out of range or negative weights. :func:`manyhot.validate` checks values anywhere.
        RuntimeError: second derivatives through a kernel; `impl="eager"` has them.

    Reduces to:
        ``torch.logsumexp`` of the logits where all targets are 0, and of the negated logits where all are 1.

    Numerics:
        Half dtypes are computed in float32. No constant stands in for infinity, so logits of any size give finite
        results; an infinite logit on the wrong side gives +inf and no gradient, never NaN. A NaN logit that is not
        masked makes its own row NaN and no other. A target of exactly 0 or 1 passes no gradient to itself.

    Example:
        >>> import torch, manyhot
        >>> neg, pos = manyhot.signed_logsumexp(torch.tensor([[2.0, -1.0, 3.0]]), torch.tensor([[1, 0, 0]]))
        >>> neg, pos
        (tensor([3.0181]), tensor([-2.]))

    References:
        Su, kexue.fm/archives/7359 and 9064; ZLPR, arXiv 2208.02955; Circle loss, arXiv 2002.10857, equation (1).
    """
    batch = batch_of(
        logits,
        targets,
        threshold=threshold,
        scale=scale,
        margin=margin,
        mask=mask,
        label_weight=label_weight,
    )
    return sums(batch, implementation(batch, impl))


def implementation(batch: Batch, impl: Impl) -> Impl:
    """Choose what computes a batch: what is asked for if it fits, for "auto" the fastest that fits.

    Raises:
        ValueError: no such implementation, or one that does not fit, with all reasons.
    """
    if impl == "eager":
        return impl
    if impl not in ("auto", "blocked", "native"):
        raise ValueError(f'impl must be "auto", "eager", "blocked" or "native"; got {impl!r}.')
    against = _against_kernels(batch)
    if impl == "auto":
        if against:
            return "eager"
        if native.MISSING is None:
            return "native"
        native.warn_missing()
        return "blocked"
    if impl == "native" and native.MISSING is not None:
        against.append(native.MISSING)
    if against:
        raise ValueError(f'impl="{impl}" cannot compute this: {"; ".join(against)}. Use impl="auto".')
    return impl


def _against_kernels(batch: Batch) -> list[str]:
    """List why no kernel of the CPU fits: they see numbers and give first derivatives by logits and threshold alone."""
    if traced() or watched():
        return ["torch.compile, torch.jit.trace, torch.func or a dispatch mode traces the call"]
    if isinstance(batch.targets, IndexTargets):
        targets, ids, offsets = batch.targets.soft, batch.targets.labels, batch.targets.offsets
    else:
        targets, ids, offsets = batch.targets, None, None
    for x in (batch.logits, targets, ids, offsets, batch.threshold, batch.mask, batch.label_weight):
        if x is None or isinstance(x, float | int):
            continue
        if not x.is_cpu:
            return [f"it runs on the CPU, and a tensor is on {x.device}"]
        if type(x) is not Tensor and type(x) is not torch.nn.Parameter:
            return [f"it takes plain tensors, not {type(x).__name__}"]
    reasons = []
    for name, x in (("targets", targets), ("label_weight", batch.label_weight)):
        if x is not None and x.requires_grad and torch.is_grad_enabled():
            reasons.append(f"it has no gradient with respect to {name}")
    if torch.autograd.forward_ad._current_level >= 0:
        reasons.append("it has no forward-mode derivatives")
    return reasons


def sums(batch: Batch, impl: Impl) -> tuple[Tensor, Tensor]:
    """Compute neg and pos by a chosen implementation."""
    if impl == "native":
        return native.sums(batch)
    return eager(batch) if impl == "eager" else blocked.sums(batch)


def eager(batch: Batch) -> tuple[Tensor, Tensor]:
    """Compute the formula as it is written: the specification of every other implementation."""
    neg, pos = exponents(batch)
    return logsumexp(neg), logsumexp(pos)


def logsumexp(terms: Tensor) -> Tensor:
    """Reduce the last axis: -inf for a row of -inf, +inf for one with +inf, both with gradient 0; NaN where one is.

    torch.logsumexp has the same values, but its gradient is NaN in these two cases.
    """
    infinite = terms == math.inf
    terms = torch.where(infinite, -math.inf, terms)
    peak = terms.detach().amax(-1, keepdim=True)
    peak = torch.where(peak.isfinite(), peak, 0)
    total = (terms - peak).exp().sum(-1)
    empty = total == 0
    value = torch.where(empty, 1, total).log() + peak.squeeze(-1)
    value = torch.where(empty, -math.inf, value)
    return torch.where(infinite.any(-1) & ~value.isnan(), math.inf, value)


def logsumexp_of_groups(terms: Tensor, group: Tensor, groups: int) -> Tensor:
    """Reduce the rows (terms, columns) of each group to (groups, columns), with the edges of :func:`logsumexp`."""
    infinite = terms == math.inf
    terms = torch.where(infinite, -math.inf, terms)
    cells = terms.new_full((groups, terms.shape[-1]), -math.inf)
    peak = cells.scatter_reduce(0, group.unsqueeze(-1).expand_as(terms), terms.detach(), "amax")
    peak = torch.where(peak.isfinite(), peak, 0)
    total = torch.zeros_like(cells).index_add(0, group, (terms - peak[group]).exp())
    empty = total == 0
    value = torch.where(empty, -math.inf, torch.where(empty, 1, total).log() + peak)
    reached = torch.zeros_like(cells).index_add(0, group, infinite.to(cells.dtype)) > 0
    return torch.where(reached & ~value.isnan(), math.inf, value)
