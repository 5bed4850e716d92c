"""Every number of `multilabel_metrics` against loops that share no code with it."""

import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from scipy import sparse

import manyhot

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")

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
    scores[::2] = scores[::2].round()  # some rows have ties, and some have none
    assert all(len(set(row)) < len(row) for row in scores[::2].tolist())
    tied = manyhot.multilabel_metrics(preds, targets, scores)["ndcg_at_5"]
    assert tied == pytest.approx(sklearn.metrics.ndcg_score(targets, scores, k=5), abs=1e-12)
    assert tied != metrics["ndcg_at_5"]


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


# --- unknown cells ----------------------------------------------------------------------------------------------------


def by_loops_over_known(preds, targets, scores, known):
    """Count as `by_loops` does, row by row and label by label, over the cells that are known."""

    def of_row(r, x):
        return [x[r, i] for i in range(targets.shape[1]) if known[r, i]]

    rows = [r for r in range(len(targets)) if known[r].any()]
    labels = [i for i in range(targets.shape[1]) if known[:, i].any()]
    columns = {i: [r for r in rows if known[r, i]] for i in labels}
    p, t, s = ({r: of_row(r, x) for r in rows} for x in (preds, targets, scores))
    cells = [(a, b) for r in rows for a, b in zip(p[r], t[r], strict=True)]
    n = len(rows)
    return {
        "micro_f1": f1([a for a, _ in cells], [b for _, b in cells]),
        "macro_f1": sum(f1([preds[r, i] for r in columns[i]], [targets[r, i] for r in columns[i]]) for i in labels)
        / len(labels),
        "samples_f1": sum(f1(p[r], t[r]) for r in rows) / n,
        "exact_match": sum(p[r] == t[r] for r in rows) / n,
        "hamming_loss": sum(a != b for a, b in cells) / len(cells),
        "lrap": sum(lrap_row(t[r], s[r]) for r in rows) / n,
        **{f"precision_at_{k}": sum(precision_row(t[r], s[r], k) for r in rows) / n for k in (1, 3, 5)},
        "ndcg_at_5": sum(ndcg_row(t[r], s[r]) for r in rows) / n,
        "labels_per_row_predicted": sum(sum(p[r]) for r in rows) / n,
        "labels_per_row_true": sum(sum(t[r]) for r in rows) / n,
        "empty_rows": sum(not preds[r].any() for r in rows) / n,
        "rows": n,
        "labels": targets.shape[1],
    }  # fmt: skip


@pytest.mark.parametrize("unknown", [-1, -100, np.nan, "mask"])
@pytest.mark.parametrize("seed", range(3))
def test_unknown_cells_are_left_out(unknown, seed):
    preds, targets, scores = example(seed=seed)
    rng = np.random.default_rng(seed)
    known = rng.random(targets.shape) < 0.6
    known[3], known[:, 4], known[7] = False, False, [True, *[False] * 8]
    want = by_loops_over_known(preds, targets, scores, known)
    counts = np.array([0, 2, 3, 10, 12, 13, 50, 60, 70])
    per_label = [f1(preds[known[:, i], i], targets[known[:, i], i]) for i in range(9)]
    want |= {"rare_f1": np.mean([per_label[i] for i in (1, 2)]), "medium_f1": np.mean([per_label[i] for i in (3, 5)])}
    # What stands in an unknown cell is nobody's business: any decision, any score.
    preds = np.where(known, preds, rng.random(preds.shape) < 0.5)
    want["empty_rows"] = np.mean(~preds[known.any(1)].any(1))
    for junk in (99.0, -99.0, np.nan, np.inf, -np.inf):
        junked = np.where(known, scores, junk)
        if unknown == "mask":
            options, given = {"mask": known}, np.where(known, targets, 7)
        else:
            options, given = {}, np.where(known, targets, unknown)
        metrics = manyhot.multilabel_metrics(preds, given, junked, train_counts=counts, **options)
        for key, value in want.items():
            assert metrics[key] == pytest.approx(value, abs=1e-12), key


def test_a_mask_may_be_broadcast_and_goes_with_codes():
    preds, targets, scores = example()
    keep = np.arange(9) < 7
    coded = targets.copy()
    coded[:, 6] = -1
    want = manyhot.multilabel_metrics(preds[:, :6], targets[:, :6], scores[:, :6])
    got = manyhot.multilabel_metrics(preds, coded, torch.tensor(scores), mask=torch.tensor(keep))
    for key in set(KEYS) - {"labels", "empty_rows"}:
        assert got[key] == (want[key] if want[key] is None else pytest.approx(want[key], abs=1e-12)), key
    rows = np.arange(40) % 2 == 0
    got = manyhot.multilabel_metrics(preds, targets, scores, mask=rows[:, None])
    assert got == manyhot.multilabel_metrics(preds[rows], targets[rows], scores[rows])


