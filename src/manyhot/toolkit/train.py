"""Training from a file to a run folder: read, choose by held-out rows, fit on all rows, measure, write."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from manyhot.labels import CardinalityRange, label_counts
from manyhot.toolkit.choose.blend import Blend, blended
from manyhot.toolkit.choose.by_blocks import Parted, choose_by_blocks, fit_kept, part_rows
from manyhot.toolkit.choose.calibrate import Calibrated, calibrate
from manyhot.toolkit.choose.cross_fit import (
    STRENGTHS_TRIED,
    Choice,
    Fold,
    OneOffset,
    Step,
    choose,
    choose_tau,
    choose_tau_of_right_cardinality,
    fit_name,
    fixed,
    make_folds,
    prior_logits,
    score_by,
)
from manyhot.toolkit.choose.promised import with_promise
from manyhot.toolkit.choose.ranked_rows import calibrate_ranked
from manyhot.toolkit.config import (
    WITHOUT_PRIOR,
    Config,
    blocks_of,
    check_loss,
    hears_neighbours,
    promised_precision,
    takes_blocks,
)
from manyhot.toolkit.disk.checkpoint import NO_CHECKPOINT, Checkpoint, reserved
from manyhot.toolkit.disk.fits import Arrays, Fits, Remembered
from manyhot.toolkit.disk.run_folder import RUN, file_sha256, free_path, provenance, write_folder
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.adamw import NetLearner
from manyhot.toolkit.models.features import DesignMatrix, Features
from manyhot.toolkit.models.hub import encoder_folder
from manyhot.toolkit.models.kinds import learner_for, read_encoder
from manyhot.toolkit.models.label_blocks import BlockLearner, SparseLinear
from manyhot.toolkit.models.linear import Linear
from manyhot.toolkit.models.model import Curve, Learner, free_memory, gigabytes
from manyhot.toolkit.models.neighbours import Neighbours, affordable
from manyhot.toolkit.models.pretrained import Encoder
from manyhot.toolkit.models.processes import ALONE, Group, ToldFits
from manyhot.toolkit.models.ranked import TOP
from manyhot.toolkit.objectives import COUPLED, FORMULAS, loss_of
from manyhot.toolkit.read.data import files_of
from manyhot.toolkit.read.inputs import Kept, Training, read
from manyhot.toolkit.read.uses import Use
from manyhot.toolkit.report.findings import Judged, find, of_run
from manyhot.toolkit.report.render import render_run
from manyhot.toolkit.report.suspects import rows_shown, suspected
from manyhot.toolkit.runs.continued import continued, said_of_rows
from manyhot.toolkit.runs.drift import usual_of
from manyhot.toolkit.runs.evaluate import Aligned, align, align_sparse
from manyhot.toolkit.runs.predict import Measured, Run
from manyhot.toolkit.runs.saved_run import run_files
from manyhot.toolkit.runs.trained_rows import row_hashes

SAMPLE = 16
# Bytes a cell, row by label, at the peak of choosing C and tau: targets, those of the folds, held-out logits with prior
# and shifted, label sets, and what is made of all of them to measure.
CELL = 90
# Bytes of a feature: its mean, its scale, and what these are made from.
FEATURE = 100
# Rows x labels from which on labels are fitted in blocks.
MOST_CELLS = 10**8


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


@dataclass(frozen=True)
class Fitted:
    """A run in memory, what was chosen and by which rows, every step tried, and the calibration with its numbers.

    `curve` is that of the fit on all rows.
    """

    run: Run
    choice: Choice
    steps: list[Step]
    calibrated: Calibrated
    curve: Curve


@dataclass(frozen=True)
class Trained:
    """What training gives: the run in memory, its place, its numbers, and how many rows its report shows."""

    run: Run
    path: Path | None
    metrics: dict[str, Any]
    shown_rows: int


def train(
    config: Config,
    listener: Listener = Listener(),
    *,
    dry_run: bool = False,
    resume: bool = False,
    group: Group = ALONE,
    remember: dict[str, Arrays] | None = None,
) -> Trained | None:
    """Train as the config says and write a run folder; None after a dry run, which reads, plans and says.

    Args:
        config: what was asked for.
        listener: hears of progress.
        dry_run: write nothing.
        resume: go on from the checkpoint that an interrupted training of the same config left.
        group: the processes that train together; the first writes the run, and the others return None.
        remember: takes the results of the fits by their names, for who fits the same rows again.

    Raises:
        InputError: bad input; nothing is written.
        OSError: the disk is full or refuses; what was written before is whole.
    """
    started = time.monotonic()
    check_loss(config)
    config, before = continued(config)
    _check_group(config, group)
    if dry_run:
        _planned(config, listener, before, sample=True)
        return None
    sums = {str(file): file_sha256(file) for file in files_named(config, listener.say)}
    with _reserved_by_the_first(config, sums, group, resume=resume, say=listener.say) as (path, checkpoint):
        training, features, X, targets, learner = _planned(config, listener, before)
        if isinstance(learner, NetLearner):
            learner = replace(learner, group=group)
        fits: Fits = checkpoint if group.size == 1 else ToldFits(checkpoint, group)
        if remember is not None:
            fits = Remembered(fits, remember)
        fitted = fit(config, training, features, X, targets, learner, listener, fits)
        if not group.first:
            return None
        run = fitted.run
        metrics: dict[str, Any] = {_chosen_by(training, run): fitted.choice.step.metrics | fitted.calibrated.measured}
        if "promise" in run.info:
            hits = run.hits(fitted.choice.logits, fitted.choice.held.targets)
            metrics = {part: of | hits for part, of in metrics.items()}
        measured = None
        if training.test is not None:
            measured = run.evaluate_examples(training.test)
            metrics["test"] = measured.metrics
            for note in measured.notes:
                listener.warn(note)
        inputs = [(part, rows) for file, rows in training.rows.items() for part in files_of(file)]
        if config.label_names:
            inputs.append((Path(config.label_names), len(run.label_names)))
        origin = provenance(inputs, sums=sums, seed=config.seed, seconds=time.monotonic() - started)
        if not config.out and path.exists():  # something else took the name meanwhile
            path = free_path(config.data)
        findings = findings_of(config, training, X, fitted, measured, metrics, origin)
        files = run_files(run, config, metrics, fitted.steps, fitted.calibrated, origin, findings, render_run(findings))
        write_folder(path, files, RUN)
    return Trained(run, path, metrics, rows_shown(findings))


def cross_fitted(config: Config, listener: Listener = Listener()) -> tuple[Fitted, Training]:
    """Read and fit as :func:`train` does, and write nothing: the run, what held-out rows said, and the rows.

    Raises:
        InputError: bad input.
    """
    check_loss(config)
    config, before = continued(config)
    config = replace(config, weights="dense")
    training, features, X, targets, learner = _planned(config, listener, before)
    return fit(config, training, features, X, targets, learner, listener), training


def _check_group(config: Config, group: Group) -> None:
    """Refuse what several processes cannot train together."""
    if group.size == 1:
        return
    if config.model == "linear" or (config.model.startswith("encoder") and not config.fine_tune):
        raise InputError(
            f"{group.size} processes: expected --model mlp, or an encoder with --set fine_tune=true, got a linear "
            "model, which one process fits with all its threads; start it without torchrun"
        )
    if config.loss in COUPLED:
        raise InputError(
            f"{group.size} processes: expected a loss that is a sum over rows, got {config.loss}, which couples the "
            "rows of a batch; start it without torchrun"
        )


@contextmanager
def _reserved_by_the_first(
    config: Config, sums: dict[str, str | None], group: Group, *, resume: bool, say: Callable[[str], None]
) -> Iterator[tuple[Path, Checkpoint]]:
    """Hold the place of the run in the first process; the others write nothing."""
    if not group.first:
        yield Path(), NO_CHECKPOINT
        return
    with reserved(config, sums, resume=resume, say=say, processes=group.size) as reserved_place:
        yield reserved_place


def findings_of(
    config: Config,
    training: Training,
    X: DesignMatrix,
    fitted: Fitted,
    measured: Measured | None,
    metrics: dict[str, Any],
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Collect what a report says: of the test rows where some were measured, else of the rows that were held out."""
    run, held = fitted.run, fitted.choice.held
    if measured is not None:
        rows = np.arange(measured.examples.rows)
        judged = Judged("test", measured.examples, rows, measured.aligned, measured.logits)
    else:
        part, examples = _chosen_by(training, run), training.valid or training.train
        rows = np.arange(examples.rows) if held.rows is None else held.rows
        number = held.targets.shape[0]
        none: Any = sp.csr_array((number, 0), dtype=bool) if sp.issparse(held.targets) else np.zeros((number, 0), bool)
        aligned = Aligned(held.targets, none, [])
        judged = Judged(part, examples, rows, aligned, fitted.choice.logits, fitted.calibrated.reliability)
    seen = training.train if training.valid is None else training.valid
    found = None
    if not isinstance(run.model, SparseLinear):
        found = suspected(
            run,
            seen if held.rows is None else seen.taken(held.rows),
            held.targets,
            fitted.choice.logits,
            with_rows=not config.no_rows,
        )
    limits = None if found is None else found.limits
    return {
        **of_run(config, training.train.rows, training.said, run.info, metrics, origin),
        "features": run.features.describe(),
        "rows_held": run.rows_held,
        "rows_hashed": run.trained_rows is not None,
        "cardinality": list(run.cardinality),
        "steps": [asdict(step) for step in fitted.steps],
        # A line search may try a point where the loss is infinite, which JSON has no number for.
        "curve": {
            "losses": [loss if math.isfinite(loss) else None for loss in fitted.curve.losses],
            "scores": fitted.curve.scores,
        },
        **find(run, judged, training.train, X, with_rows=not config.no_rows, limits=limits),
        "suspects": None if found is None else found.found,
    }


