"""Plots as inline SVG: drawn by matplotlib, coloured by the page, so that they follow its light and dark mode.

Names from data are never drawn: matplotlib would read a dollar sign as mathematics and has no glyphs for many scripts.
"""

import io
import re
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from manyhot.toolkit.errors import visible

# Drawn in these, which no plot needs, and replaced by what the page calls them.
INK, MUTED, GRID, FIRST, SECOND = "#000001", "#000002", "#000003", "#000004", "#000005"
PAGE_COLOURS = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "manyhot",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}
WIDTH, HEIGHT = 5.6, 3.3
# Three of the small ones stand beside each other.
SMALL_WIDTH, SMALL_HEIGHT = 4.0, 2.6
SMALL_PLACE = (0.2, 0.19, 0.765, 0.76)
METHOD = 26  # letters of a method's name that have room beside a plot
Place = tuple[float, float, float, float]  # left, bottom, width, height
PLACE: Place = (0.125, 0.155, 0.84, 0.82)
# One of several beside each other, with room for numbers alone.
SMALL: dict[str, Any] = {"width": 2.6, "height": 1.35, "place": (0.17, 0.17, 0.78, 0.77)}
TWO_SCALES: Place = (0.125, 0.155, 0.72, 0.82)


def drawn(
    name: str,
    title: str,
    description: str,
    draw: Callable[[Axes], Any],
    *,
    width: float = WIDTH,
    height: float = HEIGHT,
    place: Place = PLACE,
) -> Markup:
    """Draw one plot as SVG for the inside of a page: `name` begins its ids, title and description are for listeners.

    `place` is where the axes stand, as shares of the figure: finding it by measuring texts takes longer than drawing.
    """
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # Texts stay texts: whoever shows the page has the fonts.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font")
        figure = Figure(figsize=(width, height))
        draw(figure.add_axes(place))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = visible(buffer.getvalue())
    size = re.search(r'viewBox="[^"]*"', svg)
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.S)
    body = body[body.index(">") + 1 :].replace("xlink:href", "href")
    # Ids are of the page, which has several plots; those that nothing names are left out.
    named = set(re.findall(r"#([\w-]+)[\")]", body))
    body = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in named else "", body)
    body = re.sub(r'(url\(|href=")#([\w-]+)', rf"\1#{name}-\2", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r" transform=\"rotate\(-0 [^\"]*\"", "", body)
    body = re.sub(r"(\.\d\d)\d{4,}", r"\1", body)
    for drawn_in, called in PAGE_COLOURS.items():
        body = body.replace(drawn_in, called)
    body = re.sub(r"\n\s*", "\n", body)
    heading = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    return Markup(
        f'<svg {size[0] if size else ""} role="img" aria-labelledby="{name}-title {name}-desc">{heading}{body}'
    )


def plot_reliability(sums: list[list[float]], *, what: str, name: str = "reliability", small: bool = False) -> Markup:
    """Draw the share that is true against the stated probability, with 95 % intervals, ten steps of probability.

    A small one is one of several: what its axes are stands beside them.
    """
    counts, probs, truth = np.asarray(sums)
    full = counts > 0
    n, mean, share = counts[full], probs[full] / counts[full], truth[full] / counts[full]
    low, high = wilson(share, n)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
        axes.vlines(mean, low, high, color=FIRST, linewidth=1.5)
        axes.plot(mean, share, color=FIRST, marker="o", markersize=3 if small else 5, linewidth=1.2)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        if small:
            axes.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        else:
            axes.set(xlabel="stated probability", ylabel=f"share of {what}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol="" if small else "%"))

    said = "; ".join(f"stated {m:.0%}, true {s:.0%} of {int(c):,}" for m, s, c in zip(mean, share, n, strict=True))
    title = "Stated probabilities and how often they are true"
    return drawn(name, title, f"{said}.", draw, **(SMALL if small else {}))


def wilson(share: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval of a share of n by Wilson's formula, which stays inside 0 and 1."""
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def plot_sizes(
    predicted: list[int], true: list[int], *, name: str = "sizes", most: int = 30, small: bool = False
) -> Markup:
    """Draw how many rows have 0, 1, 2, ... labels, as predicted and truly; the last bar takes all above `most`.

    A small one is one of several: what its axes are stands beside them.
    """
    length = max(len(predicted), len(true))
    counts = np.zeros((2, min(length, most + 1)), dtype=np.int64)
    for i, given in enumerate((true, predicted)):
        np.add.at(counts[i], np.minimum(np.arange(len(given)), counts.shape[1] - 1), given)
    x = np.arange(counts.shape[1])

    def draw(axes: Axes) -> None:
        axes.bar(x - 0.2, counts[1], 0.4, color=FIRST)
        axes.bar(x + 0.2, counts[0], 0.4, color=SECOND)
        axes.grid(axis="x", visible=False)
        if not small:
            above = f" ({most} and more at {most})" if length > most + 1 else ""
            axes.set(xlabel=f"labels of a row{above}", ylabel="rows")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6 if small else 12, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4 if small else 6, integer=True))

    said = "; ".join(f"{i}: {t:,} true, {p:,} predicted" for i, (t, p) in enumerate(counts.T.tolist()))
    return drawn(name, "Rows by the number of their labels", f"{said}.", draw, **(SMALL if small else {}))


