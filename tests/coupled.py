"""The contract of losses that couple the rows of a batch: what test_losses.py shows of losses a row, where it can."""

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reference

ROWS, LABELS = 6, 5


@dataclass(frozen=True)
class Coupled:
    name: str
    function: Callable[..., Tensor]
    module: type[nn.Module]
    # (logits, targets, row weights, label weights, options) -> the loss of the batch; -1 where unknown. NumPy, loops.
    reference: Callable[..., float]
    grid: Mapping[str, tuple[Any, ...]]

    def draw(self, generator: torch.Generator) -> dict[str, Any]:
        return {
            name: choices[int(torch.randint(len(choices), (), generator=generator))]
            for name, choices in self.grid.items()
        }

    def expected(
        self, s: Tensor, t: Tensor, rows: Tensor | None = None, labels: Tensor | None = None, **o: Any
    ) -> float:
        rows = torch.ones(len(s)) if rows is None else rows
        labels = torch.ones(s.shape[-1]) if labels is None else labels
        return self.reference(*(x.double().numpy() for x in (s, t, rows, labels)), **o)


def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    s = 3 * torch.randn(ROWS, LABELS, generator=generator, dtype=torch.float64)
    return s, (torch.rand(ROWS, LABELS, generator=generator) < 0.4).double()


def gradient(function: Callable[..., Tensor], logits: Tensor, targets: Tensor, **options: Any) -> Tensor:
    leaf = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(leaf, targets, **options).sum(), leaf)
    return slope


def close(got: Tensor, want: Any, rtol: float = 1e-12, atol: float = 1e-13) -> None:
    torch.testing.assert_close(got.double(), torch.as_tensor(want, dtype=torch.float64), rtol=rtol, atol=atol)


# --- references ------------------------------------------------------------------------------------------------------


def two_way(
    s: Any, t: Any, rows: Any, labels: Any, temperature_pos: float = 4.0, temperature_neg: float = 1.0
) -> float:
    total = 0.0
    for a, b, inside, outside in ((s, t, labels, rows), (s.T, t.T, rows, labels)):
        value, weight = 0.0, 0.0
        for line in range(len(a)):
            pairs = [(x, y, w) for x, y, w in zip(a[line], b[line], inside, strict=True) if y >= 0 and w > 0]
            positives = [-x / temperature_pos + math.log(y * w) for x, y, w in pairs if y > 0]
            negatives = [x / temperature_neg + math.log((1 - y) * w) for x, y, w in pairs if y < 1]
            if not positives or not outside[line]:
                continue
            exponent = temperature_pos * reference.lse(positives) + temperature_neg * reference.lse(negatives)
            value += outside[line] * reference.softplus(exponent)
            weight += outside[line]
        total += value / (weight or 1.0)
    return total


def smooth_f(s: Any, t: Any, rows: Any, labels: Any, beta: float = 1.0, average: str = "micro") -> float:
    """Return minus the smooth F-beta, by counting."""
    n, m = s.shape
    cells = [(r, c) for r in range(n) for c in range(m) if t[r, c] >= 0]
    if average == "micro":
        groups = [(cells, 1.0)]
    elif average == "macro":
        groups = [([x for x in cells if x[1] == c], labels[c]) for c in range(m)]
    else:
        groups = [([x for x in cells if x[0] == r], rows[r]) for r in range(n)]
    value, weight = 0.0, 0.0
    for members, share in groups:
        if not members or not share:
            continue
        hits, total = 0.0, 0.0
        for r, c in members:
            w = (1.0 if average == "samples" else rows[r]) * (1.0 if average == "macro" else labels[c])
            p = reference.sigmoid(float(s[r, c]))
            hits += w * t[r, c] * p
            total += w * (beta**2 * t[r, c] + p)
        value += share * ((1 + beta**2) * hits / total if total else 0.0)
        weight += share
    return -value / (weight or 1.0)


def f_weighted_bce(s: Any, t: Any, rows: Any, labels: Any, beta: float = 1.0, average: str = "micro") -> float:
    value, weight = 0.0, 0.0
    for r in range(len(s)):
        known = [c for c in range(s.shape[1]) if t[r, c] >= 0]
        if not known or not rows[r]:
            continue
        for c in (c for c in known if labels[c]):
            inside = {"micro": (s, t, rows, labels), "samples": (s[r : r + 1], t[r : r + 1], rows[r : r + 1], labels)}
            column = (s[:, c : c + 1], t[:, c : c + 1], rows, labels[c : c + 1])
            share = -smooth_f(*inside.get(average, column), beta=beta) / (1 + beta**2)
            p, q = reference.log_sigmoid(float(s[r, c])), reference.log_sigmoid(-float(s[r, c]))
            value -= rows[r] * labels[c] * (t[r, c] * (1 - share) * p + (1 - t[r, c]) * share * q)
        weight += rows[r]
    return value / (weight or 1.0)


