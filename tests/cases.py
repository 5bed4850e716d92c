"""One row per public loss. test_losses.py runs each row through every property, so a new loss is a new row here."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import manyhot
import reference

# What test_losses.py must show for each row. A row that cannot have a property says why in `not_applicable`.
PROPERTIES = (
    "hand value",
    "reference",
    "gradient",
    "gradcheck",
    "gradgradcheck",
    "extreme logits",
    "half dtypes",
    "autocast",
    "target dtypes",
    "reduction",
    "empty batch",
    "mask drops labels",
    "unknown targets",
    "masked slot",
    "label weight",
    "zero weight",
    "threshold",
    "learned threshold",
    "prior",
    "label smoothing",
    "identities",
    "permutation",
    "rows independent",
    "leading axes",
    "non-contiguous",
    "one-sided rows",
    "infinite logits",
    "NaN logits",
    "target gradient",
    "inputs unmodified",
    "no_grad",
    "signature",
    "module values",
    "module state",
    "learned parameter",
    "compile",
    "compile inductor",
    "vmap",
    "gradient bound",
    "every impl",
    "option errors",
)

LABELS = 7
ROWS = 6


@dataclass(frozen=True)
class Hand:
    """A value that anybody can check: one row of logits, its targets, the options, and the loss to four digits."""

    logits: tuple[float, ...]
    targets: tuple[float, ...]
    value: float
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    name: str
    function: Callable[..., Tensor]
    module: type[nn.Module]
    reference: Callable[..., reference.Result]
    hand: tuple[Hand, ...]
    # What the random grid draws from; "labels", "rows" and "cells" stand for a random tensor of that shape.
    grid: Mapping[str, tuple[Any, ...]]
    # name -> (logits, targets) -> (what the loss gives, what it must be), a number a row, float64.
    identities: Mapping[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]
    # A row's gradient is at most this times scale in sum of absolute values, and comes as close as one likes.
    gradient_bound: float
    # True where neg meets pos inside the logarithm: of two large numbers float32 keeps only size * eps then.
    sums_meet: bool = False
    not_applicable: Mapping[str, str] = field(default_factory=dict)

    def takes(self, option: str) -> bool:
        return option in inspect.signature(self.function).parameters

    def draw(self, generator: torch.Generator, rows: int = ROWS, labels: int = LABELS) -> dict[str, Any]:
        """Draw one point of the grid."""
        shapes = {"labels": (labels,), "rows": (rows, 1), "cells": (rows, labels)}
        drawn = {}
        for name, choices in self.grid.items():
            choice = choices[int(torch.randint(len(choices), (), generator=generator))]
            if isinstance(choice, str) and choice in shapes:
                choice = TENSORS[name](shapes[choice], generator)
            drawn[name] = choice
        return drawn


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _weight(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    weight = 3 * torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.where(weight < 0.4, 0, weight)


def _frequency(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 0.002 + 0.99 * torch.rand(shape, generator=generator, dtype=torch.float64)


def _mask(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) < 0.7


def _row_weight(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return _weight(shape[:1], generator)


TENSORS: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    "threshold": _normal,
    "label_weight": _weight,
    "prior": _frequency,
    "mask": _mask,
    "sample_weight": _row_weight,
}

SHARED_GRID = {
    "scale": (1.0, 0.4, 3.0),
    "margin": (0.0, 0.8),
    "mask": (None, "labels", "rows", "cells"),
    "label_weight": (None, "labels", "rows", "cells"),
    "sample_weight": (None, "rows"),
    "reduction": ("mean", "sum", "none"),
}
THRESHOLD_GRID = {"threshold": (0.0, -1.3, "labels", "rows", "cells")}
ZLPR_GRID = {
    **SHARED_GRID,
    **THRESHOLD_GRID,
    "prior": (None, "labels"),
    "tau": (1.0, 0.3, 1.7),
    "label_smoothing": (0.0, 0.1, 1.0),
    "smoothing": ("mass", "uniform"),
}

HAND_LOGITS = (2.0, -1.0, 3.0, -2.0)
NO_THRESHOLD = "no threshold takes part in it: only differences between the labels of a row count"
NO_PRIOR = "has no prior option: mathematics.md section 1 defines the prior for the loss that predicts s > s0, zlpr"
NO_SMOOTHING = "has no label_smoothing option; smooth_labels gives it soft targets, which `reference` covers"
NOT_INDUCTOR = "architecture.md asks for inductor from zlpr alone of these; aot_eager traces the same graph"


# --- identities: mathematics.md section 1 ----------------------------------------------------------------------------


def _sums(s: Tensor, t: Tensor, margin: float = 0.0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Write the two sums of exponentials out, without any logarithm; small logits only."""
    neg = ((1 - t) * (scale * (s + margin)).exp()).sum(-1)
    pos = (t * (-scale * (s - margin)).exp()).sum(-1)
    return neg, pos


