"""The C++ kernel against the formulas in float64: every format, type, instruction set and number of threads."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import manyhot
import reference
from manyhot import IndexTargets
from manyhot.kernels import native

if native.MISSING is not None:
    pytest.skip(native.MISSING, allow_module_level=True)
_native: Any = native._native
SETS: list[str] = _native.instruction_sets()

NAN, INF = math.nan, math.inf
LOGIT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LINKS: dict[str, tuple[Callable[..., Tensor], Any]] = {
    "zlpr": (manyhot.zlpr_loss, reference.zlpr_row),
    "pairwise": (manyhot.pairwise_loss, reference.pairwise_row),
    "single_log": (manyhot.single_log_loss, reference.single_log_row),
    "neg": (lambda *given, **options: manyhot.signed_logsumexp(*given, **options)[0], lambda neg, _: (0, neg.gradient)),
    "pos": (lambda *given, **options: manyhot.signed_logsumexp(*given, **options)[1], lambda _, pos: (0, pos.gradient)),
}
LOSSES = ("zlpr", "pairwise", "single_log")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    _native.use_instruction_set(SETS[0])


def run(link: str, logits: Tensor, targets: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Return what the kernel makes of each row, and the gradient of its sum."""
    if link in LOSSES:
        options = {"reduction": "none", **options}
    leaf = logits.detach().requires_grad_()
    value = LINKS[link][0](leaf, targets, impl="native", **options)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def exact(link: str, logits: Tensor, targets: Tensor, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the same in float64, of targets as they are in the type that is computed in."""
    computed = torch.float64 if logits.dtype == torch.float64 else torch.float32
    arrays: dict[str, Any] = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in options.items()}
    batch = (logits.double().numpy(), targets.to(computed).double().numpy())
    if link in LOSSES:
        return reference.row_wise(LINKS[link][1], *batch, **{"reduction": "none", **arrays})
    gradient = reference.row_wise(LINKS[link][1], *batch, reduction="none", **arrays).gradient
    return reference.signed_logsumexp(*batch, **arrays)[link == "pos"], gradient


def close(got: Tensor, want: Any, rtol: float, atol: float) -> None:
    torch.testing.assert_close(got.double(), torch.as_tensor(want), rtol=rtol, atol=atol, equal_nan=True)


def check(
    link: str, logits: Tensor, targets: Any, *, of: Tensor | None = None, size: float = 0, **options: Any
) -> None:
    """Compare on every instruction set; `of` are the targets written out, `size` how large exponents get.

    float32: an exponent of size x is known to x 6e-8 after each of the two or three operations that make it, and its
    exponential to as much of itself; 2e-6 is for the sums. A gradient is the quotient of two of these. float64: the
    same with 1e-16, and far below 1e-12. Half types add the rounding of the gradient to their own digits.
    """
    value, gradient = exact(link, logits, targets if of is None else of, **options)
    is_double = logits.dtype == torch.float64
    unit = 1e-12 if is_double else 2e-6
    reach = size * (3e-16 if is_double else 2e-7)
    rounding = torch.finfo(logits.dtype).eps if logits.dtype.itemsize == 2 else 0
    for name in SETS:
        _native.use_instruction_set(name)
        got = run(link, logits, targets, **options)
        assert got[0].dtype == (torch.float64 if is_double else torch.float32)
        assert got[1].dtype == logits.dtype
        # neg and pos are logarithms: the relative error of a sum is an absolute one there, as where the two sums meet.
        # ZLPR keeps its digits down to the smallest number; the reference of single_log adds its sum to 1 in float64.
        near_zero = {"zlpr": 2.0**-149, "single_log": 1e-15}.get(link, unit + reach)
        close(got[0], value, rtol=unit + reach, atol=near_zero)
        close(got[1], gradient, rtol=5 * unit + reach + rounding, atol=unit + reach)


# --- random batches --------------------------------------------------------------------------------------------------

LAYOUTS = ("plain", "transposed", "columns", "rows", "steps")


def laid_out(values: Tensor, layout: str) -> Tensor:
    """Return the same matrix with other strides, among numbers that must not be read."""
    if layout == "plain" or values.ndim != 2:
        return values
    if layout == "transposed":
        return values.t().contiguous().t()
    rows, labels = values.shape
    junk = NAN if values.is_floating_point() else 1 if values.dtype == torch.bool else 77
    step = (2, 1) if layout == "rows" else (1, 2) if layout == "steps" else (1, 1)
    around = torch.full((rows * step[0], labels * step[1] + 5), junk, dtype=values.dtype)
    view = around[:: step[0], 2 : 2 + labels * step[1] : step[1]]
    return view.copy_(values)


def hard(generator: torch.Generator, shape: Any, dtype: torch.dtype) -> Tensor:
    """Draw 0 and 1 in any type, with unknown cells where it has a code for them."""
    targets = (torch.rand(shape, generator=generator) < 0.3).to(dtype)
    codes = [] if dtype in (torch.bool, torch.uint8) else [-1, -100] + [NAN] * dtype.is_floating_point
    for code in codes:
        targets[torch.rand(shape, generator=generator) < 0.05] = code
    return targets


def soft(generator: torch.Generator, shape: Any, dtype: torch.dtype) -> Tensor:
    """Draw targets of all kinds: 0 and 1, in between, next to either, and as small as there are."""
    ends = torch.tensor([0, 1, 1e-30, 1 - 2**-24, 1e-40, 2.0**-149, 1e-310, 1 - 2**-53, -1, NAN], dtype=torch.float64)
    some = ends[torch.randint(len(ends), shape, generator=generator)]
    between = torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.where(torch.rand(shape, generator=generator) < 0.5, between, some).to(dtype)


def listed(generator: torch.Generator, of: Tensor) -> manyhot.IndexTargets:
    """List the positives, padding anywhere in the row."""
    ids = torch.where(of, torch.arange(of.shape[-1]), -1)
    return manyhot.IndexTargets(ids[..., torch.randperm(of.shape[-1], generator=generator)])


def part(generator: torch.Generator, shape: Any, low: float, high: float, dtype: torch.dtype) -> Tensor:
    """Draw an option of any shape that broadcasts: a number, one a label, one a row, one a cell, or in between."""
    keep = torch.randint(2, (len(shape),), generator=generator).tolist()
    cut = int(torch.randint(len(shape) + 1, (), generator=generator))
    kept = [n if k else 1 for n, k in zip(shape, keep, strict=True)][cut:]
    values = low + (high - low) * torch.rand(kept, generator=generator, dtype=dtype)
    return laid_out(values, LAYOUTS[int(torch.randint(5, (), generator=generator))])


def options_of(generator: torch.Generator, link: str, shape: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Draw a point among the options."""

    def chance() -> bool:
        return bool(torch.rand((), generator=generator) < 0.4)

    options: dict[str, Any] = {}
    if chance():
        options["scale"] = float(0.3 + 2 * torch.rand((), generator=generator))
    if chance():
        options["margin"] = float(torch.rand((), generator=generator))
    if chance() and link != "pairwise":
        options["threshold"] = part(generator, shape, -2, 2, dtype) if chance() else -0.7
    if chance():
        options["mask"] = part(generator, shape, 0, 1, dtype) < 0.8
    if chance():
        weight = part(generator, shape, -0.3, 3, dtype)
        options["label_weight"] = torch.where(weight < 0, 0, torch.where(weight < 0.1, 1e-30, weight))
    if chance() and link in LOSSES:
        options["sample_weight"] = torch.rand(shape[:-1], generator=generator, dtype=dtype).round(decimals=1)
        options["reduction"] = ("mean", "sum", "none")[int(torch.randint(3, (), generator=generator))]
    return options


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    link=st.sampled_from(list(LINKS)),
    shape=st.one_of(
        st.tuples(st.sampled_from([0, 1, 2, 3, 63, 64, 65, 70]), st.integers(1, 34)),
        st.tuples(st.integers(1, 2), st.sampled_from([100, 1023, 1024, 1025, 2049])),
        st.tuples(st.integers(1, 3), st.integers(0, 4), st.integers(1, 20)),
        st.tuples(st.integers(1, 40)),
    ),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    dtype=st.sampled_from(LOGIT_DTYPES),
    kind=st.sampled_from([*INTEGERS, *LOGIT_DTYPES, *(("soft", dtype) for dtype in LOGIT_DTYPES), "index"]),
    repeated=st.booleans(),
)
def test_equals_the_reference(
    seed: int, link: str, shape: Any, layouts: Any, dtype: torch.dtype, kind: Any, repeated: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = laid_out((3 * torch.randn(shape, generator=generator)).to(dtype), layouts[0])
    lead = (1,) * (len(shape) - 1) if repeated else shape[:-1]
    draw, of_dtype = (soft, kind[1]) if isinstance(kind, tuple) else (hard, torch.bool if kind == "index" else kind)
    of = draw(generator, (*lead, shape[-1]), of_dtype)
    of = of.expand(shape) if repeated else laid_out(of, layouts[1])
    targets = listed(generator, of) if kind == "index" else of
    options = options_of(generator, link, shape, torch.float64 if dtype == torch.float64 else torch.float32)
    # Logits of up to 13, thresholds, scale and margin make exponents of 45 and log(1e-30) = -69 more.
    check(link, logits, targets, of=of, size=120 if options else 13, **options)


@pytest.mark.parametrize("link", LINKS)
def test_every_length_of_a_tile(link: str, generator: torch.Generator) -> None:
    """Lanes are 4, 8 and 16 wide, tiles 1024 labels; what lies behind a row must not be read."""
    for labels in (*range(1, 20), 31, 32, 33, 63, 64, 65, 1022, 1023, 1024, 1025, 1040):
        for dtype in (torch.float32, torch.float64):
            logits = laid_out(2 * torch.randn(2, labels, generator=generator, dtype=dtype), "columns")
            for of in (torch.bool, torch.int64, dtype):
                check(link, logits, laid_out(hard(generator, (2, labels), of), "columns"), size=10)
            check(link, logits, laid_out(soft(generator, (2, labels), dtype), "columns"), size=10)


@pytest.mark.parametrize("labels", [65535, 65537, 70001])
def test_rows_of_more_than_one_segment(labels: int, generator: torch.Generator) -> None:
    logits = 3 * torch.randn(1, labels, generator=generator)
    of = torch.rand(1, labels, generator=generator) < 0.001
    of[0, [0, -1]] = True
    check("zlpr", logits, of, size=15)
    check("zlpr", logits, manyhot.IndexTargets(of.nonzero()[None, :, 1]), of=of, size=15)
    # All of one side lies beyond the first segment, or in it.
    check("pairwise", logits.double(), torch.arange(labels)[None] >= labels - 1, size=15)


# --- extreme numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("dtype", LOGIT_DTYPES, ids=str)
def test_extreme_logits(link: str, dtype: torch.dtype) -> None:
    for ends in ([0.0, 1.0], [0.0, 1.0, 0.4, 1e-30, 1 - 2**-24], [-1.0, 1e-40, 2.0**-149]):
        # Beside 1e30 there is no log t, in the reference neither.
        sizes = torch.tensor([INF, 100.0, 80.0, 1e-40, 0.0] + [1e30] * (len(ends) == 2), dtype=torch.float64).to(dtype)
        logits = torch.cartesian_prod(*[torch.cat((sizes, -sizes))] * 2)
        targets = torch.cartesian_prod(*[torch.tensor(ends)] * 2)
        batch = logits.repeat_interleave(len(targets), 0), targets.repeat(len(logits), 1)
        check(link, *batch, size=200)


@pytest.mark.parametrize("link", LINKS)
def test_extreme_weights_and_targets(link: str) -> None:
    logits = torch.linspace(-100, 100, 41).unsqueeze(-1) * torch.tensor([1.0, -1, 0.5, 1])
    weight = torch.tensor([1e-30, 1e30, 0, 1])
    targets = torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 0], [1e-40, 1 - 2**-24, 1e-30, 0.5]])
    for t in targets:
        check(link, logits, t.expand(41, 4), label_weight=weight, size=400)
        check(link, logits.double(), t.expand(41, 4), label_weight=weight.double(), size=400, scale=3.0)
        check(link, logits, t.expand(41, 4), size=300, scale=0.5, margin=200.0)


