"""A precision that was promised on held-out rows beside the one that test rows reach.

    make bench-promises      (a minute of one core; what is in the results is not run again)

At most 2,400 training rows of each set and 4,000 test rows. All is as `manyhot train --decision precision=P` does it;
the promises were designed on parts of training files, and test rows are looked at here alone.
"""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

import numpy as np
from scipy.stats import binom

from defaults import ROOT
from manyhot.promises import promise
from manyhot.split import stratified_split
from manyhot.toolkit.config import Config, blocks_of
from manyhot.toolkit.fit import fit
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.plan import plan
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.read.inputs import read
from manyhot.toolkit.runs.evaluate import align

RESULTS = Path(__file__).parent / "results" / "promises.json"
TRAIN_ROWS, TEST_ROWS = 2400, 4000
PRECISIONS = (0.8, 0.9, 0.95)
# Labels with so many predictions on test rows are judged by themselves.
LEAST = 10


def semeval(language: str, test: str) -> dict[str, Any]:
    folder = "semeval2025_task11a"
    return {"data": f"{folder}/train/{language}.csv.gz", "test": f"{folder}/test/{test}.csv.gz"}


def mulan(name: str) -> dict[str, Any]:
    return {"data": f"mulan/{name}/{name}-train.X.npz", "test": f"mulan/{name}/{name}-test.X.npz"}


SETS: dict[str, dict[str, Any]] = {
    "semeval eng": semeval("eng", "eng_gold_from_track_b"),
    "semeval deu": semeval("deu", "deu"),
    "emotions": mulan("emotions"),
    "scene": mulan("scene"),
    "yeast": mulan("yeast"),
    "enron": mulan("enron"),
    "reuters r90": {
        "data": "reuters21578/modapte_train.jsonl.gz",
        "test": "reuters21578/modapte_test.jsonl.gz",
        "text": ("title", "text"),
        "labels": ("r90",),
        "drop_unlabelled": True,
    },
    "debtags": {
        "data": "debtags/train.jsonl.gz",
        "test": "debtags/test.jsonl.gz",
        "text": ("title", "description"),
        "labels": ("tags",),
    },
}


def some_of(rows: Examples, most: int) -> Examples:
    if rows.rows <= most:
        return rows
    part = stratified_split(rows.targets, (most, rows.rows - most), seed=2)
    return rows.taken(np.flatnonzero(part == 0))


def judge(options: dict[str, Any]) -> dict[str, Any]:
    """Train once, and promise each precision."""
    files: dict[str, Any] = {key: str(ROOT / options[key]) for key in ("data", "test")}
    config = Config(**(options | files))
    training = read(config)
    train, test = some_of(training.train, TRAIN_ROWS), some_of(training.test or training.train, TEST_ROWS)
    training = replace(training, train=train)
    features, X = Features.fit_transform(train, **blocks_of(config))
    targets = train.dense_targets()
    learner = plan(config, training, features, targets)
    fitted = fit(config, training, features, X, targets, learner, Listener())
    run, choice = fitted.run, fitted.choice
    logits, truth = run.logits(test), align(test.targets, test.label_names, run.label_names).targets
    found: dict[str, Any] = {"rows": train.rows, "test_rows": test.rows, "labels": len(run.label_names)}
    for precision in PRECISIONS:
        decision = promise(
            choice.logits, choice.held.targets, run.calibration, precision, max_labels=run.cardinality.max_labels
        )
        given = decision.decide(logits) > 0
        hits, predicted = (given & truth).sum(0), given.sum(0)
        enough = predicted >= LEAST
        # What a label that keeps its promise exactly would fall short of once in 20.
        short = binom.cdf(hits[enough], predicted[enough], precision) < 0.05
        found[str(precision)] = {
            "promised": int(np.isfinite(decision.offset).sum()),
            "too_rare": int(decision.too_rare.sum()),
            "predicted": int(predicted.sum()),
            "reached": round(float(hits.sum() / max(predicted.sum(), 1)), 4),
            "recall": round(float(hits.sum() / truth.sum()), 4),
            "judged": int(enough.sum()),
            "short": int(short.sum()),
        }
    return found


def page(sets: dict[str, Any]) -> str:
    """Write a table of Markdown."""
    heads = [f"{100 * p:g} %" for p in PRECISIONS]
    lines = [
        "Reached on test rows, in %; behind it, of the true labels the share that is predicted, and of how many labels",
        "there was a promise, of all.\n",
        f"| set | rows | test rows | {' | '.join(heads)} |",
        f"|---|---|---|{'---|' * len(heads)}",
    ]
    for name, of in sets.items():
        cells = [
            f"{100 * p['reached']:.1f}, {100 * p['recall']:.0f} %, {p['promised']} of {of['labels']}"
            if p["predicted"]
            else f"none, 0 of {of['labels']}"
            for p in (of[str(precision)] for precision in PRECISIONS)
        ]
        lines.append(f"| {name} | {of['rows']:,} | {of['test_rows']:,} | {' | '.join(cells)} |")
    total = [[of[str(p)] for of in sets.values() if of[str(p)]["predicted"]] for p in PRECISIONS]
    means = [f"{100 * np.mean([x['reached'] for x in of]):.1f}" for of in total]
    short = [f"{sum(x['short'] for x in of)} of {sum(x['judged'] for x in of)}" for of in total]
    lines += [
        f"| mean of sets with predictions | | | {' | '.join(means)} |",
        f"| labels short of it beyond chance, of those predicted {LEAST} times | | | {' | '.join(short)} |",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    sets = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, options in SETS.items():
        if name in sets:
            continue
        began = time.process_time()
        sets[name] = judge(options)
        print(f"{name}: {time.process_time() - began:.0f} s of processor time", flush=True)
        RESULTS.write_text(json.dumps(sets, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(page(sets))
    print(page(sets))


if __name__ == "__main__":
    main()
