"""Smooth metrics: what they become as logits grow, their gradients, and losses of a whole batch."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score, fbeta_score
from torch import Tensor

import coupled
import manyhot
from coupled import close

SMOOTH_F = coupled.Coupled(
    name="smooth_f",
    function=manyhot.smooth_f_loss,
    module=manyhot.SmoothFLoss,
    reference=coupled.smooth_f,
    grid={"average": ("micro", "macro", "samples"), "beta": (1.0, 2.0, 0.5)},
)
F_WEIGHTED = coupled.Coupled(
    name="f_weighted_bce",
    function=manyhot.f_weighted_bce_loss,
    module=manyhot.FWeightedBCELoss,
    reference=coupled.f_weighted_bce,
    grid={"average": ("micro", "macro", "samples"), "beta": (1.0, 2.0, 0.5)},
)
# No gradient goes through F, and each row has a loss of its own: shown below.
NOT_OF_F_WEIGHTED = (coupled.has_the_gradient_of_its_values, coupled.reduces_as_documented)


@pytest.mark.parametrize("prop", coupled.PROPERTIES, ids=lambda prop: prop.__name__)
def test_smooth_f_keeps_the_contract_of_losses_of_a_whole_batch(
    prop: Callable[..., None], generator: torch.Generator
) -> None:
    prop(SMOOTH_F, generator)


@pytest.mark.parametrize(
    "prop", [p for p in coupled.PROPERTIES if p not in NOT_OF_F_WEIGHTED], ids=lambda prop: prop.__name__
)
def test_f_weighted_bce_keeps_the_contract_of_losses_of_a_whole_batch(
    prop: Callable[..., None], generator: torch.Generator
) -> None:
    prop(F_WEIGHTED, generator)


def batch(generator: torch.Generator, rows: int = 6, labels: int = 5) -> tuple[Tensor, Tensor]:
    s = 2 * torch.randn(rows, labels, generator=generator, dtype=torch.float64)
    return s, (torch.rand(rows, labels, generator=generator) < 0.4).double()


# --- the metric in the limit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", ["micro", "macro", "samples"])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_smooth_f_of_certain_decisions_is_the_metric(average: Any, beta: float, generator: torch.Generator) -> None:
    for size in (1e4, math.inf):
        s, t = batch(generator, 30, 6)
        t[:, 5], t[0], s[0, :] = 0, 0, -1.0  # a label and a row without a positive on either side count as 0
        s[:, 5] = -1
        s = size * s.sign()
        options: dict[str, Any] = {"beta": beta, "average": average, "zero_division": 0}
        want = fbeta_score(t.numpy(), manyhot.decide(s).numpy(), **options)
        close(manyhot.smooth_f_loss(s, t, average=average, beta=beta), -want)


def test_smooth_accuracy_of_certain_decisions_is_the_metric(generator: torch.Generator) -> None:
    for size in (1e4, math.inf):
        s, t = batch(generator, 30, 6)
        s = size * s.sign()
        right = (manyhot.decide(s) == t).double().mean()
        close(manyhot.smooth_accuracy_loss(s, t), -right)
        assert (coupled.gradient(manyhot.smooth_accuracy_loss, s, t) == 0).all()
        s, y = size * torch.randn(30, 4, generator=generator), torch.randint(4, (30,), generator=generator)
        s = torch.where(s == s.amax(-1, keepdim=True), s, s.clamp(max=0)) if size == math.inf else s
        if size == math.inf:
            s = torch.full_like(s, -1.0).scatter(-1, torch.randint(4, (30, 1), generator=generator), size)
        close(manyhot.smooth_accuracy_loss(s, y), -accuracy_score(y, s.argmax(-1)), atol=1e-6)


# --- gradients: mathematics.md section 4 -----------------------------------------------------------------------------


def test_the_gradient_of_smooth_f1(generator: torch.Generator) -> None:
    s, t = batch(generator)
    p = torch.sigmoid(s)
    f = 2 * (t * p).sum() / (t + p).sum()
    want = -2 * (t - f / 2) * p * (1 - p) / (t + p).sum()
    close(coupled.gradient(manyhot.smooth_f_loss, s, t), want)


@pytest.mark.parametrize("beta", [1.0, 2.0, 0.5])
def test_in_logarithms_it_is_the_weighted_cross_entropy(beta: float, generator: torch.Generator) -> None:
    # The gradient of the smooth F in each p, -(1+b^2)(t - F/(1+b^2))/total, times |t-p| in place of p(1-p).
    s, t = batch(generator)
    p = torch.sigmoid(s)
    total = (beta**2 * t + p).sum()
    of_f = coupled.gradient(manyhot.smooth_f_loss, s, t, beta=beta) / (p * (1 - p)) * (t - p).abs()
    got = coupled.gradient(manyhot.f_weighted_bce_loss, s, t, beta=beta, reduction="sum")
    close(got, of_f * total / (1 + beta**2))


def test_the_half_is_not_lost() -> None:
    # p = .5 on four cells, two of them positive: F = 2 (.5 + .5)/(2 + 2) = 1/2, so 3/4 and 1/4 of log 2, twice each.
    s, t = torch.zeros(1, 4), torch.tensor([[1, 1, 0, 0]])
    assert manyhot.smooth_f_loss(s, t).item() == pytest.approx(-0.5)
    assert manyhot.f_weighted_bce_loss(s, t).item() == pytest.approx(2 * (3 / 4 + 1 / 4) * math.log(2))
    share = manyhot.f_weighted_bce_loss(torch.tensor([[0.0, 0, -1e4, -1e4]]), t)  # F = 2/(2 + 1) = 2/3: 1 - 1/3
    assert share.item() == pytest.approx(2 * (2 / 3) * math.log(2))
    # beta 2: F = 5 (.5 + .5)/(4 * 2 + 2) = 1/2, and 1 - F/5 = .9 and .1
    assert manyhot.smooth_f_loss(s, t, beta=2.0).item() == pytest.approx(-0.5)
    assert manyhot.f_weighted_bce_loss(s, t, beta=2.0).item() == pytest.approx(2 * math.log(2))
    slope = coupled.gradient(manyhot.f_weighted_bce_loss, s, t, beta=2.0)
    assert slope[0].tolist() == pytest.approx([-0.45, -0.45, 0.05, 0.05])


def test_where_f_is_one_it_is_half_of_bce() -> None:
    s = torch.tensor([[30.0, 25.0, -30.0, -20.0]], dtype=torch.float64)
    t = torch.tensor([[1, 1, 0, 0]])
    close(manyhot.f_weighted_bce_loss(s, t), manyhot.bce_loss(s, t) / 2, rtol=1e-8)


def test_tversky_is_smooth_f_of_a_row(generator: torch.Generator) -> None:
    s, t = batch(generator)
    for b in (1.0, 2.0):
        tversky = manyhot.tversky_loss(s, t, alpha=1 / (1 + b**2), beta=b**2 / (1 + b**2), smooth=0.0, reduction="none")
        close(1 + manyhot.smooth_f_loss(s, t, beta=b, average="samples", reduction="none"), tversky)


def test_samples_reduce_row_by_row(generator: torch.Generator) -> None:
    s, t = batch(generator)
    weight = torch.tensor([2.0, 1, 0, 1, 0.5, 1], dtype=torch.float64)
    t[5] = -1
    for loss in (
        lambda *x, **o: manyhot.smooth_f_loss(*x, average="samples", **o),
        lambda *x, **o: manyhot.f_weighted_bce_loss(*x, average="samples", **o),
    ):
        each = torch.stack([loss(s[r], t[r]) for r in range(6)])
        close(loss(s, t, reduction="none"), each)
        close(loss(s, t, sample_weight=weight, reduction="none"), each * weight)
        close(loss(s, t, sample_weight=weight), (each * weight).sum() / 4.5)
    weighted = manyhot.f_weighted_bce_loss(s, t, sample_weight=weight, reduction="none")
    close(manyhot.f_weighted_bce_loss(s, t, sample_weight=weight), weighted.sum() / 4.5)
    close(manyhot.f_weighted_bce_loss(s, t, sample_weight=weight, reduction="sum"), weighted.sum())


def test_an_infinite_logit_on_the_wrong_side() -> None:
    s = torch.tensor([[math.inf, 1.0], [2.0, -math.inf]], dtype=torch.float64)
    t = torch.tensor([[0, 1], [1, 1]])
    loss = manyhot.f_weighted_bce_loss(s, t, reduction="none")
    assert loss.tolist() == [math.inf, math.inf]
    slope = coupled.gradient(manyhot.f_weighted_bce_loss, s, t)
    assert slope.isfinite().all()
    assert slope[s.isinf()].tolist() == [0, 0]
    # F is 0: a negative weighs nothing, also where its logit is infinite.
    assert manyhot.f_weighted_bce_loss(torch.tensor([[math.inf, -1.0]]), torch.zeros(1, 2)) == 0


# --- one class a row -------------------------------------------------------------------------------------------------


def test_smooth_accuracy_of_one_class_a_row(generator: torch.Generator) -> None:
    s, y = torch.randn(6, 5, generator=generator, dtype=torch.float64), torch.tensor([0, 4, -1, 2, -100, 1])
    p = torch.softmax(s, -1)
    each = torch.tensor([-float(p[r, y[r]]) if y[r] >= 0 else 0.0 for r in range(6)], dtype=torch.float64)
    for ids in (y, y.to(torch.int8)):
        close(manyhot.smooth_accuracy_loss(s, ids, reduction="none"), each)
        close(manyhot.SmoothAccuracyLoss()(s, ids), each.sum() / 4)
    mask, weight = torch.tensor([1, 1, 1, 0, 1, 1]).bool(), torch.tensor([3.0, 1, 1, 1, 1, 0])
    close(manyhot.smooth_accuracy_loss(s, y, mask=mask, sample_weight=weight), (3 * each[0] + each[1]) / 4)
    assert torch.autograd.gradcheck(lambda s: manyhot.smooth_accuracy_loss(s, y), s.requires_grad_())
    junk = torch.where((y < 0).unsqueeze(-1), math.nan, s.detach())
    close(manyhot.smooth_accuracy_loss(junk, y), each.sum() / 4)
    assert coupled.gradient(manyhot.smooth_accuracy_loss, junk, y).isfinite().all()
    close(manyhot.smooth_accuracy_loss(s[0], y[0]), each[0])
    half = s.detach().half()
    assert manyhot.smooth_accuracy_loss(half, y).dtype == torch.float32
    assert coupled.gradient(manyhot.smooth_accuracy_loss, half, y).dtype == torch.float16


@pytest.mark.parametrize(
    ("targets", "options", "error", "text"),
    [
        (torch.tensor([0, 3]), {}, ValueError, "class ids must lie in 0 to 2, or be -1 or -100.*got 3 in row 1"),
        (torch.tensor([0, -2]), {}, ValueError, "class ids must lie in 0 to 2.*got -2 in row 1"),
        (torch.tensor([0.0, 1.0]), {}, TypeError, r"class ids, a tensor of integers; got a tensor of torch.float32"),
        (torch.tensor([0, 1, 2]), {}, ValueError, r"their leading shape; got \(2, 3\) and \(3,\)"),
        (torch.tensor([0, 1]), {"mask": torch.ones(2)}, TypeError, "mask must be boolean, True where a row's class"),
        (torch.tensor([0, 1]), {"mask": torch.ones(3).bool()}, ValueError, r"one value a row, \(2,\); got \(3,\)"),
        (torch.tensor([0, 1]), {"label_weight": torch.ones(3)}, ValueError, "weigh rows of one class by sample_weight"),
    ],
)
def test_what_is_refused_of_one_class_a_row(targets: Tensor, options: dict[str, Any], error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        manyhot.smooth_accuracy_loss(torch.zeros(2, 3), targets, **options)


@pytest.mark.parametrize("loss", [manyhot.smooth_f_loss, manyhot.f_weighted_bce_loss])
def test_wrong_options(loss: Callable[..., Tensor]) -> None:
    s = torch.zeros(2, 3)
    for beta in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"beta must be positive; got {beta}"):
            loss(s, s, beta=beta)
    with pytest.raises(ValueError, match='average must be "micro", "macro" or "samples"; got \'weighted\''):
        loss(s, s, average="weighted")


def test_smooth_accuracy_in_every_dtype_is_in_its_range() -> None:
    s = torch.tensor([[6e4, -6e4, 0.0]], dtype=torch.float16)
    assert manyhot.smooth_accuracy_loss(s, torch.tensor([[1, 0, 1]])).item() == pytest.approx(-2.5 / 3)
    # Next to 1 the gradient p(1-p) keeps its digits.
    slope = coupled.gradient(manyhot.smooth_accuracy_loss, torch.tensor([[30.0]]), torch.tensor([[1]]))
    assert slope.item() == pytest.approx(-math.exp(-30), rel=1e-5, abs=0)
    assert copy.deepcopy(manyhot.SmoothAccuracyLoss())(s, torch.tensor([[1, 0, 1]])) == pytest.approx(-2.5 / 3)


def test_where_no_class_has_a_chance_none_is_right():
    s = torch.tensor([[-math.inf, -math.inf], [0.0, -math.inf]], requires_grad=True)
    loss = manyhot.smooth_accuracy_loss(s, torch.tensor([0, 0]), reduction="none")
    assert loss.tolist() == [0, -1]
    loss.sum().backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()
