"""What held-out rows say where some of their cells are unknown: the same as if these cells were not there."""

from typing import Any

import numpy as np
import pytest
import torch

from manyhot import decide
from manyhot.labels import CardinalityRange
from manyhot.toolkit.choose.calibrate import calibrate, reliability
from manyhot.toolkit.choose.cross_fit import (
    TAUS,
    Held,
    best_offset,
    choose_tau,
    choose_tau_of_right_cardinality,
    mean_f1,
    prior_logits,
    right_offset,
    score_by,
)
from manyhot.toolkit.choose.offsets import choose_label_offsets
from manyhot.toolkit.objectives import FORMULAS, loss_of, sizes_of

RANGES = [CardinalityRange(0, 5), CardinalityRange(1, 3), CardinalityRange(0, 2)]


def drawn(rows=60, labels=5, share=0.3, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-0.5, 2, (rows, labels)).astype(np.float32)
    truth = rng.random((rows, labels)) < 1 / (1 + np.exp(-logits))
    unknown = rng.random((rows, labels)) < share
    return logits, truth, unknown, np.where(unknown, -1, truth).astype(np.int8)


def f1_by_hand(preds, truth, unknown):
    hits = sizes = 0
    of_labels = []
    for i in range(truth.shape[1]):
        rows = [r for r in range(len(truth)) if not unknown[r, i]]
        hit = sum(bool(preds[r, i]) and bool(truth[r, i]) for r in rows)
        size = sum(bool(preds[r, i]) + bool(truth[r, i]) for r in rows)
        hits, sizes = hits + hit, sizes + size
        if rows:
            of_labels.append(2 * hit / size if size else 0.0)
    return (2 * hits / max(sizes, 1) + np.mean(of_labels)) / 2


def test_mean_f1_is_that_of_known_cells():
    logits, truth, unknown, targets = drawn()
    assert mean_f1(logits > 0, targets) == pytest.approx(f1_by_hand(logits > 0, truth, unknown))
    unknown[:, 2], targets[:, 2] = True, -1
    assert mean_f1(logits > 0, targets) == pytest.approx(f1_by_hand(logits > 0, truth, unknown))


@pytest.mark.parametrize("limits", RANGES)
def test_the_best_offset_is_the_best_of_known_cells(limits):
    low, high = limits
    for seed in range(3):
        logits, truth, unknown, targets = drawn(seed=seed)
        score, offset = best_offset(logits, targets, limits)
        preds = decide(logits + np.float32(offset), min_labels=low, max_labels=high)
        assert score == pytest.approx(f1_by_hand(preds, truth, unknown))
        tried = np.linspace(-3, 3, 61)
        sets = [decide(logits + np.float32(x), min_labels=low, max_labels=high) for x in tried]
        # Offsets that are tried are at shares of the number of labels, so that others may be better by a little.
        assert score > max(f1_by_hand(preds, truth, unknown) for preds in sets) - 0.02


def test_all_known_as_int8_is_as_bool():
    logits, truth, _, _ = drawn()
    prior = np.full(logits.shape, -0.5, np.float32)
    for limits in RANGES:
        for rule in (choose_tau, choose_tau_of_right_cardinality, choose_label_offsets):
            of_bool, of_int = (rule(Held(logits, prior, t), limits) for t in (truth, truth.astype(np.int8)))
            np.testing.assert_array_equal(of_bool[1], of_int[1])
            assert of_bool[0] == of_int[0]


@pytest.mark.parametrize("limits", RANGES)
def test_the_right_offset_predicts_as_many_known_labels_as_there_are(limits):
    low, high = limits
    logits, truth, unknown, _ = drawn(rows=200)
    wanted = int((truth & ~unknown).sum())
    offset = right_offset(logits, wanted, limits, ~unknown)
    preds = decide(logits + np.float32(offset), min_labels=low, max_labels=high).astype(bool)
    if low * (~unknown).sum() < wanted < (decide(logits + 99, max_labels=high).astype(bool) & ~unknown).sum():
        assert (preds & ~unknown).sum() == wanted
    assert right_offset(logits, wanted, limits, np.ones_like(unknown)) == right_offset(logits, wanted, limits)


def test_the_rules_take_the_tau_that_is_best_of_known_cells():
    logits, truth, unknown, targets = drawn(rows=150)
    prior = np.broadcast_to(prior_logits(targets), logits.shape)
    held, limits = Held(logits, prior, targets), CardinalityRange(0, 5)
    tau, offset = choose_tau(held, limits)
    best = max(best_offset(held.shifted(t, 0.0), targets, limits)[0] for t in TAUS)
    assert f1_by_hand(held.shifted(tau, offset) > 0, truth, unknown) == pytest.approx(best)
    tau, offset = choose_tau_of_right_cardinality(held, limits)
    assert ((held.shifted(tau, offset) > 0) & ~unknown).sum() == (truth & ~unknown).sum()
    assert score_by(limits)(held.shifted(tau, 0.0), targets) == pytest.approx(
        f1_by_hand(held.shifted(tau, offset) > 0, truth, unknown)
    )


