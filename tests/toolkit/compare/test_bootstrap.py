"""Resamples of rows: each against scikit-learn on the rows drawn, and intervals against what statistics says."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from manyhot import multilabel_metrics
from manyhot.toolkit.compare import bootstrap
from manyhot.toolkit.compare.bootstrap import METRICS, Counts, interval, resampled
from manyhot.toolkit.report.metric_names import AHEAD, EVEN, in_words


def example(rows=60, labels=5, seed=0, wrong=0.2):
    rng = np.random.default_rng(seed)
    targets = rng.random((rows, labels)) < np.linspace(0.05, 0.5, labels)
    preds = targets ^ (rng.random(targets.shape) < wrong)
    return preds, targets


def test_a_resample_is_measured_as_scikit_learn_measures_the_rows_drawn():
    preds, targets = example()
    counts = np.array([4, 8, 9, 40, 100])  # two rare labels
    found = resampled({"a": [Counts.of(preds, targets)]}, counts, seed=3, resamples=7)["a"]
    drawn = np.concatenate(list(bootstrap._weights(60, 7, 3))).astype(int)
    assert (drawn.sum(1) == 60).all()
    for i, weights in enumerate(drawn):
        p, t = (np.repeat(part, weights, axis=0) for part in (preds, targets))
        want = {
            f"{average}_f1": f1_score(t, p, average=average, zero_division=0)  # pyright: ignore
            for average in ("micro", "macro", "samples")
        }
        want |= {
            "exact_match": accuracy_score(t, p),
            "rare_f1": f1_score(t[:, :2], p[:, :2], average="macro", zero_division=0),  # pyright: ignore
        }
        for metric in METRICS:
            assert found[metric][i] == pytest.approx(want[metric], rel=1e-5), metric


def test_every_row_once_is_what_is_measured():
    preds, targets = example(seed=1)
    train_counts = np.array([3, 5, 20, 40, 100])
    counts = Counts.of(preds, targets)
    row = bootstrap._measured(counts, np.ones((1, 60), np.float32), np.array([True, True, False, False, False]))[0]
    want: Any = multilabel_metrics(preds, targets, preds.astype(float), train_counts=train_counts)
    np.testing.assert_allclose(row, [want[metric] for metric in METRICS], rtol=1e-6)
    np.testing.assert_allclose(counts.label_f1().mean(), want["macro_f1"], rtol=1e-6)


def test_labels_of_which_nothing_is_known_are_in_no_mean():
    preds, targets = example()
    counts = np.array([4, 8, 9, 40, 100])
    unknown = targets.astype(np.int8)
    unknown[:, [0, 3]] = -1
    found = resampled({"a": [Counts.of(preds, unknown)]}, counts, resamples=5)["a"]
    kept = [1, 2, 4]
    want = resampled({"a": [Counts.of(preds[:, kept], targets[:, kept])]}, counts[kept], resamples=5)["a"]
    for metric in METRICS:
        np.testing.assert_allclose(found[metric], want[metric], rtol=1e-6)


def test_an_interval_is_as_wide_as_the_binomial_one():
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.7
    targets = np.ones((400, 2), bool)
    preds = np.column_stack([right, np.ones(400, bool)])
    found = resampled({"a": [Counts.of(preds, targets)]}, np.ones(2))["a"]["exact_match"]
    share = right.mean()
    low, high = interval(share, found) or (0, 0)
    half = 1.96 * np.sqrt(share * (1 - share) / 400)
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)
    assert (high + low) / 2 == pytest.approx(share, abs=0.1 * half)


def test_an_interval_has_the_truth_in_nineteen_of_twenty():
    """Rows of a population whose micro-F1 is known to three digits."""
    preds, targets = example(rows=200_000, seed=5)
    truth = f1_score(targets, preds, average="micro")
    hit = 0
    for i in range(200):
        rows = np.arange(i * 150, (i + 1) * 150)
        counts = Counts.of(preds[rows], targets[rows])
        found = resampled({"a": [counts]}, np.ones(5), seed=i, resamples=300)["a"]["micro_f1"]
        low, high = interval(f1_score(targets[rows], preds[rows], average="micro"), found) or (0, 0)
        hit += low <= truth <= high
    assert 180 <= hit <= 199


def test_rare_labels_do_not_pull_an_interval_off_what_was_measured():
    """A label of one row is missing in a third of the resamples; its F1 is 0 there."""
    preds = targets = np.eye(30, dtype=bool)
    found = resampled({"a": [Counts.of(preds, targets)]}, np.ones(30))["a"]["macro_f1"]
    assert found.mean() == pytest.approx(1 - np.exp(-1), abs=0.02)
    low, high = interval(1.0, found) or (0, 0)
    assert low < 1.0 < high


def test_methods_see_the_same_resamples():
    preds, targets = example()
    counts = Counts.of(preds, targets)
    found = resampled({"a": [counts], "b": [counts]}, np.ones(5))
    for metric in METRICS:
        np.testing.assert_array_equal(found["a"][metric], found["b"][metric])


def test_seeds_are_averaged_within_a_resample():
    (a, targets), (b, _) = example(wrong=0.2), example(wrong=0.4)
    counts = [Counts.of(preds, targets) for preds in (a, b)]
    found = resampled({"both": counts, "a": counts[:1], "b": counts[1:]}, np.ones(5), resamples=20)
    for metric in METRICS:
        np.testing.assert_allclose(found["both"][metric], (found["a"][metric] + found["b"][metric]) / 2, rtol=1e-6)


def test_rows_of_a_group_are_drawn_together():
    preds, targets = example()
    alone = resampled({"a": [Counts.of(preds, targets)]}, np.ones(5), resamples=50)["a"]
    copies = np.repeat(np.arange(60), 4)
    grouped = Counts.of(preds[copies], targets[copies], groups=copies)
    together = resampled({"a": [grouped]}, np.ones(5), resamples=50)["a"]
    for metric in METRICS:
        np.testing.assert_allclose(together[metric], alone[metric], rtol=1e-6)


def test_no_rare_labels_no_interval():
    preds, targets = example()
    found = resampled({"a": [Counts.of(preds, targets)]}, np.full(5, 100), resamples=10)["a"]
    assert interval(None, found["rare_f1"]) is None
    assert interval(0.5, found["rare_f1"]) is None
    assert interval(0.5, found["micro_f1"]) is not None


def test_blocks_of_resamples_are_the_resamples(monkeypatch):
    preds, targets = example()
    whole = resampled({"a": [Counts.of(preds, targets)]}, np.ones(5), resamples=9)["a"]
    monkeypatch.setattr(bootstrap, "CELLS", 150)
    cut = resampled({"a": [Counts.of(preds, targets)]}, np.ones(5), resamples=9)["a"]
    for metric in METRICS:
        np.testing.assert_allclose(cut[metric], whole[metric], rtol=1e-6)


def test_one_row_of_difference_is_no_clear_one():
    for seed in range(20):
        targets = np.random.default_rng(seed).random((50, 4)) < 0.4
        preds = targets ^ (np.random.default_rng(seed + 100).random(targets.shape) < 0.2)
        other = preds.copy()
        row, label = np.argwhere(preds != targets)[0]
        other[row, label] = targets[row, label]
        drawn = resampled({"a": [Counts.of(other, targets)], "b": [Counts.of(preds, targets)]}, np.full(4, 20))
        for metric in ("micro_f1", "macro_f1", "samples_f1", "exact_match"):
            difference = drawn["a"][metric] - drawn["b"][metric]
            found = interval(float(difference.mean()), difference)
            assert found is not None
            assert in_words(found) == EVEN
            assert in_words([-end for end in reversed(found)]) == EVEN


def test_a_difference_in_many_rows_is_clear():
    targets = np.random.default_rng(0).random((200, 4)) < 0.4
    preds = targets ^ (np.random.default_rng(1).random(targets.shape) < 0.2)
    drawn = resampled({"a": [Counts.of(targets, targets)], "b": [Counts.of(preds, targets)]}, np.full(4, 80))
    difference = drawn["a"]["micro_f1"] - drawn["b"]["micro_f1"]
    assert in_words(interval(float(difference.mean()), difference) or (0, 0)) == AHEAD
