"""n tasks of m classes, their sum inside the logarithm, so that classes balance themselves.

S logits (tasks i, classes k), T targets, a distribution a task; each loss is the sum of softplus of a log-sum-exp:

pairwise      sum over j != k of log(1 + sum_i T_ij e^(S_ik - S_ij))
first_order   sum over j      of log(1 + sum_i T_ij sum_(k != j) e^(S_ik - S_ij))
mean_centred  sum over j      of log(1 + sum_i T_ij e^(mean_k S_ik - S_ij))

docs/losses/multiway.md has the proofs and a picture.
"""

import math
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from manyhot.checks import check_logits
from manyhot.logsumexp import logsumexp, logsumexp_of_groups
from manyhot.losses.hyperparameters import LossModule, keep, kept
from manyhot.matmulexp import log_matmul_exp
from manyhot.parallel import all_logsumexp
from manyhot.reduction import Reduction, reduce
from manyhot.targets import known_cells, name_row
from manyhot.tracing import values_readable

Form = Literal["pairwise", "first_order", "mean_centred"]


def multiway_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    form: Form = "pairwise",
    over: int | tuple[int, ...] | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    group: Any = None,
) -> Tensor:
    r"""Classify n tasks at once, each class inside one logarithm, so that it weighs about log of its count.

    .. math::
        \ell = \sum_{j\ne k}\log\Big(1 + \sum_i T_{ij}\,e^{S_{ik} - S_{ij}}\Big)

    for logits S and targets T of tasks i and classes j, k. A class that occurs c times weighs about log c where in
    cross-entropy it weighs c: rare classes need no class weights. Predict the argmax of each task.

    Use it on soft targets that share a batch, where its optimum is known, and in place of class weights: rows of a
    table, tokens of a sequence, pixels, with some classes far rarer than others. It balances mildly: it gives up less
    accuracy than class weights or a prior, and rare classes gain less (benchmarks/results/multiway.md); where these
    count most, ``cross_entropy(s + log p, y)`` does more. After hard targets softmax(S) is no probability. For several
    labels a row use :func:`manyhot.zlpr_loss`.

    Args:
        logits: (..., classes), any floating dtype, raw scores.
        targets: class ids, integers in the leading shape of logits, where -1 and -100 mean unknown; or a distribution
            over the classes a task, shape of logits, any dtype, where -1, -100 and NaN throughout mean unknown.
        form: `"pairwise"`, the formula above. `"first_order"` adds up over k inside the logarithm: bounded by
            cross-entropy and cheaper with many classes, but its optimum on soft targets has no closed form.
            `"mean_centred"` compares a class with the mean of all: the optimum of soft targets is softmax(S) itself;
            on hard ones it is poor, and worthless where a class never occurs, which sinks and takes the mean with it.
        over: the axes of logits that hold the n tasks; None takes all but the last, the whole batch. With
            logits (batch, tokens, classes), ``over=1`` makes a sum of each sequence, and `()` of each single task.
        mask: boolean, broadcastable to the leading shape of logits, True where the task is known.
        reduction: over the axes that `over` leaves: `"mean"` over entries with a known task, `"sum"`, or `"none"`. With
            the default `over` nothing is left, and all three are the same number.
        group: of torch.distributed, where the tasks of a batch are split among its processes: sums run over all of
            them, and gradients are right once averaged, as DistributedDataParallel does. With the default `over` alone.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the shape that `over` leaves for `reduction="none"`. It grows
        with the number of classes and the log of their counts, not with the number of tasks.

    Raises:
        TypeError: logits that are not floating-point, ids that are not integers, a mask that is not boolean.
        ValueError: shapes that do not fit, an unknown form, axes that are none and, on the CPU outside of
            torch.compile, ids that are no class, distributions that do not sum to 1.

    Reduces to:
        softmax cross-entropy for one task with a hard target and `first_order`, the sum over the other classes of
        ``softplus(S_k - S_y)`` with `pairwise`. For two classes, :func:`manyhot.zlpr_loss` of S_1 - S_0 (`first_order`,
        `pairwise`) and of half of it (`mean_centred`), the tasks being its labels.

    Numerics:
        Convex in the logits. Soft targets in (0, 1) have the unique optimum T = softmax(2 S) with `pairwise` and
        T = softmax(S) with `mean_centred`, up to a constant a task. Hard targets take n m memory and n m exponentials,
        soft ones n m + m^2: a matrix product, for logits too far apart a sum in blocks
        (:func:`manyhot.log_matmul_exp`). Finite for logits of any size and dtype; computed in float32 for half dtypes.
        An infinite logit on the wrong side gives +inf and no gradient; a NaN logit makes its own sum NaN.

    Example:
        >>> import torch, manyhot
        >>> logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0], [1.0, 3.0, 0.0]])
        >>> manyhot.multiway_loss(logits, torch.tensor([0, 1, 0]))
        tensor(2.9591)
        >>> manyhot.multiway_loss(logits, torch.tensor([0, 1, 0]), form="first_order", over=())
        tensor(0.9201)
        >>> torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0]))
        tensor(0.9201)

    References:
        Su, kexue.fm/archives/9158: (2) is `first_order`, (8) `mean_centred`. `pairwise`, which has what the post asks
        for, balance on hard targets and a closed-form optimum on soft ones, is ours.
    """
    if form not in get_args(Form):
        raise ValueError(f'form must be "pairwise", "first_order" or "mean_centred"; got {form!r}.')
    if group is not None and over is not None:
        raise ValueError(f"group splits the tasks of the whole batch, so that over must be None; got {over!r}.")
    hard = _is_hard(logits, targets)
    lead = logits.shape[:-1]
    axes = _task_axes(over, logits.ndim)
    known = _known(targets, mask, lead, hard)
    if values_readable(logits, targets, mask):
        _check_values(targets, known, logits.shape[-1], hard)

    s = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    t = targets.long() if hard else targets.to(s.dtype)
    if known is not None:
        # Also outside of the sums: an unknown task may hold anything.
        s = torch.where(known.unsqueeze(-1), s, 0)
        t = torch.where(known if hard else known.unsqueeze(-1), t, 0)
        known = _grouped(known, axes, lead)
    s, t = _grouped(s, axes, lead), _grouped(t, axes, lead)
    rows = tuple(lead[axis] for axis in range(len(lead)) if axis not in axes)
    if s.shape[1] == 0 and group is not None:
        # This process has no task, and takes part in the sums all the same: with one that is unknown.
        s, t, known = F.pad(s, (0, 0, 0, 1)), F.pad(t, (0, 1) if hard else (0, 0, 0, 1)), s.new_zeros(len(s), 1).bool()
    elif s.shape[1] == 0:
        return reduce(s.sum((1, 2)).view(rows), reduction=reduction)
    logs = (
        _between_classes(s, t, known, hard, group is not None)
        if form == "pairwise"
        else _of_classes(form, s, t, known, hard)
    )
    if group is not None:
        return F.softplus(all_logsumexp(logs, group), threshold=40).sum()
    # torch's default threshold, 20, drops log1p(e^-x) where float64 still has seven digits of it.
    loss = F.softplus(logs, threshold=40).flatten(1).sum(-1)
    known_rows = None if known is None else known.any(-1).view(rows)
    return reduce(loss.view(rows), known_rows=known_rows, reduction=reduction)