@pytest.mark.parametrize("link", LOSSES)
@pytest.mark.parametrize(("rows", "labels"), [(3, 5), (70, 33), (2, 1025), (2, 65540)])
def test_a_nan_makes_its_own_row_nan_and_no_other(
    link: str, rows: int, labels: int, generator: torch.Generator
) -> None:
    logits = torch.randn(rows, labels, generator=generator)
    for targets in (hard(generator, (rows, labels), torch.bool), torch.rand(rows, labels, generator=generator)):
        for label in (0, labels - 1):
            spoilt = logits.clone()
            spoilt[1, label] = NAN
            others = torch.arange(rows) != 1
            for name in SETS:
                _native.use_instruction_set(name)
                value, gradient = run(link, logits, targets)
                nan_value, nan_gradient = run(link, spoilt, targets)
                assert nan_value[1].isnan()
                assert nan_gradient[1, label].isnan()
                assert torch.equal(nan_value[others], value[others])
                assert torch.equal(nan_gradient[others], gradient[others])
                # Masked it has no effect, and no gradient.
                mask = ~spoilt.isnan()
                masked = run(link, spoilt, targets, mask=mask), run(link, logits, targets, mask=mask)
                assert torch.equal(masked[0][0], masked[1][0])
                assert torch.equal(masked[0][1], masked[1][1])
                assert masked[0][1][1, label] == 0


