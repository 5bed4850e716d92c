"""Training on spans from a file to a run folder: read, hold out, fit, measure, write."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manyhot.toolkit.config import Config, check_loss, check_task
from manyhot.toolkit.disk.checkpoint import reserved
from manyhot.toolkit.disk.fits import Fits
from manyhot.toolkit.disk.run_folder import SPAN_RUN, file_sha256, free_path, provenance, write_folder
from manyhot.toolkit.listener import SILENT, Listener
from manyhot.toolkit.models.kinds import read_encoder
from manyhot.toolkit.models.model import device_of
from manyhot.toolkit.report.findings import of_run
from manyhot.toolkit.report.metric_names import percent
from manyhot.toolkit.report.render import render_run
from manyhot.toolkit.spans.findings import Judged, find
from manyhot.toolkit.spans.fit import Fitted, Held, SpanLearner, fit, plan
from manyhot.toolkit.spans.inputs import SpanTraining, read_spans
from manyhot.toolkit.spans.predict import MeasuredSpans, SpanRun, hashes_of, measure
from manyhot.toolkit.spans.relation_run import RelationRun, measure_triples
from manyhot.toolkit.spans.saved_run import run_files
from manyhot.toolkit.spans.sentences import Sentences
from manyhot.toolkit.train import files_named


@dataclass(frozen=True)
class TrainedSpans:
    """What training gives: the run in memory, its place, its numbers, and how many rows its report shows."""

    run: SpanRun
    path: Path | None
    metrics: dict[str, Any]
    shown_rows: int


def train_spans(
    config: Config, listener: Listener = SILENT, *, dry_run: bool = False, resume: bool = False
) -> TrainedSpans | None:
    """Train as the config says and write a run folder; None after a dry run, which reads, plans and says.

    Args:
        config: what was asked for.
        listener: hears of progress.
        dry_run: write nothing.
        resume: go on from the checkpoint that an interrupted training of the same config left.

    Raises:
        InputError: bad input; nothing is written.
        OSError: the disk is full or refuses; what was written before is whole.
    """
    started = time.monotonic()
    check_task(config)
    check_loss(config)
    if dry_run:
        planned(config, listener)
        return None
    sums = {str(file): file_sha256(file) for file in files_named(config, listener.say)}
    with reserved(config, sums, resume=resume, say=listener.say) as (path, checkpoint):
        training, learner = planned(config, listener)
        fitted = fit_loudly(learner, training, checkpoint, listener)
        run = run_of(config, training, fitted, learner)
        metrics = held_metrics(training, fitted)
        measured = None
        if training.test is not None:
            measured = run.evaluate_sentences(training.test)
            metrics["test"] = measured.metrics
            for note in measured.notes:
                listener.warn(note)
        inputs = [(Path(file), rows) for file, rows in training.rows.items()]
        origin = provenance(inputs, sums=sums, seed=config.seed, seconds=time.monotonic() - started)
        if not config.out and path.exists():  # something else took the name meanwhile
            path = free_path(config.data)
        findings = findings_of(config, training, fitted, run, measured, metrics, origin)
        files = run_files(run, config, metrics, fitted, origin, findings, render_run(findings))
        write_folder(path, files, SPAN_RUN)
    return TrainedSpans(run, path, metrics, len(findings["worst"] or ()))


def planned(config: Config, listener: Listener) -> tuple[SpanTraining, SpanLearner]:
    """Read the files and plan the fits, and say both."""
    training, encoder = read_spans(config), read_encoder(config, listener.say)
    for sentence in training.said:
        listener.say(sentence)
    for sentence in training.warnings:
        listener.warn(sentence)
    learner = plan(config, training, encoder, device_of(config.device))
    listener.detail(f"model: {config.model}; {learner.memory.describe()}")
    return training, learner


def fit_loudly(learner: SpanLearner, training: SpanTraining, fits: Fits, listener: Listener) -> Fitted:
    """Fit, and say a line an epoch: loss, F1, and how many spans are predicted."""
    header = False

    def on_epoch(fit: str, epoch: int, of: int, loss: float, held: Held | None) -> None:
        nonlocal header
        listener.progress(f"{fit}, epoch {epoch}", min(epoch / of, 1), loss)
        if held is None:
            return
        sentences = held_sentences(training, held)
        m = measured_held(training, sentences, held, plain=True).metrics
        linked = bool(training.relations)
        if not header:
            true = f"spans a row (true {m['spans_per_row_true']:.2f})"
            triples = f" {'triples':>9}" if linked else ""
            listener.detail(f"{'epoch':>6} {'loss':>8} {'micro-F1':>9} {'macro-F1':>9}{triples}  {true}")
            header = True
        of_triples = f" {percent(m['triple_micro_f1']):>9}" if linked else ""
        listener.detail(
            f"{epoch:>6} {loss:>8.4f} {percent(m['micro_f1']):>9} {percent(m['macro_f1']):>9}{of_triples}  "
            f"{m['spans_per_row_predicted']:.2f}"
        )

    fitted = fit(learner, training, fits, on_epoch)
    if fitted.held is not None:
        listener.detail(f"best after {fitted.epochs} epochs; all rows are fitted for as many")
    return fitted


def run_of(config: Config, training: SpanTraining, fitted: Fitted, learner: SpanLearner) -> SpanRun:
    """Put a fitted network and what was read together."""
    info = {"loss": config.loss, "epochs": fitted.epochs, "offset": fitted.offset, "device": learner.device}
    options: dict[str, Any] = {
        "network": fitted.network,
        "label_names": training.types,
        "train_counts": training.counts,
        "nested": training.nested,
        "characters": training.characters,
        "reading": training.reading,
        "drop_unlabelled": config.drop_unlabelled,
        "trained_rows": None if config.no_rows else np.unique(hashes_of(training.train)),
    }
    if not training.relations:
        return SpanRun(**options, info=info)
    info |= {"design": config.design, "triple_offset": 0.0 if fitted.held is None else fitted.held.triple_offset}
    names, counts = training.relations, training.relation_counts
    return RelationRun(relation_names=names, relation_counts=counts, **options, info=info)


def part_of(training: SpanTraining) -> str:
    """Name the rows that were held out."""
    return "held_out" if training.valid is None else "valid"


def held_sentences(training: SpanTraining, held: Held) -> Sentences:
    """Return the rows that were held out."""
    return (training.train if training.valid is None else training.valid).taken(held.rows)


def held_metrics(training: SpanTraining, fitted: Fitted) -> dict[str, Any]:
    """Measure the rows held out, as the network that had not seen them found their spans."""
    if fitted.held is None:
        return {}
    sentences = held_sentences(training, fitted.held)
    return {part_of(training): measured_held(training, sentences, fitted.held).metrics}


def measured_held(training: SpanTraining, sentences: Sentences, held: Held, *, plain: bool = False) -> MeasuredSpans:
    """Measure what was found in rows held out, with the offsets or without them."""
    predicted = held.predicted(0.0 if plain else None)
    metrics, gold, unknown = measure(predicted, sentences, training.types, training.counts)
    if not training.relations:
        return MeasuredSpans(metrics, [], sentences, predicted, gold, unknown)
    types, found = [*training.types, *unknown], held.predicted_triples(plain=plain)
    more, triples = measure_triples(found, sentences, types, training.relations, training.relation_counts)
    return MeasuredSpans(metrics | more, [], sentences, predicted, gold, unknown, triples)


def findings_of(
    config: Config,
    training: SpanTraining,
    fitted: Fitted,
    run: SpanRun,
    measured: MeasuredSpans | None,
    metrics: dict[str, Any],
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Collect what a report says: of the test rows where some were measured, else of the rows that were held out."""
    part = "test"
    if measured is None and fitted.held is not None:
        part, measured = part_of(training), measured_held(training, held_sentences(training, fitted.held), fitted.held)
    elif measured is None:  # so few rows that none could be held out
        part, measured = "train", run.evaluate_sentences(training.train)
        metrics = {"train": measured.metrics}
    judged = Judged(part, measured.sentences, measured.predicted, measured.gold, measured.unknown, measured.triples)
    return {
        **of_run(config, training.train.rows, training.said, run.info, metrics, origin),
        "nested": training.nested,
        "rows_hashed": not config.no_rows,
        "curve": {"losses": fitted.losses, "scores": fitted.scores},
        **find(judged, training, with_rows=not config.no_rows),
    }