def _chosen_by(training: Training, run: Run) -> str:
    """Name the rows by which penalty, prior and offset were chosen."""
    if training.valid:
        return "valid"
    return "held_out" if isinstance(run.model, SparseLinear) else "cross_fitted"


def files_named(config: Config, say: Callable[[str], None] = lambda text: None) -> list[Path]:
    """Return every file that a config names, parts by themselves, and those of an encoder, downloaded if need be."""
    named = [config.data, config.valid, config.test]
    files = [part for file in named if file for part in files_of(file)]
    kind, _, name = config.model.partition(":")
    encoder = encoder_folder(name, say).rglob("*") if kind == "encoder" else ()
    files += [Path(config.label_names)] if config.label_names else []
    return files + sorted(path for path in encoder if path.is_file())


def _planned(
    config: Config, listener: Listener, before: Run | None = None, *, sample: bool = False
) -> tuple[Training, Features, DesignMatrix, Any, Any]:
    kept = None if before is None else Kept(str(config.from_run), before.columns, before.label_names)
    training, encoder = read(config, kept), read_encoder(config, listener.say)
    listener.on_columns(training.uses)
    for sentence in training.said:
        listener.say(sentence)
    for sentence in training.warned:
        listener.warn(sentence)
    rows = training.train
    if before is not None:
        for warns, sentence in said_of_rows(before, rows):
            (listener.warn if warns else listener.say)(sentence)
    sparse = in_blocks(config, training)
    if sparse:
        listener.say(
            f"weights sparse: {rows.rows:,} rows x {len(rows.label_names):,} labels are fitted by blocks of labels, "
            f"small weights are dropped, and a row keeps its {TOP} best labels; {LACKING}"
        )
    else:
        check_cells(training, _advice(config, training))
    check_features(training)
    if encoder is None:
        options = blocks_of(config)
        options["kernel"] = options["kernel"] and not sparse
        features, X = Features.fit_transform(rows, **options)
    elif config.fine_tune:
        features, X = Features.fit_transform(rows, encoder.tokens)
    else:
        if sample:  # a plan needs no more, and numbers of all texts may take hours
            rows = rows.taken(np.arange(min(rows.rows, SAMPLE)))
        elif rows.texts is not None:
            embed(encoder, rows.texts, listener)
        features, X = Features.fit_transform(rows, encoder, words=config.words)
    if sparse:
        learner = plan_blocks(config, training, features, X)
        targets: Any = training.train.targets
    else:
        learner = plan(config, training, features, None, encoder)
        check_cells(training, _advice(config, training), beside=learner.memory.bytes)
        targets = training.train.dense_targets()
        learner = replace(learner, loss=loss_of(config.loss, targets))
    listener.detail(f"model: {config.model} on {features.describe()}; {learner.memory.describe()}")
    return training, features, X, targets, learner


