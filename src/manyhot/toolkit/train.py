"""Training from a file to a run folder: read, choose by held-out rows, fit on all rows, measure, write."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save as save_tensors
from torch import Tensor

from manyhot.labels import cardinality_range, label_counts, label_prior
from manyhot.losses.baselines import asymmetric_loss, bce_loss, focal_loss, tversky_loss, two_way_loss
from manyhot.losses.multiway import multiway_loss
from manyhot.losses.smooth import f_weighted_bce_loss, smooth_accuracy_loss, smooth_f_loss
from manyhot.losses.subset import subset_loss
from manyhot.losses.zlpr import zlpr_loss
from manyhot.toolkit.columns import Columns, find_columns
from manyhot.toolkit.config import WITHOUT_PRIOR, Config, check_loss
from manyhot.toolkit.cross_fit import Choice, Fold, Step, choose, make_folds, prior_logits
from manyhot.toolkit.data import InputError, Matrix, files_of, read_file, read_label_names
from manyhot.toolkit.evaluate import align
from manyhot.toolkit.examples import (
    Examples,
    check_one_class,
    check_trainable,
    drop_unlabelled,
    examples_from_frame,
    examples_from_matrix,
    read_examples,
)
from manyhot.toolkit.features import DesignMatrix, Features
from manyhot.toolkit.model import Linear, Loss, Plan, fit_linear, plan
from manyhot.toolkit.predict import Run
from manyhot.toolkit.run_folder import check_free, free_path, provenance, to_json, write_run


def _bce(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")


def _zlpr(logits: Tensor, targets: Tensor) -> Tensor:
    return zlpr_loss(logits, targets, reduction="sum")


def _subset(logits: Tensor, targets: Tensor, *, smallest: int = 0, largest: int = 0) -> Tensor:
    # Rows of --valid may have fewer or more labels than any row of training; then the range is theirs too.
    sizes = targets.sum(1)
    low, high = min(smallest, int(sizes.min())), max(largest, int(sizes.max()))
    return subset_loss(logits, targets, min_labels=low, max_labels=high, reduction="sum")


def _ce(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, _ids(targets), reduction="sum")


def _multiway(logits: Tensor, targets: Tensor) -> Tensor:
    """Take all rows as one sum, scaled by a constant to start where cross-entropy does: C means about the same."""
    rows, classes = targets.shape
    at_zero = (classes - 1) * targets.sum(0).log1p().sum()
    return multiway_loss(logits, _ids(targets)) * (rows * math.log(classes) / at_zero)


def _ids(targets: Tensor) -> Tensor:
    return targets.to(torch.uint8).argmax(1)


# (logits, targets) to the sum over rows, by the names of --loss. A prior of ZLPR or of classes enters by the bias: see
# cross_fit.
LOSSES: dict[str, Loss] = {
    "zlpr": _zlpr,
    "bce": _bce,
    "subset": _subset,
    "bce+prior": partial(bce_loss, reduction="sum"),
    "bce+pos_weight": partial(bce_loss, reduction="sum"),
    "focal": partial(focal_loss, reduction="sum"),
    "asymmetric": partial(asymmetric_loss, reduction="sum"),
    "dice": partial(tversky_loss, reduction="sum"),
    "two-way": partial(two_way_loss, reduction="sum"),
    "smooth-accuracy": partial(smooth_accuracy_loss, reduction="sum"),
    "smooth-f1": partial(smooth_f_loss, reduction="sum"),
    "f1-bce": partial(f_weighted_bce_loss, reduction="sum"),
    "ce": _ce,
    "ce+prior": _ce,
    "multiway": _multiway,
}


def _prior(targets: np.ndarray) -> Tensor:
    return torch.from_numpy(label_prior(targets))


# What some of them take from the training rows: how frequent labels are, or how many a row has.
FROM_TARGETS: dict[str, Callable[[np.ndarray], dict[str, Any]]] = {
    "bce+prior": lambda targets: {"prior": _prior(targets)},
    "bce+pos_weight": lambda targets: {"pos_weight": (1 - _prior(targets)) / _prior(targets)},
    "subset": lambda targets: {"smallest": int(targets.sum(1).min()), "largest": int(targets.sum(1).max())},
}


def loss_of(name: str, targets: np.ndarray) -> Loss:
    """Return the loss of a name for these training rows."""
    return partial(LOSSES[name], **FROM_TARGETS[name](targets)) if name in FROM_TARGETS else LOSSES[name]


@dataclass(frozen=True)
class Training:
    """What was read: the rows to learn from and the rows to measure on."""

    train: Examples
    valid: Examples | None
    test: Examples | None
    columns: Columns
    rows: dict[str, int]  # of each file, before any is dropped
    said: list[str]


@dataclass(frozen=True)
class Listener:
    """What hears of progress; the command prints it, tests and Python callers may ignore it."""

    say: Callable[[str], None] = lambda text: None
    warn: Callable[[str], None] = lambda text: None
    on_step: Callable[[Step], None] = lambda step: None
    progress: Callable[[str, int, float], None] = lambda what, step, value: None


@dataclass(frozen=True)
class Trained:
    """What training gives: the run in memory, its place, its numbers."""

    run: Run
    path: Path | None
    metrics: dict[str, Any]


def train(config: Config, listener: Listener = Listener(), *, dry_run: bool = False) -> Trained | None:
    """Train as the config says and write a run folder; None after a dry run, which reads, plans and says.

    Raises:
        InputError: bad input; nothing is written.
        OSError: the disk is full or refuses; nothing is left behind.
    """
    started = time.monotonic()
    check_loss(config)
    path = Path(config.out) if config.out else free_path(config.data)
    if not dry_run:
        check_free(path)
    training = read(config)
    for sentence in training.said:
        listener.say(sentence)
    features = Features.fit(training.train)
    targets = training.train.targets.toarray()
    memory = plan(training.train.rows, features.size, targets.shape[1])
    listener.say(f"model: linear on {features.describe()}; {memory.describe()}")
    if dry_run:
        return None
    run, step, steps = fit(config, training, features, targets, memory, listener)

    metrics: dict[str, Any] = {"valid" if training.valid else "cross_fitted": step.metrics} if step else {}
    if training.test is not None:
        metrics["test"], notes = run.evaluate_examples(training.test)
        for note in notes:
            listener.warn(note)
    inputs = [(part, rows) for file, rows in training.rows.items() for part in files_of(file)]
    if config.label_names:
        inputs.append((Path(config.label_names), len(run.label_names)))
    origin = provenance(inputs, seed=config.seed, seconds=time.monotonic() - started)
    if not config.out and path.exists():  # another run took the name meanwhile
        path = free_path(config.data)
    write_run(path, run_files(run, config, metrics, steps, origin))
    return Trained(run, path, metrics)


def read(config: Config) -> Training:
    """Read every file of a run before any work is done, and say what is in them."""
    names = read_label_names(config.label_names) if config.label_names else None
    raw, source = read_file(config.data), Path(config.data).name
    if isinstance(raw, Matrix):
        columns, said = Columns(label_format="matrix"), []
        examples = examples_from_matrix(raw, source)
    else:
        columns, said = find_columns(
            raw,
            source,
            text=config.text,
            features=config.features,
            labels=config.labels,
            label_sep=config.label_sep,
            label_names=names,
            one_class=config.task == "multiclass",
        )
        examples = examples_from_frame(raw, columns, source, label_names=names)
    parts = {
        part: read_examples(file, columns, label_names=examples.label_names if columns.label_format == "ids" else None)
        for part, file in (("valid", config.valid), ("test", config.test))
        if file is not None
    }
    rows = {config.data: examples.rows}
    rows |= {file: parts[part].rows for part, file in (("valid", config.valid), ("test", config.test)) if file}
    dropped = 0
    if config.drop_unlabelled:
        examples, dropped = drop_unlabelled(examples)
        for part, given in parts.items():
            labelled, _ = drop_unlabelled(given)
            if not labelled.rows:
                raise InputError(
                    f"{given.source}: expected at least one row with labels, got none; name another --{part} file."
                )
            # The test file is cut, and the count said, where it is measured.
            parts[part] = labelled if part == "valid" else given
    check_trainable(examples)
    if config.task == "multiclass":
        for part in (examples, *parts.values()):
            # The test file's rows without a class are left out where it is measured.
            check_one_class(drop_unlabelled(part)[0] if config.drop_unlabelled else part)
    said.append(describe(examples, dropped, multiclass=config.task == "multiclass"))
    return Training(examples, parts.get("valid"), parts.get("test"), columns, rows, said)


def describe(examples: Examples, dropped: int, *, multiclass: bool = False) -> str:
    """Write the first line about the data: rows, labels, labels a row, rows without labels, rare labels."""
    sizes, counts = np.diff(examples.targets.indptr), label_counts(examples.targets)
    empty = int((sizes == 0).sum())
    unlabelled = f"{dropped:,} rows without labels dropped" if dropped else f"{empty:,} rows without labels"
    rare, unseen = int(((counts > 0) & (counts < 9)).sum()), int((counts == 0).sum())
    if multiclass:
        return (
            f"{examples.rows:,} rows, {len(counts):,} classes of {int(counts[counts > 0].min()):,} to "
            f"{int(counts.max()):,} rows, {rare:,} classes seen < 9 times"
            + (f", {dropped:,} rows without a class dropped" if dropped else "")
        )
    return (
        f"{examples.rows:,} rows, {len(counts):,} labels, {sizes.mean():.2f} labels a row "
        f"({sizes.min()} to {sizes.max()}), {unlabelled}, {rare:,} labels seen < 9 times"
        + (f", {unseen:,} never seen" if unseen else "")
    )


def fit(
    config: Config, training: Training, features: Features, targets: np.ndarray, memory: Plan, listener: Listener
) -> tuple[Run, Step | None, list[Step]]:
    """Choose C and tau by held-out rows, then fit on all training rows.

    Returns:
        The run, the step that was chosen, and every step tried; no step where nothing was to be chosen or measured.
    """
    loss = loss_of(config.loss, targets)
    X = features.transform(training.train)
    cardinality, counts = cardinality_range(training.train.targets), label_counts(training.train.targets)
    run = Run(
        features=features,
        model=Linear(torch.empty(0), torch.empty(0)),
        columns=training.columns,
        label_names=training.train.label_names,
        train_counts=counts,
        cardinality=cardinality,
        drop_unlabelled=config.drop_unlabelled,
        info={},
        task=config.task,
    )
    multiclass = config.task == "multiclass"
    strength = 0.0 if config.loss in WITHOUT_PRIOR else config.tau
    steps: list[Step] = []

    def on_step(step: Step) -> None:
        steps.append(step)
        listener.on_step(step)

    choice: Choice | None = None
    if "auto" in (config.C, strength) or training.valid is not None:
        choice = choose(
            folds_of(training, X, targets, features, config.seed, listener, multiclass=multiclass),
            loss=loss,
            C=config.C,
            tau=strength,
            cardinality=cardinality,
            train_counts=counts,
            solver=memory.solver,
            seed=config.seed,
            multiclass=multiclass,
            on_step=on_step,
            progress=listener.progress,
        )
    step = choice.step if choice else None
    C, tau, offset = (step.C, step.tau, step.offset) if step else (float(config.C), float(strength), 0.0)
    model = fit_linear(
        X,
        torch.from_numpy(targets),
        loss=loss,
        C=C,
        solver=memory.solver,
        start=choice.start if choice else None,
        max_iter=config.max_iter,
        seed=config.seed,
        progress=lambda n, value: listener.progress(f"C {C:g}, all rows", n, value),
    )
    # Training with the prior and a free bias is training without it and lowering the bias: see cross_fit.
    run.model = Linear(model.weight, model.bias - tau * torch.from_numpy(prior_logits(targets, multiclass)) + offset)
    run.info = {"loss": config.loss, "C": C, "tau": tau, "offset": offset, "solver": memory.solver}
    return run, step, steps


def folds_of(
    training: Training,
    X: DesignMatrix,
    targets: np.ndarray,
    features: Features,
    seed: int,
    listener: Listener,
    *,
    multiclass: bool = False,
) -> list[Fold]:
    """Hold out the rows of --valid, or else each third of the training rows once."""
    if training.valid is None:
        return make_folds(X, targets, seed)
    held = align(training.valid.targets, training.valid.label_names, training.train.label_names)
    X_held, targets_held = features.transform(training.valid), held.known
    if multiclass and held.unknown_names:
        # A row of an unknown class has no class to compare with.
        known = targets_held.any(1)
        if not known.any():
            raise InputError(
                f"{training.valid.source}: expected classes of the training file, got only others; name another --valid"
            )
        listener.warn(f"{int((~known).sum()):,} rows of --valid left out: their class is unknown to the run")
        X_held, targets_held = X_held[known], targets_held[known]
    elif warning := held.warning():
        listener.warn(warning)
    return [Fold(X, targets, X_held, targets_held)]


def run_files(
    run: Run, config: Config, metrics: dict[str, Any], steps: list[Step], origin: dict[str, Any]
) -> dict[str, bytes]:
    """Lay out a run as files: weights as safetensors, everything else as text."""
    state, arrays = run.features.state()
    terms = [block.pop("terms") for block in state["text"]]
    arrays |= {"weight": run.model.weight.numpy(), "bias": run.model.bias.numpy()}
    described = {
        "model": "linear",
        "task": run.task,
        "chosen": run.info,
        "cardinality": run.cardinality._asdict(),
        "drop_unlabelled": run.drop_unlabelled,
        "columns": asdict(run.columns),
        "features": state,
        "labels": [
            {"name": name, "rows": int(rows)} for name, rows in zip(run.label_names, run.train_counts, strict=True)
        ],
    }
    log = [
        json.dumps({"C": s.C, "tau": s.tau, "offset": s.offset, "loss": s.loss, "score": s.score, **s.metrics})
        for s in steps
    ]
    return {
        "config.toml": config.to_toml().encode(),
        "log.jsonl": "".join(line + "\n" for line in log).encode(),
        "metrics.json": to_json(metrics),
        "model.safetensors": save_tensors({name: np.ascontiguousarray(value) for name, value in arrays.items()}),
        "provenance.json": to_json(origin),
        "run.json": to_json(described),
        "terms.json": to_json(terms),
    }
