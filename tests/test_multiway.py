"""The multiway losses: the contract of every loss, the identities of mathematics.md section 3, the optimum."""

import copy
import inspect
import math
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import manyhot
import reference
from manyhot import matmulexp

FORMS = ("pairwise", "first_order", "mean_centred")
N, M = 6, 4
multiway: Callable[..., Tensor] = manyhot.multiway_loss

every_form = pytest.mark.parametrize("form", FORMS)
hard_and_soft = pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return 3 * torch.randn(shape, generator=generator, dtype=torch.float64)


def targets(generator: torch.Generator, hard: bool, *lead: int, m: int = M) -> Tensor:
    """Draw ids, or distributions some of which are one-hot or have zeros."""
    ids = torch.randint(m, lead, generator=generator)
    if hard:
        return ids
    t = torch.rand((*lead, m), generator=generator, dtype=torch.float64) + 0.01
    t = torch.where(torch.rand((*lead, m), generator=generator) < 0.3, 0, t)
    t = torch.where(t.sum(-1, keepdim=True) == 0, 1, t)
    one_hot = torch.rand((*lead, 1), generator=generator) < 0.2
    return torch.where(one_hot, F.one_hot(ids, m).double(), t / t.sum(-1, keepdim=True))


def batch(generator: torch.Generator, hard: bool, *lead: int, m: int = M) -> tuple[Tensor, Tensor]:
    lead = lead or (N,)
    return normal(generator, *lead, m), targets(generator, hard, *lead, m=m)


def full_support(generator: torch.Generator, n: int = N, m: int = M) -> Tensor:
    return normal(generator, n, m).div(2).softmax(-1)


def value_and_gradient(s: Tensor, t: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    s = s.detach().clone().requires_grad_()
    loss = multiway(s, t, **options)
    (gradient,) = torch.autograd.grad(loss.sum(), s)
    return loss.detach(), gradient


def expected(s: Tensor, t: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    arrays: dict[str, Any] = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in options.items()}
    value, gradient = reference.multiway(s.double().numpy(), t.double().numpy(), **arrays)
    return torch.as_tensor(value), torch.as_tensor(gradient)


def close(got: Tensor, want: Tensor, *, rtol: float = 1e-12, atol: float = 1e-13) -> None:
    torch.testing.assert_close(got.double(), want.double(), rtol=rtol, atol=atol)


def same(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


# --- values and gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "value"),
    [
        # Two tasks of class 0, gaps (-3, -1) and (2, -1): log(1 + e^-3 + e^2) + log(1 + e^-1 + e^-1)
        ("pairwise", 2.6843),
        # log(1 + e^-3 + e^-1 + e^2 + e^-1)
        ("first_order", 2.2164),
        # means -4/3 and 1/3: log(1 + e^(-4/3) + e^(1/3))
        ("mean_centred", 0.9780),
    ],
)
def test_hand_values(form: str, value: float) -> None:
    s = torch.tensor([[2.0, -1.0, 1.0], [0.0, 2.0, -1.0]])
    assert multiway(s, torch.tensor([0, 0]), form=form).item() == pytest.approx(value, abs=5.1e-5)
    assert multiway(s, torch.tensor([[1, 0, 0], [1, 0, 0]]), form=form).item() == pytest.approx(value, abs=5.1e-5)


def test_hand_value_of_soft_targets() -> None:
    # One task, T = (.5, .5), S = (1, 0): log(1 + e^-1 / 2) + log(1 + e / 2)
    value = multiway(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]))
    assert value.item() == pytest.approx(1.0271, abs=5.1e-5)


@every_form
@hard_and_soft
def test_equals_the_reference_on_random_options(form: str, hard: bool, generator: torch.Generator) -> None:
    for over, mask_shape, reduction in (
        (None, None, "mean"),
        ((), (3, 2, 4), "mean"),
        (1, (3, 1, 4), "none"),
        (-2, (4,), "sum"),
        ((0, 2), (3, 2, 4), "none"),
        ((2, 0), (2, 4), "mean"),
        ((0, 1, 2), (1,), "sum"),
        (0, None, "none"),
    ):
        s, t = batch(generator, hard, 3, 2, 4)
        t[0, 0, 1], t[1, 1, 2] = -1, -100
        mask = None if mask_shape is None else torch.rand(mask_shape, generator=generator) < 0.7
        options = {"form": form, "over": over, "mask": mask, "reduction": reduction}
        got, want = value_and_gradient(s, t, **options), expected(s, t, **options)
        assert got[0].shape == want[0].shape
        close(got[0], want[0])
        close(got[1], want[1])


