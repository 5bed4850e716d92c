"""Time the softmax over all sets of k labels beside other ways to compute it, and weigh its memory and its error.

    make bench-subset    (about 3 minutes on 2 idle cores)

A step is the loss log Z_k - sum of the set's logits, summed over rows, and its gradient. Rivals: dynamic programming
over labels in log space with autograd, which is what libraries and papers do, and Newton's identities, the recursion of
kexue.fm/archives/7359. No package with this distribution or with a smooth top k from the same polynomials could be
installed from the package index. Protocol and machine as in benchmarks/cpu.py.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import manyhot
from cpu import CORES, ROOT, allocated, machine, race, resident, seconds_of_others

CASES = ((1024, 28, 3), (64, 1000, 10), (256, 4096, 50))
SECONDS = 15.0
DP, NEWTON = "log-space DP, autograd", "Newton's identities, autograd"
TARGETS = {"time": 10.0, "saved": 100.0}  # at the last case, over DP

NOTES = """
- **time**: median of a step in ms, in brackets the 10th and 90th percentile; Python included.
- **x native**: the median over rounds of the ratio within a round.
- **memory**: the most that a step allocates, in MB: what torch counts, or what the process grows by if that is more.
- **saved**: what is kept from forward to backward, in MB, without logits and targets.
- **errors** against float64 on two rows: of the loss relative, of the gradient the largest absolute difference.
""".strip()


def log_space(s: Tensor, k: int) -> Tensor:
    # Not -inf, whose logaddexp has the gradient NaN.
    z = torch.cat([torch.zeros_like(s[:, :1]), torch.full_like(s[:, :1], -1e9).expand(-1, k)], 1)
    for i in range(s.shape[1]):
        z = torch.cat([z[:, :1], torch.logaddexp(z[:, 1:], z[:, :-1] + s[:, i : i + 1])], 1)
    return z[:, k]


def newton(s: Tensor, k: int) -> Tensor:
    peak = s.detach().amax(-1, keepdim=True)
    powers = [((s - peak) * j).exp().sum(-1) for j in range(1, k + 1)]
    e = [torch.ones_like(powers[0])]
    for j in range(1, k + 1):
        e.append(sum(((-1) ** (i - 1) * e[j - i] * powers[i - 1] for i in range(1, j + 1)), torch.zeros_like(e[0])) / j)
    return e[k].log() + k * peak.squeeze(-1)


def loss_of(function: Callable[[Tensor, int], Tensor], k: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda s, targets: (function(s, k) - (s * targets).sum(-1)).sum()


def providers(k: int) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    def ours(impl: Any) -> Callable[[Tensor, Tensor], Tensor]:
        return partial(manyhot.subset_loss, min_labels=k, max_labels=k, reduction="sum", impl=impl)

    return {"native": ours("native"), "eager": ours("eager"), DP: loss_of(log_space, k), NEWTON: loss_of(newton, k)}


def step(loss: Callable[[Tensor, Tensor], Tensor], leaf: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(leaf, targets)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def saved(loss: Callable[[Tensor, Tensor], Tensor], leaf: Tensor, targets: Tensor) -> int:
    """Return the bytes of the tensors that autograd keeps for backward, each storage once."""
    given = {x.untyped_storage().data_ptr() for x in (leaf, targets)}
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss(leaf, targets)
    return sum(x.untyped_storage().nbytes() for place, x in kept.items() if place not in given)


def measure(rows: int, labels: int, k: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(labels)
    logits = 2 * torch.randn(rows, labels, generator=generator)
    targets = torch.zeros(rows, labels).scatter(1, torch.rand(rows, labels, generator=generator).topk(k).indices, 1)
    leaf, few = logits.clone().requires_grad_(), logits[:2].double().requires_grad_()
    true_loss, true_gradient = step(loss_of(log_space, k), few, targets[:2].double())
    out: dict[str, Any] = {"rows": rows, "labels": labels, "k": k, "providers": {}}
    calls = {}
    for name, loss in providers(k).items():
        value, gradient = step(loss, logits[:2].clone().requires_grad_(), targets[:2])
        call = partial(step, loss, leaf, targets)
        call()
        out["providers"][name] = {
            "memory": max(allocated(call), resident(call)) / 1e6,
            "saved": saved(loss, leaf, targets) / 1e6,
            "loss_error": abs(value.item() / true_loss.item() - 1),
            "gradient_error": float((gradient.double() - true_gradient).abs().max()),
        }
        calls[name, ""] = call
    began, others = time.monotonic(), seconds_of_others()
    times = race(calls, SECONDS)
    out["disturbance"] = max(0.0, seconds_of_others() - others) / (time.monotonic() - began) / CORES
    for (name, _), seconds in times.items():
        p10, median, p90 = (1e3 * np.percentile(seconds, (10, 50, 90))).tolist()
        ratio = float(np.median(seconds / times["native", ""]))
        out["providers"][name] |= {"ms": median, "p10": p10, "p90": p90, "x_native": ratio}
    return out


def error(x: float) -> str:
    return "NaN" if math.isnan(x) else f"{x:.0e}"


def markdown(facts: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    lines = ["# The combinatorial softmax on the CPU", "", *(f"- {name}: {value}" for name, value in facts.items())]
    lines += ["", NOTES]
    for run in runs:
        lines += ["", f"## {run['rows']} x {run['labels']}, k = {run['k']}, float32", ""]
        lines += [f"Other processes took {run['disturbance']:.0%} of the cores.", ""]
        lines += ["| | time | x native | memory, MB | saved, MB | loss error | gradient error |", "|---" * 7 + "|"]
        for name, p in run["providers"].items():
            spread = f"{p['ms']:.4g} ({p['p10']:.4g}-{p['p90']:.4g})"
            lines.append(
                f"| {name} | {spread} | {p['x_native']:.3g} | {p['memory']:.3g} | {p['saved']:.3g} | "
                f"{error(p['loss_error'])} | {error(p['gradient_error'])} |"
            )
    last = runs[-1]["providers"]
    reached = {"time": last[DP]["x_native"], "saved": last[DP]["saved"] / last["native"]["saved"]}
    lines += ["", "## Targets", "", f"At the last shape, {DP} over native:", ""]
    for name, limit in TARGETS.items():
        lines.append(
            f"- {name}: {reached[name]:.0f} (at least {limit:.0f}: {'pass' if reached[name] >= limit else 'MISS'})"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    facts, runs = machine(), []
    print(f"{len(CASES)} cases, about 3 minutes on {CORES} idle cores", file=sys.stderr, flush=True)
    for case in CASES:
        print(*case, file=sys.stderr, flush=True)
        runs.append(measure(*case))
    report = markdown(facts, runs)
    print(report)
    for name, text in (
        ("subset.json", json.dumps({"machine": facts, "runs": runs}, indent=1) + "\n"),
        ("subset.md", report),
    ):
        part = ROOT / "benchmarks" / "results" / f"{name}.part"
        part.write_text(text)
        part.replace(part.with_suffix(""))  # whole or not at all


if __name__ == "__main__":
    main()
