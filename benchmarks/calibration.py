"""Compare rules of calibration on held-out logits of training files; no test file is opened.

    .venv/bin/python benchmarks/calibration.py     (about 6 minutes on 2 idle cores; --quick: the small sets, 1 minute)

Each training file is cross-fitted as `manyhot train` does; a rule is fitted on two thirds of the held-out logits and
judged on the third that it did not see, each third once. The numbers are log-loss and Brier score relative to one
temperature and offset for all labels, in per cent; the lower, the better. tests/test_calibration.py holds the code to
the chosen strengths.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from defaults import ROOT, training_sets
from manyhot import Calibration, calibration, calibration_metrics, fit_calibration
from manyhot.labels import cardinality_range, label_counts
from manyhot.split import stratified_split
from manyhot.toolkit.choose.cross_fit import choose, choose_tau, make_folds
from manyhot.toolkit.config import default_loss
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.linear import LinearLearner
from manyhot.toolkit.objectives import loss_of, route_of

RESULTS = Path(__file__).parent / "results"
LOSS = default_loss("multilabel", "linear")
Rule = Callable[[np.ndarray, np.ndarray], Calibration]


def fixed(temperature: float) -> Rule:
    return lambda logits, targets: Calibration(np.full(logits.shape[1], temperature), np.zeros(logits.shape[1]))


def drawn(slope: float, offset: float) -> Rule:
    """Fit with other strengths of the priors; infinite ones leave what all labels have in common."""

    def rule(logits: np.ndarray, targets: np.ndarray) -> Calibration:
        kept = calibration.SLOPE_PRECISION, calibration.OFFSET_PRECISION
        calibration.SLOPE_PRECISION, calibration.OFFSET_PRECISION = slope, offset
        try:
            return fit_calibration(logits, targets)
        finally:
            calibration.SLOPE_PRECISION, calibration.OFFSET_PRECISION = kept

    return rule


def common(logits: np.ndarray, targets: np.ndarray) -> Calibration:
    """Fit one temperature and offset, all labels taken as one."""
    one = fit_calibration(logits.reshape(-1, 1), targets.reshape(-1, 1))
    return Calibration(np.repeat(one.temperature, logits.shape[1]), np.repeat(one.offset, logits.shape[1]))


def where_enough(least: int) -> Rule:
    """Give a label its own numbers where it has so many positives and negatives, else the common ones."""

    def rule(logits: np.ndarray, targets: np.ndarray) -> Calibration:
        shared, own = common(logits, targets), drawn(0.01, 0.01)(logits, targets)
        positives = targets.sum(0)
        enough = np.minimum(positives, len(targets) - positives) >= least
        return Calibration(
            np.where(enough, own.temperature, shared.temperature), np.where(enough, own.offset, shared.offset)
        )

    return rule


RULES: dict[str, Rule] = {
    "one for all labels": common,
    "sigmoid(s)": fixed(1.0),
    "sigmoid(2 s)": fixed(0.5),
    **{f"a label's own from {n} positives on": where_enough(n) for n in (5, 20, 100)},
    **{f"drawn, slope {a:g}, offset {o:g}": drawn(a, o) for a, o in ((1, 0.3), (3, 1), (10, 3), (100, 10))},
}


def held_out(load: Callable[[], Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the held-out logits of the decision, and the truth."""
    examples = load()
    fitted = Features.fit(examples)
    targets = examples.targets.toarray()
    X = fitted.transform(examples)
    rows, features = X.shape
    choice = choose(
        make_folds(X, targets, 0),
        learner=LinearLearner.planned(
            rows, features, targets.shape[1], loss=loss_of(LOSS, targets), route=route_of(LOSS)
        ),
        C="auto",
        rule=choose_tau,
        cardinality=cardinality_range(targets),
        train_counts=label_counts(targets),
    )
    return choice.logits, choice.held.targets


def judge(logits: np.ndarray, targets: np.ndarray) -> dict[str, dict[str, float]]:
    part = stratified_split(targets, (1, 1, 1), seed=3)
    scores = {}
    for name, rule in RULES.items():
        probs = np.empty(logits.shape)
        for p in range(3):
            probs[part == p] = rule(logits[part != p], targets[part != p]).probs(logits[part == p])
        measured = calibration_metrics(probs, targets)
        scores[name] = {score: measured[score] for score in ("log_loss", "brier", "ece")}
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small sets alone; writes no result")
    quick = parser.parse_args().quick
    print(f"about {1 if quick else 6} minutes on 2 idle cores; training files of {ROOT} alone", flush=True)
    sets: dict[str, dict[str, dict[str, float]]] = {}
    for name, load in training_sets(quick).items():
        sets[name] = judge(*held_out(load))
        print(f"{name} done", flush=True)
    lines = ["# Calibration: which rule", "", __doc__ or "", ""]
    for score, title in (("log_loss", "Log-loss"), ("brier", "Brier score")):
        lines += [f"## {title}, per cent more than one temperature and offset for all labels", ""]
        lines += [f"| rule | {' | '.join(sets)} | mean |", f"|---|{'---|' * (len(sets) + 1)}"]
        for rule in RULES:
            cells = [100 * (s[rule][score] / s["one for all labels"][score] - 1) for s in sets.values()]
            lines.append(f"| {rule} | {' | '.join(f'{c:+.1f}' for c in cells)} | {np.mean(cells):+.2f} |")
        lines.append("")
    lines += ["## Calibration error (ECE, 15 adaptive bins over all cells), per cent", ""]
    lines += [f"| rule | {' | '.join(sets)} |", f"|---|{'---|' * len(sets)}"]
    for rule in RULES:
        errors = [f"{100 * s[rule]['ece']:.2f}" for s in sets.values()]
        lines.append(f"| {rule} | {' | '.join(errors)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if not quick:
        (RESULTS / "calibration.md").write_text(text)
        (RESULTS / "calibration.json").write_text(json.dumps(sets, indent=1) + "\n")


if __name__ == "__main__":
    main()
