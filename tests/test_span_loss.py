"""span_loss: the factorised sums against the scores written out, and both against loops over cells."""

import copy
import inspect
import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import manyhot
import reference
from manyhot import IndexTargets, SpanScores, SpanTargets, span_mask, span_scores

Spans = list[list[tuple[int, int, int]]]
span_loss: Any = manyhot.span_loss


class Batch(NamedTuple):
    scores: SpanScores
    spans: Spans
    options: dict[str, Any]

    @property
    def targets(self) -> SpanTargets:
        return SpanTargets.of_pairs(self.spans) if not self.options.get("triangle", True) else SpanTargets(self.spans)


def parts(generator: torch.Generator, size: float, rows: int, types: int, length: int) -> SpanScores:
    shapes = ((rows, length, length), (rows, types, length), (rows, types, length))
    return SpanScores(*(size * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes))


def draw(seed: int, *, size: float | None = None) -> Batch:
    """Draw one of all that a batch can be."""
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    rows, types, length = chance.choice((1, 2, 3)), chance.choice((1, 2, 4)), chance.choice((1, 2, 5, 7))
    lengths = [chance.choice((0, length, chance.randint(0, length))) for _ in range(rows)]
    triangle = chance.random() < 0.8
    width = chance.choice((None, None, 1, 3)) if triangle else None
    density, shared = chance.choice((0.0, 0.1, 0.5, 1.0)), chance.random() < 0.3
    spans: Spans = []
    for tokens in lengths:
        of_row = []
        for i in range(tokens):
            for j in range(i if triangle else 0, tokens):
                if width is None or j - i < width:
                    together = chance.random() < density
                    kinds = [t for t in range(types) if (together if shared else chance.random() < density)]
                    of_row += [(i, j + triangle, t) for t in kinds]
        spans.append(of_row)
    options: dict[str, Any] = {
        "lengths": torch.tensor(lengths), "max_width": width, "triangle": triangle,
        "threshold": chance.choice((0.0, -1.3, torch.randn(types, generator=generator, dtype=torch.float64))),
        "scale": chance.choice((1.0, 0.4, 3.0)), "margin": chance.choice((0.0, 0.8)),
        "type_weight": chance.choice((None, 2 * torch.rand(types, generator=generator, dtype=torch.float64))),
        "sample_weight": chance.choice((None, torch.rand(rows, generator=generator, dtype=torch.float64),
                                        torch.rand(rows, types, generator=generator, dtype=torch.float64))),
        "reduction": chance.choice(("mean", "sum", "none")),
    }  # fmt: skip
    size = chance.choice((0.1, 1.0, 10.0, 300.0)) if size is None else size
    return Batch(parts(generator, size, rows, types, length), spans, options)


def slopes(loss: Tensor, scores: SpanScores) -> list[Tensor]:
    found = torch.autograd.grad(loss.sum(), scores, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(scores, found, strict=True)]


def leaves(scores: SpanScores, dtype: torch.dtype = torch.float64) -> SpanScores:
    return SpanScores(*(x.detach().to(dtype).clone().requires_grad_() for x in scores))


def of_parts(gradient: np.ndarray) -> list[Tensor]:
    """Bring a gradient of (rows, types, length, length) to the parts of a sum."""
    return [torch.from_numpy(np.ascontiguousarray(gradient.sum(axis))) for axis in (1, 3, 2)]


def close(got: Any, want: Any, rtol: float = 1e-12, atol: float = 1e-12) -> None:
    torch.testing.assert_close(torch.as_tensor(got).double(), torch.as_tensor(want).double(), rtol=rtol, atol=atol)


# --- values and gradients --------------------------------------------------------------------------------------------


def test_hand_value() -> None:
    scores = torch.tensor([[[[1.0, -1.0], [9.0, 2.0]]]])
    want = math.log(1 + math.exp(-1) + math.exp(2)) + math.log(1 + math.exp(-1))
    assert span_loss(scores, SpanTargets([[(0, 1, 0)]])).item() == pytest.approx(want, rel=1e-6)
    split = SpanScores(scores[:, 0], torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))
    assert span_loss(split, SpanTargets([[(0, 1, 0)]])).item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("form", ["factorised", "eager", "dense", "dense eager"])