@every_form
@hard_and_soft
def test_more_classes_than_tasks_and_fewer(form: str, hard: bool, generator: torch.Generator) -> None:
    for n, m in ((1, 1), (1, 7), (3, 9), (4, 4), (9, 2), (30, 3)):
        for over in (None, 1):
            s, t = batch(generator, hard, 2, n, m=m)
            got = value_and_gradient(s, t, form=form, over=over, reduction="sum")
            want = expected(s, t, form=form, over=over, reduction="sum")
            close(got[0], want[0])
            close(got[1], want[1])


@every_form
def test_ids_equal_one_hot_targets_of_every_dtype(form: str, generator: torch.Generator) -> None:
    s, ids = batch(generator, True)
    for scores in (s, s.float()):
        want = value_and_gradient(scores, ids, form=form)
        limit = {"rtol": 8 * torch.finfo(scores.dtype).eps, "atol": 8 * torch.finfo(scores.dtype).eps}
        for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
            same(value_and_gradient(scores, ids.to(dtype), form=form)[0], want[0])
        for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64):
            got = value_and_gradient(scores, F.one_hot(ids, M).to(dtype), form=form)
            close(got[0], want[0], **limit)
            close(got[1], want[1], **limit)


@every_form
@hard_and_soft
def test_gradcheck_of_first_and_second_order(form: str, hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard, 2, 3, m=3)
    s.requires_grad_()
    if not hard:
        t = (0.1 + t).div((0.1 + t).sum(-1, keepdim=True)).requires_grad_()

    def function(s: Tensor, t: Tensor) -> Tensor:
        # Off the simplex too, which the check of values refuses and finite differences need.
        return multiway(s, t if hard else t / t.sum(-1, keepdim=True), form=form, over=1, reduction="none")

    assert torch.autograd.gradcheck(function, (s, t))
    assert torch.autograd.gradgradcheck(function, (s, t))


@every_form
def test_targets_of_zero_pass_no_nan(form: str, generator: torch.Generator) -> None:
    t = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(multiway(normal(generator, 2, 3), t, form=form), t)
    assert slope.isfinite().all()
    assert (slope[t == 0] == 0).all()
    assert (slope[t > 0] != 0).any()


# --- numerics --------------------------------------------------------------------------------------------------------


@every_form
@hard_and_soft
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, 1e4), (torch.float32, 1e30), (torch.float16, 6e4), (torch.bfloat16, 1e4), (torch.bfloat16, 1e30)],
)
def test_extreme_logits(form: str, hard: bool, dtype: torch.dtype, size: float, generator: torch.Generator) -> None:
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 3).to(torch.float64)
    for tasks in (1, 27):
        s = (size * signs).to(dtype).view(-1, tasks, 3)
        t = targets(generator, hard, *s.shape[:2], m=3)
        loss, gradient = value_and_gradient(s, t, form=form, over=1, reduction="none")
        value, slope = expected(s, t, form=form, over=1, reduction="none")
        assert (loss.dtype, gradient.dtype) == (torch.float32, dtype)
        # What is added to a float32 of this size is known to size * eps: log t, the sum over k of first_order, the
        # mean. The gradient's shares are off by as much, and by no more than themselves.
        lost = 0.0 if hard and form == "pairwise" else min(2.0, 4 * size * torch.finfo(torch.float32).eps)
        close(loss, value, rtol=2e-6, atol=1e-6 + lost)
        close(gradient, slope, rtol=torch.finfo(dtype).eps, atol=2e-6 + lost * (tasks if lost else 0))


