"""What a span is to a loss: a cell (type, first token, last token) of a row, none or a few of them right.

Spans are (start, end, type) with the end exclusive, counted in tokens. A cell is the same with both tokens inside:
first = start, last = end - 1. A type has length**2 cells; those with first <= last < the length of the row are valid.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manyhot.targets import IndexTargets
from manyhot.tracing import values_readable


class Span(NamedTuple):
    """A predicted span: tokens from `start` up to `end`, exclusive, the id of its type, and its logit.

    Example:
        >>> import torch, manyhot
        >>> manyhot.decide_spans(torch.tensor([[[[-1.0, 2.0], [0.0, -3.0]]]]))
        [[Span(start=0, end=2, type=0, score=2.0)]]
    """

    start: int
    end: int
    type: int
    score: float


class SpanTargets:
    """The spans of each row: what :func:`manyhot.span_loss` learns.

    A span listed twice counts once; with two types it is two spans. Spans may overlap and lie inside each other. A row
    without spans is a row whose cells are all negative.

    Args:
        spans: a list of (start, end, type) a row, end exclusive; what :func:`manyhot.decide_spans` returns fits too.
            Or int64 (spans, 4) of (row, start, end, type).
        rows: how many rows there are, for the tensor alone.

    Raises:
        TypeError: positions or types that are not integers.
        ValueError: a span that ends before it begins or begins below 0, a type below 0; names row and span. Spans
            beyond their row, and types that do not exist, are found by the loss.

    Example:
        >>> import torch, manyhot
        >>> targets = manyhot.SpanTargets([[(0, 2, 1), (1, 2, 0)], []])
        >>> targets.rows, targets.cells  # row, type, first, last
        (2, tensor([[0, 0, 1, 1],
                [0, 1, 0, 1]]))
    """

    __slots__ = ("cells", "most", "place", "places", "rows")

    rows: int
    cells: Tensor  # (spans, 4): row, type, first, last; sorted, each once
    places: Tensor  # (places, 3): row, first, last of all cells, each once whatever types are there
    place: Tensor  # (spans,): which of the places a cell is at
    most: int  # spans that one type has in one row

    def __init__(self, spans: Sequence[Sequence[Sequence[Any]]] | Tensor, *, rows: int | None = None) -> None:
        triples, self.rows = _triples(spans, rows)
        if values_readable(triples):
            row, start, end, kind = triples.unbind(-1)
            wrong = ((start < 0) | (end <= start) | (kind < 0)).nonzero()
            if len(wrong):
                r, s, e, t = triples[wrong[0, 0]].tolist()
                said = f"type {t}, and types count from 0" if s >= 0 and e > s else "but 0 <= start < end is needed"
                raise ValueError(
                    f"targets: row {r} has a span ({s}, {e}, {t}), {said}; offsets count from 0 and the end is not "
                    "part of the span."
                )
        row, start, end, kind = triples.unbind(-1)
        self._set(torch.stack((row, kind, start, end - 1), -1))

    @classmethod
    def of_pairs(cls, pairs: Sequence[Sequence[Sequence[Any]]] | Tensor, *, rows: int | None = None) -> "SpanTargets":
        """Take pairs of tokens in any order, (first, last, type) with both inside, for ``triangle=False``.

        These are the targets of relations: the heads of a subject and an object, or their last tokens.

        Example:
            >>> import manyhot
            >>> manyhot.SpanTargets.of_pairs([[(5, 2, 0)]]).cells
            tensor([[0, 0, 5, 2]])
        """
        targets = cls.__new__(cls)
        triples, targets.rows = _triples(pairs, rows)
        if values_readable(triples) and bool((triples < 0).any()):
            r, *pair = triples[(triples < 0).any(-1)][0].tolist()
            raise ValueError(f"targets: row {r} has a pair {tuple(pair)}; tokens and types count from 0.")
        row, first, last, kind = triples.unbind(-1)
        targets._set(torch.stack((row, kind, first, last), -1))
        return targets

    def _set(self, cells: Tensor) -> None:
        self.cells = torch.unique(cells, dim=0)
        self.places, self.place = torch.unique(self.cells[:, [0, 2, 3]], dim=0, return_inverse=True)
        self.most = 0
        if len(cells):
            _, counts = torch.unique_consecutive(self.cells[:, :2], dim=0, return_counts=True)
            self.most = int(counts.max())

    @property
    def device(self) -> torch.device:
        """Where the cells are."""
        return self.cells.device

    def to(self, device: torch.device | str) -> "SpanTargets":
        """Move to a device."""
        moved = SpanTargets.__new__(SpanTargets)
        moved.rows, moved.most = self.rows, self.most
        moved.cells, moved.places, moved.place = (x.to(device) for x in (self.cells, self.places, self.place))
        return moved

    def listed(self, num_types: int, length: int) -> IndexTargets:
        """Return rows x types lists of cells, ``first * length + last``: the targets of dense scores.

        Example:
            >>> import manyhot
            >>> manyhot.SpanTargets([[(0, 2, 1), (1, 2, 1)]]).listed(2, 3).labels
            tensor([[[-1, -1],
                     [ 1,  4]]])
        """
        row, kind, first, last = self.cells.unbind(-1)
        return self._lists(row * num_types + kind, first * length + last, num_types)

    def boundaries(self, num_types: int, length: int) -> IndexTargets:
        """Return rows x (2 types) lists of tokens, those that begin a span of a type, then those that end one.

        The targets of ``torch.cat((starts, ends), 1)`` of a :class:`manyhot.BoundaryTagger`.

        Example:
            >>> import manyhot
            >>> manyhot.SpanTargets([[(0, 2, 0)]]).boundaries(1, 3).labels
            tensor([[[0],
                     [1]]])
        """
        row, kind, first, last = self.cells.unbind(-1)
        lists = torch.cat((row * 2 * num_types + kind, (row * 2 + 1) * num_types + kind))
        return self._lists(*_sorted(lists, torch.cat((first, last)), length), 2 * num_types)

    def dense(self, num_types: int, length: int) -> Tensor:
        """Write the cells out, boolean (rows, types, length, length): to look at; the loss does without."""
        out = torch.zeros(self.rows, num_types, length, length, dtype=torch.bool, device=self.device)
        out[self.cells.unbind(-1)] = True
        return out

    def _lists(self, group: Tensor, ids: Tensor, lists: int) -> IndexTargets:
        """Write sorted groups of ids as padded lists, (rows, lists, ids)."""
        rank = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)
        padded = torch.full((self.rows * lists, self.most), -1, device=group.device)
        padded[group, rank] = ids
        return IndexTargets(padded.view(self.rows, lists, self.most))

    def check_rows(self, rows: int) -> None:
        """Check that there are as many rows of spans as of scores."""
        if self.rows != rows:
            raise ValueError(f"targets must have the rows of scores, {rows}; got {self.rows}.")

    def check(
        self,
        num_types: int,
        length: int,
        *,
        lengths: Tensor | None = None,
        max_width: int | None = None,
        triangle: bool = True,
    ) -> None:
        """Check that every span lies in its row and has a type; waits for the device where the cells are on one.

        Raises:
            ValueError: names the first row and span that does not, and what to change.
        """
        row, kind, first, last = self.cells.unbind(-1)
        far = torch.maximum(first, last)
        beyond = far >= (length if lengths is None else lengths.to(self.device)[row])
        wide = last - first >= (length if max_width is None else max_width)
        problems = (kind >= num_types) | beyond | (((first > last) | wide) if triangle else False)
        if not bool(problems.any()):
            return
        place = int(problems.nonzero()[0])
        r, t, i, j = self.cells[place].tolist()
        named = f"targets: row {r} has a {f'span ({i}, {j + 1})' if triangle and i <= j else f'pair ({i}, {j})'}"
        if t >= num_types:
            said = f"of type {t}; the scores have {num_types} types, so that ids lie in 0 to {num_types - 1}."
        elif bool(beyond[place]):
            tokens = length if lengths is None else int(lengths[r])
            said = f"beyond its {tokens} tokens; cut the span or give longer rows."
        elif i > j:
            said = "whose first token comes after its last; pairs in any order go with triangle=False."
        else:
            widest = int((last - first).max()) + 1
            said = f"wider than max_width={max_width}; max_width={widest} takes all spans of this batch."
        raise ValueError(f"{named} {said}")

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        return f"SpanTargets({len(self.cells)} spans in {self.rows} rows)"


def _triples(spans: Sequence[Sequence[Sequence[Any]]] | Tensor, rows: int | None) -> tuple[Tensor, int]:
    """Return (row, begin, end, type) of all spans and the number of rows."""
    if not isinstance(spans, Tensor):
        if rows is not None:
            raise TypeError("rows goes with a tensor of spans; a list has a list of spans a row.")
        try:
            flat = [(r, *span[:3]) for r, row in enumerate(spans) for span in row]
            triples = torch.tensor(flat) if flat else torch.zeros(0, 4, dtype=torch.int64)
        except (TypeError, ValueError, IndexError):
            triples = torch.zeros(0)
        if triples.ndim != 2 or triples.shape[-1] != 4:
            raise TypeError(
                "spans must be a list of (start, end, type id) a row, end exclusive: [[(0, 2, 1)], []]; or int64 of "
                "shape (spans, 4) with row, start, end, type."
            )
        rows = len(spans)
    else:
        triples = spans
        if spans.ndim != 2 or spans.shape[-1] != 4 or rows is None:
            raise ValueError(
                "a tensor of spans must have shape (spans, 4) with row, start, end, type, and rows must say how many "
                f"rows there are; got {tuple(spans.shape)} and rows={rows}."
            )
        row = spans[:, 0]
        outside = (row < 0) | (row >= rows)
        if values_readable(spans) and bool(outside.any()):
            raise ValueError(f"the rows of spans must lie in 0 to {rows - 1}; got {int(row[outside][0])}.")
    if triples.is_floating_point() or triples.is_complex() or triples.dtype == torch.bool:
        raise TypeError(f"spans must be integers, positions of tokens and ids of types; got {triples.dtype}.")
    return triples.long(), rows


def _sorted(group: Tensor, ids: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Sort by group, then by id, each once."""
    both = torch.unique(group * length + ids)
    return both // length, both % length


