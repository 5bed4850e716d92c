"""Time ZLPR on the CPU beside torch's own losses, and weigh its memory and its error.

    make bench-cpu       (about 20 minutes on 2 idle cores; --quick: four cases, 3 minutes, writes no result)

All providers of a case, one shape at one number of threads, run in one process, each once a round and in random order.
A time is the wall time of the public call, Python included. Absolute times are noisy: the result is the ratio to a
peer, the median over rounds of the ratio within a round. Reads /proc, so it runs on Linux alone.
"""

import argparse
import ctypes
import gc
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

# The profiler, which weighs the memory, announces itself on stderr; it reads this when torch is loaded.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import manyhot

# OMP_WAIT_POLICY is left alone, as the library leaves it: with PASSIVE, torch's own losses take two to four times as
# long at 28 labels, and as long as before at 4096.
CORES = len(os.sched_getaffinity(0))
ROOT = Path(__file__).parents[1]

FORWARD, STEP = "forward", "forward+backward"
BCE, CE, COMPILED = "BCE", "cross_entropy", "torch.compile"
SAMPLE = 1e-3  # seconds: shorter calls are timed in batches that last this long
ROUNDS, FEWEST_ROUNDS = 101, 7
SECONDS, QUICK_SECONDS = 12.0, 8.0  # for all rounds of a case and direction, unless the fewest take longer
# Threads spin until all are done, so where one waits for a taken core small shapes take a hundred times as long.
DISTURBED = 0.05  # share of the cores
LARGE = 32 << 20  # bytes of a gradient beside which the pages that malloc keeps are few

Loss = Callable[..., Tensor]
Call = Callable[[], object]
Clock = Callable[[], float]
Key = tuple[str, str]  # provider, kind of targets

NOTES = """
- **times**: median in ms, in brackets the 10th and 90th percentile. `forward`: logits without a gradient.
  `forward+backward`: `torch.autograd.grad(loss, logits)`. `float` targets are those of `bool`, converted beforehand;
  `class` is one label a row.
- **x BCE, x CE**: to `binary_cross_entropy_with_logits`, with soft targets for soft ones, and to `cross_entropy`.
- **of bound**: the time of what must move (logits and targets read once, the gradient written once) at the speed of a
  256 MB copy in the same case, as a share of the time taken. Above 100 % the data came out of a cache.
- **memory**: the peak of what torch allocates in a step, loss and gradient included, in gradients; counted in bytes by
  torch.profiler, so exact at every size. `native` could take memory beside torch: where gradients are large, the
  high-water mark of the process stands instead if it is more.
- **errors**: against float64. Loss: relative. Gradient: the largest absolute difference.
""".strip()


@dataclass(frozen=True)
class Case:
    rows: int
    labels: int
    threads: int = min(2, CORES)
    dtype: str = "float32"
    compiled: bool = False
    formulas: bool = True  # eager and the copied recipe too

    def __str__(self) -> str:
        return f"{self.rows} x {self.labels}, {self.dtype}, {self.threads} thread{'s' * (self.threads > 1)}"


QUICK_CASES = (
    Case(1024, 28, compiled=True),
    Case(256, 4096),
    Case(1024, 4096, compiled=True),
    Case(1024, 4096, dtype="bfloat16"),
)
CASES = (
    *QUICK_CASES,
    Case(64, 28),
    Case(8192, 28, compiled=True),
    Case(1024, 30938),
    Case(64, 670091, compiled=True),
    Case(1024, 28, threads=1),
    Case(1024, 4096, threads=1),
    # Without the formulas, which take seconds a call here: the whole is to end in 20 minutes.
    Case(1024, 30938, threads=1, formulas=False),
)


class Provider(NamedTuple):
    name: str
    kind: str
    loss: Loss
    targets: Any
    target_bytes: int
    truth: Callable[[], tuple[float, Tensor]]  # loss and gradient in float64


@dataclass
class Timing:
    ms: float
    p10: float
    p90: float
    rounds: int
    bound_ms: float
    ratios: dict[str, float]


