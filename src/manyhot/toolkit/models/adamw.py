"""AdamW in epochs of mini-batches, interrupted and continued to the last bit.

The order of rows and every other random number of an epoch depend on the seed and the number of the epoch alone, so
that parameters, moments and what was heard of the epochs so far are the whole state.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.fits import Arrays, Bookmark
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.model import Progress, tensors
from manyhot.toolkit.models.processes import ALONE, Group

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Schedule:
    """How mini-batches are taken.

    Attributes:
        batch: rows.
        epochs: the most there are.
        rate: of learning.
        factor: what the rate is multiplied with, by the share of all steps that is done.
        weight_decay: of AdamW, in every parameter.
        patience: stop where the score of the rows held out has not been higher for so many epochs.
    """

    batch: int
    epochs: int
    rate: float
    factor: Callable[[float], float] = lambda share: 1.0
    weight_decay: float = 0.0
    patience: int = 0

    def asked(self, config: Config) -> "Schedule":
        """Return the same with the rate and the epochs that were asked for."""
        schedule = self if config.rate == "auto" else replace(self, rate=config.rate)
        return schedule if config.epochs == "auto" else replace(schedule, epochs=config.epochs)

    @contextmanager
    def finite(self) -> Iterator[None]:
        """Say what to type where a loss is not finite, of networks, whose rate can be asked for.

        Raises:
            InputError: in place of FloatingPointError.
        """
        try:
            yield
        except FloatingPointError as error:
            raise InputError(f"{error}; the learning rate may be too high: --set rate={self.rate / 3:.0e}") from None


# Random numbers to the mini-batches of an epoch, positions of rows; and a mini-batch to the parts it is taken in.
Cut = Callable[[torch.Generator], Sequence[Tensor]]
Parts = Callable[[Tensor], Sequence[Tensor]]


def descend(
    parameters: dict[str, Tensor],
    rows: int,
    value: Callable[[np.ndarray, torch.Generator], Tensor],
    schedule: Schedule,
    *,
    seed: int,
    bookmark: Bookmark,
    progress: Progress,
    epochs: int | None = None,
    held: Callable[[], float] | None = None,
    cut: Cut | None = None,
    parts: Parts = lambda batch: (batch,),
    group: Group = ALONE,
) -> list[float]:
    """Minimise, in place, the mean over rows of a value.

    Args:
        parameters: by the names under which the state keeps them.
        rows: how many there are.
        value: (numbers of rows, random numbers) to their mean loss; of several processes, what this one adds to it.
        schedule: batches, epochs and rate.
        seed: of the order of rows.
        bookmark: where the state is left after each epoch.
        progress: called with the epoch, the last one, its mean loss and the score.
        epochs: stop after so many; the rate falls as if all of the schedule's came.
        held: the score of rows held out, which stops the descent by the schedule's patience.
        cut: makes the mini-batches of an epoch, where these are not any rows: those of like length.
        parts: what a mini-batch is taken in, one part after the other.
        group: the processes that descend together, each with the same parameters and the same rows.

    Returns:
        The score of the rows held out after each epoch, or else the mean loss of training.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=schedule.rate,
        weight_decay=schedule.weight_decay,
        fused=True,  # with 10 million weights, torch's fused step takes a sixth of the time
    )
    gradients = _KeptGradients()
    heard: list[float] = []
    if (saved := bookmark.load()) is not None:
        heard = _restore(optimizer, parameters, saved)
    last = schedule.epochs if epochs is None else epochs

    def end() -> int:
        # A score that has been 0 so far says that learning has not begun, and not that it is over.
        if held is None or max(heard, default=0.0) == 0:
            return last
        return min(last, int(np.argmax(heard)) + 1 + schedule.patience)

    while len(heard) < end():
        epoch, total = len(heard), 0.0
        random = torch.Generator().manual_seed(epoch_seed(seed, epoch))
        batches = torch.randperm(rows, generator=random).split(schedule.batch) if cut is None else cut(random)
        for i, part in enumerate(batches):
            share = (epoch * len(batches) + i) / (schedule.epochs * len(batches))
            for options in optimizer.param_groups:
                options["lr"] = schedule.rate * schedule.factor(share)
            optimizer.zero_grad()
            for some in parts(part):
                loss = value(some.numpy(), random) * (len(some) / len(part))
                loss.backward()
                total += loss.item() * len(part)
            gradients.write(parameters.values())
            group.add_gradients(parameters.values())
            optimizer.step()
            gradients.clear()
            # Of several processes all are to hear of it, which they do when they add up.
            if group.size == 1 and not math.isfinite(total):
                break
        total = group.sum(total)
        if not math.isfinite(total):
            raise FloatingPointError(f"epoch {epoch + 1}: expected a finite loss, got {total / rows:g}")
        heard.append(total / rows if held is None else held())
        progress(len(heard), end(), total / rows, None if held is None else heard[-1])
        bookmark.save(lambda: _state(optimizer, parameters, heard))
    return heard


