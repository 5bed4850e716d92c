"""Which loss and which design find triples best: ZLPR and binary cross-entropy, GPLinker and the cascade, on conll04.

    make bench-relations                     three seeds of each; half an hour of one core
    python benchmarks/relations.py --page    writes the page of what is known, and fits nothing

Every fit is that of `manyhot train --task relations`: a tenth of the 922 training rows says when to stop and which
offsets are best, then all are fitted. Nothing was chosen by test rows. F1 is of the 288 test rows, at scores above 0
and with the offsets. Each fit is kept beside the page: a run that was stopped goes on where it was left.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

import numpy as np
import torch

from cpu import ROOT, machine
from manyhot.toolkit.config import make_config
from manyhot.toolkit.disk.checkpoint import NO_CHECKPOINT
from manyhot.toolkit.spans.fit import fit, plan
from manyhot.toolkit.spans.inputs import read_spans, sentences_for
from manyhot.toolkit.spans.relation_network import RelationNetwork
from manyhot.toolkit.spans.train import run_of

DATA = Path(os.environ.get("MANYHOT_DATA", ROOT.parent / "shared" / "data")) / "conll04"
RESULT = ROOT / "benchmarks" / "results" / "relations.md"
KEPT = RESULT.with_suffix(".jsonl")
DESIGNS = ("gplinker", "cascade")
LOSSES = {"zlpr": "ZLPR, biases at half the logit of the share", "bce+bias": "BCE, biases at the logit of the share"}
NUMBERS = {
    "micro_f1": "entities",
    "triple_micro_f1": "strict triples",
    "triple_macro_f1": "macro, triples",
    "triple_boundary_f1": "borders alone, triples",
}


def trial(design: str, loss: str, seed: int) -> dict[str, Any]:
    """Fit once and measure the test rows, with the offsets and without."""
    options = {"data": str(DATA / "conll04_train.json.gz"), "task": "relations", "design": design, "loss": loss}
    config = make_config(None, [], options | {"seed": seed})
    training = read_spans(config)
    test = sentences_for(DATA / "conll04_test.json.gz", training.reading, characters=training.characters)
    learner = plan(config, training, None, "cpu")
    fitted, seconds = timed(lambda: fit(learner, training, NO_CHECKPOINT, lambda *_: None))
    run = run_of(config, training, fitted, learner)
    measured, predicting = timed(lambda: run.evaluate_sentences(test).metrics)
    network = fitted.network
    assert isinstance(network, RelationNetwork)
    network.shift(-run.info["offset"])
    network.shift_triples(-run.info["triple_offset"])
    plain = run.evaluate_sentences(test).metrics
    return {
        "design": design, "loss": loss, "seed": seed, "epochs": fitted.epochs, "seconds": seconds,
        "an_epoch": seconds / len(fitted.losses), "predicting": predicting,
        "weights": sum(p.numel() for p in network.parameters()),
        "offsets": [run.info["offset"], run.info["triple_offset"]],
        "with_offsets": {key: measured[key] for key in NUMBERS}, "at_zero": {key: plain[key] for key in NUMBERS},
    }  # fmt: skip


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call gives, and the processor seconds that it took."""
    began = time.process_time()
    return call(), time.process_time() - began


def page(results: list[dict[str, Any]]) -> str:
    """Write what is known so far."""
    rows = "922 training rows, 288 test rows of conll04, cnn, at most 30 epochs"
    facts = {"command": "`make bench-relations`", "rows": rows} | machine()
    seeds = sorted({r["seed"] for r in results})
    lines = [
        "# Relations: losses and designs on the same encoder",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        f"- fits so far: {len(results)}, seeds {', '.join(map(str, seeds))}; the same command goes on",
        "",
        "F1 in per cent on test rows, mean over seeds: at scores above 0 / with the offsets that rows held out found.",
        "± is half the range over seeds, with the offsets. A strict triple has both borders, both types and the",
        "relation right.",
        "",
        "| design | loss | " + " | ".join(NUMBERS.values()) + " |",
        "|---" * (len(NUMBERS) + 2) + "|",
    ]
    pairs = [(d, name) for d in DESIGNS for name in LOSSES]
    groups = {pair: [r for r in results if (r["design"], r["loss"]) == pair] for pair in pairs}
    for (design, name), found in groups.items():
        if found:
            lines.append(f"| {design} | {LOSSES[name]} | " + " | ".join(cell(found, key) for key in NUMBERS) + " |")
    lines += ["", "What it costs, processor seconds of one thread, mean over seeds:", ""]
    lines += ["| design | loss | weights | epochs | fitting | a pass over the rows | 288 rows predicted |"]
    lines += ["|---" * 7 + "|"]
    for (design, name), found in groups.items():
        if found:
            epochs, fitting, one, predicting = (
                np.mean([r[key] for r in found]) for key in ("epochs", "seconds", "an_epoch", "predicting")
            )
            lines.append(
                f"| {design} | {name} | {found[0]['weights']:,} | {epochs:.1f} | {fitting:.0f} s | {one:.2f} s | "
                f"{predicting:.1f} s |"
            )
    return "\n".join(lines) + "\n"


def cell(found: list[dict[str, Any]], key: str) -> str:
    """Write the mean at 0, the mean with the offsets, and half the range of these."""
    plain, offset = ([100 * r[part][key] for r in found] for part in ("at_zero", "with_offsets"))
    spread = f" ±{(max(offset) - min(offset)) / 2:.1f}" if len(found) > 1 else ""
    return f"{np.mean(plain):.1f} / {np.mean(offset):.1f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="write the page of what is known, and fit nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    done = {(r["design"], r["loss"], r["seed"]) for r in results}
    for seed in range(0 if given.page else given.seeds):
        for design in DESIGNS:
            for loss in LOSSES:
                if (design, loss, seed) in done:
                    continue
                results.append(trial(design, loss, seed))
                with KEPT.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
                RESULT.write_text(page(results))
                print(json.dumps(results[-1]), flush=True)
    RESULT.write_text(page(results))


if __name__ == "__main__":
    main()
