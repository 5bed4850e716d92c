"""What a training run was asked to do: options, a TOML file, `--set` pairs, all checked in one place."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypedDict

import tomli_w

from manyhot.toolkit.errors import InputError, first_line, shown
from manyhot.toolkit.parse import parse_toml
from manyhot.toolkit.plain_files import MOST_TEXT, read_plain

# The rivals after the three that are meant to be used; losses/baselines.py and smooth.py say what each is.
LABEL_LOSSES = (
    *("zlpr", "bce", "subset", "bce+prior", "bce+pos_weight", "focal", "asymmetric", "dice", "two-way"),
    *("smooth-accuracy", "smooth-f1", "f1-bce"),
)
# ZLPR for spans, and its rivals: BCE as people write it, BCE from the prior, and focal loss from the prior.
SPAN_LOSSES = ("zlpr", "bce", "bce+bias", "focal")
# What a row has, and the losses for it, the default first: any set of labels, exactly one class, marked spans, or
# spans and what holds between them.
TASKS = {
    "multilabel": LABEL_LOSSES,
    "multiclass": ("ce+prior", "ce", "multiway"),
    "spans": SPAN_LOSSES,
    "relations": SPAN_LOSSES,
}
# Tasks on marked texts, and not on tables.
MARKED_TEXTS = ("spans", "relations")
# What reading spans leaves open, the default first.
CHOICES = {
    "nested": ("auto", "yes", "no"),
    "tokens": ("auto", "characters"),
    "end": ("exclusive", "inclusive"),
    "format": ("auto", "columns"),
}
# Options of spans alone, and of tables alone: columns, and what spans choose in another way.
OF_SPANS = (*CHOICES, "tags")
# Options of networks, those of tables or of spans.
OF_NETWORKS = ("rate", "epochs")
# How relations are scored, the default first.
DESIGNS = ("gplinker", "cascade")
OF_TABLES = (
    *("text", "features", "labels", "num_labels", "label_sep", "no_header", "encoding", "join"),
    *("uncertain", "fine_tune", "long", "words", "neighbours", "characters", "kernel", "tau", "decision", "C"),
    *("max_iter", "weights", "propensity", "from_run"),
)
# What -1 says in a label column, where it does not say that nobody knows.
UNCERTAIN = ("negative", "positive")
# What tau and the offset aim at; and after PROMISE a precision, which each label has a threshold for.
DECISIONS = ("f1", "cardinality")
PROMISE = "precision="
# What --from keeps of its run: giving one of these options again is an error.
KEPT = (
    *("text", "features", "labels", "num_labels", "label_sep", "label_names", "no_header", "uncertain"),
    *("task", "model"),
)
WITHOUT_PRIOR = ("ce", "multiway")
TABLES = ("linear", "mlp", "encoder:NAME_OR_DIR")
# The models of a task, the default first.
NETWORKS = ("cnn", "encoder:NAME_OR_DIR")
MODELS = {"multilabel": TABLES, "multiclass": TABLES, "spans": NETWORKS, "relations": NETWORKS}
# What is there unless it is turned off: votes of training rows, parts of words, columns of a kernel.
SWITCHES = ("neighbours", "characters", "kernel")
# Of linear models: sparse, fitted by blocks of labels, where rows x labels are very many; or as asked.
WEIGHTS = ("auto", "sparse", "dense")
# Losses for which targets may stay lists, of linear models and of networks.
LOSSES_OF_LISTS = {"linear": ("bce",), "network": ("bce", "zlpr")}
# A text longer than an encoder takes is cut off, or read in pieces whose numbers are averaged.
LONG = ("cut", "mean")
DEVICES = ("auto", "cpu", "cuda")
Auto = Literal["auto"]


@dataclass(frozen=True)
class Config:
    """The options of `manyhot train`; a run's config.toml holds all of them but `out`."""

    data: str = ""
    from_run: str | None = None
    test: str | None = None
    valid: str | None = None
    text: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    num_labels: int | None = None
    label_sep: str | None = None
    label_names: str | None = None
    no_header: bool = False
    split_column: str | None = None
    group: str | None = None
    uncertain: str | None = None
    drop_unlabelled: bool = False
    join: bool = False
    encoding: str | None = None
    task: str = "multilabel"
    model: str = "linear"
    device: str = "auto"
    fine_tune: bool = False
    long: str = "cut"
    words: bool = True
    neighbours: str = "auto"
    characters: str = "auto"
    kernel: str = "auto"
    loss: str = "bce"
    tau: float | Auto = "auto"
    decision: str = "f1"
    C: float | Auto = "auto"
    max_iter: int = 60
    weights: str = "auto"
    propensity: tuple[float, float] = (0.55, 1.5)
    nested: str = "auto"
    tokens: str = "auto"
    end: str = "exclusive"
    format: str = "auto"
    tags: tuple[int, ...] | None = None
    rate: float | Auto = "auto"
    epochs: int | Auto = "auto"
    design: str = "gplinker"
    seed: int = 0
    no_rows: bool = False
    out: str | None = None

    def __post_init__(self) -> None:
        """Refuse text that no file can hold: it is written into the run."""
        for field in fields(self):
            value = getattr(self, field.name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and ("\0" in text or any("\ud800" <= mark <= "\udfff" for mark in text)):
                    raise InputError(
                        f"{field.name} expects text that is UTF-8 and has no NUL; got {shown(text)}. Rename the "
                        "file, or choose another."
                    )

    def to_toml(self) -> str:
        """Write what repeats the run. `out` is left out: a repeated run gets a folder of its own."""
        others = _not_of(self)
        said = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if v is not None}
        return tomli_w.dumps({k: v for k, v in said.items() if k not in ("out", *others)})


