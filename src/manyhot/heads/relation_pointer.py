"""Scores of entities and of pairs of them from the vectors of tokens: GPLinker in the form that factorises."""

from torch import Tensor, nn

from manyhot.heads.span_pointer import EfficientSpanPointer
from manyhot.span_scores import SpanScores


class RelationPointer(nn.Module):
    """Score spans as entities, and pairs of tokens as the first, and as the last, of a subject and an object.

    Three :class:`manyhot.EfficientSpanPointer`, those of pairs without rotary positions: how far apart a subject and
    an object are says little. Each has its :func:`manyhot.span_loss`, those of pairs with ``triangle=False`` and the
    targets of :func:`manyhot.triple_targets`; the loss is their mean. Predict with :func:`manyhot.decide_spans`, then
    :func:`manyhot.decide_triples`. Nothing of size relations x length x length is made.

    Args:
        features: size of a token's vector.
        num_types: how many types of entities there are.
        num_relations: how many relations there are.
        size: even, of queries and keys.

    Shape:
        (rows, length, features) to three :class:`manyhot.SpanScores`: entities, of num_types; heads and tails, of
        num_relations.

    Example:
        >>> import torch, manyhot
        >>> pointer = manyhot.RelationPointer(16, num_types=3, num_relations=2, size=8)
        >>> entities, head, tail = pointer(torch.zeros(1, 5, 16))
        >>> heads, tails = manyhot.triple_targets([[((0, 2, 1), 0, (4, 5, 2))]])
        >>> loss = manyhot.span_loss(entities, manyhot.SpanTargets([[(0, 2, 1), (4, 5, 2)]]))
        >>> for scores, pairs in ((head, heads), (tail, tails)):
        ...     loss = loss + manyhot.span_loss(scores, pairs, triangle=False)

    References:
        Su, kexue.fm/archives/8888.
    """

    def __init__(self, features: int, num_types: int, num_relations: int, *, size: int = 64) -> None:
        super().__init__()
        self.entities = EfficientSpanPointer(features, num_types, size=size)
        self.head = EfficientSpanPointer(features, num_relations, size=size, rotary=False)
        self.tail = EfficientSpanPointer(features, num_relations, size=size, rotary=False)

    def start_at(self, types: Tensor, relations: Tensor, *, scale: float = 0.5) -> None:
        """Let biases begin at ``scale * logit(share)`` of the cells of each type, and of the pairs of each relation.

        :func:`manyhot.span_share` counts both, that of pairs with ``triangle=False``.
        """
        self.entities.start_at(types, scale=scale)
        self.head.start_at(relations, scale=scale)
        self.tail.start_at(relations, scale=scale)

    def forward(self, hidden: Tensor) -> tuple[SpanScores, SpanScores, SpanScores]:
        """Score the entities and the pairs of a batch."""
        return self.entities(hidden), self.head(hidden), self.tail(hidden)
