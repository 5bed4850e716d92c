"""Sentences with spans of three types, drawn from templates: small enough to be learned in seconds."""

import json
import random
from pathlib import Path

PEOPLE = ("Ada Lovelace", "Alan Turing", "Grace Hopper", "Emmy Noether", "Kurt Gödel", "Max Planck", "Lise Meitner")
PLACES = ("Rome", "New York", "Köln", "Paris", "São Paulo", "Oslo", "Den Haag")
GROUPS = ("University of Rome", "Bank of Paris", "City of Oslo")
SAID = (
    "{p} visited {l} .",
    "In {l} lives {p} .",
    "{p} and {p} met in {l} .",
    "The {g} hired {p} .",
    "It rains today .",
)


def sentences(rows, seed=0, nested=False):
    """Return (tokens, [(start, end, type)]) of each row; with `nested`, places inside of groups are spans too."""
    chance = random.Random(seed)
    drawn = []
    for _ in range(rows):
        tokens, spans = [], []
        for word in chance.choice(SAID).split():
            kind = {"{p}": "PER", "{l}": "LOC", "{g}": "ORG"}.get(word)
            if kind is None:
                tokens.append(word)
                continue
            words = chance.choice({"PER": PEOPLE, "LOC": PLACES, "ORG": GROUPS}[kind]).split()
            start = len(tokens)
            tokens += words
            spans.append((start, len(tokens), kind))
            if kind == "ORG" and nested:
                spans.append((len(tokens) - 1, len(tokens), "LOC"))
        drawn.append((tokens, spans))
    return drawn


def in_text(tokens, spans):
    """Return a row as a text, tokens with spaces between, and its spans by characters."""
    places, at = [], 0
    for token in tokens:
        places.append((at, at + len(token)))
        at += len(token) + 1
    return " ".join(tokens), [(places[a][0], places[b - 1][1], kind) for a, b, kind in spans]


def write_jsonl(path, rows, form="tokens"):
    """Write rows as JSONL, as tokens or as texts."""
    lines = []
    for tokens, spans in rows:
        if form == "tokens":
            lines.append({"tokens": tokens, "entities": [list(span) for span in spans]})
        else:
            text, marks = in_text(tokens, spans)
            lines.append({"text": text, "spans": [{"start": a, "end": b, "label": t} for a, b, t in marks]})
    Path(path).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return str(path)
