"""Inputs on which published implementations fail: the rows of ../shared/research/lineage.md 3.2, by their numbers.

| rows | where |
|---|---|
| 1-17, 22 | here, by every implementation, and where targets are 0/1 also listed |
| 5 | the inputs of row 1 and a masked slot in half precision, where 1e12 is inf and 0 * inf is NaN |
| 18 | here: the other `zlpr_loss` is a relu margin on similarities of embeddings, 0 once they are apart; ours is not |
| 19, 20, 21 | here: the rivals (ASL, two-way, focal) |
| section 10 of mathematics.md | the cells that 3.2 does not have: overflow, empty rows, infinite logits |
"""

import math
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import manyhot
from manyhot import batch

ALL = (torch.float32, torch.float64)


IMPLS = ("auto", "eager", "blocked")


def loss_and_gradient(logits: Tensor, targets: Any, **options: Any) -> tuple[float, Tensor]:
    """Return both, once every implementation has given the same, and the same again for listed targets."""
    forms = [targets]
    if isinstance(targets, Tensor) and bool(((targets == 0) | (targets == 1)).all()):
        forms.append(manyhot.IndexTargets([row.nonzero().squeeze(-1).tolist() for row in targets]))
    results = []
    for form, impl in product(forms, IMPLS):
        leaf = logits.clone().requires_grad_()
        loss = manyhot.zlpr_loss(leaf, form, impl=impl, **options)
        loss.backward()
        assert leaf.grad is not None
        results.append((loss.item(), leaf.grad))
    for loss, gradient in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=2e-6, abs=1e-12)
        rounding = torch.finfo(logits.dtype).eps
        torch.testing.assert_close(gradient, results[0][1], rtol=4 * rounding, atol=4 * min(rounding, 1e-6))
    return results[0]


def one_of(n: int, *, rest: float, positive: float, negative: float | None = None) -> tuple[Tensor, Tensor]:
    """Build a row of n labels: label 0 is positive, label 1 may be a violating negative."""
    logits, targets = torch.full((1, n), rest), torch.zeros(1, n, dtype=torch.int64)
    logits[0, 0], targets[0, 0] = positive, 1
    if negative is not None:
        logits[0, 1] = negative
    return logits, targets


def test_row_1_soft_targets_are_trained_on() -> None:
    logits, targets = torch.tensor([[2.0, -1.0, 3.0, -2.0]]), torch.tensor([[0.9, 0.1, 0.9, 0.1]])
    loss, gradient = loss_and_gradient(logits, targets)
    assert loss == pytest.approx(2.2133, abs=5e-5)
    # neg: .1 e^2, .9 e^-1, .1 e^3, .9 e^-2; pos: .9 e^-2, .1 e, .9 e^-3, .1 e^2, each over 1 + the sum of its side
    neg = torch.tensor([0.1, 0.9, 0.1, 0.9]) * torch.tensor([2.0, -1, 3, -2]).exp()
    pos = torch.tensor([0.9, 0.1, 0.9, 0.1]) * torch.tensor([-2.0, 1, -3, 2]).exp()
    torch.testing.assert_close(gradient[0], neg / (1 + neg.sum()) - pos / (1 + pos.sum()), rtol=1e-5, atol=1e-7)
    # A target of 1 - 1e-6 is nearly 1, and no label that vanishes.
    nearly = loss_and_gradient(logits, torch.tensor([[1 - 1e-6, 0, 1, 0]]))[0]
    assert nearly == pytest.approx(loss_and_gradient(logits, torch.tensor([[1.0, 0, 1, 0]]))[0], abs=1e-5)
    assert nearly > 0.5


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    ],
    ids=str,
)
def test_row_2_unsigned_targets_do_not_wrap(dtype: torch.dtype) -> None:
    logits = torch.tensor([[2.0, -1.0, 3.0, -2.0]])
    assert loss_and_gradient(logits, torch.tensor([[1, 0, 0, 1]]).to(dtype))[0] == pytest.approx(5.2088, abs=5e-5)


