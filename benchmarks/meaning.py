"""Choose the weight of a frozen encoder's numbers beside words, and what becomes of long texts, on training files.

    make defaults-meaning     (a quarter of an hour on one core)

As in benchmarks/defaults.py three quarters of the training rows, 2,000 rows at most of each set, play the training rows
and one quarter judges, by the mean of micro- and macro-F1. The encoder is the one that `make encoder-data` unpacks; it
is English, and one of the sets is not.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from defaults import ROOT, decided, rows_of, table_of, training_sets
from manyhot.labels import cardinality_range
from manyhot.split import stratified_split
from manyhot.toolkit.choose import cross_fit
from manyhot.toolkit.choose.cross_fit import choose_tau, fit_folds, make_folds, mean_f1, penalty_at, prior_logits
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.fits import UNSAVED, Arrays
from manyhot.toolkit.models import meaning
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.linear import LinearLearner
from manyhot.toolkit.models.model import unheard
from manyhot.toolkit.models.pretrained import Encoder
from manyhot.toolkit.objectives import FORMULAS, route_of
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.read.inputs import read

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "meaning.json"
ENCODER = HERE.parent / ".venv" / "encoder-data" / "all-MiniLM-L6-v2"
ROWS = 2000
WEIGHTS = (0.5, 1.0, 2.0, 4.0)


def text_sets() -> dict[str, Callable[[], Examples]]:
    """Return six sets of texts; of debtags the titles alone, as the demo has them."""
    known = training_sets(False)

    def table(file: str, **options: Any) -> Callable[[], Examples]:
        return lambda: read(Config(data=str(ROOT / file), **options)).train

    return {
        "semeval eng": known["semeval eng"],
        "semeval deu": known["semeval deu"],
        "goemotions": known["goemotions"],
        "debtags titles": table("debtags/train.jsonl.gz", text=("title",), labels=("tags",)),
        "debtags": known["debtags"],
        "reuters r90": known["reuters r90"],
    }


def judged(
    inner: Examples, outer: Examples, reader: Encoder | None, words: bool = True, characters: bool = False
) -> float:
    """Return the mean of micro- and macro-F1 on rows outside, everything chosen inside as `manyhot train` does."""
    fitted, X = Features.fit_transform(inner, reader, words=words, characters=characters)
    targets, truth = inner.targets.toarray(), outer.targets.toarray()
    X_outer, cardinality = fitted.transform(outer), cardinality_range(targets)
    learner = LinearLearner.planned(
        X.shape[0], X.shape[1], targets.shape[1], loss=FORMULAS["bce"], route=route_of("bce")
    )
    folds = make_folds(X, targets, seed=0)
    starts: list[Arrays] = [{} for _ in folds]
    options = []
    for strength in cross_fit.STRENGTHS:
        C = penalty_at(strength, folds)
        held, _ = fit_folds(folds, starts, learner=learner, C=C)
        start = learner.mean(starts, [fold.rows for fold in folds])
        made: Any = {"start": start, "fits": UNSAVED, "name": "", "progress": unheard}
        model = learner.fit(X, torch.from_numpy(targets), C=C, **made).model
        tau, offset = choose_tau(held, cardinality)
        inside = mean_f1(decided(held.shifted(tau, offset), cardinality), held.targets)
        shifted = model.logits(X_outer) - tau * prior_logits(targets) + offset
        options.append((inside, mean_f1(decided(shifted, cardinality), truth)))
    return max(options)[1]


def main() -> None:
    began = time.monotonic()
    weights: dict[str, dict[str, float]] = {}
    long: dict[str, dict[str, float]] = {}
    for name, load in text_sets().items():
        examples = load()
        if examples.rows > ROWS:
            examples = rows_of(examples, stratified_split(examples.targets, (ROWS, examples.rows - ROWS), seed=2) == 0)
        part = stratified_split(examples.targets, (3, 1), seed=1)
        inner, outer = rows_of(examples, part == 0), rows_of(examples, part == 1)
        encoder = Encoder.read(str(ENCODER), "cpu")
        before = meaning.WEIGHT
        scores = {
            "words and pairs": judged(inner, outer, None),
            "parts of words too": judged(inner, outer, None, characters=True),
        }
        for weight in WEIGHTS:
            meaning.WEIGHT = weight
            scores[f"and the encoder at {weight:g}"] = judged(inner, outer, encoder)
            if weight == 1.0:
                scores["at 1, parts of words too"] = judged(inner, outer, encoder, characters=True)
        meaning.WEIGHT = before
        scores["encoder alone"] = judged(inner, outer, encoder, words=False)
        weights[name] = scores
        if name == "reuters r90":
            pieces = Encoder.read(str(ENCODER), "cpu", "mean")
            long[name] = {
                f"{'beside words' if words else 'alone'}, {what}": judged(inner, outer, reader, words)
                for words in (True, False)
                for what, reader in (("cut", encoder), ("mean", pieces))
            }
        print(f"{name}: {time.monotonic() - began:.0f} s {scores}", flush=True)
        result = {"weight": table_of("numbers of the encoder", weights)}
        result |= {"long": table_of("long texts", long)} if long else {}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
