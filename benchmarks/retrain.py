"""New rows by `manyhot train ALL --from RUN` beside training anew on all of them: F1 on test rows, and the time.

    make bench-retrain      (three minutes of one core; what is in the results is not run again)

Two thirds of at most 2,400 training rows of each set are the old rows that a run was trained on, and all of them are
the file that it goes on with. Seconds are of the processor, of all that follows reading.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

from dataclasses import replace

import numpy as np

from defaults import ROOT
from manyhot.split import stratified_split
from manyhot.toolkit.config import Config, blocks_of
from manyhot.toolkit.fit import Fitted, fit
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.plan import plan
from manyhot.toolkit.read.inputs import read
from promises import SETS, TEST_ROWS, TRAIN_ROWS, some_of

RESULTS = Path(__file__).parent / "results" / "retrain.json"
KEYS = ("micro_f1", "macro_f1", "ece")


def judge(options: dict[str, Any]) -> dict[str, Any]:
    """Train on old rows, then on all: anew, and with what is kept."""
    files: dict[str, Any] = {key: str(ROOT / options[key]) for key in ("data", "test")}
    config = Config(**(options | files))
    training = read(config)
    rows, test = some_of(training.train, TRAIN_ROWS), some_of(training.test or training.train, TEST_ROWS)
    part = stratified_split(rows.targets, (2, 1), seed=3)

    def trained(config: Config, train: Any) -> tuple[Fitted, float]:
        began = time.process_time()
        features, X = Features.fit_transform(train, **blocks_of(config))
        targets, of = train.dense_targets(), replace(training, train=train)
        fitted = fit(config, of, features, X, targets, plan(config, of, features, targets), Listener())
        return fitted, time.process_time() - began

    old, _ = trained(config, rows.taken(np.flatnonzero(part == 0)))
    found: dict[str, Any] = {"old_rows": int((part == 0).sum()), "rows": rows.rows}
    C: Any = old.run.info["C"]
    for what, of in (("old", None), ("anew", config), ("from", replace(config, C=C))):
        fitted, seconds = (old, 0.0) if of is None else trained(of, rows)
        metrics = fitted.run.evaluate_examples(test).metrics
        found[what] = {key: round(float(metrics[key] or 0), 4) for key in KEYS} | {"seconds": round(seconds, 1)}
        found[what]["C"] = fitted.run.info["C"]
    return found


def page(sets: dict[str, Any]) -> str:
    """Write a table of Markdown."""
    lines = [
        "Micro-F1 and macro-F1 on test rows, in %, of the run on the old rows, of a run anew on all, and of one on all",
        "that goes on from the first; and the processor time of the last as a share of that anew.\n",
        "| set | old rows | all rows | old | anew | `--from` | share of the time |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of in sets.items():
        pairs = [(of[what]["micro_f1"], of[what]["macro_f1"]) for what in ("old", "anew", "from")]
        pairs = [(of[what]["micro_f1"], of[what]["macro_f1"]) for what in ("old", "anew", "from")]
        cells = [f"{100 * micro:.1f}, {100 * macro:.1f}" for micro, macro in pairs]
        share = of["from"]["seconds"] / of["anew"]["seconds"]
        lines.append(f"| {name} | {of['old_rows']:,} | {of['rows']:,} | {' | '.join(cells)} | {share:.2f} |")
    means = [
        ", ".join(f"{100 * np.mean([of[what][key] for of in sets.values()]):.1f}" for key in KEYS[:2])
        for what in ("old", "anew", "from")
    ]
    share = sum(of["from"]["seconds"] for of in sets.values()) / sum(of["anew"]["seconds"] for of in sets.values())
    lines.append(f"| mean | | | {' | '.join(means)} | {share:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    sets = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, options in SETS.items():
        if name in sets:
            continue
        sets[name] = judge(options)
        print(name, sets[name], flush=True)
        RESULTS.write_text(json.dumps(sets, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(page(sets))
    print(page(sets))


if __name__ == "__main__":
    main()