def test_equals_loops_over_cells(form: str) -> None:
    for seed in range(50):
        batch = draw(seed)
        scores = leaves(batch.scores)
        given = scores.dense() if form.startswith("dense") else scores
        loss = span_loss(given, batch.targets, impl="eager" if "eager" in form else "auto", **batch.options)
        dense = batch.scores.dense().numpy()
        value, gradient = reference.span(dense, batch.spans, **{k: numpy(v) for k, v in batch.options.items()})
        close(loss.detach(), value)
        for got, want in zip(slopes(loss, scores), of_parts(gradient), strict=True):
            close(got, want)


def numpy(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0, 300.0])
def test_float32_is_as_exact_as_the_scores_written_out(size: float) -> None:
    for seed in range(20):
        batch = draw(seed, size=size)
        batch.options["reduction"] = "none"
        want = span_loss(batch.scores, batch.targets, impl="eager", **batch.options)
        got = span_loss(SpanScores(*(x.float() for x in batch.scores)), batch.targets, **batch.options)
        assert got.dtype == torch.float32
        # An exponent x is known to |x| 6e-8, and here it is a sum of three.
        close(got, want, rtol=1e-6, atol=1e-6 * max(1.0, size * batch.options["scale"]))


def streams(scores: SpanScores, mask: Tensor) -> bool:
    """Say whether the product is refused; the function under test decides the same way."""
    seen = []
    original = span_scores._by_product
    try:
        span_scores._by_product = lambda *p: seen.append(original(*p)) or seen[-1]
        scores.logsumexp(mask.squeeze(1))
    finally:
        span_scores._by_product = original
    return seen[0] is None


def spikes(generator: torch.Generator) -> SpanScores:
    """Return parts whose largest are in no cell together: the best end comes before the best start."""
    scores = parts(generator, 1.0, 2, 2, 6)
    scores.start[:, :, 5] += 1e4
    scores.end[:, :, 0] += 1e4
    scores.pair[:, 2, 3] += 1e4
    return scores


def test_far_parts_are_added_up_in_blocks(generator: torch.Generator) -> None:
    spans: Spans = [[(0, 2, 0), (2, 4, 1)], [(5, 6, 1)]]
    mask = span_mask(torch.tensor([6, 6]), 6)
    for scores, far in ((spikes(generator), True), (parts(generator, 1.0, 2, 2, 6), False)):
        for dtype, rtol in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
            given = leaves(scores, dtype)
            assert streams(given, mask) is far
            got = span_loss(given, SpanTargets(spans), reduction="none")
            value, gradient = reference.span(scores.dense().numpy(), spans, reduction="none")
            close(got.detach(), value, rtol=rtol, atol=rtol)
            for slope, want in zip(slopes(got, given), of_parts(gradient), strict=True):
                close(slope, want, rtol=1e-3 if dtype == torch.float32 else 1e-10, atol=1e-3 if far else 1e-6)


def test_a_product_that_underflows_in_some_tokens_is_kept(generator: torch.Generator) -> None:
    # At token 0 nothing but e^-90 is left of the largest start and end, which is nothing beside the other tokens.
    scores = parts(generator, 1.0, 1, 1, 4)
    scores.pair[:, 0], scores.pair[:, 0, 0] = -90.0, 0.0
    scores.end[:, :, 0] = -90.0
    given = leaves(scores, torch.float32)
    assert not streams(given, span_mask(torch.tensor([4]), 4))
    loss = span_loss(given, SpanTargets([[]]))
    value, gradient = reference.span(scores.dense().numpy(), [[]])
    close(loss.detach(), value, rtol=1e-6)
    for slope, want in zip(slopes(loss, given), of_parts(gradient), strict=True):
        close(slope, want, rtol=1e-5, atol=1e-7)


def test_the_gradient_of_a_positive_is_never_lost() -> None:
    # A positive that is right by far beside a false positive: "all less the positives" gives it no gradient, or the
    # wrong sign; both implementations that are known do so.
    pair = torch.full((1, 4, 4), -5.0)
    pair[0, 0, 1], pair[0, 2, 3] = 20.0, 3.0
    for score in (20.0, 1.0, -3.0):
        pair[0, 0, 1] = score
        leaf = pair.clone().requires_grad_()
        zeros = torch.zeros(1, 1, 4)
        (slope,) = torch.autograd.grad(span_loss(SpanScores(leaf, zeros, zeros), SpanTargets([[(0, 2, 0)]])), leaf)
        value, want = reference.span(pair[:, None].numpy(), [[(0, 2, 0)]])
        assert slope[0, 0, 1] < 0
        assert slope[0, 2, 3] > 0
        close(slope, want[:, 0], rtol=1e-5, atol=1e-12)
        assert span_loss(SpanScores(pair, zeros, zeros), SpanTargets([[(0, 2, 0)]])).item() == pytest.approx(
            float(value), rel=1e-6
        )


