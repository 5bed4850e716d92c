"""After which epoch to stop a network where few labels are held out: rules beside each other, on training rows alone.

    python benchmarks/mlp_epochs.py     two minutes of one core

Three quarters of the training rows of a set are fitted as `manyhot train --model mlp` fits them: nine tenths, while the
others say after which epoch to stop, then all of them. The last quarter, by which nothing was chosen, measures the
second fit after each epoch, so that every rule can be looked at. Of four sets 250 rows are taken, to have few.
"""

from pathlib import Path

import numpy as np
import torch

from cpu import machine
from defaults import rows_of, training_sets
from manyhot.labels import cardinality_range
from manyhot.split import stratified_split
from manyhot.toolkit.choose.cross_fit import score_by
from manyhot.toolkit.disk.fits import UNSAVED
from manyhot.toolkit.models.adamw import descend
from manyhot.toolkit.models.early_stopping import HELD, best_epoch, mean_loss
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.mlp import plan_mlp
from manyhot.toolkit.models.model import unheard
from manyhot.toolkit.objectives import FORMULAS
from manyhot.toolkit.read.examples import Examples

RESULT = Path(__file__).parent / "results" / "mlp_epochs.md"
# How many rows are taken of each; None: all.
SETS = {
    "emotions": None, "scene": None, "yeast": 250, "enron": 250, "semeval eng": 250, "tmc2007": 250,
    "yeast, all rows": None, "enron, all rows": None,
}  # fmt: skip
SEEDS = range(4, 10)
RULES = ("the best", "the last about as good", "the last made")


def trial(examples: Examples, seed: int) -> tuple[int, list[float]]:
    """Return how many labels were held out, and what each rule would have given on the last quarter."""
    part = stratified_split(examples.targets, (3, 1), seed=seed)
    inner, outer = rows_of(examples, part == 0), rows_of(examples, part == 1)
    features = Features.fit(inner)
    X, targets = features.transform(inner), torch.from_numpy(inner.targets.toarray())
    X_outer, targets_outer = features.transform(outer), outer.targets.toarray()
    score = score_by(cardinality_range(inner.targets))
    learner = plan_mlp(X.shape[0], X.shape[1], targets.shape[1], loss=FORMULAS["zlpr"], score=score)
    held = stratified_split(targets, [HELD - 1.0, 1.0], seed=0) == 1
    kept, left_out = torch.from_numpy(~held), targets[torch.from_numpy(held)].numpy()
    found = []
    for X_fit, targets_fit, X_look, looked in (
        (X[~held], targets[kept], X[held], left_out),
        (X, targets, X_outer, targets_outer),
    ):
        net = learner.draw(X_fit, targets_fit)
        scores: list[float] = []

        def look(net=net, X=X_look, looked=looked, scores=scores) -> float:
            scores.append(score(net.logits(X), looked))
            return float(len(scores)) if found else scores[-1]  # all epochs of the second fit are made

        descend(
            net.parameters(),
            len(targets_fit),
            mean_loss(net, X_fit, targets_fit, learner.loss),
            learner.schedule,
            seed=0,
            bookmark=UNSAVED,
            progress=unheard,
            epochs=len(found[0]) if found else None,
            held=look,
        )
        found.append(scores)
    heard, after = found
    positives = int(left_out.sum())
    # As if they were few, whether they are or not.
    about = best_epoch(heard, min(positives, 99))
    return positives, [after[epoch - 1] for epoch in (int(np.argmax(heard)) + 1, about, len(heard))]


def main() -> None:
    torch.set_num_threads(1)
    known = training_sets(False)
    lines = ["# Networks: when to stop, where few labels are held out", ""]
    facts = {"command": "`python benchmarks/mlp_epochs.py`"} | machine()
    lines += [*(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += [f"| set | labels held out | {' | '.join(RULES)} |", "|---" * (2 + len(RULES)) + "|"]
    for name, few in SETS.items():
        examples = known[name.removesuffix(", all rows")]()
        if few is not None:
            examples = rows_of(examples, stratified_split(examples.targets, (few, examples.rows - few), seed=9) == 0)
        trials = [trial(examples, seed) for seed in SEEDS]
        means = 100 * np.mean([scores for _, scores in trials], 0)
        gains = [100 * (scores[1] - scores[0]) for _, scores in trials]
        error = np.std(gains, ddof=1) / len(gains) ** 0.5
        cells = [f"{means[0]:.1f}", f"{means[1]:.1f} ({np.mean(gains):+.1f}, se {error:.1f})", f"{means[2]:.1f}"]
        lines.append(f"| {name} | {np.mean([p for p, _ in trials]):.0f} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        f"Mean of micro- and macro-F1 in per cent on the last quarter, means of {len(SEEDS)} cuts. The last about as",
        "good lies within a standard error of the best; the command takes it where fewer than 100 labels are held out.",
    ]
    RESULT.write_text("\n".join(lines) + "\n")
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
