"""Fine-tune a small encoder with ZLPR and with its rivals: what does the loss do where labels are many?

    make bench-encoder     (about six hours of a core; goes on where it was left, --hours N stops after a while,
                            --quick: minutes on few rows, writes nothing)
    python benchmarks/encoder.py --sets "reuters r90"     this set alone, to share the work between processes

Four kinds of fit, each from the same encoder, head weights and order of rows. What differs only in the decision shares
a fit: s > 0, the rule of `manyhot train`, one tuned threshold, the last two chosen by a tenth of the training rows. The
rate of each kind is the best of three for a third of the rows by the same tenth; test rows choose nothing. Then three
seeds at that rate. Each fit is written when it is done, and is not made again; what is missing is said to be missing.
Spans of two sets are measured the same way, by encoder_spans.py.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from defaults import ROOT, decided
from encoder_spans import SpanRows, fitted_spans
from manyhot.labels import CardinalityRange, cardinality_range
from manyhot.split import stratified_split
from manyhot.toolkit.choose.cross_fit import Held, Rule, choose_tau, fixed, prior_logits, score_by
from manyhot.toolkit.choose.offsets import choose_offset
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.fits import UNSAVED
from manyhot.toolkit.disk.run_folder import to_json, write_file
from manyhot.toolkit.models.adamw import descend
from manyhot.toolkit.models.early_stopping import mean_loss
from manyhot.toolkit.models.encoder import SCHEDULE, plan_encoder
from manyhot.toolkit.models.model import unheard
from manyhot.toolkit.models.pretrained import Encoder, Tokens
from manyhot.toolkit.objectives import FORMULAS, STARTS
from manyhot.toolkit.read.inputs import read
from manyhot.toolkit.runs.evaluate import align

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "encoder.json"
PAGE = HERE.parent / "docs" / "measurements" / "encoder.md"
ENCODER = HERE.parent / ".venv" / "encoder-data" / "all-MiniLM-L6-v2"


class Kind(NamedTuple):
    """A loss, and where the biases of its head begin, in log-odds of the labels' shares."""

    loss: str
    start: float


KINDS = {
    "ZLPR": Kind("zlpr", STARTS["zlpr"]),
    "BCE from zero": Kind("bce", 0.0),
    "BCE with prior": Kind("bce", STARTS["bce"]),
    "focal with prior": Kind("focal", STARTS["focal"]),
}
DECISIONS: dict[str, Rule] = {"s > 0": fixed(0.0), "rule": choose_tau, "one threshold": choose_offset}
RATES = (5e-5, 1e-4, 2e-4)
SEEDS = (0, 1, 2)
EPOCHS = 5
LOOKS = 2  # at the rows held out, an epoch
# Sets of spans, and how many types these have.
SPANS = {"conll04": 4, "wnut17": 6}


@dataclass(frozen=True)
class Task:
    """A data set: how it is read, of how many labels, how many training rows are used, where texts are cut."""

    config: Config
    labels: int
    rows: int | None = None
    tokens: int = 128


def tasks() -> dict[str, Task]:
    """Name the sets, few labels first."""
    semeval, reuters, go = (str(ROOT / name) for name in ("semeval2025_task11a", "reuters21578", "goemotions"))
    debtags = str(ROOT / "debtags")
    return {
        "semeval eng": Task(
            Config(data=f"{semeval}/train/eng.csv.gz", test=f"{semeval}/test/eng_gold_from_track_b.csv.gz"), 5
        ),
        "goemotions": Task(
            Config(
                data=f"{go}/train.tsv.gz",
                test=f"{go}/test.tsv.gz",
                text=("1",),
                labels=("2",),
                label_names=f"{go}/labels.txt",
                no_header=True,
            ),
            28,
            5000,
        ),
        "debtags titles": Task(
            Config(
                data=f"{debtags}/train.jsonl.gz", test=f"{debtags}/test.jsonl.gz", text=("title",), labels=("tags",)
            ),
            548,
        ),
        "reuters r90": Task(
            Config(
                data=f"{reuters}/modapte_train.jsonl.gz",
                test=f"{reuters}/modapte_test.jsonl.gz",
                text=("title", "text"),
                labels=("r90",),
                drop_unlabelled=True,
            ),
            90,
            2000,
        ),
    }


