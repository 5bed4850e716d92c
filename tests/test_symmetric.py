"""Sums over label sets: against 60-digit arithmetic, at the ends of the number line, and in what they refuse."""

import itertools
import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

import manyhot
from manyhot import symmetric
from manyhot.kernels import native

IMPLS = [
    "eager",
    pytest.param("native", marks=pytest.mark.skipif(native.MISSING is not None, reason=str(native.MISSING))),
]
both = pytest.mark.parametrize("impl", IMPLS)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def exact(s: Tensor, low: int, high: int) -> tuple[Any, list[Any]]:
    """Compute log sum_j Z_j and the probabilities of labels, by products from the left and from the right."""
    with mpmath.workdps(60):
        # Measured from a middle logit, so that sixty digits are enough for any spread.
        middle = mpmath.mpf(float(s[s > -math.inf].median()))
        w = [mpmath.exp(mpmath.mpf(float(x)) - middle) if x > -math.inf else mpmath.mpf(0) for x in s]
        zero, one = mpmath.mpf(0), mpmath.mpf(1)

        def times(p: list[Any], x: Any) -> list[Any]:
            return [p[j] + (x * p[j - 1] if j else zero) for j in range(high + 1)]

        left = [[one] + [zero] * high]
        right = [[one] + [zero] * high]
        for x in w:
            left.append(times(left[-1], x))
        for x in reversed(w):
            right.append(times(right[-1], x))
        scale = [mpmath.exp(j * middle) for j in range(high + 1)]
        total = mpmath.fsum(left[-1][j] * scale[j] for j in range(low, high + 1))
        probs = []
        for i, x in enumerate(w):
            a, b = left[i], right[len(w) - 1 - i]
            with_i = zero
            for j in range(max(low, 1), high + 1):
                with_i += scale[j] * mpmath.fsum(a[m] * b[j - 1 - m] for m in range(j))
            probs.append(x * with_i / total)
        return mpmath.log(total), probs


def check(s: Tensor, low: int, high: int, impl: Any) -> None:
    """Hold the targets of accuracy: loss, logarithm of the sum, probabilities."""
    log_total, probs = exact(s, low, high)
    point = torch.zeros_like(s)
    size = min(max(int((s > 0).sum()), low), high)
    point[s.topk(size).indices] = 1
    spread = float(s[s > -math.inf].std(correction=0)) if len(s) > 1 else 0.0
    with mpmath.workdps(60):
        loss = float(log_total - mpmath.fsum(mpmath.mpf(float(x)) for x in s[point > 0]))
    single = s.dtype == torch.float32
    limit = 1e-5 * max(1, spread / 10) * max(1, loss) if single else 1e-10 * max(1, loss)
    got = symmetric.log_partition(s, low, high, point=point, impl=impl).item()
    assert abs(got - loss) <= limit, (got, loss)
    total = float(log_total)
    # Of a number in the thousands float32 has four digits behind the point at most.
    eps = torch.finfo(s.dtype).eps
    assert abs(symmetric.log_partition(s, low, high, impl=impl).item() - total) <= limit + 4 * eps * abs(total)
    got_probs = symmetric.partition_gradient(s, low, high, impl=impl)
    assert (got_probs >= 0).all()
    assert (got_probs <= 1).all()
    share = 1e-5 if single else 1e-11
    # |s - c| up to a logarithm of the labels; c lies near the logits that the wanted size separates.
    c = float(s.sort(descending=True).values[min(max(size - 1, 0), len(s) - 1)])
    for x, p, logit in zip(got_probs.tolist(), probs, s.tolist(), strict=True):
        far = max(1.0, abs(logit - c) / 10) if logit > -math.inf else 1.0
        assert abs(x - p) <= share * far * p + 1e-30, (x, float(p))


# --- accuracy ---------------------------------------------------------------------------------------------------------


