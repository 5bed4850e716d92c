"""Which loss finds spans best: ZLPR, binary cross-entropy, focal loss, and a linear-chain CRF.

    make bench-spans-quality                      in full: all rows of four sets, three seeds; hours
    python benchmarks/span_quality.py --rows 600  a first look: so many training rows and test rows of each set

Every method has the encoder, the rows, the schedule and the rule of `manyhot train --task spans`: a tenth of the
training rows says when to stop and which offset is best, then all rows are fitted. F1 is of exact spans, on test rows
(dev rows of cluener2020, whose test rows have no spans), at scores above 0 and with the offset. Each fit is kept beside
the page: a run that was stopped goes on where it was left. What says most comes first.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

import numpy as np
import torch
from torch import Tensor, nn

from cpu import ROOT, machine
from manyhot.metrics_of_spans import span_metrics
from manyhot.toolkit.config import make_config
from manyhot.toolkit.disk.checkpoint import NO_CHECKPOINT
from manyhot.toolkit.disk.fits import UNSAVED
from manyhot.toolkit.models.adamw import descend, of_like_length
from manyhot.toolkit.models.early_stopping import best_epoch
from manyhot.toolkit.spans.features import Vocabulary
from manyhot.toolkit.spans.fit import CNN, WARM_UP, fit, held_out
from manyhot.toolkit.spans.fit import plan as plan_of
from manyhot.toolkit.spans.inputs import SpanTraining, read_spans
from manyhot.toolkit.spans.network import Cnn
from manyhot.toolkit.spans.offset import LOWEST
from manyhot.toolkit.spans.pieces import find_spans, gold_of, prepared
from manyhot.toolkit.spans.sentences import Sentences

DATA = Path(os.environ.get("MANYHOT_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "benchmarks" / "results"
# The file of test rows; cluener2020 has spans for its dev rows alone.
SETS = {"conll04": "test", "wnut17": "test", "cluener2020": "dev", "germeval2014": "test"}


@dataclass(frozen=True)
class Method:
    """A loss, where its biases start, and what it is called."""

    name: str
    loss: str
    start: float


# Those of a few minutes with all their seeds first.
SMALL = ("conll04", "wnut17")
METHODS = (
    Method("ZLPR, biases at half the logit of the share (the default)", "zlpr", 0.5),
    Method("BCE, biases at the logit of the share", "bce+bias", 1.0),
    Method("linear-chain CRF", "crf", 0.0),
    Method("BCE, biases 0", "bce", 0.0),
    Method("ZLPR, biases 0", "zlpr", 0.0),
    Method("focal loss (.25, 2), biases as BCE", "focal", 1.0),
)


@dataclass(frozen=True)
class Plan:
    """What is compared: on which rows, how often.

    Attributes:
        rows: of each set, at most; None: all.
        epochs: the most there are.
    """

    rows: int | None
    epochs: int
    seeds: int

    @property
    def place(self) -> Path:
        """The page; its numbers lie beside it."""
        of_rows = "" if self.rows is None else f"_{self.rows}"
        return RESULTS / f"span_quality{of_rows}.md"


class Crf(nn.Module):
    """A linear-chain CRF over IOB2 tags on the same encoder; of spans that overlap the last is learned."""

    def __init__(self, vocabulary: Vocabulary, types: int) -> None:
        super().__init__()
        self.encoder = Cnn(vocabulary)
        self.tags = nn.Linear(self.encoder.width, 2 * types + 1)
        self.steps = nn.Parameter(torch.zeros(2 * types + 1, 2 * types + 1))
        inside = torch.arange(2 * types + 1) % 2 == 0
        inside[0] = False  # O is 0, B of type t is 2 t + 1, I is 2 t + 2
        allowed = ~inside.repeat(2 * types + 1, 1)
        for tag in range(2, 2 * types + 1, 2):
            allowed[[tag - 1, tag], tag] = True
        self.forbidden, self.no_start = ~allowed, inside

    def moves(self) -> Tensor:
        return self.steps.masked_fill(self.forbidden, -1e4)

    def forward(self, rows: list[Any], lengths: list[int]) -> Tensor:
        scores = self.tags(self.encoder(rows, max(lengths)))
        return torch.cat((scores[:, :1].masked_fill(self.no_start, -1e4), scores[:, 1:]), 1)

    def loss(self, rows: list[Any], lengths: list[int], tags: list[list[int]]) -> Tensor:
        scores, moves = self(rows, lengths), self.moves()
        total, sizes = scores[:, 0], torch.tensor(lengths)
        for i in range(1, max(lengths)):
            later = torch.logsumexp(total.unsqueeze(-1) + moves, 1) + scores[:, i]
            total = torch.where((i < sizes).unsqueeze(-1), later, total)
        gold = torch.stack(
            [scores[r, range(n), tags[r]].sum() + moves[tags[r][:-1], tags[r][1:]].sum() for r, n in enumerate(lengths)]
        )
        return (torch.logsumexp(total, -1) - gold).mean()

    def best(self, row: Any, length: int) -> list[tuple[int, int, int]]:
        scores, moves = self([row], [length])[0], self.moves()
        total, back = scores[0], []
        for i in range(1, length):
            value, before = (total.unsqueeze(-1) + moves).max(0)
            total = value + scores[i]
            back.append(before)
        path = [int(total.argmax())]
        for before in reversed(back):
            path.append(int(before[path[-1]]))
        spans: list[tuple[int, int, int]] = []
        for i, tag in enumerate(reversed(path)):
            if tag % 2:
                spans.append((i, i + 1, tag // 2))
            elif tag:
                spans[-1] = (spans[-1][0], i + 1, spans[-1][2])
        return spans


def tags_of(tokens: list[str], spans: list[tuple[int, int, int]]) -> list[int]:
    tags = [0] * len(tokens)
    for start, end, kind in spans:
        tags[start:end] = [2 * kind + 1] + [2 * kind + 2] * (end - start - 1)
    return tags


def fit_crf(training: SpanTraining, sentences: Sentences, seed: int, epochs: int, held: Sentences | None) -> Any:
    """Fit on rows; with rows held out, return the epoch that is best for them, else the CRF."""
    torch.manual_seed(seed)
    crf = Crf(Vocabulary.fit(sentences.tokens), len(training.types))
    gold, _ = gold_of(sentences, training.types)
    rows = [crf.encoder.prepare(tokens) for tokens in sentences.tokens]
    tags = [tags_of(tokens, spans) for tokens, spans in zip(sentences.tokens, gold, strict=True)]
    sizes = np.array([len(tokens) for tokens in sentences.tokens])
    number = CNN.epochs * -(-len(rows) // CNN.batch)
    schedule = replace(CNN, factor=lambda share: min((share * number + 1) / WARM_UP, 1.0) * (1 - share))

    def value(part: np.ndarray, random: torch.Generator) -> Tensor:
        crf.train()
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=random)))
        return crf.loss([rows[i] for i in part], sizes[part].tolist(), [tags[i] for i in part])

    heard = descend(
        dict(crf.named_parameters()),
        len(rows),
        value,
        replace(schedule, epochs=CNN.epochs),
        seed=seed,
        bookmark=UNSAVED,
        progress=lambda *_: None,
        epochs=epochs,
        held=None if held is None else lambda: measured(crf_spans(crf, held), held, training)[0],
        cut=lambda random: of_like_length(sizes, lambda _: CNN.batch, random),
    )
    return crf if held is None else best_epoch(heard, sum(map(len, held.spans)))


def crf_spans(crf: Crf, sentences: Sentences) -> list[list[tuple[int, int, int]]]:
    crf.eval()
    with torch.no_grad():
        return [crf.best(crf.encoder.prepare(t), len(t)) if t else [] for t in sentences.tokens]


def measured(spans: Any, sentences: Sentences, training: SpanTraining) -> tuple[float, float]:
    gold, unknown = gold_of(sentences, training.types)
    metrics: Any = span_metrics(spans, gold, num_types=len(training.types) + len(unknown))
    return metrics["micro_f1"], metrics["macro_f1"]


def trial(name: str, method: Method, seed: int, compared: Plan) -> dict[str, Any]:
    """Fit a method once, and measure it on the test rows."""
    rows, epochs = compared.rows, compared.epochs
    files = {part: str(DATA / name / f"{part}.spans.jsonl.gz") for part in ("train", SETS[name])}
    options = {"data": files["train"], "test": files[SETS[name]], "task": "spans", "seed": seed}
    loss = "zlpr" if method.loss == "crf" else method.loss
    config = make_config(None, [], options | {"loss": loss, "epochs": epochs})
    training = read_spans(config)
    test = training.test
    assert test is not None
    if rows is not None:
        chance = np.random.default_rng(0)  # the same rows for every method and seed
        kept = np.sort(chance.permutation(training.train.rows)[:rows])
        training = replace(training, train=training.train.taken(kept))
        test = test.taken(np.sort(chance.permutation(test.rows)[:rows]))
    began = time.process_time()
    if method.loss == "crf":
        kept_rows, held = held_out(training, seed)
        assert held is not None
        best = fit_crf(training, kept_rows, seed, epochs, held[1])
        crf = fit_crf(training, training.train, seed, best, None)
        seconds = time.process_time() - began
        plain = offset = measured(crf_spans(crf, test), test, training)
    else:
        learner = replace(plan_of(config, training, None, "cpu"), start=method.start)
        fitted = fit(learner, training, NO_CHECKPOINT, lambda *_: None)
        best, seconds = fitted.epochs, time.process_time() - began
        flat = not training.nested
        spans = find_spans(fitted.network, prepared(fitted.network, test), test.rows, flat=flat, threshold=LOWEST)
        offset = measured([[s for s in row if s.score > 0] for row in spans], test, training)
        plain = measured([[s for s in row if s.score > fitted.offset] for row in spans], test, training)
    return {
        "set": name, "method": method.name, "seed": seed, "epochs": best, "seconds": seconds,
        "f1": plain[0], "f1_offset": offset[0], "macro_f1_offset": offset[1],
        "rows": training.train.rows, "test_rows": test.rows, "most": epochs,
    }  # fmt: skip


def missing(results: list[dict[str, Any]], plan: Plan) -> list[str]:
    """Say which fits are to come, a line a set."""
    done = {(r["set"], r["method"], r["seed"]) for r in results}
    lines = []
    for name in SETS:
        left = {m.name: [s for s in range(plan.seeds) if (name, m.name, s) not in done] for m in METHODS}
        if all(len(found) == plan.seeds for found in left.values()):
            lines.append(f"- missing of {name}: all")
        elif any(left.values()):
            said = [f"{method}, seed {', '.join(map(str, found))}" for method, found in left.items() if found]
            lines.append(f"- missing of {name}: {'; '.join(said)}")
    return lines


def page(results: list[dict[str, Any]], plan: Plan) -> str:
    """Write what is known so far."""
    rows = plan.rows
    size = "all rows" if rows is None else f"at most {rows:,} training rows and as many test rows, drawn once"
    options = "" if rows is None else f" --rows {rows}"
    command = f"python benchmarks/span_quality.py{options} --epochs {plan.epochs}"
    facts = {"command": f"`{command}`", "rows": f"{size}, at most {plan.epochs} epochs"} | machine()
    done, fits = len({(r["set"], r["method"], r["seed"]) for r in results}), len(SETS) * len(METHODS) * plan.seeds
    lines = [
        "# Spans: losses on the same encoder, and a CRF",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        f"- fits: {done} of {fits}; the same command goes on where it was left",
        *missing(results, plan),
        "",
        "Micro-F1 of exact spans in per cent, on test rows (dev rows of cluener2020), mean over seeds: at scores "
        "above 0 / with",
        "the offset that rows held out found."
        + ("" if rows is None else " Of so few rows only large differences say anything; in full it takes hours."),
        "",
    ]
    lines += ["| | " + " | ".join(SETS) + " |", "|---" * (len(SETS) + 1) + "|"]
    for method in METHODS:
        cells = []
        for name in SETS:
            found = [r for r in results if (r["set"], r["method"]) == (name, method.name)]
            plain, offset = ([100 * r[key] for r in found] for key in ("f1", "f1_offset"))
            spread = f" ±{(max(offset) - min(offset)) / 2:.1f}" if len(found) > 1 else ""
            said = f"{np.mean(plain):.1f} / {np.mean(offset):.1f}{spread}" if found else "-"
            cells.append(said if method.loss != "crf" or not found else f"{np.mean(plain):.1f}{spread}")
        lines.append(f"| {method.name} | " + " | ".join(cells) + " |")
    lines += ["", "± is half the range over seeds. Processor seconds and epochs, mean over seeds:", ""]
    lines += ["| set | method | seeds | epochs | seconds |", "|---|---|---|---|---|"]
    for name in SETS:
        for method in METHODS:
            found = [r for r in results if (r["set"], r["method"]) == (name, method.name)]
            if found:
                times, ends = (np.mean([r[key] for r in found]) for key in ("seconds", "epochs"))
                lines.append(f"| {name} | {method.name} | {len(found)} | {ends:.1f} | {times:.0f} |")
    return "\n".join(lines) + "\n"


def known(plan: Plan) -> list[dict[str, Any]]:
    """Return the fits that are there, also those that another process has made by now."""
    kept = plan.place.with_suffix(".jsonl")
    found = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    return [fit for fit in found if fit["most"] == plan.epochs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="training rows and test rows of each set, at most")
    parser.add_argument("--epochs", type=int, help="the most there are; those of the command if left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", choices=SETS, help="these alone, to share the work between processes")
    parser.add_argument("--page", action="store_true", help="write the page of what is known, and fit nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    plan = Plan(given.rows, given.epochs or CNN.epochs, given.seeds)
    wanted = [name for name in SETS if name in (given.sets or SETS)]
    small = [name for name in wanted if name in SMALL]
    order = [(name, method, seed) for part in (small, [name for name in wanted if name not in SMALL])
             for seed in range(plan.seeds) for method in METHODS for name in part]  # fmt: skip
    for name, method, seed in () if given.page else order:
        if (name, method.name, seed) in {(r["set"], r["method"], r["seed"]) for r in known(plan)}:
            continue
        result = trial(name, method, seed, plan)
        with plan.place.with_suffix(".jsonl").open("a") as file:
            file.write(json.dumps(result) + "\n")
        plan.place.write_text(page(known(plan), plan))
        print(json.dumps(result), flush=True)
    plan.place.write_text(page(known(plan), plan))


if __name__ == "__main__":
    main()
