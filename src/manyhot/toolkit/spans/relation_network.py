"""Tokens to scores of entities and of relations: the two designs on top of an encoder."""

from collections.abc import Sequence

import torch
from torch import Tensor

from manyhot.heads.cascade_tagger import CascadeTagger
from manyhot.heads.relation_pointer import RelationPointer
from manyhot.losses.zlpr import zlpr_loss
from manyhot.span_decisions import decide_boundaries
from manyhot.spans import Span, SpanTargets, span_share
from manyhot.toolkit.spans.network import (
    RIVALS,
    SIZE,
    Cnn,
    Entity,
    Gold,
    Prepared,
    Pretrained,
    SpanNetwork,
    decided_cells,
    loss_of_cells,
)
from manyhot.triples import Triple, decide_objects, decide_triples, triple_targets

# Entities and pairs with lower scores make no candidates of triples: there would be thousands a row.
LOWEST_PAIR = -3.0


class RelationNetwork(SpanNetwork):
    """An encoder with the heads of entities and of relations.

    Args:
        encoder: tokens to vectors.
        types: how many types of entities there are.
        max_width: the widest entity, in tokens.
        relations: how many relations there are.
    """

    def linked(
        self,
        rows: Sequence[Prepared],
        lengths: Sequence[int],
        *,
        flat: bool,
        threshold: float = 0.0,
        lowest: float = 0.0,
    ) -> list[tuple[list[Span], list[Triple]]]:
        """Predict entities whose score is above the threshold, and triples of which all scores are above `lowest`."""
        self.eval()
        found: list[tuple[list[Span], list[Triple]]] = [([], []) for _ in rows]
        with torch.no_grad():
            for part, hidden, tokens in self.encoded(rows, lengths):
                spans = self.decided(hidden, tokens, flat=flat, threshold=threshold)
                paired = [[span for span in row if span.score > lowest] for row in spans]
                triples = self.triples(hidden, paired, lowest)
                for i, some, facts in zip(part, spans, triples, strict=True):
                    found[i] = (some, facts)
        return found

    def triples(self, hidden: Tensor, entities: Sequence[Sequence[Span]], threshold: float) -> list[list[Triple]]:
        """Predict the triples of the first rows of a batch, as many as have a list of entities."""
        raise NotImplementedError

    def shift_triples(self, by: float) -> None:
        """Add a number to the scores of all triples."""
        raise NotImplementedError


class Linker(RelationNetwork):
    """GPLinker: three factorised sets of scores."""

    def __init__(self, encoder: Cnn | Pretrained, types: int, max_width: int, relations: int) -> None:
        super().__init__(encoder, types, max_width, RelationPointer(encoder.width, types, relations, size=SIZE))
        self.relations = relations

    def start_at(self, gold: Gold, scale: float) -> None:
        """Let biases begin at so often the logit of the share of cells, and of pairs of tokens."""
        types = span_share(SpanTargets(gold.spans), gold.lengths, self.types, max_width=self.max_width)
        heads, _ = triple_targets(gold.triples)
        relations = span_share(heads, gold.lengths, self.relations, triangle=False)
        self.head.start_at(types, relations, scale=scale)

    def loss(self, name: str, rows: Sequence[Prepared], gold: Gold) -> Tensor:
        """Return the mean of the losses of entities, of pairs of first tokens, and of pairs of last ones."""
        entities, *pairs = self.head(self.encoder(rows, int(gold.lengths.max())))
        device = entities.pair.device
        lengths = gold.lengths.to(device)
        total = loss_of_cells(name, entities, SpanTargets(gold.spans).to(device), lengths, max_width=self.max_width)
        for scores, targets in zip(pairs, triple_targets(gold.triples), strict=True):
            total = total + loss_of_cells(name, scores, targets.to(device), lengths, triangle=False)
        return total / 3

    def decided(self, hidden: Tensor, tokens: Tensor, *, flat: bool, threshold: float) -> list[list[Span]]:
        """Predict the entities of the first rows of a batch."""
        scores = self.head.entities(hidden)
        return decided_cells(scores, tokens, flat=flat, threshold=threshold, max_width=self.max_width)

    def triples(self, hidden: Tensor, entities: Sequence[Sequence[Span]], threshold: float) -> list[list[Triple]]:
        """Look up the two scores of each pair of entities."""
        head, tail = (
            type(scores)(*(x[: len(entities)] for x in scores))
            for scores in (self.head.head(hidden), self.head.tail(hidden))
        )
        return decide_triples(entities, head, tail, threshold=threshold)

    def shift(self, by: float) -> None:
        """Add a number to the scores of entities."""
        with torch.no_grad():
            self.head.entities.end.bias.add_(by)

    def shift_triples(self, by: float) -> None:
        """Add a number to both scores of pairs."""
        with torch.no_grad():
            for pointer in (self.head.head, self.head.tail):
                pointer.end.bias.add_(by)


