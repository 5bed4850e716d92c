"""The combinatorial softmax: one softmax over all label sets of a to b labels, as a loss and as a distribution.

A set S of independent labels has the weight e^{sum of its logits}; given that its size lies in [a, b],

    -log p(P) = log sum_{j=a..b} Z_j(s) - sum_{i in P} s_i

with the sums over sets of symmetric.py. Softmax cross-entropy (a = b = 1) and binary cross-entropy (a = 0, b = n) are
its two ends.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from manyhot import symmetric
from manyhot.checks import check_broadcast, check_finite, check_forms, check_values
from manyhot.decisions import top_k
from manyhot.losses.hyperparameters import LossModule, keep, kept
from manyhot.reduction import Reduction, reduce
from manyhot.symmetric import Impl, Size, log_partition, partition_gradient
from manyhot.targets import IndexTargets, check_listed, known_cells, known_rows, name_row, targets_of
from manyhot.tracing import values_readable


def subset_loss(
    logits: Tensor,
    targets: Any,
    *,
    min_labels: Size = 0,
    max_labels: Size | None = None,
    threshold: float | Tensor = 0.0,
    mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    impl: Impl = "auto",
) -> Tensor:
    r"""Negative log-likelihood of the label set among all sets of `min_labels` to `max_labels` labels.

    .. math::
        \ell = \log \sum_{j=a}^{b} Z_j(s) - \sum_{i\in P} s_i, \qquad
        Z_j(s) = \sum_{|S| = j} e^{\sum_{i \in S} s_i}

    Use it where it is known how many labels a row has: exactly k (the top k of a ranking), at most K, or at least one.
    It is a likelihood, so :class:`Subset` with the trained logits gives probabilities of sets, sizes and labels. Where
    sizes are free, :func:`manyhot.zlpr_loss` costs less and does better on rare labels.

    Args:
        logits: (..., labels), any floating dtype, raw scores. -inf takes a label out.
        targets: same shape, any dtype: 0/1, or soft values in [0, 1]; -1, -100 and NaN mean unknown. Or listed:
            :class:`manyhot.IndexTargets`, torch.sparse_csr, scipy.sparse.
        min_labels: a, 0 to labels; a number or integers that broadcast to the leading shape of logits.
        max_labels: b, min_labels to labels, the same; None for all labels. For Su's softmax over the sets of as many
            labels as the row has, pass the count of each row as both.
        threshold: subtracted from the logits; a number or a tensor that broadcasts to them. With min_labels =
            max_labels it cancels if it is the same for all labels of a row.
        mask: boolean, broadcastable to logits, True where the label is known. Unknown labels are left out of the row:
            the range is then that of its known labels.
        sample_weight: >= 0, one a row.
        reduction: `"mean"` over rows with a known label, `"sum"`, or `"none"` for one loss a row.
        impl: `"auto"`, `"eager"` or `"native"`, see :func:`manyhot.log_elementary_symmetric`.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the leading shape of logits for `reduction="none"`. +inf
        where a positive has the logit -inf, or too few labels are left.

    Raises:
        TypeError: logits that are not floating-point, sizes that are no integers, a mask that is not boolean.
        ValueError: shapes and options that do not fit and, on the CPU, values out of range and rows whose number of
            labels lies outside of min_labels to max_labels.
        RuntimeError: second derivatives through the kernel; `impl="eager"` has them.

    Reduces to:
        softmax cross-entropy for a = b = 1; softmax with a null class of logit 0 for a = 0, b = 1; the sum of binary
        cross-entropies for a = 0, b = labels, and given a set that is not empty for a = 1. Su's recursion with a
        repeatable null class is a = 0, b = K.

    Numerics:
        The gradient is the probability of a label to be in the set, less the target: in [-1, 1], with sum E|S| - k. No
        difference of large numbers is taken: the loss is log of a sum of positive terms plus positive terms. Linear in
        labels times max_labels; a = 0 or 1 with b = labels needs no sum over sizes.

    Example:
        >>> import torch, manyhot
        >>> logits, targets = torch.tensor([[2.0, -1.0, 3.0, -2.0]]), torch.tensor([[1, 0, 1, 0]])
        >>> manyhot.subset_loss(logits, targets, min_labels=1, max_labels=2)
        tensor(0.2484)

    References:
        Su, kexue.fm/archives/7359 section 2; ranges of sizes and the algorithm are ours.
    """
    targets = targets_of(targets, logits)
    check_forms(targets, logits, mask)
    labels = logits.shape[-1]
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if isinstance(threshold, Tensor):
        check_broadcast("threshold", threshold, logits)
        threshold = threshold.to(dtype)
    check_finite("threshold", threshold)
    if isinstance(targets, IndexTargets):
        if values_readable(targets.labels):
            check_listed(targets, labels)
        targets = targets.dense(labels)
    if values_readable(logits, targets, mask):
        check_values(targets, mask)
    known = known_cells(targets, mask)
    if known is not None and values_readable(known) and bool(known.all()):
        known = None  # targets of a dtype that could say so, and do not
    low, high = _sizes(min_labels, max_labels, logits.shape)
    point = targets.to(dtype)
    if known is not None:
        point = torch.where(known, point, 0)
    rows = known_rows(targets, mask)
    lows = symmetric.size_of_rows("min_labels", low, logits)
    highs = symmetric.size_of_rows("max_labels", high, logits)
    if values_readable(point, lows, highs):
        _check_sizes(point, lows, highs, rows)
    if not isinstance(threshold, int | float) or threshold != 0:
        logits = logits.to(dtype) - threshold
    loss = log_partition(logits, low, high, point=point, mask=known, impl=impl)
    return reduce(loss, known_rows=rows, sample_weight=sample_weight, reduction=reduction)


class SubsetLoss(LossModule):
    """Module form of :func:`subset_loss`, same options; tensors become buffers, an ``nn.Parameter`` threshold is
    learned.

    Example:
        >>> import torch, manyhot
        >>> loss = manyhot.SubsetLoss(min_labels=1, max_labels=2)
        >>> loss(torch.tensor([[2.0, -1.0, 3.0, -2.0]]), torch.tensor([[1, 0, 1, 0]]))
        tensor(0.2484)
    """

    def __init__(
        self,
        *,
        min_labels: Size = 0,
        max_labels: Size | None = None,
        threshold: float | Tensor = 0.0,
        reduction: Reduction = "mean",
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        keep(self, min_labels=min_labels, max_labels=max_labels, threshold=threshold, reduction=reduction, impl=impl)

    def forward(
        self, logits: Tensor, targets: Any, *, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch; see :func:`subset_loss`."""
        return subset_loss(logits, targets, mask=mask, sample_weight=sample_weight, **kept(self))


