"""Time the search for nearest training rows beside all products, and beside scikit-learn's.

    make bench-nearest    (about two minutes on an idle core)

Training rows as `manyhot train` makes their features, of length 1; two thirds of them are searched for the 20 nearest
of others. One thread, and its processor seconds; protocol and machine as in benchmarks/cpu.py.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.neighbors import NearestNeighbors

from cpu import CORES, ROOT, machine, race, seconds_of_others
from defaults import training_sets
from manyhot.kernels import native
from manyhot.nearest import NearestRows, best_of
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.neighbours import of_length_1

# Words and pairs of words, or with parts of words beside them.
SETS = {
    "goemotions": ("goemotions", False),
    "goemotions, parts of words": ("goemotions", True),
    "reuters r90": ("reuters r90", False),
    "debtags": ("debtags", False),
    "bibtex": ("bibtex", False),
}
ASKED, MOST = 512, 20
SECONDS = 6.0

NOTES = """
- **times**: median in ms of processor time for each row asked, in brackets the 10th and 90th percentile. What each
  makes of the searched rows before is not in them: of ours it stands beside, in s.
- **all products** is the specification: each row asked times each row, and the best of them. Where there is no
  compiled kernel it runs, and for the first 256 rows asked.
- **x**: how many times as long the other takes, the median over rounds of the ratio within a round.
- **within reach**: of the searched rows, the mean number whose bound reaches the worst of the best. The kernel comes
  to know these on its way, and multiplies about twice as many with all of their features. 0 where no feature is
  frequent enough to be left out of the first products.
- Rows and products are the same, bit for bit, as those of all products, or the script stops.
""".strip()


def matrix(name: str, *, parts: bool) -> Any:
    X = Features.fit_transform(training_sets(False)[name](), characters=parts)[1]
    found = sp.csr_array(of_length_1(sp.csr_array(X)))
    found.sum_duplicates()  # as rows are searched
    return found


def within_reach(rows: NearestRows, asked: Any, worst: np.ndarray) -> float:
    """Count the rows whose bounds reach the worst of the best, the mean of rows asked."""
    searched = rows._searched
    if not searched.is_frequent.any():
        return 0.0
    rare = sp.csr_array(asked[:, ~searched.is_frequent] @ rows._rows[:, ~searched.is_frequent].T).toarray()
    length = np.sqrt(np.asarray(asked[:, searched.is_frequent].power(2).sum(1))).reshape(-1, 1)
    return float((rare + length * searched.frequent >= worst[:, None]).sum(1).mean())


def measure(X: Any) -> dict[str, Any]:
    number = X.shape[0] * 2 // 3
    searched, asked = X[:number], X[number : number + ASKED]
    began = time.thread_time()
    ours = NearestRows(searched)
    _ = ours._searched
    made = time.thread_time() - began
    theirs = NearestNeighbors(n_neighbors=MOST, metric="cosine", algorithm="brute", n_jobs=1).fit(searched)
    calls = {
        "ours": lambda: ours._search(asked, MOST),
        "all products": lambda: best_of(ours.products(asked), MOST),
        "scikit-learn": lambda: theirs.kneighbors(asked),
    }
    found, all_products = calls["ours"](), calls["all products"]()
    if found.row.tobytes() != all_products.row.tobytes() or found.product.tobytes() != all_products.product.tobytes():
        sys.exit("the kernel and the formula differ")
    began, others = time.monotonic(), seconds_of_others()
    times = race(calls, SECONDS, time.thread_time)
    disturbance = max(0.0, seconds_of_others() - others) / (time.monotonic() - began) / CORES
    rounds = {name: (1e3 / ASKED * np.percentile(t, (50, 10, 90))).tolist() for name, t in times.items()}
    ratios = {name: float(np.median(t / times["ours"])) for name, t in times.items() if name != "ours"}
    return {
        "rows": number,
        "features": X.shape[1],
        "a row": searched.nnz / number,
        "within reach": within_reach(ours, asked, found.product[:, -1]),
        "made": made,
        "times": rounds,
        "x": ratios,
        "disturbance": disturbance,
    }


def line(name: str, run: dict[str, Any]) -> str:
    cells = [name, f"{run['rows']:,}", f"{run['features']:,}", f"{run['a row']:.0f}", f"{run['within reach']:.0f}"]
    cells.append(f"{run['made']:.2f}")
    for who, times in run["times"].items():
        cells.append("{:.3f} ({:.3f}-{:.3f})".format(*times) + (f", x {run['x'][who]:.1f}" if who in run["x"] else ""))
    return f"| {' | '.join(cells)} | {run['disturbance']:.0%} |"


def markdown(facts: dict[str, Any], runs: dict[str, Any]) -> str:
    lines = ["# Nearest rows on the CPU", "", *(f"- {name}: {value}" for name, value in facts.items()), "", NOTES, ""]
    heads = ["", "rows", "features", "of a row", "within reach", "made, s", *next(iter(runs.values()))["times"]]
    lines += [f"| {' | '.join([*heads, 'others took of the cores'])} |", "|---" * (len(heads) + 1) + "|"]
    return "\n".join([*lines, *(line(name, run) for name, run in runs.items()), ""])


def main() -> None:
    if native.MISSING is not None:
        sys.exit(native.MISSING)
    torch.set_num_threads(1)
    facts, runs = machine(), {}
    for name, (of, parts) in SETS.items():
        print(name, file=sys.stderr, flush=True)
        runs[name] = measure(matrix(of, parts=parts))
    report = markdown(facts, runs)
    print(report)
    results = {"nearest.json": json.dumps({"machine": facts, "runs": runs}, indent=1) + "\n", "nearest.md": report}
    for name, text in results.items():
        part = ROOT / "benchmarks" / "results" / f"{name}.part"
        part.write_text(text)
        part.replace(part.with_suffix(""))  # whole or not at all


if __name__ == "__main__":
    main()