# --- the contract ----------------------------------------------------------------------------------------------------


def equals_the_reference(loss: Coupled, generator: torch.Generator) -> None:
    for k in range(40):
        s, t = batch(generator)
        if k % 2:
            t = torch.where(torch.rand(t.shape, generator=generator) < 0.5, torch.rand(t.shape, generator=generator), t)
        t[torch.rand(t.shape, generator=generator) < 0.2] = -1
        rows = torch.rand(ROWS, generator=generator, dtype=torch.float64) if k % 3 else None
        labels = torch.rand(LABELS, generator=generator, dtype=torch.float64) if k % 5 else None
        for weight in (rows, labels):
            if weight is not None:
                weight[weight < 0.2] = 0
        options = loss.draw(generator)
        got = loss.function(s, t, sample_weight=rows, label_weight=labels, **options)
        close(got, loss.expected(s, t, rows, labels, **options))


def has_the_gradient_of_its_values(loss: Coupled, generator: torch.Generator) -> None:
    s, t = batch(generator)
    t[0], t[1, 2] = 0, -1
    inner = 0.2 + torch.rand(2, LABELS, generator=generator, dtype=torch.float64)
    rows = 0.2 + torch.rand(ROWS, generator=generator, dtype=torch.float64)
    point = tuple(x.clone().requires_grad_() for x in (s, rows, inner[0]))
    for k in range(4):
        options = loss.draw(generator)

        def function(s: Tensor, rows: Tensor, labels: Tensor, options: dict[str, Any] = options) -> Tensor:
            return loss.function(s, t, sample_weight=rows, label_weight=labels, **options)

        assert torch.autograd.gradcheck(function, point)
        assert k or torch.autograd.gradgradcheck(function, point)


def a_weight_of_two_is_twice(loss: Coupled, generator: torch.Generator) -> None:
    s, t = batch(generator)
    twice_rows, twice_labels = torch.tensor([0, 1, 1, 2, 3, 4, 5]), torch.tensor([0, 1, 2, 2, 3, 4])
    rows, labels = torch.ones(ROWS), torch.ones(LABELS)
    rows[1] = labels[2] = 2
    for _ in range(6):
        options = loss.draw(generator)
        close(
            loss.function(s, t, sample_weight=rows, **options), loss.function(s[twice_rows], t[twice_rows], **options)
        )
        want = loss.function(s[:, twice_labels], t[:, twice_labels], **options)
        close(loss.function(s, t, label_weight=labels, **options), want)


def a_row_of_weight_zero_is_not_there(loss: Coupled, generator: torch.Generator) -> None:
    s, t = batch(generator)
    t[torch.rand(ROWS, LABELS, generator=generator) < 0.3] = -1
    t[:, 2], t[1, 2], t[4] = math.nan, 1, -100  # label 2 is known in row 1 alone, row 4 not at all
    weight, copies = torch.tensor([1.0, 0, 1, 2, 1, 1]), torch.tensor([0, 2, 3, 3, 4, 5])
    for average in {choice for choice in loss.grid.get("average", (None,))}:
        options = loss.draw(generator) | ({} if average is None else {"average": average})
        for reduction in ("mean", "sum"):
            got = loss.function(s, t, sample_weight=weight, reduction=reduction, **options)
            close(got, loss.function(s[copies], t[copies], reduction=reduction, **options))


def masks_and_unknown_cells_are_dropped(loss: Coupled, generator: torch.Generator) -> None:
    s, t = batch(generator)
    keep = torch.tensor([1, 0, 1, 1, 1], dtype=torch.bool)
    known = torch.tensor([1, 1, 1, 0, 1, 1], dtype=torch.bool)
    for _ in range(6):
        options = loss.draw(generator)
        want, slope = loss.function(s[:, keep], t[:, keep], **options), gradient(loss.function, s[:, keep], t[:, keep])
        for junk in (math.nan, math.inf, -math.inf, 1e30):
            for coded in (-1, -100, math.nan):
                scores, targets = torch.where(keep, s, junk), torch.where(keep, t, coded)
                close(loss.function(scores, targets, **options), want)
                close(loss.function(scores, t, mask=keep, **options), want)
            got = gradient(loss.function, torch.where(keep, s, junk), t, mask=keep)
            close(got[:, keep], slope)
            assert (got[:, ~keep] == 0).all()
        row_mask = known.unsqueeze(-1)
        close(loss.function(s, t, mask=row_mask, **options), loss.function(s[known], t[known], **options))
        close(
            loss.function(s, t, sample_weight=known.double(), **options), loss.function(s[known], t[known], **options)
        )
        want = loss.function(s[:, keep], t[:, keep], **options)
        close(loss.function(s, t, label_weight=keep.double(), **options), want)


