"""The losses by the names of --loss, each as the sum over rows that a model minimises.

Targets are bool, or int8 with -1 where nobody knows; what is unknown is left out of every loss.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyhot.labels import label_prior
from manyhot.linear_loss import linear_bce_loss, linear_zlpr_loss
from manyhot.losses.baselines import asymmetric_loss, bce_loss, focal_loss, tversky_loss
from manyhot.losses.multiway import multiway_loss
from manyhot.losses.smooth import f_weighted_bce_loss, smooth_accuracy_loss, smooth_f_loss
from manyhot.losses.subset import subset_loss
from manyhot.losses.two_way import two_way_loss
from manyhot.losses.zlpr import zlpr_loss

# (logits, targets) to the sum over rows.
Loss = Callable[[Tensor, Tensor], Tensor]


def _bce(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.dtype != torch.bool:
        return bce_loss(logits, targets, reduction="sum")
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")


def bce_of_labels(logits: Tensor, targets: Tensor) -> Tensor:
    """Return BCE as the sums over rows of each label, (labels,); a target below 0 is unknown and adds nothing."""
    losses = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return (losses if targets.dtype == torch.bool else losses.masked_fill(targets < 0, 0)).sum(0)


def _zlpr(logits: Tensor, targets: Tensor) -> Tensor:
    return zlpr_loss(logits, targets, reduction="sum")


def _subset(logits: Tensor, targets: Tensor, *, smallest: int = 0, largest: int = 0) -> Tensor:
    # Rows of --valid may have fewer or more labels than any row of training; then the range is theirs too.
    sizes = (targets > 0).sum(1)
    low, high = min(smallest, int(sizes.min())), max(largest, int(sizes.max()))
    if targets.dtype == torch.bool:
        return subset_loss(logits, targets, min_labels=low, max_labels=high, reduction="sum")
    # Any unknown cell may be a label of its row.
    known = (targets >= 0).sum(1)
    lows = torch.minimum((low - (targets.shape[1] - known)).clamp(min=0), sizes)
    return subset_loss(logits, targets, min_labels=lows, max_labels=known.clamp(max=high), reduction="sum")


def _ce(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, _ids(targets), reduction="sum")


def _multiway(logits: Tensor, targets: Tensor) -> Tensor:
    """Take all rows as one sum, scaled by a constant to start where cross-entropy does: C means about the same."""
    rows, classes = targets.shape
    at_zero = (classes - 1) * targets.sum(0).log1p().sum()
    return multiway_loss(logits, _ids(targets)) * (rows * math.log(classes) / at_zero)


def _ids(targets: Tensor) -> Tensor:
    return targets.to(torch.uint8).argmax(1)


# Losses that need no logits of all labels, by the names of --loss: (hidden, weight, targets, bias=, reduction=).
ListedLoss = Callable[..., Tensor]
LISTED_LOSSES: dict[str, ListedLoss] = {"zlpr": linear_zlpr_loss, "bce": linear_bce_loss}
# (logits, targets) to the sum over rows, by the names of --loss. A prior of ZLPR or of classes enters by the bias: see
# cross_fit.
FORMULAS: dict[str, Loss] = {
    "zlpr": _zlpr,
    "bce": _bce,
    "subset": _subset,
    "bce+prior": partial(bce_loss, reduction="sum"),
    "bce+pos_weight": partial(bce_loss, reduction="sum"),
    "focal": partial(focal_loss, reduction="sum"),
    "asymmetric": partial(asymmetric_loss, reduction="sum"),
    "dice": partial(tversky_loss, reduction="sum"),
    "two-way": partial(two_way_loss, reduction="sum"),
    "smooth-accuracy": partial(smooth_accuracy_loss, reduction="sum"),
    "smooth-f1": partial(smooth_f_loss, reduction="sum"),
    "f1-bce": partial(f_weighted_bce_loss, reduction="sum"),
    "ce": _ce,
    "ce+prior": _ce,
    "multiway": _multiway,
}


def _prior(targets: np.ndarray) -> Tensor:
    return torch.from_numpy(label_prior(targets))


# Losses that couple rows: that of a batch is no sum over parts of it.
COUPLED = ("two-way", "smooth-f1", "f1-bce", "multiway")

# Where the biases of an encoder's last layer start, so often the log-odds of their labels: about where constant logits
# end, those of ZLPR with many labels at half of them. All others start at 0.
STARTS = {"zlpr": 0.5, "bce": 1.0, "focal": 1.0}


# Options that a loss reads off the training rows: how frequent labels are, or how many a row has.
FROM_TARGETS: dict[str, Callable[[np.ndarray], dict[str, Any]]] = {
    "bce+prior": lambda targets: {"prior": _prior(targets)},
    "bce+pos_weight": lambda targets: {"pos_weight": (1 - _prior(targets)) / _prior(targets)},
    "subset": lambda targets: dict(zip(("smallest", "largest"), sizes_of(targets), strict=True)),
}


def sizes_of(targets: np.ndarray) -> tuple[int, int]:
    """Return how many labels a row may have at least and at most, given that any unknown cell may be one."""
    return int((targets > 0).sum(1).min()), int((targets != 0).sum(1).max())


def loss_of(name: str, targets: np.ndarray) -> Loss:
    """Return the loss of a name for these training rows."""
    return partial(FORMULAS[name], **FROM_TARGETS[name](targets)) if name in FROM_TARGETS else FORMULAS[name]


# How full-batch fits of linear models come to the optimum: each label by itself, as only BCE can; all labels together
# from there; or all together from the best biases, where the optimum of BCE is too far away.
Route = Literal["each label", "each label, then all", "all labels"]
# On part of enron and of Reuters, at two strengths, these reach a lower objective from there; focal, asymmetric and BCE
# with a prior, whose optima have other biases, a higher one.
FROM_BCE = ("zlpr", "subset", "bce+pos_weight", "two-way")


def route_of(name: str) -> Route:
    """Return the route of a loss."""
    return "each label" if name == "bce" else "each label, then all" if name in FROM_BCE else "all labels"
