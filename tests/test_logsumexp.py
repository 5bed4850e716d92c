"""The primitive: values, accuracy up to a million labels, the identities of mathematics.md, and what it refuses."""

import math
import subprocess
import sys
import warnings
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import manyhot
import reference
from manyhot import batch as module

finite = st.floats(-700, 700, allow_nan=False, width=64)
rows_of_logits = st.lists(finite, min_size=1, max_size=12)


def close(got: Any, want: Any, *, rtol: float = 1e-12, atol: float = 1e-13) -> None:
    got, want = (torch.as_tensor(x, dtype=torch.float64) for x in (got, want))
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


def draw(generator: torch.Generator, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, hard targets, soft targets."""
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    hard = (torch.rand(shape, generator=generator) < 0.4).double()
    soft = torch.rand(shape, generator=generator, dtype=torch.float64)
    return logits, hard, torch.where(soft < 0.15, 0, torch.where(soft > 0.85, 1, soft))


# --- values ----------------------------------------------------------------------------------------------------------


def test_hand_values() -> None:
    logits, targets = torch.tensor([[2.0, -1.0, 3.0]]), torch.tensor([[1, 0, 0]])
    neg, pos = manyhot.signed_logsumexp(logits, targets)
    # log(e^-1 + e^3) = 3.01815, log(e^-2) = -2
    close(neg, [3.0181], atol=6e-5)
    close(pos, [-2.0])
    neg, pos = manyhot.signed_logsumexp(logits, targets, scale=2.0, margin=0.5, threshold=1.0)
    # negatives 2(s - 1 + .5): -3 and 5; positive -2(2 - 1 - .5) = -1
    close(neg, [math.log(math.exp(-3) + math.exp(5))], atol=1e-6)
    close(pos, [-1.0])


def test_equals_the_reference_on_random_options(generator: torch.Generator) -> None:
    tensors = {
        "labels": lambda: torch.rand(7, generator=generator, dtype=torch.float64),
        "rows": lambda: torch.rand(5, 1, generator=generator, dtype=torch.float64),
        "cells": lambda: torch.rand(5, 7, generator=generator, dtype=torch.float64),
    }
    for threshold, weight, mask in product((None, *tensors), repeat=3):
        logits, hard, soft = draw(generator, 5, 7)
        options: dict[str, Any] = {"scale": 1.7, "margin": 0.4}
        if threshold:
            options["threshold"] = tensors[threshold]()
        if weight:
            value = tensors[weight]()
            options["label_weight"] = torch.where(value < 0.2, 0, value)
        if mask:
            options["mask"] = tensors[mask]() < 0.8
        for targets in (hard, soft):
            got = manyhot.signed_logsumexp(logits, targets, **options)
            arrays: dict[str, Any] = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in options.items()}
            want = reference.signed_logsumexp(logits.numpy(), targets.numpy(), **arrays)
            close(got[0], want[0])
            close(got[1], want[1])


def test_an_empty_side_is_minus_infinity_without_gradient(generator: torch.Generator) -> None:
    logits = draw(generator, 4, 5)[0].requires_grad_()
    for targets, empty in ((torch.zeros(4, 5), 1), (torch.ones(4, 5), 0), (torch.full((4, 5), -1), 0)):
        side = manyhot.signed_logsumexp(logits, targets)[empty]
        assert side.tolist() == [-math.inf] * 4
        (gradient,) = torch.autograd.grad(side.sum(), logits)
        assert (gradient == 0).all()


def test_reduces_to_torch_logsumexp(generator: torch.Generator) -> None:
    logits = draw(generator, 4, 50)[0]
    close(manyhot.signed_logsumexp(logits, torch.zeros_like(logits))[0], torch.logsumexp(logits, -1))
    close(manyhot.signed_logsumexp(logits, torch.ones_like(logits))[1], torch.logsumexp(-logits, -1))


@pytest.mark.parametrize(
    ("dtype", "result"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float32,) * 2, (torch.float64,) * 2],
)
def test_result_dtype(dtype: torch.dtype, result: torch.dtype) -> None:
    threshold, weight = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    sides = manyhot.signed_logsumexp(
        torch.zeros(2, 3, dtype=dtype), torch.eye(3)[:2], threshold=threshold, label_weight=weight
    )
    assert [side.dtype for side in sides] == [result, result]
    close(sides[0], [math.log(2)] * 2, atol=1e-7)


# --- accuracy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [1, 28, 4096, 10**6])
@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_float32_against_exact_sums(labels: int, spread: float, generator: torch.Generator) -> None:
    logits = (spread * torch.randn(1, labels, generator=generator)).float()
    targets = (torch.rand(1, labels, generator=generator) < 0.3).float()
    targets[0, 0] = 1
    got = manyhot.signed_logsumexp(logits, targets)
    s, chosen = logits[0].double().numpy(), targets[0].numpy() > 0
    want = [reference.lse(s[~chosen].tolist()), reference.lse((-s[chosen]).tolist())]
    # exp and the blocked sum: a few float32 roundings of the total, so absolute in its logarithm; one rounding of that.
    for side, exact in zip(got, want, strict=True):
        assert side.item() == pytest.approx(exact, rel=1.2e-7, abs=5e-7)
    loss = manyhot.zlpr_loss(logits, targets).item()
    assert loss == pytest.approx(reference.softplus(want[0]) + reference.softplus(want[1]), rel=2.5e-7, abs=0)


@pytest.mark.parametrize("labels", [1, 28, 4096])
def test_float64_against_forty_digits(labels: int, generator: torch.Generator) -> None:
    for spread in (1.0, 30.0):
        logits = spread * torch.randn(1, labels, generator=generator, dtype=torch.float64)
        targets = torch.zeros(1, labels)
        neg = manyhot.signed_logsumexp(logits, targets)[0].item()
        pos = manyhot.signed_logsumexp(logits, 1 - targets)[1].item()
        assert neg == pytest.approx(reference.exact_lse(logits[0].tolist()), rel=2e-15, abs=2e-15)
        assert pos == pytest.approx(reference.exact_lse((-logits[0]).tolist()), rel=2e-15, abs=2e-15)


def test_a_million_equal_labels_in_every_dtype() -> None:
    for dtype, size in ((torch.float64, 1e-15), (torch.float32, 2e-7), (torch.float16, 2e-7), (torch.bfloat16, 2e-7)):
        logits = torch.full((1, 10**6), 1.5, dtype=dtype)
        neg = manyhot.signed_logsumexp(logits, torch.zeros(1, 10**6))[0].item()
        assert neg == pytest.approx(1.5 + math.log(10**6), rel=size)


def test_small_losses_keep_their_digits() -> None:
    # log1p(e^-30) = e^-30: a softplus that stops at its threshold, or log(1 + x), loses it.
    for s in (20.5, 25.0, 30.0, 36.0, 41.0, 60.0):
        loss = manyhot.zlpr_loss(torch.tensor([[s]], dtype=torch.float64), torch.ones(1, 1)).item()
        assert loss == pytest.approx(math.exp(-s), rel=1e-9)
        wrong = manyhot.zlpr_loss(torch.tensor([[s]], dtype=torch.float64), torch.zeros(1, 1)).item()
        assert wrong == pytest.approx(s + math.exp(-s), rel=1e-15)


# --- bounds: mathematics.md sections 1 and 6 -------------------------------------------------------------------------


def lse(values: list[float]) -> float:
    terms = torch.tensor([values], dtype=torch.float64)
    return manyhot.signed_logsumexp(terms, torch.zeros_like(terms))[0].item()


def rounding(*values: float) -> float:
    """Allow a few units in the last place of the largest number that takes part."""
    return 8 * np.finfo(np.float64).eps * max(1.0, *map(abs, values))


@settings(deadline=None)
@given(rows_of_logits)
def test_lse_lies_between_the_maximum_and_the_maximum_plus_log_n(x: list[float]) -> None:
    value, slack = lse(x), rounding(*x)
    assert max(x) - slack <= value <= max(x) + math.log(len(x)) + slack
    assert value >= sum(x) / len(x) + math.log(len(x)) - slack
    assert value == pytest.approx(reference.exact_lse(x), rel=1e-14, abs=1e-14)


@settings(deadline=None)
@given(st.lists(st.tuples(finite, st.floats(0, 1)), min_size=1, max_size=10))
def test_lse_is_above_every_mean_plus_its_entropy(pairs: list[tuple[float, float]]) -> None:
    x, weight = [p[0] for p in pairs], [p[1] + 1e-9 for p in pairs]
    p = [w / sum(weight) for w in weight]
    assert lse(x) >= sum(a * b for a, b in zip(p, x, strict=True)) - sum(a * math.log(a) for a in p) - rounding(*x) * 4


@settings(deadline=None)
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=10), st.floats(0, 1))
def test_lse_is_convex_and_moves_no_further_than_its_inputs(pairs: list[tuple[float, float]], a: float) -> None:
    x, y = [p[0] for p in pairs], [p[1] for p in pairs]
    slack = rounding(*x, *y)
    assert abs(lse(x) - lse(y)) <= max(abs(p - q) for p, q in pairs) + slack
    between = [a * p + (1 - a) * q for p, q in pairs]
    assert lse(between) <= a * lse(x) + (1 - a) * lse(y) + 2 * slack


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-300, 300), st.booleans()), min_size=1, max_size=10),
    st.floats(0.1, 5),
    st.floats(0, 3),
    st.floats(-5, 5),
)
def test_bounds_of_zlpr_by_the_worst_violations(
    row: list[tuple[float, bool]], scale: float, margin: float, s0: float
) -> None:
    # [7359] (7)
    s, t = [p[0] for p in row], [p[1] for p in row]
    negatives = [x - s0 + margin for x, y in row if not y]
    positives = [margin - (x - s0) for x, y in row if y]
    worst = max([0.0, *negatives]) + max([0.0, *positives])
    logits, targets = torch.tensor([s], dtype=torch.float64), torch.tensor([t])
    loss = manyhot.zlpr_loss(logits, targets, scale=scale, margin=margin, threshold=s0).item()
    k, n = sum(t), len(t)
    slack = rounding(*s, s0) * (1 + 1 / scale)
    assert worst - slack <= loss / scale <= worst + (math.log1p(k) + math.log1p(n - k)) / scale + slack


def test_the_bounds_are_reached(generator: torch.Generator) -> None:
    # Below: one label far out on either side. Above: every label on the threshold.
    far = torch.tensor([[400.0, -400.0]], dtype=torch.float64)
    close(manyhot.zlpr_loss(far, torch.tensor([[0, 1]])), 800.0)
    close(manyhot.zlpr_loss(torch.zeros(1, 9).double(), torch.eye(9)[:1]), math.log(2) + math.log(9))


def test_zlpr_is_at_most_the_summed_binary_cross_entropy(generator: torch.Generator) -> None:
    logits, hard, _ = draw(generator, 300, 4)
    loss = manyhot.zlpr_loss(logits, hard, reduction="none").numpy()
    bce = reference.binary_cross_entropy(logits.numpy(), hard.numpy())
    k = hard.sum(-1).numpy()
    equal = (k <= 1) & (4 - k <= 1)
    assert not equal.any()  # four labels: one side has two at least
    assert (loss < bce).all()
    two, targets = logits[:, :2], hard[:, :2]
    gap = reference.binary_cross_entropy(two.numpy(), targets.numpy())
    gap = gap - manyhot.zlpr_loss(two, targets, reduction="none").numpy()
    one_each = targets.sum(-1).numpy() == 1
    assert 0 < one_each.sum() < 300
    assert np.abs(gap[one_each]).max() < 1e-14
    assert gap[~one_each].min() > 1e-6


def test_single_log_is_at_most_zlpr_which_is_at_most_twice_it(generator: torch.Generator) -> None:
    logits, _, soft = draw(generator, 200, 5)
    one, two = (f(logits, soft, reduction="none") for f in (manyhot.single_log_loss, manyhot.zlpr_loss))
    assert (one <= two).all()
    assert (two <= 2 * one).all()


def test_soft_targets_have_their_minimum_where_the_closed_form_says(generator: torch.Generator) -> None:
    # [9064]: zero gradient at logit(t)/(2 scale) + s0, and nothing below the value there.
    soft = 0.02 + 0.96 * torch.rand(5, 6, generator=generator, dtype=torch.float64)
    weight = 0.1 + 3 * torch.rand(6, generator=generator, dtype=torch.float64)
    for scale, margin, s0 in ((1.0, 0.0, 0.0), (2.5, 0.7, -1.2), (0.4, 2.0, 3.0)):
        options: dict[str, Any] = {"scale": scale, "margin": margin, "threshold": s0, "label_weight": weight}
        best = (torch.logit(soft) / (2 * scale) + s0).requires_grad_()
        loss = manyhot.zlpr_loss(best, soft, reduction="none", **options)
        (gradient,) = torch.autograd.grad(loss.sum(), best)
        assert gradient.abs().max() < 1e-14 * scale * 100
        floor = 2 * torch.log1p(math.exp(scale * margin) * (weight * (soft * (1 - soft)).sqrt()).sum(-1))
        close(loss.detach(), floor)
        for size in (1e-3, 0.1, 3.0):
            moved = best.detach() + size * torch.randn(5, 6, generator=generator, dtype=torch.float64)
            assert (manyhot.zlpr_loss(moved, soft, reduction="none", **options) > floor).all()


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 1)), min_size=1, max_size=8))
def test_soft_targets_never_fall_below_the_floor(row: list[tuple[float, float]]) -> None:
    s = torch.tensor([[p[0] for p in row]], dtype=torch.float64)
    t = torch.tensor([[p[1] for p in row]], dtype=torch.float64)
    floor = 2 * math.log1p(sum(math.sqrt(y * (1 - y)) for _, y in row))
    assert manyhot.zlpr_loss(s, t).item() >= floor * (1 - 1e-14) - 1e-15


def test_the_divergence_of_soft_targets_is_zero_only_at_itself(generator: torch.Generator) -> None:
    # D(u||s) = zlpr(s, q) - zlpr(u, q), q = sigmoid(2 u)
    u = 1.5 * torch.randn(50, 4, generator=generator, dtype=torch.float64)
    q = torch.sigmoid(2 * u)
    own = manyhot.zlpr_loss(u, q, reduction="none")
    close(own, 2 * torch.log1p((1 / (2 * torch.cosh(u))).sum(-1)))
    other = u + torch.randn(50, 4, generator=generator, dtype=torch.float64)
    assert (manyhot.zlpr_loss(other, q, reduction="none") > own).all()


def test_pairwise_under_a_common_offset_keeps_the_digits_float64_has(generator: torch.Generator) -> None:
    logits, hard, _ = draw(generator, 10, 5)
    close(manyhot.pairwise_loss(logits + 1e4, hard), manyhot.pairwise_loss(logits, hard), rtol=1e-11)


# --- refusals --------------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.0, -3.0]])
TARGETS = torch.tensor([[1, 0, 0], [0, 1, 1]])

WRONG_FORMS = [
    (TARGETS, LOGITS, TypeError, r"logits must be a floating-point tensor.*got a tensor of torch\.int64.*swapped\?"),
    ([[0.5]], TARGETS, TypeError, r"logits must be a floating-point tensor.*got list"),
    (LOGITS.numpy(), TARGETS, TypeError, r"logits must be a floating-point tensor.*got ndarray"),
    (LOGITS.to(torch.complex64), TARGETS, TypeError, r"logits must be.*got a tensor of torch\.complex64"),
    (LOGITS, TARGETS.tolist(), TypeError, r"targets must be a tensor of 0/1.*got list"),
    (LOGITS, TARGETS.to(torch.complex64), TypeError, r"targets must be.*got a tensor of torch\.complex64"),
    (torch.tensor(1.0), torch.tensor(1), ValueError, r"logits must have shape \(\.\.\., labels\).*got \(\)"),
    (torch.zeros(2, 0), torch.zeros(2, 0), ValueError, r"at least one label; got \(2, 0\)"),
    (LOGITS, TARGETS[0], ValueError, r"shape of logits, \(2, 3\); got \(3,\).*one_hot"),
    (LOGITS, torch.tensor([2, 1]), ValueError, r"shape of logits, \(2, 3\); got \(2,\).*one_hot"),
    (LOGITS, TARGETS.t(), ValueError, r"shape of logits, \(2, 3\); got \(3, 2\)"),
    (LOGITS[None], TARGETS, ValueError, r"shape of logits, \(1, 2, 3\); got \(2, 3\)"),
]
EVERYWHERE = [manyhot.signed_logsumexp, manyhot.zlpr_loss, manyhot.pairwise_loss, manyhot.single_log_loss]
ENTRIES = pytest.mark.parametrize("function", [*EVERYWHERE, manyhot.validate], ids=lambda f: f.__name__)


@ENTRIES
@pytest.mark.parametrize(("logits", "targets", "error", "text"), WRONG_FORMS)
def test_wrong_forms(function: Any, logits: Any, targets: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        function(logits, targets)


@ENTRIES
@pytest.mark.parametrize(
    ("row", "label", "value", "name"),
    [(0, 2, 2, "2"), (1, 0, -2, "-2"), (1, 1, 1.5, "1.5"), (0, 1, -0.25, "-0.25"), (1, 2, math.inf, "inf")],
)
def test_targets_out_of_range(function: Any, row: int, label: int, value: float, name: str) -> None:
    targets = TARGETS.double()
    targets[row, label] = value
    text = (
        rf"targets must lie in \[0, 1\], or be -1, -100 or NaN where unknown; got {name} at row {row}, label {label}\."
    )
    with pytest.raises(ValueError, match=text):
        function(LOGITS, targets)
    # Where the cell is masked, or the row unknown, nothing is wrong.
    mask = torch.ones(2, 3, dtype=torch.bool)
    mask[row, label] = False
    function(LOGITS, targets, mask=mask)
    with pytest.raises(ValueError, match=rf"got {name} at label {label}\."):
        function(LOGITS[row], targets[row])
    with pytest.raises(ValueError, match=rf"got {name} at row \(0, {row}\), label {label}\."):
        function(LOGITS[None], targets[None])


@ENTRIES
def test_the_first_wrong_target_is_named_also_of_unsigned_ones(function: Any) -> None:
    targets = torch.tensor([[0, 1, 0], [255, 0, 7]], dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"got 255 at row 1, label 0\."):
        function(LOGITS, targets)


@ENTRIES
def test_mask_errors(function: Any) -> None:
    for dtype in (torch.uint8, torch.float32, torch.int64):
        with pytest.raises(TypeError, match=rf"mask must be boolean, True where the label is known; got {dtype}"):
            function(LOGITS, TARGETS, mask=torch.ones(2, 3, dtype=dtype))
    for shape in ((2,), (3, 2), (1, 2, 3), (2, 2, 3)):
        with pytest.raises(ValueError, match=r"mask must broadcast to logits of shape \(2, 3\).*\(3,\).*got \("):
            function(LOGITS, TARGETS, mask=torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("impl", ["triton", "Eager", "", None])
def test_the_seam_for_implementations_refuses_what_is_not_there(impl: Any) -> None:
    with pytest.raises(ValueError, match=rf'impl must be "auto", "eager", "blocked" or "native"; got {impl!r}'):
        manyhot.signed_logsumexp(LOGITS, TARGETS, impl=impl)


def test_auto_equals_eager(generator: torch.Generator) -> None:
    logits, _, soft = draw(generator, 20, 30)
    for auto, eager in zip(
        manyhot.signed_logsumexp(logits, soft), manyhot.signed_logsumexp(logits, soft, impl="eager"), strict=True
    ):
        close(auto, eager)


def test_negative_label_weight() -> None:
    with pytest.raises(ValueError, match=r"label_weight must be 0 or more; got -2"):
        manyhot.signed_logsumexp(LOGITS, TARGETS, label_weight=torch.tensor([1.0, -2.0, 1.0]))


def test_nan_label_weight_is_refused_and_never_a_mask() -> None:
    with pytest.raises(ValueError, match=r"label_weight must be 0 or more; got nan"):
        manyhot.signed_logsumexp(LOGITS, TARGETS, label_weight=torch.tensor([1.0, math.nan, 1.0]))


def test_validate_accepts_what_the_losses_accept() -> None:
    unknown = torch.tensor([[1, -1, 0], [-100, 0, 1]])
    assert manyhot.validate(LOGITS, unknown) is None
    assert manyhot.validate(LOGITS, unknown.double().masked_fill(unknown < 0, math.nan)) is None
    assert manyhot.validate(LOGITS, TARGETS.bool()) is None
    assert manyhot.validate(torch.tensor([[math.inf, -math.inf, 0.0]]), TARGETS[:1]) is None
    assert manyhot.validate(torch.zeros(0, 3), torch.zeros(0, 3)) is None


def test_validate_names_nan_logits_where_a_label_is_known() -> None:
    logits = LOGITS.clone()
    logits[1, 2] = math.nan
    with pytest.raises(ValueError, match=r"logits must not be NaN where a label is known; got NaN at row 1, label 2\."):
        manyhot.validate(logits, TARGETS)
    manyhot.validate(logits, TARGETS, mask=torch.tensor([True, True, False]))
    manyhot.validate(logits, torch.tensor([[1, 0, 0], [0, 1, -1]]))


def test_values_are_not_read_under_compile() -> None:
    # architecture.md: never under torch.compiler.is_compiling(); validate is the explicit call.
    torch._dynamo.reset()
    compiled = torch.compile(manyhot.zlpr_loss, fullgraph=True, backend="eager")
    wrong = TARGETS.clone()
    wrong[0, 0] = 2
    compiled(LOGITS, wrong)
    with pytest.raises(ValueError, match="got 2 at row 0, label 0"):
        manyhot.validate(LOGITS, wrong)


# --- the warning for probabilities -----------------------------------------------------------------------------------

PROBABILITIES = torch.sigmoid(LOGITS)


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_first_call", True)


@pytest.mark.usefixtures("new_process")
@pytest.mark.parametrize("function", EVERYWHERE, ids=lambda f: f.__name__)
def test_probabilities_warn_once(function: Any) -> None:
    with pytest.warns(UserWarning, match=r"all logits lie in \[0, 1\].*remove the sigmoid or softmax.*manyhot\.decide"):
        function(PROBABILITIES, TARGETS)
    function(PROBABILITIES, TARGETS)  # warnings are errors here: a second one would fail


@pytest.mark.usefixtures("new_process")
def test_the_warning_points_at_the_caller_of_the_loss() -> None:
    with pytest.warns(UserWarning, match="all logits lie") as caught:
        manyhot.zlpr_loss(PROBABILITIES, TARGETS)
    assert caught[0].filename == __file__


@pytest.mark.usefixtures("new_process")
@pytest.mark.parametrize("first", [LOGITS, torch.zeros(2, 3), torch.full((2, 3), 1.01), torch.full((2, 3), math.nan)])
def test_only_the_first_call_is_looked_at(first: Tensor) -> None:
    manyhot.zlpr_loss(first, TARGETS)
    manyhot.zlpr_loss(PROBABILITIES, TARGETS)


@pytest.mark.usefixtures("new_process")
def test_an_empty_batch_is_not_the_first_call() -> None:
    manyhot.zlpr_loss(torch.zeros(0, 3), torch.zeros(0, 3))
    with pytest.warns(UserWarning, match="all logits lie"):
        manyhot.zlpr_loss(PROBABILITIES, TARGETS)


@pytest.mark.usefixtures("new_process")
@pytest.mark.parametrize("logits", [torch.tensor([[0.0, 1.0, 0.0]]), torch.softmax(LOGITS, -1).half()])
def test_also_at_the_ends_and_in_half_precision(logits: Tensor) -> None:
    with pytest.warns(UserWarning, match="all logits lie"):
        manyhot.zlpr_loss(logits, torch.zeros_like(logits))


def test_once_in_a_real_process() -> None:
    code = (
        "import torch, manyhot\n"
        "p = torch.full((2, 3), .5)\n"
        "for _ in range(3): manyhot.zlpr_loss(p, torch.zeros(2, 3)); manyhot.pairwise_loss(p, torch.zeros(2, 3))"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("all logits lie in [0, 1]") == 1


def test_no_other_warning_comes_from_a_loss(generator: torch.Generator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits, hard, soft = draw(generator, 4, 5)
        for function in EVERYWHERE:
            function(logits, hard)
            function(logits, soft)
