"""Text with its spans marked: each cut into runs of characters that the same spans cover, so that spans may cross."""

import itertools
from typing import Any, NamedTuple

# Spans drawn over each other; of more, their number is said.
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
