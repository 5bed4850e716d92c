"""Measure what many labels, many rows and several processes take: time, memory, error.

    make bench-scale    (20 minutes on 2 idle cores; QUICK=1 in 3, which writes no result)

`manyhot train` on very many labels is many_labels.py, which the same target runs after this.

Every measurement is a process of its own, so that its peak of memory is its own, and prints one line of JSON. Processor
seconds of one thread, which others on the machine disturb less than the clock. The picture of docs/large.md is drawn
from the results: `python benchmarks/scale.py --draw`.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "large_memory.svg"

ROWS = WIDTH = 256
POSITIVES = 5
EAGER, NATIVE, TORCH = "formula of the logits", "kernel of the logits", "torch's BCE of the logits"
FUSED, HOOKED, ADAFACTOR = "fused", "fused, SGD in backward", "fused, Adafactor in backward"
WAYS = (TORCH, EAGER, NATIVE, FUSED, HOOKED, ADAFACTOR)
LABELS, QUICK_LABELS = (10_000, 100_000, 1_000_000), (10_000, 30_000)
# Beyond it the formula takes more memory than most machines have.
EAGER_UP_TO = 100_000
MOST_GB = 3  # of the whole process, a million labels with the step in backward

NOTES = f"""
{ROWS} rows, {WIDTH} features, {POSITIVES} positives a row, float32, one thread; a step is forward and backward of
`zlpr_loss(x @ W.T + b)`, or of `linear_zlpr_loss`.