def reduces_as_documented(loss: Coupled, generator: torch.Generator) -> None:
    s, t = batch(generator)
    t[2] = -1
    rows = torch.tensor([2.0, 1, 7, 0, 0.5, 1], dtype=torch.float64)
    for options in (o for o in [loss.draw(generator) for _ in range(6)] if o.get("average") != "samples"):
        value = loss.function(s, t, sample_weight=rows, **options)
        close(loss.function(s, t, sample_weight=rows, reduction="sum", **options), 4.5 * value)
        each = loss.function(s, t, sample_weight=rows, reduction="none", **options)
        close(each, value * torch.tensor([2, 1, 0, 0, 0.5, 1], dtype=torch.float64))
        assert each.shape == (ROWS,)
    with pytest.raises(ValueError, match='reduction must be "mean", "sum" or "none"'):
        loss.function(s, t, reduction="avg")


def nothing_known_is_zero(loss: Coupled, generator: torch.Generator) -> None:
    s, t = batch(generator)
    for options in ({"mask": torch.tensor(False)}, {"sample_weight": torch.zeros(ROWS)}):
        for reduction in ("mean", "sum", "none"):
            assert (loss.function(s, t, reduction=reduction, **options) == 0).all()
            assert (gradient(loss.function, s, t, reduction=reduction, **options) == 0).all()
    for lead in ((0,), (2, 0)):
        empty = torch.zeros(*lead, LABELS)
        assert loss.function(empty, empty) == 0
        assert loss.function(empty, empty, reduction="none").shape == lead


def leading_axes_are_the_batch(loss: Coupled, generator: torch.Generator) -> None:
    s, t = batch(generator)
    mask, rows = torch.rand(ROWS, LABELS, generator=generator) < 0.8, torch.rand(ROWS, generator=generator).double()
    for _ in range(4):
        options = loss.draw(generator)
        want = loss.function(s, t, mask=mask, sample_weight=rows, **options)
        shape = (2, 3, LABELS)
        got = loss.function(
            s.view(shape), t.view(shape), mask=mask.view(shape), sample_weight=rows.view(2, 3), **options
        )
        close(got, want)
        close(loss.function(s[0], t[0], **options), loss.function(s[:1], t[:1], **options))
        order = torch.randperm(ROWS, generator=generator)
        close(loss.function(s[order], t[order], **options), loss.function(s, t, **options))


def every_dtype_gives_the_same(loss: Coupled, generator: torch.Generator) -> None:
    s, t = batch(generator)
    for dtype in (torch.bool, torch.uint8, torch.int8, torch.int64, torch.float16, torch.float64):
        close(loss.function(s, t.to(dtype)), loss.function(s, t), rtol=1e-14)
    for dtype in (torch.float16, torch.bfloat16):
        half = s.to(dtype)
        value, slope = loss.function(half, t), gradient(loss.function, half, t)
        assert value.dtype == torch.float32
        assert slope.dtype == dtype
        close(value, loss.function(half.float(), t), rtol=0, atol=0)
        close(value, loss.expected(half, t), rtol=2e-6, atol=2e-6)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert loss.function(half, t) == value
            assert (gradient(loss.function, half, t) == slope).all()


def extreme_logits_stay_finite(loss: Coupled, generator: torch.Generator) -> None:
    for dtype, size in ((torch.float16, 6e4), (torch.float32, 1e4), (torch.float32, 1e30), (torch.float64, 1e4)):
        for _ in range(10):
            s, t = batch(generator)
            s = (size * s.sign()).to(dtype)
            options = loss.draw(generator)
            value, slope = loss.function(s, t, **options), gradient(loss.function, s, t, **options)
            assert value.isfinite()
            assert slope.isfinite().all()
            close(value, loss.expected(s, t, **options), rtol=1e-5, atol=1e-6)


def inputs_are_left_alone(loss: Coupled, generator: torch.Generator) -> None:
    s, t = batch(generator)
    t[0, 0] = math.nan
    before = s.clone(), t.clone()
    gradient(loss.function, s, t, sample_weight=torch.ones(ROWS), label_weight=torch.ones(LABELS))
    assert (s == before[0]).all()
    torch.testing.assert_close(t, before[1], equal_nan=True)
    with torch.no_grad():
        assert not loss.function(s.requires_grad_(), t).requires_grad


