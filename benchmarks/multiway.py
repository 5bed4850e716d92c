"""Measure the multiway losses on single-label tables with rare classes, beside what people use there.

    python benchmarks/multiway.py       (about 25 minutes on one core; --quick: three small tables, writes no result)

Every loss gets the same features, splits, folds and optimiser, and chooses its own L2 penalty: the best mean of
accuracy and macro-F1 on held-out training rows, one third, or each third once where rows are few. Test rows are read
once, by the models that were chosen. Finished fits stand in build/multiway.jsonl and are not repeated, so that a run
that was stopped goes on; --fresh forgets them.
"""

import argparse
import gzip
import io
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from sklearn.decomposition import TruncatedSVD
from sklearn.preprocessing import StandardScaler
from torch import Tensor

import manyhot
from manyhot.toolkit.models import linear as linear_model
from manyhot.toolkit.models.features import DesignMatrix, Features
from manyhot.toolkit.models.linear import Linear, fit_linear, mean_squared_length
from manyhot.toolkit.read.examples import Examples

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("MANYHOT_DATA", ROOT.parent / "shared" / "data"))
DONE = ROOT / "build" / "multiway.jsonl"
RESULT = ROOT / "benchmarks" / "results" / "multiway"

# C times the mean squared length of a row, as in manyhot train.
STRENGTHS = (1.0, 10.0, 100.0, 1e3, 1e4)
FOLDS = 3
# With more training rows than this one of them is enough.
FEW_ROWS = 1000
# Of L-BFGS. With what manyhot train takes, a fit from the model of another penalty often stops after its first steps.
TOLERANCE = 1e-9
HIDDEN, STEPS, LEARNING_RATE = 64, 200, 0.02
# A multilayer perceptron reads texts as so many numbers: singular vectors of the TF-IDF of the training rows.
TEXT_NUMBERS = 100
# Rare are the least frequent classes that hold this share of the training rows together, and always the rarest.
RARE_SHARE = 0.1
METRICS = ("accuracy", "macro-F1", "rare-F1")
QUICK = ("glass", "ecoli", "winequality-red")


class Problem(NamedTuple):
    """Rows to train on and rows to measure on; ids count from 0, and training may lack some."""

    train: Examples
    test: Examples
    y: np.ndarray
    y_test: np.ndarray
    classes: int


# --- losses: (logits, ids, training counts) to the sum over the training rows -----------------------------------------


