"""ZLPR and its two siblings: softmax + cross-entropy for any number of labels.

neg, pos = signed_logsumexp(logits, targets)

ZLPR         softplus(neg) + softplus(pos)       predict s > 0
pairwise     softplus(neg + pos)                 predict the top k, k known
single log   softplus(logaddexp(neg, pos))       predict s > 0

The three lines stand first; each function below adds its options and what there is to say.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyhot.batch import Batch, batch_of, dense
from manyhot.checks import check_broadcast, check_finite
from manyhot.label_smoothing import Smoothing, check_smoothing, smooth_labels
from manyhot.logsumexp import Impl, logsumexp
from manyhot.losses.hyperparameters import LossModule, PriorLogits, keep, kept
from manyhot.losses.row_wise import Link, row_loss
from manyhot.reduction import Reduction
from manyhot.tracing import values_readable


def _zlpr(neg: Tensor, pos: Tensor) -> Tensor:
    return _softplus(neg) + _softplus(pos)


def _pairwise(neg: Tensor, pos: Tensor) -> Tensor:
    # An empty side stays empty, also beside an infinite one: -inf + inf would be NaN.
    empty = ((neg == -math.inf) & ~pos.isnan()) | ((pos == -math.inf) & ~neg.isnan())
    return _softplus(torch.where(empty, -math.inf, neg + pos))


def _single_log(neg: Tensor, pos: Tensor) -> Tensor:
    return _softplus(logsumexp(torch.stack((neg, pos), -1)))


def _softplus(x: Tensor) -> Tensor:
    # torch's default threshold, 20, drops log1p(e^-x) where float64 still has seven digits of it.
    return F.softplus(x, threshold=40)


ZLPR = Link("zlpr", _zlpr)
PAIRWISE = Link("pairwise", _pairwise)
SINGLE_LOG = Link("single_log", _single_log)


def zlpr_loss(
    logits: Tensor,
    targets: Any,
    *,
    threshold: float | Tensor = 0.0,
    scale: float = 1.0,
    margin: float = 0.0,
    prior: Any = None,
    tau: float = 1.0,
    label_smoothing: float = 0.0,
    smoothing: Smoothing = "mass",
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    impl: Impl = "auto",
) -> Tensor:
    r"""Push every positive above the threshold, every negative below it, and every positive above every negative.

    .. math::
        \ell = \log\Big(1 + \sum_{i\in N} e^{s_i}\Big) + \log\Big(1 + \sum_{j\in P} e^{-s_j}\Big)

    for logits s, negatives N and positives P; in general ``softplus(neg) + softplus(pos)`` with the two sums of
    :func:`manyhot.signed_logsumexp`. Also called multi-label softmax + cross-entropy.

    Use it where you would use ``binary_cross_entropy_with_logits``: several labels a row, their number unknown at
    prediction. Predict the labels with s > 0 (:func:`manyhot.decide`); there is no threshold and no class weight to
    tune. Use :func:`pairwise_loss` when the number of labels of a row is given at prediction.

    Args:
        logits: (..., labels), any floating dtype, raw scores: no sigmoid before.
        targets: same shape, any dtype: 0/1, or soft values in [0, 1]; -1, -100 and NaN mean unknown. Or listed:
            :class:`manyhot.IndexTargets`, torch.sparse_csr, scipy.sparse.
        threshold: the logit above which a label is predicted; a number or a tensor that broadcasts to logits. As an
            ``nn.Parameter`` it is learned; pass it to `decide` then.
        scale: > 0, sharpness. The gradient of a row is at most 2 scale in sum of absolute values.
        margin: >= 0, added on both sides, so that positives and negatives end 2 margin apart.
        prior: (labels,), frequency of each label in the training rows, inside (0, 1): :func:`manyhot.label_prior`.
            Training then uses s + tau/(2 scale) logit(prior) and prediction s alone, which lifts rare labels.
        tau: how much of the prior is used; 1 is right for soft targets, 1 to 2 for hard ones (see Numerics).
        label_smoothing: share in [0, 1] of the targets that :func:`manyhot.smooth_labels` moves.
        smoothing: `"mass"` keeps the number of labels a row, `"uniform"` moves each target towards 1/2.
        mask: boolean, broadcastable to logits, True where the label is known.
        label_weight: >= 0, broadcastable to logits, enters the sums inside the logs; 0 removes a label.
        sample_weight: >= 0, one a row.
        reduction: `"mean"` over rows with a known label, `"sum"`, or `"none"` for one loss a row.
        impl: `"auto"`, `"eager"`, `"blocked"` or `"native"`, see :func:`manyhot.signed_logsumexp`.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the leading shape of logits for `reduction="none"`.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: shapes that do not fit and options or, on the CPU, values out of range.

    Reduces to:
        binary cross-entropy for one label with 0/1 targets; ``log(1+k) + log(1+n-k)`` at zero logits. Never above the
        summed binary cross-entropy, whose first-order terms it keeps.

    Numerics:
        Finite for logits of any size and dtype; computed in float32 for half dtypes. Soft targets in (0, 1) have the
        unique optimum t = sigmoid(2 scale (s - threshold)), whatever margin and weights are. With random hard targets
        the optimum is sigmoid(a s) = p with a between 1 (one label) and 2 (many): logits are no calibrated
        probabilities.

    Example:
        >>> import torch, manyhot
        >>> logits = torch.tensor([[2.0, -1.0, 3.0, -2.0]])
        >>> manyhot.zlpr_loss(logits, torch.tensor([[1, 0, 0, 1]]))
        tensor(5.2088)
        >>> manyhot.zlpr_loss(logits, torch.tensor([[0.9, 0.1, 0.9, 0.1]]))
        tensor(2.2133)

    References:
        Su, kexue.fm/archives/7359 equations (10) and (11), 9064 for soft targets; ZLPR, arXiv 2208.02955. The prior for
        one label is Menon et al., arXiv 2007.07314, and kexue.fm/archives/7615; for many labels it is ours.
    """
    check_smoothing(label_smoothing, smoothing)
    check_finite("tau", tau)
    if prior is not None:
        threshold = threshold - tau * prior_logits(prior, logits) / (2 * scale)
    batch = batch_of(
        logits,
        targets,
        threshold=threshold,
        scale=scale,
        margin=margin,
        mask=mask,
        label_weight=label_weight,
    )
    if label_smoothing:
        batch = _smoothed(batch, label_smoothing, smoothing)
    return row_loss(ZLPR, batch, sample_weight=sample_weight, reduction=reduction, impl=impl)


class ZLPRLoss(LossModule):
    """Module form of :func:`zlpr_loss`, same options; tensors become buffers, an ``nn.Parameter`` threshold is learned.

    A prior is kept as its log-odds, the buffer `prior_logits`. No cast of the module takes a buffer below float32.

    Example:
        >>> import torch, manyhot
        >>> loss = manyhot.ZLPRLoss(prior=torch.tensor([0.5, 0.01]))
        >>> loss(torch.tensor([[0.5, -0.5]]), torch.tensor([[0, 1]]))
        tensor(3.8308)
    """

    def __init__(
        self,
        *,
        threshold: float | Tensor = 0.0,
        scale: float = 1.0,
        margin: float = 0.0,
        prior: Any = None,
        tau: float = 1.0,
        label_smoothing: float = 0.0,
        smoothing: Smoothing = "mass",
        label_weight: Tensor | None = None,
        reduction: Reduction = "mean",
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        keep(
            self,
            threshold=threshold,
            scale=scale,
            margin=margin,
            prior=kept_prior(prior),
            tau=tau,
            label_smoothing=label_smoothing,
            smoothing=smoothing,
            label_weight=label_weight,
            reduction=reduction,
            impl=impl,
        )

    def forward(
        self, logits: Tensor, targets: Any, *, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch."""
        return zlpr_loss(logits, targets, mask=mask, sample_weight=sample_weight, **kept(self))


