"""What every row-wise loss is: the two sums of a row, one line in them, and a reduction."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from manyhot.kernels import native
from manyhot.logsumexp import Impl, checked, dense, implementation, sums
from manyhot.losses.reduction import Reduction, apply, equal_weight, reduce, row_weights
from manyhot.targets import known_rows


class Link(NamedTuple):
    """The line in (neg, pos). A kernel that knows the name computes line and reduction with the sums."""

    name: str
    formula: Callable[[Tensor, Tensor], Tensor]


def row_loss(
    link: Link,
    logits: Tensor,
    targets: Any,
    *,
    threshold: float | Tensor = 0.0,
    scale: float = 1.0,
    margin: float = 0.0,
    mask: Tensor | None = None,
    label_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    impl: Impl = "auto",
) -> Tensor:
    """Compute a row-wise loss; the options are those of :func:`manyhot.zlpr_loss`."""
    batch = checked(logits, targets, threshold, scale, margin, mask, label_weight)
    impl = implementation(batch, impl)
    if impl == "native" and (sample_weight is None or not sample_weight.requires_grad):
        # Where all rows count alike and one number comes out, the kernel adds up as well.
        alike = sample_weight is None and reduction != "none"
        equal = equal_weight(logits.shape[:-1].numel(), reduction) if alike else None

        def weigh(loss: Tensor, known: Tensor | None) -> Tensor | float:
            return row_weights(loss, known, sample_weight, reduction)

        return native.loss(batch, link.name, equal, weigh, lambda weights, loss: apply(weights, loss, reduction))
    if impl == "eager":
        batch = dense(batch)
    loss = link.formula(*sums(batch, impl))
    return reduce(loss, known_rows=known_rows(batch.targets, mask), sample_weight=sample_weight, reduction=reduction)
