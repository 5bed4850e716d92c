"""Which loss is best on these spans, or triples of them? All have the same rows, encoder, schedule and seeds.

Methods differ in the loss, in where its biases start, in the design of relations, and in whether one threshold is found
by rows held out. Fits are shared by methods that differ in the threshold alone. Every method is measured on rows that
nothing was chosen by.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from manyhot.spans import Span
from manyhot.split import stratified_split
from manyhot.toolkit.compare.bootstrap import LEVEL, RESAMPLES
from manyhot.toolkit.compare.compare import LEAST, Compared, reason_of, write_comparison
from manyhot.toolkit.compare.tally import PeakMemory
from manyhot.toolkit.disk.checkpoint import Checkpoint, reserved
from manyhot.toolkit.disk.fits import Arrays, Bookmark
from manyhot.toolkit.disk.run_folder import file_sha256
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models.kinds import read_encoder
from manyhot.toolkit.models.model import device_of
from manyhot.toolkit.models.pretrained import Encoder
from manyhot.toolkit.spans.findings import Judged, of_types, warnings_of
from manyhot.toolkit.spans.fit import fit, plan
from manyhot.toolkit.spans.inputs import SpanTraining, drop_unlabelled, read_spans, targets_of
from manyhot.toolkit.spans.methods import Method, SpanComparison, methods_of
from manyhot.toolkit.spans.network import SpanNetwork
from manyhot.toolkit.spans.pieces import Pieces, find_linked, find_spans, prepared
from manyhot.toolkit.spans.relation_network import RelationNetwork
from manyhot.toolkit.spans.sentences import Sentences
from manyhot.toolkit.spans.standings import Predicted, Truth, stand
from manyhot.toolkit.train import files_named
from manyhot.triples import Triple


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
    names = [method.name for method in comparison.methods]
    compared = {"losses": names, "folds": comparison.folds, "seeds": comparison.seeds}
    with reserved(config, sums, compared=compared, resume=resume, say=listener.say) as (path, checkpoint):
        training, encoder = read_spans(config), read_encoder(config, listener.say)
        for sentence in training.said:
            listener.say(sentence)
        for sentence in training.warnings:
            listener.warn(sentence)
        trials = _Trials(comparison, training, listener, checkpoint, encoder)
        listener.say(trials.design)
        numbers = {"task": config.task} | trials.run()
        return write_comparison(path, config, numbers, said=training.said, command=command, sums=sums, began=began)


@dataclass(frozen=True)
class _Trial:
    """What a fit gives on a split: its predictions for the rows to measure, with its offsets and without."""

    found: Predicted
    plain: Predicted
    offset: float
    triple_offset: float
    epochs: int
    scores: list[float]
    seconds: float
    predict: float
    peak: int

    def arrays(self) -> Arrays:
        numbers = [self.offset, self.triple_offset, self.epochs, self.seconds, self.predict, self.peak]
        arrays = {"curve": np.array(self.scores, dtype=np.float64), "numbers": np.array(numbers, dtype=np.float64)}
        for name, predicted in (("found", self.found), ("plain", self.plain)):
            cells = [(row, *span) for row, spans in enumerate(predicted.spans) for span in spans]
            facts = [
                (row, *t.subject, t.relation, *t.object, t.score)
                for row, triples in enumerate(predicted.triples)
                for t in triples
            ]
            arrays |= {
                f"{name}.spans": np.array(cells, dtype=np.float64).reshape(-1, 5),
                f"{name}.triples": np.array(facts, dtype=np.float64).reshape(-1, 11),
            }
        return arrays

    @classmethod
    def restored(cls, arrays: Arrays, rows: int) -> "_Trial":
        parts = []
        for name in ("found", "plain"):
            spans: list[list[Span]] = [[] for _ in range(rows)]
            triples: list[list[Triple]] = [[] for _ in range(rows)]
            for row, *span in arrays[f"{name}.spans"].tolist():
                spans[int(row)].append(_span(span))
            for row, *fact in arrays[f"{name}.triples"].tolist():
                triples[int(row)].append(Triple(_span(fact[:4]), int(fact[4]), _span(fact[5:9]), fact[9]))
            parts.append(Predicted(spans, triples))
        offset, triple_offset, epochs, seconds, predict, peak = arrays["numbers"].tolist()
        return cls(
            found=parts[0],
            plain=parts[1],
            offset=offset,
            triple_offset=triple_offset,
            epochs=int(epochs),
            scores=arrays["curve"].tolist(),
            seconds=seconds,
            predict=predict,
            peak=int(peak),
        )


def _span(numbers: list[float]) -> Span:
    start, end, kind, score = numbers
    return Span(int(start), int(end), int(kind), score)


class _Named:
    """Fits of a checkpoint under a name of their own."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self.checkpoint, self.name = checkpoint, name

    def finished(self, fit: str) -> Arrays | None:
        return self.checkpoint.finished(self.name + fit)

    def finish(self, fit: str, result: Arrays) -> None:
        self.checkpoint.finish(self.name + fit, result)

    def bookmark(self, fit: str) -> Bookmark:
        return self.checkpoint.bookmark(self.name + fit)


