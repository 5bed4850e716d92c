"""Every number of `multilabel_metrics` against loops that share no code with it."""

import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch

import manyhot

KEYS = [
    "micro_f1",
    "macro_f1",
    "samples_f1",
    "rare_f1",
    "medium_f1",
    "head_f1",
    "exact_match",
    "hamming_loss",
    "lrap",
    "precision_at_1",
    "precision_at_3",
    "precision_at_5",
    "ndcg_at_5",
    "labels_per_row_predicted",
    "labels_per_row_true",
    "empty_rows",
    "rows",
    "labels",
]


def example(rows=40, labels=9, seed=0, *, ties=True):
    """Draw predictions, targets and scores with ties; label 0 is never true, label 1 never on either side."""
    rng = np.random.default_rng(seed)
    targets = rng.random((rows, labels)) < 0.3
    scores = rng.normal(size=(rows, labels)) + targets
    scores = np.round(scores * 2) / 2 if ties else scores
    preds = scores > 0.4
    targets[:, 0] = False
    targets[:, 1] = preds[:, 1] = False
    targets[:3] = False
    preds[1] = preds[5] = False
    return preds.astype(int), targets.astype(int), scores


def f1(preds, targets):
    """F1 of two flat lists of 0/1, 0 where neither has a positive."""
    hit = sum(p and t for p, t in zip(preds, targets, strict=True))
    size = sum(preds) + sum(targets)
    return 2 * hit / size if size else 0.0


def lrap_row(targets, scores):
    """Mean over true labels of the share of true labels among those scored as high or higher."""
    true = [i for i, t in enumerate(targets) if t]
    if not true or len(true) == len(targets):
        return 1.0
    shares = []
    for i in true:
        above = [j for j in range(len(scores)) if scores[j] >= scores[i]]
        shares.append(sum(targets[j] for j in above) / len(above))
    return sum(shares) / len(shares)


def ndcg_row(targets, scores, k=5):
    """DCG of the best k over the best possible; labels with equal scores share the gains of their places."""
    discount = [1 / math.log2(place + 2) if place < k else 0.0 for place in range(len(scores))]
    ideal = sum(discount[: sum(targets)])
    if not ideal:
        return 0.0
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    gain, place = 0.0, 0
    while place < len(order):
        tied = [i for i in order if scores[i] == scores[order[place]]]
        mean_target = sum(targets[i] for i in tied) / len(tied)
        gain += mean_target * sum(discount[place : place + len(tied)])
        place += len(tied)
    return gain / ideal