@both
@dtypes
@pytest.mark.parametrize(
    ("labels", "k"),
    [(1, 0), (1, 1), (2, 1), (3, 0), (3, 1), (3, 2), (3, 3), (17, 5), (17, 16), (90, 3), (90, 45), (90, 88), (150, 20)],
)
def test_exactly_k(labels: int, k: int, dtype: torch.dtype, impl: Any, generator: torch.Generator) -> None:
    for spread in (0.0, 1.0, 10.0, 30.0):
        check(spread * torch.randn(labels, generator=generator, dtype=dtype), k, k, impl)


@both
@dtypes
@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 4), (1, 4), (3, 9), (20, 30), (0, 59), (2, 60), (57, 59), (0, 60), (1, 60)]
)
@pytest.mark.parametrize("offset", [-8.0, *(pytest.param(x, marks=pytest.mark.slow) for x in (-1.0, 0.0)), 9.0])
def test_a_range_of_sizes(
    low: int, high: int, offset: float, dtype: torch.dtype, impl: Any, generator: torch.Generator
) -> None:
    check(2 * torch.randn(60, generator=generator, dtype=dtype) + offset, low, high, impl)


@both
@dtypes
def test_what_is_hard(dtype: torch.dtype, impl: Any, generator: torch.Generator) -> None:
    s = torch.randn(60, generator=generator, dtype=dtype)
    one_far = s.clone()
    one_far[7] = 200.0
    gap = s.clone()
    gap[:4], gap[4:20] = 60.0, -60.0
    without = s.clone()
    without[::3] = -math.inf
    for hard in (one_far, gap, without):
        for k in (1, 3, 4, 5, 20, 39, 40):
            check(hard, k, k, impl)
        check(hard, 2, 6, impl)
    for ties in (torch.zeros(64, dtype=dtype), torch.full((64,), -5.0, dtype=dtype)):
        for k in (1, 5, 32, 63):
            check(ties, k, k, impl)


@both
@dtypes
@pytest.mark.parametrize("offset", [1e4, -1e6, 1e8])
def test_a_common_offset_costs_nothing(
    offset: float, dtype: torch.dtype, impl: Any, generator: torch.Generator
) -> None:
    # Offsets and logits that float32 has exactly.
    s = 8 * torch.randint(-4, 5, (50,), generator=generator).to(dtype)
    point = torch.zeros_like(s)
    point[s.topk(7).indices] = 1
    for k in (7, 43):
        point = torch.zeros_like(s)
        point[:k] = 1
        want = symmetric.log_partition(s.double(), k, k, point=point.double(), impl="eager")
        got = symmetric.log_partition(s + offset, k, k, point=point, impl=impl)
        torch.testing.assert_close(got.double(), want, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=0)
        probs = manyhot.inclusion_probabilities(s + offset, k, impl=impl)
        torch.testing.assert_close(probs, manyhot.inclusion_probabilities(s, k, impl=impl), rtol=2e-6, atol=1e-30)


def log_sums(s: np.ndarray, k: int) -> np.ndarray:
    """Compute log Z_0..Z_k by dynamic programming in logarithms and extended precision."""
    z = np.full(k + 1, -np.inf, dtype=np.longdouble)
    z[0] = 0
    for x in s:
        z[1:] = np.logaddexp(z[1:], z[:-1] + x)
    return z


@pytest.mark.parametrize(("labels", "k", "spread"), [(4096, 50, 1.0), (4096, 50, 30.0), (20_000, 512, 10.0)])
def test_many_labels_in_float32(labels: int, k: int, spread: float, generator: torch.Generator) -> None:
    s = spread * torch.randn(labels, generator=generator)
    exact = s.double().numpy().astype(np.longdouble)
    z = log_sums(exact, k)
    order = s.argsort(descending=True)
    point = torch.zeros(labels)
    point[order[:k]] = 1
    loss = float(z[k] - exact[point.numpy() > 0].sum())
    wanted = {}
    for place in (0, k, k + 40) if labels < 10_000 else ():
        i = int(order[place])
        wanted[i] = float(np.exp(exact[i] + log_sums(np.delete(exact, i), k - 1)[k - 1] - z[k]))
    for impl in ("eager", "native") if native.MISSING is None else ("eager",):
        got = symmetric.log_partition(s, k, k, point=point, impl=impl).item()
        assert abs(got - loss) <= 1e-5 * max(1, spread / 10) * max(1, loss)
        probs = manyhot.inclusion_probabilities(s, k, impl=impl)
        assert probs.double().sum().item() == pytest.approx(k, rel=2e-6)
        for i, want in wanted.items():
            far = max(1.0, abs(float(s[i] - s[order[k]])) / 10)
            assert abs(probs[i].item() - want) <= 1e-5 * far * want