def test_the_prior_is_that_of_known_rows():
    _, truth, unknown, targets = drawn()
    for i, got in enumerate(prior_logits(targets)):
        known = truth[~unknown[:, i], i]
        share = (known.sum() + 0.5) / (len(known) + 1)
        assert got == pytest.approx(np.log(share / (1 - share)) / 2, rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_of_a_label_is_that_of_its_known_rows_alone(seed):
    logits, truth, unknown, targets = drawn(rows=80, share=0.6, seed=seed)
    limits = CardinalityRange(0, 5)
    unknown[:, 4], targets[:, 4] = True, -1
    _, offsets = choose_label_offsets(Held(logits, np.zeros_like(logits), targets), limits)
    for i in range(4):
        rows = ~unknown[:, i]
        alone = Held(logits[rows], np.zeros_like(logits[rows]), np.repeat(truth[rows, i : i + 1], 5, axis=1))
        alone = alone._replace(logits=np.repeat(logits[rows, i : i + 1], 5, axis=1))
        assert offsets[i] == choose_label_offsets(alone, limits)[1][0]
    assert offsets[4] == np.float32(best_offset(logits, targets, limits)[1])


def test_the_calibration_is_that_of_known_cells():
    logits, truth, unknown, targets = drawn(rows=300)
    found = calibrate(logits, targets, seed=1)
    for value in (np.float32(-30), np.float32(30)):
        again = calibrate(np.where(unknown, value, logits), targets, seed=1)
        np.testing.assert_array_equal(found.calibration.temperature, again.calibration.temperature)
        np.testing.assert_array_equal(found.calibration.offset, again.calibration.offset)
        assert found.measured == again.measured
        np.testing.assert_array_equal(found.reliability, again.reliability)
    assert found.reliability[0].sum() == (~unknown).sum()
    probs = found.calibration.probs(logits)
    cell = [(p, t) for p, t, u in zip(probs.ravel(), truth.ravel(), unknown.ravel(), strict=True) if not u]
    sums = np.zeros((3, 10))
    for p, t in cell:
        sums[:, min(int(p * 10), 9)] += np.array([1, p, t])
    np.testing.assert_allclose(reliability(probs, targets), sums)


@pytest.mark.parametrize("name", [name for name in FORMULAS if name not in ("ce", "ce+prior", "multiway")])
def test_every_loss_leaves_unknown_cells_out(name):
    logits, truth, unknown, targets = drawn(rows=12)
    loss = loss_of(name, targets)

    def value_and_gradient(logits: np.ndarray, targets: np.ndarray) -> tuple[Any, Any]:
        s = torch.from_numpy(logits).requires_grad_()
        value = loss(s, torch.from_numpy(targets))
        value.backward()
        assert s.grad is not None
        return value.item(), s.grad.numpy()

    value, gradient = value_and_gradient(logits, targets)
    assert np.isfinite(value)
    assert (gradient[unknown] == 0).all()
    assert (np.abs(gradient[~unknown]).max() > 0).all()
    # Whatever the logit of an unknown cell is, nothing moves.
    moved = value_and_gradient(np.where(unknown, logits * 3 + 1, logits), targets)
    assert moved[0] == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(moved[1], gradient, atol=1e-6)
    # Where all are known, the type of the targets makes no difference, and training goes on as ever.
    of_bool, of_int = (value_and_gradient(logits, t) for t in (truth, truth.astype(np.int8)))
    assert of_int[0] == pytest.approx(of_bool[0], rel=1e-5)
    np.testing.assert_allclose(of_int[1], of_bool[1], atol=1e-5)


def test_binary_cross_entropy_of_known_cells_by_hand():
    logits, truth, unknown, targets = drawn(rows=9)
    signed = np.where(truth, -logits, logits).astype(np.float64)
    expected = np.log1p(np.exp(signed))[~unknown].sum()
    assert FORMULAS["bce"](torch.from_numpy(logits), torch.from_numpy(targets)).item() == pytest.approx(expected)


def test_a_row_may_have_as_many_more_labels_as_it_has_unknown_cells():
    targets = np.array([[1, -1, 0, 0], [1, 1, -1, -1], [0, 1, 0, 0]], dtype=np.int8)
    assert sizes_of(targets) == (1, 4)
    assert sizes_of(targets == 1) == (1, 2)
    # The likelihood of a set among the sets of known labels: {0} of row 0 has 1 to 4 labels with its unknown one.
    logits = torch.tensor([[0.3, 9.0, -0.2, 1.0]])
    weights = torch.exp(logits[0, [0, 2, 3]]).double()
    sets = (1 + weights).prod()  # of any size: the unknown cell may be the one label that there must be
    got = loss_of("subset", targets)(logits, torch.from_numpy(targets[:1])).item()
    assert got == pytest.approx(float(sets.log() - weights[0].log()), rel=1e-5)
