"""How far probabilities can be trusted: calibration error, Brier score and log-loss."""

from typing import Any

import numpy as np

from manyhot.calibration import checked_rows

# What a probability of 0 or 1 is taken as, in a logarithm.
_TINY = 2.0**-52


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
    said = "probs must lie in [0, 1]; got others in row {row}. Logits go to Calibration.probs first."
    given, truth, known = checked_rows(probs, targets, "probs", lambda p: (p >= 0) & (p <= 1), said)
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