@pytest.mark.skipif(native.MISSING is not None, reason=str(native.MISSING))
@pytest.mark.parametrize(("labels", "k"), [(100_000, 512), (100_000, 99_990), (100_001, 3)])
def test_the_most_labels_in_both_types(labels: int, k: int, generator: torch.Generator) -> None:
    # float64 is held to sixty digits above, and has the same steps.
    s = 3 * torch.randn(labels, generator=generator)
    for size in (k, torch.tensor(k)):
        single, double = (manyhot.log_elementary_symmetric(x, size, impl="native").item() for x in (s, s.double()))
        assert single == pytest.approx(double, rel=2e-7)
    single, double = (manyhot.inclusion_probabilities(x, k, impl="native").double() for x in (s, s.double()))
    assert ((single - double).abs() <= 1e-5 * double * 3 + 1e-30).all()


# --- identities -------------------------------------------------------------------------------------------------------


@both
def test_values_that_anybody_can_check(impl: Any) -> None:
    zero = torch.zeros(6, dtype=torch.float64)
    for k in range(7):
        got = manyhot.log_elementary_symmetric(zero, k, impl=impl).exp().item()
        assert got == pytest.approx(math.comb(6, k), rel=1e-14)
        close(manyhot.inclusion_probabilities(zero, k, impl=impl), torch.full_like(zero, k / 6))
    # e_2 of 1, 2, 3 is 2 + 3 + 6
    s = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).log()
    assert manyhot.log_elementary_symmetric(s, 2, impl=impl).exp().item() == pytest.approx(11, rel=1e-14)
    close(manyhot.inclusion_probabilities(s, 2, impl=impl), torch.tensor([5 / 11, 8 / 11, 9 / 11], dtype=torch.float64))


def close(got: Tensor, want: Tensor, rtol: float = 1e-12, atol: float = 1e-14) -> None:
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


@both
def test_one_is_softmax_and_all_is_the_sum(impl: Any, generator: torch.Generator) -> None:
    s = 5 * torch.randn(4, 9, generator=generator, dtype=torch.float64)
    close(manyhot.log_elementary_symmetric(s, 1, impl=impl), s.logsumexp(-1))
    close(manyhot.inclusion_probabilities(s, 1, impl=impl), s.softmax(-1))
    close(manyhot.log_elementary_symmetric(s, 9, impl=impl), s.sum(-1))
    close(manyhot.log_elementary_symmetric(s, 0, impl=impl), torch.zeros(4, dtype=torch.float64))
    # Z_k(s) = e^{sum s} Z_{n-k}(-s): a set and what it leaves out.
    close(
        manyhot.log_elementary_symmetric(s, 7, impl=impl),
        s.sum(-1) + manyhot.log_elementary_symmetric(-s, 2, impl=impl),
    )
    close(manyhot.inclusion_probabilities(s, 7, impl=impl), 1 - manyhot.inclusion_probabilities(-s, 2, impl=impl))


