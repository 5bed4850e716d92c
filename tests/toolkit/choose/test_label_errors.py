"""Suspects by confident learning, against a count cell by cell."""

import numpy as np
import pytest

from manyhot.toolkit.choose import label_errors
from manyhot.toolkit.choose.label_errors import limits_of, suspects


def drawn(rows=200, labels=7, unknown=0.0, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.beta(0.6, 1.5, size=(rows, labels)).astype(np.float32)
    targets = rng.random((rows, labels)) < probs
    if unknown:
        targets = np.where(rng.random(targets.shape) < unknown, -1, targets).astype(np.int8)
    return probs, targets


@pytest.mark.parametrize("unknown", [0.0, 0.2])
def test_thresholds_are_the_means_of_rows_with_and_without_a_label(unknown):
    probs, targets = drawn(unknown=unknown)
    found = limits_of(probs, targets)
    for i in range(probs.shape[1]):
        has = [float(p) for p, y in zip(probs[:, i], targets[:, i], strict=True) if y == 1]
        has_not = [float(p) for p, y in zip(probs[:, i], targets[:, i], strict=True) if y == 0]
        assert found.missing[i] == pytest.approx(max(sum(has) / len(has), 0.5), rel=1e-9)
        assert found.wrong[i] == pytest.approx(min(sum(has_not) / len(has_not), 0.5), rel=1e-9)


@pytest.mark.parametrize("unknown", [0.0, 0.2])
@pytest.mark.parametrize("block", [10, 4_000_000])
def test_suspects_are_the_cells_beyond_their_thresholds_worst_first(unknown, block, monkeypatch):
    monkeypatch.setattr(label_errors, "BLOCK_CELLS", block)
    probs, targets = drawn(unknown=unknown)
    limits = limits_of(probs, targets)
    expected = []
    for row in range(len(probs)):
        for label in range(probs.shape[1]):
            p, y = float(probs[row, label]), targets[row, label]
            if y == 0 and p >= limits.missing[label]:
                expected.append((-p, row, label, False))
            if y == 1 and p <= limits.wrong[label]:
                expected.append((-float(np.float32(1) - probs[row, label]), row, label, True))
    expected.sort()
    found = suspects(probs, targets, limits)
    got = list(zip(found.rows.tolist(), found.labels.tolist(), found.given.tolist(), strict=True))
    assert got == [(row, label, given) for _, row, label, given in expected]
    assert {given for _, _, given in got} == {False, True}
    np.testing.assert_array_equal(found.probs, probs[found.rows, found.labels])


def test_most_bounds_each_kind_and_keeps_the_worst():
    probs, targets = drawn()
    limits = limits_of(probs, targets)
    whole, few = suspects(probs, targets, limits), suspects(probs, targets, limits, most=3)
    for given in (False, True):
        for part, rest in zip(few.of(given), whole.of(given), strict=True):
            np.testing.assert_array_equal(part, rest[:3])
    assert len(suspects(probs, targets, limits, most=0).rows) == 0


def test_a_label_that_all_or_no_rows_have_is_never_suspected():
    probs, _ = drawn(labels=2)
    targets = np.stack([np.zeros(200, bool), np.ones(200, bool)], 1)
    assert len(suspects(probs, targets, limits_of(probs, targets)).rows) == 0


def test_flipped_cells_of_a_known_model_are_found():
    # Labels that a row has with probability .02 or .98: a tenth of them flipped, and nearly all of these are found.
    rng = np.random.default_rng(1)
    probs = np.where(rng.random((3000, 5)) < 0.3, 0.98, 0.02)
    truth = rng.random(probs.shape) < probs
    flipped = rng.random(probs.shape) < 0.1
    found = suspects(probs, truth ^ flipped, limits_of(probs, truth ^ flipped))
    hit = flipped[found.rows, found.labels]
    assert hit.mean() > 0.8
    assert hit.sum() > 0.95 * flipped.sum()
