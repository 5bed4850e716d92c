"""The C++ kernel of the signed log-sum-exp as a function that torch can differentiate.

Where all rows count alike, forward writes the gradient too, row by row while a row is in the cache: memory is read
once. Otherwise forward keeps four numbers a row, and backward reads logits and targets again. Of a small batch most of
the time is Python and autograd (benchmarks/autograd_floor.py), so what is done here counts.
"""

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from manyhot.kernels.layout import Layout, differentiated, layout, mask_every, refuse_second_derivatives
from manyhot.targets import IndexTargets, check_listed, check_values

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

# Labels of a row that stays in a core's cache; a longer one is read again from memory either way, so backward does
# that.
CACHED = 2**16

# What is done with the losses of rows: their weights by (loss, known rows), and the result by (weights, loss).
Weigh = Callable[[Tensor, Tensor | None], Tensor | float]
Reduce = Callable[[Tensor | float, Tensor], Tensor]
# A batch, the link, the weight of rows that all count alike, and these two.
Job = tuple[Any, int, float | None, Weigh, Reduce]

_warned = False


def warn_missing(stacklevel: int) -> None:
    """Say once that a slower implementation runs, and how to change that."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"{MISSING}. Losses on the CPU are slower without it. With a C++ compiler at hand it is built by: "
            "pip install --force-reinstall --no-deps --no-binary manyhot manyhot",
            stacklevel=stacklevel + 1,
        )


def sums(batch: Any) -> tuple[Tensor, Tensor]:
    """Compute neg and pos; a manyhot.logsumexp.Batch goes in."""
    if differentiated(batch):
        return _Sums.apply(batch.logits, batch.threshold, batch)  # pyright: ignore
    return _forward_sums(batch, _layout(batch), None)


def loss(batch: Any, link: str, equal: float | None, weigh: Weigh, reduce: Reduce) -> Tensor:
    """Compute a loss of each row, and reduce: `equal` is the weight of rows that all count alike."""
    # One argument for all that has no gradient: torch looks at each.
    job = (batch, _LINKS[link], equal, weigh, reduce)
    if differentiated(batch):
        return _Loss.apply(batch.logits, batch.threshold, job)  # pyright: ignore
    return _forward_loss(_layout(batch), job)[0]


# --- a batch as the kernel takes it: addresses and strides ------------------------------------------------------------


def _layout(batch: Any) -> Layout:
    """Lay a batch out, with the logarithm of the label weights."""
    return layout(batch if batch.label_weight is None else batch._replace(label_weight=batch.label_weight.log()))


def _call(rows: Sequence[Any], scale: float, margin: float) -> Any:
    """Tell the kernel where the tensors of a layout are, in forward fresh and in backward as torch has kept them."""
    logits, targets, ids, offsets, soft, mask, threshold, log_weight = rows
    call = _native.Batch(*logits.shape, logits.data_ptr(), _TYPES[logits.dtype], logits.stride(0), scale, margin)
    if targets is not None:
        call.dense(targets.data_ptr(), _TYPES[targets.dtype], targets.stride(0))
    else:
        call.listed(ids.data_ptr(), _address(offsets), ids.shape[-1], _address(soft))
    if mask is not None:
        call.mask(mask.data_ptr(), mask.stride(0), mask.stride(1), mask_every(len(logits), mask))
    for tell, grid in ((call.threshold, threshold), (call.log_weight, log_weight)):
        if grid is not None:
            tell(grid.data_ptr(), grid.stride(0), grid.stride(1))
    return call


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


# --- forward ---------------------------------------------------------------------------------------------------------


def _forward(batch: Any, rows: Sequence[Any], *out: Any) -> int:
    """Run the kernel; return how many rows have no known label."""
    unknown = _call(rows, batch.scale, batch.margin).forward(torch.get_num_threads(), *out)
    if unknown < 0:
        # The kernel has seen a wrong value in passing; what and where is said by those who look at nothing else.
        if isinstance(batch.targets, IndexTargets):
            check_listed(batch.targets, batch.logits.shape[-1])
        else:
            check_values(batch.targets, batch.mask)
        raise ValueError("targets must lie in [0, 1].")
    return unknown


def _forward_sums(batch: Any, rows: Sequence[Any], saved: Tensor | None) -> tuple[Tensor, Tensor]:
    lead = batch.logits.shape[:-1]
    neg, pos = torch.empty(lead, dtype=batch.dtype), torch.empty(lead, dtype=batch.dtype)
    _forward(batch, rows, 0, _address(saved), 0, neg.data_ptr(), pos.data_ptr(), 0, 0, 1.0, 0, 0)
    return neg, pos


def _forward_loss(
    rows: Layout, job: Job, gradient: Tensor | None = None
) -> tuple[Tensor, Tensor | float, Tensor | None]:
    """Return the result, the weights of rows, and what backward needs: None where the gradient has been written."""
    batch, link, equal, weigh, reduce = job
    lead = batch.logits.shape[:-1]
    count = lead.numel()
    # In one piece, since on a small batch an allocation takes as long as a hundred labels: what backward needs of each
    # row, and its loss.
    saved = torch.empty((_SAVED + 1) * count, dtype=torch.float64)
    address = saved.data_ptr()
    known = None if _all_known(batch) else torch.empty(lead, dtype=torch.bool)
    # The kernel adds the losses up; that counts where all rows have one weight, and turn out to have a known label.
    total = torch.empty((), dtype=batch.dtype)
    ends = (total.data_ptr(), equal or 1.0, _address(gradient), 0 if gradient is None else _TYPES[gradient.dtype])
    out = (link, address, address + 8 * _SAVED * count, 0, 0, _address(known), *ends)
    unknown = _forward(batch, rows, *out)
    if equal is not None and not unknown:
        return total, equal, saved if gradient is None else None
    loss = saved[_SAVED * count :].view(batch.dtype)[:count].clone().view(lead)
    weights = weigh(loss, known if unknown else None)
    return reduce(weights, loss), weights, saved


def _all_known(batch: Any) -> bool:
    """Say whether no cell can be unknown, so that nobody needs to look which rows are."""
    targets = batch.targets
    return batch.mask is None and (
        isinstance(targets, IndexTargets) or not (targets.dtype.is_signed or targets.is_floating_point())
    )


# --- backward --------------------------------------------------------------------------------------------------------


def _gradients(ctx: Any, rows: Sequence[Any], link: int, *given: Any) -> tuple[Tensor, Tensor | None]:
    """Return the gradients by the logits and, where asked for, by the threshold."""
    by_threshold = ctx.needs_input_grad[1]
    # Half types are rounded after the threshold's sum over rows.
    gradient = torch.empty(ctx.shape, dtype=ctx.dtype if by_threshold else ctx.logits_dtype)
    call = _call(rows, ctx.scale, ctx.margin)
    call.backward(torch.get_num_threads(), link, *given, gradient.data_ptr(), _TYPES[gradient.dtype])
    if not by_threshold:
        return gradient, None
    return gradient.to(ctx.logits_dtype), -gradient.sum_to_size(ctx.threshold_shape)


def _keep(ctx: Any, batch: Any, *rows: Tensor | None) -> None:
    ctx.save_for_backward(*rows)
    ctx.shape, ctx.logits_dtype, ctx.dtype = batch.logits.shape, batch.logits.dtype, batch.dtype
    ctx.scale, ctx.margin = batch.scale, batch.margin
    if isinstance(batch.threshold, Tensor):
        ctx.threshold_shape = batch.threshold.shape


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, threshold: Any, batch: Any) -> tuple[Tensor, Tensor]:
        rows = _layout(batch)
        saved = torch.empty(_SAVED * logits.shape[:-1].numel(), dtype=torch.float64)
        _keep(ctx, batch, saved, *rows)
        ctx.set_materialize_grads(False)
        return _forward_sums(batch, rows, saved)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor | None) -> tuple[Any, ...]:
        refuse_second_derivatives()
        saved, *rows = ctx.saved_tensors
        neg, pos = (None if x is None else x.contiguous() for x in outer)
        return *_gradients(ctx, rows, 0, saved.data_ptr(), 0, _address(neg), _address(pos), 0, 1.0), None


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, threshold: Any, job: Job) -> Tensor:
        batch, ctx.link, equal, *_ = job
        rows = _layout(batch)
        gradient = None
        # Not of half types: scaled by what comes from outside before it is rounded, their gradient keeps its digits.
        exact = logits.dtype == batch.dtype and not ctx.needs_input_grad[1]
        if equal is not None and exact and logits.shape[-1] <= CACHED:
            gradient = torch.empty(logits.shape, dtype=logits.dtype)
        result, weights, saved = _forward_loss(rows, job, gradient)
        if saved is None:
            ctx.save_for_backward(gradient)
            return result
        several = isinstance(weights, Tensor)
        _keep(ctx, batch, saved, weights if several else None, *rows)
        ctx.factor = 1.0 if several else weights
        return result

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Any, ...]:  # pyright: ignore
        refuse_second_derivatives()
        saved, *more = ctx.saved_tensors
        if not more:
            return (saved if outer.item() == 1 else saved * outer), None, None
        weights, *rows = more
        outer = outer.contiguous() if weights is None else (outer * weights).contiguous()
        stride = 0 if outer.ndim == 0 and weights is None else 1
        given = (saved.data_ptr(), outer.data_ptr(), 0, 0, stride, ctx.factor)
        return *_gradients(ctx, rows, ctx.link, *given), None
