"""Rows as a network takes them: cut into pieces, prepared once, and what is found in pieces put together again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from manyhot.spans import Span
from manyhot.toolkit.spans.network import Entity, Fact, Gold, Prepared, Pretrained, SpanNetwork
from manyhot.toolkit.spans.relation_network import RelationNetwork
from manyhot.toolkit.spans.sentences import Piece, Sentences, outside, pieces_of
from manyhot.triples import Triple


@dataclass(frozen=True)
class Pieces:
    """Pieces of rows, ready for a network.

    Attributes:
        places: where each piece stands.
        prepared: what the encoder takes of each.
        lengths: (pieces,), tokens.
        gold: the spans of each piece, counted from its beginning.
        triples: what holds between them; a relation from one piece into another is in none.
    """

    places: list[Piece]
    prepared: list[Prepared]
    lengths: np.ndarray
    gold: list[list[Entity]]
    triples: list[list[Fact]]

    def right(self, rows: Sequence[int] | np.ndarray | None = None) -> Gold:
        """Return what is right in some of the pieces, or in all."""
        chosen = range(len(self.places)) if rows is None else [int(i) for i in rows]
        lengths = torch.from_numpy(self.lengths[list(chosen)])
        return Gold([self.gold[i] for i in chosen], [self.triples[i] for i in chosen], lengths)


def prepared(
    network: SpanNetwork, sentences: Sentences, types: Sequence[str] | None = None, relations: Sequence[str] = ()
) -> Pieces:
    """Cut rows and prepare them for the encoder of a network.

    Args:
        network: what will see them.
        sentences: the rows.
        types: the types of spans, in the order of ids, to learn them; None where spans are to be found.
        relations: the types of relations, in the order of ids, to learn them.
    """
    encoder = network.encoder
    sizes, most = None, None
    if isinstance(encoder, Pretrained):
        sizes, most = encoder.sizes(sentences.tokens), encoder.most
    places = pieces_of(sentences, whole_spans=types is not None, sizes=sizes, most=most)
    ids = {kind: i for i, kind in enumerate(types or ())}
    gold: list[list[Entity]] = [[] for _ in places]
    if types is not None:
        for spans, (row, first, last) in zip(gold, places, strict=True):
            spans += [(a - first, b - first, ids[t]) for a, b, t in sentences.spans[row] if first <= a and b <= last]
    triples = [[] for _ in places] if not relations else _triples_of(sentences, places, ids, relations)
    rows = [encoder.prepare(sentences.tokens[row][first:last]) for row, first, last in places]
    return Pieces(places, rows, np.array([last - first for _, first, last in places]), gold, triples)


def _triples_of(
    sentences: Sentences, places: Sequence[Piece], ids: dict[str, int], relations: Sequence[str]
) -> list[list[Fact]]:
    found: list[list[Fact]] = []
    for row, first, last in places:
        inside = [
            (head, kind, tail)
            for head, kind, tail in sentences.relations[row]
            if first <= min(head[0], tail[0]) and max(head[1], tail[1]) <= last
        ]
        ends = [
            [(start - first, end - first, ids[kind]) for start, end, kind in (head, tail)] for head, _, tail in inside
        ]
        found.append([(s, relations.index(kind), o) for (s, o), (_, kind, _) in zip(ends, inside, strict=True)])
    return found


def find_spans(
    network: SpanNetwork, pieces: Pieces, rows: int, *, flat: bool, threshold: float = 0.0
) -> list[list[Span]]:
    """Predict the spans of rows that were cut into pieces, best first."""
    found: list[list[Span]] = [[] for _ in range(rows)]
    in_pieces = network.spans(pieces.prepared, pieces.lengths.tolist(), flat=flat, threshold=threshold)
    for (row, first, _), spans in zip(pieces.places, in_pieces, strict=True):
        found[row] += [Span(a + first, b + first, kind, score) for a, b, kind, score in spans]
    return [sorted(spans, key=lambda span: (-span.score, *span[:3])) for spans in found]


def find_linked(
    network: RelationNetwork, pieces: Pieces, rows: int, *, flat: bool, threshold: float = 0.0, lowest: float = 0.0
) -> tuple[list[list[Span]], list[list[Triple]]]:
    """Predict the entities and the triples of rows that were cut into pieces, best first."""
    spans: list[list[Span]] = [[] for _ in range(rows)]
    triples: list[list[Triple]] = [[] for _ in range(rows)]
    in_pieces = network.linked(pieces.prepared, pieces.lengths.tolist(), flat=flat, threshold=threshold, lowest=lowest)
    for (row, first, _), (some, facts) in zip(pieces.places, in_pieces, strict=True):
        moved = {span: span._replace(start=span.start + first, end=span.end + first) for span in some}
        spans[row] += moved.values()
        triples[row] += [Triple(moved[s], relation, moved[o], score) for s, relation, o, score in facts]
    for row in range(rows):
        spans[row].sort(key=lambda span: (-span.score, *span[:3]))
        triples[row].sort(key=lambda triple: -triple.score)
    return spans, triples


def gold_triples(
    sentences: Sentences, types: Sequence[str], relations: Sequence[str]
) -> tuple[list[list[Fact]], list[str]]:
    """Return the triples of each row by ids, and the relations that `relations` lacks, whose ids follow.

    Args:
        sentences: the rows.
        types: those of training, then those that it lacks, as :func:`gold_of` returns them.
        relations: those of training.
    """
    known = set(relations)
    unknown = sorted({kind for row in sentences.relations for _, kind, _ in row} - known)
    of_types = {kind: i for i, kind in enumerate(types)}
    ids = {kind: i for i, kind in enumerate([*relations, *unknown])}

    def entity(span: tuple[int, int, str]) -> Entity:
        return span[0], span[1], of_types[span[2]]

    rows = [[(entity(head), ids[kind], entity(tail)) for head, kind, tail in row] for row in sentences.relations]
    return rows, unknown


def gold_of(sentences: Sentences, types: Sequence[str]) -> tuple[list[list[Entity]], list[str]]:
    """Return the gold spans of each row by ids, and the types that `types` lacks, whose ids follow.

    A span with a border inside of a token stands before the row, where nothing is predicted: it is missed.
    """
    known = set(types)
    others = sorted({t for row in sentences.spans for *_, t in row} | {m.type for r in sentences.astride for m in r})
    unknown = [kind for kind in others if kind not in known]
    ids = {kind: i for i, kind in enumerate([*types, *unknown])}
    gold = []
    for spans, astride in zip(sentences.spans, sentences.astride, strict=True):
        missed = [outside(i, mark.type) for i, mark in enumerate(astride)]
        gold.append([(start, end, ids[kind]) for start, end, kind in (*missed, *spans)])
    return gold, unknown
