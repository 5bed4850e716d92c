"""Samples to batches, where listed targets are among them: what a DataLoader takes as its collate_fn."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import _utils

from manyhot.targets import IndexTargets


def collate(samples: list[Any]) -> Any:
    """Put samples together as ``torch.utils.data.default_collate`` does, and rows of listed targets into a batch.

    Args:
        samples: what a Dataset gives, tuples or dictionaries of tensors, numbers and one row of
            :class:`manyhot.IndexTargets` each, or rows that all have the same axes.

    Returns:
        The same structure, of batches.

    Raises:
        ValueError: rows of targets that have different axes.

    Example:
        >>> import torch, manyhot
        >>> from torch.utils.data import DataLoader, StackDataset
        >>> x, targets = torch.randn(4, 8), manyhot.IndexTargets([[0, 2], [], [1], [3]])
        >>> loader = DataLoader(StackDataset(x, targets), batch_size=2, collate_fn=manyhot.collate)
        >>> [(inputs.shape[0], listed.dense(5).int().tolist()) for inputs, listed in loader]
        [(2, [[1, 0, 1, 0, 0], [0, 0, 0, 0, 0]]), (2, [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]])]
    """
    kinds = {IndexTargets: _stacked, **_utils.collate.default_collate_fn_map}
    return _utils.collate.collate(samples, collate_fn_map=kinds)


def _stacked(rows: list[IndexTargets], *, collate_fn_map: Any = None) -> IndexTargets:
    """Stack listed targets along a new first axis."""
    shape = rows[0].shape
    if any(row.shape != shape for row in rows):
        raise ValueError(
            "rows of a batch must have the same axes; "
            f"got {', '.join(str(tuple(s)) for s in dict.fromkeys(row.shape for row in rows))}."
        )
    soft = any(row.soft is not None for row in rows)
    shares = [_shares(row) for row in rows] if soft else []
    if not shape:
        offsets = torch.tensor([0, *(len(row.labels) for row in rows)]).cumsum(0).to(rows[0].device)
        return IndexTargets(torch.cat([row.labels for row in rows]), offsets, soft=torch.cat(shares) if soft else None)
    padded = [_padded(row, row.labels, -1) for row in rows]
    width = max(x.shape[-1] for x in padded)
    labels = torch.stack([_wide(x, width, -1) for x in padded])
    if not soft:
        return IndexTargets(labels)
    filled = [_padded(row, share, 0) for row, share in zip(rows, shares, strict=True)]
    return IndexTargets(labels, soft=torch.stack([_wide(x, width, 0) for x in filled]))


def _shares(row: IndexTargets) -> Tensor:
    return torch.ones(row.labels.shape, device=row.device) if row.soft is None else row.soft


def _padded(row: IndexTargets, values: Tensor, fill: int) -> Tensor:
    """Write what stands beside the ids of rows with offsets into rows of one width."""
    if row.offsets is None:
        return values
    parts = values.split(row.offsets.diff().tolist())
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=fill)


def _wide(values: Tensor, width: int, fill: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, width - values.shape[-1]), value=fill)
