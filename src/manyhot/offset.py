r"""One offset for all labels, read off logits of rows that training did not see.

A label is predicted where s + b > 0 and the row's number of labels lies in the range of training. By held-out rows b is
where the mean of micro- and macro-F1 is highest: where labels are predicted well as many labels as there are, where
they are not, more, since the best threshold for a probability is half of the best F1.
"""

from typing import Any, Literal, NamedTuple, overload

import numpy as np

from manyhot.calibration import fit_calibration
from manyhot.decisions import decide_above
from manyhot.labels import CardinalityRange, cardinality_range, known_of, written_out
from manyhot.promises import PrecisionDecision, promise
from manyhot.targets import array_of

# Offsets are tried at which so many times the true number of labels are predicted.
SHARES = tuple(np.geomspace(0.25, 4, 33))


class Decision(NamedTuple):
    """How logits become label sets: what :func:`fit_decision` reads off held-out rows.

    Attributes:
        offset: b, added to every logit.
        min_labels: the least that a row is given.
        max_labels: the most.
    """

    offset: float
    min_labels: int
    max_labels: int

    def decide(self, logits: Any) -> Any:
        """Predict label sets: :func:`manyhot.decide` of logits (..., labels), a tensor or an array."""
        return decide_above(logits, self.offset, min_labels=self.min_labels, max_labels=self.max_labels)


@overload
def fit_decision(logits: Any, targets: Any, *, best: Literal["f1", "cardinality"] = "f1") -> Decision: ...
@overload
def fit_decision(logits: Any, targets: Any, *, precision: float) -> PrecisionDecision: ...
def fit_decision(
    logits: Any, targets: Any, *, best: Literal["f1", "cardinality"] = "f1", precision: float | None = None
) -> Decision | PrecisionDecision:
    r"""Find the offset and the range of labels a row by held-out rows, as `manyhot train` does.

    .. math::
        \hat y_i = 1 \iff s_i + b > 0, \qquad b = \arg\max_b \tfrac12 (\text{micro-F1} + \text{macro-F1})

    With `precision` each label has its own offset instead: the lowest threshold above which held-out rows promise that
    so many of the predictions are right (the page on decisions says how). A label without such a threshold is never
    predicted, and a row may be left without any.

    Logits of rows that the model learned from are too sure: give rows that it has not seen, best all training rows,
    each predicted by a model that was fitted without it (:func:`manyhot.stratified_split`).

    Args:
        logits: (rows, labels) of a loss such as :func:`manyhot.zlpr_loss` or binary cross-entropy; finite.
        targets: (rows, labels), 0/1, with NaN, -1 and -100 where nobody knows, or sparse or listed ones.
        best: "f1", the best mean of micro- and macro-F1; or "cardinality", as many labels as there are.
        precision: above 0 and below 1, such as 0.9; `best` has no part in it.

    Returns:
        The offset and the range of :func:`manyhot.cardinality_range`. `min_labels` holds for every offset. With
        `precision` a :class:`PrecisionDecision`: an offset for each label, what is promised of it, and which labels are
        too rare for a promise.

    Raises:
        ValueError: shapes that do not fit, logits that are not finite, no row with a known target, another `best`, a
            precision that is none.

    Example:
        >>> import torch, manyhot
        >>> logits = torch.tensor([[1.0, -1.0, -3.0], [-0.5, 2.0, -2.0], [-4.0, -0.2, 3.0]])
        >>> targets = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1]])
        >>> found = manyhot.fit_decision(logits, targets)
        >>> -0.5 + found.offset > 0 > -1 + found.offset
        True
        >>> bool((found.decide(logits) == targets).all())
        True

    References:
        Lipton, Elkan and Naryanaswamy 2014, arXiv 1402.1892: why F1 asks for more labels than there are.
    """
    if best not in ("f1", "cardinality"):
        raise ValueError(f"fit_decision expects best='f1' or 'cardinality'; got {best!r}.")
    if precision is not None and not (isinstance(precision, int | float) and 0 < precision < 1):
        raise ValueError(f"fit_decision expects a precision above 0 and below 1, such as 0.9; got {precision!r}.")
    scores = np.asarray(array_of(logits), dtype=np.float32)
    if scores.ndim != 2:
        raise ValueError(f"fit_decision expects logits of shape (rows, labels); got {scores.shape}.")
    if not np.isfinite(scores).all():
        raise ValueError("fit_decision expects finite logits; got NaN or an infinite value.")
    values = written_out(targets, scores.shape[1])
    if values.shape != scores.shape:
        raise ValueError(f"fit_decision expects targets of the logits' shape {scores.shape}; got {values.shape}.")
    cardinality, known = cardinality_range(targets), known_of(values)
    truth: np.ndarray = values > 0
    if precision is not None:
        cells = np.where(known, truth, -1).astype(np.int8)
        return promise(scores, cells, fit_calibration(scores, cells), precision, max_labels=cardinality.max_labels)
    if best == "cardinality":
        offset = right_offset(scores, int((truth & known).sum()), cardinality, None if known.all() else known)
    else:
        cells = truth if known.all() else np.where(known, truth, -1).astype(np.int8)
        offset = best_offset(scores, cells, cardinality)[1]
    return Decision(offset, *cardinality)


