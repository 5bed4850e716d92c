"""A batch as rows by labels: what every kernel reads."""

from typing import NamedTuple

import torch
from torch import Tensor

from manyhot.batch import Batch
from manyhot.targets import IndexTargets


class Layout(NamedTuple):
    """Two axes each, the last with stride 1, or 0 where a value serves all labels; dense targets or listed ones.

    A row of the mask may serve several consecutive rows: :func:`mask_every`.
    """

    logits: Tensor
    targets: Tensor | None
    labels: Tensor | None
    offsets: Tensor | None
    soft: Tensor | None
    mask: Tensor | None
    threshold: Tensor | None
    label_weight: Tensor | None


def layout(batch: Batch) -> Layout:
    """Lay a batch out, by views where that is possible."""
    logits, targets, threshold, _, _, mask, label_weight, dtype, _ = batch
    shape = logits.shape
    dense = labels = offsets = soft = None
    if isinstance(targets, IndexTargets):
        labels, offsets, soft = targets.labels.contiguous(), targets.offsets, targets.soft
        offsets = None if offsets is None else offsets.contiguous()
        soft = None if soft is None else soft.to(dtype).contiguous()
    else:
        dense = _rows(targets)
    if mask is not None:
        mask = _shared_rows(mask, shape)
    if isinstance(threshold, Tensor):
        threshold = _grid(threshold, shape)
    elif threshold == 0:
        threshold = None
    else:
        threshold = _grid(torch.full((), threshold, dtype=dtype), shape)
    if label_weight is not None:
        label_weight = _grid(label_weight, shape)
    return Layout(_rows(logits), dense, labels, offsets, soft, mask, threshold, label_weight)


def _rows(tensor: Tensor) -> Tensor:
    """Return (rows, labels) with stride 1 along the labels, a view where that is possible."""
    if tensor.ndim != 2:
        tensor = tensor.reshape(-1, tensor.shape[-1])
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()


def mask_every(rows: int, mask: Tensor) -> int:
    """Say how many consecutive rows share a row of the mask of a layout."""
    return rows // max(len(mask), 1) or 1


def _shared_rows(mask: Tensor, shape: torch.Size) -> Tensor:
    """Broadcast a mask as :func:`_grid` does, without the last leading axes along which it does not move.

    Of scores of spans, (rows, types, length^2), the mask is (rows, 1, length^2): copied for every type it would take
    a quarter of the scores.
    """
    lead = [1] * (len(shape) - mask.ndim) + list(mask.shape[:-1])
    moving = max((axis + 1 for axis, size in enumerate(lead) if size != 1), default=0)
    if moving in (0, len(lead)):
        return _grid(mask, shape)
    mask = mask.reshape(*lead[:moving], mask.shape[-1])
    return _grid(mask, torch.Size((*shape[:moving], shape[-1])))


def _grid(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Broadcast to (rows, labels) by strides of 0; only what moves along some of several leading axes is copied."""
    rows, labels = shape[:-1].numel(), shape[-1]
    last = tensor.shape[-1] if tensor.ndim else 1
    if tensor.numel() == last:
        tensor = tensor.reshape(1, last)
    elif tensor.ndim != 2 or len(shape) != 2:
        tensor = tensor.expand(*shape[:-1], last).reshape(-1, last)
    return (tensor if last == 1 or tensor.stride(1) == 1 else tensor.contiguous()).expand(rows, labels)


def differentiated(batch: Batch) -> bool:
    """Say whether a gradient of the batch is wanted."""
    threshold = batch.threshold
    wanted = batch.logits.requires_grad or (isinstance(threshold, Tensor) and threshold.requires_grad)
    return wanted and torch.is_grad_enabled()


def refuse_second_derivatives() -> None:
    """Raise in a backward pass that is itself to be differentiated: it runs with gradients enabled."""
    if torch.is_grad_enabled():
        raise RuntimeError('a kernel has first derivatives only; use impl="eager" with create_graph=True.')
