"""Scores of spans from the product of their first and last tokens: GlobalPointer, and the form that factorises."""

import torch
from torch import Tensor, nn

from manyhot.heads.rotary import rotary as turned
from manyhot.span_scores import SpanScores


class EfficientSpanPointer(nn.Module):
    r"""Score spans by a pair score that all types share, and a start and an end score a type.

    .. math::
        s_{tij} = \frac{(R_i q_i)\cdot(R_j k_j)}{\sqrt{d}} + a_{ti} + b_{tj}

    with q, k, a and b linear in the vectors of the tokens, and R the rotary position (:func:`manyhot.rotary`). Types
    differ in two vectors each; the loss of these scores factorises (:func:`manyhot.span_loss`). The head to begin with.

    Args:
        features: size of a token's vector.
        num_types: how many types of spans there are.
        size: d, even, of queries and keys.
        rotary: False leaves the positions out: for pairs of tokens whose distance says nothing.

    Shape:
        (rows, length, features) to :class:`manyhot.SpanScores`, pair (rows, length, length), start and end (rows,
        num_types, length).

    Example:
        >>> import torch, manyhot
        >>> head = manyhot.EfficientSpanPointer(16, num_types=3, size=8)
        >>> scores = head(torch.zeros(2, 5, 16))
        >>> scores.pair.shape, scores.start.shape
        (torch.Size([2, 5, 5]), torch.Size([2, 3, 5]))

    References:
        Su, kexue.fm/archives/8877. There a and b are linear in q and k, which are linear in the vectors of the tokens:
        here they are linear in these themselves, which has all of those functions.
    """

    def __init__(self, features: int, num_types: int, *, size: int = 64, rotary: bool = True) -> None:
        super().__init__()
        _check_size(size, rotary)
        self.pair = nn.Linear(features, 2 * size)
        self.start = nn.Linear(features, num_types, bias=False)
        self.end = nn.Linear(features, num_types)
        self.rotary = rotary

    def start_at(self, share: Tensor, *, scale: float = 0.5) -> None:
        """Let the bias of each type begin at ``scale * logit(share)``, share (num_types,) being that of its cells.

        Half the logit is where ZLPR of many cells ends that are no span (:func:`manyhot.span_share` counts); binary
        cross-entropy wants the whole.
        """
        set_bias(self.end.bias, share, scale)

    def forward(self, hidden: Tensor) -> SpanScores:
        """Score the spans of a batch."""
        query, key = self.pair(hidden).chunk(2, -1)
        size = query.shape[-1]
        if self.rotary:
            query, key = turned(query), turned(key)
        pair = query @ (key * size**-0.5).mT
        return SpanScores(pair, self.start(hidden).mT, self.end(hidden).mT)


class SpanPointer(nn.Module):
    r"""Score spans by a query and a key of each type.

    .. math::
        s_{tij} = \frac{(R_i q_{ti})\cdot(R_j k_{tj})}{\sqrt{d}} + b_t

    with q and k linear in the vectors of the tokens, and R the rotary position (:func:`manyhot.rotary`). It has
    num_types times the parameters of :class:`manyhot.EfficientSpanPointer`, and its scores are written out.

    Args:
        features: size of a token's vector.
        num_types: how many types of spans there are.
        size: d, even, of queries and keys.
        rotary: False leaves the positions out.

    Shape:
        (rows, length, features) to (rows, num_types, length, length).

    Example:
        >>> import torch, manyhot
        >>> manyhot.SpanPointer(16, num_types=3, size=8)(torch.zeros(2, 5, 16)).shape
        torch.Size([2, 3, 5, 5])

    References:
        Su, kexue.fm/archives/8373; arXiv 2208.03054. The bias is ours: it begins at the share of the type.
    """

    def __init__(self, features: int, num_types: int, *, size: int = 64, rotary: bool = True) -> None:
        super().__init__()
        _check_size(size, rotary)
        self.pair = nn.Linear(features, num_types * 2 * size)
        self.bias = nn.Parameter(torch.zeros(num_types))
        self.rotary = rotary

    def start_at(self, share: Tensor, *, scale: float = 0.5) -> None:
        """Let the bias of each type begin at ``scale * logit(share)``: :meth:`EfficientSpanPointer.start_at`."""
        set_bias(self.bias, share, scale)

    def forward(self, hidden: Tensor) -> Tensor:
        """Score the spans of a batch."""
        rows, length, _ = hidden.shape
        types = len(self.bias)
        both = self.pair(hidden).view(rows, length, types, -1).transpose(1, 2)
        query, key = both.chunk(2, -1)
        size = query.shape[-1]
        if self.rotary:
            query, key = turned(query), turned(key)
        # The bias goes in with the product: added to it, there would be a second tensor of this size.
        bias = self.bias.to(query.dtype).repeat(rows).view(-1, 1, 1)
        scores = torch.baddbmm(bias, query.flatten(0, 1), key.flatten(0, 1).mT, alpha=size**-0.5)
        return scores.view(rows, types, length, length)


def _check_size(size: int, rotary: bool) -> None:
    if size < 1 or (rotary and size % 2):
        raise ValueError(f"size must be positive, and even with rotary positions; got {size}.")


def set_bias(bias: Tensor, share: Tensor, scale: float) -> None:
    """Set biases to scale * logit(share)."""
    if share.shape != bias.shape or not bool(((share > 0) & (share < 1)).all()):
        raise ValueError(
            f"share must have one number a type, {tuple(bias.shape)}, between 0 and 1; got {tuple(share.shape)}. "
            "manyhot.span_share(targets, lengths, num_types) counts it."
        )
    with torch.no_grad():
        bias.copy_(scale * torch.logit(share.double()))