# What only dense logits have.
LACKING = "it has no votes of training rows, no columns of a kernel, no labels to check and no LRAP"


def in_blocks(config: Config, training: Training, free: int | None = None) -> bool:
    """Say whether labels are fitted in blocks, with sparse targets and weights: as asked, or where they are very many.

    Raises:
        InputError: it is asked for, and label cells are unknown.
    """
    if config.weights == "dense" or not takes_blocks(config):
        return False
    unknown = [
        part.source for part in (training.train, training.valid) if part is not None and part.unknown is not None
    ]
    if config.weights == "sparse" and unknown:
        raise InputError(
            f"{unknown[0]}: expected label cells that are all known with weights sparse, got some that nobody knows; "
            "leave weights out"
        )
    count, labels = training.train.targets.shape
    free = free_memory() if free is None else free
    many = count * labels > MOST_CELLS or CELL * count * labels > free
    return not unknown and (config.weights == "sparse" or many)


def check_cells(training: Training, advice: str, *, each: int = CELL, beside: int = 0, free: int | None = None) -> None:
    """Refuse what does not fit in memory as rows x labels numbers, before any such is made.

    Args:
        training: the rows; those of --test are measured after training, with as much of each.
        advice: what else to do.
        each: bytes a cell.
        beside: bytes that are needed with them.
        free: bytes.

    Raises:
        InputError: targets, their folds and held-out logits that take more than is free.
    """
    free = free_memory() if free is None else free
    parts = [part for part in (training.train, training.valid, training.test) if part is not None]
    most, labels = max(part.rows for part in parts), len(training.train.label_names)
    needed = each * most * labels + beside
    if needed <= free:
        return
    fit = max((free - beside) // (each * most), 0)
    keep = f"keep the {fit:,} most frequent labels or fewer rows" if fit > 1 else "take fewer rows"
    raise InputError(
        f"{training.train.source}: {most:,} rows x {labels:,} labels take about {gigabytes(needed)} while C and tau "
        f"are chosen, and {gigabytes(free)} are free; {keep}, or a larger machine. {advice}"
    )


def check_features(training: Training) -> None:
    """Refuse more numbers a row than their means and scales fit in memory, before any such is made.

    Raises:
        InputError: a file that says that it has so many.
    """
    numbers, free = training.train.numbers, free_memory()
    features = 0 if numbers is None else numbers.shape[1]
    if FEATURE * features > free:
        raise InputError(
            f"{training.train.source}: {features:,} features take about {gigabytes(FEATURE * features)} as means and "
            f"scales alone, and {gigabytes(free)} are free; number those that are used from 0 on"
        )


def _advice(config: Config, training: Training) -> str:
    """Say which options would have labels fitted in blocks."""
    if takes_blocks(config) and config.weights == "auto":
        return "Where all label cells are known, labels are fitted in blocks, which takes less"
    if config.task == "multilabel" and config.model != "mlp" and not config.fine_tune:
        return "With --loss bce, without weights=dense and --decision precision=..., labels are fitted in blocks"
    return "A loss that holds no such numbers is manyhot.LinearZLPRLoss"


def embed(encoder: Encoder, texts: list[str], listener: Listener) -> None:
    """Make the numbers of texts that are not known yet, and say where they are kept."""
    what = f"numbers of {encoder.name}"
    encoder.transform(texts, lambda share: listener.progress(what, share, 0.0))
    if encoder.known is not None:
        listener.say(f"{what}: {encoder.known.describe()}")


def plan(
    config: Config,
    training: Training,
    features: Features,
    targets: np.ndarray | None,
    encoder: Encoder | None = None,
) -> Any:
    """Say how the models of a run are fitted, and what that takes.

    Without targets, which a few losses are made from, it is a plan alone: its loss is another's.

    Raises:
        InputError: a device that is not there, or more memory than is free.
    """
    loss = FORMULAS[config.loss] if targets is None else loss_of(config.loss, targets)
    size = 0 if config.fine_tune else features.size
    score, labels = score_by(training.train.cardinality()), len(training.train.label_names)
    return learner_for(config, training.train.rows, size, labels, loss, score, encoder)


def plan_blocks(config: Config, training: Training, features: Features, X: DesignMatrix) -> BlockLearner:
    """Say how labels are fitted in blocks, and what that takes.

    Raises:
        InputError: more memory than is free.
    """
    rows, labels = training.train.targets.shape
    cells = X.nnz if sp.issparse(X) else X.size
    return BlockLearner.planned(rows, features.size, labels, cells=cells, max_iter=config.max_iter)


def fit(
    config: Config,
    training: Training,
    features: Features,
    X: DesignMatrix,
    targets: Any,
    learner: Learner | BlockLearner,
    listener: Listener,
    checkpoint: Fits = NO_CHECKPOINT,
) -> Fitted:
    """Choose C and tau by held-out rows, calibrate on the same rows, then fit on all training rows."""
    if isinstance(learner, BlockLearner):
        return _fit_by_blocks(config, training, features, X, targets, learner, listener, checkpoint)
    cardinality, counts = training.train.cardinality(), label_counts(training.train.targets)
    multiclass = config.task == "multiclass"
    steps: list[Step] = []

    def on_step(step: Step) -> None:
        steps.append(step)
        listener.on_step(step)

    # Folds are fitted also where C and tau are given: the calibration needs rows that were held out.
    folds = folds_of(training, X, targets, features, config.seed, listener, multiclass=multiclass)
    fits = len(folds) * (STRENGTHS_TRIED if learner.penalised and config.C == "auto" else 1)
    # A fold has two thirds of the rows; of a model with a penalty it also takes two thirds of the iterations.
    folds_work = fits * 2 / 3 * (2 / 3 if learner.penalised else 1)
    folds_share = folds_work / (folds_work + 1)
    choice = choose(
        folds,
        learner=learner,
        C=config.C,
        rule=_rule(config),
        cardinality=cardinality,
        train_counts=counts,
        multiclass=multiclass,
        checkpoint=checkpoint,
        on_step=on_step,
        progress=lambda what, done, value: listener.progress(what, min(done / fits, 1) * folds_share, value),
    )
    blend = None
    if heard := hears_neighbours(config) and affordable(X):
        choice, blend = blended(
            *(choice, folds, features.size_without_kernel),
            **{"rule": _rule(config), "cardinality": cardinality, "train_counts": counts, "with_metrics": True},
        )
    calibrated = calibrate(
        choice.logits, choice.held.targets, groups=choice.held.groups, multiclass=multiclass, seed=config.seed
    )
    one_offset, promised = choice.step.offset, None
    if (precision := promised_precision(config)) is not None:
        promised = with_promise(choice, calibrated.calibration, precision, cardinality.max_labels, counts)
        choice, cardinality = promised.choice, CardinalityRange(0, cardinality.max_labels)
        calibrated = replace(calibrated, calibration=promised.calibration)
    step = choice.step
    name = fit_name(step.C, "all rows")
    curve = Curve(
        checkpoint,
        lambda n, of, loss, _: listener.progress(name, folds_share + (1 - folds_share) * n / of, loss),
    )
    outcome = learner.fit(
        X,
        torch.from_numpy(targets),
        C=step.C,
        start=choice.start,
        groups=training.train.groups,
        fits=curve,
        name=name,
        progress=curve.progress,
    )
    at_limit = choice.at_limit + int(outcome.at_limit)
    counts_of_fits = {"fits": len(folds) * len(steps) + 1, "at_limit": at_limit} if learner.penalised else {}
    # Training with the prior and a free bias is training without it and lowering the bias: see cross_fit.
    by = np.asarray(step.offset, dtype=np.float32) - np.float32(step.tau) * prior_logits(targets, multiclass)
    model, neighbours = outcome.model, None
    if blend is not None and isinstance(model, Linear):
        neighbours = Neighbours.of(X[:, : features.size_without_kernel], targets).weighing(blend.votes)
        # A row that is like no training row gets a constant vote, which goes into the bias.
        by = by + blend.shift + sum(blend.votes) * neighbours.log_odds_of_none
        model = model.scaled(blend.scale)
    info = {"loss": config.loss, "C": step.C, "tau": step.tau, "offset": one_offset} | learner.info | counts_of_fits
    if heard:
        info["neighbours"] = said_of(blend)
    if promised is not None:
        info["promise"] = promised.said(training.train.label_names)
    run = Run(
        features=features,
        model=model.shifted(by.astype(np.float32)),
        neighbours=neighbours,
        columns=training.columns,
        label_names=training.train.label_names,
        train_counts=counts,
        cardinality=cardinality,
        calibration=calibrated.calibration,
        drop_unlabelled=config.drop_unlabelled,
        info=info,
        task=config.task,
        trained_rows=None if config.no_rows else np.unique(row_hashes(training.train)),
        usual=usual_of(features, training.train, choice.logits, cardinality),
    )
    return Fitted(run, choice, steps, calibrated, curve)


def _fit_by_blocks(
    config: Config,
    training: Training,
    features: Features,
    X: DesignMatrix,
    targets: Any,
    learner: BlockLearner,
    listener: Listener,
    checkpoint: Fits,
) -> Fitted:
    """Do what :func:`fit` does where labels are very many, with sparse targets and weights."""
    low, high = training.train.cardinality()
    cardinality, counts = CardinalityRange(min(low, TOP), min(high, TOP)), label_counts(targets)
    steps: list[Step] = []

    def on_step(step: Step) -> None:
        steps.append(step)
        listener.on_step(step)

    parts = iter(range(MOST_FITS))
    heard: dict[str, int] = {}

    def progress(what: str, share: float, loss: float) -> None:
        number = heard[what] if what in heard else heard.setdefault(what, next(parts, MOST_FITS - 1))
        listener.progress(what, (number + share) / MOST_FITS, loss)

    chosen = choose_by_blocks(
        _parted(training, X, targets, features, config.seed, listener),
        learner=learner,
        C=config.C,
        rule=_rule(config),
        cardinality=cardinality,
        train_counts=counts,
        checkpoint=checkpoint,
        on_step=on_step,
        progress=progress,
    )
    choice = chosen.choice
    step, held = choice.step, choice.held
    assert step.C is not None
    before, after = chosen.scores
    listener.say(
        f"{100 * chosen.kept:.1f} % of the weights are kept, those of {chosen.drop:g} or more for rows of length 1; "
        f"the mean of micro- and macro-F1 on {len(held.logits):,} held-out rows is {100 * after:.1f} with these, "
        f"{100 * before:.1f} with all"
    )
    logits: Any = choice.logits
    calibrated = calibrate_ranked(logits, held.targets, groups=held.groups, seed=config.seed)
    name = fit_name(step.C, "all rows")
    curve = Curve(checkpoint, lambda block, of, loss, score: None)
    fitted = fit_kept(
        learner,
        X,
        targets,
        C=step.C,
        drop=chosen.drop,
        fits=curve,
        name=name,
        progress=progress,
        done=curve.progress,
    )
    info = {"loss": config.loss, "C": step.C, "tau": step.tau, "offset": step.offset} | learner.info
    info |= {"dropped": chosen.drop, "weights_kept": round(chosen.kept, 6)}
    info |= {"score": round(after, 4), "score_of_all_weights": round(before, 4)}
    # How frequent labels are is measured by the rows.
    info |= {"rows": training.train.rows, "fits": 2, "at_limit": choice.at_limit + fitted.at_limit}
    by = np.float32(step.offset) - np.float32(step.tau) * prior_logits(targets)
    run = Run(
        features=features,
        model=fitted.model.shifted(by.astype(np.float32)),
        columns=training.columns,
        label_names=training.train.label_names,
        train_counts=counts,
        cardinality=cardinality,
        calibration=calibrated.calibration,
        drop_unlabelled=config.drop_unlabelled,
        info=info,
        task=config.task,
        trained_rows=None if config.no_rows else np.unique(row_hashes(training.train)),
        usual=usual_of(features, training.train, logits, cardinality),
    )
    return Fitted(run, choice, steps, calibrated, curve)


# Fits of labels in blocks: of a sample at three strengths, of all without the rows held out, of all.
MOST_FITS = 5


def _parted(
    training: Training, X: DesignMatrix, targets: Any, features: Features, seed: int, listener: Listener
) -> Parted:
    """Hold out the rows of --valid, or else a part of the training rows."""
    if (valid := training.valid) is None:
        return part_rows(X, targets, seed, training.train.groups)
    held = align_sparse(valid.targets, valid.label_names, training.train.label_names)
    if warning := held.warning():
        listener.warn(warning)
    return Parted(X, targets, features.transform(valid), held.targets)


def said_of(blend: Blend | None) -> dict[str, float] | None:
    """Say how much neighbours weigh, and the score on held-out rows without them and with them; None: nothing."""
    if blend is None:
        return None
    before, after = blend.scores
    return {"share": round(blend.share, 4), "score_without": round(before, 4), "score": round(after, 4)}


def _rule(config: Config) -> OneOffset:
    if config.loss in WITHOUT_PRIOR:
        return fixed(0.0)
    if config.tau != "auto":
        return fixed(config.tau)
    return choose_tau_of_right_cardinality if config.decision == "cardinality" else choose_tau


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
        return make_folds(X, targets, seed, training.train.groups)
    valid = training.valid
    held = align(valid.targets, valid.label_names, training.train.label_names, valid.unknown)
    X_held, targets_held, rows_held = features.transform(training.valid), held.targets, None
    if multiclass and held.unseen_names:
        # A row of an unseen class has no class to compare with.
        known = targets_held.any(1)
        if not known.any():
            raise InputError(
                f"{training.valid.source}: expected classes of the training file, got only others; name another --valid"
            )
        listener.warn(f"{int((~known).sum()):,} rows of --valid left out: their class is unknown to the run")
        X_held, targets_held, rows_held = X_held[known], targets_held[known], np.flatnonzero(known)
    elif warning := held.warning():
        listener.warn(warning)
    return [Fold(X, targets, X_held, targets_held, rows_held=rows_held)]
