"""Which loss, on these spans: the same rows, encoder, schedule and seeds for each.

Methods differ in the loss, in where its biases start, and in whether one threshold is found by rows held out. Fits are
shared by methods that differ in the threshold alone. Every method is measured on rows that nothing was chosen by.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import scipy.sparse as sp

from manyhot.metrics_of_spans import span_metrics
from manyhot.spans import Span
from manyhot.split import stratified_split
from manyhot.toolkit.compare.bootstrap import LEVEL, RESAMPLES, Counts, resampled
from manyhot.toolkit.compare.compare import LEAST, Compared, reason_of, write_comparison
from manyhot.toolkit.compare.standings import difference, interval_of, leaders, mean_over_seeds
from manyhot.toolkit.compare.tally import PeakMemory
from manyhot.toolkit.disk.checkpoint import Checkpoint, reserved
from manyhot.toolkit.disk.fits import Arrays, Steps
from manyhot.toolkit.disk.run_folder import file_sha256
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.kinds import read_encoder
from manyhot.toolkit.models.model import device_of
from manyhot.toolkit.models.pretrained import Encoder
from manyhot.toolkit.spans.findings import Judged, of_types, warnings_of
from manyhot.toolkit.spans.fit import fit, plan
from manyhot.toolkit.spans.inputs import SpanTraining, drop_unlabelled, read_spans, targets_of
from manyhot.toolkit.spans.methods import METHODS, Method, SpanComparison
from manyhot.toolkit.spans.network import Entity
from manyhot.toolkit.spans.offset import LOWEST
from manyhot.toolkit.spans.pieces import find_spans, gold_of, prepared
from manyhot.toolkit.spans.sentences import Sentences
from manyhot.toolkit.train import Listener, files_named

METRICS = ("micro_f1", "macro_f1")


def compare_spans(
    comparison: SpanComparison, listener: Listener, *, command: list[str], resume: bool = False
) -> Compared:
    """Train and measure every method, and write a folder with the numbers and a report.

    Args:
        comparison: what to compare.
        listener: hears of progress.
        command: the words that repeat it.
        resume: go on from the checkpoint that an interrupted comparison of the same kind left.

    Raises:
        InputError: bad input; nothing is written.
        OSError: the disk is full or refuses; what was written before is whole.
    """
    began = time.monotonic()
    config = comparison.config
    sums = {str(file): file_sha256(file) for file in files_named(config, listener.say)}
    compared = {"losses": list(comparison.methods), "folds": comparison.folds, "seeds": comparison.seeds}
    with reserved(config, sums, compared=compared, resume=resume, say=listener.say) as (path, checkpoint):
        training, encoder = read_spans(config), read_encoder(config, listener.say)
        for sentence in training.said:
            listener.say(sentence)
        for sentence in training.warnings:
            listener.warn(sentence)
        trials = _Trials(comparison, training, listener, checkpoint, encoder)
        listener.say(trials.design)
        numbers = {"task": "spans"} | trials.run()
        return write_comparison(path, config, numbers, said=training.said, command=command, sums=sums, began=began)


@dataclass(frozen=True)
class _Trial:
    """What the fit of a loss gives on a split: candidates of the rows to measure, scores without the offset."""

    spans: list[list[Span]]
    offset: float
    epochs: int
    scores: list[float]
    seconds: float
    predict: float
    peak: int

    def arrays(self) -> Arrays:
        cells = [(row, *span[:3]) for row, spans in enumerate(self.spans) for span in spans]
        return {
            "cells": np.array(cells, dtype=np.int32).reshape(-1, 4),
            "scores": np.array([span.score for spans in self.spans for span in spans]),
            "curve": np.array(self.scores, dtype=np.float64),
            "numbers": np.array([self.offset, self.epochs, self.seconds, self.predict, self.peak], dtype=np.float64),
        }

    @classmethod
    def restored(cls, arrays: Arrays, rows: int) -> "_Trial":
        spans: list[list[Span]] = [[] for _ in range(rows)]
        for (row, start, end, kind), score in zip(arrays["cells"].tolist(), arrays["scores"].tolist(), strict=True):
            spans[row].append(Span(start, end, kind, score))
        offset, epochs, seconds, predict, peak = arrays["numbers"].tolist()
        return cls(spans, offset, int(epochs), arrays["curve"].tolist(), seconds, predict, int(peak))


class _Named:
    """Fits of a checkpoint under a name of their own."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self.checkpoint, self.name = checkpoint, name

    def finished(self, fit: str) -> Arrays | None:
        return self.checkpoint.finished(self.name + fit)

    def finish(self, fit: str, result: Arrays) -> None:
        self.checkpoint.finish(self.name + fit, result)

    def steps(self, fit: str) -> Steps:
        return self.checkpoint.steps(self.name + fit)