@pytest.mark.parametrize("far", [False, True])
def test_gradcheck_of_first_and_second_order(far: bool, generator: torch.Generator) -> None:
    scores = parts(generator, 1.0, 2, 2, 3)
    if far:
        # Not in float64, where even e^-350 is no loss: by hand.
        scores.start[:, :, 2] += 600
        scores.end[:, :, 0] += 600
    targets, lengths = SpanTargets([[(0, 2, 0), (0, 2, 1), (2, 3, 1)], [(1, 2, 1)]]), torch.tensor([3, 2])
    assert streams(scores, span_mask(lengths, 3)) is far
    threshold = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)

    def loss(pair: Tensor, start: Tensor, end: Tensor, threshold: Tensor) -> Tensor:
        options: dict[str, Any] = {"lengths": lengths, "scale": 0.7, "margin": 0.4, "reduction": "none"}
        # A softplus of hundreds is a straight line, and so is not looked at.
        return span_loss(SpanScores(pair, start, end), targets, threshold=threshold, **options)

    inputs = (*leaves(scores), threshold)
    assert torch.autograd.gradcheck(loss, inputs, atol=1e-4 if far else 1e-5)
    assert torch.autograd.gradgradcheck(loss, inputs, atol=1e-4 if far else 1e-5)


def test_infinite_parts() -> None:
    inf = math.inf
    targets, lengths = SpanTargets([[(0, 2, 0)]]), torch.tensor([3])
    for place, value in ((0, -inf), (2, -inf), (2, inf)):
        for name in SpanScores._fields:
            scores = parts(torch.Generator().manual_seed(1), 1.0, 1, 2, 3)
            getattr(scores, name)[..., place] = value
            given, written = leaves(scores), leaves(scores)
            got = span_loss(given, targets, lengths=lengths, reduction="none")
            want = span_loss(written, targets, lengths=lengths, reduction="none", impl="eager")
            close(got.detach(), want.detach())
            for a, b in zip(slopes(got, given), slopes(want, written), strict=True):
                assert a.isfinite().all()
                close(a, b)


def test_a_part_of_minus_infinity_takes_the_cell_away() -> None:
    scores = parts(torch.Generator().manual_seed(2), 1.0, 1, 1, 3)
    scores.start[0, 0, 0], scores.end[0, 0, 2], scores.pair[0, 0, 2] = -math.inf, 1.0, math.inf
    without = parts(torch.Generator().manual_seed(2), 1.0, 1, 1, 3).dense()
    without[:, :, 0], without[0, 0, 1:, 2] = -math.inf, scores.dense()[0, 0, 1:, 2]
    close(span_loss(scores, SpanTargets([[]])), span_loss(without, SpanTargets([[]]), impl="eager"))


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("dense", [False, True])
def test_what_lies_beyond_the_length_has_no_effect(junk: float, dense: bool, generator: torch.Generator) -> None:
    scores = parts(generator, 1.0, 3, 2, 5)
    lengths, spans = torch.tensor([3, 5, 0]), [[(0, 2, 0)], [(3, 5, 1)], []]
    filled = leaves(scores)
    with torch.no_grad():
        for row, tokens in enumerate(lengths.tolist()):
            filled.pair[row, tokens:], filled.pair[row, :, tokens:] = junk, junk
            filled.start[row, :, tokens:], filled.end[row, :, tokens:] = junk, junk
    given = filled.dense() if dense else filled
    loss = span_loss(given, SpanTargets(spans), lengths=lengths)
    assert not dense or not loss.isnan()
    close(loss.detach(), span_loss(scores, SpanTargets(spans), lengths=lengths))
    if dense and math.isinf(junk):
        return  # inf - inf is in the sum of the parts
    found = slopes(loss, filled)
    for row, tokens in enumerate(lengths.tolist()):
        assert (found[0][row, tokens:] == 0).all()
        assert (found[0][row, :, tokens:] == 0).all()
        assert (found[1][row, :, tokens:] == 0).all()
        assert (found[2][row, :, tokens:] == 0).all()