def the_module_is_a_shell(loss: Coupled, generator: torch.Generator) -> None:
    per_batch = ("logits", "targets", "mask", "sample_weight")
    of_function = inspect.signature(loss.function).parameters
    of_init, of_forward = (inspect.signature(x).parameters for x in (loss.module, loss.module.forward))
    kept = {n: (p.kind, p.default, p.annotation) for n, p in of_function.items() if n not in per_batch}
    assert {n: (p.kind, p.default, p.annotation) for n, p in of_init.items()} == kept
    assert list(of_init) == list(kept)
    assert list(of_forward) == ["self", *per_batch]
    names = [name for name in of_function if name != "group"]  # the processes that share the batch, where it has any
    assert names[-4:] == ["mask", "label_weight", "sample_weight", "reduction"]
    s, t = batch(generator)
    weight = torch.linspace(0.5, 2, LABELS)
    for _ in range(4):
        options = loss.draw(generator)
        module = copy.deepcopy(loss.module(label_weight=weight, **options))
        assert list(module.state_dict()) == ["label_weight"]
        rows, mask = torch.linspace(0, 1, ROWS), torch.rand(ROWS, LABELS, generator=generator) < 0.8
        got = module(s, t, mask=mask, sample_weight=rows)
        want = loss.function(s, t, mask=mask, sample_weight=rows, label_weight=weight, **options)
        assert got == want


def compiled_and_transformed_it_is_the_same(loss: Coupled, generator: torch.Generator) -> None:
    s, t = batch(generator)
    torch._dynamo.reset()
    compiled = torch.compile(loss.function, fullgraph=True, backend="aot_eager")
    options = {
        "mask": torch.rand(ROWS, LABELS, generator=generator) < 0.8,
        "label_weight": torch.linspace(0, 2, LABELS),
        "sample_weight": torch.linspace(0, 1, ROWS),
        **loss.draw(generator),
    }
    close(compiled(s.float(), t, **options), loss.function(s.float(), t, **options), rtol=1e-6, atol=1e-6)
    got, want = gradient(compiled, s.float(), t, **options), gradient(loss.function, s.float(), t, **options)
    close(got, want, rtol=1e-5, atol=1e-6)
    close(torch.func.grad(loss.function)(s, t), gradient(loss.function, s, t))
    stacked = torch.stack((s, -s)), torch.stack((t, t))
    close(
        torch.func.vmap(loss.function)(*stacked), torch.stack([loss.function(*x) for x in zip(*stacked, strict=True)])
    )


def errors_say_what_came(loss: Coupled, generator: torch.Generator) -> None:
    s, t = batch(generator)
    wrong = [
        ((s, t[:, 1:]), {}, ValueError, r"targets must have the shape of logits, \(6, 5\); got \(6, 4\)"),
        ((s, 2 * t + 1), {}, ValueError, r"targets must lie in \[0, 1\]"),
        ((s, t), {"mask": torch.ones(6, 5)}, TypeError, "mask must be boolean"),
        ((s, t), {"label_weight": torch.ones(6, 1)}, ValueError, r"one weight a label, \(5,\).*got \(6, 1\)"),
        ((s, t), {"label_weight": -torch.ones(5)}, ValueError, "label_weight must be 0 or more.*; got -1"),
        ((s, t), {"sample_weight": -torch.ones(6)}, ValueError, "sample_weight must be 0 or more.*; got -1"),
        ((s, t), {"sample_weight": torch.full((6,), math.nan)}, ValueError, "sample_weight must be 0 .*; got nan"),
        ((s, t), {"sample_weight": torch.ones(5)}, ValueError, r"sample_weight must broadcast.*\(6,\); got \(5,\)"),
    ]
    for inputs, options, error, text in wrong:
        with pytest.raises(error, match=text):
            loss.function(*inputs, **options)


PROPERTIES = (
    equals_the_reference,
    has_the_gradient_of_its_values,
    a_weight_of_two_is_twice,
    a_row_of_weight_zero_is_not_there,
    masks_and_unknown_cells_are_dropped,
    reduces_as_documented,
    nothing_known_is_zero,
    leading_axes_are_the_batch,
    every_dtype_gives_the_same,
    extreme_logits_stay_finite,
    inputs_are_left_alone,
    the_module_is_a_shell,
    # Builds for each loss anew, seconds each.
    pytest.param(compiled_and_transformed_it_is_the_same, marks=pytest.mark.slow),
    errors_say_what_came,
)
