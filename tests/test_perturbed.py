"""Probabilities from noise against mpmath, their properties and gradients, and accuracy under noise as a loss."""

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, get_args

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import manyhot
import of_one_class
from manyhot import Perturbed, exact_loss, largest
from manyhot.losses import perturbed
from of_one_class import batch, close

NOISES = get_args(perturbed.Noise)
SMOOTH: tuple[Any, ...] = ("gumbel", "normal", "logistic")


# --- the reference: mpmath, 20 digits, panels cut at every kink ------------------------------------------------------


def density(noise: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    e, one, zero = mpmath.exp, mpmath.mpf(1), mpmath.mpf(0)
    half = one / 2
    return {
        "gumbel": (lambda x: e(-x - e(-x)), lambda x: e(-e(-x))),
        "normal": (mpmath.npdf, mpmath.ncdf),
        "logistic": (lambda x: e(-x) / (1 + e(-x)) ** 2, lambda x: 1 / (1 + e(-x))),
        "laplace": (lambda x: e(-abs(x)) / 2, lambda x: e(x) / 2 if x < 0 else 1 - e(-x) / 2),
        "exponential": (lambda x: e(-x) if x >= 0 else zero, lambda x: 1 - e(-x) if x > 0 else zero),
        "uniform": (lambda x: one if abs(x) <= half else zero, lambda x: min(one, max(zero, x + half))),
    }[noise]


@cache
def log_prob(noise: str, logits: tuple[float, ...], counts: tuple[int, ...], i: int) -> float:
    """Return log p of one class of group i, where group j is `counts[j]` classes of one logit."""
    with mpmath.workdps(20):
        f, cdf = density(noise)
        mu, half = [mpmath.mpf(x) for x in logits], mpmath.mpf(1) / 2
        top = max(mu)

        def integrand(z: Any) -> Any:
            value = f(z - mu[i])
            for j, (m, count) in enumerate(zip(mu, counts, strict=True)):
                if value and count > (j == i):
                    value *= cdf(z - m) ** (count - (j == i))
            return value

        if noise == "uniform":
            ends = sorted({top - half, *(m + half for m in mu if top - half < m + half <= mu[i] + half)})
            cuts = [b - (b - a) * half**k for a, b in pairwise(ends) for k in range(18)] + ends[-1:]
        elif noise == "exponential":
            cuts = [top + k for k in range(65)]
        else:
            reach = 14 if noise == "normal" else 60
            low, high = min(mu) - reach / 2, top + reach
            panels = 120 if sum(counts) > 1000 else 60
            cuts = sorted({*mu, *(low + (high - low) * k / panels for k in range(panels + 1))})
        rule = {"method": "gauss-legendre", "maxdegree": 4}  # 24 points a panel, in which all is analytic
        p = mpmath.quad(integrand, cuts, **rule) if len(cuts) > 1 else mpmath.mpf(0)
        return float(mpmath.log(p)) if p else -math.inf


def classes(logits: tuple[float, ...], counts: tuple[int, ...]) -> tuple[Tensor, list[int]]:
    """Write groups out, and say where each begins."""
    parts = [torch.full((count,), x, dtype=torch.float64) for x, count in zip(logits, counts, strict=True)]
    return torch.cat(parts), [sum(counts[:j]) for j in range(len(counts))]


GROUPS = (
    ((0.3, -1.0, 2.0), (1, 1, 1)),
    ((0.0, -3.0, -7.0, 0.25), (1, 1, 2, 1)),
    ((0.0, -0.45, -0.9), (1, 30, 3)),
    ((0.0, -30.0), (1, 1)),
)
SPREAD, CLOSE = ((0.0, 1.5, -4.0, 3.0), (10_000, 9_990, 9, 1)), ((0.0, -0.002, -0.004), (15_000, 4_999, 1))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("logits", "counts"), GROUPS, ids=str)
def test_probabilities_against_mpmath(noise: Any, logits: tuple[float, ...], counts: tuple[int, ...]) -> None:
    mu, start = classes(logits, counts)
    got = Perturbed(noise).log_probs(mu)
    want = [log_prob(noise, logits, counts, i) for i in range(len(logits))]
    # An error of a logarithm is a relative error of the probability.
    allowed = 1e-8 if noise in SMOOTH else 1e-6
    for i, place in enumerate(start):
        assert got[place].item() == pytest.approx(want[i], rel=1e-13, abs=allowed), i
        assert got[place : place + counts[i]].tolist() == pytest.approx([got[place].item()] * counts[i], rel=1e-13)
        of_class = -exact_loss(mu, torch.tensor(place), noise=noise, log=True).item()
        assert of_class == pytest.approx(want[i], rel=1e-13, abs=allowed), i
    assert Perturbed(noise).probs(mu).sum().item() == pytest.approx(1, abs=allowed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "groups"),
    [*((noise, SPREAD) for noise in NOISES), ("normal", CLOSE), ("uniform", CLOSE)],
    ids=lambda x: x if isinstance(x, str) else "spread" if x is SPREAD else "close",
)
def test_twenty_thousand_classes_against_mpmath(noise: Any, groups: tuple[tuple[float, ...], tuple[int, ...]]) -> None:
    logits, counts = groups
    mu, start = classes(logits, counts)
    got = Perturbed(noise).log_probs(mu)
    allowed = 1e-8 if noise in SMOOTH else 1e-6
    for i, place in enumerate(start):
        want = log_prob(noise, logits, counts, i)
        if want < -690:  # e^-690 is 1e-300
            assert got[place] < -690
        else:
            assert got[place].item() == pytest.approx(want, rel=1e-13, abs=allowed), i
    assert got.exp().sum().item() == pytest.approx(1, abs=allowed)


