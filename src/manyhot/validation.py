"""All checks of a batch, values included."""

from typing import Any

import torch
from torch import Tensor

from manyhot.checks import check_forms, check_values
from manyhot.span_scores import SpanScores, sizes
from manyhot.spans import SpanTargets, span_mask
from manyhot.targets import IndexTargets, first_cell, known_cells, name_row, targets_of


def validate(logits: Any, targets: Any, *, mask: Tensor | None = None) -> None:
    """Check a batch, values included: what the losses check by themselves only on the CPU and outside of torch.compile.

    Call it on the first batches of a run on a GPU; it waits for the device.

    Args:
        logits: (..., labels), floating dtype.
        targets: same shape, 0/1 or soft, -1, -100 or NaN where unknown; or listed or sparse. With
            :class:`manyhot.SpanTargets`, logits are the scores of :func:`manyhot.span_loss`.
        mask: boolean, broadcastable to logits, True where the label is known; of spans :func:`manyhot.span_mask`.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: shapes that differ, known targets outside [0, 1], spans beyond their row or of no type, NaN logits
            on known cells; names the row.

    Example:
        >>> import torch, manyhot
        >>> manyhot.validate(torch.zeros(2, 3), torch.tensor([[0, 1, 0], [0, 2, 0]]))
        Traceback (most recent call last):
        ...
        ValueError: targets must lie in [0, 1], or be -1, -100 or NaN where unknown; got 2 at row 1, label 1.
    """
    if isinstance(targets, SpanTargets):
        _validate_spans(logits, targets, mask)
        return
    targets = targets_of(targets, logits)
    check_forms(targets, logits, mask)
    if isinstance(targets, IndexTargets):
        targets = targets.dense(logits.shape[-1])
    check_values(targets, mask)
    nan = logits.isnan()
    known = known_cells(targets, mask)
    if known is not None:
        nan &= known
    if nan.any():
        raise ValueError(
            f"logits must not be NaN where a label is known; got NaN at {first_cell(nan)}. "
            "Look for a division by zero or a learning rate that is too high."
        )


def _validate_spans(scores: Tensor | SpanScores, targets: SpanTargets, mask: Tensor | None) -> None:
    rows, types, length = sizes(scores)
    targets.check_rows(rows)
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (rows, 1, length, length)):
        raise ValueError(
            f"mask must be boolean of shape ({rows}, 1, {length}, {length}), what manyhot.span_mask(lengths, {length}) "
            f"returns; got {mask.dtype} of shape {tuple(mask.shape)}."
        )
    targets.check(types, length, triangle=mask is None)
    if mask is None:
        mask = span_mask(torch.full((rows,), length, device=targets.device), length)
    row, _, first, last = targets.cells.unbind(-1)
    outside = (~mask.to(targets.device)[row, 0, first, last]).nonzero()
    if len(outside):
        r, _, i, j = targets.cells[outside[0, 0]].tolist()
        raise ValueError(
            f"targets: row {r} has a span ({i}, {j + 1}) that mask leaves out: it is beyond the tokens of the row, or "
            "wider than max_width."
        )
    if isinstance(scores, SpanScores):
        cells = mask.squeeze(1).to(scores.pair.device)
        of_start, of_end = (scores[1 + n].isnan() & cells.any(axis).unsqueeze(1) for n, axis in ((0, -1), (1, -2)))
        nan = (scores.pair.isnan() & cells).flatten(1).any(-1) | (of_start | of_end).flatten(1).any(-1)
    else:
        nan = (scores.isnan() & mask.to(scores.device)).flatten(1).any(-1)
    if nan.any():
        raise ValueError(
            f"scores must not be NaN where a cell is valid; got NaN in {name_row(nan.nonzero()[0].tolist())}. "
            "Look for a division by zero or a learning rate that is too high."
        )