@dataclass
class Result:
    provider: str
    kind: str
    loss_error: float
    gradient_error: float
    memory: float
    first_calls_s: float
    timings: dict[str, Timing] = field(default_factory=dict)


@dataclass
class Skipped:
    provider: str
    kind: str
    reason: str


@dataclass
class Run:
    case: Case
    copy_gb_s: float
    disturbance: float  # share of the cores that other processes took
    outcomes: list[Result | Skipped]

    def results(self) -> list[Result]:
        return [r for r in self.outcomes if isinstance(r, Result)]


class Check(NamedTuple):
    """A target, met where value <= limit."""

    claim: str
    where: str
    value: float
    limit: float


def copied_recipe(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute ZLPR as it is usually copied: signs turned, 1e12 in place of infinity, a zero joined on for the 1."""
    signed = (1 - 2 * targets) * logits
    zero = torch.zeros_like(logits[:, :1])
    negatives = torch.cat([signed - targets * 1e12, zero], -1)
    positives = torch.cat([signed - (1 - targets) * 1e12, zero], -1)
    return (torch.logsumexp(negatives, -1) + torch.logsumexp(positives, -1)).mean()


def draw(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, padded label ids and one class a row: labels with Zipf's frequencies, the same in every run."""
    torch.manual_seed(0)
    # Negative on the whole, as the logits of a trained model are: about 2 % of them are above 0.
    logits = (torch.randn(case.rows, case.labels) * 3 - 6).to(getattr(torch, case.dtype))
    frequency = (1 / torch.arange(1.0, case.labels + 1))[torch.randperm(case.labels)]
    k = torch.poisson(torch.full((case.rows, 1), 3.0 if case.labels < 100 else 5.0)).clamp(max=case.labels)
    ids = torch.multinomial(frequency.expand(case.rows, -1), int(k.max()))
    ids = torch.where(torch.arange(ids.shape[1]) < k, ids, -1)
    return logits, ids, torch.multinomial(frequency, case.rows, replacement=True)


def prepare(case: Case) -> tuple[Tensor, list[Provider]]:
    logits, ids, classes = draw(case)
    # Padding goes to one label too many, which is cut off.
    hard = torch.zeros(case.rows, case.labels + 1, dtype=torch.bool).scatter_(1, ids % (case.labels + 1), True)
    hard = hard[:, :-1].contiguous()
    soft = manyhot.smooth_labels(hard, 0.1)
    eager, bce, ce = partial(manyhot.zlpr_loss, impl="eager"), F.binary_cross_entropy_with_logits, F.cross_entropy

    def in_float64(loss: Loss, targets: Tensor) -> Callable[[], tuple[float, Tensor]]:
        return cache(partial(float64_step, loss, logits, targets))

    hard_truth, soft_truth = in_float64(eager, hard), in_float64(eager, soft)
    providers = []
    for impl in ("native", "blocked", "eager") if case.formulas else ("native", "blocked"):
        loss = partial(manyhot.zlpr_loss, impl=impl)
        providers += [
            Provider(impl, "bool", loss, hard, hard.nbytes, hard_truth),
            Provider(impl, "soft", loss, soft, soft.nbytes, soft_truth),
            Provider(impl, "index", loss, manyhot.IndexTargets(ids), ids.nbytes, hard_truth),
        ]
    if case.compiled:
        compiled = torch.compile(eager, fullgraph=True, dynamic=False)
        providers.append(Provider(COMPILED, "bool", compiled, hard, hard.nbytes, hard_truth))
        providers.append(Provider(COMPILED, "soft", compiled, soft, soft.nbytes, soft_truth))
    hard, soft = hard.to(logits.dtype), soft.to(logits.dtype)
    if case.formulas:
        providers.append(Provider("copied recipe", "float", copied_recipe, hard, hard.nbytes, hard_truth))
    return logits, [
        *providers,
        Provider(BCE, "float", bce, hard, hard.nbytes, in_float64(bce, hard)),
        Provider(BCE, "soft", bce, soft, soft.nbytes, in_float64(bce, soft)),
        Provider(CE, "class", ce, classes, classes.nbytes, in_float64(ce, classes)),
    ]


def step(loss: Loss, leaf: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
    value = loss(leaf, targets)
    return value, torch.autograd.grad(value, leaf)[0]


def float64_step(loss: Loss, logits: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Compute a step in float64, a few rows at a time: all at once it would take many gigabytes."""
    total, gradient = 0.0, torch.empty(logits.shape, dtype=torch.float64)
    few = max(1, 2**22 // logits.shape[1])
    for s, t, g in zip(logits.split(few), targets.split(few), gradient.split(few), strict=True):
        value, slope = step(loss, s.double().requires_grad_(), t.double() if t.is_floating_point() else t)
        share = len(s) / len(logits)
        total += share * value.item()
        g.copy_(share * slope)
    return total, gradient


def allocated(call: Call) -> int:
    """Return the peak of the bytes that torch has allocated in a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = call()
    del kept
    # The exported trace says the same; this way there is no file in between.
    events: Any = profiled.profiler.kineto_results.events()  # pyright: ignore
    sizes = [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()) if event.name() == "[memory]"]
    return int(np.cumsum(sizes).max())


def resident(call: Call) -> int:
    """Return by how many bytes a call raises the resident memory of this process, whoever allocates them."""

    def status(key: str) -> int:
        return 1024 * int(re.findall(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])

    # Pages that malloc has kept would be taken again without a trace.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is resident now
    before = status("VmRSS")
    kept = call()
    del kept
    return status("VmHWM") - before


def examine(p: Provider, logits: Tensor, leaf: Tensor) -> Result:
    """Make the first calls of a provider, and weigh its errors and its memory."""
    began = time.monotonic()
    forward = p.loss(logits, p.targets)
    loss, gradient = step(p.loss, leaf, p.targets)
    first_calls = time.monotonic() - began
    true_loss, true_gradient = p.truth()
    loss_error = max(abs(value.item() / true_loss - 1) for value in (forward, loss))
    gradient_error = float((gradient.double() - true_gradient).abs().max())
    del gradient
    call = partial(step, p.loss, leaf, p.targets)
    memory = allocated(call)
    if p.name == "native" and logits.nbytes >= LARGE:
        memory = max(memory, resident(call))
    return Result(p.name, p.kind, loss_error, gradient_error, memory / logits.nbytes, first_calls)


def seconds_a_call(call: Call, times: int, clock: Clock = time.perf_counter) -> float:
    began = clock()
    for _ in range(times):
        call()
    return (clock() - began) / times


def batch_size(call: Call, clock: Clock) -> int:
    batch = 1
    while batch * seconds_a_call(call, batch, clock) < SAMPLE:
        batch *= 2
    return batch


def race(calls: dict[Any, Call], seconds: float, clock: Clock = time.perf_counter) -> dict[Any, np.ndarray]:
    """Time every call once a round, in random order; returns seconds a call, one a round."""
    order, rng = list(calls), np.random.default_rng(0)
    batches = {key: batch_size(call, clock) for key, call in calls.items()}
    rounds: list[dict[Key, float]] = []
    gc.collect()
    gc.disable()  # as timeit does: a collection would fall on whoever runs by chance
    began = time.monotonic()
    while len(rounds) < FEWEST_ROUNDS or (len(rounds) < ROUNDS and time.monotonic() - began < seconds):
        rng.shuffle(order)
        rounds.append({key: seconds_a_call(calls[key], batches[key], clock) for key in order})
    gc.enable()
    return {key: np.array([times[key] for times in rounds]) for key in calls}


def copy_bandwidth() -> float:
    """Return the bytes read and written a second while 256 MB are copied."""
    source, target = torch.ones(2**26), torch.ones(2**26)
    return 2 * source.nbytes / float(np.median([seconds_a_call(lambda: target.copy_(source), 1) for _ in range(9)]))


def timing(key: Key, times: dict[Key, np.ndarray], bound: float) -> Timing:
    name, kind = key
    rivals = {"BCE": (BCE, "soft" if kind == "soft" else "float"), "CE": (CE, "class"), "bool": (name, "bool")}
    p10, median, p90 = np.percentile(times[key], (10, 50, 90)).tolist()
    ratios = {rival: float(np.median(times[key] / times[k])) for rival, k in rivals.items() if k in times}
    return Timing(1e3 * median, 1e3 * p10, 1e3 * p90, len(times[key]), 1e3 * bound, ratios)


def seconds_of_others() -> float:
    """Return the processor seconds that everything but this process has taken so far."""
    user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK") - time.process_time()


def measure(case: Case, seconds: float) -> Run:
    torch.set_num_threads(case.threads)
    torch.compiler.reset()
    logits, providers = prepare(case)
    leaf = logits.detach().requires_grad_()
    run = Run(case, copy_bandwidth() / 1e9, 0.0, [])
    for p in providers:
        try:
            run.outcomes.append(examine(p, logits, leaf))
        except (ValueError, RuntimeError) as error:  # not built, or no compiler for inductor
            run.outcomes.append(Skipped(p.name, p.kind, str(error).partition("\n")[0]))
    running = [(p, r) for p, r in zip(providers, run.outcomes, strict=True) if isinstance(r, Result)]
    binds = {
        FORWARD: lambda p: partial(p.loss, logits, p.targets),
        STEP: lambda p: partial(step, p.loss, leaf, p.targets),
    }
    began, others = time.monotonic(), seconds_of_others()
    for direction, bind in binds.items():
        times = race({(p.name, p.kind): bind(p) for p, _ in running}, seconds)
        for p, r in running:
            moved = logits.nbytes * (2 if direction == STEP else 1) + p.target_bytes
            r.timings[direction] = timing((p.name, p.kind), times, moved / run.copy_gb_s / 1e9)
    run.disturbance = max(0.0, seconds_of_others() - others) / (time.monotonic() - began) / CORES
    return run


def checks_of(run: Run) -> Iterator[Check]:
    """Hold the kernel against its targets."""
    case, dtype = run.case, getattr(torch, run.case.dtype)
    other = next(r for r in run.results() if r.provider == CE)
    for r in run.results():
        if r.provider != "native":
            continue
        where, ratios = f"{case}, {r.kind}", r.timings[STEP].ratios
        if case.labels >= 4096:
            yield Check(f"{STEP}, x BCE, 4096 labels or more", where, ratios["BCE"], 0.3)
            yield Check(f"{STEP}, x CE, 4096 labels or more", where, ratios["CE"], 0.7)
        else:
            yield Check(f"{STEP}, x BCE, 28 labels", where, ratios["BCE"], 1.0)
        if r.kind == "index":
            yield Check(f"{STEP}, index x bool", where, ratios["bool"], 1.0)
        # O(rows) is up to 128 bytes a row, and 2 % are for what the system counts of resident pages.
        yield Check("memory: one gradient + O(rows)", where, r.memory, 1.02 + 128 / (case.labels * dtype.itemsize))
        # One rounding is always allowed, as any number can be exact by luck; gradients of a mean are at most 1 / rows.
        loss_limit = max(other.loss_error, torch.finfo(torch.float32).eps)
        gradient_limit = max(other.gradient_error, torch.finfo(dtype).eps / case.rows)
        yield Check("loss error: as cross_entropy", where, r.loss_error, loss_limit)
        yield Check("gradient error: as cross_entropy", where, r.gradient_error, gradient_limit)


def check_table(checks: list[Check]) -> Iterator[str]:
    """One line a target, with the case closest to its limit or furthest beyond; then every miss."""
    yield "| target | | met | worst | limit | where |"
    yield "|---|---|---|---|---|---|"
    for claim in dict.fromkeys(check.claim for check in checks):
        same = [check for check in checks if check.claim == claim]
        met, worst = sum(c.value <= c.limit for c in same), max(same, key=lambda c: c.value / c.limit)
        mark = "pass" if met == len(same) else "MISS"
        yield f"| {claim} | {mark} | {met} of {len(same)} | {worst.value:.3g} | {worst.limit:.3g} | {worst.where} |"
    yield ""
    for claim, where, value, limit in checks:
        if not value <= limit:
            yield f"- MISS {claim}: {value:.3g}, limit {limit:.3g}, at {where}"


def case_table(run: Run) -> Iterator[str]:
    yield from ("", f"## {run.case}", "")
    yield f"Copy: {run.copy_gb_s:.1f} GB/s. Other processes took {run.disturbance:.0%} of the cores."
    yield ""
    times = " | ".join(f"{direction} | x BCE | x CE | of bound" for direction in (FORWARD, STEP))
    yield f"| | targets | {times} | memory | loss error | gradient error |"
    yield "|---|---|" + "---|" * 11
    for r in run.outcomes:
        if isinstance(r, Skipped):
            yield f"| {r.provider} | {r.kind} | {r.reason} |{' |' * 10}"
            continue
        cells = [
            f"{r.provider} (first calls {r.first_calls_s:.0f} s)" if r.provider == COMPILED else r.provider,
            r.kind,
        ]
        for t in r.timings.values():
            cells += [f"{t.ms:.4g} ({t.p10:.4g}-{t.p90:.4g})", f"{t.ratios['BCE']:.2f}", f"{t.ratios['CE']:.2f}"]
            cells += [f"{t.bound_ms / t.ms:.0%}"]
        yield f"| {' | '.join(cells)} | {r.memory:.2f} | {r.loss_error:.0e} | {r.gradient_error:.0e} |"


def markdown(facts: dict[str, Any], runs: list[Run], checks: list[Check]) -> str:
    lines = ["# ZLPR on the CPU", "", *(f"- {name}: {value}" for name, value in facts.items()), "", NOTES]
    for run in runs:
        lines += case_table(run)
    lines += ["", "## Targets", ""]
    disturbed = [str(run.case) for run in runs if run.disturbance > DISTURBED]
    if disturbed:
        lines += [f"Not to be relied on, since other processes took the cores: {'; '.join(disturbed)}.", ""]
    lines += check_table(checks) if checks else ["Not measured: `native` did not run."]
    return "\n".join([*lines, ""])


def machine() -> dict[str, Any]:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    def cache_of(folder: Path) -> str:
        return "L" + " ".join((folder / name).read_text().strip() for name in ("level", "type", "size"))

    return {
        "cpu": re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[0],
        "cores": CORES,
        "caches": ", ".join(map(cache_of, sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")))),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "not set"),
        "torch": torch.__version__,
        "manyhot": manyhot.__version__,
        "commit": git("rev-parse", "HEAD") + (", with changes" if git("status", "--porcelain") else ""),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four cases, fewer rounds; writes nothing without --out")
    parser.add_argument("--out", type=Path, help="folder for cpu.md (default: benchmarks/results)")
    options = parser.parse_args()
    cases, seconds, minutes = (QUICK_CASES, QUICK_SECONDS, 3) if options.quick else (CASES, SECONDS, 20)
    out = options.out or (None if options.quick else ROOT / "benchmarks" / "results")
    began, facts = time.monotonic(), machine()

    def say(what: object) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {what}", file=sys.stderr, flush=True)

    say(f"{len(cases)} cases, about {minutes} minutes on {CORES} idle cores: {'; '.join(map(str, cases))}")
    runs = []
    # A folder of its own: with what inductor kept from an earlier run, its first calls would look short.
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        for case in cases:
            say(case)
            runs.append(measure(case, seconds))
    checks = [check for run in runs for check in checks_of(run)]
    report = markdown(facts, runs, checks)
    print(report)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        part = out / "cpu.md.part"
        part.write_text(report)
        part.replace(out / "cpu.md")  # whole or not at all
    say("done" if out is None else f"wrote cpu.md to {out}")


if __name__ == "__main__":
    main()
