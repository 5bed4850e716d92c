"""ZLPR over spans: every cell (type, first token, last token) is a label of its (sentence, type) row.

neg = log sum of e^s over valid cells without a gold span      pos = log sum of e^-s over gold cells
loss = softplus(neg) + softplus(pos)                           predict s > 0

Where scores are pair + start + end, the sum over T L^2 cells is L^2 exponentials and one matrix product:
docs/losses/span.md has the proof.
"""

import torch
from torch import Tensor

from manyhot.checks import check_finite, check_scale, check_weights
from manyhot.logsumexp import Impl, logsumexp, logsumexp_of_groups
from manyhot.losses.hyperparameters import LossModule, keep, kept
from manyhot.losses.zlpr import ZLPR, zlpr_loss
from manyhot.reduction import Reduction, reduce
from manyhot.span_scores import SpanScores, sizes
from manyhot.spans import SpanTargets, check_lengths, span_mask
from manyhot.tracing import values_readable


def span_loss(
    scores: Tensor | SpanScores,
    targets: SpanTargets,
    *,
    lengths: Tensor | None = None,
    max_width: int | None = None,
    threshold: float | Tensor = 0.0,
    scale: float = 1.0,
    margin: float = 0.0,
    type_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    triangle: bool = True,
    reduction: Reduction = "mean",
    impl: Impl = "auto",
) -> Tensor:
    r"""Push the cells of gold spans above 0 and all other cells of their sentence below: entities, nested or not.

    .. math::
        \ell_{bt} = \log\Big(1 + \sum_{(i,j)\notin P_{bt}} e^{s_{btij}}\Big)
        + \log\Big(1 + \sum_{(i,j)\in P_{bt}} e^{-s_{btij}}\Big)

    for sentence b, type t, the cells i <= j of the tokens that the sentence has, and the spans P of this type: the
    :func:`manyhot.zlpr_loss` of a (sentence, type) row. None or a few of its thousands of cells are right, and no class
    weight or threshold has to be found; predict with :func:`manyhot.decide_spans`. Give :class:`manyhot.SpanScores`,
    from :class:`manyhot.EfficientSpanPointer` or a head of your own, and no tensor of types x length x length is made.

    Args:
        scores: (rows, types, length, length), any floating dtype, raw scores of (first token, last token); or
            :class:`manyhot.SpanScores`.
        targets: the spans of each row.
        lengths: (rows,) integers, the tokens of each row; what lies beyond has no effect, whatever it is. None: all.
        max_width: widest span in tokens; wider cells are not in the sum and not to be predicted.
        threshold: the score above which a cell is predicted, a number or (types,). As an ``nn.Parameter`` it is
            learned; pass it to `decide_spans` then.
        scale: > 0, sharpness, as in :func:`manyhot.zlpr_loss`.
        margin: >= 0, added on both sides.
        type_weight: (types,), >= 0, multiplies the loss of a type's rows, and counts in the mean as `sample_weight`
            does.
        sample_weight: (rows,) or (rows, types), >= 0.
        triangle: False: cells are pairs of tokens in any order, with :meth:`manyhot.SpanTargets.of_pairs`.
        reduction: `"mean"` over all (sentence, type) rows, with a span or without, of sentences with a token; `"sum"`;
            or `"none"`, (rows, types).
        impl: for a tensor as in :func:`manyhot.signed_logsumexp`. For SpanScores `"auto"` is the factorised sum, and
            `"eager"` writes the scores out: the specification.

    Returns:
        float32 (float64 for float64 scores): a scalar, or (rows, types) for `reduction="none"`.

    Raises:
        TypeError: scores, targets or lengths of another kind.
        ValueError: shapes that do not fit, options out of range and, on the CPU outside of torch.compile, a span beyond
            its row, wider than `max_width` or of no type. :func:`manyhot.validate` checks values anywhere.

    Reduces to:
        :func:`manyhot.zlpr_loss` with the cells as labels: ``targets.listed(types, length)``, and `span_mask` as mask.
        The sum of SpanScores is ``LSE_i(start_i + log_matmul_exp(end, pair^T)_i)``; cells that are gold for any type
        are left out there and added to the sides they are on, so that nothing is subtracted.

    Numerics:
        Factorised and written out agree to rounding, 1e-12 in float64 and 1e-6 in float32, also in second derivatives.
        Where the matrix product would lose digits the sum runs in blocks instead, types x length^2 exponentials; which
        of the two is decided by one look, which on a GPU waits for the device. Under torch.compile the sum is written
        out. Half dtypes are computed in float32. Extra memory is about 3 rows x length^2 numbers.

    Example:
        >>> import torch, manyhot
        >>> scores = torch.tensor([[[[1.0, -1.0], [0.0, 2.0]]]])
        >>> manyhot.span_loss(scores, manyhot.SpanTargets([[(0, 1, 0)]]))  # log(1 + e^-1 + e^2) + log(1 + e^-1)
        tensor(2.4831)
        >>> head = manyhot.EfficientSpanPointer(8, 3)
        >>> loss = manyhot.span_loss(head(torch.zeros(2, 5, 8)), manyhot.SpanTargets([[(0, 2, 1)], []]))

    References:
        Su, kexue.fm/archives/8373 (GlobalPointer) and 8877 (Efficient GlobalPointer); arXiv 2208.03054. The factorised
        sum is ours.
    """
    rows, types, length = sizes(scores)
    if not isinstance(targets, SpanTargets):
        raise TypeError(
            f"targets must be manyhot.SpanTargets; got {type(targets).__name__}. Make them from a list of (start, end, "
            "type) a row, end exclusive."
        )
    targets.check_rows(rows)
    if max_width is not None and (not triangle or max_width < 1):
        raise ValueError(f"max_width must be 1 or more, and goes with triangle=True; got {max_width}.")
    _check_of_types("threshold", threshold, types)
    check_finite("threshold", threshold)
    lengths = _lengths(scores, lengths, rows, length)
    if values_readable(targets.cells, lengths):
        targets.check(types, length, lengths=lengths, max_width=max_width, triangle=triangle)
    weight = _weight(type_weight, sample_weight, rows, types)
    mask = span_mask(lengths, length, max_width=max_width, triangle=triangle)
    if isinstance(scores, SpanScores):
        if impl == "auto":
            check_scale(scale, margin)
            sides = _factorised_sides(_computed(scores), targets, mask, threshold, scale, margin)
            known = (lengths > 0).unsqueeze(-1).expand(rows, types)
            return reduce(ZLPR.formula(*sides), known_rows=known, sample_weight=weight, reduction=reduction)
        if impl != "eager":
            raise ValueError(
                f'impl of SpanScores must be "auto" or "eager"; got {impl!r}. A kernel takes scores.dense().'
            )
        scores = _computed(scores).dense()
    return zlpr_loss(
        scores.flatten(2),
        targets.listed(types, length),
        threshold=_a_column(threshold),
        scale=scale,
        margin=margin,
        mask=mask.flatten(2),
        sample_weight=weight,
        reduction=reduction,
        impl=impl,
    )


