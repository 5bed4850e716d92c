"""The C++ kernel of the signed log-sum-exp as a function that torch can differentiate.

Where all rows count alike, forward writes the gradient too, row by row while a row is in the cache: memory is read
once. Otherwise forward keeps four numbers a row, and backward reads logits and targets again. A small batch spends most
of its time in Python and autograd (benchmarks/autograd_floor.py), so what is done here counts.
"""

import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manyhot.batch import Batch, check_targets, level_of_the_caller
from manyhot.kernels.layout import Layout, differentiated, layout, mask_every, refuse_second_derivatives
from manyhot.reduction import Reduction, apply, equal_weight, row_weights
from manyhot.targets import IndexTargets

_native: Any = None
_TYPES, _LINKS, _SAVED = {}, {}, 0
MISSING: str | None = None
try:
    _native = import_module("manyhot.kernels._native")
except ModuleNotFoundError:
    MISSING = "manyhot's C++ kernel is not there: no C++ compiler was found when it was installed"
except ImportError as error:
    MISSING = f"manyhot's C++ kernel does not load: {error}"
else:
    _TYPES = {getattr(torch, name): code for code, name in enumerate(_native.types)}
    _LINKS = {name: code for code, name in enumerate(_native.links)}
    _SAVED = _native.saved_numbers

# A row of so many labels stays in a core's cache. A longer one is read from memory twice either way, so its gradient is
# left to backward.
CACHED = 2**16

_warned = False


