r"""Logits to probabilities.

After training on soft targets the probability stands in the logit, and :func:`proba` reads it off. After training on
hard targets it does not: with many labels a row the optimum satisfies :math:`\sigma(a s) = p` with an a between 1 and 2
that depends on the data (mathematics.md, section 1), and a prior or an offset moves the logits once more. So there one
temperature and one offset are fitted on held-out rows, for all labels and for each (:func:`fit_calibration`).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from manyhot.checks import check_finite
from manyhot.labels import known_of, written_out
from manyhot.newton import HALVINGS, ITERATIONS, Block, Sums, log_loss_sums, minimised, taken
from manyhot.targets import array_of, tensor_of

Array = TypeVar("Array", Tensor, np.ndarray)

# Precisions of normal priors: a label's own slope and offset are drawn to the common ones, and these to 1 and 0.
# benchmarks/calibration.py compares them with other strengths and with a least number of positives, on training rows.
SLOPE_PRECISION = 3.0
OFFSET_PRECISION = 1.0
# A slope of 0 or less would turn a label's ranking round; it stays above this part of the common one.
LEAST_SLOPE = 0.01
# A pass over a block of labels holds about this many numbers at once.
_BLOCK = 4_000_000


def proba(logits: Array, *, scale: float = 1.0, threshold: float | Any = 0.0) -> Array:
    r"""Warning: for soft targets alone; after 0/1 targets use :func:`fit_calibration`. Logits to probabilities.

    .. math::
        p_i = \sigma(2 \gamma (s_i - s_0))

    Exact after training on soft targets: the minimum of the soft :func:`manyhot.zlpr_loss` is at these probabilities,
    whatever margin and label weights are. After training on hard targets it is too sure or not sure enough.

    Args:
        logits: (..., labels), a tensor or an array.
        scale: gamma of the loss, > 0.
        threshold: s0 of the loss: a number, or values that broadcast to logits.

    Returns:
        Probabilities, shape of logits, float32 or the logits' own if wider: a tensor for a tensor (differentiable), an
        array for an array.

    Raises:
        ValueError: a scale that is not above 0, a threshold that is not finite.

    Example:
        >>> import torch, manyhot
        >>> logits = torch.tensor([0.5, -1.0], requires_grad=True)
        >>> manyhot.zlpr_loss(logits, manyhot.proba(logits).detach()).backward()
        >>> logits.grad.abs().max() < 1e-6
        tensor(True)

    References:
        Su, kexue.fm/archives/9064.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be above 0; got {scale}.")
    if isinstance(logits, Tensor):
        if not isinstance(threshold, int | float | Tensor):
            threshold = tensor_of(threshold)
        check_finite("threshold", threshold)
        threshold = threshold.to(logits.device) if isinstance(threshold, Tensor) else threshold
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return torch.sigmoid(2 * scale * (wide - threshold))
    if not np.isfinite(np.asarray(threshold)).all():
        raise ValueError("threshold must be finite; got NaN or an infinite one.")
    values = np.asarray(logits)
    wide = values.astype(np.float64 if values.dtype == np.float64 else np.float32, copy=False)
    return _sigmoid(2 * wide.dtype.type(scale) * (wide - np.asarray(threshold, dtype=wide.dtype)))


class Calibration(NamedTuple):
    r"""Temperature and offset of each label; :func:`fit_calibration` finds them.

    .. math::
        p_i = \sigma(s_i / T_i + o_i) \qquad\text{or, of classes,}\qquad p = \mathrm{softmax}(s / T + o)

    Attributes:
        temperature: (labels,), > 0, float64.
        offset: (labels,), float64.
        classes: each row has one class, so that the probabilities of a row sum to 1.
    """

    temperature: np.ndarray
    offset: np.ndarray
    classes: bool = False

    def probs(self, logits: Array) -> Array:
        """Return the probability of each label.

        Args:
            logits: (..., labels), a tensor or an array.

        Returns:
            Probabilities, shape of logits, in float32 or the logits' own type if wider: a tensor for a tensor, an array
            for an array.

        Raises:
            ValueError: another number of labels.
        """
        if isinstance(logits, Tensor):
            return torch.from_numpy(self.probs(array_of(logits))).to(logits.device)
        values = np.asarray(logits)
        if values.shape[-1:] != self.temperature.shape:
            raise ValueError(
                f"logits must have {len(self.temperature)} labels, as the calibration has; got shape {values.shape}."
            )
        scaled = values / self.temperature + self.offset
        probs = _softmax(scaled) if self.classes else _sigmoid(scaled)
        return probs.astype(np.float64 if values.dtype == np.float64 else np.float32, copy=False)


