"""Tuned thresholds, the rivals at their best: no other threshold is better on the rows they were tuned on."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from manyhot.decisions import decide
from manyhot.labels import CardinalityRange
from manyhot.offset import SHARES, mean_f1, right_offset
from manyhot.toolkit.choose.cross_fit import Held
from manyhot.toolkit.choose.offsets import choose_label_offsets, choose_offset

ANY = CardinalityRange(0, 4)


def held_out(rows=80, seed=0, labels=4):
    rng = np.random.default_rng(seed)
    targets = rng.random((rows, labels)) < np.linspace(0.05, 0.5, labels)
    logits = (rng.normal(size=targets.shape) + 1.5 * targets + np.linspace(-3, 2, labels)).astype(np.float32)
    return Held(logits, np.full_like(logits, -1), targets)


@pytest.mark.parametrize("seed", range(5))
def test_each_label_has_its_best_threshold(seed):
    held = held_out(seed=seed)
    tau, offsets = choose_label_offsets(held, ANY)
    assert tau == 0.0
    preds = held.shifted(tau, offsets) > 0
    for i, (logits, truth) in enumerate(zip(held.logits.T, held.targets.T, strict=True)):
        values = np.sort(logits)
        between = [values[0] - 1, *((values[1:] + values[:-1]) / 2)]
        best = max(f1_score(truth, logits > t, zero_division=0) for t in between)  # pyright: ignore
        assert f1_score(truth, preds[:, i]) == pytest.approx(best, rel=1e-6)


def test_no_threshold_lies_between_equal_logits():
    logits = np.array([[3.0], [1.0], [1.0], [1.0], [0.0]], dtype=np.float32).repeat(2, 1)
    targets = np.array([[1], [1], [0], [0], [0]], dtype=bool).repeat(2, 1)
    held = Held(logits, logits * 0, targets)
    _, offsets = choose_label_offsets(held, ANY)
    # 2/3 with the first row alone; 4/6 with all the equal ones: the first of the two.
    np.testing.assert_allclose(offsets, [-2.0, -2.0])


def test_a_label_without_a_positive_has_the_common_threshold():
    held = held_out()
    held.targets[:, 1] = False
    _, common = choose_offset(held, ANY)
    _, offsets = choose_label_offsets(held, ANY)
    assert offsets[1] == np.float32(common)
    assert offsets[2] != np.float32(common)


def test_a_label_that_every_row_has_is_predicted_for_every_row():
    held = held_out()
    held.targets[:, 0] = True
    _, offsets = choose_label_offsets(held, ANY)
    assert (held.logits[:, 0] + offsets[0] > 0).all()


@pytest.mark.parametrize("limits", [ANY, CardinalityRange(1, 2)])
def test_the_common_threshold_is_the_best_of_those_tried(limits):
    def score(offset):
        preds = decide(held.shifted(0.0, offset), min_labels=limits.min_labels, max_labels=limits.max_labels)
        return mean_f1(preds, held.targets)

    for seed in range(4):
        held = held_out(seed=seed)
        tau, offset = choose_offset(held, limits)
        assert tau == 0.0
        tried = [right_offset(held.logits, round(share * held.targets.sum()), limits) for share in SHARES]
        assert score(offset) == max(score(x) for x in (0.0, *tried))
        assert score(offset) > score(0.0)
