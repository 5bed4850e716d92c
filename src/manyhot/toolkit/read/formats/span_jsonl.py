"""JSONL with marked spans, or one array: an object a row, its tokens or its text, and spans with offsets in them.

polars has no lists of mixed types and would turn [0, 1, "PER"] into text, so lines are parsed one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.formats.jsonl import json_object
from manyhot.toolkit.read.formats.links import links_of
from manyhot.toolkit.read.formats.marked import Form, Mark, MarkedRow, Reading, check_mark, check_tokens
from manyhot.toolkit.read.formats.tagged import Tags

# Where spans may stand, the first that a row has; "text" has those of Prodigy and spaCy, Doccano, and Doccano before.
KEYS: dict[Form, tuple[str, ...]] = {
    "tokens": ("entities", "ner", "spans"),
    "text": ("spans", "entities", "label", "labels"),
}
TAGS = ("tags", "ner_tags")
# What start, end and type of a span are called.
STARTS, ENDS, TYPES = ("start", "start_offset"), ("end", "end_offset"), ("label", "type")
EXPECTED = (
    'expected {"tokens": [...], "entities": [[start, end, type], ...]} or {"text": "...", "spans": [{"start": 0, '
    '"end": 5, "label": "PER"}, ...]}'
)


class SpanRecords:
    """Rows of a JSONL file, and what was seen in them.

    Attributes:
        key: under which spans stand; None while no row had any.
        without: rows that have no such key.
        refused: rows that an annotator of Prodigy rejected or ignored, which are left out.
        tags: the scheme of tags, where rows have a tag a token.
    """

    def __init__(self, path: Path, how: Reading, *, with_marks: bool = True) -> None:
        self.path, self.how, self.with_marks = path, how, with_marks
        self.key: str | None = None
        self.without = self.refused = 0
        self.form: Form | None = None
        self.tags = Tags(path)

    def rows(self, lines: Iterable[tuple[int, str]]) -> Iterator[MarkedRow]:
        """Yield the rows of a file.

        Raises:
            InputError: a line that is no such object, or a span that is none of its row.
        """
        objects = ((f"line {n}", json_object(self.path, n, line.encode())) for n, line in lines if line.strip())
        yield from self.of(objects)

    def of(self, objects: Iterable[tuple[str, Any]]) -> Iterator[MarkedRow]:
        """Yield the rows of objects, each with its place in the file."""
        for place, record in objects:
            if not isinstance(record, dict):
                raise InputError(f"{self.path}, {place}: {EXPECTED}, got {shown(record)}; write every row so")
            if self.with_marks and record.get("answer") in ("reject", "ignore"):
                self.refused += 1
                continue
            yield self._row(place, record)

    def described(self) -> str:
        """Say where spans were found."""
        if self.tags.seen:
            return f"{self.key}, a tag a token ({self.tags.scheme()})"
        unit = "token" if self.form == "tokens" else "character"
        return f"{self.key or 'none'}, {unit} offsets"

    def _row(self, place: str, record: dict[str, Any]) -> MarkedRow:
        where = f"{self.path}, {place}"
        tokens, text = record.get("tokens"), record.get("text")
        form: Form = "text" if isinstance(text, str) else "tokens"
        if not isinstance(text, str) and not isinstance(tokens, list):
            raise InputError(f"{where}: {EXPECTED}, got {_keys(record)}; write every row so")
        if self.form not in (None, form):
            raise InputError(
                f"{where}: expected a row with {shown(self.form)} as the rows before it, got {_keys(record)}; keep "
                "rows of two forms in two files"
            )
        self.form = form
        offsets = None
        if isinstance(text, str):
            if isinstance(tokens, list) and all(isinstance(token, dict) for token in tokens):
                offsets = []
                for token in tokens:
                    offsets.append(_token(where, token, text, offsets[-1][1] if offsets else 0))
        else:
            check_tokens(where, tokens or [])
        marks = self._marks(where, record, form, text if form == "text" else tokens) if self.with_marks else []
        links = links_of(where, record, record.get(self.key or "")) if self.with_marks and self.how.relations else []
        return MarkedRow(
            place, tokens if form == "tokens" else None, text if form == "text" else None, marks, offsets, links, record
        )

    def _marks(self, where: str, record: dict[str, Any], form: Form, content: Any) -> list[Mark]:
        key = self.key if self.key in record else None
        if key is None:
            key = next((name for name in KEYS[form] if isinstance(record.get(name), list)), None)
            if key is None and form == "tokens":
                key = next((name for name in TAGS if isinstance(record.get(name), list)), None)
        if key is None or record[key] is None:
            self.without += 1
            return []
        if self.key is None:
            self.key = key
        elif key != self.key:
            raise InputError(
                f"{where}: expected spans under {self.key!r} as before, got them under {key!r}; rename one"
            )
        if not isinstance(record[key], list):
            raise InputError(f"{where}, {key!r}: expected a list of spans, got {shown(record[key])}; {EXPECTED}")
        if key in TAGS and form == "tokens":
            return self._of_tags(where, key, record[key], content)
        return [self._mark(f"{where}, {key!r}", span, form, content) for span in record[key]]

    def _mark(self, where: str, span: Any, form: Form, content: Any) -> Mark:
        text = None
        if isinstance(span, dict):
            parts = [next((span[name] for name in names if name in span), None) for names in (STARTS, ENDS, TYPES)]
            text = span.get("text")
        else:
            parts = span if isinstance(span, list) else []
        if len(parts) != 3 or any(part is None for part in parts):
            raise InputError(
                f'{where}: expected a span [start, end, type] or {{"start", "end", "label"}}, got {shown(span)}; '
                "correct the span"
            )
        inclusive = self.how.end == "inclusive"
        start, end, kind = parts
        mark = check_mark(where, start, end, kind, len(content), form=form, inclusive=inclusive)
        if form == "text" and isinstance(text, str) and content[mark.start : mark.end] != text:
            hint = "correct the offsets, which count code points"
            if not inclusive and content[mark.start : mark.end + 1] == text:
                hint = "where the end is part of the span, type --end inclusive"
            raise InputError(
                f"{where}: expected the text {shown(text)} at ({mark.start}, {mark.end}), as the span says, got "
                f"{shown(content[mark.start : mark.end])}; {hint}"
            )
        return mark

    def _of_tags(self, where: str, key: str, tags: list[Any], tokens: list[str]) -> list[Mark]:
        if len(tags) != len(tokens):
            raise InputError(
                f"{where}: expected as many {key} as tokens, got {len(tags)} {key} and {len(tokens)} tokens; "
                "write a tag for each token"
            )
        if any(isinstance(tag, int) and not isinstance(tag, bool) for tag in tags):
            names = self.how.label_names
            if names is None:
                raise InputError(
                    f"{where}, {key!r}: expected tags by name, such as B-PER, got {shown(tags)}; name what the numbers "
                    "mean: --label-names FILE"
                )
            wrong = [tag for tag in tags if not isinstance(tag, int) or not 0 <= tag < len(names)]
            if wrong:
                raise InputError(
                    f"{where}, {key!r}: expected numbers from 0 to {len(names) - 1}, as --label-names has "
                    f"{len(names)} names, got {shown(wrong[0])}; correct the tag, or the file of names"
                )
            tags = [names[tag] for tag in tags]
        return self.tags.marks(tags, lambda _: f"{where}, {key!r}")


def _token(where: str, token: dict[str, Any], text: str, after: int) -> tuple[int, int]:
    """Return where one of Prodigy's tokens stands in the text, not before the end of the one before it."""
    start, end = token.get("start"), token.get("end")
    whole = all(isinstance(place, int) and not isinstance(place, bool) for place in (start, end))
    if not whole or not after <= start < end or text[start:end] != token.get("text"):
        raise InputError(
            f"{where}, 'tokens': expected tokens with text, start and end in the row's text, one after the other, got "
            f"{shown(token)}; leave tokens out, and they are found"
        )
    return start, end


def _keys(record: dict[str, Any]) -> str:
    return f"a row with {', '.join(map(shown, list(record)[:8])) or 'nothing in it'}"
