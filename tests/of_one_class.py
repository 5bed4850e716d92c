"""The contract of losses on one class a row: what test_losses.py shows of many-hot targets."""

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

ROWS, CLASSES = 6, 4


@dataclass(frozen=True)
class OfOneClass:
    name: str
    function: Callable[..., Tensor]
    module: type[nn.Module]
    # (the logits of a row as floats, its class, options) -> its loss; shares no code with the package.
    reference: Callable[..., float]
    # What the random grid draws from; a callable draws a tensor (classes,) that does not change with the batch.
    grid: Mapping[str, tuple[Any, ...]]
    # Relative error of float32 against the reference.
    accuracy_32: float = 2e-6
    # The largest logits of which the loss is finite in float32.
    extreme: float = 1e30

    def draw(self, generator: torch.Generator) -> dict[str, Any]:
        drawn = {}
        for name, choices in self.grid.items():
            choice = choices[int(torch.randint(len(choices), (), generator=generator))]
            drawn[name] = choice(generator) if callable(choice) else choice
        return drawn

    def expected(self, s: Tensor, y: Tensor, **options: Any) -> Tensor:
        plain = {name: x.double().tolist() if isinstance(x, Tensor) else x for name, x in options.items()}
        rows = zip(s.double().tolist(), y.tolist(), strict=True)
        return torch.tensor([self.reference(r, c, **plain) for r, c in rows], dtype=torch.float64)


def batch(generator: torch.Generator, size: float = 2.0) -> tuple[Tensor, Tensor]:
    s = size * torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64)
    return s, torch.randint(CLASSES, (ROWS,), generator=generator)


def gradient(function: Callable[..., Tensor], logits: Tensor, targets: Tensor, **options: Any) -> Tensor:
    leaf = logits.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(leaf, targets, **options).sum(), leaf)
    return slope


def close(got: Tensor, want: Any, rtol: float = 1e-10, atol: float = 1e-12) -> None:
    want = torch.as_tensor(want, dtype=torch.float64)
    torch.testing.assert_close(got.double(), want, rtol=rtol, atol=atol, equal_nan=True)


def equals_the_reference(loss: OfOneClass, generator: torch.Generator) -> None:
    for _ in range(12):
        s, y = batch(generator)
        options = loss.draw(generator)
        close(loss.function(s, y, reduction="none", **options), loss.expected(s, y, **options))
        got = loss.function(s.float(), y, reduction="none", **options)
        assert got.dtype == torch.float32
        close(got, loss.expected(s.float(), y, **options), rtol=loss.accuracy_32, atol=1e-6)


def has_the_gradient_of_its_values(loss: OfOneClass, generator: torch.Generator) -> None:
    s, y = batch(generator)
    y[1] = -1
    for _ in range(4):
        options = loss.draw(generator)
        leaf = s.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda s, o=options: loss.function(s, y, **o), leaf)


def reduces_over_known_rows(loss: OfOneClass, generator: torch.Generator) -> None:
    s, y = batch(generator)
    weight = torch.tensor([2.0, 1, 1, 0, 0.5, 1], dtype=torch.float64)
    mask = torch.tensor([1, 1, 1, 1, 0, 1], dtype=torch.bool)
    options = loss.draw(generator)
    each = loss.function(s, y, reduction="none", **options)
    unknown = y.clone()
    unknown[1], unknown[5] = -1, -100
    counts = weight * torch.tensor([1, 0, 1, 1, 0, 0])
    for junk in (0.0, math.nan, math.inf, -math.inf):
        scores = torch.where(((unknown < 0) | ~mask).unsqueeze(-1), junk, s)
        given: dict[str, Any] = {"mask": mask, "sample_weight": weight, **options}
        close(loss.function(scores, unknown, reduction="none", **given), each * counts)
        close(loss.function(scores, unknown, reduction="sum", **given), (each * counts).sum())
        close(loss.function(scores, unknown, **given), (each * counts).sum() / 3)
        slope = gradient(loss.function, scores, unknown, **given)
        close(slope, gradient(loss.function, s, unknown, **given))
        assert (slope[counts == 0] == 0).all()
    assert loss.function(s, torch.full_like(y, -1), **options) == 0
    empty = loss.function(s[:0], y[:0], reduction="none", **options)
    assert empty.shape == (0,)
    assert loss.function(s[:0], y[:0], **options) == 0
    with pytest.raises(ValueError, match='reduction must be "mean", "sum" or "none"'):
        loss.function(s, y, reduction="avg", **options)