def span_mask(lengths: Tensor, length: int, *, max_width: int | None = None, triangle: bool = True) -> Tensor:
    """Say which cells are spans of the tokens that a row has, boolean (rows, 1, length, length).

    True where ``first <= last < lengths`` and, with `max_width`, ``last - first < max_width``. With ``triangle=False``
    where both tokens are below the length, in any order: pairs of tokens.

    Example:
        >>> import torch, manyhot
        >>> manyhot.span_mask(torch.tensor([2]), 3)[0, 0].int()
        tensor([[1, 1, 0],
                [0, 1, 0],
                [0, 0, 0]], dtype=torch.int32)
    """
    token = torch.arange(length, device=lengths.device)
    inside = token < lengths.unsqueeze(-1)
    if not triangle:
        return (inside.unsqueeze(-1) & inside.unsqueeze(-2)).unsqueeze(1)
    width = token - token.unsqueeze(-1)
    band = width >= 0 if max_width is None else (width >= 0) & (width < max_width)
    return (band & inside.unsqueeze(-2)).unsqueeze(1)


def span_share(
    targets: SpanTargets,
    lengths: Tensor,
    num_types: int,
    *,
    max_width: int | None = None,
    triangle: bool = True,
) -> Tensor:
    r"""Estimate the share of valid cells that are spans of each type, for ``start_at`` of a head.

    .. math::
        \pi_t = \frac{c_t + 1/2}{n + 1}

    with c the spans of a type and n the valid cells of all rows, so that types never seen stay above 0.

    Args:
        targets: the spans of all training rows.
        lengths: (rows,), the tokens of each.
        num_types: how many types there are.
        max_width, triangle: as in :func:`manyhot.span_loss`.

    Returns:
        (types,) float32, inside (0, 1).

    Example:
        >>> import torch, manyhot
        >>> manyhot.span_share(manyhot.SpanTargets([[(0, 2, 0)], []]), torch.tensor([3, 2]), 2)
        tensor([0.1500, 0.0500])
    """
    check_lengths(lengths, targets.rows)
    longest = int(lengths.max()) if len(lengths) else 0
    targets.check(num_types, longest, lengths=lengths, max_width=max_width, triangle=triangle)
    counts = torch.bincount(targets.cells[:, 1], minlength=num_types)
    lengths = lengths.long()  # the cells of a row are too many for a small dtype
    widest = lengths if max_width is None else lengths.clamp(max=max_width)
    # Spans of 1, 2, ... tokens: there are length, length - 1, ... of them.
    valid = (widest * lengths - widest * (widest - 1) // 2 if triangle else lengths**2).sum()
    return ((counts.double() + 0.5) / (valid.double() + 1)).float()


def check_lengths(lengths: Tensor, rows: int, length: int | None = None) -> None:
    """Check that lengths are one integer a row, in 0 to `length` where that can be read."""
    if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        came = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
        raise TypeError(f"lengths must be a tensor of integers, the tokens of each row; got {came}.")
    if lengths.shape != (rows,):
        raise ValueError(f"lengths must have one number a row, ({rows},); got {tuple(lengths.shape)}.")
    if values_readable(lengths):
        wrong = ((lengths < 0) | (lengths > (torch.inf if length is None else length))).nonzero()
        if len(wrong):
            r = int(wrong[0])
            most = "0 or more" if length is None else f"in 0 to {length}, the last axis of the scores"
            raise ValueError(f"lengths must lie {most}; got {int(lengths[r])} at row {r}.")