# --- derivatives that autograd passes on -----------------------------------------------------------------------------


@pytest.mark.parametrize("impl", ["native", "blocked"])
@pytest.mark.parametrize("lead", [(3, 1, 1), (3, 4, 1), (3, 1, 2), (1, 4, 1), (1, 1, 1), (1, 1, 2), (4, 1), (2,), ()])
@pytest.mark.parametrize("last", [1, 70])
def test_a_mask_that_rows_share_equals_the_copied_one(impl: Any, lead: tuple[int, ...], last: int) -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (3, 4, 2, 70)
    logits, targets = torch.randn(shape, generator=generator), torch.rand(shape, generator=generator) < 0.2
    mask = torch.rand(*lead, last, generator=generator) < 0.6
    results = []
    for same in (mask, mask.expand(shape).contiguous()):
        leaf = logits.clone().requires_grad_()
        loss = manyhot.zlpr_loss(leaf, targets, mask=same, reduction="none", impl=impl)
        results.append((loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("shape", [(), (7,), (5, 1), (1, 1), (5, 7)])
def test_gradient_of_a_learned_threshold(shape: tuple[int, ...], generator: torch.Generator) -> None:
    for dtype in LOGIT_DTYPES:
        computed = torch.float64 if dtype == torch.float64 else torch.float32
        logits = torch.randn(5, 7, generator=generator).to(dtype).requires_grad_()
        threshold = torch.randn(shape, generator=generator, dtype=computed).requires_grad_()
        targets = hard(generator, (5, 7), torch.float32)
        loss = manyhot.zlpr_loss(logits, targets, threshold=threshold, scale=1.3, reduction="sum", impl="native")
        by_logits, by_threshold = torch.autograd.grad(loss, (logits, threshold))
        want = exact("zlpr", logits.detach(), targets, threshold=threshold.detach(), scale=1.3)[1]
        close(by_logits, want, rtol=1e-5 + 2 * torch.finfo(dtype).eps, atol=2e-6)
        # The threshold moves against the logits, and is not rounded to half before the sum over rows.
        unit = 1e-12 if computed == torch.float64 else 5e-6
        close(by_threshold, (-torch.as_tensor(want)).sum_to_size(shape), rtol=unit, atol=unit)


def test_the_gradients_of_both_sums_are_added(generator: torch.Generator) -> None:
    logits = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    targets, (a, b) = soft(generator, (6, 9), torch.float64), torch.randn(2, 6, generator=generator).double()
    leaf = logits.clone().requires_grad_()
    neg, pos = manyhot.signed_logsumexp(leaf, targets, impl="native")
    (gradient,) = torch.autograd.grad((neg, pos), leaf, (a, b))
    by_neg, by_pos = (torch.as_tensor(exact(link, logits, targets)[1]) for link in ("neg", "pos"))
    close(gradient, a.unsqueeze(-1) * by_neg + b.unsqueeze(-1) * by_pos, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("link", LOSSES)
def test_any_gradient_may_come_from_behind(link: str, generator: torch.Generator) -> None:
    logits, targets = torch.randn(4, 6, 5, generator=generator), torch.rand(4, 6, 5, generator=generator)
    want = torch.as_tensor(exact(link, logits, targets)[1])
    outer = torch.randn(6, 4, generator=generator)
    for factor in (outer.t(), outer[:1, :1].expand(4, 6), torch.zeros(4, 6)):
        leaf = logits.clone().requires_grad_()
        LINKS[link][0](leaf, targets, reduction="none", impl="native").backward(factor)
        assert leaf.grad is not None
        close(leaf.grad, want * factor.double().unsqueeze(-1), rtol=1e-5, atol=2e-6)
    leaf = logits.clone().requires_grad_()
    (3 * LINKS[link][0](leaf, targets, impl="native")).backward()
    assert leaf.grad is not None
    close(leaf.grad, 3 * want / 24, rtol=1e-5, atol=2e-7)


def test_no_less_exact_than_torchs_cross_entropy(generator: torch.Generator) -> None:
    """In float32, each row's loss and each number of the gradient, against float64."""
    for rows, labels in ((1024, 28), (64, 4096), (8, 30938)):
        logits = torch.randn(rows, labels, generator=generator)
        y = torch.randint(labels, (rows,), generator=generator)
        sign = 1 - 2.0 * F.one_hot(y, labels).double()

        def exact_zlpr(s: Tensor, sign: Tensor = sign) -> Tensor:
            terms = (sign * s).exp()
            return ((sign > 0) * terms).sum(-1).log1p() + ((sign < 0) * terms).sum(-1).log1p()

        def error(got: Callable[[Tensor], Tensor], want: Callable[[Tensor], Tensor], s: Tensor = logits) -> list[float]:
            a, b = s.clone().requires_grad_(), s.double().requires_grad_()
            loss, true = got(a), want(b)
            grads = torch.autograd.grad(loss.sum(), a)[0], torch.autograd.grad(true.sum(), b)[0]
            return [(loss / true - 1).abs().mean().item(), (grads[0] - grads[1]).abs().mean().item()]

        def peer(s: Tensor, y: Tensor = y) -> Tensor:
            return F.cross_entropy(s, y, reduction="none")

        def ours(s: Tensor, sign: Tensor = sign) -> Tensor:
            return manyhot.zlpr_loss(s, sign < 0, reduction="none", impl="native")

        loss, gradient = error(ours, exact_zlpr)
        peer_loss, peer_gradient = error(peer, peer)
        # Half a unit in the last place of the loss is a mean of 2^-25: better than rounded it cannot be.
        assert loss <= max(peer_loss, 2.0**-25), (rows, labels)
        assert gradient <= peer_gradient, (rows, labels)


@pytest.mark.parametrize("first", [79.0, 79.9])
def test_a_large_sum_and_a_small_factor_keep_the_gradient(first: float) -> None:
    # A tile of large logits, added up from 0, and one that is not: over a total of e^86, 1e-7 has no float32.
    logits = torch.full((1, 1026), first)
    logits[0, 1024:] = torch.tensor([-100.0, 0.5])
    leaf = logits.clone().requires_grad_()
    neg, _ = manyhot.signed_logsumexp(leaf, torch.zeros(1, 1026, dtype=torch.bool), impl="native")
    (1e-7 * neg.sum()).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, 1e-7 * logits.double().softmax(-1).float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("impl", ["native", "blocked"])
def test_a_tiny_target_and_a_large_factor_keep_the_gradient(impl: Any) -> None:
    leaf = torch.tensor([[39.9]], requires_grad=True)
    _, pos = manyhot.signed_logsumexp(leaf, torch.tensor([[2.0**-64]]), impl=impl)
    (65536 * pos.sum()).backward()  # the scale of mixed precision
    assert leaf.grad is not None
    assert leaf.grad.item() == pytest.approx(-65536)


def test_a_sure_positive_in_one_tile_leaves_the_gradient_of_the_others_alone() -> None:
    # The factor of its side overflows float32, and met targets of 0 in tiles that were measured from 0.
    logits = torch.zeros(1, 3000)
    logits[0, 0] = 100.0
    for targets in (torch.zeros(1, 3000), torch.full((1, 3000), 1e-3)):
        targets[0, 0] = 1.0
        leaf = logits.clone().requires_grad_()
        (got,) = torch.autograd.grad(sum_of_both(leaf, targets, "native"), leaf)
        (want,) = torch.autograd.grad(sum_of_both(leaf.double(), targets, "eager"), leaf)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-9)


def sum_of_both(logits: torch.Tensor, targets: torch.Tensor, impl: Any) -> torch.Tensor:
    neg, pos = manyhot.signed_logsumexp(logits, targets, impl=impl)
    return neg.sum() + pos.sum()


def test_no_code_of_one_instruction_set_has_a_name_that_others_have():
    # Of a name that several objects have, the linker keeps that of the largest instruction set for all processors. What
    # is not inlined, such as std::vector<float>::_M_fill_assign, stands in the library by its mangled name.
    names = set(re.findall(rb"_Z\w+", Path(_native.__file__).read_bytes()))
    assert names
    assert not [name for name in names if re.search(rb"St6vectorI[fdi]SaI[fdi]E", name)]


def test_offsets_of_any_strides_are_read_right():
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([0, 5, 2, 3])
    both = torch.stack((torch.tensor([0, 1, 1, 4]), torch.tensor([9, 9, 9, 9])), 1)
    offsets = both[:, 0]
    assert not offsets.is_contiguous()
    want = manyhot.zlpr_loss(logits, IndexTargets(ids, offsets.clone()), impl="eager", reduction="none")
    for impl in ("auto", "native", "blocked", "eager"):
        got = manyhot.zlpr_loss(logits, IndexTargets(ids, offsets), impl=impl, reduction="none")
        torch.testing.assert_close(got, want)
