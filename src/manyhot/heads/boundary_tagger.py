"""Tags of tokens that begin and that end a span: half pointer, half tagging."""

import torch
from torch import Tensor, nn

from manyhot.heads.span_pointer import set_bias


class BoundaryTagger(nn.Module):
    """Score each token as the first and as the last of a span of each type.

    Its loss is :func:`manyhot.zlpr_loss` of 2 x num_types rows of tokens a sentence, and a start goes with the nearest
    end of its type (:func:`manyhot.decide_boundaries`). Cheaper than a pointer, and without spans of one type that lie
    inside each other.

    Args:
        features: size of a token's vector.
        num_types: how many types of spans there are.

    Shape:
        (rows, length, features) to (starts, ends), each (rows, num_types, length).

    Example:
        >>> import torch, manyhot
        >>> starts, ends = manyhot.BoundaryTagger(16, num_types=3)(torch.zeros(2, 5, 16))
        >>> targets = manyhot.SpanTargets([[(0, 2, 1)], []])
        >>> inside = (torch.arange(5) < torch.tensor([[5], [3]])).unsqueeze(1)
        >>> loss = manyhot.zlpr_loss(torch.cat((starts, ends), 1), targets.boundaries(3, 5), mask=inside)

    References:
        Su, kexue.fm/archives/7161; CasRel, arXiv 1909.03227.
    """

    def __init__(self, features: int, num_types: int) -> None:
        super().__init__()
        self.boundaries = nn.Linear(features, 2 * num_types)

    def start_at(self, share: Tensor, *, scale: float = 0.5) -> None:
        """Let starts and ends of each type begin at ``scale * logit(share)``, share (num_types,) that of its tokens."""
        types = self.boundaries.bias.shape[0] // 2
        if share.shape != (types,):
            raise ValueError(
                f"share must have one number a type, ({types},), of tokens that begin a span; got {tuple(share.shape)}."
            )
        set_bias(self.boundaries.bias, torch.cat((share, share)), scale)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Score the tokens of a batch."""
        starts, ends = self.boundaries(hidden).mT.chunk(2, 1)
        return starts, ends