def a_row_of_weight_zero_is_not_there(loss: OfOneClass, generator: torch.Generator) -> None:
    s, y = batch(generator)
    y[1], y[4], y[5] = 2, -1, -100
    y[y == 2] = 0
    y[1] = 2  # the class of the row that is taken out
    weight, copies = torch.tensor([1.0, 0, 1, 2, 1, 1]), torch.tensor([0, 2, 3, 3, 4, 5])
    options = loss.draw(generator)
    for reduction in ("mean", "sum"):
        got = loss.function(s, y, sample_weight=weight, reduction=reduction, **options)
        close(got, loss.function(s[copies], y[copies], reduction=reduction, **options))


def every_dtype_gives_the_same(loss: OfOneClass, generator: torch.Generator) -> None:
    s, y = batch(generator)
    options = loss.draw(generator)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert loss.function(s, y.to(dtype), **options) == loss.function(s, y, **options)
    for dtype in (torch.float16, torch.bfloat16):
        half = s.to(dtype)
        value, slope = loss.function(half, y, **options), gradient(loss.function, half, y, **options)
        assert (value.dtype, slope.dtype) == (torch.float32, dtype)
        assert value == loss.function(half.float(), y, **options)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert loss.function(half, y, **options) == value
            assert (gradient(loss.function, half, y, **options) == slope).all()
            assert loss.function(s.float(), y, **options).dtype == torch.float32


def extreme_logits_stay_finite(loss: OfOneClass, generator: torch.Generator) -> None:
    for dtype, size in ((torch.float16, 6e4), (torch.float32, 1e4), (torch.float32, 1e30), (torch.float64, 1e4)):
        s, y = batch(generator)
        s = (min(size, loss.extreme) * s.sign()).to(dtype)
        options = loss.draw(generator)
        value = loss.function(s, y, reduction="none", **options)
        assert value.isfinite().all()
        assert gradient(loss.function, s, y, **options).isfinite().all()
        close(value, loss.expected(s, y, **options), rtol=1e-5, atol=1e-5)


def infinite_logits_have_their_limit(loss: OfOneClass, generator: torch.Generator) -> None:
    s, y = batch(generator)
    options = loss.draw(generator)
    finite = s.clone()
    s[0] = s[0].scatter(0, y[:1], math.inf)
    s[1] = s[1].scatter(0, (y[1:2] + 1) % CLASSES, math.inf)
    finite[0] = finite[0].scatter(0, y[:1], 1e4)
    s[2, (y[2] + 1) % CLASSES], finite[2, (y[2] + 1) % CLASSES] = -math.inf, -1e4
    value = loss.function(s, y, reduction="none", **options)
    want = loss.function(finite, y, reduction="none", **options)
    close(value[[0, 2, 3, 4, 5]], want[[0, 2, 3, 4, 5]])
    assert value[1] > value[0]
    assert not value.isnan().any()
    slope = gradient(loss.function, s, y, reduction="none", **options)
    assert slope.isfinite().all()
    assert (slope[s.isinf()] == 0).all()


def a_nan_stays_in_its_row(loss: OfOneClass, generator: torch.Generator) -> None:
    s, y = batch(generator)
    options = loss.draw(generator)
    clean = loss.function(s, y, reduction="none", **options)
    s[2, 0] = math.nan
    value, slope = loss.function(s, y, reduction="none", **options), gradient(loss.function, s, y, **options)
    others = torch.arange(ROWS) != 2
    assert value[2].isnan()
    assert (value[others] == clean[others]).all()
    assert slope[others].isfinite().all()


def leading_axes_are_rows(loss: OfOneClass, generator: torch.Generator) -> None:
    s, y = batch(generator)
    options = loss.draw(generator)
    each = loss.function(s, y, reduction="none", **options)
    mask = torch.tensor([1, 1, 0, 1, 1, 1], dtype=torch.bool)
    close(loss.function(s.view(2, 3, CLASSES), y.view(2, 3), reduction="none", **options), each.view(2, 3))
    close(loss.function(s.view(2, 3, CLASSES), y.view(2, 3), mask=mask.view(2, 3), **options), each[mask].mean())
    close(loss.function(s[0], y[0], **options), each[0])
    strided = s.t().contiguous().t()
    close(loss.function(strided, y, reduction="none", **options), each)


def inputs_are_left_alone(loss: OfOneClass, generator: torch.Generator) -> None:
    s, y = batch(generator)
    y[0] = -1
    before = s.clone(), y.clone()
    options = loss.draw(generator)
    gradient(loss.function, s, y, **options)
    assert (s == before[0]).all()
    assert (y == before[1]).all()
    with torch.no_grad():
        assert not loss.function(s.requires_grad_(), y, **options).requires_grad


