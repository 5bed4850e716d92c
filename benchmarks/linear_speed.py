"""The whole of training and evaluation beside what others do: scikit-learn's TF-IDF and one LinearSVC a label.

    make bench-linear       (15 minutes at most on 2 idle cores: Reuters and debtags, each three times;
                             ALL=1: delicious, imdb and goemotions too, once; COMPARE=1: `manyhot compare` on Reuters;
                             RUNS=1: once each)

Both are whole processes, from files to numbers on the test rows, side by side in one run: processor seconds, which
other work on the machine touches least, decide. scikit-learn's is TfidfVectorizer(ngram_range=(1, 2)) or, of numbers,
MaxAbsScaler, then OneVsRestClassifier(LinearSVC()) with its default C and nothing chosen; ours searches the penalty,
the prior and the offset by cross-fitting, fits again and calibrates. By default it also makes parts of words and
columns of a kernel, and looks for nearest rows; without these, "words and pairs alone", it has the features of
scikit-learn's. Last, one fold of Reuters by the path in the space of weights with all labels together, and by the one
that is taken: seconds, objective and score.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import MaxAbsScaler
from sklearn.svm import LinearSVC

from cpu import machine
from evidence import COMMAND, ROOT, SETS, files_of
from manyhot.decisions import decide
from manyhot.labels import cardinality_range, label_counts
from manyhot.metrics import multilabel_metrics
from manyhot.toolkit.choose.cross_fit import choose_tau, fit_folds, make_folds, mean_f1, penalty_at
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.fits import UNSAVED
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.linear import LinearLearner
from manyhot.toolkit.models.model import unheard
from manyhot.toolkit.objectives import FORMULAS, route_of
from manyhot.toolkit.read.inputs import read
from manyhot.toolkit.runs.evaluate import align
from others import csr_of_others

FIRST, REST = ("reuters21578 R90", "debtags"), ("delicious", "imdb", "goemotions")
RESULTS = Path(__file__).parent / "results" / "linear_speed.json"
STRENGTHS = (10.0, 100.0)
OURS = {
    "manyhot train": [],
    "words and pairs alone": ["--neighbours", "off", "--set", "characters=off", "--set", "kernel=off"],
}


def options_of(name: str) -> list[str]:
    """Return what the command is told of a set."""
    return [str(ROOT / word) if (ROOT / word).is_file() else word for word in SETS[name].options]


def by_scikit_learn(train: str, test: str, name: str) -> None:
    """Fit and measure; the body of the other process."""
    options: dict[str, Any] = {}
    words = iter(options_of(name))
    for word in words:
        key = word.removeprefix("--").replace("-", "_")
        flag = key in ("drop_unlabelled", "no_header")
        value: Any = True if flag else next(words)
        options[key] = tuple(value.split(",")) if key in ("text", "labels") else value
    rows = read(Config(data=train, test=test, **options))
    assert rows.test is not None
    if rows.train.texts is not None:
        vectorizer = TfidfVectorizer(ngram_range=(1, 2))
        X, X_test = vectorizer.fit_transform(rows.train.texts), vectorizer.transform(rows.test.texts or [])
    else:
        scaler = MaxAbsScaler()
        X, X_test = map(csr_of_others, (scaler.fit_transform(rows.train.numbers), scaler.transform(rows.test.numbers)))
    # Not int8: scikit-learn numbers the labels in the type of the targets, and 128 are one too many.
    targets: Any = rows.train.targets.astype(np.int64)
    scores = OneVsRestClassifier(LinearSVC()).fit(X, targets).decision_function(X_test)
    preds = (scores > 0).astype(np.int8)
    truth = align(rows.test.targets, rows.test.label_names, rows.train.label_names).targets
    print(json.dumps(multilabel_metrics(preds, truth, scores, train_counts=label_counts(rows.train.targets))))


def process(arguments: list[str]) -> dict[str, Any]:
    """Run a command that ends with a line of JSON; its seconds, its memory, what it planned and what it printed."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=said)
        output = child.stdout.read() if child.stdout else b""
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        words = said.read().decode()
    if child.returncode:
        raise SystemExit(f"{' '.join(arguments)} exited with {child.returncode}: {words[-2000:]}")
    planned = re.search(r"takes about ([\d.]+ [GM]B) beside the rows", words)
    return {
        "cpu": used.ru_utime + used.ru_stime,
        "wall": time.monotonic() - began,
        "peak_mb": used.ru_maxrss / 1024,
        "planned": planned[1] if planned else None,
        "result": json.loads(output),
    }


def side_by_side(name: str, runs: int) -> dict[str, Any]:
    """Run both on a set, in turns; the medians."""
    with tempfile.TemporaryDirectory() as place:
        train, test = map(str, files_of(SETS[name], Path(place)))
        made: dict[str, list[dict[str, Any]]] = {method: [] for method in (*OURS, "TF-IDF + LinearSVC")}
        for run in range(runs):
            for i, (method, options) in enumerate(OURS.items()):
                ours = [str(COMMAND), "train", train, "--test", test, *options_of(name), *options, "--verbose"]
                made[method].append(process([*ours, "--out", f"{place}/{run}-{i}", "--json"]))
            theirs = [sys.executable, __file__, "--scikit-learn", train, test, name]
            made["TF-IDF + LinearSVC"].append(process(theirs))
    row = {}
    for method, each in made.items():
        result = each[0]["result"]
        metrics = result.get("test", result)
        row[method] = {key: round(float(np.median([r[key] for r in each])), 1) for key in ("cpu", "wall", "peak_mb")}
        row[method] |= {"planned": each[0]["planned"]} | {key: metrics[key] for key in ("micro_f1", "macro_f1")}
        if "cross_fitted" in result:
            row[method]["cross_fitted"] = [result["cross_fitted"][key] for key in ("micro_f1", "macro_f1")]
    return row