def _sizes(min_labels: Size, max_labels: Size | None, shape: torch.Size) -> tuple[Size, Size]:
    """Fill in what is not given, and refuse a range that is empty."""
    high = shape[-1] if max_labels is None else max_labels
    numbers = not isinstance(min_labels, Tensor) and not isinstance(high, Tensor)
    if numbers and not 0 <= min_labels <= high:
        raise ValueError(f"expected 0 <= min_labels <= max_labels; got min_labels={min_labels}, max_labels={high}.")
    # A maximum above the number of labels is that number.
    return min_labels, high if isinstance(high, Tensor) else min(high, shape[-1])


def _check_sizes(point: Tensor, low: Tensor, high: Tensor, rows: Tensor | None) -> None:
    """Check that the number of labels of each row lies in its range."""
    count = point.sum(-1)
    low, high = low.view(count.shape), high.view(count.shape)
    # Soft targets may miss a whole number by rounding.
    slack = 1e-4 * count.clamp(min=1)
    wrong = (count < low - slack) | (count > high + slack)
    if rows is not None:
        wrong &= rows
    if wrong.any():
        place = tuple(wrong.nonzero()[0].tolist())
        where = name_row(list(place)) if place else "the row"
        raise ValueError(
            f"expected {low[place]} to {high[place]} labels in each row (min_labels to max_labels); got "
            f"{count[place]:g} in {where}. Widen the range, or leave such rows out of the batch."
        )


class _Sets(constraints.Constraint):
    """0/1 vectors with a number of ones in a range."""

    is_discrete = True
    event_dim = 1

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.low, self.high = low, high

    def check(self, value: Tensor) -> Tensor:
        count = value.sum(-1)
        return ((value == 0) | (value == 1)).all(-1) & (count >= self.low) & (count <= self.high)