def the_module_is_a_shell(loss: OfOneClass, generator: torch.Generator) -> None:
    of_function = inspect.signature(loss.function).parameters
    of_init, of_forward = (inspect.signature(x).parameters for x in (loss.module, loss.module.forward))
    tail = [p.name for p in list(of_function.values())[-3:]]
    assert tail == ["mask", "sample_weight", "reduction"]
    per_batch = [name for name in of_forward if name != "self"]
    assert set(per_batch) - {"norms"} == {"logits", "targets", "mask", "sample_weight"}
    kept = {n: (p.kind, p.default, p.annotation) for n, p in of_function.items() if n not in per_batch}
    assert {n: (p.kind, p.default, p.annotation) for n, p in of_init.items()} == kept
    assert list(of_init) == list(kept)
    s, y = batch(generator)
    for _ in range(4):
        drawn = loss.draw(generator)
        options = {name: x for name, x in drawn.items() if name in of_init}
        given = {name: x for name, x in drawn.items() if name not in of_init}
        module = copy.deepcopy(loss.module(**options))
        kept = {"prior": "prior_logits"}
        assert list(module.state_dict()) == [kept.get(n, n) for n, x in options.items() if isinstance(x, Tensor)]
        weight, mask = torch.linspace(0, 1, ROWS), torch.rand(ROWS, generator=generator) < 0.8
        got = module(s, y, mask=mask, sample_weight=weight, **given)
        assert got == loss.function(s, y, mask=mask, sample_weight=weight, **drawn)
        for half in (module.half(), module.bfloat16()):
            assert half(s, y, mask=mask, sample_weight=weight, **given) == got


def compiled_and_transformed_it_is_the_same(loss: OfOneClass, generator: torch.Generator) -> None:
    s, y = batch(generator)
    y[1] = -1
    options = loss.draw(generator) | {"mask": torch.rand(ROWS, generator=generator) < 0.8}
    torch._dynamo.reset()
    compiled = torch.compile(loss.function, fullgraph=True, backend="aot_eager")
    close(compiled(s, y, **options), loss.function(s, y, **options), rtol=1e-9)
    close(gradient(compiled, s, y, **options), gradient(loss.function, s, y, **options), rtol=1e-8, atol=1e-10)
    close(torch.func.grad(loss.function)(s, y, **options), gradient(loss.function, s, y, **options), rtol=1e-9)


def errors_say_what_came(loss: OfOneClass, generator: torch.Generator) -> None:
    s, y = batch(generator)
    options = loss.draw(generator)
    wrong = [
        ((y, s), {}, TypeError, "logits must be a floating-point tensor.*are the two swapped"),
        (
            (s, y.double()),
            {},
            TypeError,
            "targets must be class ids, a tensor of integers; got a tensor of torch.float64",
        ),
        ((s, y[1:]), {}, ValueError, r"their leading shape; got \(6, 4\) and \(5,\)"),
        (
            (s, y + CLASSES),
            {},
            ValueError,
            r"class ids must lie in 0 to 3, or be -1 or -100 where unknown; got \d in row 0",
        ),
        ((s, y), {"mask": torch.ones(6)}, TypeError, "mask must be boolean"),
        ((s, y), {"mask": torch.ones(5).bool()}, ValueError, r"mask must broadcast to one value a row, \(6,\); got"),
        ((s, y), {"sample_weight": -torch.ones(6)}, ValueError, "sample_weight must be 0 or more.*; got -1"),
        (
            (s, y),
            {"sample_weight": torch.full((6,), math.inf)},
            ValueError,
            "sample_weight must be finite; got inf",
        ),
        ((s, y), {"sample_weight": torch.ones(4)}, ValueError, r"sample_weight must broadcast.*\(6,\); got \(4,\)"),
    ]
    for inputs, more, error, text in wrong:
        with pytest.raises(error, match=text):
            loss.function(*inputs, **options, **more)


PROPERTIES = (
    equals_the_reference,
    has_the_gradient_of_its_values,
    reduces_over_known_rows,
    a_row_of_weight_zero_is_not_there,
    every_dtype_gives_the_same,
    extreme_logits_stay_finite,
    infinite_logits_have_their_limit,
    a_nan_stays_in_its_row,
    leading_axes_are_rows,
    inputs_are_left_alone,
    the_module_is_a_shell,
    compiled_and_transformed_it_is_the_same,
    errors_say_what_came,
)
