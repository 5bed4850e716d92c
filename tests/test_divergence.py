"""The divergence of ZLPR: its definition, and what a difference of two losses could not keep."""

import math
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import manyhot
import reference
from manyhot import zlpr_divergence

NAN, INF = math.nan, math.inf
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ROWS, LABELS = 6, 7


def draw(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.randn(shape or (ROWS, LABELS), generator=generator, dtype=dtype)


def exact(
    s: Tensor, u: Tensor, threshold: float = 0, scale: float = 1, margin: float = 0, weight: Tensor | None = None
) -> list[float]:
    """ZLPR(s, q) - ZLPR(u, q) with 60 digits, a number a row."""
    w = torch.ones(s.shape[-1]) if weight is None else weight
    with mpmath.workdps(60):
        zero, gamma, m = (mpmath.mpf(x) for x in (threshold, scale, margin))

        def loss(x: list[float], u: list[float]) -> Any:
            # 1 - q and q, neither of which is the other's difference from 1: q may be e^-20000.
            q = [[1 / (1 + mpmath.exp(sign * 2 * gamma * (b - zero))) for b in u] for sign in (1, -1)]
            neg = [v * p * mpmath.exp(gamma * (a - zero + m)) for a, p, v in zip(x, q[0], w.tolist(), strict=True)]
            pos = [v * p * mpmath.exp(-gamma * (a - zero - m)) for a, p, v in zip(x, q[1], w.tolist(), strict=True)]
            return mpmath.log(1 + mpmath.fsum(neg)) + mpmath.log(1 + mpmath.fsum(pos))

        rows = zip(s.double().tolist(), u.double().tolist(), strict=True)
        return [float(loss(a, b) - loss(b, b)) for a, b in rows]


def gradients(s: Tensor, u: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the divergence, and the gradients of its sum."""
    s, u = (x.detach().clone().requires_grad_() for x in (s, u))
    value = zlpr_divergence(s, u, **options)
    by_s, by_u = torch.autograd.grad(value.sum(), (s, u))
    return value.detach(), by_s, by_u


# --- values ----------------------------------------------------------------------------------------------------------


def test_hand_value() -> None:
    # one label, u = 0, q = 1/2: log(1 + e^s/2) + log(1 + e^-s/2) - 2 log(3/2), at s = 2 .8009
    value = zlpr_divergence(torch.tensor([[2.0]]), torch.tensor([[0.0]])).item()
    assert value == pytest.approx(math.log1p(math.exp(2) / 2) + math.log1p(math.exp(-2) / 2) - 2 * math.log(1.5))
    assert value == pytest.approx(0.8009, abs=5e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [None, (LABELS,), (ROWS, 1), (ROWS, LABELS)])
@pytest.mark.parametrize("threshold", [0.0, -1.3, (LABELS,), (ROWS, 1), (ROWS, LABELS)])
def test_is_the_difference_of_two_losses(threshold: Any, masked: Any, weighted: bool, generator: Any) -> None:
    for scale, margin in ((1.0, 0.0), (0.4, 1.0), (1.5, 0.3)):
        s, u = draw(generator), draw(generator) / 2
        options: dict[str, Any] = {"scale": scale, "margin": margin, "reduction": "none"}
        options["threshold"] = draw(generator, *threshold) if isinstance(threshold, tuple) else threshold
        if masked:
            options["mask"] = torch.rand(masked, generator=generator) < 0.7
        if weighted:
            weight = 3 * torch.rand(LABELS, generator=generator, dtype=torch.float64)
            options["label_weight"] = torch.where(weight < 0.6, 0, weight)
        q = torch.sigmoid(2 * scale * (u - options["threshold"]))
        arrays = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in options.items()}
        worse, best = (reference.zlpr(x.numpy(), q.numpy(), **arrays) for x in (s, u))
        value, by_s, _ = gradients(s, u, **options)
        # 1 - q of a q next to 1 has no more digits.
        torch.testing.assert_close(value, torch.as_tensor(worse.value - best.value), rtol=1e-9, atol=1e-10)
        # q and the second loss do not depend on s.
        torch.testing.assert_close(by_s, torch.as_tensor(worse.gradient), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("distance", [1e-6, 1e-5, 1e-3, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_close_pairs_keep_their_digits(distance: float, dtype: torch.dtype, generator: torch.Generator) -> None:
    options: tuple[dict[str, Any], ...] = (
        {},
        {"threshold": 0.5, "scale": 2.0, "margin": 0.25},
        {"scale": 0.5, "weight": torch.tensor([0.0, 0.5, 1, 2, 4, 8, 0.25])},
    )
    for option in options:
        u = draw(generator).to(dtype)
        s = u + distance * draw(generator).to(dtype)
        want = torch.tensor(exact(s, u, **option), dtype=torch.float64)
        assert 0 < want.max() < 60 * distance**2
        named = {"label_weight" if name == "weight" else name: x for name, x in option.items()}
        got = zlpr_divergence(s, u, reduction="none", **named)
        # The shares come from exponents of up to ten; the differences of the logits are exact.
        torch.testing.assert_close(got.double(), want, rtol=2e-6 if dtype == torch.float32 else 1e-14, atol=0)


@pytest.mark.parametrize(("labels", "margin"), [(1, 8.0), (600, 0.0), (50, 5.0)])
def test_a_common_shift_of_labels_that_fill_the_sum_keeps_digits(labels: int, margin: float) -> None:
    # All labels move alike and the empty slot has next to no share: 1 + a + b + ab of two products that nearly cancel.
    for shift in (0.5, 0.99, 1.5, 4.0):
        u = torch.linspace(-0.25, 0.25, labels).unsqueeze(0)
        s = u + shift
        (want,) = exact(s, u, margin=margin)
        # Far apart two logarithms of the size of the shift are added, of shares that are logarithms of size 8.
        far = 1e-6 * shift if shift > 1 else 0.0
        assert zlpr_divergence(s, u, margin=margin).item() == pytest.approx(want, rel=1e-5, abs=far)
        assert zlpr_divergence(s.double(), u.double(), margin=margin).item() == pytest.approx(
            want, rel=1e-12, abs=far / 1e8
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_far_pairs(dtype: torch.dtype, generator: torch.Generator) -> None:
    for size in (2.0, 30.0, 1e4):
        s, u = ((size * draw(generator)).to(dtype) for _ in range(2))
        value, by_s, by_u = gradients(s, u, reduction="none")
        assert value.isfinite().all()
        want = torch.tensor(exact(s, u), dtype=torch.float64)
        # An exponent of float32 is known to size 6e-8, whatever is left of its sum with another.
        unit = 1e-15 if dtype == torch.float64 else 2e-7
        torch.testing.assert_close(value.double(), want, rtol=10 * unit, atol=10 * size * unit)
        for gradient in (by_s, by_u):
            assert gradient.dtype == dtype
            assert gradient.isfinite().all()
        # As a ZLPR gradient.
        assert (by_s.float().abs().sum(-1) <= 2 * (1 + torch.finfo(dtype).eps)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_with_zero_gradient_at_equal_logits(dtype: torch.dtype, generator: torch.Generator) -> None:
    for size in (1.0, 100.0, 1e4):
        u = (size * draw(generator)).to(dtype)
        for options in (
            {},
            {"threshold": 0.3, "scale": 2.0, "margin": 1.0, "label_weight": torch.linspace(0, 3, LABELS)},
        ):
            for result in gradients(u, u, **options):
                assert (result == 0).all()


values = st.one_of(st.floats(-1e4, 1e4, width=32), st.floats(-3, 3, width=32))
pairs = st.lists(
    st.tuples(values, st.one_of(values, st.floats(-1, 1, width=32)), st.booleans()), min_size=1, max_size=6
)


@settings(max_examples=300, deadline=None, derandomize=True)
@example([(0.0, 1.0, False)] * 2, 0.3, 100.0, 0.0, 1e3, torch.float32)
@given(
    pairs,
    st.sampled_from([0.3, 1.0, 4.0]),
    st.sampled_from([0.0, 1.0, 10.0, 100.0]),
    st.sampled_from([0.0, -2.0, 500.0]),
    st.sampled_from([None, 1e-3, 1e3]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_never_negative(
    row: list[tuple[float, float, bool]], scale: float, margin: float, threshold: float, weight: Any, dtype: Any
) -> None:
    u = torch.tensor([[a for a, _, _ in row]], dtype=dtype)
    # Far from it, or close by.
    s = torch.tensor([[a + b if near else b for a, b, near in row]], dtype=dtype)
    label_weight = None if weight is None else torch.full((len(row),), weight)
    options: dict[str, Any] = {"scale": scale, "margin": margin, "threshold": threshold, "label_weight": label_weight}
    value, by_s, by_u = gradients(s, u, **options)
    assert 0 <= value < INF
    assert by_s.isfinite().all()
    assert by_u.isfinite().all()


# --- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [0.0, 0.05, 3.0])
def test_first_and_second_derivatives(distance: float, generator: torch.Generator) -> None:
    u = draw(generator, 2, 3)
    s = u + distance * draw(generator, 2, 3)
    weight = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    points = [x.requires_grad_() for x in (s, u, torch.tensor(0.2, dtype=torch.float64))]

    def function(s: Tensor, u: Tensor, threshold: Tensor) -> Tensor:
        options: dict[str, Any] = {"threshold": threshold, "scale": 1.3, "margin": 0.2, "label_weight": weight}
        return zlpr_divergence(s, u, reduction="none", **options)

    assert torch.autograd.gradcheck(function, points)
    assert torch.autograd.gradgradcheck(function, points)


def test_both_ways_differ_and_both_move(generator: torch.Generator) -> None:
    s, u = draw(generator), draw(generator)
    there, by_s, by_u = gradients(s, u, reduction="none")
    back = zlpr_divergence(u, s, reduction="none")
    assert ((there - back).abs() > 1e-3).all()
    assert by_s.abs().max() > 0.1
    assert by_u.abs().max() > 0.1


# --- masks, weights, types -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", [NAN, INF, -INF, 1e30])
@pytest.mark.parametrize("which", ["logits", "target_logits", "both"])
def test_a_masked_slot_has_no_effect(slot: float, which: str, generator: torch.Generator) -> None:
    s, u = draw(generator), draw(generator)
    mask = torch.rand(ROWS, LABELS, generator=generator) < 0.7
    mask[3] = False
    want = gradients(s, u, mask=mask)
    spoilt = [
        torch.where(mask | (which not in (name, "both")), x, slot) for name, x in (("logits", s), ("target_logits", u))
    ]
    for got, same in zip(gradients(*spoilt, mask=mask), want, strict=True):
        assert torch.equal(got, same)
    assert (want[1][~mask] == 0).all()
    # As if the labels were not there.
    one = zlpr_divergence(s[:1, mask[0]], u[:1, mask[0]])
    torch.testing.assert_close(zlpr_divergence(*(x[:1] for x in spoilt), mask=mask[:1]), one, rtol=1e-13, atol=1e-15)


def test_reductions_and_sample_weights(generator: torch.Generator) -> None:
    s, u = draw(generator, 2, 3, LABELS), draw(generator, 2, 3, LABELS)
    rows = torch.tensor(exact(s.flatten(0, 1), u.flatten(0, 1)), dtype=torch.float64).reshape(2, 3)
    weight = torch.tensor([[1.0, 2, 0], [0.5, 1, 3]], dtype=torch.float64)
    known = torch.tensor([[True, False, True], [True, True, True]])
    for options, w in (
        ({}, torch.ones(2, 3).double()),
        ({"sample_weight": weight}, weight),
        ({"mask": known.unsqueeze(-1)}, known.double()),
        ({"mask": known.unsqueeze(-1), "sample_weight": weight}, weight * known),
    ):
        for reduction, want in (("none", w * rows), ("sum", (w * rows).sum()), ("mean", (w * rows).sum() / w.sum())):
            got = zlpr_divergence(s, u, reduction=reduction, **options)  # type: ignore[arg-type]
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    nothing = zlpr_divergence(s, u, mask=torch.tensor(False))
    assert nothing == 0
    assert zlpr_divergence(s[:0], u[:0]) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_dtypes_are_computed_in_float32(dtype: torch.dtype, generator: torch.Generator) -> None:
    s, u = draw(generator).to(dtype), draw(generator).to(dtype)
    half, full = gradients(s, u), gradients(s.float(), u.float())
    assert half[0].dtype == torch.float32
    assert torch.equal(half[0], full[0])
    for got, want in zip(half[1:], full[1:], strict=True):
        assert torch.equal(got, want.to(dtype))
    assert zlpr_divergence(s, u.double()).dtype == torch.float64


@pytest.mark.slow
def test_compiled_equals_eager(generator: torch.Generator) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(zlpr_divergence, backend="aot_eager", fullgraph=True)
    for distance in (0.01, 3.0):
        u = draw(generator).requires_grad_()
        s = (u + distance * draw(generator)).detach().requires_grad_()
        mask = torch.rand(ROWS, LABELS, generator=generator) < 0.7
        results = [f(s, u, mask=mask, margin=0.5) for f in (compiled, zlpr_divergence)]
        torch.testing.assert_close(*results, rtol=1e-13, atol=1e-15)
        for got, want in zip(*(torch.autograd.grad(x, (s, u)) for x in results), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)


# --- refusals --------------------------------------------------------------------------------------------------------

S = torch.zeros(2, 3)
REFUSED: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
    (S.long(), S, {}, TypeError, r"logits must be a floating-point tensor"),
    (S, S.long(), {}, TypeError, r"target_logits must be a floating-point tensor"),
    (S, S.tolist(), {}, TypeError, r"target_logits must be a floating-point tensor"),
    (S, manyhot.IndexTargets([[0], [1]]), {}, TypeError, r"target_logits must be a floating-point tensor"),
    (S, S[:1], {}, ValueError, r"must have the shape of logits, \(2, 3\); got \(1, 3\)"),
    (S, S, {"scale": 0.0}, ValueError, r"scale must be positive and finite; got 0\.0"),
    (S, S, {"scale": NAN}, ValueError, r"scale must be positive and finite; got nan"),
    (S, S, {"margin": -1.0}, ValueError, r"margin must be 0 or more.*got -1\.0"),
    (S, S, {"mask": S}, TypeError, r"mask must be boolean.*got torch\.float32"),
    (S, S, {"mask": S[0, :2] > 0}, ValueError, r"mask must broadcast to logits of shape \(2, 3\)"),
    (
        S,
        S,
        {"threshold": torch.zeros(2)},
        ValueError,
        r"threshold must broadcast to logits of shape \(2, 3\).*got \(2,\)",
    ),
    (S, S, {"label_weight": torch.ones(2)}, ValueError, r"label_weight must broadcast.*got \(2,\)"),
    (S, S, {"label_weight": torch.tensor([1.0, -2.0, 1.0])}, ValueError, r"label_weight must be 0 or more; got -2"),
    (S, S, {"label_weight": torch.tensor([1.0, NAN, 1.0])}, ValueError, r"label_weight must be 0 or more; got nan"),
    (S, S, {"sample_weight": torch.ones(3)}, ValueError, r"sample_weight must broadcast to one weight a row, \(2,\)"),
    (S, S, {"reduction": "avg"}, ValueError, r'reduction must be "mean", "sum" or "none"; got \'avg\''),
]


@pytest.mark.parametrize(("logits", "target_logits", "options", "error", "text"), REFUSED)
def test_refused(logits: Any, target_logits: Any, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        zlpr_divergence(logits, target_logits, **options)


# --- infinite logits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"threshold": 0.5, "scale": 1.5, "margin": 0.25}], ids=["plain", "options"])
@pytest.mark.parametrize("weight", [None, [1.0, 0.5, 2.0]])
def test_infinite_logits_have_their_limit(options: dict[str, float], weight: Any) -> None:
    ends = torch.tensor([-INF, -1.0, 2.0, INF], dtype=torch.float64)
    s = torch.cartesian_prod(ends, ends, torch.tensor([0.3, INF], dtype=torch.float64))
    named = dict(options) if weight is None else {**options, "label_weight": torch.tensor(weight, dtype=torch.float64)}
    arrays = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in named.items()}
    for row in torch.cartesian_prod(ends, ends, torch.tensor([0.7, INF, -INF], dtype=torch.float64)):
        u = row.expand(len(s), 3)
        # At an infinite target logit q is 0 or 1, a hard target: no term of the other side, whatever the logit is.
        q = torch.sigmoid(2 * options.get("scale", 1.0) * (u - options.get("threshold", 0.0)))
        worse, best = (reference.zlpr(x.numpy(), q.numpy(), reduction="none", **arrays) for x in (s, u))
        value, by_s, by_u = gradients(s, u, reduction="none", **named)
        torch.testing.assert_close(value, torch.as_tensor(worse.value - best.value), rtol=1e-9, atol=1e-12)
        assert by_s.isfinite().all()
        assert by_u.isfinite().all()
        assert (by_s[s.isinf()] == 0).all()
        assert (by_u[u.isinf()] == 0).all()
        finite = value.isfinite()
        torch.testing.assert_close(by_s[finite], torch.as_tensor(worse.gradient)[finite], rtol=1e-9, atol=1e-12)
    for sign in (1, -1):
        same = torch.full((2, 3), sign * INF)
        assert zlpr_divergence(same, same) == 0
        assert zlpr_divergence(-same, same) == INF
        assert zlpr_divergence(torch.zeros(2, 3), same) == pytest.approx(math.log(4))


def test_an_infinite_label_takes_no_digits_from_the_others(generator: torch.Generator) -> None:
    u = draw(generator)
    s = u + 1e-7 * draw(generator)
    want = zlpr_divergence(s, u, reduction="none")
    beside = torch.full((ROWS, 1), INF, dtype=torch.float64)
    for more in (beside, -beside):
        got = zlpr_divergence(torch.cat((s, more), -1), torch.cat((u, more), -1), reduction="none")
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("junk", [NAN, INF, -INF, 1e30])
def test_a_label_of_weight_zero_may_hold_anything(junk: float, generator: torch.Generator) -> None:
    s, u, keep = draw(generator), draw(generator), torch.tensor([1, 0, 1, 1, 0, 1, 1], dtype=torch.bool)
    want = gradients(s, u, mask=keep)
    got = gradients(torch.where(keep, s, junk), torch.where(keep, u, -junk), label_weight=keep.double())
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
