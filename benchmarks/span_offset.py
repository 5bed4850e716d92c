"""What the offset of rows held out is worth on rows that nothing was chosen by: training rows, never test rows.

    python benchmarks/span_offset.py      600 training rows of each of four sets, three seeds

Of each set 600 training rows are fitted as `manyhot train --task spans` fits them, and 1,200 others are measured, with
no offset, the best one of the rows held out, the mean of the best ones over drawings of them (what the command takes),
and the best of the measured rows themselves, which no rule can reach. The last columns measure the network that the
rows held out saw: where it gains and that of all rows does not, the second fit has moved the scores. Fits are kept one
by one: a run that was stopped goes on where it was left.
"""

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cpu import ROOT, machine
from manyhot.toolkit.config import make_config
from manyhot.toolkit.disk.checkpoint import NO_CHECKPOINT
from manyhot.toolkit.spans.fit import fit, held_out, plan
from manyhot.toolkit.spans.inputs import SpanTraining, read_spans
from manyhot.toolkit.spans.network import SpanNetwork
from manyhot.toolkit.spans.offset import LOWEST, Candidates, bagged_offset, best_offset, f1_at_zero, judged
from manyhot.toolkit.spans.pieces import find_spans, gold_of, prepared
from manyhot.toolkit.spans.sentences import Sentences
from span_quality import DATA, SETS

RESULT = ROOT / "benchmarks" / "results" / "span_offset.md"
KEPT = RESULT.with_suffix(".jsonl")
ROWS, MEASURED, EPOCHS, SEEDS = 600, 1200, 10, 3
LOSSES = {"zlpr": "ZLPR", "bce+bias": "BCE, biases at the prior"}


def candidates(network: SpanNetwork, rows: Sentences, training: SpanTraining) -> Candidates:
    found = find_spans(network, prepared(network, rows), rows.rows, flat=not training.nested, threshold=LOWEST)
    return judged(found, [set(row) for row in gold_of(rows, training.types)[0]])


def trial(name: str, loss: str, seed: int) -> dict[str, Any]:
    """Fit once, and measure every rule."""
    file = str(DATA / name / "train.spans.jsonl.gz")
    config = make_config(None, [], {"data": file, "task": "spans", "loss": loss, "epochs": EPOCHS, "seed": seed})
    training = read_spans(config)
    order = np.random.default_rng(seed).permutation(training.train.rows)
    measured = training.train.taken(np.sort(order[ROWS : ROWS + MEASURED]))
    training = replace(training, train=training.train.taken(np.sort(order[:ROWS])))
    began = time.process_time()
    fitted = fit(plan(config, training, None, "cpu"), training, NO_CHECKPOINT, lambda *_: None)
    assert fitted.held is not None
    held = judged(fitted.held.spans, [set(row) for row in fitted.held.gold])
    # As many epochs of the rows that were kept: the seed makes the network the rows held out saw.
    kept, _ = held_out(training, seed)
    alone = replace(training, train=kept, valid=training.train.taken(fitted.held.rows))
    first = fit(plan(config, alone, None, "cpu"), alone, NO_CHECKPOINT, lambda *_: None)
    found = {
        "all": _without(candidates(fitted.network, measured, training), fitted.offset),
        "kept": _without(candidates(first.network, measured, training), first.offset),
    }
    return rules(held, found) | {"set": name, "loss": loss, "seed": seed, "seconds": time.process_time() - began}


def _without(found: Candidates, offset: float) -> Candidates:
    return found._replace(scores=found.scores - offset)


def rules(held: Candidates, found: dict[str, Candidates]) -> dict[str, Any]:
    """Return the offset of each rule, and its F1 on the rows measured, of the fit of all rows and of that of most."""
    number = int(held.gold.sum())
    offsets = {"none": 0.0, "best": best_offset(held.scores, held.right, number), "drawings": bagged_offset(held)}
    result: dict[str, Any] = {"spans": number, "offsets": offsets}
    for name, part in found.items():
        gold = int(part.gold.sum())
        best = best_offset(part.scores, part.right, gold)
        result[name] = {
            rule: f1_at_zero(part.scores + by, part.right, gold) for rule, by in (offsets | {"known": best}).items()
        } | {"known offset": best}
    return result


def page(results: list[dict[str, Any]]) -> str:
    """Write what is known so far."""
    facts = {"command": "`python benchmarks/span_offset.py`"} | machine()
    fits = len(SETS) * len(LOSSES) * SEEDS
    lines = [
        "# Spans: what one offset of few rows held out is worth",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        f"- rows: {ROWS} training rows fitted for at most {EPOCHS} epochs, {MEASURED:,} other training rows measured",
        f"- fits: {len(results)} of {fits}; the same command goes on where it was left",
        "",
        "Micro-F1 in per cent on the rows measured: of scores as they are, with the best offset of the spans held out, "
        "with the",
        "mean of the best ones over drawings of the rows held out (the command's), and with the best of the rows "
        "measured.",
        "",
        "| set | loss | seed | spans held out | none | best | drawings | known | "
        "without the second fit: none | best | drawings | known |",
        "|---" * 12 + "|",
    ]
    for r in sorted(results, key=lambda r: (list(SETS).index(r["set"]), list(LOSSES).index(r["loss"]), r["seed"])):
        cells = []
        for part in ("all", "kept"):
            offsets = r["offsets"] | {"known": r[part]["known offset"]}
            cells += [f"{100 * r[part][rule]:.1f} ({by:+.2f})" for rule, by in offsets.items()]
        lines.append(f"| {r['set']} | {LOSSES[r['loss']]} | {r['seed']} | {r['spans']} | {' | '.join(cells)} |")
    lines += ["", "What a rule adds to no offset, in points, over these fits:", ""]
    lines += ["| | best | drawings | known |", "|---|---|---|---|"]
    for part, name in (("all", "the fit of all rows"), ("kept", "without the second fit")):
        gains = {
            rule: [100 * (r[part][rule] - r[part]["none"]) for r in results] for rule in ("best", "drawings", "known")
        }
        said = [f"{np.mean(gain):+.2f} (worst {min(gain):+.1f})" for gain in gains.values()]
        lines.append(f"| {name} | {' | '.join(said)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    torch.set_num_threads(1)
    results = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    done = {(r["set"], r["loss"], r["seed"]) for r in results}
    for seed in range(SEEDS):
        for name in SETS:
            for loss in LOSSES:
                if (name, loss, seed) not in done:
                    results.append(trial(name, loss, seed))
                    with KEPT.open("a") as file:
                        file.write(json.dumps(results[-1]) + "\n")
                    RESULT.write_text(page(results))
    RESULT.write_text(page(results))


if __name__ == "__main__":
    main()