def test_nan_is_seen_in_its_own_rows_alone(generator: torch.Generator) -> None:
    scores = parts(generator, 1.0, 2, 2, 4)
    scores.start[1, 0, 2] = math.nan
    loss = span_loss(scores, SpanTargets([[(0, 2, 0)], []]), reduction="none")
    assert loss.isnan().tolist() == [[False, False], [True, False]]


def test_a_learned_threshold_has_the_gradient_of_all_scores(generator: torch.Generator) -> None:
    scores, targets = parts(generator, 1.0, 2, 3, 4), SpanTargets([[(0, 2, 0)], [(1, 2, 2), (0, 4, 2)]])
    results = []
    for given in (scores, scores.dense()):
        threshold = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        loss = span_loss(given, targets, threshold=threshold)
        results.append(torch.autograd.grad(loss, threshold)[0])
    close(results[0], results[1])
    assert (results[0] != 0).all()


def test_rows_and_types_permute(generator: torch.Generator) -> None:
    scores, spans = parts(generator, 1.0, 3, 3, 4), [[(0, 2, 0)], [(1, 2, 2), (0, 4, 1)], []]
    lengths, order = torch.tensor([2, 4, 3]), [2, 0, 1]
    want = span_loss(scores, SpanTargets(spans), lengths=lengths, reduction="none")
    moved = SpanScores(scores.pair[order], scores.start[order][:, order], scores.end[order][:, order])
    turned: Spans = [[(i, j, order.index(t)) for i, j, t in spans[row]] for row in order]
    close(span_loss(moved, SpanTargets(turned), lengths=lengths[order], reduction="none"), want[order][:, order])


def test_the_mean_leaves_out_rows_without_tokens(generator: torch.Generator) -> None:
    scores, targets = parts(generator, 1.0, 3, 2, 4), SpanTargets([[(0, 2, 0)], [], []])
    lengths = torch.tensor([4, 3, 0])
    for given in (scores, scores.dense()):
        each = span_loss(given, targets, lengths=lengths, reduction="none")
        assert (each[2] == 0).all()
        close(span_loss(given, targets, lengths=lengths), each[:2].mean())
        weight = torch.tensor([2.0, 1.0, 5.0], dtype=torch.float64)
        kinds = torch.tensor([1.0, 0.5], dtype=torch.float64)
        both = (weight.unsqueeze(-1) * kinds)[:2]
        got = span_loss(given, targets, lengths=lengths, sample_weight=weight, type_weight=kinds)
        close(got, (each[:2] * both).sum() / both.sum())
    assert span_loss(scores, SpanTargets([[], [], []]), lengths=torch.zeros(3, dtype=torch.int64)) == 0


def test_equals_zlpr_loss_of_listed_cells(generator: torch.Generator) -> None:
    scores = parts(generator, 1.0, 2, 3, 4)
    targets, lengths = SpanTargets([[(0, 2, 0), (0, 2, 1)], [(1, 2, 2)]]), torch.tensor([4, 3])
    mask = span_mask(lengths, 4)
    dense = scores.dense()
    for given in (targets.listed(3, 4), targets.dense(3, 4).flatten(2)):
        close(
            manyhot.zlpr_loss(dense.flatten(2), given, mask=mask.flatten(2)),
            span_loss(scores, targets, lengths=lengths),
        )


# --- dtypes, modules, tracing -----------------------------------------------------------------------------------------


def test_half_dtypes_and_autocast(generator: torch.Generator) -> None:
    scores, targets = parts(generator, 3.0, 2, 2, 5), SpanTargets([[(0, 2, 0)], []])
    for dtype in (torch.float16, torch.bfloat16):
        half = SpanScores(*(x.to(dtype).requires_grad_() for x in scores))
        full = SpanScores(*(x.detach().float() for x in half))
        for given, same in ((half, full), (half.dense(), None)):
            loss = span_loss(given, targets)
            assert loss.dtype == torch.float32
            assert all(g.dtype == dtype for g in torch.autograd.grad(loss, half))
            if same is not None:
                assert torch.equal(loss.detach(), span_loss(same, targets))
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    assert torch.equal(span_loss(same, targets), span_loss(same, targets))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = span_loss(SpanScores(*(x.float() for x in scores)), targets)
    assert torch.equal(inside, span_loss(SpanScores(*(x.float() for x in scores)), targets))