def make_config(file: str | None, pairs: Iterable[str], options: Mapping[str, Any]) -> Config:
    """Merge a config file, `KEY=VALUE` pairs and options; the later wins, an option that is None says nothing.

    Raises:
        InputError: a file that is missing or no TOML, an unknown key, a value of the wrong type or range, no DATA.
    """
    merged: dict[str, Any] = {}
    if from_run := options.get("from_run"):
        for key in KEPT:
            if options.get(key) is not None:
                raise InputError(f"{key} is kept by --from {from_run}; leave --{key.replace('_', '-')} out.")
        merged.update(_read_config(str(Path(from_run) / "config.toml"), "a run folder with --from"))
        for key in ("data", "test", "valid", "C"):
            merged.pop(key, None)
    if file is not None:
        merged.update(_read_config(file, "a config file"))
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--set expects KEY=VALUE, such as --set C=10; got {shown(pair)}.")
        merged[key.strip()] = _parsed(value.strip())
    merged.update({key: value for key, value in options.items() if value is not None})
    known = {field.name for field in fields(Config)}
    for key in merged:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise InputError(f"{shown(key)} is no option of train.{hint} Known: {', '.join(sorted(known))}.")
    return _checked(merged)


def _read_config(file: str, what: str) -> dict[str, Any]:
    try:
        return parse_toml(read_plain(Path(file), MOST_TEXT))
    except OSError as error:
        raise InputError(f"{file}: expected {what}; {error.strerror or error}.") from None
    except ValueError as error:
        raise InputError(f"{file}: expected TOML such as a run's config.toml; {first_line(error)}.") from None


def _parsed(text: str) -> Any:
    """Read a value as TOML would, and as a plain string where it would not."""
    try:
        return parse_toml(f"value = {text}")["value"]
    except (ValueError, KeyError):
        return text


