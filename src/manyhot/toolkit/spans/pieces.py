"""Rows as a network takes them: cut into pieces, prepared once, and what is found in pieces put together again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from manyhot.spans import Span, SpanTargets, span_share
from manyhot.toolkit.spans.network import Prepared, Pretrained, SpanNetwork
from manyhot.toolkit.spans.sentences import Piece, Sentences, pieces_of

# (start, end, type id), end exclusive, in tokens.
Gold = tuple[int, int, int]


@dataclass(frozen=True)
class Pieces:
    """Pieces of rows, ready for a network.

    Attributes:
        places: where each piece stands.
        prepared: what the encoder takes of each.
        lengths: (pieces,), tokens.
        gold: the spans of each piece, counted from its beginning.
    """

    places: list[Piece]
    prepared: list[Prepared]
    lengths: np.ndarray
    gold: list[list[Gold]]

    def share(self, types: int, max_width: int) -> torch.Tensor:
        """Return the share of cells that are spans of each type."""
        return span_share(SpanTargets(self.gold), torch.from_numpy(self.lengths), types, max_width=max_width)


def prepared(network: SpanNetwork, sentences: Sentences, types: Sequence[str] | None = None) -> Pieces:
    """Cut rows and prepare them for the encoder of a network.

    Args:
        network: what will see them.
        sentences: the rows.
        types: the types of spans, in the order of ids, to learn them; None where spans are to be found.
    """
    encoder = network.encoder
    sizes, most = None, None
    if isinstance(encoder, Pretrained):
        sizes, most = encoder.sizes(sentences.tokens), encoder.most
    places = pieces_of(sentences, whole_spans=types is not None, sizes=sizes, most=most)
    ids = {kind: i for i, kind in enumerate(types or ())}
    gold: list[list[Gold]] = [[] for _ in places]
    if types is not None:
        for spans, (row, first, last) in zip(gold, places, strict=True):
            spans += [(a - first, b - first, ids[t]) for a, b, t in sentences.spans[row] if first <= a and b <= last]
    rows = [encoder.prepare(sentences.tokens[row][first:last]) for row, first, last in places]
    return Pieces(places, rows, np.array([last - first for _, first, last in places]), gold)


def find_spans(
    network: SpanNetwork, pieces: Pieces, rows: int, *, flat: bool, threshold: float = 0.0
) -> list[list[Span]]:
    """Predict the spans of rows that were cut into pieces, best first."""
    found: list[list[Span]] = [[] for _ in range(rows)]
    in_pieces = network.spans(pieces.prepared, pieces.lengths.tolist(), flat=flat, threshold=threshold)
    for (row, first, _), spans in zip(pieces.places, in_pieces, strict=True):
        found[row] += [Span(a + first, b + first, kind, score) for a, b, kind, score in spans]
    return [sorted(spans, key=lambda span: (-span.score, *span[:3])) for spans in found]


def gold_of(sentences: Sentences, types: Sequence[str]) -> tuple[list[list[Gold]], list[str]]:
    """Return the gold spans of each row by ids, and the types that `types` lacks, whose ids follow.

    A span with a border inside of a token stands before the row, where nothing is predicted: it is missed.
    """
    known = set(types)
    others = sorted({t for row in sentences.spans for *_, t in row} | {m.type for r in sentences.astride for m in r})
    unknown = [kind for kind in others if kind not in known]
    ids = {kind: i for i, kind in enumerate([*types, *unknown])}
    gold = []
    for spans, astride in zip(sentences.spans, sentences.astride, strict=True):
        outside = [(-2 * i - 2, -2 * i - 1, ids[mark.type]) for i, mark in enumerate(astride)]
        gold.append([*outside, *((start, end, ids[kind]) for start, end, kind in spans)])
    return gold, unknown