def plot_counts(
    name: str, title: str, counts: list[int], edges: list[int], *, xlabel: str, ylabel: str = "rows"
) -> Markup:
    """Draw a small histogram of whole numbers: counts of those from one edge to before the next."""

    def draw(axes: Axes) -> None:
        axes.stairs(counts, edges, color=FIRST, fill=True)
        axes.grid(axis="x", visible=False)
        axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(edges[0], edges[-1]), ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))

    said = "; ".join(
        f"{low}{f' to {high - 1}' if high - low > 1 else ''}: {count:,}"
        for count, (low, high) in zip(counts, pairwise(edges), strict=True)
        if count
    )
    return _small(name, title, said, draw)


def plot_bars(name: str, title: str, counts: list[int], *, xlabel: str, most: int = 30) -> Markup:
    """Draw how many rows have 0, 1, 2, ... of something; the last bar takes all above `most`."""
    bars = [*counts[:most], sum(counts[most:])] if len(counts) > most + 1 else counts

    def draw(axes: Axes) -> None:
        axes.bar(range(len(bars)), bars, 0.7, color=FIRST)
        axes.grid(axis="x", visible=False)
        axes.set(xlabel=xlabel + (f" ({most}: and more)" if len(counts) > most + 1 else ""), ylabel="rows")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))

    return _small(name, title, "; ".join(f"{i}: {count:,}" for i, count in enumerate(bars) if count), draw)


def plot_frequencies(name: str, title: str, counts: list[int], *, xlabel: str) -> Markup:
    """Draw the rows of each label, the most frequent first, on a scale of powers of ten."""
    rows = sorted(counts, reverse=True)

    def draw(axes: Axes) -> None:
        axes.stairs(np.maximum(rows, 0.8), np.arange(len(rows) + 1) + 0.5, baseline=0.8, color=FIRST, fill=True)
        axes.set(xlabel=xlabel, ylabel="training rows", yscale="log", xlim=(0.5, len(rows) + 0.5), ylim=(0.8, None))
        axes.grid(axis="x", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.minorticks_off()

    middle = rows[len(rows) // 2]
    return _small(name, title, f"From {rows[0]:,} down to {rows[-1]:,}; half of them have {middle:,} or more", draw)


def _small(name: str, title: str, said: str, draw: Callable[[Axes], Any]) -> Markup:
    def draw_rows(axes: Axes) -> None:
        draw(axes)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))

    return drawn(name, title, f"{said}.", draw_rows, width=SMALL_WIDTH, height=SMALL_HEIGHT, place=SMALL_PLACE)


def _short(rows: float) -> str:
    """Write a number of rows for a tick, which has room for 9,999: beyond, 10k and 1M."""
    if rows < 10_000:
        return f"{rows:,g}"
    return f"{rows / 1e3:g}k" if rows < 1e6 else f"{rows / 1e6:g}M"


def plot_scores(scores: dict[str, list[Any]], *, name: str = "scores", small: bool = False) -> Markup:
    """Draw how the scores of labels that rows have and of those they do not have are distributed, each adding to 1.

    A small one is one of several: what its axes are stands beside them.
    """
    edges = np.asarray(scores["edges"])
    positives, negatives = (np.asarray(scores[side], dtype=float) for side in ("positives", "negatives"))

    def draw(axes: Axes) -> None:
        for values, colour in ((negatives, SECOND), (positives, FIRST)):
            axes.stairs(values / max(values.sum(), 1), edges, color=colour, fill=True, alpha=0.35)
            axes.stairs(values / max(values.sum(), 1), edges, color=colour, linewidth=1.2)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set(ylim=(0, None))
        if small:
            axes.locator_params(nbins=4)
        else:
            axes.set(xlabel="score (a label is predicted above 0)", ylabel="share")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    above = [values[(edges[:-1] + edges[1:]) / 2 > 0].sum() / max(values.sum(), 1) for values in (positives, negatives)]
    said = (
        f"About {above[0]:.0%} of the labels that rows have score above 0, and {above[1]:.1%} of those they have not."
    )
    title = "Scores of labels that rows have, and of those they have not"
    return drawn(name, title, said, draw, **(SMALL if small else {}))