def of_like_length(lengths: np.ndarray, most: Callable[[int], int], random: torch.Generator) -> list[Tensor]:
    """Cut rows into mini-batches of about one length, which come in random order.

    Args:
        lengths: of each row.
        most: rows that a mini-batch may have, by its longest.
        random: what moves rows between neighbouring mini-batches, and orders these.
    """
    spread = torch.rand(len(lengths), generator=random) * 4
    order = torch.argsort(torch.from_numpy(lengths) + spread)
    batches = []
    first = 0
    while first < len(order):
        last = first + most(int(lengths[order[first]]))
        # The longest of so many rows may allow fewer.
        while last > first + 1 and last - first > most(int(lengths[order[first:last]].max())):
            last -= 1
        batches.append(order[first:last])
        first = last
    return [batches[i] for i in torch.randperm(len(batches), generator=random)]


def epoch_seed(seed: int, epoch: int) -> int:
    """Mix a seed and the number of an epoch."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


class _KeptGradients:
    """Dense gradients of a large table, few of whose rows are not 0, as AdamW takes them.

    Making one for 8 million weights takes a third of a step: it is kept, and the rows written are set back to 0.
    """

    def __init__(self) -> None:
        self.kept: dict[Tensor, Tensor] = {}
        self.written: list[tuple[Tensor, Tensor]] = []

    def write(self, parameters: Iterable[Tensor]) -> None:
        """Put dense gradients in place of sparse ones."""
        for parameter in parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                gradient = parameter.grad.coalesce()
                rows, values = gradient.indices()[0], gradient.values()
                if parameter not in self.kept:
                    self.kept[parameter] = torch.zeros_like(parameter)
                parameter.grad = self.kept[parameter].index_copy_(0, rows, values)
                self.written.append((parameter.grad, rows))

    def clear(self) -> None:
        """Set the rows written back to 0."""
        for gradient, rows in self.written:
            gradient.index_fill_(0, rows, 0)
        self.written.clear()


def _state(optimizer: torch.optim.AdamW, parameters: dict[str, Tensor], heard: list[float]) -> Arrays:
    arrays = {"heard": np.array(heard)}
    for name, parameter in parameters.items():
        arrays[f"parameter.{name}"] = parameter.detach().cpu().numpy()
        for moment in MOMENTS:
            # A parameter that no loss reaches, such as a pooling layer, has no moments.
            if parameter in optimizer.state:
                arrays[f"{moment}.{name}"] = optimizer.state[parameter][moment].cpu().numpy()
    return arrays


def _restore(optimizer: torch.optim.AdamW, parameters: dict[str, Tensor], saved: Arrays) -> list[float]:
    state = tensors(saved)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[f"parameter.{name}"])
            if f"step.{name}" in state:
                moments = {moment: state[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS}
                optimizer.state[parameter] = moments
    return saved["heard"].tolist()
