"""Time and weigh the loss of spans beside torch's BCE, and count how often its matrix product is not enough.

    make bench-spans          all parts, about 3 minutes on one idle core
    python benchmarks/spans.py speed | memory | falls

speed   forward and backward to pair, start and end scores, one thread; processor seconds, since others may use the
        machine; every contender once a round, in random order, and the median of the ratios within a round.
memory  the most that torch allocates in such a step, gradients included.
falls   training on real sentences (conll04, MANYHOT_DATA), as long and at the rate that `manyhot train` would: how
        often the sum of SpanScores goes in blocks because the product has lost digits.
"""

import argparse
import gzip
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import manyhot
from cpu import ROOT, allocated, machine
from manyhot import SpanScores, SpanTargets, matmulexp, span_loss, span_mask, span_scores

DATA = Path(os.environ.get("MANYHOT_DATA", ROOT.parent / "shared" / "data"))
RESULT = ROOT / "benchmarks" / "results" / "spans.md"

# Rows, types, tokens; and for how many processor seconds they are measured.
CASES = ((16, 10, 50, 5.0), (16, 10, 128, 8.0), (16, 10, 256, 12.0), (16, 10, 512, 18.0), (16, 40, 128, 12.0))
FEWEST_ROUNDS = 5
BCE, WRITTEN, FACTORISED = "torch BCE", "span_loss, written out", "span_loss, factorised"
BCE_ALONE, ALONE = "torch BCE, loss alone", "span_loss, loss alone"
# At (types, tokens): what a ratio to torch's BCE is to be at most.
TARGETS = {(10, 512): 0.15, (10, 256): 0.20, (10, 128): 0.45, (40, 128): 0.10}


class Problem(NamedTuple):
    """A batch with the sparsity of real ones: two or three short spans a sentence."""

    scores: SpanScores
    spans: list[list[tuple[int, int, int]]]
    lengths: Tensor