def _checked(merged: dict[str, Any]) -> Config:
    for key in ("text", "features", "labels"):
        if key in merged:
            merged[key] = _names(key, merged[key])
    texts = ("data", "test", "valid", "label_sep", "label_names", "split_column", "group", "uncertain", "encoding")
    of_model = ("task", "model", "device", "long", "loss", "decision", "design", "from_run", "out")
    of_model += (*CHOICES, *SWITCHES, "weights")
    for key in SWITCHES:
        if isinstance(merged.get(key), bool):  # true and false say it too
            merged[key] = "auto" if merged[key] else "off"
    for key in (*texts, *of_model):
        if key in merged and not isinstance(merged[key], str):
            raise InputError(f"{key} expects text; got {shown(merged[key])}.")
    for key in ("drop_unlabelled", "join", "no_header", "no_rows", "fine_tune", "words"):
        if not isinstance(merged.get(key, False), bool):
            raise InputError(f"{key} expects true or false; got {shown(merged[key])}.")
    for key in ("test", "valid"):
        if key in merged and "split_column" in merged:
            raise InputError(f"split_column says which rows are {key} rows; leave --{key} out, or the column.")
    if "group" in merged and merged["group"] == merged.get("split_column"):
        raise InputError("group and split_column expect two columns; got the same one for both.")
    if merged.get("uncertain", "negative") not in UNCERTAIN:
        raise InputError(
            f"uncertain expects {' or '.join(UNCERTAIN)}, what -1 says in a label column; got "
            f"{shown(merged['uncertain'])}. Leave it out where -1 says that nobody knows."
        )
    number = merged.get("num_labels", 1)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < abs(number) < 2**32:
        raise InputError(
            "num_labels expects a whole number, such as 6 where the first six columns are labels, -6 where the last "
            f"six are; got {shown(number)}."
        )
    if "num_labels" in merged and "labels" in merged:
        raise InputError("labels names the columns that num_labels counts off; give one of them.")
    for key, low in (("seed", 0), ("max_iter", 1)):
        value = merged.get(key, low)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value < 2**32:
            raise InputError(f"{key} expects a whole number of {low} or more; got {shown(value)}.")
    if "tau" in merged:
        merged["tau"] = _number(
            "tau", merged["tau"], 0, 100, "0 or more, such as 1 (the full prior is between 1 and 2)"
        )
    if "rate" in merged:
        merged["rate"] = _number("rate", merged["rate"], 1e-12, 100, "above 0, of learning, such as 2e-3")
    epochs = merged.get("epochs", "auto")
    if epochs != "auto" and (not isinstance(epochs, int) or isinstance(epochs, bool) or not 1 <= epochs < 2**32):
        raise InputError(
            f"epochs expects auto or a whole number of 1 or more, the most there are; got {shown(epochs)}."
        )
    if "C" in merged:
        merged["C"] = _number("C", merged["C"], 1e-12, 1e12, "above 0; the larger, the weaker the penalty on weights")
    if "propensity" in merged:
        merged["propensity"] = _propensity(merged["propensity"])
    task = merged.get("task", "multilabel")
    if task not in TASKS:
        raise InputError(f"task expects one of {', '.join(TASKS)}; got {shown(task)}.")
    merged.setdefault("model", MODELS[task][0])
    merged.setdefault("loss", default_loss(task, merged["model"], fine_tune=merged.get("fine_tune", False)))
    if "tags" in merged:
        merged["tags"] = _columns(merged["tags"])
    if not merged.get("data"):
        raise InputError('train expects a data file: manyhot train DATA, or --config FILE with a line data = "...".')
    config = Config(**merged)
    check_task(config)
    check_loss(config)
    check_model(config)
    return config


def default_loss(task: str, model: str, *, fine_tune: bool = False) -> str:
    """Return the loss of a task where none is asked for.

    Linear models of label sets take binary cross-entropy: with prior, offset and votes of nearest rows it was ahead of
    ZLPR on 18 of 21 sets of training rows, by 0.27 points (standard error 0.10), and it takes a fifth of the time, as
    each label is a problem of its own (benchmarks/pieces.py). Networks, and spans, take ZLPR.
    """
    network = model == "mlp" or fine_tune
    return "bce" if task == "multilabel" and not network else TASKS[task][0]


class Blocks(TypedDict):
    """Which blocks stand beside words and numbers: options of :meth:`Features.fit_transform`."""

    characters: bool
    kernel: bool


def blocks_of(config: Config) -> Blocks:
    """Say which blocks stand beside words and numbers.

    They were measured for the linear model on label sets. Landmarks of a kernel are rows of the training table, and so
    are left out with the others.
    """
    measured = config.model == "linear" and config.task == "multilabel"
    rows = config.neighbours != "off" and not config.no_rows
    return {
        "characters": measured and config.characters != "off",
        "kernel": measured and config.kernel != "off" and rows,
    }