def plot_steps(steps: list[dict[str, Any]]) -> Markup:
    """Draw loss and F1, or of classes accuracy and F1, on held-out rows against the penalty that was tried."""
    tried = sorted(steps, key=lambda step: step["C"])
    x = [step["C"] for step in tried]
    first = "accuracy" if "accuracy" in tried[0]["metrics"] else "micro_f1"
    name = {"accuracy": "accuracy", "micro_f1": "micro-F1"}[first]
    curves = [[step["metrics"][key] for step in tried] for key in (first, "macro_f1")]
    loss = [step["loss"] for step in tried]

    def draw(axes: Axes) -> None:
        axes.plot(x, curves[0], color=FIRST, marker="o", markersize=4)
        axes.plot(x, curves[1], color=SECOND, marker="s", markersize=4)
        axes.set(
            xscale="log",
            xlabel="C (larger: weaker penalty)",
            ylabel="accuracy, macro-F1" if first == "accuracy" else "F1",
        )
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        right = axes.twinx()
        right.plot(x, loss, color=MUTED, linestyle=(0, (4, 3)), marker=".", markersize=5)
        right.set(ylabel="loss (dashed)")
        right.grid(visible=False)
        right.spines["right"].set_visible(True)
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.minorticks_off()

    said = "; ".join(
        f"C {C:g}: {name} {a:.1%}, macro-F1 {b:.1%}, loss {c:.4f}" for C, a, b, c in zip(x, *curves, loss, strict=True)
    )
    return drawn("steps", "What was tried", f"{said}.", draw, place=TWO_SCALES)


def plot_curve(losses: list[float | None], scores: list[float | None], *, unit: str) -> Markup:
    """Draw the loss of each step of training, and the score of rows held out where they say when to stop.

    There, all rows are fitted after that, from the beginning and for as many steps as were best. A loss of None, which
    was not finite, is a gap.
    """
    held = [score for score in scores if score is not None]
    first, second = np.split(np.array(losses, dtype=float), [len(held)])
    finite = second[np.isfinite(second)]

    def draw(axes: Axes) -> None:
        axes.plot(range(1, len(second) + 1), second, color=FIRST, linewidth=1.5)
        axes.set(xlabel=unit, ylabel="loss")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        if held:
            axes.plot(range(1, len(first) + 1), first, color=FIRST, linewidth=1, linestyle=(0, (4, 3)))
            right = axes.twinx()
            right.plot(range(1, len(held) + 1), held, color=SECOND, linewidth=1.5)
            right.axvline(len(second), color=MUTED, linewidth=1)
            right.set(ylabel="score of rows held out")
            right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            right.grid(visible=False)
            right.spines["right"].set_visible(True)

    said = "No loss is finite"
    if finite.size:
        said = f"The loss goes from {finite[0]:.4f} to {finite[-1]:.4f} in {len(second)} {unit}s"
    if held:
        said += f"; the score of rows held out is best at {max(held):.1%}, and {held[-1]:.1%} after {len(held)}"
    return drawn("curve", "The last fit", f"{said}.", draw, place=TWO_SCALES if held else PLACE)


def plot_epochs(curves: list[list[float]], *, name: str) -> Markup:
    """Draw the score of rows held out after each epoch, a line a fit."""

    def draw(axes: Axes) -> None:
        for scores in curves:
            axes.plot(range(1, len(scores) + 1), scores, color=FIRST, linewidth=1.5)
        axes.set(xlabel="epoch", ylabel="micro-F1", ylim=(0, 1))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    said = "; ".join(
        f"after 1, 2, 3 epochs {', '.join(f'{score:.1%}' for score in scores[:3])}, at best {max(scores):.1%}"
        for scores in curves
        if scores
    )
    return drawn(name, "Score of rows held out by epoch", f"{said}.", draw)


def plot_forest(name: str, title: str, rows: list[tuple[str, float, tuple[float, float] | None, bool]]) -> Markup:
    """Draw a value with its interval a line: (method, value, interval, ours); methods are named by the command."""

    def draw(axes: Axes) -> None:
        for y, (_, value, interval, ours) in enumerate(rows):
            colour = FIRST if ours else SECOND
            if interval:
                axes.hlines(y, *interval, color=colour, linewidth=2)
            axes.plot([value], [y], color=colour, marker="o" if ours else "s", markersize=6)
        axes.set_yticks(range(len(rows)), [method[:METHOD] for method, *_ in rows], parse_math=False)
        axes.set(ylim=(len(rows) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))

    said = "; ".join(
        f"{method} {value:.1%}" + (f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else "")
        for method, value, interval, _ in rows
    )
    height = 0.6 + 0.32 * len(rows)
    place = (0.4, 0.35 / height, 0.55, 1 - 0.4 / height)
    return drawn(name, f"{title} of each method", f"{said}.", draw, height=height, place=place)