def problem(rows: int, types: int, length: int) -> Problem:
    generator = torch.Generator().manual_seed(length)
    lengths = torch.randint(2 * length // 5, length + 1, (rows,), generator=generator)
    spans = []
    for tokens in lengths.tolist():
        starts = torch.randint(tokens - 3, (3,), generator=generator).tolist()
        kinds = torch.randint(types, (3,), generator=generator).tolist()
        spans.append([(i, i + 1 + n, t) for n, (i, t) in enumerate(zip(starts, kinds, strict=True))])
    shapes = ((rows, length, length), (rows, types, length), (rows, types, length))
    scores = SpanScores(*(torch.randn(shape, generator=generator).requires_grad_() for shape in shapes))
    return Problem(scores, spans, lengths)


def contenders(given: Problem) -> dict[str, Callable[[], Any]]:
    """Return one step of each: the loss, and its gradients by the parts or, of the loss alone, by the scores."""
    scores, spans, lengths = given
    rows, types, length = scores.start.shape
    targets = SpanTargets(spans)
    ones = targets.dense(types, length).float()
    weight = span_mask(lengths, length).float().expand_as(ones)
    leaf = scores.dense().detach().requires_grad_()

    def bce(dense: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(dense, ones, weight=weight, reduction="sum") / (rows * types)

    def ours(scores: Tensor | SpanScores) -> Tensor:
        return span_loss(scores, targets, lengths=lengths)

    return {
        BCE: lambda: torch.autograd.grad(bce(scores.dense()), scores),
        WRITTEN: lambda: torch.autograd.grad(ours(scores.dense()), scores),
        FACTORISED: lambda: torch.autograd.grad(ours(scores), scores),
        BCE_ALONE: lambda: torch.autograd.grad(bce(leaf), leaf),
        ALONE: lambda: torch.autograd.grad(ours(leaf), leaf),
    }


# --- speed and memory -------------------------------------------------------------------------------------------------


def seconds_a_call(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def race(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, np.ndarray]:
    """Time every call once a round, in random order; returns processor seconds, one a round."""
    order, chance = list(calls), np.random.default_rng(0)
    for call in calls.values():
        call()
    rounds: list[dict[str, float]] = []
    began = time.process_time()
    while len(rounds) < FEWEST_ROUNDS or time.process_time() - began < seconds:
        chance.shuffle(order)
        rounds.append({name: seconds_a_call(calls[name]) for name in order})
    return {name: np.array([times[name] for times in rounds]) for name in calls}


def speed() -> Iterator[str]:
    names = (BCE, WRITTEN, FACTORISED, BCE_ALONE, ALONE)
    yield from (
        "## Speed",
        "",
        "Processor ms of a step, and in brackets the ratio to torch's BCE of the same kind.",
        "",
    )
    yield "| rows, types, tokens | " + " | ".join(names) + " | factorised over written out |"
    yield "|---" * (len(names) + 2) + "|"
    reached = {}
    for rows, types, length, seconds in CASES:
        times = race(contenders(problem(rows, types, length)), seconds)
        cells = [f"{rows}, {types}, {length}"]
        for name in names:
            rival = BCE_ALONE if name in (BCE_ALONE, ALONE) else BCE
            ratio = float(np.median(times[name] / times[rival]))
            cells.append(f"{1e3 * np.median(times[name]):.3g}" + ("" if name == rival else f" ({ratio:.3f})"))
            if name == FACTORISED:
                reached[types, length] = ratio
        cells.append(f"{np.median(times[FACTORISED] / times[WRITTEN]):.2f}")
        yield f"| {' | '.join(cells)} |"
    yield ""
    for (types, length), limit in TARGETS.items():
        ratio = reached[types, length]
        verdict = "pass" if ratio <= limit else "MISS"
        yield f"- factorised over BCE at {types} types, {length} tokens: {ratio:.3f}, at most {limit}: {verdict}"


def memory() -> Iterator[str]:
    yield from (
        "## Memory",
        "",
        "MB that a step allocates at most, gradients included; in brackets over B L (L + T)",
        "",
    )
    names = (BCE, WRITTEN, FACTORISED)
    yield "| rows, types, tokens | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for rows, types, length, _ in CASES:
        calls = contenders(problem(rows, types, length))
        unit = 4 * rows * length * (length + types)
        used = {name: allocated(calls[name]) for name in names}
        cells = [f"{used[name] / 1e6:.3g} ({used[name] / unit:.1f})" for name in names]
        yield f"| {rows}, {types}, {length} | {' | '.join(cells)} |"


# --- real sentences ---------------------------------------------------------------------------------------------------

EPOCHS, ROWS, RATE, SIZE = 30, 16, 6e-3, 96


class Sentences(NamedTuple):
    features: list[Tensor]  # (tokens, features), ids
    spans: list[list[tuple[int, int, int]]]


def read(name: str, part: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / name / f"{part}.spans.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def of_word(word: str) -> tuple[str, ...]:
    low = word.lower()
    shape = "".join("X" if c.isupper() else "x" if c.islower() else "d" if c.isdigit() else c for c in word)
    shape = "".join(c for n, c in enumerate(shape) if shape[n - 3 : n] != 3 * c or n < 3)
    return (f"w{low}", f"1{low[:1]}", f"3{low[:3]}", f"-3{low[-3:]}", f"-4{low[-4:]}", f"s{shape}")


def sentences(name: str) -> tuple[Sentences, Sentences, int, int]:
    """Return training and test rows, and how many features and types there are."""
    rows = {part: read(name, part) for part in ("train", "test")}
    counts = Counter(f for row in rows["train"] for word in row["tokens"] for f in of_word(word))
    known = {f: n for n, f in enumerate(sorted(f for f, count in counts.items() if count > 1), 6)}
    kinds = {kind: n for n, kind in enumerate(sorted({s[2] for row in rows["train"] for s in row["entities"]}))}
    parts = [
        Sentences(
            [
                torch.tensor([[known.get(f, n) for n, f in enumerate(of_word(w))] for w in row["tokens"]])
                for row in given
            ],
            [[(s, e, kinds[kind]) for s, e, kind in row["entities"] if kind in kinds] for row in given],
        )
        for given in rows.values()
    ]
    return parts[0], parts[1], len(known) + 6, len(kinds)


class Tagger(nn.Module):
    """Sums of feature vectors, three gated convolutions, and the head."""

    def __init__(self, features: int, types: int) -> None:
        super().__init__()
        self.words, self.norm = nn.EmbeddingBag(features, SIZE, mode="sum"), nn.LayerNorm(SIZE)
        self.gates = nn.ModuleList(nn.Conv1d(SIZE, 2 * SIZE, 3, padding=d, dilation=d) for d in (1, 2, 4))
        self.norms = nn.ModuleList(nn.LayerNorm(SIZE) for _ in self.gates)
        self.drop, self.head = nn.Dropout(0.25), manyhot.EfficientSpanPointer(SIZE, types, size=48)

    def forward(self, ids: Tensor, inside: Tensor) -> SpanScores:
        rows, length, _ = ids.shape
        x = self.drop(self.norm(self.words(ids.flatten(0, 1)).view(rows, length, SIZE))) * inside.unsqueeze(-1)
        for gate, norm in zip(self.gates, self.norms, strict=True):
            x = norm(x + self.drop(F.glu(gate(x.mT), 1)).mT) * inside.unsqueeze(-1)
        return self.head(x)


def scored(model: Tagger, rows: list[Tensor]) -> tuple[SpanScores, Tensor]:
    ids, lengths = nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])
    return model(ids, torch.arange(ids.shape[1]) < lengths.unsqueeze(-1)), lengths


class Watch:
    """Counts the sums that one matrix product is not enough for, and those that log_matmul_exp would refuse."""

    def __init__(self) -> None:
        self.calls = self.falls = self.refused = 0
        self.inner = span_scores._by_product

    def __enter__(self) -> "Watch":
        span_scores._by_product = self.by_product
        return self

    def __exit__(self, *_: object) -> None:
        span_scores._by_product = self.inner

    def by_product(self, pair: Tensor, start: Tensor, end: Tensor) -> Tensor | None:
        with torch.no_grad():
            self.refused += matmulexp._shifted_product(end, pair.mT) is None
        total = self.inner(pair, start, end)
        self.calls, self.falls = self.calls + 1, self.falls + (total is None)
        return total


def train(rows: Sentences, features: int, types: int, seed: int) -> Tagger:
    torch.manual_seed(seed)
    model, chance = Tagger(features, types), np.random.default_rng(seed)
    lengths = torch.tensor([len(row) for row in rows.features])
    model.head.start_at(manyhot.span_share(SpanTargets(rows.spans), lengths, types))
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    steps = EPOCHS * -(-len(lengths) // ROWS)
    warm = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: min((n + 1) / 50, 1 - n / steps))
    for _ in range(EPOCHS):
        order = np.argsort(lengths.numpy() + chance.normal(0, 3, len(lengths)))
        groups = [order[i : i + ROWS] for i in range(0, len(order), ROWS)]
        chance.shuffle(groups)
        for group in groups:
            scores, tokens = scored(model, [rows.features[i] for i in group])
            loss = span_loss(scores, SpanTargets([rows.spans[i] for i in group]), lengths=tokens)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            warm.step()
    return model


def predict(model: Tagger, rows: Sentences) -> list[list[manyhot.Span]]:
    model.eval()
    found = []
    with torch.no_grad():
        for i in range(0, len(rows.features), 64):
            scores, tokens = scored(model, rows.features[i : i + 64])
            found += manyhot.decide_spans(scores, lengths=tokens, flat=True)
    return found


def falls() -> Iterator[str]:
    yield from ("## Falls", "")
    if not DATA.is_dir():
        yield f"Not measured: {DATA} is no folder."
        return
    training, test, features, types = sentences("conll04")
    began = time.process_time()
    with Watch() as watch:
        model = train(training, features, types, 0)
    metrics = manyhot.span_metrics(predict(model, test), test.spans, num_types=types)
    largest = max(float(x.detach().abs().max()) for x in scored(model, test.features[:16])[0])
    took, f1 = time.process_time() - began, 100 * float(metrics["micro_f1"] or 0)
    yield (
        f"conll04, {len(training.spans)} rows, {EPOCHS} epochs at {RATE:g}, {took:.0f} seconds of one core. "
        f"{watch.falls} of {watch.calls} sums went in blocks; {watch.refused} would where every entry of the product "
        f"is to keep its digits. The largest part of a score is {largest:.0f} at the end; test micro-F1 {f1:.1f} at "
        "s > 0, flat, one seed."
    )


PARTS: dict[str, Callable[[], Iterator[str]]] = {"speed": speed, "memory": memory, "falls": falls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="all", help="written down where all ran")
    part = parser.parse_args().part
    torch.set_num_threads(1)
    lines = ["# The loss of spans", "", *(f"- {name}: {value}" for name, value in machine().items())]
    for name in PARTS if part == "all" else (part,):
        lines.append("")
        for line in PARTS[name]():
            print(line, file=sys.stderr, flush=True)
            lines.append(line)
    if part == "all":
        whole = RESULT.with_suffix(".md.part")
        whole.write_text("\n".join([*lines, ""]))
        whole.replace(RESULT)  # whole or not at all


if __name__ == "__main__":
    main()