@every_form
@hard_and_soft
def test_float32_keeps_six_digits(form: str, hard: bool, generator: torch.Generator) -> None:
    for size in (1.0, 10.0, 100.0, 1e4):
        s = (size * torch.randn(40, 9, generator=generator)).float()
        t = targets(generator, hard, 40, m=9)
        loss, gradient = value_and_gradient(s, t, form=form)
        value, slope = expected(s, t, form=form)
        close(loss, value, rtol=2e-6, atol=0)
        close(gradient, slope, rtol=4e-6 * max(1.0, size), atol=1e-6)


def test_float64_keeps_all_digits_of_a_lost_task() -> None:
    # softplus(21) = 21 + 7.6e-10, which torch's default threshold drops.
    s = torch.tensor([[0.0, 21.0]], dtype=torch.float64)
    close(multiway(s, torch.tensor([0])), torch.tensor(21 + math.log1p(math.exp(-21)), dtype=torch.float64), rtol=1e-14)


@every_form
@hard_and_soft
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_dtypes_are_computed_in_float32(
    form: str, hard: bool, dtype: torch.dtype, generator: torch.Generator
) -> None:
    s, t = batch(generator, hard)
    s = s.to(dtype)
    got, want = value_and_gradient(s, t, form=form), value_and_gradient(s.float(), t, form=form)
    assert (got[0].dtype, got[1].dtype) == (torch.float32, dtype)
    same(got[0], want[0])
    same(got[1], want[1].to(dtype))
    # A model's own soft targets in half: each rounded once, so that they sum to 1 no better than that.
    multiway(s, s.softmax(-1), form=form)


@every_form
@hard_and_soft
def test_autocast_changes_nothing(form: str, hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard)
    for scores in (s.float(), s.bfloat16()):
        outside = value_and_gradient(scores, t, form=form)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = value_and_gradient(scores, t, form=form)
        same(inside[0], outside[0])
        same(inside[1], outside[1])


@every_form
@hard_and_soft
def test_a_common_offset_costs_nothing(form: str, hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard)
    s = s.mul(1024).round().div(1024)  # so that s + 2^13 is exact in float32
    offset = 8192.0 * torch.tensor([1, -1, 1, 0, 1, -1]).unsqueeze(-1)
    got, want = value_and_gradient((s + offset).float(), t, form=form), value_and_gradient(s.float(), t, form=form)
    close(got[0], want[0], rtol=1e-6)
    close(got[1], want[1], rtol=1e-5, atol=1e-6)


@every_form
@hard_and_soft
def test_infinite_logits(form: str, hard: bool) -> None:
    inf = math.inf
    s = torch.cartesian_prod(*[torch.tensor([-inf, -1.0, 2.0, inf], dtype=torch.float64)] * 3)
    shares = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5], [0.2, 0.3, 0.5]], dtype=torch.float64)
    ids = torch.tensor([0, 1, 2])
    t = ids if hard else shares
    s, t = s.repeat_interleave(3, 0), t.repeat(len(s), *[1] * (t.ndim - 1))
    loss, gradient = value_and_gradient(s, t, form=form, over=(), reduction="none")
    value, slope = expected(s, t, form=form, over=(), reduction="none")
    close(loss, value)
    assert loss.isinf().any()
    assert gradient.isfinite().all()
    assert (gradient[s.isinf()] == 0).all()
    finite = loss.isfinite()
    close(gradient[finite], slope[finite])
    assert value_and_gradient(s, t, form=form)[0] == inf
    assert value_and_gradient(s, t, form=form)[1].isfinite().all()


@every_form
@hard_and_soft
def test_an_infinite_logit_on_the_right_side_and_on_the_wrong(form: str, hard: bool) -> None:
    s = torch.tensor([[2.0, -1.0, -math.inf], [2.0, -1.0, math.inf]])
    for ids, want in (([0, 2], None), ([2, 1], math.inf)):
        t = torch.tensor(ids)
        loss = multiway(s, t if hard else F.one_hot(t, 3).float(), form=form, over=(), reduction="none")
        assert not loss.isnan().any()
        if want:
            assert loss.tolist() == [want, want]
        else:
            assert loss[1].item() == 0
            assert loss[0].isfinite()