@both
def test_bounds_of_the_sum(impl: Any, generator: torch.Generator) -> None:
    # mathematics.md section 6: the best set, the sets together, and the mean.
    s = 4 * torch.randn(50, 12, generator=generator, dtype=torch.float64)
    for k in (1, 4, 11):
        got, top = manyhot.log_elementary_symmetric(s, k, impl=impl), s.topk(k).values.sum(-1)
        room = math.log(math.comb(12, k))
        assert (got >= top - 1e-12).all()
        assert (got <= top + room + 1e-12).all()
        assert (got >= k * s.mean(-1) + room - 1e-12).all()


@both
def test_a_size_for_each_row_leading_axes_and_masks(impl: Any, generator: torch.Generator) -> None:
    s = 2 * torch.randn(2, 3, 8, generator=generator, dtype=torch.float64)
    k = torch.tensor([[0, 1, 8], [3, 5, 2]])
    got, probs = (f(s, k, impl=impl) for f in (manyhot.log_elementary_symmetric, manyhot.inclusion_probabilities))
    assert got.shape == (2, 3)
    assert probs.shape == s.shape
    for place in itertools.product(range(2), range(3)):
        close(got[place], manyhot.log_elementary_symmetric(s[place], int(k[place]), impl=impl))
        close(probs[place], manyhot.inclusion_probabilities(s[place], int(k[place]), impl=impl))
    mask = torch.rand(2, 3, 8, generator=generator) < 0.7
    mask[..., :3] = True
    junk = torch.where(mask, s, math.nan)
    close(
        manyhot.log_elementary_symmetric(junk, 2, mask=mask, impl=impl),
        manyhot.log_elementary_symmetric(torch.where(mask, s, -math.inf), 2, impl=impl),
    )
    masked = manyhot.inclusion_probabilities(junk, 2, mask=mask, impl=impl)
    assert (masked[~mask] == 0).all()
    # The memory of a transposed and of a broadcast tensor is another one.
    close(manyhot.log_elementary_symmetric(s.transpose(0, 1), k.T, impl=impl), got.T)
    close(
        manyhot.log_elementary_symmetric(s[0, 0].expand(4, 8), 3, impl=impl)[2],
        manyhot.log_elementary_symmetric(s[0, 0], 3),
    )


@both
def test_too_few_labels_infinite_and_nan_logits(impl: Any) -> None:
    inf, nan = math.inf, math.nan
    s = torch.tensor([[0.0, -inf, -inf], [1.0, nan, 0.0], [inf, 0.0, 1.0], [inf, inf, 1.0], [0.0, 1.0, 2.0]])
    got = manyhot.log_elementary_symmetric(s, 2, impl=impl)
    assert got[0] == -inf
    assert got[1].isnan()
    assert got[2] == inf
    assert got[3] == inf
    assert got[4].item() == pytest.approx(math.log(math.e + math.e**2 + math.e**3), rel=1e-6)
    probs = manyhot.inclusion_probabilities(s, 2, impl=impl)
    assert probs[0, 0].isnan()
    assert probs[0, 1] == 0
    torch.testing.assert_close(probs[2], torch.tensor([1.0, 1 / (1 + math.e), math.e / (1 + math.e)]))
    torch.testing.assert_close(probs[3], torch.tensor([1.0, 1.0, 0.0]))
    assert manyhot.log_elementary_symmetric(s[3], 1, impl=impl).isnan()
    for empty in (torch.zeros(0, 4), torch.zeros(2, 0, 4)):
        assert manyhot.log_elementary_symmetric(empty, 2, impl=impl).shape == empty.shape[:-1]
        assert manyhot.inclusion_probabilities(empty, 2, impl=impl).shape == empty.shape


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype, impl: Any, generator: torch.Generator) -> None:
    s = (4 * torch.randn(3, 30, generator=generator)).to(dtype).requires_grad_()
    got = manyhot.log_elementary_symmetric(s, 4, impl=impl)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, manyhot.log_elementary_symmetric(s.float(), 4, impl=impl), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(got.sum(), s)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, manyhot.inclusion_probabilities(s.detach(), 4, impl=impl).to(dtype))


# --- derivatives ------------------------------------------------------------------------------------------------------


