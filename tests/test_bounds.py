"""The inequalities of log-sum-exp, of log Z_k and of ZLPR, for any logits, by every implementation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import manyhot
from manyhot.kernels import native

BUILT = pytest.param("native", marks=pytest.mark.skipif(native.MISSING is not None, reason=str(native.MISSING)))
SUMS, SETS = ["eager", "blocked", BUILT], ["eager", BUILT]
DTYPES = [torch.float32, torch.float64]

seeds = st.integers(0, 2**31)
spreads = st.sampled_from([0.0, 1e-3, 1.0, 10.0, 1e2, 1e4])
# Few long rows, many short ones, all orders of size.
lengths = st.integers(0, 50).map(lambda e: round(10 ** (e / 10)))
many = settings(max_examples=15, deadline=None)


def drawn(seed: int, n: int, spread: float, dtype: torch.dtype, rows: int = 1) -> Tensor:
    return spread * torch.randn(rows, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def lse(x: Tensor, impl: str) -> Tensor:
    """Return the log-sum-exp of rows: what the signed one gives where all labels are negative."""
    return manyhot.signed_logsumexp(x, torch.zeros_like(x), impl=impl)[0].double()  # pyright: ignore


def rounding(x: Tensor, dtype: torch.dtype, terms: float = 8.0) -> float:
    """Return what rounding may take from an inequality: some last digits of the largest number in it."""
    return terms * torch.finfo(dtype).eps * (1 + float(x.abs().max()) + math.log(x.shape[-1]))


@pytest.mark.parametrize("impl", SUMS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, n=lengths, spread=spreads)
@many
def test_log_sum_exp_lies_between(impl: str, dtype: torch.dtype, seed: int, n: int, spread: float) -> None:
    x = drawn(seed, n, spread, dtype)
    value, exact, slack = lse(x, impl).item(), x.double(), rounding(x, dtype)
    top = exact.max().item()
    assert top - slack <= value <= top + math.log(n) + slack
    assert value >= exact.mean().item() + math.log(n) - slack
    if 1 < n < 1000 and 0 < spread < 100 and dtype == torch.float64:
        assert top < value < top + math.log(n)


@pytest.mark.parametrize("impl", SUMS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, n=lengths, spread=spreads, t=st.sampled_from([1e-3, 0.1, 1.0, 30.0]))
@many
def test_a_temperature_smooths_the_maximum(
    impl: str, dtype: torch.dtype, seed: int, n: int, spread: float, t: float
) -> None:
    x = drawn(seed, n, spread, dtype)
    smooth, slack = t * lse(x / t, impl).item(), t * rounding(x / t, dtype)
    assert -slack <= smooth - x.double().max().item() <= t * math.log(n) + slack


@pytest.mark.parametrize("impl", SUMS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, n=lengths, spread=spreads, sharp=st.sampled_from([0.0, 0.3, 1.0, 5.0]))
@many
def test_entropy_bounds_it_from_below(
    impl: str, dtype: torch.dtype, seed: int, n: int, spread: float, sharp: float
) -> None:
    x = drawn(seed, n, spread, dtype)
    exact, value, slack = x.double()[0], lse(x, impl).item(), rounding(x, dtype)

    def bound(share: Tensor) -> float:
        # Sums without rounding: by plain ones, shares of 100,000 labels add up to 1 + 3e-14, and that times the value.
        p = share / math.fsum(share.tolist())
        return math.fsum((p * exact).tolist()) + math.fsum(torch.special.entr(p).tolist())

    other = (sharp * drawn(seed + 1, n, 1.0, torch.float64)[0] + exact / max(spread, 1.0)).softmax(0)
    assert bound(other) <= value + slack
    assert bound(exact.softmax(0)) == pytest.approx(value, abs=slack + rounding(x, torch.float64))


@pytest.mark.parametrize("impl", SUMS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, n=lengths, spread=spreads, step=st.sampled_from([1e-3, 1.0, 1e3]), share=st.floats(0, 1))
@many
def test_it_moves_no_more_than_its_arguments_and_is_convex(
    impl: str, dtype: torch.dtype, seed: int, n: int, spread: float, step: float, share: float
) -> None:
    x = drawn(seed, n, spread, dtype)
    y = x + drawn(seed + 1, n, step, dtype)
    between = share * x + (1 - share) * y
    at_x, at_y, at = (lse(z, impl).item() for z in (x, y, between))
    slack = rounding(torch.stack((x, y)), dtype)
    assert abs(at_x - at_y) <= (x.double() - y.double()).abs().max().item() + slack
    assert at <= share * at_x + (1 - share) * at_y + slack


def log_choose(n: int, k: int) -> float:
    # The integer itself: a difference of lgamma loses what they have in common, 1e-12 at n = 2000.
    return math.log(math.comb(n, k))


@pytest.mark.parametrize("impl", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(
    seed=seeds,
    size=st.tuples(lengths, st.floats(0, 1)).filter(lambda size: size[0] <= 2000),
    spread=st.sampled_from([0.0, 1.0, 10.0, 1e3]),
)
@settings(max_examples=12, deadline=None)
def test_sums_over_sets(impl: str, dtype: torch.dtype, seed: int, size: tuple[int, float], spread: float) -> None:
    n, share = size
    k = min(round(n * share), 40 if impl == "eager" else 200, n)
    x = drawn(seed, n, spread, dtype)
    around = range(max(k - 1, 0), min(k + 1, n) + 1)
    z = {j: manyhot.log_elementary_symmetric(x, j, impl=impl).double().item() for j in around}  # pyright: ignore
    exact = x.double()[0]
    best = exact.topk(k).values.sum().item()
    slack = 16 * torch.finfo(dtype).eps * (1 + exact.abs().topk(k).values.sum().item() + log_choose(n, k))
    assert best - slack <= z[k] <= best + log_choose(n, k) + slack
    assert z[k] >= k * exact.mean().item() + log_choose(n, k) - slack
    if len(around) == 3:
        # Newton's inequality: (Z_k / C(n, k))^2 >= Z_{k-1} / C(n, k-1) * Z_{k+1} / C(n, k+1); log-concave the more.
        mean = {j: z[j] - log_choose(n, j) for j in around}
        assert 2 * mean[k] >= mean[k - 1] + mean[k + 1] - 4 * slack
        assert 2 * z[k] >= z[k - 1] + z[k + 1] - 4 * slack


@pytest.mark.parametrize("impl", SUMS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, n=lengths, spread=spreads, positives=st.sampled_from([0.0, 0.01, 0.5, 1.0]))
@many
def test_zlpr_lies_between_its_hard_maximum_and_that_plus_two_logarithms(
    impl: str, dtype: torch.dtype, seed: int, n: int, spread: float, positives: float
) -> None:
    x = drawn(seed, n, spread, dtype)
    t = torch.rand(1, n, generator=torch.Generator().manual_seed(seed + 1)) < positives
    value = float(manyhot.zlpr_loss(x, t, impl=impl))  # pyright: ignore
    k = int(t.sum())
    exact, zero = x.double(), torch.zeros(1, dtype=torch.float64)
    hinge = float(torch.cat((exact[~t], zero)).max() + torch.cat((-exact[t], zero)).max())
    slack = 2 * rounding(x, dtype)
    assert hinge - slack <= value <= hinge + math.log1p(k) + math.log1p(n - k) + slack


def test_bounds_are_reached() -> None:
    # All alike: the upper bounds; one far above: the lower.
    alike = torch.full((1, 7), 3.0, dtype=torch.float64)
    assert lse(alike, "eager").item() == pytest.approx(3 + math.log(7))
    assert manyhot.log_elementary_symmetric(alike, 3).item() == pytest.approx(9 + math.log(35))
    apart = torch.tensor([[900.0, 600.0, 300.0, 0.0]], dtype=torch.float64)
    assert lse(apart, "eager").item() == 900
    assert manyhot.log_elementary_symmetric(apart, 2).item() == 1500
    zero = torch.zeros(1, 7, dtype=torch.float64)
    assert manyhot.zlpr_loss(zero, torch.eye(7)[:1]).item() == pytest.approx(math.log(2) + math.log(7))