class SpanLoss(LossModule):
    """Module form of :func:`span_loss`, same options; tensors become buffers, an ``nn.Parameter`` threshold is learned.

    Example:
        >>> import torch, manyhot
        >>> loss = manyhot.SpanLoss(max_width=4)
        >>> loss(torch.zeros(1, 2, 3, 3), manyhot.SpanTargets([[(0, 2, 1)]]))
        tensor(2.2154)
    """

    def __init__(
        self,
        *,
        max_width: int | None = None,
        threshold: float | Tensor = 0.0,
        scale: float = 1.0,
        margin: float = 0.0,
        type_weight: Tensor | None = None,
        triangle: bool = True,
        reduction: Reduction = "mean",
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        keep(
            self,
            max_width=max_width,
            threshold=threshold,
            scale=scale,
            margin=margin,
            type_weight=type_weight,
            triangle=triangle,
            reduction=reduction,
            impl=impl,
        )

    def forward(
        self,
        scores: Tensor | SpanScores,
        targets: SpanTargets,
        *,
        lengths: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch."""
        return span_loss(scores, targets, lengths=lengths, sample_weight=sample_weight, **kept(self))


# --- the two sums of a (sentence, type) row, each (rows, types) -------------------------------------------------------


def _factorised_sides(
    scores: SpanScores, targets: SpanTargets, mask: Tensor, threshold: float | Tensor, scale: float, margin: float
) -> tuple[Tensor, Tensor]:
    """Return neg and pos from the parts of the scores; the mask is overwritten."""
    rows = len(scores.pair)
    row, first, last = targets.places.unbind(-1)
    # A place that is gold for any type is left out of the factorised sum; its scores enter one by one. All less the
    # positives would lose every digit once the positives are large.
    others = mask.squeeze(1)
    others[row, first, last] = False
    if isinstance(threshold, Tensor):
        threshold = threshold.to(scores.pair.dtype)
    exponents = scores._replace(start=scores.start - _a_column(threshold) + margin)
    if scale != 1:  # a product by 1 would be a copy
        exponents = SpanScores(*(scale * x for x in exponents))
    neg = exponents.logsumexp(others)
    if not len(row):
        return neg, torch.full_like(neg, -torch.inf)
    at = scores.at(targets.places) - threshold
    gold = torch.zeros(at.shape, dtype=torch.bool, device=at.device)
    gold[targets.place, targets.cells[:, 1]] = True
    pos = logsumexp_of_groups(torch.where(gold, -scale * (at - margin), -torch.inf), row, rows)
    beside = logsumexp_of_groups(torch.where(gold, -torch.inf, scale * (at + margin)), row, rows)
    return logsumexp(torch.stack((neg, beside), -1)), pos


# --- what comes in ---------------------------------------------------------------------------------------------------


def _lengths(scores: Tensor | SpanScores, lengths: Tensor | None, rows: int, length: int) -> Tensor:
    device = scores[0].device if isinstance(scores, SpanScores) else scores.device
    if lengths is None:
        return torch.full((rows,), length, device=device)
    check_lengths(lengths, rows, length)
    return lengths.to(device)


def _computed(scores: SpanScores) -> SpanScores:
    """Return the parts in the type that is computed in."""
    dtype = torch.float64 if torch.float64 in (x.dtype for x in scores) else torch.float32
    return SpanScores(*(x.to(dtype) for x in scores))


def _check_of_types(name: str, value: float | Tensor, types: int) -> None:
    if isinstance(value, Tensor) and value.shape not in ((), (types,)):
        raise ValueError(f"{name} must be a number or one a type, ({types},); got {tuple(value.shape)}.")


def _a_column(threshold: float | Tensor) -> float | Tensor:
    """Return what broadcasts to (..., types, labels)."""
    return threshold.unsqueeze(-1) if isinstance(threshold, Tensor) and threshold.ndim else threshold


def _weight(type_weight: Tensor | None, sample_weight: Tensor | None, rows: int, types: int) -> Tensor | None:
    """Return one weight a (sentence, type) row."""
    if sample_weight is not None:
        if sample_weight.shape not in ((rows,), (rows, types)):
            raise ValueError(
                f"sample_weight must be one a row, ({rows},), or ({rows}, {types}); got {tuple(sample_weight.shape)}. "
                "One a type goes to type_weight."
            )
        if sample_weight.ndim == 1:
            sample_weight = sample_weight.unsqueeze(-1)
    if type_weight is None:
        return sample_weight
    _check_of_types("type_weight", type_weight, types)
    check_weights("type_weight", type_weight)
    return type_weight.expand(rows, types) if sample_weight is None else type_weight * sample_weight
