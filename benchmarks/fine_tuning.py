"""Choose how an encoder is fine-tuned, on training files alone: rates, their decay by layer, and the head's start.

    make defaults-encoder     (two hours of one core; goes on where it was left, --minutes N stops early)

As in defaults.py, each training file is cut once more: three quarters play the training rows, one quarter judges by the
mean of micro- and macro-F1. A tenth of the three quarters says when it is enough, and which prior and offset to take;
the network of that epoch is judged, so that a fit is made once. From the settings in the code one is changed at a time.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from defaults import decided, table_of
from encoder import ENCODER, Rows, rows_of, tasks
from manyhot.split import stratified_split
from manyhot.toolkit.choose.cross_fit import STRENGTHS, Held, choose_tau, mean_f1, prior_logits, score_by
from manyhot.toolkit.disk.fits import UNSAVED
from manyhot.toolkit.disk.run_folder import to_json, write_file
from manyhot.toolkit.models import pretrained
from manyhot.toolkit.models.adamw import descend, of_like_length
from manyhot.toolkit.models.early_stopping import mean_loss
from manyhot.toolkit.models.encoder import SCHEDULE, FineTuned, plan_encoder
from manyhot.toolkit.models.linear import LinearLearner, mean_squared_length
from manyhot.toolkit.models.model import unheard
from manyhot.toolkit.models.pretrained import Encoder, embed
from manyhot.toolkit.objectives import FORMULAS, STARTS, route_of

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

RESULTS = Path(__file__).parent / "results" / "fine_tuning.json"
# Rows of the training file, and tokens at which texts are cut.
SETS = {"semeval eng": (1200, 128), "goemotions": (1500, 128), "reuters r90": (600, 64)}
HEAD = ("weight", "bias")
FAST = pretrained.bfloat16_is_fast


class Setting(NamedTuple):
    """What differs from the code.

    Attributes:
        start: of the biases, so often the log-odds of their labels.
        rate: of learning.
        decay: of the rate, a layer.
        head: what the rate of the head is multiplied with beside.
        frozen: the head starts from the best one for the numbers of the encoder as it came.
        batch, epochs: of the schedule.
        float32: all products in float32, where the code takes bfloat16 if that is fast here.
        seed: of the head's weights, the order of rows and dropout.
    """

    start: float = STARTS["zlpr"]
    rate: float = SCHEDULE.rate
    decay: float = 1.0
    head: float = 1.0
    frozen: bool = False
    batch: int = SCHEDULE.batch
    epochs: int = SCHEDULE.epochs
    float32: bool = False
    seed: int = 0


SETTINGS = {
    "as in the code": Setting(),
    "float32": Setting(float32=True),
    "float32, rate 5e-5": Setting(float32=True, rate=5e-5),
    "float32, rate 2e-4": Setting(float32=True, rate=2e-4),
    "float32, rate 5e-5, biases from 0": Setting(float32=True, rate=5e-5, start=0.0),
    "decay 0.8": Setting(decay=0.8),
    "head of frozen numbers": Setting(frozen=True),
    "rate 2e-4, decay 0.8": Setting(rate=2e-4, decay=0.8),
    "5 epochs": Setting(epochs=5),
    "seed 1": Setting(seed=1),
    "batches of 32": Setting(batch=32),
    "rate of the head x 10": Setting(head=10),
    "biases from all of the log-odds": Setting(start=1.0),
    "float32, seed 1": Setting(float32=True, seed=1),
    "rate 2e-5, head of frozen numbers": Setting(rate=2e-5, frozen=True),
}


def frozen_head(net: FineTuned, rows: Rows, score: Callable[..., float]) -> tuple[Tensor, Tensor]:
    """Return the weights and biases of ZLPR on the numbers of the encoder as it came, best for the rows held out."""
    numbers, held = (embed(net.network.eval(), net.pooling, X, len(net.weight)) for X in (rows.X, rows.X_held))
    mean, std = numbers.mean(0), numbers.std(0)
    # MiniLM has a few numbers of the size of 1e-8 and 1e-32: the weights that they would need move too far in a step.
    std[std <= 1e-3 * std.max()] = np.inf
    X, X_held = (numbers - mean) / std, (held - mean) / std
    learner = LinearLearner.planned(
        len(X), X.shape[1], rows.targets.shape[1], loss=FORMULAS["zlpr"], route=route_of("zlpr"), stand_in=True
    )
    best, head = -1.0, None
    for strength in STRENGTHS:
        made: Any = {"fits": UNSAVED, "name": "", "progress": unheard}
        fitted: Any = learner.fit(X, torch.from_numpy(rows.targets), C=strength / mean_squared_length(X), **made).model
        if (found := score(fitted.logits(X_held), rows.targets_held)) > best:
            weight = (fitted.weight.numpy() / std[:, None]).astype(np.float32)
            best, head = found, (torch.from_numpy(weight), fitted.bias - torch.from_numpy(mean @ weight))
    assert head is not None
    return head


def multiplier(name: str, layers: int, setting: Setting) -> float:
    """Return what the rate of a parameter is multiplied with: decay ^ (layers above it), and that of the head.

    The head is above all layers, what comes before the first layer, tables of words, is below all.
    """
    if name in HEAD:
        return setting.head
    layer = re.search(r"\.(\d+)\.", name)
    return setting.decay ** (layers + 1 if layer is None else layers - int(layer[1]))


class ByParameter(torch.optim.AdamW):
    """AdamW that multiplies the rate that is set with a number of each parameter."""

    multipliers: ClassVar[dict[Tensor, float]] = {}

    def __init__(self, parameters: Iterable[Tensor], **options: Any) -> None:
        groups: dict[float, list[Tensor]] = {}
        for parameter in parameters:
            groups.setdefault(self.multipliers[parameter], []).append(parameter)
        super().__init__([{"params": some, "times": times} for times, some in groups.items()], **options)

    def step(self, closure: Any = None) -> Any:
        for options in self.param_groups:
            options["lr"] *= options["times"]
        return super().step(closure)


def judged(encoder: Encoder, rows: Rows, setting: Setting) -> dict[str, float]:
    """Fit once, and return the score on the quarter that judges, which are the test rows here."""
    began, labels, score = time.process_time(), rows.targets.shape[1], score_by(rows.cardinality)
    loss = FORMULAS["zlpr"]
    pretrained.bfloat16_is_fast = (lambda device: False) if setting.float32 else FAST
    learner = plan_encoder(
        len(rows.X), labels, encoder=encoder, loss=loss, score=score, start=setting.start, seed=setting.seed
    )
    net = learner.draw(rows.X, torch.from_numpy(rows.targets))
    assert isinstance(net, FineTuned)
    assert learner.lengths is not None
    if setting.frozen:
        weight, bias = frozen_head(net, rows, score)
        net = replace(net, weight=weight.clone().requires_grad_(), bias=bias.clone().requires_grad_())
    schedule = replace(learner.schedule, rate=setting.rate, batch=setting.batch, epochs=setting.epochs)
    prior = prior_logits(rows.targets)
    seen: list[tuple[float, dict[str, float]]] = []

    def look() -> float:
        held, outside = (Held(net.logits(X), prior, t) for X, t in ((rows.X_held, rows.targets_held),
                                                                      (rows.X_test, rows.targets_test)))  # fmt: skip
        tau, offset = choose_tau(held, rows.cardinality)
        of_rule = mean_f1(decided(outside.shifted(tau, offset), rows.cardinality), outside.targets)
        plain = mean_f1(decided(outside.shifted(0, 0), rows.cardinality), outside.targets)
        seen.append((score(held.logits, held.targets), {"rule": of_rule, "plain": plain}))
        return seen[-1][0]

    layers = encoder.config["num_hidden_layers"]
    ByParameter.multipliers = {p: multiplier(name, layers, setting) for name, p in net.parameters().items()}
    with mock.patch.object(torch.optim, "AdamW", ByParameter):
        descend(
            net.parameters(),
            len(rows.X),
            mean_loss(net, rows.X, torch.from_numpy(rows.targets), loss),
            schedule,
            seed=setting.seed,
            bookmark=UNSAVED,
            progress=unheard,
            held=look,
            **learner.lengths.cutting(rows.X, setting.batch),
        )
    epoch = int(np.argmax([held for held, _ in seen]))
    seconds = round(time.process_time() - began, 1)
    return seen[epoch][1] | {"epoch": epoch + 1, "epochs": len(seen), "seconds": seconds}


def padded(X: np.ndarray) -> dict[str, float]:
    """Return how many tokens an epoch has for one of a text, in mini-batches of like length and in random ones."""
    lengths, random = (X >= 0).sum(1), torch.Generator().manual_seed(0)
    batches = {
        "like length": of_like_length(lengths, lambda _: SCHEDULE.batch, random),
        "random": torch.randperm(len(X), generator=random).split(SCHEDULE.batch),
    }
    made = {how: sum(len(some) * lengths[some].max() for some in cut) for how, cut in batches.items()}
    return {how: round(float(number / lengths.sum()), 2) for how, number in made.items()}


def cut_once_more(rows: Rows) -> Rows:
    """Return three quarters of the training rows, nine tenths of them to train on, and a quarter as test rows."""
    X, targets = np.concatenate([rows.X, rows.X_held]), np.concatenate([rows.targets, rows.targets_held])
    part = stratified_split(targets, (3, 1), seed=1)
    inner, outer = part == 0, part == 1
    held = stratified_split(targets[inner], [9.0, 1.0], seed=0) == 1
    X_in, targets_in = X[inner], targets[inner]
    return Rows(
        X_in[~held], targets_in[~held], X_in[held], targets_in[held], X[outer], targets[outer], rows.cardinality
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no fit after so many")
    minutes = parser.parse_args().minutes
    began, encoder, given = time.monotonic(), Encoder.read(str(ENCODER), "cpu"), tasks()
    kept: dict[str, Any] = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
    fits: dict[str, dict[str, Any]] = kept.get("fits", {name: {} for name in SETS})
    rows = {
        name: cut_once_more(rows_of(replace(given[name], rows=number, tokens=tokens), encoder))
        for name, (number, tokens) in SETS.items()
    }
    for setting in SETTINGS:
        for name in SETS:
            if setting in fits[name] or time.monotonic() - began > 60 * minutes:
                continue
            fits[name][setting] = judged(encoder, rows[name], SETTINGS[setting])
            print(f"{name}, {setting}: {fits[name][setting]}", flush=True)
            write_file(RESULTS, to_json({"fits": fits}))
    there = [setting for setting in SETTINGS if all(setting in fits[name] for name in SETS)]
    judge = "mean of micro- and macro-F1 on a quarter of the training rows that nothing else saw"
    result: dict[str, Any] = {"judge": judge, "fits": fits}
    result["padded"] = {name: padded(rows[name].X) for name in SETS}
    print(f"tokens for one of a text: {result['padded']}")
    for rule, title in (("rule", "with the rule"), ("plain", "at s > 0")):
        result[rule] = table_of(title, {name: {s: fits[name][s][rule] for s in there} for name in SETS})
    result["missing"] = [setting for setting in SETTINGS if setting not in there]
    write_file(RESULTS, to_json(result))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
