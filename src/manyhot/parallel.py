"""Losses over several processes, by torch.distributed: rows split among them, or labels.

    rows split      mean(loss of the rows here, added up; known rows here)      gradients averaged by DDP
    rows coupled    the sums that couple them run over all processes: all_sum, all_logsumexp
    labels split    a slice of the last layer in each process: two floats a row are gathered, LabelShard

torchrun, accelerate launch, Ray Train and Slurm set what torch.distributed reads; there is no launcher here.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def mean(loss_sum: Tensor, known: Tensor | int, group: Any = None) -> Tensor:
    r"""Divide the loss of the rows of this process by the rows of all, so that averaged gradients are the right ones.

    .. math::
        \frac{W}{\sum_r n_r}\,\sum_{i\in\text{rows of this process}} \ell_i

    with W processes of n_r rows. DistributedDataParallel averages gradients over processes, and the average of
    their means is not the mean of all rows where they have not as many: with this it is, to rounding. One all-reduce of
    one number. The value differs between processes; its average over them is the loss of all rows: log that.

    With gradient accumulation `known` counts the rows of all batches of a step. Where gradients are added up and not
    averaged, divide by the number of processes.

    Args:
        loss_sum: scalar, ``loss(..., reduction="sum")`` of the rows of this process.
        known: rows of this process with a known label, or the sum of their sample weights: what `"mean"` divides by.
        group: of torch.distributed; None is all processes. Without torch.distributed it is the mean of one process.

    Returns:
        A scalar with the gradient of loss_sum; 0 where no process has a row.

    Example:
        >>> import torch, manyhot, manyhot.parallel
        >>> logits, targets = torch.tensor([[2.0, -1.0], [0.5, -0.5]]), torch.tensor([[1, 0], [0, 1]])
        >>> manyhot.parallel.mean(manyhot.zlpr_loss(logits, targets, reduction="sum"), known=2)
        tensor(1.1942)
        >>> manyhot.zlpr_loss(logits, targets)
        tensor(1.1942)
    """
    count = torch.as_tensor(known, dtype=loss_sum.dtype, device=loss_sum.device).detach().clone()
    processes = 1
    if running():
        dist.all_reduce(count, group=group)
        processes = dist.get_world_size(group)
    return loss_sum * (processes / torch.where(count == 0, 1, count))


def running() -> bool:
    """Say whether torch.distributed has been initialised."""
    return dist.is_available() and dist.is_initialized()


def all_sum(x: Tensor, group: Any) -> Tensor:
    """Add up a tensor over the processes of a group, for a loss that all of them compute alike from the sum.

    Each has the gradient of its own part, times the number of processes, which averaging divides by.
    """
    return _Sum.apply(x, group)


def all_logsumexp(x: Tensor, group: Any) -> Tensor:
    """Add up the exponentials of a tensor over the processes of a group, and return the logarithm, as `all_sum`."""
    return _LogSumExp.apply(x, group)


def any_of(known: Tensor, group: Any) -> Tensor:
    """Say where one of the processes of a group has True."""
    found = known.to(torch.uint8)
    dist.all_reduce(found, op=dist.ReduceOp.MAX, group=group)
    return found.bool()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.processes = dist.get_world_size(group)
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return outer[0] * ctx.processes, None


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.processes = dist.get_world_size(group)
        parts = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(ctx.processes)]
        dist.all_gather(parts, x.contiguous(), group=group)
        total = torch.stack(parts).logsumexp(0)
        # Neither an empty sum nor an infinite one has a gradient.
        ctx.save_for_backward(torch.where(total.isinf(), 0, (x - torch.where(total.isinf(), 0, total)).exp()))
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return outer[0] * ctx.saved_tensors[0] * ctx.processes, None


class LabelShard:
    r"""The slice of the labels that this process holds: labels ``start`` up to ``stop`` of ``num_labels``.

    For the losses of :func:`manyhot.linear_zlpr_loss`. Each process has all rows and a slice of weight and bias. Its
    two log-sum-exps a row are gathered, two floats a row, and added up in the order of the processes, so that the loss
    has the same bits on all; backward adds up the gradient of the features and needs nothing else.

    Args:
        num_labels: of all processes together.
        rank: of this process within the group.
        size: processes that share the labels; slices differ by at most one label.
        group: of torch.distributed; None is all processes.

    Raises:
        ValueError: a rank outside of 0 to size - 1, fewer labels than processes.

    Example:
        >>> import manyhot.parallel
        >>> [(s.start, s.stop) for s in (manyhot.parallel.LabelShard(10, rank, 3) for rank in range(3))]
        [(0, 3), (3, 6), (6, 10)]
    """

    def __init__(self, num_labels: int, rank: int, size: int, group: Any = None) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"rank must lie in 0 to size - 1; got rank {rank} of {size} processes.")
        if num_labels < size:
            raise ValueError(f"each process needs a label; got {num_labels} labels for {size} processes.")
        self.num_labels, self.size, self.group = num_labels, size, group
        self.start, self.stop = num_labels * rank // size, num_labels * (rank + 1) // size

    def gathered(self, sums: Tensor) -> Tensor:
        """Return the tensors of all processes, (size, *shape), in their order: the only collective of a forward pass.

        Raises:
            RuntimeError: torch.distributed does not run, or with another number of processes.
        """
        if self.size == 1:
            return sums.unsqueeze(0)
        if not running():
            raise RuntimeError(
                f"labels are split among {self.size} processes, and torch.distributed is not initialised: "
                "start with torchrun and call torch.distributed.init_process_group() first."
            )
        if (world := dist.get_world_size(self.group)) != self.size:
            raise RuntimeError(f"labels are split among {self.size} processes; the group has {world}.")
        parts = [torch.empty_like(sums) for _ in range(self.size)]
        dist.all_gather(parts, sums.contiguous(), group=self.group)
        return torch.stack(parts)

    def add(self, gradient: Tensor) -> None:
        """Add up the gradient of the features over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(gradient, group=self.group)