def _rows(function: Callable[..., Tensor], s: Tensor, t: Tensor, **options: Any) -> Tensor:
    return function(s, t, reduction="none", **options)


def _product_form(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    neg, pos = _sums(s, t)
    pairs = ((1 - t).unsqueeze(-1) * t.unsqueeze(-2) * (s.unsqueeze(-1) - s.unsqueeze(-2)).exp()).sum((-1, -2))
    return _rows(manyhot.zlpr_loss, s, t).exp(), 1 + neg + pos + pairs


def _threshold_class(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    neg, pos = _sums(s, t)
    s0 = torch.linspace(-2, 2, len(s), dtype=s.dtype)
    got = _rows(manyhot.zlpr_loss, s, t, threshold=s0.unsqueeze(-1))
    return got, (s0.exp() + neg).log() + ((-s0).exp() + pos).log()


def _shift(function: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return lambda s, t: (_rows(function, s + 3.25, t, threshold=3.25 - 0.5), _rows(function, s, t, threshold=-0.5))


def _zero_logits(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    k, n = t.sum(-1), t.shape[-1]
    return _rows(manyhot.zlpr_loss, 0 * s, t), torch.log1p(k) + torch.log1p(n - k)


def _bce(function: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def one_label(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        s, t = s[:, :1], t[:, :1]
        return _rows(function, s, t), F.binary_cross_entropy_with_logits(s, t, reduction="none").squeeze(-1)

    return one_label


def _bce_of_one_and_one(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    # One positive and one negative: the only rows beside one-label ones where nothing of the product is dropped.
    s, t = s[:, :2], torch.tensor([1.0, 0.0], dtype=s.dtype).expand(len(s), 2)
    bce = F.binary_cross_entropy_with_logits(s, t, reduction="none").sum(-1)
    return _rows(manyhot.zlpr_loss, s, t), bce


def _scale_and_margin(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    neg, pos = _sums(s, t, margin=0.3, scale=2.0)
    return _rows(manyhot.zlpr_loss, s, t, margin=0.3, scale=2.0), torch.log1p(neg) + torch.log1p(pos)


def _soft_optimum(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Check the value at logit(t)/(2 gamma) + s0, whatever margin and weights are."""
    scale, margin, s0 = 1.7, 0.6, -0.4
    weight = torch.linspace(0.2, 3, s.shape[-1], dtype=s.dtype)
    soft = torch.sigmoid(s)
    best = torch.logit(soft) / (2 * scale) + s0
    options = {"scale": scale, "margin": margin, "threshold": s0, "label_weight": weight}
    spread = (weight * (soft * (1 - soft)).sqrt()).sum(-1)
    return _rows(manyhot.zlpr_loss, best, soft, **options), 2 * torch.log1p(math.exp(scale * margin) * spread)


def _prior_is_an_offset(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    prior = torch.linspace(0.02, 0.9, s.shape[-1], dtype=s.dtype)
    got = _rows(manyhot.zlpr_loss, s, t, prior=prior, tau=1.4, scale=0.7)
    return got, _rows(manyhot.zlpr_loss, s + 1.4 / (2 * 0.7) * torch.logit(prior), t, scale=0.7)


def _circle(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    # Circle loss (1) has one margin, on the negatives: m_c = 2m. [7359] (9).
    gamma, m = 1.6, 0.45
    negatives = ((1 - t) * (gamma * (s + 2 * m)).exp()).sum(-1)
    positives = (t * (-gamma * s).exp()).sum(-1)
    return _rows(manyhot.pairwise_loss, s, t, scale=gamma, margin=m), torch.log1p(negatives * positives)


def _pairs(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    gaps = s.unsqueeze(-1) - s.unsqueeze(-2) + 2 * 0.25  # negative i against positive j
    total = ((1 - t).unsqueeze(-1) * t.unsqueeze(-2) * (1.5 * gaps).exp()).sum((-1, -2))
    return _rows(manyhot.pairwise_loss, s, t, scale=1.5, margin=0.25), torch.log1p(total)


def _cross_entropy(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.arange(len(s)) % s.shape[-1]
    got = _rows(manyhot.pairwise_loss, s, F.one_hot(y, s.shape[-1]))
    return got, F.cross_entropy(s, y, reduction="none")


def _offset_cancels(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    offset = torch.linspace(-30, 30, len(s), dtype=s.dtype).unsqueeze(-1)
    return _rows(manyhot.pairwise_loss, s + offset, t), _rows(manyhot.pairwise_loss, s, t)


def _one_log(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    neg, pos = _sums(s, t, margin=0.2, scale=1.3)
    return _rows(manyhot.single_log_loss, s, t, margin=0.2, scale=1.3), torch.log1p(neg + pos)


def _one_log_zero(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    expected = torch.full((len(s),), float(1 + s.shape[-1]), dtype=s.dtype).log()
    return _rows(manyhot.single_log_loss, 0 * s, t), expected


# --- the rows --------------------------------------------------------------------------------------------------------

CASES = (
    Case(
        name="zlpr",
        function=manyhot.zlpr_loss,
        module=manyhot.ZLPRLoss,
        reference=reference.zlpr,
        hand=(
            # log(1 + e^-1 + e^3) + log(1 + e^-2 + e^2), and [9064] on soft targets: both in mathematics.md section 10.
            Hand(HAND_LOGITS, (1, 0, 0, 1), 5.2088),
            Hand(HAND_LOGITS, (0.9, 0.1, 0.9, 0.1), 2.2133),
            # log(1 + e^-1 + e^-2) + log(1 + e^-2 + e^-3)
            Hand(HAND_LOGITS, (1, 0, 1, 0), 0.5775),
            Hand((0.0,), (1.0,), 0.6931),
            # e^(2(-1+.5)) + e^(2(-2+.5)) and e^(-2(2-.5)) + e^(-2(3-.5)): log(1.417667) + log(1.056525)
            Hand(HAND_LOGITS, (1, 0, 1, 0), 0.4040, {"scale": 2.0, "margin": 0.5}),
            # above the threshold the logits are 1.5, -1.5, 2.5, -2.5: 2 log(1 + e^-1.5 + e^-2.5) = 2 log(1.305215)
            Hand(HAND_LOGITS, (1, 0, 1, 0), 0.5327, {"threshold": 0.5}),
            # logit(.01)/2 = -2.297560 lowers the second logit to -2.797560: log(1 + e^.5) + log(1 + e^2.797560)
            Hand((0.5, -0.5), (0, 1), 3.8308, {"prior": torch.tensor([0.5, 0.01])}),
            # targets .75 and .25: log(1 + .25 e + .75) + log(1 + .75/e + .25) = log(2.429570) + log(1.525910)
            Hand((1.0, 0.0), (1, 0), 1.3103, {"label_smoothing": 0.5}),
        ),
        grid=ZLPR_GRID,
        identities={
            "exp(zlpr) = 1 + negatives + positives + pairs": _product_form,
            "threshold as a class: log(e^s0 + ...) + log(e^-s0 + ...)": _threshold_class,
            "adding to logits and threshold changes nothing": _shift(manyhot.zlpr_loss),
            "log(1+k) + log(1+n-k) at zero logits": _zero_logits,
            "binary cross-entropy for one label": _bce(manyhot.zlpr_loss),
            "summed binary cross-entropy for one positive and one negative": _bce_of_one_and_one,
            "scale and margin inside both sums": _scale_and_margin,
            "soft optimum logit(t)/(2 scale) + s0 has 2 log(1 + e^(scale margin) sum w sqrt(t(1-t)))": _soft_optimum,
            "the prior is an offset of the logits": _prior_is_an_offset,
        },
        gradient_bound=2.0,
    ),
    Case(
        name="pairwise",
        function=manyhot.pairwise_loss,
        module=manyhot.PairwiseLoss,
        reference=reference.pairwise,
        hand=(
            # log(1 + (e^-1 + e^-2)(e^-2 + e^-3)) = log(1 + .503215 * .185122)
            Hand(HAND_LOGITS, (1, 0, 1, 0), 0.0891),
            # log(1 + (e^-1 + e^3)(e^-2 + e^2)) = log(1 + 20.453416 * 7.524391)
            Hand(HAND_LOGITS, (1, 0, 0, 1), 5.0428),
            Hand((1.0, 0.0), (1, 0), 0.1269, {"scale": 2.0}),
            Hand((1.0, 0.0), (1, 0), 0.6931, {"margin": 0.5}),
            Hand((4.0, -7.0), (1, 1), 0.0),
        ),
        grid=SHARED_GRID,
        identities={
            "Circle loss (1), its margin is 2m": _circle,
            "sum over pairs, each with margin 2m": _pairs,
            "softmax cross-entropy with one positive": _cross_entropy,
            "an offset a row cancels": _offset_cancels,
        },
        gradient_bound=2.0,
        sums_meet=True,
        not_applicable={
            "threshold": NO_THRESHOLD,
            "learned threshold": NO_THRESHOLD,
            "learned parameter": NO_THRESHOLD,
            "prior": NO_PRIOR,
            "label smoothing": NO_SMOOTHING,
            "compile inductor": NOT_INDUCTOR,
        },
    ),
    Case(
        name="single_log",
        function=manyhot.single_log_loss,
        module=manyhot.SingleLogLoss,
        reference=reference.single_log,
        hand=(
            # log(1 + e^-1 + e^-2 + e^-2 + e^-3) = log(1.688337)
            Hand(HAND_LOGITS, (1, 0, 1, 0), 0.5237),
            # log(1 + e^-1 + e^3 + e^-2 + e^2) = log(28.977806)
            Hand(HAND_LOGITS, (1, 0, 0, 1), 3.3665),
            # log(1 + e^0 + e^1) = log(4.718282)
            Hand((1.0, 0.0), (1, 0), 1.5514, {"margin": 1.0}),
            Hand((0.0, 0.0, 0.0), (1, 0, 0.5), 1.3863),
        ),
        grid={**SHARED_GRID, **THRESHOLD_GRID},
        identities={
            "log(1 + negatives + positives)": _one_log,
            "log(1+n) at zero logits": _one_log_zero,
            "adding to logits and threshold changes nothing": _shift(manyhot.single_log_loss),
            "binary cross-entropy for one label": _bce(manyhot.single_log_loss),
        },
        gradient_bound=1.0,
        sums_meet=True,
        not_applicable={
            "prior": NO_PRIOR,
            "label smoothing": NO_SMOOTHING,
            "compile inductor": NOT_INDUCTOR,
        },
    ),
)
