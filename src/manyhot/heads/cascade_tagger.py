"""Tags of subjects, then tags of the objects of each relation given one subject: the half pointer of triples."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyhot.heads.boundary_tagger import BoundaryTagger


class CascadeTagger(nn.Module):
    r"""Tag the entities of a row, each of which may be a subject; then, given one of them, its objects by relation.

    .. math::
        x_i = (1 + \gamma(v))\,\mathrm{LayerNorm}(h_i) + \beta(v), \qquad v = [h_{\mathrm{first}}; h_{\mathrm{last}}]

    with gamma and beta linear in the vectors v of the subject's first and last tokens, both 0 at the beginning. Were
    the subject only added to the vectors of tokens, linear tags would see it as a bias of the relation.

    Both are two rows of tokens a type or a relation, with :func:`manyhot.zlpr_loss`. To train, sample one subject a
    row: the tags of all would cost as many passes as there are entities. Predict with
    :func:`manyhot.decide_boundaries`, then :meth:`objects` of all entities and :func:`manyhot.decide_objects`.

    Args:
        features: size of a token's vector.
        num_types: how many types of entities there are.
        num_relations: how many relations there are.

    Shape:
        (rows, length, features) to (starts, ends), each (rows, num_types, length).

    Example:
        >>> import torch, manyhot
        >>> tagger = manyhot.CascadeTagger(16, num_types=3, num_relations=2)
        >>> hidden = torch.zeros(2, 5, 16)
        >>> starts, ends = tagger(hidden)
        >>> starts, ends = tagger.objects(hidden, [[(0, 2)], []])  # of row 0 the span of tokens 0 and 1
        >>> objects = manyhot.SpanTargets([[(4, 5, 0)]])  # a row a subject, the relation in place of the type
        >>> loss = manyhot.zlpr_loss(torch.cat((starts, ends), 1), objects.boundaries(2, 5))

    References:
        Wei et al., CasRel, arXiv 1909.03227; Su, kexue.fm/archives/7161, and 7124 for the normalisation that the
        subject conditions.
    """

    def __init__(self, features: int, num_types: int, num_relations: int) -> None:
        super().__init__()
        self.subjects = BoundaryTagger(features, num_types)
        self.given = nn.Linear(2 * features, 2 * features)
        self.tags = BoundaryTagger(features, num_relations)
        nn.init.zeros_(self.given.weight)
        nn.init.zeros_(self.given.bias)

    def start_at(self, types: Tensor, relations: Tensor, *, scale: float = 0.5) -> None:
        """Let biases begin at ``scale * logit(share)`` of the tokens that begin an entity, or, given one, an object."""
        self.subjects.start_at(types, scale=scale)
        self.tags.start_at(relations, scale=scale)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Score the tokens of a batch as the first and the last of an entity."""
        return self.subjects(hidden)

    def objects(self, hidden: Tensor, subjects: Sequence[Sequence[Sequence[Any]]]) -> tuple[Tensor, Tensor]:
        """Score tokens as the first and the last of an object, given a subject.

        Args:
            hidden: (rows, length, features).
            subjects: a list of spans (start, end, ...) a row, end exclusive: one a row or none to train, to predict all
                that :func:`manyhot.decide_boundaries` returns.

        Returns:
            (starts, ends), each (subjects, num_relations, length), the subjects of all rows in their order.

        Raises:
            ValueError: another number of rows, or a subject beyond its row.
        """
        rows, length, _ = hidden.shape
        places = [(row, span[0], span[1] - 1) for row, spans in enumerate(subjects) for span in spans]
        if len(subjects) != rows or any(not 0 <= first <= last < length for _, first, last in places):
            raise ValueError(f"subjects must be a list of spans for each of {rows} rows of {length} tokens.")
        at = torch.tensor(places, dtype=torch.int64, device=hidden.device).view(-1, 3)
        row, first, last = at.unbind(-1)
        subject = torch.cat((hidden[row, first], hidden[row, last]), -1)
        gain, shift = self.given(subject).unsqueeze(1).chunk(2, -1)
        normal = F.layer_norm(hidden, hidden.shape[-1:])
        return self.tags((1 + gain) * normal[row] + shift)