def test_module_equals_function(generator: torch.Generator) -> None:
    scores, targets = parts(generator, 1.0, 2, 2, 5), SpanTargets([[(0, 2, 0)], []])
    lengths, weight = torch.tensor([4, 5]), torch.tensor([1.0, 2.0])
    options: dict[str, Any] = {"scale": 2.0, "margin": 0.2, "max_width": 3, "type_weight": torch.tensor([1.0, 3.0])}
    module = manyhot.SpanLoss(threshold=torch.nn.Parameter(torch.zeros(2)), **options)
    want = span_loss(scores, targets, lengths=lengths, sample_weight=weight, **options)
    for loss in (module, copy.deepcopy(module)):
        close(loss(scores, targets, lengths=lengths, sample_weight=weight).detach(), want)
    assert sorted(module.state_dict()) == ["threshold", "type_weight"]
    assert [name for name, _ in module.named_parameters()] == ["threshold"]
    of_function = dict(inspect.signature(span_loss).parameters)
    of_init = dict(inspect.signature(manyhot.SpanLoss).parameters)
    of_forward = dict(inspect.signature(manyhot.SpanLoss.forward).parameters)
    of_forward.pop("self")
    assert of_init | of_forward == of_function


@pytest.mark.slow
@pytest.mark.parametrize("dense", [False, True])
def test_compile_equals_eager(dense: bool, generator: torch.Generator) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(span_loss, backend="aot_eager", fullgraph=True)
    scores, targets = (
        leaves(parts(generator, 1.0, 2, 2, 4)),
        SpanTargets([[(0, 2, 0), (1, 2, 1)], [(0, 1, 0), (0, 1, 1)]]),
    )
    lengths = torch.tensor([3, 4])
    want = span_loss(scores, targets, lengths=lengths)
    written = scores.dense().detach().requires_grad_()
    got = compiled(written if dense else scores, targets, lengths=lengths)
    close(got.detach(), want.detach())
    found = of_parts(torch.autograd.grad(got, written)[0].numpy()) if dense else slopes(got, scores)
    for a, b in zip(found, slopes(want, scores), strict=True):
        close(a, b)


# --- memory ----------------------------------------------------------------------------------------------------------


