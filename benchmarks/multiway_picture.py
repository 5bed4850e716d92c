"""Draw docs/multiway_balance.svg: how much of the gradient a class gets, against how often it occurs.

    python benchmarks/multiway_picture.py

Thirteen classes with 1, 2, 4, ..., 4096 tasks. On the left all logits are 0; on the right each task's own class leads
by 4. The gradients are those of the losses themselves; the numbers drawn are printed.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import manyhot

COUNTS = [2**power for power in range(13)]
LEADS = {"all logits 0": 0.0, "own class leads by 4": 4.0}
PICTURE = Path(__file__).parents[1] / "docs" / "multiway_balance.svg"

WIDTH, HEIGHT, MARGIN_LEFT, MARGIN_TOP, PANEL, GAP = 900, 380, 62, 40, 300, 88
FLOOR = 1e-4  # of the axis of shares


def cross_entropy(s: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(s, y, reduction="sum")


def class_weights(s: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(s, y, weight=1 / torch.bincount(y).to(s.dtype), reduction="sum")


# name, loss, colour, dashes
LINES: list[tuple[str, Callable[[Tensor, Tensor], Tensor], str, str]] = [
    ("cross-entropy", cross_entropy, "#444444", ""),
    ("class weights", class_weights, "#999999", "6 4"),
    ("pairwise", lambda s, y: manyhot.multiway_loss(s, y), "#d55e00", ""),
    ("first_order", lambda s, y: manyhot.multiway_loss(s, y, form="first_order"), "#0072b2", ""),
    ("mean_centred", lambda s, y: manyhot.multiway_loss(s, y, form="mean_centred"), "#009e73", "2 4"),
]


def shares(loss: Callable[[Tensor, Tensor], Tensor], lead: float) -> list[float]:
    """Return each class's share of what all tasks' own logits are pulled up with."""
    counts = torch.tensor(COUNTS)
    y = torch.repeat_interleave(torch.arange(len(counts)), counts)
    s = (lead * F.one_hot(y, len(counts)).double()).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(s, y), s)
    pull = torch.zeros(len(counts), dtype=torch.float64).index_add(0, y, -gradient.gather(1, y.unsqueeze(1)).squeeze(1))
    return (pull / pull.sum()).tolist()


def draw() -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="13" fill="#222"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    ]
    for panel, (title, lead) in enumerate(LEADS.items()):
        left, top = MARGIN_LEFT + panel * (PANEL + GAP), MARGIN_TOP

        def x(count: float, left: float = left) -> float:
            return left + PANEL * math.log2(count) / math.log2(COUNTS[-1])

        def y(share: float, top: float = top) -> float:
            return top + PANEL * 0.95 * math.log10(1 / max(share, FLOOR)) / math.log10(1 / FLOOR)

        parts.append(f'<text x="{left}" y="{top - 16}" font-weight="bold">{title}</text>')
        for power in range(5):
            share = 10.0**-power
            label = f"{100 * share:g} %"
            parts.append(f'<path d="M{left} {y(share):.1f}h{PANEL}" stroke="#e5e5e5"/>')
            parts.append(f'<text x="{left - 6}" y="{y(share) + 4:.1f}" text-anchor="end" fill="#666">{label}</text>')
        for count in (1, 8, 64, 512, 4096):
            parts.append(
                f'<text x="{x(count):.1f}" y="{y(FLOOR) + 18:.1f}" text-anchor="middle" fill="#666">{count:,}</text>'
            )
        parts.append(
            f'<text x="{left + PANEL / 2}" y="{y(FLOOR) + 37:.1f}" text-anchor="middle">tasks of the class</text>'
        )
        print(f"{title}: share of the gradient in per cent, classes with 1, 64 and 4096 tasks")
        for name, loss, colour, dashes in LINES:
            values = shares(loss, lead)
            print(f"  {name:14}" + "".join(f"{100 * values[COUNTS.index(c)]:9.3f}" for c in (1, 64, 4096)))
            points = " ".join(f"{x(c):.1f},{y(v):.1f}" for c, v in zip(COUNTS, values, strict=True))
            dash = f' stroke-dasharray="{dashes}"' if dashes else ""
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"{dash}/>')
    for row, (name, _, colour, dashes) in enumerate(LINES):
        height = MARGIN_TOP + 20 + 24 * row
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        legend = MARGIN_LEFT + 2 * PANEL + GAP + 14
        parts.append(f'<path d="M{legend} {height}h24" stroke="{colour}" stroke-width="2.5"{dash}/>')
        parts.append(f'<text x="{legend + 30}" y="{height + 4}">{name}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw())
    print(f"wrote {PICTURE}")
