"""How many epochs are enough: two fits, the rows held out, going on after an interruption, rows of like length."""

from typing import Any

import numpy as np
import pytest
import torch

from interrupted import Recorded
from manyhot import stratified_split
from manyhot.toolkit.disk.fits import Unsaved
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models import early_stopping as module
from manyhot.toolkit.models.adamw import Schedule
from manyhot.toolkit.models.early_stopping import Lengths, best_epoch, fit_stopped_early
from manyhot.toolkit.models.mlp import plan_mlp
from manyhot.toolkit.models.model import Curve, unheard


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


def test_of_few_labels_held_out_the_last_epoch_about_as_good_is_taken() -> None:
    # 36 spans of wnut17: a standard error of .291 is .076, and epoch 6 has .222.
    heard = [0.0, 0.143, 0.291, 0.222, 0.231, 0.222, 0.185]
    assert best_epoch(heard, 36) == 6
    assert best_epoch(heard, 100) == 3
    assert best_epoch([0.5, 0.5, 0.4], 100) == 1
    assert best_epoch([0.0, 0.0], 36) == best_epoch([0.0, 0.0], 100) == 2
    assert best_epoch([0.3, 0.1], 0) == 2


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


def test_what_to_type_where_the_loss_of_a_network_is_not_finite():
    X, targets = np.zeros((60, 2), dtype=np.float32), torch.ones(60, 3, dtype=torch.bool)
    learner = plan_mlp(60, 2, 3, loss=lambda s, t: (s * float("inf")).sum(), score=lambda s, t: 0.0)
    with pytest.raises(InputError, match=r"epoch 1: expected a finite loss, got .*: --set rate=3e-04"):
        learner.fit(X, targets, fits=Unsaved(), progress=unheard)


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