class Rows(NamedTuple):
    """Token ids and targets of the rows to train on, of the tenth that is held out, and of the test rows."""

    X: np.ndarray
    targets: np.ndarray
    X_held: np.ndarray
    targets_held: np.ndarray
    X_test: np.ndarray
    targets_test: np.ndarray
    cardinality: CardinalityRange

    def third(self) -> "Rows":
        """Keep a third of the rows to train on, and no test rows: what is compared there, these must not choose."""
        kept = stratified_split(self.targets, [1.0, 2.0], seed=0) == 0
        none = {"X_test": self.X_test[:0], "targets_test": self.targets_test[:0]}
        return self._replace(X=self.X[kept], targets=self.targets[kept], **none)


def rows_of(task: Task, encoder: Encoder) -> Rows:
    """Read a set; labels of test rows that no training row has are left out."""
    training = read(task.config)
    examples, test = training.train, training.test
    assert test is not None
    targets = examples.targets.toarray()
    texts = np.array(examples.texts, dtype=object)
    if task.rows is not None and task.rows < len(texts):
        taken = stratified_split(targets, [float(task.rows), float(len(texts) - task.rows)], seed=0) == 0
        targets, texts = targets[taken], texts[taken]
    known = align(test.targets, test.label_names, examples.label_names).targets
    tokens = Tokens(encoder.tokens.tokenizer, min(task.tokens, encoder.tokens.limit))
    X, X_test = tokens.transform(texts.tolist()), tokens.transform(list(test.texts or []))
    held = stratified_split(targets, [9.0, 1.0], seed=0) == 1
    cardinality = cardinality_range(targets)
    return Rows(X[~held], targets[~held], X[held], targets[held], X_test, known, cardinality)