@every_form
@hard_and_soft
def test_a_nan_logit_hurts_only_its_own_sum(form: str, hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard, 3, 4)
    clean = value_and_gradient(s, t, form=form, over=1, reduction="none")
    s[1, 2] = math.nan
    loss, gradient = value_and_gradient(s, t, form=form, over=1, reduction="none")
    assert loss.isnan().tolist() == [False, True, False]
    # Not bit for bit: with NaN in it, the matrix product gives way to the sum in blocks.
    close(loss[[0, 2]], clean[0][[0, 2]])
    close(gradient[[0, 2]], clean[1][[0, 2]])


# --- unknown tasks, axes, reduction ----------------------------------------------------------------------------------


@every_form
@hard_and_soft
def test_a_mask_drops_tasks(form: str, hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard)
    keep = torch.tensor([True, False, True, True, False, True])
    want = value_and_gradient(s[keep], t[keep], form=form)
    for junk in (0.0, 1e30, math.inf, math.nan):
        dirty = torch.where(keep.unsqueeze(-1), s, junk)
        loss, gradient = value_and_gradient(dirty, t, form=form, mask=keep)
        close(loss, want[0])
        close(gradient[keep], want[1])
        assert (gradient[~keep] == 0).all()
    # Anything may stand in a target that the mask drops.
    odd = t.clone()
    odd[1], odd[4] = 77, -3
    same(value_and_gradient(s, odd, form=form, mask=keep)[0], value_and_gradient(s, t, form=form, mask=keep)[0])


@every_form
def test_unknown_targets_are_dropped(form: str, generator: torch.Generator) -> None:
    s, ids = batch(generator, True)
    known = torch.tensor([True, False, True, True, False, True])
    want = value_and_gradient(s, ids, form=form, mask=known)
    hard = torch.where(known, ids, torch.tensor([0, -1, 0, 0, -100, 0]))
    same(value_and_gradient(s, hard, form=form)[1], want[1])
    soft = targets(generator, False, N)
    want = value_and_gradient(s, soft, form=form, mask=known)
    for unknown in (-1.0, -100.0, math.nan):
        got = value_and_gradient(s, torch.where(known.unsqueeze(-1), soft, unknown), form=form)
        same(got[0], want[0])
        same(got[1], want[1])


@every_form
@hard_and_soft
def test_nothing_known_is_zero_with_zero_gradient(form: str, hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard)
    s[0, 0], s[1, 1] = math.nan, math.inf
    for reduction in ("mean", "sum", "none"):
        for over in (None, ()):
            loss, gradient = value_and_gradient(
                s, t, form=form, over=over, mask=torch.tensor(False), reduction=reduction
            )
            assert (loss == 0).all()
            assert (gradient == 0).all()
    for lead, over, shape in (((0,), None, ()), ((0,), (), (0,)), ((3, 0), 1, (3,)), ((0, 3), 1, (0,))):
        s, t = batch(generator, hard, *lead)
        s.requires_grad_()
        loss = multiway(s, t, form=form, over=over, reduction="none")
        assert loss.shape == shape
        assert (loss == 0).all()
        assert torch.autograd.grad(loss.sum(), s)[0].shape == s.shape
        assert multiway(s, t, form=form, over=over).item() == 0


@every_form
@hard_and_soft
def test_reduction_over_what_is_left(form: str, hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard, 4, 3)
    t[2] = -1
    rows = [multiway(s[r], t[r], form=form) for r in range(4)]
    none = multiway(s, t, form=form, over=1, reduction="none")
    close(none, torch.stack(rows))
    assert none[2] == 0
    close(multiway(s, t, form=form, over=1, reduction="sum"), torch.stack(rows).sum())
    close(multiway(s, t, form=form, over=1), torch.stack(rows).sum() / 3)


