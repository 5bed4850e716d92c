"""The contract of every loss: each row of cases.py runs through each property."""

import copy
import inspect
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import manyhot
from cases import CASES, ELSEWHERE, LABELS, PROPERTIES, ROWS, Case

# Summation order and one rounding of each term; exponents stay below about 30 in size here.
CLOSE = {"rtol": 1e-12, "atol": 1e-13}
# float32: an exponent x is known to |x| 6e-8, so a small loss to about |x| 1e-7 of itself and never much better.
CLOSE_32 = {"rtol": 2e-6, "atol": 2e-6}
IMPLS = ("auto", "eager", "blocked", "native")
TARGET_DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)


def contract(prop: str, slow: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test on every row that does not name the property as not applicable; if it is slow, most in `make slow`."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        rows = [case for case in CASES if prop not in case.not_applicable]
        test.__dict__["contract"] = (prop, tuple(case.name for case in rows))
        later = pytest.mark.slow if slow else ()
        named = [pytest.param(case, id=case.name, marks=later if i else ()) for i, case in enumerate(rows)]
        return pytest.mark.parametrize("case", named)(test)

    return decorate


def hard(generator: torch.Generator, *shape: int) -> Tensor:
    return (torch.rand(shape, generator=generator) < 0.4).double()


def soft(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw targets of all kinds: 0, 1, in between, and close to either end."""
    t = torch.rand(shape, generator=generator, dtype=torch.float64)
    kind = torch.randint(5, shape, generator=generator)
    t = torch.where(kind == 0, 0.0, torch.where(kind == 1, 1.0, t))
    return torch.where(kind == 2, 1e-9, torch.where(kind == 3, 1 - 1e-9, t))


def batch(generator: torch.Generator, *shape: int) -> tuple[Tensor, Tensor]:
    shape = shape or (ROWS, LABELS)
    return 3 * torch.randn(shape, generator=generator, dtype=torch.float64), hard(generator, *shape)


def value_and_gradient(case: Case, logits: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Return the loss, and the gradient of its sum with respect to the logits."""
    logits = logits.detach().clone().requires_grad_()
    loss = case.function(logits, targets, **options)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return loss.detach(), gradient


def expected(case: Case, logits: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Return the same from the reference, in float64."""
    arrays = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in options.items()}
    value, gradient = case.reference(logits.double().numpy(), targets.double().numpy(), **arrays)
    return torch.as_tensor(value), torch.as_tensor(gradient)


def close(got: Tensor, want: Tensor, *, rtol: float, atol: float) -> None:
    torch.testing.assert_close(got.double(), want.double(), rtol=rtol, atol=atol)


def same(got: Tensor, want: Tensor) -> None:
    """Check every bit, NaN equal to NaN."""
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def near(got: Tensor, want: Tensor) -> None:
    """Check all but the last bits: numbers are added up by other instructions than integers."""
    limit = 8 * torch.finfo(want.dtype).eps
    torch.testing.assert_close(got, want, rtol=limit, atol=limit, equal_nan=True)


# --- values and gradients --------------------------------------------------------------------------------------------


@contract("hand value")
def test_hand_values(case: Case) -> None:
    for hand in case.hand:
        loss = case.function(torch.tensor([hand.logits]), torch.tensor([hand.targets]), **hand.options)
        assert loss.item() == pytest.approx(hand.value, abs=5.1e-5), hand


@contract("reference")
@pytest.mark.parametrize("make", [hard, soft])
def test_equals_the_reference_on_random_options(case: Case, make: Callable[..., Tensor], generator: Any) -> None:
    for _ in range(60):
        options = case.draw(generator)
        logits, targets = batch(generator)[0], make(generator, ROWS, LABELS)
        close(case.function(logits, targets, **options), expected(case, logits, targets, **options)[0], **CLOSE)


@contract("gradient")
@pytest.mark.parametrize("make", [hard, soft])
def test_gradient_equals_the_analytic_one(case: Case, make: Callable[..., Tensor], generator: Any) -> None:
    for _ in range(60):
        options = case.draw(generator)
        logits, targets = batch(generator)[0], make(generator, ROWS, LABELS)
        got = value_and_gradient(case, logits, targets, **options)[1]
        close(got, expected(case, logits, targets, **options)[1], **CLOSE)


def differentiable(case: Case, generator: torch.Generator) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """Return the loss as a function of everything that has a derivative, and a point inside the domain."""
    names = [name for name in ("threshold", "label_weight", "prior", "sample_weight") if case.takes(name)]
    inner = 0.1 + 0.8 * torch.rand(6, 4, generator=generator, dtype=torch.float64)
    points = {"threshold": inner[2] - 0.5, "label_weight": inner[3], "prior": inner[4], "sample_weight": inner[5, :2]}

    options = case.only(scale=1.3, margin=0.2)

    def function(logits: Tensor, targets: Tensor, *rest: Tensor) -> Tensor:
        return case.function(logits, targets, **options, **dict(zip(names, rest, strict=True)))

    points = (batch(generator, 2, 4)[0], inner[:2], *(points[name] for name in names))
    return function, tuple(point.clone().requires_grad_() for point in points)


@contract("gradcheck")
def test_gradcheck(case: Case, generator: torch.Generator) -> None:
    assert torch.autograd.gradcheck(*differentiable(case, generator))


@contract("gradgradcheck")
def test_gradgradcheck(case: Case, generator: torch.Generator) -> None:
    assert torch.autograd.gradgradcheck(*differentiable(case, generator))


# --- numerics --------------------------------------------------------------------------------------------------------


@contract("extreme logits")
@pytest.mark.parametrize("hard_targets", [True, False])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, 1e4), (torch.float32, 1e30), (torch.float16, 6e4), (torch.bfloat16, 1e4), (torch.bfloat16, 1e30)],
)
def test_extreme_logits(case: Case, dtype: torch.dtype, size: float, hard_targets: bool) -> None:
    # Every way of being right or wrong with three labels.
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 3)
    targets = torch.cartesian_prod(*[torch.tensor([0.0, 1.0] if hard_targets else [0.0, 0.3, 1.0])] * 3)
    logits = (size * signs).to(dtype).repeat_interleave(len(targets), 0)
    targets = targets.repeat(27, 1)
    loss, gradient = value_and_gradient(case, logits, targets, reduction="none")
    value, slope = expected(case, logits, targets, reduction="none")
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert (gradient.float().abs().sum(-1) <= case.gradient_bound * (1 + 2 * torch.finfo(dtype).eps)).all()
    # A float32 of this size leaves size * eps for what is added to it: log t here, and the other side's sum in losses
    # where the two sums meet. Three labels of weight .3 and .7 cannot make that more than 2.
    lost = 0.0 if hard_targets and not case.sums_meet else min(2.0, 4 * size * torch.finfo(torch.float32).eps)
    close(loss, value, rtol=1e-6, atol=1e-6 + lost)
    # One rounding to the input's dtype on top of float32.
    close(gradient, slope, rtol=torch.finfo(dtype).eps, atol=1e-6 + lost)


@contract("extreme logits")
def test_float32_keeps_six_digits_at_ordinary_and_large_logits(case: Case, generator: torch.Generator) -> None:
    for size in (1.0, 10.0, 100.0, 1e4):
        logits = (size * torch.randn(ROWS, 300, generator=generator)).float()
        targets = hard(generator, ROWS, 300)
        loss, gradient = value_and_gradient(case, logits, targets, reduction="none")
        value, slope = expected(case, logits, targets, reduction="none")
        close(loss, value, rtol=1e-6, atol=0)
        close(gradient, slope, rtol=CLOSE_32["rtol"] * max(1.0, size), atol=1e-7)


@contract("half dtypes")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_dtypes_are_computed_in_float32(case: Case, dtype: torch.dtype, generator: torch.Generator) -> None:
    for _ in range(10):
        options = case.draw(generator)
        logits, targets = batch(generator)
        logits = logits.to(dtype)
        loss, gradient = value_and_gradient(case, logits, targets, **options)
        full_loss, full_gradient = value_and_gradient(case, logits.float(), targets, **options)
        assert loss.dtype == torch.float32
        assert gradient.dtype == dtype
        same(loss, full_loss)
        same(gradient, full_gradient.to(dtype))
        close(loss, expected(case, logits, targets, **options)[0], rtol=2e-6, atol=2e-6)


@contract("half dtypes")
def test_float64_stays_float64(case: Case, generator: torch.Generator) -> None:
    loss, gradient = value_and_gradient(case, *batch(generator))
    assert loss.dtype == gradient.dtype == torch.float64


@contract("autocast")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(case: Case, dtype: torch.dtype, generator: torch.Generator) -> None:
    for inner in (torch.bfloat16, torch.float16):
        options = case.draw(generator)
        logits, targets = batch(generator)
        logits = logits.to(dtype)
        outside = value_and_gradient(case, logits, targets, **options)
        with torch.autocast("cpu", dtype=inner):
            inside = value_and_gradient(case, logits, targets, **options)
        assert inside[0].dtype == torch.float32
        same(inside[0], outside[0])
        same(inside[1], outside[1])


@contract("target dtypes")
@pytest.mark.parametrize("dtype", TARGET_DTYPES, ids=str)
def test_every_target_dtype_gives_the_same(case: Case, dtype: torch.dtype, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    for scores in (logits, logits.float()):
        want = value_and_gradient(case, scores, targets)
        got = value_and_gradient(case, scores, targets.to(dtype))
        near(got[0], want[0])
        near(got[1], want[1])


@contract("extreme logits")
def test_a_mean_is_finite_where_the_sum_of_rows_is_not(case: Case) -> None:
    logits = torch.tensor([[1e38, -1e38]]).repeat(8, 1)
    targets = torch.tensor([[0.0, 1.0]]).repeat(8, 1)
    one = value_and_gradient(case, logits[:1], targets[:1], reduction="mean")[0]
    mean, gradient = value_and_gradient(case, logits, targets, reduction="mean")
    assert math.isfinite(one)
    assert float(mean) == pytest.approx(float(one), rel=1e-5)
    assert gradient.isfinite().all()


@contract("infinite logits")
def test_infinite_logits(case: Case) -> None:
    # Every row of three labels with these logits and targets. The loss of a row is what the formula says in the limit.
    logits = torch.cartesian_prod(*[torch.tensor([-math.inf, -1.0, 2.0, math.inf], dtype=torch.float64)] * 3)
    targets = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)] * 3)
    logits, targets = logits.repeat_interleave(len(targets), 0), targets.repeat(len(logits), 1)
    loss, gradient = value_and_gradient(case, logits, targets, reduction="none")
    value, slope = expected(case, logits, targets, reduction="none")
    close(loss, value, **CLOSE)
    assert loss.isinf().any()
    assert gradient.isfinite().all()
    assert (gradient[logits.isinf()] == 0).all()
    close(gradient[loss.isfinite()], slope[loss.isfinite()], **CLOSE)
    # The reductions carry the infinity and no NaN.
    assert value_and_gradient(case, logits, targets, reduction="mean")[0] == math.inf
    assert value_and_gradient(case, logits, targets, reduction="mean")[1].isfinite().all()


@contract("infinite logits")
def test_one_infinite_logit_on_the_wrong_side_and_on_the_right(case: Case) -> None:
    finite = torch.tensor([[2.0, -1.0]])
    right = torch.tensor([[2.0, -1.0, -math.inf], [2.0, -1.0, math.inf]])
    loss = case.function(right, torch.tensor([[1, 0, 0], [1, 0, 1]]), reduction="none")
    close(loss, case.function(finite, torch.tensor([[1, 0]]), reduction="none").expand(2), rtol=0, atol=1e-7)
    wrong = case.function(right, torch.tensor([[1, 0, 1], [1, 0, 0]]), reduction="none")
    assert wrong.tolist() == [math.inf, math.inf]


@contract("NaN logits")
def test_a_nan_logit_hurts_only_its_own_row(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    targets[2] = torch.tensor([1.0, 0, 0, 0, 1, 0, 0])
    clean = value_and_gradient(case, logits, targets, reduction="none")
    for label in (0, 1):
        broken = logits.clone()
        broken[2, label] = math.nan
        loss, gradient = value_and_gradient(case, broken, targets, reduction="none")
        others = torch.arange(ROWS) != 2
        assert loss[2].isnan()
        same(loss[others], clean[0][others])
        same(gradient[others], clean[1][others])


# --- reduction, masks, unknown targets -------------------------------------------------------------------------------


@contract("reduction")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_reduction(case: Case, reduction: str, weighted: bool, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    targets[1] = -1
    targets[4, :3] = -100
    weight = torch.tensor([2.0, 5.0, 0.0, 0.5, 1.0, 3.0], dtype=torch.float64) if weighted else None
    rows = [float(case.function(logits[r], targets[r])) for r in range(ROWS)]
    factors = [1.0] * ROWS if weight is None else weight.tolist()
    counted = [r for r in range(ROWS) if r != 1]
    total = math.fsum(factors[r] * rows[r] for r in counted)
    want = {
        "none": [factors[r] * rows[r] for r in range(ROWS)],
        "sum": total,
        "mean": total / sum(factors[r] for r in counted),
    }[reduction]
    loss, gradient = value_and_gradient(case, logits, targets, sample_weight=weight, reduction=reduction)
    close(loss, torch.tensor(want, dtype=torch.float64), **CLOSE)
    close(gradient, expected(case, logits, targets, sample_weight=weight, reduction=reduction)[1], **CLOSE)
    assert (gradient[1] == 0).all()


@contract("reduction")
def test_a_row_of_weight_zero_stays_out_even_when_infinite(case: Case) -> None:
    targets, weight = torch.tensor([[1, 0], [1, 0]]), torch.tensor([1.0, 0.0])
    for logit in (math.inf, -math.inf):
        logits = torch.tensor([[2.0, -1.0], [logit, 1.0]])
        loss, gradient = value_and_gradient(case, logits, targets, sample_weight=weight)
        want = value_and_gradient(case, logits[:1], targets[:1])
        same(loss, want[0])
        same(gradient[0], want[1][0])
        assert gradient[1].tolist() == [0, 0]


@contract("reduction")
def test_a_row_of_weight_zero_is_not_there_and_one_of_two_is_there_twice(
    case: Case, generator: torch.Generator
) -> None:
    logits, targets = batch(generator)
    targets[torch.rand(ROWS, LABELS, generator=generator) < 0.3] = -1
    targets[:, 2], targets[1, 2], targets[4] = math.nan, 1, -100  # label 2 is known in row 1 alone, row 4 not at all
    weight, copies = torch.tensor([1.0, 0, 1, 2, 1, 1]), torch.tensor([0, 2, 3, 3, 4, 5])
    for reduction in ("mean", "sum"):
        for options in ({"impl": impl} for impl in case.impls) if case.takes("impl") else ({},):
            options = {**options, "reduction": reduction}
            loss, gradient = value_and_gradient(case, logits, targets, sample_weight=weight, **options)
            want = value_and_gradient(case, logits[copies], targets[copies], **options)
            close(loss, want[0], **CLOSE)
            close(gradient, torch.zeros_like(logits).index_add(0, copies, want[1]), **CLOSE)


@contract("reduction")
def test_nothing_known_is_zero_with_zero_gradient(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    logits[0, 0], logits[1, 1] = math.nan, math.inf
    nothing = {
        "mask": {"targets": targets, "mask": torch.zeros(LABELS, dtype=torch.bool)},
        "unknown": {"targets": torch.full_like(targets, -1)},
        "weight": {"targets": targets, "sample_weight": torch.zeros(ROWS)},
    }
    for name, options in nothing.items():
        scores = logits.nan_to_num() if name == "weight" else logits
        for reduction in ("mean", "sum", "none"):
            loss, gradient = value_and_gradient(case, scores, reduction=reduction, **options)
            assert (loss == 0).all(), (name, reduction)
            assert (gradient == 0).all(), (name, reduction)


@contract("empty batch")
@pytest.mark.parametrize("lead", [(0,), (2, 0), (0, 3)])
def test_empty_batch(case: Case, lead: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.float16):
        logits = torch.zeros(*lead, LABELS, dtype=dtype)
        for reduction, shape in (("mean", ()), ("sum", ()), ("none", lead)):
            loss, gradient = value_and_gradient(case, logits, logits, reduction=reduction)
            same(loss, torch.zeros(shape))
            same(gradient, logits)


@contract("mask drops labels")
def test_mask_equals_dropping_the_labels(case: Case, generator: torch.Generator) -> None:
    keep = torch.tensor([1, 0, 1, 1, 0, 1, 1], dtype=torch.bool)
    for make in (hard, soft):
        logits, targets = batch(generator)[0], make(generator, ROWS, LABELS)
        options = case.only(label_weight=0.2 + torch.rand(LABELS, generator=generator).double())
        if case.takes("threshold"):
            options["threshold"] = torch.randn(LABELS, generator=generator).double()
        if case.takes("prior"):
            options["prior"] = torch.linspace(0.1, 0.7, LABELS).double()
        if case.takes("label_smoothing"):
            options["label_smoothing"] = 0.1
        dropped = {name: x[keep] if isinstance(x, Tensor) else x for name, x in options.items()}
        for reduction in ("none", "mean"):
            loss, gradient = value_and_gradient(case, logits, targets, mask=keep, reduction=reduction, **options)
            want = value_and_gradient(case, logits[:, keep], targets[:, keep], reduction=reduction, **dropped)
            close(loss, want[0], **CLOSE)
            close(gradient[:, keep], want[1], **CLOSE)
            assert (gradient[:, ~keep] == 0).all()


@contract("unknown targets")
@pytest.mark.parametrize("unknown", [-1, -100, math.nan])
@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_unknown_targets_equal_the_mask(
    case: Case, unknown: float, dtype: torch.dtype, generator: torch.Generator
) -> None:
    if math.isnan(unknown) and not dtype.is_floating_point:
        unknown = -1  # integers have no NaN
    logits, targets = batch(generator)
    mask = torch.rand(ROWS, LABELS, generator=generator) < 0.6
    mask[3] = False
    coded = torch.where(mask, targets, unknown).to(dtype)
    for options in ({}, {"label_smoothing": 0.2}) if case.takes("label_smoothing") else ({},):
        for reduction in ("mean", "none"):
            got = value_and_gradient(case, logits, coded, reduction=reduction, **options)
            want = value_and_gradient(case, logits, targets.to(dtype), mask=mask, reduction=reduction, **options)
            same(got[0], want[0])
            same(got[1], want[1])


@contract("masked slot")
def test_a_masked_slot_has_no_effect_whatever_is_in_it(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    mask = torch.ones(ROWS, LABELS, dtype=torch.bool)
    mask[0, 0] = mask[1, 3] = mask[2, 6] = mask[4, 4] = mask[4, 5] = False
    for options in ({}, {"label_smoothing": 0.2}) if case.takes("label_smoothing") else ({},):
        want = value_and_gradient(case, logits, targets, mask=mask, **options)
        for junk in (math.nan, math.inf, -math.inf, 1e30, -1e30):
            for label in (0.0, 1.0, 0.5, 7.0, -3.0, math.nan, math.inf):
                scores, labels = torch.where(mask, logits, junk), torch.where(mask, targets, label)
                loss, gradient = value_and_gradient(case, scores, labels, mask=mask, **options)
                same(loss, want[0])
                same(gradient, want[1])
                assert (gradient[~mask] == 0).all()


# --- weights, thresholds, priors, smoothing --------------------------------------------------------------------------


@contract("label weight")
def test_label_weight_one_is_unweighted_bit_for_bit(case: Case, generator: torch.Generator) -> None:
    for dtype in (torch.float64, torch.float32, torch.float16):
        logits, targets = batch(generator)[0].to(dtype), soft(generator, ROWS, LABELS)
        want = value_and_gradient(case, logits, targets, **case.only(impl="eager"))
        for shape in ((), (LABELS,), (ROWS, 1), (ROWS, LABELS)):
            # A kernel may add weighted labels up another way, equal but for rounding.
            weight = torch.ones(shape)
            got = value_and_gradient(case, logits, targets, label_weight=weight, **case.only(impl="eager"))
            same(got[0], want[0])
            same(got[1], want[1])


@contract("label weight")
def test_label_weight_two_is_the_label_twice(case: Case, generator: torch.Generator) -> None:
    # A weight inside the log counts terms: 2 is the label written down twice.
    logits, targets = batch(generator)
    weight = torch.tensor([2.0, 1, 1, 3, 1, 1, 1], dtype=torch.float64)
    copies = torch.tensor([0, 0, 1, 2, 3, 3, 3, 4, 5, 6])
    close(
        case.function(logits, targets, label_weight=weight, reduction="none"),
        case.function(logits[:, copies], targets[:, copies], reduction="none"),
        **CLOSE,
    )


@contract("zero weight")
def test_label_weight_zero_is_a_mask(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)[0], soft(generator, ROWS, LABELS)
    keep = torch.tensor([1, 0, 1, 1, 0, 1, 1], dtype=torch.bool)
    want = value_and_gradient(case, logits, targets, mask=keep)
    for junk in (0.0, math.nan, math.inf, -math.inf):
        scores = torch.where(keep, logits, junk)
        got = value_and_gradient(case, scores, targets, label_weight=keep.double())
        near(got[0], want[0])
        near(got[1], want[1])


@contract("threshold")
@pytest.mark.parametrize("shape", [(), (LABELS,), (ROWS, 1), (1, LABELS), (ROWS, LABELS)])
def test_threshold_is_subtracted_from_the_logits(
    case: Case, shape: tuple[int, ...], generator: torch.Generator
) -> None:
    logits, targets = batch(generator)
    # Multiples of 1/8: the subtraction is exact, so both ways must agree in every bit.
    logits = (8 * logits).round() / 8
    threshold = (8 * torch.randn(shape, generator=generator, dtype=torch.float64)).round() / 8
    want = value_and_gradient(case, logits - threshold, targets)
    options = [threshold, threshold.half()] + ([float(threshold)] if shape == () else [])
    for option in options:
        got = value_and_gradient(case, logits, targets, threshold=option)
        same(got[0], want[0])
        same(got[1], want[1])


@contract("learned threshold")
@pytest.mark.parametrize("shape", [(), (LABELS,), (ROWS, 1), (ROWS, LABELS)])
def test_gradient_of_a_learned_threshold(case: Case, shape: tuple[int, ...], generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    threshold = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    options = case.only(scale=1.4, margin=0.3)
    loss = case.function(logits, targets, threshold=threshold, **options)
    loss.backward()
    slope = expected(case, logits, targets, threshold=threshold.detach(), **options)[1]
    assert threshold.grad is not None
    # The threshold stands beside each logit with the other sign.
    close(threshold.grad, -slope.sum_to_size(shape), **CLOSE)


@contract("learned threshold")
def test_a_learned_threshold_gets_no_nan_from_masked_slots(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    mask = torch.rand(ROWS, LABELS, generator=generator) < 0.6
    gradients = []
    for junk in (0.0, math.nan, math.inf, -math.inf):
        threshold = torch.zeros(LABELS, dtype=torch.float64, requires_grad=True)
        case.function(torch.where(mask, logits, junk), targets, threshold=threshold, mask=mask).backward()
        assert threshold.grad is not None
        gradients.append(threshold.grad)
    for gradient in gradients:
        same(gradient, gradients[0])


@contract("prior")
def test_prior_takes_tensors_arrays_and_lists(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    prior = torch.linspace(0.01, 0.9, LABELS, dtype=torch.float64)
    want = expected(case, logits, targets, prior=prior, tau=0.8, scale=1.5)[0]
    for given in (prior, prior.numpy(), prior.tolist()):
        close(case.function(logits, targets, prior=given, tau=0.8, scale=1.5), want, **CLOSE)
    close(case.function(logits.float(), targets, prior=prior.numpy(), tau=0.8, scale=1.5), want, **CLOSE_32)


@contract("prior")
def test_module_takes_the_same_forms_of_prior(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    prior = torch.linspace(0.01, 0.9, LABELS, dtype=torch.float64)
    for given in (prior, prior.float(), prior.numpy(), prior.tolist()):
        module = case.module(prior=given)
        assert [name for name, _ in module.named_buffers()] == ["prior_logits"]
        same(module(logits, targets), case.function(logits, targets, prior=given))


@contract("prior")
def test_a_prior_next_to_0_or_1_is_inside(case: Case) -> None:
    # logit(1 - 1e-9) = 20.7233; half of it moves either zero logit to its right side.
    prior = np.array([1 - 1e-9, 1e-9])
    for dtype in (torch.float64, torch.float32):
        loss = case.function(torch.zeros(1, 2, dtype=dtype), torch.tensor([[1, 0]]), prior=prior).item()
        assert loss == pytest.approx(2 * math.log1p(math.exp(-20.7233 / 2)), rel=1e-4)


@contract("prior")
def test_prior_one_half_and_tau_zero_change_nothing(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    plain = case.function(logits, targets)
    same(case.function(logits, targets, prior=torch.full((LABELS,), 0.5), tau=3.0), plain)
    same(case.function(logits, targets, prior=torch.linspace(0.1, 0.9, LABELS), tau=0.0), plain)


@contract("prior")
def test_prior_goes_with_every_form_of_threshold(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    prior = torch.linspace(0.01, 0.9, LABELS, dtype=torch.float64)
    for shape in ((), (LABELS,), (ROWS, 1), (ROWS, LABELS)):
        options = {"prior": prior, "threshold": torch.randn(shape, generator=generator, dtype=torch.float64)}
        close(case.function(logits, targets, **options), expected(case, logits, targets, **options)[0], **CLOSE)


@contract("label smoothing")
def test_label_smoothing_dilutes_a_positives_gradient_as_documented(case: Case) -> None:
    # mathematics.md section 1: n=1000, k=3, s=0, eps=.1.
    targets = torch.zeros(1, 1000, dtype=torch.float64)
    targets[0, :3] = 1
    logits = torch.zeros_like(targets)
    for options, size in (({}, 0.25), ({"smoothing": "uniform"}, 0.0176), ({"smoothing": "mass"}, 0.225)):
        epsilon = 0.1 if options else 0.0
        gradient = value_and_gradient(case, logits, targets, label_smoothing=epsilon, **options)[1]
        assert gradient[0, 0].item() == pytest.approx(-size, abs=5.1e-5), options


@contract("label smoothing")
def test_mass_smoothing_keeps_a_row_without_positives(case: Case, generator: torch.Generator) -> None:
    logits = batch(generator)[0]
    nothing = torch.zeros(ROWS, LABELS)
    same(case.function(logits, nothing, label_smoothing=0.3), case.function(logits, nothing))
    assert case.function(logits, nothing, label_smoothing=0.3, smoothing="uniform") != case.function(logits, nothing)


@contract("identities")
def test_identities(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator, 20, 5)
    logits = logits / 3
    targets[0].fill_(0)
    targets[1].fill_(1)
    for name, identity in case.identities.items():
        got, want = identity(logits, targets)
        assert got.shape == want.shape == (20,), name
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13, msg=lambda text, name=name: f"{name}: {text}")


@contract("option errors")
def test_option_errors(case: Case) -> None:
    logits, targets = torch.randn(2, 3), torch.zeros(2, 3)
    wrong = [
        ({"scale": 0.0}, ValueError, "scale must be positive and finite; got 0"),
        ({"scale": -1.0}, ValueError, "scale must be positive and finite; got -1"),
        ({"scale": math.nan}, ValueError, "scale must be positive and finite; got nan"),
        ({"scale": math.inf}, ValueError, "scale must be positive and finite; got inf"),
        ({"margin": math.inf}, ValueError, "margin must be 0 or more.*got inf"),
        ({"margin": -0.1}, ValueError, "margin must be 0 or more.*got -0.1"),
        ({"margin": math.nan}, ValueError, "margin must be 0 or more.*got nan"),
        ({"impl": "triton"}, ValueError, 'impl must be "auto", "eager".* or "native"; got \'triton\''),
        ({"reduction": "avg"}, ValueError, 'reduction must be "mean", "sum" or "none"; got \'avg\''),
        ({"mask": torch.ones(2, 3)}, TypeError, r"mask must be boolean.*got torch\.float32.*mask\.bool\(\)"),
        ({"mask": torch.ones(3, 2).bool()}, ValueError, r"mask must broadcast to logits of shape \(2, 3\).*\(3, 2\)"),
        ({"label_weight": torch.ones(2)}, ValueError, r"label_weight must broadcast.*\(2, 3\).*got \(2,\)"),
        ({"label_weight": torch.ones(4, 2, 3)}, ValueError, r"label_weight must broadcast.*got \(4, 2, 3\)"),
        ({"label_weight": torch.tensor([1.0, -0.5, 1.0])}, ValueError, "label_weight must be 0 or more; got -0.5"),
        (
            {"sample_weight": torch.ones(3)},
            ValueError,
            r"sample_weight must broadcast.*\(2,\); got \(3,\).*label_weight",
        ),
    ]
    for value, needed in ((math.nan, "0 or more"), (math.inf, "finite"), (-1.0, "0 or more")):
        for name, shape in (("label_weight", 3), ("pos_weight", 3), ("sample_weight", 2)):
            tensor = torch.ones(shape)
            tensor[1] = value
            wrong.append(({name: tensor}, ValueError, f"{name} must be {needed}; got {value:g}"))
        wrong.append(({"pos_weight": value}, ValueError, f"pos_weight must be {needed}; got {value:g}"))
    for value in (math.nan, math.inf, -math.inf):
        prior = torch.full((3,), 0.5)
        wrong.append(({"tau": value, "prior": prior}, ValueError, f"tau must be finite; got {value}"))
        wrong.append(({"tau": value}, ValueError, f"tau must be finite; got {value}"))
        for threshold in (value, torch.tensor(value), torch.tensor([[0.0], [value]]), torch.tensor([1.0, value, 1.0])):
            wrong.append(({"threshold": threshold}, ValueError, f"threshold must be finite; got {value}"))
        wrong.append(
            ({"prior": torch.tensor([0.5, value, 0.5])}, ValueError, "prior must lie strictly between 0 and 1")
        )
    if case.takes("threshold"):
        wrong.append(({"threshold": torch.ones(2)}, ValueError, r"threshold must broadcast.*got \(2,\)"))
        # Large ones are right, also where their sum is not.
        case.function(logits, targets, threshold=torch.full((3,), 2e38))
    if case.takes("prior"):
        for value in (0.0, 1.0, -0.2, 1.5):
            prior = torch.tensor([0.5, value, 0.5])
            wrong.append(({"prior": prior}, ValueError, "prior must lie strictly between 0 and 1.*label_prior"))
        wrong.append(({"prior": torch.full((2,), 0.5)}, ValueError, r"prior must broadcast.*got \(2,\)"))
        wrong.append(
            ({"prior": torch.full((3,), 0.5), "scale": 0.0}, ValueError, "scale must be positive and finite; got 0")
        )
    if case.takes("label_smoothing"):
        wrong.append(({"label_smoothing": 1.5}, ValueError, r"label smoothing must lie in \[0, 1\]; got 1.5"))
        wrong.append(({"label_smoothing": -0.1}, ValueError, r"label smoothing must lie in \[0, 1\]; got -0.1"))
        for epsilon in (0.1, 0.0):
            options = {"label_smoothing": epsilon, "smoothing": "max"}
            wrong.append((options, ValueError, 'smoothing must be "mass" or "uniform"; got \'max\''))
    failures = []
    for options, error, text in wrong:
        if not all(case.takes(name) for name in options):
            continue
        try:
            with pytest.raises(error, match=text):
                case.function(logits, targets, **options)
        except (Exception, pytest.fail.Exception) as problem:
            failures.append(f"{options}: {type(problem).__name__}: {problem}")
    assert not failures, "\n".join(failures)


@contract("option errors")
def test_targets_out_of_range_are_named_before_anything_changes_them(case: Case) -> None:
    logits = torch.randn(2, 3)
    targets = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.04]])
    for options in ({}, {"label_smoothing": 0.1}) if case.takes("label_smoothing") else ({},):
        with pytest.raises(ValueError, match=r"targets must lie in \[0, 1\].*got 1.04 at row 1, label 2"):
            case.function(logits, targets, **options)


@contract("option errors")
def test_options_are_keyword_only(case: Case) -> None:
    parameters = list(inspect.signature(case.function).parameters.values())
    assert [p.name for p in parameters[:2]] == ["logits", "targets"]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[2:])
    tail = {"mask": None, "label_weight": None, "sample_weight": None, "reduction": "mean", "impl": "auto"}
    tail = {name: default for name, default in tail.items() if case.takes(name)}
    assert [(p.name, p.default) for p in parameters[-len(tail) :]] == list(tail.items())


# --- symmetry and shape ----------------------------------------------------------------------------------------------


@contract("permutation")
def test_permutation_equivariance(case: Case, generator: torch.Generator) -> None:
    for make in (hard, soft):
        logits, targets = batch(generator)[0], make(generator, ROWS, LABELS)
        weight = torch.rand(LABELS, generator=generator, dtype=torch.float64)
        labels, rows = torch.randperm(LABELS, generator=generator), torch.randperm(ROWS, generator=generator)
        loss, gradient = value_and_gradient(case, logits, targets, reduction="none", **case.only(label_weight=weight))
        got = value_and_gradient(
            case,
            logits[rows][:, labels],
            targets[rows][:, labels],
            reduction="none",
            **case.only(label_weight=weight[labels]),
        )
        close(got[0], loss[rows], **CLOSE)
        close(got[1], gradient[rows][:, labels], **CLOSE)


@contract("rows independent")
def test_a_row_does_not_see_the_others(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    loss, gradient = value_and_gradient(case, logits, targets, reduction="none")
    for junk in (0.0, 1e4, math.nan, math.inf, -math.inf):
        for row in range(ROWS):
            scores, labels = torch.full_like(logits, junk), 1 - targets
            scores[row], labels[row] = logits[row], targets[row]
            got = value_and_gradient(case, scores, labels, reduction="none")
            same(got[0][row], loss[row])
            same(got[1][row], gradient[row])


@contract("leading axes")
def test_any_leading_axes(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator, 12, LABELS)
    mask = torch.rand(12, LABELS, generator=generator) < 0.8
    weight = torch.rand(12, generator=generator, dtype=torch.float64)
    flat = value_and_gradient(case, logits, targets, mask=mask, sample_weight=weight, reduction="none")
    mean = value_and_gradient(case, logits, targets, mask=mask, sample_weight=weight)
    for lead in ((3, 4), (2, 3, 2), (12, 1), (1, 12)):
        shape = (*lead, LABELS)
        args = (logits.view(shape), targets.view(shape))
        options = {"mask": mask.view(shape), "sample_weight": weight.view(lead)}
        loss, gradient = value_and_gradient(case, *args, reduction="none", **options)
        same(loss, flat[0].view(lead))
        same(gradient, flat[1].view(shape))
        loss, gradient = value_and_gradient(case, *args, **options)
        close(loss, mean[0], **CLOSE)
        close(gradient, mean[1].view(shape), **CLOSE)


@contract("leading axes")
def test_one_row_without_a_batch_axis(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    for row in range(ROWS):
        for reduction in ("mean", "sum", "none"):
            loss, gradient = value_and_gradient(case, logits[row], targets[row], reduction=reduction)
            want = value_and_gradient(case, logits[row : row + 1], targets[row : row + 1])
            assert loss.shape == ()
            close(loss, want[0], **CLOSE)
            close(gradient, want[1][0], **CLOSE)


@contract("non-contiguous")
def test_non_contiguous_inputs(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    mask = torch.rand(ROWS, LABELS, generator=generator) < 0.8
    want = expected(case, logits, targets, mask=mask)

    def strided(x: Tensor) -> Tensor:
        return torch.stack((x, 1 - x.double()), -1).to(x.dtype)[..., 0]

    for view in (lambda x: x.t().contiguous().t(), strided):
        tensors = [view(x) for x in (logits, targets, mask)]
        assert not any(x.is_contiguous() for x in tensors)
        leaf = tensors[0].detach().requires_grad_()
        loss = case.function(leaf, tensors[1], mask=tensors[2])
        loss.backward()
        close(loss.detach(), want[0], **CLOSE)
        assert leaf.grad is not None
        close(leaf.grad, want[1], **CLOSE)
    row = (logits[:1].expand(ROWS, LABELS), targets[:1].expand(ROWS, LABELS))
    close(case.function(*row), expected(case, logits[:1], targets[:1])[0], **CLOSE)


@contract("one-sided rows")
@pytest.mark.parametrize("labels", [1, 2, 5])
@pytest.mark.parametrize("target", [0, 1])
def test_rows_with_one_empty_side(case: Case, labels: int, target: int, generator: torch.Generator) -> None:
    for size in (1.0, 50.0, 1e4):
        logits = size * torch.randn(ROWS, labels, generator=generator, dtype=torch.float64)
        targets = torch.full((ROWS, labels), target)
        options = case.only(reduction="none", scale=1.5, margin=0.5)
        loss, gradient = value_and_gradient(case, logits, targets, **options)
        value, slope = expected(case, logits, targets, **options)
        # Softmax weights of logits this large carry the rounding of the exponents.
        close(loss, value, **CLOSE)
        close(gradient, slope, rtol=1e-12 * size, atol=1e-13)


# --- autograd and inputs ---------------------------------------------------------------------------------------------


@contract("target gradient")
def test_gradient_through_targets_is_finite_also_at_0_and_1(case: Case, generator: torch.Generator) -> None:
    logits = batch(generator)[0]
    for epsilon in (0.0, 0.2) if case.takes("label_smoothing") else (0.0,):
        options = {"label_smoothing": epsilon} if epsilon else {}
        targets = soft(generator, ROWS, LABELS).requires_grad_()
        case.function(logits, targets, **options).backward()
        assert targets.grad is not None
        assert targets.grad.isfinite().all()


@contract("inputs unmodified")
def test_inputs_are_not_modified(case: Case, generator: torch.Generator) -> None:
    for _ in range(10):
        options = case.draw(generator)
        logits, targets = batch(generator)
        targets[0, 0], targets[1, 1], logits[0, 0] = -1, math.nan, math.nan
        inputs = {"logits": logits, "targets": targets} | {k: v for k, v in options.items() if isinstance(v, Tensor)}
        before = {name: (x.clone(), x._version) for name, x in inputs.items()}
        leaf = logits.requires_grad_()
        case.function(leaf, targets, **options).sum().backward()
        for name, x in inputs.items():
            same(x.detach(), before[name][0])
            assert x._version == before[name][1], name


@contract("no_grad")
def test_no_grad_is_respected(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    leaf = logits.clone().requires_grad_()
    want = case.function(leaf, targets)
    assert want.requires_grad
    assert not case.function(logits, targets).requires_grad
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            loss = case.function(leaf, targets)
            assert torch.is_grad_enabled() is False
        assert not loss.requires_grad
        assert loss.grad_fn is None
        assert loss.item() == want.item()
    assert torch.is_grad_enabled()


@contract("no_grad")
def test_a_graph_can_be_used_twice(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    leaf = logits.requires_grad_()
    loss = case.function(leaf, targets)
    (first,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    (second,) = torch.autograd.grad(3 * loss, leaf)
    close(second, 3 * first, **CLOSE)


# --- module ----------------------------------------------------------------------------------------------------------


def module_options(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """Draw options without those that come with the batch."""
    options = case.draw(generator)
    return {name: x for name, x in options.items() if name not in ("mask", "sample_weight")}


@contract("signature")
def test_module_signature_equals_the_function(case: Case) -> None:
    per_batch = ("logits", "targets", "mask", "sample_weight")
    of_function = inspect.signature(case.function).parameters
    of_init = inspect.signature(case.module).parameters
    of_forward = inspect.signature(case.module.forward).parameters
    kept = {n: (p.kind, p.default, p.annotation) for n, p in of_function.items() if n not in per_batch}
    assert {n: (p.kind, p.default, p.annotation) for n, p in of_init.items()} == kept
    assert list(of_init) == list(kept)
    assert list(of_forward) == ["self", *per_batch]
    for name in per_batch:
        assert of_forward[name].default == of_function[name].default
        assert of_forward[name].kind == of_function[name].kind


@contract("module values")
def test_module_equals_function(case: Case, generator: torch.Generator) -> None:
    same(case.module()(*batch(generator)), case.function(*batch(generator.manual_seed(20220805))))
    for _ in range(20):
        options = module_options(case, generator)
        logits, targets = batch(generator)
        mask = torch.rand(ROWS, LABELS, generator=generator) < 0.8
        weight = torch.rand(ROWS, generator=generator, dtype=torch.float64)
        module = case.module(**options)
        got = module(logits, targets, mask=mask, sample_weight=weight)
        same(got, case.function(logits, targets, mask=mask, sample_weight=weight, **options))
        same(module(logits, targets), case.function(logits, targets, **options))


@contract("module state")
def test_module_tensors_are_buffers_and_survive(case: Case, generator: torch.Generator) -> None:
    tensors = case.only(label_weight=torch.linspace(0.5, 2, LABELS))
    if case.takes("threshold"):
        tensors["threshold"] = torch.linspace(-1, 1, LABELS)
    if case.takes("prior"):
        tensors["prior"] = torch.linspace(0.1, 0.9, LABELS)
    module = case.module(**tensors, **case.only(scale=1.5))
    # Of a prior the log-odds are kept.
    names = {f"{name}_logits" if name == "prior" else name for name in tensors}
    assert dict(module.named_buffers()).keys() == names == module.state_dict().keys()
    assert list(module.parameters()) == []
    logits, targets = batch(generator)
    want = module(logits, targets)

    twin = copy.deepcopy(module)
    same(twin(logits, targets), want)
    for name, buffer in twin.named_buffers():
        assert buffer.data_ptr() != module.get_buffer(name).data_ptr()

    other = case.module(**{name: x * x / 2 for name, x in tensors.items()}, **case.only(scale=1.5))
    assert other(logits, targets) != want
    other.load_state_dict(module.state_dict())
    same(other(logits, targets), want)

    double = copy.deepcopy(module).to(torch.float64)
    assert {x.dtype for x in double.buffers()} == {torch.float64}
    same(double(logits, targets), want)
    for cast in (nn.Module.half, nn.Module.bfloat16, nn.Module.float, lambda x: x.to(torch.bfloat16)):
        same(cast(copy.deepcopy(module))(logits.float(), targets), module(logits.float(), targets))

    # In a model: nn.Sequential and friends see the same buffers.
    assert {f"loss.{name}" for name in names} == set(nn.ModuleDict({"loss": module}).state_dict())


@contract("module state")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_options_survive_every_cast_of_the_module(case: Case, dtype: torch.dtype, generator: torch.Generator) -> None:
    # 1e-9 is 0 in float16 and 1e5 is infinite; 1 - 1e-9 is 1 in float32, .9999 in bfloat16.
    tensors = case.only(
        label_weight=torch.tensor([1e-9, 1e5, 1, 1, 1, 0.3, 2]),
        pos_weight=torch.tensor([1.0, 1, 1e-9, 1e5, 1, 1, 3]),
        threshold=torch.tensor([0.0, 1e5, -1e-9, 0.1, 0, 0, 0]),
        prior=[1e-9, 1 - 1e-9, 0.9999, 0.5, 1e-4, 0.1, 0.3],
    )
    logits, targets = batch(generator)
    logits = logits.float()
    want = case.function(logits, targets, **tensors)
    model = nn.ModuleDict({"loss": case.module(**tensors), "head": nn.Linear(2, 3)}).to(dtype)
    assert model["head"].weight.dtype == dtype
    assert {x.dtype for x in model.buffers()} <= {torch.float32, torch.float64}
    for module in (model["loss"], copy.deepcopy(model["loss"]), model.half().float()["loss"]):
        same(module(logits, targets), want)
        same(module(logits.to(torch.bfloat16), targets), case.function(logits.bfloat16(), targets, **tensors))


@contract("module state")
def test_options_move_as_the_module_does(case: Case) -> None:
    tensors = case.only(label_weight=torch.linspace(0.5, 2, LABELS).double(), prior=torch.full((LABELS,), 0.3).double())
    module = case.module(**tensors)
    state = module.state_dict()
    empty = copy.deepcopy(module).to("meta")
    assert {x.device.type for x in empty.buffers()} <= {"meta"}
    empty.half().to_empty(device="cpu").load_state_dict(state)
    for name, value in empty.state_dict().items():
        same(value, state[name])

    def of_a_device_without_float64(x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return x.clone()

    moved = copy.deepcopy(module)._apply(of_a_device_without_float64)
    assert {x.dtype for x in moved.buffers()} <= {torch.float32}


@contract("prior")
def test_a_state_with_frequencies_is_not_taken_for_log_odds(case: Case) -> None:
    module = case.module(prior=torch.full((LABELS,), 0.3))
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "prior"'):
        module.load_state_dict({"prior": torch.full((LABELS,), 0.3)})
    with pytest.raises(ValueError, match="prior must lie strictly between 0 and 1"):
        case.module(prior=[0.5, 1.0])


@contract("module state")
def test_module_without_tensors_has_an_empty_state(case: Case) -> None:
    assert dict(case.module().state_dict()) == {}
    assert case.module().load_state_dict({}).missing_keys == []


@contract("learned parameter")
def test_a_parameter_threshold_is_learned(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    threshold = nn.Parameter(torch.zeros(LABELS, dtype=torch.float64))
    module = case.module(threshold=threshold)
    assert [name for name, _ in module.named_parameters()] == ["threshold"]
    assert next(module.parameters()) is threshold
    assert list(module.state_dict()) == ["threshold"]
    twin = copy.deepcopy(module)
    assert isinstance(twin.get_parameter("threshold"), nn.Parameter)
    before = module(logits, targets)
    before.backward()
    slope = expected(case, logits, targets)[1]
    assert threshold.grad is not None
    close(threshold.grad, -slope.sum(0), **CLOSE)
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert module(logits, targets) < before
    same(twin(logits, targets), before)


# --- transforms ------------------------------------------------------------------------------------------------------


def check_compiled(case: Case, backend: str, generator: torch.Generator, options: dict[str, Any]) -> None:
    logits, targets = batch(generator)
    torch._dynamo.reset()
    compiled = torch.compile(case.function, fullgraph=True, backend=backend)
    want = value_and_gradient(case, logits.float(), targets, **options)
    leaf = logits.float().requires_grad_()
    loss = compiled(leaf, targets, **options)
    loss.sum().backward()
    close(loss.detach(), want[0], rtol=1e-6, atol=1e-6)
    assert leaf.grad is not None
    close(leaf.grad, want[1], rtol=1e-5, atol=1e-6)


def compile_options(case: Case, generator: torch.Generator) -> Iterator[dict[str, Any]]:
    yield {}
    everything: dict[str, Any] = {
        "mask": torch.rand(ROWS, LABELS, generator=generator) < 0.8,
        "sample_weight": torch.linspace(0, 1, ROWS),
        "reduction": "none",
        **case.only(label_weight=torch.linspace(0, 2, LABELS), scale=1.5, margin=0.5),
    }
    if case.takes("threshold"):
        everything["threshold"] = torch.linspace(-1, 1, LABELS)
    if case.takes("prior"):
        everything["prior"] = torch.linspace(0.1, 0.9, LABELS)
    if case.takes("label_smoothing"):
        everything["label_smoothing"] = 0.1
    yield everything


@contract("compile", slow=True)
def test_compile_equals_eager(case: Case, generator: torch.Generator) -> None:
    for options in compile_options(case, generator):
        check_compiled(case, "aot_eager", generator, options)


@contract("compile")
def test_compile_of_the_module(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    torch._dynamo.reset()
    # What is traced, bit for bit.
    module = case.module(**case.only(label_weight=torch.linspace(0.5, 2, LABELS), impl="eager"))
    same(torch.compile(module, fullgraph=True, backend="eager")(logits, targets), module(logits, targets))


@contract("compile inductor")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # inside torch
def test_inductor_equals_eager(case: Case, generator: torch.Generator) -> None:
    if not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler: torch.compile's inductor cannot build for the CPU")
    *_, options = compile_options(case, generator)
    check_compiled(case, "inductor", generator, options)


@contract("vmap")
def test_vmap_of_grad_gives_the_gradient_of_each_row(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    targets[0, 0] = -1
    want = value_and_gradient(case, logits, targets, reduction="sum")[1]
    close(torch.func.vmap(torch.func.grad(case.function))(logits, targets), want, **CLOSE)
    close(torch.func.grad(lambda s: case.function(s, targets, reduction="sum"))(logits), want, **CLOSE)


@contract("vmap")
def test_vmap_over_an_option_alone(case: Case, generator: torch.Generator) -> None:
    logits, targets = batch(generator)
    batched = {
        "mask": torch.rand(3, ROWS, LABELS, generator=generator) < 0.7,
        "label_weight": torch.rand(3, LABELS, generator=generator, dtype=torch.float64),
        "sample_weight": torch.rand(3, ROWS, generator=generator, dtype=torch.float64),
        "threshold": torch.randn(3, LABELS, generator=generator, dtype=torch.float64),
        "prior": 0.1 + 0.8 * torch.rand(3, LABELS, generator=generator, dtype=torch.float64),
    }
    failures = []
    for name, values in batched.items():
        if not case.takes(name):
            continue
        want = torch.stack([case.function(logits, targets, **{name: value}) for value in values])
        try:
            got = torch.func.vmap(lambda value, name=name: case.function(logits, targets, **{name: value}))(values)
            close(got, want, **CLOSE)
        except (RuntimeError, AssertionError) as problem:
            failures.append(f"{name}: {str(problem).splitlines()[0]}")
    assert not failures, "\n".join(failures)


@contract("gradient bound")
def test_gradient_of_a_row_is_bounded_and_the_bound_is_reached(case: Case, generator: torch.Generator) -> None:
    for scale in (1.0, 0.3, 4.0):
        bound = case.gradient_bound * scale
        largest = 0.0
        for size in (0.1, 1.0, 10.0, 1e3):
            logits = size * torch.randn(200, LABELS, generator=generator, dtype=torch.float64)
            targets = soft(generator, 200, LABELS)
            gradient = value_and_gradient(case, logits, targets, scale=scale, margin=0.3, reduction="sum")[1]
            norms = gradient.abs().sum(-1)
            assert (norms <= bound * (1 + 1e-12)).all()
            largest = max(largest, norms.max().item())
        assert largest == pytest.approx(bound, rel=1e-6)


@contract("every impl")
@pytest.mark.parametrize("impl", IMPLS)
def test_every_impl_equals_the_reference(case: Case, impl: str, generator: torch.Generator) -> None:
    if impl not in case.impls:
        with pytest.raises(ValueError, match=f"got '{impl}'"):
            case.function(*batch(generator), impl=impl)
        return
    for make in (hard, soft):
        for _ in range(10):
            options = case.draw(generator)
            logits, targets = batch(generator)[0], make(generator, ROWS, LABELS)
            got = value_and_gradient(case, logits, targets, impl=impl, **options)
            want = expected(case, logits, targets, **options)
            close(got[0], want[0], **CLOSE)
            close(got[1], want[1], **CLOSE)


@contract("every impl")
@pytest.mark.parametrize("impl", ["blocked", "native"])
def test_every_impl_equals_eager_at_the_ends_of_the_number_line(case: Case, impl: str) -> None:
    if impl not in case.impls:
        return
    ends = torch.tensor([-math.inf, -1e30, -1e4, -81.0, -41.0, 0.0, 39.0, 79.0, 1e4, 1e30, math.inf, math.nan])
    logits = torch.cartesian_prod(ends, ends, torch.tensor([0.0, 1.0]))
    for row in torch.cartesian_prod(*[torch.tensor([0.0, 1.0, 0.3, -1.0])] * 3):
        targets = row.expand(len(logits), 3)
        got = value_and_gradient(case, logits, targets, impl=impl, reduction="none")
        want = value_and_gradient(case, logits.double(), targets, impl="eager", reduction="none")
        # What float32 loses of a sum of two exponents of this size: see test_extreme_logits.
        size = torch.where(logits.isfinite(), logits.abs(), 0).amax(-1)
        lost = (4 * size * torch.finfo(torch.float32).eps).clamp(max=2.0) + 1e-5
        nan = want[0].isnan()
        assert (got[0].isnan() == nan).all()
        assert (got[1][nan][:, row == -1] == 0).all()
        for mine, theirs, slack in ((got[0], want[0], lost), (got[1], want[1], lost.unsqueeze(-1))):
            mine, theirs, slack = mine[~nan], theirs[~nan], slack[~nan]
            assert not mine.isnan().any()
            assert (mine.isinf() == theirs.isinf()).all()
            finite = theirs.isfinite()
            gap = torch.where(finite, mine.double() - theirs, 0).abs()
            assert (gap <= slack + 1e-6 * torch.where(finite, theirs, 0).abs()).all(), row


# --- the matrix ------------------------------------------------------------------------------------------------------


def matrix(cases: Sequence[Case], tests: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Return the lines of the table row x property, and every cell that neither a test nor a reason fills."""
    covered: dict[str, set[str]] = {prop: set() for prop in PROPERTIES}
    gaps = []
    for test in tests:
        prop, rows = test.contract
        if prop not in covered:
            gaps.append(f"{test.__name__} shows {prop!r}, which cases.PROPERTIES does not list")
        covered.setdefault(prop, set()).update(rows)
    width = max(map(len, covered))
    lines = [" " * width + "  " + "  ".join(case.name for case in cases)]
    for prop, rows in covered.items():
        line = prop.ljust(width)
        for case in cases:
            reason = case.not_applicable.get(prop, "").strip()
            mark = "x" if case.name in rows else "-" if reason else "GAP"
            if mark == "GAP":
                gaps.append(f"{case.name}: {prop}")
            line += "  " + mark.ljust(len(case.name))
        lines.append(line.rstrip())
    lines += [f"- {case.name}, {prop}: {why}" for case in cases for prop, why in case.not_applicable.items()]
    unknown = [
        f"{case.name}: {prop!r} is no property" for case in cases for prop in case.not_applicable.keys() - covered
    ]
    return lines, gaps + unknown


def contract_tests() -> list[Any]:
    return [test for test in vars(sys.modules[__name__]).values() if hasattr(test, "contract") and callable(test)]


def test_matrix_of_rows_and_properties() -> None:
    lines, gaps = matrix(CASES, contract_tests())
    print("\n".join(lines))
    assert not gaps


def test_matrix_notices_a_gap() -> None:
    tests = contract_tests()
    without = [test for test in tests if test.contract[0] != "vmap"]
    assert matrix(CASES, without)[1] == [f"{case.name}: vmap" for case in CASES]
    silent = Case(**{**vars(CASES[1]), "not_applicable": {**CASES[1].not_applicable, "prior": " "}})
    assert matrix([silent], tests)[1] == ["pairwise: prior"]
    misspelt = Case(**{**vars(CASES[1]), "not_applicable": {**CASES[1].not_applicable, "priors": "none"}})
    assert matrix([misspelt], tests)[1] == ["pairwise: 'priors' is no property"]


def test_every_public_loss_has_a_row() -> None:
    losses = {name for name in manyhot.__all__ if name.endswith("_loss")}
    modules = {name for name in manyhot.__all__ if name.endswith("Loss")}
    assert {case.function.__name__ for case in CASES} | {case.module.__name__ for case in CASES} | set(ELSEWHERE) == (
        losses | modules
    )
    for name, file in ELSEWHERE.items():
        assert name in Path(__file__).with_name(file).read_text(encoding="utf-8"), file


def test_the_reference_differs_between_losses(generator: torch.Generator) -> None:
    """Guard against a row that points to the reference of another loss."""
    logits, targets = batch(generator)
    # With sets of any size, its default, subset is bce: cases.py has that among its identities.
    cases = [case for case in CASES if case.name != "subset"]
    values = [float(case.reference(logits.numpy(), targets.numpy())[0]) for case in cases]
    assert len(np.unique(np.round(values, 6))) == len(cases)


def test_a_module_shows_the_options_that_are_not_its_defaults() -> None:
    assert repr(manyhot.ZLPRLoss()) == "ZLPRLoss()"
    assert repr(manyhot.ZLPRLoss(scale=2.0, reduction="sum")) == "ZLPRLoss(scale=2.0, reduction='sum')"
    tensors = manyhot.ZLPRLoss(prior=[0.5, 0.1], threshold=torch.nn.Parameter(torch.zeros(2)), tau=2.0)
    assert repr(tensors) == "ZLPRLoss(threshold=Parameter(2,), prior=Tensor(2,), tau=2.0)"
    assert repr(manyhot.FocalLoss(alpha=0.25)) == "FocalLoss(alpha=0.25)"
    assert repr(manyhot.SubsetLoss(max_labels=torch.tensor([1, 2]))) == "SubsetLoss(max_labels=Tensor(2,))"