def fit_calibration(logits: Any, targets: Any) -> Calibration:
    r"""Fit temperature and offset on rows that the model was not trained on.

    One slope a = 1/T and one offset o for all labels minimise the log-loss of the rows; then each label has its own,
    drawn to the common ones the more, the less its rows say, as the common ones are drawn to 1 and 0:

    .. math::
        \min_{a_i, o_i} \sum_{\text{rows}} -\log p(t_i \mid a_i s_i + o_i)
        + \tfrac{3}{2} (a_i - a)^2 + \tfrac{1}{2} (o_i - o)^2

    So a label with thousands of positives has its own and one with three keeps nearly the common, and there is no least
    number of positives to choose. The ranking within a label stays as it is.

    Args:
        logits: (rows, labels), of held-out or cross-fitted rows; on training rows the result is too sure.
        targets: (rows, labels), 0/1 or shares in [0, 1], unknown where -1, -100 or NaN; listed or sparse; or (rows,)
            class ids, -1 and -100 unknown, where each row has one class: then one temperature and a multiple of the log
            frequency of classes are fitted.

    Returns:
        A :class:`Calibration`.

    Raises:
        ValueError: shapes that differ, no known target, targets outside [0, 1], or logits of known cells that are not
            finite.

    Numerics:
        Newton's method in float64 on a convex problem of two numbers a label.

    Example:
        >>> import numpy as np, manyhot
        >>> random = np.random.default_rng(0)
        >>> logits = random.normal(size=(4000, 3))
        >>> targets = random.random((4000, 3)) < 1 / (1 + np.exp(-2 * logits))  # so that p = sigma(2 s)
        >>> manyhot.fit_calibration(logits, targets).temperature.round(1)
        array([0.5, 0.5, 0.5])

    References:
        Platt 1999; temperature scaling, Guo et al. 2017 (arXiv 1706.04599). That labels share what they have in common
        is ours.
    """
    scores, truth, known = checked_rows(
        logits, targets, "logits", np.isfinite, "logits must be finite; got NaN or an infinite one in row {row}."
    )
    if not known.any():
        raise ValueError("fit_calibration needs known targets; every target is unknown.")
    if truth.ndim == 1:
        return _fit_classes(scores, truth)
    rows, labels = scores.shape
    step = max(1, _BLOCK // rows)
    blocks = [taken((scores, truth, known), slice(first, first + step)) for first in range(0, labels, step)]

    def pooled(some: np.ndarray, slope: np.ndarray, offset: np.ndarray) -> np.ndarray:
        sums = [log_loss_sums(*block, slope, offset).sum(1) for block in blocks]
        return np.sum(sums, axis=0)[:, None]

    def separate(block: Block) -> Callable[[np.ndarray], Sums]:
        def of_labels(of: np.ndarray) -> Sums:
            these = block if len(of) == block[0].shape[1] else taken(block, of)
            # Labels that have arrived are left out: most arrive early, and each evaluation goes over all rows.
            return lambda some, slope, offset: log_loss_sums(
                *(these if some.all() else taken(these, some)), slope, offset
            )

        return of_labels

    slope, offset = minimised(pooled, np.ones(1), np.zeros(1), (SLOPE_PRECISION, OFFSET_PRECISION))
    slope = np.maximum(slope, LEAST_SLOPE)
    parts = [_own(separate(block), np.arange(block[0].shape[1]), slope, offset) for block in blocks]
    temperature, offset = (np.concatenate(of) for of in zip(*parts, strict=True))
    return Calibration(temperature, offset)


def fit_listed_calibration(scores: np.ndarray, truth: np.ndarray, label: np.ndarray, labels: int) -> Calibration:
    """Fit as :func:`fit_calibration` does on some cells alone, such as the best few labels of each row.

    The probability is that of a label among these; what is said of others takes it for granted that they are like them.

    Args:
        scores: (cells,), finite logits.
        truth: (cells,) bool.
        label: (cells,), of which label each is.
        labels: how many there are.
    """
    scores, truth = scores.astype(np.float64), truth.astype(np.float64)
    known = np.ones((1, 1), dtype=bool)

    def pooled(some: np.ndarray, slope: np.ndarray, offset: np.ndarray) -> np.ndarray:
        return log_loss_sums(scores[:, None], truth[:, None], known, slope, offset)

    def separate(of: np.ndarray) -> Sums:
        def sums(some: np.ndarray, slope: np.ndarray, offset: np.ndarray) -> np.ndarray:
            mine = np.flatnonzero(some)
            place = np.full(labels, -1)
            place[of[mine]] = np.arange(len(mine))
            at = place[label]
            cells = at >= 0
            at = at[cells]
            of_cells = log_loss_sums(scores[None, cells], truth[None, cells], known, slope[at], offset[at])
            return np.stack([np.bincount(at, values, minlength=len(mine)) for values in of_cells])

        return sums

    slope, offset = minimised(pooled, np.ones(1), np.zeros(1), (SLOPE_PRECISION, OFFSET_PRECISION))
    slope = np.maximum(slope, LEAST_SLOPE)
    return Calibration(*_own(separate, np.arange(labels), slope, offset))


def _own(
    separate: Callable[[np.ndarray], Sums], of: np.ndarray, slope: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit temperature and offset of some labels by themselves, drawn to the common slope and offset."""
    own, shift = minimised(
        separate(of), np.repeat(slope, len(of)), np.repeat(offset, len(of)), (SLOPE_PRECISION, OFFSET_PRECISION)
    )
    least = LEAST_SLOPE * slope
    if (turned := own < least).any():
        # Held at the least slope, such a label has its offset left to find.
        own[turned] = least
        held = own[turned], np.repeat(offset, turned.sum())
        _, shift[turned] = minimised(separate(of[turned]), *held, (np.inf, OFFSET_PRECISION))
    return 1 / own, shift


def _fit_classes(scores: np.ndarray, ids: np.ndarray) -> Calibration:
    """Fit softmax(a s + b log(frequency)), a and b drawn to 1 and 0 as the common numbers of labels are."""
    rows, classes = scores.shape
    log_frequency = np.log((np.bincount(ids, minlength=classes) + 0.5) / (rows + 0.5 * classes))
    options = np.stack([scores, np.broadcast_to(log_frequency, scores.shape)])
    each = np.arange(rows)
    start, precision = np.array([1.0, 0.0]), np.array([SLOPE_PRECISION, OFFSET_PRECISION])

    def loss_of(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        z = np.tensordot(numbers, options, 1)
        z -= z.max(1, keepdims=True)
        p = np.exp(z)
        total = p.sum(1, keepdims=True)
        far = numbers - start
        return float((np.log(total[:, 0]) - z[each, ids]).sum() + precision @ far**2 / 2), p / total

    numbers = start
    value, p = loss_of(numbers)
    for _ in range(ITERATIONS):
        means = (options * p).sum(2)
        gradient = (means - options[:, each, ids]).sum(1) + precision * (numbers - start)
        hessian = np.einsum("irc,jrc,rc->ij", options, options, p) - means @ means.T
        step = np.linalg.solve(hessian + np.diag(precision), -gradient)
        if -gradient @ step <= 1e-12 * (1 + value):
            break
        for _ in range(HALVINGS):
            after, p_after = loss_of(numbers + step)
            if after <= value:
                numbers, value, p = numbers + step, after, p_after
                break
            step = step / 2
        else:
            break
    slope = max(numbers[0], LEAST_SLOPE)
    return Calibration(np.full(classes, 1 / slope), numbers[1] * log_frequency, classes=True)


def checked_rows(
    values: Any, targets: Any, name: str, fine: Callable[[np.ndarray], np.ndarray], said: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values and targets in float64 (class ids as integers), and which targets are known.

    Known values must be `fine`, or else it is `said` with the first {row} where one is not. Of class ids the rows that
    nobody knows are left out of what is returned.
    """
    values = np.asarray(array_of(values), dtype=np.float64)
    truth = written_out(targets, values.shape[-1] if values.ndim else 0)
    if values.ndim != 2 or not values.size or truth.shape not in (values.shape, values.shape[:1]):
        raise ValueError(
            f"{name} must have shape (rows, labels) with at least one row, and targets the same or, as class ids, "
            f"(rows,); got {values.shape} and {truth.shape}."
        )
    known = known_of(truth)
    if truth.ndim == 1:
        if truth.dtype.kind not in "iu":
            raise ValueError(f"class ids must be whole numbers in 0 to {values.shape[1] - 1}; got {truth.dtype}.")
        wrong = known & ((truth < 0) | (truth >= values.shape[1]))
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"class ids must be whole numbers in 0 to {values.shape[1] - 1}, or -1 or -100 where unknown; "
                f"got {truth[row]} in row {row}."
            )
        _refuse(np.asarray(known & ~fine(values).all(1)), said)
        values, truth = values[known], truth[known]
        return values, truth, np.ones(values.shape, dtype=bool)
    truth = np.where(known, truth, 0).astype(np.float64)
    wrong = ~((truth >= 0) & (truth <= 1))
    if wrong.any():
        row, label = np.argwhere(wrong)[0]
        raise ValueError(
            "targets must lie in [0, 1], or be -1, -100 or NaN where unknown; "
            f"got {truth[row, label]:g} in row {row}, label {label}."
        )
    # An unknown cell may hold anything.
    wrong_values: np.ndarray = known & ~fine(values)
    _refuse(np.asarray(wrong_values.any(1)), said)
    return np.where(known, values, 0.0), truth, known


def _refuse(rows: np.ndarray, said: str) -> None:
    if rows.any():
        raise ValueError(said.format(row=int(rows.argmax())))


def _sigmoid(z: np.ndarray) -> np.ndarray:
    # Through the exponential of what is not positive: small probabilities keep their digits.
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, small) / (1 + small)


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