@pytest.mark.parametrize("slot", [-1e12, -math.inf, math.inf, math.nan, 5.0])
def test_row_3_a_positive_on_a_masked_slot(slot: float) -> None:
    loss, gradient = loss_and_gradient(
        torch.tensor([[2.0, 3.0, slot]]), torch.tensor([[1, 0, 1]]), mask=torch.tensor([True, True, False])
    )
    # The slot is dropped: log(1 + e^3) + log(1 + e^-2)
    assert loss == pytest.approx(3.1755, abs=5e-5)
    assert gradient[0].tolist() == pytest.approx([-0.1192, 0.9526, 0], abs=5e-5)


@pytest.mark.parametrize("unknown", [-1, -100, math.nan])
def test_row_4_unknown_targets_are_left_out(unknown: float) -> None:
    targets = torch.tensor([[1.0, unknown, 0.0]])
    loss, gradient = loss_and_gradient(torch.tensor([[2.0, -1.0, 0.5]]), targets)
    # log(1 + e^.5) + log(1 + e^-2)
    assert loss == pytest.approx(1.1010, abs=5e-5)
    assert gradient[0, 1] == 0
    assert gradient[0].tolist() == pytest.approx([-0.1192, 0, 0.6225], abs=5e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_row_5_half_precision_has_no_constants_to_overflow(dtype: torch.dtype) -> None:
    logits = torch.tensor([[2.0, -1.0, 3.0, -2.0]], dtype=dtype)
    soft = torch.tensor([[0.9, 0.1, 0.9, 0.1]])
    assert loss_and_gradient(logits, soft)[0] == pytest.approx(2.2133, abs=5e-5)
    assert loss_and_gradient(logits, torch.tensor([[1, 0, 0, 1]], dtype=dtype))[0] == pytest.approx(5.2088, abs=5e-5)
    loss, gradient = loss_and_gradient(
        logits.index_fill(1, torch.tensor([3]), -math.inf),
        torch.tensor([[1, 0, 0, 1]]),
        mask=torch.tensor([True, True, True, False]),
    )
    assert loss == pytest.approx(3.1928, abs=5e-5)  # log(1 + e^-1 + e^3) + log(1 + e^-2)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", ALL)
def test_row_6_a_confident_positive_is_not_pushed_down(dtype: torch.dtype) -> None:
    logits, targets = one_of(1000, rest=-8.0, positive=20.0, negative=-5.0)
    loss, gradient = loss_and_gradient(logits.to(dtype), targets)
    assert loss == pytest.approx(0.29381, abs=5e-6)
    assert gradient[0, 0].item() == pytest.approx(-2.06e-9, abs=5e-12)


@pytest.mark.parametrize("dtype", ALL)
def test_row_7_a_false_positive_beside_a_confident_positive_gets_its_gradient(dtype: torch.dtype) -> None:
    loss, gradient = loss_and_gradient(*(x.to(dtype) for x in one_of(1000, rest=-8.0, positive=25.0, negative=3.0)))
    assert loss == pytest.approx(3.0643, abs=5e-5)
    assert gradient[0, 1].item() == pytest.approx(0.9377, abs=5e-5)
    assert gradient[0, 0].item() == pytest.approx(-1.4e-11, abs=5e-13)


@pytest.mark.parametrize("dtype", ALL)
def test_row_8_partial_cancellation(dtype: torch.dtype) -> None:
    loss, gradient = loss_and_gradient(*(x.to(dtype) for x in one_of(1000, rest=-8.0, positive=16.0, negative=3.0)))
    assert loss == pytest.approx(3.0643, abs=5e-5)
    assert gradient[0, 1].item() == pytest.approx(0.938, abs=5e-4)


def test_row_9_the_loss_is_never_negative() -> None:
    assert loss_and_gradient(*one_of(1000, rest=-8.0, positive=20.0, negative=-5.0))[0] == pytest.approx(
        0.2938, abs=5e-5
    )
    for positive in (5.0, 20.0, 60.0, 100.0, 1e4):
        for rest in (-1e4, -100.0, -20.0):
            assert 0 <= loss_and_gradient(*one_of(1000, rest=rest, positive=positive))[0] < 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_row_10_half_precision_keeps_its_digits(dtype: torch.dtype) -> None:
    # One row of two labels: log(1 + e^1) + log(1 + e^-6) = 1.31574; with 1000 labels at -8 there is 1.402.
    loss, _ = loss_and_gradient(torch.tensor([[6.0, 1.0]], dtype=dtype), torch.tensor([[1, 0]]))
    assert loss == pytest.approx(1.315737, abs=5e-6)
    logits, targets = one_of(1000, rest=-8.0, positive=6.0, negative=1.0)
    assert loss_and_gradient(logits.to(dtype), targets)[0] == pytest.approx(1.402, abs=5e-4)


def test_row_11_a_duplicate_index_counts_once() -> None:
    for listed in ([[1, 1]], torch.tensor([[1, 1]])):
        loss, gradient = loss_and_gradient(torch.tensor([[1.0, 2.0, -3.0, 0.5]]), manyhot.IndexTargets(listed))
        # log(1 + e + e^-3 + e^.5) + log(1 + e^-2), and each exponential over what stands in its logarithm
        assert loss == pytest.approx(1.8164, abs=5e-5)
        assert gradient[0].tolist() == pytest.approx([0.5018, -0.1192, 0.0092, 0.3044], abs=5e-5)


def test_row_12_a_positive_above_two_is_not_pushed_down() -> None:
    loss, gradient = loss_and_gradient(*one_of(1000, rest=-8.0, positive=5.0))
    assert loss == pytest.approx(0.296, abs=5e-4)
    assert gradient[0, 0].item() == pytest.approx(-0.007, abs=5e-4)
    for size, dtype in ((89.0, torch.float32), (12.0, torch.float16)):
        logits = torch.tensor([[-size, size]], dtype=dtype)
        assert loss_and_gradient(logits, torch.tensor([[1, 0]]))[0] == pytest.approx(2 * size, abs=2e-5)


def test_row_13_rows_of_different_length() -> None:
    # log(1 + e^-1 + e^3 + e^-2) + log(1 + e^-2)
    # log(1 + e^2 + e^-1 + e^3 + e^-2)
    # log(1 + e^-1) + log(1 + e^-2 + e^-3 + e^2)
    logits = torch.tensor([[2.0, -1.0, 3.0, -2.0]]).expand(3, 4)
    dense = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1]])
    padded = manyhot.IndexTargets(torch.tensor([[-1, 0, -1], [-1, -1, -1], [3, 0, 2]]))
    for targets, impl in product((dense, padded, manyhot.IndexTargets([[0], [], [0, 2, 3]])), IMPLS):
        loss = manyhot.zlpr_loss(logits, targets, reduction="none", impl=impl)
        assert loss.tolist() == pytest.approx([3.1991, 3.3665, 2.4620], abs=5e-5)