class _Trials:
    """Every fit on every split with every seed."""

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
        self.methods = comparison.methods
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
        self.truth = Truth.of(self.measured, training)
        self.errors: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        """Fit, decide, measure; the part of compare.json that is numbers."""
        fits = [next(methods) for _, methods in groupby(self.methods, key=lambda method: method.fit)]
        splits = list(self._splits())
        units, done = len(splits) * len(self.seeds) * len(fits), 0
        trials: dict[str, list[list[tuple[np.ndarray, _Trial]]]] = {one.fit: [[] for _ in self.seeds] for one in fits}
        memory = PeakMemory()
        with memory.watched():
            for name, rows, training, test in splits:
                for i, seed in enumerate(self.seeds):
                    for one in fits:
                        where = f"{name}, seed {seed}, {one.fit}"
                        if one.fit not in self.errors:
                            trial = self._tried(where, one, seed, training, test, memory, done / units, 1 / units)
                            if trial is not None:
                                trials[one.fit][i].append((rows, trial))
                        done += 1
        self.listener.progress("resampling rows", 1.0, 0.0)
        return self._result({fit: found for fit, found in trials.items() if fit not in self.errors})

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
        method: Method,
        seed: int,
        training: SpanTraining,
        test: Sentences,
        memory: PeakMemory,
        done: float,
        share: float,
    ) -> _Trial | None:
        """Return what the fit of a method gives on a split; None where it failed, which is told and kept."""
        if (result := self.checkpoint.finished(f"{where}: done")) is not None:
            return _Trial.restored(result, test.rows)
        config = replace(self.config, loss=method.loss, design=method.design or self.config.design, seed=seed)
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
            self.errors[method.fit] = f"{where}: {reason_of(error)}"
            self.listener.warn(f"{method.fit} failed: {self.errors[method.fit]}")
            return None
        predicting = time.monotonic()
        pieces, network = prepared(fitted.network, test), fitted.network
        found = _predicted(network, pieces, test.rows, flat=not training.nested)
        ended = time.monotonic()
        by = 0.0 if fitted.held is None else fitted.held.triple_offset
        network.shift(-fitted.offset)  # as the scores were learned
        if isinstance(network, RelationNetwork):
            network.shift_triples(-by)
        trial = _Trial(
            found,
            _predicted(network, pieces, test.rows, flat=not training.nested),
            fitted.offset,
            by,
            fitted.epochs,
            [score for score in fitted.scores if score is not None],
            predicting - began,
            ended - predicting,
            memory.peak,
        )
        self.checkpoint.finish(f"{where}: done", trial.arrays())
        self.checkpoint.forget(fits.name)
        of_triples = f" and {trial.triple_offset:+.2f}" if training.relations else ""
        self.listener.say(
            f"{where}: {trial.epochs} epochs, offset {trial.offset:+.2f}{of_triples}, {trial.seconds:.1f} s"
        )
        return trial

    def _result(self, trials: Mapping[str, list[list[tuple[np.ndarray, _Trial]]]]) -> dict[str, Any]:
        decided = {
            method.name: [self._decided(method, found) for found in trials[method.fit]]
            for method in self.methods
            if method.fit in trials
        }
        default = methods_of(self.config.task)[0].name
        ours = {method.name for method in self.methods if method.ours}
        measured = stand(decided, self.truth, ours, default, seed=self.config.seed)
        rows = []
        for method in self.methods:
            row: dict[str, Any] = {
                "name": method.name,
                "what": method.what,
                "loss": method.loss,
                **({"design": method.design} if method.design else {}),
                "kind": "ours" if method.ours else "rival",
                "error": self.errors.get(method.fit),
                **dict.fromkeys(("metrics", "intervals", "differences", "against_default", "label_f1")),
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
            if (found := measured.methods.get(method.name)) is not None:
                runs = [(seed, trial) for seed, s in zip(self.seeds, trials[method.fit], strict=True) for _, trial in s]
                row |= found | {
                    "by_seed": [{"seed": seed} | part for seed, part in zip(self.seeds, found["by_seed"], strict=True)],
                    "chosen": [{"seed": seed} | self._chosen(method, trial) for seed, trial in runs],
                    "curves": [trial.scores for _, trial in runs],
                    "seconds": {"search": 0.0, "fit": round(sum(trial.seconds for _, trial in runs), 3), "shared": 0.0},
                    "at_limit": 0,
                    "predict_seconds": round(sum(trial.predict for _, trial in runs), 3),
                    "peak_mb": round(max(trial.peak for _, trial in runs) / 2**20),
                }
            rows.append(row)
        first = decided.get(default) or next(iter(decided.values()), [self._nothing()])
        unknown = self.truth.types[len(self.training.types) :]
        part = "test" if self.parts is None else "held_out"
        judged = Judged(part, self.measured, first[0].spans, self.truth.spans, unknown)
        kinds, train_counts, there = self.truth.kinds
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
            "labels": kinds,
            "train_counts": train_counts.astype(int).tolist(),
            "test_counts": there.tolist(),
            "methods": rows,
            "default": default,
            "best": measured.best,
            "warnings": warnings_of(judged, self.training, of_types(judged, self.truth.types, self.truth.counts)),
            "hard": None,
        }

    def _chosen(self, method: Method, trial: _Trial) -> dict[str, Any]:
        """Return what rows held out chose for a fit."""
        offsets = {"offset": trial.offset} | ({"triple_offset": trial.triple_offset} if method.design else {})
        return {"epochs": trial.epochs} | {name: by if method.offset else 0.0 for name, by in offsets.items()}

    def _nothing(self) -> Predicted:
        return Predicted([[] for _ in range(self.measured.rows)], [[] for _ in range(self.measured.rows)])

    def _decided(self, method: Method, trials: list[tuple[np.ndarray, _Trial]]) -> Predicted:
        """Return what a method predicts for the rows measured."""
        whole = self._nothing()
        for rows, trial in trials:
            part = trial.found if method.offset else trial.plain
            for row, spans, triples in zip(rows, *part, strict=True):
                whole.spans[row], whole.triples[row] = spans, triples
        return whole


def _predicted(network: SpanNetwork, pieces: Pieces, rows: int, *, flat: bool) -> Predicted:
    if isinstance(network, RelationNetwork):
        return Predicted(*find_linked(network, pieces, rows, flat=flat))
    return Predicted(find_spans(network, pieces, rows, flat=flat), [[] for _ in range(rows)])
