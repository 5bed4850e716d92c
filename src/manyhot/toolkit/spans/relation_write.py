"""Entities and relations of a file's rows, in the form that they are read in, or a line a relation."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from manyhot.toolkit.spans.relation_run import FoundTriples
from manyhot.toolkit.spans.sentences import Sentences

# What is written of each relation where a line is one.
ENDS = ("head", "tail")
LINE = pl.Schema(
    {"row": pl.Int64}
    | {f"{end}_{name}": kind for end in ENDS for name, kind in (("start", pl.Int64), ("end", pl.Int64))}
    | {f"{end}_{name}": pl.String for end in ENDS for name in ("label", "text")}
    | {"relation": pl.String, "score": pl.Float64}
)


def as_object(sentences: Sentences, row: int, found: FoundTriples) -> dict[str, Any]:
    """Return a row with what was found: tokens with entities and positions of them, or a text as Doccano has it."""
    entities, relations = found
    text = sentences.texts[row]
    if text is None:
        return {
            "tokens": sentences.tokens[row],
            "entities": [list(entity[:3]) for entity in entities],
            "scores": [round(entity.score, 4) for entity in entities],
            "relations": [[head, tail, label] for head, tail, label, _ in relations],
            "relation_scores": [round(relation.score, 4) for relation in relations],
        }
    return {
        "text": text,
        "entities": [
            {"id": i, "start_offset": start, "end_offset": end, "label": label, "score": round(score, 4)}
            for i, (start, end, label, score) in enumerate(entities)
        ],
        "relations": [
            {"id": i, "from_id": head, "to_id": tail, "type": label, "score": round(score, 4)}
            for i, (head, tail, label, score) in enumerate(relations)
        ],
    }


def as_lines(sentences: Sentences, row: int, number: int, found: FoundTriples) -> list[Sequence[Any]]:
    """Return a line for each relation of a row, in the columns of LINE; `number` is the row's, from 1."""
    text = sentences.texts[row]
    lines = []
    for head, tail, label, score in found.relations:
        ends = [found.entities[head], found.entities[tail]]
        said = [sentences.excerpt(row, e.start, e.end) if text is None else text[e.start : e.end] for e in ends]
        places = [place for e in ends for place in (e.start, e.end)]
        names = [part for e, words in zip(ends, said, strict=True) for part in (e.label, words)]
        lines.append((number, *places, *names, label, round(score, 4)))
    return lines