def pairwise_loss(
    logits: Tensor,
    targets: Any,
    *,
    scale: float = 1.0,
    margin: float = 0.0,
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    impl: Impl = "auto",
) -> Tensor:
    r"""Push every positive above every negative of its row; no threshold takes part.

    .. math::
        \ell = \log\Big(1 + \sum_{i\in N}\sum_{j\in P} e^{\gamma(s_i - s_j + 2m)}\Big)

    that is ``softplus(neg + pos)`` with the two sums of :func:`manyhot.signed_logsumexp`. Use it when the number of
    labels of a row is known at prediction, and predict with :func:`manyhot.top_k`. Where it is not known, use
    :func:`zlpr_loss`: here the logits of a row have no zero.

    Args:
        logits: (..., labels), any floating dtype, raw scores.
        targets: same shape, any dtype: 0/1, or soft values in [0, 1]; -1, -100 and NaN mean unknown. Or listed:
            :class:`manyhot.IndexTargets`, torch.sparse_csr, scipy.sparse.
        scale: > 0, gamma of Circle loss.
        margin: >= 0 on each side; the margin of Circle loss is twice this.
        mask: boolean, broadcastable to logits, True where the label is known.
        label_weight: >= 0, broadcastable to logits, enters the sums inside the log; 0 removes a label.
        sample_weight: >= 0, one a row.
        reduction: `"mean"` over rows with a known label, `"sum"`, or `"none"` for one loss a row.
        impl: `"auto"`, `"eager"`, `"blocked"` or `"native"`, see :func:`manyhot.signed_logsumexp`.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the leading shape of logits for `reduction="none"`.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: shapes that do not fit and options or, on the CPU, values out of range.

    Reduces to:
        ``torch.nn.functional.cross_entropy`` with one positive a row; the unified loss of Circle loss.

    Numerics:
        As :func:`zlpr_loss`. A row without positives or without negatives has loss 0 and gradient 0, exactly.

    Example:
        >>> import torch, manyhot
        >>> manyhot.pairwise_loss(torch.tensor([[2.0, -1.0, 3.0, -2.0]]), torch.tensor([[1, 0, 1, 0]]))
        tensor(0.0891)

    References:
        Su, kexue.fm/archives/7359 equations (8) and (9); Circle loss, arXiv 2002.10857, equation (1).
    """
    batch = batch_of(logits, targets, scale=scale, margin=margin, mask=mask, label_weight=label_weight)
    return row_loss(PAIRWISE, batch, sample_weight=sample_weight, reduction=reduction, impl=impl)