def test_sparse_and_listed_truth_and_decisions():
    preds, targets, scores = example()
    want = manyhot.multilabel_metrics(preds, targets, scores)
    lists = [np.flatnonzero(row).tolist() for row in targets]
    forms = [sparse.csr_matrix(targets), sparse.coo_array(targets.astype(bool)), manyhot.IndexTargets(lists)]
    forms.append(torch.tensor(targets).to_sparse_csr())
    for form in forms:
        assert manyhot.multilabel_metrics(preds, form, scores) == want
        mask = np.random.default_rng(1).random(targets.shape) < 0.7
        masked = manyhot.multilabel_metrics(preds, targets, scores, mask=mask)
        assert manyhot.multilabel_metrics(preds, form, scores, mask=mask) == masked
    chosen = manyhot.IndexTargets([np.flatnonzero(row).tolist() for row in preds])
    assert manyhot.multilabel_metrics(chosen, targets, scores) == want
    assert manyhot.multilabel_metrics(sparse.csr_matrix(preds), targets, scores) == want
    with pytest.raises(ValueError, match=r"got \(40, 9\), \(39, 9\) and \(40, 9\)"):
        manyhot.multilabel_metrics(preds, manyhot.IndexTargets(lists[:-1]), scores)
    with pytest.raises(ValueError, match=r"label ids must lie in 0 to 8.*got 9 in row 0"):
        manyhot.multilabel_metrics(preds, manyhot.IndexTargets([[9]] * 40), scores)


@pytest.mark.parametrize("value", [0.5, 7, -2, np.inf])
def test_what_is_no_decision_is_refused(value):
    preds, targets, scores = example()
    wrong = targets.astype(float)
    wrong[4, 2] = value
    for form in (wrong, torch.tensor(wrong), torch.tensor(wrong).bfloat16(), wrong.tolist()):
        with pytest.raises(ValueError, match=rf"targets must be 0 or 1, or.*; got {value:g} in row 4, label 2\. D"):
            manyhot.multilabel_metrics(preds, form, scores)
        with pytest.raises(ValueError, match=rf"preds must be 0/1 decisions; got {value:g} in row 4, label 2\. S"):
            manyhot.multilabel_metrics(form, targets, scores)
    with pytest.raises(ValueError, match=r"preds must be 0/1 decisions; got -1 in row 0, label 0"):
        manyhot.multilabel_metrics(np.full_like(preds, -1), targets, scores)
    if 0 <= value <= 1:
        with pytest.raises(ValueError, match=r"targets must be 0 or 1"):
            manyhot.multilabel_metrics(preds, sparse.csr_array(wrong), scores)


def test_what_a_mask_must_be():
    preds, targets, scores = example()
    with pytest.raises(TypeError, match="mask must be boolean, True where the target is known; got int64"):
        manyhot.multilabel_metrics(preds, targets, scores, mask=np.ones((40, 9), dtype=np.int64))
    with pytest.raises(ValueError, match=r"mask must broadcast to the targets, \(40, 9\); got \(4, 9\)"):
        manyhot.multilabel_metrics(preds, targets, scores, mask=np.ones((4, 9), dtype=bool))
    with pytest.raises(ValueError, match="needs known targets; every target is unknown"):
        manyhot.multilabel_metrics(preds, np.full((40, 9), -1), scores)


def test_bfloat16_is_measured_as_float32():
    preds, targets, scores = (torch.tensor(x) for x in example())
    want = manyhot.multilabel_metrics(preds, targets, scores)  # halves, which bfloat16 has exactly
    assert manyhot.multilabel_metrics(*(x.bfloat16() for x in (preds, targets, scores))) == want
    ids = torch.arange(40) % 9
    want = manyhot.multiclass_metrics(scores, ids)
    assert manyhot.multiclass_metrics(scores.bfloat16(), ids) == want


def test_unknown_classes_are_left_out():
    scores, ids = example()[2], np.arange(40) % 9
    known = np.arange(40) % 3 > 0
    want = manyhot.multiclass_metrics(scores[known], ids[known])
    for unknown in (-1, -100):
        junk = np.where(known[:, None], scores, np.nan)
        assert manyhot.multiclass_metrics(junk, np.where(known, ids, unknown)) == want
    assert manyhot.multiclass_metrics(torch.tensor(scores), ids, mask=torch.tensor(known)) == want
    for wrong in (9, -2):
        text = rf"class ids must lie in 0 to 8, or be -1 or -100 where unknown; got {wrong} in row 0"
        with pytest.raises(ValueError, match=text):
            manyhot.multiclass_metrics(scores, np.where(ids == 0, wrong, ids))
    scores[ids == 2] = np.nan
    with pytest.raises(ValueError, match=r"logits must not be NaN; got NaN in row 2"):
        manyhot.multiclass_metrics(scores, np.where(ids == 0, -1, ids))
    with pytest.raises(ValueError, match="needs known classes; every class is unknown"):
        manyhot.multiclass_metrics(scores, np.full(40, -1))