def peak(call: Callable[[], Any]) -> int:
    """Return the most bytes of tensors that live at once while a call runs, beyond those before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    now = most = 0
    of_profiler: Any = profile.profiler
    for event in sorted(of_profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def test_no_tensor_of_types_by_length_by_length() -> None:
    rows, types, length = 4, 64, 512
    given = leaves(parts(torch.Generator().manual_seed(0), 1.0, rows, types, length), torch.float32)
    targets = SpanTargets([[(row, row + 3, row)] for row in range(rows)])
    dense = 4 * rows * types * length**2
    used = peak(lambda: span_loss(given, targets).backward())
    assert dense > 268e6
    assert used < 64e6
    # 4 B L (L + T) numbers beside the gradients of the parts.
    gradients = 4 * rows * length * (length + 2 * types)
    assert used - gradients < 4 * 4 * rows * length * (length + types)


def test_the_mask_is_not_copied_for_every_type() -> None:
    rows, types, length = 2, 16, 128
    scores = torch.randn(rows, types, length, length, requires_grad=True)
    targets, lengths = SpanTargets([[(0, 3, 1)], [(1, 2, 15)]]), torch.tensor([128, 100])
    cells = rows * types * length**2
    used = peak(lambda: span_loss(scores, targets, lengths=lengths).backward())
    # The gradient, 4 bytes a cell; a copied mask would be one more a cell.
    assert 4 * cells <= used < 4.5 * cells


# --- errors ----------------------------------------------------------------------------------------------------------

DENSE = torch.zeros(2, 3, 4, 4)
PARTS = SpanScores(torch.zeros(2, 4, 4), torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
NONE = SpanTargets([[], []])


def one(*span: int) -> SpanTargets:
    return SpanTargets([[], [span]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: span_loss(s, one(1, 4, 3)), ValueError,
         r"row 1 has a span \(1, 4\) of type 3; the scores have 3 types, so that ids lie in 0 to 2\."),
        (lambda s: span_loss(s, one(2, 5, 0)), ValueError,
         r"row 1 has a span \(2, 5\) beyond its 4 tokens; cut the span or give longer rows\."),
        (lambda s: span_loss(s, one(1, 3, 0), lengths=torch.tensor([4, 2])), ValueError,
         r"row 1 has a span \(1, 3\) beyond its 2 tokens"),
        (lambda s: span_loss(s, one(0, 4, 0), max_width=2), ValueError,
         r"row 1 has a span \(0, 4\) wider than max_width=2; max_width=4 takes all"),
        (lambda s: span_loss(s, SpanTargets.of_pairs([[], [(3, 1, 0)]])), ValueError,
         r"row 1 has a pair \(3, 1\) whose first token comes after its last; .* triangle=False"),
        (lambda s: span_loss(s, NONE, max_width=2, triangle=False), ValueError, "max_width must be 1 or more, and"),
        (lambda s: span_loss(s, NONE, max_width=0), ValueError, "max_width must be 1 or more"),
        (lambda s: span_loss(s, SpanTargets([[]])), ValueError, "targets must have the rows of scores, 2; got 1"),
        (lambda s: span_loss(s, [[], []]), TypeError, "targets must be manyhot.SpanTargets; got list"),
        (lambda s: span_loss(s, NONE, lengths=[4, 4]), TypeError, "lengths must be a tensor of integers.*list"),
        (lambda s: span_loss(s, NONE, lengths=torch.tensor([4.0, 4.0])), TypeError, "lengths .* got torch.float32"),
        (lambda s: span_loss(s, NONE, lengths=torch.tensor([4])), ValueError, r"one number a row, \(2,\); got \(1,\)"),
        (lambda s: span_loss(s, NONE, lengths=torch.tensor([4, 5])), ValueError, "in 0 to 4, .* got 5 at row 1"),
        (lambda s: span_loss(s, NONE, lengths=torch.tensor([-1, 4])), ValueError, "in 0 to 4, .* got -1 at row 0"),
        (lambda s: span_loss(s, NONE, threshold=torch.zeros(4)), ValueError, r"one a type, \(3,\); got \(4,\)"),
        (lambda s: span_loss(s, NONE, type_weight=torch.zeros(2)), ValueError, r"type_weight must be a number or one"),
        (lambda s: span_loss(s, NONE, type_weight=torch.tensor([1.0, -2, 1])), ValueError, "0 or more; got -2"),
        (lambda s: span_loss(s, NONE, sample_weight=torch.zeros(3)), ValueError, r"one a row, \(2,\), or \(2, 3\)"),
        (lambda s: span_loss(s, NONE, scale=0.0), ValueError, "scale must be positive"),
        (lambda s: span_loss(s, NONE, margin=-1.0), ValueError, "margin .*0 or more"),
        (lambda s: span_loss(s, NONE, reduction="avg"), ValueError, 'reduction must be "mean", "sum" or "none"'),
        (lambda s: span_loss(s, NONE, impl="fast"), ValueError, 'impl .* must be|impl must be'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scores", [DENSE, PARTS], ids=["dense", "parts"])
def test_errors(scores: Any, call: Callable[..., Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(scores)


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (torch.zeros(2, 3, 4, 5), ValueError, r"\(rows, types, length, length\).* got \(2, 3, 4, 5\)"),
        (torch.zeros(2, 4, 4), ValueError, r"got \(2, 4, 4\)"),
        (torch.zeros(2, 0, 4, 4), ValueError, "at least one type and one token; got 0 types"),
        (torch.zeros(2, 3, 4, 4).int(), TypeError, "scores must be a floating-point tensor .* got torch.int32"),
        ([[0.0]], TypeError, "scores must be .* got list"),
        (SpanScores(torch.zeros(2, 4, 5), *PARTS[1:]), ValueError, r"got \(2, 4, 5\), \(2, 3, 4\) and \(2, 3, 4\)"),
        (SpanScores(PARTS.pair, PARTS.start, torch.zeros(2, 1, 4)), ValueError, r"and \(2, 1, 4\)"),
        (SpanScores(PARTS.pair.int(), *PARTS[1:]), TypeError, "parts of SpanScores must be floating-point"),
    ],
)
def test_wrong_scores(scores: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        span_loss(scores, NONE)


def test_a_kernel_asked_for_by_name_is_not_replaced() -> None:
    with pytest.raises(ValueError, match=r'must be "auto" or "eager"; got \'native\'. A kernel takes scores.dense\(\)'):
        span_loss(PARTS, NONE, impl="native")
    assert span_loss(DENSE, NONE, impl="blocked") == span_loss(PARTS, NONE)


def test_index_targets_are_not_span_targets() -> None:
    with pytest.raises(TypeError, match="got IndexTargets"):
        span_loss(DENSE, IndexTargets([[], []]))  # pyright: ignore
