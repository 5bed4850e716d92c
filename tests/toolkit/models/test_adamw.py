"""Mini-batches: AdamW against its formula, the schedule, parts of a batch, and when a descent ends."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from manyhot.toolkit.config import make_config
from manyhot.toolkit.disk.fits import UNSAVED, Unsaved
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.adamw import Schedule, descend, epoch_seed, of_like_length
from manyhot.toolkit.models.model import unheard


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


def test_parts_of_a_mini_batch_make_its_step():
    ends, sizes = [], []
    kinds: Any = ({}, {"parts": lambda batch: batch.split(3)})
    for options in kinds:
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


def test_epochs_have_seeds_of_their_own():
    seeds = {epoch_seed(seed, epoch) for seed in range(30) for epoch in range(30)}
    assert len(seeds) == 900


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

    with pytest.raises(InputError, match=r"epoch 2: expected a finite loss, got nan; .* --set rate=3e-02"), (
        SCHEDULE.finite()
    ):  # fmt: skip
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
