"""Train on a job as `manyhot train` does, measure it beside what people do today, and say what that means."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from manyhot.decisions import decide
from manyhot.toolkit.compare.standings import Decided, Standings, standings
from manyhot.toolkit.demo.digits import digits
from manyhot.toolkit.demo.job import Job
from manyhot.toolkit.demo.packages import packages
from manyhot.toolkit.demo.today import RIVALS, decided_today
from manyhot.toolkit.disk.fits import Arrays
from manyhot.toolkit.disk.run_folder import check_free, free_path
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.read.inputs import read
from manyhot.toolkit.report.metric_names import AHEAD, BEHIND, EVEN, in_words, signed_interval
from manyhot.toolkit.runs.evaluate import align
from manyhot.toolkit.train import train

JOBS: dict[str, Callable[[], AbstractContextManager[Job]]] = {"packages": packages, "digits": digits}
OURS = "manyhot"
SHOWN = 3
# Shown whatever they come to: what a reader asks first, how rare labels fare, whether rows are left without an answer.
METRICS = ("micro_f1", "macro_f1", "rare_f1", "empty_rows", "labels_per_row_predicted")
# Those that have an interval, as a sentence names them.
JUDGED = {"micro_f1": "micro-F1", "macro_f1": "macro-F1", "rare_f1": "rare-F1"}


@dataclass(frozen=True)
class Example:
    """A test row as lines, and its labels: right, missed, added."""

    lines: list[str]
    right: list[str]
    missed: list[str]
    added: list[str]


@dataclass(frozen=True)
class Shown:
    """What the demo prints: a column a method, what it means, rows, the run's place, and a line to type next."""

    metrics: dict[str, dict[str, Any]]
    meaning: str
    examples: list[Example]
    path: Path
    use: str


def run_demo(data: str, out: str | None, listener: Listener) -> Shown:
    """Train on a job and write the run, then train what people do today on the same rows.

    Args:
        data: one of JOBS.
        out: the run folder; None: runs/demo-N.
        listener: hears of progress.

    Raises:
        InputError: no such job, or the place is taken.
        OSError: the disk is full or refuses.
    """
    if data not in JOBS:
        raise InputError(f"--data expects one of {', '.join(JOBS)}; got {data!r}.")
    path = Path(out) if out else free_path("demo")
    check_free(path)
    with JOBS[data]() as job:
        config = replace(job.config, out=str(path))
        training = read(config)
        test = training.test
        assert test is not None
        labels, per_row = training.train.targets.shape[1], training.train.targets.sum() / training.train.rows
        listener.say(job.what)
        listener.say(
            f"learning from {training.train.rows:,} {job.rows} with {labels:,} labels, {per_row:.1f} each; measuring "
            f"on {test.rows:,} others"
        )
        fits: dict[str, Arrays] = {}
        trained = train(config, Listener(progress=part(listener, 0, 2)), remember=fits)
        assert trained is not None
        run = trained.run
        aligned = align(test.targets, test.label_names, run.label_names, test.unknown)
        logits = run.logits(test)
        ours = decide(logits, min_labels=run.cardinality.min_labels, max_labels=run.cardinality.max_labels) > 0
        rivals = decided_today(config, training, run, fits, part(listener, 1, 2))
        decided = {OURS: [Decided(logits, ours)]} | {RIVALS[name]: [found] for name, found in rivals.items()}
        measured = standings(decided, {OURS}, OURS, aligned, train_counts=run.train_counts, seed=config.seed)
        names = np.array([*run.label_names, *aligned.unseen_names], dtype=object)
        truth = np.hstack([aligned.targets > 0, aligned.unseen])
        said = np.hstack([ours, np.zeros_like(aligned.unseen)])
        examples = [
            Example(
                job.show(test, row),
                list(names[truth[row] & said[row]]),
                list(names[truth[row] & ~said[row]]),
                list(names[~truth[row] & said[row]]),
            )
            for row in job.choose(test, SHOWN).tolist()
        ]
    metrics = {name: rows["metrics"] for name, rows in measured.methods.items()}
    return Shown(metrics, meaning(measured, tuple(RIVALS.values()), JUDGED), examples, path, job.use(path))


def part(listener: Listener, number: int, of: int) -> Callable[[str, float, float], None]:
    """Tell progress of one training among several."""
    return lambda what, share, value: listener.progress(what, (number + share) / of, value)


def meaning(measured: Standings, rivals: Sequence[str], judged: Mapping[str, str]) -> str:
    """Say in a sentence where ours stands against each rival, and which differences may be chance.

    Args:
        measured: all of them.
        rivals: which are named.
        judged: metrics that have an interval, with their names.

    Example:
        "Beside BCE, cut at 0.5, manyhot is ahead in micro-F1 (+9.1 [7.9, 10.2]); ..."
    """
    parts = []
    for rival in rivals:
        found: dict[str, list[str]] = {AHEAD: [], BEHIND: [], EVEN: []}
        for metric, title in judged.items():
            # The difference is that of the rival against ours: it is turned round.
            if (difference := measured.methods[rival]["against_default"][metric]) is not None:
                low, high = difference["interval"]
                turned = (-high, -low)
                found[in_words(turned)].append(f"{title} ({signed_interval(-difference['value'], turned)})")
        said = [f"{words} in {_listed(which)}" for words, which in found.items() if words != EVEN and which]
        said = [f"{OURS} is {' and '.join(said)}"] if said else []
        said += [f"{EVEN} in {_listed(found[EVEN])}"] if found[EVEN] else []
        parts.append(f"Beside {rival}: {', '.join(said)}.")
    return " ".join(parts)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
