"""Tau, the offset, numbers and calibration of the best logits of each row, beside those of all of them."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from manyhot import fit_calibration, label_propensity, multilabel_metrics
from manyhot.calibration import fit_listed_calibration
from manyhot.labels import CardinalityRange
from manyhot.toolkit.choose.calibrate import calibrate
from manyhot.toolkit.choose.cross_fit import (
    Held,
    choose_tau,
    choose_tau_of_right_cardinality,
    prior_logits,
)
from manyhot.toolkit.choose.ranked_rows import (
    RankedHeld,
    calibrate_ranked,
    first_of,
    mean_f1_of_sets,
    metrics_of_sets,
)
from manyhot.toolkit.models.ranked import Ranked


def rows(number=150, labels=40, seed=0):
    """Logits and targets of labels that get rarer; the last is in no row."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(number, labels)) * 2 - np.linspace(0, 6, labels)).astype(np.float32)
    targets = rng.random(logits.shape) < 1 / (1 + np.exp(-1.3 * logits - 0.4))
    targets[:, -1] = False
    return logits, targets


def both(k=40):
    logits, targets = rows()
    prior = prior_logits(targets)
    dense = Held(logits, np.broadcast_to(prior, logits.shape), targets)
    return dense, RankedHeld(Ranked.of(logits, k), prior, sp.csr_array(targets))


@pytest.mark.parametrize("rule", [choose_tau, choose_tau_of_right_cardinality])
@pytest.mark.parametrize("cardinality", [(0, 40), (1, 12), (0, 5), (3, 3)])
def test_where_all_labels_are_kept_the_choice_is_that_of_dense_logits(rule, cardinality):
    dense, ranked = both()
    limits = CardinalityRange(*cardinality)
    tau, offset = rule(dense, limits)
    assert rule(ranked, limits) == pytest.approx((tau, offset), abs=1e-6)
    assert ranked.score(tau, offset, limits) == pytest.approx(dense.score(tau, offset, limits), abs=1e-12)


def test_where_fewer_are_kept_than_a_row_may_have_the_choice_is_the_same_as_long_as_they_are_enough():
    dense, _ = both()
    logits, targets = rows()
    prior = prior_logits(targets)
    from manyhot.toolkit.models.ranked import Best

    best = Best(len(logits), 40, prior, 2.0)
    best.offer(np.arange(40), logits)
    ranked = RankedHeld(best.ranked(), prior, sp.csr_array(targets))
    assert ranked.logits.cells.nnz < logits.size
    limits = CardinalityRange(1, 12)
    assert choose_tau(ranked, limits) == pytest.approx(choose_tau(dense, limits), abs=1e-6)


def test_numbers_are_those_of_multilabel_metrics():
    dense, ranked = both()
    limits = CardinalityRange(1, 6)
    counts = np.r_[np.arange(39), 50.0]
    shifted = ranked.shifted(0.5, 0.3)
    preds = shifted.decided(limits)
    found = metrics_of_sets(
        preds, ranked.targets, first_of(shifted), train_counts=counts, train_rows=1000, propensity=(0.5, 0.4)
    )
    logits = dense.shifted(0.5, 0.3)
    wanted: Any = multilabel_metrics(preds.toarray(), dense.targets, logits, train_counts=counts)
    assert set(wanted) - set(found) == {"lrap"}
    assert {key: found[key] for key in wanted if key in found} == pytest.approx(
        {key: value for key, value in wanted.items() if key in found}
    )
    assert mean_f1_of_sets(preds, ranked.targets) == pytest.approx((wanted["micro_f1"] + wanted["macro_f1"]) / 2)
    # PSP, term by term.
    worth, order = 1 / label_propensity(counts, 1000, a=0.5, b=0.4), np.argsort(-logits, axis=1, kind="stable")
    for k in (1, 3, 5):
        reached = sum(worth[i] for row in range(150) for i in order[row, :k] if dense.targets[row, i])
        best = sum(sum(sorted(worth[dense.targets[row]], reverse=True)[:k]) for row in range(150))
        assert found[f"psp_at_{k}"] == pytest.approx(reached / best)


def test_rows_that_keep_too_few_for_a_ranking_have_none():
    logits, targets = rows(30, 3)
    ranked = Ranked.of(logits, 3)
    found = metrics_of_sets(
        ranked.decided(CardinalityRange(0, 3)),
        sp.csr_array(targets),
        first_of(ranked),
        train_counts=np.ones(3),
        train_rows=2,
        propensity=(0.55, 1.5),
    )
    assert {"precision_at_1", "ndcg_at_3"} <= set(found)
    assert not {"precision_at_5", "psp_at_1"} & set(found)


def test_a_calibration_of_all_cells_is_the_dense_one():
    logits, targets = rows()
    wanted = fit_calibration(logits, targets)
    row, label = np.indices(logits.shape).reshape(2, -1)
    mixed = np.random.default_rng(5).permutation(logits.size)
    found = fit_listed_calibration(logits[row, label][mixed], targets[row, label][mixed], label[mixed], logits.shape[1])
    np.testing.assert_allclose(found.temperature, wanted.temperature, rtol=1e-6)
    np.testing.assert_allclose(found.offset, wanted.offset, rtol=1e-5, atol=1e-6)


def test_a_calibration_turned_round_stays_above_its_least_slope():
    logits, targets = rows()
    targets[:, 0] = logits[:, 0] < 0
    wanted = fit_calibration(logits, targets)
    row, label = np.indices(logits.shape).reshape(2, -1)
    found = fit_listed_calibration(logits[row, label], targets[row, label], label, logits.shape[1])
    np.testing.assert_allclose(found.temperature, wanted.temperature, rtol=1e-6)
    assert found.temperature[0] > 50


def test_measured_calibration_of_all_cells_is_the_dense_one():
    logits, targets = rows()
    wanted: Any = calibrate(logits, targets, seed=3)
    found = calibrate_ranked(Ranked.of(logits, 40), sp.csr_array(targets), seed=3)
    assert found.measured == pytest.approx(wanted.measured, rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(found.reliability, wanted.reliability, rtol=1e-5, atol=1e-6)
    assert found.by_label == {}