- **seconds**: processor seconds of a step, the median of several.
- **beside W**: the peak of what torch allocates in a step beside weight, bias and features, in MB, gradients included.
- **process**: the largest resident memory of the whole process, Python, torch and W included.
- **error**: the largest difference of a gradient from float64, beside the largest gradient.
""".strip()


# --- one measurement, in a process of its own ------------------------------------------------------------------------


def step_of(way: str, x: Any, weight: Any, bias: Any, targets: Any) -> Callable[[], Any]:
    import torch

    import manyhot

    rows, width = x.shape
    updates = {
        HOOKED: lambda: manyhot.SGDUpdate(1e-3),
        ADAFACTOR: lambda: manyhot.AdafactorUpdate(len(weight), width, 1e-3),
    }
    update = updates[way]() if way in updates else None
    leaves = [x, bias] if update else [x, weight, bias]

    def loss() -> Any:
        if way == TORCH:
            dense = targets.dense(len(weight)).float()
            logits = torch.nn.functional.linear(x, weight, bias)
            return torch.nn.functional.binary_cross_entropy_with_logits(logits, dense, reduction="sum") / rows
        if way in (EAGER, NATIVE):
            impl = "eager" if way == EAGER else "auto"
            return manyhot.zlpr_loss(torch.nn.functional.linear(x, weight, bias), targets, impl=impl)
        return manyhot.linear_zlpr_loss(x, weight, targets, bias=bias, update=update)

    return lambda: torch.autograd.grad(loss(), leaves)


def measure_step(way: str, labels: int, seconds: float) -> dict[str, Any]:
    import torch

    import manyhot
    from cpu import allocated

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, WIDTH, generator=generator).requires_grad_()
    weight = torch.empty(labels, WIDTH).normal_(generator=generator).mul_(WIDTH**-0.5).requires_grad_()
    bias = torch.zeros(labels, requires_grad=True)
    targets = manyhot.IndexTargets(torch.randint(labels, (ROWS, POSITIVES), generator=generator))
    step = step_of(way, x, weight, bias, targets)
    error = None
    if labels <= QUICK_LABELS[0] and way not in (TORCH, HOOKED, ADAFACTOR):
        exact = [leaf.detach().double().requires_grad_() for leaf in (x, weight, bias)]
        true = torch.autograd.grad(manyhot.zlpr_loss(exact[0] @ exact[1].T + exact[2], targets), exact)
        error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(step(), true, strict=True))
    times: list[float] = []
    while not times or (sum(times) < seconds and len(times) < 15):
        began = time.process_time()
        step()
        times.append(time.process_time() - began)
    process = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "way": way,
        "labels": labels,
        "seconds": statistics.median(times),
        "beside": allocated(step),
        "process": process,
        "error": error,
    }


def measure_slice(rank: int, size: int, labels: int, meet: str) -> dict[str, Any]:
    """Time steps of one process of several that share the labels; waiting for the others takes no processor."""
    import torch
    import torch.distributed as dist

    import manyhot

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=size)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, WIDTH, generator=generator).requires_grad_()
    targets = manyhot.IndexTargets(torch.randint(labels, (ROWS, POSITIVES), generator=generator))
    layer = manyhot.LinearZLPRLoss(WIDTH, labels, label_shard=(rank, size), update=manyhot.SGDUpdate(1e-3))
    times = []
    for _ in range(4):
        began = time.process_time()
        layer(x, targets).backward()
        times.append(time.process_time() - began)
    dist.destroy_process_group()
    return {"seconds": statistics.median(times[1:])}


# --- all of them -----------------------------------------------------------------------------------------------------


def in_a_process(part: str, *given: object, script: str = __file__) -> dict[str, Any]:
    """Run one measurement of a script, and return what it prints."""
    command = [sys.executable, script, "--one", json.dumps([part, *given])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "KINETO_LOG_LEVEL": "99"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip() or f"signal {-done.returncode}").splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def measure_losses(quick: bool, say: Callable[[object], None]) -> list[dict[str, Any]]:
    found = []
    for labels in QUICK_LABELS if quick else LABELS:
        for way in WAYS:
            if (way != EAGER or labels <= EAGER_UP_TO) and (way != ADAFACTOR or labels > EAGER_UP_TO):
                found.append(in_a_process("step", way, labels, 1.0 if quick else 5.0) | {"way": way, "labels": labels})
                say(found[-1])
    return found


def measure_slices(quick: bool, say: Callable[[object], None]) -> list[dict[str, Any]]:
    """Have 1, 2 and 4 processes share the labels of one layer."""
    labels, found = QUICK_LABELS[1] if quick else 100_000, []
    for size in (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(size) as threads:
            parts = [threads.submit(in_a_process, "slice", r, size, labels, f"{folder}/meet") for r in range(size)]
            answers = [part.result() for part in parts]
        failed = [answer["failed"] for answer in answers if "failed" in answer]
        seconds = {} if failed else {"seconds": max(answer["seconds"] for answer in answers)}
        found.append({"processes": size, "labels": labels} | seconds | ({"failed": failed[0]} if failed else {}))
        say(found[-1])
    return found


def table_of_slices(runs: list[dict[str, Any]]) -> list[str]:
    lines = ["", "## Labels on several processes", ""]
    lines.append(
        f"`LinearZLPRLoss` with `label_shard`, {runs[0]['labels']:,} labels, SGD in backward; processor seconds of the "
        "process that takes longest, one thread each, gloo on one machine. Sent a step: two floats a row forward, the "
        "gradient of the features back."
    )
    lines += ["", "| processes | seconds | of one |", "|---|---|---|"]
    for run in runs:
        share = f"{run['seconds'] / runs[0]['seconds']:.2f}" if "seconds" in run and "seconds" in runs[0] else ""
        lines.append(f"| {run['processes']} | {run.get('seconds', float('nan')):.3f} | {share} |")
    return lines


# What is taken for granted on paper: of a server of 64 cores, and of one with eight cards (bf16, dense, as they come).
CORES, MEMORY_GBS, CARDS, CARD_TFLOPS, CARD_GBS, LAUNCH_US = 64, 200, 8, 400, 2500, 5
PAPER_ROWS = 10**9


def on_paper(runs: list[dict[str, Any]]) -> list[str]:
    """Work out what larger machines would take, from what one core does here."""
    by = {(run["labels"], run["way"]): run["seconds"] for run in runs if "seconds" in run}
    labels = max((n for n, way in by if way == HOOKED), default=0)
    if not labels:
        return []
    products = 4 * 2 * ROWS * WIDTH * labels
    core = products / by[labels, HOOKED]
    rows = [
        "",
        "## On paper",
        "",
        f"A step on {ROWS} rows and {labels:,} labels is four products, {products / 1e9:.0f} GFLOP, at "
        f"{core / 1e9:.0f} GFLOP a second on one core here, and reads the weight twice and writes it once, "
        f"{3 * 4 * WIDTH * labels / 1e9:.1f} GB. The rest is estimated and was not run:",
        "",
        "| machine | taken for granted | products | memory | a step | a pass over 10^9 rows | bound by |",
        "|---" * 7 + "|",
    ]
    steps = PAPER_ROWS / ROWS
    cores = (products / core / CORES, 3 * 4 * WIDTH * labels / MEMORY_GBS / 1e9, 0.0)
    card = (products / CARD_TFLOPS / 1e12 / CARDS, 3 * 2 * WIDTH * labels / CARD_GBS / 1e9 / CARDS, 0.0)
    chunks = max(labels // CARDS // (1 << 20), 1)
    card = (*card[:2], 20 * chunks * LAUNCH_US * 1e-6)
    for name, granted, parts in (
        (f"{CORES} cores", f"each as fast as this one, {MEMORY_GBS} GB a second together", cores),
        (f"{CARDS} GPUs", f"{CARD_TFLOPS} TFLOP and {CARD_GBS:,} GB a second each, bfloat16", card),
    ):
        step = max(parts)
        what = ("products", "memory", "launches of kernels")[parts.index(step)]
        cells = [name, granted, *(f"{1e3 * part:.2f} ms" for part in parts[:2]), f"{1e3 * step:.2f} ms"]
        rows.append(f"| {' | '.join([*cells, f'{step * steps / 3600:,.1f} hours', what])} |")
    message = 4 * ROWS * WIDTH
    rows += [
        "",
        f"Between processes go {8 * ROWS:,} bytes forward and {message:,} back, whatever the number of labels: "
        f"{message / 1e10 * 1e3:.2f} ms at 10 GB a second, so more machines with a slice each go on to help until a "
        "slice takes no longer than that. Ten times the rows of a batch make messages and products grow alike and the "
        f"weight's traffic not, so memory binds only below some hundred rows. What the last layer reads, the body's "
        "features, is left out, and for an encoder it is by far the most.",
        "",
        f"Predicting {PAPER_ROWS:,} rows is a file after the other without a word between processes: 64 processes take "
        "a 64th of the time, as long as a disk gives what they read; the memory is a run in each.",
    ]
    return rows


def table_of_losses(runs: list[dict[str, Any]]) -> list[str]:
    lines = ["## A last layer and its loss", "", NOTES, ""]
    lines += [
        "| labels | | seconds | x kernel | x formula | x torch | beside W, MB | process, GB | error |",
        "|---" * 9 + "|",
    ]
    by = {(run["labels"], run["way"]): run for run in runs if "seconds" in run}
    for (labels, way), run in by.items():
        ratios = []
        for peer in (NATIVE, EAGER, TORCH):
            other = by.get((labels, peer))
            ratios.append(f"{run['seconds'] / other['seconds']:.2f}" if other else "")
        error = "" if run["error"] is None else f"{run['error']:.1e}"
        seconds = f"{run['seconds']:.3f}"
        memory = [f"{run['beside'] / 1e6:.0f}", f"{run['process'] / 1e9:.2f}"]
        lines.append(f"| {' | '.join([f'{labels:,}', way, seconds, *ratios, *memory, error])} |")
    lines += [f"| {run['labels']:,} | {run['way']} | {run['failed']} |||||||" for run in runs if "failed" in run]
    lines += ["", "Targets:", ""]
    for name, value, bound in targets_of_losses(by):
        lines.append(f"- {name}: {value:.3g}, at most {bound:.3g} ({'pass' if value <= bound else 'MISS'})")
    return lines


def targets_of_losses(by: dict[tuple[int, str], dict[str, Any]]) -> list[tuple[str, float, float]]:
    found = []
    at = 100_000
    if (at, FUSED) in by and (at, EAGER) in by and (at, NATIVE) in by:
        fused = by[at, FUSED]
        for peer in (EAGER, TORCH, NATIVE):
            found.append((f"time at {at:,} labels, beside {peer}", fused["seconds"] / by[at, peer]["seconds"], 0.4))
        found.append((f"memory at {at:,} labels, MB beside dW", (fused["beside"] - 4 * at * (WIDTH + 1)) / 1e6, 32))
    if (10**6, HOOKED) in by:
        found.append(
            ("process at 1,000,000 labels with the step in backward, GB", by[10**6, HOOKED]["process"] / 1e9, MOST_GB)
        )
    if (10_000, FUSED) in by:
        errors = [by[10_000, way]["error"] for way in (FUSED, NATIVE)]
        found.append(("error of the gradient, beside that of the kernel of the logits", errors[0] / errors[1], 2))
    return found


def draw(runs: list[dict[str, Any]]) -> None:
    """Draw memory against labels."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "manyhot"
    colours = {EAGER: "#999999", NATIVE: "#444444", FUSED: "#0072b2", HOOKED: "#d55e00"}
    figure, axes = plt.subplots(figsize=(8, 4.2))
    for way, colour in colours.items():
        points = sorted((run["labels"], run["beside"] / 1e6) for run in runs if run["way"] == way and "beside" in run)
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=way)
    labels = sorted({run["labels"] for run in runs})
    axes.plot(labels, [4e-6 * n * WIDTH for n in labels], ":", color="#bbbbbb", label="the weight itself")
    axes.set(xscale="log", yscale="log", xlabel="labels", ylabel="MB allocated in a step, beside the weight")
    axes.set_title(f"{ROWS} rows, {WIDTH} features, float32", fontsize=10)
    axes.legend(fontsize=9, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "step": measure_step,
    "slice": measure_slice,
}


def written(facts: dict[str, Any], found: dict[str, Any]) -> str:
    lines = [
        "# Many labels, many rows, several processes",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
    ]
    lines += table_of_losses(found["losses"]) + table_of_slices(found["slices"]) + on_paper(found["losses"])
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes, 3 minutes; writes nothing")
    parser.add_argument("--draw", action="store_true", help="draw the picture from the results that are there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        part, *given = json.loads(options.one)
        print(json.dumps(PARTS[part](*given)))
        return
    kept = RESULTS / "scale.json"
    if options.draw:
        draw(json.loads(kept.read_text())["losses"])
        return
    from cpu import machine

    began = time.monotonic()

    def say(what: object) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {what}", file=sys.stderr, flush=True)

    facts = machine()
    found: dict[str, Any] = {"machine": facts, "slices": measure_slices(options.quick, say)}
    found["losses"] = measure_losses(options.quick, say)
    report = written(facts, found)
    print(report)
    if not options.quick:
        for name, text in (("scale.json", json.dumps(found, indent=1) + "\n"), ("scale.md", report)):
            part = RESULTS / f"{name}.part"
            part.write_text(text)
            part.replace(RESULTS / name)  # whole or not at all
        draw(found["losses"])


if __name__ == "__main__":
    main()
