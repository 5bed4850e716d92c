"""What a target can look like: unknown cells, and label smoothing."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import manyhot
import reference
from manyhot.targets import known_cells, known_rows

NAN = math.nan
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def same(got: Tensor, want: Any, **tolerance: float) -> None:
    want = torch.as_tensor(want, dtype=torch.float64)
    torch.testing.assert_close(got.double(), want, equal_nan=True, rtol=0, atol=tolerance.get("atol", 0))


# --- unknown cells ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SIGNED + FLOATING, ids=str)
def test_minus_one_and_minus_hundred_are_unknown(dtype: torch.dtype) -> None:
    known = known_cells(torch.tensor([[1, -1, 0], [-100, 0, 1], [-1, -1, -100]]).to(dtype))
    assert known is not None
    assert known.tolist() == [[True, False, True], [False, True, True], [False, False, False]]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_nan_is_unknown_and_nothing_near_the_codes_is(dtype: torch.dtype) -> None:
    known = known_cells(torch.tensor([[NAN, 0.0, -0.0, -0.5, -2.0, -99.0, -101.0, math.inf]]).to(dtype))
    assert known is not None
    assert known.tolist() == [[False, *[True] * 7]]


def test_types_without_a_code_are_known_throughout() -> None:
    for dtype in (torch.bool, torch.uint8):
        targets = torch.tensor([[1, 0]]).to(dtype)
        assert known_cells(targets) is None
        assert known_rows(targets) is None


def test_mask_and_codes_both_count() -> None:
    targets = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    for mask, want in (
        (torch.tensor([True, True, False]), [[True, False, False], [True, True, False]]),
        (torch.tensor([[True], [False]]), [[True, False, True], [False, False, False]]),
        (torch.tensor(True), [[True, False, True], [True, True, True]]),
        (torch.tensor([[False, True, True], [False, True, False]]), [[False, False, True], [False, True, False]]),
    ):
        known = known_cells(targets, mask)
        assert known is not None
        assert known.tolist() == want
        rows = known_rows(targets, mask)
        assert rows is not None
        assert rows.tolist() == [any(row) for row in want]
        assert known_cells((targets > 0), mask).tolist() == mask.expand(2, 3).tolist()  # type: ignore[union-attr]


# --- smoothing -------------------------------------------------------------------------------------------------------


def test_hand_values() -> None:
    targets = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    # mass: .8 t + .2 k/4, k = 1, 3, 0
    mass = [[0.85, 0.05, 0.05, 0.05], [0.95, 0.95, 0.95, 0.15], [0, 0, 0, 0]]
    same(manyhot.smooth_labels(targets.double(), 0.2), mass, atol=2e-16)
    same(manyhot.smooth_labels(targets, 0.2), mass, atol=6e-8)
    # uniform: .8 t + .1
    uniform = [[0.9, 0.1, 0.1, 0.1], [0.9, 0.9, 0.9, 0.1], [0.1] * 4]
    same(manyhot.smooth_labels(targets.double(), 0.2, smoothing="uniform"), uniform, atol=2e-16)


@pytest.mark.parametrize("smoothing", ["mass", "uniform"])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 1.0])
def test_equals_the_reference(smoothing: Any, epsilon: float, generator: torch.Generator) -> None:
    targets = torch.rand(4, 3, 6, generator=generator, dtype=torch.float64).round(decimals=1)
    targets[torch.rand(4, 3, 6, generator=generator) < 0.2] = -1
    targets[0, 0], targets[1, 1, 2], targets[2, 2, 5] = -100, NAN, -100
    for mask in (None, torch.rand(4, 3, 6, generator=generator) < 0.7, torch.rand(6, generator=generator) < 0.7):
        want = reference.smooth_labels(targets.numpy(), epsilon, smoothing, None if mask is None else mask.numpy())
        same(manyhot.smooth_labels(targets, epsilon, smoothing=smoothing, mask=mask), want, atol=1e-15)


def test_mass_keeps_the_number_of_labels_and_the_empty_row(generator: torch.Generator) -> None:
    targets = (torch.rand(50, 20, generator=generator) < 0.1).double()
    targets[0].fill_(0)
    smooth = manyhot.smooth_labels(targets, 0.3)
    torch.testing.assert_close(smooth.sum(-1), targets.sum(-1), rtol=1e-14, atol=1e-14)
    assert (smooth[0] == 0).all()
    assert smooth.min() >= 0
    assert smooth.max() <= 1


def test_a_full_row_stays_full_under_mass() -> None:
    same(manyhot.smooth_labels(torch.ones(2, 3), 0.4), torch.ones(2, 3), atol=6e-8)


def test_unknown_cells_come_back_as_nan_and_do_not_count() -> None:
    targets = torch.tensor([[1.0, 0.0, -1.0, -100.0, NAN]], dtype=torch.float64)
    # two known labels, one positive: k/n = 1/2
    same(manyhot.smooth_labels(targets, 0.2), [[0.9, 0.1, NAN, NAN, NAN]], atol=1e-16)
    mask = torch.tensor([True, False, True, True, True])
    same(manyhot.smooth_labels(targets, 0.2, mask=mask), [[1.0, NAN, NAN, NAN, NAN]], atol=1e-16)
    same(manyhot.smooth_labels(torch.full((1, 2), -1), 0.2), [[NAN, NAN]])
    assert known_cells(manyhot.smooth_labels(targets, 0.2)).tolist() == [[True, True, False, False, False]]  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, *SIGNED, *FLOATING], ids=str)
def test_result_is_float32_or_float64(dtype: torch.dtype) -> None:
    smooth = manyhot.smooth_labels(torch.tensor([[1, 0], [0, 0]]).to(dtype), 0.5)
    assert smooth.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert smooth.tolist() == [[0.75, 0.25], [0, 0]]


def test_targets_are_not_modified() -> None:
    targets = torch.tensor([[1.0, 0.0, -1.0]])
    manyhot.smooth_labels(targets, 0.5)
    assert targets.tolist() == [[1, 0, -1]]
    assert targets._version == 0


@pytest.mark.parametrize("epsilon", [-0.1, 1.01, NAN, math.inf])
def test_epsilon_out_of_range(epsilon: float) -> None:
    with pytest.raises(ValueError, match=rf"label smoothing must lie in \[0, 1\]; got {epsilon}"):
        manyhot.smooth_labels(torch.ones(1, 2), epsilon)


def test_unknown_smoothing() -> None:
    with pytest.raises(ValueError, match='smoothing must be "mass" or "uniform"; got \'symmetric\''):
        manyhot.smooth_labels(torch.ones(1, 2), 0.1, smoothing="symmetric")  # type: ignore[arg-type]


@pytest.mark.parametrize("impl", ["auto", "eager", "blocked"])
@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_targets_of_rare_types_are_those_of_the_usual_ones(impl: Any, dtype: torch.dtype) -> None:
    logits, targets = torch.tensor([[2.0, -1.0, 3.0]]), torch.tensor([[1, 0, 1]])
    want = manyhot.zlpr_loss(logits, targets, impl=impl)
    assert manyhot.zlpr_loss(logits, targets.to(dtype), impl=impl) == want
    assert manyhot.bce_loss(logits, targets.to(dtype)) == manyhot.bce_loss(logits, targets)


def test_logits_of_eight_bits_are_refused() -> None:
    logits = torch.zeros(1, 3).to(torch.float8_e4m3fn)
    with pytest.raises(TypeError, match=r"logits must be of 16 bits or more; got torch.float8_e4m3fn. Use"):
        manyhot.zlpr_loss(logits, torch.zeros(1, 3))
