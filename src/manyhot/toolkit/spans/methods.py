"""What `compare` compares on spans: a loss, and whether one offset is found for its scores."""

from dataclasses import dataclass

from manyhot.toolkit.config import Config
from manyhot.toolkit.errors import InputError

SEEDS = 2


@dataclass(frozen=True)
class Method:
    """A loss, and whether an offset is found for its scores; what it is in words."""

    name: str
    loss: str
    offset: bool
    what: str
    ours: bool = False


# Those of one loss stand together.
METHODS = (
    Method("zlpr", "zlpr", True, "ZLPR, biases at half the logit of the share, one offset: the default", ours=True),
    Method("bce", "bce", False, "binary cross-entropy as people write it"),
    Method("bce+bias", "bce+bias", False, "binary cross-entropy, biases start at the prior"),
    Method("bce+threshold", "bce+bias", True, "the same, and one threshold found by rows held out"),
    Method("focal", "focal", False, "focal loss, biases start at the prior"),
)
NAMES = tuple(method.name for method in METHODS)


@dataclass(frozen=True)
class SpanComparison:
    """What is compared: how to read the data, methods by name, folds where there are no test rows, and seeds."""

    config: Config
    methods: tuple[str, ...] = NAMES
    folds: int = 3
    seeds: int = SEEDS


def make_span_comparison(config: Config, losses: str | None, folds: int, seeds: int | None) -> SpanComparison:
    """Check what is asked for.

    Raises:
        InputError: a method of no such name, or a number out of range.
    """
    names = NAMES if losses is None else tuple(dict.fromkeys(name.strip() for name in losses.split(",")))
    if wrong := [name for name in names if name not in NAMES]:
        raise InputError(f"--losses expects some of {', '.join(NAMES)}, commas between; got {wrong[0]!r}.")
    seeds = SEEDS if seeds is None else seeds
    for option, value, low in (("folds", folds, 2), ("seeds", seeds, 1)):
        if value < low:
            raise InputError(f"--{option} expects a number of {low} or more; got {value}.")
    return SpanComparison(config, tuple(name for name in NAMES if name in names), folds, seeds)
