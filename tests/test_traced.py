"""What records or transforms a loss finds the formula in it: no memory of a kernel, and no value of one batch.

torch.jit.trace, torch.export, make_fx; torch.func beside autograd for second derivatives.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import manyhot

ROWS, LABELS = 4, 6
Loss = Callable[[Tensor, Tensor], Tensor]

# torch's own words about its trace, which is deprecated and still in use.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching"),
]

WEIGHTS = {"label_weight": torch.linspace(0, 2, LABELS), "sample_weight": torch.linspace(0, 1, ROWS)}
OPTIONS = WEIGHTS | {"threshold": torch.linspace(-1, 1, LABELS), "prior": torch.full((LABELS,), 0.3), "scale": 1.5}


def both_sums(logits: Tensor, targets: Tensor, *, impl: Any = "auto") -> Tensor:
    return torch.stack(manyhot.signed_logsumexp(logits, targets, impl=impl))


def of_two_labels(logits: Tensor, targets: Tensor, *, impl: Any = "auto") -> Tensor:
    return manyhot.log_elementary_symmetric(logits, 2, impl=impl) + 0 * targets.nan_to_num().sum()


# Name, function and options; then those whose targets are class ids.
OF_LABELS: list[tuple[str, Callable[..., Tensor], dict[str, Any]]] = [
    # The cells of spans have tests of their own.
    *(
        (name, getattr(manyhot, name), {})
        for name in manyhot.__all__
        # Spans have scores of their own; losses of a last layer take its weight, tests/test_linear_loss.py traces them.
        if name.endswith(("_loss", "_divergence")) and name != "span_loss" and not name.startswith("linear_")
    ),
    ("zlpr_loss with options", manyhot.zlpr_loss, {**OPTIONS, "label_smoothing": 0.1}),
    ("smooth_f_loss by label", manyhot.smooth_f_loss, {**WEIGHTS, "average": "macro"}),
    ("subset_loss of a range", manyhot.subset_loss, {"max_labels": 6, "min_labels": torch.tensor(0)}),
    ("signed_logsumexp", both_sums, {}),
    ("log_elementary_symmetric", of_two_labels, {}),
]
OF_CLASSES: list[tuple[str, Callable[..., Tensor], dict[str, Any]]] = [
    ("logit_adjusted_loss", manyhot.logit_adjusted_loss, {"prior": [0.3, 0.1, 0.1, 0.1, 0.2, 0.2]}),
    ("margin_softmax_loss", manyhot.margin_softmax_loss, {"radius": 0.5}),
    ("exact_loss", manyhot.exact_loss, {}),
    ("exact_loss with kinks", manyhot.exact_loss, {"noise": "laplace", "log": True}),
    ("multiway_loss", manyhot.multiway_loss, {}),
    ("smooth_accuracy_loss of classes", manyhot.smooth_accuracy_loss, {}),
]
NAMES = {name for name, *_ in OF_CLASSES}
CASES = [
    pytest.param(function, options, ids, id=name)
    for several, ids in (([case for case in OF_LABELS if case[0] not in NAMES], False), (OF_CLASSES, True))
    for name, function, options in several
]


class Model(nn.Module):
    """What torch.export takes."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.loss(logits, targets)


def batches(generator: torch.Generator, ids: bool) -> list[tuple[Tensor, Tensor]]:
    """Draw the batch that is recorded and two others: one as ordinary, one with what a record could have left out."""
    drawn = []
    for _ in range(3):
        t = torch.randint(LABELS, (ROWS,), generator=generator)
        if not ids:
            t = (torch.rand(ROWS, LABELS, generator=generator) < 0.4).float()
        drawn.append((2 * torch.randn(ROWS, LABELS, generator=generator), t))
    s, t = drawn[2]
    if ids:
        t[1] = -1
    else:
        t[1], t[2, 3], t[0, 0], t[3, 5] = -1, math.nan, 1, 0
        s[0, 0], s[3, 5] = math.inf, -math.inf
    s[1, 0] = math.nan  # in a row that is unknown
    return drawn


@pytest.mark.parametrize(("function", "options", "ids"), CASES)
def test_a_record_is_the_loss_of_other_batches_too(
    function: Callable[..., Tensor], options: dict[str, Any], ids: bool, generator: torch.Generator
) -> None:
    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return function(logits, targets, **options)

    first, *others = batches(generator, ids)
    recorded = {
        "torch.jit.trace": torch.jit.trace(loss, first, check_trace=False),
        "make_fx": make_fx(loss, tracing_mode="real", _allow_non_fake_inputs=True)(*first),
        "torch.export": torch.export.export(Model(loss), first, strict=False).module(),
    }
    for logits, targets in others:
        want = loss(logits, targets)
        for how, record in recorded.items():
            torch.testing.assert_close(
                record(logits, targets),
                want,
                rtol=1e-5,
                atol=1e-6,
                equal_nan=True,
                msg=lambda m, how=how: f"{how}: {m}",
            )
    leaf = others[0][0].requires_grad_()
    (want,) = torch.autograd.grad(loss(leaf, others[0][1]).sum(), leaf)
    (got,) = torch.autograd.grad(recorded["torch.jit.trace"](leaf, others[0][1]).sum(), leaf)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("function", "options", "ids"), CASES)
def test_torch_func_has_the_second_derivatives_of_autograd(
    function: Callable[..., Tensor], options: dict[str, Any], ids: bool, generator: torch.Generator
) -> None:
    logits, targets = batches(generator, ids)[0]
    logits = logits.double()
    if "impl" in inspect.signature(function).parameters:
        options = options | {"impl": "eager"}

    def loss(s: Tensor) -> Tensor:
        return function(s, targets, **options).sum()

    if options.get("noise") == "laplace":  # its density has kinks
        with pytest.raises(RuntimeError, match="laplace noise has no second derivatives here"):
            torch.func.jacrev(torch.func.jacrev(loss))(logits)
        (first,) = torch.autograd.grad(loss(leaf := logits.clone().requires_grad_()), leaf)
        torch.testing.assert_close(torch.func.grad(loss)(logits), first, rtol=1e-9, atol=1e-11)
        return
    want = torch.autograd.functional.hessian(loss, logits)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(loss))(logits), want, rtol=1e-9, atol=1e-11)
    if function is manyhot.exact_loss:
        with pytest.raises(NotImplementedError, match="forward mode AD"):
            torch.func.hessian(loss)(logits)
    else:
        torch.testing.assert_close(torch.func.hessian(loss)(logits), want, rtol=1e-9, atol=1e-11)