@both
def test_the_gradient_is_the_probability(impl: Any, generator: torch.Generator) -> None:
    s = (3 * torch.randn(5, 11, generator=generator, dtype=torch.float64)).requires_grad_()
    for k in (0, 1, 4, 9, 11):
        value = manyhot.log_elementary_symmetric(s, k, impl=impl)
        outer = torch.randn(5, generator=generator, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(value, s, outer)
        close(gradient, outer.unsqueeze(-1) * manyhot.inclusion_probabilities(s.detach(), k, impl=impl))
    assert torch.autograd.gradcheck(lambda x: manyhot.log_elementary_symmetric(x, 4, impl=impl), s)


def test_second_derivatives_through_eager(generator: torch.Generator) -> None:
    s = (2 * torch.randn(2, 6, generator=generator, dtype=torch.float64)).requires_grad_()
    for low, high in ((3, 3), (1, 4), (0, 2), (1, 6), (0, 6)):
        assert torch.autograd.gradgradcheck(
            lambda x, low=low, high=high: symmetric.log_partition(x, low, high, impl="eager"), s
        )
        assert torch.autograd.gradcheck(lambda x, low=low, high=high: symmetric.partition_gradient(x, low, high), s)
    # A logit at the tilt itself: where light and heavy labels meet.
    zero = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: manyhot.inclusion_probabilities(x, 2), zero)
    covariance = torch.autograd.functional.jacobian(lambda x: manyhot.inclusion_probabilities(x, 2), zero[0].detach())
    # Two of four: variance 1/4 and covariance 1/6 - 1/4.
    assert isinstance(covariance, Tensor)
    close(covariance, torch.full((4, 4), -1 / 12, dtype=torch.float64) + torch.eye(4, dtype=torch.float64) / 3)


@pytest.mark.skipif(native.MISSING is not None, reason=str(native.MISSING))
def test_the_kernel_says_what_it_cannot(generator: torch.Generator) -> None:
    s = torch.randn(2, 6, generator=generator).requires_grad_()
    (first,) = torch.autograd.grad(manyhot.log_elementary_symmetric(s, 2, impl="native").sum(), s)
    with pytest.raises(RuntimeError, match='first derivatives only; use impl="eager"'):
        torch.autograd.grad(manyhot.log_elementary_symmetric(s, 2, impl="native").sum(), s, create_graph=True)
    with pytest.raises(ValueError, match='impl="native" has no derivatives of probabilities'):
        manyhot.inclusion_probabilities(s, 2, impl="native")
    with pytest.raises(ValueError, match="it runs on the CPU, and a tensor is on meta"):
        manyhot.log_elementary_symmetric(s.to("meta"), 2, impl="native")
    assert first.shape == s.shape


@pytest.mark.skipif(native.MISSING is not None, reason=str(native.MISSING))
def test_results_do_not_depend_on_threads_or_neighbours(generator: torch.Generator) -> None:
    s = torch.randn(40, 700, generator=generator)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = manyhot.inclusion_probabilities(s, 9, impl="native")
        torch.set_num_threads(3)
        together = manyhot.inclusion_probabilities(s, 9, impl="native")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, together)
    assert torch.equal(alone[17], manyhot.inclusion_probabilities(s[17], 9, impl="native"))


@pytest.mark.skipif(native.MISSING is not None, reason=str(native.MISSING))
def test_subnormal_numbers_live_on(generator: torch.Generator) -> None:
    # The kernel takes them as 0 while it runs; here it runs on the thread that calls.
    manyhot.inclusion_probabilities(30 * torch.randn(1, 500, generator=generator), 9, impl="native")
    assert (np.float32(1e-40) * np.ones(3, dtype=np.float32) > 0).all()
    assert math.ldexp(1.0, -1074) / 2 == 0 < math.ldexp(1.0, -1070) / 2