def hears_neighbours(config: Config) -> bool:
    """Say whether the training rows most like a row have a vote beside the model.

    They were measured for the linear model on label sets. A blend is on the scale of log-odds, where a strength of the
    prior that was given for the logits of a loss means something else.
    """
    measured = config.model == "linear" and config.task == "multilabel"
    return measured and config.tau == "auto" and config.neighbours != "off" and not config.no_rows


def is_network(config: Config) -> bool:
    """Say whether a table gets a network, and no linear model."""
    return config.model == "mlp" or config.fine_tune


def takes_lists(config: Config) -> bool:
    """Say whether very many labels can stay lists: in blocks of labels with sparse weights, or in a network.

    In a linear model only of binary cross-entropy is a label a problem of its own; the last layer of a network has
    ZLPR too without its logits. A promise is read off the logits of all rows.
    """
    losses = LOSSES_OF_LISTS["network" if is_network(config) else "linear"]
    return config.task == "multilabel" and config.loss in losses and promised_precision(config) is None


def check_task(config: Config) -> None:
    """Refuse options that the task has no use for, and values of its own that are none.

    Raises:
        InputError: says what to leave out, or which values there are.
    """
    for key, values in CHOICES.items():
        if (value := getattr(config, key)) not in values:
            raise InputError(f"{key} expects one of {', '.join(values)}; got {shown(value)}.")
    if config.design not in DESIGNS:
        raise InputError(f"design expects one of {', '.join(DESIGNS)}; got {shown(config.design)}.")
    for key in _not_of(config):
        if (value := getattr(config, key)) != getattr(Config, key):
            said = f"not of --task {config.task}" if config.task in MARKED_TEXTS else "of --task spans"
            if key == "design":
                said = "of --task relations"
            if key in OF_NETWORKS:
                said = "of networks: --model mlp, an encoder with fine_tune, and spans"
            raise InputError(f"{key} is {said}; got {shown(value)}. Leave it out.")


def _not_of(config: Config) -> tuple[str, ...]:
    """Return the options that a task, or a model of tables, has no use for."""
    others = ("design",) * (config.task != "relations")
    if config.task in MARKED_TEXTS:
        return others + OF_TABLES
    return others + OF_SPANS + (() if is_network(config) else OF_NETWORKS)


def check_loss(config: Config) -> None:
    """Refuse a loss that is not for the task, and a strength of the prior for a loss without one.

    Raises:
        InputError: says which losses the task has.
    """
    losses = TASKS[config.task]
    if config.loss not in losses:
        others = [task for task, names in TASKS.items() if config.loss in names]
        hint = f"; {config.loss} goes with --task {others[0]}" if others else ""
        of_task = "" if config.task == "multilabel" else f" for --task {config.task}"
        raise InputError(f"loss expects one of {', '.join(losses)}{of_task}; got {shown(config.loss)}{hint}.")
    promised = promised_precision(config)
    if config.decision not in DECISIONS and promised is None:
        raise InputError(
            f"decision expects one of {', '.join(DECISIONS)}, or {PROMISE}P with P above 0 and below 1, such as "
            f"{PROMISE}0.9; got {shown(config.decision)}."
        )
    if promised is not None and config.task == "multiclass":
        raise InputError("decision precision=... leaves rows without labels, and --task multiclass gives each row one.")
    if config.decision == "cardinality" and (config.tau != "auto" or config.task == "multiclass"):
        other = "--task multiclass" if config.task == "multiclass" else f"--tau {config.tau:g}"
        raise InputError(
            f"decision {config.decision} is about how many labels tau and an offset give, and {other} leaves nothing "
            "to choose; leave one of them out."
        )
    if config.loss in WITHOUT_PRIOR and config.tau not in ("auto", 0):
        raise InputError(
            f"tau is the strength of the prior, and --loss {config.loss} has none; got {shown(config.tau)}. "
            "Use --loss ce+prior, or leave tau out."
        )