def best_offset(logits: np.ndarray, targets: np.ndarray, cardinality: CardinalityRange) -> tuple[float, float]:
    """Find the offset with the best mean of micro- and macro-F1: that mean, and the offset.

    Those are tried at which a quarter to four times the true number of labels are predicted. A row predicts at least a
    and at most b labels whatever the offset is, so only its (a+1)-th to b-th best logits move: ranked once, each offset
    costs two counts of labels. Unknown cells are ranked with the others, as in use, and count neither way.
    """
    low, labels, true = cardinality.min_labels, logits.shape[1], (targets > 0).sum(0)
    measured: np.ndarray = np.any(targets >= 0, axis=0)
    high = min(cardinality.max_labels, labels)
    order = np.argpartition(-logits, min(high, labels - 1), axis=1)[:, :high]
    values = np.take_along_axis(logits, order, 1)
    best_first = np.argsort(-values, axis=1, kind="stable")
    order, values = np.take_along_axis(order, best_first, 1), np.take_along_axis(values, best_first, 1)
    truth = np.take_along_axis(targets, order, 1)
    hit, known = truth > 0, truth >= 0
    cells = known if targets.dtype != bool else np.ones(known.shape, dtype=bool)
    rank = np.broadcast_to(np.arange(high), order.shape)
    return best_offset_among(rank[cells], order[cells], values[cells], hit[cells], low, true, measured)


def best_offset_among(
    rank: np.ndarray,
    label: np.ndarray,
    values: np.ndarray,
    right: np.ndarray,
    low: int,
    true: np.ndarray,
    measured: np.ndarray,
) -> tuple[float, float]:
    """Find the offset among the cells that may be predicted, those beyond the most of a row left out.

    Args:
        rank: (cells,), the place of each in its row, from 0, best first.
        label: (cells,).
        values: (cells,), logits.
        right: (cells,) bool, where the row has the label.
        low: labels that every row is given.
        true: (labels,), how many rows have each.
        measured: (labels,) bool, those that macro-F1 has.

    Returns:
        The best mean of micro- and macro-F1, and its offset.
    """
    labels = len(true)
    moving = np.flatnonzero(rank >= low)
    ranked = moving[np.argsort(-values[moving], kind="stable")]
    falling: np.ndarray = values[ranked]
    sure = rank < low
    sure, sure_hits = label[sure], label[sure & right]
    label, right = label[ranked], right[ranked]

    def counts(above: int) -> tuple[np.ndarray, np.ndarray]:
        """Count hits and predictions of each label, with so many beside those that every row has."""
        moved = label[:above], label[:above][right[:above]]
        preds, hits = (
            np.bincount(always, minlength=labels) + np.bincount(more, minlength=labels)
            for always, more in zip((sure, sure_hits), moved, strict=True)
        )
        return hits, preds

    best = (-1.0, 0.0)
    places = {round(share * true.sum()) - sure.size for share in SHARES}
    inside = sorted(place for place in places if 0 < place < falling.size)
    for offset in (0.0, *(-(float(falling[place - 1]) + float(falling[place])) / 2 for place in inside)):
        hits, preds = counts(int(np.searchsorted(-falling, offset)))
        score = mean_f1_of_counts(hits, preds + true, measured)
        if score > best[0]:
            best = (score, offset)
    return best


def right_offset(
    logits: np.ndarray, labels: int, cardinality: CardinalityRange, known: np.ndarray | None = None
) -> float:
    """Find the offset at which `labels` labels are predicted in all rows together; `known` says which cells count.

    A row predicts at least a and at most b labels whatever the offset is. So only its (a+1)-th to b-th best logits
    count, and the offset lifts just the right number of these above 0: no search, one order statistic. 0 where none or
    all of them are wanted, which leaves the range to decide.
    """
    low, high = cardinality
    sure = low * len(logits)
    if known is None:
        ranked = -np.partition(-logits, range(low, high), axis=1)[:, low:high] if high > low else logits[:, :0]
    else:
        order = np.argsort(-logits, axis=1, kind="stable")[:, :high]
        known = np.take_along_axis(known, order, 1)
        ranked, sure = np.take_along_axis(logits, order, 1)[:, low:][known[:, low:]], int(known[:, :low].sum())
    return offset_of_rank(ranked, labels - sure)


def offset_of_rank(values: np.ndarray, wanted: int) -> float:
    """Return the offset at which so many of some logits are above 0; 0 where that is none or all of them."""
    values = np.sort(values.ravel())[::-1]
    if not 0 < wanted < values.size:
        return 0.0
    return -float(values[wanted - 1] + values[wanted]) / 2


def mean_f1(preds: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean of micro- and macro-F1, by counts: for every tau scikit-learn would take most of the time."""
    known, true = targets >= 0, targets > 0
    given = preds.astype(bool) & known
    return mean_f1_of_counts((given & true).sum(0), given.sum(0) + true.sum(0), np.any(known, axis=0))


def mean_f1_of_counts(hits: np.ndarray, sizes: np.ndarray, measured: np.ndarray) -> float:
    """Return the mean of micro- and macro-F1, given (labels,) hits, predictions plus positives, and what macro-F1 has.

    A label of which no row is known is in no macro-F1.
    """
    f1 = (2 * hits / np.maximum(sizes, 1))[measured]
    return float(2 * hits.sum() / max(sizes.sum(), 1) + (f1.mean() if f1.size else 0)) / 2
