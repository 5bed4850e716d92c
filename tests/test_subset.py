"""The combinatorial softmax over ranges of sizes, its formats and refusals, and the distribution behind it."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

import reference
from manyhot import IndexTargets, Subset, subset_loss
from manyhot.kernels import native

IMPLS = [
    "eager",
    pytest.param("native", marks=pytest.mark.skipif(native.MISSING is not None, reason=str(native.MISSING))),
]
RANGES = [(0, 0), (0, 1), (1, 1), (0, 3), (2, 2), (2, 5), (1, 6), (5, 6), (6, 6), (0, 6), (3, 4)]


def close(got: Tensor, want: Any, rtol: float = 1e-12, atol: float = 1e-13) -> None:
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype), rtol=rtol, atol=atol)


def batch(low: int, high: int, generator: torch.Generator, rows: int = 12, labels: int = 6) -> tuple[Tensor, Tensor]:
    """Draw logits, and targets with low to high labels each."""
    logits = 3 * torch.randn(rows, labels, generator=generator, dtype=torch.float64)
    sizes = torch.randint(low, high + 1, (rows, 1), generator=generator)
    rank = torch.rand(rows, labels, generator=generator).argsort(-1).argsort(-1)
    return logits, (rank < sizes).double()


def all_sets(labels: int, low: int, high: int) -> Tensor:
    sets = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * labels)
    return sets[(sets.sum(-1) >= low) & (sets.sum(-1) <= high)]


# --- loss -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_equals_all_sets_written_out(low: int, high: int, impl: Any, generator: torch.Generator) -> None:
    logits, targets = batch(low, high, generator)
    logits.requires_grad_()
    # Soft targets with a mean size inside the range.
    soft = (targets + targets.roll(1, 0)) / 2
    for t in (targets, soft):
        for threshold in (0.0, 1.3):
            options: Any = {"min_labels": low, "max_labels": high, "threshold": threshold}
            loss = subset_loss(logits, t, reduction="none", impl=impl, **options)
            want = reference.subset(logits.detach().numpy(), t.numpy(), reduction="none", **options)
            close(loss, want[0])
            close(torch.autograd.grad(loss.sum(), logits)[0], want[1])


@pytest.mark.parametrize("impl", IMPLS)
def test_a_range_for_each_row_and_masks(impl: Any, generator: torch.Generator) -> None:
    logits, targets = batch(1, 4, generator)
    k = targets.sum(-1).long()
    mask = torch.rand(12, 6, generator=generator) < 0.7
    mask |= targets > 0
    junk = torch.where(mask, logits, math.nan).requires_grad_()
    for low, high in ((k, k), (k - 1, k + 1), (k, 6), (0, k)):
        options: Any = {"min_labels": low, "max_labels": high}
        loss = subset_loss(junk, targets, mask=mask, reduction="none", impl=impl, **options)
        plain = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in options.items()}
        want = reference.subset(logits.numpy(), targets.numpy(), mask=mask.numpy(), reduction="none", **plain)
        close(loss, want[0])
        close(torch.autograd.grad(loss.sum(), junk)[0], want[1])


@pytest.mark.parametrize("impl", IMPLS)
def test_every_format_of_targets(impl: Any, generator: torch.Generator) -> None:
    scipy_sparse = pytest.importorskip("scipy.sparse")
    logits, targets = batch(0, 3, generator)
    options: Any = {"max_labels": 3, "reduction": "none", "impl": impl}
    want = subset_loss(logits, targets, **options)
    lists = [row.nonzero().flatten().tolist() for row in targets]
    twice = IndexTargets([row + row[:1] for row in lists])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its sparse tensors beta
        sparse = targets.to_sparse_csr()
    for given in (IndexTargets(lists), twice, sparse, scipy_sparse.csr_matrix(targets.numpy())):
        close(subset_loss(logits, given, **options), want)
    soft = IndexTargets(torch.tensor([[0, 1, -1]] * 12), soft=torch.tensor([[0.5, 0.25, 1.0]] * 12))
    dense = torch.zeros(12, 6)
    dense[:, 0], dense[:, 1] = 0.5, 0.25
    close(subset_loss(logits, soft, **options), subset_loss(logits, dense, **options))


def test_the_gradient_of_a_label_is_at_most_one(generator: torch.Generator) -> None:
    for size in (1.0, 30.0, 1e4):
        logits, targets = batch(2, 4, generator, rows=200)
        logits = (size * logits).requires_grad_()
        loss = subset_loss(logits, targets, min_labels=2, max_labels=4, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, logits)
        assert (gradient.abs() <= 1).all()
        # A set's probabilities and a target have nearly the same sum: within the range, and equal for one size.
        assert (gradient.sum(-1).abs() <= 2 + 1e-9).all()


def test_a_positive_without_a_chance_is_infinite_and_has_no_gradient() -> None:
    logits = torch.tensor([[-math.inf, 1.0, 2.0], [0.0, 1.0, 2.0]], requires_grad=True)
    for impl in ("auto", "eager"):
        loss = subset_loss(logits, torch.tensor([[1, 0, 0], [1, 0, 0]]), max_labels=2, reduction="none", impl=impl)
        assert loss[0] == math.inf
        assert loss[1].isfinite()
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert gradient.isfinite().all()
        assert gradient[0, 0] == 0


@pytest.mark.slow
def test_compiled_over_a_range(generator: torch.Generator) -> None:
    logits, targets = batch(1, 3, generator)
    torch._dynamo.reset()
    compiled = torch.compile(subset_loss, fullgraph=True, backend="aot_eager")
    logits.requires_grad_()
    got = compiled(logits, targets, min_labels=1, max_labels=3)
    want = subset_loss(logits, targets, min_labels=1, max_labels=3, impl="eager")
    close(got, want)
    close(torch.autograd.grad(got, logits)[0], torch.autograd.grad(want, logits)[0])


def test_errors_name_the_row_and_the_range() -> None:
    logits, targets = torch.zeros(3, 4), torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    for options, text in (
        ({"max_labels": 2}, r"expected 0 to 2 labels in each row .*; got 3 in row 1"),
        ({"min_labels": 1}, r"expected 1 to 4 labels in each row .*; got 0 in row 2"),
        ({"min_labels": 3, "max_labels": 2}, "expected 0 <= min_labels <= max_labels; got min_labels=3, max_labels=2"),
        ({"min_labels": -1}, "expected 0 <= min_labels <= max_labels; got min_labels=-1"),
        ({"max_labels": torch.tensor([1, 3])}, r"must broadcast to one size a row, \(3,\); got \(2,\)"),
        ({"max_labels": torch.tensor([1, 2, 3])}, "expected 0 to 2 labels in each row .*; got 3 in row 1"),
    ):
        with pytest.raises(ValueError, match=text):
            subset_loss(logits, targets, **options)  # pyright: ignore
    with pytest.raises(TypeError, match="must be an integer or a tensor of integers; got float"):
        subset_loss(logits, targets, max_labels=3.0)  # pyright: ignore
    # Soft targets count by their sum, and may miss it by rounding.
    subset_loss(torch.zeros(1, 3), torch.full((1, 3), 1 / 3), min_labels=1, max_labels=1)
    with pytest.raises(ValueError, match=r"got 1\.5 in row 0"):
        subset_loss(torch.zeros(1, 3), torch.full((1, 3), 0.5), max_labels=1)
    # A row without a known label has no size to be wrong.
    assert subset_loss(torch.zeros(1, 3), torch.full((1, 3), -1), min_labels=1) == 0


# --- distribution -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_distribution_equals_enumeration(low: int, high: int, generator: torch.Generator) -> None:
    logits = 2 * torch.randn(3, 6, generator=generator, dtype=torch.float64)
    sets = all_sets(6, low, high)
    log_probs = (logits @ sets.T).log_softmax(-1)
    probs = log_probs.exp()
    here = Subset(logits, low, high)
    assert here.batch_shape == (3,)
    assert here.event_shape == (6,)
    close(here.log_prob(sets.unsqueeze(1)), log_probs.T)
    close(here.inclusion_probabilities(), probs @ sets)
    close(here.mean, probs @ sets)
    close(here.variance, (probs @ sets) * (1 - probs @ sets))
    close(here.entropy(), -(probs * log_probs).sum(-1))
    sizes = torch.stack([(probs * (sets.sum(-1) == j)).sum(-1) for j in range(7)], -1)
    close(here.size_probs(), sizes)
    best = here.log_prob(here.mode)
    close(best, log_probs.amax(-1))
    other = Subset(torch.randn(6, generator=generator, dtype=torch.float64), max(low - 1, 0), min(high + 1, 6))
    close(kl_divergence(here, other), (probs * (log_probs - other.log_prob(sets))).sum(-1))
    close(kl_divergence(here, here), torch.zeros(3), atol=1e-12)


def test_kl_is_infinite_where_sets_of_one_are_none_of_the_other() -> None:
    s = torch.tensor([0.5, -0.5, 1.0])
    inf = math.inf
    assert kl_divergence(Subset(s, 0, 2), Subset(s, 1, 2)) == inf
    assert kl_divergence(Subset(s, 1, 3), Subset(s, 1, 2)) == inf
    without = torch.tensor([0.5, -inf, 1.0])
    assert kl_divergence(Subset(s, 1, 2), Subset(without, 1, 2)) == inf
    # The other way round all sets are there; and three of two labels are two.
    assert kl_divergence(Subset(without, 1, 2), Subset(s, 1, 2)).isfinite()
    assert kl_divergence(Subset(without, 1, 3), Subset(s, 1, 2)).isfinite()


def test_gradients_of_what_the_distribution_computes(generator: torch.Generator) -> None:
    s = torch.randn(2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    q = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    value = torch.tensor([1.0, 0, 0, 1, 0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: Subset(x, 1, 3).log_prob(value), s)
    assert torch.autograd.gradcheck(lambda x: Subset(x, 1, 3).entropy(), s)
    assert torch.autograd.gradcheck(lambda x, y: kl_divergence(Subset(x, 1, 3), Subset(y, 0, 4)), (s, q))
    assert torch.autograd.gradcheck(lambda x: Subset(x, 2, 2).inclusion_probabilities(), s)


def test_support_validation_and_expand(generator: torch.Generator) -> None:
    s = torch.randn(2, 4, generator=generator)
    # torch.compile turns the default of torch.distributions off for the whole process.
    here = Subset(s, torch.tensor([1, 2]), torch.tensor([2, 4]), validate_args=True)
    value = torch.tensor([[1.0, 0, 0, 0], [1.0, 1, 0, 0]])
    assert here.support.check(value).tolist() == [True, True]
    assert here.support.check(value.flip(0)).tolist() == [True, False]
    assert here.support.check(torch.tensor([[0.5, 0.5, 0, 0], [1, 1, 1, 1]])).tolist() == [False, True]
    with pytest.raises(ValueError, match="within the support"):
        here.log_prob(value.flip(0))
    loose = Subset(s, torch.tensor([1, 2]), torch.tensor([2, 4]), validate_args=False)
    got = loose.log_prob(value.flip(0))
    assert got[1] == -math.inf
    assert got[0].isfinite()
    wide = here.expand((5, 2))
    assert wide.batch_shape == (5, 2)
    close(wide.log_prob(value), here.log_prob(value).expand(5, 2), rtol=1e-6, atol=1e-6)
    assert wide.sample((3,)).shape == (3, 5, 2, 4)
    assert here.support.check(here.sample((50,))).all()
    with pytest.raises(ValueError, match="min_labels <= max_labels <= labels in each row"):
        Subset(s, torch.tensor([1, 3]), torch.tensor([2, 2]))
    with pytest.raises(ValueError, match="got min_labels=3, max_labels=2"):
        Subset(s, 3, 2)
    assert repr(here) == "Subset(logits: torch.Size([2, 4]), min_labels: tensor([1, 2]), max_labels: tensor([2, 4]))"
    assert repr(Subset(s, 1)) == "Subset(logits: torch.Size([2, 4]), min_labels: 1, max_labels: 4)"


def test_a_batch_of_nothing_has_sizes_of_nothing():
    assert Subset(torch.zeros(0, 3), 1, 2).size_probs().shape == (0, 4)
