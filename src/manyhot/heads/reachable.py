"""A last layer of low rank from which every small label set is in reach: labels are points of a circle.

logit_i = e^{r_i} p_x(t_i) + b_i        p_x a trigonometric polynomial of degree max_labels, linear in the features x
"""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyhot.targets import IndexTargets, targets_of

# No two labels come nearer on the circle than this share of an even spread, whatever is learned.
FLOOR = 0.1
# What a pair that is not next to each other costs above one that is, in log margins (`make bench-reach`).
APART = 2.0


class ReachableHead(nn.Module):
    r"""A linear layer of rank 2k + 1 from which every set of up to k labels is in reach, however many labels there are.

    .. math::
        s_i = e^{r_i}\,\big(1,\cos t_i,\sin t_i,\dots,\cos kt_i,\sin kt_i\big)\,A\,x+b_i

    A plain layer of the same rank has sets that no input gets. Here label i is the point t_i of a circle and A x the
    coefficients of a polynomial of degree k. The polynomial :math:`\epsilon-\prod_{i\in P}(1-\cos(t-t_i))` of a set P
    of at most k labels is above 0 at the labels of P and, for a small :math:`\epsilon`, below 0 at all others; positive
    factors change no sign, and multiplied by a large number it outweighs any b. So everything here may be trained:
    the map A as long as its rank stays 2k + 1, the bias, the factors, which are positive, and the distances between
    neighbours on the circle, which keep a floor. Only the order of the labels on the circle is fixed.

    Use it as the last layer where features are few, label sets small (max_labels up to 3) and labels not more than some
    hundred: margins fall fast with both, see :func:`manyhot.reachable_sets`, and below 1e-6 no guarantee of exact
    arithmetic helps. Not behind a ReLU, after which some coefficients cannot be had.

    Args:
        features: columns of the input, at least 2 max_labels + 1.
        num_labels: labels, the last axis of the logits.
        max_labels: k, the largest size of a set that stays in reach.
        order: of the labels on the circle. None: as they come. A permutation of the label ids, (num_labels,). Or
            targets of training rows, (rows, num_labels) in any format of the losses: then labels that occur together
            come to stand next to each other or far apart, whose sets have the larger margins.
        trainable: whether distances and factors are trained, besides A and b.

    Raises:
        ValueError: fewer features than 2 max_labels + 1, sizes below 1, an order that is no permutation.

    Example:
        >>> import torch, manyhot
        >>> head = manyhot.ReachableHead(5, 40, 2)
        >>> head(torch.zeros(3, 5)).shape
        torch.Size([3, 40])
        >>> pairs = torch.triu_indices(40, 40, 1).T
        >>> reach = manyhot.reachable_sets(head.weight, manyhot.IndexTargets(pairs[::20]), bias=head.bias)
        >>> (reach.status == "yes").all().item()
        True

    References:
        Grivas, Vergari and Lopez, AAAI 2024, arXiv 2310.10443, who fix angles and factors.
    """

    def __init__(
        self,
        features: int,
        num_labels: int,
        max_labels: int,
        *,
        order: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        if min(features, num_labels, max_labels) < 1:
            raise ValueError(
                f"features, num_labels and max_labels must be 1 or more; got {features}, {num_labels} and {max_labels}."
            )
        if features < 2 * max_labels + 1:
            raise ValueError(
                f"sets of {max_labels} labels need {2 * max_labels + 1} features, 2 max_labels + 1; got {features}."
            )
        self.features, self.num_labels, self.max_labels = features, num_labels, max_labels
        self.project = nn.Linear(features, 2 * max_labels + 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(num_labels))
        self.gap_logits = nn.Parameter(torch.zeros(num_labels), requires_grad=trainable)
        self.log_scale = nn.Parameter(torch.zeros(num_labels), requires_grad=trainable)
        self.register_buffer("place", _places(order, num_labels, max_labels))

    @property
    def angles(self) -> Tensor:
        """t, (num_labels,) in [0, 2 pi), all distinct."""
        even = 2 * math.pi / self.num_labels
        gaps = even * (FLOOR + (1 - FLOOR) * self.num_labels * self.gap_logits.softmax(0))
        place: Any = self.place
        return (gaps.cumsum(0) - gaps)[place]

    @property
    def curve(self) -> Tensor:
        """The points of the circle times their factors, (num_labels, 2 max_labels + 1)."""
        turns = self.angles.unsqueeze(-1) * torch.arange(1, self.max_labels + 1, device=self.bias.device)
        waves = torch.stack((turns.cos(), turns.sin()), -1).flatten(1)
        return self.log_scale.exp().unsqueeze(-1) * torch.cat((torch.ones_like(waves[:, :1]), waves), 1)

    @property
    def weight(self) -> Tensor:
        """The layer as one matrix, (num_labels, features), which :func:`manyhot.reachable_sets` takes with `bias`."""
        return self.curve @ self.project.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (..., num_labels) of features (..., features)."""
        return F.linear(self.project(x), self.curve, self.bias)

    def extra_repr(self) -> str:
        """Say the sizes."""
        return f"features={self.features}, num_labels={self.num_labels}, max_labels={self.max_labels}"


def _places(order: Any, num_labels: int, max_labels: int) -> Tensor:
    """Return where on the circle each label stands, (num_labels,)."""
    if order is None:
        return torch.arange(num_labels)
    if isinstance(order, IndexTargets) or getattr(order, "ndim", 0) == 2:
        return _from_targets(order, num_labels, max_labels)
    order = torch.as_tensor(order)
    if order.shape != (num_labels,) or order.sort().values.tolist() != list(range(num_labels)):
        raise ValueError(
            f"order must be a permutation of the ids 0 to {num_labels - 1}, or targets of shape (rows, {num_labels}); "
            f"got {order.tolist() if order.ndim == 1 and len(order) <= 20 else f'shape {tuple(order.shape)}'}."
        )
    return order.long().argsort()


def _from_targets(targets: Any, num_labels: int, max_labels: int) -> Tensor:
    """Place labels so that two of one set are neighbours or far apart, by swaps that lower the cost.

    A set of two neighbours is an arc, and has the widest margin; two labels with one between them have the narrowest,
    and from there it grows with the square of their distance, sin(half the angle)^2. Every distinct set counts once.
    """
    targets = targets_of(torch.from_numpy(targets) if isinstance(targets, np.ndarray) else targets, None)
    rows = targets.dense(num_labels) if isinstance(targets, IndexTargets) else targets == 1
    if rows.shape[1] != num_labels:
        raise ValueError(f"order as targets must have shape (rows, {num_labels}); got {tuple(rows.shape)}.")
    sets = rows.bool()[rows.sum(1) <= max_labels].unique(dim=0).double()
    pairs = (sets.mT @ sets).fill_diagonal_(0)
    apart = torch.arange(num_labels)
    apart = (apart[:, None] - apart).abs().double()
    apart = torch.minimum(apart, num_labels - apart)
    cost = torch.where(apart > 1, APART - 2 * (math.pi * apart / num_labels).sin().log(), 0.0)
    generator = torch.Generator().manual_seed(0)
    starts = [torch.arange(num_labels), *(torch.randperm(num_labels, generator=generator) for _ in range(2))]
    settled = [_swapped(start, pairs, cost) for start in starts]
    return min(settled, key=lambda place: float((pairs * cost[place][:, place]).sum()))


def _swapped(place: Tensor, pairs: Tensor, cost: Tensor) -> Tensor:
    """Swap the places of two labels while that lowers the cost of all pairs."""
    moved = True
    while moved:
        moved = False
        for i in range(len(place)):
            between = cost[place][:, place]
            own = (pairs * between).sum(1)
            swapped = between @ pairs[i] + pairs @ between[i] + 2 * pairs[i] * between[i]
            change = swapped - own[i] - own
            change[i] = 0
            j = int(change.argmin())
            if change[j] < -1e-9:
                place[i], place[j] = place[j].clone(), place[i].clone()
                moved = True
    return place
