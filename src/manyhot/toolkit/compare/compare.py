"""Which loss is best on these data? All have the same rows, features, penalties, solver and range of labels.

Methods differ in the loss that is trained with, and in the rule by which held-out logits become a decision: none, the
prior, or thresholds. Whatever a method leaves open, C included, is chosen by the same inner folds of the training rows;
then it is fitted on all of them, and measured on rows that nothing was chosen by.
"""

import os
import platform
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from joblib import Parallel, delayed

from manyhot.decisions import decide
from manyhot.labels import label_counts
from manyhot.split import stratified_split
from manyhot.toolkit.choose.calibrate import BINS, reliability
from manyhot.toolkit.choose.cross_fit import Fold
from manyhot.toolkit.compare.bootstrap import LEVEL, RESAMPLES
from manyhot.toolkit.compare.methods import METHODS, Comparison, Method, kept_nowhere
from manyhot.toolkit.compare.standings import Decided, standings
from manyhot.toolkit.compare.tally import PeakMemory, Tally
from manyhot.toolkit.compare.trial import Split, Trial, try_method, try_methods
from manyhot.toolkit.config import Config, blocks_of
from manyhot.toolkit.disk.checkpoint import Checkpoint, reserved
from manyhot.toolkit.disk.run_folder import COMPARISON, file_sha256, to_json, versions, write_folder
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.fit import folds_of
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.kinds import read_encoder
from manyhot.toolkit.models.linear import shared
from manyhot.toolkit.models.pretrained import Encoder
from manyhot.toolkit.plan import CELL, check_cells, embed
from manyhot.toolkit.read.cells import counted
from manyhot.toolkit.read.examples import Examples, drop_unknown, drop_unlabelled
from manyhot.toolkit.read.inputs import Training, read
from manyhot.toolkit.report.findings import of_labels, warnings_of
from manyhot.toolkit.report.hard_rows import hard_rows
from manyhot.toolkit.report.render import render_comparison
from manyhot.toolkit.runs.evaluate import align
from manyhot.toolkit.train import files_named

LEAST = 3  # with two, a fold is fitted on one row, and there is none to hold out
DECIDED = 5  # bytes of a cell, of each method: its logit and its decision
RANDOM = ("mlp",)  # models whose fits depend on the seed


class Compared(NamedTuple):
    """What a comparison gives: the content of compare.json, and the folder."""

    result: dict[str, Any]
    path: Path


def compare(
    comparison: Comparison, listener: Listener, *, command: list[str], resume: bool = False, jobs: int = 1
) -> Compared:
    """Train and measure every method, and write a folder with the numbers and a report.

    Args:
        comparison: what to compare.
        listener: hears of progress.
        command: the words that repeat it.
        resume: go on from the checkpoint that an interrupted comparison of the same kind left.
        jobs: losses that are fitted at once, through joblib: on processes of this machine, or on what
            ``joblib.parallel_config`` names, such as a Ray or Dask cluster. The numbers are the same.

    Raises:
        InputError: bad input; nothing is written.
        OSError: the disk is full or refuses; what was written before is whole.
    """
    began = time.monotonic()
    config = comparison.config
    sums = {str(file): file_sha256(file) for file in files_named(config, listener.say)}
    compared = {"losses": list(comparison.methods), "folds": comparison.folds, "seeds": comparison.seeds}
    with reserved(config, sums, compared=compared, resume=resume, say=listener.say) as (path, checkpoint):
        training, encoder = read(config), read_encoder(config, listener.say)
        test = training.test
        if test is not None:
            test, lost = drop_unknown(test)
            if lost:
                listener.warn(f"{counted(lost, 'row')} of {test.source} left out: all of their labels are unknown")
            if config.drop_unlabelled:
                test, _ = drop_unlabelled(test)
            if not test.rows:
                raise InputError(f"{test.source}: expected at least one row with labels to measure on; got none.")
        for sentence in training.said:
            listener.say(sentence)
        for sentence in training.warned:
            listener.warn(sentence)
        if encoder is not None:
            for rows in (training.train, test):
                if rows is not None and rows.texts is not None:
                    embed(encoder, rows.texts, listener)
        seeds = [config.seed + i for i in range(comparison.seeds if config.model in RANDOM else 1)]
        if comparison.seeds > len(seeds):
            listener.say("linear fits are the same for every seed: one is enough")
        each = CELL + DECIDED * len(comparison.methods) * len(seeds)
        check_cells(training, "manyhot train fits very many labels in blocks", each=each)
        trials = Trials(comparison, training, test, seeds, listener, checkpoint, encoder, jobs)
        listener.say(trials.design)
        numbers = trials.run()
        return write_comparison(path, config, numbers, said=training.said, command=command, sums=sums, began=began)


