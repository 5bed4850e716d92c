"""The signed log-sum-exp in blocks of rows that stay in the cache, with PyTorch alone: for machines without a compiler.

The few positives of 0/1 targets are taken out by index, so that a block costs one exp a label and no temporary tensor
leaves the cache. Soft or weighted labels go through the eager formula, a block at a time.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from manyhot.batch import Batch, checked, exponents
from manyhot.kernels.layout import Layout, differentiated, layout, mask_every, refuse_second_derivatives
from manyhot.targets import IndexTargets, known_cells

# Half a megabyte of float32: it and a copy fit the second-level cache of one core.
BLOCK = 2**17


def sums(batch: Batch) -> tuple[Tensor, Tensor]:
    """Compute neg and pos."""
    batch = checked(batch)
    if differentiated(batch):
        return _Sums.apply(batch.logits, batch.threshold, batch)  # pyright: ignore
    return _forward(batch, layout(batch))


def _forward(batch: Batch, rows: Layout) -> tuple[Tensor, Tensor]:
    neg, pos = (torch.empty(len(rows.logits), dtype=batch.dtype) for _ in range(2))
    for part, block in _blocks(batch, rows):
        shift = block.scale * block.margin
        if (hard := _hard(block)) is not None:
            x, row, _, p = hard
            neg[part], pos[part] = _logsumexp(x) + shift, _logsumexp_of_rows(p, row, len(x)) + shift
        elif (near := _near(block)) is not None:
            e, t = near
            neg[part], pos[part] = ((1 - t) * e).sum(-1).log_() + shift, (t / e).sum(-1).log_() + shift
        else:
            neg[part], pos[part] = (_logsumexp(x) for x in exponents(block))
    lead = batch.logits.shape[:-1]
    return neg.reshape(lead), pos.reshape(lead)


def _gradient(batch: Batch, rows: Layout, neg: Tensor, pos: Tensor, by_neg: Tensor, by_pos: Tensor) -> Tensor:
    gradient = torch.empty(rows.logits.shape, dtype=batch.dtype)
    for part, block in _blocks(batch, rows):
        out = gradient[part]
        # Infinite and empty sides have no gradient; from +inf all their exponentials are 0, but that of +inf itself.
        sides = [
            (torch.where(value.isinf(), math.inf, value), torch.where(value.isinf(), 0, by) * block.scale)
            for value, by in ((neg[part], by_neg[part]), (pos[part], by_pos[part]))
        ]
        (neg_from, to_neg), (pos_from, to_pos) = sides
        shift = block.scale * block.margin
        if (hard := _hard(block)) is not None:
            x, row, flat, p = hard
            out.copy_(_slope(x, (neg_from - shift).unsqueeze(-1), to_neg.unsqueeze(-1)))
            out.view(-1)[flat] = -_slope(p, pos_from[row] - shift, to_pos[row])
        elif (near := _near(block)) is not None:
            e, t = near
            factors = (by * (shift - top).exp() for by, top in ((to_neg, neg_from), (to_pos, pos_from)))
            to_neg, to_pos = (x.unsqueeze(-1) for x in factors)
            torch.mul((1 - t).mul_(e), to_neg, out=out).sub_((t / e).mul_(to_pos))
        else:
            neg_terms, pos_terms = exponents(block)
            out.copy_(_slope(neg_terms, neg_from.unsqueeze(-1), to_neg.unsqueeze(-1)))
            out -= _slope(pos_terms, pos_from.unsqueeze(-1), to_pos.unsqueeze(-1))
    return gradient


def _blocks(batch: Batch, rows: Layout) -> Iterator[tuple[slice, Batch]]:
    """Cut a batch into batches of consecutive rows."""
    count, labels = rows.logits.shape
    step = max(1, BLOCK // labels)
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        threshold, label_weight = (None if x is None else x[part] for x in (rows.threshold, rows.label_weight))
        mask = rows.mask
        if mask is not None:
            every = mask_every(count, mask)
            mask = mask[part] if every == 1 else mask[torch.arange(part.start, part.stop) // every]
        yield (
            part,
            batch._replace(
                logits=rows.logits[part],
                targets=_listed(rows, part) if rows.targets is None else rows.targets[part],
                threshold=0.0 if threshold is None else threshold,
                mask=mask,
                label_weight=label_weight,
            ),
        )


def _listed(rows: Layout, part: slice) -> IndexTargets:
    labels, offsets, soft = rows.labels, rows.offsets, rows.soft
    assert labels is not None
    if offsets is None:
        shape = (len(rows.logits), labels.shape[-1])
        return IndexTargets(labels.view(shape)[part], soft=None if soft is None else soft.view(shape)[part])
    ends = offsets[part.start : part.stop + 1]
    ids = slice(int(ends[0]), int(ends[-1]))
    return IndexTargets(labels[ids], ends - ends[0], soft=None if soft is None else soft[ids])


def _hard(block: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Split 0/1 labels: exponents of the negatives (rows, labels), then row, cell and exponent of each positive.

    None where labels are soft or weighted.
    """
    targets, labels = block.targets, block.logits.shape[-1]
    if block.label_weight is not None:
        return None
    known = block.mask
    if isinstance(targets, IndexTargets):
        if targets.soft is not None:
            return None
        flat = _cells(targets, labels)
    else:
        one = targets if targets.dtype == torch.bool else targets == 1
        if targets.dtype.is_signed and not bool((one | (targets == 0)).all()):
            known = known_cells(targets, known)
            assert known is not None
            if not bool((one | (targets == 0) | ~known).all()):
                return None
        flat = one.reshape(-1).nonzero().squeeze(-1)
    x = _exponents_of_ones(block)
    if known is not None:
        x.masked_fill_(~known, -math.inf)
        flat = flat[known.expand(x.shape).reshape(-1)[flat]]
    cells = x.view(-1)
    p = -cells[flat]
    cells[flat] = -math.inf
    return x, flat // labels, flat, p