def promised_precision(config: Config) -> float | None:
    """Return the precision of --decision precision=P; None of other decisions, and of what is no such number."""
    if not config.decision.startswith(PROMISE):
        return None
    try:
        precision = float(config.decision.removeprefix(PROMISE))
    except ValueError:
        return None
    return precision if 0 < precision < 1 else None


def check_model(config: Config) -> None:
    """Refuse a model or a device of no such name, and what the model has no use for.

    Raises:
        InputError: says which there are, or what to leave out.
    """
    kind, _, folder = config.model.partition(":")
    models = MODELS[config.task]
    if config.model not in [name for name in models if ":" not in name] and not (kind == "encoder" and folder):
        others = [task for task, names in MODELS.items() if config.model in names]
        hint = f"; {config.model} goes with --task {others[0]}" if others else ""
        raise InputError(f"model expects one of {', '.join(models)}; got {shown(config.model)}{hint}.")
    if config.fine_tune and kind != "encoder":
        raise InputError("fine_tune is of --model encoder:NAME_OR_DIR; leave it out, or name an encoder.")
    if config.long not in LONG:
        raise InputError(f"long expects one of {', '.join(LONG)}; got {shown(config.long)}.")
    if config.long != "cut" and (kind != "encoder" or config.fine_tune):
        raise InputError(f"long {config.long} is of a frozen --model encoder:NAME_OR_DIR; leave it out.")
    if not config.words and (kind != "encoder" or config.fine_tune):
        raise InputError("words=false is of a frozen --model encoder:NAME_OR_DIR; without one, words are all there is.")
    for key in SWITCHES:
        if (value := getattr(config, key)) not in ("auto", "off"):
            raise InputError(f"{key} expects auto or off; got {value!r}.")
    if config.weights not in WEIGHTS:
        raise InputError(f"weights expects one of {', '.join(WEIGHTS)}; got {shown(config.weights)}.")
    if config.weights != "auto" and is_network(config):
        raise InputError(f"weights {config.weights} is of the linear model on label sets; leave weights out.")
    if config.weights == "sparse" and not takes_lists(config):
        raise InputError(
            "weights sparse is of the linear model on label sets, with --loss bce and no --decision precision=...; "
            "leave these out, or weights."
        )
    if config.device not in DEVICES:
        raise InputError(f"device expects one of {', '.join(DEVICES)}; got {shown(config.device)}.")
    if config.task in MARKED_TEXTS:
        return
    if config.model == "linear":
        if config.device == "cuda":
            raise InputError("the linear model is fitted on the CPU; leave --device out, or use --model mlp.")
    if config.model == "linear" or (kind == "encoder" and not config.fine_tune):
        return
    for key, default in (("C", "auto"), ("max_iter", Config.max_iter)):
        if (value := getattr(config, key)) != default:
            raise InputError(
                f"{key} is of the linear model, and {'fine_tune' if folder else '--model mlp'} has none: dropout and "
                f"early stopping are in its place; got {shown(value)}. Leave {key} out, or use --model linear."
            )


def _names(key: str, value: Any) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputError(f"{key} expects column names with commas between, such as title,text; got {shown(value)}.")
    return tuple(name.strip() for name in names)


def _columns(value: Any) -> tuple[int, ...]:
    cells = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        numbers = tuple(int(str(cell)) for cell in cells)
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 2:
        raise InputError(
            f"tags expects numbers of columns, counted from 1, the token's, such as 2,3; got {shown(value)}."
        )
    return numbers


def _propensity(value: Any) -> tuple[float, float]:
    cells = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        numbers = tuple(float(cell) for cell in cells)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if len(numbers) != 2 or not all(0 <= number <= 100 for number in numbers):
        raise InputError(
            "propensity expects A and B of Jain et al. (2016), such as 0.55,1.5, or 0.5,0.4 as of Wikipedia; got "
            f"{shown(value)}."
        )
    return numbers[0], numbers[1]


def _number(key: str, value: Any, low: float, high: float, what: str) -> float | Auto:
    if value == "auto":
        return "auto"
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if isinstance(value, bool) or not low <= number <= high:
        most = f", at most {high:g}" if number > high else ""
        raise InputError(f"{key} expects auto or a number {what}{most}; got {shown(value)}.")
    return number
