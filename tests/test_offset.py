"""One offset for all labels: against every threshold tried by hand, and what train takes."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import f1_score

import manyhot
from manyhot.offset import best_offset, mean_f1, right_offset
from manyhot.toolkit.choose.cross_fit import Held, choose_tau
from manyhot.toolkit.choose.offsets import choose_offset


def rows(number=300, labels=8, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(number, labels)).astype(np.float32) * 2 - np.arange(labels, dtype=np.float32) / 2
    targets = (logits + rng.normal(size=logits.shape) > 0.7).astype(int)
    targets[np.arange(number), rng.integers(0, labels, number)] = 1
    return logits, targets


def mean_of_f1(preds, targets):
    options: Any = {"zero_division": 0}
    return sum(f1_score(targets, preds, average=kind, **options) for kind in ("micro", "macro")) / 2


def test_no_threshold_is_much_better():
    logits, targets = rows()
    found = manyhot.fit_decision(logits, targets)
    assert found[1:] == manyhot.cardinality_range(targets)
    score = mean_of_f1(found.decide(logits), targets)
    tried = np.quantile(logits, np.linspace(0.05, 0.95, 60))
    by_hand = [manyhot.decide(logits, threshold=t, min_labels=found[1], max_labels=found[2]) for t in tried]
    best = max(mean_of_f1(preds, targets) for preds in by_hand)
    assert score > best - 0.01
    # Of logits that are all too low, the offset is as much higher.
    assert manyhot.fit_decision(logits - 3, targets).offset == pytest.approx(found.offset + 3, abs=0.01)


def test_right_cardinality_predicts_as_many_labels_as_there_are():
    logits, targets = rows()
    found = manyhot.fit_decision(logits, targets, best="cardinality")
    assert found.decide(logits).sum() == targets.sum()


def test_where_no_label_or_all_are_wanted_the_range_decides():
    logits, _ = rows(20)
    anything = manyhot.CardinalityRange(0, logits.shape[1])
    assert right_offset(logits, 0, anything) == right_offset(logits, logits.size, anything) == 0.0
    at_least_one = manyhot.CardinalityRange(1, logits.shape[1])
    assert right_offset(logits, len(logits), at_least_one) == 0.0
    assert right_offset(logits, logits.size - 1, anything) == pytest.approx(-np.sort(logits.ravel())[:2].mean())


def test_the_score_it_finds_is_that_of_the_known_cells():
    logits, targets = rows(seed=1)
    targets[np.random.default_rng(2).random(targets.shape) < 0.4] = -1
    score, offset = best_offset(logits, targets, manyhot.CardinalityRange(1, 6))
    decided = manyhot.decide(logits + np.float32(offset), min_labels=1, max_labels=6)
    assert score == pytest.approx(mean_f1(decided, targets), abs=1e-12)


def test_it_is_what_the_command_takes():
    logits, targets = rows()
    held = Held(logits, np.zeros_like(logits), targets.astype(bool), None, np.arange(len(logits)))
    limits = manyhot.cardinality_range(targets)
    found = manyhot.fit_decision(logits, targets)
    assert choose_offset(held, limits) == (0.0, found.offset)
    assert choose_tau(held, limits)[1] == found.offset  # without a prior, every tau is the same


def test_unknown_cells_have_no_part_in_it_and_every_format_of_targets_is_read():
    logits, targets = rows()
    unknown = np.random.default_rng(1).random(targets.shape) < 0.2
    found = [manyhot.fit_decision(logits, np.where(unknown, hole, targets)) for hole in (-1, -100, np.nan)]
    assert len(set(found)) == 1
    whole = manyhot.fit_decision(logits, targets)
    assert manyhot.fit_decision(torch.tensor(logits), torch.tensor(targets)) == whole
    assert manyhot.fit_decision(logits, sp.csr_array(targets)) == whole
    assert manyhot.fit_decision(logits.tolist(), targets.astype(bool)) == whole
    decided = whole.decide(torch.tensor(logits))
    assert isinstance(decided, torch.Tensor)
    np.testing.assert_array_equal(decided.numpy(), whole.decide(logits))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_an_offset_ties_no_logits_that_differ(dtype):
    logits = torch.tensor([[1.0, 1.0078125]]).to(dtype)
    assert manyhot.Decision(800.0, 0, 1).decide(logits).tolist() == [[0, 1]]
    assert manyhot.Decision(0.5, 0, 1).decide([[0, 2**24, 2**24 + 1]]).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("logits", "targets", "best", "said"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), "f1", "targets of the logits' shape"),
        (np.zeros(3), np.zeros(3), "f1", "logits of shape"),
        (np.full((2, 3), np.inf), np.zeros((2, 3)), "f1", "finite logits"),
        (np.zeros((2, 3)), np.full((2, 3), -1), "f1", "at least one row"),
        (np.zeros((2, 3)), np.zeros((2, 3)), "f2", "best='f1' or 'cardinality'"),
    ],
)
def test_what_does_not_fit_is_refused(logits, targets, best, said):
    with pytest.raises(ValueError, match=said):
        manyhot.fit_decision(logits, targets, best=best)