class Cascade(RelationNetwork):
    """CasRel: tags of entities, then tags of the objects of each relation given one of them."""

    shifts = False

    def __init__(self, encoder: Cnn | Pretrained, types: int, max_width: int, relations: int) -> None:
        super().__init__(encoder, types, max_width, CascadeTagger(encoder.width, types, relations))
        self.relations = relations

    def start_at(self, gold: Gold, scale: float) -> None:
        """Let biases begin at so often the logit of the share of tokens."""
        kinds = [kind for row in gold.spans for *_, kind in row]
        relations = [relation for row in gold.triples for _, relation, _ in row]
        # Every entity is a subject, and the tags of its objects go over its row.
        subjects = sum(len(row) * n for row, n in zip(gold.spans, gold.lengths.tolist(), strict=True))
        self.head.start_at(
            _share(kinds, self.types, int(gold.lengths.sum())), _share(relations, self.relations, subjects), scale=scale
        )

    def loss(self, name: str, rows: Sequence[Prepared], gold: Gold) -> Tensor:
        """Return the mean of the losses of entities and of the objects of one subject a row, drawn."""
        hidden = self.encoder(rows, int(gold.lengths.max()))
        lengths = gold.lengths.to(hidden.device)
        total = _of_tags(name, self.head(hidden), SpanTargets(gold.spans), lengths)
        drawn = [[_one_of(spans)] if spans else [] for spans in gold.spans]
        rows_of = [row for row, subjects in enumerate(drawn) if subjects]
        if not rows_of:
            return total / 2
        objects = [
            [(*thing[:2], relation) for other, relation, thing in gold.triples[row] if other[:2] == drawn[row][0][:2]]
            for row in rows_of
        ]
        tags = self.head.objects(hidden, drawn)
        return (total + _of_tags(name, tags, SpanTargets(objects), lengths[rows_of])) / 2

    def decided(self, hidden: Tensor, tokens: Tensor, *, flat: bool, threshold: float) -> list[list[Span]]:
        """Predict entities above 0, whatever the threshold: with more starts, a start has another nearest end."""
        starts, ends = (x[: len(tokens)] for x in self.head(hidden))
        decided = decide_boundaries(starts, ends, lengths=tokens, flat=flat)
        return [
            [span for span in spans if span.end - span.start <= self.max_width][: 2 * n]
            for spans, n in zip(decided, tokens.tolist(), strict=True)
        ]

    def triples(self, hidden: Tensor, entities: Sequence[Sequence[Span]], threshold: float) -> list[list[Triple]]:
        """Take each entity as a subject and tag its objects."""
        found = []
        for row, spans in enumerate(entities):  # each by itself: the tags of all their subjects are large
            starts, ends = self.head.objects(hidden[row : row + 1], [spans])
            found += decide_objects([spans], starts, ends, threshold=threshold)
        return found

    def shift(self, by: float) -> None:
        """Do nothing: entities have no threshold."""

    def shift_triples(self, by: float) -> None:
        """Add a number to the tags of objects."""
        with torch.no_grad():
            self.head.tags.boundaries.bias.add_(by)


DESIGNS: dict[str, type[Linker | Cascade]] = {"gplinker": Linker, "cascade": Cascade}


def _of_tags(name: str, tags: tuple[Tensor, Tensor], targets: SpanTargets, lengths: Tensor) -> Tensor:
    """Return the loss of starts and ends, the mean over (row, type, side)."""
    logits = torch.cat(tags, 1)
    rows, sides, length = logits.shape
    mask = (torch.arange(length, device=logits.device) < lengths.view(-1, 1, 1)).expand(rows, sides, length)
    true = targets.boundaries(sides // 2, length).to(logits.device)
    if name == "zlpr":
        return zlpr_loss(logits, true, mask=mask)
    return RIVALS[name](*(x.flatten(0, 1) for x in (logits, true.dense(length) == 1, mask)))


def _share(kinds: Sequence[int], number: int, places: int) -> Tensor:
    """Estimate the share of places of each kind, as :func:`manyhot.span_share` does of cells."""
    return (torch.bincount(torch.tensor(kinds, dtype=torch.int64), minlength=number) + 0.5) / (places + 1)


def _one_of(spans: Sequence[Entity]) -> Entity:
    return spans[int(torch.randint(len(spans), ()))]