def test_values_of_the_specification() -> None:
    mu = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    # mathematics.md section 5 has .8869 for the last, with which they would not sum to 1.
    assert Perturbed("exponential").probs(mu).tolist() == pytest.approx([0.0898, 0.0234, 0.8868], abs=5e-5)
    reach = torch.tensor([0.0, -1.5, -2.5])
    assert Perturbed("uniform").probs(reach).tolist() == [1, 0, 0]
    assert Perturbed("uniform").log_probs(reach).tolist() == [0, -math.inf, -math.inf]


# --- properties ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", NOISES)
def test_a_distribution_that_ranks_as_the_logits_do(noise: Any, generator: torch.Generator) -> None:
    s = 0.4 * torch.randn(5, 9, generator=generator, dtype=torch.float64)
    s[0] = 0
    s[1, 3] = s[1, 4]
    kind = Perturbed(noise, scale=0.7)
    p = kind.probs(s)
    assert (p >= 0).all()
    close(p.sum(-1), torch.ones(5), rtol=1e-9)
    close(kind.probs(s + 123.25), p, rtol=1e-9)
    close(p, Perturbed(noise).probs(s / 0.7), rtol=1e-12)
    close(p.log(), kind.log_probs(s), rtol=1e-9)
    ranked = p.gather(-1, s.argsort(-1))
    assert (ranked.diff(dim=-1) >= -1e-12).all()
    close(p[0], [1 / 9] * 9, rtol=1e-9)
    order = torch.randperm(9, generator=generator)
    close(kind.probs(s[:, order]), p[:, order], rtol=1e-9)
    close(kind.probs(s.view(5, 1, 9)), p.view(5, 1, 9), rtol=1e-12)
    close(kind.probs(s[2]), p[2], rtol=1e-9)
    assert kind.probs(s[:0]).shape == (0, 9)
    close(kind.probs(s[:, :1]), torch.ones(5, 1), rtol=1e-9)


def test_gumbel_is_softmax_and_two_classes_are_a_difference(generator: torch.Generator) -> None:
    s = 3 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    close(Perturbed("gumbel", 0.6).log_probs(s), torch.log_softmax(s / 0.6, -1))
    two = s[:, :2]
    gap = two[:, 0] - two[:, 1]
    close(Perturbed("normal").log_probs(two)[:, 0], torch.special.log_ndtr(gap / math.sqrt(2)), rtol=1e-9)
    below = (-gap.abs()).exp() * (2 + gap.abs()) / 4
    close(Perturbed("laplace").probs(two)[:, 0], torch.where(gap < 0, below, 1 - below), rtol=1e-9)
    below = (-gap.abs()).exp() / 2
    close(Perturbed("exponential").probs(two)[:, 0], torch.where(gap < 0, below, 1 - below), rtol=1e-9)
    below = (1 - gap.abs()).clamp(min=0) ** 2 / 2
    close(Perturbed("uniform").probs(two)[:, 0], torch.where(gap < 0, below, 1 - below), rtol=1e-9)


