"""How many epochs of mini-batches are enough: rows held out say it, then all rows are fitted for as many.

A model of mini-batches is a :class:`Net`; :class:`NetLearner` fits one as a run fits its models.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from manyhot.split import stratified_split
from manyhot.toolkit.disk.fits import Arrays, Bookmark, Fits
from manyhot.toolkit.models.adamw import Schedule, descend, of_like_length
from manyhot.toolkit.models.blocks import BLOCK
from manyhot.toolkit.models.features import DesignMatrix
from manyhot.toolkit.models.model import Memory, Model, Outcome, Progress, Score
from manyhot.toolkit.models.processes import ALONE, Group, Share
from manyhot.toolkit.models.ranked import TOP
from manyhot.toolkit.objectives import ListedLoss, Loss

# One row in so many is held out to say when to stop. With fewer rows than this none can be spared: a fixed number of
# epochs, at which texts of one word a label are learned.
HELD = 10
FEW_ROWS = 20
FEW_EPOCHS = 30
# With fewer labels, or spans, in the rows held out, F1 moves by five points and more by chance
# (benchmarks/mlp_epochs.py, benchmarks/span_epochs.py).
FEW_POSITIVES = 100


class Net(Model, Protocol):
    """What is fitted by mini-batches."""

    def parameters(self) -> dict[str, Tensor]:
        """Return what is fitted, by name."""
        ...

    @property
    def weight(self) -> Tensor: ...  # noqa: D102
    @property
    def bias(self) -> Tensor: ...  # noqa: D102

    def hidden(self, X: DesignMatrix, random: torch.Generator, share: Share) -> Tensor:
        """Return what the last layer, weight (width, labels) and bias (labels,), makes logits of: (rows, width).

        It is of a share of a mini-batch in training; `random` is what dropout draws from.
        """
        ...


AnyNet = TypeVar("AnyNet", bound=Net)


@dataclass(frozen=True)
class Lengths:
    """How rows of many lengths are put together, so that little of a mini-batch is padding.

    Attributes:
        of: rows to the length of each.
        most: positions, rows x the longest, of a mini-batch at once. One of more is taken in parts whose gradients add
            up, so that a step takes no more memory; None where the loss of a mini-batch is no sum over rows.
    """

    of: Callable[[Any], np.ndarray]
    most: int | None

    def cutting(self, X: DesignMatrix, batch: int) -> dict[str, Any]:
        """Return `cut` and `parts` of :func:`descend`, for rows X in mini-batches of so many."""
        lengths, most = self.of(X), self.most

        def cut(random: torch.Generator) -> Sequence[Tensor]:
            return of_like_length(lengths, lambda _: batch, random)

        def parts(rows: Tensor) -> Sequence[Tensor]:
            return (rows,) if most is None else rows.split(max(most // max(int(lengths[rows].max()), 1), 1))

        return {"cut": cut, "parts": parts}


@dataclass(frozen=True)
class NetLearner:
    """How networks of one kind are fitted. They have no penalty: early stopping is in its place.

    Attributes:
        loss: (logits, targets) to the sum over rows; where targets are lists, one of `LISTED_LOSSES`.
        draw: (X, targets) to the network that a fit starts from, the same every time.
        group: the processes that fit together.
        lengths: of rows, where they have many.
    """

    loss: Loss | ListedLoss
    score: Score
    memory: Memory
    schedule: Schedule
    seed: int
    device: str
    draw: Callable[[DesignMatrix, Any], Net]
    group: Group = ALONE
    lengths: Lengths | None = None
    penalised = False

    @property
    def info(self) -> dict[str, str]:
        """The device, and how many processes there were if several."""
        return {"device": self.device} | ({"processes": str(self.group.size)} if self.group.size > 1 else {})

    def together(self, group: Group) -> "NetLearner":
        """Return the same for processes that fit together."""
        return replace(self, group=group)

    def fit(
        self,
        X: DesignMatrix,
        targets: Tensor,
        *,
        C: float | None = None,
        start: Arrays | None = None,
        groups: np.ndarray | None = None,
        fits: Fits,
        name: str = "",
        progress: Progress,
    ) -> Outcome:
        """Fit on rows X and targets; folds are fitted by the same rule as all rows."""
        options: Any = {"groups": groups, "bookmark": fits.bookmark(name), "progress": progress}
        return Outcome(self.stopped_early(X, targets.to(self.device), **options), {}, False)

    def stopped_early(self, X: DesignMatrix, targets: Any, **options: Any) -> Net:
        """Fit by :func:`fit_stopped_early`, which says what else it takes.

        Raises:
            InputError: the loss is not finite.
        """
        with self.schedule.finite():
            return fit_stopped_early(
                lambda: self.draw(X, targets),
                X,
                targets,
                loss=self.loss,
                score=self.score,
                schedule=self.schedule,
                seed=self.seed,
                group=self.group,
                lengths=self.lengths,
                **options,
            )

    def mean(self, starts: list[Arrays], rows: list[np.ndarray | None]) -> None:
        """Return nothing: the mean of networks is no network of use."""


def fit_stopped_early(
    start: Callable[[], AnyNet],
    X: DesignMatrix,
    targets: Any,
    *,
    loss: Loss | ListedLoss,
    score: Score,
    judged: Callable[[AnyNet, DesignMatrix], Any] = lambda net, X: net.logits(X),
    schedule: Schedule,
    seed: int,
    groups: np.ndarray | None = None,
    bookmark: Bookmark,
    progress: Progress,
    group: Group = ALONE,
    lengths: Lengths | None = None,
) -> AnyNet:
    """Find the epoch at which a tenth of the rows is best when the others are fitted; fit all rows for as many.

    Args:
        start: draws the same network every time.
        X: (rows, features).
        targets: (rows, labels), on the device of the network; or scipy CSR of bool, with one of `LISTED_LOSSES`.
        loss: as of :class:`NetLearner`.
        score: of the rows held out. The loss would stop too soon: it rises with the certainty of a few wrong logits
            while label sets still get better.
        judged: (network, X) to what the score is of: logits, or the best of each row.
        schedule: batches, epochs, rate and patience.
        seed: of the tenth and of the order of rows.
        groups: (rows,), the same for rows that are on one side of the tenth.
        bookmark: where the state is left after each epoch.
        progress: called with the epoch, of both fits together, the last one, the mean loss and the score.
        group: the processes that fit together; the first measures the rows held out.
        lengths: of rows, where they have many.
    """
    rows = X.shape[0]

    def cutting(X: DesignMatrix) -> dict[str, Any]:
        return {} if lengths is None else lengths.cutting(X, schedule.batch)

    saved = bookmark.load()
    held = stratified_split(targets, [HELD - 1.0, 1.0], groups=groups, seed=seed) == 1
    if saved is not None and "epochs" in saved:
        epochs, before = int(saved["epochs"]), int(saved["before"])
    elif rows < FEW_ROWS or held.all() or not held.any():  # few groups may all be on one side
        epochs, before = FEW_EPOCHS, 0
    else:
        X_held, targets_held = X[held], _taken(targets, held)
        targets_held = targets_held.cpu().numpy() if isinstance(targets_held, Tensor) else targets_held
        X_kept, targets_kept = X[~held], _taken(targets, ~held)
        net = start()

        heard = descend(
            net.parameters(),
            X_kept.shape[0],
            mean_loss(net, X_kept, targets_kept, loss, group),
            schedule,
            seed=seed,
            bookmark=bookmark,
            progress=lambda step, of, loss, score: progress(step, of + min(step, of), loss, score),
            held=lambda: group.told(lambda: score(judged(net, X_held), targets_held)),
            group=group,
            **cutting(X_kept),
        )
        epochs, before = best_epoch(heard, int((targets_held > 0).sum())), len(heard)
        del net
    net = start()
    descend(
        net.parameters(),
        rows,
        mean_loss(net, X, targets, loss, group),
        schedule,
        epochs=epochs,
        seed=seed,
        bookmark=_Second(bookmark, epochs, before),
        progress=lambda step, of, loss, score: progress(before + step, before + of, loss, score),
        group=group,
        **cutting(X),
    )
    return net


def best_epoch(heard: list[float], positives: int) -> int:
    """Return the epoch with the highest score of rows with so many labels or spans, from 1; the last where all are 0.

    With fewer than FEW_POSITIVES it is highest by chance, and where that is early, scores still move so much that the
    epoch does not serve the fit of all rows: the last epoch within a standard error of it is taken. An epoch too many
    costs little.
    """
    highest = max(heard)
    if highest > 0 and positives >= FEW_POSITIVES:
        return int(np.argmax(heard)) + 1
    error = math.sqrt(max(highest * (1 - highest), 0) / max(positives, 1))
    return int(np.flatnonzero(np.array(heard) >= highest - error)[-1]) + 1


def mean_loss(
    net: Net, X: DesignMatrix, targets: Any, loss: Loss | ListedLoss, group: Group = ALONE
) -> Callable[[np.ndarray, torch.Generator], Tensor]:
    """Return what :func:`descend` minimises: the mean loss of some rows, or what this process's share adds to it."""

    of_last_layer: ListedLoss = loss

    def summed(rows: np.ndarray, random: torch.Generator, share: Share) -> Tensor:
        hidden, some = net.hidden(X[rows], random, share), _taken(targets, rows)
        if isinstance(some, Tensor):
            return loss(hidden @ net.weight + net.bias, some)
        return of_last_layer(hidden, net.weight.T, some, bias=net.bias, reduction="sum")

    def value(rows: np.ndarray, random: torch.Generator) -> Tensor:
        share = group.share(len(rows))
        own = rows[share.here]
        if not len(own):
            # A small batch may leave nothing for this process; its gradient is then 0, and all wait for it.
            return summed(rows[:1], random, Share(0, 1, len(rows), share.rank)) * 0
        return summed(own, random, share) / len(rows)

    return value


def listed_bytes(rows: int, labels: int, width: int) -> int:
    """Return what lists of labels take beside the parameters: a gradient turned round, logits of a block, best ones."""
    return 4 * labels * width + 16 * BLOCK * labels + 48 * TOP * (rows // HELD)


def _taken(targets: Any, rows: np.ndarray) -> Any:
    """Take rows by positions or by a mask."""
    return targets[torch.from_numpy(rows)] if isinstance(targets, Tensor) else targets[rows]


class _Second:
    """The bookmark of the second descent: its state says how many epochs the first one found, and made."""

    def __init__(self, bookmark: Bookmark, epochs: int, before: int) -> None:
        self.bookmark = bookmark
        self.found = {"epochs": np.array(epochs), "before": np.array(before)}

    def load(self) -> Arrays | None:
        saved = self.bookmark.load()
        return saved if saved is not None and "epochs" in saved else None

    def save(self, state: Callable[[], Arrays]) -> None:
        self.bookmark.save(lambda: state() | self.found)