class Subset(Distribution):
    r"""Distribution over the label sets of `min_labels` to `max_labels` labels, in proportion to :math:`e^{\sum_S
    s_i}`.

    Independent labels with the probabilities sigmoid(s), given that their number lies in the range. In the style of
    ``torch.distributions``: batch shape are the leading axes of the logits, an event is a 0/1 vector of the labels.

    Args:
        logits: (..., labels), any floating dtype.
        min_labels: 0 to labels, a number or integers of the batch shape.
        max_labels: min_labels to labels, the same; None for all. The same number twice: sets of exactly k.
        validate_args: check arguments and values, as everywhere in torch.distributions.

    Numerics:
        Log-probabilities, probabilities of labels and entropy as :func:`subset_loss`; derivatives of any order through
        all of them. Samples are exact: sizes are drawn first, then divided over halves of the labels.

    Example:
        >>> import torch, manyhot
        >>> sets = manyhot.Subset(torch.tensor([2.0, -1.0, 3.0, -2.0]), min_labels=1, max_labels=2)
        >>> sets.log_prob(torch.tensor([1.0, 0.0, 1.0, 0.0]))
        tensor(-0.2484)
        >>> sets.inclusion_probabilities()
        tensor([0.8384, 0.0553, 0.9387, 0.0205])
        >>> sets.mode
        tensor([1., 0., 1., 0.])

    References:
        Su, kexue.fm/archives/7359 section 2 and 10373; conditional Bernoulli distributions, Chen and Liu (1997).
    """

    has_rsample = False

    def __init__(
        self,
        logits: Tensor,
        min_labels: Size = 0,
        max_labels: Size | None = None,
        validate_args: bool | None = None,
    ) -> None:
        check_forms(logits, logits)
        shape = logits.shape
        low, high = _sizes(min_labels, max_labels, shape)
        self.logits = logits
        self.min_labels = torch.as_tensor(low, device=logits.device).expand(shape[:-1])
        self.max_labels = torch.as_tensor(high, device=logits.device).expand(shape[:-1])
        self._range = low, high
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)
        if values_readable(self.min_labels, self.max_labels) and not bool((self.min_labels <= self.max_labels).all()):
            raise ValueError(
                "expected min_labels <= max_labels <= labels in each row; got a range that is empty once max_labels is "
                f"at most the number of labels, {shape[-1]}."
            )

    def __repr__(self) -> str:
        """Name the shape of the logits and the range."""
        low, high = self._range
        return f"Subset(logits: {self.logits.shape}, min_labels: {low}, max_labels: {high})"

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:  # pyright: ignore
        """Return nothing to check here; -inf is allowed, and takes a label out."""
        return {}

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore
        """Return the sets of min_labels to max_labels labels."""
        return _Sets(self.min_labels, self.max_labels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Subset":
        """Return the same distribution with a larger batch shape."""
        new: Any = self._get_checked_instance(Subset, _instance)
        batch_shape = torch.Size(batch_shape)
        new.logits = self.logits.expand(*batch_shape, -1)
        new.min_labels, new.max_labels = self.min_labels.expand(batch_shape), self.max_labels.expand(batch_shape)
        new._range = tuple(x.expand(batch_shape) if isinstance(x, Tensor) else x for x in self._range)
        Distribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the logarithm of the probability of sets, -inf outside of the support."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(self.logits.shape, value.shape)
        here = self.expand(shape[:-1])
        loss = log_partition(here.logits, *here._range, point=value.expand(shape))
        inside = here.support.check(value)
        return torch.where(inside, -loss, -math.inf)

    def inclusion_probabilities(self) -> Tensor:
        """Return the probability of each label to be in the set, shape of logits; their sum is the mean size."""
        return partition_gradient(self.logits, *self._range)

    @property
    def mean(self) -> Tensor:
        """Return :meth:`inclusion_probabilities`."""
        return self.inclusion_probabilities()

    @property
    def variance(self) -> Tensor:
        """Return the variance of each label."""
        probs = self.inclusion_probabilities()
        return probs * (1 - probs)

    @property
    def mode(self) -> Tensor:
        """Return the set with the largest probability, the labels with s > 0 filled up or cut to the range."""
        size = (self.logits > 0).sum(-1).maximum(self.min_labels).minimum(self.max_labels)
        return top_k(self.logits, size).to(self.logits.dtype)

    def size_probs(self) -> Tensor:
        """Return the probability of each size: (..., labels + 1), entry j for sets of j labels."""
        rows = symmetric.rows_of(self.logits, *self._range)
        return symmetric.size_probs(rows).view(*self.batch_shape, self.logits.shape[-1] + 1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw sets, exactly: 0/1, sample_shape + batch shape + (labels,)."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            rows = symmetric.rows_of(self.logits, *self._range)
            drawn = symmetric.sample(rows, shape.numel())
        return drawn.view(*shape, *self.logits.shape).to(self.logits.dtype)

    def entropy(self) -> Tensor:
        """Return the entropy in nats: log sum_j Z_j - sum_i pi_i s_i."""
        return log_partition(self.logits, *self._range, point=self.inclusion_probabilities())


@register_kl(Subset, Subset)
def _kl_subset_subset(p: Subset, q: Subset) -> Tensor:
    """E_p[log p - log q]; +inf where a set of p is none of q."""
    shape = torch.broadcast_shapes(p.logits.shape, q.logits.shape)[:-1]
    p, q = p.expand(shape), q.expand(shape)
    point = p.inclusion_probabilities()
    kl = log_partition(q.logits, *q._range, point=point) - log_partition(p.logits, *p._range, point=point)
    largest = p.max_labels.minimum((p.logits > -math.inf).sum(-1))
    inside = (p.min_labels >= q.min_labels) & (largest <= q.max_labels)
    return torch.where(inside, kl, math.inf)
