"""Sentences with entities of three types and relations between them, that overlap: the same pair twice, one of many."""

import json
import random
from pathlib import Path

from span_rows import GROUPS, PEOPLE, PLACES, in_text

# What stands in a sentence, and what holds between its entities, by their positions.
SAID = (
    ("{p} lives in {l} .", [(0, 1, "lives_in")]),
    ("{p} of {g} was seen in {l} .", [(0, 1, "works_for")]),
    ("{g} of {l} hired {p} and {p} .", [(0, 1, "based_in"), (2, 0, "works_for"), (3, 0, "works_for")]),
    ("{p} was born and still lives in {l} .", [(0, 1, "born_in"), (0, 1, "lives_in")]),
    ("{p} saw {l} .", []),
)


def linked_sentences(rows, seed=0):
    """Return (tokens, [(start, end, type)], [(head, tail, type)]) of each row."""
    chance = random.Random(seed)
    drawn = []
    for _ in range(rows):
        said, relations = chance.choice(SAID)
        tokens, spans = [], []
        for word in said.split():
            kind = {"{p}": "PER", "{l}": "LOC", "{g}": "ORG"}.get(word)
            words = (
                [word] if kind is None else chance.choice({"PER": PEOPLE, "LOC": PLACES, "ORG": GROUPS}[kind]).split()
            )
            if kind is not None:
                spans.append((len(tokens), len(tokens) + len(words), kind))
            tokens += words
        drawn.append((tokens, spans, list(relations)))
    return drawn


def as_records(rows, form):
    """Return rows as objects: "tokens", "named" with an object a relation, "tags", or "doccano", text with ids."""
    records = []
    for tokens, spans, relations in rows:
        if form == "doccano":
            text, marks = in_text(tokens, spans)
            entities = [
                {"id": 70 + i, "start_offset": a, "end_offset": b, "label": t} for i, (a, b, t) in enumerate(marks)
            ]
            links = [{"id": i, "from_id": 70 + h, "to_id": 70 + t, "type": k} for i, (h, t, k) in enumerate(relations)]
            records.append({"text": text, "entities": entities, "relations": links})
        elif form == "tags":
            tags = ["O"] * len(tokens)
            for start, end, kind in spans:
                letters = ["U"] if end - start == 1 else ["B", *["I"] * (end - start - 2), "L"]
                tags[start:end] = [f"{letter}-{kind}" for letter in letters]
            links = [{"head": h, "tail": t, "type": k} for h, t, k in relations]
            records.append({"tokens": tokens, "tags": tags, "relations": links})
        else:
            named = [{"head": h, "tail": t, "label": k} for h, t, k in relations]
            links = named if form == "named" else [list(link) for link in relations]
            records.append({"tokens": tokens, "entities": [list(span) for span in spans], "relations": links})
    return records


def write_relations(path, rows, form="tokens"):
    """Write rows as JSONL, or as one array where the file ends in .json."""
    records = as_records(rows, form)
    if str(path).endswith(".json"):
        text = json.dumps(records, ensure_ascii=False)
    else:
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    Path(path).write_text(text, encoding="utf-8")
    return str(path)