class PairwiseLoss(LossModule):
    """Module form of :func:`pairwise_loss`, same options; tensors become buffers.

    Example:
        >>> import torch, manyhot
        >>> manyhot.PairwiseLoss(scale=2.0)(torch.tensor([[2.0, 1.0]]), torch.tensor([[1, 0]]))
        tensor(0.1269)
    """

    def __init__(
        self,
        *,
        scale: float = 1.0,
        margin: float = 0.0,
        label_weight: Tensor | None = None,
        reduction: Reduction = "mean",
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        keep(self, scale=scale, margin=margin, label_weight=label_weight, reduction=reduction, impl=impl)

    def forward(
        self, logits: Tensor, targets: Any, *, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch."""
        return pairwise_loss(logits, targets, mask=mask, sample_weight=sample_weight, **kept(self))


def single_log_loss(
    logits: Tensor,
    targets: Any,
    *,
    threshold: float | Tensor = 0.0,
    scale: float = 1.0,
    margin: float = 0.0,
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    impl: Impl = "auto",
) -> Tensor:
    r"""ZLPR with one logarithm: positives above the threshold, negatives below it, and nothing between the two.

    .. math::
        \ell = \log\Big(1 + \sum_{i\in N} e^{s_i} + \sum_{j\in P} e^{-s_j}\Big)

    that is ``softplus(logaddexp(neg, pos))`` with the two sums of :func:`manyhot.signed_logsumexp`. It has the same
    decision rule as :func:`zlpr_loss` and is here for comparison: with many classes it is said to converge more slowly,
    since one label far on the wrong side takes the gradient of the whole row.

    Args:
        logits: (..., labels), any floating dtype, raw scores.
        targets: same shape, any dtype: 0/1, or soft values in [0, 1]; -1, -100 and NaN mean unknown. Or listed:
            :class:`manyhot.IndexTargets`, torch.sparse_csr, scipy.sparse.
        threshold: the logit above which a label is predicted; a number or a tensor that broadcasts to logits.
        scale: > 0, sharpness. The gradient of a row is at most scale in sum of absolute values.
        margin: >= 0, added on both sides.
        mask: boolean, broadcastable to logits, True where the label is known.
        label_weight: >= 0, broadcastable to logits, enters the sum inside the log; 0 removes a label.
        sample_weight: >= 0, one a row.
        reduction: `"mean"` over rows with a known label, `"sum"`, or `"none"` for one loss a row.
        impl: `"auto"`, `"eager"`, `"blocked"` or `"native"`, see :func:`manyhot.signed_logsumexp`.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the leading shape of logits for `reduction="none"`.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: shapes that do not fit and options or, on the CPU, values out of range.

    Reduces to:
        binary cross-entropy for one label with 0/1 targets; ``log(1+n)`` at zero logits. Never above ZLPR.

    Numerics:
        As :func:`zlpr_loss`.

    Example:
        >>> import torch, manyhot
        >>> manyhot.single_log_loss(torch.tensor([[2.0, -1.0, 3.0, -2.0]]), torch.tensor([[1, 0, 1, 0]]))
        tensor(0.5237)

    References:
        A reader's comment under Su, kexue.fm/archives/7359.
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
    return row_loss(SINGLE_LOG, batch, sample_weight=sample_weight, reduction=reduction, impl=impl)


class SingleLogLoss(LossModule):
    """Module form of :func:`single_log_loss`, same options; tensors become buffers.

    Example:
        >>> import torch, manyhot
        >>> manyhot.SingleLogLoss(margin=1.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([[1, 0]]))
        tensor(1.4076)
    """

    def __init__(
        self,
        *,
        threshold: float | Tensor = 0.0,
        scale: float = 1.0,
        margin: float = 0.0,
        label_weight: Tensor | None = None,
        reduction: Reduction = "mean",
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        keep(
            self,
            threshold=threshold,
            scale=scale,
            margin=margin,
            label_weight=label_weight,
            reduction=reduction,
            impl=impl,
        )

    def forward(
        self, logits: Tensor, targets: Any, *, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch."""
        return single_log_loss(logits, targets, mask=mask, sample_weight=sample_weight, **kept(self))


def _smoothed(batch: Batch, epsilon: float, smoothing: Smoothing) -> Batch:
    """Smooth targets of any format; no target stays 0, so listed ones are written out.

    They are checked before, so that a message shows what was given and not what became of it.
    """
    batch = dense(batch)
    assert isinstance(batch.targets, Tensor)
    return batch._replace(targets=smooth_labels(batch.targets, epsilon, smoothing=smoothing, mask=batch.mask))


def prior_logits(prior: Any, logits: Tensor) -> Tensor:
    """Take the log-odds of label frequencies, which must not be 0 or 1."""
    values = prior.values if isinstance(prior, PriorLogits) else _log_odds(prior)
    check_broadcast("prior", values, logits)
    return values.to(logits.device, torch.float64 if logits.dtype == torch.float64 else torch.float32)


def kept_prior(prior: Any) -> Any:
    """Return what a module keeps of a prior: log-odds, as nobody has rounded it yet. A Parameter stays as it is."""
    if prior is None or isinstance(prior, nn.Parameter):
        return prior
    return PriorLogits(_log_odds(prior))


def _log_odds(prior: Any) -> Tensor:
    prior = prior if isinstance(prior, Tensor) else torch.tensor(prior, dtype=torch.float64)
    if values_readable(prior) and not bool(((prior > 0) & (prior < 1)).all()):
        raise ValueError(
            "prior must lie strictly between 0 and 1; "
            "manyhot.label_prior(targets) counts and smooths, so that labels never or always seen stay finite."
        )
    # Before any rounding: in float32 a frequency of 1 - 1e-9 would be 1. Apple's GPUs have no float64.
    return torch.logit(prior.float() if prior.device.type == "mps" else prior.double())