class _Trials:
    """Every loss on every split with every seed."""

    def __init__(
        self,
        comparison: SpanComparison,
        training: SpanTraining,
        listener: Listener,
        checkpoint: Checkpoint,
        encoder: Encoder | None,
    ) -> None:
        self.encoder = encoder
        self.config, self.training = comparison.config, training
        self.methods = [method for method in METHODS if method.name in comparison.methods]
        self.seeds = [comparison.config.seed + i for i in range(comparison.seeds)]
        self.listener, self.checkpoint = listener, checkpoint
        rows, test = training.train, training.test
        if test is not None and comparison.config.drop_unlabelled:
            test, _ = drop_unlabelled(test)
        if test is not None:
            self.parts, self.measured = None, test
            self.design = f"measured on the {test.rows:,} rows of {test.source}"
        else:
            if rows.rows < LEAST:
                raise InputError(
                    f"{rows.source}: expected {LEAST} rows or more, so that folds have rows to hold out; got "
                    f"{rows.rows}. Name rows to measure on: --test FILE."
                )
            shares = [1.0] * min(comparison.folds, rows.rows)
            part = stratified_split(
                targets_of(rows, training.types), shares, groups=rows.groups, seed=comparison.config.seed
            )
            self.parts, self.measured = [part == i for i in np.unique(part)], rows
            self.design = f"no test rows: {len(self.parts)} folds, each measured by models that did not see it"
        self.gold, self.unknown = gold_of(self.measured, training.types)
        self.errors: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        """Fit, decide, measure; the part of compare.json that is numbers."""
        losses = [loss for loss, _ in groupby(self.methods, key=lambda method: method.loss)]
        splits = list(self._splits())
        units, done = len(splits) * len(self.seeds) * len(losses), 0
        trials: dict[str, list[list[tuple[np.ndarray, _Trial]]]] = {loss: [[] for _ in self.seeds] for loss in losses}
        memory = PeakMemory()
        with memory.watched():
            for name, rows, training, test in splits:
                for i, seed in enumerate(self.seeds):
                    for loss in losses:
                        where = f"{name}, seed {seed}, {loss}"
                        if loss not in self.errors:
                            trial = self._tried(where, loss, seed, training, test, memory, done / units, 1 / units)
                            if trial is not None:
                                trials[loss][i].append((rows, trial))
                        done += 1
        self.listener.progress("resampling rows", 1.0, 0.0)
        return self._result({loss: found for loss, found in trials.items() if loss not in self.errors})

    def _splits(self) -> Iterator[tuple[str, np.ndarray, SpanTraining, Sentences]]:
        """Yield each split: rows to learn from, rows to measure on, and which of the measured ones these are."""
        if self.parts is None:
            yield "test", np.arange(self.measured.rows), self.training, self.measured
            return
        train = self.training.train
        for i, held in enumerate(self.parts):
            part = replace(self.training, train=train.taken(np.flatnonzero(~held)), test=None)
            yield f"fold {i + 1} of {len(self.parts)}", np.flatnonzero(held), part, train.taken(np.flatnonzero(held))

    def _tried(
        self,
        where: str,
        loss: str,
        seed: int,
        training: SpanTraining,
        test: Sentences,
        memory: PeakMemory,
        done: float,
        share: float,
    ) -> _Trial | None:
        """Return what a loss gives on a split; None where it failed, which is told and kept."""
        if (result := self.checkpoint.finished(f"{where}: done")) is not None:
            return _Trial.restored(result, test.rows)
        config = replace(self.config, loss=loss, seed=seed)
        began = time.monotonic()
        memory.start()
        fits = _Named(self.checkpoint, f"{where}, ")
        try:
            learner = plan(config, training, self.encoder, device_of(config.device))
            fitted = fit(
                learner,
                training,
                fits,
                lambda what, epoch, of, loss, _: self.listener.progress(
                    f"{where}, {what}, epoch {epoch}", done + share * min(epoch / of, 1), loss
                ),
            )
        except Exception as error:  # whatever it is, the other methods are worth their numbers
            self.errors[loss] = f"{where}: {reason_of(error)}"
            self.listener.warn(f"{loss} failed: {self.errors[loss]}")
            return None
        predicting = time.monotonic()
        pieces = prepared(fitted.network, test)
        # The offset is in the scores: without it they would go down to LOWEST.
        lowest = LOWEST + min(fitted.offset, 0.0)
        spans = find_spans(fitted.network, pieces, test.rows, flat=not training.nested, threshold=lowest)
        plain = [[span._replace(score=span.score - fitted.offset) for span in row] for row in spans]
        ended = time.monotonic()
        trial = _Trial(
            plain,
            fitted.offset,
            fitted.epochs,
            [score for score in fitted.scores if score is not None],
            predicting - began,
            ended - predicting,
            memory.peak,
        )
        self.checkpoint.finish(f"{where}: done", trial.arrays())
        self.checkpoint.forget(fits.name)
        self.listener.say(f"{where}: {trial.epochs} epochs, offset {trial.offset:+.2f}, {trial.seconds:.1f} s")
        return trial

    def _result(self, trials: Mapping[str, list[list[tuple[np.ndarray, _Trial]]]]) -> dict[str, Any]:
        types = [*self.training.types, *self.unknown]
        train_counts = np.concatenate([self.training.counts, np.zeros(len(self.unknown))])
        decided = {
            method.name: [self._decided(method, found) for found in trials[method.loss]]
            for method in self.methods
            if method.loss in trials
        }
        measured = {
            name: [span_metrics(spans, self.gold, num_types=len(types), train_counts=train_counts) for spans in seeds]
            for name, seeds in decided.items()
        }
        counts = {
            name: [counts_of(spans, self.gold, len(types), self.measured.groups) for spans in seeds]
            for name, seeds in decided.items()
        }
        drawn = resampled(counts, train_counts, seed=self.config.seed) if counts else {}
        there = np.bincount([kind for row in self.gold for *_, kind in set(row)], minlength=len(types))
        for found in drawn.values():  # macro-F1 is the mean over types with a true span
            found["macro_f1"] = found["macro_f1"] * (len(types) / max((there > 0).sum(), 1))
        means = {name: mean_over_seeds(parts) for name, parts in measured.items()}
        ours = {method.name for method in self.methods if method.ours}

        leading = leaders(means, ours, METRICS)
        rows = []
        for method in self.methods:
            row: dict[str, Any] = {
                "name": method.name,
                "what": method.what,
                "loss": method.loss,
                "kind": "ours" if method.ours else "rival",
                "error": self.errors.get(method.loss),
                **dict.fromkeys(("metrics", "intervals", "differences", "label_f1")),
                **{
                    "by_seed": [],
                    "chosen": [],
                    "curves": [],
                    "seconds": None,
                    "at_limit": None,
                    "predict_seconds": None,
                    "peak_mb": None,
                },
            }
            if (name := method.name) in means:
                side = "rival" if method.ours else "ours"
                runs = [
                    (seed, trial) for seed, s in zip(self.seeds, trials[method.loss], strict=True) for _, trial in s
                ]
                row |= {
                    "metrics": means[name],
                    "intervals": {m: interval_of(means, drawn, name, m) for m in METRICS},
                    "differences": {m: difference(means, drawn, name, leading[m][side], m) for m in METRICS},
                    "label_f1": np.mean([part.label_f1() for part in counts[name]], axis=0).round(6).tolist(),
                    "by_seed": [
                        {"seed": seed} | {m: part[m] for m in METRICS}
                        for seed, part in zip(self.seeds, measured[name], strict=True)
                    ],
                    "chosen": [
                        {"seed": seed, "epochs": trial.epochs, "offset": trial.offset if method.offset else 0.0}
                        for seed, trial in runs
                    ],
                    "curves": [trial.scores for _, trial in runs],
                    "seconds": {"search": 0.0, "fit": round(sum(trial.seconds for _, trial in runs), 3), "shared": 0.0},
                    "at_limit": 0,
                    "predict_seconds": round(sum(trial.predict for _, trial in runs), 3),
                    "peak_mb": round(max(trial.peak for _, trial in runs) / 2**20),
                }
            rows.append(row)
        default = decided.get(METHODS[0].name) or next(iter(decided.values()), [[[] for _ in self.gold]])
        judged = Judged(
            "test" if self.parts is None else "held_out", self.measured, default[0], self.gold, self.unknown
        )
        design = {"kind": "test"} if self.parts is None else {"kind": "folds", "folds": len(self.parts)}
        return {
            "design": design
            | {
                "file": self.measured.source,
                "rows": self.measured.rows,
                "drawn": "rows" if self.measured.groups is None else "groups",
            },
            "model": self.config.model,
            "nested": self.training.nested,
            "seeds": self.seeds,
            "resamples": RESAMPLES,
            "level": LEVEL,
            "labels": types,
            "train_counts": train_counts.astype(int).tolist(),
            "test_counts": there.tolist(),
            "methods": rows,
            "default": METHODS[0].name,
            "best": leading,
            "warnings": warnings_of(judged, self.training, of_types(judged, types, train_counts)),
            "hard": None,
        }

    def _decided(self, method: Method, found: list[tuple[np.ndarray, _Trial]]) -> list[list[Span]]:
        """Return the spans that a method predicts for the rows measured."""
        spans: list[list[Span]] = [[] for _ in range(self.measured.rows)]
        for rows, trial in found:
            level = -trial.offset if method.offset else 0.0
            for row, given in zip(rows, trial.spans, strict=True):
                spans[row] = [span for span in given if span.score > level]
        return spans