def _near(block: Batch) -> tuple[Tensor, Tensor] | None:
    """Return e^x and the soft targets where sums need no reference: all known, no exponent or target near the ends."""
    targets = block.targets
    if block.label_weight is not None or block.mask is not None or isinstance(targets, IndexTargets):
        return None
    t = targets.to(block.dtype)
    smallest = torch.where(t > 0, t, 1).amin()
    x = _exponents_of_ones(block)
    # Half of what exp can hold, the other half is for the targets and for what the gradient is multiplied with. A NaN
    # fails every comparison.
    far = 40 if block.dtype == torch.float32 else 300
    fits = (x.amax() <= far) & (x.amin() >= -far) & (smallest >= 2.0**-32) & (t.amax() <= 1) & (t.amin() >= 0)
    return (x.exp_(), t) if bool(fits) else None


def _exponents_of_ones(block: Batch) -> Tensor:
    """Return scale (s - threshold), a new tensor."""
    x = block.logits.to(block.dtype, copy=True).contiguous()
    if isinstance(block.threshold, Tensor):
        x -= block.threshold
    return x if block.scale == 1 else x.mul_(block.scale)


def _cells(targets: IndexTargets, labels: int) -> Tensor:
    """Return the cell of each listed label, once."""
    ids = targets.labels
    if targets.offsets is None:
        row = torch.arange(len(ids)).unsqueeze(-1).expand(ids.shape)
        row, ids = row[ids >= 0], ids[ids >= 0]
    else:
        row = torch.repeat_interleave(targets.offsets.diff())
        row, ids = row[ids >= 0], ids[ids >= 0]
    return torch.unique(row * labels + ids)


def _logsumexp(x: Tensor) -> Tensor:
    peak = x.amax(-1, keepdim=True)
    peak = torch.where(peak.isfinite(), peak, 0)
    return (x - peak).exp_().sum(-1).log_() + peak.squeeze(-1)


def _logsumexp_of_rows(terms: Tensor, row: Tensor, rows: int) -> Tensor:
    """Reduce terms that belong to rows, in any number."""
    peak = terms.new_full((rows,), -math.inf).scatter_reduce_(0, row, terms, "amax")
    peak = torch.where(peak.isfinite(), peak, 0)
    total = terms.new_zeros(rows).index_add_(0, row, (terms - peak[row]).exp_())
    return total.log_() + peak


def _slope(terms: Tensor, top: Tensor, factor: Tensor) -> Tensor:
    """Return factor e^(terms - top): 0 from a top of +inf, and for an absent label also beside a NaN."""
    difference = terms - top
    if bool((top == math.inf).any()):
        difference = torch.where(top == math.inf, -math.inf, difference)
    slope = difference.exp_().mul_(factor)
    return torch.where(terms == -math.inf, 0, slope) if bool((top * factor).isnan().any()) else slope


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, threshold: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        rows = layout(batch)
        neg, pos = _forward(batch, rows)
        ctx.save_for_backward(neg, pos, *rows)
        ctx.shapes = logits.shape, threshold.shape if isinstance(threshold, Tensor) else None, logits.dtype
        # Options without the tensors, which torch keeps and frees.
        ctx.options = batch._replace(logits=None, targets=None, threshold=None, mask=None, label_weight=None)
        return neg, pos

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        refuse_second_derivatives()
        neg, pos, *rows = ctx.saved_tensors
        flat = (x.reshape(-1) for x in (neg, pos, *outer))
        gradient = _gradient(ctx.options, Layout(*rows), *flat)
        shape, threshold_shape, dtype = ctx.shapes
        gradient = gradient.view(shape)
        by_threshold = -gradient.sum_to_size(threshold_shape) if ctx.needs_input_grad[1] else None
        return gradient.to(dtype), by_threshold, None