def warn_missing() -> None:
    """Say once that a slower implementation runs, and how to change that."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"{MISSING}. Losses on the CPU are slower without it. With a C++ compiler at hand it is built by: "
            "pip install --force-reinstall --no-deps --no-binary manyhot manyhot",
            stacklevel=level_of_the_caller(),
        )


class Job(NamedTuple):
    """A loss to compute: one argument of the Function for all that has no gradient, since torch looks at each."""

    batch: Batch
    link: int
    sample_weight: Tensor | None
    reduction: Reduction


def sums(batch: Batch) -> tuple[Tensor, Tensor]:
    """Compute neg and pos."""
    if differentiated(batch):
        return _Sums.apply(batch.logits, batch.threshold, batch)  # pyright: ignore
    return _write_sums(batch, _layout(batch))


def loss(batch: Batch, link: str, sample_weight: Tensor | None, reduction: Reduction) -> Tensor:
    """Compute a loss of each row, the line `link` in its sums, and reduce; no gradient by sample_weight."""
    job = Job(batch, _LINKS[link], sample_weight, reduction)
    if differentiated(batch):
        return _Loss.apply(batch.logits, batch.threshold, job)  # pyright: ignore
    return _write_loss(job, _layout(batch)).value


# --- a batch as the kernel takes it: addresses and strides ------------------------------------------------------------


def _layout(batch: Batch) -> Layout:
    """Lay a batch out, with the logarithm of the label weights."""
    return layout(batch if batch.label_weight is None else batch._replace(label_weight=batch.label_weight.log()))


def _call(rows: Sequence[Any], scale: float, margin: float) -> Any:
    """Tell the kernel where the tensors of a layout are, in forward fresh and in backward as torch has kept them."""
    logits, targets, ids, offsets, soft, mask, threshold, log_weight = rows
    count, labels = logits.shape
    call = _native.Batch(
        rows=count,
        labels=labels,
        logits=logits.data_ptr(),
        logits_type=_TYPES[logits.dtype],
        logits_row=logits.stride(0),
        scale=scale,
        margin=margin,
    )
    if targets is not None:
        call.dense(targets=targets.data_ptr(), type=_TYPES[targets.dtype], row=targets.stride(0))
    else:
        call.listed(ids=ids.data_ptr(), offsets=_address(offsets), width=ids.shape[-1], soft=_address(soft))
    if mask is not None:
        every = mask_every(count, mask)
        call.mask(data=mask.data_ptr(), row=mask.stride(0), label=mask.stride(1), every=every)
    if threshold is not None:
        call.threshold(data=threshold.data_ptr(), row=threshold.stride(0), label=threshold.stride(1))
    if log_weight is not None:
        call.log_weight(data=log_weight.data_ptr(), row=log_weight.stride(0), label=log_weight.stride(1))
    return call


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _refuse_wrong(batch: Batch) -> None:
    """Name the wrong target and its place: the kernel stops at one and says neither."""
    check_targets(batch)
    raise ValueError("targets must lie in [0, 1].")


# --- forward ---------------------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """What forward returns: the loss, the weights of rows, and what backward needs of them.

    `saved` is None where the gradient has been written.
    """

    value: Tensor
    weights: Tensor | float
    saved: Tensor | None


def _write_sums(batch: Batch, rows: Layout, saved: Tensor | None = None) -> tuple[Tensor, Tensor]:
    lead = batch.logits.shape[:-1]
    neg, pos = torch.empty(lead, dtype=batch.dtype), torch.empty(lead, dtype=batch.dtype)
    call = _call(rows, batch.scale, batch.margin)
    unknown = call.forward(
        threads=torch.get_num_threads(), saved=_address(saved), neg=neg.data_ptr(), pos=pos.data_ptr()
    )
    if unknown < 0:
        _refuse_wrong(batch)
    return neg, pos


def _write_loss(job: Job, rows: Layout, gradient: Tensor | None = None) -> Written:
    batch, link, sample_weight, reduction = job
    lead = batch.logits.shape[:-1]
    count = lead.numel()
    # In one piece, since on a small batch an allocation takes as long as a hundred labels: what backward needs of each
    # row, and its loss.
    saved = torch.empty((_SAVED + 1) * count, dtype=torch.float64)
    address = saved.data_ptr()
    known = None if _all_known(batch) else torch.empty(lead, dtype=torch.bool)
    # The kernel adds the losses up; that counts where all rows have one weight, and turn out to have a known label.
    alike = sample_weight is None and reduction != "none"
    equal = equal_weight(count, reduction) if alike else 1.0
    total = torch.empty((), dtype=batch.dtype)
    unknown = _call(rows, batch.scale, batch.margin).forward(
        threads=torch.get_num_threads(),
        link=link,
        saved=address,
        loss=address + 8 * _SAVED * count,
        known=_address(known),
        total=total.data_ptr(),
        factor=equal,
        gradient=_address(gradient),
        gradient_type=0 if gradient is None else _TYPES[gradient.dtype],
    )
    if unknown < 0:
        _refuse_wrong(batch)
    if alike and not unknown:
        return Written(total, equal, saved if gradient is None else None)
    loss = saved[_SAVED * count :].view(batch.dtype)[:count].clone().view(lead)
    weights = row_weights(loss, known if unknown else None, sample_weight, reduction)
    return Written(apply(weights, loss, reduction), weights, saved)


def _all_known(batch: Batch) -> bool:
    """Say whether no cell can be unknown, so that nobody needs to look which rows are."""
    targets = batch.targets
    return batch.mask is None and (
        isinstance(targets, IndexTargets) or not (targets.dtype.is_signed or targets.is_floating_point())
    )


# --- backward --------------------------------------------------------------------------------------------------------


def _gradients(ctx: Any, rows: Sequence[Any], **given: Any) -> tuple[Tensor, Tensor | None]:
    """Return the gradients by the logits and, where asked for, by the threshold."""
    by_threshold = ctx.needs_input_grad[1]
    # Half types are rounded after the threshold's sum over rows.
    gradient = torch.empty(ctx.shape, dtype=ctx.dtype if by_threshold else ctx.logits_dtype)
    _call(rows, ctx.scale, ctx.margin).backward(
        threads=torch.get_num_threads(),
        gradient=gradient.data_ptr(),
        gradient_type=_TYPES[gradient.dtype],
        **given,
    )
    if not by_threshold:
        return gradient, None
    return gradient.to(ctx.logits_dtype), -gradient.sum_to_size(ctx.threshold_shape)


def _keep(ctx: Any, batch: Batch, *rows: Tensor | None) -> None:
    ctx.save_for_backward(*rows)
    ctx.shape, ctx.logits_dtype, ctx.dtype = batch.logits.shape, batch.logits.dtype, batch.dtype
    ctx.scale, ctx.margin = batch.scale, batch.margin
    if isinstance(batch.threshold, Tensor):
        ctx.threshold_shape = batch.threshold.shape


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, threshold: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        rows = _layout(batch)
        saved = torch.empty(_SAVED * logits.shape[:-1].numel(), dtype=torch.float64)
        _keep(ctx, batch, saved, *rows)
        ctx.set_materialize_grads(False)
        return _write_sums(batch, rows, saved)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor | None) -> tuple[Any, ...]:
        refuse_second_derivatives()
        saved, *rows = ctx.saved_tensors
        neg, pos = (None if x is None else x.contiguous() for x in outer)
        return *_gradients(ctx, rows, saved=saved.data_ptr(), by_neg=_address(neg), by_pos=_address(pos)), None


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, threshold: Any, job: Job) -> Tensor:
        batch, rows = job.batch, _layout(job.batch)
        gradient = None
        # Not of half types: scaled by what comes from outside before it is rounded, their gradient keeps its digits.
        exact = logits.dtype == batch.dtype and not ctx.needs_input_grad[1]
        alike = job.sample_weight is None and job.reduction != "none"
        if alike and exact and logits.shape[-1] <= CACHED:
            gradient = torch.empty(logits.shape, dtype=logits.dtype)
        value, weights, saved = _write_loss(job, rows, gradient)
        if saved is None:
            ctx.save_for_backward(gradient)
            return value
        several = isinstance(weights, Tensor)
        _keep(ctx, batch, saved, weights if several else None, *rows)
        ctx.link, ctx.factor = job.link, 1.0 if several else weights
        return value

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Any, ...]:  # pyright: ignore
        refuse_second_derivatives()
        saved, *more = ctx.saved_tensors
        if not more:
            return (saved if outer.item() == 1 else saved * outer), None, None
        weights, *rows = more
        by_loss = (outer if weights is None else outer * weights).contiguous()
        given = _gradients(
            ctx,
            rows,
            link=ctx.link,
            saved=saved.data_ptr(),
            by_loss=by_loss.data_ptr(),
            by_loss_row=0 if by_loss.ndim == 0 else 1,
            factor=ctx.factor,
        )
        return *given, None
