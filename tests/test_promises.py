"""A precision promised label by label: against every threshold by hand, and what rows of the same kind reach."""

import numpy as np
import pytest
import torch

import manyhot


def some_rows(rows, seed=0, labels=4, rare=0.002):
    """Logits that say p = sigmoid(1.5 s - o), and labels of which the last is too rare."""
    rng = np.random.default_rng(seed)
    s = rng.normal(size=(rows, labels)) * 2
    o = np.linspace(0, 2, labels)
    targets = rng.random(s.shape) < 1 / (1 + np.exp(o - 1.5 * s))
    targets[:, -1] &= rng.random(rows) < rare
    return s.astype(np.float32), targets


def threshold_by_hand(scores, truth, probs, precision):
    """Try the threshold below every row, the lowest last."""
    best = None
    for cut in sorted(set(scores.tolist()), reverse=True):
        above = scores >= cut
        k, hits, expected = above.sum(), truth[above].sum(), probs[above].sum()
        said = (hits + 20 * expected / k) / (k + 20)
        if said - 1.64 * (said * (1 - said) / (k + 20)) ** 0.5 >= precision:
            best = cut
    return best


@pytest.mark.parametrize("precision", [0.7, 0.9])
def test_the_threshold_is_the_lowest_of_all_that_keep_the_promise(precision):
    logits, targets = some_rows(600)
    logits = logits.round(1)  # equal ones are never parted
    found = manyhot.fit_decision(logits, targets, precision=precision)
    probs = manyhot.fit_calibration(logits, targets).probs(logits)
    preds = found.decide(logits)
    for label in range(3):
        scores, truth, chances = (x[:, label].astype(float) for x in (logits, targets, probs))
        cut = threshold_by_hand(scores, truth, chances, precision)
        assert cut is not None
        assert (preds[:, label] == (logits[:, label] >= np.float32(cut))).all()
        assert found.recall[label] == pytest.approx(targets[preds[:, label] > 0, label].sum() / targets[:, label].sum())
    assert (found.promised[:3] >= precision).all()


def test_new_rows_reach_what_was_promised():
    logits, targets = some_rows(3000)
    new, truth = some_rows(20000, seed=1)
    for precision in (0.6, 0.8, 0.9, 0.95):
        found = manyhot.fit_decision(logits, targets, precision=precision)
        preds = found.decide(new) > 0
        reached = (preds & truth).sum(0)[:3] / preds.sum(0)[:3]
        assert (reached > precision - 0.01).all()
        # And no more than the price of being sure of it.
        assert (reached < precision + 0.06).all()


def test_labels_that_are_too_rare_are_named_and_never_predicted():
    logits, targets = some_rows(3000)
    found = manyhot.fit_decision(logits, targets, precision=0.95)
    assert 0 < targets[:, -1].sum() < 20
    assert found.too_rare.tolist() == [False, False, False, True]
    assert found.offset[-1] == -np.inf
    assert np.isnan(found.promised[-1])
    high = np.full((2, 4), 1e6, dtype=np.float32)
    assert found.decide(high).tolist() == [[1, 1, 1, 0]] * 2
    assert found.decide(-high).sum() == 0
    # A label without any use for a model keeps no promise, however frequent.
    noise = np.random.default_rng(9).normal(size=logits.shape).astype(np.float32)
    useless = manyhot.fit_decision(noise, targets, precision=0.95)
    assert not np.isfinite(useless.offset).any()
    assert not useless.too_rare[:3].any()


@pytest.mark.parametrize(("precision", "least"), [(0.9, 10), (0.8, 5), (0.95, 20), (0.99, 100), (0.7, 4), (0.6, 3)])
def test_a_label_is_too_rare_where_one_wrong_row_among_as_many_is_below_the_precision(precision, least):
    logits, targets = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32), np.zeros((400, 2), dtype=int)
    targets[:least, 0] = 1
    targets[: least - 1, 1] = 1
    assert manyhot.fit_decision(logits, targets, precision=precision).too_rare.tolist() == [False, True]


def test_half_dtypes_whole_numbers_and_lists_are_decided_by_their_values():
    found = manyhot.fit_decision(*some_rows(3000), precision=0.6)
    logits = torch.from_numpy(some_rows(3000)[0])
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int64):
        same = logits.to(dtype)
        assert (found.decide(same).numpy() == found.decide(same.double().numpy())).all()
    assert (found.decide(logits[:5].tolist()) == found.decide(logits[:5].numpy())).all()


def test_tensors_unknown_cells_and_sparse_targets():
    logits, targets = some_rows(800)
    found = manyhot.fit_decision(logits, targets, precision=0.8)
    tensor = torch.from_numpy(logits)
    assert (found.decide(tensor).numpy() == found.decide(logits)).all()
    unknown = np.random.default_rng(1).random(targets.shape) < 0.3
    holes = [np.where(unknown, hole, targets) for hole in (-1, -100, np.nan)]
    first, *others = [manyhot.fit_decision(logits, cells, precision=0.8).offset for cells in holes]
    assert all((first == other).all() for other in others)
    assert (first != found.offset).any()
    # What nobody knows may have any logit.
    wild = np.where(unknown, -logits, logits)
    assert (manyhot.fit_decision(wild, holes[0], precision=0.8).offset == first).all()


def test_bad_input():
    logits, targets = some_rows(50)
    for precision in (0, 1, -0.5, 90, "high"):
        with pytest.raises(ValueError, match=r"precision above 0 and below 1, such as 0\.9; got"):
            manyhot.fit_decision(logits, targets, precision=precision)  # pyright: ignore
