"""A line search for many problems side by side, each with a step of its own."""

from collections.abc import Callable

import numpy as np

# Armijo's and Wolfe's constants, and how often a step is changed. Where a look at a step takes no product, exact steps
# are cheap: with 0.9 in place of 0.25, Reuters at C = 1000 is after ten iterations at twice the objective.
SLOPE, CURVATURE, TRIES = 1e-4, 0.25, 6
# The value of a loss in float32 is not known better than this, and no step is refused for less.
ROUNDING = 2.0**-20


def search(
    along: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    value: np.ndarray,
    slope: np.ndarray,
    start: np.ndarray,
    live: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Find a step for each problem that meets Wolfe's strong conditions, or else Armijo's; 0 where there is none.

    Args:
        along: steps (problems,) and the problems to look at, a mask, to the values and slopes of these. What it saw
            last of each belongs to the step that is returned.
        value, slope: (problems,) at 0.
        start: (problems,), what is tried first.
        live: (problems,), a mask of those that move at all.

    Returns:
        The steps, and the values there.
    """
    low, value_low, slope_low = np.zeros_like(value), value.copy(), slope.copy()
    high, value_high, slope_high = np.full_like(value, np.inf), np.full_like(value, np.inf), np.zeros_like(value)
    t, values, slopes = np.where(live, start, 0.0), value.copy(), slope.copy()
    enough, noise = -CURVATURE * slope, ROUNDING * np.abs(value)
    tried, unmoved = live.copy(), ~live
    if unmoved.any():
        along(t, unmoved)
    for _ in range(TRIES):
        if not tried.any():
            break
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            values[tried], slopes[tried] = along(t, tried)
            above = ~(values <= value + SLOPE * t * slope + noise) | np.isnan(slopes)
            tried &= above | (np.abs(slopes) > enough)
            up = tried & (above | (slopes >= 0))
            down = tried & ~up
            wider = _further(low, slope_low, t, slopes)
            high, value_high, slope_high = _put(up, (t, values, slopes), (high, value_high, slope_high))
            low, value_low, slope_low = _put(down, (t, values, slopes), (low, value_low, slope_low))
            between = _between(low, value_low, slope_low, high, value_high, slope_high)
            t = np.where(tried, np.where(np.isinf(high), wider, between), t)
    if tried.any():
        t = np.where(tried, low, t)
        values[tried], _ = along(t, tried)
    return t, values


def _put(where: np.ndarray, new: tuple[np.ndarray, ...], old: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return [np.where(where, a, b) for a, b in zip(new, old, strict=True)]


def _further(before: np.ndarray, slope_before: np.ndarray, t: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Go where the slope is 0 if it goes on as it did; at least twice, at most ten times as far."""
    rise = (slope - slope_before) / (t - before)
    return np.where(rise > 0, np.clip(t - slope / rise, 2 * t, 10 * t), 10 * t)


def _between(low, value_low, slope_low, high, value_high, slope_high) -> np.ndarray:
    """Return the minimum of the cubic through both ends, away from them; the middle where there is none."""
    width = high - low
    bend = slope_low + slope_high - 3 * (value_high - value_low) / width
    root = np.sqrt(bend * bend - slope_low * slope_high)
    t = high - width * (slope_high + root - bend) / (slope_high - slope_low + 2 * root)
    return np.where(np.isfinite(t), np.clip(t, low + width / 10, high - width / 10), low + width / 2)
