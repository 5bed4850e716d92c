"""The rivals beyond the contract of test_losses.py: options of their own, and two-way, which couples the rows."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import coupled
import manyhot
import reference
from coupled import close


def slope(loss: Callable[..., Tensor], logits: Any, targets: Any, **options: Any) -> Tensor:
    leaf = torch.as_tensor(logits).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf, torch.as_tensor(targets), **options).sum(), leaf)
    return gradient


# --- binary cross-entropy --------------------------------------------------------------------------------------------


def test_bce_takes_its_prior_in_every_form_and_all_of_it(generator: torch.Generator) -> None:
    s = 3 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    t = (torch.rand(6, 5, generator=generator) < 0.4).double()
    prior = torch.linspace(0.01, 0.9, 5, dtype=torch.float64)
    want = torch.as_tensor(reference.bce(s.numpy(), t.numpy(), prior=prior.numpy(), tau=0.8)[0])
    for given in (prior, prior.numpy(), prior.tolist()):
        close(manyhot.bce_loss(s, t, prior=given, tau=0.8), want)
        module = manyhot.BCELoss(prior=given, tau=0.8)
        assert [name for name, _ in module.named_buffers()] == ["prior_logits"]
        close(module(s, t), want)
    # logit(1 - 1e-9) = 20.7233, in float32 too, where that frequency would round to 1.
    close_to_ends = np.array([1 - 1e-9, 1e-9])
    loss = manyhot.bce_loss(torch.zeros(1, 2), torch.tensor([[1, 0]]), prior=close_to_ends).item()
    assert loss == pytest.approx(2 * math.log1p(math.exp(-20.7233)), rel=1e-3)
    assert manyhot.bce_loss(s, t, prior=prior, tau=0.0) == manyhot.bce_loss(s, t)


def test_pos_weight_follows_the_module_and_has_a_gradient(generator: torch.Generator) -> None:
    s, t = torch.randn(6, 5, generator=generator), torch.rand(6, 5, generator=generator)
    weight = torch.linspace(0, 3, 5)
    module = manyhot.BCELoss(pos_weight=weight)
    assert dict(module.named_buffers()).keys() == {"pos_weight"}
    want = F.binary_cross_entropy_with_logits(s, t, pos_weight=weight, reduction="none").sum(-1).mean()
    torch.testing.assert_close(copy.deepcopy(module)(s, t), want)
    leaf = weight.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda c: manyhot.bce_loss(s.double(), t.double(), pos_weight=c), leaf + 0.5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pos_weight": -1.0}, "pos_weight must be 0 or more; got -1"),
        ({"pos_weight": torch.tensor([1.0, -0.5, 1.0])}, "pos_weight must be 0 or more; got -0.5"),
        ({"pos_weight": math.nan}, "pos_weight must be 0 or more; got nan"),
        ({"pos_weight": torch.ones(2)}, r"pos_weight must broadcast to logits of shape \(2, 3\).*got \(2,\)"),
        ({"prior": torch.tensor([0.5, 0.0, 0.5])}, "prior must lie strictly between 0 and 1.*label_prior"),
        ({"prior": torch.tensor([0.5, 0.5])}, r"prior must broadcast.*got \(2,\)"),
    ],
)
def test_wrong_options_of_bce(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        manyhot.bce_loss(torch.zeros(2, 3), torch.zeros(2, 3), **options)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_targets_in_other_forms() -> None:
    s = torch.tensor([[2.0, -1.0, 3.0], [0.5, -0.5, -2.0]])
    dense, listed = torch.tensor([[1, 0, 1], [0, 1, 0]]), manyhot.IndexTargets([[0, 2], [1]])
    for loss in (
        *(manyhot.bce_loss, manyhot.focal_loss, manyhot.asymmetric_loss),
        *(manyhot.tversky_loss, manyhot.two_way_loss),
    ):
        for form in (listed, dense.float().to_sparse_csr()):
            assert loss(s, form) == loss(s, dense)


# --- focal and asymmetric --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_every_gamma_has_a_gradient_everywhere(gamma: float, dtype: torch.dtype) -> None:
    s = torch.tensor([[-6e4, -100.0, -20, 0, 20, 40, 100, 6e4]], dtype=dtype)
    for t in (0, 1):
        for loss in (manyhot.focal_loss, manyhot.asymmetric_loss):
            names = ("gamma",) if loss is manyhot.focal_loss else ("gamma_pos", "gamma_neg")
            for clip in ({}, {"clip": 0.0}) if loss is manyhot.asymmetric_loss else ({},):
                options: dict[str, Any] = dict.fromkeys(names, gamma) | clip
                leaf = s.clone().requires_grad_()
                value = loss(leaf, torch.full_like(s, t), **options)
                value.backward()
                assert value.isfinite()
                assert leaf.grad is not None
                assert leaf.grad.isfinite().all()
                pull = leaf.grad[0, 0 if t else -1]
                assert pull == (-1.0 if t else 0.0 if loss is manyhot.asymmetric_loss and not clip else 1.0)


def test_a_clip_bounds_the_loss_of_a_negative_and_takes_the_gradient_of_easy_ones() -> None:
    s = torch.tensor([math.inf, 1e30, 1e4, 50.0, -2.95, -50.0, -math.inf], dtype=torch.float64).unsqueeze(-1)
    value = manyhot.asymmetric_loss(s, torch.zeros_like(s), reduction="none")
    assert value[:4].tolist() == pytest.approx([0.95**4 * math.log(20)] * 4, rel=1e-12)
    assert value[4:].tolist() == [0, 0, 0]
    gradient = slope(manyhot.asymmetric_loss, s, torch.zeros_like(s), reduction="none")
    assert gradient[[0, 4, 5, 6]].tolist() == [[0.0]] * 4
    assert gradient.isfinite().all()
    positive = manyhot.asymmetric_loss(s, torch.ones_like(s), reduction="none")
    assert positive[[0, -1]].tolist() == [0, math.inf]


@pytest.mark.parametrize(
    ("loss", "options", "text"),
    [
        (manyhot.focal_loss, {"gamma": -1.0}, "gamma must be 0 or more; got -1"),
        (manyhot.focal_loss, {"gamma": math.nan}, "gamma must be 0 or more; got nan"),
        (
            manyhot.focal_loss,
            {"alpha": 1.5},
            r"alpha, the weight of positives, must lie in \[0, 1\] or be None; got 1.5",
        ),
        (manyhot.asymmetric_loss, {"gamma_pos": -1.0}, "gamma_pos must be 0 or more; got -1"),
        (manyhot.asymmetric_loss, {"gamma_neg": math.inf}, "gamma_neg must be 0 or more; got inf"),
        (
            manyhot.asymmetric_loss,
            {"clip": 1.0},
            r"clip, a probability taken off negatives, must lie in \[0, 1\); got 1",
        ),
        (manyhot.tversky_loss, {"alpha": -0.1}, "alpha must be 0 or more; got -0.1"),
        (manyhot.tversky_loss, {"beta": math.nan}, "beta must be 0 or more; got nan"),
        (manyhot.tversky_loss, {"smooth": -1.0}, "smooth must be 0 or more; got -1"),
        (manyhot.two_way_loss, {"temperature_pos": 0.0}, "temperature_pos must be positive; got 0"),
        (manyhot.two_way_loss, {"temperature_neg": math.inf}, "temperature_neg must be positive; got inf"),
    ],
)
def test_wrong_options(loss: Callable[..., Tensor], options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        loss(torch.zeros(2, 3), torch.zeros(2, 3), **options)


# --- Tversky ---------------------------------------------------------------------------------------------------------


def test_tversky_at_infinite_logits_and_in_rows_without_labels() -> None:
    s = torch.tensor([[math.inf, -math.inf, math.inf, -math.inf]], dtype=torch.float64)
    t = torch.tensor([[1, 1, 0, 0]])
    assert manyhot.tversky_loss(s, t, smooth=0.0) == 0.5  # one hit, one miss, one too many
    assert slope(manyhot.tversky_loss, s, t).tolist() == [[0, 0, 0, 0]]
    empty = torch.zeros(1, 4)
    finite = torch.tensor([[2.0, -1.0, 0.5, -300.0]], dtype=torch.float64)
    assert manyhot.tversky_loss(finite, empty, smooth=0.0) == 1
    assert slope(manyhot.tversky_loss, finite, empty, smooth=0.0).tolist() == [[0, 0, 0, 0]]
    assert (slope(manyhot.tversky_loss, finite, empty)[0, :3] > 0).all()
    # 0/0 is the limit of what stands beside it.
    assert manyhot.tversky_loss(torch.full((1, 4), -1e4), empty, smooth=0.0) == 1
    assert slope(manyhot.tversky_loss, torch.full((1, 4), -1e4), empty, smooth=0.0).isfinite().all()


# --- two-way: a contract of its own, since rows see each other -------------------------------------------------------


def published_two_way(s: Tensor, t: Tensor, tp: float = 4.0, tn: float = 1.0) -> Tensor:
    """Both directions as they are defined, with real infinities."""
    total = torch.zeros((), dtype=s.dtype)
    for axis in (0, 1):
        valid = (t > 0).any(axis)
        pos = tp * torch.logsumexp((-s / tp).masked_fill(t <= 0, -math.inf), axis)
        neg = tn * torch.logsumexp((s / tn).masked_fill(t != 0, -math.inf), axis)
        total = total + F.softplus((pos + neg)[valid], threshold=60).mean()
    return total


TWO_WAY = coupled.Coupled(
    name="two_way",
    function=manyhot.two_way_loss,
    module=manyhot.TwoWayLoss,
    reference=coupled.two_way,
    grid={"temperature_pos": (4.0, 1.0, 0.5), "temperature_neg": (1.0, 2.0)},
)


@pytest.mark.parametrize("prop", coupled.PROPERTIES, ids=lambda prop: prop.__name__)
def test_two_way_keeps_the_contract_of_losses_of_a_whole_batch(
    prop: Callable[..., None], generator: torch.Generator
) -> None:
    prop(TWO_WAY, generator)


def test_two_way_is_the_published_definition(generator: torch.Generator) -> None:
    for _ in range(20):
        s = 3 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
        t = (torch.rand(6, 5, generator=generator) < 0.4).double()
        t[0], t[1, 0] = 0, 1
        close(manyhot.two_way_loss(s, t), published_two_way(s, t))
        got = manyhot.two_way_loss(s, t, temperature_pos=0.7, temperature_neg=2.5)
        close(got, published_two_way(s, t, 0.7, 2.5))


def test_two_way_at_temperatures_of_one_is_pairwise_both_ways(generator: torch.Generator) -> None:
    s = 3 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    t = torch.rand(6, 5, generator=generator, dtype=torch.float64)  # soft: every row and label has a share of either
    got = manyhot.two_way_loss(s, t, temperature_pos=1.0)
    close(got, manyhot.pairwise_loss(s, t) + manyhot.pairwise_loss(s.mT, t.mT))


def test_two_way_by_hand() -> None:
    # Rows: log(1 + e^(-1 - 2)), log(1 + e^(.5 - 1)); labels: log(1 + e^(.5 - 2)), log(1 + e^(-1 - 1)); half of each.
    s, t = torch.tensor([[2.0, -1.0], [0.5, 1.0]]), torch.tensor([[1, 0], [0, 1]])
    want = sum(math.log1p(math.exp(x)) for x in (-3, -0.5, -1.5, -2)) / 2
    assert manyhot.two_way_loss(s, t).item() == pytest.approx(want, rel=1e-6)


def test_two_way_where_a_side_is_missing() -> None:
    s = torch.randn(3, 4)
    for t in (torch.zeros(3, 4), torch.ones(3, 4)):
        assert manyhot.two_way_loss(s, t) == 0
        assert slope(manyhot.two_way_loss, s, t).tolist() == torch.zeros(3, 4).tolist()


def test_two_way_wants_one_weight_a_label() -> None:
    with pytest.raises(ValueError, match=r"label_weight must have one weight a label, \(3,\).*got \(2, 3\)"):
        manyhot.two_way_loss(torch.zeros(2, 3), torch.zeros(2, 3), label_weight=torch.ones(2, 3))
