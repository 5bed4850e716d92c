"""The seam between models and the rest: what a fitted model can do, and how one is fitted.

`linear`, `mlp` and `encoder` stand behind it, `kinds` knows them by name; nothing else asks which model it has.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import psutil
import torch
from torch import Tensor

from manyhot.toolkit.disk.fits import UNSAVED, Arrays, Bookmark, Fits
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.features import DesignMatrix
from manyhot.toolkit.objectives import Loss

# (logits, targets) of held-out rows to a score: the higher, the better. Where labels are very many, of the best logits.
Score = Callable[[Any, Any], float]
# Called with the step that was made, how many there are at most, the mean loss, and the score of rows held out, if any.
Progress = Callable[[int, int, float, float | None], None]


# Slopes and constants of the linear function that logits are around one row.
Around = tuple[np.ndarray, np.ndarray]


class Model(Protocol):
    """A fitted model."""

    def logits(self, X: DesignMatrix) -> np.ndarray:
        """Return (rows, labels) float32."""
        ...

    def shifted(self, by: np.ndarray) -> "Model":
        """Return the model whose logits are higher by `by`, a number a label: every model ends in a free bias."""
        ...

    def arrays(self) -> Arrays:
        """Return what :meth:`Learner.model` and a run folder restore the model from."""
        ...

    def around(
        self, columns: np.ndarray, values: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the linear function that the logits are around one row: slopes (columns, labels), constants (labels,).

        Args:
            columns: of the matrix, those where the row is not 0.
            values: of the row in these, float64.
            labels: which logits.

        Returns:
            float64; None of a model that reads no matrix of numbers.
        """
        ...


class Learner(Protocol):
    """How models of one kind are fitted in a run: the loss, the solver, the seed and all else that stays the same.

    Attributes:
        loss: (logits, targets) to the sum over rows.
        memory: what fitting takes.
        penalised: C means something. If not, it is None everywhere, and there is nothing to search.
        info: what a run says of how it was fitted.
    """

    @property
    def loss(self) -> Loss: ...  # noqa: D102
    @property
    def memory(self) -> "Memory": ...  # noqa: D102
    @property
    def penalised(self) -> bool: ...  # noqa: D102
    @property
    def info(self) -> dict[str, str]: ...  # noqa: D102

    def fit(
        self,
        X: DesignMatrix,
        targets: Tensor,
        *,
        C: float | None,
        start: Arrays | None = None,
        groups: np.ndarray | None = None,
        fits: Fits,
        name: str,
        progress: Progress,
    ) -> "Outcome":
        """Fit on rows X (rows, features) and targets (rows, labels).

        Args:
            X, targets: rows; where some are held out to say when to stop, those of a group are held out together.
            C: the penalty.
            start: of another fit, that of the same rows or the mean.
            groups: (rows,).
            fits: where the state is left, and parts of a fit that others share are kept.
            name: of the fit, in `fits`.
            progress: hears of each step.
        """
        ...

    def mean(self, starts: list[Arrays], rows: list[np.ndarray | None]) -> Arrays | None:
        """Return what the fit on all rows starts from, given the starts of folds and which rows they fitted."""
        ...


class Outcome(NamedTuple):
    """What a fit gives.

    Attributes:
        model: what was fitted.
        start: what another fit can start from; empty where none can.
        at_limit: it stopped at its limit, with more to gain.
    """

    model: Model
    start: Arrays
    at_limit: bool


def unheard(step: int, of: int, loss: float, score: float | None) -> None:
    """Tell nobody."""


class Curve:
    """The loss of every step of a fit, and the score of rows held out, if any: kept over an interruption.

    It stands between a fit and those who keep its state and hear of its progress. A fit in parts has that of the last.

    Attributes:
        losses: of each step.
        scores: of each step; None where no rows were held out.
    """

    def __init__(self, fits: Fits, progress: Progress) -> None:
        self.losses: list[float] = []
        self.scores: list[float | None] = []
        self._fits = fits
        self._bookmark: Bookmark = UNSAVED
        self._progress = progress

    def progress(self, step: int, of: int, loss: float, score: float | None) -> None:
        """Take a step down, and pass it on."""
        self.losses.append(loss)
        self.scores.append(score)
        self._progress(step, of, loss, score)

    def finished(self, fit: str) -> Arrays | None:
        """Return the result of a fit that is done, and find what its steps were."""
        if (result := self._fits.finished(fit)) is None:
            return None
        return self._found(result)

    def finish(self, fit: str, result: Arrays) -> None:
        """Keep the result of a fit, and its steps."""
        self._fits.finish(fit, result | self._kept())

    def bookmark(self, fit: str) -> Bookmark:
        """Begin a part; its state goes through here."""
        self.losses, self.scores = [], []
        self._bookmark = self._fits.bookmark(fit)
        return self

    def load(self) -> Arrays | None:
        """Find the state that was left last, and what the steps before it were."""
        if (state := self._bookmark.load()) is None:
            return None
        return self._found(state)

    def save(self, state: Callable[[], Arrays]) -> None:
        """Pass the state on, with the steps so far."""
        curve = self._kept()
        self._bookmark.save(lambda: state() | curve)

    def _kept(self) -> Arrays:
        return {
            "curve.losses": np.array(self.losses, dtype=np.float64),
            "curve.scores": np.array(self.scores, dtype=np.float64),
        }

    def _found(self, state: Arrays) -> Arrays:
        if not self.losses:  # a fit that looks again has made more steps than it has left
            self.losses = state["curve.losses"].tolist()
            self.scores = [None if np.isnan(score) else score for score in state["curve.scores"].tolist()]
        return {name: array for name, array in state.items() if not name.startswith("curve.")}


@dataclass(frozen=True)
class Memory:
    """What fitting a model takes."""

    how: str
    parameters: int
    bytes: int
    free: int

    def describe(self) -> str:
        """Say it in one line."""
        return (
            f"{self.parameters:,} weights, {self.how}; fitting takes about {gigabytes(self.bytes)} beside the rows "
            f"({gigabytes(self.free)} free)"
        )

    def check(self, what: str, advice: str) -> None:
        """Refuse what does not fit.

        Raises:
            InputError: more is needed than is free.
        """
        if self.bytes > self.free:
            raise InputError(
                f"the model needs about {gigabytes(self.bytes)} of memory for {what} and {gigabytes(self.free)} are "
                f"free; {advice}, or a machine with more memory."
            )


def free_memory(device: str = "cpu") -> int:
    """Return how many bytes a device has free."""
    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def gigabytes(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size / 1e6, 1):.0f} MB"


def device_of(wanted: str) -> str:
    """Return "cuda" or "cpu"; "auto" takes a card where there is one.

    Raises:
        InputError: a card is asked for and PyTorch sees none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda expects a CUDA card that PyTorch can use; there is none: use --device cpu.")
    return "cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu"


def tensors(arrays: Arrays) -> dict[str, Tensor]:
    """Copy arrays to memory that torch aligned: matrix products may round by where a tensor starts."""
    return {name: torch.from_numpy(np.array(value)).clone() for name, value in arrays.items()}
