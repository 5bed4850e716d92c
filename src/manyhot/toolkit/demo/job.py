"""What a demo trains on, and how it shows a row."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manyhot.toolkit.config import Config
from manyhot.toolkit.read.examples import Examples


@dataclass(frozen=True)
class Job:
    """A job of a demo.

    Attributes:
        config: of `manyhot train`, with rows to test on.
        rows: what a row is called, in the plural.
        what: what the rows are.
        choose: takes test rows and a number, and says which rows to show: by their truth alone, so that what is
            predicted has no part in it.
        show: takes test rows and one of them, and writes it as lines.
        use: takes the place of the run, and writes a line to type next.
    """

    config: Config
    rows: str
    what: str
    choose: Callable[[Examples, int], np.ndarray]
    show: Callable[[Examples, int], list[str]]
    use: Callable[[Path], str]
