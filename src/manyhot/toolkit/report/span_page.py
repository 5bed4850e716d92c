"""Text with its spans marked: each cut into runs of characters that the same spans cover, so that spans may cross.

Relations are arrows between the entities of a row, drawn in the order of the text.
"""

import itertools
from typing import Any, NamedTuple

# Spans drawn over each other; of others the page says how many there are.
LEVELS = 4
HUES = 8


class Cover(NamedTuple):
    """A span over a run of characters: type, hue, level, how many levels lie below, kind, and which ends are here."""

    type: str
    hue: int
    level: int
    below: int
    kind: str
    first: bool
    last: bool


class Run(NamedTuple):
    """Characters that the same spans cover, outermost first, and the number of spans that have no room."""

    text: str
    covers: list[Cover]
    more: int


def marked(row: dict[str, Any], hues: dict[str, int]) -> list[Run]:
    """Cut a text into runs and give each span a level, the outermost the lowest.

    Args:
        row: "text", and "spans" with start, end, type and kind, by characters.
        hues: of each type.
    """
    text, spans = row["text"], sorted(row["spans"], key=lambda s: (s["start"], -s["end"], s["type"], s["kind"]))
    levels: list[int | None] = []
    for i, span in enumerate(spans):
        taken = {levels[j] for j in range(i) if spans[j]["end"] > span["start"] and spans[j]["start"] < span["end"]}
        levels.append(next((level for level in range(LEVELS) if level not in taken), None))
    deepest = max((level for level in levels if level is not None), default=0)
    borders = sorted({0, len(text), *(s["start"] for s in spans), *(s["end"] for s in spans)})
    runs = []
    for start, end in itertools.pairwise(borders):
        over = [(s, level) for s, level in zip(spans, levels, strict=True) if s["start"] <= start and end <= s["end"]]
        covers = [
            Cover(s["type"], hues[s["type"]], level, deepest - level, s["kind"], s["start"] == start, s["end"] == end)
            for s, level in sorted(over, key=lambda pair: LEVELS if pair[1] is None else pair[1])
            if level is not None
        ]
        runs.append(Run(text[start:end], covers, sum(level is None for _, level in over)))
    return runs


def hues_of(names: list[str]) -> dict[str, int]:
    """Give each type one of the hues, in turn."""
    return {name: i % HUES for i, name in enumerate(names)}


# In a drawing of arrows, letters of an entity that are shown, the width of one, and room around boxes and arcs.
LETTERS, LETTER, PAD, GAP, BOX, STEP = 24, 7.3, 9, 34, 34, 24
# How far apart the ends of two arrows at one box are.
APART = 9


class Box(NamedTuple):
    """An entity of a drawing: where it stands, and what is written in it."""

    x: float
    width: float
    text: str
    type: str
    hue: int


class Arc(NamedTuple):
    """An arrow of a drawing: its path, its head, where its words stand, these, and its kind."""

    path: str
    head: str
    x: float
    y: float
    words: str
    kind: str


class Arrows(NamedTuple):
    """A drawing: boxes below, arcs above."""

    width: float
    height: float
    top: float
    boxes: list[Box]
    arcs: list[Arc]


def drawn_arrows(row: dict[str, Any], hues: dict[str, int]) -> Arrows | None:
    """Lay out the entities of a row side by side and an arc for each relation; None where there is none.

    Args:
        row: "entities" with text and type, in the order of the text, and "arrows" with from, to, type and kind.
        hues: of each type.
    """
    if not row["arrows"]:
        return None
    boxes, x = [], 1.0
    for entity in row["entities"]:
        text = entity["text"] if len(entity["text"]) <= LETTERS else entity["text"][: LETTERS - 1] + "\u2026"
        width = max(len(text), len(entity["type"])) * LETTER + 2 * PAD
        boxes.append(Box(x, width, text, entity["type"], hues[entity["type"]]))
        x += width + GAP
    said = [
        arrow["type"] if arrow["kind"] == "right" else f"{arrow['kind']} {arrow['type']}" for arrow in row["arrows"]
    ]
    # The shortest lowest: an arc goes over all that lie inside of it, and no two have one height.
    order = sorted(range(len(said)), key=lambda i: (abs(row["arrows"][i]["to"] - row["arrows"][i]["from"]), i))
    top = STEP * len(said) + 8.0
    used = [0] * len(boxes)
    arcs = []
    for level, i in enumerate(order, 1):
        arrow, y = row["arrows"][i], top - STEP * level + 4
        ends = []
        for end in (arrow["from"], arrow["to"]):
            box, used[end] = boxes[end], used[end] + 1
            # Alternately to the right and to the left of the middle.
            side = used[end] // 2 * (-1 if used[end] % 2 else 1)
            ends.append(min(max(box.x + box.width / 2 + APART * side, box.x + 4), box.x + box.width - 4))
        a, b = ends if ends[0] != ends[1] else (ends[0] - 4, ends[1] + 4)
        middle = min(max((a + b) / 2, len(said[i]) * LETTER / 2), max(x - GAP - len(said[i]) * LETTER / 2, 0))
        head = f"M{b - 4:.1f},{top - 7:.1f} L{b:.1f},{top:.1f} L{b + 4:.1f},{top - 7:.1f} Z"
        arcs.append(
            Arc(f"M{a:.1f},{top:.1f} V{y:.1f} H{b:.1f} V{top - 5:.1f}", head, middle, y - 4, said[i], arrow["kind"])
        )
    width = max(x - GAP, *(len(words) * LETTER for words in said)) + 1
    return Arrows(round(width, 1), top + BOX + 2, top, boxes, arcs)
