r"""Logits to probabilities, and how far probabilities can be trusted.

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

from manyhot.labels import known_of, written_out
from manyhot.targets import array_of, check_finite, tensor_of

Array = TypeVar("Array", Tensor, np.ndarray)

# Precisions of normal priors: a label's own slope and offset are drawn to the common ones, and these to 1 and 0.
# benchmarks/calibration.py compares them with other strengths and with a least number of positives, on training rows.
SLOPE_PRECISION = 3.0
OFFSET_PRECISION = 1.0
# A slope of 0 or less would turn a label's ranking round; it stays above this part of the common one.
LEAST_SLOPE = 0.01
# Of a pass over a block of labels: about so many numbers are held at once.
_BLOCK = 4_000_000
_ITERATIONS, _HALVINGS = 100, 30
_FLAT = 1e-12
_TINY = 2.0**-52


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
    return _sigmoid(2 * np.float32(scale) * (wide - np.asarray(threshold, dtype=wide.dtype)))


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
    scores, truth, known = _checked(logits, targets, "logits")
    if not np.isfinite(scores).all():
        row = int((~np.isfinite(scores)).any(1).argmax())
        raise ValueError(f"logits must be finite; got NaN or an infinite one in row {row}.")
    if not known.any():
        raise ValueError("fit_calibration needs known targets; every target is unknown.")
    if truth.ndim == 1:
        return _fit_classes(scores, truth)
    rows, labels = scores.shape
    step = max(1, _BLOCK // rows)
    blocks = [_taken((scores, truth, known), slice(first, first + step)) for first in range(0, labels, step)]

    def pooled(some: np.ndarray, slope: np.ndarray, offset: np.ndarray) -> np.ndarray:
        sums = [_sums(*block, slope, offset).sum(1) for block in blocks]
        return np.sum(sums, axis=0)[:, None]

    def separate(block: _Block) -> _Sums:
        # Labels that have arrived are left out: most arrive early, and each evaluation goes over all rows.
        return lambda some, slope, offset: _sums(*(block if some.all() else _taken(block, some)), slope, offset)

    slope, offset = _newton(pooled, np.ones(1), np.zeros(1), (SLOPE_PRECISION, OFFSET_PRECISION))
    slope = np.maximum(slope, LEAST_SLOPE)
    least = LEAST_SLOPE * slope
    slopes, offsets = [], []
    for block in blocks:
        start = np.repeat(slope, block[0].shape[1]), np.repeat(offset, block[0].shape[1])
        own, shift = _newton(separate(block), *start, (SLOPE_PRECISION, OFFSET_PRECISION))
        if (turned := own < least).any():
            # Held at the least slope, such a label has its offset left to find.
            own[turned] = least
            held = own[turned], np.repeat(offset, turned.sum())
            _, shift[turned] = _newton(separate(_taken(block, turned)), *held, (np.inf, OFFSET_PRECISION))
        slopes.append(own)
        offsets.append(shift)
    return Calibration(1 / np.concatenate(slopes), np.concatenate(offsets))


def calibration_metrics(probs: Any, targets: Any, *, bins: int = 15) -> dict[str, Any]:
    r"""Measure how far probabilities can be trusted: expected calibration error, Brier score and log-loss.

    .. math::
        \mathrm{ECE} = \sum_b \frac{n_b}{n} \, |\bar t_b - \bar p_b|, \qquad
        \mathrm{Brier} = \overline{(p - t)^2}, \qquad
        \mathrm{log\,loss} = -\overline{t \log p + (1-t) \log(1-p)}

    The bins are adaptive: they hold about as many probabilities each, and equal ones are never parted. Brier score and
    log-loss are proper: no other probabilities than the true ones have a better mean. The ECE is not; of few rows it is
    above 0 also for the true ones.

    Args:
        probs: (rows, labels), in [0, 1].
        targets: (rows, labels), 0/1 or shares, unknown where -1, -100 or NaN; listed or sparse; or (rows,) class ids,
            -1 and -100 unknown, where each row has one class.
        bins: >= 1.

    Returns:
        - `ece`, `brier`, `log_loss`: over all known cells. Of class ids `ece` is that of the most probable class,
          `brier` the sum over the classes of a row and `log_loss` that of the row's class, means over rows.
        - `label_ece`, `label_brier`, `label_log_loss`: (labels,), of each label or class by itself; NaN where no target
          is known.

    Raises:
        ValueError: shapes that differ, values outside [0, 1], no known target, bins below 1.

    Numerics:
        In float64; a probability of exactly 0 or 1 is taken as 2^-52 or 1 - 2^-52 in the log-loss, as scikit-learn
        does.

    Example:
        >>> import numpy as np, manyhot
        >>> probs, targets = np.array([[0.9, 0.2], [0.6, 0.1]]), np.array([[1, 0], [0, 0]])
        >>> measured = manyhot.calibration_metrics(probs, targets, bins=2)
        >>> round(measured["brier"], 4), round(measured["ece"], 4)
        (0.105, 0.2)

    References:
        Adaptive bins: Nguyen and O'Connor 2015; Nixon et al. 2019 (arXiv 1904.01685).
    """
    if bins < 1:
        raise ValueError(f"bins must be 1 or more; got {bins}.")
    given, truth, known = _checked(probs, targets, "probs")
    if not ((given >= 0) & (given <= 1)).all():
        row = int((~((given >= 0) & (given <= 1))).any(1).argmax())
        raise ValueError(f"probs must lie in [0, 1]; got others in row {row}. Logits go to Calibration.probs first.")
    if not known.any():
        raise ValueError("calibration_metrics needs known targets; every target is unknown.")
    ids = truth if truth.ndim == 1 else None
    if ids is not None:
        truth = (ids[:, None] == np.arange(given.shape[1])).astype(np.float64)
    inside = np.clip(given, _TINY, 1 - _TINY)
    log_loss = -(truth * np.log(inside) + (1 - truth) * np.log1p(-inside))
    square = (given - truth) ** 2
    counts = known.sum(0)
    with np.errstate(invalid="ignore"):
        of_labels = {
            "label_ece": np.array(
                [_ece(given[k, i], truth[k, i], bins) if k.any() else np.nan for i, k in enumerate(known.T)]
            ),
            "label_brier": (square * known).sum(0) / counts,
            "label_log_loss": (log_loss * known).sum(0) / counts,
        }
    if ids is None:
        overall = {
            "ece": _ece(given[known], truth[known], bins),
            "brier": float(square[known].mean()),
            "log_loss": float(log_loss[known].mean()),
        }
    else:
        best = given.argmax(1)
        overall = {
            "ece": _ece(given.max(1), (best == ids).astype(np.float64), bins),
            "brier": float(square.sum(1).mean()),
            "log_loss": float(-np.log(inside[np.arange(len(ids)), ids]).mean()),
        }
    return overall | of_labels


def _ece(probs: np.ndarray, truth: np.ndarray, bins: int) -> float:
    order = np.argsort(probs, kind="stable")
    probs, truth = probs[order], truth[order]
    # Equal probabilities go where the first of them falls.
    first = np.searchsorted(probs, probs, side="left")
    place = first * bins // len(probs)
    gaps = np.bincount(place, truth - probs, minlength=bins)
    return float(np.abs(gaps).sum() / len(probs))


# Scores, truth and which cells are known, (rows, labels) each.
_Block = tuple[np.ndarray, np.ndarray, np.ndarray]
# (which labels, their slopes, their offsets) to (6, labels) of sums.
_Sums = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _taken(block: _Block, some: np.ndarray | slice) -> _Block:
    """Copy some labels, so that each array lies together in memory."""
    scores, truth, known = (np.ascontiguousarray(values[:, some]) for values in block)
    return scores, truth, known


def _sums(
    scores: np.ndarray, truth: np.ndarray, known: np.ndarray, slope: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    """Sum over known rows: (6, labels) of log-loss, its two first and three second derivatives."""
    z = scores * slope
    z += offset
    small = np.exp(-np.abs(z))
    p = np.where(z >= 0, 1, small) / (1 + small)
    loss = np.maximum(z, 0) + np.log1p(small) - truth * z
    r, v = p - truth, p * (1 - p)
    if not known.all():
        loss, r, v = loss * known, r * known, v * known
    moments = [np.einsum("rl,rl->l", x, scores) for x in (r, v)]
    square = np.einsum("rl,rl,rl->l", v, scores, scores)
    return np.stack([loss.sum(0), moments[0], r.sum(0), square, moments[1], v.sum(0)])


def _newton(
    sums: _Sums, slope: np.ndarray, offset: np.ndarray, precision: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise sums + precision/2 (distance to the start)^2 of each label; an infinite precision holds the slope."""
    held = np.isinf(precision[0])
    tight, loose = (0.0 if held else precision[0]), precision[1]
    start = slope, offset

    def at(some: np.ndarray, slope: np.ndarray, offset: np.ndarray) -> np.ndarray:
        value = sums(some, slope, offset)
        far, near = slope - start[0][some], offset - start[1][some]
        value[0] += (tight * far**2 + loose * near**2) / 2
        value[1] += tight * far
        value[2] += loose * near
        value[3] += tight
        value[5] += loose
        return value

    slope, offset = slope.copy(), offset.copy()
    some = np.ones(len(slope), dtype=bool)
    now = at(some, slope, offset)
    for _ in range(_ITERATIONS):
        value, ga, go, haa, hao, hoo = now
        # Where all rows are fitted to rounding nothing curves any more.
        haa, hoo = haa + _FLAT, hoo + _FLAT
        if held:
            to_slope, to_offset = np.zeros_like(ga), -go / hoo
        else:
            size = np.maximum(haa * hoo - hao**2, _FLAT * haa * hoo)
            to_slope, to_offset = -(hoo * ga - hao * go) / size, -(haa * go - hao * ga) / size
        moving = -(ga * to_slope + go * to_offset) > 1e-12 * (1 + value)
        if not moving.any():
            break
        some[some] = moving
        now, to_slope, to_offset = now[:, moving], to_slope[moving], to_offset[moving]
        # Halve the step of a label until its sum falls; one that rounding alone keeps from falling has arrived.
        length, worse, after = np.ones_like(to_slope), np.ones(to_slope.shape, dtype=bool), now
        for _ in range(_HALVINGS):
            after = at(some, slope[some] + length * to_slope, offset[some] + length * to_offset)
            worse = ~(after[0] <= now[0])
            if not worse.any():
                break
            length[worse] /= 2
        length[worse] = 0
        slope[some] += length * to_slope
        offset[some] += length * to_offset
        now = np.where(worse, now, after)[:, ~worse]
        some[some] = ~worse
        if not some.any():
            break
    return slope, offset


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
    for _ in range(_ITERATIONS):
        means = (options * p).sum(2)
        gradient = (means - options[:, each, ids]).sum(1) + precision * (numbers - start)
        hessian = np.einsum("irc,jrc,rc->ij", options, options, p) - means @ means.T
        step = np.linalg.solve(hessian + np.diag(precision), -gradient)
        if -gradient @ step <= 1e-12 * (1 + value):
            break
        for _ in range(_HALVINGS):
            after, p_after = loss_of(numbers + step)
            if after <= value:
                numbers, value, p = numbers + step, after, p_after
                break
            step = step / 2
        else:
            break
    slope = max(numbers[0], LEAST_SLOPE)
    return Calibration(np.full(classes, 1 / slope), numbers[1] * log_frequency, classes=True)


def _checked(values: Any, targets: Any, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values and targets in float64 (class ids as integers), and which targets are known."""
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
    return np.where(known, values, 0.0), truth, known


def _sigmoid(z: np.ndarray) -> np.ndarray:
    # Through the exponential of what is not positive: small probabilities keep their digits.
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, small) / (1 + small)


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
