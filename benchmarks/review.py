"""Label the rows that `predict --review` names, or rows at random: what is F1 after so many labels?

    make bench-review      (ten minutes of one core; training files alone)

From 100 labelled rows on (40 of a small set), five times as many more are labelled, at random or those with the highest
score of a model fitted on all that are labelled. The mean of micro- and macro-F1 is of a fixed quarter of the training
rows that nobody labels. Two seeds: of the first rows, and of what is
drawn. The penalty is that of the first rows, as `train --from` keeps it.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from defaults import decided, rows_of, training_sets
from manyhot.calibration import fit_calibration
from manyhot.labels import cardinality_range
from manyhot.split import stratified_split
from manyhot.toolkit.choose.cross_fit import choose, choose_tau, make_folds, mean_f1, prior_logits
from manyhot.toolkit.config import default_loss
from manyhot.toolkit.disk.fits import UNSAVED
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.linear import LinearLearner
from manyhot.toolkit.models.model import unheard
from manyhot.toolkit.objectives import FORMULAS, route_of
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.runs.review import expected_loss

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

RESULTS = Path(__file__).parent / "results" / "review.json"
SETS = ("semeval eng", "emotions", "scene", "reuters r90")
# Of each set, before a quarter is put aside; of emotions, of 391 rows, fewer are labelled a round.
ROWS, STEPS, ROUNDS, SEEDS = 1600, {"emotions": 40}, 5, 2
STEP = 100
LOSS = default_loss("multilabel", "linear")
# A label counts from this many rows on among those that may be labelled.
LEAST = 10

Score = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]

SCORES: dict[str, Score] = {
    "random": lambda probs, chosen, rng: rng.random(len(probs)),
    "expected loss of the set": lambda probs, chosen, rng: expected_loss(probs, chosen),
    "expected number of wrong labels": lambda probs, chosen, rng: np.where(chosen > 0, 1 - probs, probs).sum(1),
    "least certain label": lambda probs, chosen, rng: -np.abs(probs - 0.5).min(1),
}


def fitted(
    train: Examples, others: list[Examples], C: Any
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, Any]:
    """Train as the command does; logits and probabilities of other rows, which labels the rows have, and C."""
    targets = train.targets.toarray()
    has = targets.any(0)
    targets = targets[:, has]
    features, X = Features.fit_transform(train)
    learner = LinearLearner.planned(X.shape[0], X.shape[1], targets.shape[1], loss=FORMULAS[LOSS], route=route_of(LOSS))
    choice = choose(
        make_folds(X, targets, seed=0),
        learner=learner,
        C=C,
        rule=choose_tau,
        cardinality=cardinality_range(targets),
        train_counts=targets.sum(0),
        checkpoint=UNSAVED,
    )
    calibration = fit_calibration(choice.logits, choice.held.targets)
    model = learner.fit(
        X, torch.from_numpy(targets), C=choice.step.C, start=choice.start, fits=UNSAVED, name="", progress=unheard
    ).model
    shift = np.float32(choice.step.offset) - np.float32(choice.step.tau) * prior_logits(targets)
    logits = [model.logits(features.transform(rows)) + shift for rows in others]
    return logits, [calibration.probs(x) for x in logits], has, choice.step.C


def curve(pool: Examples, judge: Examples, score: Score, seed: int, step: int) -> list[float]:
    """Return the F1 before any round, and after each."""
    rng = np.random.default_rng(seed)
    labelled = np.zeros(pool.rows, bool)
    labelled[rng.choice(pool.rows, step, replace=False)] = True
    found, C = [], "auto"
    for _ in range(ROUNDS + 1):
        rest = np.flatnonzero(~labelled)
        train = rows_of(pool, labelled)
        (judged, asked), (_, probs), has, C = fitted(train, [judge, rows_of(pool, ~labelled)], C)
        cardinality = cardinality_range(train.targets)
        preds = np.zeros(judge.targets.shape, bool)
        preds[:, has] = decided(judged, cardinality) > 0
        found.append(mean_f1(preds, judge.targets.toarray()))
        values = score(probs, decided(asked, cardinality), rng)
        labelled[rest[np.argsort(-values, kind="stable")[:step]]] = True
    return found


def main() -> None:
    began = time.monotonic()
    table: dict[str, dict[str, list[float]]] = {}
    spread: dict[str, dict[str, float]] = {}
    for name in SETS:
        examples = training_sets(False)[name]()
        if examples.rows > ROWS:
            part = stratified_split(examples.targets, (ROWS, examples.rows - ROWS), seed=2)
            examples = rows_of(examples, part == 0)
        keep = np.asarray(examples.targets.sum(0)).ravel() >= LEAST
        examples = Examples(
            examples.source, examples.texts, examples.numbers, examples.targets[:, keep], examples.label_names
        )
        part, step = stratified_split(examples.targets, (3, 1), seed=1), STEPS.get(name, STEP)
        pool, judge = rows_of(examples, part == 0), rows_of(examples, part == 1)
        for what, score in SCORES.items():
            curves = np.array([curve(pool, judge, score, seed, step) for seed in range(SEEDS)])
            table.setdefault(name, {})[what] = [round(float(v), 4) for v in curves.mean(0)]
            spread.setdefault(name, {})[what] = round(float(np.ptp(curves.mean(1))) / 2, 4)
            print(f"{name}, {what}: {np.round(100 * curves.mean(0), 1)} {time.monotonic() - began:.0f} s", flush=True)
    RESULTS.write_text(json.dumps({"curves": table, "half_range": spread}, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(page(table, spread))
    print(page(table, spread))


def page(table: dict[str, dict[str, list[float]]], spread: dict[str, dict[str, float]]) -> str:
    """Write a table of Markdown."""
    heads = " | ".join(f"{i + 1} x" for i in range(ROUNDS + 1))
    lines = [f"| set | rows by | {heads} | mean after the first | +- |", f"|---|---|{'---|' * (ROUNDS + 3)}"]
    for name, curves in table.items():
        for what, values in curves.items():
            cells = " | ".join(f"{100 * v:.1f}" for v in values)
            mean, half = 100 * np.mean(values[1:]), 100 * spread[name][what]
            lines.append(f"| {name}, {STEPS.get(name, STEP)} rows | {what} | {cells} | {mean:.1f} | {half:.1f} |")
    for what in SCORES:
        mean = 100 * np.mean([curves[what][1:] for curves in table.values()])
        lines.append(f"| mean | {what} |{' |' * (ROUNDS + 1)} {mean:.1f} | |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
