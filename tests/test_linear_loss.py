"""A last layer without its logits: the numbers of the loss of its logits in any chunks, and steps in backward."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor, nn

import manyhot
import reference
from cpu import allocated
from manyhot import IndexTargets

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")  # torch, once a process

ROWS, LABELS, FEATURES = 6, 23, 5
CHUNKS = (1, 7, 23, 1000, None)
Loss = Callable[..., Tensor]
# Each loss, the loss of logits that it is to equal, and the reference, which shares no code with either.
LOSSES: dict[str, tuple[Loss, Loss, Any]] = {
    "zlpr": (manyhot.linear_zlpr_loss, manyhot.zlpr_loss, reference.zlpr),
    "pairwise": (manyhot.linear_pairwise_loss, manyhot.pairwise_loss, reference.pairwise),
    "single_log": (manyhot.linear_single_log_loss, manyhot.single_log_loss, reference.single_log),
    "bce": (manyhot.linear_bce_loss, manyhot.bce_loss, reference.bce),
}
EVERY_LOSS = pytest.mark.parametrize("name", LOSSES)
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "zlpr": (
        {},
        {"scale": 3.0, "margin": 0.8, "threshold": -1.3},
        {"prior": "labels", "tau": 1.7, "threshold": "rows", "scale": 0.4},
        {"threshold": "labels", "reduction": "none", "sample_weight": "rows"},
        {"reduction": "sum", "sample_weight": "rows", "prior": "labels", "margin": 0.3},
    ),
    "pairwise": ({}, {"scale": 0.4, "margin": 0.8}, {"reduction": "none"}, {"sample_weight": "rows"}),
    "single_log": ({}, {"threshold": "rows", "scale": 3.0}, {"reduction": "sum", "margin": 0.8, "threshold": "labels"}),
    "bce": (
        *({}, {"reduction": "none"}, {"prior": "labels", "tau": 0.5}, {"sample_weight": "rows", "reduction": "sum"}),
        {"sample_weight": "rows"},
    ),
}


@pytest.fixture
def dense(generator: torch.Generator) -> Tensor:
    """Return targets with an empty row, a full one, and others."""
    targets = (torch.rand(ROWS, LABELS, generator=generator) < 0.2).double()
    targets[1], targets[4] = 0, 1
    return targets


@pytest.fixture
def soft(dense: Tensor, generator: torch.Generator) -> Tensor:
    return dense * torch.rand(ROWS, LABELS, generator=generator, dtype=torch.float64).round(decimals=1)


@pytest.fixture
def layer(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, weight and bias."""
    draw = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((ROWS, FEATURES), (LABELS, 5))]
    bias = torch.randn(LABELS, generator=generator, dtype=torch.float64)
    return draw[0].requires_grad_(), draw[1].requires_grad_(), bias.requires_grad_()


def listed(dense: Tensor) -> IndexTargets:
    """List what is not 0, and of one row a label twice, the second time with less."""
    rows = [row.nonzero().squeeze(-1).tolist() for row in dense]
    values = [dense[i, row].tolist() for i, row in enumerate(rows)]
    rows[4].append(3)
    values[4].append(float(dense[4, 3]) / 2)
    ids = torch.tensor([label for row in rows for label in row])
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    flat = torch.tensor([x for row in values for x in row], dtype=torch.float64)
    hard = bool(((dense == 0) | (dense == 1)).all())
    return IndexTargets(ids, offsets, soft=None if hard else flat)


