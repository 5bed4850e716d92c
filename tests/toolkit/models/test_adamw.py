"""Mini-batches: AdamW against its formula, the schedule, early stopping, and going on after an interruption."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from manyhot import stratified_split
from manyhot.toolkit.config import make_config
from manyhot.toolkit.disk.fits import UNSAVED, Unsaved
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models import adamw as module
from manyhot.toolkit.models.adamw import (
    Lengths,
    Schedule,
    best_epoch,
    descend,
    epoch_seed,
    fit_stopped_early,
    of_like_length,
)
from manyhot.toolkit.models.mlp import plan_mlp
from manyhot.toolkit.models.model import Curve, unheard


class Recorded:
    """Steps that keep the last state, and break off after some."""

    def __init__(self, saves=10**9, state=None):
        self.saves, self.state = saves, state

    def load(self):
        return self.state

    def save(self, state):
        # What is kept must not change when the fit goes on: a checkpoint is bytes by then.
        self.state = {name: np.array(value) for name, value in state().items()}
        self.saves -= 1
        if not self.saves:
            raise KeyboardInterrupt


def quadratic(rows=10, seed=0):
    """Rows of targets; the loss of a row is its squared distance from the one parameter."""
    wanted = torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed))
    point = torch.zeros(3, requires_grad=True)
    return point, wanted, lambda rows, random: (point - wanted[torch.from_numpy(rows)]).square().sum() / len(rows)


SCHEDULE = Schedule(batch=4, epochs=5, rate=0.1, factor=lambda share: 1 - share, weight_decay=0.3)


def test_steps_are_those_of_the_formula():
    point, wanted, value = quadratic()
    heard = descend({"p": point}, 10, value, SCHEDULE, seed=7, bookmark=Unsaved(), progress=unheard)
    x, m, v, t = np.zeros(3), np.zeros(3), np.zeros(3), 0
    for epoch in range(5):
        order = torch.randperm(10, generator=torch.Generator().manual_seed(epoch_seed(7, epoch))).numpy()
        total = 0.0
        for i in range(3):
            rows = order[4 * i : 4 * i + 4]
            rate = 0.1 * (1 - t / 15)
            t += 1
            target = wanted.double().numpy()[rows]
            total += ((x - target) ** 2).sum()
            gradient = 2 * (x - target).sum(0) / len(rows)
            x = x * (1 - rate * 0.3)
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            x = x - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert heard[epoch] == pytest.approx(total / 10, rel=1e-5)
    np.testing.assert_allclose(point.detach().numpy(), x, rtol=1e-4)


def test_a_multiplier_is_that_of_the_rate_of_a_parameter():
    wanted = [quadratic()[0] for _ in range(2)]
    for point, rate in zip(wanted, (0.1, 0.025), strict=True):
        _, targets, _ = quadratic()
        descend(
            {"p": point}, 10, lambda rows, random, p=point, t=targets: (p - t[torch.from_numpy(rows)]).square().mean(),
            replace(SCHEDULE, rate=rate), seed=7, bookmark=Unsaved(), progress=unheard,
        )  # fmt: skip
    points, (_, targets, _) = [quadratic()[0] for _ in range(2)], quadratic()

    def value(rows, random):
        return sum((point - targets[torch.from_numpy(rows)]).square().mean() for point in points)

    schedule = replace(SCHEDULE, multiplier=lambda name: {"top": 1.0, "low": 0.25}[name])
    heard = {"bookmark": Unsaved(), "progress": unheard}
    descend(dict(zip(("top", "low"), points, strict=True)), 10, value, schedule, seed=7, **heard)
    # The gradient of one has nothing of the other, and AdamW goes by its size alone.
    for found, expected in zip(points, wanted, strict=True):
        torch.testing.assert_close(found, expected)
    assert not torch.allclose(*points)


def test_parts_of_a_mini_batch_make_its_step():
    ends, sizes = [], []
    for options in ({}, {"parts": lambda batch: batch.split(3)}):
        point, _, value = quadratic()

        def seen(rows, random, value=value):
            sizes.append(len(rows))
            return value(rows, random)

        schedule = replace(SCHEDULE, batch=7)
        heard = descend({"p": point}, 10, seen, schedule, seed=7, bookmark=Unsaved(), progress=unheard, **options)
        ends.append((point.detach(), torch.tensor(heard)))
    assert sizes == [7, 3] * 5 + [3, 3, 1, 3] * 5
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other)


def test_rows_of_like_length_come_together_in_parts_of_bounded_size():
    lengths = np.random.default_rng(0).integers(1, 60, 200)
    made = Lengths(lambda X: lengths[X], 300).cutting(np.arange(200), 16)
    batches = made["cut"](torch.Generator().manual_seed(0))
    assert sorted(torch.cat(list(batches)).tolist()) == list(range(200))
    assert {len(batch) for batch in batches} == {16, 8}
    parts = [part for batch in batches for part in made["parts"](batch)]
    assert sorted(torch.cat(parts).tolist()) == list(range(200))
    assert all(len(part) * lengths[part].max() <= 300 for part in parts)
    assert len(parts) > len(batches)
    assert [len(part) for part in Lengths(lambda X: X, 5).cutting(np.array([9, 2, 2, 9]), 4)["parts"](
        torch.tensor([0, 3]))] == [1, 1]  # fmt: skip
    whole = torch.tensor([0, 1])
    assert Lengths(lambda X: X, None).cutting(np.array([9, 2]), 4)["parts"](whole) == (whole,)


def test_fewer_epochs_are_the_first_of_many():
    first, second = [], []
    for epochs, heard in ((None, first), (3, second)):
        point, _, value = quadratic()
        heard += descend({"p": point}, 10, value, SCHEDULE, seed=0, bookmark=Unsaved(), progress=unheard, epochs=epochs)
    assert first[:3] == second
    assert len(first) == 5


def test_every_row_comes_once_an_epoch_and_the_order_changes():
    point, _, value = quadratic()
    taken = []

    def recorded(rows, random):
        taken.append(rows.tolist())
        return value(rows, random)

    descend({"p": point}, 10, recorded, replace(SCHEDULE, epochs=2), seed=0, bookmark=Unsaved(), progress=unheard)
    assert [len(rows) for rows in taken] == [4, 4, 2, 4, 4, 2]
    epochs = [[row for rows in part for row in rows] for part in (taken[:3], taken[3:])]
    assert all(sorted(rows) == list(range(10)) for rows in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    ("scores", "patience", "made"),
    [
        ([1, 3, 2.5, 2.6, 9], 2, 4),  # two epochs without a higher one
        ([1, 3, 2.5, 3.1, 3, 3, 9], 2, 6),
        ([1, 3, 3, 3], 2, 4),  # the same is not higher
        ([3, 2, 1], 1, 2),
        ([1, 2, 3, 4, 5], 2, 5),  # the schedule ends it
    ],
)
def test_held_out_rows_stop_the_descent(scores, patience, made):
    point, _, value = quadratic()
    left = iter(scores)
    schedule = replace(SCHEDULE, epochs=len(scores), patience=patience)
    said = []
    heard = descend(
        {"p": point}, 10, value, schedule, seed=0, bookmark=Unsaved(),
        progress=lambda *step: said.append(step), held=lambda: next(left),
    )  # fmt: skip
    assert heard == scores[:made]
    assert [step for step, *_ in said] == list(range(1, made + 1))
    assert said[-1][2] < said[0][2]  # what is said is the loss of training
    assert said[-1][1] == made
    assert [score for *_, score in said] == heard


class Line:
    """A tiny network: logits = x w, with noise from the epoch's random numbers as dropout has it."""

    def __init__(self):
        self.w = torch.zeros(2, 3, requires_grad=True)
        self.unused = torch.ones(2, requires_grad=True)  # as a pooling layer that no loss reaches
        self.weight, self.bias = torch.eye(3), torch.zeros(3)

    def parameters(self):
        return {"w": self.w, "unused": self.unused}

    def hidden(self, X, random, share):
        return torch.from_numpy(X) @ self.w + 0.3 * torch.randn(len(X), 3, generator=random)

    def logits(self, X):
        return (torch.from_numpy(X) @ self.w).detach().numpy()


