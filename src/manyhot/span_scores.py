"""Scores of spans as three small parts, and the log-sum-exp over all cells that is made from the parts alone."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from manyhot.logsumexp import logsumexp
from manyhot.matmulexp import exact_product, log_matmul_exp
from manyhot.tracing import traced


class SpanScores(NamedTuple):
    r"""Scores of all cells as a sum: pair + start + end.

    .. math::
        s_{tij} = A_{ij} + a_{ti} + b_{tj}

    What :class:`manyhot.EfficientSpanPointer` returns, and any head whose score of a pair of tokens is the same for all
    types. :func:`manyhot.span_loss` and :func:`manyhot.decide_spans` take it as it is.

    Attributes:
        pair: (..., length, length), A.
        start: (..., types, length), a.
        end: (..., types, length), b.

    Example:
        >>> import torch, manyhot
        >>> start, end = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.0, 0.5]]])
        >>> manyhot.SpanScores(torch.zeros(1, 2, 2), start, end).dense()
        tensor([[[[1.0000, 1.5000],
                  [2.0000, 2.5000]]]])
    """

    pair: Tensor
    start: Tensor
    end: Tensor

    def dense(self) -> Tensor:
        """Write all scores out, (..., types, length, length); nothing is masked."""
        return self.pair.unsqueeze(-3) + self.start.unsqueeze(-1) + self.end.unsqueeze(-2)

    def at(self, places: Tensor) -> Tensor:
        """Return the scores of every type, (places, types), at (places, 3) of row, first, last."""
        row, first, last = places.unbind(-1)
        return self.pair[row, first, last].unsqueeze(-1) + self.start[row, :, first] + self.end[row, :, last]

    def logsumexp(self, cells: Tensor) -> Tensor:
        r"""Return the log-sum-exp over cells, (..., length, length) boolean, for every type: (..., types).

        .. math::
            \log\sum_{ij} e^{A_{ij} + a_{ti} + b_{tj}} = \log\sum_i e^{a_{ti}} \sum_j e^{A_{ij}} e^{b_{tj}}

        One exponential a cell and one matrix product; nothing of size types x length x length is made. -inf in a part
        takes a cell away, also beside +inf or NaN.
        """
        # Starts and ends of tokens without a cell go too: they may hold anything, and would be the largest.
        start = torch.where(cells.any(-1).unsqueeze(-2), self.start, -torch.inf)
        end = torch.where(cells.any(-2).unsqueeze(-2), self.end, -torch.inf)
        if not traced():
            total = _by_product(torch.where(cells, self.pair, -torch.inf), start, end)
            if total is not None:
                return total
        inner = log_matmul_exp(end, torch.where(cells, self.pair, -torch.inf).mT)
        return logsumexp(torch.where(start == -torch.inf, -torch.inf, start + inner))


def _by_product(pair: Tensor, start: Tensor, end: Tensor) -> Tensor | None:
    """Return the sum by one matrix product, or None where it has lost digits; `pair` is overwritten.

    :func:`log_matmul_exp` looks at every entry of its product. Here one that underflowed is as good as 0 beside the
    others, so that the sum over all of them is looked at.
    """
    tops = pair.detach().amax(-1)
    of_end = end.detach().amax(-1, keepdim=True)
    of_start = (start.detach() + tops.unsqueeze(-2)).amax(-1, keepdim=True)
    empty = ((of_end == -torch.inf) | (of_start == -torch.inf)).squeeze(-1)
    ends, starts = _finite(of_end), _finite(of_start)
    # In place: backward keeps one array of this size, and there is no other.
    pair = pair.sub_(_finite(tops).unsqueeze(-1)).exp_()
    product = exact_product((end - ends).exp(), pair.mT)
    total = ((start + tops.unsqueeze(-2) - starts).exp() * product).sum(-1)
    # What underflowed is below tiny a cell, and the second derivative, which divides by the square, stays finite. From
    # infinities and NaN comes a total that is refused too.
    right = (total >= torch.finfo(total.dtype).tiny ** 0.5) & total.isfinite()
    if not bool((right | empty).all()):
        return None
    value = torch.where(empty, 1, total).log() + starts.squeeze(-1) + ends.squeeze(-1)
    return torch.where(empty, -torch.inf, value)


def _finite(peak: Tensor) -> Tensor:
    return torch.where(peak.isfinite(), peak, 0)


def sizes(scores: Any) -> tuple[int, int, int]:
    """Check the form of scores, dense or in parts; return rows, types and length."""
    if isinstance(scores, SpanScores):
        pair, start, end = scores
        if not all(isinstance(x, Tensor) and x.is_floating_point() for x in scores):
            raise TypeError("the parts of SpanScores must be floating-point tensors.")
        square = start.shape[:1] + 2 * start.shape[2:]
        if start.ndim != 3 or start.shape != end.shape or pair.shape != square:
            raise ValueError(
                "SpanScores must have pair (rows, length, length) and start and end (rows, types, length); got "
                f"{tuple(pair.shape)}, {tuple(start.shape)} and {tuple(end.shape)}."
            )
        rows, types, length = start.shape
    else:
        if not isinstance(scores, Tensor) or not scores.is_floating_point():
            came = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
            raise TypeError(f"scores must be a floating-point tensor or manyhot.SpanScores; got {came}.")
        if scores.ndim != 4 or scores.shape[2] != scores.shape[3]:
            raise ValueError(
                "scores must have shape (rows, types, length, length), first token, then last; got "
                f"{tuple(scores.shape)}."
            )
        rows, types, length = scores.shape[:3]
    if types == 0 or length == 0:
        raise ValueError(f"scores need at least one type and one token; got {types} types and length {length}.")
    return rows, types, length