@pytest.mark.skipif(native.MISSING is not None, reason=str(native.MISSING))
def test_every_instruction_set(generator: torch.Generator) -> None:
    s = 3 * torch.randn(5, 333, generator=generator)
    want = manyhot.inclusion_probabilities(s.double(), 12, impl="eager")
    names = native._native.instruction_sets()
    try:
        for name in names:
            native._native.use_instruction_set(name)
            got = manyhot.inclusion_probabilities(s, 12, impl="native").double()
            assert ((got - want).abs() <= 1e-5 * want + 1e-30).all(), name
            single = manyhot.inclusion_probabilities(s.double(), 12, impl="native")
            close(single, want, rtol=1e-11, atol=1e-30)
    finally:
        native._native.use_instruction_set(names[0])


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [manyhot.log_elementary_symmetric, manyhot.inclusion_probabilities])
def test_errors_say_what_came(function: Any) -> None:
    s = torch.zeros(2, 5)
    for k, error, text in (
        (6, ValueError, "k must lie in 0 to 5, the number of labels; got 6"),
        (-1, ValueError, "k must lie in 0 to 5.*got -1"),
        (2.0, TypeError, "k must be an integer or a tensor of integers; got float"),
        (True, TypeError, "k must be an integer.*got bool"),
        (torch.tensor([2.0, 1.0]), TypeError, r"k must be an integer.*got torch\.float32"),
        (torch.tensor([1, 2, 3]), ValueError, r"k must broadcast to one size a row, \(2,\); got \(3,\)"),
        (torch.tensor([1, 7]), ValueError, "k must lie in 0 to 5, the number of labels; got 7 in row 1"),
    ):
        with pytest.raises(error, match=text):
            function(s, k)
    with pytest.raises(TypeError, match="logits must be a floating-point tensor"):
        function(torch.zeros(2, 5, dtype=torch.int64), 2)
    with pytest.raises(TypeError, match="mask must be boolean"):
        function(s, 2, mask=torch.ones(5))
    with pytest.raises(ValueError, match='impl must be "auto", "eager" or "native"; got \'blocked\''):
        function(s, 2, impl="blocked")


# --- drawing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(2, 2), (0, 3), (1, 5), (4, 5), (5, 5), (0, 0)])
def test_samples_have_the_right_frequencies(low: int, high: int) -> None:
    torch.manual_seed(7)
    s = torch.tensor([0.5, -1.0, 2.0, 0.0, -0.3], dtype=torch.float64)
    sets = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 5)
    sets = sets[(sets.sum(-1) >= low) & (sets.sum(-1) <= high)]
    probs = (sets @ s).softmax(-1)
    draws = 40_000
    drawn = manyhot.Subset(s, low, high).sample((draws,))
    code = 2.0 ** torch.arange(5, dtype=torch.float64)
    counts = torch.stack([(drawn @ code == value).sum() for value in (sets @ code)])
    assert counts.sum() == draws  # nothing outside of the support
    expected = probs * draws
    keep = expected > 5
    chi = ((counts - expected) ** 2 / expected)[keep].sum().item()
    free = max(int(keep.sum()) - 1, 0)
    # The 99.99 % point of chi-square by Wilson and Hilferty.
    limit = free * (1 - 2 / (9 * free) + 3.72 * math.sqrt(2 / (9 * free))) ** 3 if free else 1e-9
    assert chi <= limit


def test_samples_of_many_labels_have_the_right_mean() -> None:
    torch.manual_seed(3)
    s = 2 * torch.randn(2, 101, dtype=torch.float64)
    s[1, ::2] = -math.inf
    sets = manyhot.Subset(s, torch.tensor([7, 2]), torch.tensor([7, 30]))
    drawn = sets.sample((4000,))
    assert (drawn[:, 0].sum(-1) == 7).all()
    assert (drawn[:, 1, ::2] == 0).all()
    mean = sets.inclusion_probabilities()
    noise = (sets.variance / 4000).sqrt()
    assert ((drawn.mean(0) - mean).abs() <= 4.5 * noise + 1e-3).all()