class MultiwayLoss(LossModule):
    """Module form of :func:`multiway_loss`, same options.

    Example:
        >>> import torch, manyhot
        >>> logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0], [1.0, 3.0, 0.0]])
        >>> manyhot.MultiwayLoss(form="first_order")(logits, torch.tensor([0, 1, 0]))
        tensor(2.5495)
    """

    def __init__(
        self,
        *,
        form: Form = "pairwise",
        over: int | tuple[int, ...] | None = None,
        reduction: Reduction = "mean",
        group: Any = None,
    ) -> None:
        super().__init__()
        keep(self, form=form, over=over, reduction=reduction, group=group)

    def forward(self, logits: Tensor, targets: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch."""
        return multiway_loss(logits, targets, mask=mask, **kept(self))


# --- the sums: s (rows, tasks, classes); t (rows, tasks) ids or (rows, tasks, classes) shares; known (rows, tasks) ----


def _between_classes(s: Tensor, t: Tensor, known: Tensor | None, hard: bool, every_class: bool) -> Tensor:
    """Return log sum_i T_ij e^(S_ik - S_ij) for classes j, k: (rows, classes, classes), -inf for j = k.

    Rows of classes that do not occur may be left out, and the order of the others lost, unless `every_class` is asked.
    """
    classes = torch.arange(s.shape[-1], device=s.device)
    if not hard:
        s = s - _peak(s)
        logs = log_matmul_exp(torch.where(t > 0, _log(t) - s, -torch.inf).mT, s)
        return torch.where(classes == classes.unsqueeze(-1), -torch.inf, logs)
    own = classes == t.unsqueeze(-1)
    gaps = torch.where(own, -torch.inf, _minus(s, s.gather(-1, t.unsqueeze(-1))))
    if known is not None:
        gaps = torch.where(known.unsqueeze(-1), gaps, -torch.inf)
    return _logsumexp_by_class(gaps, t, every_class)


def _of_classes(form: Form, s: Tensor, t: Tensor, known: Tensor | None, hard: bool) -> Tensor:
    """Return log sum_i T_ij e^(rest_ij - S_ij) for each class: (rows, classes), the rest being what j is to beat."""
    s = s - _peak(s)
    if form == "first_order":
        lead = _minus(_logsumexp_of_others(s), s)
    else:
        # A mean with +inf in it is +inf; one logit at -inf, its own, is below any mean.
        mean = torch.where((s == torch.inf).any(-1, keepdim=True), torch.inf, s.mean(-1, keepdim=True))
        lead = _minus(mean, s)
        lead = torch.where((s == -torch.inf) & (s > -torch.inf).any(-1, keepdim=True), torch.inf, lead)
    if hard:
        log_t = torch.where(torch.arange(s.shape[-1], device=s.device) == t.unsqueeze(-1), 0.0, -torch.inf)
        if known is not None:
            log_t = torch.where(known.unsqueeze(-1), log_t, -torch.inf)
    else:
        log_t = _log(t)
    return logsumexp(torch.where(log_t == -torch.inf, -torch.inf, log_t + lead).mT)


def _logsumexp_by_class(terms: Tensor, classes: Tensor, every_class: bool) -> Tensor:
    """Reduce (rows, tasks, k) over the tasks of each class: (rows, at most min(tasks, classes), k), -inf for no task.

    Unless every class is asked for, their order is lost where there are more of them than tasks.
    """
    rows, tasks, m = terms.shape
    segments = m if every_class else min(tasks, m)
    if segments < m:
        # A task stands for its class, so that classes that do not occur take no memory.
        place = torch.arange(tasks, device=terms.device).expand(rows, tasks)
        first = torch.full((rows, m), tasks, device=terms.device).scatter_reduce(1, classes, place, "amin")
        classes = first.gather(1, classes)
    index = (torch.arange(rows, device=terms.device).unsqueeze(-1) * segments + classes).flatten()
    return logsumexp_of_groups(terms.flatten(0, 1), index, rows * segments).view(rows, segments, m)


def _logsumexp_of_others(s: Tensor) -> Tensor:
    """Return log sum_(k != j) e^(s_k) for each j, all digits of it, in n m memory."""
    top, place = s.detach().max(-1, keepdim=True)
    is_top = torch.arange(s.shape[-1], device=s.device) == place
    usual = top.isfinite()
    exp = (torch.where(usual, s, 0) - torch.where(usual, top, 0)).exp()
    # Beside any logit but the largest, the rest is at least as large as what is subtracted: no digits cancel. Beside
    # the largest it is added up anew; in a row with +inf or NaN, the largest alone may have a finite rest.
    rest = torch.where(is_top, 1, exp.sum(-1, keepdim=True) - exp).log()
    return torch.where(is_top, logsumexp(torch.where(is_top, -torch.inf, s)).unsqueeze(-1), rest + top)


def _minus(a: Tensor, b: Tensor) -> Tensor:
    """Return a - b; -inf, no term of a sum, for two equal infinities."""
    return torch.where((a == b) & a.isinf(), -torch.inf, a - b)


def _log(t: Tensor) -> Tensor:
    # The inner `where` keeps log(0) out of the graph: its gradient would be NaN even where the outer one discards it.
    return torch.where(t > 0, torch.where(t > 0, t, 1).log(), -torch.inf)


def _peak(s: Tensor) -> Tensor:
    """Return the largest logit of each task, 0 where it is infinite: what a common offset is taken off with."""
    peak = s.detach().amax(-1, keepdim=True)
    return torch.where(peak.isfinite(), peak, 0)


# --- what comes in ---------------------------------------------------------------------------------------------------


def _is_hard(logits: Tensor, targets: Tensor) -> bool:
    """Check the forms of both, and say whether targets are class ids."""
    check_logits(logits, "class")
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets must be a tensor; got {type(targets).__name__}.")
    shape = tuple(logits.shape)
    if targets.shape == logits.shape[:-1]:
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            raise TypeError(
                f"class ids must be integers; got {targets.dtype}. Use targets.long(); a distribution over the "
                f"classes has the shape of logits, {shape}."
            )
        return True
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets must be class ids of shape {shape[:-1]} or a distribution a task of shape {shape}; "
            f"got {tuple(targets.shape)}. The last axis of the logits holds the classes: move it there with movedim."
        )
    if targets.is_complex():
        raise TypeError(f"targets must be values in [0, 1]; got a tensor of {targets.dtype}.")
    return False


def _task_axes(over: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """Return the axes of the tasks, counted from 0."""
    if over is None:
        return tuple(range(ndim - 1))
    axes = tuple(over) if isinstance(over, tuple | list) else (over,)
    found = [axis % ndim for axis in axes if isinstance(axis, int) and -ndim <= axis < ndim]
    if len(found) < len(axes) or len(set(found)) < len(axes) or ndim - 1 in found:
        raise ValueError(
            f"over must name the axes of the tasks, each once, among {list(range(ndim - 1))} of logits with {ndim} "
            f"axes (the last one holds the classes); got {over!r}."
        )
    return tuple(found)


def _grouped(x: Tensor, axes: tuple[int, ...], lead: torch.Size) -> Tensor:
    """Bring (leading shape..., *rest) to (rows, tasks, *rest)."""
    tasks = math.prod([lead[axis] for axis in axes])
    rows = math.prod([lead[axis] for axis in range(len(lead)) if axis not in axes])
    ends = tuple(range(len(lead) - len(axes), len(lead)))
    return x.movedim(axes, ends).reshape(rows, tasks, *x.shape[len(lead) :])


def _known(targets: Tensor, mask: Tensor | None, lead: torch.Size, hard: bool) -> Tensor | None:
    """Say which tasks are known, in the leading shape; None when all are."""
    known = known_cells(targets)
    if known is not None and not hard:
        known = known.any(-1)
    if mask is None:
        return known
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean, True where the task is known; got {mask.dtype}. Use mask.bool().")
    try:
        mask = mask.expand(lead)
    except RuntimeError:
        raise ValueError(
            f"mask must broadcast to the tasks, {tuple(lead)}, the shape of logits without the classes; "
            f"got {tuple(mask.shape)}."
        ) from None
    return mask if known is None else known & mask


def _check_values(targets: Tensor, known: Tensor | None, num_classes: int, hard: bool) -> None:
    """Check ids and distributions of known tasks; reads the values.

    Raises:
        ValueError: names the first task that is wrong.
    """
    if hard:
        wrong = (targets < 0) | (targets >= num_classes)
    else:
        t = targets.double()
        # Half types round each value once: their sum is off by as much as one of them.
        off = 2 * torch.finfo(targets.dtype).eps if targets.is_floating_point() else 0.0
        wrong = ~(((t >= 0) & (t <= 1)).all(-1) & ((t.sum(-1) - 1).abs() <= max(1e-3, off)))
    if known is not None:
        wrong = wrong & known
    if not wrong.any():
        return
    place = wrong.nonzero()[0].tolist()
    task = f" at {name_row(place).replace('row', 'task')}" if place else ""
    found = targets[tuple(place)]
    if hard:
        raise ValueError(
            f"class ids must lie in 0 to {num_classes - 1}, the last axis of the logits, or be -1 or -100 where "
            f"unknown; got {found.item()}{task}."
        )
    raise ValueError(
        "targets must be a distribution over the classes, values in [0, 1] that sum to 1, or -1, -100 or NaN "
        f"throughout where unknown; got values from {found.min().item():g} to {found.max().item():g} that sum to "
        f"{found.double().sum().item():.4g}{task}. Logits become one with softmax(-1)."
    )