def test_row_14_rows_do_not_see_each_other() -> None:
    logits = torch.tensor([[9.0, -9.0, -9.0], [-9.0, 9.0, 9.0]])
    targets = torch.tensor([[1, 0, 0], [0, 1, 1]])
    # log(1 + e^-9) + log(1 + 2 e^-9) for either row
    assert manyhot.zlpr_loss(logits, targets).item() == pytest.approx(0.00037019, abs=5e-9)
    assert manyhot.zlpr_loss(logits * 95 / 9, targets).item() == pytest.approx(0.0, abs=1e-30)
    assert manyhot.zlpr_loss(-logits * 95 / 9, targets).item() == pytest.approx(190.0 + math.log(2), rel=1e-6)


def test_row_15_a_logit_of_exactly_zero_is_an_ordinary_logit() -> None:
    # log(1 + k) + log(1 + n - k)
    loss, gradient = loss_and_gradient(torch.zeros(1, 3), torch.tensor([[1, 0, 0]]))
    assert loss == pytest.approx(1.7918, abs=5e-5)
    assert gradient[0].tolist() == pytest.approx([-1 / 2, 1 / 3, 1 / 3])
    # no positives: log(1 + e^2 + e^1 + e^-1), gradient e^s over what stands in the log
    loss, gradient = loss_and_gradient(torch.tensor([[2.0, 1.0, -1.0]]), torch.zeros(1, 3))
    assert loss == pytest.approx(2.4402, abs=5e-5)
    assert gradient[0].tolist() == pytest.approx([math.exp(s - loss) for s in (2, 1, -1)], rel=1e-5)
    loss, gradient = loss_and_gradient(torch.tensor([[100.0, -100.0, -100.0]]), torch.tensor([[1, 0, 0]]))
    assert loss == pytest.approx(0, abs=1e-30)
    assert gradient[0].tolist() == pytest.approx([0, 0, 0], abs=1e-30)


