"""What losses on one class a row share: class ids checked, unknown rows taken out, cross-entropy."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manyhot.checks import check_logits
from manyhot.logsumexp import logsumexp
from manyhot.losses.zlpr import PAIRWISE
from manyhot.targets import UNKNOWN, name_row
from manyhot.tracing import values_readable


class OneClass(NamedTuple):
    """A batch with one class a row, checked, of the type that is computed in; logits are 0 where a row is unknown."""

    logits: Tensor  # (..., classes)
    classes: Tensor  # (..., 1), ready for gather
    known_rows: Tensor


def one_class(logits: Tensor, targets: Any, mask: Tensor | None) -> OneClass:
    """Check logits, class ids and the mask of rows.

    Raises:
        TypeError: logits that are not floating-point, ids that are no integers, a mask that is not boolean.
        ValueError: shapes that do not fit and, where values can be read, ids that are no class.
    """
    check_logits(logits, "class")
    if (
        not isinstance(targets, Tensor)
        or targets.is_floating_point()
        or targets.is_complex()
        or targets.dtype == torch.bool
    ):
        came = f"a tensor of {targets.dtype}" if isinstance(targets, Tensor) else type(targets).__name__
        raise TypeError(
            f"targets must be class ids, a tensor of integers; got {came}. Many-hot targets: targets.argmax(-1)."
        )
    shape = logits.shape
    if targets.shape != shape[:-1]:
        raise ValueError(
            "logits must have shape (..., classes) and targets, one class id a row, their leading shape; "
            f"got {tuple(shape)} and {tuple(targets.shape)}."
        )
    ids, num_classes = targets.long(), shape[-1]
    known = (ids != UNKNOWN[0]) & (ids != UNKNOWN[1])
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError(
                f"mask must be boolean, True where a row's class is known; got {mask.dtype}. Use mask.bool()."
            )
        try:
            known = known & mask.expand(ids.shape)
        except RuntimeError:
            raise ValueError(
                f"mask must broadcast to one value a row, {tuple(ids.shape)}; got {tuple(mask.shape)}."
            ) from None
    if values_readable(ids, known):
        wrong = known & ((ids < 0) | (ids >= num_classes))
        if wrong.any():
            place = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"class ids must lie in 0 to {num_classes - 1}, or be -1 or -100 where unknown; "
                f"got {ids[tuple(place)].item()}{f' in {name_row(place)}' if place else ''}."
            )
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    known_cells = known.unsqueeze(-1)
    return OneClass(
        torch.where(known_cells, logits.to(dtype), 0), torch.where(known_cells, ids.unsqueeze(-1), 0), known
    )


def cross_entropy(logits: Tensor, classes: Tensor, offset: Tensor) -> Tensor:
    """Compute softmax cross-entropy of logits + offset, a row each: the pairwise line with one positive.

    Differences of logits come first, so that an offset keeps its digits beside large ones.
    """
    target = logits.gather(-1, classes)
    base = torch.where(target.isfinite(), target, 0).detach()
    offset = offset.expand(logits.shape)
    others = (logits - base) + (offset - offset.gather(-1, classes))
    return PAIRWISE.formula(logsumexp(others.scatter(-1, classes, -math.inf)), (base - target).squeeze(-1))
