"""Losses that add to a logit by its class: their contract, their identities and their options."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import manyhot
import of_one_class
import reference
from of_one_class import CLASSES, ROWS, batch, close


def positive(generator: torch.Generator) -> Tensor:
    return 0.05 + torch.rand(CLASSES, generator=generator, dtype=torch.float64)


def cross_entropy(s: list[float], y: int, offset: list[float]) -> float:
    # Differences first: beside a logit of 1e30 an offset is lost in float64 too.
    others = [(x - s[y]) + (o - offset[y]) for i, (x, o) in enumerate(zip(s, offset, strict=True)) if i != y]
    return reference.softplus(reference.lse(others))


def logit_adjusted(s: list[float], y: int, prior: list[float], tau: float = 1.0) -> float:
    return cross_entropy(s, y, [tau * math.log(p) for p in prior])


def margin_softmax(s: list[float], y: int, radius: Any, norms: list[float] | None = None) -> float:
    r = radius[y] if isinstance(radius, list) else radius
    return cross_entropy(s, y, [-r * u if i == y else r * u for i, u in enumerate(norms or [1.0] * len(s))])


LOSSES = (
    of_one_class.OfOneClass(
        name="logit_adjusted",
        function=manyhot.logit_adjusted_loss,
        module=manyhot.LogitAdjustedLoss,
        reference=logit_adjusted,
        grid={"prior": (positive,), "tau": (1.0, 0.4, 1.7)},
    ),
    of_one_class.OfOneClass(
        name="margin_softmax",
        function=manyhot.margin_softmax_loss,
        module=manyhot.MarginSoftmaxLoss,
        reference=margin_softmax,
        grid={"radius": (0.5, 0.0, positive), "norms": (None, positive)},
    ),
)


@pytest.mark.parametrize("prop", of_one_class.PROPERTIES, ids=lambda prop: prop.__name__)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_contract(loss: of_one_class.OfOneClass, prop: Callable[..., None], generator: torch.Generator) -> None:
    prop(loss, generator)


# --- logit adjustment ------------------------------------------------------------------------------------------------


def test_a_uniform_prior_is_cross_entropy(generator: torch.Generator) -> None:
    s, y = batch(generator)
    want = F.cross_entropy(s, y)
    close(manyhot.logit_adjusted_loss(s, y, prior=[0.25] * CLASSES), want)
    close(manyhot.logit_adjusted_loss(s, y, prior=[7] * CLASSES), want)
    close(manyhot.logit_adjusted_loss(s, y, prior=positive(generator), tau=0.0), want)
    prior = positive(generator)
    close(manyhot.logit_adjusted_loss(s, y, prior=prior, tau=0.6), F.cross_entropy(s + 0.6 * prior.log(), y))
    # Counts or frequencies: only ratios matter.
    close(manyhot.logit_adjusted_loss(s, y, prior=1e6 * prior), manyhot.logit_adjusted_loss(s, y, prior=prior))
    close(manyhot.logit_adjusted_loss(s, y, prior=prior.numpy()), manyhot.logit_adjusted_loss(s, y, prior=prior))


def test_adjusted_in_training_is_plain_after_the_post_hoc_form(generator: torch.Generator) -> None:
    s, y = batch(generator)
    prior = positive(generator)
    # What is trained as s is a plain model's s - tau log pi: adjusting the one gives the loss of the other.
    adjusted = manyhot.adjust_logits(s, prior=prior, tau=0.8)
    close(manyhot.logit_adjusted_loss(adjusted, y, prior=prior, tau=0.8), F.cross_entropy(s, y))
    assert manyhot.adjust_logits(s.half(), prior=prior).dtype == torch.float16
    assert manyhot.adjust_logits(s.float(), prior=prior).dtype == torch.float32
    close(manyhot.adjust_logits(s, prior=prior.tolist()), s - prior.log())


def test_the_prior_moves_the_decision_to_the_balanced_one() -> None:
    # Two classes, 9 to 1, features that say nothing: the optimum of the plain loss is log 9, of the adjusted one 0.
    y = torch.tensor([0] * 9 + [1])
    prior = torch.tensor([0.9, 0.1], dtype=torch.float64)
    for tau, gap in ((0.0, math.log(9)), (1.0, 0.0)):
        s = torch.tensor([gap, 0.0], dtype=torch.float64).expand(10, 2)
        slope = of_one_class.gradient(manyhot.logit_adjusted_loss, s, y, prior=prior, tau=tau)
        close(slope.sum(0), [0.0, 0.0])


# --- margin softmax --------------------------------------------------------------------------------------------------


def test_unit_norms_are_an_additive_margin_on_the_target(generator: torch.Generator) -> None:
    s, y = batch(generator)
    radius = positive(generator)
    want = F.cross_entropy(s - 2 * radius[y].unsqueeze(-1) * F.one_hot(y, CLASSES), y)
    close(manyhot.margin_softmax_loss(s, y, radius=radius), want)
    close(manyhot.margin_softmax_loss(s, y, radius=radius, norms=torch.ones(CLASSES)), want)
    close(manyhot.margin_softmax_loss(s, y, radius=0.0, norms=positive(generator)), F.cross_entropy(s, y))


def test_every_embedding_of_the_ball_stays_on_the_right_side(generator: torch.Generator) -> None:
    f, u = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (ROWS, CLASSES))
    y, radius = torch.randint(CLASSES, (ROWS,), generator=generator), positive(generator)
    logits, norms = f @ u.T, u.norm(dim=-1)
    loss = manyhot.margin_softmax_loss(logits, y, radius=radius, norms=norms, reduction="none")
    for _ in range(200):
        step = torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)
        inside = radius[y].unsqueeze(-1) * step / step.norm(dim=-1, keepdim=True)
        assert (F.cross_entropy((f + inside) @ u.T, y, reduction="none") <= loss + 1e-12).all()
    # It is the worst case of each other class by itself: for two classes of opposite vectors, reached.
    u = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    f, y = f[:, :2], y % 2
    worst = f - 0.3 * u[y] / u[y].norm(dim=-1, keepdim=True)
    got = manyhot.margin_softmax_loss(f @ u.T, y, radius=0.3, norms=u.norm(dim=-1))
    close(got, F.cross_entropy(worst @ u.T, y))


def test_gradients_reach_the_class_vectors_the_norms_and_the_radii(generator: torch.Generator) -> None:
    f, u = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (ROWS, CLASSES))
    y = torch.randint(CLASSES, (ROWS,), generator=generator)

    def loss(f: Tensor, u: Tensor, radius: Tensor) -> Tensor:
        return manyhot.margin_softmax_loss(f @ u.T, y, radius=radius, norms=u.norm(dim=-1))

    point = tuple(x.requires_grad_() for x in (f, u, positive(generator)))
    assert torch.autograd.gradcheck(loss, point)
    assert torch.autograd.gradgradcheck(loss, point)
    zero = torch.zeros(CLASSES, 3, requires_grad=True)
    loss(f.detach().float(), zero, torch.ones(CLASSES)).backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "options", "text"),
    [
        (manyhot.logit_adjusted_loss, {"prior": [0.5, 0.5]}, r"prior must have one number a class, \(3,\).*got \(2,\)"),
        (manyhot.logit_adjusted_loss, {"prior": [0.5, 0.5, 0.0]}, "prior must be above 0 for every class; add 1/2"),
        (manyhot.logit_adjusted_loss, {"prior": [0.5, 0.5, math.nan]}, "prior must be above 0 for every class"),
        (manyhot.margin_softmax_loss, {"radius": -0.1}, "radius must be 0 or more; got -0.1"),
        (manyhot.margin_softmax_loss, {"radius": torch.ones(2)}, r"radius must have one number a class, \(3,\); got"),
        (manyhot.margin_softmax_loss, {"radius": 1.0, "norms": -torch.ones(3)}, "norms must be 0 or more; got -1"),
    ],
)
def test_wrong_options(loss: Callable[..., Tensor], options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        loss(torch.zeros(2, 3), torch.tensor([0, 1]), **options)
    if "prior" in options:
        with pytest.raises(ValueError, match=text):
            manyhot.adjust_logits(torch.zeros(2, 3), **options)


def test_a_prior_of_counts_survives_half_types() -> None:
    # 100,000 is infinite in float16, and 1e-9 is 0.
    s, y = torch.tensor([[2.0, 1.0, 0.5]]), torch.tensor([1])
    for prior in ([100_000, 3, 17], [1e-9, 0.4, 0.6], torch.tensor([1e-9, 0.4, 0.6])):
        want = manyhot.logit_adjusted_loss(s, y, prior=prior)
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            module = manyhot.LogitAdjustedLoss(prior=prior).to(dtype)
            assert module(s, y) == want
    with pytest.raises(ValueError, match="prior must be above 0 for every class"):
        manyhot.LogitAdjustedLoss(prior=[1, 0])