@every_form
@hard_and_soft
def test_axes_of_the_tasks(form: str, hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard, 2, 3, 4)
    whole = multiway(s, t, form=form)
    for over in ((0, 1, 2), (2, 0, 1), (-4, -3, -2)):
        close(multiway(s, t, form=form, over=over), whole)
    close(whole, multiway(s.reshape(-1, M), t.reshape(24, *t.shape[3:]), form=form))
    sequences = multiway(s, t, form=form, over=-2, reduction="none")
    assert sequences.shape == (2, 3)
    close(sequences[1, 2], multiway(s[1, 2], t[1, 2], form=form))
    close(multiway(s[0, 0, 0], t[0, 0, 0], form=form), multiway(s[:1, :1, :1], t[:1, :1, :1], form=form))


@every_form
@hard_and_soft
def test_order_of_tasks_and_names_of_classes_do_not_matter(form: str, hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard)
    loss, gradient = value_and_gradient(s, t, form=form)
    tasks, classes = torch.randperm(N, generator=generator), torch.randperm(M, generator=generator)
    got = value_and_gradient(s[tasks], t[tasks], form=form)
    close(got[0], loss)
    close(got[1], gradient[tasks])
    renamed = classes.argsort()[t] if hard else t[:, classes]
    got = value_and_gradient(s[:, classes], renamed, form=form)
    close(got[0], loss)
    close(got[1], gradient[:, classes])


@every_form
@hard_and_soft
def test_strides_do_not_matter_and_inputs_stay(form: str, hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard)
    want = value_and_gradient(s, t, form=form)
    wide = torch.stack((s, 0 * s), 1)[:, 0]
    same(value_and_gradient(wide, t, form=form)[0], want[0])
    same(multiway(s.mT.contiguous().mT, t, form=form), want[0])
    before = s.clone(), t.clone()
    with torch.no_grad():
        multiway(s, t, form=form)
    same(s, before[0])
    same(t, before[1])


# --- identities: mathematics.md section 3 ----------------------------------------------------------------------------


@hard_and_soft
def test_two_classes_are_zlpr(hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard, 3, N, m=2)
    x, share = s[..., 1] - s[..., 0], t.double() if hard else t[..., 1]
    zlpr = manyhot.zlpr_loss(x, share, reduction="none")
    for form in ("first_order", "pairwise"):
        close(multiway(s, t, form=form, over=1, reduction="none"), zlpr)
    half = manyhot.zlpr_loss(x / 2, share, reduction="none")
    close(multiway(s, t, form="mean_centred", over=1, reduction="none"), half)


def test_one_hard_task(generator: torch.Generator) -> None:
    s, y = batch(generator, True)
    rows = multiway(s, y, form="first_order", over=(), reduction="none")
    close(rows, F.cross_entropy(s, y, reduction="none"))
    gaps = F.softplus(s - s.gather(-1, y.unsqueeze(-1)), threshold=40)
    others = torch.where(F.one_hot(y, M).bool(), 0, gaps).sum(-1)
    close(multiway(s, y, over=(), reduction="none"), others)


def test_first_order_is_bounded_by_cross_entropy(generator: torch.Generator) -> None:
    for _ in range(50):
        s, y = batch(generator, True)
        assert multiway(s, y, form="first_order") < F.cross_entropy(s, y, reduction="sum")  # six tasks, four classes
        once = torch.randperm(M, generator=generator)
        close(multiway(s[:M], once, form="first_order"), F.cross_entropy(s[:M], once, reduction="sum"))


