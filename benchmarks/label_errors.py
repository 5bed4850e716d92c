"""Flip labels and look for them: how many of the cells that `manyhot audit` suspects were flipped?

    make bench-audit      (two minutes of one core; training files alone)
    --table               write benchmarks/results/label_errors.md from what was measured, and measure nothing

At most 1,200 rows of each set. Of its positives a share is flipped to negatives, and as many negatives to positives:
drawn uniformly, or by confusion, where a cell is the likelier to be flipped the more a model that was fitted on the
clean labels takes it for the other (it stands for a person, who errs where it is hard to tell). Then all is as the
command does it: three folds, C, prior, neighbours and calibration chosen on the flipped labels. What cleanlab is asked
is asked of the same probabilities.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

import numpy as np
from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
from cleanlab.multilabel_classification.rank import get_label_quality_scores_per_class
from sklearn.metrics import average_precision_score

from defaults import rows_of, training_sets
from manyhot.calibration import fit_calibration
from manyhot.labels import cardinality_range, label_counts
from manyhot.split import stratified_split
from manyhot.toolkit.choose.blend import blended
from manyhot.toolkit.choose.cross_fit import choose, choose_tau, make_folds
from manyhot.toolkit.choose.label_errors import limits_of, suspects
from manyhot.toolkit.config import default_loss
from manyhot.toolkit.disk.fits import UNSAVED
from manyhot.toolkit.models.features import DesignMatrix, Features
from manyhot.toolkit.models.linear import LinearLearner
from manyhot.toolkit.objectives import FORMULAS, route_of
from manyhot.toolkit.read.examples import Examples

RESULTS = Path(__file__).parent / "results" / "label_errors.json"
PAGE = RESULTS.with_suffix(".md")
SETS = ("semeval eng", "semeval deu", "emotions", "scene", "yeast", "enron", "reuters r90", "debtags")
ROWS = 1200
# Rows that a label has at least: of fewer, most are gone or new after the flips.
LEAST = 5
RATES = (0.05, 0.1)
KINDS = ("uniform", "confusion")
OURS = "manyhot"
LOSS = default_loss("multilabel", "linear")


def held_probs(features: Features, X: DesignMatrix, targets: np.ndarray) -> np.ndarray:
    """Return the probabilities that the command would state of rows held out, (rows, labels)."""
    learner = LinearLearner.planned(X.shape[0], X.shape[1], targets.shape[1], loss=FORMULAS[LOSS], route=route_of(LOSS))
    options: Any = {
        "rule": choose_tau,
        "cardinality": cardinality_range(targets),
        "train_counts": label_counts(targets),
    }
    folds = make_folds(X, targets, seed=0)
    choice = choose(folds, learner=learner, C="auto", checkpoint=UNSAVED, **options)
    choice, _ = blended(choice, folds, features.size_without_kernel, **options)
    logits = choice.logits
    probs = np.empty(targets.shape, dtype=np.float32)
    probs[choice.held.rows] = fit_calibration(logits, choice.held.targets).probs(logits)
    return probs


def flipped(targets: np.ndarray, rate: float, weights: np.ndarray | None, seed: int) -> np.ndarray:
    """Flip a share of the positives, and as many negatives; `weights` (rows, labels) says how likely each is drawn."""
    rng = np.random.default_rng(seed)
    found, number = targets.copy(), round(rate * targets.sum())
    for value in (True, False):
        cells = np.argwhere(targets == value)
        odds = None if weights is None else weights[tuple(cells.T)].astype(np.float64)
        drawn = cells[rng.choice(len(cells), number, replace=False, p=None if odds is None else odds / odds.sum())]
        found[tuple(drawn.T)] = not value
    return found


def rankings(probs: np.ndarray, targets: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (rows, labels) of how wrong each cell looks, by one way each."""
    yield OURS, np.where(targets, 1 - probs, probs)
    sets, wide = _sets(targets), probs.astype(np.float64)
    for what, adjusted in (("cleanlab, self confidence", False), ("cleanlab, adjusted by thresholds", True)):
        yield what, -get_label_quality_scores_per_class(sets, wide, adjust_pred_probs=adjusted)