def test_row_16_the_other_side_is_left_out_and_not_lowered_by_one() -> None:
    # 997 negatives at -6 and 3 positives at 6: log(1 + 997 e^-6) + log(1 + 3 e^-6)
    logits, targets = torch.full((1, 1000), -6.0), torch.zeros(1, 1000)
    logits[0, :3], targets[0, :3] = -logits[0, :3], 1 - targets[0, :3]
    loss, gradient = loss_and_gradient(logits, targets)
    assert loss == pytest.approx(1.252, abs=5e-4)
    small = math.exp(-6)
    assert gradient[0, 0].item() == pytest.approx(-small / (1 + 3 * small), rel=1e-5)
    assert gradient[0, 3].item() == pytest.approx(small / (1 + 997 * small), rel=1e-5)


@pytest.mark.parametrize(("size", "value"), [(2.0, 2.00), (5.0, 6.85), (10.0, 16.8)])
def test_row_17_smoothing_costs_a_confident_row(size: float, value: float) -> None:
    # Smoothed to .9 and .1, two labels of either kind, all right by `size`.
    logits, targets = torch.tensor([[size, size, -size, -size]]), torch.tensor([[1, 1, 0, 0]])
    accuracy = 5e-2 if size == 10 else 5e-3
    assert loss_and_gradient(logits, 0.8 * targets + 0.1)[0] == pytest.approx(value, abs=accuracy)
    loss, gradient = loss_and_gradient(logits, targets, label_smoothing=0.2, smoothing="uniform")
    assert loss == pytest.approx(value, abs=accuracy)
    # Beyond the optimum log(.9/.1)/2 = 1.1, so the logits are pulled back; the smoothed entries are what pulls.
    assert (gradient[0] * logits[0] > 0).all()


def test_row_18_labels_that_are_apart_are_still_pushed() -> None:
    logits, targets = torch.tensor([[3.0, -3.0]]), torch.tensor([[1, 0]])
    loss, gradient = loss_and_gradient(logits, targets)
    assert loss == pytest.approx(2 * math.log1p(math.exp(-3)), rel=1e-6)
    assert gradient[0].tolist() == pytest.approx([-0.0474, 0.0474], abs=5e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, *ALL])
def test_row_19_asymmetric_keeps_the_gradient_of_a_positive_that_is_far_off(dtype: torch.dtype) -> None:
    for size in (20.0, 100.0, 6e4):
        leaf = torch.tensor([[-size]], dtype=dtype, requires_grad=True)
        loss = manyhot.asymmetric_loss(leaf, torch.tensor([[1]]))
        loss.backward()
        assert leaf.grad is not None
        assert loss.item() == pytest.approx(-leaf.item(), rel=1e-6)
        assert leaf.grad.item() == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_row_20_two_way_without_a_positive_and_with_targets_of_any_dtype(dtype: torch.dtype) -> None:
    leaf = torch.tensor([[2.0, -1.0, 3.0], [0.5, -0.5, -2.0]], requires_grad=True)
    loss = manyhot.two_way_loss(leaf, torch.zeros(2, 3, dtype=dtype))
    loss.backward()
    assert loss == 0
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [[0, 0, 0], [0, 0, 0]]
    # One positive in the first row, at 2: log(1 + (e^-1 + e^3) e^-2) over the row, log(1 + e^(.5 - 2)) over the label.
    targets = torch.tensor([[1, 0, 0], [0, 0, 0]]).to(dtype)
    want = math.log1p((math.exp(-1) + math.exp(3)) * math.exp(-2)) + math.log1p(math.exp(-1.5))
    assert manyhot.two_way_loss(leaf, targets).item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, *ALL])
