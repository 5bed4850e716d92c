"""A last linear layer and its loss in one, without the logits: labels in chunks, forward and backward.

    e = scale (x W^T + b)      a chunk of labels at a time, in both passes
    forward    keeps of each row, on either side, the largest e and the sum of exponentials relative to it
    backward   makes e again and from it the gradient of the chunk's logits, G: dX += G W and dW = G^T x

Logits and their gradient, rows x labels each, are never held. Every loss that is one line in (neg, pos) comes this way,
and binary cross-entropy, whose sum over labels needs no second pass.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from manyhot.checks import check_finite, check_scale
from manyhot.kernels import label_chunks
from manyhot.kernels.label_chunks import Layer, Update, chunk_size
from manyhot.linear_layer import checked, lifted
from manyhot.losses.hyperparameters import LossModule, keep, kept
from manyhot.losses.row_wise import Link
from manyhot.losses.zlpr import PAIRWISE, SINGLE_LOG, ZLPR, kept_prior
from manyhot.parallel import LabelShard
from manyhot.reduction import Reduction, reduce, row_weights


# torch.compile would trace the loop over chunks; the call stays one that it does not look into. This form of
# torch.compiler.disable loads the compiler, which takes two seconds, at the first call and not at import.
@_disable_dynamo
def linear_zlpr_loss(
    features: Tensor,
    weight: Tensor,
    targets: Any,
    *,
    bias: Tensor | None = None,
    threshold: float | Tensor = 0.0,
    scale: float = 1.0,
    margin: float = 0.0,
    prior: Any = None,
    tau: float = 1.0,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    chunk: int | None = None,
    update: Update | None = None,
    shard: LabelShard | None = None,
) -> Tensor:
    r"""ZLPR of a linear layer, ``zlpr_loss(features @ weight.T + bias, targets)``, without its logits.

    .. math::
        \ell = \log\Big(1 + \sum_{i\in N} e^{s_i}\Big) + \log\Big(1 + \sum_{j\in P} e^{-s_j}\Big),
        \qquad s = Wx + b

    Use it where rows x labels is what fills the memory: labels are taken in chunks, backward computes their logits
    again, and memory beside the gradients of weight and features is that of a chunk. Value and gradients are those of
    :func:`manyhot.zlpr_loss` to rounding. The logits are made twice: where they fit, the kernel of the plain loss is
    the faster one.

    With `update` the gradient of the weight is not stored either: each chunk of it goes to a step of the optimiser as
    soon as it is known, inside ``backward()``. Then the weight needs no memory but its own. Gradient accumulation,
    clipping by the norm of all gradients and GradScaler need the gradients of a whole step, which nobody has: a loss
    that is multiplied before ``backward()`` is refused.

    Args:
        features: (..., in_features), the input of the last layer, any floating dtype.
        weight: (labels, in_features), as that of ``torch.nn.Linear``.
        targets: positives alone: :class:`manyhot.IndexTargets`, torch.sparse_csr, scipy.sparse; soft values allowed.
        bias: (labels,).
        threshold: the logit above which a label is predicted; a number, (labels,) or (..., 1). May be learned.
        scale: > 0, sharpness.
        margin: >= 0, added on both sides.
        prior: (labels,), frequency of each label in the training rows, inside (0, 1): :func:`manyhot.label_prior`.
        tau: how much of the prior is used.
        sample_weight: >= 0, one a row.
        reduction: `"mean"` over rows, `"sum"`, or `"none"` for one loss a row.
        chunk: labels at a time. None: as many as make 2 MB of logits on the CPU, and a share of free memory on CUDA.
        update: called in backward as ``update(weight[labels], gradient, labels)`` with a slice of labels; it changes
            the first in place: :class:`manyhot.SGDUpdate`, :class:`manyhot.AdafactorUpdate`.
        shard: this process has a slice of the labels: :class:`manyhot.parallel.LabelShard`. Weight, bias, prior and
            threshold are those of the slice, targets those of all labels.

    Returns:
        float32 (float64 for float64 inputs): a scalar, or the leading shape of features for `reduction="none"`.

    Raises:
        TypeError: inputs that are not floating-point, dense targets.
        ValueError: shapes that do not fit and options or, on the CPU, values out of range.
        RuntimeError: second derivatives and torch.func; in backward with `update`, a loss that was multiplied.

    Reduces to:
        :func:`manyhot.zlpr_loss` of the logits.

    Numerics:
        Products run in the type of the inputs, or of autocast; sums over labels in float64 where the device has it.
        The gradient is as exact as that of the plain loss. torch.compile leaves the call as it is.

    Example:
        >>> import torch, manyhot
        >>> x, W = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, -1.0], [0.0, 1.0], [2.0, -1.0], [-2.0, 0.0]])
        >>> manyhot.linear_zlpr_loss(x, W, manyhot.IndexTargets([[0, 2]]))
        tensor(0.5775)
        >>> manyhot.zlpr_loss(x @ W.T, torch.tensor([[1, 0, 1, 0]]))
        tensor(0.5775)

    References:
        Chunks and the step inside of backward: Cut Your Losses, arXiv 2411.09009; Renee, MLSys 2023; ELMO,
        arXiv 2510.11168.
    """
    check_finite("tau", tau)
    if prior is not None:
        check_scale(scale, margin)
        bias = lifted(bias, tau / (2 * scale), prior, features, weight)
    layer = checked(features, weight, targets, bias, threshold, scale, margin, chunk, update, shard)
    return _row_loss(ZLPR, layer, features.shape[:-1], margin, sample_weight, reduction)


@_disable_dynamo
def linear_pairwise_loss(
    features: Tensor,
    weight: Tensor,
    targets: Any,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    margin: float = 0.0,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    chunk: int | None = None,
    update: Update | None = None,
    shard: LabelShard | None = None,
) -> Tensor:
    """:func:`manyhot.pairwise_loss` of a linear layer without its logits; options as :func:`linear_zlpr_loss`.

    Example:
        >>> import torch, manyhot
        >>> x, W = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, -1.0], [0.0, 1.0], [2.0, -1.0], [-2.0, 0.0]])
        >>> manyhot.linear_pairwise_loss(x, W, manyhot.IndexTargets([[0, 2]]))
        tensor(0.0891)
    """
    layer = checked(features, weight, targets, bias, 0.0, scale, margin, chunk, update, shard)
    return _row_loss(PAIRWISE, layer, features.shape[:-1], margin, sample_weight, reduction)


@_disable_dynamo
def linear_single_log_loss(
    features: Tensor,
    weight: Tensor,
    targets: Any,
    *,
    bias: Tensor | None = None,
    threshold: float | Tensor = 0.0,
    scale: float = 1.0,
    margin: float = 0.0,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    chunk: int | None = None,
    update: Update | None = None,
    shard: LabelShard | None = None,
) -> Tensor:
    """:func:`manyhot.single_log_loss` of a linear layer without its logits; options as :func:`linear_zlpr_loss`.

    Example:
        >>> import torch, manyhot
        >>> x, W = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, -1.0], [0.0, 1.0], [2.0, -1.0], [-2.0, 0.0]])
        >>> manyhot.linear_single_log_loss(x, W, manyhot.IndexTargets([[0, 2]]))
        tensor(0.5237)
    """
    layer = checked(features, weight, targets, bias, threshold, scale, margin, chunk, update, shard)
    return _row_loss(SINGLE_LOG, layer, features.shape[:-1], margin, sample_weight, reduction)


@_disable_dynamo
def linear_bce_loss(
    features: Tensor,
    weight: Tensor,
    targets: Any,
    *,
    bias: Tensor | None = None,
    prior: Any = None,
    tau: float = 1.0,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    chunk: int | None = None,
    update: Update | None = None,
    shard: LabelShard | None = None,
) -> Tensor:
    """:func:`manyhot.bce_loss` of a linear layer without its logits; options as :func:`linear_zlpr_loss`.

    The gradient of a label needs no other label, so that `"mean"` and `"sum"` make it in the forward pass, and logits
    are computed once. With `update`, and for `"none"`, they are computed again.

    Example:
        >>> import torch, manyhot
        >>> x, W = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, -1.0], [0.0, 1.0]])
        >>> manyhot.linear_bce_loss(x, W, manyhot.IndexTargets([[0, 1]]))
        tensor(1.4402)
    """
    check_finite("tau", tau)
    if prior is not None:
        bias = lifted(bias, tau, prior, features, weight)
    layer = checked(features, weight, targets, bias, 0.0, 1.0, 0.0, chunk, update, shard)
    lead, differentiable = features.shape[:-1], sample_weight is not None and sample_weight.requires_grad
    if update is not None or reduction == "none" or differentiable:
        loss = label_chunks.bce(layer, None).view(lead)
        return _alone(reduce(loss, sample_weight=sample_weight, reduction=reduction), layer, reduction)
    zeros = torch.zeros(lead, dtype=layer.dtype, device=features.device)
    return label_chunks.bce(layer, (zeros + row_weights(zeros, None, sample_weight, reduction)).reshape(-1))


class LinearZLPRLoss(LossModule):
    """A last layer with its loss, :func:`linear_zlpr_loss`: holds weight and bias, takes features and targets.

    Args:
        in_features: columns of the input.
        num_labels: labels of all processes together.
        bias: whether there is one.
        label_shard: (rank, size): this process holds its slice of the labels, of `size` slices. Prior and threshold
            are given for all labels, and their slice is kept.
        group: of torch.distributed, for label_shard; None is all processes.
        update: a step on a chunk of the weight inside of backward; the weight is then trained without an optimiser,
            and the bias, as all else, with one.
        device: of weight and bias.
        dtype: of weight and bias.

    All other options are those of :func:`linear_zlpr_loss`.

    Example:
        >>> import torch, manyhot
        >>> layer = manyhot.LinearZLPRLoss(16, 100_000)
        >>> features = torch.randn(2, 16)
        >>> layer(features, manyhot.IndexTargets([[3, 99_999], []])).shape
        torch.Size([])
        >>> logits, labels = layer.top_k(features, 5)
        >>> labels.shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        in_features: int,
        num_labels: int,
        *,
        bias: bool = True,
        threshold: float | Tensor = 0.0,
        scale: float = 1.0,
        margin: float = 0.0,
        prior: Any = None,
        tau: float = 1.0,
        reduction: Reduction = "mean",
        chunk: int | None = None,
        update: Update | None = None,
        label_shard: tuple[int, int] | None = None,
        group: Any = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(in_features, num_labels) < 1:
            raise ValueError(f"in_features and num_labels must be 1 or more; got {in_features} and {num_labels}.")
        self.in_features, self.num_labels = in_features, num_labels
        shard = None if label_shard is None else LabelShard(num_labels, *label_shard, group)
        own = slice(0, num_labels) if shard is None else slice(shard.start, shard.stop)
        self.weight = nn.Parameter(torch.empty(own.stop - own.start, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(len(self.weight), device=device, dtype=dtype)) if bias else None
        nn.init.uniform_(self.weight, -(in_features**-0.5), in_features**-0.5)
        keep(
            self,
            threshold=_slice_of(threshold, own, num_labels),
            scale=scale,
            margin=margin,
            prior=kept_prior(_slice_of(prior, own, num_labels)),
            tau=tau,
            reduction=reduction,
            chunk=chunk,
            update=update,
            shard=shard,
        )

    def forward(self, features: Tensor, targets: Any, *, sample_weight: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch."""
        options = kept(self) | {"bias": self.bias, "sample_weight": sample_weight}
        return linear_zlpr_loss(features, self.weight, targets, **options)

    def top_k(self, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the k largest logits of each row and their labels, (..., k) each, largest first, in chunks of labels.

        With label_shard: of the labels of this process, whose ids are those of all. Of equal logits the lower id
        comes first, where k is not cut among them.

        Raises:
            ValueError: k below 1, or above the labels there are.
        """
        if not 1 <= k <= len(self.weight):
            raise ValueError(f"k must lie in 1 to the {len(self.weight)} labels of this layer; got {k}.")
        with torch.no_grad():
            values, labels = self._top_k(features.reshape(-1, features.shape[-1]), k)
        shard = kept(self)["shard"]
        labels = labels if shard is None else labels + shard.start
        return values.view(*features.shape[:-1], k), labels.view(*features.shape[:-1], k)

    def _top_k(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        size = max(k, chunk_size(len(rows), len(self.weight), self.in_features, rows.device))
        values = rows.new_empty(len(rows), 0)
        labels = torch.empty(len(rows), 0, dtype=torch.long, device=rows.device)
        for start in range(0, len(self.weight), size):
            part = slice(start, min(start + size, len(self.weight)))
            logits = F.linear(rows, self.weight[part], None if self.bias is None else self.bias[part])
            best, ids = logits.topk(min(k, logits.shape[1]), dim=-1)
            values, labels = torch.cat((values.to(best.dtype), best), 1), torch.cat((labels, ids + start), 1)
            labels, order = labels.sort(dim=-1)
            values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
            values, labels = values[:, :k], labels.gather(1, order)[:, :k]
        return values, labels

    def extra_repr(self) -> str:
        """Show the sizes, and the options that differ from their defaults."""
        sizes = f"in_features={self.in_features}, num_labels={self.num_labels}, bias={self.bias is not None}"
        return ", ".join(filter(None, (sizes, super().extra_repr())))


def _slice_of(option: Any, own: slice, num_labels: int) -> Any:
    """Take the labels of this process from what has a number for each of all."""
    if not hasattr(option, "shape") or own == slice(0, num_labels) or tuple(option.shape) != (num_labels,):
        return option
    return nn.Parameter(option.detach()[own]) if isinstance(option, nn.Parameter) else option[own]


# --- losses ----------------------------------------------------------------------------------------------------------


def _row_loss(
    link: Link, layer: Layer, lead: torch.Size, margin: float, sample_weight: Tensor | None, reduction: Reduction
) -> Tensor:
    neg, pos = label_chunks.sums(layer)
    # The margin is one constant for all terms of a sum.
    loss = link.formula(neg + layer.scale * margin, pos + layer.scale * margin)
    return _alone(reduce(loss.view(lead), sample_weight=sample_weight, reduction=reduction), layer, reduction)


# --- steps inside of backward ----------------------------------------------------------------------------------------


def _alone(loss: Tensor, layer: Layer, reduction: Reduction) -> Tensor:
    """Have a loss whose backward takes steps refuse to be multiplied before."""
    if layer.update is None:
        return loss
    if reduction == "none":
        raise ValueError('update takes a step for the whole batch: reduction must be "mean" or "sum"; got "none".')
    return _Alone.apply(loss)


class _Alone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        if outer[0].item() != 1:
            raise RuntimeError(
                f"update takes its step inside of backward, and the loss was multiplied by {outer[0].item():g} before: "
                "gradient accumulation, GradScaler and clipping need the gradients of a whole step. Call backward() on "
                "the loss as it is, or leave update out."
            )
        return outer[0]
