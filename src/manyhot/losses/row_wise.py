"""What every row-wise loss is: the two sums of a row, one line in them, and a reduction."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from manyhot.batch import Batch, dense
from manyhot.kernels import native
from manyhot.logsumexp import Impl, implementation, sums
from manyhot.reduction import Reduction, reduce


class Link(NamedTuple):
    """The line in (neg, pos). A kernel that knows the name computes line and reduction with the sums."""

    name: str
    formula: Callable[[Tensor, Tensor], Tensor]


def row_loss(link: Link, batch: Batch, *, sample_weight: Tensor | None, reduction: Reduction, impl: Impl) -> Tensor:
    """Compute a row-wise loss; the options are those of :func:`manyhot.zlpr_loss`."""
    impl = implementation(batch, impl)
    if impl == "native" and (sample_weight is None or not sample_weight.requires_grad):
        return native.loss(batch, link.name, sample_weight, reduction)
    if impl == "eager":
        batch = dense(batch)
    loss = link.formula(*sums(batch, impl))
    return reduce(loss, known_rows=batch.known_rows(), sample_weight=sample_weight, reduction=reduction)
