"""Processes that fit one network together: each takes a part of every mini-batch, and gradients are added up.

torchrun, accelerate launch and Slurm say in the environment which process this is. All processes read the data and hold
the network; the first alone writes, and tells the others what it has read of a checkpoint.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from manyhot.toolkit.disk.fits import UNSAVED, Arrays, Bookmark, Fits
from manyhot.toolkit.errors import InputError


class Share(NamedTuple):
    """The rows of a mini-batch that are this process's: from `first` up to `last` of `rows`."""

    first: int
    last: int
    rows: int
    rank: int

    @property
    def here(self) -> slice:
        """The rows as a slice."""
        return slice(self.first, self.last)


class Group(NamedTuple):
    """This process among those that fit together; alone, nothing is sent anywhere."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def share(self, rows: int) -> Share:
        """Take consecutive rows of a mini-batch: parts differ by one row at most, and may be empty."""
        return Share(rows * self.rank // self.size, rows * (self.rank + 1) // self.size, rows, self.rank)

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes, in place, as one message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        together = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(together)
        for gradient, part in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def sum(self, value: float) -> float:
        """Add up a number."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=_device())
        dist.all_reduce(total)
        return float(total)

    def told(self, say: Callable[[], Any]) -> Any:
        """Return what the first process says, in all of them; the others are not asked."""
        if self.size == 1:
            return say()
        said = [say() if self.first else None]
        dist.broadcast_object_list(said, src=0)
        return said[0]


ALONE = Group()


class ToldFits:
    """Fits that the first process keeps: what it finds of an interrupted training, all of them hear."""

    def __init__(self, fits: Fits, group: Group) -> None:
        self.fits, self.group = fits, group

    def finished(self, fit: str) -> Arrays | None:
        """Return the result of a fit that is done; None of others."""
        return self.group.told(lambda: self.fits.finished(fit))

    def finish(self, fit: str, result: Arrays) -> None:
        """Keep the result of a fit."""
        if self.group.first:
            self.fits.finish(fit, result)

    def bookmark(self, fit: str) -> Bookmark:
        """Return where a fit leaves its state."""
        return _ToldBookmark(self.fits.bookmark(fit) if self.group.first else UNSAVED, self.group)


class _ToldBookmark:
    def __init__(self, bookmark: Bookmark, group: Group) -> None:
        self.bookmark, self.group = bookmark, group

    def load(self) -> Arrays | None:
        return self.group.told(self.bookmark.load)

    def save(self, state: Callable[[], Arrays]) -> None:
        if self.group.first:
            self.bookmark.save(state)


@contextmanager
def joined() -> Iterator[Group]:
    """Join the processes that the environment names, or be alone where it names none.

    Raises:
        InputError: it names several, and not all of what joining takes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {size}, and {', '.join(missing)} is not set; start with torchrun, or unset WORLD_SIZE"
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
