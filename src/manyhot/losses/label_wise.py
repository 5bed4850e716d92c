"""What every label-wise loss is: a batch written out cell by cell, a term for t and one for 1 - t, and a sum a row."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manyhot.batch import batch_of, dense
from manyhot.checks import check_weights
from manyhot.reduction import spread_over_rows
from manyhot.targets import known_cells
from manyhot.tracing import values_readable

Term = Callable[[Tensor], Tensor]


class Cells(NamedTuple):
    """A batch cell by cell, checked, of the type that is computed in; logit and target are 0 where nothing counts."""

    logits: Tensor
    targets: Tensor
    weight: Tensor | None  # 0 where a cell is unknown; None where all weigh 1
    known_rows: Tensor | None

    def sum(self, terms: Tensor) -> Tensor:
        """Add up the terms of a row, weighted."""
        return (terms if self.weight is None else terms * self.weight).sum(-1)


def cells(logits: Tensor, targets: Any, mask: Tensor | None, label_weight: Tensor | None) -> Cells:
    """Check a batch with targets of any format, and take unknown cells and those of weight 0 out of it."""
    batch = dense(batch_of(logits, targets, mask=mask, label_weight=label_weight))
    assert isinstance(batch.targets, Tensor)
    s, t, weight = logits.to(batch.dtype), batch.targets.to(batch.dtype), batch.label_weight
    counts = known_cells(batch.targets, mask)
    known_rows = None if counts is None else counts.any(-1)
    if counts is not None and values_readable(counts) and bool(counts.all()):
        counts = None
    if weight is not None:
        counts = weight > 0 if counts is None else counts & (weight > 0)
    if counts is not None:
        s, t = torch.where(counts, s, 0), torch.where(counts, t, 0)
        weight = torch.where(counts, 1.0 if weight is None else weight, 0).to(batch.dtype)
    return Cells(s, t, weight, known_rows)


def two_sided(
    batch: Cells,
    positive: Term,
    negative: Term,
    *,
    pos_weight: Tensor | float = 1.0,
    neg_weight: Tensor | float = 1.0,
) -> Tensor:
    """Compute t positive(s) + (1 - t) negative(s) of each cell, also where one of the two is infinite."""
    s, t = batch.logits, batch.targets
    pos_share, neg_share = pos_weight * t, neg_weight * (1 - t)
    # Infinite logits cost several passes over masks, and one sum tells that there are none. A sum that overflows costs
    # those passes and changes nothing.
    if values_readable(s) and math.isfinite(s.detach().sum().item()):
        return pos_share * positive(s) + neg_share * negative(s)
    return _share(pos_share, _to_the_ends(positive, s)) + _share(neg_share, _to_the_ends(negative, s))


def _share(share: Tensor, value: Tensor) -> Tensor:
    # A share of 0 takes nothing of an infinite value; a product alone would be NaN.
    return share * torch.where(share > 0, value, 0)


def _to_the_ends(term: Term, s: Tensor) -> Tensor:
    """Apply a term to logits that may be infinite: there it has its limit, and no gradient."""
    infinite = s.isinf()
    high = term(torch.full((), math.inf, dtype=s.dtype, device=s.device))
    low = term(torch.full((), -math.inf, dtype=s.dtype, device=s.device))
    return torch.where(infinite, torch.where(s > 0, high, low), term(torch.where(infinite, 0, s)))


def probability(s: Tensor) -> Tensor:
    """Compute the sigmoid, with a gradient p(1-p) that keeps its digits where p is next to 1."""
    return torch.where(s > 0, 1 - torch.sigmoid(-s), torch.sigmoid(s))


def axis_weights(
    logits: Tensor, label_weight: Tensor | None, sample_weight: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return the weights of the rows of the flattened batch and of its labels: for losses that couple rows."""
    labels, dtype = logits.shape[-1:], torch.float64 if logits.dtype == torch.float64 else torch.float32
    if label_weight is not None:
        if label_weight.shape != labels:
            raise ValueError(
                f"label_weight must have one weight a label, {tuple(labels)}, since the rows of a batch share it; "
                f"got {tuple(label_weight.shape)}."
            )
        label_weight = label_weight.to(dtype)
        check_weights("label_weight", label_weight)
    if sample_weight is not None:
        sample_weight = spread_over_rows(sample_weight.to(dtype), logits.shape[:-1]).reshape(-1)
    return sample_weight, label_weight