def paths() -> list[dict[str, Any]]:
    """Fit three folds of Reuters by two paths, each strength from zero."""
    options: Any = {"text": ("title", "text"), "labels": ("r90",), "drop_unlabelled": True}
    rows = read(Config(data=str(ROOT / SETS[FIRST[0]].train), **options)).train
    _, X = Features.fit_transform(rows)
    targets = rows.targets.toarray()
    folds, limits = make_folds(X, targets, seed=0), cardinality_range(rows.targets)
    taken = LinearLearner.planned(
        X.shape[0], X.shape[1], targets.shape[1], loss=FORMULAS["zlpr"], route=route_of("zlpr")
    )
    before = LinearLearner(taken.loss, taken.memory, "lbfgs", "all labels", False, taken.shape)
    found = []
    for path, learner in (("weights, all labels together", before), ("taken", taken)):
        for strength in STRENGTHS:
            C, began = penalty_at(strength, folds), time.process_time()
            fitted = learner.fit(
                folds[0].X, torch.from_numpy(folds[0].targets), C=C, fits=UNSAVED, name="", progress=unheard
            )
            seconds = time.process_time() - began
            model: Any = fitted.model
            weight, bias = model.weight.double(), model.bias.double()
            logits = torch.from_numpy(folds[0].X.astype(np.float64) @ weight.numpy()) + bias
            loss = FORMULAS["zlpr"](logits, torch.from_numpy(folds[0].targets)).item()
            objective = (loss + weight.square().sum().item() / (2 * C)) / len(folds[0].targets)
            held, _ = fit_folds(folds, [{} for _ in folds], learner=learner, C=C)
            shifted = held.shifted(*choose_tau(held, limits))
            score = mean_f1(decide(shifted, **limits._asdict()), held.targets)
            row = {"path": path, "C": C, "cpu": seconds, "objective": objective, "score": score}
            print(PATH.format(**row), flush=True)
            found.append(row)
    return found


HEAD = "| set | method | CPU s | wall s | peak MB (planned) | micro-F1 | macro-F1 |\n|---|---|---|---|---|---|---|"


def lines_of(name: str, methods: dict[str, Any]) -> list[str]:
    """Write the rows of a set."""
    lines = []
    for method, row in methods.items():
        memory = f"{row['peak_mb']:,.0f}" + (f" ({row['planned']})" if row["planned"] else "")
        scores = " | ".join(f"{100 * row[key]:.1f}" for key in ("micro_f1", "macro_f1"))
        lines.append(f"| {name} | {method} | {row['cpu']:.0f} | {row['wall']:.0f} | {memory} | {scores} |")
    return lines


def write(results: dict[str, Any]) -> None:
    """Write the numbers, and all of them as a page."""
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    sets = [name for name in results if name not in ("compare", "paths")]
    lines = ["# Training beside scikit-learn", "", "- command: `make bench-linear`, `ALL=1`, `COMPARE=1`"]
    lines += [*(f"- {name}: {value}" for name, value in machine().items()), "", HEAD]
    lines += [line for name in sets for line in lines_of(name, results[name])]
    if "compare" in results:
        found = results["compare"]
        lines += ["", "`manyhot compare` on Reuters, all methods: {cpu:.0f} CPU s, {wall:.0f} s, {peak_mb:,.0f} MB."]
        lines[-1] = lines[-1].format(**found)
    if "paths" in results:
        lines += ["", "One fold of Reuters by two paths:", "", PATHS]
        lines += [PATH.format(**row) for row in results["paths"]]
    RESULTS.with_suffix(".md").write_text("\n".join([*lines, ""]))


PATHS = "| path | C | CPU s | objective a row | score of three |\n|---|---|---|---|---|"
PATH = "| {path} | {C:g} | {cpu:.1f} | {objective:.4f} | {score:.4f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scikit-learn", nargs=3, metavar=("TRAIN", "TEST", "SET"))
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="sets; none leaves the paths alone")
    asked = parser.parse_args()
    if asked.scikit_learn:
        by_scikit_learn(*asked.scikit_learn)
        return
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    print(HEAD)
    for name in asked.only if asked.only is not None else (*FIRST, *(REST if asked.all else ())):
        results[name] = side_by_side(name, 1 if name in REST else asked.runs)
        print("\n".join(lines_of(name, results[name])), flush=True)
        write(results)
    if asked.compare:
        with tempfile.TemporaryDirectory() as place:
            train, test = map(str, files_of(SETS[FIRST[0]], Path(place)))
            words = ["compare", train, "--test", test, *options_of(FIRST[0]), "--out", f"{place}/c", "--json"]
            found = process([str(COMMAND), *words])
            results["compare"] = {key: round(found[key], 1) for key in ("cpu", "wall", "peak_mb")}
            print(f"\nmanyhot compare, all methods, Reuters: {results['compare']}", flush=True)
            write(results)
    if asked.only is None or not asked.only:
        print(f"\n{PATHS}")
        results["paths"] = paths()
        write(results)


if __name__ == "__main__":
    main()
