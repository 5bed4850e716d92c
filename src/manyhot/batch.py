"""A batch of a loss over labels: logits, targets and what weighs them, each checked once; what kernels are given."""

import math
import sys
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manyhot.checks import check_broadcast, check_finite, check_forms, check_scale, check_values, check_weights
from manyhot.targets import IndexTargets, Targets, check_listed, known_cells, known_rows, targets_of, written
from manyhot.tracing import values_readable

_first_call = True


class Batch(NamedTuple):
    """What goes into the two sums: forms and options checked, threshold and label weights of the type computed in."""

    logits: Tensor
    targets: Targets
    threshold: float | Tensor
    scale: float
    margin: float
    mask: Tensor | None
    label_weight: Tensor | None
    dtype: torch.dtype
    values_checked: bool = False  # of the targets, as far as they can be read

    def known_rows(self) -> Tensor | None:
        """Say which rows have a known label: True per row, or None when all have."""
        return known_rows(self.targets, self.mask)


def batch_of(
    logits: Tensor,
    targets: Any,
    *,
    threshold: float | Tensor = 0.0,
    scale: float = 1.0,
    margin: float = 0.0,
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
) -> Batch:
    """Check forms and options; the options are those of :func:`manyhot.signed_logsumexp`.

    The values of targets are checked by whoever reads them: the native kernel on its way, :func:`dense` for the others.
    """
    targets = targets_of(targets, logits)
    check_forms(targets, logits, mask)
    threshold, label_weight, dtype = options_of(
        logits, threshold=threshold, scale=scale, margin=margin, label_weight=label_weight
    )
    return Batch(logits, targets, threshold, scale, margin, mask, label_weight, dtype)


def options_of(
    logits: Tensor, *, threshold: float | Tensor, scale: float, margin: float, label_weight: Tensor | None
) -> tuple[float | Tensor, Tensor | None, torch.dtype]:
    """Check the options, and return threshold and label weights in the type that is computed in, and that type."""
    check_scale(scale, margin)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if isinstance(threshold, Tensor):
        check_broadcast("threshold", threshold, logits)
        threshold = threshold.to(dtype)
    check_finite("threshold", threshold)
    if label_weight is not None:
        check_broadcast("label_weight", label_weight, logits)
        label_weight = label_weight.to(dtype)
        check_weights("label_weight", label_weight)
    if _first_call and values_readable(logits):
        _warn_of_probabilities(logits)
    return threshold, label_weight, dtype


def check_targets(batch: Batch) -> None:
    """Check the values of targets; reads them, so the caller decides when that may be.

    Raises:
        ValueError: names the first row and label that is wrong.
    """
    if isinstance(batch.targets, IndexTargets):
        check_listed(batch.targets, batch.logits.shape[-1])
    else:
        check_values(batch.targets, batch.mask)


def checked(batch: Batch) -> Batch:
    """Check the values of targets, unless that has been done or would cost a device sync or break a trace."""
    if batch.values_checked:
        return batch
    targets = batch.targets
    read = (targets.labels,) if isinstance(targets, IndexTargets) else (batch.logits, targets, batch.mask)
    if values_readable(*read):
        check_targets(batch)
    return batch._replace(values_checked=True)


def dense(batch: Batch) -> Batch:
    """Check the values of targets, and write listed ones out."""
    batch = checked(batch)
    if isinstance(batch.targets, IndexTargets):
        batch = batch._replace(targets=written(batch.targets, batch.logits.shape[-1]))
    return batch


def exponents(batch: Batch) -> tuple[Tensor, Tensor]:
    r"""Write out what each label has in either sum of :func:`manyhot.signed_logsumexp`, -inf where it has nothing.

    .. math::
        \gamma(s_i - s_0 + m) + \log(1 - t_i) + \log w_i \qquad\text{and}\qquad
        -\gamma(s_i - s_0 - m) + \log t_i + \log w_i
    """
    batch = dense(batch)
    logits, targets, threshold, scale, margin, mask, label_weight, dtype, _ = batch
    assert isinstance(targets, Tensor)
    s, t = logits.to(dtype), targets.to(dtype)
    negative, positive = t < 1, t > 0
    known = known_cells(targets, mask)
    if known is not None:
        negative, positive, s = negative & known, positive & known, torch.where(known, s, 0)
    log_weight = 0.0
    if label_weight is not None:
        weighted = label_weight > 0
        negative, positive = negative & weighted, positive & weighted
        log_weight = torch.where(weighted, label_weight, 1).log()
    # The inner `where` keeps log(0) out of the graph: its gradient would be NaN even where the outer one discards it.
    log_t = torch.where(positive, t, 1).log()
    log_1_t = torch.log1p(-torch.where(negative, t, 0))
    neg = scale * (s - threshold + margin) + log_1_t + log_weight
    pos = -scale * (s - threshold - margin) + log_t + log_weight
    return torch.where(negative, neg, -math.inf), torch.where(positive, pos, -math.inf)


def _warn_of_probabilities(logits: Tensor) -> None:
    """Warn, at the first call of a process only, when the logits look like probabilities."""
    global _first_call
    if logits.numel() == 0:
        return
    _first_call = False
    low, high = (float(x) for x in logits.detach().aminmax())
    # A zero-initialised head gives zeros throughout, and is right.
    if 0 <= low and 0 < high <= 1:
        warnings.warn(
            "all logits lie in [0, 1]. manyhot takes raw scores: remove the sigmoid or softmax before the loss, "
            "and predict a label where its logit is above 0 (manyhot.decide).",
            stacklevel=level_of_the_caller(),
        )


def level_of_the_caller() -> int:
    """Count the frames up to the line outside of manyhot that called: where a warning belongs."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "manyhot":
        frame, level = frame.f_back, level + 1
    return level
