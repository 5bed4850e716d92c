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
    impls: tuple[str, ...] = ("auto", "eager", "blocked", "native")

    def takes(self, option: str) -> bool:
        return option in inspect.signature(self.function).parameters

    def only(self, **options: Any) -> dict[str, Any]:
        """Keep the options that the loss has."""
        return {name: value for name, value in options.items() if self.takes(name)}

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
    "pos_weight": _weight,
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

WEIGHTS_GRID = {name: SHARED_GRID[name] for name in ("mask", "label_weight", "sample_weight", "reduction")}

HAND_LOGITS = (2.0, -1.0, 3.0, -2.0)
NO_THRESHOLD = "no threshold takes part in it: only differences between the labels of a row count"
NO_PRIOR = "has no prior option: mathematics.md section 1 defines the prior for the loss that predicts s > s0, zlpr"
NO_SMOOTHING = "has no label_smoothing option; smooth_labels gives it soft targets, which `reference` covers"
NOT_INDUCTOR = "architecture.md asks for inductor from zlpr alone of these; aot_eager traces the same graph"
# Of losses that are a sum over labels, each decided for itself.
LABEL_WISE = {
    "threshold": "has no threshold option: a probability of 1/2 is the logit 0",
    "learned threshold": "has no threshold option",
    "learned parameter": "has no threshold option",
    "prior": "has no prior option",
    "label smoothing": NO_SMOOTHING,
    "gradient bound": "grows with the number of labels: each label has a gradient of its own",
    "every impl": "is a plain formula with one implementation",
    "compile inductor": NOT_INDUCTOR,
}


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


# --- identities of losses that are a sum over labels: mathematics.md section 4 ---------------------------------------


