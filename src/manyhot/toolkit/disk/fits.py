"""What a fit needs of a checkpoint: where its state is left between two steps, and where results are kept."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

Arrays = dict[str, np.ndarray]


class Bookmark(Protocol):
    """Where a fit leaves its state between two steps, and finds it after an interruption."""

    def load(self) -> Arrays | None:
        """Return the state that was left last."""
        ...

    def save(self, state: Callable[[], Arrays]) -> None:
        """Take the state, if it is time to: `state` is called only then."""
        ...


class Fits(Protocol):
    """Where the results of finished fits are kept, and the state of the one under way."""

    def finished(self, fit: str) -> Arrays | None:
        """Return the result of a fit that is done; None of others."""
        ...

    def finish(self, fit: str, result: Arrays) -> None:
        """Keep the result of a fit."""
        ...

    def bookmark(self, fit: str) -> Bookmark:
        """Return where a fit leaves its state."""
        ...


class Unsaved:
    """Fits and bookmarks that nobody will continue."""

    def finished(self, fit: str) -> Arrays | None:
        """Find nothing."""
        return None

    def finish(self, fit: str, result: Arrays) -> None:
        """Keep nothing."""

    def bookmark(self, fit: str) -> Bookmark:
        """Return a bookmark that keeps nothing."""
        return self

    def load(self) -> Arrays | None:
        """Find nothing."""
        return None

    def save(self, state: Callable[[], Arrays]) -> None:
        """Leave nothing."""


UNSAVED = Unsaved()


class Remembered:
    """Fits that are kept elsewhere, whose results stay in memory as well: for who fits the same rows again."""

    def __init__(self, fits: Fits, results: dict[str, Arrays]) -> None:
        self.fits, self.results = fits, results

    def finished(self, fit: str) -> Arrays | None:
        """Return the result of a fit that is done; None of others."""
        result = self.fits.finished(fit)
        if result is not None:
            self.results[fit] = result
        return result

    def finish(self, fit: str, result: Arrays) -> None:
        """Keep the result of a fit."""
        self.results[fit] = result
        self.fits.finish(fit, result)

    def bookmark(self, fit: str) -> Bookmark:
        """Return where a fit leaves its state."""
        return self.fits.bookmark(fit)
