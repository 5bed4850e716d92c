"""Choose the defaults of `manyhot train` on training files alone; no test file is opened.

    make defaults        (about 15 minutes on 2 idle cores; --quick: the small sets, 2 minutes;
                          --only rule: the rule for the prior alone, half of it;
                          --only search: folds, steps of C and tolerance on part of nine sets, 5 minutes)

Each training file is cut once more: three quarters play the training rows, and everything `manyhot train` chooses is
chosen inside them; one quarter judges, by the mean of micro- and macro-F1. What wins on the mean over the sets is the
default. tests/toolkit/choose/test_defaults.py compares benchmarks/results/defaults.json with the code.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from manyhot.decisions import decide
from manyhot.labels import CardinalityRange, cardinality_range
from manyhot.split import stratified_split
from manyhot.toolkit.choose import cross_fit
from manyhot.toolkit.choose.cross_fit import (
    Held,
    Rule,
    choose_tau,
    choose_tau_of_right_cardinality,
    fit_folds,
    make_folds,
    mean_f1,
    penalty_at,
    prior_logits,
)
from manyhot.toolkit.choose.offsets import choose_offset
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.fits import UNSAVED, Arrays
from manyhot.toolkit.models import linear, term_blocks
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.linear import LinearLearner
from manyhot.toolkit.models.model import unheard
from manyhot.toolkit.objectives import FORMULAS, route_of
from manyhot.toolkit.read.columns import Columns
from manyhot.toolkit.read.examples import Examples, examples_from_frame
from manyhot.toolkit.read.inputs import read

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

ROOT = Path(os.environ.get("MANYHOT_DATA", Path(__file__).parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "defaults.json"

# Weight of the word-pair block beside the words; 0 is words alone.
PAIR_WEIGHTS = (0.0, 0.5, 1.0)


def no_prior(held: Held, cardinality: CardinalityRange) -> tuple[float, float]:
    """Predict s > 0 of plain ZLPR."""
    return 0.0, 0.0


def tau_of_right_cardinality(held: Held, cardinality: CardinalityRange) -> tuple[float, float]:
    """Raise tau until as many labels are predicted as there are; no offset."""
    low, high, labels = 0.0, 3.0, int(held.targets.sum())

    def predicted(tau: float) -> int:
        return int(decided(held.shifted(tau, 0.0), cardinality).sum())

    if predicted(low) >= labels:
        return low, 0.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if predicted(middle) < labels else (low, middle)
    return (low + high) / 2, 0.0


RULES: dict[str, Rule] = {
    "no prior": no_prior,
    "tau by cardinality": tau_of_right_cardinality,
    "offset by cardinality, tau by F1": choose_tau_of_right_cardinality,
    "no prior, offset by F1": choose_offset,
    "tau and offset by F1": choose_tau,
}
CRITERIA = ("loss", "F1")

# What the search of C costs most by: small tables, or part of large ones, since rows are what a choice is short of.
SEARCH_ROWS = 1200
SEARCH_SETS = (
    *("semeval eng", "semeval deu", "emotions", "scene", "yeast", "enron"),
    *("reuters r90", "debtags", "bibtex"),
)
FINE = tuple(10 ** (i / 2) for i in range(7))
COARSE = (1.0, 10.0, 100.0, 1000.0)
FOLDS_TRIED = (3, 5, 10)
TOLERANCES = (1e-2, 1e-3, 1e-4)


def decided(logits: np.ndarray, cardinality: CardinalityRange) -> np.ndarray:
    return decide(logits, min_labels=cardinality.min_labels, max_labels=cardinality.max_labels)


def judge(examples: Examples) -> dict[str, float]:
    """Return the judged score of every rule and criterion on one set."""
    part = stratified_split(examples.targets, (3, 1), seed=1)
    inner, outer = rows_of(examples, part == 0), rows_of(examples, part == 1)
    fitted = Features.fit(inner)
    X, X_outer = fitted.transform(inner), fitted.transform(outer)
    targets, truth = inner.targets.toarray(), outer.targets.toarray()
    cardinality = cardinality_range(targets)
    folds = make_folds(X, targets, seed=0)
    starts: list[Arrays] = [{} for _ in folds]
    loss, tried = FORMULAS["zlpr"], []
    learner = LinearLearner.planned(X.shape[0], X.shape[1], targets.shape[1], loss=loss, route=route_of("zlpr"))
    for strength in cross_fit.STRENGTHS:
        C = penalty_at(strength, folds)
        held, _ = fit_folds(folds, starts, learner=learner, C=C)
        start = learner.mean(starts, [fold.rows for fold in folds])
        model = learner.fit(
            X, torch.from_numpy(targets), C=C, start=start, fits=UNSAVED, name="all", progress=unheard
        ).model
        tried.append((held, model.logits(X_outer)))
    scores = {}
    for (rule, choice), criterion in product(RULES.items(), CRITERIA):
        options = []
        for held, logits in tried:
            tau, offset = choice(held, cardinality)
            inside = (
                mean_f1(decided(held.shifted(tau, offset), cardinality), held.targets)
                if criterion == "F1"
                else -held.mean_loss(loss)
            )
            shifted = logits - np.float32(tau) * prior_logits(targets) + np.float32(offset)
            options.append((inside, mean_f1(decided(shifted, cardinality), truth)))
        scores[f"{rule}; C by {criterion}"] = max(options)[1]
    return scores


def judge_search(examples: Examples) -> dict[str, float]:
    """Return the judged score of numbers of folds, steps between strengths and tolerances; and what the last cost."""
    if examples.rows > SEARCH_ROWS:
        part = stratified_split(examples.targets, (SEARCH_ROWS, examples.rows - SEARCH_ROWS), seed=2)
        examples = rows_of(examples, part == 0)
    part = stratified_split(examples.targets, (3, 1), seed=1)
    inner, outer = rows_of(examples, part == 0), rows_of(examples, part == 1)
    fitted, X = Features.fit_transform(inner)
    X_outer, targets, truth = fitted.transform(outer), inner.targets.toarray(), outer.targets.toarray()
    cardinality = cardinality_range(targets)
    loss = FORMULAS["zlpr"]
    learner = LinearLearner.planned(X.shape[0], X.shape[1], targets.shape[1], loss=loss, route=route_of("zlpr"))
    last: dict[tuple[float, float], np.ndarray] = {}

    def scores(number: int, strengths: tuple[float, ...], tolerance: float) -> dict[float, tuple[float, float]]:
        """Return by strength the score inside, and judged."""
        linear.TOLERANCE_OF_LABEL = linear.TOLERANCE = tolerance
        cross_fit.FOLDS = number
        folds = make_folds(X, targets, seed=0)
        starts: list[Arrays] = [{} for _ in folds]
        found = {}
        for strength in strengths:
            C = penalty_at(strength, folds)
            held, _ = fit_folds(folds, starts, learner=learner, C=C)
            if (tolerance, strength) not in last:
                start = learner.mean(starts, [fold.rows for fold in folds])
                options: Any = {"start": start, "fits": UNSAVED, "name": "", "progress": unheard}
                model = learner.fit(X, torch.from_numpy(targets), C=C, **options).model
                last[tolerance, strength] = model.logits(X_outer)
            tau, offset = choose_tau(held, cardinality)
            inside = mean_f1(decided(held.shifted(tau, offset), cardinality), held.targets)
            shifted = last[tolerance, strength] - np.float32(tau) * prior_logits(targets) + np.float32(offset)
            found[strength] = (inside, mean_f1(decided(shifted, cardinality), truth))
        return found

    before = cross_fit.FOLDS, linear.TOLERANCE
    results = {}
    for number in FOLDS_TRIED:
        found = scores(number, FINE if number < 10 else COARSE, 1e-3)
        results[f"{number} folds, steps of 10"] = max(found[strength] for strength in COARSE)[1]
        if number < 10:
            results[f"{number} folds, steps of 3.2"] = max(found.values())[1]
    for tolerance in TOLERANCES:
        began = time.process_time()
        results[f"tolerance {tolerance:g}"] = max(scores(3, COARSE, tolerance).values())[1]
        results[f"seconds {tolerance:g}"] = time.process_time() - began
    cross_fit.FOLDS, linear.TOLERANCE = before
    linear.TOLERANCE_OF_LABEL = linear.TOLERANCE
    return results


def rows_of(examples: Examples, keep: np.ndarray) -> Examples:
    return replace(
        examples,
        texts=None if examples.texts is None else [t for t, k in zip(examples.texts, keep, strict=True) if k],
        numbers=None if examples.numbers is None else examples.numbers[keep],
        targets=examples.targets[keep],
    )


def training_sets(quick: bool) -> dict[str, Callable[[], Examples]]:
    def table(file: str, **options: Any) -> Callable[[], Examples]:
        return lambda: read(Config(data=str(ROOT / file), **options)).train

    def goemotions() -> Examples:
        # No header, which `manyhot train` does not read yet: text, ids, comment id.
        names = (ROOT / "goemotions/labels.txt").read_text().split()
        frame = pl.read_csv(
            ROOT / "goemotions/train.tsv.gz",
            separator="\t",
            has_header=False,
            quote_char=None,
            new_columns=["text", "ids", "comment"],
            schema_overrides=[pl.String] * 3,
        )
        columns = Columns(text=("text",), labels=("ids",), label_format="ids", label_sep=",")
        return examples_from_frame(frame, columns, "goemotions", label_names=names)

    small = {
        "semeval eng": table("semeval2025_task11a/train/eng.csv.gz"),
        "semeval deu": table("semeval2025_task11a/train/deu.csv.gz"),
        "emotions": table("mulan/emotions/emotions-train.X.npz"),
        "scene": table("mulan/scene/scene-train.X.npz"),
        "yeast": table("mulan/yeast/yeast-train.X.npz"),
        "enron": table("mulan/enron/enron-train.X.npz"),
    }
    large = {
        "reuters r90": table(
            "reuters21578/modapte_train.jsonl.gz", text=("title", "text"), labels=("r90",), drop_unlabelled=True
        ),
        "debtags": table("debtags/train.jsonl.gz", text=("title", "description"), labels=("tags",)),
        "goemotions": goemotions,
        "bibtex": table("mulan/bibtex/bibtex-train.X.npz"),
        "tmc2007": table("mulan/tmc2007/tmc2007-500-train.X.npz"),
        "corel5k": table("mulan/corel5k/Corel5k-train-sparse.X.npz"),
    }
    return small if quick else small | large


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small sets alone; writes no result")
    parser.add_argument("--only", choices=["rule", "search"], help="leave the other grids as they are")
    asked = parser.parse_args()
    quick = asked.quick
    print(f"about {2 if quick else 15} minutes on 2 idle cores; training files of {ROOT} alone", flush=True)
    began = time.monotonic()
    if asked.only == "search":
        searched = {}
        for name in SEARCH_SETS:
            searched[name] = judge_search(training_sets(False)[name]())
            said = {option: round(value, 4) for option, value in searched[name].items()}
            print(f"{name}: {time.monotonic() - began:.0f} s {said}", flush=True)
        seconds = [option for option in next(iter(searched.values())) if option.startswith("seconds")]
        costs = {o: round(sum(row[o] for row in searched.values()), 1) for o in seconds}
        scores = {name: {o: v for o, v in row.items() if o not in seconds} for name, row in searched.items()}
        table = table_of("search", scores) | {"seconds of all": costs}
        RESULTS.write_text(json.dumps(json.loads(RESULTS.read_text()) | {"search": table}, indent=1) + "\n")
        print(f"{costs}\nwrote {RESULTS}")
        return
    default_weight = term_blocks.PAIR_WEIGHT
    rules: dict[str, dict[str, float]] = {}
    pairs: dict[str, dict[str, float]] = {}
    for name, load in training_sets(quick).items():
        examples = load()
        for weight in PAIR_WEIGHTS if examples.texts is not None and not asked.only else (default_weight,):
            term_blocks.PAIR_WEIGHT = weight
            scores = judge(examples)
            if weight == default_weight:
                rules[name] = scores
            if examples.texts is not None and not asked.only:
                pairs.setdefault(name, {})[str(weight)] = scores["tau and offset by F1; C by F1"]
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    result = {
        "judge": "mean of micro- and macro-F1 on a quarter of the training rows that nothing else saw",
        "rule": table_of("rule", rules),
        "pair weight": table_of("weight of word pairs", pairs)
        if pairs
        else json.loads(RESULTS.read_text())["pair weight"],
    }
    if not quick:
        RESULTS.parent.mkdir(exist_ok=True)
        result |= {"search": json.loads(RESULTS.read_text()).get("search")} if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {RESULTS}")


def table_of(title: str, scores: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Print a grid as Markdown and return it with the choice: the best mean over the sets."""
    grid = list(next(iter(scores.values())))
    means = {option: float(np.mean([row[option] for row in scores.values()])) for option in grid}
    choice = max(means, key=lambda option: means[option])
    print(f"\n| {title} | {' | '.join(scores)} | mean |\n|---|{'---|' * (len(scores) + 1)}")
    for option in grid:
        cells = " | ".join(f"{100 * row[option]:.1f}" for row in scores.values())
        print(f"| {option}{' (chosen)' if option == choice else ''} | {cells} | {100 * means[option]:.2f} |")
    rounded = {name: {option: round(score, 4) for option, score in row.items()} for name, row in scores.items()}
    return {"choice": choice, "means": {option: round(mean, 4) for option, mean in means.items()}, "sets": rounded}


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