def _torch_bce(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    c = torch.linspace(0.3, 4, s.shape[-1], dtype=s.dtype)
    bce = F.binary_cross_entropy_with_logits(s, t, pos_weight=c, reduction="none").sum(-1)
    return _rows(manyhot.bce_loss, s, t, pos_weight=c), bce


def _bce_prior_is_an_offset(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    prior = torch.linspace(0.02, 0.9, s.shape[-1], dtype=s.dtype)
    got = _rows(manyhot.bce_loss, s, t, prior=prior, tau=0.7)
    return got, _rows(manyhot.bce_loss, s + 0.7 * torch.logit(prior), t)


def _zlpr_of_one_label(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return _rows(manyhot.bce_loss, s[:, :1], t[:, :1]), _rows(manyhot.zlpr_loss, s[:, :1], t[:, :1])


def _published_focal(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    # torchvision's sigmoid_focal_loss, as it computes it from probabilities.
    p = torch.sigmoid(s)
    right = p * t + (1 - p) * (1 - t)
    published = (0.25 * t + 0.75 * (1 - t)) * -right.log() * (1 - right) ** 1.7
    return _rows(manyhot.focal_loss, s, t, gamma=1.7, alpha=0.25), published.sum(-1)


def _published_asymmetric(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    # As its code does it, without the clamp of the logarithm at 1e-8.
    p, not_p = torch.sigmoid(s), (torch.sigmoid(-s) + 0.05).clamp(max=1)
    right = p * t + not_p * (1 - t)
    return _rows(manyhot.asymmetric_loss, s, t), (-right.log() * (1 - right) ** (t + 4 * (1 - t))).sum(-1)


def _dice(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    p = torch.sigmoid(s)
    dice = (2 * (p * t).sum(-1) + 0.6) / (p.sum(-1) + t.sum(-1) + 0.6)
    return _rows(manyhot.tversky_loss, s, t, smooth=0.3), 1 - dice


def _plain_tversky(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    p = torch.sigmoid(s)
    hits, extra, missed = (p * t).sum(-1), (p * (1 - t)).sum(-1), ((1 - p) * t).sum(-1)
    got = _rows(manyhot.tversky_loss, s, t, alpha=0.3, beta=0.7, smooth=0.0)
    return got, 1 - hits / (hits + 0.3 * extra + 0.7 * missed)


# --- identities of the combinatorial softmax: the table of mathematics.md section 2 ----------------------------------


def _with_own_count(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    # Exactly as many labels as the row has: log Z_k from all sets of k labels.
    k = t.sum(-1).long()
    sets = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=s.dtype)] * s.shape[-1])
    weight = torch.where(sets.sum(-1) == k.unsqueeze(-1), s @ sets.T, -math.inf)
    got = _rows(manyhot.subset_loss, s, t, min_labels=k, max_labels=k)
    return got, weight.logsumexp(-1) - (s * t).sum(-1)


def _one_of_n(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.arange(len(s)) % s.shape[-1]
    got = _rows(manyhot.subset_loss, s, F.one_hot(y, s.shape[-1]), min_labels=1, max_labels=1, threshold=2.5)
    return got, F.cross_entropy(s, y, reduction="none")


def _null_class(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    # Row r has the label r, or none where there is no such label: class 0 of a softmax with a logit 0 in front.
    y = (torch.arange(len(s)) * 3) % (s.shape[-1] + 1)
    got = _rows(manyhot.subset_loss, s, F.one_hot(y, s.shape[-1] + 1)[:, 1:], max_labels=1)
    return got, F.cross_entropy(F.pad(s, (1, 0)), y, reduction="none")


def _summed_bce(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return _rows(manyhot.subset_loss, s, t), F.binary_cross_entropy_with_logits(s, t, reduction="none").sum(-1)


def _summed_bce_by_sizes(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    # A tensor of sizes takes the sum over sizes, where the number has a formula of its own.
    got = _rows(manyhot.subset_loss, s, t, max_labels=torch.tensor(s.shape[-1]))
    return got, F.binary_cross_entropy_with_logits(s, t, reduction="none").sum(-1)


def _bce_given_a_label(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    t = t.clone()
    t[:, 2] = 1
    u = F.softplus(s).sum(-1)
    got = _rows(manyhot.subset_loss, s, t, min_labels=1)
    return got, u + torch.log(-torch.expm1(-u)) - (s * t).sum(-1)


def _su_recursion(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    # [7359]: Zbar_K = Z_K + e^{s0} Zbar_{K-1}, and what a row lacks of K labels is the class 0 with the logit s0.
    s0, largest = 0.7, s.shape[-1] - 1
    sets = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=s.dtype)] * s.shape[-1])
    t = torch.where((t.sum(-1) > largest).unsqueeze(-1), 0, t)
    z = [(s @ sets[sets.sum(-1) == j].T).logsumexp(-1) for j in range(largest + 1)]
    bar = z[0]
    for j in range(1, largest + 1):
        bar = torch.logaddexp(z[j], s0 + bar)
    got = _rows(manyhot.subset_loss, s, t, max_labels=largest, threshold=s0)
    return got, bar - ((s * t).sum(-1) + (largest - t.sum(-1)) * s0)


def _expected_accuracy(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    p = torch.sigmoid(s)
    return _rows(manyhot.smooth_accuracy_loss, s, t), -(t * p + (1 - t) * (1 - p)).mean(-1)


def _slope_of_accuracy(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Take the gradient of accuracy over p(1-p): that of cross-entropy over |t-p|, on every cell of 0/1 targets."""
    leaf = s.clone().requires_grad_()
    (accuracy,) = torch.autograd.grad(_rows(manyhot.smooth_accuracy_loss, leaf, t).sum() * s.shape[-1], leaf)
    (entropy,) = torch.autograd.grad(manyhot.bce_loss(leaf, t, reduction="sum"), leaf)
    p = torch.sigmoid(s)
    return (accuracy / (p * (1 - p))).sum(-1), (entropy / (t - p).abs()).sum(-1)


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
    Case(
        name="subset",
        function=manyhot.subset_loss,
        module=manyhot.SubsetLoss,
        reference=reference.subset,
        hand=(
            # log(e^2 + e^-1 + e^3 + e^-2 + e^1 + e^5 + e^0 + e^2 + e^-3 + e^1) - 5
            Hand(HAND_LOGITS, (1, 0, 1, 0), 0.2484, {"min_labels": 1, "max_labels": 2}),
            # exactly two: log(e^1 + e^5 + e^0 + e^2 + e^-3 + e^1) - 5
            Hand(HAND_LOGITS, (1, 0, 1, 0), 0.0894, {"min_labels": 2, "max_labels": 2}),
            # 1, e^1 and e^1
            Hand((1.0, 1.0), (0, 0), 1.8620, {"max_labels": 1}),
            # log(1 + e^-2) + log(1 + e^-1) + log(1 + e^-3) + log(1 + e^-2)
            Hand(HAND_LOGITS, (1, 0, 1, 0), 0.6157),
        ),
        grid={
            **{name: SHARED_GRID[name] for name in ("mask", "sample_weight", "reduction")},
            **THRESHOLD_GRID,
            # Rows of the contract have any number of labels; ranges are test_subset.py.
            "max_labels": (None, torch.tensor(LABELS)),
        },
        identities={
            "all sets of k labels written out": _with_own_count,
            "softmax cross-entropy for exactly one": _one_of_n,
            "softmax with a null class for at most one": _null_class,
            "summed binary cross-entropy for any number": _summed_bce,
            "the same as a sum over sizes": _summed_bce_by_sizes,
            "binary cross-entropy given one label or more": _bce_given_a_label,
            "Su's recursion with a repeatable null class": _su_recursion,
            "adding to logits and threshold changes nothing": _shift(manyhot.subset_loss),
        },
        gradient_bound=math.inf,
        not_applicable={
            "prior": "has no prior option",
            "label smoothing": NO_SMOOTHING,
            "label weight": "a set has one likelihood: no label of it counts more than another",
            "zero weight": "has no label_weight option; mask takes a label out",
            "gradient bound": "grows with the number of labels, each at most 1: test_subset.py",
        },
        impls=("auto", "eager", "native"),
    ),
    Case(
        name="bce",
        function=manyhot.bce_loss,
        module=manyhot.BCELoss,
        reference=reference.bce,
        hand=(
            # log(1 + e^-2) + log(1 + e^-1) + log(1 + e^-3) + log(1 + e^-2)
            Hand(HAND_LOGITS, (1, 0, 1, 0), 0.6157),
            # half of either term of the first label: log(1 + e^-2)/2 + log(1 + e^2)/2 + log(1 + e^-1)
            Hand((2.0, -1.0), (0.5, 0), 1.4402),
            # 3 log(1 + e^-1) + log(1 + e^1)
            Hand((1.0, 1.0), (1, 0), 2.2530, {"pos_weight": 3.0}),
            # the prior takes 4.595120 off the second logit: log(1 + e^.5) + log(1 + e^5.095120)
            Hand((0.5, -0.5), (0, 1), 6.0753, {"prior": torch.tensor([0.5, 0.01])}),
        ),
        grid={
            **WEIGHTS_GRID,
            "pos_weight": (1.0, 2.5, "labels"),
            "prior": (None, "labels"),
            "tau": (1.0, 0.4),
        },
        identities={
            "binary_cross_entropy_with_logits of torch": _torch_bce,
            "the prior is an offset of the logits, all of it": _bce_prior_is_an_offset,
            "ZLPR for one label": _zlpr_of_one_label,
        },
        gradient_bound=math.inf,
        not_applicable=LABEL_WISE | {"prior": "half the offset of zlpr, which the contract tests: test_baselines.py"},
    ),
    Case(
        name="focal",
        function=manyhot.focal_loss,
        module=manyhot.FocalLoss,
        reference=reference.focal,
        hand=(
            # p = .5: .25 log 2 for either
            Hand((0.0, 0.0), (1, 0), 0.3466),
            # .119203^2 * .126928 + .268941^2 * .313262 + .047426^2 * .048587 + .119203^2 * .126928
            Hand(HAND_LOGITS, (1, 0, 1, 0), 0.0264),
            Hand((0.0, 0.0), (1, 0), 0.6931 / 2, {"gamma": 1.0, "alpha": 0.25}),
        ),
        grid={**WEIGHTS_GRID, "gamma": (2.0, 0.0, 0.5, 3.7), "alpha": (None, 0.25, 1.0)},
        identities={
            "binary cross-entropy for gamma 0": lambda s, t: (
                _rows(manyhot.focal_loss, s, t, gamma=0.0),
                _rows(manyhot.bce_loss, s, t),
            ),
            "the published definition": _published_focal,
        },
        gradient_bound=math.inf,
        not_applicable=LABEL_WISE,
    ),
    Case(
        name="asymmetric",
        function=manyhot.asymmetric_loss,
        module=manyhot.AsymmetricLoss,
        reference=reference.asymmetric,
        hand=(
            # (1 - .731059) * .313262; q = .731059 - .05 = .681059: .681059^4 * 1.142748
            Hand((1.0, 1.0), (1, 0), 0.3301),
            # q = .880797 - .05: .830797^2 * 1.776656, and nothing of a negative with p <= .05
            Hand((2.0, -4.0), (0, 0), 1.2263, {"gamma_neg": 2.0}),
            Hand((0.0, 0.0), (1, 0), 0.3466, {"gamma_pos": 2.0, "gamma_neg": 2.0, "clip": 0.0}),
        ),
        grid={
            **WEIGHTS_GRID,
            "gamma_pos": (1.0, 0.0, 2.5),
            "gamma_neg": (4.0, 0.0, 0.5),
            "clip": (0.05, 0.0, 0.4),
        },
        identities={
            "focal for equal gammas and no clip": lambda s, t: (
                _rows(manyhot.asymmetric_loss, s, t, gamma_pos=1.5, gamma_neg=1.5, clip=0.0),
                _rows(manyhot.focal_loss, s, t, gamma=1.5),
            ),
            "the published definition": _published_asymmetric,
        },
        gradient_bound=math.inf,
        not_applicable=LABEL_WISE | {"infinite logits": "a clip bounds the loss of a negative: test_baselines.py"},
    ),
    Case(
        name="tversky",
        function=manyhot.tversky_loss,
        module=manyhot.TverskyLoss,
        reference=reference.tversky,
        hand=(
            # TP .5, FP .5, FN .5: 1 - 1.5/2
            Hand((0.0, 0.0), (1, 0), 0.25),
            Hand((0.0, 0.0), (1, 0), 0.5, {"smooth": 0.0}),
            # 1 - .5/(.5 + .2 * .5 + .8 * .5)
            Hand((0.0, 0.0), (1, 0), 0.5, {"smooth": 0.0, "alpha": 0.2, "beta": 0.8}),
            # 1 - 1/(1 + .5 (.880797 + .268941))
            Hand((2.0, -1.0), (0, 0), 0.3650),
        ),
        grid={**WEIGHTS_GRID, "alpha": (0.5, 0.2, 0.0), "beta": (0.5, 0.8), "smooth": (1.0, 0.01)},
        identities={"Dice with its smoothing halved": _dice, "the published definition": _plain_tversky},
        gradient_bound=math.inf,
        not_applicable=LABEL_WISE | {"infinite logits": "is between 0 and 1 for all logits: test_baselines.py"},
    ),
    Case(
        name="smooth_accuracy",
        function=manyhot.smooth_accuracy_loss,
        module=manyhot.SmoothAccuracyLoss,
        reference=reference.smooth_accuracy,
        hand=(
            # (.880797 + .731059)/2
            Hand((2.0, -1.0), (1, 0), -0.8059),
            Hand((2.0, -1.0), (0.5, 1), -(0.5 + 0.268941) / 2),
            # (2 * .880797 + 1 * .268941)/3
            Hand((2.0, -1.0), (1, 1), -0.6768, {"label_weight": torch.tensor([2.0, 1.0])}),
        ),
        grid=WEIGHTS_GRID,
        identities={
            "the expected accuracy of a row": _expected_accuracy,
            "its gradient carries p(1-p) where that of cross-entropy carries |t-p|": _slope_of_accuracy,
        },
        gradient_bound=1.0,
        not_applicable=LABEL_WISE
        | {
            "gradient bound": "the slope of a probability is at most 1/4, and reaches it in one cell alone",
            "infinite logits": "is between -1 and 0 for all logits: test_smooth.py",
        },
    ),
)

# Losses that do not take one row of logits and targets for itself, and where their contract is instead.
ELSEWHERE = {
    "linear_zlpr_loss": "test_linear_loss.py",
    "LinearZLPRLoss": "test_linear_loss.py",
    "linear_pairwise_loss": "test_linear_loss.py",
    "linear_single_log_loss": "test_linear_loss.py",
    "linear_bce_loss": "test_linear_loss.py",
    "multiway_loss": "test_multiway.py",
    "MultiwayLoss": "test_multiway.py",
    "two_way_loss": "test_baselines.py",
    "TwoWayLoss": "test_baselines.py",
    "smooth_f_loss": "test_smooth.py",
    "SmoothFLoss": "test_smooth.py",
    "f_weighted_bce_loss": "test_smooth.py",
    "FWeightedBCELoss": "test_smooth.py",
    "logit_adjusted_loss": "test_margin.py",
    "LogitAdjustedLoss": "test_margin.py",
    "margin_softmax_loss": "test_margin.py",
    "MarginSoftmaxLoss": "test_margin.py",
    "span_loss": "test_span_loss.py",
    "SpanLoss": "test_span_loss.py",
    "exact_loss": "test_perturbed.py",
    "ExactLoss": "test_perturbed.py",
}