def precision_row(targets, scores, k):
    """Hits among the best k over k; of equal scores the lower index is first."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sum(targets[i] for i in order[:k]) / k


def by_loops(preds, targets, scores):
    rows, labels = targets.shape
    per_label = [f1(preds[:, i], targets[:, i]) for i in range(labels)]
    return {
        "micro_f1": f1(preds.ravel(), targets.ravel()),
        "macro_f1": sum(per_label) / labels,
        "samples_f1": sum(f1(preds[r], targets[r]) for r in range(rows)) / rows,
        "exact_match": sum(all(preds[r] == targets[r]) for r in range(rows)) / rows,
        "hamming_loss": sum(p != t for p, t in zip(preds.ravel(), targets.ravel(), strict=True)) / targets.size,
        "lrap": sum(lrap_row(targets[r], scores[r]) for r in range(rows)) / rows,
        **{f"precision_at_{k}": sum(precision_row(targets[r], scores[r], k) for r in range(rows)) / rows
           for k in (1, 3, 5)},
        "ndcg_at_5": sum(ndcg_row(targets[r], scores[r]) for r in range(rows)) / rows,
        "labels_per_row_predicted": preds.sum() / rows,
        "labels_per_row_true": targets.sum() / rows,
        "empty_rows": sum(not preds[r].any() for r in range(rows)) / rows,
        "rows": rows,
        "labels": labels,
    }  # fmt: skip


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_every_number_against_loops(seed, ties):
    preds, targets, scores = example(seed=seed, ties=ties)
    metrics = manyhot.multilabel_metrics(preds, targets, scores)
    assert list(metrics) == KEYS
    for key, value in by_loops(preds, targets, scores).items():
        assert metrics[key] == pytest.approx(value, abs=1e-12), key
    assert metrics["rare_f1"] is metrics["medium_f1"] is metrics["head_f1"] is None


def test_numbers_are_those_of_scikit_learn():
    preds, targets, scores = example(seed=7)
    metrics = manyhot.multilabel_metrics(preds, targets, scores)
    f1_score: Any = sklearn.metrics.f1_score
    for average in ("micro", "macro", "samples"):
        direct = f1_score(targets, preds, average=average, zero_division=0)
        assert metrics[f"{average}_f1"] == pytest.approx(direct, abs=1e-12)
    assert metrics["hamming_loss"] == pytest.approx(sklearn.metrics.hamming_loss(targets, preds), abs=1e-12)
    assert metrics["exact_match"] == pytest.approx(sklearn.metrics.accuracy_score(targets, preds), abs=1e-12)
    lrap = sklearn.metrics.label_ranking_average_precision_score(targets, scores)
    assert metrics["lrap"] == pytest.approx(lrap, abs=1e-12)
    assert metrics["ndcg_at_5"] == pytest.approx(sklearn.metrics.ndcg_score(targets, scores, k=5), abs=1e-12)


def test_small_example_by_hand():
    preds = np.array([[1, 0, 1, 0], [0, 1, 0, 0]])
    targets = np.array([[1, 1, 0, 0], [0, 1, 0, 0]])
    scores = np.array([[3.0, -1.0, 1.0, -2.0], [-1.0, 0.5, -2.0, -3.0]])
    metrics = manyhot.multilabel_metrics(preds, targets, scores)
    assert metrics["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    # a: 1, b: 2*1/(1+2), c: predicted and never true, d: on neither side
    assert metrics["macro_f1"] == pytest.approx((1 + 2 / 3 + 0 + 0) / 4)
    assert metrics["samples_f1"] == pytest.approx((0.5 + 1) / 2)
    assert metrics["exact_match"] == 0.5
    assert metrics["hamming_loss"] == 2 / 8
    assert metrics["lrap"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert metrics["precision_at_1"] == 1
    assert metrics["precision_at_3"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert metrics["precision_at_5"] == pytest.approx((2 / 5 + 1 / 5) / 2)
    assert metrics["ndcg_at_5"] == pytest.approx(((1 + 1 / 2) / (1 + 1 / math.log2(3)) + 1) / 2)
    assert (metrics["labels_per_row_predicted"], metrics["labels_per_row_true"]) == (1.5, 1.5)


def test_groups_are_means_over_the_labels_of_the_group():
    preds, targets, scores = example(seed=3)
    per_label = [f1(preds[:, i], targets[:, i]) for i in range(9)]
    counts = np.array([0, 1, 8, 9, 34, 35, 1000, 3, 12])
    metrics = manyhot.multilabel_metrics(preds, targets, scores, train_counts=counts)
    assert metrics["rare_f1"] == pytest.approx(np.mean([per_label[i] for i in (1, 2, 7)]), abs=1e-12)
    assert metrics["medium_f1"] == pytest.approx(np.mean([per_label[i] for i in (3, 4, 8)]), abs=1e-12)
    assert metrics["head_f1"] == pytest.approx(np.mean([per_label[i] for i in (5, 6)]), abs=1e-12)
    # A label that training never saw is in no group and still in the mean over all.
    assert metrics["macro_f1"] == pytest.approx(np.mean(per_label), abs=1e-12)


@pytest.mark.parametrize(
    ("count", "full"), [(0, None), (1, "rare"), (8, "rare"), (9, "medium"), (34, "medium"), (35, "head")]
)
def test_groups_without_labels_are_none(count, full):
    preds, targets, scores = example(labels=4)
    metrics = manyhot.multilabel_metrics(preds, targets, scores, train_counts=np.full(4, count))
    for group in ("rare", "medium", "head"):
        if group == full:
            assert metrics[f"{group}_f1"] == pytest.approx(metrics["macro_f1"], abs=1e-12)
        else:
            assert metrics[f"{group}_f1"] is None


def test_ties_go_to_the_lower_index():
    targets = np.array([[0, 1, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0]])
    metrics = manyhot.multilabel_metrics(targets, targets, np.zeros((2, 6)))
    assert metrics["precision_at_1"] == (0 + 1) / 2
    assert metrics["precision_at_3"] == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert metrics["precision_at_5"] == pytest.approx((1 / 5 + 1 / 5) / 2)


def test_rows_and_labels_without_any_positive():
    targets = np.zeros((3, 4), dtype=int)
    scores = np.arange(12.0).reshape(3, 4)
    metrics = manyhot.multilabel_metrics(targets, targets, scores, train_counts=np.full(4, 2))
    for key in ("micro_f1", "macro_f1", "samples_f1", "rare_f1", "hamming_loss", "ndcg_at_5", "precision_at_1"):
        assert metrics[key] == 0, key
    assert metrics["lrap"] == metrics["exact_match"] == metrics["empty_rows"] == 1


def test_infinite_scores_keep_their_order():
    preds, targets, scores = example(seed=5, ties=False)
    # The order is all that counts: what is highest becomes inf, what is lowest -inf, one of each in every row.
    finite = manyhot.multilabel_metrics(preds, targets, scores)
    scores[np.arange(40), scores.argmax(1)] = np.inf
    scores[np.arange(40), scores.argmin(1)] = -np.inf
    assert manyhot.multilabel_metrics(preds, targets, scores) == finite
    lowest = manyhot.multilabel_metrics(preds, targets, np.where(targets > 0, 0.0, -np.inf))
    assert lowest["lrap"] == 1
    assert manyhot.multilabel_metrics(preds, targets, np.where(targets > 0, np.inf, 0.0)) == lowest


def test_tensors_arrays_and_any_dtype_give_the_same_plain_numbers():
    preds, targets, scores = example()
    counts = np.array([0, 2, 3, 10, 12, 13, 50, 60, 70])
    expected = manyhot.multilabel_metrics(preds, targets, scores, train_counts=counts)
    tensors = [torch.tensor(x) for x in (preds, targets, scores)]
    tensors[2].requires_grad_()
    assert manyhot.multilabel_metrics(*tensors, train_counts=torch.tensor(counts)) == expected
    assert (
        manyhot.multilabel_metrics(preds.astype(bool), targets.astype(np.float32), scores, train_counts=counts.tolist())
        == expected
    )
    assert manyhot.multilabel_metrics(preds.tolist(), targets.tolist(), scores.tolist(), train_counts=counts) == (
        expected
    )
    for key, value in expected.items():
        assert type(value) is (int if key in ("rows", "labels") else float), key


def test_inputs_stay_as_they_are():
    preds, targets, scores = example()
    scores[0, 0] = -np.inf
    before = [x.copy() for x in (preds, targets, scores)]
    manyhot.multilabel_metrics(preds, targets, scores)
    for x, y in zip((preds, targets, scores), before, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("shapes", "got"),
    [
        (((3, 4), (3, 4), (3, 5)), r"\(3, 4\), \(3, 4\) and \(3, 5\)"),
        (((3, 4), (2, 4), (3, 4)), r"\(3, 4\), \(2, 4\) and \(3, 4\)"),
        (((4,), (4,), (4,)), r"\(4,\), \(4,\) and \(4,\)"),
        (((0, 4), (0, 4), (0, 4)), r"\(0, 4\)"),
        (((3, 1), (3, 1), (3, 1)), r"\(3, 1\)"),
    ],
)
def test_shapes_that_do_not_fit(shapes, got):
    arrays = [np.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match=rf"must all have shape \(rows, labels\) with at least one row.*got {got}"):
        manyhot.multilabel_metrics(*arrays)


def test_nan_scores_are_refused_with_their_row():
    preds, targets, scores = example()
    scores[4, 2] = np.nan
    with pytest.raises(ValueError, match=r"scores must not be NaN; got NaN in row 4\."):
        manyhot.multilabel_metrics(preds, targets, scores)
