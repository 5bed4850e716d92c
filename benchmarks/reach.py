"""Time the search for classes out of reach, weigh margins of ReachableHead, and train narrow networks with and without.

    make bench-reach    (about 10 minutes on 2 idle cores; --quick: all of it small, 1 minute, writes nothing)

Networks are fitted to training rows alone, for a fixed number of epochs; test rows are read once, for the table.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.spatial import ConvexHull
from torch import Tensor, nn

import manyhot
from cpu import ROOT, machine
from defaults import ROOT as DATA

SETS = {"emotions": "mulan/emotions/emotions", "scene": "mulan/scene/scene", "ng20": "mldr/ng20/ng20"}
HIDDEN = (4, 8, 64)
EPOCHS, BATCH = 40, 128

NOTES = """
- **in reach**: the share of the distinct label sets of test rows that some input of the last layer gets, inputs >= 0
  behind a ReLU. Which inputs the layers before it can produce is not asked, so this is an upper bound.
- **ReachableHead** has max_labels 3, and 1 behind 4 hidden units, and its order from the training sets.
- **micro, macro**: F1 on test rows, in percent, of s > 0 within the range of label counts in training.
""".strip()


def timed(quick: bool) -> list[dict[str, Any]]:
    """Time two heads: a wide one, whose classes are all in reach, and points of the plane, most of which are not."""
    out = []
    for n, size in ((5000 if quick else 50_000, 768), (200 if quick else 2000, 2)):
        weight = torch.randn(n, size, generator=torch.Generator().manual_seed(0))
        began, cpu = time.monotonic(), time.process_time()
        reach = manyhot.reachable_classes(weight)
        took = {"wall": time.monotonic() - began, "cpu": time.process_time() - cpu}
        counts = {status: int((reach.status == status).sum()) for status in ("yes", "tie", "no", "undecided")}
        hull = sorted(ConvexHull(weight.numpy()).vertices) if size == 2 else None
        right = None if hull is None else np.flatnonzero(reach.status == "yes").tolist() == hull
        out.append({"classes": n, "features": size, **took, **counts, "as the hull": right})
        print(out[-1], file=sys.stderr, flush=True)
    return out


def margins(quick: bool) -> list[dict[str, Any]]:
    """Weigh the margins of random sets of max_labels of n labels on an even circle."""
    out = []
    for most in (1, 2, 3) if quick else (1, 2, 3, 5):
        for n in (20, 50) if quick else (20, 50, 100, 200, 400):
            curve = manyhot.ReachableHead(2 * most + 1, n, most).double().curve
            random = np.random.default_rng(0)
            sets = [random.permutation(n)[:most].tolist() for _ in range(20 if quick else 50)]
            margin = manyhot.reachable_sets(curve, manyhot.IndexTargets(sets)).margin
            out.append(
                {"max_labels": most, "labels": n, "median": float(np.median(margin)), "min": float(margin.min())}
            )
    return out


def loaded(name: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return features, standardised on training rows, and targets of training and test rows."""

    def read(stem: str) -> tuple[np.ndarray, np.ndarray]:
        both = (sp.load_npz(DATA / f"{stem}.{part}.npz").toarray() for part in "XY")
        X, Y = both
        return X.astype(np.float32), Y.astype(bool)

    if name == "ng20":
        X, Y = read(SETS[name])
        part = manyhot.stratified_split(Y, (2, 1), seed=0)
        train, test = ((X[part == i], Y[part == i]) for i in (0, 1))
    else:
        train, test = (read(f"{SETS[name]}-{part}") for part in ("train", "test"))
    mean, spread = train[0].mean(0), train[0].std(0) + 1e-6
    return ((train[0] - mean) / spread, train[1]), ((test[0] - mean) / spread, test[1])


def last_layer(hidden: int, targets: np.ndarray, reachable: bool) -> nn.Module:
    if not reachable:
        return nn.Linear(hidden, targets.shape[1])
    return manyhot.ReachableHead(hidden, targets.shape[1], 3 if hidden >= 7 else 1, order=targets.astype(np.int64))


def fitted(X: Tensor, T: Tensor, hidden: int, activation: nn.Module, last: nn.Module, epochs: int) -> nn.Sequential:
    """Train a network of one hidden layer with ZLPR."""
    network = nn.Sequential(nn.Linear(X.shape[1], hidden), activation, last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(X)).split(BATCH):
            optimizer.zero_grad()
            manyhot.zlpr_loss(network(X[rows]), T[rows]).backward()
            optimizer.step()
        rates.step()
    return network


