"""Choose the defaults of `--model mlp` on training files alone; no test file is opened.

    make defaults-mlp        (half an hour; --quick: three sets, 1 minute; --ahead: the second table alone)

As in defaults.py, each training file is cut once more: three quarters play the training rows, one quarter judges by the
mean of micro- and macro-F1. Inside the three quarters everything goes as in `manyhot train`, except that tau and the
offset are read off one held-out third and not off all three. From the settings in the code, one is changed at a time.
The settings that are ahead by one cut, which may be chance, are compared once more by three others.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from defaults import decided, rows_of, table_of, training_sets
from manyhot.labels import cardinality_range
from manyhot.split import stratified_split
from manyhot.toolkit.choose.cross_fit import choose_tau, fit_folds, make_folds, mean_f1, prior_logits, score_by
from manyhot.toolkit.disk.fits import UNSAVED
from manyhot.toolkit.models import mlp
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.mlp import plan_mlp
from manyhot.toolkit.models.model import unheard
from manyhot.toolkit.objectives import FORMULAS
from manyhot.toolkit.read.examples import Examples

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

RESULTS = Path(__file__).parent / "results" / "mlp.json"
# Reuters takes longer than all of these together.
SETS = ("emotions", "scene", "yeast", "enron", "semeval eng", "bibtex")
QUICK = SETS[:3]
CODE = "as in the code"
CUTS = (2, 3, 4)

OPTIONS: dict[str, dict[str, Any]] = {
    "as in the code": {},
    "hidden 128": {"HIDDEN": 128},
    "hidden 256": {"HIDDEN": 256},
    "hidden 1024": {"HIDDEN": 1024},
    "dropout 0": {"DROPOUT": 0.0},
    "dropout 0.3": {"DROPOUT": 0.3},
    "start x 5": {"SCALE": 1.0},
    "patience 5": {"patience": 5},
    "rate x 3": {"rate": 3.0},
    "rate / 3": {"rate": 1 / 3},
    "batch x 4": {"batch": 4.0},
    "batch / 4": {"batch": 1 / 4},
    "weight decay 0.1": {"weight_decay": 0.1},
}


def judge(examples: Examples, options: dict[str, Any], cut: int = 1) -> float:
    """Return the score of a setting on the quarter of the rows that nothing else saw."""
    before = {name: getattr(mlp, name) for name in ("HIDDEN", "DROPOUT", "SCHEDULE", "SCALE")}
    changed = {name: value for name, value in options.items() if name in before}
    schedule = mlp.SCHEDULE
    schedule = replace(
        schedule,
        rate=schedule.rate * options.get("rate", 1),
        batch=int(schedule.batch * options.get("batch", 1)),
        weight_decay=options.get("weight_decay", schedule.weight_decay),
        patience=options.get("patience", schedule.patience),
    )
    for name, value in (changed | {"SCHEDULE": schedule}).items():
        setattr(mlp, name, value)
    try:
        part = stratified_split(examples.targets, (3, 1), seed=cut)
        inner, outer = rows_of(examples, part == 0), rows_of(examples, part == 1)
        fitted = Features.fit(inner)
        X, targets = fitted.transform(inner), inner.targets.toarray()
        cardinality = cardinality_range(targets)
        learner = plan_mlp(X.shape[0], X.shape[1], targets.shape[1], loss=FORMULAS["zlpr"], score=score_by(cardinality))
        held, _ = fit_folds(make_folds(X, targets, seed=0)[:1], [{}], learner=learner, C=None)
        tau, offset = choose_tau(held, cardinality)
        model = learner.fit(X, torch.from_numpy(targets), fits=UNSAVED, name="all", progress=unheard).model
        shifted = model.shifted(np.float32(offset) - np.float32(tau) * prior_logits(targets))
        preds = decided(shifted.logits(fitted.transform(outer)), cardinality)
        return mean_f1(preds, outer.targets.toarray())
    finally:
        for name, value in before.items():
            setattr(mlp, name, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three sets and one cut alone; writes no result")
    parser.add_argument("--ahead", action="store_true", help="compare those ahead in the results, nothing else")
    asked = parser.parse_args()
    print(f"about {1 if asked.quick else 30} minutes; training files alone", flush=True)
    sets = training_sets(False)
    result = json.loads(RESULTS.read_text()) if asked.ahead else {}
    result["judge"] = "mean of micro- and macro-F1 on a quarter of the training rows that nothing else saw"
    if not asked.ahead:
        names = QUICK if asked.quick else SETS
        result["settings"] = table_of("setting", {name: scores_of(sets[name](), list(OPTIONS), (1,)) for name in names})
    if not asked.quick:
        means = result["settings"]["means"]
        ahead = [option for option, mean in means.items() if mean > means[CODE]]
        scores = {name: scores_of(sets[name](), [CODE, *ahead], CUTS) for name in SETS}
        result["ahead"] = table_of("setting, three other cuts", scores)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {RESULTS}")


def scores_of(examples: Examples, options: list[str], cuts: tuple[int, ...]) -> dict[str, float]:
    """Return the score of each setting, the mean of some cuts."""
    began = time.monotonic()
    scores = {name: float(np.mean([judge(examples, OPTIONS[name], cut) for cut in cuts])) for name in options}
    print(f"{examples.source}: {time.monotonic() - began:.0f} s", flush=True)
    return scores


if __name__ == "__main__":
    main()