def write_comparison(
    path: Path,
    config: Config,
    numbers: dict[str, Any],
    *,
    said: list[str],
    command: list[str],
    sums: Mapping[str, str | None],
    began: float,
) -> Compared:
    """Write the folder of a comparison: its numbers, where they come from, how to repeat them, and the report.

    Args:
        path: the folder.
        config: what was asked for.
        numbers: what is measured, for compare.json.
        said: sentences on the rows read.
        command: the words that repeat it.
        sums: digests of the files read.
        began: by the monotonic clock.
    """
    result = {
        "kind": "comparison",
        "format": COMPARISON.format,
        "data": Path(config.data).name,
        "said": said,
        **numbers,
        "command": shlex.join(command),
        "inputs": [{"file": file, "sha256": digest} for file, digest in sums.items()],
        "versions": versions() | {"python": platform.python_version()},
        "platform": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - began, 1),
    }
    files = {
        "compare.json": to_json(result),
        "config.toml": config.to_toml().encode(),
        "report.html": render_comparison(result).encode(),
    }
    write_folder(path, files, COMPARISON)
    return Compared(result, path)


def reason_of(error: Exception) -> str:
    """Say in one line why a fit failed."""
    said = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return said.splitlines()[0]


class Trials:
    """Every method on every split with every seed."""

    def __init__(
        self,
        comparison: Comparison,
        training: Training,
        test: Examples | None,
        seeds: list[int],
        listener: Listener,
        checkpoint: Checkpoint,
        encoder: Encoder | None,
        jobs: int = 1,
    ) -> None:
        self.encoder, self.jobs = encoder, jobs
        self.config, self.default = comparison.config, comparison.default
        self.methods = [method for method in METHODS if method.name in comparison.methods]
        self.seeds = seeds
        self.listener = listener
        self.checkpoint = checkpoint
        self.training = training
        rows = training.train
        if test is not None:
            self.parts = None
            self.measured = test
            self.design = f"measured on the {test.rows:,} rows of {test.source}"
        else:
            units = rows.rows if rows.groups is None else len(np.unique(rows.groups))
            if units < LEAST:
                what = "rows" if rows.groups is None else "groups"
                raise InputError(
                    f"{rows.source}: expected {LEAST} {what} or more, so that folds have folds of their own; got "
                    f"{units}. Name rows to measure on: --test FILE."
                )
            number = min(comparison.folds, units)
            part = stratified_split(rows.targets, [1.0] * number, groups=rows.groups, seed=self.config.seed)
            self.parts = [part == i for i in np.unique(part)]
            self.measured = rows
            self.design = f"no test rows: {len(self.parts)} folds, each measured by models that did not see it"
        self.aligned = align(self.measured.targets, self.measured.label_names, rows.label_names, self.measured.unknown)
        if warning := self.aligned.warning():
            listener.warn(warning)
        self.described = ""  # the features of the first split
        self.errors: dict[str, str] = {}
        self.trials: dict[str, list[dict[str, Any]]] = {method.name: [] for method in self.methods}
        self.reliable = {method.name: np.zeros((3, BINS)) for method in self.methods}  # of the first seed

    def run(self) -> dict[str, Any]:
        """Fit, decide, measure; the part of compare.json that is numbers."""
        shape = self.aligned.targets.shape
        decided = {
            method.name: [Decided(np.empty(shape, np.float32), np.empty(shape, bool)) for _ in self.seeds]
            for method in self.methods
        }
        losses = len({method.loss for method in self.methods})
        units = (1 if self.parts is None else len(self.parts)) * len(self.seeds) * losses
        done = 0
        memory = PeakMemory()
        with memory.watched():
            for fold, (rows, split) in enumerate(self._splits(), 1):
                limits = split.cardinality._asdict()
                for i, seed in enumerate(self.seeds):
                    where = f"{split.name}, seed {seed}" if len(self.seeds) > 1 else split.name
                    if self.jobs > 1:
                        self._fit_ahead(split, seed, where)
                    folds = folds_of(split.training, split.X, split.targets, split.features, seed, Listener())
                    for loss, methods in groupby(self.methods, key=lambda method: method.loss):
                        tally = Tally(self.checkpoint, where, loss, memory)
                        for method in methods:
                            trial = self._trial(
                                method,
                                split,
                                folds,
                                seed,
                                tally,
                                where,
                                lambda what, share, value, done=done: self.listener.progress(
                                    what, (done + share) / units, value
                                ),
                            )
                            if trial is None:
                                continue
                            decided[method.name][i].logits[rows] = trial.logits
                            decided[method.name][i].preds[rows] = decide(trial.logits, **limits)
                            if i == 0:
                                probs = trial.calibration.probs(trial.logits)
                                self.reliable[method.name] += reliability(probs, self.aligned.targets[rows])
                            self.trials[method.name].append({"seed": seed, "fold": fold, "trial": trial})
                        # The fits of a loss are of use to its own methods alone; what losses share, to all of them.
                        self.checkpoint.forget(tally.name(""))
                        done += 1
                    self.checkpoint.forget(f"{where}, {shared('')}")
        return self._result({name: seeds for name, seeds in decided.items() if name not in self.errors})

    def _fit_ahead(self, split: Split, seed: int, where: str) -> None:
        """Fit the losses of a split side by side; what comes after finds all of it done.

        A loss that fails is tried again where it is its turn, and the error told there.
        """
        waiting = [
            [m for m in methods if self.checkpoint.finished(f"{where}, {m.name}: done") is None]
            for _, methods in groupby(self.methods, key=lambda method: method.loss)
        ]
        config, threads = replace(self.config, seed=seed), max(torch.get_num_threads() // self.jobs, 1)
        calls = [delayed(try_methods)(methods, config, split, where, threads) for methods in waiting if methods]
        self.listener.progress(f"{where}, {len(calls)} losses on {self.jobs} processes", 0.0, 0.0)
        results: Any = Parallel(n_jobs=self.jobs, return_as="generator_unordered")(calls)
        for trials in results:
            for name, trial in trials.items():
                self.checkpoint.finish(f"{where}, {name}: done", trial.arrays())
                self._say(f"{where}, {name}", trial)

    def _say(self, name: str, trial: Trial) -> None:
        C = "" if trial.C is None else f"C {trial.C:g}, "
        self.listener.say(f"{name}: {C}tau {trial.tau:.2f}, {trial.search + trial.fit:.1f} s")

    def _splits(self) -> Iterator[tuple[np.ndarray, Split]]:
        """Yield each split, made when its turn comes, with the rows of the measured ones that are in it."""
        if self.parts is None:
            yield np.arange(self.measured.rows), self._split("test", self.training, self.measured)
            return
        for i, held in enumerate(self.parts):
            part = replace(self.training, train=self.training.train.taken(np.flatnonzero(~held)), test=None)
            test = self.training.train.taken(np.flatnonzero(held))
            yield np.flatnonzero(held), self._split(f"fold {i + 1} of {len(self.parts)}", part, test)

    def _split(self, name: str, training: Training, test: Examples) -> Split:
        features, X = Features.fit_transform(
            training.train, self.encoder, words=self.config.words, **blocks_of(kept_nowhere(self.config))
        )
        if not self.described:
            self.described = features.describe()
            self.listener.say(f"model: {self.config.model} on {self.described}")
        return Split(
            name,
            training,
            features,
            X,
            training.train.dense_targets(),
            features.transform(test),
            training.train.cardinality(),
        )

    def _trial(
        self,
        method: Method,
        split: Split,
        folds: list[Fold],
        seed: int,
        tally: Tally,
        where: str,
        progress: Callable[[str, float, float], None],
    ) -> Trial | None:
        """Return what a method gives on a split; None where it failed, which is told and kept."""
        name = f"{where}, {method.name}"
        if (result := self.checkpoint.finished(f"{name}: done")) is not None:
            return Trial.restored(result)
        config = replace(self.config, seed=seed)
        try:
            trial = try_method(
                method,
                config,
                split,
                folds,
                tally,
                lambda what, share, value: progress(f"{name}, {what}", share, value),
            )
        except Exception as error:  # whatever it is, the other methods are worth their numbers
            self.errors[method.name] = f"{where}: {reason_of(error)}"
            self.listener.warn(f"{method.name} failed: {self.errors[method.name]}")
            return None
        self.checkpoint.finish(f"{name}: done", trial.arrays())
        self._say(name, trial)
        return trial

    def _result(self, decided: dict[str, list[Decided]]) -> dict[str, Any]:
        train_counts, groups = label_counts(self.training.train.targets), self.measured.groups
        self.listener.progress("resampling rows", 1.0, 0.0)
        measured = standings(
            decided,
            {method.name for method in self.methods if method.ours},
            self.default,
            self.aligned,
            train_counts=train_counts,
            groups=groups,
            seed=self.config.seed,
        )
        preds = [seeds[0].preds for seeds in decided.values()]
        design = {"kind": "folds", "folds": len(self.parts)} if self.parts else {"kind": "test"}
        truth = np.hstack([self.aligned.targets, self.aligned.unseen]) > 0
        unseen = self.aligned.unseen_names
        return {
            "design": design
            | {
                "file": self.measured.source,
                "rows": self.measured.rows,
                "drawn": "groups" if groups is not None else "rows",
            },
            "model": self.config.model,
            "features": self.described,
            "seeds": self.seeds,
            "resamples": RESAMPLES,
            "level": LEVEL,
            "labels": [*self.training.train.label_names, *unseen],
            "train_counts": [*map(int, train_counts), *[0] * len(unseen)],
            "test_counts": truth.sum(0).tolist(),
            "methods": [self._row(method, measured.methods.get(method.name, {})) for method in self.methods],
            "default": self.default,
            "best": measured.best,
            "warnings": self._warnings(preds, train_counts),
            "hard": None
            if self.config.no_rows or not preds
            else hard_rows(preds, self.measured, self.aligned, self.training.train.label_names, self.training.columns),
        }

    def _warnings(self, preds: list[np.ndarray], train_counts: np.ndarray) -> list[dict[str, Any]]:
        """Say what a reader should know of the data; a label is predicted where any method predicts it.

        Where all methods failed, that labels are not predicted is no fault of the data.
        """
        true, known = sp.csr_array(self.aligned.targets > 0), self.aligned.targets >= 0
        sets = [sp.csr_array(decided & known) for decided in preds]
        given = sum(sets[1:], sets[0]) if preds else true
        labels = of_labels(given, true, given.multiply(true), self.training.train.label_names, train_counts)
        part = "test" if self.parts is None else "cross_fitted"
        return warnings_of(self.training.train, part, self.measured, self.aligned, labels)

    def _row(self, method: Method, numbers: dict[str, Any]) -> dict[str, Any]:
        """Return a method's part of compare.json; of one that failed, the reason and nothing else."""
        row = {
            "name": method.name,
            "what": method.what,
            "loss": method.loss,
            "kind": "ours" if method.ours else "rival",
            "error": self.errors.get(method.name),
            **dict.fromkeys(("metrics", "intervals", "differences", "against_default", "label_f1", "cardinality")),
            **dict.fromkeys(("scores", "reliability")),
            **{
                "by_seed": [],
                "chosen": [],
                "seconds": None,
                "predict_seconds": None,
                "at_limit": None,
                "peak_mb": None,
            },
        }
        if not numbers:
            return row
        runs = self.trials[method.name]
        trials: list[Trial] = [run["trial"] for run in runs]
        return (
            row
            | numbers
            | {
                "by_seed": [{"seed": s} | part for s, part in zip(self.seeds, numbers["by_seed"], strict=True)],
                "reliability": self.reliable[method.name].round(6).tolist(),
                "chosen": [{"seed": run["seed"], "fold": run["fold"]} | run["trial"].chosen for run in runs],
                "seconds": {
                    "search": round(sum(trial.search for trial in trials), 3),
                    "fit": round(sum(trial.fit for trial in trials), 3),
                    "shared": round(sum(trial.shared for trial in trials), 3),
                },
                "at_limit": sum(trial.at_limit for trial in trials),
                "predict_seconds": round(sum(trial.predict for trial in trials), 3),
                "peak_mb": round(max(trial.peak for trial in trials) / 2**20),
            }
        )