def squares(logits, targets):
    return (logits - 2 * targets.float()).square().sum()


def closeness(logits, targets):
    return -float(np.square(logits - 2 * targets).mean())


def fitted(bookmark, rows=60, progress=unheard):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 2)).astype(np.float32)
    targets = torch.from_numpy(X @ rng.normal(size=(2, 3)) + rng.normal(size=(rows, 3)) > 0)
    schedule = Schedule(batch=8, epochs=40, rate=0.02, patience=3)
    line: Any = Line  # nothing is saved of it
    return fit_stopped_early(
        line, X, targets, loss=squares, score=closeness, schedule=schedule, seed=0, bookmark=bookmark, progress=progress
    ), X, targets  # fmt: skip


@pytest.mark.parametrize("few", [0, 100])
def test_the_second_fit_has_all_rows_and_the_epochs_that_the_first_one_found(monkeypatch, few):
    calls = []
    original = module.descend

    def recorded(parameters, rows, value, schedule, **options):
        heard = original(parameters, rows, value, schedule, **options)
        calls.append((rows, options.get("epochs"), heard))
        return heard

    monkeypatch.setattr(module, "descend", recorded)
    monkeypatch.setattr(module, "FEW_POSITIVES", few)
    said = []
    fitted(Unsaved(), progress=lambda step, of, *_: said.append((step, of)))
    (first_rows, first_epochs, heard), (second_rows, second_epochs, _) = calls
    assert (first_rows, second_rows) == (54, 60)
    assert first_epochs is None
    held = stratified_split(fitted(Unsaved())[2], [9.0, 1.0], seed=0) == 1
    positives = int(fitted(Unsaved())[2][torch.from_numpy(held)].sum())
    assert 0 < positives < 100
    assert second_epochs == (best_epoch(heard, positives) if few else int(np.argmax(heard)) + 1)
    assert len(heard) == int(np.argmax(heard)) + 1 + 3
    assert [step for step, _ in said] == list(range(1, len(heard) + second_epochs + 1))
    assert said[-1] == (len(heard) + second_epochs,) * 2
    assert all(step <= of for step, of in said)


