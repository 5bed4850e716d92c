"""What fits cost: wall time and memory, counted once a fit, whoever uses its result."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil

from manyhot.toolkit.disk.fits import Arrays, Bookmark, Fits
from manyhot.toolkit.models.linear import is_shared

LOOK_SECONDS = 0.05


class PeakMemory:
    """The highest memory of this process since the last start, looked at twenty times a second.

    What the system itself counts, ru_maxrss, never falls again: the first of several fits would hide the others.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._peak = 0
        self._stop = threading.Event()

    def start(self) -> None:
        """Forget the peak so far."""
        self._peak = self._process.memory_info().rss

    @property
    def peak(self) -> int:
        """Bytes."""
        self._peak = max(self._peak, self._process.memory_info().rss)
        return self._peak

    @contextmanager
    def watched(self) -> Iterator["PeakMemory"]:
        """Look at it from a thread until the end."""
        watching = threading.Thread(target=self._watch, daemon=True)
        watching.start()
        try:
            yield self
        finally:
            self._stop.set()
            watching.join()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self._peak = self.peak


class Tally:
    """Fits that several methods use, and what those that were used cost.

    The cost is kept with the result, so that it is the same after an interruption; what an interrupted fit took before
    is lost.

    Attributes:
        seconds: of every fit used since `start`.
        now: of those that were made, and not found.
        shared: of the parts that other losses use as well. They count in `seconds` of each: what a method takes alone.
        peak: the highest memory of any of them, in bytes.
    """

    def __init__(self, fits: Fits, where: str, loss: str, memory: PeakMemory) -> None:
        self.fits, self.where, self.loss, self.memory = fits, where, loss, memory
        self.start()

    def start(self) -> None:
        """Begin a new sum."""
        self.seconds, self.now, self.shared, self.peak = 0.0, 0.0, 0.0, 0
        self._began = time.monotonic()

    def finished(self, fit: str) -> Arrays | None:
        """Return the result of a fit that is done, and count what it cost."""
        result = self.fits.finished(self.name(fit))
        if result is None:
            self._begin()
        else:
            seconds, peak = result["cost"]
            self._count(fit, float(seconds), int(peak))
        return result

    def finish(self, fit: str, result: Arrays) -> None:
        """Keep the result of a fit."""
        seconds, peak = time.monotonic() - self._began, self.memory.peak
        self.now += seconds
        self._count(fit, seconds, peak)
        self.fits.finish(self.name(fit), result | {"cost": np.array([seconds, peak], dtype=np.float64)})
        self._begin()

    def bookmark(self, fit: str) -> Bookmark:
        """Return where a fit leaves its state."""
        return self.fits.bookmark(self.name(fit))

    def name(self, fit: str) -> str:
        """Name a fit among those of all trials; a part that losses share has no loss in its name."""
        return f"{self.where}, {fit}" if is_shared(fit) else f"{self.where}, {self.loss}, {fit}"

    def _begin(self) -> None:
        """Begin a fit, or what is left of it behind a part that is shared."""
        self._began = time.monotonic()
        self.memory.start()

    def _count(self, fit: str, seconds: float, peak: int) -> None:
        self.seconds += seconds
        self.shared += seconds if is_shared(fit) else 0.0
        self.peak = max(self.peak, peak)
