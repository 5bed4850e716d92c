"""A linear layer on its way into a loss: checked, its threshold in the bias, its positives in the order of labels."""

from typing import Any

import torch
from torch import Tensor

from manyhot.checks import check_broadcast, check_finite, check_scale
from manyhot.kernels import label_chunks
from manyhot.kernels.label_chunks import Layer, Update, chunk_size
from manyhot.losses.zlpr import prior_logits
from manyhot.parallel import LabelShard
from manyhot.targets import IndexTargets, check_listed, targets_of
from manyhot.tracing import transformed, values_readable


def checked(
    features: Tensor,
    weight: Tensor,
    targets: Any,
    bias: Tensor | None,
    threshold: float | Tensor,
    scale: float,
    margin: float,
    chunk: int | None,
    update: Update | None,
    shard: LabelShard | None,
) -> Layer:
    """Check all that one loss of a layer needs, and lay it out: a threshold is taken from the bias, or from rows."""
    if transformed():
        raise RuntimeError(
            "torch.func cannot look into a linear layer without its logits; take the loss of the logits, "
            "manyhot.zlpr_loss(features @ weight.T, targets)."
        )
    logits = _like_logits(features, weight)
    labels = logits.shape[-1]
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if bias is not None and bias.shape != (labels,):
        raise ValueError(f"bias must have one number a label, ({labels},); got {tuple(bias.shape)}.")
    check_scale(scale, margin)
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk, the labels taken at a time, must be 1 or more; got {chunk}.")
    if shard is not None and shard.stop - shard.start != labels:
        raise ValueError(
            f"this process has labels {shard.start} to {shard.stop - 1} of {shard.num_labels}, "
            f"{shard.stop - shard.start} rows of weight; got {labels}."
        )
    if update is not None:
        _check_updated(weight)
    bias = None if bias is None else bias.to(dtype)
    shift = None
    if isinstance(threshold, Tensor) or threshold != 0:
        bias, shift = _moved(logits, bias, threshold, dtype)
    rows = logits.shape[:-1].numel()
    size = chunk or chunk_size(rows, labels, weight.shape[1], features.device)
    return Layer(
        features=features.reshape(rows, features.shape[-1]),
        weight=weight,
        bias=bias,
        shift=shift,
        positives=_positives(targets, logits, shard, size, dtype),
        scale=scale,
        chunk=size,
        update=update,
        shard=shard,
        dtype=dtype,
        products=_of_products(logits),
    )


def _like_logits(features: Tensor, weight: Tensor) -> Tensor:
    """Return a tensor with the shape and type of the logits, and one number in memory."""
    for name, x, shape in (("features", features, "(..., in_features)"), ("weight", weight, "(labels, in_features)")):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            came = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{name} must be a floating-point tensor of shape {shape}; got {came}.")
    if weight.ndim != 2 or not len(weight) or features.ndim < 1 or features.shape[-1] != weight.shape[1]:
        raise ValueError(
            "features must have shape (..., in_features) and weight (labels, in_features), as torch.nn.Linear has it; "
            f"got {tuple(features.shape)} and {tuple(weight.shape)}."
        )
    one = torch.empty((), dtype=torch.promote_types(features.dtype, weight.dtype), device=features.device)
    return one.expand(*features.shape[:-1], len(weight))


def _of_products(logits: Tensor) -> torch.dtype:
    device = logits.device.type
    lowered = torch.is_autocast_enabled(device) and logits.dtype != torch.float64
    return torch.get_autocast_dtype(device) if lowered else logits.dtype


def _moved(
    logits: Tensor, bias: Tensor | None, threshold: float | Tensor, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """Take a threshold from the bias, if labels differ in it or all share one, or return one for each row."""
    check_finite("threshold", threshold)
    if not isinstance(threshold, Tensor):
        threshold = torch.full((), threshold, dtype=dtype, device=logits.device)
    check_broadcast("threshold", threshold, logits)
    threshold, labels = threshold.to(dtype), logits.shape[-1]
    if threshold.numel() == 1 or threshold.shape[:-1].numel() == 1:
        moved = threshold.reshape(-1).expand(labels)
        return -moved if bias is None else bias - moved, None
    if threshold.shape[-1] != 1 or labels == 1:
        raise ValueError(
            f"threshold must be a number, one per label ({labels},) or one per row (..., 1): one per cell is as large "
            f"as the logits, which this loss never holds; got {tuple(threshold.shape)}."
        )
    return bias, threshold.expand(*logits.shape[:-1], 1).reshape(-1)


def _positives(targets: Any, logits: Tensor, shard: LabelShard | None, chunk: int, dtype: torch.dtype) -> Any:
    """Check listed targets of any format, and sort those of this process."""
    if isinstance(targets, Tensor) and targets.layout == torch.strided:
        raise TypeError(
            "targets must be listed: dense ones are as large as the logits that this loss never holds. Use "
            "manyhot.IndexTargets, a torch.sparse_csr tensor or a scipy.sparse matrix; or manyhot.zlpr_loss."
        )
    num_labels = logits.shape[-1] if shard is None else shard.num_labels
    lead = logits.shape[:-1]
    targets = targets_of(targets, logits.new_empty(()).expand(*lead, num_labels))
    assert isinstance(targets, IndexTargets)
    if targets.shape != lead:
        raise ValueError(
            f"targets must list the labels of {tuple(lead)} rows, the leading shape of features; "
            f"got {tuple(targets.shape)}."
        )
    if values_readable(targets.labels):
        check_listed(targets, num_labels)
    own = slice(0, num_labels) if shard is None else slice(shard.start, shard.stop)
    return label_chunks.positives(targets, lead.numel(), own, chunk, dtype)


def lifted(bias: Tensor | None, share: float, prior: Any, features: Tensor, weight: Tensor) -> Tensor:
    """Add a share of the log-odds of a prior to the bias."""
    log_odds = prior_logits(prior, _like_logits(features, weight))
    if log_odds.ndim > 1:
        raise ValueError(f"prior must have one number a label, ({len(weight)},); got {tuple(log_odds.shape)}.")
    if bias is not None and bias.shape != (len(weight),):
        raise ValueError(f"bias must have one number a label, ({len(weight)},); got {tuple(bias.shape)}.")
    lifted = share * log_odds.expand(len(weight))
    return lifted if bias is None else bias + lifted


def _check_updated(weight: Tensor) -> None:
    if torch.is_grad_enabled() and not (weight.requires_grad and weight.is_leaf):
        raise ValueError("update changes weight in place, so weight must be a parameter that requires a gradient.")
    if weight.grad is not None:
        raise ValueError(
            "update takes steps inside of backward, and weight.grad holds a gradient of another loss: "
            "the two would not be one step. Set weight.grad = None, and leave weight out of the optimiser."
        )
