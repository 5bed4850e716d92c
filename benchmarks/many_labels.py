"""Measure `manyhot train` on very many labels: rows whose words are drawn by topic, labels by a power law.

    make bench-scale    (after scale.py; a quarter of an hour on 2 idle cores, QUICK=1 a minute, which writes no result)

Every measurement is a process of its own. The largest set is planned and no more. Rare labels are fitted on the rows of
their topics and on all rows, side by side.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.metrics import average_precision_score

from manyhot.labels import label_counts
from manyhot.toolkit.models.label_blocks import BlockLearner, HeldRows
from manyhot.toolkit.models.working_rows import are_rare
from scale import RESULTS, in_a_process

# Rows, labels, features, and rows to measure on; the last is planned and no more.
SETS = ((20_000, 2_000, 20_000, 4_000), (100_000, 10_000, 100_000, 10_000), (500_000, 100_000, 100_000, 0))
QUICK_SETS = ((4_000, 400, 4_000, 1_000),)
WORDS, TOPIC, OWN, SHARED = 50, 20, 12, 40
MOST_MINUTES, MOST_COMMAND_GB = 15, 12


def labelled_rows(rows: int, labels: int, features: int, seed: int = 0) -> tuple[Any, Any]:
    """Draw rows: labels by a power law, four a row; of the words a quarter is a label's own, a quarter its topic's.

    Returns:
        TF-IDF of length 1, and label sets; CSR both.
    """
    rng = np.random.default_rng(seed)
    often, zipf = (1 / (np.arange(n) + start) ** 0.9 for n, start in ((labels, 20.0), (features, 50.0)))
    topics = max(labels // TOPIC, 1)
    topic_of = rng.integers(topics, size=labels)
    own, shared = rng.choice(features, (labels, OWN)), rng.choice(features, (topics, SHARED))
    number, words = 1 + rng.poisson(3, rows), 5 + rng.poisson(WORDS, rows)
    label, row = rng.choice(labels, number.sum(), p=often / often.sum()), np.repeat(np.arange(rows), number)
    of = np.repeat(np.arange(rows), words)
    starts = np.concatenate([[0], np.cumsum(number)])[:-1]
    drawn = label[starts[of] + (rng.random(len(of)) * number[of]).astype(np.int64)]
    word = np.minimum(np.searchsorted(zipf.cumsum() / zipf.sum(), rng.random(len(of))), features - 1)
    kind = rng.random(len(of))
    word = np.where(kind < 0.5, shared[topic_of[drawn], rng.integers(SHARED, size=len(of))], word)
    word = np.where(kind < 0.25, own[drawn, rng.integers(OWN, size=len(of))], word)
    X: Any = sp.csr_array((np.ones(len(of), dtype=np.float32), (of, word)), shape=(rows, features))
    X.sum_duplicates()
    X.data = (1 + np.log(X.data)) * (np.log((1 + rows) / (1 + np.bincount(X.indices, minlength=features))) + 1)[
        X.indices
    ]
    each = np.diff(X.indptr)
    X.data /= np.repeat(np.sqrt(np.add.reduceat(X.data**2, X.indptr[:-1])), each)
    targets = sp.csr_array((np.ones(len(label), dtype=bool), (row, label)), shape=(rows, labels))
    targets.sum_duplicates()
    return X, targets


def write_rows(path: Path, X: Any, targets: Any) -> None:
    """Write rows as the Extreme Classification Repository does."""
    with path.open("w") as file:
        file.write(f"{X.shape[0]} {X.shape[1]} {targets.shape[1]}\n")
        for i in range(X.shape[0]):
            cells, of = slice(*X.indptr[i : i + 2]), slice(*targets.indptr[i : i + 2])
            words = " ".join(f"{j}:{value:.4f}" for j, value in zip(X.indices[cells], X.data[cells], strict=True))
            file.write(f"{','.join(map(str, targets.indices[of]))} {words}\n")


def measure_command(rows: int, labels: int, features: int, test: int) -> dict[str, Any]:
    """Train with `manyhot train` and measure on test rows; without any, plan alone."""
    with tempfile.TemporaryDirectory() as folder:
        X, targets = labelled_rows(rows + test, labels, features)
        write_rows(Path(folder, "train.txt"), X[:rows], targets[:rows])
        command = [str(Path(sys.executable).with_name("manyhot")), "train", "train.txt", "--out", "run"]
        command += ["--set", "weights=sparse"]
        if test:
            write_rows(Path(folder, "test.txt"), X[rows:], targets[rows:])
            command += ["--test", "test.txt", "--json"]
        else:
            command += ["--dry-run"]
        del X, targets
        began = time.monotonic()
        environment = os.environ | {"OMP_NUM_THREADS": str(os.cpu_count())}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
        seconds, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        found = {
            "shape": [rows, labels, features],
            "seconds": seconds,
            "processor": used.ru_utime + used.ru_stime,
            "peak": 1024 * used.ru_maxrss,
        }
        if not test:
            said = [line for line in done.stderr.splitlines() if line.startswith(("model:", "error:"))]
            return found | {"plan": said[-1] if said else done.stderr.strip().splitlines()[-1]}
        if done.returncode:
            return found | {"failed": done.stderr.strip().splitlines()[-1]}
        return found | {"run": json.loads(done.stdout)}


# Rare labels that are fitted by topic and on all rows, and strengths of the penalty.
RARE, STRENGTHS = 128, (10.0, 100.0)


def measure_rare(rows: int, labels: int, features: int, test: int) -> dict[str, Any]:
    """Fit some rare labels on the rows of their topics, and on all rows; how well each ranks the rows held out."""
    torch.set_num_threads(1)
    X, targets = labelled_rows(rows + test, labels, features)
    fitted, held = slice(0, rows), slice(rows, rows + test)
    rare = np.flatnonzero(are_rare(X[fitted], targets[fitted]))
    seen = rare[np.asarray(targets[held][:, rare].sum(0)) > 0]
    chosen = np.sort(np.random.default_rng(0).permutation(seen)[:RARE])
    some = targets[:, chosen]
    learner = BlockLearner.planned(rows, features, len(chosen), cells=X.nnz)
    truth, found = some[held].toarray(), []
    for strength in STRENGTHS:
        for how, by_topic in (("by topic", True), ("on all rows", False)):
            learner, began = replace(learner, by_topic=by_topic), time.process_time()
            prior = HeldRows(X[held], np.zeros(len(chosen), dtype=np.float32), 0.0)
            model = learner.fit(X[fitted], some[fitted], C=strength, held=prior).model
            seconds = time.process_time() - began
            logits = model.logits(X[held])
            precision = [average_precision_score(truth[:, i], logits[:, i]) for i in range(len(chosen))]
            found.append({"strength": strength, "how": how, "seconds": seconds, "ap": float(np.mean(precision))})
    return {"labels": len(chosen), "counts": float(label_counts(some[fitted]).mean()), "fits": found}


def table_of_rare(found: dict[str, Any]) -> list[str]:
    lines = [
        "",
        f"{found['labels']} rare labels of {found['counts']:.0f} rows in the mean, on the rows of their topics and on "
        "all; average precision on the rows of the test:",
        "",
        "| strength of the penalty | fitted | processor, s | average precision, % |",
        "|---|---|---|---|",
    ]
    return lines + [
        f"| {fit['strength']:g} | {fit['how']} | {fit['seconds']:.0f} | {100 * fit['ap']:.1f} |"
        for fit in found["fits"]
    ]


def table_of_command(runs: list[dict[str, Any]], rare: dict[str, Any]) -> list[str]:
    lines = [
        "# The command on very many labels",
        "",
        "<!-- table -->",
        "",
        f"Rows drawn by topic, {WORDS} words each, labels by a power law, four a row; `manyhot train` with `--test`. "
        "Processor seconds are of all threads together; the clock counts whatever else the machine does.",
        "",
        "| rows x labels x features | processor, s | clock, s | peak, GB | weights kept, % | micro-F1 | macro-F1 "
        "| P@1 | PSP@5 |",
        "|---" * 9 + "|",
    ]
    for run in runs:
        shape = " x ".join(f"{n:,}" for n in run["shape"])
        if "run" not in run:
            lines.append(f"| {shape} | {run.get('plan', run.get('failed'))} ||||||||")
            continue
        scores = [
            f"{100 * run['run']['test'][key]:.1f}" for key in ("micro_f1", "macro_f1", "precision_at_1", "psp_at_5")
        ]
        cost = [f"{run['processor']:.0f}", f"{run['seconds']:.0f}", f"{run['peak'] / 1e9:.1f}"]
        kept = f"{100 * run['run']['weights_kept']:.1f}"
        lines.append(f"| {' | '.join([shape, *cost, kept, *scores])} |")
    lines.append("")
    for run in runs:
        if run["shape"] == list(SETS[1][:3]) and "run" in run:
            for name, value, bound in (
                ("minutes", run["seconds"] / 60, MOST_MINUTES),
                ("GB", run["peak"] / 1e9, MOST_COMMAND_GB),
            ):
                passed = "pass" if value < bound else "MISS"
                lines.append(f"- {SETS[1][1]:,} labels, {name}: {value:.1f}, less than {bound} ({passed})")
    return [*lines, *table_of_rare(rare), "", "<!-- end -->", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small set, a minute; writes nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        part, *given = json.loads(options.one)
        print(json.dumps({"command": measure_command, "rare": measure_rare}[part](*given)))
        return
    from cpu import machine

    runs = []
    for shape in QUICK_SETS if options.quick else SETS:
        runs.append(in_a_process("command", *shape, script=__file__))
        print(runs[-1], file=sys.stderr, flush=True)
    rare = in_a_process("rare", *(QUICK_SETS[0] if options.quick else SETS[1]), script=__file__)
    print(rare, file=sys.stderr, flush=True)
    lines = [*table_of_command(runs, rare), *(f"- {name}: {value}" for name, value in machine().items()), ""]
    print("\n".join(lines))
    if not options.quick:
        (RESULTS / "many_labels.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
