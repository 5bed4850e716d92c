"""The directive `drawing`: what a function of manyhot does, computed and drawn while the pages are built.

    ```{drawing} entropy
    ```

writes one SVG for light pages and one for dark ones, with a caption and, as the text for who does not see it, numbers.
"""

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from docutils import nodes
from loss_plot import THEMES, style
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import manyhot

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


class Drawing(NamedTuple):
    """What is drawn on axes in the colours of a theme, and what is written under it and said of it in numbers."""

    draw: Callable[[Any, dict[str, str]], None]
    caption: str
    spoken: Callable[[], str]
    size: tuple[float, float] = (5.2, 3.2)


@cache
def entropies() -> dict[str, list[float]]:
    """Return mean entropies of softmax over 64 to 16,384 logits from N(0, 1)."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[float]] = {"plain softmax": [], **{f"kappa {kappa}": [] for kappa in (0.4, 0.5, 0.6)}}
    for n in SIZES:
        s = torch.randn(1000, n, generator=generator)
        for name, values in found.items():
            if name == "plain softmax":
                p = s.softmax(-1)
            else:
                p = manyhot.entropy_invariant_softmax(s, kappa=float(name.split()[1]))
            values.append(float(torch.special.entr(p).sum(-1).mean()))
    return found


SIZES = (64, 256, 1024, 4096, 16384)


def draw_entropy(axes: Any, theme: dict[str, str]) -> None:
    """Draw entropy against the number of options."""
    for (name, values), dashes in zip(entropies().items(), ("--", ":", "-", "-."), strict=True):
        colour = theme["rival"] if name == "plain softmax" else theme["ours"]
        axes.plot(SIZES, values, dashes, color=colour, linewidth=2, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(SIZES, [f"{n:,}" for n in SIZES])
    axes.set_xlabel("options n")
    axes.set_ylabel("mean entropy")
    axes.legend()


def say_entropy() -> str:
    """Say the entropies in numbers."""
    parts = [f"{name}: {', '.join(f'{x:.2f}' for x in values)}" for name, values in entropies().items()]
    return f"Mean entropy at {', '.join(map(str, SIZES))} options. {'. '.join(parts)}."


@cache
def points() -> tuple[np.ndarray, np.ndarray]:
    """Return 60 classes in the plane, and which of them some input has as its largest."""
    weight = np.random.default_rng(0).standard_normal((60, 2))
    return weight, manyhot.reachable_classes(weight).status == "yes"


def draw_points(axes: Any, theme: dict[str, str]) -> None:
    """Draw classes in and out of reach, and the hull of those in reach."""
    weight, reached = points()
    corners = weight[reached][np.argsort(np.arctan2(*weight[reached].T))]
    axes.fill(*corners.T, facecolor="none", edgecolor=theme["grid"])
    axes.plot(*weight[~reached].T, ".", color=theme["rival"], label=f"never predicted ({(~reached).sum()})")
    axes.plot(*weight[reached].T, "o", color=theme["ours"], label=f"in reach ({reached.sum()})")
    axes.set_aspect("equal")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def say_points() -> str:
    """Say how many classes are in reach."""
    return f"Of 60 random classes of two features, {points()[1].sum()} are in reach: the corners of their hull."


@cache
def between() -> tuple[list[float], dict[str, list[float]]]:
    """Return the log-sum-exp of three logits, one of which moves, and what it lies between."""
    xs = torch.linspace(-6, 6, 121, dtype=torch.float64)
    rows = torch.stack((xs, torch.zeros_like(xs), torch.full_like(xs, -1)), -1)
    value, _ = manyhot.signed_logsumexp(rows, torch.zeros_like(rows))
    top = rows.amax(-1)
    lines = {"LSE": value, "max": top, "max + log 3": top + math.log(3), "mean + log 3": rows.mean(-1) + math.log(3)}
    return xs.tolist(), {name: line.tolist() for name, line in lines.items()}


def draw_between(axes: Any, theme: dict[str, str]) -> None:
    """Draw log-sum-exp and its bounds."""
    xs, lines = between()
    for (name, line), dashes in zip(lines.items(), ("-", "--", "--", ":"), strict=True):
        axes.plot(xs, line, dashes, color=theme["ours" if name == "LSE" else "rival"], linewidth=2, label=name)
    axes.set_xlabel("one of three logits, the others at 0 and -1")
    axes.legend()


def say_between() -> str:
    """Say the bounds at one place."""
    xs, lines = between()
    at = xs.index(min(xs, key=abs))
    return "At logits 0, 0 and -1: " + ", ".join(f"{name} {line[at]:.2f}" for name, line in lines.items()) + "."


@cache
def generated() -> dict[str, list[float]]:
    """Return percent of scenes read exactly, of all sets and of those with a new pair, a method each."""
    return json.loads((RESULTS / "generation.json").read_text())["exactly"]


def draw_generated(axes: Any, theme: dict[str, str]) -> None:
    """Draw the shares as bars."""
    names = list(generated())
    for shift, (part, colour) in enumerate((("all sets", "rival"), ("with a pair never seen", "ours"))):
        values = [generated()[name][shift] for name in names]
        axes.barh(np.arange(len(names)) + 0.4 * shift, values, 0.38, color=theme[colour], label=part)
    axes.set_yticks(np.arange(len(names)) + 0.2, names)
    axes.invert_yaxis()
    axes.set_xlabel("scenes read as exactly the wanted set, %")
    axes.legend()


def say_generated() -> str:
    """Say the shares in numbers."""
    said = [f"{name} {both[0]:.1f} and {both[1]:.1f}" for name, both in generated().items()]
    return f"Percent of scenes read exactly, all sets and sets with a pair never seen: {'; '.join(said)}."


DRAWINGS = {
    "entropy": Drawing(
        draw_entropy, "Mean entropy of softmax over n logits from N(0, 1): 1,000 rows a point.", say_entropy
    ),
    "reach": Drawing(draw_points, "60 random classes of two features, as points of the plane.", say_points),
    "bounds": Drawing(draw_between, "Log-sum-exp of three logits, and what it lies between.", say_between),
    "generation": Drawing(
        draw_generated, "500 scenes a method; `real` is what the reader makes of real scenes.", say_generated
    ),
}


class DrawingDirective(SphinxDirective):
    """Draw one of DRAWINGS, with a caption."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a figure with an image for each theme."""
        name = self.arguments[0]
        if name not in DRAWINGS:
            raise self.error(f"drawing knows {', '.join(DRAWINGS)}; got {name}.")
        drawing = DRAWINGS[name]
        folder = Path(self.env.srcdir) / "_generated"
        folder.mkdir(exist_ok=True)
        figure = nodes.figure(classes=["loss-plot"])
        for theme, colours in THEMES.items():
            file = folder / f"drawing-{name}-{theme}.svg"
            with mpl.rc_context(style(colours)):
                drawn = Figure(figsize=drawing.size, layout="constrained")
                drawing.draw(drawn.subplots(), colours)
                drawn.savefig(file, transparent=True, metadata={"Date": None})
            figure += nodes.image(uri=f"/_generated/{file.name}", alt=drawing.spoken(), classes=[f"only-{theme}"])
        figure += nodes.caption("", drawing.caption)
        self.env.note_dependency(__file__)
        return [figure]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("drawing", DrawingDirective)
    return {"parallel_read_safe": True}