def counts_of(
    predicted: list[list[Span]], gold: list[list[Entity]], types: int, groups: np.ndarray | None = None
) -> Counts:
    """Count, for resampling, the spans of each row that are predicted, true and both, by type."""
    sets = [[{span[:3] for span in row} for row in rows] for rows in (predicted, gold)]
    hits = [p & t for p, t in zip(*sets, strict=True)]
    rows = len(gold)

    def by_type(found: list[set[Any]]) -> Any:
        cells = [(row, kind) for row, spans in enumerate(found) for *_, kind in spans]
        row, kind = np.array(cells, dtype=np.int64).reshape(-1, 2).T
        return sp.csr_array((np.ones(len(row), np.float32), (row, kind)), shape=(rows, types))

    sizes = np.array([len(p) + len(t) for p, t in zip(*sets, strict=True)])
    right = np.array([len(h) for h in hits])
    by_row = np.column_stack([2 * right / np.maximum(sizes, 1), 2 * right == sizes, np.ones(rows)])
    right_ones, predicted_ones, true_ones = (by_type(found) for found in (hits, *sets))
    if groups is not None:
        _, group = np.unique(groups, return_inverse=True)
        together: Any = sp.csr_array((np.ones(rows, np.float32), (group, np.arange(rows))))
        right_ones, predicted_ones, true_ones = (together @ x for x in (right_ones, predicted_ones, true_ones))
        by_row = together @ by_row
    return Counts(right_ones, predicted_ones, true_ones, by_row, np.ones(types, dtype=bool))
