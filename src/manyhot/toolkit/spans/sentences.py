"""Rows as a model of spans sees them: tokens, where they stand in their text, and which of them are spans."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.formats.marked import Mark, MarkedRow
from manyhot.toolkit.spans.tokens import tokenize

# (start, end, type), end exclusive, in tokens.
Triple = tuple[int, int, str]
# A head, what holds, and a tail. One with a border inside of a token stands before the row: see `outside`.
Relation = tuple[Triple, str, Triple]
# A longer row is cut, at the last place before so many tokens or else the first before so many.
LONG, LONGEST = 512, 1024
ENDS = frozenset(".?!。？！．…")
# Spans of training whose borders lie inside of tokens and that may be left out.
MOST_ASTRIDE = 0.01


class Piece(NamedTuple):
    """A part of a row that a model sees at once: its tokens from `first` up to `last`."""

    row: int
    first: int
    last: int


@dataclass(frozen=True)
class Sentences:
    """Rows with their spans.

    Attributes:
        source: the file, for messages.
        tokens: of each row.
        spans: of each row, by start, end and type, each once; None where they were not asked for.
        astride: of each row, spans with a border inside of a token, in characters: no prediction is right with them.
        texts: of each row, what its tokens stand in; None of a row that is tokens.
        offsets: of each row, (start, end) of each token in the text; None of a row that is tokens.
        names: of each row, where it stands in its file.
        groups: (rows,) numbers, the same for rows that are held out together; or None.
        places: (rows,) positions in the file, from 0.
        trimmed: spans at whose ends there was white space.
        relations: of each row, each once; none where they were not asked for.
    """

    source: str
    tokens: list[list[str]]
    spans: list[list[Triple]]
    astride: list[list[Mark]]
    texts: list[str | None]
    offsets: list[list[tuple[int, int]] | None]
    names: list[str]
    places: np.ndarray
    groups: np.ndarray | None = None
    trimmed: int = field(default=0, compare=False)
    relations: list[list[Relation]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.tokens)

    @property
    def count(self) -> int:
        """The number of spans, those astride included."""
        return sum(map(len, self.spans)) + sum(map(len, self.astride))

    def taken(self, rows: Iterable[int]) -> "Sentences":
        """Take some rows, by their positions."""
        order = [int(row) for row in rows]
        names = ("tokens", "spans", "astride", "texts", "offsets", "names", *(("relations",) if self.relations else ()))
        lists: dict[str, Any] = {name: [getattr(self, name)[i] for i in order] for name in names}
        groups = None if self.groups is None else self.groups[order]
        return replace(self, **lists, places=self.places[order], groups=groups)

    def excerpt(self, row: int, start: int, end: int) -> str:
        """Return the tokens of a row as they stand in its text, or with spaces between them."""
        text, offsets = self.texts[row], self.offsets[row]
        if text is None or offsets is None:
            return " ".join(self.tokens[row][start:end])
        return text[offsets[start][0] : offsets[end - 1][1]] if start < end else ""


def sentences_of(rows: Sequence[MarkedRow], source: str, *, characters: bool = False) -> Sentences:
    """Cut texts into tokens, and find the tokens of each span.

    Args:
        rows: as a reader gives them.
        source: the file, for messages.
        characters: every character of a text is a token.
    """
    tokens, spans, astride, offsets = [], [], [], []
    relations: list[list[Relation]] = []
    trimmed = 0
    for row in rows:
        if row.text is None:
            assert row.tokens is not None
            tokens.append(row.tokens)
            offsets.append(None)
            placed: list[Triple] = [(start, end, kind) for start, end, kind in row.marks]
            spans.append(sorted(set(placed)))
            astride.append([])
            relations.append(_relations(row, placed))
            continue
        places = row.offsets or [(start, end) for _, start, end in tokenize(row.text, characters=characters)]
        starts = {start: i for i, (start, _) in enumerate(places)}
        ends = {end: i + 1 for i, (_, end) in enumerate(places)}
        found, across = set(), []
        of_marks: list[Triple | Mark] = []
        for mark in row.marks:
            cut = _trimmed(row.text, mark)
            trimmed += cut != mark
            first, last = starts.get(cut.start), ends.get(cut.end)
            if first is None or last is None or first >= last:
                across.append(cut)
                of_marks.append(cut)
            else:
                found.add((first, last, cut.type))
                of_marks.append((first, last, cut.type))
        tokens.append([row.text[start:end] for start, end in places])
        offsets.append(places)
        spans.append(sorted(found))
        astride.append(sorted(set(across)))
        outer = {mark: outside(i, mark.type) for i, mark in enumerate(astride[-1])}
        relations.append(_relations(row, [outer[m] if isinstance(m, Mark) else m for m in of_marks]))
    return Sentences(
        source,
        tokens,
        spans,
        astride,
        [row.text for row in rows],
        offsets,
        [row.place for row in rows],
        np.arange(len(rows)),
        trimmed=trimmed,
        relations=relations,
    )


def outside(i: int, kind: str) -> Triple:
    """Return where the i-th span astride of tokens stands: before the row, where nothing is predicted."""
    return -2 * i - 2, -2 * i - 1, kind


def _relations(row: MarkedRow, placed: Sequence[Triple]) -> list[Relation]:
    return sorted({(placed[head], kind, placed[tail]) for head, tail, kind in row.links})


def _trimmed(text: str, mark: Mark) -> Mark:
    inside = text[mark.start : mark.end]
    start = mark.start + len(inside) - len(inside.lstrip())
    return Mark(start, max(mark.start + len(inside.rstrip()), start), mark.type)


def check_astride(sentences: Sentences) -> str | None:
    """Say which spans of training are left out, since their borders lie inside of tokens; None where none is.

    Raises:
        InputError: too many.
    """
    number = sum(map(len, sentences.astride))
    if not number:
        return None
    row = next(i for i, marks in enumerate(sentences.astride) if marks)
    mark, text, places = sentences.astride[row][0], sentences.texts[row] or "", sentences.offsets[row] or []
    inside = [(a, b) for a, b in places if a < mark.start < b or a < mark.end < b]
    token = f"the token {shown(text[slice(*inside[0])])}" if inside else "white space"
    said = (
        f"{number:,} of {sentences.count:,} spans have a border inside of a token, the first on "
        f"{sentences.names[row]}: {shown(text[mark.start : mark.end])} in {token}"
    )
    if number > MOST_ASTRIDE * sentences.count:
        advice = "make every character a token: --tokens characters"
        marks = [(row, mark) for row, of in enumerate(sentences.astride) for mark in of]
        if 2 * sum(_lacks_end(sentences, row, mark) for row, mark in marks) > number:
            advice = "with one character more most are whole tokens: if the end is part of a span, type --end inclusive"
        raise InputError(f"{sentences.source}: {said}; {advice}")
    return f"{said}; they are left out of training"


def _lacks_end(sentences: Sentences, row: int, mark: Mark) -> bool:
    """Say whether a span astride of tokens would be whole ones with one character more."""
    places = sentences.offsets[row] or []
    return any(start == mark.start for start, _ in places) and any(end == mark.end + 1 for _, end in places)


def overlapping(spans: Sequence[Triple]) -> tuple[Triple, Triple] | None:
    """Return two spans of a row, sorted, that share a token; None where none do."""
    widest: Triple | None = None
    for span in spans:
        if widest is not None and span[0] < widest[1]:
            return widest, span
        if widest is None or span[1] > widest[1]:
            widest = span
    return None


def crossing(spans: Sequence[Triple]) -> int:
    """Count the pairs of spans that share tokens, neither inside of the other."""
    return sum(a[0] < b[0] < a[1] < b[1] for i, a in enumerate(spans) for b in spans[i + 1 :])


def pieces_of(
    sentences: Sentences,
    *,
    whole_spans: bool = False,
    sizes: Sequence[np.ndarray] | None = None,
    most: int | None = None,
) -> list[Piece]:
    """Cut long rows at the ends of lines or else of sentences; the others are one piece.

    Args:
        sentences: the rows.
        whole_spans: no piece ends inside of a span: for training. Where spans are to be found, nobody knows them.
        sizes: of each row, what each token counts for; None: each is one.
        most: what a piece may count at most, as an encoder has it; it is cut between any tokens if need be.

    Raises:
        InputError: a row that is too long, and has no place to be cut at.
    """
    pieces = []
    for row, tokens in enumerate(sentences.tokens):
        # What the tokens up to each place count.
        upto = np.arange(len(tokens) + 1) if sizes is None else np.concatenate(([0], np.cumsum(sizes[row])))
        long = LONG if most is None else min(most, LONG)
        if upto[-1] <= long:
            if tokens:
                pieces.append(Piece(row, 0, len(tokens)))
            continue
        inside = {i for a, b, _ in (sentences.spans[row] if whole_spans else ()) for i in range(a + 1, b)}
        kinds = [[i for i in places if i not in inside] for places in _places(sentences, row)]
        if most is not None:
            kinds.append([i for i in range(1, len(tokens)) if i not in inside])
        first = 0
        while upto[-1] - upto[first] > long:
            before = [i for places in kinds for i in places[::-1] if first < i and upto[i] - upto[first] <= long]
            after = [i for places in kinds for i in places if long < upto[i] - upto[first] <= LONGEST]
            if not before and (most is not None or not after):
                if most is None and upto[-1] - upto[first] <= LONGEST:
                    break
                raise InputError(
                    f"{sentences.source}, {sentences.names[row]}: expected rows of at most {most or LONGEST:,} tokens, "
                    f"or with line ends or . ? ! to cut them at, got one of {upto[-1]:,}; cut it into sentences"
                )
            last = (before or after)[0]
            pieces.append(Piece(row, first, last))
            first = last
        pieces.append(Piece(row, first, len(tokens)))
    return pieces


def _places(sentences: Sentences, row: int) -> tuple[list[int], list[int]]:
    """Return the tokens that a piece may begin with: those after a line end, and those after a sentence."""
    tokens, text, offsets = sentences.tokens[row], sentences.texts[row], sentences.offsets[row]
    after_sentences = [i for i in range(1, len(tokens)) if tokens[i - 1] in ENDS]
    if text is None or offsets is None:
        return [], after_sentences
    return [i for i in range(1, len(tokens)) if "\n" in text[offsets[i - 1][1] : offsets[i][0]]], after_sentences


def type_counts(sentences: Sentences) -> Counter[str]:
    """Count the spans of each type, those astride of tokens included."""
    counts = Counter(kind for row in sentences.spans for _, _, kind in row)
    counts.update(mark.type for row in sentences.astride for mark in row)
    return counts
