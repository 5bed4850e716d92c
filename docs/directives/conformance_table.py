"""The directive `conformance-table`: inputs on which published implementations fail, and what manyhot returns for them.

What they returned was recorded once, when each was run; what is right is known from the formula in float64. What
manyhot returns is computed while the pages are built, and a build in which it is not what is right fails.
"""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from torch import Tensor

import manyhot


class Case(NamedTuple):
    """A row of the table."""

    implementation: str
    given: str
    returned: str
    why: str
    right: tuple[float, ...]
    ours: Callable[[], tuple[float, ...]]


def loss_and(logits: Tensor, targets: object, *places: int, **options: object) -> tuple[float, ...]:
    """Return the loss and the gradient at some labels of the first row."""
    leaf = logits.clone().requires_grad_()
    loss = manyhot.zlpr_loss(leaf, targets, **options)  # pyright: ignore
    (gradient,) = torch.autograd.grad(loss, leaf)
    return (loss.item(), *(gradient[0, place].item() for place in places))


def gradient_of(loss: Callable[[Tensor], Tensor], logit: float) -> tuple[float, ...]:
    """Return the gradient of a loss of one logit."""
    leaf = torch.tensor([[logit]], requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    return (gradient.item(),)


def row(*logits: float) -> Tensor:
    """Return a batch of one row."""
    return torch.tensor([logits], dtype=torch.float32)


def one_of(n: int, rest: float, positive: float, *negatives: float) -> tuple[Tensor, Tensor]:
    """Return a row of n labels, the first of which is positive, and negatives that are not at `rest` after it."""
    logits = torch.full((1, n), rest, dtype=torch.float32)
    logits[0, : 1 + len(negatives)] = torch.tensor([positive, *negatives], dtype=torch.float32)
    return logits, torch.arange(n).unsqueeze(0) == 0


def all_right(n: int, positives: int, size: float) -> tuple[Tensor, Tensor]:
    """Return a row of n labels, the first ones positive, all right by `size`."""
    targets = torch.arange(n).unsqueeze(0) < positives
    return torch.where(targets, size, -size), targets


def zeros_and_far() -> tuple[float, ...]:
    """Return the losses of a head at zero, of a row without positives, and of one that is right by 100."""
    return (
        *loss_and(torch.zeros(1, 3), torch.tensor([[1, 0, 0]])),
        *loss_and(row(2, 1, -1), torch.zeros(1, 3)),
        *loss_and(row(100, -100, -100), torch.tensor([[1, 0, 0]])),
    )


def sigmoid_first() -> tuple[float, ...]:
    """Return the loss of logits that are right, and of their sigmoid, about which there is a warning."""
    logits, targets = all_right(1000, 1, 20.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (*loss_and(logits, targets), *loss_and(logits.sigmoid(), targets))


S = row(2, -1, 3, -2)
SOFT, HARD = torch.tensor([[0.9, 0.1, 0.9, 0.1]]), torch.tensor([[1, 0, 0, 1]], dtype=torch.uint8)
NONE = torch.zeros(2, 3, dtype=torch.uint8)
DENSE, SPARSE = "dense, with 1e12 as infinity", "listed targets, log of all less positives, clipped"

CASES = (
    Case(
        f"{DENSE} (bert4torch, GlobalPointer_pytorch, Tau-J)",
        "s = (2, -1, 3, -2), t = (.9, .1, .9, .1)",
        "0, gradient 0",
        "t 1e12 and (1-t) 1e12 take every entry out of both sums",
        (2.2133,),
        lambda: loss_and(S, SOFT),
    ),
    Case(
        "the same", "uint8 targets (1, 0, 0, 1)", "513.07", "1 - 2y wraps to 255", (5.2088,), lambda: loss_and(S, HARD)
    ),
    Case(
        "the same",
        "a positive on a slot that is masked with -1e12; s = (2, 3)",
        "1e12",
        "the constant is taken for a logit",
        (3.1755,),
        lambda: loss_and(row(2, 3, -1e12), torch.tensor([[1, 0, 1]]), mask=torch.tensor([True, True, False])),
    ),
    Case(
        "the same",
        "s = (2, -1, .5), t = (1, -1, 0) or (1, -100, 0), unknown",
        "1e12, 1e14",
        "arithmetic on the mark; BCEWithLogits returns -32.9 there, with gradient 33",
        (1.1010,),
        lambda: loss_and(row(2, -1, 0.5), torch.tensor([[1, -100, 0]])),
    ),
    Case(
        "the same, where constants are cast to half",
        "s = (2, -1, 3, -2) in float16, the soft targets above",
        "NaN",
        "1e12 is inf in half, and 0 inf is NaN",
        (2.2133,),
        lambda: loss_and(S.half(), SOFT),
    ),
    Case(
        f"{SPARSE} at 1e-7 (bert4keras, bert4torch)",
        "1000 labels at -8, the positive at 20, one negative at -5; loss, and gradient of the positive",
        "3.8819, +1",
        "1 - e^(b-a) rounds to 0, and the clip keeps the gradient of a alone: the positive is pushed down",
        (0.2938, -2.06e-9),
        lambda: loss_and(*one_of(1000, -8, 20, -5), 0),
    ),
    Case(
        "the same",
        "the positive at 25, a negative at 3; loss, and gradient of that negative",
        "8.88, 3e-10",
        "the false positive gets no gradient beside a sure positive",
        (3.0643, 0.9377),
        lambda: loss_and(*one_of(1000, -8, 25, 3), 1),
    ),
    Case(
        "the same",
        "the positive at 16, a negative at 3",
        "2.8302, 1.19",
        "part of the digits cancel",
        (3.0643, 0.9377),
        lambda: loss_and(*one_of(1000, -8, 16, 3), 1),
    ),
    Case(
        "the same, clipped at 1e-16 (Asthestarsfalll) or 1e-10 (GPLinker_torch)",
        "1000 labels at -8, the positive at 20, one negative at -5",
        "-16.84",
        "a smaller clip lets the cancelled digits through: a negative loss",
        (0.2938,),
        lambda: loss_and(*one_of(1000, -8, 20, -5)),
    ),
    Case(
        "the same in bfloat16",
        "1000 labels at -8, the positive at 6, a negative at 1",
        "-10.1",
        "8 bits of mantissa",
        (1.402,),
        lambda: loss_and(*((x := one_of(1000, -8, 6, 1))[0].bfloat16(), x[1])),
    ),
    Case(
        "the same, a label listed twice",
        "s = (1, 2, -3, .5), positives (1, 1)",
        "-13.33",
        "counted twice, so 1 - e^(b-a) < 0",
        (1.8164,),
        lambda: loss_and(row(1, 2, -3, 0.5), manyhot.IndexTargets([[1, 1]])),
    ),
    Case(
        "PaddleNLP, criterion of GPNet",
        "1000 labels at -8, the positive at 5; loss, and gradient of the positive",
        "2.713, +.984",
        "clipped at .1: a positive above 2.2 is pushed down; inf above 88 (float32) or 11.1 (float16)",
        (0.29575, -0.006693),
        lambda: loss_and(*one_of(1000, -8, 5), 0),
    ),
    Case(
        "Asthestarsfalll, paddle and megengine, mask_zero",
        "rows of different length, listed; s = (2, -1, 3, -2), positives (0) and none (read, not run)",
        "inf - inf",
        "a column at +inf stays in",
        (3.1991, 3.3665),
        lambda: (*loss_and(S, manyhot.IndexTargets([[0]])), *loss_and(S, manyhot.IndexTargets([[]]))),
    ),
    Case(
        "a ZLPRLoss with torch.inner",
        "two rows that are right by 9, with different labels",
        "9.0003",
        "inner of matrices mixes the rows",
        (0.00037,),
        lambda: loss_and(torch.tensor([[9.0, -9, -9], [-9, 9, 9]]), torch.tensor([[1, 0, 0], [0, 1, 1]])),
    ),
    Case(
        "a Zlpr that takes a logit of 0 for masked",
        "all logits 0; no positives; a row right by 100",
        "NaN, NaN, NaN",
        "exact zeros are a mask there",
        (1.7918, 2.4402, 0.0),
        zeros_and_far,
    ),
    Case(
        "two repositories with 1 as infinity",
        "1000 labels, 3 of them positive, all right by 6",
        "1.896",
        "what should be left out is lowered by 1",
        (1.25195,),
        lambda: loss_and(*all_right(1000, 3, 6.0)),
    ),
    Case(
        "a variant for label smoothing with .1 as clip and cut-off",
        "two positives, two negatives, right by 2, 5 and 10, targets .9 and .1",
        ".436, .024, .0002",
        "what was smoothed is what is dropped",
        (2.0023, 6.8482, 16.782),
        lambda: tuple(loss_and(row(x, x, -x, -x), torch.tensor([[0.9, 0.9, 0.1, 0.1]]))[0] for x in (2.0, 5.0, 10.0)),
    ),
    Case(
        "xTorch, zlpr_loss (read, not run)",
        "one positive at 3, one negative at -3",
        "0",
        "a margin on similarities of embeddings: another loss",
        (0.0972,),
        lambda: loss_and(row(3, -3), torch.tensor([[1, 0]])),
    ),
    Case(
        "ASL, also in timm",
        "a positive at -20; gradient",
        "0",
        "p is clamped at 1e-8 before the logarithm; in float16 the loss is inf, the gradient NaN",
        (-1.0,),
        lambda: gradient_of(lambda s: manyhot.asymmetric_loss(s, torch.tensor([[1]])), -20.0),
    ),
    Case(
        "two-way loss, the published code",
        "a batch without a positive",
        "NaN",
        "the mean of nothing; uint8 targets wrap, 940 in place of 6.27",
        (0.0,),
        lambda: (manyhot.two_way_loss(torch.ones(2, 3), NONE).item(),),
    ),
    Case(
        "focal loss with gamma .5, from a power of 1 - p",
        "a positive at 40; gradient",
        "NaN",
        "the derivative of (1-p)^gamma at p = 1",
        (0.0,),
        lambda: gradient_of(lambda s: manyhot.focal_loss(s, torch.tensor([[1]]), gamma=0.5), 40.0),
    ),
    Case(
        "any ZLPR, with a sigmoid before it",
        "1000 labels, one positive, right by 20; the loss, and the loss of the sigmoids",
        "7.22, silently",
        "the most common mistake; manyhot warns that all logits lie in [0, 1]",
        (2.06e-6, 7.22),
        sigmoid_first,
    ),
)


def shown(values: tuple[float, ...]) -> str:
    """Write numbers with the digits that are compared."""
    return ", ".join("0" if abs(x) < 1e-15 else f"{x:.5g}" for x in values)


class ConformanceTable(SphinxDirective):
    """Compute the table."""

    def run(self) -> list[nodes.Node]:
        """Return it, or fail where a number is not what is right."""
        self.env.note_dependency(__file__)
        rows = []
        for number, case in enumerate(CASES, 1):
            ours = case.ours()
            pairs = zip(ours, case.right, strict=True)
            if not all(math.isclose(x, y, rel_tol=1e-3, abs_tol=1e-15) for x, y in pairs):
                raise self.error(f"row {number} of the conformance table: expected {case.right}, got {ours}.")
            rows.append((str(number), case.implementation, case.given, case.returned, shown(ours), case.why))
        titles = ("", "implementation", "input", "it returns", "manyhot", "why")
        table = nodes.table(classes=["wide"])
        group = nodes.tgroup(cols=len(titles))
        table += group
        group += [nodes.colspec(colwidth=width) for width in (3, 22, 27, 12, 14, 22)]
        head, body = nodes.thead(), nodes.tbody()
        group += [head, body]
        for part, lines in ((head, [titles]), (body, rows)):
            for line in lines:
                cells = nodes.row()
                for text in line:
                    cells += nodes.entry("", nodes.paragraph(text=text))
                part += cells
        return [table]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("conformance-table", ConformanceTable)
    return {"parallel_read_safe": True}
