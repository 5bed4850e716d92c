"""The directive `loss-plot`: a loss and its gradient against one logit, beside binary cross-entropy or cross-entropy.

    ```{loss-plot} zlpr_loss
    ```

draws the loss from the function itself, on axes that are the same for all losses, as one SVG for light pages and one
for dark ones. What is drawn is written under it, and once more with numbers as the text for who does not see it.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import torch
import torch.nn.functional as F
from docutils import nodes
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from torch import Tensor

import manyhot

# From one logit, and whether its label is a positive, to a loss.
Curve = Callable[[Tensor, bool], Tensor]
RANGE = 6.0
# The other labels of the row: one of two positives and one of five negatives are wrong.
POSITIVES, NEGATIVES = [2.0, -1.0], [1.0, -2.0, -2.0, -2.0, -2.0]
IN_A_ROW = (
    "The loss of one row of eight labels against the logit of one of them. Of the others, one positive and one "
    "negative are wrong by 1, and one positive and four negatives right by 2."
)
# One class a row: the logit of the class itself, then that of another.
CLASSES = [1.0, 0.0, -1.0]
IN_CLASSES = (
    "The loss of one row of four classes. Left, against the logit of the right class, the others at 1, 0 and -1; "
    "right, against the logit of a wrong class, with the right one at 1 and the others at 0 and -1."
)


class Plot(NamedTuple):
    """A loss as it is drawn."""

    curve: Curve
    title: str
    context: str = IN_A_ROW
    rival: Curve | None = None
    rival_title: str = "BCE"
    sides: tuple[str, str] = ("a positive label", "a negative label")


def in_a_row(loss: Callable[..., Tensor], s: Tensor, positive: bool, **options: Any) -> Tensor:
    """Compute a loss of a row of labels, the first of which is `s`."""
    logits = torch.cat((s.view(1), torch.tensor(POSITIVES + NEGATIVES, dtype=s.dtype)))
    targets = torch.tensor([positive] + [True] * len(POSITIVES) + [False] * len(NEGATIVES))
    return loss(logits.unsqueeze(0), targets.unsqueeze(0), **options)


def of_classes(loss: Callable[..., Tensor], s: Tensor, positive: bool, **options: Any) -> Tensor:
    """Compute a loss of a row with one class: `s` is its logit, or that of the last other class."""
    others = torch.tensor(CLASSES, dtype=s.dtype)
    logits = torch.cat((s.view(1), others)) if positive else torch.cat((others, s.view(1)))
    return loss(logits.unsqueeze(0), torch.tensor([0]), **options)


def in_a_row_times(loss: Callable[..., Tensor], s: Tensor, positive: bool) -> Tensor:
    """Compute a loss that is a share of the row times the labels of the row, to see it beside sums over labels."""
    return (1 + len(POSITIVES + NEGATIVES)) * in_a_row(loss, s, positive)


def _size_of_the_row(logits: Tensor, targets: Tensor) -> Tensor:
    size = int(targets.sum())
    return manyhot.subset_loss(logits, targets, min_labels=size, max_labels=size)


def _smoothed(logits: Tensor, targets: Tensor) -> Tensor:
    return manyhot.zlpr_loss(logits, targets, label_smoothing=0.1)


def _rare(logits: Tensor, targets: Tensor) -> Tensor:
    prior = torch.full(logits.shape[-1:], 0.3, dtype=torch.float64)
    prior[0] = 0.01
    return manyhot.zlpr_loss(logits, targets, prior=prior)


# The teacher says 1.5 or -1.5 of the label that is drawn, and of the others what the student says.
def _divergence(s: Tensor, positive: bool) -> Tensor:
    others = torch.tensor(POSITIVES + NEGATIVES, dtype=s.dtype)
    teacher = torch.cat((s.new_tensor([1.5 if positive else -1.5]), others))
    return manyhot.zlpr_divergence(torch.cat((s.view(1), others)).unsqueeze(0), teacher.unsqueeze(0))


def _bernoulli_kl(s: Tensor, positive: bool) -> Tensor:
    u = s.new_tensor(1.5 if positive else -1.5)
    q = u.sigmoid()
    return F.binary_cross_entropy_with_logits(s, q) - F.binary_cross_entropy_with_logits(u, q)


# Eight tasks of four classes: five of class 0 and one of each other, right by 2; the first task is drawn.
def _tasks(loss: Callable[..., Tensor], s: Tensor, positive: bool) -> Tensor:
    classes = torch.tensor([0, 0, 0, 0, 0, 1, 2, 3])
    first = of_classes(lambda logits, _: logits, s, positive)
    return loss(torch.cat((first, 2.0 * F.one_hot(classes[1:], 4).to(s.dtype))), classes)


IN_TASKS = (
    "Eight tasks of four classes, five of them of class 0. The loss against one logit of one of these five; the other "
    "seven tasks are right by 2. Left and right as for one class a row: the logit of the right class, and that of a "
    "wrong one."
)


# A sentence of three tokens and one type: six cells, the first of which is drawn.
CELLS = [2.0, -1.0, 1.0, -2.0, -2.0]


def _of_cells(s: Tensor, positive: bool) -> Tensor:
    first, last = torch.triu_indices(3, 3)
    scores = torch.zeros(3, 3, dtype=s.dtype).index_put((first, last), torch.cat((s.view(1), s.new_tensor(CELLS))))
    gold = [(i, j + 1, 0) for i, j in zip(first.tolist(), last.tolist(), strict=True)][0 if positive else 1 : 3]
    return manyhot.span_loss(scores.view(1, 1, 3, 3), manyhot.SpanTargets([gold]))


def _bce_of_cells(s: Tensor, positive: bool) -> Tensor:
    logits = torch.cat((s.view(1), s.new_tensor(CELLS)))
    targets = s.new_tensor([positive, 1, 1, 0, 0, 0])
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")


IN_CELLS = (
    "The loss of one type in a sentence of three tokens, which has six cells, against the score of one of them. Of the "
    "others, one span and one cell that is none are wrong by 1, and one span and two cells right by 2."
)


def _summed_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    return F.cross_entropy(logits, classes, reduction="sum")


_CLASS = {"context": IN_CLASSES, "rival": partial(of_classes, F.cross_entropy), "rival_title": "cross-entropy"}
_CLASS["sides"] = ("the right class", "a wrong class")
_TASKS = {**_CLASS, "context": IN_TASKS, "rival": partial(_tasks, _summed_cross_entropy)}
_UNBALANCED = torch.tensor([0.05, 0.55, 0.3, 0.1])

PLOTS: dict[str, Plot] = {
    **{
        name: Plot(partial(in_a_row, getattr(manyhot, name)), name)
        for name in (
            *("zlpr_loss", "pairwise_loss", "single_log_loss", "bce_loss", "focal_loss", "asymmetric_loss"),
            *("two_way_loss", "f_weighted_bce_loss"),
        )
    },
    **{
        name: Plot(
            partial(in_a_row_times, getattr(manyhot, name)),
            f"8 x {name}",
            f"{IN_A_ROW} The loss is a share of the row, so it is drawn times eight, the number of labels.",
        )
        for name in ("tversky_loss", "smooth_accuracy_loss", "smooth_f_loss")
    },
    "zlpr_loss-prior": Plot(
        partial(in_a_row, _rare),
        "ZLPR, prior .01",
        f"{IN_A_ROW} The prior of the label is .01, that of the others .3.",
    ),
    "zlpr_loss-smoothing": Plot(partial(in_a_row, _smoothed), "ZLPR, smoothing .1"),
    "zlpr_divergence": Plot(
        _divergence,
        "zlpr_divergence",
        "The divergence of a row of eight labels against one logit of the student. The teacher's logit of that label "
        "is 1.5 on the left and -1.5 on the right; on the other seven both agree.",
        rival=_bernoulli_kl,
        rival_title="KL of two sigmoids",
        sides=("teacher at 1.5", "teacher at -1.5"),
    ),
    "subset_loss": Plot(
        partial(in_a_row, _size_of_the_row),
        "exactly k",
        f"{IN_A_ROW} The number of labels of the row is known: three on the left, two on the right.",
    ),
    "subset_loss-range": Plot(
        partial(in_a_row, partial(manyhot.subset_loss, min_labels=1, max_labels=3)),
        "1 to 3 labels",
        f"{IN_A_ROW} Sets of one to three labels are possible.",
    ),
    "logit_adjusted_loss": Plot(
        partial(of_classes, manyhot.logit_adjusted_loss, prior=_UNBALANCED),
        "logit-adjusted",
        **{**_CLASS, "context": f"{IN_CLASSES} The frequency of the right class is .05."},
    ),
    "margin_softmax_loss": Plot(
        partial(of_classes, manyhot.margin_softmax_loss, radius=0.5), "radius .5, norms 1", **_CLASS
    ),
    "exact_loss": Plot(partial(of_classes, manyhot.exact_loss), "exact_loss, normal", **_CLASS),
    "exact_loss-log": Plot(partial(of_classes, partial(manyhot.exact_loss, log=True)), "log, normal", **_CLASS),
    "span_loss": Plot(
        _of_cells, "span_loss", IN_CELLS, rival=_bce_of_cells, sides=("a span", "a cell that is no span")
    ),
    "multiway_loss": Plot(partial(_tasks, manyhot.multiway_loss), "pairwise", **_TASKS),
    "multiway_loss-first_order": Plot(
        partial(_tasks, partial(manyhot.multiway_loss, form="first_order")), "first_order", **_TASKS
    ),
    "multiway_loss-mean_centred": Plot(
        partial(_tasks, partial(manyhot.multiway_loss, form="mean_centred")), "mean_centred", **_TASKS
    ),
}

THEMES = {
    "light": {"ink": "#333333", "grid": "#dddddd", "ours": "#c04f00", "rival": "#666666"},
    "dark": {"ink": "#cfd0d0", "grid": "#3a3a3a", "ours": "#ff9d5c", "rival": "#a0a0a0"},
}


@cache
def drawn(curve: Curve, positive: bool) -> tuple[list[float], list[float], list[float]]:
    """Return logits, what the loss has above its least value on the axis, and the gradient."""
    s = torch.linspace(-RANGE, RANGE, 121, dtype=torch.float64)
    values, slopes = [], []
    for x in s:
        leaf = x.clone().requires_grad_()
        loss = curve(leaf, positive)
        (slope,) = torch.autograd.grad(loss, leaf)
        values.append(loss.item())
        slopes.append(slope.item())
    return s.tolist(), [value - min(values) for value in values], slopes


def _bce(s: Tensor, positive: bool) -> Tensor:
    return in_a_row(manyhot.bce_loss, s, positive)


def style(theme: dict[str, str]) -> dict[str, Any]:
    """Return the look of all drawings, as settings of matplotlib."""
    return {
        **{key: theme["ink"] for key in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")},
        **{"axes.edgecolor": theme["grid"], "grid.color": theme["grid"], "axes.facecolor": "none"},
        **{"font.size": 10, "font.family": "DejaVu Sans", "svg.hashsalt": "manyhot", "axes.grid": True},
        **{"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10, "legend.frameon": False},
    }


def draw(plot: Plot, theme: dict[str, str], path: Path) -> None:
    """Write one drawing."""
    with mpl.rc_context(style(theme)):
        figure = Figure(figsize=(5.2, 4.7), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True, sharey="row")
        for column, positive in enumerate((True, False)):
            for curve, title, colour, dashes in (
                (plot.rival or _bce, plot.rival_title, theme["rival"], "--"),
                (plot.curve, plot.title, theme["ours"], "-"),
            ):
                s, value, slope = drawn(curve, positive)
                for row, line in enumerate((value, slope)):
                    axes[row, column].plot(s, line, dashes, color=colour, linewidth=2, label=title)
            axes[0, column].set_title(plot.sides[column])
            axes[1, column].set_xlabel("logit s")
            axes[0, column].set_ylim(-0.3, 6.3)
            axes[1, column].set_ylim(-1.55, 1.55)
            axes[0, column].set_xticks([-6, -3, 0, 3, 6])
        axes[0, 0].set_ylabel("loss - its least")
        axes[1, 0].set_ylabel("d loss / d s")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        figure.savefig(path, transparent=True, metadata={"Date": None})


def spoken(plot: Plot) -> str:
    """Say a drawing in numbers."""
    parts = []
    for side, positive in zip(plot.sides, (True, False), strict=True):
        slopes = {
            title: drawn(curve, positive)[2]
            for title, curve in ((plot.title, plot.curve), (plot.rival_title, plot.rival or _bce))
        }
        said = [f"{name} {', '.join(f'{line[i]:.2f}' for i in (30, 60, 90))}" for name, line in slopes.items()]
        parts.append(f"Gradient for {side} at logits -3, 0 and 3: {'; '.join(said)}.")
    return f"Loss and gradient of {plot.title} beside {plot.rival_title}. {' '.join(parts)}"


class LossPlot(SphinxDirective):
    """Draw a loss of PLOTS, with a caption."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a figure with an image for each theme."""
        name = self.arguments[0]
        if name not in PLOTS:
            raise self.error(f"loss-plot knows {', '.join(PLOTS)}; got {name}.")
        plot = PLOTS[name]
        folder = Path(self.env.srcdir) / "_generated"
        folder.mkdir(exist_ok=True)
        figure = nodes.figure(classes=["loss-plot"])
        alt = spoken(plot)
        for theme, colours in THEMES.items():
            file = folder / f"{name}-{theme}.svg"
            draw(plot, colours, file)
            figure += nodes.image(uri=f"/_generated/{file.name}", alt=alt, classes=[f"only-{theme}"])
        figure += nodes.caption("", f"{plot.context} Dashed: {plot.rival_title}.")
        self.env.note_dependency(__file__)
        return [figure]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("loss-plot", LossPlot)
    return {"parallel_read_safe": True}