def weighted(logits: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    weight = torch.where(counts > 0, counts.sum() / (counts.count_nonzero() * counts.clamp(min=1)), 0)
    return F.cross_entropy(logits, y, weight=weight, reduction="sum")


def adjusted(logits: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    return F.cross_entropy(logits + log_prior(counts), y, reduction="sum")


def focal(logits: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    log_p = -F.cross_entropy(logits, y, reduction="none")
    return -((1 - log_p.exp()).square() * log_p).sum()


def log_prior(counts: Tensor) -> Tensor:
    return ((counts + 0.5) / (counts.sum() + 0.5 * len(counts))).log()


def multiway(form: Any, logits: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """Scale by a constant, so that at zero logits it is n log m as cross-entropy is, and one grid of C fits all."""
    m = logits.shape[1]
    at_zero = {
        "pairwise": (m - 1) * counts.log1p().sum(),
        "first_order": (counts * (m - 1)).log1p().sum(),
        "mean_centred": counts.log1p().sum(),
    }[form]
    return manyhot.multiway_loss(logits, y, form=form) * (len(y) * math.log(m) / at_zero)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cross-entropy": lambda logits, y, counts: F.cross_entropy(logits, y, reduction="sum"),
    "class-weighted": weighted,
    "logit-adjusted": adjusted,
    "focal": focal,
    **{form: partial(multiway, form) for form in ("pairwise", "first_order", "mean_centred")},
}


# --- models: fitted on (X, y), a function from X to logits ------------------------------------------------------------

Model = Callable[[DesignMatrix], np.ndarray]
Loss = Callable[[Tensor, Tensor], Tensor]


def fit_linear_model(
    X: DesignMatrix, y: np.ndarray, classes: int, loss: Loss, C: float, seed: int, start: Any = None
) -> tuple[Model, Any]:
    one_hot = F.one_hot(torch.from_numpy(y), classes).bool()
    ids = torch.from_numpy(y)
    linear_model.TOLERANCE = TOLERANCE
    iterations = 100 if start is None else 30  # folds start from their models of the penalty before
    model: Linear = fit_linear(
        X, one_hot, loss=lambda logits, _: loss(logits, ids), C=C, start=start, max_iter=iterations
    )
    return model.logits, model


def fit_mlp(
    X: DesignMatrix, y: np.ndarray, classes: int, loss: Loss, C: float, seed: int, start: Any = None
) -> tuple[Model, Any]:
    """Fit one hidden layer by Adam on all rows at once: the n tasks are the training set, as for the linear model."""
    generator = torch.Generator().manual_seed(seed)
    inputs, ids = torch.from_numpy(X), torch.from_numpy(y)
    sizes = ((X.shape[1], HIDDEN), (HIDDEN, classes))
    weights = [(torch.randn(size, generator=generator) * (2 / size[0]) ** 0.5).requires_grad_() for size in sizes]
    biases = [torch.zeros(size[1], requires_grad=True) for size in sizes]

    def logits(inputs: Tensor) -> Tensor:
        return torch.addmm(biases[1], torch.addmm(biases[0], inputs, weights[0]).relu(), weights[1])

    optimizer = torch.optim.Adam([*weights, *biases], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss(logits(inputs), ids) + sum(w.square().sum() for w in weights) / (2 * C)
        (value / len(y)).backward()
        optimizer.step()
        schedule.step()

    def predict(X: DesignMatrix) -> np.ndarray:
        with torch.no_grad():
            return logits(torch.from_numpy(X)).numpy()

    return predict, None


MODELS: dict[str, Any] = {"linear": fit_linear_model, "mlp": fit_mlp}


# --- one set ---------------------------------------------------------------------------------------------------------


def numbers(score: np.ndarray, y: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Measure argmax predictions; macro-F1 is the mean over the classes that the measured rows have."""
    pred = score.argmax(1)
    present = np.unique(y)
    of_class = {c: 2 * ((pred == c) & (y == c)).sum() / ((pred == c).sum() + (y == c).sum()) for c in present.tolist()}
    rare = [of_class[c] for c in rare_classes(counts) if c in of_class]
    return {
        "accuracy": float((pred == y).mean()),
        "macro-F1": float(np.mean(list(of_class.values()))),
        "rare-F1": float(np.mean(rare)) if rare else float("nan"),
    }


def rare_classes(counts: np.ndarray) -> list[int]:
    order = [int(c) for c in np.argsort(counts, kind="stable") if counts[c] > 0]
    held = np.cumsum(counts[order]) / counts.sum()
    return order[: max(1, int((held <= RARE_SHARE).sum()))]


def prepared(problem: Problem, model: str) -> tuple[DesignMatrix, DesignMatrix]:
    """Return the features of training and test rows, fitted on training rows."""
    features = Features.fit(problem.train)
    X, X_test = features.transform(problem.train), features.transform(problem.test)
    if model == "mlp" and problem.train.texts is not None:
        svd = TruncatedSVD(TEXT_NUMBERS, random_state=0).fit(X)
        scaler = StandardScaler().fit(svd.transform(X))
        X, X_test = (np.asarray(scaler.transform(svd.transform(x)), dtype=np.float32) for x in (X, X_test))
    return X, X_test


def solve(problem: Problem, X: DesignMatrix, X_test: DesignMatrix, model: str, name: str, seeds: int) -> dict[str, Any]:
    """Choose L2 on folds of the training rows, fit on all of them, measure on the test rows."""
    one_hot = np.eye(problem.classes, dtype=bool)[problem.y]
    part = manyhot.stratified_split(one_hot, [1.0] * FOLDS, seed=0)

    def fitted(rows: np.ndarray, C: float, seed: int, start: Any) -> tuple[Model, Any]:
        y = problem.y[rows]
        counts = torch.from_numpy(np.bincount(y, minlength=problem.classes)).float()
        loss = partial(lambda logits, y, counts: LOSSES[name](logits, y, counts), counts=counts)
        return MODELS[model](X[rows], y, problem.classes, loss, C, seed, start)

    counts = np.bincount(problem.y, minlength=problem.classes)
    folds = range(FOLDS if len(problem.y) <= FEW_ROWS else 1)
    scores, starts = [], [None] * FOLDS
    for strength in STRENGTHS:
        C = strength / mean_squared_length(X)
        held = []
        for fold in folds:
            predict, starts[fold] = fitted(np.flatnonzero(part != fold), C, 0, starts[fold])
            out = part == fold
            measured = numbers(predict(X[out]), problem.y[out], counts)
            held.append((measured["accuracy"] + measured["macro-F1"]) / 2)
        scores.append(float(np.mean(held)))
    strength = STRENGTHS[int(np.argmax(scores))]
    C, everything = strength / mean_squared_length(X), np.arange(len(problem.y))
    final = []
    for seed in range(seeds if model == "mlp" else 1):
        predict, _ = fitted(everything, C, seed, None)
        final.append(numbers(predict(X_test), problem.y_test, counts))
    means = {metric: float(np.mean([numbers[metric] for numbers in final])) for metric in METRICS}
    return {"strength": strength, "cross-validated": scores, **means}


# --- data ------------------------------------------------------------------------------------------------------------


def text_lines(file: str) -> io.StringIO:
    return io.StringIO(gzip.decompress((DATA / file).read_bytes()).decode())


def examples(texts: Any, values: Any, name: str) -> Examples:
    return Examples(name, texts, values, None, [])


def published_split(name: str, parts: list[tuple[list[str], list[str]]]) -> Iterator[Problem]:
    names = sorted({label for _, labels in parts for label in labels})
    ids = [np.array([names.index(label) for label in labels]) for _, labels in parts]
    yield Problem(*(examples(texts, None, name) for texts, _ in parts), *ids, len(names))  # pyright: ignore


def reuters() -> Iterator[Problem]:
    parts = []
    for part in ("train", "test"):
        rows = pl.read_ndjson(text_lines(f"reuters21578/modapte_{part}.jsonl.gz").getvalue().encode())
        labels = pl.read_csv(text_lines(f"reuters_r52/r52_{part}.tsv.gz"), separator="\t")
        joined = labels.join(rows.with_columns(pl.col("newid").cast(pl.Int64)), on="newid", how="inner")
        assert len(joined) == len(labels)
        texts = (joined["title"].fill_null("") + "\n" + joined["text"].fill_null("")).to_list()
        parts.append((texts, joined["label"].to_list()))
    return published_split("reuters_r52", parts)


def ohsumed() -> Iterator[Problem]:
    parts = []
    for part in ("train", "test"):
        rows = [json.loads(line) for line in text_lines(f"ohsumed_single23/{part}.jsonl.gz")]
        parts.append(([row["text"] for row in rows], [row["label"] for row in rows]))
    return published_split("ohsumed_single23", parts)


def splits(name: str, texts: list[str] | None, values: np.ndarray | None, labels: list[str], number: int):
    """Cut rows in 7 : 3 by class, `number` times; there is no published split."""
    names = sorted(set(labels))
    y = np.array([names.index(label) for label in labels])
    for seed in range(number):
        part = manyhot.stratified_split(np.eye(len(names), dtype=bool)[y], (7, 3), seed=seed)
        rows = [np.flatnonzero(part == p) for p in (0, 1)]
        cut = [
            examples([texts[i] for i in r] if texts else None, None if values is None else values[r], name)
            for r in rows
        ]
        yield Problem(cut[0], cut[1], y[rows[0]], y[rows[1]], len(names))


def davidson() -> Iterator[Problem]:
    rows = pl.read_csv(text_lines("hate_offensive_davidson/hate-speech-and-offensive-language.csv.gz"))
    return splits("hate_offensive", rows["tweet"].to_list(), None, rows["class"].cast(pl.String).to_list(), 1)


def table(name: str, number: int) -> Iterator[Problem]:
    rows = pl.read_csv(text_lines(f"tabular_imbalanced/{name}.csv.gz"), has_header=False, infer_schema=False)
    *columns, label = rows.columns
    parts = []
    for column in columns:
        cells = rows[column].cast(pl.Float64, strict=False)
        parts.append(rows[column].to_dummies().to_numpy() if cells.null_count() else cells.to_numpy()[:, None])
    return splits(name, None, np.hstack(parts).astype(np.float32), rows[label].to_list(), number)


SETS: dict[str, Callable[[], Iterator[Problem]]] = {
    "reuters_r52": reuters,
    "ohsumed_single23": ohsumed,
    "hate_offensive": davidson,
    "glass": partial(table, "glass", 3),
    "ecoli": partial(table, "ecoli", 3),
    "winequality-red": partial(table, "winequality-red", 2),
    "winequality-white": partial(table, "winequality-white", 1),
    "abalone": partial(table, "abalone", 1),
    "phoneme": partial(table, "phoneme", 1),
    "mammography": partial(table, "mammography", 1),
}


# --- the report ------------------------------------------------------------------------------------------------------


def commit() -> str:
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True
    )
    return said.stdout.strip() or "unknown"


def report(results: list[dict[str, Any]]) -> str:
    lines = []
    for model in MODELS:
        means: dict[str, list[list[float]]] = {name: [] for name in LOSSES}
        lines += [f"## {model}", ""]
        lines += ["| set | " + " | ".join(LOSSES) + " |", "|---|" + "---|" * len(LOSSES)]
        for name in SETS:
            cells = []
            for loss in LOSSES:
                of_loss = [r for r in results if (r["set"], r["model"], r["loss"]) == (name, model, loss)]
                if not of_loss:
                    break
                values = [float(np.nanmean([r[metric] for r in of_loss])) for metric in METRICS]
                means[loss].append(values)
                cells.append(" / ".join(f"{100 * value:.1f}" for value in values))
            if len(cells) == len(LOSSES):
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
        total = [" / ".join(f"{100 * x:.1f}" for x in np.nanmean(means[loss], axis=0)) for loss in LOSSES]
        lines += ["| **mean** | " + " | ".join(total) + " |", ""]
        edge = {
            loss: sum(r["strength"] in (STRENGTHS[0], STRENGTHS[-1]) for r in results if (r["model"], r["loss"]) == key)
            for loss in LOSSES
            for key in [(model, loss)]
        }
        said = ", ".join(f"{loss} {number}" for loss, number in edge.items() if number)
        lines += [f"Penalties chosen at an end of the grid, over all splits: {said or 'none'}.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three small tables; writes no result")
    parser.add_argument("--fresh", action="store_true", help="forget finished fits")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"about {2 if options.quick else 25} minutes on one core; finished fits are in {DONE}", flush=True)
    if options.fresh:
        DONE.unlink(missing_ok=True)
    DONE.parent.mkdir(exist_ok=True)
    finished = [json.loads(line) for line in DONE.read_text().splitlines()] if DONE.exists() else []
    keys = {(r["set"], r["split"], r["model"], r["loss"]) for r in finished}
    version = commit()
    for name, load in SETS.items():
        if options.quick and name not in QUICK:
            continue
        for split, problem in enumerate(load()):
            for model in MODELS:
                missing = [loss for loss in LOSSES if (name, split, model, loss) not in keys]
                X, X_test = prepared(problem, model) if missing else (None, None)
                for loss in missing:
                    began = time.monotonic()
                    found = solve(problem, X, X_test, model, loss, seeds=2)
                    row = {"set": name, "split": split, "model": model, "loss": loss, **found}
                    row |= {"seconds": round(time.monotonic() - began, 1), "commit": version}
                    finished.append(row)
                    with DONE.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    shown = " ".join(f"{100 * row[metric]:5.1f}" for metric in METRICS)
                    print(f"{name:18} {split} {model:6} {loss:15} {shown}  {row['seconds']:6.1f} s", flush=True)
    text = report(finished)
    print(text)
    if options.quick:
        return
    RESULT.parent.mkdir(exist_ok=True)
    commits = sorted({r["commit"] for r in finished})
    origin = {
        "command": "python benchmarks/multiway.py",
        "commit": commits,
        "hours": round(sum(r["seconds"] for r in finished) / 3600, 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": 1,
        "machine": platform.machine(),
    }
    rows = ",\n".join(f"  {json.dumps(row)}" for row in finished)
    head = json.dumps(origin, indent=1).removesuffix("\n}")
    RESULT.with_suffix(".json").write_text(f'{head},\n "results": [\n{rows}\n ]\n}}\n')
    reading = RESULT.with_suffix(".md")
    # The reading below the tables is written by hand and stays.
    kept = reading.read_text().partition("## Reading")[2] if reading.exists() else ""
    head = f"# Multiway losses on single-label tables\n\n`{origin['command']}` at {', '.join(commits)}.\n\n{NOTES}\n\n"
    reading.write_text(head + text + (f"\n## Reading{kept}" if kept else ""))
    print(f"wrote {reading}")


NOTES = """Cells: accuracy / macro-F1 / F1 of the rare classes, per cent, on test rows; each loss with its
own L2 penalty, chosen by the mean of accuracy and macro-F1 on a held-out third of the training rows (on each third
once up to 1,000 rows). Macro-F1 is over classes that have test rows; rare are the least frequent classes that hold 10
% of the training rows together. glass, ecoli (3) and winequality-red (2) are means over random 7 : 3 splits, the
other tables and hate_offensive are one; reuters_r52 and ohsumed_single23 have the published split. `linear`: TF-IDF
or standardised numbers, L-BFGS. `mlp`: one hidden layer of 64, Adam on all rows at once, texts as 100 singular
vectors of the TF-IDF; mean of two seeds. The n tasks of a multiway loss are all training rows; it is scaled to
cross-entropy at zero logits, so that one grid of penalties fits both."""


if __name__ == "__main__":
    main()