def flags(probs: np.ndarray, targets: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (rows, labels) of the cells that are called suspects."""
    ours = np.zeros(targets.shape, dtype=bool)
    cells = suspects(probs, targets, limits_of(probs, targets))
    ours[cells.rows, cells.labels] = True
    yield OURS, ours
    sets, wide = _sets(targets), probs.astype(np.float64)
    for rule in ("prune_by_noise_rate", "confident_learning"):
        of_labels: Any = find_multilabel_issues_per_class(sets, wide, filter_by=rule, n_jobs=1)
        yield f"cleanlab, {rule}", np.asarray(of_labels)


def _sets(targets: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in targets]


def measured(probs: np.ndarray, targets: np.ndarray, wrong: np.ndarray) -> dict[str, Any]:
    """Measure rankings, of missing and of wrong labels apart, and flags of both together."""
    ranked = {}
    for what, scores in rankings(probs, targets):
        ranked[what] = {}
        for side, cells in (("missing", ~targets), ("wrong", targets)):
            truth, score = wrong[cells], scores[cells]
            best = np.argsort(-score, kind="stable")[: truth.sum()]
            ranked[what][side] = {
                "average_precision": round(float(average_precision_score(truth, score)), 4),
                "precision": round(float(truth[best].mean()), 4),
            }
    flagged = {}
    for what, cells in flags(probs, targets):
        hits = int((cells & wrong).sum())
        precision, recall = hits / max(int(cells.sum()), 1), hits / int(wrong.sum())
        flagged[what] = {"cells": int(cells.sum()), "precision": round(precision, 4), "recall": round(recall, 4)}
    return {"rankings": ranked, "flags": flagged}


def judge(examples: Examples) -> dict[str, Any]:
    """Flip the labels of one set in every way and look for them."""
    if examples.rows > ROWS:
        part = stratified_split(examples.targets, (ROWS, examples.rows - ROWS), seed=2)
        examples = rows_of(examples, part == 0)
    features, X = Features.fit_transform(examples, characters=True, kernel=True)
    targets = examples.targets.toarray()
    targets = targets[:, targets.sum(0) >= LEAST]
    found: dict[str, Any] = {"rows": len(targets), "labels": targets.shape[1], "positives": int(targets.sum())}
    clean = held_probs(features, X, targets)
    for kind in KINDS:
        weights = None if kind == "uniform" else np.where(targets, 1 - clean, clean)
        for rate in RATES:
            given = flipped(targets, rate, weights, seed=0)
            keep = given.any(0)  # a label without a row left cannot be learned
            found[f"{kind} {rate}"] = measured(
                held_probs(features, X, given[:, keep]), given[:, keep], (given != targets)[:, keep]
            )
    return found


def pages(results: dict[str, Any]) -> str:
    """Write the results as tables of Markdown."""
    sets, first = results["sets"], next(iter(results["sets"].values()))
    cases = [f"{kind} {rate}" for kind in KINDS for rate in RATES]
    whats = list(first[cases[0]]["rankings"])

    def ranked(names: list[str], of: list[str], sides: tuple[str, ...]) -> str:
        """Write the two means of each ranking."""
        found = [[sets[n][c]["rankings"][w][s] for n in names for c in of for s in sides] for w in whats]
        keys = ("average_precision", "precision")
        return " | ".join(", ".join(f"{100 * np.mean([x[key] for x in each]):.1f}" for key in keys) for each in found)

    lines = [
        "Average precision and, behind it, precision at the number flipped, in %: the mean of missing and of wrong",
        "labels, of 5 % and 10 % flipped, uniformly and by confusion.\n",
        "| set | rows | labels | " + " | ".join(whats) + " |",
        "|---|---|---|" + "---|" * len(whats),
    ]
    both = ("missing", "wrong")
    for name in sets:
        rows, labels = sets[name]["rows"], sets[name]["labels"]
        lines.append(f"| {name} | {rows:,} | {labels} | {ranked([name], cases, both)} |")
    lines.append(f"| mean | | | {ranked(list(sets), cases, both)} |")
    lines += [
        "\nThe same by what was flipped, in the mean over the sets:\n",
        "| flipped | " + " | ".join(whats) + " |",
        "|---|" + "---|" * len(whats),
    ]
    for kind in KINDS:
        for rate in RATES:
            for side in both:
                means = ranked(list(sets), [f"{kind} {rate}"], (side,))
                lines.append(f"| {100 * rate:g} %, {kind}, {side} | {means} |")
    rules = list(first[cases[0]]["flags"])
    of_calls = "Cells called suspects, as a multiple of those flipped, with the precision and the recall in %:"
    lines += [
        f"\n{of_calls}\n",
        "| flipped | " + " | ".join(rules) + " |",
        "|---|" + "---|" * len(rules),
    ]
    for case in cases:
        cells = []
        for rule in rules:
            flagged = [sets[n][case]["flags"][rule] for n in sets]
            times = np.mean(
                [
                    f["cells"] / (2 * round(float(case.split()[1]) * sets[n]["positives"]))
                    for n, f in zip(sets, flagged, strict=True)
                ]
            )
            precision, recall = (100 * np.mean([f[key] for f in flagged]) for key in ("precision", "recall"))
            cells.append(f"{times:.1f} x, {precision:.1f}, {recall:.1f}")
        kind, rate = case.split()
        lines.append(f"| {100 * float(rate):g} %, {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", action="store_true")
    if not parser.parse_args().table:
        results: dict[str, Any] = {"least": LEAST, "most_rows": ROWS, "sets": {}}
        readers = training_sets(False)
        for name in SETS:
            began = time.process_time()
            results["sets"][name] = judge(readers[name]())
            print(f"{name}: {time.process_time() - began:.0f} s of processor time", flush=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    page = pages(json.loads(RESULTS.read_text()))
    PAGE.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