def evidence(quick: bool) -> list[dict[str, Any]]:
    """Train each network of the table, and look which test sets its last layer can give."""
    out = []
    for name in ("emotions",) if quick else SETS:
        (X, Y), (test_X, test_Y) = loaded(name)
        limits = manyhot.cardinality_range(Y)
        wanted = np.unique(test_Y, axis=0)
        for hidden in HIDDEN[:2] if quick else HIDDEN:
            for title, activation, reachable in (
                ("plain, ReLU", nn.ReLU(), False),
                ("plain, tanh", nn.Tanh(), False),
                ("ReachableHead, tanh", nn.Tanh(), True),
            ):
                torch.manual_seed(0)
                last = last_layer(hidden, Y, reachable)
                epochs = 5 if quick else EPOCHS
                network = fitted(torch.from_numpy(X), torch.from_numpy(Y), hidden, activation, last, epochs)
                with torch.no_grad():
                    logits = network(torch.from_numpy(test_X))
                preds = manyhot.decide(logits, min_labels=limits.min_labels, max_labels=limits.max_labels)
                scores = manyhot.multilabel_metrics(preds.numpy(), test_Y, logits.numpy())
                last = last.double()  # the head's product of two matrices has its rank up to rounding
                reach = manyhot.reachable_sets(
                    last.weight, wanted, bias=last.bias, nonnegative=isinstance(activation, nn.ReLU)
                )
                share = {status: float((reach.status == status).mean()) for status in ("yes", "no", "undecided")}
                out.append(
                    {"set": name, "labels": Y.shape[1], "hidden": hidden, "network": title, "sets": len(wanted)}
                    | {"in reach": share["yes"], "undecided": share["undecided"]}
                    | {"micro": scores["micro_f1"], "macro": scores["macro_f1"]}
                )
                print(out[-1], file=sys.stderr, flush=True)
    return out


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def markdown(facts: dict[str, Any], result: dict[str, Any]) -> str:
    lines = ["# Reach of linear heads", "", *(f"- {name}: {value}" for name, value in facts.items())]
    lines += ["", "## Time", "", "| classes | features | yes | no | tie, undecided | as scipy's hull | s | CPU s |"]
    lines += ["|---" * 8 + "|"]
    for run in result["time"]:
        hull = {None: "", True: "yes", False: "NO"}[run["as the hull"]]
        lines.append(
            f"| {run['classes']:,} | {run['features']} | {run['yes']:,} | {run['no']:,} "
            f"| {run['tie'] + run['undecided']} | {hull} | {run['wall']:.1f} | {run['cpu']:.1f} |"
        )
    lines += ["", "Aims, on 2 idle cores: 300 s and 10 s.", "", "## Margins of ReachableHead", ""]
    lines += [
        "Random sets of max_labels labels, angles spread evenly: median, in brackets the least of 50; 0 is undecided.",
        "",
    ]
    sizes = sorted({run["labels"] for run in result["margins"]})
    lines += ["| max_labels | " + " | ".join(f"{n} labels" for n in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for most in sorted({run["max_labels"] for run in result["margins"]}):
        cells = [f"{r['median']:.0e} ({r['min']:.0e})" for r in result["margins"] if r["max_labels"] == most]
        lines.append(f"| {most} | " + " | ".join(cells) + " |")
    lines += ["", "## Narrow networks", "", NOTES, ""]
    lines += ["| set | labels | hidden | network | test sets | in reach | micro | macro |"]
    lines += ["|---" * 8 + "|"]
    for run in result["evidence"]:
        lines.append(
            f"| {run['set']} | {run['labels']} | {run['hidden']} | {run['network']} | {run['sets']} "
            f"| {percent(run['in reach'])} | {percent(run['micro'])} | {percent(run['macro'])} |"
        )
    return "\n".join([*lines, ""])


PARTS = {"evidence": evidence, "margins": margins, "time": timed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="all of it small; writes nothing")
    parser.add_argument("--only", choices=PARTS, help="one part; the others stay as they were measured")
    given = parser.parse_args()
    path = Path(ROOT) / "benchmarks" / "results" / "reach.json"
    result: dict[str, Any] = json.loads(path.read_text()) if given.only and path.exists() else {"machine": machine()}
    for name in [given.only] if given.only else PARTS:
        result[name] = PARTS[name](given.quick)
        if not given.quick:
            path.write_text(json.dumps(result, indent=1) + "\n")
    if result.keys() >= PARTS.keys():
        report = markdown(result["machine"], result)
        print(report)
        if not given.quick:
            path.with_suffix(".md").write_text(report)


if __name__ == "__main__":
    main()
