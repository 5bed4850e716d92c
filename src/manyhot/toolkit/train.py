"""Training from a file to a run folder: read and plan, fit, measure, write."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from manyhot.toolkit.config import Config, check_loss
from manyhot.toolkit.disk.checkpoint import NO_CHECKPOINT, Checkpoint, reserved
from manyhot.toolkit.disk.fits import Arrays, Fits, Remembered
from manyhot.toolkit.disk.run_folder import RUN, file_sha256, free_path, provenance, write_folder
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.fit import Fitted, fit
from manyhot.toolkit.listener import SILENT, Listener
from manyhot.toolkit.models.features import DesignMatrix
from manyhot.toolkit.models.hub import encoder_folder
from manyhot.toolkit.models.processes import ALONE, Group, ToldFits
from manyhot.toolkit.objectives import COUPLED
from manyhot.toolkit.plan import planned
from manyhot.toolkit.read.data import files_of
from manyhot.toolkit.read.inputs import Training
from manyhot.toolkit.report.findings import Judged, find, of_run
from manyhot.toolkit.report.render import render_run
from manyhot.toolkit.report.suspects import rows_shown, suspected
from manyhot.toolkit.runs.continued import continued
from manyhot.toolkit.runs.evaluate import Aligned
from manyhot.toolkit.runs.predict import Measured, Run
from manyhot.toolkit.runs.saved_run import run_files


@dataclass(frozen=True)
class Trained:
    """What training gives: the run in memory, its place, its numbers, and how many rows its report shows."""

    run: Run
    path: Path | None
    metrics: dict[str, Any]
    shown_rows: int


def train(
    config: Config,
    listener: Listener = SILENT,
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
        planned(config, listener, before, sample=True)
        return None
    sums = {str(file): file_sha256(file) for file in files_named(config, listener.say)}
    with _reserved_by_the_first(config, sums, group, resume=resume, say=listener.say) as (path, checkpoint):
        training, features, X, targets, learner = planned(config, listener, before)
        if group.size > 1:  # only networks are left
            learner = learner.together(group)
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


def cross_fitted(config: Config, listener: Listener = SILENT) -> tuple[Fitted, Training]:
    """Read and fit as :func:`train` does, and write nothing: the run, what held-out rows said, and the rows.

    Raises:
        InputError: bad input.
    """
    check_loss(config)
    config, before = continued(config)
    config = replace(config, weights="dense")
    training, features, X, targets, learner = planned(config, listener, before)
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
    if not run.keeps_best:
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
    return "held_out" if run.keeps_best else "cross_fitted"


def files_named(config: Config, say: Callable[[str], None] = lambda text: None) -> list[Path]:
    """Return every file that a config names, parts by themselves, and those of an encoder, downloaded if need be."""
    named = [config.data, config.valid, config.test]
    files = [part for file in named if file for part in files_of(file)]
    kind, _, name = config.model.partition(":")
    encoder = encoder_folder(name, say).rglob("*") if kind == "encoder" else ()
    files += [Path(config.label_names)] if config.label_names else []
    return files + sorted(path for path in encoder if path.is_file())
