"""After which epoch to stop where few spans are held out: rules beside each other, on training rows, never test rows.

    python benchmarks/span_epochs.py [SET ...]    600 training rows of each set, four seeds, ZLPR and BCE

Of each set 600 training rows are fitted as `manyhot train --task spans` fits them: nine tenths, while the others say
after which epoch to stop and which offset to add, then all of them. 600 other rows, by which nothing was chosen,
measure the second fit after each epoch, so that every rule can be looked at. Fits are kept beside the page: a run that
was stopped goes on where it was left.
"""

import json
import sys
from typing import Any

import numpy as np
import torch

from cpu import ROOT, machine
from manyhot.toolkit.config import make_config
from manyhot.toolkit.disk.checkpoint import NO_CHECKPOINT
from manyhot.toolkit.models.early_stopping import FEW_POSITIVES, best_epoch
from manyhot.toolkit.models.model import Curve
from manyhot.toolkit.spans import fit as fitting
from manyhot.toolkit.spans.fit import SpanLearner, held_out, plan
from manyhot.toolkit.spans.inputs import SpanTraining, read_spans
from manyhot.toolkit.spans.offset import Candidates, bagged_offset, f1_at_zero
from manyhot.toolkit.spans.sentences import Sentences
from span_offset import LOSSES, candidates
from span_quality import DATA, SETS

RESULT = ROOT / "benchmarks" / "results" / "span_epochs.md"
KEPT = RESULT.with_suffix(".jsonl")
ROWS, MEASURED, EPOCHS, SEEDS = 600, 600, 10, 4
RULES = ("the best", "the last about as good", "the last made")


def trial(name: str, loss: str, seed: int) -> dict[str, Any]:
    """Fit both times for all epochs, and say what each rule would have given."""
    file = str(DATA / name / "train.spans.jsonl.gz")
    config = make_config(None, [], {"data": file, "task": "spans", "loss": loss, "epochs": EPOCHS, "seed": seed})
    training = read_spans(config)
    order = np.random.default_rng(seed).permutation(training.train.rows)
    measured = training.train.taken(np.sort(order[ROWS : ROWS + MEASURED]))
    training = SpanTraining(**{**vars(training), "train": training.train.taken(np.sort(order[:ROWS]))})
    kept, held = held_out(training, seed)
    assert held is not None
    learner = plan(config, training, None, "cpu")
    first = by_epoch(learner, training, kept, held[1])
    second = by_epoch(learner, training, training.train, measured)
    return {"set": name, "loss": loss, "seed": seed} | chosen(first, second)


def by_epoch(learner: SpanLearner, training: SpanTraining, rows: Sentences, look: Sentences) -> list[Candidates]:
    """Return what is found in rows that are looked at, after each epoch of a fit."""
    network, pieces = learner.draw(training, rows)
    curve = Curve(NO_CHECKPOINT, lambda *_: None)
    found: list[Candidates] = []

    def held() -> float:
        found.append(candidates(network, look, training))
        return float(len(found))  # higher each time: all epochs are made

    fitting._descend(learner, network, pieces, curve.bookmark(""), curve, epochs=EPOCHS, held=held)
    return found


def chosen(first: list[Candidates], second: list[Candidates]) -> dict[str, Any]:
    """Return of each rule the epoch, and the F1 of the second fit after it, without the offset and with it."""
    heard, spans = [f1(found) for found in first], int(first[0].gold.sum())
    made = EPOCHS
    for epoch in range(1, EPOCHS + 1):
        if max(heard[:epoch]) > 0 and epoch >= int(np.argmax(heard[:epoch])) + 1 + fitting.CNN.patience:
            made = epoch
            break
    epochs = (int(np.argmax(heard[:made])) + 1, best_epoch(heard[:made], spans), made)
    rules = [[epoch, f1(second[epoch - 1]), f1(second[epoch - 1], bagged_offset(first[epoch - 1]))] for epoch in epochs]
    return {"spans": spans, "held": heard, "all": [f1(found) for found in second], "rules": rules}


def f1(found: Candidates, by: float = 0.0) -> float:
    return f1_at_zero(found.scores + by, found.right, int(found.gold.sum()))


def page(results: list[dict[str, Any]]) -> str:
    """Write what is known so far."""
    facts = {"command": "`python benchmarks/span_epochs.py`"} | machine()
    lines = [
        "# Spans: when to stop, where few spans are held out",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        f"- rows: {ROWS} training rows fitted for at most {EPOCHS} epochs, {MEASURED} other training rows measured",
        "",
        "Micro-F1 in per cent on the rows measured, after so many epochs of all rows as each rule says, in brackets,",
        'with the offset of that epoch. "The best" is of the spans held out, "the last about as good" lies within a',
        f"standard error of it, which the command takes of fewer than {FEW_POSITIVES} spans.",
        "",
        f"| set | loss | seed | spans held out | {' | '.join(RULES)} |",
        "|---" * (len(RULES) + 4) + "|",
    ]
    for r in sorted(results, key=lambda r: (list(SETS).index(r["set"]), list(LOSSES).index(r["loss"]), r["seed"])):
        cells = [f"{100 * with_offset:.1f} ({epoch})" for epoch, _, with_offset in r["rules"]]
        lines.append(f"| {r['set']} | {LOSSES[r['loss']]} | {r['seed']} | {r['spans']} | {' | '.join(cells)} |")
    few = [r for r in results if r["spans"] < FEW_POSITIVES]
    values = np.array([[100 * rule[2] for rule in r["rules"]] for r in few])
    means = [f"{mean:.1f}, worst {worst:.1f}" for mean, worst in zip(values.mean(0), values.min(0), strict=True)]
    lines.append(f"| mean of those with few | | | | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    torch.set_num_threads(1)
    results = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    done = {(r["set"], r["loss"], r["seed"]) for r in results}
    for name in sys.argv[1:] or SETS:
        for seed in range(SEEDS):
            for loss in LOSSES:
                if (name, loss, seed) not in done:
                    results.append(trial(name, loss, seed))
                    with KEPT.open("a") as file:
                        file.write(json.dumps(results[-1]) + "\n")
    RESULT.write_text(page(results))


if __name__ == "__main__":
    main()