def test_row_21_focal_with_a_gamma_below_one_has_a_gradient(dtype: torch.dtype) -> None:
    for size in (40.0, 1e4):
        leaf = torch.tensor([[size]], dtype=dtype, requires_grad=True)
        manyhot.focal_loss(leaf, torch.tensor([[1]]), gamma=0.5).backward()
        assert leaf.grad is not None
        assert leaf.grad.item() == pytest.approx(0, abs=1e-20)


def test_row_22_probabilities_instead_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = one_of(1000, rest=-20.0, positive=20.0)
    assert loss_and_gradient(logits, targets)[0] == pytest.approx(2.06e-6, rel=1e-2)
    assert manyhot.decide(logits).sum() == 1
    monkeypatch.setattr(batch, "_first_call", True)
    with pytest.warns(UserWarning, match=r"all logits lie in \[0, 1\]"):
        loss = manyhot.zlpr_loss(torch.sigmoid(logits), targets).item()
    assert loss == pytest.approx(7.22, abs=5e-3)
    assert manyhot.decide(torch.sigmoid(logits)).sum() == 1000  # why it matters


# --- mathematics.md section 10, what the rows above do not have ------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float16, 6e4), (torch.float32, 1e4), (torch.float32, 1e30), (torch.bfloat16, 1e30)]
)
@pytest.mark.parametrize("autocast", [False, True])
def test_section_10_overflow(dtype: torch.dtype, size: float, autocast: bool) -> None:
    logits = torch.tensor([[size, -size, size], [-size, size, -size]], dtype=dtype)
    leaf = logits.clone().requires_grad_()
    with torch.autocast("cpu", enabled=autocast):
        loss = manyhot.zlpr_loss(leaf, torch.tensor([[1, 0, 0], [1, 0, 1]]), reduction="none")
    loss.sum().backward()
    exact = logits.float()[0, 0].item()
    assert loss.dtype == torch.float32
    # neg, and in the second row pos of two labels
    assert loss.tolist() == pytest.approx([exact, 2 * exact + math.log(2)], rel=1e-6)
    assert leaf.grad is not None
    assert leaf.grad.dtype == dtype
    assert leaf.grad.tolist() == [[0, 0, 1], [-0.5, 1, -0.5]]


def test_section_10_rows_without_a_side_and_batches_without_rows() -> None:
    s = torch.tensor([[1.0, -2.0, 0.5]])
    negatives, positives = sum(map(math.exp, s[0].tolist())), sum(math.exp(-x) for x in s[0].tolist())
    assert loss_and_gradient(s, torch.zeros(1, 3))[0] == pytest.approx(math.log1p(negatives), rel=1e-6)
    assert loss_and_gradient(s, torch.ones(1, 3))[0] == pytest.approx(math.log1p(positives), rel=1e-6)
    assert loss_and_gradient(s[:, :1], torch.ones(1, 1))[0] == pytest.approx(math.log1p(math.exp(-1)), rel=1e-6)
    nothing_known = loss_and_gradient(s, torch.zeros(1, 3), mask=torch.zeros(1, 3, dtype=torch.bool))
    assert nothing_known[0] == 0
    assert nothing_known[1].tolist() == [[0, 0, 0]]
    assert loss_and_gradient(torch.zeros(0, 3), torch.zeros(0, 3))[0] == 0


def test_section_10_an_infinite_logit_on_the_wrong_side() -> None:
    for logits, targets in (((math.inf, 1.0), (0, 1)), ((-math.inf, 1.0), (1, 0)), ((math.inf, -math.inf), (0, 1))):
        loss, gradient = loss_and_gradient(torch.tensor([logits]), torch.tensor([targets]))
        assert loss == math.inf
        assert gradient.isfinite().all()
    loss, gradient = loss_and_gradient(torch.tensor([[math.inf, -math.inf, 1.0]]), torch.tensor([[1, 0, 1]]))
    assert loss == pytest.approx(math.log1p(math.exp(-1)), rel=1e-6)
    assert gradient[0].tolist() == pytest.approx([0, 0, -1 / (1 + math.e)])


def test_the_table_above_names_every_row_once() -> None:
    here = [int(n) for n in re.findall(r"^def test_row_(\d+)_", Path(__file__).read_text(encoding="utf-8"), re.M)]
    assert sorted(here) == list(range(1, 23))
