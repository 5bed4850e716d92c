"""Two entities and what holds between them: triples, what a loss learns of them, and which of them scores predict.

A triple (subject, relation, object) holds where its two spans are entities and two scores are above 0: of their first
tokens, and of their last ones.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyhot.span_scores import SpanScores, sizes
from manyhot.spans import Span, SpanTargets

# Entities of a row that are paired, in multiples of its length: before anything is learned there are many.
MOST = 4


class Triple(NamedTuple):
    """A predicted triple: the spans of its subject and its object, the id of its relation, and its logit.

    Example:
        >>> import manyhot
        >>> ada, rome = manyhot.Span(0, 2, 0, 3.0), manyhot.Span(4, 5, 1, 2.0)
        >>> manyhot.Triple(ada, 0, rome, 1.5).object.start
        4
    """

    subject: Span
    relation: int
    object: Span
    score: float


def triple_targets(triples: Sequence[Sequence[Sequence[Any]]]) -> tuple[SpanTargets, SpanTargets]:
    """Return the pairs of first tokens, and those of last tokens: what the two losses of relations learn.

    Each goes with ``triangle=False`` into :func:`manyhot.span_loss`. Two triples whose subjects begin together, and
    whose objects do, are one pair of first tokens; they differ in the last ones.

    Args:
        triples: a list of (subject, relation id, object) a row, subject and object being (start, end, ...), end
            exclusive; what :func:`decide_triples` returns fits too.

    Example:
        >>> import manyhot
        >>> heads, tails = manyhot.triple_targets([[((0, 2, 1), 0, (4, 5, 2))]])
        >>> heads.cells, tails.cells  # row, relation, token of the subject, token of the object
        (tensor([[0, 0, 0, 4]]), tensor([[0, 0, 1, 4]]))
    """
    heads = [[(subject[0], thing[0], relation) for subject, relation, thing, *_ in row] for row in triples]
    tails = [[(subject[1] - 1, thing[1] - 1, relation) for subject, relation, thing, *_ in row] for row in triples]
    return SpanTargets.of_pairs(heads), SpanTargets.of_pairs(tails)


def decide_triples(
    entities: Sequence[Sequence[Span]],
    head: Tensor | SpanScores,
    tail: Tensor | SpanScores,
    *,
    threshold: float | Tensor = 0.0,
) -> list[list[Triple]]:
    r"""Predict the triples whose first tokens and whose last tokens both score above the threshold, best first.

    .. math::
        \min\big(h_{r, \mathrm{first}(s), \mathrm{first}(o)},\; t_{r, \mathrm{last}(s), \mathrm{last}(o)}\big) > 0

    for entities s and o of a row, which come first, being few: two scores are looked up for each pair and relation. An
    entity may be in many triples, and a pair of entities in several.

    Args:
        entities: the entities of each row, best first, as :func:`manyhot.decide_spans` returns them. Where there are
            more than four times as many as tokens, only the best are paired.
        head: (rows, relations, length, length), or :class:`manyhot.SpanScores`: first token of the subject, of the
            object.
        tail: the same of the last tokens.
        threshold: a number or (relations,): that of the loss.

    Returns:
        The triples of each row, best first, ties by subject, relation and object; `score` is the lower of the two.

    Raises:
        ValueError: shapes that do not fit, or an entity beyond the scores.

    Example:
        >>> import torch, manyhot
        >>> entities = [[manyhot.Span(0, 2, 0, 3.0), manyhot.Span(3, 4, 1, 2.0)]]
        >>> head, tail = torch.full((2, 1, 1, 4, 4), -5.0)
        >>> head[0, 0, 0, 3], tail[0, 0, 1, 3] = 2.0, 1.0
        >>> [triples] = manyhot.decide_triples(entities, head, tail)
        >>> [(t.subject[:2], t.relation, t.object[:2], t.score) for t in triples]
        [((0, 2), 0, (3, 4), 1.0)]

    References:
        Su, kexue.fm/archives/8888 (GPLinker).
    """
    rows, relations, length = sizes(head)
    if sizes(tail) != (rows, relations, length):
        raise ValueError(f"head and tail must have one shape; got {sizes(head)} and {sizes(tail)}.")
    _check_rows(entities, rows, length)
    level = _level(threshold, relations)
    found = []
    for row, spans in enumerate(entities):
        best = list(spans[: MOST * length])
        sides = []
        for scores, places in ((head, [s.start for s in best]), (tail, [s.end - 1 for s in best])):
            at = torch.tensor(places, dtype=torch.int64, device=scores[0].device)
            if isinstance(scores, SpanScores):
                pair, start, end = (x[row].detach() for x in scores)
                part = SpanScores(pair[at][:, at], start[:, at], end[:, at]).dense()
            else:
                part = scores[row][:, at][:, :, at].detach()
            sides.append(part.transpose(0, 1))
        found.append(_above(best, sides[0], sides[1], level))
    return found


def decide_objects(
    entities: Sequence[Sequence[Span]], starts: Tensor, ends: Tensor, *, threshold: float | Tensor = 0.0
) -> list[list[Triple]]:
    """Predict triples from tags of objects given a subject: the decision of :class:`manyhot.CascadeTagger`.

    An entity is the object of a relation where the tags of its first and of its last token, given the subject, both
    score above the threshold.

    Args:
        entities: the entities of each row, each of which is a subject.
        starts: (subjects, relations, length), scores of tokens as the first of an object; subjects are the entities of
            all rows, in their order.
        ends: the same, as the last.
        threshold: a number or (relations,).

    Returns:
        The triples of each row, best first, ties by subject, relation and object; `score` is the lower of the two.

    Raises:
        ValueError: shapes that do not fit, or an entity beyond the scores.

    Example:
        >>> import torch, manyhot
        >>> entities = [[], [manyhot.Span(0, 2, 0, 3.0), manyhot.Span(3, 4, 1, 2.0)]]
        >>> starts, ends = torch.full((2, 2, 1, 4), -5.0)  # two subjects, one relation
        >>> starts[0, 0, 3], ends[0, 0, 3] = 2.0, 1.0
        >>> [[(t.subject[:2], t.relation, t.object[:2]) for t in row] for row in
        ...     manyhot.decide_objects(entities, starts, ends)]
        [[], [((0, 2), 0, (3, 4))]]

    References:
        Wei et al., CasRel, arXiv 1909.03227; Su, kexue.fm/archives/7161.
    """
    if starts.ndim != 3 or starts.shape != ends.shape or len(starts) != sum(map(len, entities)):
        raise ValueError(
            "starts and ends must both have shape (subjects, relations, length), a subject being an entity; got "
            f"{tuple(starts.shape)}, {tuple(ends.shape)} and {sum(map(len, entities))} entities."
        )
    _check_rows(entities, len(entities), starts.shape[2])
    level = _level(threshold, starts.shape[1])
    found, first = [], 0
    for spans in entities:
        sides = []
        for scores, places in ((starts, [s.start for s in spans]), (ends, [s.end - 1 for s in spans])):
            at = torch.tensor(places, dtype=torch.int64, device=scores.device)
            sides.append(scores[first : first + len(spans)][:, :, at].detach())
        found.append(_above(spans, sides[0], sides[1], level))
        first += len(spans)
    return found


def _above(spans: Sequence[Span], head: Tensor, tail: Tensor, level: Tensor) -> list[Triple]:
    """Return the triples of a row from (subjects, relations, objects) of two sides; NaN is never chosen."""
    score = torch.minimum(head, tail).float()
    rank = score - level.to(score.device)
    cells = (rank > 0).nonzero()
    ranks, scores = (x[cells.unbind(-1)].cpu().numpy() for x in (rank, score))
    s, r, o = cells.cpu().numpy().T
    border = np.array([span[:3] for span in spans], dtype=np.int64).reshape(-1, 3)
    order = np.lexsort((*border[o].T[::-1], r, *border[s].T[::-1], -ranks))
    return [Triple(spans[s[n]], int(r[n]), spans[o[n]], float(scores[n])) for n in order]


def _level(threshold: float | Tensor, relations: int) -> Tensor:
    level = torch.as_tensor(threshold, dtype=torch.float32)
    if level.shape not in ((), (relations,)):
        raise ValueError(f"threshold must be a number or one a relation, ({relations},); got {tuple(level.shape)}.")
    return level.detach().view(-1, 1)


def _check_rows(entities: Sequence[Sequence[Span]], rows: int, length: int) -> None:
    if len(entities) != rows:
        raise ValueError(
            f"entities must be a list of spans for each of the {rows} rows of scores, got {len(entities)}."
        )
    for row, spans in enumerate(entities):
        for span in spans:
            if not 0 <= span[0] < span[1] <= length:
                raise ValueError(f"entities: row {row} has a span {tuple(span[:3])} beyond its {length} tokens.")
