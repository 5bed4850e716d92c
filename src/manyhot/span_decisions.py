"""Scores of cells to spans."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyhot.span_scores import SpanScores, sizes
from manyhot.spans import Span, check_lengths, span_mask


def decide_spans(
    scores: Tensor | SpanScores,
    *,
    lengths: Tensor | None = None,
    flat: bool = False,
    threshold: float | Tensor = 0.0,
    min_spans: int = 0,
    max_spans: int | None = None,
    max_width: int | None = None,
) -> list[list[Span]]:
    """Predict the cells above the threshold, best first.

    The decision that goes with :func:`manyhot.span_loss`. Before anything is learned every second cell is above 0:
    `max_spans`, say twice the length, keeps an untrained model from returning thousands.

    Args:
        scores: (rows, types, length, length) or :class:`manyhot.SpanScores`; of these no more than one row is written
            out at a time.
        lengths: (rows,) integers, the tokens of each row; None: all.
        flat: True where no two spans share a token: a cell is kept unless it shares one with a better one that is kept.
            False where spans may overlap.
        threshold: a number or (types,): that of the loss.
        min_spans: a row with fewer is filled up with its best cells below the threshold.
        max_spans: a row with more keeps its best; None: all.
        max_width: widest span in tokens, that of the loss.

    Returns:
        The spans of each row, best first: by score less the threshold, ties by start, end and type. `end` is exclusive,
        `score` is the logit. NaN and -inf are never chosen, so a row may have fewer than `min_spans`.

    Raises:
        TypeError: scores of another kind.
        ValueError: shapes that do not fit, `min_spans` above `max_spans`.

    Example:
        >>> import torch, manyhot
        >>> scores = torch.full((1, 1, 3, 3), -9.0)
        >>> scores[0, 0, 0, 1], scores[0, 0, 0, 0] = 2.0, 1.0
        >>> [(span.start, span.end) for span in manyhot.decide_spans(scores)[0]]
        [(0, 2), (0, 1)]
        >>> [(span.start, span.end) for span in manyhot.decide_spans(scores, flat=True)[0]]
        [(0, 2)]
    """
    rows, types, length = sizes(scores)
    device = scores[0].device if isinstance(scores, SpanScores) else scores.device
    if not 0 <= min_spans <= (min_spans if max_spans is None else max_spans):
        raise ValueError(f"min_spans must lie in 0 to max_spans; got {min_spans} and {max_spans}.")
    if isinstance(threshold, Tensor) and threshold.shape not in ((), (types,)):
        raise ValueError(f"threshold must be a number or one a type, ({types},); got {tuple(threshold.shape)}.")
    if lengths is None:
        lengths = torch.full((rows,), length)
    check_lengths(lengths, rows, length)
    level = threshold.to(device).view(-1, 1, 1) if isinstance(threshold, Tensor) else threshold
    found = []
    for row, tokens in enumerate(lengths.tolist()):
        if isinstance(scores, SpanScores):
            pair, start, end = (x[row].detach() for x in scores)
            part = SpanScores(pair[:tokens, :tokens], start[:, :tokens], end[:, :tokens]).dense()
        else:
            part = scores[row, :, :tokens, :tokens].detach()
        part = part if part.dtype == torch.float64 else part.float()
        valid = span_mask(torch.tensor([tokens], device=part.device), tokens, max_width=max_width)[0]
        rank = torch.where(valid & ~part.isnan(), part - level, -torch.inf)
        found.append((_flat if flat else _nested)(part, rank, min_spans, max_spans))
    return found


def _nested(score: Tensor, rank: Tensor, least: int, most: int | None) -> list[Span]:
    """Take the cells of (types, length, length) that rank above 0, or more or fewer where these do not fit."""
    chosen = rank > 0
    count = int(chosen.sum())
    size = max(count, least) if most is None else min(max(count, least), most)
    if size != count:
        # No more than these of thousands of cells are sorted.
        known = min(size, int((rank > -torch.inf).sum()))
        chosen = rank >= (rank.flatten().topk(known).values[-1] if known else torch.inf)
    return [span for span, _ in islice(_ordered(score, rank, chosen), size)]


def _flat(score: Tensor, rank: Tensor, least: int, most: int | None) -> list[Span]:
    """Take them one after the other, unless one shares a token with a better one."""
    # Only the best type of a cell can be kept, the first of equal ones.
    rank, kind = rank.max(0, keepdim=True)
    spans = _without_overlap(_ordered(score, rank, rank > 0, kind), most)
    if len(spans) < least:
        spans = _without_overlap(_ordered(score, rank, rank > -torch.inf, kind), most, least)
    return spans


def _ordered(score: Tensor, rank: Tensor, chosen: Tensor, kind: Tensor | None = None) -> Iterator[tuple[Span, float]]:
    """Yield the chosen cells with their ranks, best first, ties by start, end and type."""
    cells = chosen.nonzero()
    ranks = rank[chosen].cpu().numpy()
    if kind is not None:
        cells = torch.stack((kind[chosen], *cells[:, 1:].unbind(-1)), -1)
    scores = score[cells.unbind(-1)].cpu().numpy()
    t, i, j = cells.cpu().numpy().T
    for n in np.lexsort((t, j, i, -ranks)):
        yield Span(int(i[n]), int(j[n]) + 1, int(t[n]), float(scores[n])), float(ranks[n])


def _without_overlap(cells: Iterable[tuple[Span, float]], most: int | None, least: int = 0) -> list[Span]:
    """Keep a cell unless it shares a token with a better one; those that rank 0 or less only up to `least`."""
    spans: list[Span] = []
    taken = 0  # a bit a token
    for span, rank in cells:
        if (most is not None and len(spans) >= most) or (rank <= 0 and len(spans) >= least):
            break
        tokens = (1 << span.end) - (1 << span.start)
        if not taken & tokens:
            spans.append(span)
            taken |= tokens
    return spans


def decide_boundaries(
    starts: Tensor,
    ends: Tensor,
    *,
    lengths: Tensor | None = None,
    flat: bool = False,
    threshold: float | Tensor = 0.0,
) -> list[list[Span]]:
    """Join starts and ends above the threshold to spans: the decision that goes with :class:`manyhot.BoundaryTagger`.

    Each start takes the nearest end of its type at or after it and before the next start of that type; one without such
    an end is dropped.

    Args:
        starts: (rows, types, length), scores of tokens as the first of a span.
        ends: the same, as the last.
        lengths: (rows,) integers, the tokens of each row; None: all.
        flat: True where no two spans share a token: of two that do the better one is kept.
        threshold: a number or (types,).

    Returns:
        The spans of each row, best first, ties by start, end and type; the score is the mean of start and end.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> import torch, manyhot
        >>> starts, ends = torch.tensor([[[2.0, -1.0, 1.0]]]), torch.tensor([[[-1.0, 1.0, 3.0]]])
        >>> manyhot.decide_boundaries(starts, ends)
        [[Span(start=2, end=3, type=0, score=2.0), Span(start=0, end=2, type=0, score=1.5)]]
    """
    if starts.ndim != 3 or starts.shape != ends.shape:
        raise ValueError(
            f"starts and ends must both have shape (rows, types, length); got {tuple(starts.shape)} and "
            f"{tuple(ends.shape)}."
        )
    rows, types, length = starts.shape
    if isinstance(threshold, Tensor) and threshold.shape not in ((), (types,)):
        raise ValueError(f"threshold must be a number or one a type, ({types},); got {tuple(threshold.shape)}.")
    if lengths is not None:
        check_lengths(lengths, rows, length)
    level = threshold.to(starts.device).unsqueeze(-1) if isinstance(threshold, Tensor) else threshold
    begin, end = (x.detach().float().cpu().numpy() for x in (starts, ends))
    sides: list[Any] = []
    for side in (starts, ends):
        above = side > level
        if lengths is not None:
            above &= torch.arange(length, device=above.device) < lengths.to(above.device).view(-1, 1, 1)
        sides.append(above.cpu().numpy())
    is_start, is_end = sides
    found: list[list[Span]] = [[] for _ in range(rows)]
    for row, kind in zip(*np.nonzero(is_start.any(-1)), strict=True):
        places = np.flatnonzero(is_start[row, kind])
        after = np.flatnonzero(is_end[row, kind])
        nearest = np.searchsorted(after, places)
        for n, first in enumerate(places):
            limit = places[n + 1] if n + 1 < len(places) else length
            if nearest[n] < len(after) and after[nearest[n]] < limit:
                last = after[nearest[n]]
                score = float(begin[row, kind, first] + end[row, kind, last]) / 2
                found[row].append(Span(int(first), int(last) + 1, int(kind), score))
    ordered = [sorted(spans, key=lambda span: (-span.score, *span[:3])) for spans in found]
    # All of these are above the threshold.
    return [_without_overlap(((span, 1.0) for span in spans), None) for spans in ordered] if flat else ordered
