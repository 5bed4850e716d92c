"""Time the product of a sparse and a dense matrix beside scipy's, both ways: X W and X^T G.

    make bench-csr    (about a minute on an idle core)

X is the TF-IDF matrix of Reuters' training rows as `manyhot train` makes it, and a random one with half the non-zeros,
whose columns are all as frequent. One thread each, and its processor seconds, which others on the machine disturb less;
protocol and machine as in benchmarks/cpu.py.
"""

import json
import sys
import time
from functools import partial
from operator import matmul
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from cpu import CORES, ROOT, machine, race, seconds_of_others
from defaults import training_sets
from manyhot.csr import CSR
from manyhot.kernels import native
from manyhot.toolkit.models.features import Features

COLUMNS = (1, 28, 90, 96, 288, 548)
AT = 96  # where instruction sets are compared, and where the target is
TARGET = 2.0
SECONDS = 2.0
PRODUCTS = ("X W", "X^T G")

NOTES = f"""
- **times**: median of a product in ms of processor time, in brackets the 10th and 90th percentile; the array that is
  returned included.
- **x**: how many times as long scipy takes, the median over rounds of the ratio within a round.
- **bits**: whether all are scipy's.
- Target: at least {TARGET:g} at n = {AT}.
""".strip()


def matrices() -> dict[str, Any]:
    examples = training_sets(quick=False)["reuters r90"]()
    rng = np.random.default_rng(0)
    rows, features, a_row = 5_000, 50_000, 100
    columns = np.sort(rng.integers(0, features, (rows, a_row), dtype=np.int32), 1).ravel()
    values = rng.standard_normal(columns.size, dtype=np.float32)
    starts = np.arange(rows + 1, dtype=np.int32) * a_row
    return {
        "Reuters": sp.csr_array(Features.fit(examples).transform(examples)),
        "random": sp.csr_array((values, columns, starts), shape=(rows, features)),
    }


def measure(X: Any, columns: int) -> dict[str, Any]:
    """Race both products, ours and scipy's, in the same rounds."""
    rng = np.random.default_rng(columns)
    ours, transposed = CSR(X), X.T.tocsr()
    dense = [rng.standard_normal((size, columns), dtype=np.float32) for size in X.shape[::-1]]
    pairs = {"X W": (ours, X, dense[0]), "X^T G": (ours.T, transposed, dense[1])}
    calls: dict[tuple[str, str], Any] = {}
    for name, (a, b, factor) in pairs.items():
        calls[name, "ours"], calls[name, "scipy"] = partial(matmul, a, factor), partial(matmul, b, factor)
    began, others = time.monotonic(), seconds_of_others()
    times = race(calls, SECONDS, time.thread_time)
    disturbance = max(0.0, seconds_of_others() - others) / (time.monotonic() - began) / CORES
    out: dict[str, Any] = {"n": columns, "disturbance": disturbance}
    for name, (a, b, factor) in pairs.items():
        out[name] = {who: (1e3 * np.percentile(times[name, who], (50, 10, 90))).tolist() for who in ("ours", "scipy")}
        out[name]["x"] = float(np.median(times[name, "scipy"] / times[name, "ours"]))
        out[name]["bits"] = (a @ factor).tobytes() == (b @ factor).tobytes()
    return out


def line(name: Any, run: dict[str, Any]) -> str:
    cells = [str(name)]
    for product in (run[name] for name in PRODUCTS):
        cells += ["{:.4g} ({:.4g}-{:.4g})".format(*product[who]) for who in ("ours", "scipy")]
        cells += [f"{product['x']:.2f}", "equal" if product["bits"] else "other"]
    return f"| {' | '.join(cells)} | {run['disturbance']:.0%} |"


def header(first: str) -> list[str]:
    cells = [cell for name in PRODUCTS for cell in (name, "scipy", "x", "bits")]
    return ["", f"| {first} | {' | '.join(cells)} | others took of the cores |", "|---" * (len(cells) + 2) + "|"]


def markdown(facts: dict[str, Any], runs: dict[str, Any], sets: dict[str, Any]) -> str:
    lines = ["# Sparse times dense on the CPU", "", *(f"- {name}: {value}" for name, value in facts.items()), "", NOTES]
    for name, run in runs.items():
        lines += ["", f"## {name}, {run['rows']:,} x {run['features']:,}, {run['non-zeros']:,} non-zeros"]
        lines += header("n") + [line(one["n"], one) for one in run["columns"]]
    lines += ["", f"## Instruction sets, {next(iter(runs))}, n = {AT}", *header("")]
    lines += [line(name, run) for name, run in sets.items()]
    lines += ["", "## Target", ""]
    for name, run in runs.items():
        at = next(one for one in run["columns"] if one["n"] == AT)
        for product in PRODUCTS:
            x = at[product]["x"]
            lines.append(f"- {name}, {product}, n = {AT}: {x:.2f} ({'pass' if x >= TARGET else 'MISS'})")
    return "\n".join([*lines, ""])


def main() -> None:
    if native.MISSING is not None:
        sys.exit(native.MISSING)
    torch.set_num_threads(1)
    facts, runs = machine(), {}
    every = matrices()
    for name, X in every.items():
        print(name, X.shape, file=sys.stderr, flush=True)
        size = {"rows": X.shape[0], "features": X.shape[1], "non-zeros": X.nnz}
        runs[name] = size | {"columns": [measure(X, columns) for columns in COLUMNS]}
    sets, first = {}, next(iter(every.values()))
    best, *others = native._native.instruction_sets()
    for name in (*others, best):
        native._native.use_instruction_set(name)
        sets[name] = measure(first, AT)
    report = markdown(facts, runs, sets)
    print(report)
    for name, text in (
        ("csr.json", json.dumps({"machine": facts, "runs": runs, "instruction sets": sets}, indent=1) + "\n"),
        ("csr.md", report),
    ):
        part = ROOT / "benchmarks" / "results" / f"{name}.part"
        part.write_text(text)
        part.replace(part.with_suffix(""))  # whole or not at all


if __name__ == "__main__":
    main()
