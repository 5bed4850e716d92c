"""Scenes of real handwritten digits: several labels a row, rare classes, no network, and BCE beside it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.datasets import load_digits

from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.run_folder import RUN, check_free, free_path, provenance, write_folder
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.read.columns import Columns
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.read.inputs import Training, describe
from manyhot.toolkit.report.render import render_run
from manyhot.toolkit.runs.predict import Run
from manyhot.toolkit.runs.saved_run import run_files
from manyhot.toolkit.train import Listener, findings_of, fit, plan

ROWS, TEST_ROWS = 3000, 1500
SLOTS = 4
# Each digit is half as frequent as the one before: 0 is in most scenes, 9 in one of some hundred.
IMBALANCE = 0.55
SHADES = " .:-=+*#%@"

# Same rows, folds, penalties, training loop and decision options; only these differ.
RIVALS = {
    "ZLPR (default)": Config(data="demo", loss="zlpr"),
    "ZLPR, no prior": Config(data="demo", loss="zlpr", tau=0.0),
    "BCE": Config(data="demo", loss="bce", tau=0.0),
}


@dataclass(frozen=True)
class Shown:
    """What the demo prints: drawn scenes with their label sets, the table, the run's place."""

    examples: list[str]
    metrics: dict[str, dict[str, Any]]
    path: Path


def run_demo(out: str | None, listener: Listener) -> Shown:
    """Train the rivals on the same scenes and save the run of the default."""
    started = time.monotonic()
    path = Path(out) if out else free_path("demo")
    check_free(path)
    train, test = make_scenes()
    listener.say(f"scenes of 1 to {SLOTS} of scikit-learn's 8x8 digits, each digit about half as frequent as the last")
    listener.say(describe(train, 0))
    features, X = Features.fit_transform(train)
    targets = train.targets.toarray()
    training = Training(train, None, test, Columns(label_format="matrix"), {}, [])
    runs: dict[str, Run] = {}
    metrics: dict[str, dict[str, Any]] = {}
    for name, config in RIVALS.items():
        listener.say(f"{name}:")
        learner = plan(config, training, features, targets)
        fitted = fit(config, training, features, X, targets, learner, listener)
        runs[name] = fitted.run
        on_test = fitted.run.evaluate_examples(test)
        metrics[name] = on_test.metrics
        if config.tau == "auto":
            measured = {"cross_fitted": fitted.choice.step.metrics | fitted.calibrated.measured, "test": metrics[name]}
            origin = provenance([], sums={}, seed=config.seed, seconds=time.monotonic() - started)
            findings = findings_of(config, training, fitted, on_test, measured, origin)
            files = run_files(
                fitted.run, config, measured, fitted.steps, fitted.calibrated, origin, findings, render_run(findings)
            )
            write_folder(path, files, RUN)
    return Shown(draw(test, {name: run for name, run in runs.items() if name != "ZLPR, no prior"}), metrics, path)


def make_scenes(seed: int = 0) -> tuple[Examples, Examples]:
    """Draw training and test scenes of different images: up to four digits side by side, blank where fewer."""
    digits: Any = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits.images))
    halves = {"train": order[: len(order) * 2 // 3], "test": order[len(order) * 2 // 3 :]}
    share = IMBALANCE ** np.arange(10)
    share /= share.sum()

    def scenes(half: str, rows: int) -> Examples:
        images = {d: halves[half][digits.target[halves[half]] == d] for d in range(10)}
        pixels = np.zeros((rows, 8, SLOTS, 8), dtype=np.float32)
        targets = np.zeros((rows, 10), dtype=bool)
        for row in range(rows):
            for slot in rng.permutation(SLOTS)[: rng.integers(1, SLOTS + 1)]:
                digit = rng.choice(10, p=share)
                pixels[row, :, slot] = digits.images[rng.choice(images[digit])]
                targets[row, digit] = True
        names = [str(d) for d in range(10)]
        return Examples("demo", None, pixels.reshape(rows, -1), sp.csr_array(targets), names)

    return scenes("train", ROWS), scenes("test", TEST_ROWS)


def draw(test: Examples, runs: dict[str, Run], number: int = 3) -> list[str]:
    """Draw test scenes with a rare digit, as text, with the truth and what each run predicts."""
    targets = test.targets.toarray()
    pixels: Any = test.numbers
    rows = np.flatnonzero(targets[:, 6:].any(1) & (targets.sum(1) > 1))[:number]
    predicted = {name: run.predict(pixels[rows]) for name, run in runs.items()}
    lines = []
    for i, row in enumerate(rows):
        for line in pixels[row].reshape(8, -1):
            lines.append("".join(SHADES[int(v / 16 * 9.99)] * 2 for v in line).rstrip())
        said = {"true": [test.label_names[d] for d in np.flatnonzero(targets[row])]}
        said |= {name: sorted(sets[i]) for name, sets in predicted.items()}
        lines += ["   ".join(f"{name}: {' '.join(labels) or 'none'}" for name, labels in said.items()), ""]
    return lines
