r"""Newton's method on the log-loss of :math:`\sigma(a_i s_i + o_i)`: slope and offset of many labels at once."""

from collections.abc import Callable

import numpy as np

ITERATIONS, HALVINGS = 100, 30
_FLAT = 1e-12

# Scores, truth and which cells are known, (rows, labels) each.
Block = tuple[np.ndarray, np.ndarray, np.ndarray]
# (which labels, their slopes, their offsets) to (6, labels) of sums.
Sums = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def taken(block: Block, some: np.ndarray | slice) -> Block:
    """Copy some labels, so that each array lies together in memory."""
    scores, truth, known = (np.ascontiguousarray(values[:, some]) for values in block)
    return scores, truth, known


def log_loss_sums(
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


def minimised(
    sums: Sums, slope: np.ndarray, offset: np.ndarray, precision: tuple[float, float]
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
    for _ in range(ITERATIONS):
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
        for _ in range(HALVINGS):
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
