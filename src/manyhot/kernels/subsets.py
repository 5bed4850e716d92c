"""The C++ kernel of sums over label sets as a function that torch can differentiate once."""

from typing import Any

import torch
from torch import Tensor

from manyhot.kernels import native
from manyhot.kernels.layout import refuse_second_derivatives
from manyhot.tracing import traced, watched


def against(rows: Any) -> list[str]:
    """List why the kernel does not fit; a manyhot.symmetric.Rows goes in."""
    if native.MISSING is not None:
        return [native.MISSING]
    if traced() or watched():
        return ["torch.compile, torch.jit.trace, torch.func or a dispatch mode traces the call"]
    for x in (rows.logits, rows.point, rows.known, rows.smallest, rows.largest):
        if x is not None and not x.is_cpu:
            return [f"it runs on the CPU, and a tensor is on {x.device}"]
        if x is not None and type(x) is not Tensor:
            return [f"it takes plain tensors, not {type(x).__name__}"]
    if rows.point is not None and rows.point.requires_grad and torch.is_grad_enabled():
        return ["it has no gradient with respect to targets"]
    if torch.autograd.forward_ad._current_level >= 0:
        return ["it has no forward-mode derivatives"]
    return []


def log_partition(rows: Any) -> Tensor:
    """Compute the value of each row."""
    if rows.logits.requires_grad and torch.is_grad_enabled():
        return _LogPartition.apply(rows.logits, rows)  # pyright: ignore
    return _write(rows, value=True)[0]


def gradient(rows: Any) -> Tensor:
    """Compute the gradient of each row's value."""
    return _write(rows, gradient=True)[1]


def _write(rows: Any, *, value: bool = False, gradient: bool = False) -> tuple[Any, Any]:
    logits, point, known, smallest, largest = rows[:5]
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    if point is not None and point.stride(-1) != 1:
        point = point.contiguous()
    smallest, largest = smallest.contiguous(), largest.contiguous()
    values = torch.empty(len(logits), dtype=torch.float64) if value else None
    slopes = torch.empty(logits.shape, dtype=logits.dtype) if gradient else None
    given: dict[str, int] = {}
    if point is not None:
        given |= {"point": point.data_ptr(), "point_row": point.stride(0)}
    if known is not None:
        given |= {"known": known.data_ptr(), "known_row": known.stride(0), "known_label": known.stride(1)}
    if values is not None:
        given["value"] = values.data_ptr()
    if slopes is not None:
        given["gradient"] = slopes.data_ptr()
    native._native.write_sets(
        threads=torch.get_num_threads(),
        rows=logits.shape[0],
        labels=logits.shape[1],
        logits=logits.data_ptr(),
        type=native._TYPES[logits.dtype],
        logits_row=logits.stride(0),
        smallest=smallest.data_ptr(),
        largest=largest.data_ptr(),
        **given,
    )
    return None if values is None else values.to(logits.dtype), slopes


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Any) -> Tensor:
        values, slopes = _write(rows._replace(logits=logits), value=True, gradient=True)
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Any, ...]:  # pyright: ignore
        refuse_second_derivatives()
        (slopes,) = ctx.saved_tensors
        # Filled: a row that does not count has no gradient, whatever its value is.
        outer = outer.unsqueeze(-1)
        return (outer * slopes).masked_fill_(outer == 0, 0), None
