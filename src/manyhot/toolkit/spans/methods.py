"""What `compare` compares on marked texts: a loss, a design of relations, and whether offsets are found for scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from manyhot.toolkit.config import DESIGNS, Config
from manyhot.toolkit.errors import InputError

SEEDS = 2


@dataclass(frozen=True)
class Method:
    """A loss, whether an offset is found for its scores, and what that is in words; the design where there are two."""

    name: str
    loss: str
    offset: bool
    what: str
    ours: bool = False
    design: str = ""

    @property
    def fit(self) -> str:
        """What is fitted, once for all methods that differ in the offset alone."""
        return f"{self.design}-{self.loss}" if self.design else self.loss


# Those of one loss stand together.
METHODS = (
    Method("zlpr", "zlpr", True, "ZLPR, biases at half the logit of the share, one offset: the default", ours=True),
    Method("bce", "bce", False, "binary cross-entropy as people write it"),
    Method("bce+bias", "bce+bias", False, "binary cross-entropy, biases start at the prior"),
    Method("bce+threshold", "bce+bias", True, "the same, and one threshold found by rows held out"),
    Method("focal", "focal", False, "focal loss, biases start at the prior"),
)
# Each design with ZLPR, and with cross-entropy from the prior, its best form.
OF_RELATIONS = tuple(
    replace(method, name=f"{design}-{method.name}", what=f"{design}: {said}", design=design)
    for design in DESIGNS
    for method, said in (
        (METHODS[0], "ZLPR, biases at half the logit of the share, offsets"),
        (METHODS[2], METHODS[2].what),
        (METHODS[3], "binary cross-entropy, biases start at the prior, offsets"),
    )
)


@dataclass(frozen=True)
class SpanComparison:
    """What is compared: how to read the data, the methods, folds where there are no test rows, and seeds."""

    config: Config
    methods: tuple[Method, ...] = METHODS
    folds: int = 3
    seeds: int = SEEDS


def methods_of(task: str) -> Sequence[Method]:
    """Return all methods of a task, the default first."""
    return OF_RELATIONS if task == "relations" else METHODS


def make_span_comparison(config: Config, losses: str | None, folds: int, seeds: int | None) -> SpanComparison:
    """Check what is asked for.

    Raises:
        InputError: a method of no such name, or a number out of range.
    """
    known = methods_of(config.task)
    names = [method.name for method in known]
    asked = names if losses is None else [name.strip() for name in losses.split(",")]
    if wrong := [name for name in asked if name not in names]:
        raise InputError(f"--losses expects some of {', '.join(names)}, commas between; got {wrong[0]!r}.")
    seeds = SEEDS if seeds is None else seeds
    for option, value, low in (("folds", folds, 2), ("seeds", seeds, 1)):
        if value < low:
            raise InputError(f"--{option} expects a number of {low} or more; got {value}.")
    return SpanComparison(config, tuple(method for method in known if method.name in asked), folds, seeds)