def fitted(encoder: Encoder, rows: Rows, kind: Kind, rate: float, seed: int, epochs: int = EPOCHS) -> dict[str, Any]:
    """Fit, and measure every decision.

    Where there are test rows, the curve has the mean loss of training and the held-out score by step.
    """
    began = time.monotonic()
    labels, score = rows.targets.shape[1], score_by(rows.cardinality)
    loss = FORMULAS[kind.loss]
    options: Any = {"loss": loss, "score": score, "start": kind.start, "seed": seed}
    learner = plan_encoder(len(rows.X), labels, encoder=encoder, **options)
    net = learner.draw(rows.X, torch.from_numpy(rows.targets))
    assert learner.lengths is not None
    value = mean_loss(net, rows.X, torch.from_numpy(rows.targets), loss)
    batches = -(-len(rows.X) // SCHEDULE.batch)
    every, losses, curve = max(batches // LOOKS, 1), [], []

    def heard(part: np.ndarray, random: torch.Generator) -> torch.Tensor:
        if len(rows.X_test) and losses and len(losses) % every == 0:
            look()
        mean = value(part, random)
        losses.append(mean.item())
        return mean

    def look() -> None:
        held = score(net.logits(rows.X_held), rows.targets_held)
        curve.append({"step": len(losses), "loss": round(float(np.mean(losses[-every:])), 5), "held": round(held, 4)})

    descend(
        net.parameters(),
        len(rows.X),
        heard,
        replace(learner.schedule, rate=rate, epochs=epochs),
        seed=seed,
        bookmark=UNSAVED,
        progress=unheard,
        **learner.lengths.cutting(rows.X, SCHEDULE.batch),
    )
    look()
    prior = prior_logits(rows.targets)
    of_held = Held(net.logits(rows.X_held), prior, rows.targets_held)
    of_test = Held(net.logits(rows.X_test), prior, rows.targets_test)
    return {
        "rows": len(rows.X),
        "curve": curve,
        "decisions": {
            name: decision(rule(of_held, rows.cardinality), of_held, of_test, rows.cardinality)
            for name, rule in DECISIONS.items()
        },
        "seconds": round(time.monotonic() - began, 1),
    }


def decision(
    chosen: tuple[float, float | np.ndarray], held: Held, test: Held, cardinality: CardinalityRange
) -> dict[str, float]:
    """Measure tau and an offset on the rows held out and on the test rows."""
    out: dict[str, float] = {"tau": chosen[0], "offset": float(np.mean(chosen[1]))}
    for part, rows in (("held", held), ("test", test)):
        if not len(rows.logits):
            continue
        preds = decided(rows.shifted(*chosen), cardinality).astype(bool)
        hits, sizes = (preds & rows.targets).sum(0), preds.sum(0) + rows.targets.sum(0)
        out[f"{part}_micro"] = round(float(2 * hits.sum() / max(sizes.sum(), 1)), 4)
        out[f"{part}_macro"] = round(float(np.mean(2 * hits / np.maximum(sizes, 1))), 4)
    return out


def name_of(task: str, kind: str, rate: float, seed: int | str) -> str:
    return f"{task}, {kind}, rate {rate:g}, {seed}"


def best_rate(done: dict[str, Any], task: str, kind: str) -> float | None:
    """Return the rate with the best held-out rows under the first rule that moves scores; None while one is missing."""
    tried = {rate: done.get(name_of(task, kind, rate, "a third")) for rate in RATES}
    if not all(tried.values()):
        return None
    of_rule = {rate: list(fit["decisions"].values())[1] for rate, fit in tried.items() if fit}
    return max(of_rule, key=lambda rate: of_rule[rate]["held_micro"] + of_rule[rate]["held_macro"])


def wanted(done: dict[str, Any], names: list[str]) -> Iterator[tuple[str, str, str, float, int, bool]]:
    """Yield what is missing: name, set, kind, rate, seed, whether on a third; the best rates as they become known."""
    for task in names:
        for kind in KINDS:
            for rate in RATES:
                yield name_of(task, kind, rate, "a third"), task, kind, rate, SEEDS[0], True
        for seed in SEEDS:
            for kind in KINDS:
                if (rate := best_rate(done, task, kind)) is not None:
                    yield name_of(task, kind, rate, f"seed {seed}"), task, kind, rate, seed, False


# (set, kind, rate, seed, whether on a third) to what is kept of the fit.
Trial = Callable[[str, str, float, int, bool], dict[str, Any]]


def trial_of(given: dict[str, Task], encoder: Encoder) -> Trial:
    """Return what fits any set, each read once."""

    @cache
    def rows(task: str) -> Rows | SpanRows:
        return SpanRows.read(task) if task in SPANS else rows_of(given[task], encoder)

    def trial(task: str, kind: str, rate: float, seed: int, third: bool) -> dict[str, Any]:
        used = rows(task).third() if third else rows(task)
        if isinstance(used, SpanRows):
            return fitted_spans(encoder, used, *KINDS[kind], rate, seed, EPOCHS)
        return fitted(encoder, used, KINDS[kind], rate, seed)

    return trial


def measure(names: list[str], trial: Trial, results: Path, *, hours: float) -> dict[str, Any]:
    """Make the fits that are missing, each written when it is done, until the time is over."""
    done: dict[str, Any] = json.loads(results.read_bytes()) if results.exists() else {}
    began = time.monotonic()
    for name, task, kind, rate, seed, third in wanted(done, names):
        if name in done:
            continue
        if time.monotonic() - began > 3600 * hours:
            print(f"{hours:g} hours are over; go on with the same command", flush=True)
            break
        fit = trial(task, kind, rate, seed, third)
        if results.exists():  # another process may have written by now
            done.update(json.loads(results.read_bytes()))
        done[name] = fit
        write_file(results, to_json(done))
        held = 100 * list(fit["decisions"].values())[1]["held_micro"]
        print(f"{name}: {fit['seconds']:,.0f} s, held out {held:.1f} micro-F1", flush=True)
    return done


def page_of(done: dict[str, Any], titles: dict[str, str]) -> str:
    """Write the tables as Markdown, and what is missing."""
    lines = [
        "# Fine-tuned encoders",
        "",
        "`make bench-encoder`: all-MiniLM-L6-v2, all weights trained with AdamW, batches of 16, five epochs. Micro-",
        "and macro-F1 on test rows, mean and range over seeds. What a decision leaves open is chosen by a tenth of the",
        "training rows, and so is the rate, of three, by fits of a third of the others. The second table of a set has",
        "the mean of micro- and macro-F1 on that tenth after so many steps, mean over seeds: of labels at the",
        "threshold with as many as there are, of spans with the offset that this tenth then chooses.",
    ]
    missing = []
    for task, title in titles.items():
        table: list[str] = []
        curves: dict[str, list[list[dict[str, float]]]] = {}
        lacking, rows = [], 0
        for kind in KINDS:
            rate = best_rate(done, task, kind)
            fits = [] if rate is None else [done.get(name_of(task, kind, rate, f"seed {seed}")) for seed in SEEDS]
            there = [fit for fit in fits if fit]
            if len(there) < len(SEEDS):
                lacking.append(f"{len(SEEDS) - len(there)} of {len(SEEDS)} seeds of {kind}")
            if there:
                rows, decisions = there[0]["rows"], list(there[0]["decisions"])
                cells = [spread([fit["decisions"][name] for fit in there]) for name in decisions]
                table = table or [f"| | rate | {' | '.join(decisions)} |", f"|---|---|{'---|' * len(decisions)}"]
                table.append(f"| {kind} | {rate:g} | {' | '.join(cells)} |")
                curves[kind] = [apart(fit["curve"]) for fit in there]
        if lacking:
            missing.append(f"{task}: {', '.join(lacking) if curves else 'all'}")
        if curves:
            lines += ["", f"## {task}, {title}", "", f"{rows:,} rows fitted.", "", *table]
            steps = [look["step"] for look in next(iter(curves.values()))[0]]
            lines += ["", f"| | {' | '.join(f'{step:,}' for step in steps)} |", f"|---|{'---|' * len(steps)}"]
        for kind, found in curves.items():
            means = np.mean([[100 * look["held"] for look in curve] for curve in found], 0)
            lines.append(f"| {kind} | {' | '.join(f'{mean:.1f}' for mean in means)} |")
    lines += ["", f"Missing: {'; '.join(missing)}." if missing else "Nothing is missing."]
    return "\n".join(lines) + "\n"


def apart(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """Leave out a look that comes just before the last one, where a mini-batch of an epoch is over."""
    near = len(curve) > 2 and curve[-1]["step"] - curve[-2]["step"] < curve[0]["step"] / 2
    return [*curve[:-2], curve[-1]] if near else curve


def spread(measured: list[dict[str, float]]) -> str:
    """Write the mean of micro- and of macro-F1, and the range of each where there are several."""
    parts = []
    for key in ("test_micro", "test_macro"):
        values = [100 * one[key] for one in measured]
        extent = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
        parts.append(f"{np.mean(values):.1f}{extent}")
    return " / ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=10.0, help="begin no fit after so many")
    parser.add_argument("--sets", nargs="+", choices=[*tasks(), *SPANS], help="these alone")
    parser.add_argument("--quick", action="store_true", help="one fit a kind on few rows; writes nothing")
    asked = parser.parse_args()
    encoder = Encoder.read(str(ENCODER), "cpu")
    given = tasks()
    if asked.quick:
        rows = rows_of(replace(given["semeval eng"], rows=60), encoder)
        rows = rows._replace(X_test=rows.X_test[:40], targets_test=rows.targets_test[:40])
        for name, kind in KINDS.items():
            fit = fitted(encoder, rows, kind, 5e-5, 0, epochs=1)
            print(f"{name}: {fit['seconds']:.0f} s, s > 0 {spread([fit['decisions']['s > 0']])}", flush=True)
        spans = SpanRows.read("conll04").few(80)
        for name, kind in KINDS.items():
            fit = fitted_spans(encoder, spans, *kind, 2e-4, 0, epochs=2)
            said = spread([fit["decisions"]["one threshold"]])
            print(f"spans, {name}: {fit['seconds']:.0f} s, with an offset {said}", flush=True)
        return
    titles = {name: f"{task.labels} labels" for name, task in given.items()}
    titles |= {name: f"spans of {types} types" for name, types in SPANS.items()}
    done = measure(asked.sets or list(titles), trial_of(given, encoder), RESULTS, hours=asked.hours)
    write_file(PAGE, page_of(done, titles).encode())
    print(f"wrote {RESULTS} and {PAGE}")


if __name__ == "__main__":
    main()