@pytest.mark.slow
def test_where_it_is_interrupted_changes_no_bit():
    whole = Recorded()
    net, _, _ = fitted(whole)
    number = 10**9 - whole.saves
    assert number > 8
    for saves in range(1, number + 1):
        broken = Recorded(saves)
        with pytest.raises(KeyboardInterrupt):
            fitted(broken)
        again = Recorded(state=broken.state)
        resumed, _, _ = fitted(again)
        assert torch.equal(resumed.w, net.w), saves
        # It went on, and did not start again.
        assert 10**9 - again.saves == number - saves


def test_the_curve_of_a_fit_is_whole_wherever_it_is_interrupted():
    class Rarely(Recorded):
        """Keeps every third state alone, as a checkpoint that is not yet due; of one fit."""

        def bookmark(self, fit):
            return self

        asked = 0

        def save(self, state):
            self.asked += 1
            if self.asked % 3 == 0:
                super().save(state)

    rarely: Any = Rarely
    said = []
    whole = Curve(rarely(), lambda *step: said.append(step))
    fitted(whole.bookmark("fit"), progress=whole.progress)
    assert whole.losses == [loss for _, _, loss, _ in said]
    assert whole.scores == [score for *_, score in said]
    held = [score for score in whole.scores if score is not None]
    assert whole.scores == held + [None] * (len(whole.scores) - len(held))
    assert len(whole.scores) == len(held) + int(np.argmax(held)) + 1
    for saves in range(1, len(said) // 3):
        broken = rarely(saves)
        curve = Curve(broken, unheard)
        with pytest.raises(KeyboardInterrupt):
            fitted(curve.bookmark("fit"), progress=curve.progress)
        curve = Curve(rarely(state=broken.state), unheard)
        fitted(curve.bookmark("fit"), progress=curve.progress)
        assert (curve.losses, curve.scores) == (whole.losses, whole.scores), saves


def test_too_few_rows_to_hold_any_out():
    heard = []
    net, _, _ = fitted(Unsaved(), rows=module.FEW_ROWS - 1, progress=lambda step, of, *_: heard.append((step, of)))
    assert heard[-1] == (module.FEW_EPOCHS, module.FEW_EPOCHS)
    assert net.w.abs().max() > 0.1


def test_epochs_have_seeds_of_their_own():
    seeds = {epoch_seed(seed, epoch) for seed in range(30) for epoch in range(30)}
    assert len(seeds) == 900


def test_rows_of_a_group_are_on_one_side_of_the_tenth(monkeypatch):
    targets = torch.from_numpy(np.random.default_rng(0).random((60, 3)) < 0.4)
    groups, seen = np.repeat(np.arange(12), 5), []
    monkeypatch.setattr(
        module, "stratified_split", lambda *a, **k: seen.append(k["groups"]) or stratified_split(*a, **k)
    )
    split = module.stratified_split(targets, [9.0, 1.0], groups=groups, seed=0)
    assert all(len(set(split[groups == g])) == 1 for g in range(12))
    X = np.zeros((60, 2), dtype=np.float32)
    learner = plan_mlp(60, 2, 3, loss=lambda s, t: (s * 0).sum(), score=lambda s, t: 0.0)
    learner.fit(X, targets, groups=groups, fits=Unsaved(), progress=unheard)
    np.testing.assert_array_equal(seen[-1], groups)


@pytest.mark.parametrize("kept", ["rate", "epochs"])
def test_what_is_asked_of_the_schedule(kept):
    asked = {"rate": 2e-3, "epochs": 7}
    asked.pop(kept)
    options = {"data": "d.csv", "model": "mlp"} | asked
    assert SCHEDULE.asked(make_config(None, [], options)) == replace(SCHEDULE, **asked)


def test_a_loss_that_is_not_finite_ends_the_fit_at_once():
    point, _, value = quadratic()
    taken = []

    def bad(rows, random):
        taken.append(len(rows))
        return value(rows, random) * (float("nan") if len(taken) == 5 else 1)

    with pytest.raises(InputError, match=r"epoch 2: expected a finite loss, got nan; .* --set rate=3e-02"):
        descend({"p": point}, 10, bad, SCHEDULE, seed=0, bookmark=Unsaved(), progress=unheard)
    assert taken == [4, 4, 2, 4, 4]


def test_a_score_that_is_still_0_does_not_stop_and_one_that_falls_does() -> None:
    parameter = torch.zeros(1, requires_grad=True)

    def epochs_made(scores: list[float]) -> int:
        left = iter(scores)
        heard = descend(
            {"w": parameter},
            4,
            lambda rows, random: (parameter - 1).square().sum(),
            Schedule(batch=2, epochs=8, rate=1e-3, patience=2),
            seed=0,
            bookmark=UNSAVED,
            progress=unheard,
            held=lambda: next(left),
        )
        return len(heard)

    assert epochs_made([0.0] * 8) == 8
    assert epochs_made([0.0, 0.0, 0.0, 0.5, 0.4, 0.4, 0.4, 0.4]) == 6
    assert epochs_made([0.5, 0.4, 0.4, 0.4]) == 3


def test_batches_of_like_length_have_every_row_once_and_bounded_sizes() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 200)
    batches = of_like_length(lengths, lambda length: max(200 // length, 1), torch.Generator().manual_seed(0))
    assert sorted(torch.cat(batches).tolist()) == list(range(200))
    spread = [int(lengths[b].max() - lengths[b].min()) for b in batches]
    assert max(spread) < 20
    assert all(len(b) == 1 or len(b) * int(lengths[b].max()) <= 200 for b in batches)
    again = of_like_length(lengths, lambda length: max(200 // length, 1), torch.Generator().manual_seed(0))
    assert all(a.equal(b) for a, b in zip(batches, again, strict=True))


def test_gradients_of_few_rows_make_the_steps_of_whole_ones() -> None:
    tables = []
    for sparse in (False, True):
        table = torch.linspace(-1, 1, 21).view(7, 3).requires_grad_()

        def value(rows: np.ndarray, random: torch.Generator, table: torch.Tensor = table, sparse: bool = sparse):
            drawn = torch.randperm(7, generator=random)[:2]  # other rows each step, each once
            return torch.nn.functional.embedding(drawn, table, sparse=sparse).square().sum() * float(rows.sum() + 1)

        descend({"t": table}, 10, value, SCHEDULE, seed=7, bookmark=Unsaved(), progress=unheard)
        tables.append(table.detach())
    assert torch.equal(*tables)