@pytest.mark.parametrize("noise", NOISES)
def test_gradients(noise: Any, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    s = (0.3 * torch.randn(3, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    kind = Perturbed(noise, 1.3)
    assert torch.autograd.gradcheck(kind.probs, s)
    assert torch.autograd.gradcheck(kind.log_probs, s)
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    (slope,) = torch.autograd.grad((weight * kind.log_probs(s)).sum(), s)
    close(slope.sum(-1), torch.zeros(3), atol=1e-12)
    # At ties too, where kinks meet: by symmetry the slope of class 0 is 2/3 in sum against the two others.
    tied = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(kind.probs(tied)[0], tied)
    step = torch.tensor([1e-4, 0, 0], dtype=torch.float64)
    rise = (kind.probs(tied + step) - kind.probs(tied - step))[0].detach() / 2e-4
    close(slope, torch.stack((rise, -rise / 2, -rise / 2)), rtol=1e-3)
    # In blocks of one class and one row it is the same.
    whole = torch.autograd.grad((weight * kind.log_probs(s)).sum(), s)[0]
    monkeypatch.setattr(largest, "BLOCK", 1)
    close(torch.autograd.grad((weight * kind.log_probs(s)).sum(), s)[0], whole, rtol=1e-9)


def test_second_derivatives_where_densities_are_smooth(generator: torch.Generator) -> None:
    s = torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 2])
    for noise in SMOOTH:
        assert torch.autograd.gradgradcheck(Perturbed(noise).probs, s)
        assert torch.autograd.gradgradcheck(lambda s, n=noise: exact_loss(s, y, noise=n, log=True), s)
    for noise in ("laplace", "exponential", "uniform"):
        (slope,) = torch.autograd.grad(exact_loss(s, y, noise=noise), s, create_graph=True)
        with pytest.raises(RuntimeError, match=f"{noise} noise has no second derivatives here; gumbel, normal"):
            torch.autograd.grad(slope.sum(), s)


def test_memory_does_not_grow_with_classes_times_nodes() -> None:
    most = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal most
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else (out,):
                if isinstance(x, Tensor):
                    most = max(most, x.numel())
            return out

    s = torch.linspace(-1, 1, 20_000, dtype=torch.float64, requires_grad=True)
    with Watch():
        Perturbed("normal").probs(s)[0].backward()
    assert 20_000 <= most <= largest.BLOCK < 20_000 * 64


@pytest.mark.parametrize("noise", NOISES)
def test_infinite_logits(noise: Any) -> None:
    kind, inf = Perturbed(noise), math.inf
    s = torch.tensor([[0.1, 0.3, -inf], [inf, 0.3, 0.2], [inf, inf, 0.0]], dtype=torch.float64, requires_grad=True)
    p = kind.probs(s)
    close(p[0, :2], kind.probs(s[0, :2]), rtol=1e-9)
    assert p[0, 2] == 0
    assert p[1].tolist() == pytest.approx([1, 0, 0], abs=1e-12)
    assert p[2].tolist() == pytest.approx([0.5, 0.5, 0], abs=1e-9)
    (slope,) = torch.autograd.grad((p * torch.tensor([1.0, 2.0, 3.0])).sum(), s)
    assert slope.isfinite().all()
    assert (slope[s.isinf()] == 0).all()


def test_half_dtypes_and_autocast(generator: torch.Generator) -> None:
    s = torch.randn(4, 5, generator=generator)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for noise in NOISES:
            leaf = s.to(dtype).requires_grad_()
            p = Perturbed(noise).probs(leaf)
            assert p.dtype == torch.float32
            close(p, Perturbed(noise).probs(leaf.double()), rtol=1e-6, atol=1e-7)
            p[:, 0].sum().backward()
            assert leaf.grad is not None
            assert leaf.grad.dtype == dtype
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert (Perturbed(noise).probs(leaf) == p).all()


# --- sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", NOISES)
def test_inclusion_by_sampling(noise: Any, generator: torch.Generator) -> None:
    s = torch.tensor([[0.3, -0.4, 0.6, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    kind, samples = Perturbed(noise, 0.8), 20_000
    p = kind.inclusion_probabilities(s, 1, samples=samples, generator=generator)
    # Five standard deviations of the worst cell.
    assert (p - kind.probs(s)).abs().max() < 5 * 0.5 / math.sqrt(samples)
    for k in (0, 2, 4):
        p = kind.inclusion_probabilities(s, k, samples=500, generator=generator)
        close(p.sum(-1), torch.full((2,), float(k)))
        assert p.dtype == torch.float64
        assert ((p >= 0) & (p <= 1)).all()
        assert k == 2 or (p == k / 4).all()
    # Two of four: the one that is left out is the smallest of -noise for symmetric noise.
    if noise in ("normal", "logistic", "laplace", "uniform"):
        three = kind.inclusion_probabilities(s, 3, samples=samples, generator=generator)
        assert (1 - three - kind.probs(-s)).abs().max() < 5 * 0.5 / math.sqrt(samples)


@pytest.mark.parametrize("noise", [noise for noise in NOISES if noise != "gumbel"])
def test_draws_have_the_distribution_that_is_integrated(noise: str, generator: torch.Generator) -> None:
    n, density = 20_000, largest.DENSITIES[noise]
    draws = density.sample(lambda: torch.empty(n, dtype=torch.float64).exponential_(generator=generator))
    level = density.log_cdf(draws).exp().sort().values
    even = (torch.arange(n) + 0.5) / n
    assert (level - even).abs().max() < 2 / math.sqrt(n)  # Kolmogorov-Smirnov: once in a thousand by chance


@pytest.mark.parametrize("noise", NOISES)
def test_infinite_logits_come_first_or_last_and_chance_decides_among_them(noise: Any) -> None:
    generator = torch.Generator().manual_seed(0)

    def sampled(row: list[float], k: int) -> Tensor:
        kind = Perturbed(noise)
        return kind.inclusion_probabilities(torch.tensor(row), k, samples=2000, generator=generator)

    inf, about = math.inf, 5 * 0.5 / math.sqrt(2000)
    close(sampled([inf, inf, 0.0], 1), torch.tensor([0.5, 0.5, 0.0]), rtol=0, atol=about)
    close(sampled([0.0, -inf, -inf], 2), torch.tensor([1.0, 0.5, 0.5]), rtol=0, atol=about)
    close(sampled([inf, 0.0, -90.0], 2), torch.tensor([1.0, 1.0, 0.0]))
    close(sampled([-inf, -inf], 1), torch.tensor([0.5, 0.5]), rtol=0, atol=about)
    close(sampled([1e7, 1e7, -inf], 1), torch.tensor([0.5, 0.5, 0.0]), rtol=0, atol=about)


def test_sampling_repeats_and_takes_any_shape() -> None:
    s = torch.randn(2, 3, 5)
    first, second = (
        Perturbed("normal").inclusion_probabilities(s, 2, samples=50, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    assert (first == second).all()
    assert first.shape == s.shape
    assert first.dtype == torch.float32
    for k in (-1, 6):
        with pytest.raises(ValueError, match=f"k must lie in 0 to 5, the number of labels; got {k}"):
            Perturbed().inclusion_probabilities(s, k)
    with pytest.raises(ValueError, match="samples must be 1 or more; got 0"):
        Perturbed().inclusion_probabilities(s, 2, samples=0)


# --- accuracy as a loss ----------------------------------------------------------------------------------------------


def slowly(s: list[float], y: int, noise: str = "normal", scale: float = 1.0, log: bool = False, **more: Any) -> float:
    margin = more.get("margin")
    mu = [x if margin is None or j == y else max(x, s[y] - margin) for j, x in enumerate(s)]
    if max(map(abs, mu)) > 100:  # two classes or more, far apart: the logarithm of the first term of the tail
        gap = (max(x for j, x in enumerate(mu) if j != y) - mu[y]) / scale
        log_p = float(mpmath.log(mpmath.ncdf(-gap / mpmath.sqrt(2)))) if gap < 1e5 else -gap * gap / 4
    else:
        log_p = log_prob(noise, tuple(x / scale for x in mu), (1,) * len(mu), y)
    return -log_p if log else -math.exp(log_p)


EXACT = of_one_class.OfOneClass(
    name="exact",
    function=exact_loss,
    module=manyhot.ExactLoss,
    reference=slowly,
    grid={"noise": ("normal", "laplace"), "scale": (1.0, 2.0), "margin": (None, 1.5), "log": (False, True)},
)
# Shown below with values of their own.
NOT_OF_EXACT = (of_one_class.extreme_logits_stay_finite, of_one_class.equals_the_reference)


@pytest.mark.parametrize(
    "prop", [p for p in of_one_class.PROPERTIES if p not in NOT_OF_EXACT], ids=lambda prop: prop.__name__
)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile, on itself
def test_exact_keeps_the_contract_of_one_class(prop: Callable[..., None], generator: torch.Generator) -> None:
    prop(EXACT, generator)


@pytest.mark.parametrize("noise", NOISES)
def test_exact_against_mpmath(noise: Any, generator: torch.Generator) -> None:
    s, y = batch(generator)
    grid: tuple[dict[str, Any], ...] = ({"scale": 1.7}, {"margin": 0.5, "log": True})
    for options in grid:
        s_, y_ = s[:2], y[:2]
        got = exact_loss(s_, y_, noise=noise, reduction="none", **options)
        want = [slowly(a, b, noise, **options) for a, b in zip(s_.tolist(), y_.tolist(), strict=True)]
        close(got, want, rtol=1e-6 if noise not in SMOOTH else 1e-8, atol=1e-9)


def test_exact_is_a_probability_of_perturbed_and_gumbel_is_cross_entropy(generator: torch.Generator) -> None:
    s, y = batch(generator)
    for noise in NOISES:
        p = Perturbed(noise, 1.4).probs(s).gather(-1, y.unsqueeze(-1)).squeeze(-1)
        close(exact_loss(s, y, noise=noise, scale=1.4, reduction="none"), -p, rtol=1e-9)
    close(exact_loss(s, y, noise="gumbel", log=True), F.cross_entropy(s, y))
    close(exact_loss(s, y, noise="gumbel"), manyhot.smooth_accuracy_loss(s, y))


def test_log_p_is_right_where_p_underflows() -> None:
    # Two classes: Phi(-d/sqrt 2), by mpmath; its gradient in the target's logit -h(d/sqrt 2)/sqrt 2, h the hazard.
    for d in (10.0, 60.0, 1e3, 1e4):
        s = torch.tensor([[0.0, d]], dtype=torch.float64, requires_grad=True)
        loss = exact_loss(s, torch.tensor([0]), log=True)
        (slope,) = torch.autograd.grad(loss, s)
        with mpmath.workdps(30):
            x = mpmath.mpf(d) / mpmath.sqrt(2)
            tail = mpmath.erfc(x / mpmath.sqrt(2)) / 2
            assert loss.item() == pytest.approx(float(-mpmath.log(tail)), rel=1e-12)
            hazard = float(mpmath.npdf(x) / tail / mpmath.sqrt(2))
        assert slope[0].tolist() == pytest.approx([-hazard, hazard], rel=1e-6)
    s = torch.tensor([[0.0, 1e18, -1e30]], requires_grad=True)
    loss = exact_loss(s, torch.tensor([0]), log=True)
    loss.backward()
    assert loss.item() == pytest.approx(1e36 / 4, rel=1e-5)
    assert s.grad is not None
    assert s.grad.isfinite().all()
    # A class without a chance is none, however far the others are apart.
    for noise in ("normal", "laplace", "logistic"):
        for d in (1e3, 1e7, 1e12):
            s = torch.tensor([[0.0, d], [0.0, d], [0.0, d]], dtype=torch.float64)
            with_absent = torch.cat((s, torch.full((3, 2), -math.inf, dtype=torch.float64)), -1)
            y = torch.tensor([0, 0, 1])
            want = exact_loss(s, y, noise=noise, log=True, reduction="none")
            close(exact_loss(with_absent, y, noise=noise, log=True, reduction="none"), want, rtol=1e-8)
            if noise == "normal" and d > 1e3:
                assert want[0].item() == pytest.approx(d * d / 4, rel=1e-6)
    # Tails of other noise fall with the distance itself.
    tails: tuple[tuple[Any, float, float], ...] = (
        ("laplace", 1e4, 1e4 + math.log(4) - math.log(1e4 + 2)),
        ("logistic", 2e3, 2e3 - math.log(2e3 - 1)),
    )
    for noise, d, tail in tails:
        s = torch.tensor([[0.0, d]], dtype=torch.float64)
        assert exact_loss(s, torch.tensor([0]), noise=noise, log=True).item() == pytest.approx(tail, rel=1e-8)
    for noise in NOISES:
        for size in (1e4, 1e30):
            s = torch.tensor([[size, -size, 0.0], [-size, size, 0.0]], requires_grad=True)
            value = exact_loss(s, torch.tensor([0, 0]), noise=noise, reduction="none")
            value.sum().backward()
            assert value.tolist() == pytest.approx([-1, 0], abs=1e-6)
            assert s.grad is not None
            assert s.grad.isfinite().all()


def test_a_class_out_of_reach_of_uniform_noise() -> None:
    s = torch.tensor([[0.0, 1.5]], requires_grad=True)
    loss = exact_loss(s, torch.tensor([0]), noise="uniform", log=True)
    loss.backward()
    assert loss.item() == math.inf
    assert s.grad is not None
    assert s.grad.tolist() == [[0, 0]]


def test_a_margin_stops_the_gain() -> None:
    near, far = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[9.0, 0.0, -1.0]], requires_grad=True)
    y = torch.tensor([0])
    assert exact_loss(near, y, margin=2.0).item() == pytest.approx(exact_loss(torch.tensor([[2.0, 0, 0]]), y).item())
    loss = exact_loss(far, y, margin=2.0)
    assert loss.item() == pytest.approx(exact_loss(torch.tensor([[2.0, 0, 0]]), y).item())
    loss.backward()
    assert far.grad is not None
    assert far.grad[0].tolist() == pytest.approx([0, 0, 0], abs=1e-12)


def boundary(loss: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Return the b in [-1, 1] with the least loss of f = x - b on the three points of the post."""
    x, y = torch.tensor([-0.25, 0.0, 0.25], dtype=torch.float64), torch.tensor([0, 0, 1])
    grid = torch.linspace(-0.05, 0.85, 901, dtype=torch.float64)
    f = x - grid.unsqueeze(-1)
    values = loss(torch.stack((torch.zeros_like(f), f), -1), y.expand(f.shape)).mean(-1)
    return grid[values.argmin()].item()


def test_three_points_of_the_post() -> None:
    # (-.25, -1), (0, -1), (.25, +1): right for b in (0, .25).
    cross_entropy = boundary(lambda s, y: exact_loss(s, y, noise="gumbel", log=True, reduction="none"))
    assert cross_entropy == pytest.approx(0.70, abs=5e-3)
    # One logit with noise of its own is two logits whose difference has that noise: scale/sqrt 2 each.
    for scale, b in ((0.1, 0.125), (0.2, 0.151)):
        assert boundary(lambda s, y, c=scale: exact_loss(s, y, scale=c / 2**0.5, reduction="none")) == pytest.approx(
            b, abs=1e-3
        )
    assert not 0 < boundary(lambda s, y: exact_loss(s, y, scale=0.5 / 2**0.5, reduction="none")) < 0.25


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Perturbed("cauchy"), "noise must be one of gumbel, normal, logistic.*got 'cauchy'"),  # pyright: ignore
        (lambda: Perturbed(scale=0.0), "scale of the noise must be positive; got 0"),
        (lambda: Perturbed(scale=math.inf), "scale of the noise must be positive; got inf"),
        (lambda: Perturbed().probs(torch.zeros(2, 0)), r"at least one class; got \(2, 0\)"),
        (
            lambda: exact_loss(torch.zeros(1, 2), torch.tensor([0]), margin=-1.0),
            "margin must be 0 or more, or None; got",
        ),
        (lambda: exact_loss(torch.zeros(1, 2), torch.tensor([0]), scale=-1.0), "scale of the noise must be positive"),
    ],
)
def test_wrong_options(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


def test_perturbed_wants_floating_point() -> None:
    with pytest.raises(TypeError, match=r"logits must be a floating-point tensor; got a tensor of torch.int64"):
        Perturbed().probs(torch.tensor([1, 2]))