def test_values_at_zero_logits() -> None:
    counts = torch.tensor([7.0, 3.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    y = torch.repeat_interleave(torch.arange(5), counts.long())
    s, m = torch.zeros(12, 5, dtype=torch.float64), 5
    close(multiway(s, y, form="first_order"), torch.log1p(counts * (m - 1)).sum())
    close(multiway(s, y), (m - 1) * torch.log1p(counts).sum())
    close(multiway(s, y, form="mean_centred"), torch.log1p(counts).sum())


@hard_and_soft
def test_each_pair_of_classes_is_a_weighted_soft_zlpr(hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard)
    shares = F.one_hot(t, M).double() if hard else t
    total = torch.zeros((), dtype=torch.float64)
    for j in range(M):
        for k in range(j):
            weight = shares[:, j] + shares[:, k]
            share = torch.where(weight > 0, shares[:, j] / weight, 0)
            total += manyhot.zlpr_loss(s[:, j] - s[:, k], share, label_weight=weight)
    close(multiway(s, t), total)


@every_form
@hard_and_soft
def test_a_constant_a_task_changes_nothing(form: str, hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard)
    offset = torch.linspace(-40, 40, N, dtype=torch.float64).unsqueeze(-1)
    close(multiway(s + offset, t, form=form), multiway(s, t, form=form))
    close(value_and_gradient(s, t, form=form)[1].sum(-1), torch.zeros(N), atol=1e-12)


def test_value_and_gradient_at_the_closed_form_optimum(generator: torch.Generator) -> None:
    for n, m in ((1, 2), (6, 4), (50, 7)):
        t = full_support(generator, n, m)
        value, gradient = value_and_gradient(t.log() / 2, t)
        pairs = torch.log1p((t.unsqueeze(-1) * t.unsqueeze(-2)).sqrt().sum(0))
        close(value, pairs.sum() - pairs.diagonal().sum())
        assert gradient.abs().max() < 1e-12

        value, gradient = value_and_gradient(t.log(), t, form="mean_centred")
        close(value, m * torch.log1p(t.log().mean(-1).exp().sum()))
        assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize(("form", "slope"), [("pairwise", 2.0), ("mean_centred", 1.0), ("first_order", 2.0)])
def test_an_optimiser_finds_the_closed_form_optimum(form: str, slope: float, generator: torch.Generator) -> None:
    t = full_support(generator)
    s = torch.zeros(N, M, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [s], max_iter=2000, tolerance_grad=1e-12, tolerance_change=0, history_size=50, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = multiway(s, t, form=form)
        loss.backward()
        return loss

    optimiser.step(closure)
    gap = ((slope * s.detach()).softmax(-1) - t).abs().max().item()
    if form == "first_order":
        # No closed form: the optimum exists, and softmax(2 S) misses the targets.
        assert value_and_gradient(s, t, form=form)[1].abs().max() < 1e-7
        assert gap > 2e-2
    else:
        assert gap < 1e-6


@every_form
@hard_and_soft
def test_convex_on_random_segments(form: str, hard: bool, generator: torch.Generator) -> None:
    for _ in range(40):
        (a, t), b = batch(generator, hard), normal(generator, N, M)
        values = [multiway(a + share * (b - a), t, form=form) for share in torch.linspace(0, 1, 9).tolist()]
        for left, middle, right in zip(values, values[1:], values[2:], strict=False):
            assert 2 * middle <= left + right + 1e-12


def test_a_class_weighs_the_log_of_its_count() -> None:
    # What a class may pull its own tasks up with, at zero logits: cross-entropy c (m-1)/m, pairwise (m-1) c/(1+c).
    counts = torch.tensor([1000, 100, 10, 1])
    y, m = torch.repeat_interleave(torch.arange(4), counts), 4
    s = torch.zeros(len(y), m, dtype=torch.float64)

    def pulls(gradient: Tensor) -> Tensor:
        own = -gradient.gather(-1, y.unsqueeze(-1)).squeeze(-1)
        return torch.zeros(m, dtype=torch.float64).index_add(0, y, own)

    c = counts.double()
    close(pulls(value_and_gradient(s, y)[1]), (m - 1) * c / (1 + c))
    close(pulls(value_and_gradient(s, y, form="first_order")[1]), c * (m - 1) / (1 + c * (m - 1)))
    close(pulls(value_and_gradient(s, y, form="mean_centred")[1]), c / (1 + c) * (m - 1) / m)


def test_a_class_that_never_occurs_empties_mean_centred() -> None:
    # It can sink for free, and takes the mean below every logit: nothing is learned, and nothing is left of the loss.
    y = torch.tensor([0, 1, 2, 0])
    s = torch.zeros(4, 4, dtype=torch.float64)
    s[:, 3] = -1000
    assert multiway(s, y, form="mean_centred") < 1e-100
    present = multiway(s[:, :3], y)
    close(multiway(s, y), present)
    close(multiway(s, y, form="first_order"), multiway(s[:, :3], y, form="first_order"))


# --- cost ------------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Counts operations, and the elements of the largest tensor that one of them makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            # Storage and not shape: an expanded view takes no memory.
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // 8)
        self.operations += 1
        return out


def cost(form: str, hard: bool, n: int, m: int, generator: torch.Generator, size: float = 1.0) -> Largest:
    s, t = size * batch(generator, hard, n, m=m)[0] / 3, targets(generator, hard, n, m=m)
    with Largest() as seen:
        value_and_gradient(s, t, form=form)
    return seen


@every_form
@pytest.mark.parametrize(("n", "m"), [(400, 5), (30, 200), (1, 500)])
def test_hard_targets_take_n_m_memory(form: str, n: int, m: int, generator: torch.Generator) -> None:
    seen = cost(form, True, n, m, generator)
    # A constant number of tensors, none larger than the logits: n m. (Twice the tasks, the same operations.)
    assert seen.elements <= n * m
    assert cost(form, True, 2 * n, m, generator).operations <= seen.operations + 8 * (2 * n >= m > n)


@every_form
@pytest.mark.parametrize(("n", "m"), [(400, 5), (30, 200)])
def test_soft_targets_take_n_m_and_m_m_memory(form: str, n: int, m: int, generator: torch.Generator) -> None:
    seen = cost(form, False, n, m, generator)
    assert seen.elements <= (max(n, m) * m if form == "pairwise" else n * m)
    assert cost(form, False, 2 * n, m, generator).operations == seen.operations


def test_logits_far_apart_are_summed_in_blocks(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    n, m = 60, 20
    monkeypatch.setattr(matmulexp, "BLOCK", 5 * m * m)
    near, far = cost("pairwise", False, n, m, generator), cost("pairwise", False, n, m, generator, size=1e4)
    assert near.elements <= n * m
    assert far.elements <= 5 * m * m
    assert far.operations > near.operations


def test_the_row_beside_which_the_shifted_product_is_wrong() -> None:
    s = torch.tensor([[-200.0, 0.0, -197.0], [0.0, -200.0, 0.0]])
    soft = torch.tensor([[0.3, 0.3, 0.4], [0.3, 0.3, 0.4]])
    for t in (soft, torch.tensor([[0.5, 0.0, 0.5], [0.5, 0.0, 0.5]])):
        got, want = value_and_gradient(s, t), expected(s, t)
        close(got[0], want[0], rtol=1e-6)
        close(got[1], want[1], rtol=1e-5, atol=1e-6)
    # Nothing but what the product of the maxima loses: the class 2 beside 0, at e^3 and e^0.
    assert value_and_gradient(s, torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]))[0].item() == pytest.approx(
        200 + math.log(1 + math.exp(3) + 1), rel=1e-6
    )


# --- module, transforms, errors --------------------------------------------------------------------------------------


@every_form
@hard_and_soft
def test_module_equals_function(form: str, hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard, 3, 4)
    mask = torch.rand(3, 4, generator=generator) < 0.8
    module = manyhot.MultiwayLoss(form=form, over=1, reduction="sum")  # pyright: ignore
    want = multiway(s, t, form=form, over=1, reduction="sum", mask=mask)
    same(module(s, t, mask=mask), want)
    same(copy.deepcopy(module).to(torch.float64)(s, t, mask=mask), want)
    assert dict(module.state_dict()) == {}
    same(manyhot.MultiwayLoss()(s, t), multiway(s, t))


def test_module_signature_equals_the_function() -> None:
    of_function = dict(inspect.signature(manyhot.multiway_loss).parameters)
    of_init = dict(inspect.signature(manyhot.MultiwayLoss).parameters)
    of_forward = dict(inspect.signature(manyhot.MultiwayLoss.forward).parameters)
    of_forward.pop("self")
    assert list(of_forward) == ["logits", "targets", "mask"]
    assert of_init | of_forward == of_function
    assert [name for name in of_function if name in of_init] == list(of_init)


def check_compiled(form: str, hard: bool, backend: str, generator: torch.Generator) -> None:
    s, t = batch(generator, hard, 5, 3)
    t[1, 1] = -1
    mask = torch.rand(5, 3, generator=generator) < 0.8
    options: dict[str, Any] = {"form": form, "over": 0, "reduction": "none", "mask": mask}
    want = value_and_gradient(s.float(), t, **options)
    torch._dynamo.reset()
    leaf = s.float().requires_grad_()
    loss = torch.compile(multiway, fullgraph=True, backend=backend)(leaf, t, **options)
    loss.sum().backward()
    close(loss.detach(), want[0], rtol=1e-6, atol=1e-6)
    assert leaf.grad is not None
    close(leaf.grad, want[1], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@every_form
@hard_and_soft
def test_compile_equals_eager(form: str, hard: bool, generator: torch.Generator) -> None:
    check_compiled(form, hard, "aot_eager", generator)


@pytest.mark.slow
@hard_and_soft
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # inside torch
def test_inductor_equals_eager(hard: bool, generator: torch.Generator) -> None:
    if not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler: torch.compile's inductor cannot build for the CPU")
    check_compiled("pairwise", hard, "inductor", generator)


@every_form
@hard_and_soft
def test_vmap_of_grad_gives_the_gradient_of_each_sum(form: str, hard: bool, generator: torch.Generator) -> None:
    s, t = batch(generator, hard, 3, 4)
    want = value_and_gradient(s, t, form=form, over=1, reduction="sum")[1]
    close(torch.func.vmap(torch.func.grad(lambda s, t: multiway(s, t, form=form)))(s, t), want)


SCORES = torch.zeros(2, 3, 4)
IDS = torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: multiway(SCORES, IDS, form="wrong"), ValueError, 'form must be "pairwise", "first_order" or'),
        (lambda: multiway(IDS, SCORES), TypeError, "logits must be a floating-point .* are the two swapped"),
        (lambda: multiway(SCORES, [0]), TypeError, "targets must be a tensor; got list"),
        (lambda: multiway(torch.tensor(1.0), IDS), ValueError, r"shape \(\.\.\., classes\) .* got \(\)"),
        (lambda: multiway(SCORES, IDS.float()), TypeError, r"class ids must be integers; got torch.float32. Use targ"),
        (lambda: multiway(SCORES, IDS.bool()), TypeError, r"class ids must be integers; got torch.bool"),
        (lambda: multiway(SCORES.mT, IDS), ValueError, r"ids of shape \(2, 4\) .* got \(2, 3\)\. .* movedim"),
        (lambda: multiway(SCORES, IDS + 4), ValueError, r"lie in 0 to 3, .* got 4 at task \(0, 0\)"),
        (lambda: multiway(SCORES[0], IDS[0] - 2), ValueError, r"or be -1 or -100 .* got -2 at task 0"),
        (lambda: multiway(SCORES, SCORES + 0.3), ValueError, r"sum to 1.* that sum to 1\.2 at task \(0, 0\).*softmax"),
        (lambda: multiway(SCORES, SCORES + 1), ValueError, r"values from 1 to 1 that sum to 4"),
        (lambda: multiway(SCORES[0, 0], torch.tensor([2.0, -1, 0, 0])), ValueError, r"from -1 to 2 that sum to 1\."),
        (lambda: multiway(SCORES, IDS, over=2), ValueError, r"over must name the axes .* among \[0, 1\] .* got 2"),
        (lambda: multiway(SCORES, IDS, over=(0, -3)), ValueError, r"each once, .* got \(0, -3\)"),
        (lambda: multiway(SCORES, IDS, over=5), ValueError, r"got 5"),
        (lambda: multiway(SCORES, IDS, mask=IDS), TypeError, "mask must be boolean, True where the task is known"),
        (lambda: multiway(SCORES, IDS, mask=SCORES > 0), ValueError, r"mask must broadcast to the tasks, \(2, 3\)"),
        (lambda: multiway(SCORES, IDS, reduction="avg"), ValueError, 'reduction must be "mean", "sum" or "none"'),
    ],
)
def test_errors(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_half_unknown_distributions_are_refused() -> None:
    for unknown in (-1.0, math.nan):
        with pytest.raises(ValueError, match="throughout where unknown"):
            multiway(torch.zeros(1, 3), torch.tensor([[0.5, 0.5, unknown]]))
