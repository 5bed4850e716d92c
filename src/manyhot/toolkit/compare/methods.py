"""What is compared: losses, and the rules by which held-out logits become a decision."""

from dataclasses import dataclass, replace

from manyhot.toolkit.choose.cross_fit import Rule, choose_tau, fixed
from manyhot.toolkit.choose.offsets import choose_label_offsets, choose_offset
from manyhot.toolkit.config import Config, default_loss, hears_neighbours
from manyhot.toolkit.errors import InputError


@dataclass(frozen=True)
class Method:
    """A loss, the rule that makes a decision of its logits, and whether nearest training rows have a vote in these."""

    name: str
    loss: str
    rule: Rule
    what: str
    ours: bool = False
    neighbours: bool = False


PLAIN = fixed(0.0)
# Those with the same loss stand together: they share its fits. BCE's prior enters by the bias too (see cross_fit), so
# that it needs no fit of its own.
METHODS = (
    Method("zlpr", "zlpr", PLAIN, "ZLPR, s > 0", ours=True),
    Method("zlpr+prior", "zlpr", choose_tau, "ZLPR with prior, the default of networks", ours=True),
    Method(
        *("zlpr+prior+neighbours", "zlpr", choose_tau),
        "ZLPR with prior and votes of nearest rows",
        ours=True,
        neighbours=True,
    ),
    Method("subset", "subset", PLAIN, "softmax over label sets, sizes learned, s > 0", ours=True),
    Method("subset+prior", "subset", choose_tau, "softmax over label sets, sizes learned, with prior", ours=True),
    Method("bce", "bce", PLAIN, "binary cross-entropy, threshold .5"),
    Method("bce+prior", "bce", choose_tau, "binary cross-entropy with prior"),
    Method(
        *("bce+prior+neighbours", "bce", choose_tau),
        "binary cross-entropy with prior and votes of nearest rows, the default of linear models",
        ours=True,
        neighbours=True,
    ),
    Method("bce+threshold", "bce", choose_offset, "binary cross-entropy, one threshold tuned for all labels"),
    Method(
        "bce+label-thresholds", "bce", choose_label_offsets, "binary cross-entropy, a threshold tuned for each label"
    ),
    Method("bce+pos_weight", "bce+pos_weight", PLAIN, "binary cross-entropy, positives weighted by how rare they are"),
    Method("focal", "focal", PLAIN, "focal loss"),
    Method("asymmetric", "asymmetric", PLAIN, "asymmetric loss (ASL)"),
    Method("two-way", "two-way", PLAIN, "two-way loss"),
)
NAMES = tuple(method.name for method in METHODS)
OUTER_FOLDS = 3


@dataclass(frozen=True)
class Comparison:
    """What is compared: how to read the data, methods by name, folds where there are no test rows, and seeds."""

    config: Config
    methods: tuple[str, ...] = NAMES
    folds: int = OUTER_FOLDS
    seeds: int = 1

    @property
    def default(self) -> str:
        """What `manyhot train` would do."""
        config = self.config
        loss = default_loss(config.task, config.model, fine_tune=config.fine_tune)
        return f"{loss}+prior" + "+neighbours" * hears_neighbours(kept_nowhere(config))


def kept_nowhere(config: Config) -> Config:
    """Return what a comparison fits by: it keeps no model, so that --no-rows is about its report alone."""
    return replace(config, no_rows=False)


def make_comparison(config: Config, losses: str | None, folds: int, seeds: int) -> Comparison:
    """Check what is asked for.

    Raises:
        InputError: a method of no such name, a number out of range, a task or model that is not compared.
    """
    votes = hears_neighbours(kept_nowhere(config))
    having = {method.name for method in METHODS if votes or not method.neighbours}
    names = (
        tuple(name for name in NAMES if name in having)
        if losses is None
        else tuple(dict.fromkeys(name.strip() for name in losses.split(",")))
    )
    if wrong := [name for name in names if name not in NAMES]:
        raise InputError(f"--losses expects some of {', '.join(NAMES)}, commas between; got {wrong[0]!r}.")
    if config.task == "multilabel" and (wrong := [name for name in names if name not in having]):
        without = "a comparison without them" if config.model == "linear" else f"--model {config.model}"
        raise InputError(f"{wrong[0]} has votes of training rows beside a linear model; got {without}. Leave it out.")
    if config.task != "multilabel":
        raise InputError(
            f"compare expects --task multilabel, spans or relations; got {config.task!r}. "
            "Use manyhot train --loss NAME."
        )
    if config.fine_tune:
        raise InputError("compare expects --model linear, mlp or a frozen encoder; leave fine_tune out.")
    if config.tau != "auto":
        raise InputError("tau is what compare chooses; leave it out, or use manyhot train --tau X.")
    if config.decision != "f1":
        raise InputError(
            "decision is what compare compares; leave it out, or use manyhot train --decision cardinality."
        )
    if config.weights == "sparse":
        raise InputError("weights sparse is of manyhot train: compare measures all logits; leave weights out.")
    for option, value, low in (("folds", folds, 2), ("seeds", seeds, 1)):
        if value < low:
            raise InputError(f"--{option} expects a number of {low} or more; got {value}.")
    return Comparison(config, tuple(name for name in NAMES if name in names), folds, seeds)