def drawn(options: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
    """Put tensors in the place of `labels` and `rows`; the second row gets weight 0."""
    out = dict(options)
    for key, value in options.items():
        if key == "prior":
            out[key] = 0.01 + 0.9 * torch.rand(LABELS, generator=generator, dtype=torch.float64)
        elif key == "threshold" and value in ("labels", "rows"):
            shape = (LABELS,) if value == "labels" else (ROWS, 1)
            out[key] = torch.randn(shape, generator=generator, dtype=torch.float64)
        elif key == "sample_weight":
            out[key] = torch.rand(ROWS, generator=generator, dtype=torch.float64)
            out[key][1] = 0
    return out


def gradients(loss: Tensor, leaves: Any) -> list[np.ndarray]:
    return [x.numpy() for x in torch.autograd.grad(loss.sum(), leaves)]


def close(got: Any, expected: Any, tolerance: float = 1e-12) -> None:
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# --- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize(("name", "options"), [(name, options) for name in OPTIONS for options in OPTIONS[name]])
def test_value_and_gradients_are_those_of_the_reference(
    name: str, options: dict[str, Any], kind: str, layer: Any, dense: Tensor, soft: Tensor, generator: torch.Generator
) -> None:
    fused, _, formula = LOSSES[name]
    targets = dense if kind == "hard" else soft
    options = drawn(options, generator)
    x, weight, bias = (leaf.detach().numpy() for leaf in layer)
    known = {key: value.numpy() if isinstance(value, Tensor) else value for key, value in options.items()}
    value, by_logits = formula(x @ weight.T + bias, targets.numpy(), **known)
    for chunk in CHUNKS:
        loss = fused(layer[0], layer[1], listed(targets), bias=layer[2], chunk=chunk, **options)
        close([loss.detach().numpy()], [value])
        close(gradients(loss, layer), [by_logits @ weight, by_logits.T @ x, by_logits.sum(0)])


@EVERY_LOSS
def test_outer_gradients_of_rows_are_exact(name: str, layer: Any, soft: Tensor, generator: torch.Generator) -> None:
    fused, plain, _ = LOSSES[name]
    outer = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    x, weight, bias = layer
    rows = fused(x, weight, listed(soft), bias=bias, reduction="none", chunk=7)
    other = plain(x @ weight.T + bias, soft, reduction="none")
    close(gradients(rows * outer, layer), gradients(other * outer, layer))


@EVERY_LOSS
def test_gradcheck(name: str, layer: Any, soft: Tensor, generator: torch.Generator) -> None:
    fused, targets = LOSSES[name][0], listed(soft)
    extra = [torch.rand(ROWS, generator=generator, dtype=torch.float64).requires_grad_()]
    if name in ("zlpr", "single_log"):
        extra += [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((ROWS, 1), (LABELS,), ())]

    def loss(x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, *threshold: Tensor) -> Tensor:
        options = {"threshold": threshold[0]} if threshold else {}
        return fused(x, weight, targets, bias=bias, sample_weight=rows, chunk=7, **options)

    for threshold in [extra[1:][i : i + 1] for i in range(max(len(extra) - 1, 1))]:
        assert torch.autograd.gradcheck(loss, (*layer, extra[0], *(t.requires_grad_() for t in threshold)))


def test_formats_and_leading_axes(layer: Any, dense: Tensor) -> None:
    x, weight, bias = layer
    expected = manyhot.zlpr_loss(x @ weight.T + bias, dense)
    matrix = sp.csr_array(dense.numpy())
    for targets in (matrix, dense.to_sparse_csr(), listed(dense)):
        assert manyhot.linear_zlpr_loss(x, weight, targets, bias=bias).item() == pytest.approx(
            expected.item(), rel=1e-12
        )
    padded = torch.full((ROWS, LABELS), -1)
    for i, row in enumerate(dense):
        ids = row.nonzero().squeeze(-1)
        padded[i, : len(ids)] = ids
    rows = manyhot.linear_zlpr_loss(
        x.view(2, 3, FEATURES), weight, IndexTargets(padded.view(2, 3, -1)), bias=bias, reduction="none"
    )
    assert rows.shape == (2, 3)
    assert rows.mean().item() == pytest.approx(expected.item(), rel=1e-12)


def test_no_rows(layer: Any) -> None:
    x, weight, _ = layer
    for fused, _, _ in LOSSES.values():
        loss = fused(x[:0], weight, IndexTargets(torch.empty(0, 2, dtype=torch.long)))
        assert loss.item() == 0
        assert not torch.autograd.grad(loss, weight)[0].any()


@EVERY_LOSS
def test_error_in_float32_is_at_most_twice_that_of_the_logits(name: str, generator: torch.Generator) -> None:
    fused, plain, _ = LOSSES[name]
    rows, labels, width = 32, 2000, 64
    x, weight = torch.randn(rows, width, generator=generator), torch.randn(labels, width, generator=generator) / 8
    targets = IndexTargets(torch.randint(labels, (rows, 5), generator=generator))
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    true = gradients(plain(exact[0] @ exact[1].T, targets), exact)
    errors = [
        max(np.abs(a - b).max() for a, b in zip(gradients(loss, leaves), true, strict=True))
        for loss in (fused(*leaves, targets, chunk=256), plain(leaves[0] @ leaves[1].T, targets))
    ]
    assert errors[0] <= 2 * errors[1]


@EVERY_LOSS
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_logits_of_any_size(name: str, size: float, layer: Any, soft: Tensor) -> None:
    fused, plain, _ = LOSSES[name]
    x, weight = (leaf.detach().clone() for leaf in layer[:2])
    x *= size
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    got = fused(*leaves, listed(soft), chunk=7)
    expected = plain(x @ weight.T, soft)
    close([got.item() / size], [expected.item() / size])
    close([gradients(got, leaves)[0]], [gradients(expected, leaves)[0]], 1e-9)


def test_equal_logits_of_great_size_share_the_gradient() -> None:
    # log 2 is nothing beside 1e30, and each of two equal logits has half of the gradient all the same.
    x, weight = torch.tensor([[1e30]]), torch.ones(2, 1, requires_grad=True)
    loss = manyhot.linear_zlpr_loss(x / 1e30, weight * 1e30, IndexTargets([[]]), chunk=1)
    assert torch.autograd.grad(loss, weight)[0].flatten().tolist() == pytest.approx([5e29, 5e29])


def test_infinite_logits_have_no_gradient_and_nan_stays_in_its_row() -> None:
    x = torch.eye(3, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.zeros(6, 4, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    bias[2] = math.inf
    for targets in ([[0], [1, 2], []], [[], [], [2]]):
        rows = manyhot.linear_zlpr_loss(x, weight, IndexTargets(targets), bias=bias, reduction="none", chunk=2)
        assert rows.isinf().tolist() == [2 not in row for row in targets]
        assert torch.autograd.grad(rows.sum(), x)[0].isfinite().all()
    broken = torch.eye(3, 4, dtype=torch.float64)
    broken[1, 0] = math.nan
    rows = manyhot.linear_zlpr_loss(broken, weight, IndexTargets([[0], [1], []]), reduction="none")
    assert rows.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types(dtype: torch.dtype, layer: Any, dense: Tensor) -> None:
    x, weight = (leaf.detach().to(dtype).requires_grad_() for leaf in layer[:2])
    loss = manyhot.linear_zlpr_loss(x, weight, listed(dense), chunk=7)
    assert loss.dtype == torch.float32
    expected = manyhot.zlpr_loss(x @ weight.T, dense)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    loss.backward()
    assert (x.grad.dtype, weight.grad.dtype) == (dtype, dtype)  # pyright: ignore
    mixed = manyhot.linear_zlpr_loss(x, weight.float(), listed(dense))
    assert torch.autograd.grad(mixed, weight)[0].dtype == dtype


def test_autocast_is_that_of_a_linear_layer(layer: Any, dense: Tensor) -> None:
    x, weight, bias = (leaf.detach().float().requires_grad_() for leaf in layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = manyhot.linear_zlpr_loss(x, weight, listed(dense), bias=bias, chunk=7)
        logits = x @ weight.T
        assert logits.dtype == torch.bfloat16
    expected = manyhot.zlpr_loss(logits.float() + bias, dense)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    got, wanted = gradients(loss, (x, weight, bias)), gradients(expected, (x, weight, bias))
    close(got, wanted, 2e-2)
    assert got[1].dtype == np.float32


def test_what_is_frozen_gets_no_gradient(layer: Any, dense: Tensor) -> None:
    x, weight, bias = layer
    manyhot.linear_zlpr_loss(x.detach(), weight, listed(dense), bias=bias.detach()).backward()
    assert (x.grad, bias.grad) == (None, None)
    assert weight.grad is not None
    weight.grad = None
    manyhot.linear_zlpr_loss(x, weight.detach(), listed(dense)).backward()
    assert weight.grad is None
    assert x.grad is not None
    assert not manyhot.linear_zlpr_loss(x.detach(), weight.detach(), listed(dense)).requires_grad


# The compiler itself looks at the gradient of a loss that it goes on from.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled(layer: Any, dense: Tensor) -> None:
    x, weight, bias = layer
    targets = listed(dense)

    def step(x: Tensor) -> Tensor:
        return manyhot.linear_zlpr_loss(torch.tanh(x), weight, targets, bias=bias) * 2

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager")
    close(gradients(compiled(x), layer), gradients(step(x), layer))


# --- memory ----------------------------------------------------------------------------------------------------------


def test_memory_is_that_of_the_gradients_and_of_a_chunk(generator: torch.Generator) -> None:
    rows, labels, width = 64, 100_000, 16
    x = torch.randn(rows, width, generator=generator).requires_grad_()
    weight = torch.zeros(labels, width, requires_grad=True)
    targets = IndexTargets(torch.randint(labels, (rows, 5), generator=generator))

    def peak(update: Any = None) -> int:
        leaves = [x, weight] if update is None else [x]
        return allocated(
            lambda: torch.autograd.grad(manyhot.linear_zlpr_loss(x, weight, targets, update=update), leaves)
        )

    gradient, logits = 4 * labels * width, 4 * labels * rows
    chunk = 4 * 2**19  # of logits
    assert gradient < peak() < gradient + 4 * chunk < logits
    assert peak(lambda *_: None) < 4 * chunk < gradient + chunk
    assert allocated(lambda: manyhot.linear_zlpr_loss(x.detach(), weight.detach(), targets)) < 3 * chunk


# --- steps inside of backward ----------------------------------------------------------------------------------------


@EVERY_LOSS
def test_a_step_inside_of_backward_is_the_step_after_it(name: str, layer: Any, soft: Tensor) -> None:
    fused, targets = LOSSES[name][0], listed(soft)
    x, weight, bias = layer
    wanted = gradients(fused(x, weight, targets, bias=bias), layer)
    before, seen = weight.detach().clone(), []

    def update(chunk: Tensor, gradient: Tensor, labels: slice) -> None:
        seen.append(labels)
        chunk.sub_(gradient, alpha=0.5)

    fused(x, weight, targets, bias=bias, chunk=10, update=update).backward()
    # The gradient of the features is that of the weight before the step.
    close([x.grad, bias.grad], [wanted[0], wanted[2]])
    close([weight.detach()], [before.numpy() - 0.5 * wanted[1]])
    assert weight.grad is None
    assert seen == [slice(0, 10), slice(10, 20), slice(20, 23)]


def test_sgd_is_that_of_torch(layer: Any, dense: Tensor) -> None:
    x, weight, _ = layer
    other = nn.Parameter(weight.detach().clone())
    optimiser = torch.optim.SGD([other], lr=0.3, weight_decay=0.1)
    update = manyhot.SGDUpdate(0.3, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        manyhot.zlpr_loss(x @ other.T, dense).backward()
        optimiser.step()
        manyhot.linear_zlpr_loss(x, weight, listed(dense), update=update, chunk=7).backward()
    close([weight.detach()], [other.detach()])


def test_adafactor_is_its_formula(generator: torch.Generator) -> None:
    lr, decay = 0.1, 0.2
    weight = torch.randn(6, 4, generator=generator)
    update = manyhot.AdafactorUpdate(6, 4, lr, weight_decay=decay)
    rows, columns, w = np.zeros(6), np.zeros(4), weight.double().numpy()
    for t in (1, 2, 3):
        g = torch.randn(6, 4, generator=generator) * 10.0**-t
        beta = 1 - t**-0.8
        rows = beta * rows + (1 - beta) * (g.double().numpy() ** 2).mean(1)
        for part in (slice(0, 4), slice(4, 6)):
            square = g[part].double().numpy() ** 2
            c = square.mean(0) if t == 1 else columns
            u = g[part].double().numpy() / np.sqrt(rows[part, None] * c / c.mean())
            w[part] = w[part] * (1 - lr * decay) - lr * u / max(1, np.sqrt((u**2).mean()))
            update(weight[part], g[part], part)
        columns = beta * columns + (1 - beta) * (g.double().numpy() ** 2).mean(0)
        close([weight], [w], 1e-5)


def test_adafactor_trains_rare_labels_where_gradient_descent_does_not(generator: torch.Generator) -> None:
    x, targets = torch.eye(40), IndexTargets(torch.randint(500, (40, 1), generator=generator))
    after = []
    for update in (manyhot.AdafactorUpdate(500, 40, lr=0.1), manyhot.SGDUpdate(1.0)):
        layer = manyhot.LinearZLPRLoss(40, 500, update=update, bias=False)
        for _ in range(60):
            layer(x, targets).backward()
        after.append(layer(x, targets).item())
    assert after[0] < 0.5 * after[1]


def test_steps_below_the_last_digit_of_bfloat16_add_up(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    weight = torch.ones(400, 10, dtype=torch.bfloat16)
    update = manyhot.SGDUpdate(1e-4, weight_decay=0.5)  # a digit of 1 is 1/128
    for _ in range(100):
        update(weight, torch.full((400, 10), 0.5, dtype=torch.bfloat16), slice(0, 400))
    assert weight.float().mean().item() == pytest.approx(0.99, abs=1e-3)
    assert manyhot.AdafactorUpdate(3, 2, 0.1).bfloat16().rows.dtype == torch.float32


def test_the_state_of_adafactor_is_that_of_the_module(generator: torch.Generator) -> None:
    layer = manyhot.LinearZLPRLoss(4, 50, update=manyhot.AdafactorUpdate(50, 4, lr=0.1))
    x, targets = torch.randn(3, 4, generator=generator), IndexTargets([[1], [2], [3]])
    for _ in range(2):
        layer(x, targets).backward()
    other = manyhot.LinearZLPRLoss(4, 50, update=manyhot.AdafactorUpdate(50, 4, lr=0.1))
    other.load_state_dict(layer.state_dict())
    for _ in range(2):
        layer(x, targets).backward()
        other(x, targets).backward()
    assert torch.equal(layer.weight, other.weight)


def test_a_loss_that_takes_steps_refuses_what_needs_the_gradients_of_a_step(layer: Any, dense: Tensor) -> None:
    x, weight, _ = layer
    options: dict[str, Any] = {"update": manyhot.SGDUpdate(0.1)}
    before = weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"was multiplied by 0\.25 before: gradient accumulation, GradScaler"):
        (manyhot.linear_zlpr_loss(x, weight, listed(dense), **options) / 4).backward()
    assert torch.equal(weight, before)
    with pytest.raises(ValueError, match='reduction must be "mean" or "sum"; got "none"'):
        manyhot.linear_zlpr_loss(x, weight, listed(dense), reduction="none", **options)
    with pytest.raises(ValueError, match="weight must be a parameter that requires a gradient"):
        manyhot.linear_zlpr_loss(x, weight.detach(), listed(dense), **options)
    weight.grad = torch.zeros_like(weight)
    with pytest.raises(ValueError, match=r"weight\.grad holds a gradient of another loss"):
        manyhot.linear_zlpr_loss(x, weight, listed(dense), **options)


def test_two_losses_before_one_step_are_refused_by_torch(layer: Any, dense: Tensor) -> None:
    x, weight, _ = layer
    update = manyhot.SGDUpdate(0.1)
    both = [manyhot.linear_zlpr_loss(x, weight, listed(dense), update=update) for _ in range(2)]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (both[0] + both[1]).backward()


# --- the module ------------------------------------------------------------------------------------------------------


def test_the_module_is_the_function(dense: Tensor, generator: torch.Generator) -> None:
    prior = 0.01 + 0.9 * torch.rand(LABELS, generator=generator)
    layer = manyhot.LinearZLPRLoss(FEATURES, LABELS, prior=prior, scale=2.0, margin=0.1, tau=0.5, dtype=torch.float64)
    x = torch.randn(ROWS, FEATURES, generator=generator, dtype=torch.float64)
    rows = torch.rand(ROWS, generator=generator)
    assert layer.bias is not None
    expected = manyhot.zlpr_loss(
        x @ layer.weight.T + layer.bias, dense, prior=prior, scale=2.0, margin=0.1, tau=0.5, sample_weight=rows
    )
    assert layer(x, listed(dense), sample_weight=rows).item() == pytest.approx(expected.item(), rel=1e-6)
    assert set(layer.state_dict()) == {"weight", "bias", "prior_logits"}
    assert "num_labels=23" in repr(layer)


def test_the_first_k_labels(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manyhot.linear_loss.chunk_size", lambda *_: 64)
    layer = manyhot.LinearZLPRLoss(4, 300)
    x = torch.randn(2, 3, 4, generator=generator)
    with torch.no_grad():
        layer.weight[100:200] = layer.weight[:100]  # ties
        assert layer.bias is not None
        logits = x @ layer.weight.T + layer.bias
    values, labels = layer.top_k(x, 9)
    assert values.shape == labels.shape == (2, 3, 9)
    torch.testing.assert_close(values, logits.sort(-1, descending=True).values[..., :9])
    torch.testing.assert_close(logits.gather(-1, labels), values)
    with pytest.raises(ValueError, match="k must lie in 1 to the 300 labels"):
        layer.top_k(x, 301)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"targets": torch.zeros(ROWS, LABELS)}, TypeError, "targets must be listed: dense ones are as large"),
        ({"targets": IndexTargets([[0], [1]])}, ValueError, r"targets must list the labels of \(6,\) rows"),
        ({"targets": IndexTargets([[0], [1], [99], [], [], []])}, ValueError, "label ids must lie in 0 to 22"),
        ({"targets": sp.csr_array((ROWS, 9))}, ValueError, "targets must have the shape of logits"),
        ({"features": torch.zeros(ROWS, 4)}, ValueError, r"features must have shape \(\.\.\., in_features\)"),
        ({"features": torch.zeros(ROWS, FEATURES).long()}, TypeError, "features must be a floating-point tensor"),
        ({"weight": None}, TypeError, "weight must be a floating-point tensor .* got NoneType"),
        ({"bias": torch.zeros(3)}, ValueError, r"bias must have one number a label, \(23,\); got \(3,\)"),
        ({"scale": 0.0}, ValueError, "scale must be positive"),
        ({"margin": -1.0}, ValueError, "margin must be 0 or more"),
        ({"chunk": 0}, ValueError, "chunk, the labels taken at a time, must be 1 or more"),
        ({"threshold": math.nan}, ValueError, "threshold must be finite"),
        ({"threshold": torch.zeros(ROWS, LABELS)}, ValueError, "one per cell is as large as the logits"),
        ({"prior": torch.full((ROWS, LABELS), 0.5)}, ValueError, "prior must have one number a label"),
        ({"prior": torch.ones(LABELS)}, ValueError, "prior must lie strictly between 0 and 1"),
        ({"sample_weight": torch.ones(3)}, ValueError, "sample_weight must broadcast to one weight a row"),
    ],
)
def test_refused(changed: dict[str, Any], error: type[Exception], match: str, layer: Any, dense: Tensor) -> None:
    given = {"features": layer[0].float(), "weight": layer[1].float(), "targets": listed(dense)} | changed
    with pytest.raises(error, match=match):
        manyhot.linear_zlpr_loss(**given)


def test_second_derivatives_and_transforms_are_refused(layer: Any, dense: Tensor) -> None:
    x, weight, _ = layer
    for fused, _, _ in LOSSES.values():
        for reduction in ("mean", "none"):
            loss = fused(x, weight, listed(dense), reduction=reduction).sum()
            with pytest.raises(RuntimeError, match="first derivatives only"):
                torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"torch\.func cannot look into"):
        torch.func.grad(lambda x: manyhot.linear_zlpr_loss(x, weight, listed(dense)))(x)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scale": 0.0}, "scale must be positive and finite; got 0"),
        ({"bias": torch.zeros(1)}, r"bias must have one number a label, \(4,\); got \(1,\)"),
        ({"bias": torch.zeros(2)}, r"bias must have one number a label, \(4,\); got \(2,\)"),
        ({"prior": torch.full((2,), 0.5)}, r"prior must broadcast to logits .* got \(2,\)"),
    ],
)
def test_options_are_checked_before_a_prior_is_added(options: Any, match: str) -> None:
    prior = {"prior": torch.full((4,), 0.25)} | options
    with pytest.raises(ValueError, match=match):
        manyhot.linear_zlpr_loss(torch.zeros(2, 3), torch.zeros(4, 3), manyhot.IndexTargets([[0], [1]]), **prior)


@pytest.mark.parametrize(("value", "target"), [(math.inf, 1.0), (-math.inf, 0.0)])
def test_an_infinite_logit_on_the_right_side_of_a_listed_soft_target_adds_nothing(value: float, target: float) -> None:
    x, weight, bias = torch.ones(1, 1), torch.tensor([[0.0], [0.0]]), torch.tensor([value, 0.0])
    targets = IndexTargets(torch.tensor([[0]]), soft=torch.tensor([[target]]))
    got = manyhot.linear_bce_loss(x, weight, targets, bias=bias)
    want = manyhot.bce_loss(torch.tensor([[value, 0.0]]), torch.tensor([[target, 0.0]]))
    assert got.item() == pytest.approx(want.item())
