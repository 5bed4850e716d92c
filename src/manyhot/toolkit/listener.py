"""Who hears of the progress of a training."""

from collections.abc import Callable
from dataclasses import dataclass

from manyhot.toolkit.choose.cross_fit import Step
from manyhot.toolkit.read.uses import Use


@dataclass(frozen=True)
class Listener:
    """Hears of the progress of a training; the command prints it, tests and Python callers may ignore it.

    `detail` hears sentences for those who ask for more, and `on_columns` what each column is used as, or why it is not.
    `progress` hears what is being fitted, about which share of the training is done, and the mean loss.
    """

    say: Callable[[str], None] = lambda text: None
    warn: Callable[[str], None] = lambda text: None
    detail: Callable[[str], None] = lambda text: None
    on_columns: Callable[[list[Use]], None] = lambda uses: None
    on_step: Callable[[Step], None] = lambda step: None
    progress: Callable[[str, float, float], None] = lambda what, share, value: None


# Nobody.
SILENT = Listener()
