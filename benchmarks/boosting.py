"""Does ZLPR make better trees? XGBoost and LightGBM on four sets, nothing chosen on test rows: make bench-boosting.

Each library fits one logistic model a label, ZLPR, and ZLPR with the prior; the logistic margins are also read less
logit(prior)/2, which takes no fit. Margins are decided at 0, and within the range of labels a row of the training rows.
"""

# pyright: reportMissingImports=false
import argparse
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import scipy.sparse as sp
import xgboost

import manyhot
from manyhot.boosting import LGBMMultiLabel, XGBMultiLabel, prior_offset

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "mulan"
RESULTS = ROOT / "benchmarks" / "results" / "boosting.md"
SETS = ("yeast", "scene", "emotions", "enron")
ROUNDS, RATE = 200, 0.1
LIBRARIES = {"XGBoost": {"nthread": 1, "max_depth": 6}, "LightGBM": {"num_threads": 1, "num_leaves": 63}}


def read(name: str) -> list[np.ndarray]:
    """Return X, Y, X_test, Y_test."""
    files = [DATA / name / f"{name}-{part}.{kind}.npz" for part in ("train", "test") for kind in "XY"]
    return [sp.load_npz(file).toarray() for file in files]


def logistic(library: str, X: np.ndarray, Y: np.ndarray, X_test: np.ndarray) -> np.ndarray:
    """Return the test margins of one logistic model a label."""
    if library == "XGBoost":
        model = xgboost.XGBClassifier(n_estimators=ROUNDS, learning_rate=RATE, max_depth=6, n_jobs=1).fit(X, Y)
        return model.predict(X_test, output_margin=True)
    params: dict[str, Any] = LIBRARIES[library] | {"objective": "binary", "learning_rate": RATE, "verbosity": -1}
    columns = []
    for label in range(Y.shape[1]):
        booster = lightgbm.train(params, lightgbm.Dataset(X, label=Y[:, label]), ROUNDS)
        columns.append(np.asarray(booster.predict(X_test, raw_score=True)))
    return np.stack(columns, 1)


def zlpr(library: str, X: np.ndarray, Y: np.ndarray, X_test: np.ndarray, prior: str | None) -> np.ndarray:
    """Return the test margins of ZLPR."""
    estimator = XGBMultiLabel if library == "XGBoost" else LGBMMultiLabel
    return estimator(ROUNDS, RATE, prior=prior, params=LIBRARIES[library]).fit(X, Y).decision_function(X_test)


def lines_of(library: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield (method, micro/macro-F1, labels a row and seconds) of a set."""
    X, Y, X_test, Y_test = read(name)
    limits: Any = manyhot.cardinality_range(Y)._asdict()

    def cell(margins: np.ndarray, seconds: float, **options: Any) -> str:
        preds = manyhot.decide(margins, **options)
        m: Any = manyhot.multilabel_metrics(preds, Y_test, margins)
        return f"{100 * m['micro_f1']:.1f} / {100 * m['macro_f1']:.1f} ({preds.sum(1).mean():.2f}; {seconds:.0f} s)"

    methods: dict[str, tuple[np.ndarray, float]] = {}
    for method, prior in (("one logistic model a label", "-"), ("ZLPR", None), ("ZLPR, prior", "train")):
        started = time.process_time()
        margins = logistic(library, X, Y, X_test) if prior == "-" else zlpr(library, X, Y, X_test, prior)
        methods[method] = margins, time.process_time() - started
        if prior == "-":
            methods["the same less logit(prior)/2"] = margins - prior_offset(manyhot.label_prior(Y)), 0.0
    for method, (margins, seconds) in methods.items():
        yield f"{library}, {method}, s > 0", cell(margins, seconds)
        yield f"{library}, {method}, range", cell(margins, seconds, **limits)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    sets = parser.parse_args().sets
    table: dict[str, dict[str, str]] = {}
    for name in sets:
        for library in LIBRARIES:
            for method, text in lines_of(library, name):
                table.setdefault(method, {})[name] = text
                print(name, method, text, flush=True)
    versions = ", ".join(f"{package} {version(package)}" for package in ("xgboost-cpu", "lightgbm"))
    order = sorted(table, key=lambda method: (method.endswith("range"), not method.startswith("XGBoost")))
    lines = [
        "# Boosting with ZLPR",
        "",
        f"`make bench-boosting`, {datetime.now(UTC):%Y-%m-%d}, {versions}: {ROUNDS} rounds, learning rate {RATE}, "
        "depth 6 or 63 leaves, else defaults, one thread. Micro / macro-F1 of the test rows in percent; in brackets "
        "labels a row and seconds of processor time. `range`: at least and at most as many labels as "
        "`cardinality_range` of the training rows.",
        "",
        f"| | {' | '.join(sets)} |",
        f"|---|{'---|' * len(sets)}",
        *(f"| {method} | {' | '.join(table[method][name] for name in sets)} |" for method in order),
        "",
    ]
    RESULTS.write_text("\n".join(lines))
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
